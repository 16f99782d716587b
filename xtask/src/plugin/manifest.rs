//! The lines that load a plugin: in the workspace's manifest, in the binary's, and in `plugins.rs`.

use std::{fs, path::Path};

use super::{Kind, Name};
use crate::Fault;

const WORKSPACE: &str = "Cargo.toml";
const BINARY: &str = "ganger/Cargo.toml";
const PLUGINS: &str = "ganger/src/plugins.rs";

/// The three files with the plugin's lines in them; nothing is written yet.
pub(super) fn load(root: &Path, kind: Kind, name: &Name) -> Result<[(&'static str, String); 3], Fault> {
    let read =
        |path: &'static str| fs::read_to_string(root.join(path)).map_err(|error| format!("{path}: {error}"));
    let misshapen = |path: &'static str| move || format!("{path} has not the shape that this tool knows");
    let noun = kind.noun();
    let Name { plain, snake, .. } = name;
    let krate = format!("ganger-{noun}-{plain}");
    let workspace = insert_sorted(
        &read(WORKSPACE)?,
        "[workspace.dependencies]",
        &format!("{krate} = {{ path = \"{noun}s/{plain}\", version = \"=0.1.0\" }}"),
    )
    .ok_or_else(misshapen(WORKSPACE))?;
    let binary = insert_sorted(
        &read(BINARY)?,
        "[dependencies]",
        &format!("{krate} = {{ workspace = true, optional = true }}"),
    )
    .and_then(|text| add_feature(&text, &format!("{noun}-{plain}"), &krate))
    .ok_or_else(misshapen(BINARY))?;
    let line = format!("    #[cfg(feature = \"{noun}-{plain}\")]\n    ganger_{noun}_{snake}::PLUGIN,\n");
    let plugins = insert_plugin(&read(PLUGINS)?, &line).ok_or_else(misshapen(PLUGINS))?;
    Ok([(WORKSPACE, workspace), (BINARY, binary), (PLUGINS, plugins)])
}

/// Puts a line into a section, among the crates of ours in the order of their names.
fn insert_sorted(text: &str, section: &str, line: &str) -> Option<String> {
    let start = text.find(&format!("{section}\n"))? + section.len() + 1;
    let key = |line: &str| line.split([' ', '.', '=']).next().unwrap_or_default().to_owned();
    let mut at = start;
    let mut here = start;
    for old in text[start..].split_inclusive('\n').take_while(|old| !old.starts_with('[')) {
        here += old.len();
        if old.starts_with("ganger-") && key(old) < key(line) {
            at = here;
        }
    }
    Some(format!("{}{line}\n{}", &text[..at], &text[at..]))
}

/// Adds a feature for the plugin, and adds that to `plugins`.
fn add_feature(text: &str, feature: &str, krate: &str) -> Option<String> {
    let start = text.find("\nplugins = [")? + "\nplugins = [".len();
    let stop = start + text[start..].find(']')?;
    let listed: Vec<&str> =
        text[start..stop].split(',').map(str::trim).filter(|one| !one.is_empty()).collect();
    let quoted = format!("\"{feature}\"");
    let all = [listed.as_slice(), &[quoted.as_str()]].concat();
    let list = all.iter().map(|one| format!("    {one},\n")).collect::<String>();
    let after = stop + text[stop..].find('\n')? + 1;
    Some(format!("{}\n{list}]\n{feature} = [\"dep:{krate}\"]\n{}", &text[..start], &text[after..]))
}

/// Puts the plugin's lines at the end of the list.
fn insert_plugin(text: &str, line: &str) -> Option<String> {
    let start = text.find("pub const PLUGINS")?;
    let stop = start + text[start..].find("\n];")? + 1;
    Some(format!("{}{line}{}", &text[..stop], &text[stop..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dependency_stands_among_its_kin() {
        let text = "[dependencies]\nganger-core = 1\nganger-provider-disk = 1\nserde = 1\n\n[lints]\n";
        let found = insert_sorted(text, "[dependencies]", "ganger-provider-kafka = 1").unwrap();
        assert!(found.contains("disk = 1\nganger-provider-kafka = 1\nserde = 1\n"), "{found}");
        assert_eq!(insert_sorted(text, "[features]", "x = 1"), None);
    }

    #[test]
    fn a_feature_is_on_in_the_binary() {
        for list in ["[\"provider-disk\"]", "[\n    \"provider-disk\",\n]"] {
            let text = format!("[features]\nplugins = {list}\nprovider-disk = []\n");
            let found = add_feature(&text, "provider-kafka", "ganger-provider-kafka").unwrap();
            let expected = "[features]\nplugins = [\n    \"provider-disk\",\n    \"provider-kafka\",\n]\n\
                            provider-kafka = [\"dep:ganger-provider-kafka\"]\nprovider-disk = []\n";
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn a_plugin_is_a_line_of_the_list() {
        let text = "pub const PLUGINS: &[Plugin] = &[\n    a::PLUGIN,\n];\n";
        let found = insert_plugin(text, "    b::PLUGIN,\n").unwrap();
        assert_eq!(found, "pub const PLUGINS: &[Plugin] = &[\n    a::PLUGIN,\n    b::PLUGIN,\n];\n");
    }

    #[test]
    fn the_real_files_have_the_shape() {
        let root = crate::root();
        let name = Name::new("kafka").unwrap();
        for kind in [Kind::Provider, Kind::Worker] {
            for (path, text) in load(&root, kind, &name).unwrap() {
                assert!(text.contains("kafka"), "{path}");
            }
        }
    }
}
