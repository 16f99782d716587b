//! The jobs of a world, and what the stores did with them.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    hash::{DefaultHasher, Hash},
    sync::Arc,
    time::Duration,
};

use ganger_core::{
    Entry, HANDLER_PREFIX, Job, JobId, LeaseRef, Leased, Settlement, Spend, State, Token, Verdict,
};
use tokio::time::Instant;

use super::{
    Fate, Loss, MAIN, Violation, fixed_hasher,
    members::{Contact, Members},
    runs::Runs,
    words,
};

/// So many lost runs end a job.
pub(super) const MAX_CRASHES: u32 = ganger_core::CRASHES_MAX;

pub(super) struct Book {
    pub(super) lease: Duration,
    pub(super) jobs: Vec<Log>,
    pub(super) by_id: HashMap<JobId, usize>,
    /// Bytes that were pushed and have no id before their first claim.
    by_bytes: HashMap<Vec<u8>, usize>,
    pub(super) leases: BTreeMap<LeaseRef, usize>,
    pub(super) members: Members,
    pub(super) runs: Runs,
    /// Claims of which the main store remembers less than it told their managers.
    pub(super) forgotten: HashSet<Token>,
    /// By store.
    contacts: HashMap<u8, Contact>,
    /// Since when every call has got through.
    pub(super) calm_since: Option<Instant>,
    pub(super) violations: Vec<Violation>,
    pub(super) trace: DefaultHasher,
    /// What happened, in words, and since when; only where somebody wants to read it.
    pub(super) story: Option<(Instant, Vec<String>)>,
}

/// One job.
#[derive(Clone)]
pub(super) struct Log {
    pub(super) store: u8,
    pub(super) label: Arc<str>,
    pub(super) id: Option<JobId>,
    pub(super) fate: Option<Fate>,
    pub(super) retries: u32,
    is_handler: bool,
    pub(super) open: Option<OpenLease>,
    pub(super) runs: u32,
    /// Runs that a lost lease, a release or a fence cut off.
    pub(super) cut_off: u32,
    /// Runs that its store knows nothing of any more.
    pub(super) forgotten: u32,
    /// Leases that its store knows nothing of any more.
    pub(super) forgotten_leases: Vec<LeaseRef>,
    pub(super) spent: u32,
    pub(super) crashes: u32,
    /// Leases that were lost while the job was a suspect already.
    pub(super) lost_as_suspect: u32,
    /// Since when it has been to be cancelled.
    pub(super) cancel: Option<Instant>,
    /// It was to be cancelled once, even if its store has forgotten that.
    pub(super) was_cancelled: bool,
    pub(super) end: Option<State>,
    /// The store has forgotten that it was ever given this job.
    pub(super) vanished: bool,
}

#[derive(Clone)]
pub(super) struct OpenLease {
    pub(super) lease: LeaseRef,
    suspect: bool,
    pub(super) started: bool,
}

impl Log {
    fn new(store: u8, label: &str) -> Self {
        Log {
            store,
            label: label.into(),
            id: None,
            fate: None,
            retries: 0,
            is_handler: false,
            open: None,
            runs: 0,
            cut_off: 0,
            forgotten: 0,
            forgotten_leases: Vec::new(),
            spent: 0,
            crashes: 0,
            lost_as_suspect: 0,
            cancel: None,
            was_cancelled: false,
            end: None,
            vanished: false,
        }
    }

    fn of(store: u8, job: &Job, label: &str) -> Self {
        Log {
            id: job.id.clone(),
            fate: Fate::of(job),
            retries: job.retries.unwrap_or(0),
            is_handler: job.kind.starts_with(HANDLER_PREFIX),
            ..Log::new(store, label)
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.end.is_none() && !self.vanished
    }
}

impl Book {
    pub(super) fn new(lease: Duration) -> Self {
        Book {
            lease,
            jobs: Vec::new(),
            by_id: HashMap::new(),
            by_bytes: HashMap::new(),
            leases: BTreeMap::new(),
            members: Members::new(),
            runs: Runs::default(),
            forgotten: HashSet::new(),
            contacts: HashMap::new(),
            calm_since: Some(Instant::now()),
            violations: Vec::new(),
            trace: fixed_hasher(),
            story: None,
        }
    }

