//! One world: a store, some managers, a while of chaos, and then peace.

use std::{sync::Arc, time::Duration};

use ganger_core::{
    Batch, BoxFuture, DynProvider, JobId, Period, ProviderError, ProviderOptions, Sink, WorkerOptions,
    erase_provider,
};
use ganger_manager::{HandlerPlan, Manager, Plan, Running, Runtimes, Spawn};
use ganger_provider_memory::{MemoryConfig, MemoryProvider};
use ganger_testkit::simulation::{
    Chance, Fate, FateWorkers, Ledger, Life, POISON, SimClock, Violation, Weather, Wire,
};
use tokio::time::{Instant, sleep, timeout};

/// How long peace may last before everything has ended. The longest run takes 20 s, the longest backoff 5.
const PEACE: Duration = Duration::from_secs(1_200);

/// What became of a world.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) violations: Vec<Violation>,
    /// Equal for equal seeds.
    pub(crate) trace: u64,
    pub(crate) runs: u32,
    /// What happened, where that was asked for.
    pub(crate) story: Vec<String>,
}

impl World {
    /// Lives one world through.
    pub(crate) fn run(seed: u64, tell: bool) -> World {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let mut setting = Setting::new(seed);
            if tell {
                setting.ledger.tell_all();
            }
            setting.chaos().await;
            setting.peace().await;
            let ledger = setting.ledger.clone();
            let violations = ledger.check(setting.untouched);
            World { violations, trace: ledger.trace(), runs: ledger.runs(), story: ledger.story() }
        })
    }
}

/// Tasks of a manager live on its life.
struct Mortals(Arc<Life>);

impl Spawn for Mortals {
    fn spawn(&self, task: BoxFuture<'static, ()>) {
        self.0.spawn(task);
    }
}

/// A manager of the world.
struct Member {
    life: Arc<Life>,
    clock: Arc<SimClock>,
    running: Arc<std::sync::Mutex<Option<Arc<Running>>>>,
    draining: bool,
}

struct Setting {
    chance: Chance,
    start: Instant,
    /// Nothing goes wrong in this world.
    untouched: bool,
    lease: Duration,
    store: Arc<MemoryProvider>,
    ledger: Arc<Ledger>,
    weather: Arc<Weather>,
    members: Vec<Member>,
    ids: Vec<JobId>,
    named: u64,
    at_peace: bool,
}

impl Setting {
    fn new(seed: u64) -> Self {
        let mut chance = Chance::new(seed);
        let start = Instant::now();
        let clock = Arc::new(SimClock::since(start));
        Setting {
            untouched: chance.hits(15),
            lease: Duration::from_secs(chance.one_of(&[1, 2, 5, 15])),
            start,
            store: Arc::new(MemoryProvider::with(MemoryConfig::default(), clock)),
            ledger: Arc::default(),
            weather: Arc::default(),
            members: Vec::new(),
            ids: Vec::new(),
            named: 0,
            at_peace: false,
            chance,
        }
    }

    /// Jobs come, and what can go wrong does.
    async fn chaos(&mut self) {
        for _ in 0..self.chance.between(1, 3) {
            self.add_member();
        }
        self.enqueue().await;
        for _ in 0..self.chance.between(5, 20) {
            sleep(self.chance.millis(0, 1_500)).await;
            let what = self.chance.below(if self.untouched { 3 } else { 13 });
            match what {
                0 | 1 => self.enqueue().await,
                2 => self.push(),
                3 | 4 => self.weather.set(self.chance.one_of(&[0, 5, 20, 60])),
                5 => self.weather.set_out(true),
                6 | 7 => self.weather.set_out(false),
                8 => self.end_someone(),
                9 => self.add_member(),
                10 => self.drain_someone(),
                11 => self.cancel_something().await,
                _ => self.jump(),
            }
        }
    }

    /// All is well again, and everything ends.
    async fn peace(&mut self) {
        self.ledger.note(|| "peace".into());
        self.weather.set(0);
        self.weather.set_out(false);
        self.at_peace = true;
        self.members.iter().for_each(|member| member.life.spare());
        self.see_to_members();
        let before = self.ledger.calls();
        let healed = Instant::now();
        let mut lively = false;
        while self.ledger.open() > 0 {
            sleep(Duration::from_millis(250)).await;
            self.see_to_members();
            self.look_at_cancelled().await;
            lively |= self.ledger.calls() > before;
            if !lively && healed.elapsed() > self.lease + Duration::from_secs(2) {
                lively = true;
                self.ledger.violate("P5: nothing moved for a lease and 2 s after all was well".into());
            }
            if healed.elapsed() > PEACE {
                let left = self.ledger.unfinished().join(", ");
                return self
                    .ledger
                    .violate(format!("P5: after {PEACE:?} of peace these had not ended: {left}"));
            }
        }
        self.part().await;
    }

