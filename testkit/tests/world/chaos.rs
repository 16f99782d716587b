//! What can happen in a world.

use ganger_testkit::simulation::{Chance, Out};

use super::{Setting, pass};

/// Something that happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// Jobs are enqueued.
    Enqueue,
    /// Bytes are pushed, some of which are no jobs.
    Push,
    /// A manager joins, up to four.
    Join,
    /// A job is cancelled, wherever it is.
    Cancel,
    /// From now on a part of all calls goes wrong, or none does.
    Weather,
    /// Requests and replies take long, against the lease.
    Slow,
    /// Slow first, then nothing at all for longer than a lease, then well again.
    Brownout,
    /// A store is out of reach for a while, for everyone.
    Outage,
    /// A manager is killed.
    Kill,
    /// A manager is told to drain.
    Drain,
    /// A manager stands still for a while, mostly for longer than a lease.
    Freeze,
    /// The wall clock of a manager jumps.
    Jump,
    /// The main store loses its power, and what it has not synced.
    PowerLoss,
    /// A snapshot of the main store is taken, or restored.
    Forget,
}

/// What can go wrong.
const FAULTS: [Event; 11] = [
    Event::Cancel,
    Event::Weather,
    Event::Slow,
    Event::Brownout,
    Event::Outage,
    Event::Kill,
    Event::Drain,
    Event::Freeze,
    Event::Jump,
    Event::PowerLoss,
    Event::Forget,
];

impl Event {
    /// What can happen in a world: each fault in some worlds only, so that in most there are few and each
    /// comes often.
    pub(super) fn draw_all(chance: &mut Chance, untouched: bool) -> Vec<Event> {
        let mut all = vec![Event::Enqueue, Event::Push, Event::Join];
        let odds = chance.one_of(&[20, 40, 60]);
        for fault in FAULTS {
            if chance.hits(odds) && (!untouched || fault == Event::Cancel) {
                all.push(fault);
            }
        }
        all
    }
}

impl Setting {
    /// Jobs come, and what can go wrong does.
    pub(super) async fn chaos(&mut self) {
        for _ in 0..self.chance.between(1, 3) {
            self.add_member();
        }
        self.enqueue().await;
        let pause = (self.lease / 4).as_millis() as u64;
        for _ in 0..self.chance.between(4, 16) {
            pass(self.chance.millis(0, pause.max(1_200))).await;
            let event = self.chance.one_of(&self.events.clone());
            self.happen(event).await;
            self.look_at_drains();
        }
    }

    async fn happen(&mut self, event: Event) {
        match event {
            Event::Enqueue => self.enqueue().await,
            Event::Push => self.push(),
            Event::Join => self.add_member(),
            Event::Cancel => self.cancel().await,
            Event::Weather => self.turn(),
            Event::Slow => self.slow(),
            Event::Brownout => self.brownout().await,
            Event::Outage => self.outage().await,
            Event::Kill => self.end_someone(),
            Event::Drain => self.drain_someone(),
            Event::Freeze => self.freeze_someone(),
            Event::Jump => self.jump(),
            Event::PowerLoss => self.lose_power(),
            Event::Forget => self.forget(),
        }
    }

    fn somewhere(&mut self) -> usize {
        self.chance.below(self.places.len() as u64) as usize
    }

    fn turn(&mut self) {
        let (at, percent) = (self.somewhere(), self.chance.one_of(&[0, 5, 20, 60]));
        self.places[at].weather.set_faults(percent);
        self.ledger.note(|| format!("{percent} of 100 calls to `{}` go wrong", self.places[at].name));
        self.look_up();
    }

    fn slow(&mut self) {
        let (at, part) = (self.somewhere(), self.chance.one_of(&[0, 0, 1, 2, 4, 6]));
        let longest = self.lease * part / 6;
        self.places[at].weather.set_slow(longest);
        self.ledger
            .note(|| format!("requests and replies of `{}` take up to {longest:?}", self.places[at].name));
        self.look_up();
    }

    async fn brownout(&mut self) {
        let at = self.somewhere();
        let longest = self.lease * self.chance.one_of(&[1, 2, 3]) / 6;
        self.ledger.note(|| format!("`{}` slows down, up to {longest:?}", self.places[at].name));
        self.places[at].weather.set_slow(longest);
        self.look_up();
        self.enqueue().await;
        pass(self.part_of_a_lease(20, 120)).await;
        self.cut(at).await;
    }

    async fn outage(&mut self) {
        let at = self.somewhere();
        self.cut(at).await;
        // Nobody else may have a hand in it: who lives keeps what it has.
        if self.chance.hits(50) {
            pass(self.lease).await;
        }
    }

    /// A store is out of reach, and then all is well with it.
    async fn cut(&mut self, at: usize) {
        let out = self.chance.one_of(&[Out::All, Out::All, Out::Replies]);
        self.places[at].weather.set_out(out);
        self.ledger.note(|| format!("`{}` is out of reach: {out:?}", self.places[at].name));
        self.look_up();
        pass(self.part_of_a_lease(30, 220)).await;
        let weather = &self.places[at].weather;
        weather.set_out(Out::Nothing);
        weather.set_slow(std::time::Duration::ZERO);
        weather.set_faults(0);
        self.ledger.note(|| format!("all is well with `{}`", self.places[at].name));
        self.look_up();
    }

    fn part_of_a_lease(&mut self, low: u64, high: u64) -> std::time::Duration {
        self.lease * self.chance.between(low, high) as u32 / 100
    }

    fn jump(&mut self) {
        if let Some(at) = self.someone() {
            let millis = self.chance.between(0, 60_000) as i64 - 30_000;
            self.members[at].clock.jump(millis);
            self.ledger.note(|| format!("the wall clock of {} jumps {millis} ms", self.members[at].name()));
        }
    }

    /// The power fails and comes back: requests on their way are lost with what was not synced.
    fn lose_power(&mut self) {
        self.main().weather.restart();
        let loss = self.main().store.lose_power();
        self.ledger.power_lost(&loss);
    }

    /// Takes a snapshot, or goes back to the one there is.
    fn forget(&mut self) {
        let place = &self.places[0];
        match self.snapshot.take() {
            None => {
                self.ledger.note(|| "a snapshot is taken".into());
                self.snapshot = Some((place.store.snapshot(), self.ledger.remember()));
            }
            Some((snapshot, then)) => {
                place.weather.restart();
                place.store.restore(&snapshot);
                self.ledger.forget_since(&then);
                // It may be restored again.
                self.snapshot = self.chance.hits(30).then_some((snapshot, then));
            }
        }
    }
}
