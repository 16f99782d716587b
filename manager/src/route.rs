//! Sorts what was leased: to its pool, or, where it is not to run, straight to the judge.

use std::{sync::Arc, time::Duration};

use compact_str::CompactString;
use ganger_core::{
    Capabilities, Entry, Event, HANDLER_PREFIX, JOB_BYTES_MAX, Job, JobContext, JobId, JobStart, LeaseRef,
    Leased, Malformed, Outcome, Record, Settlement, Timestamp, Token, Unique, Verdict, What,
};

use crate::{
    UnknownType,
    held::NewClaim,
    house::{House, Pools},
    judge::{Case, judge},
    pool::Queued,
    source::{CrashPermit, Source},
    stats::Tally,
    strays::live_types,
};

/// The pool of a job that has none, in the figures.
const NO_POOL: u32 = u32::MAX;

/// Sorts the claims of one provider.
pub(crate) struct Router {
    house: Arc<House>,
    pools: Arc<Pools>,
    source: Arc<Source>,
    capabilities: Capabilities,
    /// The pool of the job before: most jobs are like their neighbours.
    last: Option<usize>,
    by_pool: Vec<Vec<Queued>>,
    got: Vec<usize>,
    settle: Vec<Settlement>,
    events: Vec<Event>,
}

/// A claim as it was answered.
pub(crate) struct Claimed<'a> {
    pub(crate) token: Token,
    pub(crate) leased: Vec<Leased>,
    /// When the request was first sent.
    pub(crate) sent: Duration,
    /// The answer came so late that the leases may be over: nothing of it is run.
    pub(crate) late: bool,
    /// What was asked for, by pool.
    pub(crate) asked: &'a [(usize, u32)],
    pub(crate) permit: Option<CrashPermit>,
}

impl Router {
    pub(crate) fn new(
        house: Arc<House>,
        pools: Arc<Pools>,
        source: Arc<Source>,
        capabilities: Capabilities,
    ) -> Self {
        let by_pool = pools.all().iter().map(|_| Vec::new()).collect();
        let got = vec![0; pools.all().len()];
        let (settle, events) = (Vec::new(), Vec::new());
        Router { house, pools, source, capabilities, last: None, by_pool, got, settle, events }
    }

    /// Takes a claim in: everything in it is held from now on, and on its way to a slot or back. How many jobs of
    /// it there were by pool.
    pub(crate) async fn take(&mut self, claimed: Claimed<'_>) -> &[usize] {
        let Claimed { token, leased, sent, late, asked, permit } = claimed;
        self.got.fill(0);
        if leased.is_empty() {
            return &self.got;
        }
        let permit = permit.filter(|_| leased.iter().any(|job| job.record.crashes > 0));
        let mut claim = NewClaim::new(token, sent, leased.len(), permit);
        let now = self.house.clock.wall();
        let mut nobody = Vec::new();
        for Leased { index, entry, record } in leased {
            let lease = LeaseRef { token, index };
            match self.sort(lease, entry, record, now, late) {
                Sorted::Run { pool, run } => {
                    claim.put(index, Some(run.clone()));
                    let weight = run.job().weight();
                    self.by_pool[pool].push(Queued { run, weight });
                }
                Sorted::Settled => claim.put(index, None),
                Sorted::NoWorker { job, record } => {
                    claim.put(index, None);
                    nobody.push((lease, job, record));
                }
            }
        }
        self.source.held.add(claim);
        self.got.iter_mut().zip(&self.by_pool).for_each(|(got, jobs)| *got = jobs.len());
        self.hand_out(asked, now);
        if !nobody.is_empty() {
            self.settle_nobodys(nobody, now).await;
        }
        self.house.events.tell(std::mem::take(&mut self.events));
        self.source.settle(&mut self.settle, true);
        &self.got
    }

