//! One loop a provider: waits until there may be work or there is something to settle; then one exchange carries
//! all verdicts gathered since the last and asks for what there is room for.
//!
//! An exchange whose answer is unknown is repeated with the same token, so that its answer is the same. Its
//! leases count from when it was first sent; once two thirds of a lease are over, the token is given up (whatever
//! was leased under it runs out by itself) and the verdicts go with a new one.

use std::{pin::pin, sync::Arc, time::Duration};

use ganger_core::{
    DynProvider, Exchange, Exchanged, ProviderError, Room, Settlement, Severity, Token, TypeRoom,
};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::{
    follow::store_follow_ups,
    house::{House, Phase, Pools},
    pace::Pace,
    pool::PREFETCH_MAX,
    retry::Backing,
    route::{Claimed, Router},
    source::{CrashPermit, Source},
};

/// How long verdicts are gathered while the pools hold work and nobody waits for one: so long in any case, then on
/// until they are worth a commit, at most so long (see `docs/decisions`).
const GATHER: Duration = Duration::from_millis(5);
const GATHER_MAX: Duration = Duration::from_millis(25);

/// So many verdicts are worth a commit.
const GATHER_JOBS: usize = 32;

/// So many jobs of a type that nobody does are taken at a time.
const STRAYS_MAX: u32 = 100;

/// At most so many bytes of jobs in one exchange.
const EXCHANGE_BYTES_MAX: u64 = 8 << 20;

/// The loop of one provider.
pub(crate) struct ExchangeLoop {
    house: Arc<House>,
    pools: Arc<Pools>,
    source: Arc<Source>,
    provider: Arc<dyn DynProvider>,
    router: Router,
    pace: Option<Pace>,
    /// The token of a wait that may have claimed, or may yet, and when it was sent: the next exchange has it.
    waited: Option<(Token, Duration)>,
    /// Verdicts on their way; kept until they are answered.
    settle: Vec<Settlement>,
    urgent: bool,
    gather_since: Option<Instant>,
    /// There may be more for us right now.
    more: bool,
    /// By pool: the store had nothing for it when it was last asked. Asking again can wait for the next exchange.
    dry: Vec<bool>,
    /// The last claim was a suspect, or nothing: whose turn it is alternates.
    suspects_next: bool,
}

/// What is asked for in an exchange.
#[derive(Default)]
struct Ask {
    room: Room,
    /// Room by pool, to be reserved while the exchange is under way.
    by_pool: Vec<(usize, u32)>,
    /// A pool runs low that the store may have something for.
    hungry: bool,
    /// A pool runs low that the store had nothing for: what comes for it shall not wait long.
    idle: bool,
    /// Jobs wait in a pool.
    works: bool,
    /// Ask again soon: another was let go first, or the pace allows it only then.
    again: Option<Instant>,
}

/// What the loop does next.
enum Step {
    /// An exchange with what was asked for.
    Go,
    /// Verdicts are gathered until then, unless something is worth an exchange before.
    Gather(Instant),
    /// Look again when something is new, or at a time.
    Rest(Option<Instant>),
    /// Wait for the provider to have something.
    Wait,
}

impl ExchangeLoop {
    pub(crate) fn new(
        house: Arc<House>,
        pools: Arc<Pools>,
        source: Arc<Source>,
        provider: Arc<dyn DynProvider>,
    ) -> Self {
        let router = Router::new(house.clone(), pools.clone(), source.clone(), provider.capabilities());
        let pace = Pace::new(source.options.target, Instant::now());
        let dry = vec![false; pools.all().len()];
        ExchangeLoop {
            house,
            pools,
            source,
            provider,
            router,
            pace,
            waited: None,
            settle: Vec::new(),
            urgent: false,
            gather_since: None,
            more: true,
            dry,
            suspects_next: true,
        }
    }

