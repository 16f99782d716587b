//! The statements of the disk provider's drain, run straight on SQLite by one thread with no manager and with the
//! provider's settings: claim a batch, settle the one before, keep the finished, forget the oldest, in one commit.

use rusqlite::{Connection, params};

/// Finished jobs that stay, as the provider's default.
const KEPT_MAX: i64 = 100_000;

/// The columns that the provider reads of each job.
const COLUMNS: &str = "SELECT seq, lane, priority, created_at, id, params, \
                       coalesce(name, retries, timeout, run_at, expires_at, attempts) IS NOT NULL \
                       OR rare + cancel + suspect + spent + crashes + capture_output <> 0, \
                       rare, cancel, suspect, spent, crashes, capture_output, name, retries, timeout, run_at, \
                       expires_at, attempts FROM job WHERE seq BETWEEN ?1 AND ?2 ORDER BY seq";

/// Drains every ready job of the file in batches of `batch`; answers how many there were.
///
/// # Errors
/// SQLite's own.
pub(crate) fn drain(path: &str, batch: i64) -> rusqlite::Result<u64> {
    let mut db = Connection::open(path)?;
    db.pragma_update(None, "journal_mode", "WAL")?;
    db.pragma_update(None, "synchronous", "FULL")?;
    db.pragma_update(None, "cache_size", -8000)?;
    db.pragma_update(None, "wal_autocheckpoint", 2000)?;
    db.set_prepared_statement_cache_capacity(64);
    let mut total = 0;
    let mut last: Option<(i64, i64)> = None;
    for token in 1i64.. {
        let tx = db.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        if let Some(range) = last.take() {
            settle(&tx, token - 1, range)?;
        }
        let claimed = claim(&tx, token, batch)?;
        tx.commit()?;
        let Some((first, end)) = claimed else { break };
        total += (end - first + 1) as u64;
        last = claimed;
    }
    Ok(total)
}

/// Claims the first ready jobs, whose places in the order have no gaps in this file.
fn claim(tx: &Connection, token: i64, batch: i64) -> rusqlite::Result<Option<(i64, i64)>> {
    let mut places = Vec::new();
    {
        let mut ready =
            tx.prepare_cached("SELECT rank, seq FROM ready WHERE lane = 1 ORDER BY rank, seq LIMIT ?1")?;
        let mut rows = ready.query([batch])?;
        while let Some(row) = rows.next()? {
            places.push(row.get::<_, i64>(1)?);
        }
    }
    let (Some(&first), Some(&end)) = (places.first(), places.last()) else { return Ok(None) };
    {
        let mut jobs = tx.prepare_cached(COLUMNS)?;
        let mut rows = jobs.query([first, end])?;
        while let Some(row) = rows.next()? {
            std::hint::black_box((row.get_ref(0)?, row.get_ref(4)?, row.get_ref(5)?));
        }
    }
    tx.prepare_cached("DELETE FROM ready WHERE lane = 1 AND rank = 0 AND seq <= ?1")?.execute([end])?;
    let items: Vec<u8> = places.iter().flat_map(|seq| (seq << 3).to_le_bytes()).collect();
    tx.prepare_cached("INSERT INTO claim VALUES (1, 'floor', ?1, 0, 15000, 0, ?2)")?
        .execute(params![token, items])?;
    tx.prepare_cached(
        "INSERT INTO member (incarnation, source, token, more, boot, seen, lease) VALUES (1, 'floor', ?1, 1, '', 0, 0) \
         ON CONFLICT (incarnation, source) DO UPDATE SET token = excluded.token",
    )?
    .execute([token])?;
    Ok(Some((first, end)))
}

/// Ends the jobs of the batch before, keeps their record, and forgets as many of the oldest beyond the number kept.
fn settle(tx: &Connection, token: i64, (first, end): (i64, i64)) -> rusqlite::Result<()> {
    tx.prepare_cached("UPDATE OR FAIL job SET state = 3, changed = 1 WHERE seq BETWEEN ?1 AND ?2")?
        .execute([first, end])?;
    tx.prepare_cached("DELETE FROM claim WHERE incarnation = 1 AND source = 'floor' AND token = ?1")?
        .execute([token])?;
    let items: Vec<u8> = (first..=end).flat_map(i64::to_le_bytes).collect();
    tx.prepare_cached("INSERT INTO finish (at, count, items) VALUES (1, ?1, ?2)")?
        .execute(params![end - first + 1, items])?;
    let surplus = end - KEPT_MAX;
    if surplus > 0 {
        tx.prepare_cached(
            "DELETE FROM job WHERE seq BETWEEN ?1 AND ?2 AND state IN (3, 5, 6) AND changed = 1",
        )?
        .execute([(first - KEPT_MAX).max(1), surplus])?;
        tx.prepare_cached("DELETE FROM finish WHERE number = (SELECT min(number) FROM finish)")?
            .execute([])?;
    }
    Ok(())
}
