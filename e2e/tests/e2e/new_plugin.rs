//! `cargo xtask new-provider` and `new-worker`, in a copy of the tree.

use std::{fs, path::Path, process::Command};

use ganger_e2e::{Place, checkout};

/// What a copy of the tree does not need to build.
const LEFT_OUT: [&str; 3] = ["target", ".git", "fuzz"];

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name();
        if LEFT_OUT.iter().any(|left_out| name == *left_out) || name.to_string_lossy().contains(".db") {
            continue;
        }
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to.join(name));
        } else {
            fs::copy(entry.path(), to.join(name)).unwrap();
        }
    }
}

/// Runs cargo in the copy, with what this build has compiled already.
fn cargo(tree: &Path, args: &[&str]) {
    let own = std::env::current_exe().unwrap();
    let target = own.ancestors().nth(3).unwrap();
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(tree).args(args).env("CARGO_TARGET_DIR", target);
    let output = cargo.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "cargo {args:?}\n{}\n{said}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn new_plugins_build_are_loaded_and_pass_what_fresh_ones_can() {
    let place = Place::new();
    let tree = place.path().canonicalize().unwrap();
    copy(&checkout(), &tree);
    cargo(&tree, &["xtask", "new-provider", "fresh-store"]);
    cargo(&tree, &["xtask", "new-worker", "fresh-work"]);
    // Loaded: a test that the binary's crate runs knows both, and the house's rules find nothing to mend.
    let test = "#[test]\nfn fresh_plugins_are_loaded() {\n    \
                let names: Vec<&str> = ganger::plugins::PLUGINS.iter().map(|plugin| plugin.name).collect();\n    \
                assert!(names.contains(&\"fresh-store\") && names.contains(&\"fresh-work\"), \"{names:?}\");\n}\n";
    fs::write(tree.join("examples/embedded/tests.rs"), test).unwrap();
    let manifest = tree.join("examples/embedded/Cargo.toml");
    let text = fs::read_to_string(&manifest).unwrap();
    let text = text.replace("[lints]", "[[test]]\nname = \"loaded\"\npath = \"tests.rs\"\n\n[lints]");
    fs::write(&manifest, text.replace("\"provider-disk\"", "\"plugins\"")).unwrap();
    let packages = ["ganger-provider-fresh-store", "ganger-worker-fresh-work", "example-embedded"];
    let args: Vec<&str> = packages.iter().flat_map(|package| ["-p", package]).collect();
    cargo(&tree, &[&["test", "--quiet", "--offline", "--tests"], args.as_slice()].concat());
    cargo(&tree, &["xtask", "tidy"]);
}