    /// Everyone drains, and ends.
    async fn part(&mut self) {
        for member in &self.members {
            if member.life.is_over() {
                continue;
            }
            let running = member.running.lock().unwrap().take();
            let Some(running) = running else { continue };
            running.drain();
            match timeout(Duration::from_secs(60), running.ended()).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => self.ledger.violate(format!("a manager ended with an error: {error}")),
                Err(_) => self.ledger.violate("a manager with nothing to do did not end".into()),
            }
        }
    }

    /// There is always somebody to do the work, in peace.
    fn see_to_members(&mut self) {
        self.members.retain(|member| !member.life.is_over());
        let at_work = |member: &&Member| !member.draining;
        if self.members.iter().filter(at_work).count() == 0 {
            self.add_member();
        }
    }

    fn add_member(&mut self) {
        // One that drains, or has ended so, does no work.
        let at_work = |member: &&Member| !member.life.is_over() && !member.draining;
        if self.members.iter().filter(at_work).count() >= 4 {
            return;
        }
        let polls = if self.untouched || self.at_peace || self.chance.hits(50) {
            u64::MAX
        } else {
            self.chance.between(20, 4_000)
        };
        let life = Life::new(self.chance.draw() | 1, polls);
        let clock = Arc::new(SimClock::since(self.start));
        let plan = self.plan(&life, &clock);
        let running = Arc::new(std::sync::Mutex::new(None));
        let (slot, ledger) = (running.clone(), self.ledger.clone());
        life.spawn(Box::pin(async move {
            match Manager::start(plan).await {
                Ok(started) => *slot.lock().unwrap() = Some(Arc::new(started)),
                Err(error) => ledger.violate(format!("a manager did not start: {error}")),
            }
        }));
        self.members.push(Member { life, clock, running, draining: false });
    }

    fn plan(&mut self, life: &Arc<Life>, clock: &Arc<SimClock>) -> Plan {
        let spawn = Arc::new(Mortals(life.clone()));
        let mut plan = Plan::new();
        plan.incarnation = life.incarnation;
        plan.clock = clock.clone();
        plan.runtimes = Runtimes::given(spawn.clone(), spawn);
        plan.grace = self.chance.millis(0, 8_000);
        let options = ProviderOptions { lease: Some(Period::from(self.lease)), ..ProviderOptions::default() };
        let wire = Wire::between(
            erase_provider(self.store.clone()),
            self.ledger.clone(),
            self.weather.clone(),
            self.chance.branch(),
        );
        let workers = Arc::new(FateWorkers { ledger: self.ledger.clone(), life: life.clone() });
        let mut failing_opens = if self.untouched { 0 } else { self.chance.below(3) };
        let open = std::sync::Mutex::new(move || {
            failing_opens = failing_opens.saturating_sub(1);
            failing_opens > 0
        });
        plan = plan.provider(
            "store",
            options,
            Arc::new(move |_| {
                let opened: Result<Arc<dyn DynProvider>, _> = match (open.lock().unwrap())() {
                    true => Err(ProviderError::transient("connection refused")),
                    false => Ok(wire.clone()),
                };
                Box::pin(async { opened })
            }),
        );
        for kind in ["sim", "other"] {
            let slots = self.chance.between(1, 4) as u32;
            let options = WorkerOptions { workers: slots, ..WorkerOptions::default() };
            plan = plan.worker(kind, options, workers.clone());
        }
        let params = Fate::WELL.job("", "", 0).params;
        plan.handler(HandlerPlan { name: "note".into(), workers, options: WorkerOptions::default(), params })
    }

    fn draw_job(&mut self) -> ganger_core::Job {
        self.named += 1;
        let mut fate = Fate::draw(&mut self.chance);
        if !self.untouched && self.chance.hits(2) {
            fate = Fate { how: POISON, fails: u32::MAX, ..fate };
        }
        let kind = self.chance.one_of(&["sim", "sim", "other"]);
        fate.job(kind, &format!("job-{}", self.named), self.chance.below(4) as u32)
    }

    async fn enqueue(&mut self) {
        let jobs: Vec<_> = (0..self.chance.between(1, 12))
            .map(|_| {
                let mut job = self.draw_job();
                job.id = job.name.as_ref().map(|name| name.parse().unwrap());
                job
            })
            .collect();
        self.ids.extend(jobs.iter().filter_map(|job| job.id.clone()));
        jobs.iter().for_each(|job| self.ledger.accepted(job));
        self.store.enqueue(Batch::new(jobs)).await.unwrap();
    }

    fn push(&mut self) {
        for _ in 0..self.chance.between(1, 8) {
            self.named += 1;
            let bytes = match self.chance.below(8) {
                0 => format!("no job at all, number {}", self.named),
                1 => format!(r#"{{"type":"sim","retries":"{}"}}"#, self.named),
                _ => self.draw_job().to_json(),
            };
            self.ledger.pushed(bytes.as_bytes());
            self.store.push_raw(bytes);
        }
    }

    fn someone(&mut self) -> Option<usize> {
        let count = self.members.len() as u64;
        (count > 0).then(|| self.chance.below(count) as usize)
    }

    fn end_someone(&mut self) {
        if let Some(at) = self.someone() {
            self.ledger.note(|| format!("kill {:04x}", self.members[at].life.incarnation & 0xffff));
            self.members[at].life.end();
        }
    }

    fn drain_someone(&mut self) {
        if let Some(at) = self.someone() {
            let member = &mut self.members[at];
            if let Some(running) = &*member.running.lock().unwrap() {
                running.drain();
                member.draining = true;
            }
        }
    }

    async fn cancel_something(&mut self) {
        let count = self.ids.len() as u64;
        if count > 0 {
            let id = self.ids[self.chance.below(count) as usize].clone();
            if self.store.cancel(&id).await.unwrap() {
                self.ledger.cancelled(&id);
            }
        }
    }

    fn jump(&mut self) {
        if let Some(at) = self.someone() {
            let millis = self.chance.between(0, 60_000) as i64 - 30_000;
            self.members[at].clock.jump(millis);
        }
    }

    async fn look_at_cancelled(&mut self) {
        let ids = self.ledger.cancelled_and_open();
        if ids.is_empty() {
            return;
        }
        for (id, state) in ids.iter().zip(self.store.states(&ids).await.unwrap()) {
            if let Some(state) = state.filter(|state| state.is_end()) {
                self.ledger.ended(id, state);
            }
        }
    }
}
