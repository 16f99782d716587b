//! All is well again, and everything ends.

use std::time::Duration;

use ganger_core::Sink;
use tokio::time::Instant;

use super::{Setting, pass};

/// How long peace may last before everything has ended. The longest run takes 21 s, the longest backoff 5.
const PEACE: Duration = Duration::from_secs(1_200);

/// How often it is looked at what happens.
const TICK: Duration = Duration::from_millis(250);

/// A pool that has had a free slot at each look since, while a job for it was ready all the time.
pub(super) struct Stall {
    incarnation: u64,
    kind: String,
    since: Instant,
    seen: bool,
}

impl Setting {
    /// All is well again, and everything ends.
    pub(super) async fn peace(&mut self) {
        self.ledger.note(|| "peace".into());
        self.clear_up();
        self.at_peace = true;
        for member in &self.members {
            member.life.spare();
            member.life.thaw();
        }
        self.see_to_members();
        let healed = Instant::now();
        while self.work_off(healed).await {
            self.part().await;
            // What follows from a run that its store has forgotten may come as late as this.
            if self.ledger.open() == 0 {
                return;
            }
        }
    }

    /// Until everything has ended; `false` if that takes too long.
    async fn work_off(&mut self, healed: Instant) -> bool {
        while self.ledger.open() > 0 {
            pass(TICK).await;
            self.see_to_members();
            self.look_at_drains();
            self.look_at_cancelled().await;
            self.look_for_stalls(healed);
            if healed.elapsed() > PEACE {
                let left = self.ledger.unfinished().join(", ");
                self.ledger.violate(format!("P5: after {PEACE:?} of peace these had not ended: {left}"));
                return false;
            }
        }
        true
    }

    /// A backlog moves within a lease and two seconds of the end of all faults (P5): no job is ready for
    /// longer while a slot is free that could run it.
    fn look_for_stalls(&mut self, healed: Instant) {
        let now = Instant::now();
        self.stalls.iter_mut().for_each(|stall| stall.seen = false);
        for member in self.members.iter().filter(|member| member.is_at_work()) {
            let incarnation = member.life.incarnation;
            for (kind, slots) in &member.pools {
                let ready = self.places.iter().filter_map(|place| place.store.ready_since(kind)).min();
                let Some(ready) = ready.map(|since| self.start + since) else { continue };
                if self.ledger.under_way(incarnation, kind) >= *slots as usize {
                    continue;
                }
                let known = |stall: &&mut Stall| stall.incarnation == incarnation && stall.kind == *kind;
                match self.stalls.iter_mut().find(known) {
                    Some(stall) => (stall.seen, stall.since) = (true, stall.since.max(ready)),
                    None => {
                        let since = now.max(healed).max(ready);
                        self.stalls.push(Stall { incarnation, kind: kind.clone(), since, seen: true });
                    }
                }
            }
        }
        self.stalls.retain(|stall| stall.seen);
        let limit = self.lease + Duration::from_secs(2);
        if let Some(at) = self.stalls.iter().position(|stall| now - stall.since > limit) {
            let stall = self.stalls.swap_remove(at);
            self.ledger.violate(format!(
                "P5: jobs of `{}` are ready for {:?}, and {:04x} has a slot for them",
                stall.kind,
                now - stall.since,
                stall.incarnation & 0xffff
            ));
        }
    }

    async fn look_at_cancelled(&mut self) {
        let ids = self.ledger.cancelled_and_open();
        if ids.is_empty() {
            return;
        }
        let states = self.main().store.states(&ids).await.unwrap();
        for (id, state) in ids.iter().zip(states) {
            if let Some(state) = state.filter(|state| state.is_end()) {
                self.ledger.ended(id, state);
            }
        }
    }
}
