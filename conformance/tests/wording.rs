//! Each obligation that core states is a test of the same wording.
#![allow(clippy::unwrap_used)]

use std::{fs, path::Path};

/// The `# Behavior` bullets of a source file: every `/// - …` with its continuation lines, in a block under that
/// heading.
fn bullets(text: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let mut inside = false;
    for line in text.lines() {
        let Some(doc) = line.trim().strip_prefix("///") else {
            inside = false;
            continue;
        };
        let doc = doc.trim();
        match doc.strip_prefix("- ") {
            _ if doc == "# Behavior" => inside = true,
            _ if doc.is_empty() || doc.starts_with('#') => inside &= doc.is_empty(),
            Some(bullet) if inside => found.push(bullet.to_owned()),
            None if inside => {
                let last = found.last_mut().expect("a continuation follows a bullet");
                last.push(' ');
                last.push_str(doc);
            }
            _ => {}
        }
    }
    found
}

/// A sentence as the name of a test.
fn name(sentence: &str) -> String {
    let letters = sentence.replace(['\'', '`'], "").to_lowercase();
    let words = letters.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join("_")
}

#[test]
fn every_obligation_of_core_is_a_test_of_the_same_wording() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: &str| fs::read_to_string(root.join(path)).unwrap();
    let tests = read("src/macros.rs");
    let named: Vec<&str> = tests.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').collect();
    let mut count = 0;
    for file in ["provider", "sink", "admin", "intake", "worker"] {
        for bullet in bullets(&read(&format!("../core/src/{file}.rs"))) {
            count += 1;
            let name = name(&bullet);
            assert!(named.contains(&name.as_str()), "core/src/{file}.rs owes a test `{name}`");
        }
    }
    assert!(count >= 30, "only {count} obligations were found: is the heading still `# Behavior`?");
}

#[test]
fn every_test_of_a_group_is_in_its_macro() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let macros = fs::read_to_string(root.join("macros.rs")).unwrap();
    let files = ["provider/open", "provider/wait", "provider/exchange", "provider/renew", "sink", "admin"];
    for file in files.iter().chain(&["intake", "worker"]) {
        let text = fs::read_to_string(root.join(format!("{file}.rs"))).unwrap();
        for line in text.split("\npub async fn ").skip(1) {
            let end = line.find('(').unwrap();
            let (name, rest) = line.split_at(end);
            if rest.trim_start_matches(['(', '\n', ' ']).starts_with("store: impl")
                || rest.trim_start_matches(['(', '\n', ' ']).starts_with("harness: impl")
            {
                assert!(macros.contains(&format!(" {name},")), "{file}.rs: `{name}` is in no macro");
            }
        }
    }
}
