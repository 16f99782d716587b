//! The store survives being killed around each commit, and a power failure that keeps only what was synced.
//!
//! A workload is run once. Before and after each of its commits the files are photographed as a crash would leave
//! them: the log cut at its last sync, at its end, and in the middle of what was being written. Each photograph is
//! then opened and drained, and held against what had been acknowledged by then.
// Code of tests: a panic is how it speaks.
#![allow(clippy::unwrap_used)]

mod support;

use std::{
    collections::{HashMap, HashSet},
    path::Path,
};

use ganger_core::{
    Admin, Batch, Exchange, Filter, Job, JobId, LeaseRef, Order, Room, Settlement, Spend, State, Timestamp,
    Token, Verdict,
};
use support::{File, LONG, Manager, check_places, job, room};

/// Stores that the workload is run in, and its rounds in each: short, because each photograph has the whole log.
const FILMS: u64 = 9;
const ROUNDS: u64 = 12;

/// At least so many photographs are checked.
const CRASHES_MIN: usize = 1000;

/// What had been acknowledged, and what might have happened.
#[derive(Clone, Default)]
struct Known {
    /// Jobs that were acknowledged as stored.
    stored: HashSet<JobId>,
    /// Jobs whose end was acknowledged.
    ended: HashMap<JobId, State>,
    /// Jobs that the operation under way may have stored or ended.
    unsure: HashSet<JobId>,
    /// The exchange under way.
    exchange: Option<Exchange>,
}

/// The files at one moment: the log, which only grows, up to a place in it.
struct Photograph {
    cut: usize,
    known: Known,
}

/// All photographs of one store.
struct Film {
    db: Vec<u8>,
    log: Vec<u8>,
    photographs: Vec<Photograph>,
}

/// Takes the photographs while the workload runs.
struct Camera {
    file: File,
    db: Vec<u8>,
    /// How much of the log has been synced.
    synced: usize,
    known: Known,
    taken: Vec<Photograph>,
    dice: u64,
}

impl Camera {
    fn open(round: u64) -> Camera {
        Camera {
            file: File::quick(),
            db: Vec::new(),
            synced: 0,
            known: Known::default(),
            taken: Vec::new(),
            dice: 0x9e37_79b9_7f4a_7c15 ^ round,
        }
    }

    fn log_path(&self) -> std::path::PathBuf {
        self.file.path().with_file_name("jobs.db-wal")
    }

    fn log_len(&self) -> usize {
        usize::try_from(std::fs::metadata(self.log_path()).unwrap().len()).unwrap()
    }

    fn roll(&mut self, below: usize) -> usize {
        // xorshift64 (Marsaglia): the same crashes in every run.
        self.dice ^= self.dice << 13;
        self.dice ^= self.dice >> 7;
        self.dice ^= self.dice << 17;
        (self.dice % below.max(1) as u64) as usize
    }

    /// An operation is under way: it is known what it may do, and not whether it did.
    fn during(&mut self, unsure: impl IntoIterator<Item = JobId>, exchange: Option<Exchange>) -> Known {
        Known { unsure: unsure.into_iter().collect(), exchange, ..self.known.clone() }
    }

    /// An operation has been answered; if `synced`, its commit is on the disk.
    fn after(&mut self, during: Known, synced: bool, known: Known) {
        let (len, before) = (self.log_len(), self.synced);
        assert!(len >= before, "the log was begun anew");
        // Killed, or out of power, while the commit was being written: any part of it may be there.
        let cuts = [before, before + self.roll(len - before + 1), len];
        for cut in cuts {
            self.taken.push(Photograph { cut, known: during.clone() });
        }
        if synced {
            self.synced = len;
        }
        // Out of power after the answer, and killed after it.
        for cut in [self.synced, len] {
            self.taken.push(Photograph { cut, known: known.clone() });
        }
        self.known = Known { exchange: None, unsure: HashSet::new(), ..known };
    }
}

fn with_id(text: &str, id: &str) -> Job {
    Job { id: Some(id.parse().unwrap()), ..job(text) }
}

