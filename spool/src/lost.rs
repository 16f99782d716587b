//! Lost leases: which may be taken over, and what becomes of their jobs.

use ganger_core::{Attempt, Room, State, Timestamp, Token};
use rusqlite::{Connection, OptionalExtension};

use crate::{
    claim::Claim,
    enqueue::NO_TYPE,
    error::StoreError,
    row::{COLUMNS, Row, attempts},
    source::Who,
    spool::Shared,
    tx::{Lanes, OPEN, Place, Tx},
};

/// What stands in `claim` about who holds it and until when.
#[derive(Debug)]
pub(crate) struct Lease {
    pub(crate) source: String,
    pub(crate) token: Token,
    pub(crate) deadline: i64,
    lease: i64,
}

impl Lease {
    /// All leases, those that run out first in front.
    pub(crate) fn all(db: &Connection) -> rusqlite::Result<Vec<Lease>> {
        let mut statement = db.prepare_cached(
            "SELECT incarnation, source, token, deadline, lease FROM claim ORDER BY deadline",
        )?;
        let leases = statement.query_map([], |row| {
            let token =
                Token { incarnation: row.get::<_, i64>(0)? as u64, seq: row.get::<_, i64>(2)? as u64 };
            Ok(Lease { source: row.get(1)?, token, deadline: row.get(3)?, lease: row.get(4)? })
        })?;
        leases.collect()
    }

    /// From when on the lease may be taken over, on the store's clock: at once when its holder is dead; else when
    /// it has run out and managers have had a third of it to speak up since the store saw none.
    pub(crate) fn free_at(&self, shared: &Shared, absences: &Absences) -> i64 {
        if shared.holders.is_dead(self.token.incarnation) {
            return i64::MIN;
        }
        self.deadline.max(absences.patience(self.lease))
    }
}

/// A time in which the store saw no manager.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Absence {
    end: i64,
    length: i64,
}

/// The absences since the machine's start that matter still, each shorter than the one before.
#[derive(Debug, Default)]
pub(crate) struct Absences(Vec<Absence>);

impl Absences {
    pub(crate) fn load(db: &Connection, boot: &str) -> rusqlite::Result<Absences> {
        let text: Option<String> = db
            .prepare_cached("SELECT value FROM meta WHERE key = 'absences'")?
            .query_row([], |row| row.get(0))
            .optional()?;
        Ok(text.map(|text| Absences::read(&text, boot)).unwrap_or_default())
    }

    /// None of an earlier start: the clock began anew, and its holders are dead.
    fn read(text: &str, boot: &str) -> Absences {
        let Some(of_boot) = text.strip_prefix(boot) else { return Absences::default() };
        let absence = |word: &str| {
            let (end, length) = word.split_once('+')?;
            Some(Absence { end: end.parse().ok()?, length: length.parse().ok()? })
        };
        Absences(of_boot.split_whitespace().filter_map(absence).collect())
    }

    fn text(&self, boot: &str) -> String {
        let words = self.0.iter().map(|Absence { end, length }| format!(" {end}+{length}"));
        std::iter::once(boot.to_owned()).chain(words).collect()
    }

    fn add(&mut self, end: i64, length: i64) {
        // A shorter one does not matter to leases that are longer, nor an old one to any.
        self.0.retain(|other| other.length > length && end < other.end.saturating_add(other.length / 2));
        self.0.push(Absence { end, length });
    }

    /// Until when a lease of this length is left to its holder: a third of it from the end of the last absence that
    /// was longer than two thirds of it.
    fn patience(&self, lease: i64) -> i64 {
        let matters = |absence: &&Absence| absence.length.saturating_mul(3) > lease.saturating_mul(2);
        self.0
            .iter()
            .filter(matters)
            .map(|absence| absence.end.saturating_add(lease / 3))
            .max()
            .unwrap_or(i64::MIN)
    }
}