    /// Runs until a drain has handed everything back, or the manager stops.
    pub(crate) async fn run(mut self) {
        loop {
            self.collect();
            match self.house.phase() {
                Phase::Stopped => return,
                Phase::Running => {}
                _ if self.settle.is_empty() && self.waited.is_none() && self.source.held.open() == 0 => {
                    return;
                }
                _ => {}
            }
            let mut ask = self.ask();
            match self.next_step(&ask) {
                Step::Go => {}
                Step::Gather(until) => {
                    self.source.gather(GATHER_JOBS.saturating_sub(self.settle.len()));
                    self.rest(Some(until)).await;
                    continue;
                }
                Step::Rest(until) => {
                    self.rest(until).await;
                    continue;
                }
                Step::Wait => {
                    if !self.wait_for_work(&ask).await {
                        continue;
                    }
                    self.dry.fill(false);
                    self.collect();
                    ask = self.ask();
                }
            }
            if self.exchange(ask).await.is_none() {
                return;
            }
        }
    }

    /// Takes what the slots have handed over.
    fn collect(&mut self) {
        self.urgent |= self.source.collect(&mut self.settle);
        let lost = self.source.held.drop_lost(&mut self.settle);
        if lost > 0 {
            self.house.stats.count_stale(lost);
            tracing::warn!(provider = %self.source.name, lost, "verdicts came too late: their leases are lost");
        }
    }

    /// What there is room for.
    fn ask(&mut self) -> Ask {
        let mut ask = Ask::default();
        let clock = self.house.clock.monotonic();
        if self.house.phase() != Phase::Running || self.source.is_away(clock) {
            return ask;
        }
        let now = Instant::now();
        let mut most = PREFETCH_MAX;
        if let Some(pace) = &mut self.pace {
            most = pace.allowed(now).min(PREFETCH_MAX);
            if most == 0 {
                ask.again = Some(now + pace.wait());
                return ask;
            }
        }
        let mut all = 0u32;
        for (at, pool) in self.pools.all().iter().enumerate() {
            let room = pool.room(self.source.index, clock);
            ask.hungry |= room.hungry && !self.dry[at];
            ask.idle |= room.hungry && self.dry[at];
            ask.works |= room.works;
            if room.yielded {
                ask.again = Some(now + GATHER);
            }
            if room.jobs > 0 {
                ask.room.types.push(TypeRoom { kind: pool.kind.clone(), jobs: room.jobs });
                ask.by_pool.push((at, room.jobs));
                all = all.saturating_add(room.jobs);
            }
        }
        for kind in self.source.strays().iter() {
            ask.room.types.push(TypeRoom { kind: kind.clone(), jobs: STRAYS_MAX });
            all = all.saturating_add(STRAYS_MAX);
        }
        ask.room.jobs = all.min(most);
        ask.room.bytes = EXCHANGE_BYTES_MAX;
        if all > 0 && self.suspects_next {
            ask.room.suspect = true;
            // The permit is taken for the exchange only: who rests or waits has none.
            ask.room.crashed = CrashPermit::is_free(&self.house.crash_permit);
        }
        ask
    }

    /// What to do. Worth an exchange at once are a verdict that somebody waits for, a pool that runs low, and, where
    /// no jobs wait in any pool, whatever there is; all else is gathered a little.
    fn next_step(&mut self, ask: &Ask) -> Step {
        if self.waited.is_some() {
            return Step::Go;
        }
        let settles = !self.settle.is_empty();
        if !settles && (ask.room.is_none() || !self.more) {
            self.gather_since = None;
            return if ask.room.is_none() { Step::Rest(ask.again) } else { Step::Wait };
        }
        let running = self.house.phase() == Phase::Running;
        let pressing = ask.hungry || (settles && (self.urgent || !ask.works || !running));
        let now = Instant::now();
        let since = *self.gather_since.get_or_insert(now);
        let worth = !settles || ask.idle || self.settle.len() >= GATHER_JOBS;
        let end = since + if worth { GATHER } else { GATHER_MAX };
        if pressing || now >= end { Step::Go } else { Step::Gather(end) }
    }

    /// Until the bell, a new order, or a time.
    async fn rest(&self, until: Option<Instant>) {
        let phase = self.house.phase();
        tokio::select! {
            biased;
            () = self.source.bell.notified() => {}
            () = self.house.left(phase) => {}
            () = sleep_until(until.unwrap_or_else(|| Instant::now() + self.source.lease())) => {}
        }
    }

