//! What comes back: settlements and renewals.

use std::{collections::BTreeSet, time::Duration};

use ganger_core::{
    ATTEMPTS_MAX, Beat, Hold, LeaseRef, Settlement, SettlementMore, Spend, State, Timestamp, Token, Verdict,
};

use super::state::{Contents, Place};

impl Contents {
    /// Applies one settlement; `false` if its lease is lost.
    pub(super) fn settle(
        &mut self,
        settlement: &Settlement,
        now: Duration,
        wall: Timestamp,
        follows: bool,
    ) -> bool {
        let lease = settlement.lease;
        let Some(at) = self.held(lease) else { return false };
        let claimed = self.claims.get(&lease.token).map(|claim| claim.at);
        let first = claimed.and_then(|claimed| self.items[at].first(lease, claimed));
        self.release(lease);
        let (none, item) = (SettlementMore::default(), self.item(at));
        let more = settlement.more.as_deref().unwrap_or(&none);
        item.record.first = first;
        if let Some(attempt) = more.attempt.clone() {
            let attempts = &mut item.record.attempts;
            attempts.drain(..(attempts.len() + 1).saturating_sub(ATTEMPTS_MAX));
            attempts.push(attempt);
        }
        match settlement.spend {
            Spend::Nothing => {}
            Spend::Retry => item.record.spent += 1,
            Spend::Crash => item.record.crashes += 1,
        }
        if let Some(kind) = &more.kind {
            item.kind = kind.to_string();
        }
        item.parked = matches!(settlement.verdict, Verdict::Park { until: None });
        item.output.clone_from(&more.output);
        if let Verdict::Dead { reason } = &settlement.verdict {
            item.reason = Some(reason.clone());
        }
        item.unrecorded = settlement.verdict == Verdict::Done && more.attempt.is_none();
        let cancelled = item.record.cancel && settlement.verdict != Verdict::Done;
        let place = match &settlement.verdict {
            _ if cancelled => Place::Ended(State::Cancelled),
            Verdict::Release | Verdict::Park { until: None } => Place::Ready,
            Verdict::Retry { at } | Verdict::Park { until: Some(at) } => Place::Scheduled(*at),
            end => Place::Ended(end.state()),
        };
        self.put(at, place, now);
        if !cancelled && follows {
            for job in &more.follow {
                // One that is known already follows from an earlier end of the same job.
                let _ = self.enqueue(job.clone(), now, wall);
            }
        }
        true
    }

    /// Extends the leases named, and releases what their tokens leave out; whether it released something.
    pub(super) fn renew(&mut self, beat: &Beat, held: &[LeaseRef], now: Duration) -> (Vec<Hold>, bool) {
        self.note_contact(now);
        self.note_beat(beat, now);
        let tokens: BTreeSet<Token> = held.iter().map(|lease| lease.token).collect();
        let mut left_out = Vec::new();
        for token in tokens {
            let Some(claim) = self.claims.get_mut(&token) else { continue };
            claim.deadline = now + Duration::from_millis(beat.lease_millis);
            let open = (0..).zip(&claim.items).filter_map(|(index, at)| Some((index, (*at)?)));
            let leases = open.map(|(index, at)| (LeaseRef { token, index }, at));
            left_out.extend(leases.filter(|(lease, _)| !held.contains(lease)));
        }
        for (lease, at) in &left_out {
            let first =
                self.claims.get(&lease.token).and_then(|claim| self.items[*at].first(*lease, claim.at));
            self.release(*lease);
            self.item(*at).record.first = first;
            let cancelled = self.items[*at].record.cancel;
            self.put(*at, if cancelled { Place::Ended(State::Cancelled) } else { Place::Ready }, now);
        }
        (held.iter().map(|lease| self.hold(*lease)).collect(), !left_out.is_empty())
    }

    fn hold(&self, lease: LeaseRef) -> Hold {
        match self.held(lease) {
            None => Hold::Lost,
            Some(at) if self.items[at].record.cancel => Hold::Cancel,
            Some(_) => Hold::Held,
        }
    }
}
