//! What the tests need besides Rust: installed with the system's package manager where that is allowed.

use std::{
    ffi::OsString,
    process::{Command, Stdio},
};

use crate::shell;

/// A program that a test starts.
struct Needed {
    program: &'static str,
    /// Debian's package.
    apt: &'static str,
    /// The package elsewhere.
    package: &'static str,
    what_for: &'static str,
}

const NEEDED: &[Needed] = &[
    Needed {
        program: "python3",
        apt: "python3",
        package: "python3",
        what_for: "other languages enqueue, and do jobs",
    },
    Needed { program: "node", apt: "nodejs", package: "nodejs", what_for: "the JavaScript client is tried" },
    Needed {
        program: "redis-server",
        apt: "redis-server",
        package: "redis",
        what_for: "faults are tried on a real Redis",
    },
    Needed {
        program: "nginx",
        apt: "nginx-light",
        package: "nginx",
        what_for: "HTTP is spoken to a real server",
    },
    Needed {
        program: "qemu-system-x86_64",
        apt: "qemu-system-x86",
        package: "qemu-system-x86",
        what_for: "control groups are tried in a machine of their own",
    },
    Needed {
        program: "busybox",
        apt: "busybox-static",
        package: "busybox",
        what_for: "that machine has it for its commands",
    },
];

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
    let machine = Machine { path: std::env::var_os("PATH").unwrap_or_default() };
    for line in machine.provide() {
        println!("{line}");
    }
}

/// Where programs are looked for.
struct Machine {
    path: OsString,
}

impl Machine {
    /// Answers what a person should know about it.
    fn provide(&self) -> Vec<String> {
        let missing = self.missing();
        if missing.is_empty() {
            return Vec::new();
        }
        let why = self.install(&missing).err();
        let still = self.missing();
        let mut told: Vec<String> = missing
            .iter()
            .map(|needed| format!("{} was not here; tests need it: {}", needed.program, needed.what_for))
            .collect();
        if !still.is_empty() {
            let why = why.unwrap_or_else(|| "that did not bring them".to_owned());
            let packages: Vec<&str> = still.iter().map(|needed| self.package(needed)).collect();
            told.push(format!("{why}: install {} by hand; going on without", packages.join(" ")));
        }
        told
    }

