//! What the tests need besides Rust: installed with the system's package manager where that is allowed.

use std::process::Command;

use crate::shell;

/// A program that a test starts.
struct Needed {
    program: &'static str,
    /// Its package, by the same name everywhere.
    package: &'static str,
    what_for: &'static str,
}

const NEEDED: &[Needed] = &[Needed {
    program: "python3",
    package: "python3",
    what_for: "another language enqueues into the SQLite file",
}];

/// A package manager: its program, how it learns what there is, how it installs.
const MANAGERS: &[(&str, &[&str], &[&str])] = &[
    ("apt-get", &["update", "-qq"], &["install", "-y", "-qq", "--no-install-recommends"]),
    ("dnf", &[], &["install", "-y", "-q"]),
    ("apk", &["update", "-q"], &["add", "-q"]),
    ("pacman", &["-Sy"], &["-S", "--noconfirm"]),
    ("zypper", &[], &["--non-interactive", "install"]),
    ("brew", &[], &["install"]),
];

/// Installs what is missing, or says what to install; the tests that need it then say so too.
pub(super) fn provide() {
    let missing: Vec<&Needed> = NEEDED.iter().filter(|needed| !shell::has(needed.program)).collect();
    if missing.is_empty() {
        return;
    }
    for needed in &missing {
        println!("{} is not here; the tests need it because {}", needed.program, needed.what_for);
    }
    let packages: Vec<&str> = missing.iter().map(|needed| needed.package).collect();
    if let Err(why) = install(&packages) {
        println!("{why}: install {} by hand; going on without", packages.join(" "));
    }
}

fn install(packages: &[&str]) -> Result<(), String> {
    let (program, update, install) = MANAGERS
        .iter()
        .find(|(program, ..)| shell::has(program))
        .ok_or("no package manager that is known here")?;
    let prefix = privilege(program)?;
    let command = |args: &[&str]| {
        let mut words = prefix.to_vec();
        words.push(program);
        words.extend(args);
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).env("DEBIAN_FRONTEND", "noninteractive");
        command
    };
    if !update.is_empty() {
        shell::run(&mut command(update))?;
    }
    shell::run(&mut command(&[*install, packages].concat()))
}

/// What a package manager must be started with so that it may install, if it may at all.
fn privilege(program: &str) -> Result<&'static [&'static str], String> {
    let succeeds = |command: &mut Command| command.output().is_ok_and(|output| output.status.success());
    let is_root = || Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout == b"0\n");
    if program == "brew" || is_root() {
        Ok(&[])
    } else if succeeds(Command::new("sudo").args(["-n", "true"])) {
        Ok(&["sudo", "-n"])
    } else {
        Err(format!("{program} needs root"))
    }
}
