//! What goes out: claims, and what a token was answered.

use std::{cmp::Reverse, time::Duration};

use ganger_core::{
    Capabilities, Entry, Exchange, Exchanged, JobId, LeaseRef, Leased, Room, State, Timestamp, Token,
};

use super::state::{ANSWERS_MAX, Answer, Claim, Contents, Item, Place};

impl Contents {
    pub(super) fn exchange(
        &mut self,
        give: &Exchange,
        now: Duration,
        wall: Timestamp,
        can: &Capabilities,
    ) -> Exchanged {
        self.note_contact(now);
        if can.repeat
            && let Some(answer) =
                self.answers.iter().find(|answer| answer.token == give.token && !answer.by_wait)
        {
            let (stale, more) = (answer.stale.clone(), answer.more);
            return Exchanged { stale, leased: self.leased(give.token), more };
        }
        let waited = self.answers.iter().position(|answer| answer.token == give.token);
        let waited = waited.and_then(|at| self.answers.remove(at));
        if waited.is_none() && !self.is_newer(give.token) {
            // Overtaken by one that its manager sent when it had given this one up: nobody waits for it.
            return Exchanged::default();
        }
        self.newest.insert(give.token.incarnation, give.token.seq);
        let stale: Vec<LeaseRef> = give
            .settle
            .iter()
            .filter(|one| !self.settle(one, now, wall, can.follow))
            .map(|one| one.lease)
            .collect();
        self.unsynced |= !give.settle.is_empty();
        self.sweep(now, wall);
        if waited.is_none() {
            self.claim(give, now, wall, can.filter);
        }
        self.answered(give, now, stale, false, can)
    }

    /// A claim by a wait, of jobs that are no suspects; `None` where there is nothing, or the token is spent.
    pub(super) fn claim_by_wait(
        &mut self,
        give: &Exchange,
        now: Duration,
        wall: Timestamp,
        can: &Capabilities,
    ) -> Option<Exchanged> {
        let room = Room { suspect: false, crashed: false, ..give.room.clone() };
        if !self.is_newer(give.token) || self.next_ready(&room, can.filter).is_none() {
            return None;
        }
        self.note_contact(now);
        self.newest.insert(give.token.incarnation, give.token.seq);
        let give = Exchange { room, ..give.clone() };
        self.claim(&give, now, wall, can.filter);
        Some(self.answered(&give, now, Vec::new(), true, can))
    }

    fn is_newer(&self, token: Token) -> bool {
        self.newest.get(&token.incarnation).is_none_or(|newest| token.seq > *newest)
    }

    fn answered(
        &mut self,
        give: &Exchange,
        now: Duration,
        stale: Vec<LeaseRef>,
        by_wait: bool,
        can: &Capabilities,
    ) -> Exchanged {
        let more = self.next_ready(&give.room, can.filter).is_some()
            || self.next_suspect(&give.room, now, can.filter).is_some();
        if can.repeat {
            if self.answers.len() == ANSWERS_MAX {
                self.answers.pop_front();
            }
            self.answers.push_back(Answer { token: give.token, stale: stale.clone(), more, by_wait });
        }
        Exchanged { stale, leased: self.leased(give.token), more }
    }

    /// Makes due jobs ready, and ends the cancelled ones whose lease may be taken.
    fn sweep(&mut self, now: Duration, wall: Timestamp) {
        for at in 0..self.items.len() {
            match self.items[at].place {
                Place::Scheduled(due) if due <= wall => self.put(at, Place::Ready, now),
                Place::Leased(lease) if self.items[at].record.cancel && self.is_free(lease, now) => {
                    self.release(lease);
                    self.put(at, Place::Ended(State::Cancelled), now);
                }
                _ => {}
            }
        }
    }

    /// Moves a job.
    pub(super) fn put(&mut self, at: usize, place: Place, now: Duration) {
        self.unsynced |= !matches!(place, Place::Leased(_));
        let item = self.item(at);
        (item.place, item.since) = (place, now);
    }

    fn is_free(&self, lease: LeaseRef, now: Duration) -> bool {
        self.claims.get(&lease.token).is_none_or(|claim| self.free_at(claim) <= now)
    }

    /// Leases what the room allows: one suspect alone, or ready jobs.
    fn claim(&mut self, give: &Exchange, now: Duration, wall: Timestamp, filter: bool) {
        let items = match self.next_suspect(&give.room, now, filter) {
            Some(at) => {
                self.take_suspect(at);
                vec![at]
            }
            None => self.choose_ready(give.room.clone(), filter),
        };
        for (index, at) in (0..).zip(&items) {
            self.put(*at, Place::Leased(LeaseRef { token: give.token, index }), now);
        }
        if !items.is_empty() {
            let items = items.into_iter().map(Some).collect();
            let claim = Claim { deadline: now + give.lease, lease: give.lease, at: wall, items };
            self.claims.insert(give.token, claim);
        }
    }

