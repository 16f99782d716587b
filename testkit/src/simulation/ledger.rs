//! What really happened, and the promises held against it.

mod book;
mod end;
mod members;
mod runs;
mod words;

use std::{
    fmt,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use ganger_core::{Exchange, Exchanged, Hold, Job, JobContext, JobId, LeaseRef, State};
use tokio::time::Instant;

use self::book::{Book, Log, is_suspect};
use super::{Fate, Life, store::Loss};

/// A promise that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation(pub String);

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The ledger of a world: it sees each call that a store really applied, each reply that a manager really
/// got, and each run that a worker really began.
pub struct Ledger(Mutex<Book>);

/// What the ledger held at some time.
pub struct Remembered(Vec<Log>);

/// The store whose power fails and whose snapshots are restored.
pub const MAIN: u8 = 0;

impl Ledger {
    /// The ledger of a world whose leases last so long.
    pub fn new(lease: Duration) -> Arc<Self> {
        Arc::new(Ledger(Mutex::new(Book::new(lease))))
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps what happens in words too, from now on.
    pub fn tell_all(&self) {
        self.book().story = Some((Instant::now(), Vec::new()));
    }

    /// What happened, in words.
    pub fn story(&self) -> Vec<String> {
        self.book().story.take().map(|(_, lines)| lines).unwrap_or_default()
    }

    /// Adds a line to the story.
    pub fn note(&self, line: impl FnOnce() -> String) {
        self.book().note(line);
    }

    /// A manager begins.
    pub fn joined(&self, life: &Arc<Life>) {
        self.book().join(life.clone());
    }

    /// A manager was told to drain, or has ended so.
    pub fn drained(&self, incarnation: u64, ended: bool) {
        self.book().drained(incarnation, ended);
    }

    /// From now on every call gets through, or may not.
    pub fn calm(&self, calm: bool) {
        let mut book = self.book();
        book.calm_since = calm.then(|| book.calm_since.unwrap_or_else(Instant::now));
    }

    /// A job whose acceptance by a store was acknowledged.
    pub fn accepted(&self, store: u8, job: &Job) {
        self.book().accept(store, job);
    }

    /// Bytes that a producer pushed to the main store: a job, or none.
    pub fn pushed(&self, bytes: &[u8]) {
        self.book().pushed(bytes);
    }

    /// Someone asked for a job to be cancelled, and the store marked it, or ended it at once.
    pub fn cancelled(&self, id: &JobId) {
        self.book().cancelled(id);
    }

    /// A manager sends an exchange: what goes under one token is always the same. `follows`: the store can
    /// hold what follows from a job.
    pub fn sent(&self, store: u8, follows: bool, give: &Exchange) {
        let follow = give.settle.iter().filter_map(|one| one.more.as_ref()).flat_map(|more| &more.follow);
        let (mut book, count) = (self.book(), follow.count());
        book.sent(store, give);
        book.expect(follows || count == 0, || {
            format!("P4: {} hands {count} jobs that follow to a store that cannot hold them", give.token)
        });
    }

    /// A manager waits, and has the store claim meanwhile.
    pub fn waits(&self, give: &Exchange) {
        self.book().waits(give);
    }

    /// A store applied an exchange, maybe again.
    pub fn exchanged(&self, store: u8, give: &Exchange, answer: &Exchanged) {
        let mut book = self.book();
        (give.token, answer.leased.len(), answer.stale.len()).hash(&mut book.trace);
        book.reached(store);
        book.note(|| words::exchange(store, give, answer));
        for settlement in &give.settle {
            if !answer.stale.contains(&settlement.lease) {
                book.settled(settlement);
            }
        }
        let alone = answer.leased.len() == 1 || !answer.leased.iter().any(is_suspect);
        book.expect(alone, || format!("P7: a suspect was not leased alone under {}", give.token));
        for leased in &answer.leased {
            book.leased(store, give.token, leased);
        }
    }

    /// A manager got the answer to its exchange.
    pub fn heard(&self, give: &Exchange, answer: &Exchanged) {
        self.book().heard(give, answer);
    }

    /// A store applied a renewal.
    pub fn renewed(&self, store: u8, incarnation: u64, held: &[LeaseRef], holds: &[Hold]) {
        let mut book = self.book();
        (held.len(), holds.len()).hash(&mut book.trace);
        book.reached(store);
        book.note(|| words::renewal(store, incarnation, held, holds));
        book.renewed(held);
    }

    /// A manager got the answer to a renewal that it sent at `sent`.
    pub fn heard_holds(&self, store: u8, incarnation: u64, held: &[LeaseRef], holds: &[Hold], sent: Instant) {
        self.book().heard_holds(store, incarnation, held, holds, sent);
    }

    /// The main store lost its power.
    pub fn power_lost(&self, loss: &Loss) {
        self.book().power_lost(loss);
    }

    /// What is true now, as far as the main store knows it.
    pub fn remember(&self) -> Remembered {
        Remembered(self.book().jobs.clone())
    }

    /// The main store has forgotten everything since.
    pub fn forget_since(&self, then: &Remembered) {
        self.book().forget_since(&then.0);
    }

    /// A worker begins a run; it has ended when the guard is dropped.
    pub fn start(self: &Arc<Self>, job: &JobContext, fate: &Fate) -> Run {
        let number = self.book().begin(job, fate);
        Run { ledger: self.clone(), number }
    }

    /// How many runs of a type are under way at a manager.
    pub fn under_way(&self, incarnation: u64, kind: &str) -> usize {
        self.book().under_way(incarnation, kind)
    }

    /// How many jobs have not ended, as far as verdicts tell.
    pub fn open(&self) -> usize {
        self.book().jobs.iter().filter(|log| log.is_open()).count()
    }

    /// The ids of jobs that someone asked to cancel and of whose end no verdict told: the store may have
    /// ended them when their lease ran out.
    pub fn cancelled_and_open(&self) -> Vec<JobId> {
        let book = self.book();
        let open = book.jobs.iter().filter(|log| log.cancel.is_some() && log.is_open());
        open.filter_map(|log| log.id.clone()).collect()
    }

    /// The store says that a cancelled job has ended.
    pub fn ended(&self, id: &JobId, state: State) {
        self.book().ended(id, state);
    }

    /// The jobs that have not ended, for people.
    pub fn unfinished(&self) -> Vec<String> {
        let book = self.book();
        let open = book.jobs.iter().filter(|log| log.is_open());
        open.map(|log| format!("{} {:?} {:?}", log.label, log.id, log.fate)).collect()
    }

    /// Adds a violation that somebody else found.
    pub fn violate(&self, what: String) {
        self.book().violate(what);
    }

    /// Everything that happened, in a number: equal for equal seeds.
    pub fn trace(&self) -> u64 {
        self.book().trace.finish()
    }

    /// How many runs there were.
    pub fn runs(&self) -> u32 {
        self.book().jobs.iter().map(|log| log.runs).sum()
    }

    /// Holds the promises against the whole story. `untouched`: nothing went wrong in this world.
    pub fn check(&self, untouched: bool) -> Vec<Violation> {
        let mut book = self.book();
        for at in 0..book.jobs.len() {
            book.check(at, untouched);
        }
        std::mem::take(&mut book.violations)
    }
}

/// A run under way.
pub struct Run {
    ledger: Arc<Ledger>,
    number: u64,
}

impl Drop for Run {
    fn drop(&mut self) {
        self.ledger.book().finish(self.number);
    }
}

/// A hasher that gives the same for the same, each time.
fn fixed_hasher() -> DefaultHasher {
    DefaultHasher::new()
}
