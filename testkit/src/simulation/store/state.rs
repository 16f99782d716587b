//! What the store holds.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use compact_str::CompactString;
use ganger_core::{
    Batch, Beat, Ended, Enqueued, Entry, FirstClaim, Job, JobId, LeaseRef, Output, Record, Refused, Room,
    State, Timestamp, Token,
};

/// How many answers are remembered, of exchanges and of batches.
pub(super) const ANSWERS_MAX: usize = 64;

/// How long a wait lasts at most before it looks again.
const PAUSE_MAX: Duration = Duration::from_secs(3600);

/// Everything. Cheap to clone, so that a test may keep what was.
#[derive(Clone, Default)]
pub(super) struct Contents {
    /// In the order in which they came; the place is the number of the job.
    pub(super) items: Vec<Arc<Item>>,
    pub(super) claims: BTreeMap<Token, Claim>,
    pub(super) answers: VecDeque<Answer>,
    /// The newest exchange of each incarnation.
    pub(super) newest: BTreeMap<u64, u64>,
    batches: VecDeque<(u128, Vec<Result<Enqueued, Refused>>)>,
    beats: BTreeMap<u64, (Beat, Duration)>,
    contact: Option<Duration>,
    /// Times without a manager that may still matter, each shorter than the one before.
    absences: Vec<Absence>,
    /// Something was written that must be on the disk before the answer.
    pub(super) unsynced: bool,
}

/// A job, or the bytes that should be one.
#[derive(Clone)]
pub(super) struct Item {
    /// Its type; empty for bytes that no manager has read yet.
    pub(super) kind: String,
    pub(super) priority: i32,
    pub(super) entry: Entry,
    pub(super) record: Record,
    pub(super) place: Place,
    /// Since when it has been in its place.
    pub(super) since: Duration,
    /// It was set aside: it comes only where there is room for its type.
    pub(super) parked: bool,
    pub(super) output: Option<Output>,
    pub(super) reason: Option<String>,
    /// Its last run was not worth a record.
    pub(super) unrecorded: bool,
}

/// Where a job is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Ready,
    Scheduled(Timestamp),
    Leased(LeaseRef),
    Ended(State),
}

#[derive(Clone)]
pub(super) struct Claim {
    pub(super) deadline: Duration,
    pub(super) lease: Duration,
    pub(super) at: Timestamp,
    /// The numbers of its jobs; `None` for what is settled.
    pub(super) items: Vec<Option<usize>>,
}

/// What is given back for a token that was seen before.
#[derive(Clone)]
pub(super) struct Answer {
    pub(super) token: Token,
    pub(super) stale: Vec<LeaseRef>,
    pub(super) more: bool,
    /// Given to a wait: the exchange of this token is still to come.
    pub(super) by_wait: bool,
}

/// A time in which the store saw no manager.
#[derive(Clone, Copy)]
struct Absence {
    end: Duration,
    length: Duration,
}

impl Item {
    pub(super) fn id(&self) -> Option<JobId> {
        match &self.entry {
            Entry::Job(job) => job.id.clone(),
            _ => self.record.first.map(|first| JobId::claimed(first.lease)),
        }
    }

    fn is(&self, id: &JobId) -> bool {
        match &self.entry {
            Entry::Job(job) => job.id.as_ref() == Some(id),
            _ => self.record.first.is_some() && self.id().as_ref() == Some(id),
        }
    }

    /// Whether there is room for it, should it have lost so many runs by then.
    pub(super) fn fits(&self, crashes: u32, room: &Room, filter: bool) -> bool {
        let typed = match filter && !self.kind.is_empty() || self.parked {
            true => room.of(&self.kind) > 0,
            false => !room.is_none(),
        };
        typed && (crashes == 0 || room.crashed)
    }

    /// Whether it is leased alone: a run of it was lost, with or without proof against it.
    pub(super) fn is_suspect(&self) -> bool {
        self.record.suspect || self.record.crashes > 0
    }

