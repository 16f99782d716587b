//! Why ganger did not start, or stopped.

use ganger_core::WorkerError;
use ganger_manager::ManagerError;

use crate::ConfigError;

/// Why ganger did not start, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The config cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Two plugins have one name.
    #[error(transparent)]
    Plugin(#[from] WorkerError),
    /// The manager did not start, or stopped.
    #[error(transparent)]
    Manager(#[from] ManagerError),
    /// The figures cannot be served where the config says.
    #[error("{0}")]
    Stats(String),
    /// The operating system refused something.
    #[error("{what}: {error}")]
    System {
        /// What was tried.
        what: String,
        /// What it said.
        error: std::io::Error,
    },
}
