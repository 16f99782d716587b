//! `ganger completions`.

use clap::CommandFactory;
use clap_complete::Shell;

use super::{
    Cli,
    failure::{Exit, Failure},
    out::Out,
};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  ganger completions bash > ~/.local/share/bash-completion/completions/ganger"
)]
pub(crate) struct Args {
    /// The shell
    shell: Shell,
}

pub(crate) fn run(args: Args, out: &mut Out) -> Result<Exit, Failure> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "ganger", &mut text);
    out.line(String::from_utf8_lossy(&text).trim_end())?;
    Ok(Exit::Ok)
}
