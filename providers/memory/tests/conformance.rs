//! The memory provider keeps what every provider owes.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::{sync::Arc, time::Duration};

use ganger_conformance::Store;
use ganger_core::{
    Batch, DynProvider, Exchange, Job, LeaseRef, Provider, Room, Settlement, Sink, Spend, Timestamp, Token,
    TypeRoom, Verdict, erase_provider,
};
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

/// A worker that was lost proves something against its job: from then on it is leased alone, as the only one such job of
/// its manager.
#[tokio::test]
async fn p7_a_job_that_spent_a_crash_is_leased_alone() {
    let store = Arc::new(MemoryProvider::new());
    let jobs = ["a", "b"].map(|name| {
        let mut job = Job::new("t", &name).unwrap();
        job.id = Some(name.parse().unwrap());
        job
    });
    store.enqueue(Batch::new(jobs.into())).await.unwrap();
    let exchange = |seq, settle, jobs, crashed| {
        let types = vec![TypeRoom { kind: "t".into(), jobs }];
        let room = Room { types, jobs, bytes: 1 << 20, suspect: true, crashed };
        let give =
            Exchange { token: Token { incarnation: 1, seq }, settle, room, lease: Duration::from_secs(15) };
        let store = store.clone();
        async move { store.exchange(&give).await.unwrap().leased }
    };
    assert_eq!(exchange(1, vec![], 1, true).await.len(), 1);
    let lease = LeaseRef { token: Token { incarnation: 1, seq: 1 }, index: 0 };
    let mut lost = Settlement::new(lease, Verdict::Retry { at: Timestamp::from_millis(0) });
    lost.spend = Spend::Crash;
    let others = exchange(2, vec![lost], 2, false).await;
    assert_eq!(others.len(), 1, "there is no room for the one that crashed");
    assert_eq!(others[0].record.crashes, 0);
    let alone = exchange(3, vec![], 2, true).await;
    assert_eq!((alone.len(), alone[0].record.crashes), (1, 1));
}

ganger_conformance::provider!(Memory(Arc::new(MemoryProvider::new())));