    /// The record with which it goes out if its lease has run out.
    pub(super) fn lost(&self) -> Record {
        let mut record = self.record.clone();
        record.crashes += u32::from(self.is_suspect());
        record.suspect = true;
        record
    }

    pub(super) fn first(&self, lease: LeaseRef, at: Timestamp) -> Option<FirstClaim> {
        match self.entry {
            Entry::Job(_) => None,
            _ => self.record.first.or(Some(FirstClaim { lease, at })),
        }
    }
}

impl Contents {
    /// Whether something has to be synced; asked once a step.
    pub(super) fn take_unsynced(&mut self) -> bool {
        std::mem::take(&mut self.unsynced)
    }

    pub(super) fn item(&mut self, at: usize) -> &mut Item {
        Arc::make_mut(&mut self.items[at])
    }

    pub(super) fn push(&mut self, bytes: Vec<u8>, now: Duration) {
        self.add(String::new(), 0, Entry::Raw(bytes.into()), Place::Ready, now);
    }

    fn add(&mut self, kind: String, priority: i32, entry: Entry, place: Place, since: Duration) {
        self.unsynced = true;
        let (record, parked) = (Record::default(), false);
        let (output, reason, unrecorded) = (None, None, false);
        let item = Item { kind, priority, entry, record, place, since, parked, output, reason, unrecorded };
        self.items.push(Arc::new(item));
    }

    /// Adds a job unless its id is known; the id, if it belongs to another job.
    pub(super) fn enqueue(
        &mut self,
        mut job: Job,
        now: Duration,
        wall: Timestamp,
    ) -> Result<Enqueued, JobId> {
        let id = job.accept(wall).clone();
        if let Some(at) = self.find(&id) {
            let same = matches!(&self.items[at].entry, Entry::Job(known) if known.same_content(&job));
            let state = self.state(at);
            return if same { Ok(Enqueued { id, existed: true, state }) } else { Err(id) };
        }
        let state = job.initial_state(wall);
        let place = match job.run_at.filter(|_| state == State::Scheduled) {
            Some(at) => Place::Scheduled(at),
            None => Place::Ready,
        };
        self.add(job.kind.to_string(), job.priority, Entry::Job(job), place, now);
        Ok(Enqueued { id, existed: false, state })
    }

    /// Enqueues a batch, unless it was before.
    pub(super) fn batch(
        &mut self,
        batch: Batch,
        mut enqueue: impl FnMut(&mut Self, Job) -> Result<Enqueued, Refused>,
    ) -> Vec<Result<Enqueued, Refused>> {
        if let Some((_, answers)) = self.batches.iter().find(|(token, _)| *token == batch.token) {
            return answers.clone();
        }
        let answers: Vec<_> = batch.jobs.into_iter().map(|job| enqueue(self, job)).collect();
        if self.batches.len() == ANSWERS_MAX {
            self.batches.pop_front();
        }
        self.batches.push_back((batch.token, answers.clone()));
        answers
    }

    /// The number of a job. A simulated store is small: a search will do.
    pub(super) fn find(&self, id: &JobId) -> Option<usize> {
        self.items.iter().position(|item| item.is(id))
    }

    pub(super) fn state(&self, at: usize) -> State {
        match self.items[at].place {
            Place::Ready => State::Ready,
            Place::Scheduled(_) => State::Scheduled,
            Place::Leased(_) => State::Running,
            Place::Ended(state) => state,
        }
    }

    /// How a job ended; `None` while it has not.
    pub(super) fn ended(&self, id: &JobId) -> Option<Ended> {
        let Some(at) = self.find(id) else {
            return Some(Ended { id: id.clone(), state: None, runs: 0, error: None, output: None });
        };
        let item = &self.items[at];
        let Place::Ended(state) = item.place else { return None };
        let error = item.record.attempts.last().and_then(|attempt| attempt.error.clone());
        Some(Ended {
            id: id.clone(),
            state: Some(state),
            runs: item.record.next_run() - 1 + u32::from(item.unrecorded),
            error: error.or_else(|| item.reason.clone()),
            output: item.output.clone(),
        })
    }

