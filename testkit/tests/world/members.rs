//! The managers of a world.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use ganger_core::{
    BoxFuture, DynProvider, HANDLER_PREFIX, Period, ProviderError, ProviderOptions, WorkerOptions,
};
use ganger_manager::{HandlerPlan, Manager, OpenProviderFn, Plan, Running, Runtimes, Spawn};
use ganger_testkit::simulation::{Fate, FateWorkers, Life, SimClock, Wire};
use tokio::time::Instant;

use super::{Setting, chaos::Event, pass};

/// How long a manager may take to end beyond its grace: to stop its runs, to say its last words, and to
/// close.
const LAST_STEPS: Duration = Duration::from_secs(16);

/// Tasks of a manager live on its life.
struct Mortals(Arc<Life>);

impl Spawn for Mortals {
    fn spawn(&self, task: BoxFuture<'static, ()>) {
        self.0.spawn(task);
    }
}

/// A manager of the world.
pub(super) struct Member {
    pub(super) life: Arc<Life>,
    pub(super) clock: Arc<SimClock>,
    /// Its pools: what they do, and how many slots they have.
    pub(super) pools: Vec<(String, u32)>,
    running: Arc<Mutex<Option<Arc<Running>>>>,
    grace: Duration,
    /// Since when it drains.
    draining: Option<Instant>,
    ended: Arc<AtomicBool>,
}

impl Member {
    /// As the story calls it.
    pub(super) fn name(&self) -> String {
        format!("{:04x}", self.life.incarnation & 0xffff)
    }

    /// Whether it asks for jobs.
    pub(super) fn is_at_work(&self) -> bool {
        !self.life.is_over() && self.draining.is_none()
    }
}

impl Setting {
    /// There is always somebody to do the work, in peace.
    pub(super) fn see_to_members(&mut self) {
        self.members.retain(|member| !member.life.is_over());
        if !self.members.iter().any(Member::is_at_work) {
            self.add_member();
        }
    }

    pub(super) fn add_member(&mut self) {
        if self.members.iter().filter(|member| member.is_at_work()).count() >= 4 {
            return;
        }
        let mortal = self.events.contains(&Event::Kill) && !self.at_peace && self.chance.hits(50);
        let polls = if mortal { self.chance.between(20, 4_000) } else { u64::MAX };
        let life = Life::new(self.chance.draw() | 1, polls);
        self.ledger.joined(&life);
        let clock = Arc::new(SimClock::since(self.start));
        let mut pools = Vec::new();
        let plan = self.plan(&life, &clock, &mut pools);
        let grace = plan.grace;
        let running = Arc::new(Mutex::new(None));
        let (slot, ledger) = (running.clone(), self.ledger.clone());
        life.spawn(Box::pin(async move {
            match Manager::start(plan).await {
                Ok(started) => *slot.lock().unwrap() = Some(Arc::new(started)),
                Err(error) => ledger.violate(format!("a manager did not start: {error}")),
            }
        }));
        let (draining, ended) = (None, Arc::default());
        self.members.push(Member { life, clock, pools, running, grace, draining, ended });
    }

    fn plan(&mut self, life: &Arc<Life>, clock: &Arc<SimClock>, pools: &mut Vec<(String, u32)>) -> Plan {
        let spawn = Arc::new(Mortals(life.clone()));
        let mut plan = Plan::new();
        plan.incarnation = life.incarnation;
        plan.clock = clock.clone();
        plan.runtimes = Runtimes::given(spawn.clone(), spawn);
        plan.grace = self.chance.millis(0, 8_000);
        for at in 0..self.places.len() {
            let options =
                ProviderOptions { lease: Some(Period::from(self.lease)), ..ProviderOptions::default() };
            plan = plan.provider(self.places[at].name, options, self.opening(at));
        }
        let workers = Arc::new(FateWorkers { ledger: self.ledger.clone(), life: life.clone() });
        for kind in ["sim", "other"] {
            let slots = self.chance.between(1, 4) as u32;
            pools.push((kind.to_owned(), slots));
            let options = WorkerOptions { workers: slots, ..WorkerOptions::default() };
            plan = plan.worker(kind, options, workers.clone());
        }
        let (params, options) = (Fate::WELL.job("", "", 0).params, WorkerOptions::default());
        pools.push((format!("{HANDLER_PREFIX}note"), options.workers));
        plan.handler(HandlerPlan { name: "note".into(), workers, options, params })
    }