    /// The suspect that comes next: one that waits, or else one whose lease may be taken over.
    pub(super) fn next_suspect(&self, room: &Room, now: Duration, filter: bool) -> Option<usize> {
        if !room.suspect || room.is_none() {
            return None;
        }
        let waits = |item: &Item| {
            item.place == Place::Ready && item.is_suspect() && item.fits(item.record.crashes, room, filter)
        };
        let waiting = self.items.iter().position(|item| waits(item));
        waiting.or_else(|| {
            let is_lost = |item: &Item| {
                matches!(item.place, Place::Leased(lease) if self.is_free(lease, now))
                    && item.fits(item.record.crashes + u32::from(item.is_suspect()), room, filter)
            };
            self.items.iter().position(|item| is_lost(item))
        })
    }

    fn take_suspect(&mut self, at: usize) {
        // Its start is on the disk before it runs (P7).
        self.unsynced = true;
        if let Place::Leased(lease) = self.items[at].place {
            let first = self.claims.get(&lease.token).and_then(|claim| self.items[at].first(lease, claim.at));
            self.release(lease);
            let record = self.items[at].lost();
            let item = self.item(at);
            item.record = record;
            item.record.first = first;
        }
    }

    /// Takes a lease out of its claim.
    pub(super) fn release(&mut self, lease: LeaseRef) {
        let Some(claim) = self.claims.get_mut(&lease.token) else { return };
        if let Some(place) = claim.items.get_mut(lease.index as usize) {
            *place = None;
        }
        if claim.items.iter().all(Option::is_none) {
            self.claims.remove(&lease.token);
        }
    }

    /// The job that comes next of those that are ready and no suspects.
    pub(super) fn next_ready(&self, room: &Room, filter: bool) -> Option<usize> {
        let ready =
            |item: &Item| item.place == Place::Ready && !item.is_suspect() && item.fits(0, room, filter);
        if room.is_none() {
            return None;
        }
        (0..self.items.len())
            .filter(|at| ready(&self.items[*at]))
            .min_by_key(|at| Reverse(self.items[*at].priority))
    }

    /// Chooses ready jobs in their order, as far as there is room.
    fn choose_ready(&mut self, mut room: Room, filter: bool) -> Vec<usize> {
        let mut chosen = Vec::new();
        if room.is_none() {
            return chosen;
        }
        let mut ready: Vec<usize> = (0..self.items.len())
            .filter(|at| self.items[*at].place == Place::Ready && !self.items[*at].is_suspect())
            .collect();
        ready.sort_by_key(|at| Reverse(self.items[*at].priority));
        let mut bytes = 0;
        for at in ready {
            let item = &self.items[at];
            if !item.fits(0, &room, filter) {
                continue;
            }
            bytes += match &item.entry {
                Entry::Raw(raw) => raw.len() as u64,
                Entry::Job(job) => job.weight() as u64,
                Entry::Malformed(_) => 0,
            };
            if bytes > room.bytes && !chosen.is_empty() {
                break;
            }
            let of_its_type = room.types.iter_mut().filter(|of| of.kind == item.kind.as_str());
            of_its_type.for_each(|of| of.jobs = of.jobs.saturating_sub(1));
            chosen.push(at);
            room.jobs -= 1;
            if room.jobs == 0 {
                break;
            }
        }
        chosen
    }

    /// The open jobs of a claim, as its manager is told them.
    fn leased(&self, token: Token) -> Vec<Leased> {
        let Some(claim) = self.claims.get(&token) else { return Vec::new() };
        let open = (0..).zip(&claim.items).filter_map(|(index, at)| Some((index, (*at)?)));
        open.map(|(index, at)| {
            let item = &self.items[at];
            let mut record = item.record.clone();
            record.first = item.first(LeaseRef { token, index }, claim.at);
            Leased { index, entry: item.entry.clone(), record }
        })
        .collect()
    }

    /// Ends a waiting job, or marks a held one; `false` if it has ended or is not known.
    pub(super) fn cancel(&mut self, id: &JobId) -> bool {
        let Some(at) = self.find(id) else { return false };
        match self.items[at].place {
            Place::Ended(_) => return false,
            Place::Leased(_) => self.item(at).record.cancel = true,
            Place::Ready | Place::Scheduled(_) => self.item(at).place = Place::Ended(State::Cancelled),
        }
        self.unsynced = true;
        true
    }
}
