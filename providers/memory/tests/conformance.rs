//! The memory provider keeps what every provider owes.

use std::sync::Arc;

use ganger_conformance::Store;
use ganger_core::{DynProvider, erase_provider};
use ganger_provider_memory::MemoryProvider;

struct Memory(Arc<MemoryProvider>);

impl Store for Memory {
    async fn open(&self, _: u64) -> Arc<dyn DynProvider> {
        erase_provider(self.0.clone())
    }

    async fn push(&self, bytes: Vec<u8>) -> bool {
        self.0.push_raw(bytes);
        true
    }
}

ganger_conformance::provider!(Memory(Arc::new(MemoryProvider::new())));
