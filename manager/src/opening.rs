//! Opens providers and intakes, again and again while that can help, and runs them to their end.

use std::{sync::Arc, time::Duration};

use ganger_core::{
    Catalog, DynIntake, DynProvider, IntakeContext, IntakeSink, ProviderContext, ProviderError, Severity,
    Sinks, Stop,
};
use tokio::{
    sync::{oneshot, watch},
    time::timeout,
};

use crate::{
    IntakePlan, ProviderPlan,
    drain::Open,
    exchange::ExchangeLoop,
    house::{House, Phase, Pools},
    keep::Keeper,
    retry::Backing,
    sinks::SourceSinks,
    source::Source,
    strays::StrayFinder,
};

/// How long opening may take.
const OPEN_LIMIT: Duration = Duration::from_secs(10);

/// How often an intake looks whether its sink is open.
const SINK_LOOK: Duration = Duration::from_millis(50);

/// Tells how the first attempt to open went: done, or to be tried again; else the error that ends it all.
pub(crate) type FirstAttempt = oneshot::Sender<Result<(), ProviderError>>;

/// A provider from its opening to the end of its exchange.
pub(crate) struct SourceTask {
    pub(crate) house: Arc<House>,
    pub(crate) source: Arc<Source>,
    pub(crate) plan: ProviderPlan,
    pub(crate) pools: watch::Receiver<Option<Arc<Pools>>>,
    pub(crate) keepers: Stop,
    pub(crate) open: watch::Sender<Open>,
}

impl SourceTask {
    pub(crate) async fn run(mut self, first: FirstAttempt) {
        if let Some(provider) = self.open(first).await
            && let Some(pools) = self.pools().await
        {
            self.serve(provider, pools).await;
        }
        self.open.send_modify(|open| open.sources -= 1);
    }

    async fn open(&self, first: FirstAttempt) -> Option<Arc<dyn DynProvider>> {
        let cx = ProviderContext {
            name: self.source.name.clone(),
            incarnation: self.house.incarnation,
            clock: self.house.clock.clone(),
            existing_only: false,
        };
        let mut backing = Backing::new(u64::from(self.source.index) + 1);
        let mut first = Some(first);
        let tell = |first: &mut Option<FirstAttempt>, how| {
            // Whoever started the manager may have gone.
            first.take().map(|first| first.send(how).is_ok()).unwrap_or(false)
        };
        loop {
            let opened = timeout(OPEN_LIMIT, (self.plan.open)(cx.clone())).await;
            let error = match opened {
                Ok(Ok(provider)) => {
                    self.source.well(&self.house, "open");
                    // Before anybody is told: who starts a manager may look for the sink at once.
                    self.source.opened(provider.clone());
                    tell(&mut first, Ok(()));
                    return Some(provider);
                }
                Ok(Err(error)) => error,
                Err(_) => ProviderError::transient(format!("no answer within {OPEN_LIMIT:?}")),
            };
            if error.severity() == Severity::Fatal {
                if first.is_some() {
                    tell(&mut first, Err(error));
                } else {
                    self.house.fatal(&self.source.name, error);
                }
                return None;
            }
            self.source.trouble(&self.house, "open", &format!("opening it: {error}"));
            tell(&mut first, Ok(()));
            tokio::select! {
                biased;
                () = self.house.stopping() => return None,
                () = tokio::time::sleep(backing.next()) => {}
            }
        }
    }

    /// The pools, once they are set up.
    async fn pools(&mut self) -> Option<Arc<Pools>> {
        tokio::select! {
            biased;
            () = self.house.reached(Phase::Hurry) => None,
            pools = self.pools.wait_for(Option::is_some) => pools.ok()?.clone(),
        }
    }