/// A few jobs go in, are claimed, and end in all the ways there are.
async fn workload(mut camera: Camera, salt: u64) -> Film {
    let manager = camera.file.open().await;
    camera.db = std::fs::read(camera.file.path()).unwrap();
    camera.synced = camera.log_len();
    let mut open: Vec<(LeaseRef, JobId)> = Vec::new();
    let camera = &mut camera;
    for round in salt..salt + ROUNDS {
        enqueue(camera, &manager, round).await;
        let (settle, ends, follow) = verdicts(&open, round);
        open = exchange(camera, &manager, settle, ends, follow).await;
        if round % 7 == 3 {
            let during = camera.during([], None);
            let token = Token { incarnation: 99, seq: round };
            let nobody = LeaseRef { token, index: 0 };
            let leases: Vec<LeaseRef> = open.iter().map(|(lease, _)| *lease).chain([nobody]).collect();
            let beat = beat(open.first().map_or(99, |(lease, _)| lease.token.incarnation));
            manager.source.renew(&beat, &leases).await.unwrap();
            let known = camera.known.clone();
            camera.after(during, false, known);
        }
        if round % 5 == 4 {
            let id: JobId = format!("waits-{round}").parse().unwrap();
            let during = camera.during([id.clone()], None);
            manager.source.order(Order::Cancel, &Filter::ids(vec![id.clone()])).await.unwrap();
            let mut known = camera.known.clone();
            known.ended.insert(id, State::Cancelled);
            camera.after(during, true, known);
        }
    }
    assert_eq!(std::fs::read(camera.file.path()).unwrap(), camera.db, "no checkpoint has moved the file");
    let log = std::fs::read(camera.log_path()).unwrap();
    Film { db: std::mem::take(&mut camera.db), log, photographs: std::mem::take(&mut camera.taken) }
}

