//! Real servers, a fault proxy, the simulation and signals for ganger's tests.
#![forbid(unsafe_code)]

pub mod simulation;
