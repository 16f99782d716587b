//! Every obligation of core's contracts has a test in the conformance suite, whose name is the same words.
//!
//! An obligation is a bullet under a `# Behavior` heading of a doc comment in `core/src`.

use super::{Breach, File};

/// An obligation.
#[derive(Debug, PartialEq, Eq)]
struct Obligation {
    line: usize,
    words: String,
}

pub(super) fn check(files: &[File]) -> Vec<Breach> {
    let is_rust_in = |file: &&File, folder: &str| file.path.starts_with(folder) && file.is_rust();
    let suite: Vec<&str> =
        files.iter().filter(|file| is_rust_in(file, "conformance/src/")).filter_map(File::text).collect();
    let mut breaches = Vec::new();
    for file in files.iter().filter(|file| is_rust_in(file, "core/src/")) {
        for obligation in file.text().map(obligations).unwrap_or_default() {
            let test = test_name(&obligation.words);
            let is_there = suite.iter().any(|text| text.contains(&format!("fn {test}(")));
            // The macro's list is what makes it run.
            let is_run = suite.iter().any(|text| text.contains(&format!("{test},")));
            if !is_there || !is_run {
                let message =
                    format!("no test in conformance/src is named `{test}`, or none of its lists runs it");
                breaches.push(Breach::new(&file.path, obligation.line, message));
            }
        }
    }
    breaches
}

/// The name of an obligation's test: its words, joined.
fn test_name(words: &str) -> String {
    let plain: String = words
        .chars()
        .filter(|c| !matches!(c, '\'' | '`'))
        .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { ' ' })
        .collect();
    plain.split_whitespace().collect::<Vec<_>>().join("_")
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
        let suite = "pub async fn waiting_takes_nothing(s: S) {}\ntests!([waiting_takes_nothing, other]);\n";
        let files = [file("core/src/provider.rs", CONTRACT), file("conformance/src/provider.rs", suite)];
        let breaches = check(&files);
        assert_eq!(breaches.len(), 1);
        assert_eq!(breaches[0].line, 6);
    }

    #[test]
    fn a_test_that_no_list_runs_is_found() {
        let suite = "fn waiting_takes_nothing() {}\nfn a_wait_that_is_dropped_loses_nothing() {}\n";
        let files = [file("core/src/provider.rs", CONTRACT), file("conformance/src/provider.rs", suite)];
        assert_eq!(check(&files).len(), 2);
    }

    #[test]
    fn a_name_is_the_words_without_their_marks() {
        let words = "A suspect's lease: `stop`, once (or twice)";
        assert_eq!(test_name(words), "a_suspects_lease_stop_once_or_twice");
    }
}
