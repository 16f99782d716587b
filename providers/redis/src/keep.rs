//! What this manager holds of producers' bytes that ask for their end to be kept: only who has read them knows.

use std::{
    collections::HashMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use ganger_core::{Job, LeaseRef};

/// At most so many are remembered; they are forgotten when they are settled.
const KEEPS_MAX: usize = 100_000;

/// Milliseconds to keep, by lease.
#[derive(Default)]
pub(crate) struct Keeps {
    any: AtomicBool,
    known: Mutex<HashMap<LeaseRef, u64>>,
}

impl Keeps {
    /// Looks whether bytes ask for their end to be kept.
    pub(crate) fn note(&self, lease: LeaseRef, raw: &[u8]) {
        if !mentions_keep(raw) {
            return;
        }
        let keep = Job::from_json(raw).ok().and_then(|job| job.rare().keep);
        if let Some(keep) = keep {
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            if known.len() < KEEPS_MAX {
                known.insert(lease, u64::try_from(keep.as_millis()).unwrap_or(u64::MAX));
                self.any.store(true, Ordering::Release);
            }
        }
    }

    /// How long the end of what is settled is kept, as far as that is known here.
    pub(crate) fn of(&self, lease: LeaseRef) -> u64 {
        if !self.any.load(Ordering::Acquire) {
            return 0;
        }
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(&lease).copied().unwrap_or(0)
    }

    /// Forgets what is settled.
    pub(crate) fn forget(&self, leases: impl Iterator<Item = LeaseRef>) {
        if self.any.load(Ordering::Acquire) {
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            for lease in leases {
                known.remove(&lease);
            }
            self.any.store(!known.is_empty(), Ordering::Release);
        }
    }
}

fn mentions_keep(raw: &[u8]) -> bool {
    memchr::memchr2_iter(b'k', b'K', raw)
        .any(|at| at > 0 && raw.get(at - 1..at + 5).is_some_and(|key| key.eq_ignore_ascii_case(b"\"keep\"")))
}