    fn missing(&self) -> Vec<&'static Needed> {
        NEEDED.iter().filter(|needed| !self.has(needed.program)).collect()
    }

    fn has(&self, program: &str) -> bool {
        shell::has_in(&self.path, program)
    }

    fn package(&self, needed: &Needed) -> &'static str {
        let is_debian = self.manager().is_some_and(|(program, ..)| *program == "apt-get");
        if is_debian { needed.apt } else { needed.package }
    }

    fn manager(&self) -> Option<&'static (&'static str, &'static [&'static str], &'static [&'static str])> {
        MANAGERS.iter().find(|(program, ..)| self.has(program))
    }

    fn install(&self, needed: &[&Needed]) -> Result<(), String> {
        let (program, update, install) = self.manager().ok_or("no package manager that is known here")?;
        let prefix = self.privilege(program)?;
        let command = |args: &[&str]| {
            let mut command = self.command(&[prefix, &[*program], args].concat());
            command.env("DEBIAN_FRONTEND", "noninteractive");
            command
        };
        if !update.is_empty() {
            shell::run(&mut command(update))?;
        }
        let packages: Vec<&str> = needed.iter().map(|needed| self.package(needed)).collect();
        shell::run(&mut command(&[*install, &packages].concat()))
    }

    /// What a package manager must be started with so that it may install, if it may at all.
    fn privilege(&self, program: &str) -> Result<&'static [&'static str], String> {
        let is_root =
            || self.command(&["id", "-u"]).output().is_ok_and(|output| output.stdout.trim_ascii() == b"0");
        // Without asking for a password: nobody may be there to answer.
        let may_sudo = || {
            let mut sudo = self.command(&["sudo", "-n", "true"]);
            sudo.stderr(Stdio::null()).status().is_ok_and(|status| status.success())
        };
        if program == "brew" || is_root() {
            Ok(&[])
        } else if may_sudo() {
            Ok(&["sudo", "-n"])
        } else {
            Err(format!("{program} needs root"))
        }
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).env("PATH", &self.path).stdin(Stdio::null());
        command
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::PathBuf};

    use super::*;

    /// A machine of scripts. Each writes down how it was called.
    struct Fake(PathBuf);

    impl Fake {
        fn new(name: &str) -> Self {
            let folder = std::env::temp_dir().join(format!("ganger-xtask-{name}-{}", std::process::id()));
            fs::create_dir_all(&folder).unwrap();
            Fake(folder)
        }

        fn with(self, program: &str, script: &str) -> Self {
            let path = self.0.join(program);
            let log = self.0.join("log");
            let text = format!("#!/bin/sh\necho \"{program} $*\" >> '{}'\n{script}\n", log.display());
            // Written by a process of its own: a file that another test's fork has open for writing cannot be run.
            let write = "printf %s \"$1\" > \"$2\"; chmod 755 \"$2\"";
            let mut sh = Command::new("sh");
            assert!(sh.args(["-c", write, "sh", &text]).arg(&path).status().unwrap().success());
            self
        }

        /// A package manager that installs whatever it is asked for.
        fn with_manager(self, program: &str) -> Self {
            let folder = self.0.display().to_string();
            let names: Vec<&str> = NEEDED.iter().map(|needed| needed.program).collect();
            let install = format!("for name in {}; do : > '{folder}'/$name; done", names.join(" "));
            self.with(program, &format!("case \"$*\" in *install*|*add*) {install};; esac"))
        }

        fn provide(&self) -> String {
            Machine { path: self.0.clone().into() }.provide().join("\n")
        }

        fn calls(&self) -> Vec<String> {
            let log = fs::read_to_string(self.0.join("log")).unwrap_or_default();
            log.lines().map(str::to_owned).collect()
        }
    }

    impl Drop for Fake {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_machine_that_has_all_is_left_alone() {
        let fake = Fake::new("all").with_manager("apt-get");
        let fake = NEEDED.iter().fold(fake, |fake, needed| fake.with(needed.program, ""));
        assert_eq!(fake.provide(), "");
        assert_eq!(fake.calls(), Vec::<String>::new());
    }

    #[test]
    fn root_installs_what_is_missing_and_only_that() {
        let fake = Fake::new("root").with("python3", "").with("id", "echo 0").with_manager("apt-get");
        let told = fake.provide();
        assert!(told.contains("redis-server was not here") && !told.contains("by hand"), "{told}");
        assert_eq!(
            fake.calls(),
            [
                "id -u",
                "apt-get update -qq",
                "apt-get install -y -qq --no-install-recommends nodejs redis-server nginx-light qemu-system-x86 \
                 busybox-static"
            ]
        );
    }

    #[test]
    fn who_may_sudo_without_a_password_installs_by_it() {
        let fake = Fake::new("sudo").with("id", "echo 1000").with_manager("apk");
        let fake = fake.with("sudo", "shift; [ $1 = true ] || exec \"$@\"");
        let told = fake.provide();
        assert!(!told.contains("by hand"), "{told}");
        assert_eq!(
            fake.calls(),
            [
                "id -u",
                "sudo -n true",
                "sudo -n apk update -q",
                "apk update -q",
                "sudo -n apk add -q python3 nodejs redis nginx qemu-system-x86 busybox",
                "apk add -q python3 nodejs redis nginx qemu-system-x86 busybox"
            ]
        );
    }

    #[test]
    fn who_may_not_install_is_told_what_to_install() {
        let fake =
            Fake::new("may-not").with("id", "echo 1000").with("sudo", "exit 1").with_manager("apt-get");
        let told = fake.provide();
        let install =
            "install python3 nodejs redis-server nginx-light qemu-system-x86 busybox-static by hand";
        assert!(told.contains(&format!("apt-get needs root: {install}")), "{told}");
        assert_eq!(fake.calls(), ["id -u", "sudo -n true"]);
        let told = Fake::new("no-manager").provide();
        assert!(told.contains("no package manager") && told.contains("python3 nodejs redis nginx"), "{told}");
    }

    #[test]
    fn an_install_that_fails_or_brings_nothing_is_told() {
        let fake = Fake::new("offline").with("id", "echo 0").with("apt-get", "exit 100");
        let told = fake.provide();
        assert!(told.contains("`apt-get update -qq` failed") && told.contains("by hand"), "{told}");
        let fake = Fake::new("empty").with("id", "echo 0").with("apt-get", "");
        assert!(fake.provide().contains("did not bring them"));
    }
}
