//! `ganger bench`.

use clap::builder::PossibleValuesParser;

use super::failure::{Exit, Failure};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  ganger bench\n  ganger bench disk --json\n  ganger bench manager --scale 10"
)]
pub(crate) struct Args {
    /// Which one; all of them without it
    #[arg(value_name = "NAME", value_parser = PossibleValuesParser::new(ganger_bench::NAMES))]
    name: Option<String>,
    /// One JSON object a line; the last of a bench is its headline
    #[arg(long)]
    json: bool,
    /// The size of the runs, in percent of the full one
    #[arg(long, value_name = "PERCENT", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
    scale: u32,
}

/// Runs on the caller's thread, outside any runtime: a measurement brings its own.
pub(crate) fn run(args: &Args) -> Result<Exit, Failure> {
    let options = ganger_bench::Options { json: args.json, scale: args.scale };
    match ganger_bench::run(args.name.as_deref(), options) {
        Ok(()) => Ok(Exit::Ok),
        Err(message) => Err(Failure::new(Exit::No, message)),
    }
}
