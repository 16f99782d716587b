//! The floor of a drain: the statements that jobs cost, with no manager, no thread and no channel around them.

use std::path::Path;

use ganger_core::{ProviderError, Token};
use rusqlite::Connection;

use crate::{
    claim::{self, Claim, Item},
    error::StoreError,
    row::{COLUMNS, RARE, Row},
    schema,
    spool::KEEP_DONE_MAX,
    tx::Lane,
};

/// Drains a store of plain jobs of one queue and type that nobody else has open, `batch` jobs a commit: each
/// commit ends the last batch, forgets what is too many and claims the next, as an exchange does. Every job is
/// read whole. Answers how many there were.
///
/// # Errors
/// The file cannot be read or written.
pub fn floor(path: &Path, batch: u32) -> Result<u64, ProviderError> {
    schema::open_writer(path, false)
        .and_then(|db| Drain { db, batch, token: 0, kept: 0 }.run())
        .map_err(|error| error.on(path))
}

struct Drain {
    db: Connection,
    batch: u32,
    token: i64,
    kept: u64,
}

impl Drain {
    fn run(mut self) -> Result<u64, StoreError> {
        let mut total = 0;
        let mut last: Vec<i64> = Vec::new();
        let lane = Lane { queue: ganger_core::DEFAULT_QUEUE.into(), kind: "floor".into() };
        loop {
            self.db.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
            if !last.is_empty() {
                self.finish(&last)?;
            }
            self.token += 1;
            let rows = self.claim()?;
            self.db.prepare_cached("COMMIT")?.execute([])?;
            if rows.is_empty() {
                return Ok(total);
            }
            total += rows.len() as u64;
            last = rows.iter().map(|row| row.seq).collect();
            for row in rows {
                std::hint::black_box(row.entry(lane.clone()));
            }
        }
    }

    fn run_one(&self, sql: &str, params: impl rusqlite::Params) -> Result<(), StoreError> {
        self.db.prepare_cached(sql)?.execute(params)?;
        Ok(())
    }

    fn finish(&mut self, seqs: &[i64]) -> Result<(), StoreError> {
        let now = ganger_core::Timestamp::now().as_millis();
        Claim::load(&self.db, ("", Token { incarnation: 1, seq: self.token as u64 }))?;
        for run in seqs.chunk_by(|a, b| *b == a + 1) {
            self.run_one(crate::settle::DONE, (run[0], run[run.len() - 1], now))?;
        }
        self.run_one(claim::DELETE, (1, "", self.token))?;
        let bytes: Vec<u8> = seqs.iter().flat_map(|seq| seq.to_le_bytes()).collect();
        self.run_one(crate::prune::FINISH, (now, seqs.len() as i64, bytes))?;
        self.kept += seqs.len() as u64;
        while self.kept > KEEP_DONE_MAX {
            let Some((number, at, _, oldest)) = crate::prune::oldest(&self.db)? else { break };
            for run in oldest.chunk_by(|a, b| *b == a + 1) {
                self.run_one(crate::prune::FORGET, (run[0], run[run.len() - 1], at))?;
            }
            self.run_one(crate::prune::DELETE, [number])?;
            self.kept -= oldest.len() as u64;
        }
        Ok(())
    }

    fn claim(&self) -> Result<Vec<Row>, StoreError> {
        let keys: Vec<(i64, i64, i64)> = self
            .db
            .prepare_cached("SELECT lane, rank, seq FROM ready ORDER BY lane, rank, seq LIMIT ?1")?
            .query_map([self.batch], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
            .collect::<Result<_, _>>()?;
        let Some(last) = keys.last() else { return Ok(Vec::new()) };
        let sql = format!("SELECT {COLUMNS}{RARE} FROM job j WHERE j.seq BETWEEN ?1 AND ?2 ORDER BY j.seq");
        let rows: Vec<Row> = self
            .db
            .prepare_cached(&sql)?
            .query_map((keys[0].2, last.2), Row::read)?
            .collect::<Result<_, _>>()?;
        self.run_one(claim::TAKE, *last)?;
        let claim = Claim { items: rows.iter().map(Item::of).collect() };
        self.run_one(claim::CREATE, (1, "", self.token, 0, 0, 0, claim.to_bytes()))?;
        Ok(rows)
    }
}
