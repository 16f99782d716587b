//! Control groups (cgroup v2): where one is delegated to ganger, they hold a job's whole tree of processes to its
//! limits of memory and processes.

mod cage;
mod delegated;
mod division;
mod place;

use std::{fs::File, io, io::Write, path::Path, sync::Arc};

use crate::{confine::Limits, program::may_pass};
pub use cage::Over;
pub(crate) use cage::{Cage, Counts};
use delegated::{Delegated, Kept};
use division::Division;

/// What control groups keep of an entry's limits.
#[derive(Clone, Debug)]
pub(crate) struct Hold {
    division: Arc<Division>,
    kept: Kept,
}

impl Hold {
    /// Divides what is delegated, the first time. `None` where the limits name nothing that could be kept so.
    ///
    /// # Errors
    /// It cannot be kept so: why.
    pub(crate) fn new(limits: &Limits) -> Result<Option<Hold>, String> {
        if !is_for(limits) {
            return Ok(None);
        }
        let found = Delegated::find().and_then(|delegated| Ok((delegated.keeps(limits)?, delegated)));
        let (kept, delegated) = found.inspect_err(|why| {
            tracing::info!("limits of memory and processes hold for each process by itself: {why}");
        })?;
        let division = Division::of(&delegated).inspect_err(|why| {
            tracing::warn!(
                "limits of memory and processes hold for each process by itself, not for each job: {why}"
            );
        })?;
        tracing::info!("limits of {} hold for each job as a whole, by control groups", kept.names());
        Ok(Some(Hold { division, kept }))
    }

    pub(crate) fn keeps_memory(&self) -> bool {
        self.kept.memory.is_some()
    }

    pub(crate) fn keeps_processes(&self) -> bool {
        self.kept.processes.is_some()
    }

    /// An empty group for a job: the one of the job before, if nothing is left of that.
    ///
    /// # Errors
    /// The system makes no group.
    pub(crate) fn cage(&self, before: Option<Arc<Cage>>) -> io::Result<Arc<Cage>> {
        match before.filter(|cage| cage.is_fresh()) {
            Some(cage) => Ok(cage),
            None => self.division.cage(self.kept).map(Arc::new).map_err(refused),
        }
    }
}

impl Limits {
    /// How they are kept here, in words: for a `whole` (a job, a program) or for each process of it. Changes nothing.
    pub fn about(&self, whole: &str) -> String {
        let kept = is_for(self).then(|| Delegated::find().and_then(|delegated| delegated.keeps(self)));
        match kept {
            Some(Ok(kept)) => {
                format!(
                    "limits: {} of each {whole} as a whole by control group, the rest by setrlimit",
                    kept.names()
                )
            }
            Some(Err(why)) => format!("limits by setrlimit, each process by itself: {why}"),
            None => "limits by setrlimit, each process by itself".to_owned(),
        }
    }
}

/// The error of a system that refuses a group, or a child a place in it. It says nothing of the child's program, as its
/// number alone would; what may pass is left as it is.
pub(crate) fn refused(error: io::Error) -> io::Error {
    if may_pass(&error) { error } else { io::Error::other(format!("it has no control group: {error}")) }
}

/// Writes to a file of a group. One that is not there is not made, and says so.
fn write(path: &Path, text: &str) -> io::Result<()> {
    File::options().write(true).open(path)?.write_all(text.as_bytes())
}

/// Whether control groups could keep any of these limits.
fn is_for(limits: &Limits) -> bool {
    limits.memory.is_some() || limits.processes.is_some()
}

impl Kept {
    fn names(self) -> &'static str {
        match (self.memory, self.processes) {
            (Some(_), Some(_)) => "memory and processes",
            (Some(_), None) => "memory",
            _ => "processes",
        }
    }
}
