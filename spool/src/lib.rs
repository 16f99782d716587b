//! The SQLite job store that the disk provider and the disk worker both speak.
//!
//! A [`Spool`] is an open file: one per process and file, with one thread that writes. A [`Source`] is one
//! provider's view of it. What it promises, and how the file is laid out, is in the README of `providers/disk`.

mod absorb;
mod admin;
mod claim;
mod clock;
mod enqueue;
mod error;
mod exchange;
mod handout;
mod list;
mod lock;
mod lost;
mod members;
mod order;
mod parcel;
mod prune;
mod read;
mod renew;
mod row;
mod schema;
mod settle;
mod source;
mod spool;
mod tx;
mod unique;
mod wait;
mod watch;
mod writer;

pub use enqueue::CAPABILITIES;
pub use parcel::{Label, Parcel, ParcelState, Parcels};
pub use source::Source;
pub use spool::{KEEP_DONE, KEEP_DONE_MAX, Retention, Spool, SpoolOptions};
