//! The end: stops asking, hands back what has not started, lets the rest finish and the workers close within the grace,
//! then stops it, releases it, and closes.

use std::{sync::Arc, time::Duration};

use ganger_core::{StopReason, Stopper};
use tokio::{sync::watch, time::timeout};

use crate::{
    house::{House, Phase, Pools},
    pool::{HURRIED_GRACE, release},
};

/// How long the last verdicts may take to reach their stores, once everything is stopped.
const LAST_WORDS: Duration = Duration::from_secs(8);

/// How long a provider may take to close.
const CLOSE_LIMIT: Duration = Duration::from_secs(5);

/// What must have ended before all has.
#[derive(Clone, Debug, Default)]
pub(crate) struct Open {
    /// Sources whose exchange has not ended.
    pub(crate) sources: usize,
    /// Intakes that have not ended.
    pub(crate) intakes: usize,
}

impl Open {
    fn is_none(&self) -> bool {
        self.sources == 0 && self.intakes == 0
    }
}

/// Ends a manager when it is told to.
pub(crate) struct Drain {
    pub(crate) house: Arc<House>,
    pub(crate) pools: Arc<Pools>,
    pub(crate) grace: Duration,
    /// Stops the intakes.
    pub(crate) intakes: Stopper,
    /// Stops the keepers.
    pub(crate) keepers: Stopper,
    pub(crate) open: watch::Sender<Open>,
}

impl Drain {
    /// Waits for the order, and carries it out.
    pub(crate) async fn run(self) {
        self.house.stopping().await;
        tracing::info!("draining: nothing more is started");
        self.intakes.stop();
        let now = self.house.clock.wall();
        for pool in self.pools.all() {
            release(pool, pool.close(), now);
        }
        tokio::select! {
            biased;
            () = async { tokio::join!(self.all_ended(), self.house.workers_closed(&self.pools)); } => {}
            () = self.house.reached(Phase::Hurry) => {}
            () = tokio::time::sleep(self.grace) => {
                tracing::warn!(grace = ?self.grace, "the grace is over: what still runs is stopped and handed back");
            }
        }
        self.house.go_to(Phase::Hurry);
        for pool in self.pools.all() {
            pool.stop_all(StopReason::Shutdown);
        }
        if timeout(HURRIED_GRACE + LAST_WORDS, self.all_ended()).await.is_err() {
            tracing::error!("some verdicts did not reach their store: their leases run out by themselves");
        }
        self.keepers.stop();
        self.close().await;
        self.house.end();
    }

    async fn all_ended(&self) {
        // The sender is ours, so that it cannot be gone.
        let _ = self.open.subscribe().wait_for(Open::is_none).await;
    }

    async fn close(&self) {
        for source in self.house.sources.iter() {
            let Some(provider) = source.provider() else { continue };
            match timeout(CLOSE_LIMIT, provider.close()).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!(provider = %source.name, %error, "closing"),
                Err(_) => tracing::warn!(provider = %source.name, "closing took too long"),
            }
        }
    }
}
