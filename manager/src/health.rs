//! What stands in the way of work, in words: the reasons behind readiness.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use ganger_core::Readiness;

/// The reasons, each under a key of whoever gave it.
#[derive(Default)]
pub(crate) struct Health(Mutex<BTreeMap<String, String>>);

impl Health {
    /// Something stands in the way; whether that is new.
    pub(crate) fn off(&self, key: &str, reason: String) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(key.to_owned(), reason).is_none()
    }

    /// It does no longer; whether it did.
    pub(crate) fn on(&self, key: &str) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(key).is_some()
    }

    /// All reasons.
    pub(crate) fn read(&self) -> Readiness {
        let reasons = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Readiness { reasons: reasons.values().cloned().collect() }
    }
}
