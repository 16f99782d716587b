//! A provider's view of an open store.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
};

use compact_str::CompactString;
use ganger_core::{
    Batch, Beat, Ended, Enqueued, Exchange, Exchanged, FailureRecord, Hold, Job, JobId, LeaseRef,
    ProviderError, Refused, Room, State, Timestamp,
};

use crate::{
    absorb, enqueue,
    error::StoreError,
    exchange, handout, members, order, read,
    read::Look,
    renew,
    spool::{Shared, Spool},
    tx::Tx,
    wait,
};

/// Who asks: a provider's name, its only queue if it has one, and the incarnations that it has leased for.
pub(crate) struct Who {
    pub(crate) name: String,
    pub(crate) queue: Option<CompactString>,
    held: Mutex<HashSet<u64>>,
}

impl Who {
    /// Whether it takes jobs of a queue.
    pub(crate) fn takes(&self, queue: &str) -> bool {
        self.queue.as_ref().is_none_or(|only| only == queue)
    }

    /// Marks an incarnation as alive, as long as the source is open.
    pub(crate) fn hold(&self, shared: &Shared, incarnation: u64) -> Result<(), StoreError> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if !held.contains(&incarnation) {
            shared.holders.hold(incarnation)?;
            held.insert(incarnation);
        }
        Ok(())
    }
}

/// An open store as one provider (or worker) sees it: under a name, and perhaps one queue only. While it is open
/// the incarnations that lease through it count as alive; when it is dropped their leases are free at once.
pub struct Source {
    pub(crate) spool: Arc<Spool>,
    pub(crate) who: Arc<Who>,
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Source").field("name", &self.who.name).field("spool", &self.spool).finish()
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        for incarnation in self.who.held.lock().unwrap_or_else(PoisonError::into_inner).drain() {
            self.spool.shared.holders.release(incarnation);
        }
    }
}

impl Spool {
    /// A view of the store under a name. With `queue` it claims only that queue's jobs, and jobs that name no
    /// queue go there.
    pub fn source(self: &Arc<Self>, name: impl Into<String>, queue: Option<CompactString>) -> Source {
        let who = Who { name: name.into(), queue, held: Mutex::default() };
        Source { spool: self.clone(), who: Arc::new(who) }
    }
}

impl Source {
    /// The store.
    pub fn spool(&self) -> &Arc<Spool> {
        &self.spool
    }

    /// See [`Provider::wait`](ganger_core::Provider::wait). May be dropped at any time.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn wait(&self, room: &Room) -> Result<(), ProviderError> {
        wait::wait(&self.spool, &self.who, room).await
    }

    /// See [`Provider::exchange`](ganger_core::Provider::exchange). Dropped before its turn nothing happens,
    /// later all of it; the same token again gets the answer.
    ///
    /// # Errors
    /// The store cannot be written; nothing has happened, or all of it.
    pub async fn exchange(&self, give: &Exchange) -> Result<Exchanged, ProviderError> {
        // A claim alone need not be on the disk: if power fails first, its jobs are merely ready again.
        let synced = !give.settle.is_empty();
        let (who, give) = (self.who.clone(), give.clone());
        let bytes = give.settle.len() * size_of::<ganger_core::Settlement>();
        let (mut out, jobs) = handout::handout();
        let answer = self.spool.write(synced, bytes, move |tx| exchange::exchange(tx, &who, &give, &mut out));
        let (answer, leased) = jobs.take(answer).await?;
        Ok(Exchanged { stale: answer.stale, leased, more: answer.more })
    }

    /// See [`Provider::renew`](ganger_core::Provider::renew).
    ///
    /// # Errors
    /// The store cannot be written.
    pub async fn renew(&self, beat: &Beat, held: &[LeaseRef]) -> Result<Vec<Hold>, ProviderError> {
        let (who, beat, held) = (self.who.clone(), beat.clone(), held.to_vec());
        let bytes = held.len() * size_of::<LeaseRef>();
        // Leases do not outlive the machine: nothing here needs the disk.
        self.spool.write(false, bytes, move |tx| renew::renew(tx, &who, &beat, &held)).await
    }

    /// See [`Sink::enqueue`](ganger_core::Sink::enqueue). Dropped before its turn nothing is stored, later all
    /// of it; the same batch again finds it.
    ///
    /// # Errors
    /// The store cannot be written; nothing is stored, or all of it.
    pub async fn enqueue(&self, batch: Batch) -> Result<Vec<Result<Enqueued, Refused>>, ProviderError> {
        let jobs = enqueue::accept(batch, self.who.queue.as_deref());
        let bytes = jobs.iter().map(Job::weight).sum();
        self.spool.write(true, bytes, move |tx| enqueue::enqueue(tx, &jobs)).await
    }

    /// Stores the record of a failed job: a dead letter that no worker ever runs, kept until an order. Storing it
    /// under the same id again changes nothing.
    ///
    /// # Errors
    /// The store cannot be written.
    pub async fn keep_record(&self, id: JobId, record: FailureRecord) -> Result<(), ProviderError> {
        let queue = self.who.queue.clone().unwrap_or_else(|| ganger_core::DEFAULT_QUEUE.into());
        let raw = record.to_raw();
        let bytes = raw.get().len();
        let step = move |tx: &mut Tx<'_>| order::keep_record(tx, &id, &queue, &record, raw.get());
        self.spool.write(true, bytes, step).await
    }

    /// See [`Sink::states`](ganger_core::Sink::states).
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn states(&self, ids: &[JobId]) -> Result<Vec<Option<State>>, ProviderError> {
        let ids = ids.to_vec();
        let look = move |db: &rusqlite::Connection| {
            let now = Timestamp::now().as_millis();
            ids.iter().map(|id| read::state(db, &id.to_string(), now)).collect()
        };
        self.spool.readers.run(Look::Short, look).await
    }

    /// See [`Sink::ended`](ganger_core::Sink::ended). May be dropped at any time.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn ended(&self, ids: &[JobId]) -> Result<Vec<Ended>, ProviderError> {
        let mut changes = self.spool.shared.changes();
        loop {
            changes.borrow_and_update();
            let asked = ids.to_vec();
            let ended = self.spool.readers.run(Look::Short, move |db| read::ended(db, &asked)).await?;
            if !ended.is_empty() || ids.is_empty() {
                return Ok(ended);
            }
            // The sender lives as long as the store; a closed one is looked at once more and then says so.
            let _ = changes.changed().await;
        }
    }

    /// See [`Sink::managers`](ganger_core::Sink::managers).
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn managers(&self) -> Result<Vec<Beat>, ProviderError> {
        let shared = self.spool.shared.clone();
        self.spool.readers.run(Look::Short, move |db| members::managers(db, &shared)).await
    }

    /// See [`Sink::cancel`](ganger_core::Sink::cancel).
    ///
    /// # Errors
    /// The store cannot be written.
    pub async fn cancel(&self, id: &JobId) -> Result<bool, ProviderError> {
        self.absorb().await?;
        let id = id.to_string();
        self.spool.write(true, 0, move |tx| order::cancel(tx, &id)).await
    }

    /// Takes over all rows that other programs inserted, so that they are seen and found.
    pub(crate) async fn absorb(&self) -> Result<(), ProviderError> {
        loop {
            let look = |db: &rusqlite::Connection| {
                Ok(db.prepare_cached("SELECT 1 FROM inbox LIMIT 1")?.exists([])?)
            };
            if !self.spool.readers.run(Look::Short, look).await? {
                return Ok(());
            }
            if !self.spool.write(false, 0, absorb::absorb).await? {
                return Ok(());
            }
        }
    }
}
