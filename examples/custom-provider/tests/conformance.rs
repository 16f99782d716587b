//! The conformance suite, on the provider as a stranger would test it.

use std::sync::Arc;

use example_custom_provider::Lines;
use ganger::{DynProvider, Plan, erase_provider};
use ganger_conformance::Store;

struct Fresh(Arc<Lines>);

impl Store for Fresh {
    async fn open(&self, _: u64) -> Arc<dyn DynProvider> {
        erase_provider(self.0.clone())
    }

    async fn push(&self, bytes: Vec<u8>) -> bool {
        self.0.push(&bytes);
        true
    }
}

ganger_conformance::provider!(Fresh(Arc::new(Lines::new(Plan::new().clock))));