    /// Gives every pool its jobs. What it has no room for is set aside: a raw list gives what comes.
    fn hand_out(&mut self, asked: &[(usize, u32)], now: Timestamp) {
        for at in 0..self.by_pool.len() {
            if self.by_pool[at].is_empty() {
                continue;
            }
            let mut jobs = std::mem::take(&mut self.by_pool[at]);
            let room = asked.iter().find(|(pool, _)| *pool == at).map_or(0, |(_, room)| *room as usize);
            if jobs.len() > room {
                let mut beyond = jobs.split_off(room);
                // A store that filters knows what it gives, unless it gives bytes.
                let filtered = |job: &Queued| self.capabilities.filter && job.run.record().first.is_none();
                jobs.extend(beyond.extract_if(.., |job| filtered(job)));
                for Queued { run, .. } in beyond {
                    self.settle.push(park(run.lease(), run.job(), run.record(), None));
                }
            }
            self.pools.all()[at].push(&mut jobs);
            for Queued { run, .. } in jobs.drain(..) {
                self.end(run.lease(), Some(at), Some(run.job()), run.record(), Outcome::Released, now);
            }
            self.by_pool[at] = jobs;
        }
    }

    fn sort(&mut self, lease: LeaseRef, entry: Entry, record: Record, now: Timestamp, late: bool) -> Sorted {
        let raw = matches!(entry, Entry::Raw(_));
        let mut job = match read(lease, entry, &record, now) {
            Ok(job) => job,
            Err(fault) if late => {
                drop(fault);
                return self.end(lease, None, None, &record, Outcome::Released, now);
            }
            Err(fault) => {
                tracing::warn!(provider = %self.source.name, %fault, "an entry is no job: to the dead letters");
                return self.end(lease, None, None, &record, Outcome::Malformed(fault), now);
            }
        };
        let pool = self.pool(&job.kind);
        if let Some(outcome) = self.not_to_run(&job, &record, pool, now, late, raw) {
            return self.end(lease, pool, Some(&job), &record, outcome, now);
        }
        if let Some(until) = job.run_at.filter(|at| *at > now && (raw || !self.capabilities.schedule)) {
            self.settle.push(park(lease, &job, &record, Some(until)));
            return Sorted::Settled;
        }
        let Some(pool) = pool else { return Sorted::NoWorker { job: job.into(), record } };
        if job.params.is_none() {
            job.params.clone_from(&self.pools.all()[pool].params);
        }
        let start = JobStart {
            job,
            lease,
            origin: self.source.index,
            record,
            events: self.house.events.clone(),
            output_max: self.house.output_max,
        };
        Sorted::Run { pool, run: JobContext::new(start) }
    }

    /// Why a leased job is not run, if it is not.
    fn not_to_run(
        &self,
        job: &Job,
        record: &Record,
        pool: Option<usize>,
        now: Timestamp,
        late: bool,
        raw: bool,
    ) -> Option<Outcome> {
        if late {
            return Some(Outcome::Released);
        }
        if record.cancel {
            return Some(Outcome::Cancelled);
        }
        if let Some(of) = &record.duplicate_of {
            return Some(Outcome::Duplicate(of.clone()));
        }
        if raw {
            if job.kind.starts_with(HANDLER_PREFIX) {
                let message = format!("types that begin with `{HANDLER_PREFIX}` are not for producers");
                return Some(Outcome::Malformed(Malformed::whole(message)));
            }
            if let Err(refused) = self.capabilities.admit(job) {
                return Some(Outcome::Malformed(Malformed::whole(refused.message)));
            }
        }
        let policy = pool.map_or(&self.house.policy, |at| &self.pools.all()[at].policy);
        if record.crashes >= policy.max_crashes {
            return Some(Outcome::Crashed);
        }
        let untried = record.spent == 0 && record.crashes == 0 && record.attempts.is_empty();
        (untried && job.expires_at.is_some_and(|at| at <= now)).then_some(Outcome::Expired)
    }

    fn pool(&mut self, kind: &CompactString) -> Option<usize> {
        if let Some(last) = self.last
            && self.pools.all()[last].kind == *kind
        {
            return Some(last);
        }
        let found = self.pools.find(kind);
        self.last = found.or(self.last);
        found
    }