/// Notes that a manager has spoken: if none had for long, leases that ran out meanwhile are left alone a while.
pub(crate) fn note_contact(tx: &Tx<'_>) -> Result<(), StoreError> {
    let boot = &tx.shared.boot;
    let Some(seen) = tx.number("SELECT max(seen) FROM member WHERE boot = ?1", [boot])? else {
        return Ok(());
    };
    let length = tx.ticks.saturating_sub(seen);
    // Shorter than two thirds of any lease worth having: not worth a write.
    if length < 50 {
        return Ok(());
    }
    let mut absences = Absences::load(tx.db, boot)?;
    absences.add(tx.ticks, length);
    tx.run("INSERT OR REPLACE INTO meta VALUES ('absences', ?1)", [absences.text(boot)]).map(drop)
}

/// Takes one suspect that there is room for; first from those that wait, else by taking over a lost lease.
pub(crate) fn take_suspect(tx: &mut Tx<'_>, room: &Room, who: &Who) -> Result<Option<Row>, StoreError> {
    let seq = match waiting_suspect(tx, room, who)? {
        Some((lane, crashed, seq)) => {
            let sql = "DELETE FROM suspect WHERE lane = ?1 AND crashed = ?2 AND seq = ?3";
            tx.run(sql, (lane, crashed, seq))?;
            seq
        }
        None => match take_over(tx, room, who)? {
            Some(seq) => seq,
            None => return Ok(None),
        },
    };
    if !tx.synced {
        // Its start is on the disk before it runs.
        return Err(StoreError::Unsynced);
    }
    let sql = format!("SELECT {COLUMNS} FROM job j WHERE j.seq = ?1");
    Ok(tx.db.prepare_cached(&sql)?.query_row([seq], |row| Row::read(tx.db, row)).optional()?)
}

/// The first suspect that there is room for.
fn waiting_suspect(tx: &mut Tx<'_>, room: &Room, who: &Who) -> Result<Option<(i64, bool, i64)>, StoreError> {
    let mut groups: Vec<(i64, bool, i64)> = Vec::new();
    {
        let mut statement =
            tx.db.prepare_cached("SELECT lane, crashed, min(seq) FROM suspect GROUP BY lane, crashed")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            groups.push((row.get(0)?, row.get(1)?, row.get(2)?));
        }
    }
    let mut first: Option<(i64, bool, i64)> = None;
    for (lane, crashed, seq) in groups {
        if (crashed && !room.crashed) || first.is_some_and(|(_, _, earlier)| earlier < seq) {
            continue;
        }
        if fits(tx.db, tx.lanes, lane, room, who)? {
            first = Some((lane, crashed, seq));
        }
    }
    Ok(first)
}

/// Whether there is room for a lane's jobs.
pub(crate) fn fits(
    db: &Connection,
    lanes: &mut Lanes,
    lane: i64,
    room: &Room,
    who: &Who,
) -> rusqlite::Result<bool> {
    let names = lanes.get(db, lane)?;
    Ok(who.takes(&names.queue) && (names.kind == NO_TYPE && room.jobs > 0 || room.of(&names.kind) > 0))
}

/// A job whose lease is lost.
pub(crate) struct Lost {
    lease: Lease,
    claim: Claim,
    index: u32,
    place: Place,
}

/// The first job whose lease is lost and that there is room for, or that is cancelled.
pub(crate) fn find(
    db: &Connection,
    lanes: &mut Lanes,
    shared: &Shared,
    room: &Room,
    who: &Who,
) -> Result<Option<Lost>, StoreError> {
    let (absences, ticks) = (Absences::load(db, &shared.boot)?, crate::clock::boot_millis());
    for lease in Lease::all(db)? {
        if lease.free_at(shared, &absences) > ticks {
            continue;
        }
        let Some(claim) = Claim::load(db, (&lease.source, lease.token))? else { continue };
        for index in 0..claim.items.len() as u32 {
            let Some((item, seq)) = claim.open(index).and_then(|item| Some((item, item.seq()?))) else {
                continue;
            };
            let Some(place) = Place::load(db, seq)? else { continue };
            let allowed = room.crashed || !item.is_suspect();
            if place.cancel || allowed && fits(db, lanes, place.lane, room, who)? {
                return Ok(Some(Lost { lease, claim, index, place }));
            }
        }
    }
    Ok(None)
}

