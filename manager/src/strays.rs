//! Jobs that wait for a type that nobody does. By policy such a job is dead; a store that gives what it is asked for
//! would keep it for ever, so it is asked for these types by name, and the judge ends what comes.

use std::{collections::HashSet, sync::Arc, time::Duration};

use compact_str::CompactString;
use ganger_core::{Sink, Stop};
use tokio::time::{sleep, timeout};

use crate::{
    UnknownType,
    house::{House, Pools},
    source::Source,
};

/// How long the register of managers and the types that wait may take to be read.
const READ_LIMIT: Duration = Duration::from_secs(2);

/// So many types are asked for at a time.
const TYPES_MAX: usize = 50;

/// The types that live managers do; `None` when that cannot be known.
pub(crate) async fn live_types(source: &Source) -> Option<HashSet<CompactString>> {
    let sink = source.provider()?.sink()?;
    let managers = timeout(READ_LIMIT, sink.managers()).await.ok()?.ok()?;
    Some(managers.into_iter().flat_map(|beat| beat.types).map(|(kind, _)| kind.into()).collect())
}

/// Looks for strays in one provider, where the policy is that they are dead.
pub(crate) struct StrayFinder {
    house: Arc<House>,
    pools: Arc<Pools>,
    source: Arc<Source>,
    sink: Arc<dyn Sink>,
}

impl StrayFinder {
    /// `None` where strays are kept, or cannot be looked for.
    pub(crate) fn new(house: Arc<House>, pools: Arc<Pools>, source: Arc<Source>) -> Option<Self> {
        let sink = source.provider()?.sink()?;
        (house.policy.unknown == UnknownType::Dead).then_some(StrayFinder { house, pools, source, sink })
    }

    /// Looks at each third of a lease until `stop`: as often as the managers give a sign of life.
    pub(crate) async fn run(self, stop: Stop) {
        loop {
            tokio::select! {
                biased;
                () = stop.wait() => return,
                // The register is read when every manager that lives has had time to enter itself.
                () = sleep(self.source.lease() / 3) => {}
            }
            let strays = self.find().await.unwrap_or_default();
            let found = !strays.is_empty();
            *self.source.strays() = strays;
            if found {
                self.source.bell.notify_one();
            }
        }
    }

    async fn find(&self) -> Option<Vec<CompactString>> {
        if self.source.is_away(self.house.clock.monotonic()) {
            return None;
        }
        let mut types = timeout(READ_LIMIT, self.sink.ready_types()).await.ok()?.ok()?;
        types.retain(|kind| self.pools.find(kind).is_none());
        if types.is_empty() {
            return None;
        }
        let live = live_types(&self.source).await?;
        types.retain(|kind| !live.contains(kind));
        types.truncate(TYPES_MAX);
        Some(types)
    }
}
