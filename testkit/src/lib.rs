#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod port;
pub mod proxy;
pub mod server;
pub mod simulation;
