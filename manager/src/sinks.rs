//! Finds sinks by name, once their providers are open.

use std::{sync::Arc, time::Duration};

use compact_str::CompactString;
use ganger_core::{
    Admin, Batch, Beat, BoxFuture, Ended, Enqueued, JobId, ProviderError, Refused, Sink, Sinks, State,
};
use tokio::time::timeout;

use crate::source::Source;

/// The sinks of a manager's providers.
pub(crate) struct SourceSinks(pub(crate) Arc<[Arc<Source>]>);

/// The provider that takes jobs in by default: the first durable one with a sink, else the first with a sink.
pub(crate) fn default_source(sources: &[Arc<Source>]) -> Option<&Arc<Source>> {
    let takes = |durable: bool| {
        sources.iter().find(|source| {
            source.provider().is_some_and(|provider| {
                let can = provider.capabilities();
                can.sink && (can.durable || !durable)
            })
        })
    };
    let all_open = sources.iter().all(|source| source.provider().is_some());
    // While one is not open yet, it may be the durable one.
    takes(true).or_else(|| if all_open { takes(false) } else { None })
}

/// The sink of the default provider.
pub(crate) fn default_sink(sources: &[Arc<Source>]) -> Option<Arc<dyn Sink>> {
    guarded(default_source(sources)?.provider()?.sink())
}

impl SourceSinks {
    fn source(&self, name: Option<&str>) -> Option<&Arc<Source>> {
        match name {
            None => default_source(&self.0),
            Some(name) => self.0.iter().find(|source| source.name == name),
        }
    }

    /// The admin face of a provider, or of the default one.
    pub(crate) fn admin(&self, name: Option<&str>) -> Option<Arc<dyn Admin>> {
        self.source(name)?.provider()?.admin()
    }

    /// The name behind a name: that of the default provider for `None`.
    pub(crate) fn name(&self, name: Option<&str>) -> Option<String> {
        self.source(name).map(|source| source.name.clone())
    }
}

impl Sinks for SourceSinks {
    fn find(&self, name: Option<&str>) -> Option<Arc<dyn Sink>> {
        guarded(self.source(name)?.provider()?.sink())
    }

    fn names(&self) -> Vec<String> {
        self.0.iter().map(|source| source.name.clone()).collect()
    }
}

/// How long a store may take to answer one call.
const CALL_LIMIT: Duration = Duration::from_secs(10);

fn guarded(sink: Option<Arc<dyn Sink>>) -> Option<Arc<dyn Sink>> {
    sink.map(|sink| Arc::new(Guarded(sink)) as Arc<dyn Sink>)
}

/// A sink none of whose calls is without a deadline. A caller who was given up on may repeat the call: it is
/// idempotent by the batch's token.
struct Guarded(Arc<dyn Sink>);

async fn limited<T>(what: &str, call: BoxFuture<'_, Result<T, ProviderError>>) -> Result<T, ProviderError> {
    timeout(CALL_LIMIT, call).await.unwrap_or_else(|_| {
        let message = format!("{what}: the store gave no answer within {} s", CALL_LIMIT.as_secs());
        Err(ProviderError::transient(message))
    })
}

impl Sink for Guarded {
    fn enqueue(&self, batch: Batch) -> BoxFuture<'_, Result<Vec<Result<Enqueued, Refused>>, ProviderError>> {
        Box::pin(limited("enqueueing", self.0.enqueue(batch)))
    }

    fn states<'a>(&'a self, ids: &'a [JobId]) -> BoxFuture<'a, Result<Vec<Option<State>>, ProviderError>> {
        Box::pin(limited("asking for states", self.0.states(ids)))
    }

    fn ended<'a>(&'a self, ids: &'a [JobId]) -> BoxFuture<'a, Result<Vec<Ended>, ProviderError>> {
        // Waits for a job, not for the store: as long as whoever asks likes.
        self.0.ended(ids)
    }

    fn managers(&self) -> BoxFuture<'_, Result<Vec<Beat>, ProviderError>> {
        Box::pin(limited("reading the register of managers", self.0.managers()))
    }

    fn ready_types(&self) -> BoxFuture<'_, Result<Vec<CompactString>, ProviderError>> {
        Box::pin(limited("asking for the types that wait", self.0.ready_types()))
    }

    fn cancel<'a>(&'a self, id: &'a JobId) -> BoxFuture<'a, Result<bool, ProviderError>> {
        Box::pin(limited("cancelling", self.0.cancel(id)))
    }
}
