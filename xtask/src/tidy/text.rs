//! What stands in the files: banned calls with their replacements, lengths, words, things that are no source.

use super::{Breach, File, rust};

/// The longest function, in lines. A ratchet: it only ever goes down.
const FUNCTION_LINES_MAX: usize = 60;
/// The longest source file, in lines.
const FILE_LINES_MAX: usize = 800;
/// The longest file that belongs into the repository, in bytes.
const FILE_BYTES_MAX: usize = 512 << 10;

/// A call that the house does without, and what it uses in its place.
struct Banned {
    /// Names the rule, also in a line that asks for an exception.
    rule: &'static str,
    call: &'static str,
    tests_only: bool,
    instead: &'static str,
}

const BANNED: &[Banned] = &[
    // However it was imported.
    Banned {
        rule: "sleep",
        call: "sleep(",
        tests_only: true,
        instead: "await a signal, or a condition with a deadline",
    },
    Banned { rule: "todo", call: "todo!(", tests_only: false, instead: "finish it, or leave it out" },
    Banned {
        rule: "todo",
        call: "unimplemented!(",
        tests_only: false,
        instead: "finish it, or leave it out",
    },
    Banned {
        rule: "ignore",
        call: "#[ignore",
        tests_only: false,
        instead: "mend the test, or take it out: a test that does not run proves nothing",
    },
    Banned { rule: "debug", call: "dbg!(", tests_only: false, instead: "use tracing, or take it out" },
    Banned {
        rule: "wall-clock",
        call: "SystemTime::now(",
        tests_only: false,
        instead: "ask core's Clock, so that a test can set the time",
    },
];

/// Words that have no place in a committed file: paths of somebody's machine. Spelled in two parts, so that
/// this file does not break its own rule.
const FORBIDDEN: &[(&str, &str)] =
    &[(concat!("/wo", "rk/"), "a path of one machine: say it relative to the root")];

/// Ends of names that are products, not sources.
const PRODUCTS: &[&str] = &[
    ".db",
    ".db-wal",
    ".db-shm",
    ".sqlite",
    ".o",
    ".a",
    ".so",
    ".rlib",
    ".exe",
    ".DS_Store",
    ".orig",
    ".rej",
];

pub(super) fn check(files: &[File]) -> Vec<Breach> {
    files.iter().flat_map(check_file).collect()
}

fn check_file(file: &File) -> Vec<Breach> {
    let mut breaches: Vec<Breach> = stray(file).into_iter().collect();
    let Some(text) = file.text() else { return breaches };
    breaches.extend(forbidden_words(file, text));
    if file.is_rust() {
        let masked = rust::mask(text);
        breaches.extend(lengths(file, text, &masked));
        breaches.extend(BANNED.iter().flat_map(|banned| banned_calls(file, text, &masked, banned)));
    }
    breaches
}

fn stray(file: &File) -> Option<Breach> {
    if PRODUCTS.iter().any(|end| file.path.ends_with(end)) {
        return Some(Breach::new(
            &file.path,
            0,
            "a product, no source: take it out and add it to .gitignore",
        ));
    }
    // A picture of the documentation may have NULs; nothing else may, but for the fuzzers' seeds.
    let may_be_binary = file.path.ends_with(".png") || file.path.starts_with("fuzz/seeds/");
    if !may_be_binary && file.bytes.contains(&0) {
        return Some(Breach::new(&file.path, 0, "a binary file: the repository holds sources"));
    }
    (file.bytes.len() > FILE_BYTES_MAX).then(|| Breach::new(&file.path, 0, "larger than 512 KiB"))
}

fn forbidden_words(file: &File, text: &str) -> Vec<Breach> {
    let mut breaches = Vec::new();
    for (word, why) in FORBIDDEN {
        for (at, _) in text.match_indices(word) {
            breaches.push(Breach::new(&file.path, rust::line_of(text, at), format!("`{word}`: {why}")));
        }
    }
    breaches
}

fn lengths(file: &File, text: &str, masked: &str) -> Vec<Breach> {
    let mut breaches = Vec::new();
    let lines = text.lines().count();
    if lines > FILE_LINES_MAX {
        let message = format!("{lines} lines, at most {FILE_LINES_MAX}: a file is one thing");
        breaches.push(Breach::new(&file.path, 0, message));
    }
    for function in rust::functions(masked) {
        if function.lines > FUNCTION_LINES_MAX {
            let message = format!(
                "`{}` has {} lines, at most {FUNCTION_LINES_MAX}: give its parts names",
                function.name, function.lines
            );
            breaches.push(Breach::new(&file.path, function.line, message));
        }
    }
    breaches
}

