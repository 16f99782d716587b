//! `cargo xtask tidy`: the house rules as code. Every rule is a pure function over the tree's files.

mod arrows;
mod layout;
mod links;
mod promises;
mod rust;
mod text;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{Fault, shell};

/// A file of the repository.
pub(crate) struct File {
    /// Its path from the root, with `/`.
    pub(crate) path: String,
    /// Its bytes.
    pub(crate) bytes: Vec<u8>,
}

impl File {
    /// Its text, if it is one.
    pub(crate) fn text(&self) -> Option<&str> {
        std::str::from_utf8(&self.bytes).ok()
    }

    /// Whether it is Rust source.
    pub(crate) fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }
}

/// A crate and what it depends on.
pub(crate) struct Package {
    /// Its folder from the root.
    pub(crate) folder: String,
    /// The crates of this workspace that it depends on.
    pub(crate) needs: Vec<Need>,
}

/// A dependency on a crate of this workspace.
pub(crate) struct Need {
    /// That crate's folder from the root.
    pub(crate) folder: String,
    /// Whether only its tests need it.
    pub(crate) dev: bool,
}

/// Something that breaks a rule.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Breach {
    /// Where.
    pub(crate) path: String,
    /// On which line, from 1; 0 for the file as a whole.
    pub(crate) line: usize,
    /// What is wrong, and what to do.
    pub(crate) message: String,
}

impl Breach {
    pub(crate) fn new(path: impl Into<String>, line: usize, message: impl Into<String>) -> Self {
        Breach { path: path.into(), line, message: message.into() }
    }
}

/// Checks every rule and prints what breaks one.
pub(crate) fn run(root: &Path) -> Result<(), Fault> {
    let files = read_files(root)?;
    let packages = read_packages(root)?;
    let mut breaches = arrows::check(&packages);
    breaches.extend(layout::check(&files));
    breaches.extend(text::check(&files));
    breaches.extend(promises::check(&files));
    breaches.extend(links::check(&files));
    breaches.sort();
    for breach in &breaches {
        match breach.line {
            0 => println!("{}: {}", breach.path, breach.message),
            line => println!("{}:{line}: {}", breach.path, breach.message),
        }
    }
    match breaches.len() {
        0 => {
            println!("tidy: {} files, {} crates, nothing to mend", files.len(), packages.len());
            Ok(())
        }
        count => Err(format!("tidy: {count} to mend")),
    }
}

/// The files that are, or would be, committed.
fn read_files(root: &Path) -> Result<Vec<File>, Fault> {
    let mut files = Vec::new();
    for path in list_files(root)? {
        match fs::read(root.join(&path)) {
            Ok(bytes) => files.push(File { path, bytes }),
            // Deleted, and the deletion not yet committed.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(format!("{path}: {error}")),
        }
    }
    Ok(files)
}

fn list_files(root: &Path) -> Result<Vec<String>, Fault> {
    let mut git = Command::new("git");
    git.current_dir(root).args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
    match git.output() {
        Ok(output) if output.status.success() => {
            let listed = String::from_utf8_lossy(&output.stdout).into_owned();
            Ok(listed.split('\0').filter(|path| !path.is_empty()).map(str::to_owned).collect())
        }
        // No git here, or no repository: a release's archive, say.
        _ => {
            let mut found = Vec::new();
            walk(root, PathBuf::new(), &mut found)?;
            Ok(found)
        }
    }
}

/// Lists a folder without git: everything but build output and hidden folders.
fn walk(root: &Path, folder: PathBuf, found: &mut Vec<String>) -> Result<(), Fault> {
    let here = root.join(&folder);
    let entries = fs::read_dir(&here).map_err(|error| format!("{}: {error}", here.display()))?;
    for entry in entries {
        let entry = entry.map_err(|error| format!("{}: {error}", here.display()))?;
        let name = entry.file_name();
        let name_text = name.to_string_lossy();
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        let path = folder.join(&name);
        if is_folder && name_text != "target" && name_text != ".git" {
            walk(root, path, found)?;
        } else if !is_folder && !name_text.contains(".db") {
            found.push(path.to_string_lossy().replace('\\', "/"));
        }
    }
    Ok(())
}

fn read_packages(root: &Path) -> Result<Vec<Package>, Fault> {
    let mut cargo = shell::cargo(root);
    cargo.args(["metadata", "--no-deps", "--offline", "--format-version", "1"]);
    let text = shell::output(&mut cargo)?;
    let metadata: serde_json::Value =
        serde_json::from_str(&text).map_err(|error| format!("`cargo metadata`: {error}"))?;
    let packages = metadata["packages"].as_array().ok_or("`cargo metadata` names no packages")?;
    Ok(packages.iter().map(|package| read_package(root, package)).collect())
}

fn read_package(root: &Path, package: &serde_json::Value) -> Package {
    let relative = |path: &str| {
        let path = Path::new(path);
        path.strip_prefix(root).unwrap_or(path).to_string_lossy().replace('\\', "/")
    };
    let manifest = relative(package["manifest_path"].as_str().unwrap_or_default());
    let folder = manifest.strip_suffix("/Cargo.toml").unwrap_or_default().to_owned();
    let needs = package["dependencies"].as_array().into_iter().flatten().filter_map(|need| {
        // Only a dependency within the workspace has a path.
        let folder = relative(need["path"].as_str()?);
        Some(Need { folder, dev: need["kind"] == "dev" })
    });
    Package { folder, needs: needs.collect() }
}
