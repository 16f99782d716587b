#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod access;
mod line;
mod live;
mod serve;
mod stats;

pub use serve::{Console, ConsoleError, Options};
pub use stats::stats_json;