async fn enqueue(camera: &mut Camera, manager: &Manager, round: u64) {
    let mut jobs: Vec<Job> =
        (0..4).map(|n| with_id(r#"{"type":"test"}"#, &format!("job-{round}-{n}"))).collect();
    jobs.push(with_id(r#"{"type":"other","priority":-1}"#, &format!("waits-{round}")));
    let ids: Vec<JobId> = jobs.iter().map(|job| job.id.clone().unwrap()).collect();
    let during = camera.during(ids.clone(), None);
    let answers = manager.source.enqueue(Batch::new(jobs)).await.unwrap();
    assert!(answers.iter().all(Result::is_ok));
    let mut known = camera.known.clone();
    known.stored.extend(ids);
    camera.after(during, true, known);
}

type Ends = Vec<(JobId, State)>;

fn verdicts(open: &[(LeaseRef, JobId)], round: u64) -> (Vec<Settlement>, Ends, Vec<JobId>) {
    let (mut settle, mut ends, mut follow) = (Vec::new(), Vec::new(), Vec::new());
    for (n, (lease, id)) in open.iter().enumerate() {
        let (verdict, end) = match (n as u64 + round) % 6 {
            0 => (Verdict::Dead { reason: "test".into() }, Some(State::Dead)),
            1 => (Verdict::Retry { at: Timestamp::from_millis(1) }, None),
            2 => (Verdict::Release, None),
            _ => (Verdict::Done, Some(State::Done)),
        };
        let mut settlement = Settlement::new(*lease, verdict);
        if end.is_none() && settlement.verdict != Verdict::Release {
            settlement.spend = Spend::Retry;
        }
        if end == Some(State::Done) && round.is_multiple_of(2) {
            let child = Job { id: Some(id.child(1)), ..job(r#"{"type":"test"}"#) };
            settlement.more_mut().follow.push(child);
            follow.push(id.child(1));
        }
        ends.extend(end.map(|end| (id.clone(), end)));
        settle.push(settlement);
    }
    (settle, ends, follow)
}

async fn exchange(
    camera: &mut Camera,
    manager: &Manager,
    settle: Vec<Settlement>,
    ends: Ends,
    follow: Vec<JobId>,
) -> Vec<(LeaseRef, JobId)> {
    let token = manager.token();
    let synced = !settle.is_empty();
    let give = Exchange { token, settle, room: Room { suspect: false, ..room(4) }, lease: LONG };
    let unsure: Vec<JobId> = ends.iter().map(|(id, _)| id.clone()).chain(follow.clone()).collect();
    let during = camera.during(unsure, Some(give.clone()));
    let answer = manager.source.exchange(&give).await.unwrap();
    assert_eq!(answer.stale, []);
    let mut known = camera.known.clone();
    known.ended.extend(ends);
    known.stored.extend(follow);
    camera.after(during, synced, known);
    let leased = answer.leased.into_iter().map(|leased| {
        let ganger_core::Entry::Job(job) = leased.entry else { panic!("no job") };
        (LeaseRef { token, index: leased.index }, job.id.unwrap())
    });
    leased.collect()
}

fn beat(incarnation: u64) -> ganger_core::Beat {
    ganger_core::Beat {
        incarnation,
        host: "h".into(),
        pid: 1,
        version: "v".into(),
        types: Vec::new(),
        guarded: Vec::new(),
        draining: false,
        started: Timestamp::from_millis(0),
        lease_millis: 600_000,
    }
}

/// Opens what a crash has left, and finishes all that is there.
async fn check(film: &Film, Photograph { cut, known }: &Photograph, folder: &Path) {
    let path = folder.join("jobs.db");
    std::fs::write(&path, &film.db).unwrap();
    std::fs::write(folder.join("jobs.db-wal"), &film.log[..*cut]).unwrap();
    let manager = Manager::open(&path).await;
    if let Some(give) = &known.exchange {
        repeated(&manager, give).await;
    }
    check_places(&rusqlite::Connection::open(&path).unwrap());
    let mut settle = Vec::new();
    let mut runs: HashMap<JobId, u32> = HashMap::new();
    loop {
        let mut wide = room(64);
        wide.types.push(ganger_core::TypeRoom { kind: "other".into(), jobs: 64 });
        let (token, answer) = manager.exchange(settle, wide).await;
        assert_eq!(answer.stale, [], "the new manager's leases hold");
        if answer.leased.is_empty() {
            break;
        }
        settle = Vec::new();
        for leased in answer.leased {
            let ganger_core::Entry::Job(job) = leased.entry else { panic!("no job") };
            let id = job.id.unwrap();
            assert!(!known.ended.contains_key(&id), "P4: `{id}` had ended and runs again");
            *runs.entry(id).or_default() += 1;
            settle.push(Settlement::new(LeaseRef { token, index: leased.index }, Verdict::Done));
        }
    }
    assert!(runs.values().all(|runs| *runs == 1), "P2: nothing runs twice after the crash");
    let ids: Vec<JobId> = known.stored.iter().cloned().collect();
    for (id, state) in ids.iter().zip(manager.source.states(&ids).await.unwrap()) {
        match known.ended.get(id) {
            Some(end) => assert_eq!(state, Some(*end), "P4: `{id}`"),
            None if known.unsure.contains(id) => {
                assert!(state.is_some_and(State::is_end), "P1: `{id}` is {state:?}")
            }
            None => assert_eq!(state, Some(State::Done), "P1: `{id}`"),
        }
    }
}

/// The exchange whose answer was lost, once more and twice: whatever the crash left, it happens once (P3, P4).
async fn repeated(manager: &Manager, give: &Exchange) {
    let again = Exchange { room: Room::none(), ..give.clone() };
    let first = manager.source.exchange(&again).await.unwrap();
    let second = manager.source.exchange(&again).await.unwrap();
    let indexes =
        |answer: &ganger_core::Exchanged| answer.leased.iter().map(|leased| leased.index).collect::<Vec<_>>();
    assert_eq!((&first.stale, indexes(&first)), (&second.stale, indexes(&second)));
}

#[test]
fn p1_p4_nothing_acknowledged_is_lost_or_done_twice_however_often_it_crashes() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let films: Vec<Film> =
        (0..FILMS).map(|film| runtime.block_on(workload(Camera::open(film), film * ROUNDS))).collect();
    let all: Vec<(&Film, &Photograph)> = films
        .iter()
        .flat_map(|film| film.photographs.iter().map(move |photograph| (film, photograph)))
        .collect();
    assert!(all.len() >= CRASHES_MIN, "{} crashes", all.len());
    let next = std::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                let draw = || next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                while let Some((film, photograph)) = all.get(draw()) {
                    let folder = File::quick();
                    runtime.block_on(check(film, photograph, folder.path().parent().unwrap()));
                }
            });
        }
    });
}
