//! Orders: retry, cancel, remove.

use ganger_core::{FailureRecord, Filter, JobId, Order, State, Unique};

use crate::{
    error::StoreError,
    list,
    tx::{OPEN, Place, Tx, end_code},
    unique,
};

/// How many jobs one transaction of an order looks at.
const PIECE: usize = 2000;

/// Carries out an order on some of the jobs that match, from behind `after` on; answers how many it changed and
/// where to go on.
pub(crate) fn order(
    tx: &mut Tx<'_>,
    order: Order,
    filter: &Filter,
    after: i64,
) -> Result<(u64, Option<i64>), StoreError> {
    let seqs = list::matching(tx.db, filter, after, PIECE, tx.now)?;
    let mut changed = 0;
    for seq in &seqs {
        let Some(place) = tx.place(*seq)? else { continue };
        let applied = match order {
            Order::Retry => retry(tx, place)?,
            Order::Cancel => cancel_at(tx, &place)?,
            Order::Remove => remove(tx, &place)?,
        };
        changed += u64::from(applied);
    }
    let next = if seqs.len() == PIECE { seqs.last().copied() } else { None };
    Ok((changed, next))
}

/// From the start again; a scheduled one is due now.
fn retry(tx: &mut Tx<'_>, mut place: Place) -> Result<bool, StoreError> {
    if place.state == OPEN {
        let Some(due) = place.due else { return Ok(false) };
        if tx.run("DELETE FROM due WHERE at = ?1 AND seq = ?2", (due, place.seq))? == 0 {
            return Ok(false);
        }
    } else {
        if place.state == end_code(State::Done) || is_duplicate(tx, place.seq)? {
            return Ok(false);
        }
        (place.spent, place.crashes, place.suspect) = (0, 0, false);
        tx.run("DELETE FROM output WHERE seq = ?1", [place.seq])?;
    }
    tx.run(
        "UPDATE job SET state = 2, changed = ?2, spent = ?3, crashes = ?4, suspect = ?5, cancel = 0, reason = NULL, \
         due = NULL, expires_at = CASE WHEN expires_at < ?2 THEN NULL ELSE expires_at END WHERE seq = ?1",
        (place.seq, tx.now, place.spent, place.crashes, place.suspect),
    )?;
    tx.put_ready(&place)?;
    Ok(true)
}

/// Whether another job holds its unique key by now.
fn is_duplicate(tx: &Tx<'_>, seq: i64) -> Result<bool, StoreError> {
    let (id, text) = tx
        .db
        .prepare_cached("SELECT id, \"unique\" FROM job WHERE seq = ?1")?
        .query_row([seq], |row| Ok((row.get::<_, String>(0)?, row.get::<_, Option<String>>(1)?)))?;
    let Some(unique) = text.and_then(|text| serde_json::from_str::<Unique>(&text).ok()) else {
        return Ok(false);
    };
    Ok(unique::holder(tx.db, &unique.key, &id, tx.now)?.is_some())
}

/// Asks for a job to be cancelled; `false` when it had ended or is not known.
pub(crate) fn cancel(tx: &mut Tx<'_>, id: &str) -> Result<bool, StoreError> {
    let seq = tx.number("SELECT seq FROM job WHERE id = ?1", [id])?;
    match seq.map(|seq| tx.place(seq)).transpose()?.flatten() {
        Some(place) => cancel_at(tx, &place),
        None => Ok(false),
    }
}

/// A waiting job ends at once; a leased one is marked, and its holder learns it when it renews.
fn cancel_at(tx: &mut Tx<'_>, place: &Place) -> Result<bool, StoreError> {
    if place.state != OPEN {
        return Ok(false);
    }
    if tx.take_waiting(place)? {
        tx.end(place, State::Cancelled, Some("cancelled before it ran"))?;
    } else {
        tx.run("UPDATE job SET cancel = 1 WHERE seq = ?1", [place.seq])?;
        tx.run("INSERT OR IGNORE INTO cancel VALUES (?1)", [place.seq])?;
    }
    Ok(true)
}

/// Forgets a job that is not running.
fn remove(tx: &mut Tx<'_>, place: &Place) -> Result<bool, StoreError> {
    if place.state == OPEN && !tx.take_waiting(place)? {
        return Ok(false);
    }
    tx.erase(place.seq)?;
    Ok(true)
}

/// Stores a failure record as a dead entry that is no job, of the type and name of the job that failed.
pub(crate) fn keep_record(
    tx: &mut Tx<'_>,
    id: &JobId,
    queue: &str,
    record: &FailureRecord,
    raw: &str,
) -> Result<(), StoreError> {
    let seq = tx.next_seq()?;
    let lane = tx.lane(queue, &record.job.kind)?;
    let attempts = serde_json::to_string(&record.attempts).unwrap_or_default();
    tx.run(
        "INSERT INTO job (seq, lane, state, changed, priority, rare, cancel, suspect, spent, crashes, \
         capture_output, created_at, id, name, attempts, reason, fault, raw) \
         VALUES (?1, ?2, 4, ?3, 0, 1, 0, 0, 0, 0, 0, ?4, ?5, ?6, ?7, ?8, ?9, ?10) ON CONFLICT DO NOTHING",
        (
            seq,
            lane,
            record.at.as_millis(),
            tx.now,
            id.to_string(),
            record.job.name.as_deref(),
            attempts,
            &record.reason,
            "the record of a failed job, which is no job itself",
            raw.as_bytes(),
        ),
    )
    .map(drop)
}
