//! Who holds which unique key. A job holds its key by being in one of the states that it names, and by nothing else.

use std::sync::Arc;

use ganger_core::{FirstClaim, Job, JobId, LeaseRef, Record, State, Timestamp, Token, Unique};

use super::{End, Item, Known, OVERHEAD, Slot, Store, Stored};

/// A job of a key.
pub(super) struct Holder {
    id: JobId,
    /// Its id as people know it: bytes may name one.
    shown: JobId,
    states: Vec<State>,
}

impl Stored {
    /// What is said of `unique`, and the id that is named beside it.
    fn unique(&self) -> Option<(Unique, Option<JobId>)> {
        match self {
            Stored::Job(job) => Some((job.rare().unique.clone()?, job.id.clone())),
            Stored::Raw(bytes) => Unique::in_raw(bytes),
        }
    }
}

impl Store {
    /// The job that holds a key, other than this one.
    pub(crate) fn holder(&self, key: &str, than: &JobId) -> Option<JobId> {
        let holds = |holder: &&Holder| {
            let state = self.known.get(&holder.id).map(|known| known.state);
            holder.id != *than && state.is_some_and(|state| holder.states.contains(&state))
        };
        self.unique.get(key)?.iter().find(holds).map(|holder| holder.shown.clone())
    }

    /// From now on the job's states say whether it holds the key.
    pub(super) fn take_key(&mut self, id: JobId, shown: JobId, unique: Unique) {
        let holders = self.unique.entry(unique.key).or_default();
        if !holders.iter().any(|holder| holder.id == id) {
            holders.push(Holder { id, shown, states: unique.states });
        }
    }

    fn let_go(&mut self, id: &JobId, key: &str) {
        let Some(holders) = self.unique.get_mut(key) else { return };
        holders.retain(|holder| holder.id != *id);
        if holders.is_empty() {
            self.unique.remove(key);
        }
    }

    /// A job has ended in a state, or its end is forgotten.
    pub(super) fn has_ended(&mut self, id: &JobId, stored: &Stored, end: Option<State>) {
        if let Some((unique, _)) = stored.unique()
            && !end.is_some_and(|state| unique.holds_in(state))
        {
            self.let_go(id, &unique.key);
        }
    }

    /// Nobody can refuse bytes that were pushed: at each claim they hold their key, or are some job's duplicate.
    pub(super) fn look_for_duplicates(&mut self, token: Token, at: Timestamp, slots: &mut [Slot]) {
        for (index, slot) in (0..).zip(slots) {
            if let Slot::Fresh(seq, raw) = slot
                && Unique::in_raw(raw).is_some()
            {
                let record = Record {
                    first: Some(FirstClaim { lease: LeaseRef { token, index }, at }),
                    ..Record::default()
                };
                let (seq, stored) = (*seq, Stored::Raw(raw.clone()));
                *slot = Slot::Item(Box::new(Item { seq, priority: 0, kind: "".into(), stored, record }));
            }
            let Slot::Item(item) = slot else { continue };
            let (Stored::Raw(_), Some(id), Some((unique, named))) =
                (&item.stored, item.id(), item.stored.unique())
            else {
                continue;
            };
            item.record.duplicate_of = self.holder(&unique.key, &id).map(Box::new);
            if item.record.duplicate_of.is_none() {
                self.known
                    .entry(id.clone())
                    .or_insert_with(|| Known::new(item.stored.clone(), State::Running));
                self.take_key(id.clone(), named.unwrap_or(id), unique);
            }
        }
    }

    /// Keeps on record that a job was not run, since another one holds its key.
    pub(super) fn end_as_duplicate(&mut self, job: Job, of: &JobId) {
        self.seq += 1;
        let (seq, priority, kind) = (self.seq, job.priority, job.kind.clone());
        let stored = Stored::Job(Arc::new(job));
        self.bytes += stored.bytes() + OVERHEAD;
        let item = Item { seq, priority, kind, stored, record: Record::default() };
        self.end(item, End { reason: Some(Unique::duplicate_of(of)), ..End::of(State::Cancelled) });
    }
}
