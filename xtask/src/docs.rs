//! `cargo xtask docs`: what can be derived from the binary is written by it, never by hand.
//!
//! The binary is asked through its own commands (`plugin ls --json`, `plugin show NAME --json`, `--help`), so that this
//! tool builds without it, and so that what a user is told is what the reference says.

mod command_line;
mod schema;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

use crate::{Fault, shell};

/// What to do with what was derived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Write it.
    Write,
    /// Tell what differs from what is there.
    Check,
}

/// How a generated page begins.
const NOTE: &str = "<!-- Written by `cargo xtask docs`. Change the source, not this page. -->\n";
/// Where the generated pages are; all of it is ours.
const REFERENCE: &str = "docs/reference";

/// A plugin, as the binary tells of it.
pub(crate) struct Plugin {
    name: String,
    role: String,
    summary: String,
    /// Has the schemas of its `options` and, for a worker, of its jobs' `params`.
    schemas: Value,
}

/// Derives everything, then writes it or compares it.
pub(crate) fn run(root: &Path, mode: Mode) -> Result<(), Fault> {
    let binary = build(root)?;
    let plugins = ask_plugins(&binary)?;
    let mut pages = BTreeMap::new();
    for plugin in &plugins {
        let path = format!("{REFERENCE}/plugins/{}-{}.md", plugin.role, plugin.name);
        pages.insert(path, plugin_page(plugin));
    }
    pages.insert(format!("{REFERENCE}/command-line.md"), command_line::page(&binary)?);
    pages.insert(format!("{REFERENCE}/README.md"), index_page(&plugins));
    for (path, marker, inside) in [
        ("README.md", "plugins", plugin_table(&plugins)),
        ("docs/decisions/README.md", "decisions", decisions(root)?),
    ] {
        let text = read(root, path)?;
        let text = between(&text, marker, &inside)
            .ok_or_else(|| format!("{path} has no `<!-- {marker}:begin -->` and `<!-- {marker}:end -->`"))?;
        pages.insert(path.to_owned(), text);
    }
    let stale = stale_pages(root, &pages)?;
    match mode {
        Mode::Write => write(root, &pages, &stale),
        Mode::Check => check(root, &pages, &stale),
    }
}

fn build(root: &Path) -> Result<PathBuf, Fault> {
    let mut cargo = shell::cargo(root);
    cargo.args(["build", "--quiet", "--workspace", "--bins", "--tests", "--message-format", "json"]);
    let messages = shell::output(&mut cargo)?;
    let is_binary =
        |message: &Value| message["target"]["name"] == "ganger" && message["executable"].is_string();
    let found =
        messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()).filter(is_binary);
    // The test harness of the binary comes under the same name, in a folder of its own.
    let mut paths = found.filter_map(|message| message["executable"].as_str().map(PathBuf::from));
    paths
        .find(|path| path.parent().is_some_and(|folder| !folder.ends_with("deps")))
        .ok_or_else(|| "cargo built no `ganger`".to_owned())
}

/// Asks the binary; it answers one JSON object a line.
fn ask(binary: &Path, args: &[&str]) -> Result<Vec<Value>, Fault> {
    let text = shell::output(Command::new(binary).args(args))?;
    let read =
        |line| serde_json::from_str(line).map_err(|error| format!("`ganger {}`: {error}", args.join(" ")));
    text.lines().map(read).collect()
}

fn ask_plugins(binary: &Path) -> Result<Vec<Plugin>, Fault> {
    let mut plugins = Vec::new();
    for entry in ask(binary, &["plugin", "ls", "--json"])? {
        let text = |key: &str| entry[key].as_str().unwrap_or_default().to_owned();
        let (name, role, summary) = (text("name"), text("role"), text("summary"));
        // A provider and a worker may have one name.
        let shown = ask(binary, &["plugin", "show", &name, "--json"])?;
        let found = shown.into_iter().find(|plugin| plugin["role"] == entry["role"]);
        let schemas = found.ok_or_else(|| format!("`ganger plugin show {name}` shows no {role}"))?;
        plugins.push(Plugin { name, role, summary, schemas });
    }
    plugins
        .sort_by(|a, b| (a.role == "worker", &a.role, &a.name).cmp(&(b.role == "worker", &b.role, &b.name)));
    Ok(plugins)
}

