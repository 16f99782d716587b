//! Every obligation of core's contracts has a test in the conformance suite, in the same words.
//!
//! An obligation is a bullet under a `# Behavior` heading of a doc comment in `core/src`.

use super::{Breach, File};

/// Obligations that no test from outside a plugin can see, with the reason. Empty is best.
const UNSEEN: &[(&str, &str)] = &[(
    "Tasks that it needs are spawned here; they live on the manager's own runtime.",
    "where a task lives cannot be told from outside; the manager's own tests starve the workers' runtime",
)];

/// An obligation.
#[derive(Debug, PartialEq, Eq)]
struct Obligation {
    line: usize,
    words: String,
}

pub(super) fn check(files: &[File]) -> Vec<Breach> {
    let suite: String = files
        .iter()
        .filter(|file| file.path.starts_with("conformance/src/") && file.is_rust())
        .filter_map(File::text)
        .map(words)
        .collect::<Vec<_>>()
        .join(" ");
    let contracts = files.iter().filter(|file| file.path.starts_with("core/src/") && file.is_rust());
    let mut breaches = Vec::new();
    for file in contracts {
        for obligation in file.text().map(obligations).unwrap_or_default() {
            let is_unseen = UNSEEN.iter().any(|(text, _)| words(text) == obligation.words);
            if !is_unseen && !suite.contains(&obligation.words) {
                let message = format!(
                    "no test in conformance/src says \"{}\": add one in these words",
                    obligation.words
                );
                breaches.push(Breach::new(&file.path, obligation.line, message));
            }
        }
    }
    breaches
}

/// The bullets under the `# Behavior` headings of a source's doc comments.
fn obligations(text: &str) -> Vec<Obligation> {
    let mut found: Vec<Obligation> = Vec::new();
    let mut inside = false;
    for (number, line) in text.lines().enumerate() {
        let Some(doc) = line.trim_start().strip_prefix("///").map(str::trim) else {
            inside = false;
            continue;
        };
        match doc.strip_prefix("- ") {
            _ if doc.starts_with("# ") => inside = doc == "# Behavior",
            Some(bullet) if inside => found.push(Obligation { line: number + 1, words: words(bullet) }),
            // A bullet goes on in the next line.
            None if inside && !doc.is_empty() => {
                if let Some(last) = found.last_mut() {
                    last.words = words(&format!("{} {doc}", last.words));
                }
            }
            _ => {}
        }
    }
    found
}

/// A text's words alone, so that line breaks, comment marks and the last full stop do not count.
fn words(text: &str) -> String {
    let is_mark = |word: &&str| !matches!(*word, "///" | "//!" | "//" | "-" | "\\");
    let joined = text.split_whitespace().filter(is_mark).collect::<Vec<_>>().join(" ");
    joined.trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTRACT: &str = "\
/// Waits.
///
/// # Behavior
/// - Waiting takes
///   nothing.
/// - A wait that is dropped loses nothing.
///
/// # Errors
/// - This is none.
fn wait();
";

    fn file(path: &str, text: &str) -> File {
        File { path: path.to_owned(), bytes: text.as_bytes().to_vec() }
    }

    #[test]
    fn bullets_of_the_heading_are_read_over_line_breaks() {
        let found = obligations(CONTRACT);
        let texts: Vec<_> = found.iter().map(|one| (one.line, one.words.as_str())).collect();
        assert_eq!(texts, [(4, "Waiting takes nothing"), (6, "A wait that is dropped loses nothing")]);
    }

    #[test]
    fn an_obligation_without_a_test_is_found() {
        let suite = "/// Waiting takes nothing.\nfn waiting_takes_nothing() {}\n";
        let files = [file("core/src/provider.rs", CONTRACT), file("conformance/src/provider.rs", suite)];
        let breaches = check(&files);
        assert_eq!(breaches.len(), 1);
        assert_eq!(breaches[0].line, 6);
    }

    #[test]
    fn an_obligation_with_a_test_in_the_same_words_is_kept() {
        let suite = "/// Waiting\n/// takes nothing.\nfn a() {}\n// A wait that is dropped loses nothing.\n";
        let files = [file("core/src/provider.rs", CONTRACT), file("conformance/src/provider.rs", suite)];
        assert_eq!(check(&files), []);
    }

    #[test]
    fn a_reason_stands_beside_every_obligation_that_is_not_tested() {
        assert!(UNSEEN.iter().all(|(_, reason)| reason.len() > 20));
    }
}
