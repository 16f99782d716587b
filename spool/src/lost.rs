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
    pub(crate) fn free_at(&self, shared: &Shared, absence: Absence) -> i64 {
        if shared.holders.is_dead(self.token.incarnation) {
            return i64::MIN;
        }
        let patience = if absence.length.saturating_mul(3) > self.lease.saturating_mul(2) {
            absence.end.saturating_add(self.lease / 3)
        } else {
            i64::MIN
        };
        self.deadline.max(patience)
    }
}

/// The last time in which the store saw no manager.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Absence {
    pub(crate) end: i64,
    pub(crate) length: i64,
}

impl Absence {
    pub(crate) fn load(db: &Connection) -> rusqlite::Result<Absence> {
        let mut statement = db.prepare_cached("SELECT value FROM meta WHERE key = ?1")?;
        let mut number = |key: &str| {
            statement.query_row([key], |row| row.get(0)).optional().map(|value| value.unwrap_or(0))
        };
        Ok(Absence { end: number("absence_end")?, length: number("absence")? })
    }
}

/// Notes that a manager has spoken: if none had for long, leases that ran out meanwhile are left alone a while.
pub(crate) fn note_contact(tx: &Tx<'_>) -> Result<(), StoreError> {
    let sql = "SELECT max(seen) FROM member WHERE boot = ?1";
    let Some(seen) = tx.number(sql, [&tx.shared.boot])? else { return Ok(()) };
    let length = tx.ticks.saturating_sub(seen);
    // Shorter than two thirds of any lease worth having: not worth a write.
    if length < 50 {
        return Ok(());
    }
    let last = Absence::load(tx.db)?;
    let over = tx.ticks >= last.end.saturating_add(last.length / 2);
    if over || length > last.length {
        tx.set_meta("absence", length)?;
        tx.set_meta("absence_end", tx.ticks)?;
    }
    Ok(())
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
    let (absence, ticks) = (Absence::load(db)?, crate::clock::boot_millis());
    for lease in Lease::all(db)? {
        if lease.free_at(shared, absence) > ticks {
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
        error: Some("the manager that ran it was lost".to_owned()),
        output: String::new(),
        manager: format!("{:016x}", lease.token.incarnation),
    };
    crate::settle::append_attempt(tx, place.seq, runs, attempt)
}
