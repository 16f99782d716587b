//! `ganger run`: takes jobs in and does them, until told to stop.

use std::path::PathBuf;

use crate::{Config, Ports, Signals, config::SourceOptions, embed, plan_of};

use super::{
    Context,
    failure::{Exit, Failure},
    once,
    out::Out,
};

const EXAMPLES: &str = "\
Examples:
  ganger run                             jobs from ganger.db, and POSTs to 127.0.0.1:8081/job/add
  ganger run -c ganger.toml
  ganger run --once --jobs jobs.jsonl    do the jobs of a file, then end

SIGTERM or Ctrl-C: running jobs finish within the grace, all others are handed back.
A second one ends at once.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Do what is stored now, or the jobs of a file, then end; opens no ports
    #[arg(long)]
    pub(super) once: bool,
    /// Jobs to store and do, one JSON object a line; `-` is standard input
    #[arg(long, value_name = "FILE", requires = "once")]
    jobs: Option<PathBuf>,
    /// With `--once`: what happened, as JSON
    #[arg(long, requires = "once")]
    json: bool,
    /// Print the config that ganger has without a file, and end
    #[arg(long, exclusive = true)]
    print_default_config: bool,
}

pub(crate) async fn run(cx: &Context, args: Args, out: &mut Out) -> Result<Exit, Failure> {
    if args.print_default_config {
        out.line(crate::config::DEFAULT_CONFIG.trim_end())?;
        return Ok(Exit::Ok);
    }
    if args.once {
        return once::run(cx, args.jobs, args.json, out).await;
    }
    let signals = Signals::listen()?;
    let config = cx.config()?;
    let plan = plan_of(&config, &cx.registry, Ports::Open);
    let running = embed::start(plan, Some(&config)).await?;
    tell(&config);
    running.until(signals).await?;
    tracing::info!("ended");
    Ok(Exit::Ok)
}

/// Says what works.
fn tell(config: &Config) {
    let names = |entries: &[crate::config::WorkerEntry]| {
        entries
            .iter()
            .map(|entry| format!("{}×{}", entry.name, entry.generic.workers))
            .collect::<Vec<_>>()
            .join(" ")
    };
    let sources: Vec<&str> = config.sources.iter().map(|source| source.name.as_str()).collect();
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        config = config.name(),
        providers = sources.join(" "),
        workers = names(&config.workers),
        failure_handlers = names(&config.handlers),
        "ganger works"
    );
    let intakes =
        config.sources.iter().filter(|source| matches!(source.generic, SourceOptions::Intake(_))).count();
    if config.is_default && intakes > 0 {
        tracing::info!("no config file: jobs are kept in ganger.db, in this folder");
    }
}
