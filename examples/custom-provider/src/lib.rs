#![doc = include_str!("../README.md")]
mod lines;
pub use lines::{Lines, LinesConfig};
