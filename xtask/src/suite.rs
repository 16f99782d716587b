//! `cargo xtask test`: everything that must hold, in one command, with the counts at the end.

mod kernel;
mod servers;

use std::{path::Path, process::Command};

use crate::{Fault, docs, shell, tidy};

/// A part of the whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// Format, clippy, tidy, licences.
    Lint,
    /// The crates' own tests.
    Unit,
    /// Documentation builds, its examples run, the reference is up to date.
    Doc,
    /// The built binary from outside.
    E2e,
}

const ALL: [Part; 4] = [Part::Lint, Part::Unit, Part::E2e, Part::Doc];

/// Reads the options of `test`.
pub(crate) fn options(words: &[&str]) -> Result<Vec<Part>, Fault> {
    let mut parts = Vec::new();
    let mut rest = words;
    while let Some((first, after)) = rest.split_first() {
        let (part, after) = match (*first, after.split_first()) {
            ("--only", Some((part, after))) => (*part, after),
            (word, _) => match word.strip_prefix("--only=") {
                Some(part) => (part, after),
                None => return Err(format!("`{word}`: only `--only PART` is known here")),
            },
        };
        parts.push(match part {
            "lint" => Part::Lint,
            "unit" => Part::Unit,
            "doc" => Part::Doc,
            "e2e" => Part::E2e,
            other => return Err(format!("`{other}` is no part: lint, unit, doc or e2e")),
        });
        rest = after;
    }
    Ok(if parts.is_empty() { ALL.to_vec() } else { parts })
}

/// What came out so far.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    passed: u64,
    failed: u64,
    /// Steps that failed without a failing test to show for it.
    faults: Vec<Fault>,
}

impl Tally {
    /// Takes a step's result; the others go on.
    fn step(&mut self, result: Result<(), Fault>) {
        if let Err(fault) = result {
            eprintln!("{fault}");
            self.failed += 1;
            self.faults.push(fault);
        }
    }

    /// Adds up the summary lines of `cargo test` and of `cargo nextest`.
    fn read(&mut self, line: &str) {
        if let Some(counts) = line.trim_start().strip_prefix("test result: ") {
            self.passed += count_before(counts, " passed");
            self.failed += count_before(counts, " failed");
        } else if line.trim_start().starts_with("Summary [") {
            self.passed += count_before(line, " passed");
            self.failed += count_before(line, " failed") + count_before(line, " timed out");
        }
    }
}

/// The number right before a word; 0 if the word is not there.
fn count_before(line: &str, word: &str) -> u64 {
    let Some((before, _)) = line.split_once(word) else { return 0 };
    let digits = before.rsplit(|c: char| !c.is_ascii_digit()).next().unwrap_or("");
    digits.parse().unwrap_or(0)
}

/// Runs the parts and prints the counts; the closing line says `N passed, N failed`.
pub(crate) fn run(root: &Path, parts: &[Part]) -> Result<(), Fault> {
    let mut tally = Tally::default();
    let wants = |part: Part| parts.contains(&part);
    if wants(Part::Unit) || wants(Part::E2e) {
        servers::provide();
        kernel::provide();
    }
    if wants(Part::Lint) {
        lint(root, &mut tally);
    }
    if wants(Part::Unit) || wants(Part::E2e) {
        tests(root, wants(Part::Unit), wants(Part::E2e), &mut tally);
    }
    if wants(Part::Doc) {
        documentation(root, &mut tally);
    }
    if wants(Part::Unit) || wants(Part::E2e) {
        failpoints(root, wants(Part::Unit), wants(Part::E2e), &mut tally);
    }
    for fault in &tally.faults {
        println!("failed: {fault}");
    }
    println!("{} passed, {} failed", tally.passed, tally.failed);
    if tally.failed == 0 { Ok(()) } else { Err("something failed, see above".to_owned()) }
}

fn lint(root: &Path, tally: &mut Tally) {
    tally.step(shell::run(shell::cargo(root).args(["fmt", "--all", "--check"])));
    println!("\n$ cargo xtask tidy");
    tally.step(tidy::run(root));
    let clippy = ["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"];
    tally.step(shell::run(shell::cargo(root).args(clippy)));
    if shell::has("cargo-deny") {
        // Not its advisories: they need a network, which the machine may not have.
        tally.step(shell::run(shell::cargo(root).args(["deny", "check", "bans", "licenses", "sources"])));
    } else {
        println!(
            "cargo-deny is not installed, so licences and sources were not checked: cargo install cargo-deny"
        );
    }
}