    async fn serve(&self, provider: Arc<dyn DynProvider>, pools: Arc<Pools>) {
        let keeper = Keeper {
            house: self.house.clone(),
            pools: pools.clone(),
            source: self.source.clone(),
            provider: provider.clone(),
        };
        let what = format!("keeping the leases of provider `{}`", self.source.name);
        self.house.spawn(what, keeper.run(self.keepers.clone()));
        if let Some(finder) = StrayFinder::new(self.house.clone(), pools.clone(), self.source.clone()) {
            let what = format!("looking for jobs of provider `{}` that nobody does", self.source.name);
            self.house.spawn(what, finder.run(self.keepers.clone()));
        }
        ExchangeLoop::new(self.house.clone(), pools, self.source.clone(), provider).run().await;
    }
}

/// An intake from its opening to its end.
pub(crate) struct IntakeTask {
    pub(crate) house: Arc<House>,
    pub(crate) plan: IntakePlan,
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) sinks: Arc<SourceSinks>,
    pub(crate) stop: Stop,
    pub(crate) open: watch::Sender<Open>,
}

impl IntakeTask {
    pub(crate) async fn run(self, first: FirstAttempt) {
        self.serve(first).await;
        self.open.send_modify(|open| open.intakes -= 1);
    }

    /// Opens and runs, again while it fails in a way that may pass.
    async fn serve(&self, first: FirstAttempt) {
        let mut first = Some(first);
        let mut backing = Backing::new(7);
        let key = format!("intake {}", self.plan.name);
        while !self.stop.is_set() {
            let ended = match self.open().await {
                Ok(intake) => {
                    self.house.health.on(&key);
                    if let Some(first) = first.take() {
                        // Whoever started the manager may have gone.
                        let _ = first.send(Ok(()));
                    }
                    self.take_in(intake).await
                }
                Err(error) => Err(error),
            };
            let error = match ended {
                Ok(()) => return,
                Err(error) => error,
            };
            let fatal = error.severity() == Severity::Fatal;
            match first.take() {
                Some(first) if fatal => {
                    let _ = first.send(Err(error));
                    return;
                }
                Some(first) => {
                    let _ = first.send(Ok(()));
                }
                None if fatal => return self.house.fatal(&self.plan.name, error),
                None => {}
            }
            tracing::warn!(intake = %self.plan.name, "an intake ended and is tried again");
            self.house.health.off(&key, format!("intake `{}` is down", self.plan.name));
            tokio::select! {
                biased;
                () = self.stop.wait() => return,
                () = tokio::time::sleep(backing.next()) => {}
            }
        }
    }

    async fn open(&self) -> Result<Box<dyn DynIntake>, ProviderError> {
        let cx = IntakeContext {
            name: self.plan.name.clone(),
            catalog: self.catalog.clone(),
            clock: self.house.clock.clone(),
            configured: self.plan.configured,
        };
        match timeout(OPEN_LIMIT, (self.plan.open)(cx)).await {
            Ok(opened) => opened,
            Err(_) => Err(ProviderError::transient(format!("no answer within {OPEN_LIMIT:?}"))),
        }
    }

    /// Takes jobs in, once the sink is open. Cut off only when everything stops.
    async fn take_in(&self, intake: Box<dyn DynIntake>) -> Result<(), ProviderError> {
        let Some(sink) = self.sink().await else { return Ok(()) };
        tokio::select! {
            biased;
            () = self.house.stopped() => Ok(()),
            ended = intake.run(sink, self.stop.clone()) => ended,
        }
    }

    async fn sink(&self) -> Option<IntakeSink> {
        let into = self.plan.into.as_deref();
        let key = format!("intake {} sink", self.plan.name);
        loop {
            if let (Some(sink), Some(name)) = (self.sinks.find(into), self.sinks.name(into)) {
                self.house.health.on(&key);
                let (admin, events) = (self.sinks.admin(into), self.house.events.clone());
                return Some(IntakeSink { name, sink, admin, events });
            }
            let reason = format!(
                "intake `{}` waits for the provider that it stores into{}",
                self.plan.name,
                into.map(|name| format!(", `{name}`")).unwrap_or_default()
            );
            self.house.health.off(&key, reason);
            tokio::select! {
                biased;
                () = self.stop.wait() => return None,
                () = tokio::time::sleep(SINK_LOOK) => {}
            }
        }
    }
}
