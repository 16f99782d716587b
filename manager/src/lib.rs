//! Moves jobs between providers and workers, and owns every decision about them.
//!
//! One room each, and data passes through them in this order and never back:
//! [`plan`](Plan) → exchange → route → pool → judge → exchange; beside them `keep` holds the leases, `drain`
//! ends it all, and `stats` counts.
#![forbid(unsafe_code)]

mod manager;
mod plan;
mod spawn;
mod system_clock;

pub use manager::{Manager, ManagerError, Running};
pub use plan::{
    GRACE, HandlerPlan, IntakePlan, OpenIntakeFn, OpenProviderFn, Plan, PlanError, ProviderPlan, UnknownType,
    WorkerPlan,
};
pub use spawn::{Runtimes, Spawn};
pub use system_clock::SystemClock;
