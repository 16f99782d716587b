//! Tells when everything watched has ended.

use std::time::{Duration, Instant};

use ganger_core::{Filter, JobView, Page, Report, State, Timestamp};

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
    pub(super) started: Timestamp,
    look: Look,
}

/// When to look into the stores next: seldom while there is work, soon when it seems to be over.
struct Look {
    finished: u64,
    next: Instant,
    wait: Duration,
    idle_since: Instant,
}

impl Look {
    fn new(finished: u64) -> Self {
        let now = Instant::now();
        Look { finished, next: now, wait: LOOK_MIN, idle_since: now }
    }
}

const LOOK_MIN: Duration = Duration::from_millis(50);
const LOOK_MAX: Duration = Duration::from_secs(1);

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
            started,
            look: Look::new(0),
        }
    }

    /// Only what one store took in between two times.
    pub(super) fn narrow(&mut self, from: Option<Timestamp>, until: Timestamp, store: &str) {
        self.from = from;
        self.until = until;
        self.stores.retain(|(name, _)| name == store);
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
    pub(super) async fn is_over(&mut self, report: &Report) -> bool {
        let finished: u64 = report.by_type.values().map(|figures| figures.runs).sum();
        let busy = report.pools.values().any(|pool| pool.busy > 0 || pool.queued > 0);
        if busy || finished != self.look.finished {
            self.look = Look::new(finished);
        }
        if busy || Instant::now() < self.look.next {
            return false;
        }
        let began = Instant::now();
        let over = match self.any_open().await {
            Ok(open) => !open,
            // A store out of reach says nothing; the manager tries on, and so do we.
            Err(failure) => {
                tracing::debug!(?failure, "watching");
                false
            }
        };
        // Looking costs at most a tenth of the time.
        self.look.wait = (self.look.wait * 2).min(LOOK_MAX).max(began.elapsed() * 10);
        self.look.next = Instant::now() + self.look.wait;
        over
    }

    async fn any_open(&self) -> Result<bool, Failure> {
        for (name, admin) in &self.stores {
            let Some(admin) = admin else {
                if self.look.idle_since.elapsed() < IDLE_ENOUGH {
                    return Ok(true);
                }
                continue;
            };
            // One count of all, so that only what is there is looked for.
            for count in bounded(name, admin.counts()).await? {
                let matters = match count.state {
                    State::Ready | State::Scheduled => self.does(&count.kind),
                    State::Running => true,
                    _ => false,
                };
                if count.count == 0 || !matters {
                    continue;
                }
                let waits = count.state != State::Scheduled;
                let filter = Filter {
                    states: Some(vec![count.state]),
                    kind: Some(count.kind),
                    queue: Some(count.queue),
                    ..Filter::default()
                };
                if self.finds(name, admin, &filter, |view| waits || view.retrying).await? {
                    return Ok(true);
                }
            }
        }
        Ok(false)
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
            if views.iter().any(|view| self.is_watched(view) && counts(view)) {
                return Ok(true);
            }
            match views.last() {
                Some(last) if views.len() >= page.limit => page.after = Some(last.id.clone()),
                _ => return Ok(false),
            }
        }
    }

    /// Whether a job is watched: stored in time, or enqueued by another job.
    pub(super) fn is_watched(&self, view: &JobView) -> bool {
        let created = view.job.as_ref().and_then(|job| job.created_at);
        let in_time = created.is_none_or(|at| at <= self.until && self.from.is_none_or(|from| at >= from));
        in_time || view.id.to_string().contains('/')
    }

    /// Whether a worker here does this type.
    pub(super) fn does(&self, kind: &str) -> bool {
        self.kinds.iter().any(|known| known == kind)
    }
}
