//! Opens the provider that a command works on, with or without a running manager.

use std::{future::Future, sync::Arc, time::Duration};

use ganger_core::{Admin, DynProvider, ProviderContext, ProviderError, Sink, draw_incarnation};
use ganger_manager::SystemClock;

use crate::{Config, config::SourceEntry, plan::opener};

use super::failure::{Exit, Failure};

/// How long a store may take to answer.
const DEADLINE: Duration = Duration::from_secs(30);

/// A provider of the config, open.
pub(crate) struct Store {
    pub(crate) name: String,
    pub(crate) provider: Arc<dyn DynProvider>,
}

/// What a command may do to a store.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// Reads and changes what is there, creates nothing.
    Existing,
    /// Creates the store if need be.
    Create,
}

impl Store {
    /// Opens a provider by name; the default one for `None`.
    pub(crate) async fn open(config: &Config, name: Option<&str>, access: Access) -> Result<Store, Failure> {
        Store::open_entry(find(config, name)?, access).await
    }

    pub(crate) async fn open_entry(entry: &SourceEntry, access: Access) -> Result<Store, Failure> {
        let open = opener(entry.plugin, entry.options.clone())
            .ok_or_else(|| Failure::usage(format!("`{}` stores nothing itself", entry.name)))?;
        let cx = ProviderContext {
            name: entry.name.clone(),
            incarnation: draw_incarnation(),
            clock: Arc::new(SystemClock::new()),
            existing_only: access == Access::Existing,
        };
        Store::opening(&entry.name, open(cx)).await
    }

    /// Waits until it is open, but not for ever.
    pub(crate) async fn opening(
        name: &str,
        open: impl Future<Output = Result<Arc<dyn DynProvider>, ProviderError>>,
    ) -> Result<Store, Failure> {
        Ok(Store { name: name.to_owned(), provider: bounded(name, open).await? })
    }

    /// Where jobs go in.
    pub(crate) fn sink(&self) -> Result<Arc<dyn Sink>, Failure> {
        self.provider.sink().ok_or_else(|| {
            Failure::new(Exit::Refused, format!("provider `{}` takes no jobs in", self.name))
                .help("name another with `--to`; `ganger plugin ls` shows which can")
        })
    }

    /// Looks at jobs and changes them.
    pub(crate) fn admin(&self) -> Result<Arc<dyn Admin>, Failure> {
        self.provider.admin().ok_or_else(|| {
            Failure::new(Exit::Refused, format!("provider `{}` cannot list its jobs", self.name))
                .help("name another with `--provider`; `ganger plugin ls` shows which can")
        })
    }

    /// Waits for an answer, but not for ever.
    pub(crate) async fn ask<T>(
        &self,
        answer: impl Future<Output = Result<T, ProviderError>>,
    ) -> Result<T, Failure> {
        bounded(&self.name, answer).await
    }

    /// The same with the error as it is; `None` if there was no answer in time.
    pub(crate) async fn ask_raw<T>(
        &self,
        answer: impl Future<Output = Result<T, ProviderError>>,
    ) -> Option<Result<T, ProviderError>> {
        tokio::time::timeout(DEADLINE, answer).await.ok()
    }

    /// Ends its tasks. What it was asked for is done, so an error here changes nothing.
    pub(crate) async fn close(self) {
        if let Err(failure) = bounded(&self.name, self.provider.close()).await {
            tracing::debug!(?failure, "closing");
        }
    }
}

/// Waits for an answer, but not for ever.
pub(crate) async fn bounded<T>(
    name: &str,
    answer: impl Future<Output = Result<T, ProviderError>>,
) -> Result<T, Failure> {
    match tokio::time::timeout(DEADLINE, answer).await {
        Ok(answer) => answer.map_err(|error| Failure::store(name, &error)),
        Err(_) => Err(Failure::new(
            Exit::Unreachable,
            format!("provider `{name}` does not answer within {} s", DEADLINE.as_secs()),
        )),
    }
}

/// The config's entry of a provider.
pub(crate) fn find<'a>(config: &'a Config, name: Option<&str>) -> Result<&'a SourceEntry, Failure> {
    let names: Vec<&str> = config.providers().map(|source| source.name.as_str()).collect();
    if let Some(entry) = config.provider(name) {
        return Ok(entry);
    }
    Err(match name {
        Some(name) => Failure::usage(format!("{} has no provider `{name}`", config.name()))
            .help(crate::config::suggest(name, "providers", &names)),
        None => Failure::usage(format!("{} has no provider that takes jobs in", config.name()))
            .help("add one to it, as `{\"disk\": {\"db_name\": \"ganger.db\"}}`"),
    })
}
