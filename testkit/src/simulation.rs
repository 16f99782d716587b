//! The parts of a simulated world: everything that a manager touches outside, driven by one seed under paused
//! time.
//!
//! - [`Chance`] draws everything that happens from the seed.
//! - [`SimClock`] is tokio's paused time; its wall clock can be made to jump.
//! - [`Life`] is one incarnation of a manager: its tasks run on it, it stands still and goes on, and it ends
//!   between any two of their polls.
//! - [`SimStore`] is a store that can lose its power, and be put back to a snapshot.
//! - [`Wire`] stands between a manager and a store: it delays, loses and doubles requests and replies.
//! - [`Ledger`] sees what the stores really applied, what the managers really heard and what the workers
//!   really did, and holds the promises against it.
//! - [`Fate`] says how the runs of a job end.
//!
//! The manager is the real one. `testkit/tests/simulation.rs` puts all together, and says how to replay a
//! seed and what the worlds are known to catch.
//!
//! # What happens
//! A world draws which of these can happen in it, so that in most there are few and each comes often:
//!
//! | fault | how |
//! |---|---|
//! | calls go wrong | refused; request lost; reply lost, told or not; request late; request doubled; reply late: 5, 20 or 60 of 100 |
//! | slow calls | requests and replies each take up to a whole lease |
//! | a brownout | slow calls against the lease, then none at all, in both directions or for replies only |
//! | an outage | up to more than two leases; nothing else may happen meanwhile, so that everyone lives through it |
//! | a manager dies | at any poll of any of its tasks, or by a job that takes it along |
//! | a manager stands still | for up to two and a half leases, as by `kill -STOP`, and goes on |
//! | a manager drains | at any time, with any grace |
//! | its wall clock jumps | up to 30 s, forward or back |
//! | the store loses its power | what it had not synced is gone: claims, renewals |
//! | the store forgets | it is put back to a snapshot; what it acknowledged since is gone |
//! | a job is cancelled | while it waits, runs, or is on its way |
//! | opening fails | up to twice |
//!
//! There are one to four managers. The store may be one that remembers no exchange, that gives what comes
//! whatever there is room for, or that cannot hold what follows from a job, which goes to a second store
//! then. Runs fail, panic, hang, are lost, ask for another wait, are not worth a retry, enqueue others, and
//! end at once or slowly when they are told to stop.
//!
//! # What is held against it
//!
//! | promise | check |
//! |---|---|
//! | P1 | every accepted job ends, as its fate says, and is leased by nobody afterwards |
//! | P2 | runs ≤ 1 + retries + crashes + lost leases + releases; exactly what its fate says where nothing went wrong; bytes keep the id of their first claim |
//! | P3 | tokens are a manager's own and rise; no lease is given for two jobs; no verdict falls on a job that it does not mean, also after the store forgot |
//! | P4 | what goes under one token is always the same; what follows from an end is durable with it or before |
//! | P5 | in peace no job is ready for a lease and two seconds while a slot is free; every drain ends in its time |
//! | P6 | nothing runs past two thirds of a lease, counted from when the request was sent that the manager knows to have been answered; nothing begins then; a lost lease stops its run at once; no job is taken over while it runs, or runs twice; who lives and is heard keeps its leases; after an absence nobody asks before it has renewed, and nothing is taken over for a third |
//! | P7 | a suspect is leased alone, and its lease outlives the power; one job that crashed runs at a manager at a time; none after three crashes; a release spends nothing; who drains asks for nothing and leaves nothing behind |
//! | P8 | bytes that are no job end dead, and never run |
//! | P9 | a cancelled job ends cancelled or done, is leased no more, and its run is stopped within a third of a lease |

mod chance;
mod clock;
mod fate;
mod ledger;
mod life;
mod store;
mod wire;

pub use chance::Chance;
pub use clock::SimClock;
pub use fate::{Fate, FateWorkers, POISON};
pub use ledger::{Ledger, MAIN, Remembered, Violation};
pub use life::Life;
pub use store::{Loss, SimStore, Snapshot};
pub use wire::{Out, Weather, Wire};
