//! Finds sinks by name, once their providers are open.

use std::sync::Arc;

use ganger_core::{Admin, Sink, Sinks};

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
    default_source(sources)?.provider()?.sink()
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
        self.source(name)?.provider()?.sink()
    }

    fn names(&self) -> Vec<String> {
        self.0.iter().map(|source| source.name.clone()).collect()
    }
}
