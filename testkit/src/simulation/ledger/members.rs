//! What each manager was told, and what follows from it for what it may do (P3, P4, P6).

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    hash::{Hash, Hasher},
    sync::Arc,
    time::Duration,
};

use ganger_core::{Exchange, Exchanged, Hold, LeaseRef};
use tokio::time::Instant;

use super::{Life, book::Book, fixed_hasher, words};

/// What the simulation's own steps may take: timers are good to a millisecond.
pub(super) const SLACK: Duration = Duration::from_millis(25);

/// A manager as the ledger sees it.
pub(super) struct Member {
    pub(super) life: Arc<Life>,
    /// By store: the newest token, and what was sent under it.
    newest: HashMap<u8, (u64, u64)>,
    /// When each of its tokens was first sent.
    first_sent: HashMap<u64, Instant>,
    /// Its claims: when the last request was sent that it knows to have extended them.
    covered: HashMap<u64, Instant>,
    /// Which job it was told that a lease is for.
    told: HashMap<LeaseRef, usize>,
    /// When it was told that a lease is lost.
    lost: HashMap<LeaseRef, Instant>,
    /// Leases under which it began a run, and whose settlement it does not know to be answered; each with its
    /// store.
    begun: BTreeMap<LeaseRef, u8>,
    /// Leases whose settlement it knows to be answered.
    closed: HashSet<LeaseRef>,
    /// By store: when it last got an answer to a renewal.
    renewed: HashMap<u8, Instant>,
    draining: Option<Instant>,
    /// It has drained, and ended.
    gone: bool,
}

impl Member {
    /// Until when a run under this lease may last, if the manager counts as it promised to.
    pub(super) fn stop_by(&self, lease: LeaseRef, lasts: Duration) -> Option<Instant> {
        if let Some(told) = self.lost.get(&lease) {
            return Some(*told);
        }
        Some(*self.covered.get(&lease.token.seq)? + lasts * 2 / 3)
    }

    pub(super) fn begun(&mut self, lease: LeaseRef, store: u8) {
        self.begun.insert(lease, store);
    }

    /// Whether it knows of a lease, and has not settled it.
    fn holds(&self, lease: &LeaseRef) -> bool {
        self.told.contains_key(lease) && !self.closed.contains(lease)
    }
}

impl Book {
    pub(super) fn join(&mut self, life: Arc<Life>) {
        let member = Member {
            life: life.clone(),
            newest: HashMap::new(),
            first_sent: HashMap::new(),
            covered: HashMap::new(),
            told: HashMap::new(),
            lost: HashMap::new(),
            begun: BTreeMap::new(),
            closed: HashSet::new(),
            renewed: HashMap::new(),
            draining: None,
            gone: false,
        };
        self.note(|| format!("{} begins", words::member(life.incarnation)));
        self.members.insert(life.incarnation, member);
    }

    /// A manager was told to drain, or has ended so: then it has handed everything back, where it could.
    pub(super) fn drained(&mut self, incarnation: u64, ended: bool) {
        self.note(|| {
            format!("{} {}", words::member(incarnation), if ended { "has ended" } else { "is told to drain" })
        });
        let Some(member) = self.members.get_mut(&incarnation) else { return };
        let Some(since) = member.draining.filter(|_| ended) else {
            member.draining = Some(Instant::now());
            return;
        };
        member.gone = true;
        let whole = !member.life.is_over() && member.life.thawed_at().is_none_or(|at| at < since);
        // What went wrong before may still be on its way.
        if !whole || self.calm_since.is_none_or(|calm| since < calm + self.lease) {
            return;
        }
        let all = self.leases.keys().filter(|lease| lease.token.incarnation == incarnation);
        // A lease that it was told to have lost may come back with a snapshot; it knows nothing of that.
        let holds = |lease: &&LeaseRef| member.holds(lease) && !member.lost.contains_key(*lease);
        let left: Vec<String> = all.filter(holds).map(words::lease).collect();
        self.expect(left.is_empty(), || {
            format!("P7: {} drained and left {} behind", words::member(incarnation), left.join(", "))
        });
    }

    pub(super) fn sent(&mut self, store: u8, give: &Exchange) {
        let (now, lasts, content) = (Instant::now(), self.lease, content(give));
        let token = give.token;
        let Some(member) = self.members.get_mut(&token.incarnation) else {
            return self.violate(format!("P3: token {token} is no manager's own"));
        };
        let last = member.newest.insert(store, (token.seq, content));
        // Under the token of a wait it is another exchange, and the first.
        let again = last.as_ref().is_some_and(|(seq, _)| *seq == token.seq);
        member.first_sent.entry(token.seq).or_insert(now);
        let asks = !again && !give.room.is_none();
        let draining = asks && member.draining.is_some_and(|since| since + SLACK < now);
        let here = member.begun.iter().filter(|(_, at)| **at == store);
        let oldest = here.filter_map(|(lease, _)| member.covered.get(&lease.token.seq)).min();
        let renewed = member.renewed.get(&store).copied();
        let away = oldest
            .map(|oldest| *oldest + lasts * 2 / 3)
            .is_some_and(|due| due + SLACK < now && renewed.is_none_or(|renewed| renewed < due));
        self.note_sent(give, again);
        if let Some((seq, last)) = last {
            self.expect(seq <= token.seq, || format!("P3: token {token} is older than one sent before"));
            self.expect(seq != token.seq || last == content, || {
                format!("P4: two different exchanges are both named {token}")
            });
        }
        self.expect(!draining, || format!("P7: {token} asks for jobs while it drains"));
        self.expect(!(asks && away), || {
            format!("P6: {token} asks for jobs after an absence, and has not renewed what it holds")
        });
    }

