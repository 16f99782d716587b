//! Finding the programs under test, building them where nobody has.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, PoisonError},
};

/// The root of the checkout.
pub fn checkout() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().expect("the checkout is there")
}

/// The `ganger` binary.
pub fn ganger() -> PathBuf {
    binary("ganger", "ganger")
}

/// The binary of an example crate.
pub fn example(name: &str) -> PathBuf {
    let package = format!("example-{name}");
    binary(&package, &package)
}

/// A binary of a package of this workspace, as new as its sources.
///
/// `cargo xtask test` has built everything beforehand and says so in `GANGER_E2E_BUILT`.
///
/// # Panics
/// If it does not build.
pub fn binary(package: &str, name: &str) -> PathBuf {
    static BUILT: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let folder = profile_folder();
    let path = folder.join(format!("{name}{}", std::env::consts::EXE_SUFFIX));
    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    let is_given = std::env::var_os("GANGER_E2E_BUILT").is_some() && path.exists();
    if is_given || built.contains(name) {
        return path;
    }
    let target = folder.parent().expect("a profile's folder lies in the target folder");
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(checkout()).env("CARGO_TARGET_DIR", target);
    cargo.args(["build", "--quiet", "--package", package, "--bin", name]);
    if folder.ends_with("release") {
        cargo.arg("--release");
    }
    let status = cargo.status().expect("cargo starts");
    assert!(status.success(), "{package} does not build");
    built.insert(name.to_owned());
    path
}

/// Where cargo put this test's own binary: `target/debug/deps`, one above.
fn profile_folder() -> PathBuf {
    let own = std::env::current_exe().expect("a test knows its own path");
    own.ancestors().nth(2).expect("a test lies in deps").to_path_buf()
}
