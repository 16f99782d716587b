//! What really happened, and the promises held against it.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use ganger_core::{
    Entry, Exchange, Exchanged, HANDLER_PREFIX, Hold, Job, JobId, LeaseRef, Leased, Settlement, Spend, State,
    Token, Verdict,
};

use tokio::time::Instant;

use super::{Fate, fate::How};

/// A promise that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation(pub String);

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The ledger of a world: it sees each call that a store really applied, and each run that a worker really began.
#[derive(Default)]
pub struct Ledger(Mutex<Book>);

#[derive(Default)]
struct Book {
    jobs: Vec<Log>,
    by_id: HashMap<JobId, usize>,
    /// Bytes that were pushed and have no id before their first claim.
    by_bytes: HashMap<Vec<u8>, usize>,
    leases: BTreeMap<LeaseRef, usize>,
    sent: HashMap<u64, (u64, u64)>,
    /// Calls that a store applied.
    calls: u64,
    violations: Vec<Violation>,
    trace: DefaultHasher,
    /// What happened, in words, and since when; only where somebody wants to read it.
    story: Option<(Instant, Vec<String>)>,
}

/// One job.
#[derive(Default)]
struct Log {
    label: String,
    id: Option<JobId>,
    fate: Option<Fate>,
    retries: u32,
    is_handler: bool,
    open: Option<OpenLease>,
    runs: u32,
    running: u32,
    /// Runs that a lost lease, a release or a fence cut off.
    cut_off: u32,
    spent: u32,
    crashes: u32,
    /// Leases that were lost while the job was a suspect already.
    lost_as_suspect: u32,
    cancel: bool,
    end: Option<State>,
}

struct OpenLease {
    lease: LeaseRef,
    suspect: bool,
    started: bool,
}

/// So many lost runs end a job.
const MAX_CRASHES: u32 = ganger_core::CRASHES_MAX;

impl Ledger {
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

    /// A job whose acceptance was acknowledged.
    pub fn accepted(&self, job: &Job) {
        self.book().accept(job);
    }

    /// Bytes that a producer pushed: a job, or none.
    pub fn pushed(&self, bytes: &[u8]) {
        let mut book = self.book();
        let at = book.jobs.len();
        let job = Job::from_json(bytes).ok();
        let label = String::from_utf8_lossy(bytes).chars().take(60).collect();
        let mut log = Log { label, ..Log::default() };
        if let Some(job) = &job {
            log.fate = Fate::of(job);
            log.retries = job.retries.unwrap_or(0);
        }
        book.jobs.push(log);
        book.by_bytes.insert(bytes.to_vec(), at);
    }

    /// Someone asked for a job to be cancelled, and the store marked it, or ended it at once.
    pub fn cancelled(&self, id: &JobId) {
        let mut book = self.book();
        if let Some(at) = book.by_id.get(id).copied() {
            book.note(|| format!("cancel {id}"));
            let log = &mut book.jobs[at];
            log.cancel = true;
            if log.open.is_none() {
                log.end = log.end.or(Some(State::Cancelled));
            }
        }
    }

    /// A manager sends an exchange: what goes under one token is always the same.
    pub fn sent(&self, give: &Exchange) {
        let mut hasher = DefaultHasher::new();
        for one in &give.settle {
            (one.lease, one.verdict.state().as_str()).hash(&mut hasher);
        }
        for room in &give.room.types {
            (room.kind.as_str(), room.jobs).hash(&mut hasher);
        }
        (give.room.jobs, give.room.suspect, give.room.crashed).hash(&mut hasher);
        let (token, content) = (give.token, hasher.finish());
        let mut book = self.book();
        let last = book.sent.insert(token.incarnation, (token.seq, content));
        if let Some((seq, last)) = last {
            book.expect(seq <= token.seq, || format!("P3: token {token} is older than one sent before"));
            book.expect(seq != token.seq || last == content, || {
                format!("P4: two different exchanges are both named {token}")
            });
        }
    }

    /// A store applied an exchange, maybe again.
    pub fn exchanged(&self, give: &Exchange, answer: &Exchanged) {
        let mut book = self.book();
        (give.token, answer.leased.len(), answer.stale.len()).hash(&mut book.trace);
        book.calls += 1;
        book.note(|| exchange_line(give, answer));
        for settlement in &give.settle {
            if !answer.stale.contains(&settlement.lease) {
                book.settled(settlement);
            }
        }
        for leased in &answer.leased {
            book.leased(give.token, leased);
        }
    }

