//! A manager as small as a test needs it.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use ganger_core::{
    Batch, Beat, DynProvider, Entry, Exchange, Exchanged, Hold, Job, JobId, LeaseRef, Leased, Room,
    Settlement, Sink, Timestamp, Token, TypeRoom, Verdict, draw_incarnation,
};

use crate::{Store, soon};

/// A lease that no test outlives.
pub const LONG: Duration = Duration::from_secs(3600);

/// The type of the jobs that most tests use.
pub const KIND: &str = "test";

/// Jobs by their labels, which are their names.
pub struct Jobs;

impl Jobs {
    /// A job of the usual type.
    pub fn one(label: &str) -> Job {
        Jobs::of(KIND, label)
    }

    /// A job of a type.
    pub fn of(kind: &str, label: &str) -> Job {
        let params = serde_json::json!({ "label": label });
        Job { name: Some(label.into()), ..Job::new(kind, &params).unwrap() }
    }

    /// `n` jobs, labelled `0`, `1`, …
    pub fn many(n: usize) -> Vec<Job> {
        (0..n).map(|n| Jobs::one(&n.to_string())).collect()
    }
}

/// The label of a leased job, also of one that is still bytes.
pub fn label(leased: &Leased) -> String {
    let name = |job: &Job| job.name.as_ref().map(|name| name.to_string());
    let label = match &leased.entry {
        Entry::Job(job) => name(job),
        Entry::Raw(bytes) => Job::from_json(bytes).ok().and_then(|job| name(&job)),
        Entry::Malformed(error) => panic!("a stored job came back malformed: {error}"),
    };
    label.expect("every job of the suite has a name")
}

/// The labels of leased jobs, in their order.
pub fn labels(leased: &[Leased]) -> Vec<String> {
    leased.iter().map(label).collect()
}

/// A manager: an incarnation with an open provider, that exchanges, renews and nothing else.
pub struct TestManager {
    /// The store, as this manager has it open.
    pub provider: Arc<dyn DynProvider>,
    incarnation: u64,
    seq: AtomicU64,
}

impl TestManager {
    /// Opens a store.
    pub async fn open(store: &impl Store) -> Self {
        let incarnation = draw_incarnation();
        let provider = soon("opening the store", store.open(incarnation)).await;
        TestManager { provider, incarnation, seq: AtomicU64::new(1) }
    }

    /// Its sink.
    pub fn sink(&self) -> Arc<dyn Sink> {
        self.provider.sink().expect("a provider that declares `sink` has one")
    }

    /// Puts jobs into the store, by its sink or as a foreign producer.
    pub async fn put(&self, store: &impl Store, jobs: Vec<Job>) {
        if self.provider.capabilities().sink {
            self.enqueue(jobs).await;
            return;
        }
        for job in jobs {
            let pushed = soon("pushing a job", store.push(job.to_json().into_bytes())).await;
            assert!(pushed, "a provider without a sink needs `Store::push` in its tests");
        }
    }

    /// Enqueues jobs, all of which must be taken; their ids.
    pub async fn enqueue(&self, jobs: Vec<Job>) -> Vec<JobId> {
        let batch = Batch::new(jobs);
        let answers = soon("enqueueing", self.sink().enqueue(batch)).await.unwrap();
        answers.into_iter().map(|answer| answer.expect("the job is taken").id).collect()
    }

    /// The next token.
    pub fn token(&self) -> Token {
        Token { incarnation: self.incarnation, seq: self.seq.fetch_add(1, Ordering::Relaxed) }
    }

    /// One exchange.
    pub async fn exchange(&self, give: &Exchange) -> Exchanged {
        soon("an exchange", self.provider.exchange(give)).await.unwrap()
    }

    /// Claims what the room allows, with settlements of none.
    pub async fn claim(&self, room: Room, lease: Duration) -> Vec<Leased> {
        self.claim_as(self.token(), room, lease).await
    }

    /// The same under a token.
    pub async fn claim_as(&self, token: Token, room: Room, lease: Duration) -> Vec<Leased> {
        self.exchange(&Exchange { token, settle: Vec::new(), room, lease }).await.leased
    }

