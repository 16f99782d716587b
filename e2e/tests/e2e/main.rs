//! ganger from outside: one binary, a module for each face.
#![allow(clippy::unwrap_used, reason = "a panic is how a test speaks")]

mod command_line;
mod config;
mod crash;
mod examples;
#[cfg(feature = "failpoints")]
mod failpoints;
mod faults;
mod follow;
mod foreign;
mod intake;
mod looking;
mod new_plugin;
mod process;
mod recover;
mod redis;
mod server;
mod shutdown;
