//! One world: a store or two, some managers, a while of chaos, and then peace.

mod chaos;
mod members;
mod peace;

use std::{sync::Arc, time::Duration};

use ganger_core::{Batch, Capabilities, Job, JobId, Sink};
use ganger_testkit::simulation::{
    Chance, Fate, Ledger, MAIN, Out, POISON, Remembered, SimClock, SimStore, Snapshot, Violation, Weather,
};
use tokio::time::Instant;

use self::{chaos::Event, members::Member, peace::Stall};

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
                setting.introduce();
            }
            setting.chaos().await;
            setting.peace().await;
            let ledger = setting.ledger.clone();
            let violations = ledger.check(setting.untouched);
            World { violations, trace: ledger.trace(), runs: ledger.runs(), story: ledger.story() }
        })
    }
}

/// Lets the world's time pass.
async fn pass(time: Duration) {
    // tidy: allow(sleep), virtual: a world's clock is paused from its first moment, by `World::run`
    tokio::time::sleep(time).await;
}

/// A store and how it is reached.
struct Place {
    name: &'static str,
    /// Its number in the ledger.
    number: u8,
    store: SimStore,
    weather: Arc<Weather>,
}

struct Setting {
    chance: Chance,
    start: Instant,
    /// Nothing goes wrong in this world.
    untouched: bool,
    /// What can happen in this world.
    events: Vec<Event>,
    lease: Duration,
    /// The main store, and in some worlds the one that takes what follows from its jobs.
    places: Vec<Place>,
    ledger: Arc<Ledger>,
    members: Vec<Member>,
    ids: Vec<JobId>,
    named: u64,
    at_peace: bool,
    snapshot: Option<(Snapshot, Remembered)>,
    stalls: Vec<Stall>,
}

impl Setting {
    fn new(seed: u64) -> Self {
        let mut chance = Chance::new(seed);
        let start = Instant::now();
        let untouched = chance.hits(15);
        let lease = Duration::from_secs(chance.one_of(&[1, 2, 5, 15]));
        let events = Event::draw_all(&mut chance, untouched);
        let places = draw_places(&mut chance, start);
        if events.contains(&Event::PowerLoss) {
            places[0].store.may_lose_power();
        }
        Setting {
            chance,
            start,
            untouched,
            events,
            lease,
            places,
            ledger: Ledger::new(lease),
            members: Vec::new(),
            ids: Vec::new(),
            named: 0,
            at_peace: false,
            snapshot: None,
            stalls: Vec::new(),
        }
    }

    /// Says what world it is.
    fn introduce(&self) {
        let mut events: Vec<String> = self.events.iter().map(|event| format!("{event:?}")).collect();
        events.dedup();
        self.ledger.note(|| format!("a lease is {:?}; what happens: {}", self.lease, events.join(", ")));
        for place in &self.places {
            let can = ganger_core::DynProvider::capabilities(&place.store).names().join(", ");
            self.ledger.note(|| format!("store {}, `{}`, can: {can}", place.number, place.name));
        }
    }

    /// The store that producers know.
    fn main(&self) -> &Place {
        &self.places[0]
    }

    /// The weather has changed.
    fn look_up(&self) {
        self.ledger.calm(self.places.iter().all(|place| place.weather.is_calm()));
    }

    fn clear_up(&self) {
        for place in &self.places {
            place.weather.set_faults(0);
            place.weather.set_slow(Duration::ZERO);
            place.weather.set_out(Out::Nothing);
        }
        self.look_up();
    }

    fn draw_job(&mut self) -> Job {
        self.named += 1;
        let mut fate = Fate::draw(&mut self.chance, self.lease);
        if self.events.contains(&Event::Kill) && self.chance.hits(2) {
            fate = Fate { how: POISON, fails: u32::MAX, heeds: None, ..fate };
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
        jobs.iter().for_each(|job| self.ledger.accepted(MAIN, job));
        self.ledger.note(|| format!("{} jobs are enqueued", jobs.len()));
        self.main().store.enqueue(Batch::new(jobs)).await.unwrap();
    }

    fn push(&mut self) {
        for _ in 0..self.chance.between(1, 8) {
            self.named += 1;
            let bytes = match self.chance.below(8) {
                0 => format!("no job at all, number {}", self.named).into_bytes(),
                1 => format!(r#"{{"type":"sim","retries":"{}"}}"#, self.named).into_bytes(),
                _ => self.draw_job().to_json().into_bytes(),
            };
            self.ledger.pushed(&bytes);
            self.main().store.push_raw(bytes);
        }
    }

    async fn cancel(&mut self) {
        let count = self.ids.len() as u64;
        if count > 0 {
            let id = self.ids[self.chance.below(count) as usize].clone();
            if self.main().store.cancel(&id).await.unwrap() {
                self.ledger.cancelled(&id);
            }
        }
    }
}

/// Most worlds have one store that can do all; in some it remembers no answers, gives what comes, or cannot
/// hold what follows from its jobs, which goes to a second one then.
fn draw_places(chance: &mut Chance, start: Instant) -> Vec<Place> {
    let clock = Arc::new(SimClock::since(start));
    let able = Capabilities {
        filter: true,
        schedule: true,
        priority: true,
        repeat: true,
        wait_and_claim: true,
        follow: true,
        sink: true,
        find: true,
        durable: true,
        ..Capabilities::NONE
    };
    let follow = !chance.hits(15);
    let (filter, repeat) = (!chance.hits(15), !chance.hits(15));
    let wait_and_claim = repeat && chance.hits(50);
    let can = Capabilities { filter, repeat, wait_and_claim, follow, sink: follow, ..able };
    let place = |name, number, can| Place {
        name,
        number,
        store: SimStore::able(clock.clone(), can),
        weather: Arc::default(),
    };
    let mut places = vec![place("main", MAIN, can)];
    if !follow {
        places.push(place("spool", MAIN + 1, able));
    }
    places
}
