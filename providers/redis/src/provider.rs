//! The calls of the contract.

use std::{sync::Arc, time::Duration};

use ganger_core::{
    Admin, Beat, Capabilities, Exchange, Exchanged, Hold, LeaseRef, Provider, ProviderContext, ProviderError,
    Room, Sink,
};
use redis::Value;
use tokio::time::sleep;

use crate::{
    RedisConfig,
    error::CallError,
    script::{Call, PEEK},
    store::Store,
};

/// How long a wait lasts at most before it looks again.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// Jobs in Redis.
pub struct RedisProvider {
    store: Arc<Store>,
}

impl RedisProvider {
    /// What of the server's settings may lose jobs, in words: no persistence, snapshots alone, eviction. A manager
    /// logs it with its first beat. May be dropped at any time.
    pub async fn warnings(&self) -> Vec<String> {
        self.store.settings_that_lose().await
    }
}

impl Provider for RedisProvider {
    const NAME: &'static str = "redis";
    const CAPABILITIES: Capabilities = Capabilities {
        filter: true,
        schedule: true,
        unique: true,
        repeat: true,
        wait_and_claim: true,
        follow: true,
        sink: true,
        admin: true,
        recover: true,
        durable: true,
        ..Capabilities::NONE
    };
    type Config = RedisConfig;

    async fn open(config: RedisConfig, cx: &ProviderContext) -> Result<Self, ProviderError> {
        let store = Arc::new(Store::new(&config, cx)?);
        store.check_opening().await?;
        Ok(RedisProvider { store })
    }

    async fn wait(&self, room: &Room) -> Result<(), ProviderError> {
        self.store
            .await_work(room, None)
            .await
            .map_err(|error| self.store.error("waiting for work", error))?;
        Ok(())
    }

    async fn wait_and_claim(&self, give: &Exchange) -> Result<Option<Exchanged>, ProviderError> {
        self.store.exchange_later(give).await.map_err(|error| self.store.error("waiting for work", error))
    }

    async fn exchange(&self, give: &Exchange) -> Result<Exchanged, ProviderError> {
        self.store.exchange(give).await.map_err(|error| self.store.error("exchanging jobs", error))
    }

    async fn renew(&self, beat: &Beat, held: &[LeaseRef]) -> Result<Vec<Hold>, ProviderError> {
        // A manager begins its work so; a command that only looks, or enqueues, says nothing of it.
        self.store.warn_once();
        self.store.begin_overflow();
        self.store.renew(beat, held).await.map_err(|error| self.store.error("renewing leases", error))
    }

    async fn close(&self) -> Result<(), ProviderError> {
        self.store.close().await;
        Ok(())
    }

    fn sink(self: &Arc<Self>) -> Option<Arc<dyn Sink>> {
        Some(self.store.clone())
    }

    fn admin(self: &Arc<Self>) -> Option<Arc<dyn Admin>> {
        Some(self.store.clone())
    }
}

impl Store {
    /// Waits until there may be something for this room: with the answer to `claim` where a list had it.
    pub(crate) async fn await_work(
        &self,
        room: &Room,
        claim: Option<Arc<Call>>,
    ) -> Result<Option<Value>, CallError> {
        let mut rung = std::pin::pin!(self.bell.signals.work.notified());
        // Armed before the look, so that a bell in between is not missed. What is pushed in between, a read finds.
        rung.as_mut().enable();
        let pause = self.peek(room).await?;
        if pause.is_zero() {
            return Ok(None);
        }
        let mut told = self.bell.order(claim);
        tokio::select! {
            biased;
            told = told.recv() => Ok(told.flatten()),
            () = rung => Ok(None),
            () = sleep(pause) => Ok(None),
        }
    }

    /// How long there is surely nothing for this room; zero if there may be something now.
    async fn peek(&self, room: &Room) -> Result<Duration, CallError> {
        if room.is_none() {
            return Ok(WAIT_MAX);
        }
        let mut call = self.script_on_lists(&PEEK);
        call.arg(u8::from(room.suspect)).arg(u8::from(room.crashed)).arg(self.turn());
        for of in room.types.iter().filter(|of| of.jobs > 0) {
            call.arg(of.kind.as_str());
        }
        match call.send(&self.work).await? {
            Value::Int(millis) => {
                Ok(u64::try_from(millis).map_or(WAIT_MAX, Duration::from_millis).min(WAIT_MAX))
            }
            _ => Err(CallError::Strange("the form of a look's answer")),
        }
    }
}