    pub(super) fn note(&mut self, line: impl FnOnce() -> String) {
        if let Some((since, lines)) = &mut self.story {
            lines.push(format!("{:>9.3} {}", since.elapsed().as_secs_f64(), line()));
        }
    }

    /// A manager's call has reached a store.
    pub(super) fn reached(&mut self, store: u8) {
        self.contacts.entry(store).or_default().note(self.lease);
    }

    pub(super) fn violate(&mut self, what: String) {
        self.note(|| format!("BROKEN {what}"));
        self.violations.push(Violation(what));
    }

    pub(super) fn expect(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.violate(what());
        }
    }

    pub(super) fn trace_run(&mut self, id: &JobId, lease: LeaseRef) {
        (id, lease).hash(&mut self.trace);
    }

    pub(super) fn accept(&mut self, store: u8, job: &Job) {
        let Some(id) = &job.id else { return self.violate("a job was accepted without an id".into()) };
        if let Some(at) = self.by_id.get(id).copied() {
            let log = &self.jobs[at];
            if log.vanished {
                // As new; what ran of it before, its store knows nothing of.
                let (runs, leases) = (log.runs, log.forgotten_leases.clone());
                let fresh = Log::of(store, job, &log.label.clone());
                self.jobs[at] = Log { runs, forgotten: runs, forgotten_leases: leases, ..fresh };
            }
            return;
        }
        let label = match &job.name {
            Some(name) => format!("{id} ({name})"),
            None => id.to_string(),
        };
        self.by_id.insert(id.clone(), self.jobs.len());
        self.jobs.push(Log::of(store, job, &label));
    }

    pub(super) fn pushed(&mut self, bytes: &[u8]) {
        let label: String = String::from_utf8_lossy(bytes).chars().take(60).collect();
        let log = match Job::from_json(bytes) {
            Ok(job) => Log::of(MAIN, &job, &label),
            Err(_) => Log::new(MAIN, &label),
        };
        self.by_bytes.insert(bytes.to_vec(), self.jobs.len());
        self.jobs.push(log);
    }

    pub(super) fn cancelled(&mut self, id: &JobId) {
        let Some(at) = self.by_id.get(id).copied() else { return };
        self.note(|| format!("cancel {id}"));
        let log = &mut self.jobs[at];
        log.cancel.get_or_insert_with(Instant::now);
        log.was_cancelled = true;
        if log.open.is_none() {
            log.end = log.end.or(Some(State::Cancelled));
        }
    }

    pub(super) fn ended(&mut self, id: &JobId, state: State) {
        let Some(at) = self.by_id.get(id).copied() else { return };
        if let Some(open) = self.jobs[at].open.take() {
            self.jobs[at].cut_off += u32::from(open.started);
            self.leases.remove(&open.lease);
        }
        self.jobs[at].end = Some(state);
    }

    /// What a renewal names it keeps; the rest of its claims is ready again.
    pub(super) fn renewed(&mut self, held: &[LeaseRef]) {
        let mut tokens: Vec<Token> = held.iter().map(|lease| lease.token).collect();
        tokens.sort();
        tokens.dedup();
        for token in tokens {
            let all = LeaseRef { token, index: 0 }..=LeaseRef { token, index: u32::MAX };
            let open = self.leases.range(all).filter(|(lease, _)| !held.contains(lease));
            let left_out: Vec<(LeaseRef, usize)> = open.map(|(lease, at)| (*lease, *at)).collect();
            for (lease, at) in left_out {
                self.close(lease, at);
            }
        }
    }

    /// A lease that ends without a verdict; whatever ran under it is cut off.
    fn close(&mut self, lease: LeaseRef, at: usize) {
        self.leases.remove(&lease);
        let log = &mut self.jobs[at];
        if let Some(open) = log.open.take_if(|open| open.lease == lease) {
            log.cut_off += u32::from(open.started);
        }
    }

