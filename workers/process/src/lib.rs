#![doc = include_str!("../README.md")]
#![deny(unsafe_code)]

mod breaker;
pub mod check;
mod child;
mod config;
mod fault;
mod lines;
mod message;
mod talk;
mod warden;
mod worker;

use ganger_core::Plugin;

pub use config::Config;
pub use worker::{Entry, Params, Process};

/// The plugin: load it in `ganger/src/plugins.rs`.
pub const PLUGIN: Plugin = Plugin::worker::<Process>(include_str!("../README.md"));
