//! What goes out: claims, and what a token was answered.

use std::{cmp::Reverse, time::Duration};

use compact_str::CompactString;
use ganger_core::{
    Entry, Exchange, Exchanged, FirstClaim, LeaseRef, Leased, Record, Room, State, Timestamp, Token,
};

use super::{ANSWERS_MAX, Answer, Claim, End, Item, Place, Slot, Store, Stored, fits, mark};

/// Where the next suspect is.
pub(super) enum Suspect {
    Waits(Place),
    RanOut(LeaseRef),
}

impl Store {
    pub(crate) fn exchange(&mut self, give: &Exchange, now: Duration, wall: Timestamp) -> Exchanged {
        if let Some(answer) = self.answers.iter().find(|answer| answer.token == give.token) {
            let (stale, more) = (answer.stale.clone(), answer.more);
            return Exchanged { stale, leased: self.leased(give.token), more };
        }
        let newest = self.newest.entry(give.token.incarnation).or_default();
        if give.token.seq <= *newest {
            // Overtaken by one that its manager sent when it had given this one up, or remembered no more: nobody
            // waits for it, so what it leased would be lost.
            return Exchanged::default();
        }
        *newest = give.token.seq;
        let stale: Vec<LeaseRef> =
            give.settle.iter().filter(|one| !self.settle(one, wall)).map(|one| one.lease).collect();
        self.sweep(now, wall);
        self.claim(give, now, wall);
        let more = self.has_ready(&give.room) || self.next_suspect(&give.room, now).is_some();
        if self.answers.len() == ANSWERS_MAX {
            self.answers.pop_front();
        }
        self.answers.push_back(Answer { token: give.token, stale: stale.clone(), more });
        Exchanged { stale, leased: self.leased(give.token), more }
    }

    /// Makes due jobs ready, and ends the cancelled ones whose lease has run out.
    fn sweep(&mut self, now: Duration, wall: Timestamp) {
        while self.scheduled.first_key_value().is_some_and(|((at, _), _)| *at <= wall) {
            let Some((_, item)) = self.scheduled.pop_first() else { break };
            self.ready(item);
        }
        let cancelled: Vec<LeaseRef> = self
            .run_out(now)
            .filter(|(_, slot)| matches!(slot, Slot::Item(item) if item.record.cancel))
            .map(|(lease, _)| lease)
            .collect();
        for lease in cancelled {
            if let Some(item) = self.take(lease) {
                self.end(*item, End::of(State::Cancelled));
            }
        }
    }

    /// The open places of claims whose lease has run out.
    fn run_out(&self, now: Duration) -> impl Iterator<Item = (LeaseRef, &Slot)> {
        self.claims.iter().filter(move |(_, claim)| claim.deadline <= now).flat_map(|(token, claim)| {
            (0..)
                .zip(&claim.slots)
                .filter(|(_, slot)| !matches!(slot, Slot::Settled))
                .map(|(index, slot)| (LeaseRef { token: *token, index }, slot))
        })
    }

    /// Leases what the room allows: one suspect alone, or ready jobs.
    fn claim(&mut self, give: &Exchange, now: Duration, wall: Timestamp) {
        let mut slots: Vec<Slot> = match self.next_suspect(&give.room, now) {
            Some(suspect) => self.take_suspect(suspect).map(Slot::Item).into_iter().collect(),
            None => self.take_ready(give.room.clone()),
        };
        self.look_for_duplicates(give.token, wall, &mut slots);
        for (index, slot) in (0..).zip(&slots) {
            if let Slot::Item(item) = slot {
                mark(&mut self.known, item, State::Running, Some(LeaseRef { token: give.token, index }));
            }
        }
        if !slots.is_empty() {
            let claim = Claim { deadline: now + give.lease, at: wall, open: slots.len(), slots };
            self.claims.insert(give.token, claim);
        }
    }

    /// The suspect that comes next: one that waits, or else one whose lease has run out.
    pub(super) fn next_suspect(&self, room: &Room, now: Duration) -> Option<Suspect> {
        if !room.suspect || room.is_none() {
            return None;
        }
        let waits = self
            .suspects
            .iter()
            .find(|(_, item)| fits(&item.kind, item.record.crashes, room))
            .map(|(place, _)| *place);
        waits.map(Suspect::Waits).or_else(|| {
            let fitting = |(_, slot): &(LeaseRef, &Slot)| match slot {
                Slot::Item(item) => fits(&item.kind, item.lost().crashes, room),
                _ => true,
            };
            self.run_out(now).find(fitting).map(|(lease, _)| Suspect::RanOut(lease))
        })
    }

