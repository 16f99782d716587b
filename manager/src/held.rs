//! The leases that are held of one provider, and the runs under them: what `keep` renews, cancels and fences.
//!
//! Kept by claim, as they come and mostly go: a job costs a place in its claim's list, no entry in a map.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use ganger_core::{Hold, JobContext, JobId, LeaseRef, Settlement, StopReason, Token};

use crate::source::CrashPermit;

/// The open leases of one provider.
#[derive(Default)]
pub(crate) struct Held(Mutex<Claims>);

#[derive(Default)]
struct Claims {
    by_seq: BTreeMap<u64, Claim>,
    open: usize,
    /// No lease that is not fenced counts from before that: most looks need no more.
    earliest: Duration,
    /// A run whose lease is lost goes on until it has been stopped, and keeps the permit until its verdict comes.
    lingering: Option<(LeaseRef, CrashPermit)>,
}

/// One claim: what one exchange leased.
struct Claim {
    token: Token,
    /// The lease counts from here: when the last request was sent that surely extended it.
    covered: Duration,
    places: Vec<Place>,
    open: usize,
    fenced: bool,
    /// Of the one job that has lost runs before, which is leased alone; back when it is settled.
    permit: Option<CrashPermit>,
}

/// A job's place in its claim.
enum Place {
    /// Settled, lost, or never there.
    Closed,
    /// Leased, and nothing runs: its settlement is on its way.
    Unrun,
    /// Handed to a pool.
    Handed(JobContext),
}

impl Place {
    fn is_open(&self) -> bool {
        !matches!(self, Place::Closed)
    }
}

/// A claim that is being handed out.
pub(crate) struct NewClaim {
    token: Token,
    covered: Duration,
    places: Vec<Place>,
    permit: Option<CrashPermit>,
}

impl NewClaim {
    /// A claim by a request that was sent at `covered`, for about `size` jobs.
    pub(crate) fn new(token: Token, covered: Duration, size: usize, permit: Option<CrashPermit>) -> Self {
        NewClaim { token, covered, places: Vec::with_capacity(size), permit }
    }

    /// Puts a leased job in its place: the run that will be, or nothing.
    pub(crate) fn put(&mut self, index: u32, run: Option<JobContext>) {
        let at = index as usize;
        if self.places.len() <= at {
            self.places.resize_with(at + 1, || Place::Closed);
        }
        self.places[at] = run.map_or(Place::Unrun, Place::Handed);
    }
}

impl Held {
    fn claims(&self) -> MutexGuard<'_, Claims> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many leases are open.
    pub(crate) fn open(&self) -> usize {
        self.claims().open
    }

    /// Adds a claim; from now on it is renewed.
    pub(crate) fn add(&self, new: NewClaim) {
        let open = new.places.iter().filter(|place| place.is_open()).count();
        if open == 0 {
            return;
        }
        let NewClaim { token, covered, places, permit } = new;
        let mut claims = self.claims();
        claims.open += open;
        claims.earliest = claims.earliest.min(covered);
        claims.by_seq.insert(token.seq, Claim { token, covered, places, open, fenced: false, permit });
    }

    /// The settlements were answered: their leases are closed.
    pub(crate) fn close(&self, settled: &[Settlement]) {
        // The contexts are dropped outside the lock.
        let mut gone = Vec::with_capacity(settled.len());
        let mut claims = self.claims();
        claims.ended(settled);
        for run in settled.chunk_by(|a, b| a.lease.token == b.lease.token) {
            claims.close(run[0].lease.token, run.iter().map(|settlement| settlement.lease.index), &mut gone);
        }
        drop(claims);
    }

    /// Takes out the settlements whose lease is known to be lost; how many they were.
    pub(crate) fn drop_lost(&self, settle: &mut Vec<Settlement>) -> usize {
        let before = settle.len();
        let mut claims = self.claims();
        claims.ended(settle);
        let mut last: Option<&Claim> = None;
        settle.retain(|settlement| {
            let token = settlement.lease.token;
            if last.is_none_or(|claim| claim.token != token) {
                last = claims.by_seq.get(&token.seq);
            }
            let place = last.and_then(|claim| claim.places.get(settlement.lease.index as usize));
            place.is_some_and(Place::is_open)
        });
        before - settle.len()
    }

    /// The run of a job that is held.
    pub(crate) fn find(&self, id: &JobId) -> Option<JobContext> {
        let claims = self.claims();
        let mut places = claims.by_seq.values().flat_map(|claim| &claim.places);
        places.find_map(|place| match place {
            Place::Handed(run) if run.id() == id => Some(run.clone()),
            _ => None,
        })
    }

    /// All open leases, by claim.
    pub(crate) fn refs(&self) -> Vec<LeaseRef> {
        let claims = self.claims();
        let mut refs = Vec::with_capacity(claims.open);
        for claim in claims.by_seq.values() {
            let open = claim.places.iter().enumerate().filter(|(_, place)| place.is_open());
            // A claim is never larger than a room, which is counted in 32 bits.
            refs.extend(open.map(|(at, _)| LeaseRef { token: claim.token, index: at as u32 }));
        }
        refs
    }