    /// Until the provider has something; whether it may. The wait is ended and begun again now and then: a wake-up
    /// that got lost must not be waited for.
    async fn wait_for_work(&mut self, ask: &Ask) -> bool {
        let claims = self.provider.capabilities().wait_and_claim;
        // What a wait claims counts from when it began: there must be time left to renew it.
        let limit = self.source.lease() / if claims { 6 } else { 3 };
        let phase = self.house.phase();
        let (token, sent) = (self.token(), self.house.clock.monotonic());
        if claims {
            self.waited = Some((token, sent));
        }
        let give = Exchange { token, settle: Vec::new(), room: ask.room.clone(), lease: self.source.lease() };
        let provider = self.provider.clone();
        let mut wait = pin!(timeout(limit, provider.wait_and_claim(&give)));
        let waited = loop {
            tokio::select! {
                biased;
                () = self.source.bell.notified() => if self.has_changed(&give.room) { return false },
                () = self.house.left(phase) => return false,
                waited = &mut wait => break waited,
            }
        };
        match waited {
            Ok(Err(error)) => {
                if self.take_error(error, "waiting for work") {
                    self.pause(Duration::from_millis(500)).await;
                    self.more = true;
                }
                false
            }
            Ok(Ok(Some(answer))) => {
                self.waited = None;
                self.source.well(&self.house, "exchange");
                let asked = self.still_asked(&ask.by_pool);
                self.take_answer(answer, &give, sent, None, &asked).await;
                false
            }
            Ok(Ok(None)) | Err(_) => true,
        }
    }

    /// Whether a wait for this room is over. One that claims goes on as long as nothing is to be settled and the same
    /// types have room: to end it costs an exchange.
    fn has_changed(&mut self, room: &Room) -> bool {
        self.collect();
        let kinds = |room: &Room| room.types.iter().map(|of| of.kind.clone()).collect::<Vec<_>>();
        self.waited.is_none() || !self.settle.is_empty() || kinds(&self.ask().room) != kinds(room)
    }

    /// What there is room for of what was asked: a wait reserves none, and others may have filled it. A pool that
    /// closes takes nothing anyway.
    fn still_asked(&self, by_pool: &[(usize, u32)]) -> Vec<(usize, u32)> {
        let running = self.house.phase() == Phase::Running;
        let left =
            |at: usize, jobs: u32| if running { jobs.min(self.pools.all()[at].room_now()) } else { jobs };
        by_pool.iter().map(|(at, jobs)| (*at, left(*at, *jobs))).collect()
    }

    /// Waits, unless the orders change.
    async fn pause(&self, wait: Duration) {
        let phase = self.house.phase();
        tokio::select! {
            biased;
            () = self.house.left(phase) => {}
            () = sleep(wait) => {}
        }
    }

    /// Notes an error; whether trying again can help.
    fn take_error(&self, error: ProviderError, doing: &str) -> bool {
        if error.severity() == Severity::Fatal {
            self.house.fatal(&self.source.name, error);
            return false;
        }
        self.source.trouble(&self.house, "exchange", &format!("{doing}: {error}"));
        true
    }

    /// One exchange, repeated until its answer is known. `None` when the loop must end.
    async fn exchange(&mut self, mut ask: Ask) -> Option<()> {
        fail::fail_point!("manager::before_settle");
        if !store_follow_ups(&self.house, &self.source, &self.provider, &mut self.settle).await {
            self.pause(Duration::from_millis(200)).await;
            return (self.house.phase() < Phase::Stopped).then_some(());
        }
        let took_time = !self.provider.capabilities().follow;
        if took_time
            && (self.house.phase() != Phase::Running || self.source.is_away(self.house.clock.monotonic()))
        {
            // That came while what follows was stored.
            ask = Ask::default();
        }
        self.gather_since = None;
        self.urgent = false;
        for (pool, jobs) in &ask.by_pool {
            self.pools.all()[*pool].reserve(self.source.index, *jobs);
        }
        let asked_suspect = ask.room.suspect;
        let permit = ask.room.crashed.then(|| CrashPermit::take(&self.house.crash_permit)).flatten();
        ask.room.crashed = permit.is_some();
        let waited = self.waited.take();
        let mut give = Exchange {
            token: waited.map_or_else(|| self.token(), |(token, _)| token),
            settle: std::mem::take(&mut self.settle),
            room: ask.room,
            lease: self.source.lease(),
        };
        let asked = ask.by_pool.clone();
        let mut reserved = Some(ask.by_pool);
        let first_sent = waited.map_or_else(|| self.house.clock.monotonic(), |(_, sent)| sent);
        let (answer, sent) = match self.until_answered(&mut give, first_sent, &mut reserved).await {
            Some(answered) => answered,
            None => {
                self.unreserve(reserved);
                return None;
            }
        };
        fail::fail_point!("manager::after_claim");
        self.take_answer(answer, &give, sent, permit, &asked).await;
        self.suspects_next |= !asked_suspect;
        self.unreserve(reserved);
        give.settle.clear();
        self.settle = give.settle;
        Some(())
    }