fn tests(root: &Path, unit: bool, e2e: bool, tally: &mut Tally) {
    if e2e && unit {
        // The binaries that the tests from outside start, with the features that the tests build them with.
        let build = ["build", "--workspace", "--bins", "--tests"];
        if let Err(fault) = shell::run(shell::cargo(root).args(build)) {
            return tally.step(Err(fault));
        }
    }
    let packages: &[&str] = match (unit, e2e) {
        (true, true) => &["--workspace"],
        (true, false) => &["--workspace", "--exclude", "ganger-e2e"],
        _ => &["--package", "ganger-e2e"],
    };
    let mut cargo = test_command(root);
    cargo.args(packages);
    if unit && e2e {
        cargo.env("GANGER_E2E_BUILT", "1");
    }
    watch(&mut cargo, tally);
}

/// Everything that needs the fail points, which are in no other build.
fn failpoints(root: &Path, unit: bool, e2e: bool, tally: &mut Tally) {
    let mut cargo = test_command(root);
    let mut features = Vec::new();
    let crates = [
        (unit, "ganger-spool"),
        (unit, "ganger-manager"),
        (unit, "ganger-provider-redis"),
        (e2e, "ganger-e2e"),
    ];
    for (wanted, name) in crates {
        if wanted {
            cargo.args(["--package", name]);
            features.push(format!("{name}/failpoints"));
        }
    }
    cargo.args(["--features", &features.join(",")]);
    // By their names: the other tests have run already.
    cargo.args(if shell::has("cargo-nextest") {
        ["-E", "test(failpoint) + binary(failpoints)"]
    } else {
        ["--", "failpoint"]
    });
    watch(&mut cargo, tally);
}

fn test_command(root: &Path) -> Command {
    let mut cargo = shell::cargo(root);
    if shell::has("cargo-nextest") {
        cargo.args(["nextest", "run", "--no-fail-fast", "--color", "never", "--lib", "--bins", "--tests"]);
        // A crate without such a test is no fault.
        cargo.args(["--no-tests", "pass", "--status-level", "slow", "--final-status-level", "fail"]);
    } else {
        cargo.args(["test", "--no-fail-fast", "--lib", "--bins", "--tests"]);
    }
    cargo
}

/// Runs tests and counts them.
fn watch(cargo: &mut Command, tally: &mut Tally) {
    let failed_before = tally.failed;
    match shell::run_watched(cargo, |line| tally.read(line)) {
        Err(fault) => tally.step(Err(fault)),
        // Tests that do not build have no count.
        Ok(false) if tally.failed == failed_before => {
            tally.step(Err(format!("`{}` failed", shell::typed(cargo))));
        }
        Ok(_) => {}
    }
}

fn documentation(root: &Path, tally: &mut Tally) {
    let mut doc = shell::cargo(root);
    doc.args(["doc", "--workspace", "--no-deps", "--quiet"]).env("RUSTDOCFLAGS", "-D warnings");
    tally.step(shell::run(&mut doc));
    watch(shell::cargo(root).args(["test", "--doc", "--workspace", "--no-fail-fast", "--quiet"]), tally);
    println!("\n$ cargo xtask docs --check");
    tally.step(docs::run(root, docs::Mode::Check));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_of_cargo_test_add_up() {
        let mut tally = Tally::default();
        tally.read("test result: ok. 31 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out");
        tally.read("test result: FAILED. 4 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out");
        tally.read("test a::passed ... ok");
        assert_eq!((tally.passed, tally.failed), (35, 2));
    }

    #[test]
    fn counts_of_nextest_add_up() {
        let mut tally = Tally::default();
        tally.read(
            "     Summary [   1.204s] 100 tests run: 97 passed (2 slow), 2 failed, 1 timed out, 3 skipped",
        );
        tally.read("     Summary [   0.004s] 1 test run: 1 passed, 0 skipped");
        assert_eq!((tally.passed, tally.failed), (98, 3));
    }

    #[test]
    fn a_failed_step_counts_as_failed_and_is_named() {
        let mut tally = Tally::default();
        tally.step(Ok(()));
        tally.step(Err("`cargo fmt` failed".to_owned()));
        assert_eq!(tally, Tally { passed: 0, failed: 1, faults: vec!["`cargo fmt` failed".to_owned()] });
    }

    #[test]
    fn parts_are_chosen_by_name() {
        assert_eq!(options(&[]).unwrap().len(), 4);
        assert_eq!(options(&["--only", "lint", "--only=e2e"]).unwrap(), [Part::Lint, Part::E2e]);
        assert!(options(&["--only", "speed"]).unwrap_err().contains("speed"));
        assert!(options(&["--only"]).is_err());
        assert!(options(&["fast"]).is_err());
    }
}