    /// Opens a wire to a store, sometimes after it has failed to.
    fn opening(&mut self, at: usize) -> OpenProviderFn {
        let branch = self.chance.branch();
        let place = &self.places[at];
        let (store, ledger): (Arc<dyn DynProvider>, _) = (Arc::new(place.store.clone()), self.ledger.clone());
        let wire = Wire::between(store, place.number, ledger, place.weather.clone(), branch);
        let fails = if self.untouched { 0 } else { self.chance.below(3) };
        let fails = Mutex::new(fails);
        Arc::new(move |_| {
            let mut fails = fails.lock().unwrap();
            let opened = match *fails {
                0 => Ok(wire.clone()),
                _ => Err(ProviderError::transient("connection refused")),
            };
            *fails = fails.saturating_sub(1);
            Box::pin(async { opened })
        })
    }

    pub(super) fn someone(&mut self) -> Option<usize> {
        let count = self.members.len() as u64;
        (count > 0).then(|| self.chance.below(count) as usize)
    }

    pub(super) fn end_someone(&mut self) {
        if let Some(at) = self.someone() {
            self.ledger.note(|| format!("{} is killed", self.members[at].name()));
            self.members[at].life.end();
        }
    }

    pub(super) fn freeze_someone(&mut self) {
        let Some(at) = self.someone() else { return };
        let still = self.lease * self.chance.between(30, 250) as u32 / 100;
        let member = &self.members[at];
        if member.life.is_over() || member.life.is_frozen() {
            return;
        }
        let (life, ledger, name) = (member.life.clone(), self.ledger.clone(), member.name());
        ledger.note(|| format!("{name} stands still for {still:?}"));
        life.freeze();
        tokio::spawn(async move {
            pass(still).await;
            ledger.note(|| format!("{name} goes on"));
            life.thaw();
        });
    }

    pub(super) fn drain_someone(&mut self) {
        if let Some(at) = self.someone() {
            self.drain(at);
        }
    }

    /// Tells a manager to drain, unless it has not begun, drains already, or is no more.
    fn drain(&mut self, at: usize) {
        let member = &mut self.members[at];
        let running = member.running.lock().unwrap().clone();
        let Some(running) = running.filter(|_| member.is_at_work()) else { return };
        member.draining = Some(Instant::now());
        self.ledger.drained(member.life.incarnation, false);
        running.drain();
        let (ledger, ended, life) = (self.ledger.clone(), member.ended.clone(), member.life.clone());
        member.life.spawn(Box::pin(async move {
            if let Err(error) = running.ended().await {
                ledger.violate(format!("a manager ended with an error: {error}"));
            }
            ledger.drained(life.incarnation, true);
            ended.store(true, Ordering::Relaxed);
        }));
    }

    /// Whoever drains ends in its time, whatever the weather; those that have are no members any more.
    pub(super) fn look_at_drains(&mut self) {
        let ledger = &self.ledger;
        self.members.retain(|member| {
            let Some(since) = member.draining else { return true };
            let ended = member.ended.load(Ordering::Relaxed);
            let awake = !member.life.is_frozen() && member.life.thawed_at().is_none_or(|at| at < since);
            let late = since.elapsed() > member.grace + LAST_STEPS;
            if late && awake && !ended && !member.life.is_over() {
                ledger.violate(format!("P5: {} drains since {:?}", member.name(), since.elapsed()));
            }
            !ended && !late
        });
    }

    /// Everyone drains, and ends.
    pub(super) async fn part(&mut self) {
        for at in 0..self.members.len() {
            self.drain(at);
        }
        let started = Instant::now();
        while !self.members.is_empty() && started.elapsed() < Duration::from_secs(60) {
            pass(Duration::from_millis(100)).await;
            self.members.retain(|member| !member.life.is_over() && member.draining.is_some());
            self.look_at_drains();
        }
    }
}
