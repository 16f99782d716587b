//! Which jobs an order is for: ids, or a filter, or all of them, but never all by accident.

use std::io::{self, BufRead, IsTerminal, Write};

use ganger_core::{Filter, JobId, State};

use super::{
    failure::{Exit, Failure},
    table::counted,
};

/// A filter on stored jobs.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct FilterArgs {
    /// Of this type
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<String>,
    /// Of this queue
    #[arg(long)]
    queue: Option<String>,
    /// With this name
    #[arg(long)]
    name: Option<String>,
    /// Whose last error contains this
    #[arg(long, value_name = "TEXT")]
    error: Option<String>,
}

impl FilterArgs {
    /// The filter, in these states (`None` is any).
    pub(crate) fn filter(&self, states: Option<Vec<State>>) -> Filter {
        Filter {
            ids: None,
            states,
            kind: self.kind.as_deref().map(|kind| ganger_core::canonical_kind(kind).to_owned()),
            queue: self.queue.clone(),
            name: self.name.clone(),
            error: self.error.clone(),
        }
    }

    fn is_empty(&self) -> bool {
        self.kind.is_none() && self.queue.is_none() && self.name.is_none() && self.error.is_none()
    }
}

/// Which jobs an order is for.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Selection {
    /// These jobs
    #[arg(value_name = "ID")]
    ids: Vec<JobId>,
    #[command(flatten)]
    filter: FilterArgs,
    /// All jobs that the order fits
    #[arg(long, conflicts_with = "ids")]
    all: bool,
    /// Do not ask (needed where no one can be asked)
    #[arg(short, long)]
    yes: bool,
    /// As JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// The provider that holds them, by its name in the config
    #[arg(long, value_name = "NAME")]
    pub(crate) provider: Option<String>,
}

impl Selection {
    /// The filter, in these states.
    pub(crate) fn filter(&self, states: Option<Vec<State>>) -> Result<Filter, Failure> {
        if !self.ids.is_empty() && !self.filter.is_empty() {
            return Err(Failure::usage("ids and a filter do not go together"));
        }
        if !self.ids.is_empty() {
            return Ok(Filter { states, ..Filter::ids(self.ids.clone()) });
        }
        if self.filter.is_empty() && !self.all {
            return Err(
                Failure::usage("which jobs?").help("name ids, or a filter like `--type cli`, or `--all`")
            );
        }
        Ok(self.filter.filter(states))
    }

    /// The ids that were named.
    pub(crate) fn ids(&self) -> &[JobId] {
        &self.ids
    }

    /// Asks before many jobs are changed; named ones need no question.
    pub(crate) fn confirm(&self, verb: &str, count: u64) -> Result<bool, Failure> {
        Ok(self.yes || !self.ids.is_empty() || ask(&format!("{verb} {}?", counted(count, "job")))?)
    }
}

/// Asks a person.
pub(crate) fn ask(question: &str) -> Result<bool, Failure> {
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return Err(Failure::new(Exit::Usage, format!("{question} Nobody can be asked here"))
            .help("add `--yes` if that is what you want"));
    }
    let mut stderr = io::stderr();
    write!(stderr, "{question} [y/N] ")?;
    stderr.flush()?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
