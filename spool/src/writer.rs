//! The one thread of a process that writes to a file: all operations that wait are committed together.

use std::{
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use rusqlite::Connection;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::{
    error::StoreError,
    prune, schema,
    spool::Shared,
    tx::{Lanes, Tx},
};

/// At most so many operations in one transaction.
const GROUP_MAX: usize = 256;

/// While another process has the file open, the write lock is left free for [`GAP`] after it was held for
/// [`HELD_MAX`] longer than it was free: SQLite's busy handler looks every 25 ms in its first 130 ms, later every 50
/// to 100, and misses shorter gaps. A little more than 25 ms, because it is late as well.
const GAP: Duration = Duration::from_millis(30);
const HELD_MAX: Duration = Duration::from_millis(80);

/// While another process has the file open, the log goes into the file after so many pages: less than the 1000 at
/// which SQLite's default has the other one do it, in the middle of its own small transaction.
const CHECKPOINT_VISITED: u32 = 800;

/// How often an idle writer looks for finished jobs that are old enough to be forgotten.
const PRUNE_EVERY: Duration = Duration::from_secs(5);

/// An operation that waits for the writer.
pub(crate) trait Operation: Send {
    /// Whether its answer must wait until the commit is on the disk.
    fn synced(&self) -> bool;
    /// Whether somebody still waits for the answer. If not, it is not carried out.
    fn wanted(&self) -> bool;
    /// Does it; what it did before an error is undone. May be called again after [`StoreError::Unsynced`].
    fn run(&mut self, tx: &mut Tx<'_>) -> Result<(), StoreError>;
    /// Answers.
    fn finish(self: Box<Self>, result: Result<(), StoreError>);
}

/// An operation made of a closure.
pub(crate) struct Call<T, F> {
    pub(crate) synced: bool,
    pub(crate) step: F,
    pub(crate) answer: Option<T>,
    pub(crate) reply: oneshot::Sender<Result<T, StoreError>>,
    /// Its share of what may wait; given back with the answer.
    pub(crate) _share: OwnedSemaphorePermit,
}

impl<T, F> Operation for Call<T, F>
where
    T: Send,
    F: FnMut(&mut Tx<'_>) -> Result<T, StoreError> + Send,
{
    fn synced(&self) -> bool {
        self.synced
    }

    fn wanted(&self) -> bool {
        !self.reply.is_closed()
    }

    fn run(&mut self, tx: &mut Tx<'_>) -> Result<(), StoreError> {
        self.answer = Some((self.step)(tx)?);
        Ok(())
    }

    fn finish(self: Box<Self>, result: Result<(), StoreError>) {
        let Call { answer, reply, .. } = *self;
        // Nobody listens any more: what is done is done, and a repetition finds it so.
        let _ = reply.send(result.and_then(|()| answer.ok_or(StoreError::Closed)));
    }
}

type Operations = Vec<Box<dyn Operation>>;

/// The writer's side of its thread.
pub(crate) struct Writer {
    db: Connection,
    shared: Arc<Shared>,
    inbox: mpsc::Receiver<Box<dyn Operation>>,
    lanes: Lanes,
    format: i64,
    /// Whether `PRAGMA synchronous` is FULL now.
    full: bool,
    turn: Turn,
    /// Whether another process had the file open when that was last looked at.
    visited: bool,
    /// A sync failed: what the log holds is written anew before anything else is.
    distrust: bool,
}

impl Writer {
    pub(crate) fn new(
        db: Connection,
        shared: Arc<Shared>,
        inbox: mpsc::Receiver<Box<dyn Operation>>,
    ) -> Self {
        let format = schema::MIGRATIONS.len() as i64;
        Writer {
            db,
            shared,
            inbox,
            lanes: Lanes::default(),
            format,
            full: true,
            turn: Turn::default(),
            visited: false,
            distrust: false,
        }
    }

    /// Runs until the store is closed.
    pub(crate) fn run(mut self) {
        while let Some(operations) = self.gather() {
            let mut waiting: Operations =
                operations.into_iter().filter(|operation| operation.wanted()).collect();
            let mut force = false;
            while !waiting.is_empty() {
                let synced = force || waiting.iter().any(|operation| operation.synced());
                waiting = self.transact(waiting, synced);
                force = true;
            }
        }
        tracing::debug!(file = %self.shared.path.display(), "job store closed");
    }

    /// Waits for operations and takes all that are there; `None` when the store is closed.
    fn gather(&mut self) -> Option<Operations> {
        let waiting = Instant::now();
        let first = loop {
            match self.inbox.recv_timeout(PRUNE_EVERY) {
                Ok(operation) => break operation,
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    if prune::is_due(&self.db, &self.shared) {
                        self.transact(Vec::new(), false);
                    }
                }
                Err(mpsc::RecvTimeoutError::Disconnected) => return None,
            }
        };
        self.leave_room(waiting.elapsed());
        let mut operations = vec![first];
        while operations.len() < GROUP_MAX {
            match self.inbox.try_recv() {
                Ok(operation) => operations.push(operation),
                Err(_) => break,
            }
        }
        Some(operations)
    }

    /// Leaves the write lock free for a while if another process has the file open and had no chance for long.
    fn leave_room(&mut self, idle: Duration) {
        if self.turn.is_due(idle) {
            let visited = self.shared.visitors.present();
            if visited != self.visited {
                self.visited = visited;
                let pages = if visited { CHECKPOINT_VISITED } else { schema::CHECKPOINT };
                // A failure leaves it as it was: either works.
                let _ = self.db.pragma_update(None, "wal_autocheckpoint", pages);
            }
            if visited {
                std::thread::sleep(GAP);
            }
        }
    }

    /// Carries out the operations in one transaction and answers them. Hands back those that need a synced one.
    fn transact(&mut self, mut operations: Operations, synced: bool) -> Operations {
        let started = Instant::now();
        let result = self.begin(synced).and_then(|()| self.carry_out(&mut operations, synced));
        match result {
            Ok(results) => {
                self.shared.changed();
                self.turn.held += started.elapsed();
                let mut again = Operations::new();
                for (operation, result) in operations.into_iter().zip(results) {
                    match result {
                        Err(StoreError::Unsynced) if !synced => again.push(operation),
                        result => operation.finish(result),
                    }
                }
                again
            }
            Err(error) => {
                self.roll_back(&error);
                let mut error = Some(error);
                for operation in operations {
                    let text =
                        || StoreError::RolledBack("another operation of its transaction failed".to_owned());
                    operation.finish(Err(error.take().unwrap_or_else(text)));
                }
                Operations::new()
            }
        }
    }

    fn begin(&mut self, synced: bool) -> Result<(), StoreError> {
        if self.distrust {
            // After a failed sync the system may have dropped what it could not write: it is written again, from
            // the log into the file, with a sync of its own.
            let busy: i64 = self.db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
            self.distrust = busy != 0;
        }
        if synced != self.full {
            // Taken over by the next transaction. Without it a commit is ordered but not waited for.
            self.db
                .prepare_cached(if synced { "PRAGMA synchronous=FULL" } else { "PRAGMA synchronous=NORMAL" })?
                .execute([])?;
            self.full = synced;
        }
        self.db.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        schema::recheck(&self.db, &mut self.format)
    }

    fn carry_out(
        &mut self,
        operations: &mut Operations,
        synced: bool,
    ) -> Result<Vec<Result<(), StoreError>>, StoreError> {
        let db = &self.db;
        let mut tx = Tx::new(db, &self.shared, &mut self.lanes, synced);
        let mut results = Vec::with_capacity(operations.len());
        // One alone needs no savepoint, which would have every page copied before it is changed.
        let alone = operations.len() == 1;
        for operation in operations.iter_mut() {
            if !alone {
                db.prepare_cached("SAVEPOINT operation")?.execute([])?;
            }
            let ended = tx.finished.len();
            let result = operation.run(&mut tx);
            if let Err(error) = &result {
                if db.is_autocommit() || lost(error) {
                    return Err(result.err().unwrap_or(StoreError::Closed));
                }
                tx.forget(ended);
                if alone {
                    db.prepare_cached("ROLLBACK")?.execute([])?;
                    return Ok(vec![result]);
                }
                db.prepare_cached("ROLLBACK TO operation")?.execute([])?;
            }
            if !alone {
                db.prepare_cached("RELEASE operation")?.execute([])?;
            }
            results.push(result);
        }
        prune::prune(&mut tx)?;
        fail::fail_point!("spool::before_commit", |fault| {
            let full = fault.as_deref() == Some("full");
            let code = if full { rusqlite::ffi::SQLITE_FULL } else { rusqlite::ffi::SQLITE_IOERR_FSYNC };
            Err(rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(code), None).into())
        });
        db.prepare_cached("COMMIT")?.execute([])?;
        fail::fail_point!("spool::after_commit");
        Ok(results)
    }

    fn roll_back(&mut self, error: &StoreError) {
        if !self.db.is_autocommit() && self.db.execute_batch("ROLLBACK").is_err() {
            tracing::error!(file = %self.shared.path.display(), "a transaction could not be rolled back");
        }
        self.lanes.clear();
        self.distrust |= lost(error);
        tracing::warn!(file = %self.shared.path.display(), %error, "a transaction of the job store failed");
    }
}

/// Whether it is the others' turn.
#[derive(Default)]
struct Turn {
    /// How much longer the write lock was held than it was free, since it was last left free for a [`GAP`].
    held: Duration,
}

impl Turn {
    /// The lock was free for so long: whether it is to be left free for a [`GAP`] now. Whoever writes now and then
    /// never comes to that, and would only keep its own next job waiting.
    fn is_due(&mut self, idle: Duration) -> bool {
        self.held = if idle >= GAP { Duration::ZERO } else { self.held.saturating_sub(idle) };
        let due = self.held >= HELD_MAX;
        if due {
            self.held = Duration::ZERO;
        }
        due
    }
}

/// Whether an error means that the whole transaction is gone, not only the operation.
fn lost(error: &StoreError) -> bool {
    matches!(error, StoreError::Sqlite(error) if schema::is_fatal_to_transaction(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLI: Duration = Duration::from_millis(1);

    #[test]
    fn a_writer_that_is_mostly_idle_never_stops_for_others() {
        let mut turn = Turn::default();
        for _ in 0..10_000 {
            turn.held += 2 * MILLI;
            assert!(!turn.is_due(10 * MILLI), "single jobs leave the lock free often enough");
        }
    }

    #[test]
    fn a_full_drain_leaves_the_lock_free_now_and_then() {
        let mut turn = Turn::default();
        let mut gaps = 0;
        for _ in 0..100 {
            turn.held += 10 * MILLI;
            gaps += u32::from(turn.is_due(MILLI));
        }
        assert_eq!(gaps, 11, "after each 80 ms that it was held longer than it was free");
    }
}
