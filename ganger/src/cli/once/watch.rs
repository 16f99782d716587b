//! Tells when everything watched has ended.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use ganger_core::{Count, Filter, JobId, JobView, Page, State, Status, Timestamp};

use super::SharedAdmin;
use crate::cli::{
    failure::Failure,
    store::{Store, bounded},
};

/// What is watched: by when it was stored.
pub(super) struct Watch {
    pub(super) stores: Vec<(String, Option<SharedAdmin>)>,
    /// The types that are done here.
    kinds: Vec<String>,
    /// Watched from here on; `None` is from the beginning.
    from: Option<Timestamp>,
    /// Watched up to here.
    until: Timestamp,
    /// Watched however old they are: jobs that were stored already.
    known: HashSet<JobId>,
    pub(super) started: Timestamp,
    look: Look,
}

/// When to look into the stores next: seldom while there is work, soon when it seems to be over.
struct Look {
    finished: u64,
    next: Instant,
    /// Not before this, however much happens.
    rested: Instant,
    wait: Duration,
    idle_since: Instant,
    /// How often in a row nothing watched was open, while something else went on.
    none: u32,
}

impl Look {
    fn new(finished: u64) -> Self {
        let now = Instant::now();
        Look { finished, next: now, rested: now, wait: LOOK_MIN, idle_since: now, none: 0 }
    }
}

const LOOK_MIN: Duration = Duration::from_millis(50);
const LOOK_MAX: Duration = Duration::from_secs(1);

/// So often in a row nothing is found before it is believed while other jobs run.
const NONE_ENOUGH: u32 = 3;

/// How many runs have ended, and whether anything is under way.
fn activity(status: &dyn Status) -> (u64, bool) {
    let report = status.report();
    let finished = report.by_type.values().map(|figures| figures.runs).sum();
    (finished, report.pools.values().any(|pool| pool.busy > 0 || pool.queued > 0))
}

/// How long nothing may happen before that stands for "nothing left", where a store cannot list its jobs.
const IDLE_ENOUGH: Duration = Duration::from_secs(1);

impl Watch {
    /// Everything that is stored now.
    pub(super) fn backlog(stores: &[Store], kinds: Vec<String>, started: Timestamp) -> Self {
        Watch {
            stores: stores.iter().map(|store| (store.name.clone(), store.provider.admin())).collect(),
            kinds,
            from: None,
            until: started,
            known: HashSet::new(),
            started,
            look: Look::new(0),
        }
    }

    /// Only what one store took in since the start, and the jobs that it knew already.
    pub(super) fn narrow(&mut self, store: &str, known: HashSet<JobId>) {
        self.from = Some(self.started);
        self.until = Timestamp::now();
        self.known = known;
        self.stores.retain(|(name, _)| name == store);
    }

    /// How many of a file's jobs were stored already and have not ended.
    pub(super) fn known(&self) -> u64 {
        self.known.len() as u64
    }

    /// How many there are, for the progress; 0 where nobody can tell.
    pub(super) async fn count(&self) -> u64 {
        let mut sum = 0;
        for (name, admin) in &self.stores {
            let Some(admin) = admin else { continue };
            let counts = bounded(name, admin.counts()).await.unwrap_or_default();
            let open = counts.iter().filter(|count| matches!(count.state, State::Ready | State::Running));
            sum += open.filter(|count| self.does(&count.kind)).map(|count| count.count).sum::<u64>();
        }
        sum
    }

    /// Whether everything watched has ended, or never will here.
    pub(super) async fn is_over(&mut self, status: &dyn Status) -> bool {
        let (finished, busy) = activity(status);
        let moved = finished != self.look.finished;
        if busy || moved {
            self.look.idle_since = Instant::now();
            self.look.finished = finished;
        }
        // While there is work it is looked seldom, but looked: not all work is watched.
        if moved && !busy {
            self.look.wait = LOOK_MIN;
            self.look.next = self.look.next.min(Instant::now() + LOOK_MIN).max(self.look.rested);
        }
        if Instant::now() < self.look.next {
            return false;
        }
        let began = Instant::now();
        let over = match self.any_open().await {
            Ok(true) => {
                self.look.none = 0;
                false
            }
            // A job that moved on while it was looked for shows in the figures, or the next time.
            Ok(false) => {
                self.look.none += 1;
                activity(status) == (finished, false) || self.look.none >= NONE_ENOUGH
            }
            // A store out of reach says nothing; the manager tries on, and so do we.
            Err(failure) => {
                tracing::debug!(?failure, "watching");
                false
            }
        };
        // Looking costs at most a tenth of the time.
        let now = Instant::now();
        self.look.wait = (self.look.wait * 2).min(LOOK_MAX);
        self.look.rested = now + (now - began) * 10;
        self.look.next = (now + self.look.wait).max(self.look.rested);
        over
    }

