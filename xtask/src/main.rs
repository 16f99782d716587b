//! The house's own tool: `cargo xtask test`, `tidy`, `docs`, `new-provider`, `new-worker`.
//!
//! It depends on nothing of ganger, so that it runs while the rest does not build.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "it talks to the person at the terminal")]

mod docs;
mod plugin;
mod shell;
mod suite;
mod tidy;

use std::{path::PathBuf, process::ExitCode};

const USAGE: &str = "\
The house's own tool.

Usage: cargo xtask COMMAND

  test [--only PART]    everything that must hold: lint, unit, doc, e2e; prints the counts
  tidy                  dependency arrows, file names, banned calls, lengths, promises without a test
  docs [--check]        writes docs/reference and the README's plugin table, or tells what is out of date
  new-provider NAME     a provider that builds, is loaded and passes the conformance suite
  new-worker NAME       the same for a worker

PART is lint, unit, doc or e2e; give --only again for a second one.";

/// What went wrong, in words for the person at the terminal.
type Fault = String;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["test", options @ ..] => suite::options(options).and_then(|parts| suite::run(&root(), &parts)),
        ["tidy"] => tidy::run(&root()),
        ["docs"] => docs::run(&root(), docs::Mode::Write),
        ["docs", "--check"] => docs::run(&root(), docs::Mode::Check),
        ["new-provider", name] => plugin::make(&root(), plugin::Kind::Provider, name),
        ["new-worker", name] => plugin::make(&root(), plugin::Kind::Worker, name),
        ["new-provider" | "new-worker"] => Err(format!("{0} what? As in `cargo xtask {0} resize`", words[0])),
        [] | ["help" | "--help" | "-h"] => {
            println!("{USAGE}");
            Ok(())
        }
        other => Err(format!("`{}` is no command\n\n{USAGE}", other.join(" "))),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            eprintln!("{fault}");
            ExitCode::FAILURE
        }
    }
}

/// The workspace's root: where cargo says that this crate's parent is.
fn root() -> PathBuf {
    // Cargo's word at this run: a target folder may be shared with another copy of the repository.
    let manifest =
        std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    PathBuf::from(manifest).join("..").canonicalize().unwrap_or_else(|_| PathBuf::from("."))
}
