//! Floors and ratios: how fast ganger is beside the same work with no manager.
//!
//! `ganger bench [NAME] [--json]` and `cargo bench -p ganger-bench` run these. Every figure that matters is a
//! ratio of two measurements of one run, taken in turn, since a machine's speed drifts.

mod cli;
mod disk;
mod figure;
mod floor;
mod helper;
mod http;
mod line;
mod manager;
mod meter;
mod nginx;
mod output;
mod process;
mod redis;
mod store;

use std::process::ExitCode;

pub use figure::{Figure, Stretch};

/// The names of the benches, in the order in which they run.
pub const NAMES: [&str; 7] = ["manager", "disk", "redis", "cli", "output", "process", "http"];

/// How a bench is run.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Print JSON, one object a line.
    pub json: bool,
    /// The size of the run, in percent of the full one.
    pub scale: u32,
}

impl Default for Options {
    fn default() -> Self {
        Options { json: false, scale: 100 }
    }
}

impl Options {
    /// A number of jobs, scaled; at least 10.
    fn jobs(&self, full: u64) -> u64 {
        (full * u64::from(self.scale) / 100).max(10)
    }
}

/// Runs one bench, or all for `None`, printing each figure when it is there.
///
/// # Errors
/// The name is unknown, or a measurement failed: what and why, and what to install where something is missing.
pub fn run(name: Option<&str>, options: Options) -> Result<(), String> {
    if helper::play()? {
        return Ok(());
    }
    let names: Vec<&str> = match name {
        None => NAMES.to_vec(),
        Some(name) if NAMES.contains(&name) => vec![name],
        Some(name) => {
            return Err(format!("there is no bench `{name}`: the benches are {}", NAMES.join(", ")));
        }
    };
    for name in names {
        match name {
            "manager" => manager::run(options)?,
            "disk" => disk::run(options)?,
            "redis" => redis::run(options)?,
            "cli" => cli::run(options)?,
            "output" => output::run(options)?,
            "process" => process::run(options)?,
            _ => http::run(options)?,
        }
    }
    Ok(())
}

/// A bench as a program of its own: what `cargo bench` runs. `--json` and `--scale PERCENT` are understood, and
/// whatever else cargo passes is passed over.
pub fn main(name: &str) -> ExitCode {
    let mut options = Options::default();
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--json" => options.json = true,
            "--scale" => {
                options.scale = arguments.next().and_then(|scale| scale.parse().ok()).unwrap_or(100);
            }
            _ => {}
        }
    }
    match run(Some(name), options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            print_error(&format!("bench {name}: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// Prints a figure as the options ask.
fn show(figure: &Figure, options: Options) {
    match options.json {
        true => print_line(&serde_json::to_string(figure).expect("a figure is texts and numbers")),
        false => print_line(&figure.text()),
    }
}

#[expect(clippy::print_stdout, reason = "a bench's result is its standard output")]
fn print_line(line: &str) {
    println!("{line}");
}

#[expect(clippy::print_stderr, reason = "a bench's complaint goes to standard error")]
fn print_error(line: &str) {
    eprintln!("{line}");
}

/// A runtime with so many threads.
fn runtime(threads: usize) -> Result<tokio::runtime::Runtime, String> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .enable_all()
        .build()
        .map_err(|error| format!("no runtime: {error}"))
}
