//! Starts a plan, and is asked how it goes.

use std::sync::Arc;

use ganger_core::{Admin, Events, ProviderError, Sink, Status};

use crate::{Plan, PlanError};

/// Starts managers.
#[derive(Clone, Copy, Debug)]
pub struct Manager;

impl Manager {
    /// Checks the plan, opens everything and begins to work.
    ///
    /// A store that is out of reach is tried again in the background, with readiness off meanwhile.
    ///
    /// # Errors
    /// The plan does not fit, a worker cannot be set up, or a provider or intake says that it never can be.
    pub async fn start(plan: Plan) -> Result<Running, ManagerError> {
        plan.check()?;
        Err(ManagerError::Stopped("not there yet".into()))
    }
}

/// A manager at work. Dropped without a [`drain`](Running::drain), it ends at once: its leases run out.
pub struct Running {
    events: Events,
    status: Arc<dyn Status>,
}

impl Running {
    /// Its figures and its readiness.
    pub fn status(&self) -> Arc<dyn Status> {
        self.status.clone()
    }

    /// What happens to its jobs.
    pub fn events(&self) -> Events {
        self.events.clone()
    }

    /// The sink of a provider; for `None` the default one: of the first durable provider that has a sink.
    /// `None` while that provider is not open yet.
    pub fn sink(&self, name: Option<&str>) -> Option<Arc<dyn Sink>> {
        let _ = name;
        None
    }

    /// The admin face of a provider; for `None` that of the provider of the default sink.
    pub fn admin(&self, name: Option<&str>) -> Option<Arc<dyn Admin>> {
        let _ = name;
        None
    }

    /// Begins to end: asks for no more, hands back what has not started, lets the rest finish within the grace,
    /// then stops it and hands it back, and closes. Returns at once; see [`ended`](Running::ended).
    pub fn drain(&self) {}

    /// Ends without the grace, still handing everything back.
    pub fn hurry(&self) {}

    /// Waits until the manager has ended. May be dropped, and called again.
    ///
    /// # Errors
    /// What stopped it, if it was not asked to.
    pub async fn ended(&self) -> Result<(), ManagerError> {
        Ok(())
    }
}

/// Why a manager did not start, or stopped.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ManagerError {
    /// The plan does not fit together.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// A worker cannot be set up.
    #[error("worker `{name}`: {message}")]
    Worker {
        /// Its name.
        name: String,
        /// What is wrong with it.
        message: String,
    },
    /// A provider or intake cannot be opened, or said at work that it cannot go on.
    #[error("provider `{name}`: {error}")]
    Provider {
        /// Its name.
        name: String,
        /// What it said.
        #[source]
        error: Arc<ProviderError>,
    },
    /// The system has no room for what it needs.
    #[error("{0}")]
    Stopped(String),
}
