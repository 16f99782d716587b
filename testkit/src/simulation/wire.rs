//! What lies between a manager and its store, and goes wrong.

use std::{
    future::pending,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
    time::Duration,
};

use compact_str::CompactString;
use ganger_core::{
    Admin, Batch, Beat, BoxFuture, Capabilities, DynProvider, Ended, Enqueued, Exchange, Exchanged, Hold,
    JobId, LeaseRef, ProviderError, Refused, Room, Sink, State,
};
use tokio::{
    sync::{Notify, oneshot},
    time::{Instant, sleep},
};

use super::{Chance, Ledger};

/// How bad it is, for all wires to a store.
#[derive(Default)]
pub struct Weather {
    /// In how many of 100 calls something goes wrong.
    faults: AtomicU64,
    /// How much longer a request takes at most, and a reply, in milliseconds.
    slow: AtomicU64,
    out: AtomicU8,
    /// How often the store was started.
    epoch: AtomicU64,
    restarted: Notify,
}

/// What does not get through at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Out {
    /// Nothing is out.
    Nothing = 0,
    /// Neither requests nor replies get through.
    All = 1,
    /// Requests do, replies do not.
    Replies = 2,
}

impl Weather {
    /// Something goes wrong in so many of 100 calls.
    pub fn set_faults(&self, percent: u64) {
        self.faults.store(percent, Ordering::Relaxed);
    }

    /// Each request and each reply is under way for up to this much longer.
    pub fn set_slow(&self, longest: Duration) {
        self.slow.store(u64::try_from(longest.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Whether the store is out of reach altogether, and in which direction.
    pub fn set_out(&self, out: Out) {
        self.out.store(out as u8, Ordering::Relaxed);
    }

    /// The store is started anew: what was on its way to it is lost.
    pub fn restart(&self) {
        self.epoch.fetch_add(1, Ordering::Relaxed);
        self.restarted.notify_waiters();
    }

    /// Whether everything gets through, as fast as it can.
    pub fn is_calm(&self) -> bool {
        self.is_plain() && self.out.load(Ordering::Relaxed) == Out::Nothing as u8
    }

    fn is_plain(&self) -> bool {
        self.faults.load(Ordering::Relaxed) == 0 && self.slow.load(Ordering::Relaxed) == 0
    }

    fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Relaxed)
    }
}

/// A manager's connection to a store.
pub struct Wire {
    store: Arc<dyn DynProvider>,
    /// The number of the store in the ledger.
    number: u8,
    ledger: Arc<Ledger>,
    weather: Arc<Weather>,
    chance: Mutex<Chance>,
    /// How long a request takes when all is well; a reply takes no time then.
    latency: Duration,
}

/// How one call goes.
#[derive(Clone, Copy, Debug)]
enum Passage {
    /// Well.
    Plain,
    /// It fails at once; the store sees nothing.
    Refused,
    /// The request is lost, and no error tells so.
    Swallowed,
    /// The request arrives, the reply does not; an error may tell so.
    ReplyLost { told: bool },
    /// Both arrive in their time, maybe when nobody waits any more; the request maybe a second time later.
    Late { request: Duration, reply: Duration, again: Option<Duration> },
}

impl Wire {
    /// A connection to the store of this number.
    pub fn between(
        store: Arc<dyn DynProvider>,
        number: u8,
        ledger: Arc<Ledger>,
        weather: Arc<Weather>,
        mut chance: Chance,
    ) -> Arc<dyn DynProvider> {
        let latency = chance.millis(1, 5);
        Arc::new(Wire { store, number, ledger, weather, chance: Mutex::new(chance), latency })
    }

    fn chance(&self) -> MutexGuard<'_, Chance> {
        self.chance.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn draw(&self) -> Passage {
        let weather = &self.weather;
        match weather.out.load(Ordering::Relaxed) {
            0 if weather.is_plain() => return Passage::Plain,
            0 => {}
            1 if self.chance().hits(50) => return Passage::Refused,
            1 => return Passage::Swallowed,
            _ => return Passage::ReplyLost { told: self.chance().hits(50) },
        }
        let mut chance = self.chance();
        let slow = weather.slow.load(Ordering::Relaxed);
        let (mut request, mut reply) = (chance.millis(0, slow), chance.millis(0, slow));
        let mut again = None;
        if chance.hits(weather.faults.load(Ordering::Relaxed)) {
            match chance.below(7) {
                0 => return Passage::Refused,
                1 => return Passage::Swallowed,
                2 => return Passage::ReplyLost { told: true },
                3 => return Passage::ReplyLost { told: false },
                4 => request += chance.millis(10, 9_000),
                5 => again = Some(chance.millis(10, 9_000)),
                _ => reply += chance.millis(10, 6_000),
            }
        }
        Passage::Late { request, reply, again }
    }

