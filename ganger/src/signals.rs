//! The signals that end ganger: the first drains, the second hurries.

use std::pin::pin;

use futures_util::future::{pending, select};
use tokio::signal::unix::{SignalKind, signal};

use crate::Error;

/// Which signal came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM.
    Terminate,
    /// SIGINT: Ctrl-C.
    Interrupt,
    /// SIGHUP: the terminal was closed.
    Hangup,
}

/// The signals that end ganger. From the moment it is made, they no longer kill the process, and neither does SIGXFSZ:
/// a file that may not grow is an error of the one that writes it. A SIGHUP that the process was started to ignore,
/// as by `nohup`, stays ignored.
#[derive(Debug)]
pub struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    hangup: Option<tokio::signal::unix::Signal>,
}

impl Signals {
    /// Begins to listen. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// The system refuses.
    pub fn listen() -> Result<Self, Error> {
        let listen = |kind| {
            signal(kind).map_err(|error| Error::System { what: "listening for signals".to_owned(), error })
        };
        // Caught rather than ignored, so that commands have it at its default. It stays so.
        drop(listen(SignalKind::from_raw(libc::SIGXFSZ))?);
        Ok(Signals {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hangup: if ignores_hangup() { None } else { Some(listen(SignalKind::hangup())?) },
        })
    }

    /// Waits for the next one. May be dropped at any time.
    pub async fn next(&mut self) -> Signal {
        let Signals { terminate, interrupt, hangup } = self;
        let terminate = async {
            terminate.recv().await;
            Signal::Terminate
        };
        let interrupt = async {
            interrupt.recv().await;
            Signal::Interrupt
        };
        let hangup = async {
            match hangup {
                Some(hangup) => hangup.recv().await,
                None => pending().await,
            };
            Signal::Hangup
        };
        let asked = async { select(pin!(terminate), pin!(interrupt)).await.factor_first().0 };
        select(pin!(asked), pin!(hangup)).await.factor_first().0
    }
}

/// Whether the process was started with SIGHUP ignored. Once it is listened for this is no longer so.
fn ignores_hangup() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    // The lowest bit is signal 1.
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 == 1)
}