    pub(super) fn waits(&mut self, give: &Exchange) {
        let (now, token) = (Instant::now(), give.token);
        let Some(member) = self.members.get_mut(&token.incarnation) else {
            return self.violate(format!("P3: token {token} is no manager's own"));
        };
        member.first_sent.entry(token.seq).or_insert(now);
        let draining = member.draining.is_some_and(|since| since + SLACK < now);
        self.note(|| format!("{}-{} waits", words::member(token.incarnation), token.seq));
        self.expect(!draining, || format!("P7: {token} waits for jobs while it drains"));
    }

    fn note_sent(&mut self, give: &Exchange, again: bool) {
        if again {
            self.note(|| {
                format!("{}-{} is sent again", words::member(give.token.incarnation), give.token.seq)
            });
        }
    }

    pub(super) fn heard(&mut self, give: &Exchange, answer: &Exchanged) {
        let token = give.token;
        let jobs: Vec<_> = answer.leased.iter().map(|leased| (leased.index, self.known(leased))).collect();
        let Some(member) = self.members.get_mut(&token.incarnation) else { return };
        for one in &give.settle {
            member.begun.remove(&one.lease);
            member.closed.insert(one.lease);
        }
        if let Some(sent) = member.first_sent.get(&token.seq).filter(|_| !jobs.is_empty()) {
            member.covered.insert(token.seq, *sent);
        }
        let mut twice = Vec::new();
        for (index, at) in jobs {
            let (lease, Some(at)) = (LeaseRef { token, index }, at) else { continue };
            if member.told.insert(lease, at).is_some_and(|other| other != at) {
                twice.push(lease);
            }
        }
        for lease in twice {
            self.violate(format!("P3: lease {} was given for two jobs", words::lease(&lease)));
        }
    }

    pub(super) fn heard_holds(
        &mut self,
        store: u8,
        incarnation: u64,
        held: &[LeaseRef],
        holds: &[Hold],
        sent: Instant,
    ) {
        let Some(member) = self.members.get_mut(&incarnation) else { return };
        member.renewed.insert(store, Instant::now());
        for (lease, hold) in held.iter().zip(holds) {
            if *hold == Hold::Lost {
                member.lost.entry(*lease).or_insert_with(Instant::now);
                member.begun.remove(lease);
            } else if let Some(covered) = member.covered.get_mut(&lease.token.seq) {
                *covered = (*covered).max(sent);
            }
        }
    }

    /// A verdict was applied to a job: it is the one that the manager means (P3).
    pub(super) fn expect_meant(&mut self, lease: LeaseRef, at: usize) {
        let told = self.members.get(&lease.token.incarnation).and_then(|member| member.told.get(&lease));
        if told.is_some_and(|told| *told != at) {
            let label = self.jobs[at].label.clone();
            self.violate(format!(
                "P3: a verdict under {} fell on `{label}`, which it does not mean",
                words::lease(&lease)
            ));
        }
    }

    /// Whether a manager that lives, and that nothing has kept from its store for long enough, has lost a
    /// lease.
    pub(super) fn expect_lost_in_need(&mut self, lease: LeaseRef, label: &str) {
        let now = Instant::now();
        let Some(member) = self.members.get(&lease.token.incarnation) else { return };
        let patience = self.lease / 3 + SLACK;
        let awake = !member.life.is_frozen() && member.life.thawed_at().is_none_or(|at| at + patience < now);
        let calm = self.calm_since.is_some_and(|since| since + patience < now);
        let there = !member.life.is_over() && !member.gone;
        let forgotten = self.forgotten.contains(&lease.token);
        if member.holds(&lease) && there && awake && calm && !forgotten {
            self.violate(format!("P6: {} lives, and lost its lease of `{label}`", words::lease(&lease)));
        }
    }

    /// Who is alive and awake.
    pub(super) fn is_awake(&self, incarnation: u64) -> bool {
        self.members.get(&incarnation).is_some_and(|member| {
            let life = &member.life;
            // Its runs may take a sixth to end.
            let awake_by = |at: Instant| at + self.lease / 6 + SLACK;
            let thawing = life.thawed_at().is_some_and(|at| awake_by(at) >= Instant::now());
            !life.is_over() && !life.is_frozen() && !thawing
        })
    }
}

fn content(give: &Exchange) -> u64 {
    let mut hasher = fixed_hasher();
    for one in &give.settle {
        (one.lease, one.verdict.state().as_str()).hash(&mut hasher);
    }
    for room in &give.room.types {
        (room.kind.as_str(), room.jobs).hash(&mut hasher);
    }
    (give.room.jobs, give.room.suspect, give.room.crashed).hash(&mut hasher);
    hasher.finish()
}

/// Whom a store saw, and when (P6).
#[derive(Default)]
pub(super) struct Contact {
    last: Option<Instant>,
    /// Until then it lets no lease be taken over.
    patient_until: Option<Instant>,
}

impl Contact {
    /// A manager has spoken.
    pub(super) fn note(&mut self, lease: Duration) {
        let now = Instant::now();
        if self.last.is_some_and(|last| now - last > lease * 2 / 3) {
            self.patient_until = Some(now + lease / 3);
        }
        self.last = Some(now);
    }

    pub(super) fn is_patient(&self) -> bool {
        self.patient_until.is_some_and(|until| Instant::now() < until)
    }
}

/// The managers of a world.
pub(super) type Members = BTreeMap<u64, Member>;
