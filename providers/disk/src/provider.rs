//! The provider: a view of the store, under the name that it has in the config.

use std::sync::{Arc, Mutex, PoisonError};

use ganger_core::{
    Admin, Beat, Capabilities, Exchange, Exchanged, Hold, LeaseRef, Provider, ProviderContext, ProviderError,
    Room, Sink,
};
use ganger_spool::{CAPABILITIES, Source, Spool, SpoolOptions};

use crate::DiskConfig;

/// Jobs in an SQLite file.
pub struct DiskProvider {
    /// `None` once it is closed.
    source: Mutex<Option<Arc<Source>>>,
}

impl DiskProvider {
    fn source(&self) -> Result<Arc<Source>, ProviderError> {
        let source = self.source.lock().unwrap_or_else(PoisonError::into_inner).clone();
        source.ok_or_else(|| ProviderError::transient("the job store is closed"))
    }
}

impl Provider for DiskProvider {
    const NAME: &'static str = "disk";
    const CAPABILITIES: Capabilities = CAPABILITIES;
    type Config = DiskConfig;

    async fn open(config: DiskConfig, cx: &ProviderContext) -> Result<Self, ProviderError> {
        let queue = config.queue().map_err(ProviderError::fatal)?;
        let options = SpoolOptions { retention: Some(config.retention()), existing_only: cx.existing_only };
        let spool = Spool::open(config.db_name, options).await?;
        let source = Arc::new(spool.source(cx.name.clone(), queue));
        Ok(DiskProvider { source: Mutex::new(Some(source)) })
    }

    async fn wait(&self, room: &Room) -> Result<(), ProviderError> {
        self.source()?.wait(room).await
    }

    async fn exchange(&self, give: &Exchange) -> Result<Exchanged, ProviderError> {
        self.source()?.exchange(give).await
    }

    async fn renew(&self, beat: &Beat, held: &[LeaseRef]) -> Result<Vec<Hold>, ProviderError> {
        self.source()?.renew(beat, held).await
    }

    async fn close(&self) -> Result<(), ProviderError> {
        let source = self.source.lock().unwrap_or_else(PoisonError::into_inner).take();
        // The last one to let go waits for the writer's last commit.
        tokio::task::spawn_blocking(move || drop(source))
            .await
            .map_err(|error| ProviderError::transient("closing the job store was cut off").because(error))
    }

    fn sink(self: &Arc<Self>) -> Option<Arc<dyn Sink>> {
        self.source().ok().map(|source| source as Arc<dyn Sink>)
    }

    fn admin(self: &Arc<Self>) -> Option<Arc<dyn Admin>> {
        self.source().ok().map(|source| source as Arc<dyn Admin>)
    }
}
