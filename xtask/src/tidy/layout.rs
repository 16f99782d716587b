//! Where things lie: the same files in every plugin, and no plugin that nobody loads.

use std::collections::BTreeSet;

use super::{Breach, File};

const PLUGINS: &str = "ganger/src/plugins.rs";

/// The files of a plugin; of several names in one place, one will do.
const PROVIDER_FILES: &[&[&str]] = &[
    &["README.md"],
    &["src/lib.rs"],
    &["src/config.rs"],
    &["src/provider.rs", "src/intake.rs"],
    &["tests/conformance.rs"],
];
const WORKER_FILES: &[&[&str]] =
    &[&["README.md"], &["src/lib.rs"], &["src/config.rs"], &["src/worker.rs"], &["tests/conformance.rs"]];

/// Names that say nothing about what is inside.
const VAGUE: &[&str] = &["util", "utils", "common", "helpers", "misc"];

pub(super) fn check(files: &[File]) -> Vec<Breach> {
    let paths: BTreeSet<&str> = files.iter().map(|file| file.path.as_str()).collect();
    let mut breaches = Vec::new();
    let loaded = files.iter().find(|file| file.path == PLUGINS).and_then(File::text).unwrap_or("");
    for (shelf, wanted) in [("providers", PROVIDER_FILES), ("workers", WORKER_FILES)] {
        for name in folders(&paths, shelf) {
            let folder = format!("{shelf}/{name}");
            let has_options = exports_plugin(files, &folder);
            let needed = wanted.iter().filter(|names| has_options || **names != ["src/config.rs"]);
            breaches.extend(missing_files(&paths, &folder, needed.copied()));
            breaches.extend(readme_fault(files, &folder));
            breaches.extend(load_fault(loaded, shelf, name));
        }
    }
    breaches.extend(changelog_fault(files));
    breaches.extend(files.iter().filter_map(vague_name));
    breaches
}

/// The names of the folders on a shelf that are crates.
fn folders<'a>(paths: &BTreeSet<&'a str>, shelf: &str) -> BTreeSet<&'a str> {
    let is_crate = |path: &&'a str| {
        let (name, rest) = path.strip_prefix(shelf)?.strip_prefix('/')?.split_once('/')?;
        (rest == "Cargo.toml").then_some(name)
    };
    paths.iter().filter_map(is_crate).collect()
}

/// Whether the crate is loaded by name from a config; one whose jobs are done by code has no options there.
fn exports_plugin(files: &[File], folder: &str) -> bool {
    let path = format!("{folder}/src/lib.rs");
    files
        .iter()
        .find(|file| file.path == path)
        .and_then(File::text)
        .is_none_or(|text| text.contains("PLUGIN"))
}

fn missing_files<'a>(
    paths: &BTreeSet<&str>,
    folder: &str,
    wanted: impl Iterator<Item = &'a [&'a str]>,
) -> Vec<Breach> {
    let is_there = |name: &&str| paths.contains(format!("{folder}/{name}").as_str());
    wanted
        .filter(|names| !names.iter().any(is_there))
        .map(|names| {
            let names = names.join(" or ");
            Breach::new(folder, 0, format!("has no {names}: every plugin has the same files"))
        })
        .collect()
}

/// The README is the crate's doc, and its first line after the title becomes the summary.
fn readme_fault(files: &[File], folder: &str) -> Vec<Breach> {
    let text = |name: &str| {
        let path = format!("{folder}/{name}");
        files.iter().find(|file| file.path == path).and_then(File::text)
    };
    let mut breaches = Vec::new();
    if let Some(readme) = text("README.md") {
        let mut lines = readme.lines().filter(|line| !line.trim().is_empty());
        let titled = lines.next().is_some_and(|line| line.starts_with("# "));
        let summed = lines.next().is_some_and(|line| line.starts_with(char::is_alphabetic));
        if !titled || !summed {
            let message = "begins with a title and one sentence that says what it does";
            breaches.push(Breach::new(format!("{folder}/README.md"), 1, message));
        }
    }
    if let Some(lib) = text("src/lib.rs")
        && !lib.contains("include_str!(\"../README.md\")")
    {
        let message = "the README is the crate's doc: begin with #![doc = include_str!(\"../README.md\")]";
        breaches.push(Breach::new(format!("{folder}/src/lib.rs"), 1, message));
    }
    breaches
}