fn plugin_page(plugin: &Plugin) -> String {
    let Plugin { name, role, summary, schemas } = plugin;
    let folder = folder(plugin);
    let mut page =
        format!("{NOTE}\n# {name} ({role})\n\n{summary}\n\nMore: [{folder}](../../../{folder}/README.md)\n");
    for (heading, key) in [("Options", "options"), ("Params of its jobs", "params")] {
        if let Some(schema) = schemas.get(key).filter(|schema| !schema.is_null()) {
            page.push_str(&format!("\n## {heading}\n\n{}", schema::tables(schema)));
        }
    }
    page
}

fn folder(plugin: &Plugin) -> String {
    let shelf = if plugin.role == "worker" { "workers" } else { "providers" };
    format!("{shelf}/{}", plugin.name)
}

fn plugin_table(plugins: &[Plugin]) -> String {
    let mut table = String::from("| plugin | kind | what it does |\n|---|---|---|\n");
    for plugin in plugins {
        let Plugin { name, role, summary, .. } = plugin;
        table.push_str(&format!("| [`{name}`]({}) | {role} | {summary} |\n", folder(plugin)));
    }
    table
}

fn index_page(plugins: &[Plugin]) -> String {
    let mut page = format!("{NOTE}\n# Reference\n\n- [Command line](command-line.md)\n");
    for Plugin { name, role, summary, .. } in plugins {
        page.push_str(&format!("- [{name} ({role})](plugins/{role}-{name}.md): {summary}\n"));
    }
    page
}

/// The list of decisions, from their titles.
fn decisions(root: &Path) -> Result<String, Fault> {
    let folder = root.join("docs/decisions");
    let mut names = Vec::new();
    for entry in fs::read_dir(&folder).map_err(|error| format!("{}: {error}", folder.display()))? {
        let name = entry.map_err(|error| format!("{}: {error}", folder.display()))?.file_name();
        names.extend(
            name.to_str().filter(|name| name.starts_with(|c: char| c.is_ascii_digit())).map(str::to_owned),
        );
    }
    names.sort();
    let mut list = String::new();
    for name in names {
        let text = read(root, &format!("docs/decisions/{name}"))?;
        let title = text.lines().next().unwrap_or_default().trim_start_matches("# ");
        list.push_str(&format!("- [{title}]({name})\n"));
    }
    Ok(list)
}

/// The text with what stands between the two marks replaced; `None` if the marks are not there.
fn between(text: &str, marker: &str, inside: &str) -> Option<String> {
    let (begin, end) = (format!("<!-- {marker}:begin -->\n"), format!("<!-- {marker}:end -->"));
    let start = text.find(&begin)? + begin.len();
    let stop = start + text[start..].find(&end)?;
    Some(format!("{}{inside}{}", &text[..start], &text[stop..]))
}

/// Pages of the reference that nothing derives any more.
fn stale_pages(root: &Path, pages: &BTreeMap<String, String>) -> Result<Vec<String>, Fault> {
    let mut stale = Vec::new();
    for folder in [REFERENCE.to_owned(), format!("{REFERENCE}/plugins")] {
        let Ok(entries) = fs::read_dir(root.join(&folder)) else { continue };
        for entry in entries {
            let entry = entry.map_err(|error| format!("{folder}: {error}"))?;
            let path = format!("{folder}/{}", entry.file_name().to_string_lossy());
            if path.ends_with(".md") && !pages.contains_key(&path) {
                stale.push(path);
            }
        }
    }
    Ok(stale)
}

