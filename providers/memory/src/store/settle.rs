//! What comes back: settlements, renewals, and orders on jobs that are held.

use std::{collections::HashSet, time::Duration};

use ganger_core::{
    ATTEMPTS_MAX, Beat, Hold, Job, JobId, LeaseRef, Settlement, Spend, State, Timestamp, Token, Unique,
    Verdict,
};

use super::{ENDS_MAX, End, Item, Known, OVERHEAD, Slot, Store, Stored, mark};

impl Store {
    /// Applies one settlement; `false` if its lease is lost.
    pub(super) fn settle(&mut self, settlement: &Settlement, wall: Timestamp) -> bool {
        if settlement.verdict == Verdict::Done
            && settlement.more.is_none()
            && self.drop_fresh(settlement.lease)
        {
            return true;
        }
        let Some(mut item) = self.take(settlement.lease) else { return false };
        let more = settlement.more.as_deref();
        if let Some(attempt) = more.and_then(|more| more.attempt.clone()) {
            let attempts = &mut item.record.attempts;
            attempts.drain(..(attempts.len() + 1).saturating_sub(ATTEMPTS_MAX));
            attempts.push(attempt);
        }
        match settlement.spend {
            Spend::Nothing => {}
            Spend::Retry => item.record.spent += 1,
            Spend::Crash => item.record.crashes += 1,
        }
        if let Some(kind) = more.and_then(|more| more.kind.clone()) {
            item.kind = kind;
        }
        let (output, follow) = more.map_or((None, &[][..]), |more| (more.output.clone(), &more.follow));
        let unrecorded =
            settlement.verdict == Verdict::Done && more.is_none_or(|more| more.attempt.is_none());
        let cancelled = item.record.cancel && settlement.verdict != Verdict::Done;
        match &settlement.verdict {
            _ if cancelled => self.end(*item, End { output, ..End::of(State::Cancelled) }),
            Verdict::Release | Verdict::Park { until: None } => self.ready(item),
            Verdict::Retry { at } | Verdict::Park { until: Some(at) } => {
                mark(&mut self.known, &item, State::Scheduled, None);
                self.scheduled.insert((*at, item.seq), item);
            }
            Verdict::Dead { reason } => {
                self.end(*item, End { output, reason: Some(reason.clone()), ..End::of(State::Dead) })
            }
            Verdict::Duplicate { of } => {
                let reason = Some(Unique::duplicate_of(of));
                self.end(*item, End { reason, ..End::of(State::Cancelled) })
            }
            end => self.end(*item, End { output, unrecorded, ..End::of(end.state()) }),
        }
        if !cancelled {
            for job in follow {
                self.follow(job.clone(), wall);
            }
        }
        true
    }

    /// Adds a job that follows from another, unless its id is known already.
    fn follow(&mut self, mut job: Job, wall: Timestamp) {
        let id = job.accept(wall).clone();
        if self.known.contains_key(&id) {
            return;
        }
        match job.rare().unique.as_ref().and_then(|unique| self.holder(&unique.key, &id)) {
            None => drop(self.add(job, wall)),
            Some(of) => self.end_as_duplicate(job, &of),
        }
    }

    pub(super) fn ready(&mut self, item: Box<Item>) {
        mark(&mut self.known, &item, State::Ready, None);
        self.lane(item);
    }

    /// Keeps how a job ended. Bytes that came raw and ended well leave nothing.
    pub(super) fn end(&mut self, item: Item, end: End) {
        let End { state, reason, output, unrecorded } = end;
        let raw = matches!(item.stored, Stored::Raw(_));
        let runs = item.record.next_run() - 1 + u32::from(unrecorded);
        let Some(id) = item.id() else { return };
        let kept = !raw || state == State::Dead || reason.is_some();
        self.has_ended(&id, &item.stored, kept.then_some(state));
        if !kept {
            self.known.remove(&id);
            return;
        }
        if raw {
            self.bytes += item.stored.bytes() + OVERHEAD;
        }
        let last = item.record.attempts.last();
        let error = last.and_then(|attempt| attempt.error.clone()).or_else(|| reason.clone());
        let known = Known { stored: item.stored, state, lease: None, runs, error, output, reason };
        self.known.insert(id.clone(), known);
        self.ends.push_back(id);
        if self.ends.len() > ENDS_MAX {
            self.forget_oldest_end();
        }
    }

    pub(super) fn forget_oldest_end(&mut self) -> bool {
        let Some(id) = self.ends.pop_front() else { return false };
        if let Some(known) = self.known.remove(&id) {
            self.bytes = self.bytes.saturating_sub(known.stored.bytes() + OVERHEAD);
            self.has_ended(&id, &known.stored, None);
        }
        true
    }

    /// Extends the leases named, and releases what their tokens leave out; whether it released something.
    pub(crate) fn renew(&mut self, beat: &Beat, held: &[LeaseRef], now: Duration) -> (Vec<Hold>, bool) {
        let lease = Duration::from_millis(beat.lease_millis);
        self.beats.insert(beat.incarnation, (beat.clone(), now + lease));
        self.beats.retain(|_, (_, deadline)| *deadline > now);
        let named: HashSet<LeaseRef> = held.iter().copied().collect();
        let tokens: HashSet<Token> = held.iter().map(|lease| lease.token).collect();
        let mut left_out = Vec::new();
        for token in tokens {
            let Some(claim) = self.claims.get_mut(&token) else { continue };
            claim.deadline = now + lease;
            let open = (0..).zip(&claim.slots).filter(|(_, slot)| !matches!(slot, Slot::Settled));
            left_out.extend(
                open.map(|(index, _)| LeaseRef { token, index }).filter(|lease| !named.contains(lease)),
            );
        }
        let released = !left_out.is_empty();
        left_out.sort();
        for lease in left_out {
            match self.take(lease) {
                Some(item) if item.record.cancel => self.end(*item, End::of(State::Cancelled)),
                Some(item) => self.ready(item),
                None => {}
            }
        }
        (held.iter().map(|lease| self.hold(*lease)).collect(), released)
    }

    fn hold(&self, lease: LeaseRef) -> Hold {
        let slot = self.claims.get(&lease.token).and_then(|claim| claim.slots.get(lease.index as usize));
        match slot {
            None | Some(Slot::Settled) => Hold::Lost,
            Some(Slot::Item(item)) if item.record.cancel => Hold::Cancel,
            Some(_) => Hold::Held,
        }
    }

    /// Ends a waiting job, or marks a held one; `false` if it has ended or is not known.
    pub(crate) fn cancel(&mut self, id: &JobId) -> bool {
        let Some(known) = self.known.get(id).filter(|known| !known.state.is_end()) else { return false };
        if let Some(lease) = known.lease {
            let claim = self.claims.get_mut(&lease.token);
            if let Some(Slot::Item(item)) = claim.and_then(|claim| claim.slots.get_mut(lease.index as usize))
            {
                item.record.cancel = true;
            }
            return true;
        }
        // An order on a single job is rare: a search is good enough.
        let is_it = |item: &Item| item.id().as_ref() == Some(id);
        let waiting = self.lanes.values_mut().chain([&mut self.suspects]);
        let found = waiting.flat_map(|lane| lane.extract_if(.., |_, item| is_it(item)).next()).next();
        let found = found.map(|(_, item)| item);
        let found = found
            .or_else(|| self.scheduled.extract_if(.., |_, item| is_it(item)).next().map(|(_, item)| item));
        match found {
            Some(item) => self.end(*item, End::of(State::Cancelled)),
            None => return false,
        }
        true
    }
}
