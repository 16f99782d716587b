//! The built binary, tried from outside: what the tests share.
//!
//! A [`Place`] is a folder of its own for one test; what is started in it ends with it. Nothing here knows ganger's
//! insides: it starts programs, talks HTTP and looks at what they print.
#![forbid(unsafe_code)]

mod built;
mod http;
mod place;

use std::{
    thread,
    time::{Duration, Instant},
};

pub use built::{binary, checkout, example, ganger};
pub use http::{Answer, free_port, get, post, request};
pub use place::{Finished, Place, Running};
pub use rustix::process::Signal;

/// How long a condition may take: far longer than it ever should, so that only a fault runs into it.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until `look` sees what it looks for. The other side is another process, so there is nothing to await.
///
/// # Panics
/// After [`PATIENCE`], naming `what` was awaited.
pub fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "in {PATIENCE:?} there was no {what}");
        thread::sleep(Duration::from_millis(5));
    }
}
