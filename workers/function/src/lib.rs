#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod worker;

pub use worker::{CodeWorker, blocking, function, typed};