fn banned_calls(file: &File, text: &str, masked: &str, banned: &Banned) -> Vec<Breach> {
    let ranges = rust::test_ranges(masked);
    let all_test = file.path.starts_with("tests/") || file.path.contains("/tests/");
    let is_test = |at: usize| all_test || ranges.iter().any(|range| range.contains(&at));
    let mut breaches = Vec::new();
    for (at, _) in masked.match_indices(banned.call) {
        let line = rust::line_of(masked, at);
        if !is_call(masked, at) || (banned.tests_only && !is_test(at)) || is_excepted(text, line, banned.rule)
        {
            continue;
        }
        let message = format!("`{}`: {}", banned.call.trim_end_matches('('), banned.instead);
        breaches.push(Breach::new(&file.path, line, message));
    }
    breaches
}

/// Whether the name that begins there is a whole one, and neither a method nor what is defined there.
fn is_call(masked: &str, at: usize) -> bool {
    let before = &masked[..at];
    !before.ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '.') && !before.ends_with("fn ")
}

/// Whether the line, or the one above it, says `tidy: allow(RULE), REASON`.
fn is_excepted(text: &str, line: usize, rule: &str) -> bool {
    let mark = format!("tidy: allow({rule}), ");
    let says_why = |text: &str| text.split_once(&mark).is_some_and(|(_, reason)| reason.trim().len() > 8);
    text.lines().skip(line.saturating_sub(2)).take(2.min(line)).any(says_why)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn breaches_of(path: &str, text: &str) -> Vec<Breach> {
        check(&[File { path: path.to_owned(), bytes: text.as_bytes().to_vec() }])
    }

    /// A call with its parenthesis, put together here so that this file has none in its own code.
    fn code(call: &str) -> String {
        format!("fn f() {{\n    {call});\n}}\n")
    }

    #[test]
    fn every_banned_call_is_found_and_its_replacement_named() {
        for banned in BANNED {
            let breaches = breaches_of("manager/tests/x.rs", &code(banned.call));
            assert_eq!(breaches.len(), 1, "{}", banned.call);
            assert_eq!(breaches[0].line, 2);
            assert!(breaches[0].message.ends_with(banned.instead));
        }
    }

    #[test]
    fn a_sleep_is_banned_in_tests_alone() {
        assert_eq!(breaches_of("manager/src/x.rs", &code("tokio::time::sleep(")), []);
        let tests = format!("#[cfg(test)]\nmod tests {{\n{}}}\n", code("tokio::time::sleep("));
        assert_eq!(breaches_of("manager/src/x.rs", &tests).len(), 1);
    }

    #[test]
    fn a_sleep_is_found_however_it_was_imported() {
        for call in ["sleep(", "tokio::time::sleep(", "std::thread::sleep("] {
            assert_eq!(breaches_of("spool/tests/x.rs", &code(call)).len(), 1, "{call}");
        }
        for other in ["clock.sleep(", "fall_asleep(", "a_sleep("] {
            assert_eq!(breaches_of("spool/tests/x.rs", &code(other)), [], "{other}");
        }
        assert_eq!(breaches_of("spool/tests/x.rs", "fn sleep(time: Duration) {}\n"), []);
    }

    #[test]
    fn an_exception_needs_a_reason() {
        let with = |comment: &str| format!("fn f() {{\n    // {comment}\n    std::thread::sleep(x);\n}}\n");
        let path = "e2e/tests/x.rs";
        assert_eq!(breaches_of(path, &with("tidy: allow(sleep), virtual time only")), []);
        assert_eq!(breaches_of(path, &with("tidy: allow(sleep), ")).len(), 1);
        assert_eq!(breaches_of(path, &with("tidy: allow(todo), another rule's")).len(), 1);
    }

    #[test]
    fn a_call_in_a_comment_or_text_is_none() {
        assert_eq!(breaches_of("core/src/x.rs", "// todo!()\nconst A: &str = \"dbg!(1)\";\n"), []);
    }

    #[test]
    fn a_long_function_is_found_with_its_length() {
        let body = "    x();\n".repeat(FUNCTION_LINES_MAX - 1);
        let breaches = breaches_of("core/src/x.rs", &format!("fn long() {{\n{body}}}\n"));
        assert_eq!(breaches.len(), 1);
        assert!(breaches[0].message.contains("`long` has 61 lines"), "{breaches:?}");
    }

    #[test]
    fn a_long_file_is_found() {
        assert_eq!(breaches_of("core/src/x.rs", &"\n".repeat(FILE_LINES_MAX)), []);
        assert_eq!(breaches_of("core/src/x.rs", &"\n".repeat(FILE_LINES_MAX + 1)).len(), 1);
    }

    #[test]
    fn a_path_of_one_machine_is_found() {
        for (word, _) in FORBIDDEN {
            assert_eq!(breaches_of("README.md", &format!("see {word}x\n")).len(), 1);
        }
    }

    #[test]
    fn products_and_binaries_are_found() {
        assert_eq!(breaches_of("examples/ganger.db", "x").len(), 1);
        assert_eq!(breaches_of("examples/data", "a\0b").len(), 1);
        assert_eq!(breaches_of("docs/picture.png", "a\0b"), []);
    }
}
