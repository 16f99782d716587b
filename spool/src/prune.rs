//! Finished jobs are forgotten after a time and beyond a number: bounded work within transactions that happen
//! anyway.

use rusqlite::{Connection, OptionalExtension};

use crate::{claim, error::StoreError, row::as_millis, spool::Shared, tx::Tx};

/// What a transaction that ended no job forgets at most.
const PRUNE_MIN: i64 = 512;

/// Notes the jobs that ended in the transaction, and forgets some of those that are due: at least as many as
/// ended, so that the record cannot grow without bound.
pub(crate) fn prune(tx: &mut Tx<'_>) -> Result<(), StoreError> {
    let ended = std::mem::take(&mut tx.finished);
    let retention = tx.shared.retention();
    let mut kept: Option<i64> = None;
    if !ended.is_empty() {
        let bytes: Vec<u8> = ended.iter().flat_map(|seq| seq.to_le_bytes()).collect();
        tx.run(
            "INSERT INTO finish (at, count, items) VALUES (?1, ?2, ?3)",
            (tx.now, ended.len() as i64, bytes),
        )?;
        kept = Some(tx.meta("finished")? + ended.len() as i64);
    }
    let oldest_kept = tx.now.saturating_sub(as_millis(retention.time));
    let max = i64::try_from(retention.count).unwrap_or(i64::MAX);
    let mut budget = 2 * ended.len() as i64 + PRUNE_MIN;
    while budget > 0 {
        let Some((number, at, count, seqs)) = oldest(tx.db)? else { break };
        let total = match kept {
            Some(total) => total,
            None => tx.meta("finished")?,
        };
        if at >= oldest_kept && total <= max {
            break;
        }
        // A long entry goes in parts: beyond the number only what is too many.
        let surplus = if at < oldest_kept { count } else { (total - max).min(count) };
        let part = surplus.min(budget.max(PRUNE_MIN)) as usize;
        forget(tx, at, &seqs[..part.min(seqs.len())])?;
        if part >= seqs.len() {
            tx.run("DELETE FROM finish WHERE number = ?1", [number])?;
        } else {
            let rest: Vec<u8> = seqs[part..].iter().flat_map(|seq| seq.to_le_bytes()).collect();
            tx.run(
                "UPDATE finish SET count = ?2, items = ?3 WHERE number = ?1",
                (number, (seqs.len() - part) as i64, rest),
            )?;
        }
        kept = Some(total - part as i64);
        budget -= part as i64;
    }
    if let Some(kept) = kept {
        tx.set_meta("finished", kept.max(0))?;
    }
    forget_own_keeps(tx)
}

type Entry = (i64, i64, i64, Vec<i64>);

fn oldest(db: &Connection) -> Result<Option<Entry>, StoreError> {
    let sql = "SELECT number, at, count, items FROM finish ORDER BY number LIMIT 1";
    let entry = db
        .prepare_cached(sql)?
        .query_row([], |row| {
            let seqs = claim::words(row.get_ref(3)?.as_blob()?).map(|seq| seq as i64).collect();
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, seqs))
        })
        .optional()?;
    Ok(entry)
}

/// Forgets jobs that ended at `at`. One that an order has brought back since is another story by now.
fn forget(tx: &Tx<'_>, at: i64, seqs: &[i64]) -> Result<(), StoreError> {
    for run in seqs.chunk_by(|a, b| *b == a + 1) {
        let (first, last) = (run[0], run[run.len() - 1]);
        tx.run(
            "DELETE FROM job WHERE seq BETWEEN ?1 AND ?2 AND state IN (3, 5, 6) AND changed = ?3",
            (first, last, at),
        )?;
        if tx.number("SELECT seq FROM output WHERE seq BETWEEN ?1 AND ?2 LIMIT 1", (first, last))?.is_some() {
            tx.run(
                "DELETE FROM output WHERE seq BETWEEN ?1 AND ?2 AND seq NOT IN \
                 (SELECT seq FROM job WHERE seq BETWEEN ?1 AND ?2)",
                (first, last),
            )?;
        }
    }
    Ok(())
}

fn forget_own_keeps(tx: &Tx<'_>) -> Result<(), StoreError> {
    let mut over = Vec::new();
    {
        let mut statement = tx
            .db
            .prepare_cached("SELECT until, seq, at FROM keep WHERE until < ?1 ORDER BY until LIMIT 512")?;
        let mut rows = statement.query([tx.now])?;
        while let Some(row) = rows.next()? {
            over.push((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, row.get::<_, i64>(2)?));
        }
    }
    for (until, seq, at) in over {
        tx.run("DELETE FROM keep WHERE until = ?1 AND seq = ?2", (until, seq))?;
        forget(tx, at, &[seq])?;
    }
    Ok(())
}

/// Whether there is anything to forget: what an idle writer asks.
pub(crate) fn is_due(db: &Connection, shared: &Shared) -> bool {
    let now = ganger_core::Timestamp::now().as_millis();
    let retention = shared.retention();
    let look = || -> rusqlite::Result<bool> {
        let kept: i64 = db
            .prepare_cached("SELECT value FROM meta WHERE key = 'finished'")?
            .query_row([], |row| row.get(0))
            .optional()?
            .unwrap_or(0);
        let oldest: Option<i64> = db
            .prepare_cached("SELECT at FROM finish ORDER BY number LIMIT 1")?
            .query_row([], |row| row.get(0))
            .optional()?;
        let until: Option<i64> = db
            .prepare_cached("SELECT until FROM keep ORDER BY until LIMIT 1")?
            .query_row([], |row| row.get(0))
            .optional()?;
        let limit = now.saturating_sub(as_millis(retention.time));
        Ok(oldest.is_some_and(|at| at < limit || u64::try_from(kept).unwrap_or(0) > retention.count)
            || until.is_some_and(|until| until < now))
    };
    // A file that cannot be read now is looked at again in a while.
    look().unwrap_or(false)
}