    pub(super) fn settled(&mut self, settlement: &Settlement) {
        // Not there: the same exchange, arriving again.
        let Some(at) = self.leases.remove(&settlement.lease) else { return };
        self.expect_meant(settlement.lease, at);
        let spends = settlement.spend;
        let verdict = &settlement.verdict;
        let handed_back = matches!(verdict, Verdict::Release | Verdict::Park { .. });
        let log = &mut self.jobs[at];
        let started = log.open.take().is_some_and(|open| open.started);
        log.cut_off += u32::from(started && handed_back);
        match spends {
            Spend::Nothing => {}
            Spend::Retry => log.spent += 1,
            Spend::Crash => log.crashes += 1,
        }
        let ended = match verdict {
            Verdict::Done => Some(State::Done),
            _ if log.cancel.is_some() => Some(State::Cancelled),
            Verdict::Retry { .. } => None,
            _ if handed_back => None,
            verdict => Some(verdict.state()),
        };
        log.end = ended;
        let (spent, retries, label) = (log.spent, log.retries, log.label.clone());
        self.expect(!handed_back || spends == Spend::Nothing, || {
            format!("P7: a release of `{label}` spent {spends:?}")
        });
        self.expect(!matches!(verdict, Verdict::Retry { .. }) || spent <= retries, || {
            format!("P2: `{label}` is run again after {spent} of {retries}")
        });
        let store = self.jobs[at].store;
        let follow = settlement.more.as_ref().map_or(&[][..], |more| &more.follow);
        if ended != Some(State::Cancelled) {
            follow.iter().for_each(|job| self.accept(store, job));
        }
        self.expect_followed(at, ended);
    }

    /// What follows from an end is durable with it, or before (P4).
    fn expect_followed(&mut self, at: usize, ended: Option<State>) {
        let log = &self.jobs[at];
        let (Some(fate), Some(id)) = (log.fate, &log.id) else { return };
        let owed: Vec<JobId> = match ended {
            Some(State::Dead) if !log.is_handler => vec![id.failed(1)],
            Some(State::Done) if fate.ends_well() => {
                (1..=fate.follow as usize).map(|n| id.child(n)).collect()
            }
            _ => return,
        };
        let label = log.label.clone();
        for id in owed {
            let known = self.by_id.get(&id).is_some_and(|at| !self.jobs[*at].vanished);
            self.expect(known, || format!("P4: `{label}` has ended, and `{id}`, which follows, is nowhere"));
        }
    }

    pub(super) fn leased(&mut self, store: u8, token: Token, leased: &Leased) {
        let lease = LeaseRef { token, index: leased.index };
        let Some(at) = self.find(leased) else {
            return self
                .violate(format!("P1: the store leased a job that nobody enqueued: {:?}", leased.entry));
        };
        if self.leases.get(&lease) == Some(&at) {
            // The same exchange, arriving again.
            return;
        }
        let label = self.jobs[at].label.clone();
        if let Some(lost) = self.jobs[at].open.take() {
            self.leases.remove(&lost.lease);
            self.expect_lost_in_need(lost.lease, &label);
            let patient = self.contacts.get(&store).is_some_and(Contact::is_patient);
            self.expect(!patient, || {
                format!("P6: `{label}` was taken over although its store has seen no manager for long")
            });
            let log = &mut self.jobs[at];
            log.cut_off += u32::from(lost.started);
            log.lost_as_suspect += u32::from(lost.suspect);
        }
        let at_once = self.at_once(at);
        self.expect(at_once == 0, || format!("P6: `{label}` was taken over while it ran"));
        let log = &mut self.jobs[at];
        log.open = Some(OpenLease { lease, suspect: is_suspect(leased), started: false });
        let (ended, cancel, foreign) = (log.end, log.cancel.is_some(), log.store != store || log.vanished);
        self.expect(ended.is_none(), || format!("P1: `{label}` was leased after it ended {ended:?}"));
        self.expect(!cancel, || format!("P9: `{label}` was leased after it was cancelled"));
        self.expect(!foreign, || format!("P1: `{label}` was leased by a store that was never given it"));
        self.leases.insert(lease, at);
    }

