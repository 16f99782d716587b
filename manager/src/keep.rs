//! Renews all leases of a provider in one call, hands cancels on, and fences what it cannot renew.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use ganger_core::{DynProvider, ProviderError, Severity, Stop};
use tokio::time::{sleep, timeout};

use crate::{
    house::{House, Pools},
    retry::Backing,
    source::Source,
};

/// The keeper of one provider's leases.
pub(crate) struct Keeper {
    pub(crate) house: Arc<House>,
    pub(crate) pools: Arc<Pools>,
    pub(crate) source: Arc<Source>,
    pub(crate) provider: Arc<dyn DynProvider>,
}

impl Keeper {
    /// Renews at a third of the lease until `stop`. A lease counts from when the request was sent that last
    /// surely extended it; two thirds later its run is stopped.
    pub(crate) async fn run(self, stop: Stop) {
        let lease = self.source.lease();
        let mut next = self.house.clock.monotonic();
        let mut backing = Backing::new(u64::from(self.source.index) + 1);
        loop {
            let now = self.house.clock.monotonic();
            self.fence(now, lease);
            if now >= next {
                let sent = now;
                next = match self.renew(lease).await {
                    true => {
                        backing = Backing::new(u64::from(self.source.index) + 1);
                        sent + lease / 3
                    }
                    // Never longer than a third of the lease: what is claimed meanwhile must be fenced in time.
                    false => self.house.clock.monotonic() + backing.next().min(lease / 3),
                };
                continue;
            }
            let fence_at = self.source.held.oldest().map(|oldest| oldest + lease * 2 / 3);
            let at = fence_at.map_or(next, |at| at.min(next));
            tokio::select! {
                biased;
                () = stop.wait() => return,
                () = sleep(at.saturating_sub(now).max(Duration::from_millis(1))) => {}
            }
        }
    }

    /// Stops what may have lost its lease.
    fn fence(&self, now: Duration, lease: Duration) {
        let Some(since) = now.checked_sub(lease * 2 / 3) else { return };
        let fenced = self.source.held.fence_before(since);
        if fenced > 0 {
            self.source.away.store(true, Ordering::Release);
            self.source.trouble(
                &self.house,
                "renew",
                &format!(
                    "its leases could not be renewed for {:?}: {fenced} runs are stopped",
                    lease * 2 / 3
                ),
            );
        }
    }

    /// One renewal; whether it was answered.
    async fn renew(&self, lease: Duration) -> bool {
        let refs = self.source.held.refs();
        let beat = self.pools.beat(&self.house, lease);
        let sent = self.house.clock.monotonic();
        fail::fail_point!("manager::before_renew", |_| false);
        let error = match timeout(self.limit(sent, lease), self.provider.renew(&beat, &refs)).await {
            Ok(Ok(holds)) if holds.len() == refs.len() => {
                let lost = self.source.held.renewed(&refs, &holds, sent);
                if lost > 0 {
                    tracing::warn!(provider = %self.source.name, lost, "leases are lost: their runs are stopped");
                    self.source.bell.notify_one();
                }
                self.source.well(&self.house, "renew");
                if self.source.away.swap(false, Ordering::AcqRel) {
                    self.source.bell.notify_one();
                }
                return true;
            }
            Ok(Ok(holds)) => ProviderError::transient(format!(
                "asked about {} leases, it answered for {}",
                refs.len(),
                holds.len()
            )),
            Ok(Err(error)) => error,
            Err(_) => ProviderError::transient("no answer in time"),
        };
        match error.severity() {
            Severity::Fatal => self.house.fatal(&self.source.name, error),
            Severity::Transient => {
                self.source.trouble(&self.house, "renew", &format!("renewing its leases: {error}"));
            }
        }
        false
    }

    /// How long a renewal may take: a sixth of the lease, but never past the time at which something must be
    /// fenced.
    fn limit(&self, now: Duration, lease: Duration) -> Duration {
        let fence_in = self.source.held.oldest().map(|oldest| (oldest + lease * 2 / 3).saturating_sub(now));
        let limit = lease / 6;
        fence_in.map_or(limit, |fence_in| limit.min(fence_in.max(Duration::from_millis(10))))
    }
}
