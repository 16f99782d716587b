//! One transaction of the writer, and the small steps that operations are made of.

use std::collections::HashMap;

use compact_str::CompactString;
use ganger_core::{State, Timestamp};
use rusqlite::{Connection, OptionalExtension, Params};

use crate::{error::StoreError, spool::Shared};

/// An open job's code in `job.state`.
pub(crate) const OPEN: i64 = 2;

/// The code of an end in `job.state`.
pub(crate) fn end_code(state: State) -> i64 {
    match state {
        State::Done => 3,
        State::Dead => 4,
        State::Cancelled => 5,
        State::Expired => 6,
        State::Scheduled | State::Ready | State::Running => OPEN,
    }
}

/// The end that a code in `job.state` stands for; `None` for an open job.
pub(crate) fn end_state(code: i64) -> Option<State> {
    match code {
        3 => Some(State::Done),
        4 => Some(State::Dead),
        5 => Some(State::Cancelled),
        6 => Some(State::Expired),
        _ => None,
    }
}

/// A transaction under way.
pub(crate) struct Tx<'a> {
    pub(crate) db: &'a Connection,
    pub(crate) shared: &'a Shared,
    pub(crate) lanes: &'a mut Lanes,
    /// Wall clock, milliseconds.
    pub(crate) now: i64,
    /// The store's clock, milliseconds.
    pub(crate) ticks: i64,
    /// Whether the commit is synced to the disk before it is answered.
    pub(crate) synced: bool,
    /// Jobs that ended in it and are kept for the store's own time.
    pub(crate) finished: Vec<i64>,
    /// The next free place in the order, once it is known.
    next_seq: Option<i64>,
}

impl<'a> Tx<'a> {
    pub(crate) fn new(db: &'a Connection, shared: &'a Shared, lanes: &'a mut Lanes, synced: bool) -> Self {
        let (now, ticks) = (Timestamp::now().as_millis(), crate::clock::boot_millis());
        Tx { db, shared, lanes, now, ticks, synced, finished: Vec::new(), next_seq: None }
    }

    /// Runs one statement; answers how many rows it changed.
    pub(crate) fn run(&self, sql: &str, params: impl Params) -> Result<usize, StoreError> {
        Ok(self.db.prepare_cached(sql)?.execute(params)?)
    }

    /// One number; `None` where there is no row or it is NULL.
    pub(crate) fn number(&self, sql: &str, params: impl Params) -> Result<Option<i64>, StoreError> {
        let row = self.db.prepare_cached(sql)?.query_row(params, |row| row.get::<_, Option<i64>>(0));
        Ok(row.optional()?.flatten())
    }

    /// A number of the file as a whole.
    pub(crate) fn meta(&self, key: &str) -> Result<i64, StoreError> {
        Ok(self.number("SELECT value FROM meta WHERE key = ?1", [key])?.unwrap_or(0))
    }

    /// Sets a number of the file as a whole.
    pub(crate) fn set_meta(&self, key: &str, value: i64) -> Result<(), StoreError> {
        self.run("INSERT OR REPLACE INTO meta VALUES (?1, ?2)", (key, value)).map(drop)
    }

    /// The next place in the order: behind every job, also behind those that other programs inserted.
    pub(crate) fn next_seq(&mut self) -> Result<i64, StoreError> {
        let next = match self.next_seq {
            Some(next) => next,
            None => {
                let jobs = self.number("SELECT max(seq) FROM job", [])?.unwrap_or(0);
                jobs.max(self.number("SELECT max(seq) FROM inbox", [])?.unwrap_or(0)) + 1
            }
        };
        self.next_seq = Some(next + 1);
        Ok(next)
    }

    /// The next job takes this place: its own, which it had before.
    pub(crate) fn next_at(&mut self, seq: i64) {
        self.next_seq = Some(seq);
    }

    /// Looks the next place up again when it is needed.
    pub(crate) fn forget_next(&mut self) {
        self.next_seq = None;
    }

    /// Forgets what was read and noted within a step that is rolled back; before it so many jobs had ended.
    pub(crate) fn forget(&mut self, ended: usize) {
        self.finished.truncate(ended);
        self.next_seq = None;
        self.lanes.clear();
    }

    /// The lane of a queue and type, made if it is new.
    pub(crate) fn lane(&mut self, queue: &str, kind: &str) -> Result<i64, StoreError> {
        if let Some(lane) = self.lanes.find(queue, kind) {
            return Ok(lane);
        }
        self.run("INSERT OR IGNORE INTO lane (queue, type) VALUES (?1, ?2)", (queue, kind))?;
        let lane = self
            .number("SELECT id FROM lane WHERE queue = ?1 AND type = ?2", (queue, kind))?
            .ok_or_else(|| StoreError::RolledBack(format!("queue `{queue}` cannot be stored")))?;
        self.lanes.keep(lane, queue, kind);
        Ok(lane)
    }

    /// Lists an open job where it waits for a worker: among the suspects if it lost a lease or a run, else in
    /// its place in the order.
    pub(crate) fn put_ready(&self, place: &Place) -> Result<(), StoreError> {
        if place.suspect || place.crashes > 0 {
            let crashed = place.crashes > 0;
            self.run("INSERT OR IGNORE INTO suspect VALUES (?1, ?2, ?3)", (place.lane, crashed, place.seq))?;
        } else {
            self.run(
                "INSERT OR IGNORE INTO ready VALUES (?1, ?2, ?3)",
                (place.lane, -place.priority, place.seq),
            )?;
        }
        Ok(())
    }

