//! The signals that end ganger: the first drains, the second hurries.

use tokio::signal::unix::{SignalKind, signal};

use crate::Error;

/// Which signal came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM.
    Terminate,
    /// SIGINT: Ctrl-C.
    Interrupt,
}

/// The signals that end ganger. From the moment it is made, they no longer kill the process.
#[derive(Debug)]
pub struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
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
        Ok(Signals {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
        })
    }

    /// Waits for the next one. May be dropped at any time.
    pub async fn next(&mut self) -> Signal {
        let terminate = std::pin::pin!(self.terminate.recv());
        let interrupt = std::pin::pin!(self.interrupt.recv());
        match futures_util::future::select(terminate, interrupt).await {
            futures_util::future::Either::Left(_) => Signal::Terminate,
            futures_util::future::Either::Right(_) => Signal::Interrupt,
        }
    }
}
