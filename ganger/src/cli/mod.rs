//! The command line: nouns, then verbs.

mod bench;
mod check;
mod completions;
mod crew;
mod dead;
mod each;
mod enqueue;
mod failure;
mod follow;
mod job;
mod lines;
mod log;
mod logs;
mod once;
mod out;
mod plugin;
#[cfg(feature = "worker-process")]
mod plugin_test;
mod recover;
mod run;
mod select;
mod store;
mod table;
mod view;

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};
use ganger_core::Registry;

use crate::{Config, plugins::PLUGINS};
use failure::{Exit, Failure};
use out::Out;

const EXAMPLES: &str = "\
Examples:
  ganger run                                     work, without a config file
  ganger enqueue cli -- echo hello               store a job that runs a command
  ganger enqueue cli --wait -- date              … and wait for what it prints
  ganger run --once --jobs jobs.jsonl            do the jobs of a file, then end
  ganger job ls                                  what is stored
  ganger dead ls                                 what failed for good

Exit codes: 0 ok · 1 the answer is no · 2 usage or config · 3 a store is out of reach · 4 refused";

/// Takes jobs from wherever they are and gets them done.
#[derive(Debug, Parser)]
#[command(name = "ganger", version, about, after_help = EXAMPLES, max_term_width = 100)]
pub(crate) struct Cli {
    /// The config file, in JSON, TOML or YAML by its extension
    #[arg(short = 'c', long = "config", global = true, value_name = "FILE", display_order = 900)]
    config: Option<PathBuf>,
    /// What is logged: error, warn, info, debug or trace, or rules like `ganger=debug` [env: GANGER_LOG]
    #[arg(long, global = true, value_name = "LEVEL", display_order = 901)]
    log: Option<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Take jobs in and do them, until told to stop
    Run(run::Args),
    /// Store a job, or many from standard input
    Enqueue(enqueue::Args),
    /// Look at stored jobs, and give orders about them
    #[command(subcommand)]
    Job(job::Command),
    /// Look at dead letters, run them again, or forget them
    #[command(subcommand)]
    Dead(dead::Command),
    /// Check a config file without opening anything
    Check(check::Args),
    /// The plugins of this program, and their options
    #[command(subcommand)]
    Plugin(plugin::Command),
    /// Measure how fast ganger is on this machine
    Bench(bench::Args),
    /// Print a shell's completions
    Completions(completions::Args),
}

/// What every command works with.
pub(crate) struct Context {
    config_file: Option<PathBuf>,
    pub(crate) registry: Registry,
}

impl Context {
    /// The config named by `-c`, or the default one.
    pub(crate) fn config(&self) -> Result<Config, Failure> {
        match &self.config_file {
            Some(file) => Ok(Config::load(file, &self.registry)?),
            None => Ok(Config::default_for(&self.registry)),
        }
    }
}

/// The whole command: reads the arguments, does what they ask, and tells how it went.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are no errors; a closed pipe is nobody's concern.
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage.into() } else { ExitCode::SUCCESS };
        }
    };
    let level = match &cli.command {
        // The closing table tells what failed.
        Command::Run(args) if args.once => "error",
        Command::Run(_) => "info",
        _ => "warn",
    };
    let done = log::start(cli.log.as_deref(), level).and_then(|()| dispatch(cli));
    match done {
        Ok(exit) => exit.into(),
        Err(failure) => {
            failure.print();
            failure.exit.into()
        }
    }
}

fn dispatch(cli: Cli) -> Result<Exit, Failure> {
    // A measurement brings its own runtimes.
    if let Command::Bench(args) = &cli.command {
        return bench::run(args);
    }
    let mut registry = Registry::default();
    for plugin in PLUGINS {
        registry.add(*plugin).map_err(|error| Failure::usage(error.to_string()))?;
    }
    let context = Context { config_file: cli.config, registry };
    let mut out = Out::stdout();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("ganger-cli")
        .enable_all()
        .build()
        .map_err(|error| Failure::usage(format!("the system gives no threads: {error}")))?;
    let done = runtime.block_on(async {
        match cli.command {
            Command::Run(args) => run::run(&context, args, &mut out).await,
            Command::Enqueue(args) => enqueue::run(&context, args, &mut out).await,
            Command::Job(command) => job::run(&context, command, &mut out).await,
            Command::Dead(command) => dead::run(&context, command, &mut out).await,
            Command::Check(args) => check::run(&context, args, &mut out),
            Command::Plugin(command) => plugin::run(&context, command, &mut out).await,
            Command::Bench(_) => unreachable!("it is done before there is a runtime"),
            Command::Completions(args) => completions::run(args, &mut out),
        }
    });
    // A reader of standard input may still hang there: it is left behind.
    runtime.shutdown_background();
    out.finish()?;
    done
}
