//! The `ganger` command, with fail points: it aborts at the nth passing of the one that `GANGER_ABORT_AT` names.

use std::{
    process::ExitCode,
    sync::atomic::{AtomicUsize, Ordering},
};

static PASSED: AtomicUsize = AtomicUsize::new(0);

fn main() -> ExitCode {
    let nth = std::env::var("GANGER_ABORT_NTH").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    if let Ok(point) = std::env::var("GANGER_ABORT_AT") {
        let abort = move || {
            if PASSED.fetch_add(1, Ordering::SeqCst) + 1 == nth {
                std::process::abort();
            }
        };
        fail::cfg_callback(point, abort).expect("a callback is always taken");
    }
    ganger::cli::main()
}