    /// A store applied a renewal.
    pub fn renewed(&self, held: &[LeaseRef], holds: &[Hold]) {
        let mut book = self.book();
        (held.len(), holds.len()).hash(&mut book.trace);
        book.calls += 1;
        book.note(|| format!("renew {:?}", held.iter().map(lease_text).zip(holds).collect::<Vec<_>>()));
        let mut tokens: Vec<Token> = held.iter().map(|lease| lease.token).collect();
        tokens.sort();
        tokens.dedup();
        for token in tokens {
            let all = LeaseRef { token, index: 0 }..=LeaseRef { token, index: u32::MAX };
            let left_out: Vec<(LeaseRef, usize)> = book
                .leases
                .range(all)
                .filter(|(lease, _)| !held.contains(lease))
                .map(|(lease, at)| (*lease, *at))
                .collect();
            for (lease, at) in left_out {
                book.close(lease, at);
            }
        }
    }

    /// A worker begins a run; it has ended when the guard is dropped.
    pub fn start(self: &Arc<Self>, id: &JobId, lease: LeaseRef) -> Run {
        let mut book = self.book();
        (id.to_string(), lease).hash(&mut book.trace);
        book.note(|| format!("start {id} under {}", lease_text(&lease)));
        let at = book.by_id.get(id).copied();
        match at {
            None => book.violate(format!("P1: a run of `{id}`, which nobody enqueued")),
            Some(at) => book.start(at, lease),
        }
        Run { ledger: self.clone(), at }
    }

    /// How many jobs have not ended, as far as verdicts tell.
    pub fn open(&self) -> usize {
        self.book().jobs.iter().filter(|log| log.end.is_none()).count()
    }

    /// How many calls the store has applied.
    pub fn calls(&self) -> u64 {
        self.book().calls
    }

    /// The ids of jobs that someone asked to cancel and of whose end no verdict told: the store may have ended them
    /// when their lease ran out.
    pub fn cancelled_and_open(&self) -> Vec<JobId> {
        let book = self.book();
        let open = book.jobs.iter().filter(|log| log.cancel && log.end.is_none());
        open.filter_map(|log| log.id.clone()).collect()
    }

    /// The store says that a cancelled job has ended.
    pub fn ended(&self, id: &JobId, state: State) {
        let mut book = self.book();
        if let Some(at) = book.by_id.get(id).copied() {
            if let Some(open) = book.jobs[at].open.take() {
                book.jobs[at].cut_off += u32::from(open.started);
                book.leases.remove(&open.lease);
            }
            book.jobs[at].end = Some(state);
        }
    }

    /// The jobs that have not ended, for people.
    pub fn unfinished(&self) -> Vec<String> {
        let book = self.book();
        let open = book.jobs.iter().filter(|log| log.end.is_none());
        open.map(|log| format!("{} {:?} {:?}", log.label, log.id, log.fate)).collect()
    }

