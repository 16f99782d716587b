//! The store: what is known of each job, and who holds it.

mod claim;
mod settle;
mod unique;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use compact_str::CompactString;
use ganger_core::{
    Beat, Enqueued, Entry, Job, JobId, LeaseRef, Output, Record, Refused, Room, State, Timestamp, Token,
};

/// How many answers are remembered, of exchanges and of enqueued batches.
pub(crate) const ANSWERS_MAX: usize = 64;
/// How many ends are remembered.
const ENDS_MAX: usize = 10_000;
/// What a job occupies beside its own bytes.
const OVERHEAD: u64 = 300;
/// How long a wait lasts at most before it looks again.
const PAUSE_MAX: Duration = Duration::from_secs(3600);

/// The order of jobs: higher priority first, then the older one.
type Place = (Reverse<i32>, u64);

/// A job, or the bytes that should be one.
#[derive(Clone)]
enum Stored {
    Raw(Bytes),
    Job(Arc<Job>),
}

impl Stored {
    fn entry(&self) -> Entry {
        match self {
            Stored::Raw(bytes) => Entry::Raw(bytes.clone()),
            Stored::Job(job) => Entry::Job(Job::clone(job)),
        }
    }

    fn bytes(&self) -> u64 {
        match self {
            Stored::Raw(bytes) => bytes.len() as u64,
            Stored::Job(job) => job.weight() as u64,
        }
    }
}

/// A job with what happened to it.
struct Item {
    seq: u64,
    priority: i32,
    /// Its type; empty for bytes that no manager has read yet.
    kind: CompactString,
    stored: Stored,
    record: Record,
}

impl Item {
    fn place(&self) -> Place {
        (Reverse(self.priority), self.seq)
    }

    fn id(&self) -> Option<JobId> {
        match &self.stored {
            Stored::Job(job) => job.id.clone(),
            Stored::Raw(_) => self.record.first.map(|first| JobId::claimed(first.lease)),
        }
    }

    /// Whether it is leased alone: a run of it was lost, with or without proof against it.
    fn is_suspect(&self) -> bool {
        self.record.suspect || self.record.crashes > 0
    }

    /// The record with which it goes out if its lease has run out.
    fn lost(&self) -> Record {
        let mut record = self.record.clone();
        record.crashes += u32::from(self.is_suspect());
        record.suspect = true;
        record
    }
}

/// Whether there is room for a job of this type with so many crashes.
fn fits(kind: &str, crashes: u32, room: &Room) -> bool {
    let typed = if kind.is_empty() { !room.is_none() } else { room.of(kind) > 0 };
    typed && (crashes == 0 || room.crashed)
}

/// One place of a claim. Bytes on their first claim are kept as they are: most jobs end so.
enum Slot {
    Fresh(u64, Bytes),
    Item(Box<Item>),
    Settled,
}

struct Claim {
    deadline: Duration,
    at: Timestamp,
    slots: Vec<Slot>,
    open: usize,
}

/// What is known of a job by its id.
pub(crate) struct Known {
    stored: Stored,
    pub(crate) state: State,
    lease: Option<LeaseRef>,
    pub(crate) runs: u32,
    pub(crate) error: Option<String>,
    pub(crate) output: Option<Output>,
    reason: Option<String>,
}

impl Known {
    fn new(stored: Stored, state: State) -> Self {
        Known { stored, state, lease: None, runs: 0, error: None, output: None, reason: None }
    }

    /// Whether `job` asks for the same work.
    pub(crate) fn is(&self, job: &Job) -> bool {
        matches!(&self.stored, Stored::Job(known) if known.same_content(job))
    }
}

/// How a job ends.
struct End {
    state: State,
    reason: Option<String>,
    output: Option<Output>,
    /// Its last run was not worth a record.
    unrecorded: bool,
}

impl End {
    fn of(state: State) -> Self {
        End { state, reason: None, output: None, unrecorded: false }
    }
}

/// What is given back for a token that was seen before.
struct Answer {
    token: Token,
    stale: Vec<LeaseRef>,
    more: bool,
}

pub(crate) struct Store {
    bytes_max: u64,
    bytes: u64,
    seq: u64,
    fresh: VecDeque<(u64, Bytes)>,
    lanes: BTreeMap<CompactString, BTreeMap<Place, Box<Item>>>,
    suspects: BTreeMap<Place, Box<Item>>,
    scheduled: BTreeMap<(Timestamp, u64), Box<Item>>,
    claims: BTreeMap<Token, Claim>,
    answers: VecDeque<Answer>,
    /// The newest exchange of each incarnation.
    newest: HashMap<u64, u64>,
    known: HashMap<JobId, Known>,
    ends: VecDeque<JobId>,
    /// By unique key.
    unique: HashMap<String, Vec<unique::Holder>>,
    pub(crate) batches: VecDeque<(u128, Vec<Result<Enqueued, Refused>>)>,
    pub(crate) beats: HashMap<u64, (Beat, Duration)>,
}

