//! Renews all leases of a provider in one call, hands cancels on, and fences what it cannot renew.

use std::{
    pin::pin,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use ganger_core::{DynProvider, ProviderError, Severity, Stop};
use tokio::time::{error::Elapsed, sleep, timeout};

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
                    // With the sixth that an attempt may take, less than a third: for so long a store that is back
                    // after an absence leaves every lease to its holder.
                    false => self.house.clock.monotonic() + backing.next().min(lease / 8),
                };
                continue;
            }
            tokio::select! {
                biased;
                () = stop.wait() => return,
                () = self.until_fence(next, lease) => {}
            }
        }
    }

    /// Until something must be fenced, or `at` if that is earlier. Also when a claim comes that is old already.
    async fn until_fence(&self, at: Duration, lease: Duration) {
        let fence_at = self.source.held.oldest().map(|oldest| oldest + lease * 2 / 3);
        let wait =
            fence_at.map_or(at, |fence_at| fence_at.min(at)).saturating_sub(self.house.clock.monotonic());
        tokio::select! {
            biased;
            () = self.source.aged.notified() => {}
            () = sleep(wait.max(Duration::from_millis(1))) => {}
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
        let error = match self.answered(self.provider.renew(&beat, &refs), lease).await {
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

    /// Waits for an answer, for a sixth of the lease at most, and fences meanwhile what must be.
    async fn answered<T>(&self, call: impl Future<Output = T>, lease: Duration) -> Result<T, Elapsed> {
        let mut call = pin!(timeout(lease / 6, call));
        loop {
            let now = self.house.clock.monotonic();
            self.fence(now, lease);
            tokio::select! {
                biased;
                answered = &mut call => return answered,
                () = self.until_fence(now + lease, lease) => {}
            }
        }
    }
}