    /// Ends a job that is not run.
    fn end(
        &mut self,
        lease: LeaseRef,
        pool: Option<usize>,
        job: Option<&Job>,
        record: &Record,
        outcome: Outcome,
        now: Timestamp,
    ) -> Sorted {
        let policy = pool.map_or(&self.house.policy, |at| &self.pools.all()[at].policy);
        let tally = Tally::of(&outcome, false);
        let settlement = judge(Case { lease, job, record, run: None }, outcome, policy, now);
        let tally = tally.judged(&settlement.verdict);
        if tally != Tally::default() {
            let number = pool.map_or(NO_POOL, |at| self.pools.all()[at].index);
            let at = self.house.clock.monotonic();
            self.house.stats.count(0, number, self.source.index, &tally, &[], at);
            if let Some(via) = job.and_then(|job| job.rare().via.as_ref()) {
                self.house.stats.count_via(0, number, via, &tally, at);
            }
        }
        self.tell(lease, job, &settlement, now);
        self.settle.push(settlement);
        Sorted::Settled
    }

    fn tell(&mut self, lease: LeaseRef, job: Option<&Job>, settlement: &Settlement, now: Timestamp) {
        let reason = match &settlement.verdict {
            Verdict::Dead { reason } => Some(reason.clone()),
            Verdict::Expired => Some("not started in time".to_owned()),
            Verdict::Duplicate { of } => Some(Unique::duplicate_of(of)),
            _ => None,
        };
        let id = job.and_then(|job| job.id.clone()).unwrap_or_else(|| JobId::claimed(lease));
        let kind = job.map(|job| job.kind.to_string()).unwrap_or_default();
        // Of an entry that is no job it has been said already.
        if let (Some(error), Some(_)) = (&reason, job) {
            tracing::warn!(%id, "type" = kind, error, "a job was not run");
        }
        let state = settlement.verdict.state();
        self.house.events.changed(&id, now, state, reason.as_deref());
        if self.house.events.heard() {
            self.events.push(Event { id, kind, at: now, what: What::State { state, error: reason } });
        }
    }

    /// Jobs of types that no worker here does.
    async fn settle_nobodys(&mut self, jobs: Vec<(LeaseRef, Box<Job>, Record)>, now: Timestamp) {
        let mut kinds: Vec<_> = jobs.iter().map(|(_, job, _)| job.kind.clone()).collect();
        kinds.sort_unstable();
        kinds.dedup();
        let live = match self.house.policy.unknown {
            UnknownType::Park => None,
            UnknownType::Dead => live_types(&self.source).await,
        };
        // What is kept is not asked for again at once.
        self.source.strays().retain(|kind| live.as_ref().is_some_and(|live| !live.contains(kind)));
        for (lease, job, record) in jobs {
            // Whoever cannot know whether somebody does it keeps it.
            let dead = live.as_ref().is_some_and(|live| !live.contains(job.kind.as_str()));
            if dead {
                self.end(lease, None, Some(&job), &record, Outcome::NoWorker, now);
            } else {
                self.settle.push(park(lease, &job, &record, None));
            }
        }
        tracing::warn!(provider = %self.source.name, types = ?kinds, "no worker here does these types: their jobs are set aside, or dead where the config says so");
    }
}

/// Where a leased entry goes.
enum Sorted {
    Run { pool: usize, run: JobContext },
    Settled,
    NoWorker { job: Box<Job>, record: Record },
}

/// Reads an entry as a job whose id and times are fixed.
fn read(lease: LeaseRef, entry: Entry, record: &Record, now: Timestamp) -> Result<Job, Malformed> {
    let bytes = match entry {
        Entry::Job(job) => return Ok(job),
        Entry::Malformed(fault) => return Err(fault),
        Entry::Raw(bytes) => bytes,
    };
    if bytes.len() > JOB_BYTES_MAX {
        return Err(Malformed::whole(format!("{} bytes: a job has at most {JOB_BYTES_MAX}", bytes.len())));
    }
    let mut job = Job::from_json(&bytes)?;
    let (first, at) = record.first.map_or((lease, now), |first| (first.lease, first.at));
    job.id.get_or_insert_with(|| JobId::claimed(first));
    job.accept(at);
    Ok(job)
}

/// Sets a job aside: nothing is spent.
fn park(lease: LeaseRef, job: &Job, record: &Record, until: Option<Timestamp>) -> Settlement {
    let mut settlement = Settlement::new(lease, Verdict::Park { until });
    if record.first.is_some() {
        settlement.more_mut().kind = Some(job.kind.clone());
    }
    settlement
}