    /// Claims at most `n` jobs of the usual type for long, no suspects; with their leases.
    pub async fn take(&self, n: u32) -> Vec<Held> {
        let token = self.token();
        held(token, self.claim_as(token, room(n), LONG).await)
    }

    /// Claims one job, waiting for it: for jobs that will be ready, and suspects too.
    pub async fn await_claim(&self, room: Room, lease: Duration) -> Vec<Held> {
        let claim = async {
            loop {
                let token = self.token();
                let leased = self.claim_as(token, room.clone(), lease).await;
                if !leased.is_empty() {
                    return held(token, leased);
                }
                self.provider.wait(&room).await.unwrap();
            }
        };
        soon("a job that can be leased", claim).await
    }

    /// Settles one job; whether it was applied.
    pub async fn settle(&self, settlement: Settlement) -> bool {
        let lease = settlement.lease;
        let give =
            Exchange { token: self.token(), settle: vec![settlement], room: Room::none(), lease: LONG };
        let stale = self.exchange(&give).await.stale;
        assert!(stale.is_empty() || stale == [lease], "only the settlement that was given can be stale");
        stale.is_empty()
    }

    /// Settles with a verdict alone; whether it was applied.
    pub async fn say(&self, lease: LeaseRef, verdict: Verdict) -> bool {
        self.settle(Settlement::new(lease, verdict)).await
    }

    /// Its beat, with leases of this length.
    pub fn beat(&self, lease: Duration) -> Beat {
        Beat {
            incarnation: self.incarnation,
            host: "conformance".into(),
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").into(),
            types: vec![(KIND.into(), 1)],
            draining: false,
            guarded: Vec::new(),
            started: Timestamp::now(),
            lease_millis: u64::try_from(lease.as_millis()).unwrap(),
        }
    }

    /// Renews for long.
    pub async fn renew(&self, held: &[LeaseRef]) -> Vec<Hold> {
        let holds = soon("a renewal", self.provider.renew(&self.beat(LONG), held)).await.unwrap();
        assert_eq!(holds.len(), held.len(), "a renewal answers for each lease");
        holds
    }

    /// The labels of all jobs that can be leased now, no suspects; they stay leased.
    pub async fn drain(&self) -> HashSet<String> {
        let mut all = HashSet::new();
        loop {
            let leased = self.claim(room(100), LONG).await;
            if leased.is_empty() {
                return all;
            }
            all.extend(labels(&leased));
        }
    }
}

/// A leased job with its lease.
#[derive(Clone, Debug)]
pub struct Held {
    /// Its lease.
    pub lease: LeaseRef,
    /// The job.
    pub leased: Leased,
}

impl Held {
    /// The job's label.
    pub fn label(&self) -> String {
        label(&self.leased)
    }

    /// The job's id; for bytes the one of their first claim.
    pub fn id(&self) -> JobId {
        match &self.leased.entry {
            Entry::Job(job) => job.id.clone().expect("a stored job has an id"),
            _ => JobId::claimed(self.leased.record.first.expect("bytes carry their first claim").lease),
        }
    }
}

/// Leased jobs with their leases.
pub fn held(token: Token, leased: Vec<Leased>) -> Vec<Held> {
    leased.into_iter().map(|leased| Held { lease: LeaseRef { token, index: leased.index }, leased }).collect()
}

/// Room for `n` jobs of the usual type, no suspects.
pub fn room(n: u32) -> Room {
    room_of(&[(KIND, n)])
}

/// Room for jobs of several types.
pub fn room_of(types: &[(&str, u32)]) -> Room {
    let types: Vec<TypeRoom> =
        types.iter().map(|(kind, jobs)| TypeRoom { kind: (*kind).into(), jobs: *jobs }).collect();
    let jobs = types.iter().map(|room| room.jobs).sum();
    Room { types, jobs, bytes: 1 << 23, suspect: false, crashed: false }
}

/// Room for `n` jobs or one suspect, whatever it has lost.
pub fn room_for_any(n: u32) -> Room {
    Room { suspect: true, crashed: true, ..room(n) }
}