fn load_fault(loaded: &str, shelf: &str, name: &str) -> Option<Breach> {
    let krate = format!("ganger_{}_{}", shelf.trim_end_matches('s'), name.replace('-', "_"));
    let is_named = loaded.lines().any(|line| !line.trim_start().starts_with("//") && line.contains(&krate));
    (!is_named).then(|| {
        Breach::new(PLUGINS, 0, format!("{shelf}/{name} is loaded by nobody: add a line with {krate}"))
    })
}

fn changelog_fault(files: &[File]) -> Option<Breach> {
    let changelog = files.iter().find(|file| file.path == "CHANGELOG.md").and_then(File::text);
    match changelog {
        None => Some(Breach::new("CHANGELOG.md", 0, "is missing: users read there what changed")),
        Some(text) if !text.contains("\n## Unreleased") => {
            Some(Breach::new("CHANGELOG.md", 0, "has no `## Unreleased` heading"))
        }
        Some(_) => None,
    }
}

fn vague_name(file: &File) -> Option<Breach> {
    let stem = file.path.rsplit('/').next()?.strip_suffix(".rs")?;
    let folder_is_vague = file.path.split('/').any(|part| VAGUE.contains(&part));
    (VAGUE.contains(&stem) || folder_is_vague)
        .then(|| Breach::new(&file.path, 0, "a name that says nothing: call it what it does"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: &str) -> File {
        File { path: path.to_owned(), bytes: text.as_bytes().to_vec() }
    }

    fn plugin_files() -> Vec<File> {
        vec![
            file("CHANGELOG.md", "# Changelog\n\n## Unreleased\n"),
            file(PLUGINS, "use ganger_provider_disk as disk;\n"),
            file("providers/disk/Cargo.toml", ""),
            file("providers/disk/README.md", "# disk\n\nJobs in a file.\n"),
            file(
                "providers/disk/src/lib.rs",
                "#![doc = include_str!(\"../README.md\")]\nconst PLUGIN: u8 = 0;\n",
            ),
            file("providers/disk/src/config.rs", ""),
            file("providers/disk/src/provider.rs", ""),
            file("providers/disk/tests/conformance.rs", ""),
        ]
    }

    fn without(path: &str) -> Vec<Breach> {
        let files: Vec<File> = plugin_files().into_iter().filter(|file| file.path != path).collect();
        check(&files)
    }

    #[test]
    fn a_whole_plugin_breaks_nothing() {
        assert_eq!(check(&plugin_files()), []);
    }

    #[test]
    fn each_missing_file_is_named() {
        for name in ["src/config.rs", "tests/conformance.rs"] {
            let breaches = without(&format!("providers/disk/{name}"));
            assert_eq!(breaches.len(), 1, "{breaches:?}");
            assert!(breaches[0].message.contains(name), "{breaches:?}");
        }
        let breaches = without("providers/disk/src/provider.rs");
        assert!(breaches[0].message.contains("src/provider.rs or src/intake.rs"), "{breaches:?}");
    }

    #[test]
    fn a_plugin_made_in_code_has_no_options_of_its_own() {
        let mut files = plugin_files();
        files.retain(|file| {
            !matches!(file.path.as_str(), "providers/disk/src/config.rs" | "providers/disk/src/lib.rs")
        });
        files.push(file("providers/disk/src/lib.rs", "#![doc = include_str!(\"../README.md\")]\n"));
        assert_eq!(check(&files), []);
    }

    #[test]
    fn an_intake_in_place_of_a_provider_will_do() {
        let mut files = plugin_files();
        files.retain(|file| file.path != "providers/disk/src/provider.rs");
        files.push(file("providers/disk/src/intake.rs", ""));
        assert_eq!(check(&files), []);
    }

    #[test]
    fn a_plugin_that_is_loaded_by_nobody_is_found() {
        assert_eq!(without(PLUGINS).len(), 1);
        let mut files = plugin_files();
        files.retain(|file| file.path != PLUGINS);
        files.push(file(PLUGINS, "// ganger_provider_disk\n"));
        assert_eq!(check(&files).len(), 1);
    }

    #[test]
    fn a_missing_changelog_is_found() {
        assert_eq!(without("CHANGELOG.md").len(), 1);
    }

    #[test]
    fn a_readme_says_what_the_plugin_does() {
        let mut files = plugin_files();
        files.retain(|file| !file.path.ends_with("README.md"));
        files.push(file("providers/disk/README.md", "# disk\n\n## Options\n"));
        assert_eq!(check(&files).len(), 1);
    }

    #[test]
    fn a_name_that_says_nothing_is_found() {
        assert!(vague_name(&file("manager/src/utils.rs", "")).is_some());
        assert!(vague_name(&file("manager/src/judge.rs", "")).is_none());
    }
}