impl Store {
    pub(crate) fn new(bytes_max: u64) -> Self {
        Store {
            bytes_max,
            bytes: 0,
            seq: 0,
            fresh: VecDeque::new(),
            lanes: BTreeMap::new(),
            suspects: BTreeMap::new(),
            scheduled: BTreeMap::new(),
            claims: BTreeMap::new(),
            answers: VecDeque::new(),
            newest: HashMap::new(),
            known: HashMap::new(),
            ends: VecDeque::new(),
            unique: HashMap::new(),
            batches: VecDeque::new(),
            beats: HashMap::new(),
        }
    }

    pub(crate) fn push(&mut self, entries: impl IntoIterator<Item = Bytes>) {
        for bytes in entries {
            self.seq += 1;
            self.fresh.push_back((self.seq, bytes));
        }
    }

    /// Whether a job of so many bytes has its place; the oldest ends make room for it.
    pub(crate) fn has_space(&mut self, job: &Job) -> bool {
        let needed = job.weight() as u64 + OVERHEAD;
        while self.bytes + needed > self.bytes_max && self.forget_oldest_end() {}
        self.bytes + needed <= self.bytes_max
    }

    pub(crate) fn known(&self, id: &JobId) -> Option<&Known> {
        self.known.get(id)
    }

    /// Adds a job whose id is set and new; answers its state.
    pub(crate) fn add(&mut self, job: Job, wall: Timestamp) -> State {
        let state = job.initial_state(wall);
        let Some(id) = job.id.clone() else { return state };
        self.seq += 1;
        if let Some(unique) = job.rare().unique.clone() {
            self.take_key(id.clone(), id.clone(), unique);
        }
        let (priority, kind, run_at) = (job.priority, job.kind.clone(), job.run_at);
        let stored = Stored::Job(Arc::new(job));
        self.bytes += stored.bytes() + OVERHEAD;
        let item = Box::new(Item {
            seq: self.seq,
            priority,
            kind,
            stored: stored.clone(),
            record: Record::default(),
        });
        self.known.insert(id, Known::new(stored, state));
        match run_at.filter(|_| state == State::Scheduled) {
            Some(at) => self.scheduled.insert((at, item.seq), item),
            None => self.lane(item),
        };
        state
    }

    /// Puts an item where ready jobs wait.
    fn lane(&mut self, item: Box<Item>) -> Option<Box<Item>> {
        let lane = match item.is_suspect() {
            true => &mut self.suspects,
            false => self.lanes.entry(item.kind.clone()).or_default(),
        };
        lane.insert(item.place(), item)
    }

    /// How long there is surely nothing for this room; `None` if there may be something now.
    pub(crate) fn pause(&self, room: &Room, now: Duration, wall: Timestamp) -> Option<Duration> {
        if self.has_ready(room) || self.next_suspect(room, now).is_some() {
            return None;
        }
        let due = self.scheduled.first_key_value().map(|((at, _), _)| at.since(wall));
        if due.is_some_and(|due| due.is_zero()) {
            return None;
        }
        let running = self.claims.values().filter_map(|claim| claim.deadline.checked_sub(now));
        Some(running.filter(|left| !left.is_zero()).chain(due).min().unwrap_or(PAUSE_MAX).min(PAUSE_MAX))
    }

    /// The types that ready jobs are of. Bytes that no manager has read yet go to whoever comes.
    pub(crate) fn ready_types(&self) -> Vec<CompactString> {
        let ready = self.lanes.iter().filter(|(_, lane)| !lane.is_empty()).map(|(kind, _)| kind);
        let suspects = self.suspects.values().chain(self.scheduled.values()).map(|item| &item.kind);
        let named: BTreeSet<_> = ready.chain(suspects).filter(|kind| !kind.is_empty()).collect();
        named.into_iter().cloned().collect()
    }

    pub(crate) fn waiting(&self) -> usize {
        let lanes: usize = self.lanes.values().map(BTreeMap::len).sum();
        let held: usize = self.claims.values().map(|claim| claim.open).sum();
        self.fresh.len() + lanes + self.suspects.len() + self.scheduled.len() + held
    }

    pub(crate) fn dead_letters(&self) -> Vec<(JobId, Entry, String)> {
        let dead = self.known.iter().filter(|(_, known)| known.state == State::Dead);
        dead.map(|(id, known)| (id.clone(), known.stored.entry(), known.reason.clone().unwrap_or_default()))
            .collect()
    }
}

/// Notes where a job is, for those who ask by its id.
fn mark(known: &mut HashMap<JobId, Known>, item: &Item, state: State, lease: Option<LeaseRef>) {
    if let Some(known) = item.id().and_then(|id| known.get_mut(&id)) {
        (known.state, known.lease) = (state, lease);
    }
}