    fn take_suspect(&mut self, suspect: Suspect) -> Option<Box<Item>> {
        match suspect {
            Suspect::Waits(place) => self.suspects.remove(&place),
            Suspect::RanOut(lease) => self.take(lease).map(|mut item| {
                item.record = item.lost();
                item
            }),
        }
    }

    /// The lane with the oldest job that there is room for, and that job's place.
    fn next_lane(&self, room: &Room) -> Option<(&CompactString, Place)> {
        let heads = self.lanes.iter().filter(|(kind, _)| fits(kind, 0, room));
        heads
            .filter_map(|(kind, lane)| Some((kind, *lane.first_key_value()?.0)))
            .min_by_key(|(_, place)| *place)
    }

    pub(super) fn has_ready(&self, room: &Room) -> bool {
        !room.is_none() && (!self.fresh.is_empty() || self.next_lane(room).is_some())
    }

    /// Takes ready jobs in their order, as far as there is room.
    fn take_ready(&mut self, mut room: Room) -> Vec<Slot> {
        let mut slots = Vec::new();
        let mut bytes = 0;
        while !room.is_none() {
            let lane = self.next_lane(&room).map(|(kind, place)| (kind.clone(), place));
            let fresh = self.fresh.front().map(|(seq, raw)| ((Reverse(0), *seq), raw.len() as u64));
            let slot = match (fresh, lane) {
                (Some((place, more)), lane) if lane.as_ref().is_none_or(|(_, other)| place < *other) => {
                    bytes += more;
                    if bytes > room.bytes && !slots.is_empty() {
                        break;
                    }
                    self.fresh.pop_front().map(|(seq, raw)| Slot::Fresh(seq, raw))
                }
                (_, Some((kind, place))) => {
                    bytes += self.lanes[&kind][&place].stored.bytes();
                    if bytes > room.bytes && !slots.is_empty() {
                        break;
                    }
                    room.types.iter_mut().filter(|of| of.kind == kind).for_each(|of| of.jobs -= 1);
                    self.unlane(&kind, place).map(Slot::Item)
                }
                _ => break,
            };
            room.jobs -= 1;
            slots.extend(slot);
        }
        slots
    }

    /// Takes a job out of its lane; an empty lane goes.
    fn unlane(&mut self, kind: &CompactString, place: Place) -> Option<Box<Item>> {
        let lane = self.lanes.get_mut(kind)?;
        let item = lane.remove(&place);
        if lane.is_empty() {
            self.lanes.remove(kind);
        }
        item
    }

    /// The open jobs of a claim, as its manager is told them.
    fn leased(&self, token: Token) -> Vec<Leased> {
        let Some(claim) = self.claims.get(&token) else { return Vec::new() };
        let open = (0..).zip(&claim.slots).filter_map(|(index, slot)| match slot {
            Slot::Fresh(_, raw) => {
                let first = Some(FirstClaim { lease: LeaseRef { token, index }, at: claim.at });
                let record = Record { first, ..Record::default() };
                Some(Leased { index, entry: Entry::Raw(raw.clone()), record })
            }
            Slot::Item(item) => {
                Some(Leased { index, entry: item.stored.entry(), record: item.record.clone() })
            }
            Slot::Settled => None,
        });
        open.collect()
    }

    /// The end of most jobs: bytes that are done leave nothing, and cost nothing.
    pub(super) fn drop_fresh(&mut self, lease: LeaseRef) -> bool {
        let Some(claim) = self.claims.get_mut(&lease.token) else { return false };
        let Some(slot @ Slot::Fresh(..)) = claim.slots.get_mut(lease.index as usize) else { return false };
        *slot = Slot::Settled;
        claim.open -= 1;
        if claim.open == 0 {
            self.claims.remove(&lease.token);
        }
        true
    }

    /// Takes a held job out of its claim; `None` if the lease is lost.
    pub(super) fn take(&mut self, lease: LeaseRef) -> Option<Box<Item>> {
        let claim = self.claims.get_mut(&lease.token)?;
        let slot = std::mem::replace(claim.slots.get_mut(lease.index as usize)?, Slot::Settled);
        let at = claim.at;
        if !matches!(slot, Slot::Settled) {
            claim.open -= 1;
        }
        if claim.open == 0 {
            self.claims.remove(&lease.token);
        }
        match slot {
            Slot::Settled => None,
            Slot::Item(item) => Some(item),
            Slot::Fresh(seq, raw) => {
                let record = Record { first: Some(FirstClaim { lease, at }), ..Record::default() };
                let (kind, stored) = (CompactString::default(), Stored::Raw(raw));
                Some(Box::new(Item { seq, priority: 0, kind, stored, record }))
            }
        }
    }
}