    /// The job of a lease.
    pub(super) fn known(&self, leased: &Leased) -> Option<usize> {
        match &leased.entry {
            Entry::Job(job) => self.by_id.get(job.id.as_ref()?).copied(),
            Entry::Raw(bytes) => self.by_bytes.get(&bytes[..]).copied(),
            Entry::Malformed(_) => None,
        }
    }

    /// The job of a lease that was given; bytes get their id at their first.
    fn find(&mut self, leased: &Leased) -> Option<usize> {
        let at = self.known(leased)?;
        if let Entry::Raw(_) = leased.entry {
            let id = JobId::claimed(leased.record.first?.lease);
            self.by_id.insert(id.clone(), at);
            let log = &mut self.jobs[at];
            // One whose claim its store has forgotten is new to it.
            let may_change = !log.forgotten_leases.is_empty();
            let known = log.id.replace(id.clone());
            let (label, same) = (log.label.clone(), known.as_ref().is_none_or(|known| *known == id));
            self.expect(same || may_change, || format!("P2: `{label}` changed its id to {id}"));
        }
        Some(at)
    }

    pub(super) fn power_lost(&mut self, loss: &Loss) {
        self.note(|| {
            let lost: Vec<String> = loss.leases.iter().map(|(lease, _)| words::lease(lease)).collect();
            let renewals = loss.renewals.len();
            format!("the store loses power, and leases {}; {renewals} renewals", lost.join(", "))
        });
        self.forgotten.extend(&loss.renewals);
        for (lease, suspect) in &loss.leases {
            let Some(at) = self.leases.get(lease).copied() else { continue };
            let label = self.jobs[at].label.clone();
            self.expect(!suspect, || format!("P7: the start of suspect `{label}` was not durable"));
            self.close(*lease, at);
            self.jobs[at].forgotten_leases.push(*lease);
        }
        self.excuse();
    }

    pub(super) fn forget_since(&mut self, then: &[Log]) {
        self.note(|| "the store forgets: it is what it was at its snapshot".into());
        for (at, now) in self.jobs.iter_mut().enumerate().filter(|(_, log)| log.store == MAIN) {
            let mut leases = std::mem::take(&mut now.forgotten_leases);
            leases.extend(now.open.as_ref().map(|open| open.lease));
            match then.get(at).filter(|then| !then.vanished) {
                Some(then) => {
                    let forgotten = then.forgotten + (now.runs - then.runs);
                    leases.retain(|lease| then.open.as_ref().is_none_or(|open| open.lease != *lease));
                    let was_cancelled = now.was_cancelled;
                    *now = Log { runs: now.runs, forgotten, was_cancelled, ..then.clone() };
                }
                None => {
                    now.vanished = true;
                    now.open = None;
                }
            }
            now.forgotten_leases = leases;
        }
        let (jobs, leases) = (&self.jobs, &mut self.leases);
        leases.retain(|_, at| jobs[*at].store != MAIN);
        for (at, log) in jobs.iter().enumerate().filter(|(_, log)| log.store == MAIN) {
            if let Some(open) = &log.open {
                leases.insert(open.lease, at);
                self.forgotten.insert(open.lease.token);
            }
        }
        self.excuse();
    }

    /// Runs whose lease the main store does not know any more, or not to last so long, are no fault of their
    /// managers.
    fn excuse(&mut self) {
        for run in self.runs.all.values_mut() {
            let at_main = run.at.is_some_and(|at| self.jobs[at].store == MAIN);
            let known = self.leases.contains_key(&run.lease) && !self.forgotten.contains(&run.lease.token);
            run.excused |= at_main && !known;
        }
    }
}

/// Whether a job is leased alone: a run of it was lost, with or without proof against it.
pub(super) fn is_suspect(leased: &Leased) -> bool {
    leased.record.suspect || leased.record.crashes > 0
}