    /// All ids that are known, with how their jobs ended.
    pub fn ends(&self) -> Vec<(JobId, Option<State>)> {
        let book = self.book();
        book.jobs.iter().filter_map(|log| Some((log.id.clone()?, log.end))).collect()
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

impl Book {
    fn note(&mut self, line: impl FnOnce() -> String) {
        if let Some((since, lines)) = &mut self.story {
            lines.push(format!("{:>9.3} {}", since.elapsed().as_secs_f64(), line()));
        }
    }

    fn violate(&mut self, what: String) {
        self.violations.push(Violation(what));
    }

    fn expect(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.violate(what());
        }
    }

    fn accept(&mut self, job: &Job) {
        let Some(id) = job.id.clone() else { return self.violate("a job was accepted without an id".into()) };
        if self.by_id.contains_key(&id) {
            return;
        }
        let log = Log {
            label: job.name.as_deref().unwrap_or_default().to_owned(),
            id: Some(id.clone()),
            fate: Fate::of(job),
            retries: job.retries.unwrap_or(0),
            is_handler: job.kind.starts_with(HANDLER_PREFIX),
            ..Log::default()
        };
        self.by_id.insert(id, self.jobs.len());
        self.jobs.push(log);
    }

    /// A lease that ends without a verdict; whatever ran under it is cut off.
    fn close(&mut self, lease: LeaseRef, at: usize) {
        self.leases.remove(&lease);
        let log = &mut self.jobs[at];
        if let Some(open) = log.open.take_if(|open| open.lease == lease) {
            log.cut_off += u32::from(open.started);
        }
    }

    fn settled(&mut self, settlement: &Settlement) {
        // Not there: the same exchange, arriving again.
        let Some(at) = self.leases.remove(&settlement.lease) else { return };
        let log = &mut self.jobs[at];
        let started = log.open.take().is_some_and(|open| open.started);
        let spends = settlement.spend;
        match spends {
            Spend::Nothing => {}
            Spend::Retry => log.spent += 1,
            Spend::Crash => log.crashes += 1,
        }
        let (spent, retries, label) = (log.spent, log.retries, log.label.clone());
        let goes_back = match settlement.verdict {
            Verdict::Retry { .. } => true,
            Verdict::Release | Verdict::Park { .. } => {
                log.cut_off += u32::from(started);
                true
            }
            _ => false,
        };
        let verdict = &settlement.verdict;
        let ended = match verdict {
            Verdict::Done => Some(State::Done),
            _ if log.cancel => Some(State::Cancelled),
            _ if goes_back => None,
            verdict => Some(verdict.state()),
        };
        log.end = ended;
        let handler_owed = ended == Some(State::Dead) && !log.is_handler && log.fate.is_some();
        let id = log.id.clone();
        if matches!(verdict, Verdict::Release | Verdict::Park { .. }) {
            self.expect(spends == Spend::Nothing, || format!("P7: a release of `{label}` spent {spends:?}"));
        }
        if matches!(verdict, Verdict::Retry { .. }) {
            self.expect(spent <= retries, || {
                format!("P2: `{label}` is run again after {spent} of {retries}")
            });
        }
        let follow = settlement.more.as_ref().map_or(&[][..], |more| &more.follow);
        if handler_owed {
            let first = id.map(|id| id.failed(1));
            self.expect(follow.iter().any(|job| job.id == first), || {
                format!("`{label}` is dead, and its failure handler is not among {} follow-ups", follow.len())
            });
        }
        if ended != Some(State::Cancelled) {
            follow.iter().for_each(|job| self.accept(job));
        }
    }

    fn leased(&mut self, token: Token, leased: &Leased) {
        let lease = LeaseRef { token, index: leased.index };
        let Some(at) = self.find(leased) else {
            return self
                .violate(format!("P1: the store leased a job that nobody enqueued: {:?}", leased.entry));
        };
        if self.leases.get(&lease) == Some(&at) {
            // The same exchange, arriving again.
            return;
        }
        let log = &mut self.jobs[at];
        if let Some(lost) = log.open.take() {
            log.cut_off += u32::from(lost.started);
            log.lost_as_suspect += u32::from(lost.suspect);
            self.leases.remove(&lost.lease);
        }
        log.open = Some(OpenLease { lease, suspect: leased.record.suspect, started: false });
        let (ended, label) = (log.end, log.label.clone());
        self.expect(ended.is_none(), || format!("P1: `{label}` was leased after it ended {ended:?}"));
        self.leases.insert(lease, at);
    }

    /// The job of a lease; bytes get their id at their first.
    fn find(&mut self, leased: &Leased) -> Option<usize> {
        match &leased.entry {
            Entry::Job(job) => self.by_id.get(job.id.as_ref()?).copied(),
            Entry::Raw(bytes) => {
                let at = *self.by_bytes.get(&bytes[..])?;
                let id = JobId::claimed(leased.record.first?.lease);
                self.by_id.insert(id.clone(), at);
                self.jobs[at].id.get_or_insert(id);
                Some(at)
            }
            Entry::Malformed(_) => None,
        }
    }

    fn start(&mut self, at: usize, lease: LeaseRef) {
        let log = &mut self.jobs[at];
        log.runs += 1;
        log.running += 1;
        let (running, label) = (log.running, log.label.clone());
        let crashes = log.crashes + log.lost_as_suspect;
        let fault = match &mut log.open {
            Some(open) if open.lease == lease && !open.started => {
                open.started = true;
                None
            }
            Some(open) if open.lease == lease => Some("P2: it ran twice under one lease"),
            Some(_) => Some("P6: it was begun under a lease that another has taken"),
            None => Some("P6: it was begun under a lease that is over"),
        };
        if let Some(fault) = fault {
            self.violate(format!("{fault}: `{label}`, lease {}-{}", lease.token, lease.index));
        }
        self.expect(crashes < MAX_CRASHES, || format!("P7: `{label}` is run after {crashes} crashes"));
        self.expect(running == 1, || format!("P6: `{label}` runs {running} times at once"));
    }

    fn check(&mut self, at: usize, untouched: bool) {
        let log = &self.jobs[at];
        let label = log.label.clone();
        let Some(end) = log.end else { return self.violate(format!("P1: `{label}` never ended")) };
        let allowed = 1 + log.spent + log.crashes + log.cut_off;
        let (runs, running, cancel) = (log.runs, log.running, log.cancel);
        let crashes = log.crashes + log.lost_as_suspect;
        let (fate, retries) = (log.fate, log.retries);
        self.expect(running == 0, || format!("a run of `{label}` never ended"));
        self.expect(runs <= allowed, || {
            format!("P2: `{label}` ran {runs} times, at most {allowed} were due")
        });
        if cancel {
            let fits = matches!(end, State::Cancelled | State::Done);
            return self.expect(fits, || format!("P9: `{label}` was cancelled and ended {end}"));
        }
        let Some(fate) = fate else {
            self.expect(runs == 0, || format!("P8: bytes that are no job ran: {label}"));
            return self.expect(end == State::Dead, || format!("P8: `{label}` ended {end}"));
        };
        let (course, dead) = match fate.how {
            How::Poison => (MAX_CRASHES + 1, true),
            _ => fate.plain_course(retries, MAX_CRASHES),
        };
        match end {
            State::Done => self.expect(!dead, || format!("`{label}` ended done against its fate {fate:?}")),
            State::Dead => self.expect(dead || crashes >= MAX_CRASHES, || {
                format!("P7: `{label}` is dead with {crashes} crashes, and its fate is {fate:?}")
            }),
            other => self.violate(format!("`{label}` ended {other}, which nobody asked for")),
        }
        if untouched {
            self.expect(runs == course, || format!("P2: `{label}` ran {runs} times, {course} were due"));
        }
    }
}

fn lease_text(lease: &LeaseRef) -> String {
    format!("{:04x}-{}/{}", lease.token.incarnation & 0xffff, lease.token.seq, lease.index)
}

fn exchange_line(give: &Exchange, answer: &Exchanged) -> String {
    let settle: Vec<String> =
        give.settle.iter().map(|one| format!("{} {:?}", lease_text(&one.lease), one.verdict)).collect();
    let leased: Vec<String> = answer.leased.iter().map(leased_text).collect();
    let room = &give.room;
    format!(
        "exchange {:04x}-{} room {}{}{} settle {settle:?} stale {} leased {leased:?}{}",
        give.token.incarnation & 0xffff,
        give.token.seq,
        room.jobs,
        if room.suspect { " or a suspect" } else { "" },
        if room.crashed { " that crashed" } else { "" },
        answer.stale.len(),
        if answer.more { " and more" } else { "" },
    )
}

fn leased_text(leased: &Leased) -> String {
    let what = match &leased.entry {
        Entry::Job(job) => job.id.as_ref().map(ToString::to_string).unwrap_or_default(),
        Entry::Raw(bytes) => String::from_utf8_lossy(bytes).chars().take(40).collect(),
        Entry::Malformed(error) => error.message.clone(),
    };
    format!("{what} (suspect {}, crashes {})", leased.record.suspect, leased.record.crashes)
}

/// A run under way.
pub struct Run {
    ledger: Arc<Ledger>,
    at: Option<usize>,
}

impl Drop for Run {
    fn drop(&mut self) {
        if let Some(at) = self.at {
            let mut book = self.ledger.book();
            book.jobs[at].running -= 1;
            let label = book.jobs[at].label.clone();
            book.note(|| format!("end {label}"));
        }
    }
}
