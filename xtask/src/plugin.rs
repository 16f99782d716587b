//! `cargo xtask new-provider NAME` and `new-worker NAME`: a plugin that builds, is loaded, and passes what a fresh
//! one can.
//!
//! A provider begins as a copy of `providers/memory`, which keeps every promise but durability; a worker begins from
//! `xtask/templates/worker`, of the shape of `workers/function` with options and params of its own.

mod manifest;

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::Fault;

/// What is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Provider,
    Worker,
}

impl Kind {
    fn noun(self) -> &'static str {
        match self {
            Kind::Provider => "provider",
            Kind::Worker => "worker",
        }
    }
}

const WORKER: &[(&str, &str)] = &[
    ("Cargo.toml", include_str!("../templates/worker/Cargo.toml.txt")),
    ("README.md", include_str!("../templates/worker/README.md.txt")),
    ("src/lib.rs", include_str!("../templates/worker/src/lib.rs.txt")),
    ("src/config.rs", include_str!("../templates/worker/src/config.rs.txt")),
    ("src/worker.rs", include_str!("../templates/worker/src/worker.rs.txt")),
    ("tests/conformance.rs", include_str!("../templates/worker/tests/conformance.rs.txt")),
];

/// A plugin's name in its spellings.
struct Name {
    /// As in the config: `my-store`.
    plain: String,
    /// As a type: `MyStore`.
    pascal: String,
    /// As in a crate's name in code: `my_store`.
    snake: String,
}

impl Name {
    fn new(plain: &str) -> Result<Self, Fault> {
        let is_part = |part: &str| {
            part.starts_with(|c: char| c.is_ascii_lowercase())
                && part.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit())
        };
        if !plain.split('-').all(is_part) {
            return Err(format!(
                "`{plain}` is no plugin's name: words of small letters and digits that begin with a letter, as in `my-store`"
            ));
        }
        let capital = |part: &str| part[..1].to_uppercase() + &part[1..];
        Ok(Name {
            plain: plain.to_owned(),
            pascal: plain.split('-').map(capital).collect(),
            snake: plain.replace('-', "_"),
        })
    }
}

/// Makes the plugin's folder and loads it.
pub(crate) fn make(root: &Path, kind: Kind, name: &str) -> Result<(), Fault> {
    let name = Name::new(name)?;
    let folder = format!("{}s/{}", kind.noun(), name.plain);
    if root.join(&folder).exists() {
        return Err(format!("{folder} is there already"));
    }
    // Read before anything is written, so that a tree without its shape is left as it was.
    let loaded = manifest::load(root, kind, &name)?;
    let files = match kind {
        Kind::Provider => provider_files(root, &name)?,
        Kind::Worker => worker_files(&name),
    };
    for (path, text) in files {
        write(&root.join(&folder).join(path), &text)?;
    }
    for (path, text) in loaded {
        write(&root.join(path), &text)?;
        println!("changed {path}");
    }
    let krate = format!("ganger-{}-{}", kind.noun(), name.plain);
    println!("made {folder}\n\nNow: cargo test -p {krate}, and cargo xtask docs when it has its words");
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<(), Fault> {
    let fault = |error| format!("{}: {error}", path.display());
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(fault)?;
    }
    fs::write(path, text).map_err(fault)
}

/// The files of `providers/memory`, with its names replaced and a README that says what they are.
fn provider_files(root: &Path, name: &Name) -> Result<Vec<(PathBuf, String)>, Fault> {
    let source = root.join("providers/memory");
    let mut files = Vec::new();
    copy(&source, &source, name, &mut files)?;
    let title = format!("# {}\n\n", name.plain);
    for (path, text) in &mut files {
        if path.ends_with("README.md") {
            let begin =
                "Begun as a copy of `memory`, in memory as well, until its store is put in its place.\n";
            let rest = text.split_once("\n\n").and_then(|(_, rest)| rest.split_once("\n\n"));
            *text = format!("{title}{begin}\n{}", rest.map_or("", |(_, rest)| rest));
        }
    }
    Ok(files)
}

fn copy(root: &Path, folder: &Path, name: &Name, files: &mut Vec<(PathBuf, String)>) -> Result<(), Fault> {
    let fault = |error| format!("{}: {error}", folder.display());
    for entry in fs::read_dir(folder).map_err(fault)? {
        let path = entry.map_err(fault)?.path();
        if path.is_dir() {
            copy(root, &path, name, files)?;
        } else {
            let text = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
            let relative = path.strip_prefix(root).unwrap_or(&path).to_path_buf();
            files.push((relative, rename(&text, name)));
        }
    }
    Ok(())
}

/// Replaces the names of the memory provider where they are names; the word in a sentence stays.
fn rename(text: &str, name: &Name) -> String {
    text.replace("ganger-provider-memory", &format!("ganger-provider-{}", name.plain))
        .replace("ganger_provider_memory", &format!("ganger_provider_{}", name.snake))
        .replace("\"memory\"", &format!("\"{}\"", name.plain))
        .replace("\nmemory = {", &format!("\n{} = {{", name.plain))
        .replace("MemoryProvider", &format!("{}Provider", name.pascal))
        .replace("MemoryConfig", &format!("{}Config", name.pascal))
        .replace("MemorySink", &format!("{}Sink", name.pascal))
}

fn worker_files(name: &Name) -> Vec<(PathBuf, String)> {
    let fill = |text: &str| {
        text.replace("{{plain}}", &name.plain)
            .replace("{{pascal}}", &name.pascal)
            .replace("{{snake}}", &name.snake)
    };
    WORKER.iter().map(|(path, text)| (PathBuf::from(path), fill(text))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_its_spellings() {
        let name = Name::new("my-store2").unwrap();
        assert_eq!((name.pascal.as_str(), name.snake.as_str()), ("MyStore2", "my_store2"));
        for wrong in ["", "My", "a_b", "-a", "a-", "2a", "a b", "ä", "../x"] {
            assert!(Name::new(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn names_are_replaced_and_the_word_stays() {
        let name = Name::new("kafka").unwrap();
        let text = "use ganger_provider_memory::MemoryProvider; // in memory\nconst NAME: &str = \"memory\";";
        let expected =
            "use ganger_provider_kafka::KafkaProvider; // in memory\nconst NAME: &str = \"kafka\";";
        assert_eq!(rename(text, &name), expected);
    }

    #[test]
    fn no_blank_of_a_template_is_left_open() {
        for (path, text) in worker_files(&Name::new("resize").unwrap()) {
            assert!(!text.contains("{{"), "{}", path.display());
        }
    }
}