    /// Has an order stand at the store: until it has claimed, the store is started anew, or for a while after nobody
    /// waits for it any more.
    fn stand(
        &self,
        give: Exchange,
        after: Duration,
    ) -> oneshot::Receiver<Result<Option<Exchanged>, ProviderError>> {
        let (mut tell, told) = oneshot::channel();
        let (store, number, ledger) = (self.store.clone(), self.number, self.ledger.clone());
        let (weather, epoch, linger) =
            (self.weather.clone(), self.weather.epoch(), self.chance().millis(0, 2_000));
        tokio::spawn(async move {
            sleep(after).await;
            let restarted = weather.restarted.notified();
            if weather.epoch() != epoch {
                return;
            }
            let answer = tokio::select! {
                biased;
                () = restarted => return,
                answer = store.wait_and_claim(&give) => answer,
                () = async { tell.closed().await; sleep(linger).await } => return,
            };
            if let Ok(Some(answer)) = &answer {
                ledger.exchanged(number, &give, answer);
            }
            let _ = tell.send(answer);
        });
        told
    }

    /// Carries a call: `arrive` is what it does at the store, each time that it arrives there.
    async fn carry<T, A, R>(&self, arrive: A) -> Result<T, ProviderError>
    where
        T: Send + 'static,
        A: Fn() -> R + Send + 'static,
        R: Future<Output = Result<T, ProviderError>> + Send,
    {
        sleep(self.latency).await;
        match self.draw() {
            Passage::Plain => arrive().await,
            Passage::Refused => Err(ProviderError::transient("connection refused")),
            Passage::Swallowed => pending().await,
            Passage::ReplyLost { told } => {
                let _ = arrive().await;
                if told {
                    return Err(ProviderError::transient("connection reset"));
                }
                pending().await
            }
            Passage::Late { request, reply, again: None } if request.is_zero() => {
                let answer = arrive().await;
                sleep(reply).await;
                answer
            }
            Passage::Late { request, reply, again } => {
                let (tell, told) = oneshot::channel();
                let (weather, epoch) = (self.weather.clone(), self.weather.epoch());
                // On its way, whether or not the caller still waits.
                tokio::spawn(async move {
                    sleep(request).await;
                    if weather.epoch() != epoch {
                        return;
                    }
                    let _ = tell.send(arrive().await);
                    let Some(again) = again else { return };
                    sleep(again).await;
                    if weather.epoch() == epoch {
                        let _ = arrive().await;
                    }
                });
                let answer = told.await.unwrap_or_else(|_| Err(ProviderError::transient("connection reset")));
                sleep(reply).await;
                answer
            }
        }
    }
}

impl DynProvider for Wire {
    fn capabilities(&self) -> Capabilities {
        self.store.capabilities()
    }

    fn wait<'a>(&'a self, room: &'a Room) -> BoxFuture<'a, Result<(), ProviderError>> {
        Box::pin(async move {
            match self.draw() {
                Passage::Refused => Err(ProviderError::transient("connection refused")),
                // A wake-up that got lost.
                Passage::Swallowed | Passage::ReplyLost { told: false } => pending().await,
                // One for nothing.
                Passage::Late { again: Some(_), .. } => {
                    sleep(self.latency).await;
                    Ok(())
                }
                _ => self.store.wait(room).await,
            }
        })
    }

