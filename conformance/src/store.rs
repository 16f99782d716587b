//! What the suite needs of a provider's tests.

use std::{sync::Arc, time::Duration};

use ganger_core::{DynProvider, ProviderError};

/// A fresh, empty store, which the suite opens as several managers.
pub trait Store: Send + Sync + 'static {
    /// Opens the store as one manager; the same store each time.
    fn open(&self, incarnation: u64) -> impl Future<Output = Arc<dyn DynProvider>> + Send;

    /// A lease that runs out soon, and that the store can still tell from none.
    fn lease(&self) -> Duration {
        Duration::from_millis(150)
    }

    /// Pushes bytes as a foreign producer would; `false` where there is no such way.
    fn push(&self, bytes: Vec<u8>) -> impl Future<Output = bool> + Send {
        let _ = bytes;
        async { false }
    }

    /// Leaves a job's bytes behind as an interrupted run of the store's predecessor would; with `held`, as one that may
    /// still run. `false` where there is no such way.
    fn strand(&self, bytes: Vec<u8>, held: bool) -> impl Future<Output = bool> + Send {
        let _ = (bytes, held);
        async { false }
    }

    /// Ends every process that has the store open, as `kill -9` would: what was not durable is gone. `false`
    /// where a test cannot; what the sink acknowledged is then looked for after a plain close.
    fn kill(&self) -> impl Future<Output = bool> + Send {
        async { false }
    }

    /// The error of opening a store that is out of reach; `None` where a store cannot be.
    fn open_out_of_reach(&self) -> impl Future<Output = Option<ProviderError>> + Send {
        async { None }
    }

    /// Makes a store of a newer format and opens it: the error, and whether the store is still as it was. `None`
    /// where there is no format.
    fn open_newer_format(&self) -> impl Future<Output = Option<(ProviderError, bool)>> + Send {
        async { None }
    }
}