    /// Lists an open job where it waits for its time.
    pub(crate) fn put_due(&self, seq: i64, at: i64) -> Result<(), StoreError> {
        self.run("UPDATE job SET due = ?2 WHERE seq = ?1", (seq, at))?;
        self.run("INSERT OR IGNORE INTO due VALUES (?1, ?2)", (at, seq)).map(drop)
    }

    /// Takes an open job from wherever it waits; `false` if it waits nowhere, which means that it is leased.
    pub(crate) fn take_waiting(&self, place: &Place) -> Result<bool, StoreError> {
        let ready = "DELETE FROM ready WHERE lane = ?1 AND rank = ?2 AND seq = ?3";
        let suspect = "DELETE FROM suspect WHERE lane = ?1 AND crashed = ?2 AND seq = ?3";
        if self.run(ready, (place.lane, -place.priority, place.seq))? > 0
            || self.run(suspect, (place.lane, place.crashes > 0, place.seq))? > 0
        {
            return Ok(true);
        }
        match place.due {
            Some(due) => Ok(self.run("DELETE FROM due WHERE at = ?1 AND seq = ?2", (due, place.seq))? > 0),
            None => Ok(false),
        }
    }

    /// Ends an open job that is listed nowhere any more.
    pub(crate) fn end(
        &mut self,
        place: &Place,
        state: State,
        reason: Option<&str>,
    ) -> Result<(), StoreError> {
        let seq = place.seq;
        if place.cancel {
            self.run("DELETE FROM cancel WHERE seq = ?1", [seq])?;
        }
        let kept = match (state, place.keep) {
            (State::Dead, _) => true,
            (_, Some(keep)) => keep > 0,
            (_, None) => self.shared.retention().keeps(),
        };
        if !kept {
            return self.erase(seq);
        }
        self.run(
            "UPDATE job SET state = ?2, changed = ?3, reason = ?4, due = NULL, cancel = 0 WHERE seq = ?1",
            (seq, end_code(state), self.now, reason),
        )?;
        match (state, place.keep) {
            (State::Dead, _) => {}
            (_, Some(keep)) => {
                let until = self.now.saturating_add(keep);
                self.run("INSERT OR IGNORE INTO keep VALUES (?1, ?2, ?3)", (until, seq, self.now))?;
            }
            (_, None) => self.finished.push(seq),
        }
        Ok(())
    }

    /// Forgets a job that is listed nowhere any more.
    pub(crate) fn erase(&self, seq: i64) -> Result<(), StoreError> {
        self.run("DELETE FROM job WHERE seq = ?1", [seq])?;
        self.run("DELETE FROM output WHERE seq = ?1", [seq]).map(drop)
    }

    /// What must be known of a job to move it; `None` when it is gone.
    pub(crate) fn place(&self, seq: i64) -> Result<Option<Place>, StoreError> {
        Place::load(self.db, seq)
    }
}

/// What must be known of a job to move it.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) seq: i64,
    pub(crate) lane: i64,
    pub(crate) priority: i64,
    pub(crate) state: i64,
    pub(crate) suspect: bool,
    pub(crate) spent: i64,
    pub(crate) crashes: i64,
    pub(crate) cancel: bool,
    pub(crate) due: Option<i64>,
    pub(crate) keep: Option<i64>,
}

impl Place {
    /// `None` when the job is gone.
    pub(crate) fn load(db: &Connection, seq: i64) -> Result<Option<Place>, StoreError> {
        let mut statement = db.prepare_cached(
            "SELECT seq, lane, priority, state, suspect, spent, crashes, cancel, due, keep FROM job WHERE seq = ?1",
        )?;
        Ok(statement.query_row([seq], Place::read).optional()?)
    }

    pub(crate) fn read(row: &rusqlite::Row<'_>) -> rusqlite::Result<Place> {
        Ok(Place {
            seq: row.get(0)?,
            lane: row.get(1)?,
            priority: row.get(2)?,
            state: row.get(3)?,
            suspect: row.get(4)?,
            spent: row.get(5)?,
            crashes: row.get(6)?,
            cancel: row.get(7)?,
            due: row.get(8)?,
            keep: row.get(9)?,
        })
    }
}

/// A queue and a type.
#[derive(Clone, Debug)]
pub(crate) struct Lane {
    pub(crate) queue: CompactString,
    pub(crate) kind: CompactString,
}

/// The lanes that were looked up. Rows of `lane` never change, so what was found stays true.
#[derive(Debug, Default)]
pub(crate) struct Lanes {
    ids: HashMap<CompactString, HashMap<CompactString, i64>>,
    lanes: HashMap<i64, Lane>,
}

/// How many lanes are remembered: a program that makes up queue names must not fill the memory.
const LANES_MAX: usize = 10_000;

impl Lanes {
    fn find(&self, queue: &str, kind: &str) -> Option<i64> {
        self.ids.get(queue)?.get(kind).copied()
    }

    fn keep(&mut self, lane: i64, queue: &str, kind: &str) {
        if self.lanes.len() >= LANES_MAX {
            self.clear();
        }
        self.ids.entry(queue.into()).or_default().insert(kind.into(), lane);
        self.lanes.insert(lane, Lane { queue: queue.into(), kind: kind.into() });
    }

    /// Forgets all.
    pub(crate) fn clear(&mut self) {
        self.ids.clear();
        self.lanes.clear();
    }

    /// A lane by its number.
    pub(crate) fn get(&mut self, db: &Connection, lane: i64) -> rusqlite::Result<Lane> {
        if let Some(known) = self.lanes.get(&lane) {
            return Ok(known.clone());
        }
        let found = db
            .prepare_cached("SELECT queue, type FROM lane WHERE id = ?1")?
            .query_row([lane], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)))?;
        self.keep(lane, &found.0, &found.1);
        Ok(Lane { queue: found.0.into(), kind: found.1.into() })
    }
}