    /// Acts on the answer to a renewal sent at `sent`: what is held counts from then, what is to be cancelled or
    /// is lost is told so. How many leases are lost.
    pub(crate) fn renewed(&self, refs: &[LeaseRef], holds: &[Hold], sent: Duration) -> usize {
        let mut gone = Vec::new();
        let mut lost = 0;
        let mut claims = self.claims();
        claims.earliest = claims.earliest.min(sent);
        for (lease, hold) in refs.iter().zip(holds) {
            let Some(claim) = claims.by_seq.get_mut(&lease.token.seq) else { continue };
            claim.covered = claim.covered.max(sent);
            claim.fenced = false;
            let Some(place) = claim.places.get(lease.index as usize).filter(|place| place.is_open()) else {
                continue;
            };
            match (hold, place) {
                (Hold::Cancel, Place::Handed(run)) => run.ask_to_stop(StopReason::Cancel),
                (Hold::Lost, Place::Handed(run)) => run.ask_to_stop(StopReason::Fenced),
                _ => {}
            }
            if *hold == Hold::Lost {
                lost += 1;
                let handed = matches!(place, Place::Handed(_));
                if let Some(permit) = claim.permit.take_if(|_| handed) {
                    claims.lingering = Some((*lease, permit));
                }
                claims.close(lease.token, std::iter::once(lease.index), &mut gone);
            }
        }
        lost
    }

    /// Stops all runs whose lease was last surely extended before `since`; how many those are. They may still
    /// settle, if nobody has taken them.
    pub(crate) fn fence_before(&self, since: Duration) -> usize {
        let mut fenced = 0;
        for claim in self.claims().by_seq.values_mut() {
            if claim.covered > since || claim.fenced {
                continue;
            }
            claim.fenced = true;
            for place in &claim.places {
                if let Place::Handed(run) = place {
                    run.ask_to_stop(StopReason::Fenced);
                    fenced += 1;
                }
            }
        }
        fenced
    }

    /// Whether a lease that is not fenced was last surely extended at `since` or before.
    pub(crate) fn any_before(&self, since: Duration) -> bool {
        let mut claims = self.claims();
        if claims.earliest <= since {
            claims.earliest = claims.oldest().unwrap_or(Duration::MAX);
        }
        claims.earliest <= since
    }

    /// When the lease counts from that was extended longest ago, of those that are not fenced.
    pub(crate) fn oldest(&self) -> Option<Duration> {
        self.claims().oldest()
    }
}

impl Claims {
    fn oldest(&self) -> Option<Duration> {
        self.by_seq.values().filter(|claim| !claim.fenced).map(|claim| claim.covered).min()
    }

    /// These runs have ended: they linger no more.
    fn ended(&mut self, settled: &[Settlement]) {
        self.lingering.take_if(|(lease, _)| settled.iter().any(|settlement| settlement.lease == *lease));
    }

    fn close(&mut self, token: Token, indexes: impl Iterator<Item = u32>, gone: &mut Vec<Place>) {
        let Some(claim) = self.by_seq.get_mut(&token.seq) else { return };
        for index in indexes {
            let Some(place) = claim.places.get_mut(index as usize) else { continue };
            if place.is_open() {
                gone.push(std::mem::replace(place, Place::Closed));
                claim.open -= 1;
                self.open -= 1;
            }
        }
        if claim.open == 0 {
            self.by_seq.remove(&token.seq);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, atomic::AtomicBool};

    use ganger_core::{Job, Verdict};

    use super::*;

    #[test]
    fn a_lease_that_was_extended_too_long_ago_is_seen_whatever_was_seen_before() {
        let lease = JobContext::detached(Job::from_json(br#"{"type":"test"}"#).unwrap()).lease();
        let (held, secs) = (Held::default(), Duration::from_secs);
        assert!(!held.any_before(secs(100)), "nothing is held");
        let mut claim = NewClaim::new(lease.token, secs(50), 1, None);
        claim.put(lease.index, None);
        held.add(claim);
        assert!(!held.any_before(secs(49)) && held.any_before(secs(50)));
        held.renewed(&[lease], &[Hold::Held], secs(60));
        assert!(!held.any_before(secs(59)) && held.any_before(secs(60)));
        held.fence_before(secs(60));
        assert!(!held.any_before(secs(60)), "it is fenced");
        held.renewed(&[lease], &[Hold::Held], secs(70));
        assert!(!held.any_before(secs(69)) && held.any_before(secs(70)));
    }

    #[test]
    fn p7_a_run_whose_lease_is_lost_keeps_its_permit_until_it_has_ended() {
        let taken = Arc::new(AtomicBool::new(false));
        let job = Job::from_json(br#"{"type":"test"}"#).unwrap();
        let run = JobContext::detached(job);
        let lease = run.lease();
        let held = Held::default();
        let mut claim = NewClaim::new(lease.token, Duration::ZERO, 1, CrashPermit::take(&taken));
        claim.put(lease.index, Some(run.clone()));
        held.add(claim);

        assert_eq!(held.renewed(&[lease], &[Hold::Lost], Duration::ZERO), 1);
        assert_eq!((held.open(), run.stop_reason()), (0, Some(StopReason::Fenced)));
        assert!(!CrashPermit::is_free(&taken), "the run winds down");
        let mut verdicts = vec![Settlement::new(lease, Verdict::Release)];
        assert_eq!(held.drop_lost(&mut verdicts), 1);
        assert!(CrashPermit::is_free(&taken), "it has ended");
    }
}
