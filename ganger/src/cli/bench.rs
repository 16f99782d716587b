//! `ganger bench`.

use super::failure::{Exit, Failure};

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  ganger bench\n  ganger bench disk --json")]
pub(crate) struct Args {
    /// manager, disk, cli or http, and their options
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGS")]
    args: Vec<String>,
}

pub(crate) fn run(args: Args) -> Result<Exit, Failure> {
    let _ = args;
    Err(Failure::usage("this program was built without its measurements"))
}
