//! The store of the simulation keeps what every provider owes: what a manager does with it is no fault of the
//! store.

use std::{sync::Arc, time::Duration};

use ganger_conformance::Store;
use ganger_core::{Clock, DynProvider, Timestamp};
use ganger_testkit::simulation::SimStore;
use tokio::time::Instant;

/// The time that the suite goes by.
struct Now(Instant);

impl Clock for Now {
    fn monotonic(&self) -> Duration {
        self.0.elapsed()
    }

    fn wall(&self) -> Timestamp {
        Timestamp::now()
    }
}

struct Simulated(SimStore);

impl Store for Simulated {
    async fn open(&self, _: u64) -> Arc<dyn DynProvider> {
        Arc::new(self.0.clone())
    }

    async fn push(&self, bytes: Vec<u8>) -> bool {
        self.0.push_raw(bytes);
        true
    }
}

ganger_conformance::provider!(Simulated(SimStore::new(Arc::new(Now(Instant::now())))));
