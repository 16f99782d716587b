//! Reading, off the writer's path.

use std::sync::{Arc, Mutex, PoisonError};

use ganger_core::{Ended, JobId, Output, ProviderError, State};
use rusqlite::{Connection, OptionalExtension};
use tokio::sync::Semaphore;

use crate::{error::StoreError, row::attempts, schema, spool::Shared, tx::end_state};

/// How many looks at a time: short ones, and ones that may go through the whole file.
const SHORT: usize = 4;
const LONG: usize = 2;

/// Connections that only read.
pub(crate) struct Readers {
    shared: Arc<Shared>,
    idle: Mutex<Vec<Connection>>,
    short: Semaphore,
    long: Semaphore,
}

/// Whether a look may go through the whole file.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Look {
    Short,
    Long,
}

impl Readers {
    pub(crate) fn open(shared: Arc<Shared>) -> Result<Self, StoreError> {
        let first = schema::open_reader(&shared.path)?;
        let (short, long) = (Semaphore::new(SHORT), Semaphore::new(LONG));
        Ok(Readers { shared, idle: Mutex::new(vec![first]), short, long })
    }

    /// Runs `look` in one reading transaction on a thread that may block.
    pub(crate) async fn run<T, F>(self: &Arc<Self>, kind: Look, look: F) -> Result<T, ProviderError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    {
        let gate = match kind {
            Look::Short => &self.short,
            Look::Long => &self.long,
        };
        let _turn = gate.acquire().await.map_err(|_| StoreError::Closed.on(&self.shared.path))?;
        let readers = self.clone();
        tokio::task::spawn_blocking(move || readers.look(look))
            .await
            .map_err(|error| ProviderError::transient("reading the job store was cut off").because(error))?
    }

    fn look<T>(&self, look: impl FnOnce(&Connection) -> Result<T, StoreError>) -> Result<T, ProviderError> {
        let on = |error: StoreError| error.on(&self.shared.path);
        let known = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let db = match known {
            Some(db) => db,
            None => schema::open_reader(&self.shared.path).map_err(on)?,
        };
        let result = within(&db, look);
        if result.is_ok() {
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(db);
        }
        result.map_err(on)
    }
}

fn within<T>(
    db: &Connection,
    look: impl FnOnce(&Connection) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    db.prepare_cached("BEGIN")?.execute([])?;
    schema::check(db, schema::MIGRATIONS.len())?;
    let result = look(db);
    db.prepare_cached("COMMIT")?.execute([])?;
    result
}

/// The state of a job `j`, as a word. `:now` is the wall clock: one whose time has come is ready, whether or not
/// a manager has looked since.
pub(crate) const STATE: &str = "CASE j.state WHEN 3 THEN 'done' WHEN 4 THEN 'dead' WHEN 5 THEN 'cancelled' \
     WHEN 6 THEN 'expired' ELSE CASE \
     WHEN EXISTS (SELECT 1 FROM ready r WHERE r.lane = j.lane AND r.rank = -j.priority AND r.seq = j.seq) THEN 'ready' \
     WHEN j.due IS NOT NULL AND EXISTS (SELECT 1 FROM due d WHERE d.at = j.due AND d.seq = j.seq) \
     THEN CASE WHEN j.due <= :now THEN 'ready' ELSE 'scheduled' END \
     WHEN j.suspect + j.crashes > 0 AND EXISTS (SELECT 1 FROM suspect s WHERE s.lane = j.lane \
     AND s.crashed = (j.crashes > 0) AND s.seq = j.seq) THEN 'ready' ELSE 'running' END END";

/// A job's state; `None` when it is not known (any more).
pub(crate) fn state(db: &Connection, id: &str, now: i64) -> Result<Option<State>, StoreError> {
    let sql = format!("SELECT {STATE} FROM job j WHERE j.id = :id");
    let word: Option<String> = db
        .prepare_cached(&sql)?
        .query_row(&[(":id", &id as &dyn rusqlite::ToSql), (":now", &now)], |row| row.get(0))
        .optional()?;
    if let Some(word) = word {
        return Ok(word.parse().ok());
    }
    let arriving: Option<i64> = db
        .prepare_cached("SELECT seq FROM inbox WHERE id = ?1")?
        .query_row([id], |row| row.get(0))
        .optional()?;
    Ok(arriving.map(|_| State::Ready))
}

/// Those of the jobs that have ended, or are not known.
pub(crate) fn ended(db: &Connection, ids: &[JobId]) -> Result<Vec<Ended>, StoreError> {
    let mut all = Vec::new();
    for id in ids {
        let text = id.to_string();
        let sql = "SELECT seq, state, spent, crashes, attempts, reason FROM job WHERE id = ?1";
        let row = db
            .prepare_cached(sql)?
            .query_row([&text], |row| {
                Ok(End {
                    seq: row.get(0)?,
                    state: row.get(1)?,
                    counted: row.get::<_, u32>(2)?.saturating_add(row.get(3)?),
                    attempts: row.get(4)?,
                    reason: row.get(5)?,
                })
            })
            .optional()?;
        match row {
            Some(end) => {
                if let Some(state) = end_state(end.state) {
                    all.push(end.tell(db, id.clone(), state)?);
                }
            }
            None if state(db, &text, 0)?.is_none() => {
                all.push(Ended { id: id.clone(), state: None, runs: 0, error: None, output: None });
            }
            None => {}
        }
    }
    Ok(all)
}

struct End {
    seq: i64,
    state: i64,
    counted: u32,
    attempts: Option<String>,
    reason: Option<String>,
}

impl End {
    fn tell(self, db: &Connection, id: JobId, state: State) -> Result<Ended, StoreError> {
        let runs = attempts(self.attempts.as_deref());
        let last = runs.last();
        let on_record = last.map_or(0, |run| run.number).max(self.counted);
        // A run that ended well and had nothing to say leaves no record of its own.
        let unrecorded = state == State::Done && last.is_none_or(|run| run.outcome != "done");
        Ok(Ended {
            id,
            state: Some(state),
            runs: on_record + u32::from(unrecorded),
            error: last.and_then(|run| run.error.clone()).or(self.reason),
            output: output(db, self.seq)?,
        })
    }
}

/// What a job's last run printed, where that was kept.
pub(crate) fn output(db: &Connection, seq: i64) -> Result<Option<Output>, StoreError> {
    let sql = "SELECT bytes, cut, cut_at, content_type FROM output WHERE seq = ?1";
    let output = db
        .prepare_cached(sql)?
        .query_row([seq], |row| {
            Ok(Output {
                bytes: row.get(0)?,
                cut: row.get::<_, i64>(1)? as u64,
                cut_at: row.get::<_, i64>(2)? as usize,
                content_type: row.get(3)?,
            })
        })
        .optional()?;
    Ok(output)
}
