#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod allow;
mod command;
mod config;
mod directives;
mod environment;
mod exits;
mod keep;
mod line;
mod params;
mod pipes;
mod printed;
mod slot;
mod turns;
mod verdict;
mod worker;

use ganger_core::Plugin;

pub use config::{Config, GRACE, ORPHAN_AFTER, RETRY_LATER, Streams, UnknownParams};
pub use exits::ExitCode;
pub use ganger_child::{Env, Text};
pub use keep::{KeepFiles, KeepOutput, kept_files};
pub use params::{Params, Stdin};
pub use worker::{Cli, Entry};

/// The plugin: load it in `ganger/src/plugins.rs`.
pub const PLUGIN: Plugin = Plugin::worker::<Cli>(include_str!("../README.md"));