/// Takes over one job whose lease is lost; the others of its claim stay with their holder until they are taken
/// too. Ends the cancelled ones on the way.
fn take_over(tx: &mut Tx<'_>, room: &Room, who: &Who) -> Result<Option<i64>, StoreError> {
    while let Some(Lost { lease, mut claim, index, place }) = find(tx.db, tx.lanes, tx.shared, room, who)? {
        let was_suspect = claim.open(index).is_some_and(|item| item.is_suspect());
        claim.settle(index);
        claim.save(tx, (&lease.source, lease.token))?;
        if place.state != OPEN {
            continue;
        }
        if place.cancel {
            tx.end(&place, State::Cancelled, Some("cancelled; the run was lost"))?;
            continue;
        }
        lose(tx, &place, was_suspect, &lease)?;
        return Ok(Some(place.seq));
    }
    Ok(None)
}

/// One job whose lease is lost: a suspect, with a crash more if it was one.
fn lose(tx: &Tx<'_>, place: &Place, was_suspect: bool, lease: &Lease) -> Result<(), StoreError> {
    if was_suspect {
        note_lost_run(tx, place, lease)?;
    }
    let crashes = place.crashes + i64::from(was_suspect);
    tx.run("UPDATE job SET suspect = 1, crashes = ?2 WHERE seq = ?1", (place.seq, crashes)).map(drop)
}

/// A lost run is on record as other runs are.
fn note_lost_run(tx: &Tx<'_>, place: &Place, lease: &Lease) -> Result<(), StoreError> {
    let text = tx
        .db
        .prepare_cached("SELECT attempts FROM job WHERE seq = ?1")?
        .query_row([place.seq], |row| row.get::<_, Option<String>>(0))
        .optional()?
        .flatten();
    let runs = attempts(text.as_deref());
    let counted = u32::try_from(place.spent.saturating_add(place.crashes)).unwrap_or(u32::MAX);
    let number = runs.last().map_or(0, |run| run.number).max(counted).saturating_add(1);
    let attempt = Attempt {
        number,
        started: Timestamp::from_millis(tx.now),
        millis: 0,
        outcome: "lost".to_owned(),
        note: None,
        error: Some("the manager that ran it was lost".to_owned()),
        output: String::new(),
        stderr: String::new(),
        manager: format!("{:016x}", lease.token.incarnation),
        usage: None,
    };
    crate::settle::append_attempt(tx, place.seq, runs, attempt)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shorter_absence_after_a_longer_one_counts_for_shorter_leases() {
        let mut absences = Absences::default();
        absences.add(100_000, 60_000);
        absences.add(112_000, 12_000);
        assert_eq!(absences.patience(15_000), 112_000 + 5_000);
        assert_eq!(absences.patience(60_000), 100_000 + 20_000);
        assert_eq!(absences.patience(90_000), i64::MIN, "neither was longer than two thirds of it");
        absences.add(130_000, 12_000);
        assert_eq!(absences.0.len(), 1, "what matters no more is forgotten");
    }

    #[test]
    fn absences_before_the_machine_started_anew_are_none() {
        let mut absences = Absences::default();
        absences.add(9_000_000, 60_000);
        absences.add(9_012_000, 12_000);
        let text = absences.text("boot-a");
        assert_eq!(Absences::read(&text, "boot-a").0, absences.0);
        assert!(Absences::read(&text, "boot-b").0.is_empty());
    }
}
