//! Moves jobs between providers and workers, and owns every decision about them.
//!
//! One small room each, and data passes through them in this order and never back: [`Plan`] → exchange → route →
//! pool → [`judge()`] → exchange. Beside them `keep` holds the leases, `drain` ends it all, and `stats` counts.
//!
//! ```no_run
//! use ganger_manager::{Manager, Plan};
//! # async fn example(plan: Plan) -> Result<(), ganger_manager::ManagerError> {
//! let running = Manager::start(plan).await?;
//! running.drain();
//! running.ended().await
//! # }
//! ```
#![forbid(unsafe_code)]

mod drain;
mod exchange;
mod follow;
mod health;
mod held;
mod house;
pub mod judge;
mod keep;
mod manager;
mod opening;
mod pace;
mod plan;
mod pool;
mod retry;
mod route;
mod sinks;
mod source;
mod spawn;
mod stats;
mod strays;
mod system_clock;

pub use judge::judge;
pub use manager::{Manager, ManagerError, Running};
pub use plan::{
    GRACE, HandlerPlan, IntakePlan, OpenIntakeFn, OpenProviderFn, Plan, PlanError, ProviderPlan, UnknownType,
    WorkerPlan,
};
pub use spawn::{Runtimes, Spawn};
pub use system_clock::SystemClock;