    /// All leases, each with whether it is a suspect's.
    pub(super) fn leases(&self) -> impl Iterator<Item = (LeaseRef, bool)> {
        self.items.iter().filter_map(|item| match item.place {
            Place::Leased(lease) => Some((lease, item.is_suspect())),
            _ => None,
        })
    }

    /// The claims that last shorter than they did.
    pub(super) fn shortened_since(&self, before: &Contents) -> Vec<Token> {
        let shorter = |token: &Token, claim: &Claim| {
            before.claims.get(token).is_some_and(|then| claim.deadline < then.deadline)
        };
        self.claims.iter().filter(|(token, claim)| shorter(token, claim)).map(|(token, _)| *token).collect()
    }

    pub(super) fn is_held(&self, lease: LeaseRef) -> bool {
        self.held(lease).is_some()
    }

    /// The job under a lease.
    pub(super) fn held(&self, lease: LeaseRef) -> Option<usize> {
        *self.claims.get(&lease.token)?.items.get(lease.index as usize)?
    }

    pub(super) fn ready_types(&self) -> Vec<CompactString> {
        let ready = self.items.iter().filter(|item| item.place == Place::Ready && !item.kind.is_empty());
        let mut kinds: Vec<CompactString> = ready.map(|item| item.kind.as_str().into()).collect();
        kinds.sort_unstable();
        kinds.dedup();
        kinds
    }

    pub(super) fn ready_since(&self, kind: &str) -> Option<Duration> {
        let waits = |item: &&Arc<Item>| {
            item.place == Place::Ready && !item.is_suspect() && (item.kind.is_empty() || item.kind == kind)
        };
        self.items.iter().filter(waits).map(|item| item.since).min()
    }

    /// How long there is surely nothing for this room; `None` if there may be something now.
    pub(super) fn pause(
        &self,
        room: &Room,
        now: Duration,
        wall: Timestamp,
        filter: bool,
    ) -> Option<Duration> {
        let due = |item: &Item| matches!(item.place, Place::Scheduled(at) if at <= wall);
        if self.items.iter().any(|item| due(item))
            || self.next_ready(room, filter).is_some()
            || self.next_suspect(room, now, filter).is_some()
        {
            return None;
        }
        let times = self.items.iter().filter_map(|item| match item.place {
            Place::Scheduled(at) => Some(at.since(wall)),
            _ => None,
        });
        let free = self.claims.values().filter_map(|claim| self.free_at(claim).checked_sub(now));
        Some(times.chain(free.filter(|left| !left.is_zero())).min().unwrap_or(PAUSE_MAX).min(PAUSE_MAX))
    }

    /// A manager has spoken. If none had for long, leases that ran out meanwhile are left alone for a while.
    pub(super) fn note_contact(&mut self, now: Duration) {
        let length = now.saturating_sub(self.contact.unwrap_or(now));
        // A shorter one does not matter to leases that are longer, nor an old one to any.
        self.absences.retain(|other| other.length > length && now < other.end + other.length / 2);
        self.absences.push(Absence { end: now, length });
        self.contact = Some(now);
    }

    /// From when on a claim may be taken over (P6).
    pub(super) fn free_at(&self, claim: &Claim) -> Duration {
        let matters = |absence: &&Absence| absence.length * 3 > claim.lease * 2;
        let patience = self.absences.iter().filter(matters).map(|absence| absence.end + claim.lease / 3);
        patience.max().map_or(claim.deadline, |until| claim.deadline.max(until))
    }

    pub(super) fn note_beat(&mut self, beat: &Beat, now: Duration) {
        let until = now + Duration::from_millis(beat.lease_millis);
        self.beats.insert(beat.incarnation, (beat.clone(), until));
        self.beats.retain(|_, (_, until)| *until > now);
    }

    pub(super) fn managers(&self, now: Duration) -> Vec<Beat> {
        self.beats.values().filter(|(_, until)| *until > now).map(|(beat, _)| beat.clone()).collect()
    }
}
