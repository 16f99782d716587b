//! A provider as the rooms see it: its name and options, what is held of it, and the verdicts on their way to it.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use compact_str::CompactString;
use ganger_core::{DynProvider, LEASE, ProviderOptions, Settlement};
use tokio::sync::Notify;

use crate::{held::Held, house::House};

/// A provider at work.
pub(crate) struct Source {
    pub(crate) name: String,
    /// Its number, which every run carries as its origin.
    pub(crate) index: u32,
    pub(crate) options: ProviderOptions,
    pub(crate) held: Held,
    /// Rung when there is something to settle, room to claim for, or a new order.
    pub(crate) bell: Notify,
    /// Rung when a claim comes of whose lease a third is over: the keeper may sleep for longer than it has.
    pub(crate) aged: Notify,
    /// It was out of reach for so long that its runs were fenced: settles and renews first, then asks.
    pub(crate) away: AtomicBool,
    /// It has been in trouble: one look saves the one for the reason.
    troubled: AtomicBool,
    outbox: Mutex<Outbox>,
    /// Types that nobody does, to be asked for all the same.
    strays: Mutex<Vec<CompactString>>,
    provider: OnceLock<Arc<dyn DynProvider>>,
}

#[derive(Default)]
struct Outbox {
    settle: Vec<Settlement>,
    urgent: bool,
    /// The exchange comes by itself soon: only so many verdicts ring, or an urgent one.
    gathering: Option<usize>,
}

impl Source {
    pub(crate) fn new(index: u32, name: String, options: ProviderOptions) -> Self {
        Source {
            name,
            index,
            options,
            held: Held::default(),
            bell: Notify::new(),
            aged: Notify::new(),
            away: AtomicBool::new(false),
            troubled: AtomicBool::new(false),
            outbox: Mutex::default(),
            strays: Mutex::default(),
            provider: OnceLock::new(),
        }
    }

    /// How long its leases last.
    pub(crate) fn lease(&self) -> Duration {
        self.options.lease.map_or(LEASE, |lease| lease.get())
    }

    /// Whether it has been out of reach for so long that nothing may be asked for before what is held is renewed.
    /// The keeper may not know yet, where the whole process stood still.
    pub(crate) fn is_away(&self, now: Duration) -> bool {
        let overdue = now.checked_sub(self.lease() * 2 / 3).is_some_and(|since| self.held.any_before(since));
        if overdue {
            self.away.store(true, Ordering::Release);
        }
        overdue || self.away.load(Ordering::Acquire)
    }

    /// The provider, once it is open.
    pub(crate) fn provider(&self) -> Option<&Arc<dyn DynProvider>> {
        self.provider.get()
    }

    /// It is open.
    pub(crate) fn opened(&self, provider: Arc<dyn DynProvider>) {
        // Opened once: a second time would find the first one there and change nothing.
        let _ = self.provider.set(provider);
    }

    fn outbox(&self) -> MutexGuard<'_, Outbox> {
        self.outbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The types that nobody does; they are asked for all the same, and what comes of them is judged.
    pub(crate) fn strays(&self) -> MutexGuard<'_, Vec<CompactString>> {
        self.strays.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something that may pass is wrong with it: readiness goes off until [`Source::well`].
    pub(crate) fn trouble(&self, house: &House, doing: &str, what: &str) {
        let first = house
            .health
            .off(&format!("provider {} {doing}", self.name), format!("provider `{}`: {what}", self.name));
        if first {
            tracing::warn!(provider = %self.name, what, "a provider is in trouble; trying again");
        }
        self.troubled.store(true, Ordering::Release);
    }

    /// It is well again, in this respect.
    pub(crate) fn well(&self, house: &House, doing: &str) {
        if self.troubled.load(Ordering::Acquire)
            && house.health.on(&format!("provider {} {doing}", self.name))
        {
            tracing::info!(provider = %self.name, doing, "a provider is well again");
        }
    }

    /// Hands verdicts over, all at once; `settle` is empty afterwards. Someone waits for an urgent one.
    pub(crate) fn settle(&self, settle: &mut Vec<Settlement>, urgent: bool) {
        if settle.is_empty() {
            return;
        }
        let mut outbox = self.outbox();
        let before = outbox.settle.len();
        outbox.settle.append(settle);
        outbox.urgent |= urgent;
        let enough = outbox.gathering.unwrap_or(1);
        let rings = urgent || (before < enough && outbox.settle.len() >= enough);
        drop(outbox);
        if rings {
            self.bell.notify_one();
        }
    }

    /// Takes the verdicts that were handed over; whether someone waits for one of them.
    pub(crate) fn collect(&self, into: &mut Vec<Settlement>) -> bool {
        let mut outbox = self.outbox();
        if into.is_empty() {
            std::mem::swap(into, &mut outbox.settle);
        } else {
            into.append(&mut outbox.settle);
        }
        outbox.gathering = None;
        std::mem::take(&mut outbox.urgent)
    }

    /// From now until the next [`Source::collect`] verdicts are gathered: those that nobody waits for do not ring
    /// until there are `enough`. With none wanted they do not ring at all.
    pub(crate) fn gather(&self, enough: usize) {
        self.outbox().gathering = Some(enough);
    }
}

/// The right to run the one job of this manager that has lost runs before (P7). Given back when dropped.
pub(crate) struct CrashPermit(Arc<AtomicBool>);

impl CrashPermit {
    /// Whether nobody has it just now.
    pub(crate) fn is_free(taken: &Arc<AtomicBool>) -> bool {
        !taken.load(Ordering::Acquire)
    }

    /// The permit, if nobody has it.
    pub(crate) fn take(taken: &Arc<AtomicBool>) -> Option<Self> {
        let free = taken.compare_exchange(false, true, Ordering::AcqRel, Ordering::Acquire).is_ok();
        free.then(|| CrashPermit(taken.clone()))
    }
}

impl Drop for CrashPermit {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}
