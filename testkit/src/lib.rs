#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

pub mod machine;
mod port;
pub mod proxy;
pub mod server;
pub mod simulation;

/// What tests wait by, in place of sleeps: the same as in the conformance suite.
pub use ganger_conformance::signal;
