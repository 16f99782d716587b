//! Nouns and contracts of ganger.
//!
//! ganger takes jobs from wherever they are and gets them done. This crate says what a [`Job`] is, what a
//! [`Provider`], an [`Intake`] and a [`Worker`] owe the manager and what it owes them. It does no I/O and needs
//! no runtime, so that a plugin builds on it alone.
#![forbid(unsafe_code)]

mod admin;
mod backoff;
mod capability;
mod clock;
mod context;
mod error;
mod events;
mod follow;
mod id;
mod intake;
mod job;
mod lease;
mod options;
mod outcome;
mod output_buffer;
mod params;
mod period;
mod plugin;
mod provider;
mod secret;
mod settle;
mod sink;
mod size;
mod state;
mod status;
mod unique;
mod wire;
mod worker;

pub use admin::*;
pub use backoff::Backoff;
pub use capability::*;
pub use clock::{Clock, Timestamp, TimestampError};
pub use context::*;
pub use error::{OptionsError, ProviderError, Severity, WorkerError};
pub use events::*;
pub use follow::{Follower, Live, PIECE_MAX};
pub use id::{ID_MAX, IdError, JobId};
pub use intake::*;
pub use job::*;
pub use lease::{Hold, LeaseRef, Token, TokenError, draw_incarnation};
pub use options::*;
pub use outcome::*;
pub use output_buffer::*;
pub use params::ParamsCheck;
pub use period::{PERIOD_MAX, Period, PeriodError};
pub use plugin::*;
pub use provider::*;
pub use secret::Secret;
pub use settle::*;
pub use sink::*;
pub use size::{ByteSize, ByteSizeError};
pub use state::{State, StateError};
pub use status::*;
pub use unique::Unique;
pub use wire::{DEPTH_MAX, Malformed};
pub use worker::*;

/// A boxed future, as the erased traits return it.
pub type BoxFuture<'a, T> = futures_util::future::BoxFuture<'a, T>;
