//! Who works on a store, for people: a job's holder by its name, and the jobs that nobody does.

use anstream::eprintln;
use ganger_core::{Beat, HANDLER_PREFIX, JobView, State};

use crate::Config;

use super::store::Store;

/// The managers that are alive on a store, and the types that a config does.
pub(crate) struct Crew {
    store: String,
    managers: Vec<Beat>,
    types: Vec<String>,
}

impl Crew {
    /// Asks the store, if one of these jobs waits or runs. `None` where none does, or the store does not tell.
    pub(crate) async fn of(config: &Config, store: &Store, views: &[JobView]) -> Option<Crew> {
        if !views.iter().any(|view| matches!(view.state, State::Ready | State::Running)) {
            return None;
        }
        let managers = store.ask(store.provider.sink()?.managers()).await.ok()?;
        let workers = config.workers.iter().map(|worker| worker.name.clone());
        let handlers = config.handlers.iter().map(|handler| format!("{HANDLER_PREFIX}{}", handler.name));
        Some(Crew { store: store.name.clone(), managers, types: workers.chain(handlers).collect() })
    }

    /// Names the job's holder as its runs name it, and says so where nobody does its type.
    pub(crate) fn explain(&self, view: &mut JobView) {
        match (view.state, &view.holder, &view.job) {
            (State::Running, Some(holder), _) => {
                let of = |beat: &&Beat| format!("{:016x}", beat.incarnation) == *holder;
                match self.managers.iter().find(of) {
                    Some(beat) => view.holder = Some(format!("{}:{}", beat.host, beat.pid)),
                    None => view.reason = Some("the ganger that holds it shows no sign of life".to_owned()),
                }
            }
            (State::Ready, _, Some(job)) if view.reason.is_none() && !self.does(&job.kind) => {
                view.reason = Some(format!("no worker does type `{}`", job.kind));
            }
            _ => {}
        }
    }

    fn does(&self, kind: &str) -> bool {
        let of_managers = self.managers.iter().flat_map(|beat| &beat.types);
        self.types.iter().any(|known| known == kind)
            || of_managers.into_iter().any(|(known, _)| known == kind)
    }

    /// Says so where nobody works and something waits.
    pub(crate) fn note_if_nobody(&self, views: &[JobView]) {
        if self.managers.is_empty() && views.iter().any(|view| view.state == State::Ready) {
            note_nobody(&self.store);
        }
    }
}

/// Says that nobody works on a store.
pub(crate) fn note_nobody(store: &str) {
    eprintln!("note: no ganger works on `{store}`: start one with `ganger run`");
}