fn write(root: &Path, pages: &BTreeMap<String, String>, stale: &[String]) -> Result<(), Fault> {
    let mut changed = 0;
    for (path, text) in pages {
        let file = root.join(path);
        if fs::read_to_string(&file).is_ok_and(|old| old == *text) {
            continue;
        }
        if let Some(folder) = file.parent() {
            fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        }
        fs::write(&file, text).map_err(|error| format!("{path}: {error}"))?;
        println!("wrote {path}");
        changed += 1;
    }
    for path in stale {
        fs::remove_file(root.join(path)).map_err(|error| format!("{path}: {error}"))?;
        println!("removed {path}");
        changed += 1;
    }
    println!("docs: {} pages, {changed} changed", pages.len());
    Ok(())
}

fn check(root: &Path, pages: &BTreeMap<String, String>, stale: &[String]) -> Result<(), Fault> {
    let differs = |(path, text): &(&String, &String)| {
        !fs::read_to_string(root.join(path)).is_ok_and(|there| there == **text)
    };
    let differing: Vec<&String> = pages.iter().filter(differs).map(|(path, _)| path).chain(stale).collect();
    for path in &differing {
        println!("{path} is out of date");
    }
    match differing.len() {
        0 => {
            println!("docs: {} pages up to date", pages.len());
            Ok(())
        }
        count => Err(format!("docs: {count} pages out of date. To mend them: cargo xtask docs")),
    }
}

fn read(root: &Path, path: &str) -> Result<String, Fault> {
    fs::read_to_string(root.join(path)).map_err(|error| format!("{path}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plugin() -> Plugin {
        Plugin {
            name: "disk".to_owned(),
            role: "provider".to_owned(),
            summary: "Jobs in a file.".to_owned(),
            schemas: serde_json::json!({"options": {"properties": {"db_name": {"type": "string"}}}}),
        }
    }

    #[test]
    fn what_stands_between_the_marks_is_replaced() {
        let text = "a\n<!-- x:begin -->\nold\n<!-- x:end -->\nb\n";
        assert_eq!(between(text, "x", "new\n").unwrap(), "a\n<!-- x:begin -->\nnew\n<!-- x:end -->\nb\n");
        assert_eq!(between(text, "y", "new\n"), None);
    }

    #[test]
    fn a_page_that_differs_is_named_with_the_command_that_mends_it() {
        let root = tempfile::tempdir().unwrap();
        let pages = BTreeMap::from([("docs/reference/a.md".to_owned(), "new".to_owned())]);
        let fault = check(root.path(), &pages, &[]).unwrap_err();
        assert!(fault.contains("cargo xtask docs"), "{fault}");
        write(root.path(), &pages, &[]).unwrap();
        assert_eq!(check(root.path(), &pages, &[]), Ok(()));
    }

    #[test]
    fn a_page_that_nothing_derives_any_more_is_removed() {
        let root = tempfile::tempdir().unwrap();
        let old = BTreeMap::from([("docs/reference/plugins/worker-x.md".to_owned(), "old".to_owned())]);
        write(root.path(), &old, &[]).unwrap();
        let stale = stale_pages(root.path(), &BTreeMap::new()).unwrap();
        assert_eq!(stale, ["docs/reference/plugins/worker-x.md"]);
        assert!(check(root.path(), &BTreeMap::new(), &stale).is_err());
        write(root.path(), &BTreeMap::new(), &stale).unwrap();
        assert_eq!(stale_pages(root.path(), &BTreeMap::new()).unwrap(), [] as [String; 0]);
    }

    #[test]
    fn a_plugin_has_a_page_and_a_line_in_the_table() {
        let page = plugin_page(&plugin());
        assert!(page.contains("# disk (provider)") && page.contains("| `db_name` |"), "{page}");
        assert!(
            plugin_table(&[plugin()]).contains("| [`disk`](providers/disk) | provider | Jobs in a file. |")
        );
    }
}
