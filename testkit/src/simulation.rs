//! The parts of a simulated world: everything that a manager touches outside, driven by one seed under paused time.
//!
//! - [`Chance`] draws everything that happens from the seed.
//! - [`SimClock`] is tokio's paused time; its wall clock can be made to jump.
//! - [`Life`] is one incarnation of a manager: its tasks run on it, and it ends between any two of their polls.
//! - [`Wire`] stands between a manager and a store: it delays, loses and doubles requests and replies.
//! - [`Ledger`] sees what the store really applied and what the workers really did, and holds the promises
//!   against it.
//! - [`Fate`] says how the runs of a job end.
//!
//! The store itself is any provider on a [`SimClock`]; the manager is the real one. `testkit/tests/simulation.rs` puts
//! them together and says how to replay a seed.

mod chance;
mod clock;
mod fate;
mod ledger;
mod life;
mod wire;

pub use chance::Chance;
pub use clock::SimClock;
pub use fate::{Fate, FateWorkers, POISON};
pub use ledger::{Ledger, Violation};
pub use life::Life;
pub use wire::{Weather, Wire};
