//! What lies between a manager and its store, and goes wrong.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use ganger_core::{
    Admin, Beat, BoxFuture, Capabilities, DynProvider, Exchange, Exchanged, Hold, LeaseRef, ProviderError,
    Room, Sink,
};
use tokio::{sync::oneshot, time::sleep};

use super::{Chance, Ledger};

/// How bad it is, for all wires of a world.
#[derive(Default)]
pub struct Weather {
    /// In how many of 100 calls something goes wrong.
    faults: AtomicU64,
    /// The store answers nobody.
    out: AtomicU64,
}

impl Weather {
    /// Something goes wrong in so many of 100 calls.
    pub fn set(&self, percent: u64) {
        self.faults.store(percent, Ordering::Relaxed);
    }

    /// Whether the store is out of reach altogether.
    pub fn set_out(&self, out: bool) {
        self.out.store(u64::from(out), Ordering::Relaxed);
    }

    fn is_out(&self) -> bool {
        self.out.load(Ordering::Relaxed) > 0
    }
}

/// A manager's connection to a store.
pub struct Wire {
    store: Arc<dyn DynProvider>,
    ledger: Arc<Ledger>,
    weather: Arc<Weather>,
    chance: Mutex<Chance>,
    /// How long a call takes when all is well.
    latency: Duration,
}

/// What goes wrong with one call.
#[derive(Clone, Copy, Debug)]
enum Fault {
    None,
    /// It fails at once; the store sees nothing.
    Refused,
    /// The request is lost, and no error tells so.
    Swallowed,
    /// The request arrives, the reply does not; an error may tell so.
    ReplyLost {
        told: bool,
    },
    /// The request arrives late: maybe when nobody waits for it any more.
    Late(Duration),
    /// The request arrives twice, the second time later.
    Doubled(Duration),
    /// The reply is late.
    ReplyLate(Duration),
}

impl Wire {
    /// A connection.
    pub fn between(
        store: Arc<dyn DynProvider>,
        ledger: Arc<Ledger>,
        weather: Arc<Weather>,
        mut chance: Chance,
    ) -> Arc<dyn DynProvider> {
        let latency = chance.millis(1, 5);
        Arc::new(Wire { store, ledger, weather, chance: Mutex::new(chance), latency })
    }

    fn draw(&self) -> Fault {
        if self.weather.is_out() {
            let mut chance = self.chance.lock().unwrap_or_else(PoisonError::into_inner);
            return if chance.hits(50) { Fault::Refused } else { Fault::Swallowed };
        }
        let faults = self.weather.faults.load(Ordering::Relaxed);
        if faults == 0 {
            return Fault::None;
        }
        let mut chance = self.chance.lock().unwrap_or_else(PoisonError::into_inner);
        if !chance.hits(faults) {
            return Fault::None;
        }
        match chance.below(7) {
            0 => Fault::Refused,
            1 => Fault::Swallowed,
            2 => Fault::ReplyLost { told: true },
            3 => Fault::ReplyLost { told: false },
            4 => Fault::Late(chance.millis(10, 9_000)),
            5 => Fault::Doubled(chance.millis(10, 9_000)),
            _ => Fault::ReplyLate(chance.millis(10, 6_000)),
        }
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
            Fault::None => arrive().await,
            Fault::Refused => Err(ProviderError::transient("connection refused")),
            Fault::Swallowed => std::future::pending().await,
            Fault::ReplyLost { told } => {
                let _ = arrive().await;
                if told {
                    return Err(ProviderError::transient("connection reset"));
                }
                std::future::pending().await
            }
            Fault::Late(late) => {
                let (tell, told) = oneshot::channel();
                // On its way, whether or not the caller still waits.
                tokio::spawn(async move {
                    sleep(late).await;
                    let _ = tell.send(arrive().await);
                });
                told.await.unwrap_or_else(|_| Err(ProviderError::transient("connection reset")))
            }
            Fault::Doubled(later) => {
                let answer = arrive().await;
                tokio::spawn(async move {
                    sleep(later).await;
                    let _ = arrive().await;
                });
                answer
            }
            Fault::ReplyLate(late) => {
                let answer = arrive().await;
                sleep(late).await;
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
                Fault::Refused => Err(ProviderError::transient("connection refused")),
                // A wake-up that got lost.
                Fault::Swallowed | Fault::ReplyLost { told: false } => std::future::pending().await,
                // One for nothing.
                Fault::Doubled(_) => {
                    sleep(self.latency).await;
                    Ok(())
                }
                _ => self.store.wait(room).await,
            }
        })
    }

    fn exchange<'a>(&'a self, give: &'a Exchange) -> BoxFuture<'a, Result<Exchanged, ProviderError>> {
        self.ledger.sent(give);
        let (store, ledger, give) = (self.store.clone(), self.ledger.clone(), Arc::new(give.clone()));
        Box::pin(self.carry(move || {
            let (store, ledger, give) = (store.clone(), ledger.clone(), give.clone());
            async move {
                let answer = store.exchange(&give).await;
                if let Ok(answer) = &answer {
                    ledger.exchanged(&give, answer);
                }
                answer
            }
        }))
    }

    fn renew<'a>(
        &'a self,
        beat: &'a Beat,
        held: &'a [LeaseRef],
    ) -> BoxFuture<'a, Result<Vec<Hold>, ProviderError>> {
        let (store, ledger) = (self.store.clone(), self.ledger.clone());
        let call = Arc::new((beat.clone(), held.to_vec()));
        Box::pin(self.carry(move || {
            let (store, ledger, call) = (store.clone(), ledger.clone(), call.clone());
            async move {
                let holds = store.renew(&call.0, &call.1).await;
                if let Ok(holds) = &holds {
                    ledger.renewed(&call.1, holds);
                }
                holds
            }
        }))
    }

    fn close(&self) -> BoxFuture<'_, Result<(), ProviderError>> {
        // The store is not this manager's alone.
        Box::pin(async { Ok(()) })
    }

    fn sink(&self) -> Option<Arc<dyn Sink>> {
        self.store.sink()
    }

    fn admin(&self) -> Option<Arc<dyn Admin>> {
        self.store.admin()
    }
}
