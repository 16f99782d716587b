//! Managers as small as a fault needs them: each exchanges, does its jobs at once, and settles.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use ganger_conformance::{Signal, label, soon};
use ganger_core::{
    Beat, DynProvider, Exchange, Exchanged, LeaseRef, Room, Settlement, Timestamp, Token, TypeRoom, Verdict,
    draw_incarnation,
};
use tokio::{
    task::JoinHandle,
    time::{Instant, timeout},
};

/// What a crew has done: how often each job ran.
#[derive(Clone)]
pub(crate) struct Tally {
    runs: Arc<Mutex<BTreeMap<String, u32>>>,
    settled: Arc<Mutex<HashSet<String>>>,
    pub(crate) progress: Signal,
}

impl Tally {
    pub(crate) fn new() -> Self {
        let progress = Signal::new("jobs are settled");
        Tally { runs: Arc::default(), settled: Arc::default(), progress }
    }

    pub(crate) fn runs(&self) -> BTreeMap<String, u32> {
        self.runs.lock().unwrap().clone()
    }

    pub(crate) fn settled(&self) -> usize {
        self.settled.lock().unwrap().len()
    }

    /// Waits until so many jobs are settled.
    pub(crate) async fn reaches(&self, jobs: usize) {
        let reached = async {
            while self.settled() < jobs {
                self.progress.told(self.progress.times() + 1).await;
            }
        };
        let limit = Duration::from_secs(100);
        let waited = tokio::time::timeout(limit, reached).await;
        assert!(waited.is_ok(), "{} of {jobs} jobs are settled after {limit:?}", self.settled());
    }
}

/// How a member of a crew works.
#[derive(Clone, Copy)]
pub(crate) struct Ways {
    pub(crate) lease: Duration,
    /// How many jobs it takes at once.
    pub(crate) jobs: u32,
    /// How long it works on what it took.
    pub(crate) work: Duration,
}

impl Default for Ways {
    fn default() -> Self {
        Ways { lease: Duration::from_secs(15), jobs: 50, work: Duration::ZERO }
    }
}

/// A manager at work. Aborted, it is as one that was killed: it releases nothing.
pub(crate) fn hire(url: String, ways: Ways, tally: Tally) -> JoinHandle<()> {
    tokio::spawn(async move {
        let incarnation = draw_incarnation();
        let provider = loop {
            match super::open(&url, incarnation).await {
                Ok(provider) => break provider,
                Err(_) => tokio::task::yield_now().await,
            }
        };
        Member { provider, incarnation, seq: AtomicU64::new(0), ways, tally }.work().await;
    })
}

/// What was done and is not settled.
#[derive(Default)]
struct Open {
    settle: Vec<Settlement>,
    labels: Vec<(LeaseRef, String, bool)>,
}

struct Member {
    provider: Arc<dyn DynProvider>,
    incarnation: u64,
    seq: AtomicU64,
    ways: Ways,
    tally: Tally,
}

impl Member {
    async fn work(&self) {
        let mut open = Open::default();
        // The token of a wait that may have claimed.
        let mut waited = None;
        loop {
            let (token, began) = waited.take().unwrap_or_else(|| self.begin());
            let settle = std::mem::take(&mut open.settle);
            let give = self.give(token, settle);
            let answer = self.until_answered(&give).await;
            self.settled(&give.settle, &answer, &mut open.labels);
            self.take(token, began, &answer, &mut open).await;
            if answer.leased.is_empty() && !answer.more && open.settle.is_empty() {
                let (token, began) = self.begin();
                let give = self.give(token, Vec::new());
                match timeout(self.ways.lease / 6, self.provider.wait_and_claim(&give)).await {
                    Ok(Ok(Some(answer))) => self.take(token, began, &answer, &mut open).await,
                    _ => waited = Some((token, began)),
                }
            }
        }
    }

    fn begin(&self) -> (Token, Instant) {
        let seq = self.seq.fetch_add(1, Ordering::Relaxed) + 1;
        (Token { incarnation: self.incarnation, seq }, Instant::now())
    }

    fn give(&self, token: Token, settle: Vec<Settlement>) -> Exchange {
        Exchange { token, settle, room: any(self.ways.jobs), lease: self.ways.lease }
    }

    async fn take(&self, token: Token, began: Instant, answer: &Exchanged, open: &mut Open) {
        let is_late = began.elapsed() >= self.ways.lease * 2 / 3;
        let leases: Vec<LeaseRef> =
            answer.leased.iter().map(|one| LeaseRef { token, index: one.index }).collect();
        if !is_late && !leases.is_empty() {
            self.run(answer, &leases).await;
        }
        for (one, lease) in answer.leased.iter().zip(leases) {
            let verdict = if is_late { Verdict::Release } else { Verdict::Done };
            open.settle.push(Settlement::new(lease, verdict.clone()));
            open.labels.push((lease, label(one), verdict == Verdict::Done));
        }
    }

    /// Does the jobs, renewing their leases meanwhile.
    async fn run(&self, answer: &Exchanged, leases: &[LeaseRef]) {
        for one in &answer.leased {
            *self.tally.runs.lock().unwrap().entry(label(one)).or_default() += 1;
        }
        let end = Instant::now() + self.ways.work;
        while Instant::now() < end {
            let step = (self.ways.lease / 3).min(end - Instant::now());
            // tidy: allow(sleep), it is the work
            tokio::time::sleep(step).await;
            let _ = self.provider.renew(&beat(self.incarnation, self.ways.lease), leases).await;
        }
    }

    async fn until_answered(&self, give: &Exchange) -> Exchanged {
        loop {
            let answered = timeout(self.ways.lease / 3, self.provider.exchange(give)).await;
            if let Ok(Ok(answer)) = answered {
                return answer;
            }
            // tidy: allow(sleep), a manager pauses before it asks again
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn settled(&self, settle: &[Settlement], answer: &Exchanged, labels: &mut Vec<(LeaseRef, String, bool)>) {
        for (lease, label, done) in labels.drain(..) {
            let sent = settle.iter().any(|one| one.lease == lease);
            if sent && done && !answer.stale.contains(&lease) {
                let first = self.tally.settled.lock().unwrap().insert(label.clone());
                assert!(first, "job {label} was settled twice");
            }
        }
        self.tally.progress.tell();
    }
}

pub(crate) fn beat(incarnation: u64, lease: Duration) -> Beat {
    Beat {
        incarnation,
        host: "tests".into(),
        pid: std::process::id(),
        version: env!("CARGO_PKG_VERSION").into(),
        types: vec![("test".into(), 1)],
        guarded: Vec::new(),
        draining: false,
        started: Timestamp::now(),
        lease_millis: u64::try_from(lease.as_millis()).unwrap(),
    }
}

pub(crate) fn any(jobs: u32) -> Room {
    let types = vec![TypeRoom { kind: "test".into(), jobs }];
    Room { types, jobs, bytes: 1 << 23, suspect: true, crashed: true }
}

/// Jobs as producers push them, labelled by their names.
pub(crate) fn entries(jobs: usize) -> Vec<String> {
    (0..jobs).map(|n| format!(r#"{{"type":"test","name":"{n}"}}"#)).collect()
}

/// Ends members, and waits until they have.
pub(crate) async fn dismiss(members: Vec<JoinHandle<()>>) {
    for member in members {
        member.abort();
        let ended = soon("the end of a manager", member).await;
        if let Err(error) = ended {
            assert!(error.is_cancelled(), "a manager failed: {error}");
        }
    }
}
