//! ganger from outside: one binary, a module for each face.

mod command_line;
mod config;
mod crash;
mod examples;
#[cfg(feature = "failpoints")]
mod failpoints;
mod faults;
mod foreign;
mod intake;
mod new_plugin;
mod server;
mod shutdown;