    fn token(&self) -> Token {
        Token { incarnation: self.house.incarnation, seq: self.house.next_seq() }
    }

    fn unreserve(&self, reserved: Option<Vec<(usize, u32)>>) {
        for (pool, jobs) in reserved.into_iter().flatten() {
            self.pools.all()[pool].unreserve(jobs);
        }
    }

    /// Sends an exchange until it is answered: the answer, and when the exchange was first sent.
    async fn until_answered(
        &mut self,
        give: &mut Exchange,
        mut first_sent: Duration,
        reserved: &mut Option<Vec<(usize, u32)>>,
    ) -> Option<(Exchanged, Duration)> {
        let lease = give.lease;
        let mut backing = Backing::new(give.token.seq);
        loop {
            let answered = tokio::select! {
                biased;
                answered = timeout(lease / 3, self.provider.exchange(give)) => answered,
                () = self.house.stopped() => return None,
            };
            let error = match answered {
                Ok(Ok(answer)) => {
                    self.source.well(&self.house, "exchange");
                    return Some((answer, first_sent));
                }
                Ok(Err(error)) => error,
                Err(_) => ProviderError::transient(format!("no answer within {:?}", lease / 3)),
            };
            if !self.take_error(error, "exchanging jobs") {
                return None;
            }
            // Who else wants the room shall not wait for a store that is away.
            self.unreserve(reserved.take());
            self.pause(backing.next()).await;
            if self.house.phase() == Phase::Stopped {
                return None;
            }
            let now = self.house.clock.monotonic();
            let absent = now.saturating_sub(first_sent) >= lease * 2 / 3;
            if absent || !self.provider.capabilities().repeat {
                self.begin_anew(give, absent);
                first_sent = now;
            }
        }
    }

    /// Goes on with a new token: the old one may have leased jobs, which run out by themselves. After an absence
    /// everything is settled first, and asked for later.
    fn begin_anew(&mut self, give: &mut Exchange, absent: bool) {
        give.token = self.token();
        if self.provider.capabilities().follow {
            // Otherwise what follows from them must be stored first.
            self.source.collect(&mut give.settle);
        }
        let away = absent || self.source.is_away(self.house.clock.monotonic());
        if away || self.house.phase() != Phase::Running {
            give.room = Room::none();
        }
    }

    async fn take_answer(
        &mut self,
        answer: Exchanged,
        give: &Exchange,
        sent: Duration,
        permit: Option<CrashPermit>,
        asked: &[(usize, u32)],
    ) {
        let Exchanged { stale, leased, more } = answer;
        if !stale.is_empty() {
            self.house.stats.count_stale(stale.len());
            tracing::warn!(provider = %self.source.name, stale = stale.len(), "verdicts came too late and changed nothing");
        }
        if let Some(pace) = &mut self.pace {
            pace.took(leased.len());
        }
        self.more = more;
        let got_suspect = leased.iter().any(|job| job.record.suspect || job.record.crashes > 0);
        self.suspects_next = !got_suspect;
        let age = self.house.clock.monotonic().saturating_sub(sent);
        let late = age >= give.lease * 2 / 3;
        let claimed = Claimed { token: give.token, leased, sent, late, asked, permit };
        let got = self.router.take(claimed).await;
        if age >= give.lease / 3 {
            self.source.aged.notify_one();
        }
        for (pool, _) in asked {
            self.dry[*pool] = !got_suspect && (!more || got[*pool] == 0);
        }
        self.source.held.close(&give.settle);
    }
}
