//! The redis provider passes the suite that every provider passes, against a real server.
// Code of tests: a panic is how it speaks.
#![allow(clippy::unwrap_used)]

mod support;

use std::sync::{Arc, Mutex};

use ganger_conformance::Store;
use ganger_core::{DynProvider, ProviderError};
use ganger_testkit::server::Redis;
use redis::cmd;

use support::{LIST, dump, durable, open, run, strand};

/// A server of a test's own.
struct Own(Mutex<Redis>);

impl Own {
    fn url(&self) -> String {
        self.0.lock().unwrap().url()
    }
}

impl Store for Own {
    async fn open(&self, incarnation: u64) -> Arc<dyn DynProvider> {
        open(&self.url(), incarnation).await.unwrap()
    }

    async fn push(&self, bytes: Vec<u8>) -> bool {
        run(&self.0.lock().unwrap(), cmd("RPUSH").arg(LIST).arg(bytes));
        true
    }

    async fn strand(&self, bytes: Vec<u8>, held: bool) -> bool {
        strand(&self.0.lock().unwrap(), &bytes, held);
        true
    }

    async fn open_out_of_reach(&self) -> Option<ProviderError> {
        let url = self.url();
        self.0.lock().unwrap().kill();
        open(&url, 1).await.err()
    }

    async fn open_newer_format(&self) -> Option<(ProviderError, bool)> {
        let newer = ["format", "9", "oldest", "9"];
        run(&self.0.lock().unwrap(), cmd("HSET").arg("ganger:{jobs}:meta").arg(&newer));
        let before = dump(&self.0.lock().unwrap());
        let error = open(&self.url(), 1).await.err()?;
        let after = dump(&self.0.lock().unwrap());
        Some((error, before == after))
    }
}

ganger_conformance::provider!(Own(Mutex::new(durable())));