    async fn any_open(&self) -> Result<bool, Failure> {
        for (name, admin) in &self.stores {
            match admin {
                None if self.look.idle_since.elapsed() < IDLE_ENOUGH => return Ok(true),
                None => {}
                Some(admin) if self.any_open_in(name, admin).await? => return Ok(true),
                Some(_) => {}
            }
        }
        Ok(false)
    }

    async fn any_open_in(&self, name: &str, admin: &SharedAdmin) -> Result<bool, Failure> {
        // One count of all, so that only what is there is looked for.
        let counts = bounded(name, admin.counts()).await?;
        let open = |count: &&Count| count.count > 0 && !count.state.is_end();
        let mut kinds: Vec<String> = counts.iter().filter(open).map(|count| count.kind.clone()).collect();
        kinds.sort_unstable();
        kinds.dedup();
        let of = |kind: Option<&String>, states: &[State]| Filter {
            states: Some(states.to_vec()),
            kind: kind.cloned(),
            ..Filter::default()
        };
        let waiting = [State::Ready, State::Running];
        for kind in kinds.iter().filter(|kind| self.does(kind)) {
            // A retry that comes due between the first two is found by the third.
            let retrying = |view: &JobView| view.retrying;
            if self.finds(name, admin, &of(Some(kind), &waiting), |_| true).await?
                || self.finds(name, admin, &of(Some(kind), &[State::Scheduled]), retrying).await?
                || self.finds(name, admin, &of(Some(kind), &waiting), |_| true).await?
                || self.any_nameless(name, admin, &of(Some(kind), &[State::Ready])).await?
            {
                return Ok(true);
            }
        }
        // Jobs of other types are held by other gangers.
        self.finds(name, admin, &of(None, &[State::Running]), |_| true).await
    }

    /// Whether bytes wait that no manager has read yet: they have no id, so they are counted and not listed. When they
    /// came nobody knows, so all of them are of the backlog, and none was in a file.
    async fn any_nameless(&self, name: &str, admin: &SharedAdmin, ready: &Filter) -> Result<bool, Failure> {
        if self.from.is_some() {
            return Ok(false);
        }
        let before = bounded(name, admin.count(ready)).await?;
        if before == 0 {
            return Ok(false);
        }
        let (mut listed, mut page) = (0, Page { limit: 1000, after: None });
        loop {
            let views = bounded(name, admin.list(ready, &page)).await?;
            listed += views.len() as u64;
            match views.last() {
                Some(last) if views.len() >= page.limit => page.after = Some(last.id.clone()),
                _ => break,
            }
        }
        // Jobs that came or went meanwhile are none of them.
        Ok(before.min(bounded(name, admin.count(ready)).await?) > listed)
    }

    /// Whether a watched job is among those that match.
    async fn finds(
        &self,
        name: &str,
        admin: &SharedAdmin,
        filter: &Filter,
        counts: impl Fn(&JobView) -> bool,
    ) -> Result<bool, Failure> {
        let mut page = Page { limit: 200, after: None };
        loop {
            let views = bounded(name, admin.list(filter, &page)).await?;
            for view in views.iter().filter(|view| counts(view)) {
                if self.is_watched(name, admin, view).await? {
                    return Ok(true);
                }
            }
            match views.last() {
                Some(last) if views.len() >= page.limit => page.after = Some(last.id.clone()),
                _ => return Ok(false),
            }
        }
    }

    /// Whether a job is watched, or follows from one that is.
    pub(super) async fn is_watched(
        &self,
        name: &str,
        admin: &SharedAdmin,
        view: &JobView,
    ) -> Result<bool, Failure> {
        let created = |view: &JobView| view.job.as_ref().and_then(|job| job.created_at);
        if self.known.contains(&view.id) || created(view).is_none_or(|at| self.is_in_time(at)) {
            return Ok(true);
        }
        let mut id = view.id.clone();
        while let Some(parent) = id.parent() {
            if self.known.contains(&parent) || parent.made_at().is_some_and(|at| self.is_in_time(at)) {
                return Ok(true);
            }
            // A name of its own tells nothing; a job that nobody knows is nobody's parent.
            if parent.made_at().is_none()
                && let Some(view) = bounded(name, admin.show(&parent)).await?
                && created(&view).is_some_and(|at| self.is_in_time(at))
            {
                return Ok(true);
            }
            id = parent;
        }
        Ok(false)
    }

    fn is_in_time(&self, at: Timestamp) -> bool {
        at <= self.until && self.from.is_none_or(|from| at >= from)
    }

    /// Whether a worker here does this type.
    pub(super) fn does(&self, kind: &str) -> bool {
        self.kinds.iter().any(|known| known == kind)
    }
}
