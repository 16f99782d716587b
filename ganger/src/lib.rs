//! A plugin-based job runner: takes jobs from wherever they are and gets them done.
//!
//! The binary is a thin layer over this library. A program that embeds ganger starts from [`builtin`]:
//!
//! ```no_run
//! use ganger::JobContext;
//!
//! #[tokio::main]
//! async fn main() -> Result<(), ganger::Error> {
//!     ganger::builtin().run().await
//! }
//! ```
#![forbid(unsafe_code)]

#[cfg(feature = "cli")]
pub mod cli;
pub mod config;
mod embed;
mod error;
mod plan;
pub mod plugins;
mod signals;

pub use config::{Config, ConfigError};
pub use embed::{Ganger, Running, builtin, empty};
pub use error::Error;
pub use ganger_core::*;
pub use ganger_manager::{Manager, ManagerError, Plan, PlanError};
pub use plan::{Ports, host_name, plan_of};
pub use plugins::function::{CodeWorker, blocking, function, typed};
pub use signals::{Signal, Signals};