    fn wait_and_claim<'a>(
        &'a self,
        give: &'a Exchange,
    ) -> BoxFuture<'a, Result<Option<Exchanged>, ProviderError>> {
        if !self.store.capabilities().wait_and_claim {
            return Box::pin(async { self.wait(&give.room).await.map(|()| None) });
        }
        self.ledger.waits(give);
        Box::pin(async move {
            let (request, reply, heard) = match self.draw() {
                Passage::Refused => return Err(ProviderError::transient("connection refused")),
                Passage::Swallowed => return pending().await,
                Passage::ReplyLost { told } => (Duration::ZERO, Duration::ZERO, Err(told)),
                Passage::Plain => (Duration::ZERO, Duration::ZERO, Ok(true)),
                // One for nothing, and the order stands.
                Passage::Late { request, reply, again: Some(_) } => (request, reply, Ok(false)),
                Passage::Late { request, reply, again: None } => (request, reply, Ok(true)),
            };
            let told = self.stand(give.clone(), self.latency + request);
            match heard {
                Ok(false) => {
                    sleep(self.latency + reply).await;
                    Ok(None)
                }
                Ok(true) => {
                    let answer =
                        told.await.unwrap_or_else(|_| Err(ProviderError::transient("connection reset")));
                    sleep(reply).await;
                    if let Ok(Some(answer)) = &answer {
                        self.ledger.heard(give, answer);
                    }
                    answer
                }
                Err(is_told) => {
                    let _ = told.await;
                    if is_told {
                        return Err(ProviderError::transient("connection reset"));
                    }
                    pending().await
                }
            }
        })
    }

    fn exchange<'a>(&'a self, give: &'a Exchange) -> BoxFuture<'a, Result<Exchanged, ProviderError>> {
        self.ledger.sent(self.number, self.store.capabilities().follow, give);
        let (store, number, ledger) = (self.store.clone(), self.number, self.ledger.clone());
        let call = Arc::new(give.clone());
        let carried = self.carry(move || {
            let (store, ledger, give) = (store.clone(), ledger.clone(), call.clone());
            async move {
                let answer = store.exchange(&give).await;
                if let Ok(answer) = &answer {
                    ledger.exchanged(number, &give, answer);
                }
                answer
            }
        });
        Box::pin(async move {
            let answer = carried.await;
            if let Ok(answer) = &answer {
                self.ledger.heard(give, answer);
            }
            answer
        })
    }

    fn renew<'a>(
        &'a self,
        beat: &'a Beat,
        held: &'a [LeaseRef],
    ) -> BoxFuture<'a, Result<Vec<Hold>, ProviderError>> {
        let sent = Instant::now();
        let (store, number, ledger) = (self.store.clone(), self.number, self.ledger.clone());
        let call = Arc::new((beat.clone(), held.to_vec()));
        let carried = self.carry(move || {
            let (store, ledger, call) = (store.clone(), ledger.clone(), call.clone());
            async move {
                let holds = store.renew(&call.0, &call.1).await;
                if let Ok(holds) = &holds {
                    ledger.renewed(number, call.0.incarnation, &call.1, holds);
                }
                holds
            }
        });
        Box::pin(async move {
            let holds = carried.await;
            if let Ok(holds) = &holds {
                self.ledger.heard_holds(self.number, beat.incarnation, held, holds, sent);
            }
            holds
        })
    }

    fn close(&self) -> BoxFuture<'_, Result<(), ProviderError>> {
        // The store is not this manager's alone.
        Box::pin(async { Ok(()) })
    }

    fn sink(&self) -> Option<Arc<dyn Sink>> {
        let sink = self.store.sink()?;
        let chance = Mutex::new(self.chance().branch());
        let wire = Wire {
            store: self.store.clone(),
            number: self.number,
            ledger: self.ledger.clone(),
            weather: self.weather.clone(),
            chance,
            latency: self.latency,
        };
        Some(Arc::new(WireSink { wire, sink }))
    }

    fn admin(&self) -> Option<Arc<dyn Admin>> {
        self.store.admin()
    }
}

/// The sink at the other end of a wire. Only what makes jobs durable can go wrong on the way.
struct WireSink {
    wire: Wire,
    sink: Arc<dyn Sink>,
}

impl Sink for WireSink {
    fn enqueue(&self, batch: Batch) -> BoxFuture<'_, Result<Vec<Result<Enqueued, Refused>>, ProviderError>> {
        let (sink, number, ledger) = (self.sink.clone(), self.wire.number, self.wire.ledger.clone());
        let batch = Arc::new(batch);
        Box::pin(self.wire.carry(move || {
            let (sink, ledger, batch) = (sink.clone(), ledger.clone(), batch.clone());
            async move {
                let answers = sink.enqueue(Batch::clone(&batch)).await?;
                for (job, _) in batch.jobs.iter().zip(&answers).filter(|(_, answer)| answer.is_ok()) {
                    ledger.accepted(number, job);
                }
                Ok(answers)
            }
        }))
    }

    fn states<'a>(&'a self, ids: &'a [JobId]) -> BoxFuture<'a, Result<Vec<Option<State>>, ProviderError>> {
        self.sink.states(ids)
    }

    fn ended<'a>(&'a self, ids: &'a [JobId]) -> BoxFuture<'a, Result<Vec<Ended>, ProviderError>> {
        self.sink.ended(ids)
    }

    fn managers(&self) -> BoxFuture<'_, Result<Vec<Beat>, ProviderError>> {
        self.sink.managers()
    }

    fn ready_types(&self) -> BoxFuture<'_, Result<Vec<CompactString>, ProviderError>> {
        self.sink.ready_types()
    }

    fn cancel<'a>(&'a self, id: &'a JobId) -> BoxFuture<'a, Result<bool, ProviderError>> {
        self.sink.cancel(id)
    }
}
