//! Looking at stored jobs.

use compact_str::CompactString;
use ganger_core::{Count, Filter, Handled, JobId, JobView, Page, State, Timestamp, Token};
use rusqlite::{Connection, OptionalExtension, ToSql, types::Value};

use crate::{
    claim::Claim,
    enqueue::NO_TYPE,
    error::StoreError,
    read::{self, STATE},
    row::{COLUMNS, Row},
    tx::{Lanes, end_code},
};

/// The most jobs that one listing shows.
const LIST_MAX: usize = 1000;

/// A filter as SQL, with its values.
struct Clause {
    sql: String,
    values: Vec<Value>,
}

impl Clause {
    /// The condition on a job `j` of a lane `l`. `?1` is the wall clock.
    fn of(filter: &Filter, now: i64) -> Clause {
        let mut clause = Clause { sql: "?1 = ?1".to_owned(), values: vec![Value::Integer(now)] };
        if let Some(ids) = &filter.ids {
            clause.any("j.id", ids.iter().map(|id| Value::Text(id.to_string())).collect());
        }
        if let Some(states) = &filter.states {
            clause.states(states);
        }
        for (column, wanted) in
            [("l.type", &filter.kind), ("l.queue", &filter.queue), ("j.name", &filter.name)]
        {
            if let Some(wanted) = wanted {
                clause.any(column, vec![Value::Text(wanted.clone())]);
            }
        }
        if let Some(error) = &filter.error {
            let at = clause.value(Value::Text(error.clone()));
            // The last error is in the last run, or else it is the reason.
            clause.sql += &format!(" AND (instr(j.attempts, {at}) > 0 OR instr(j.reason, {at}) > 0)");
        }
        clause
    }

    fn value(&mut self, value: Value) -> String {
        self.values.push(value);
        format!("?{}", self.values.len())
    }

    fn any(&mut self, column: &str, values: Vec<Value>) {
        let places: Vec<String> = values.into_iter().map(|value| self.value(value)).collect();
        self.sql += &format!(" AND {column} IN ({})", places.join(", "));
    }

    fn states(&mut self, states: &[State]) {
        let ends: Vec<String> =
            states.iter().filter(|state| state.is_end()).map(|state| end_code(*state).to_string()).collect();
        if ends.len() == states.len() {
            // By number, so that an index on the rare ends is used.
            let rare = if states.contains(&State::Done) { "" } else { " AND j.state > 3" };
            self.sql += &format!(" AND j.state IN ({}){rare}", ends.join(", "));
            return;
        }
        let words: Vec<String> = states.iter().map(|state| format!("'{state}'")).collect();
        self.sql += &format!(" AND {} IN ({})", STATE.replace(":now", "?1"), words.join(", "));
    }

    fn params(&self) -> Vec<&dyn ToSql> {
        self.values.iter().map(|value| value as &dyn ToSql).collect()
    }
}

/// The jobs behind `after` that match, in their order.
pub(crate) fn matching(
    db: &Connection,
    filter: &Filter,
    after: i64,
    limit: usize,
    now: i64,
) -> Result<Vec<i64>, StoreError> {
    let mut clause = Clause::of(filter, now);
    let after = clause.value(Value::Integer(after));
    let sql = format!(
        "SELECT j.seq FROM job j JOIN lane l ON l.id = j.lane WHERE {} AND j.seq > {after} ORDER BY j.seq LIMIT {limit}",
        clause.sql
    );
    let mut statement = db.prepare(&sql)?;
    let seqs = statement.query_map(&*clause.params(), |row| row.get(0))?.collect::<Result<_, _>>()?;
    Ok(seqs)
}

/// How many jobs match.
pub(crate) fn count(db: &Connection, filter: &Filter) -> Result<u64, StoreError> {
    let clause = Clause::of(filter, Timestamp::now().as_millis());
    let sql = format!("SELECT count(*) FROM job j JOIN lane l ON l.id = j.lane WHERE {}", clause.sql);
    let count: i64 = db.prepare(&sql)?.query_row(&*clause.params(), |row| row.get(0))?;
    Ok(count.unsigned_abs())
}

/// How many jobs there are of each queue, type and state.
pub(crate) fn counts(db: &Connection) -> Result<Vec<Count>, StoreError> {
    let now = Timestamp::now().as_millis();
    let sql = format!(
        "SELECT l.queue, l.type, {}, count(*) FROM job j JOIN lane l ON l.id = j.lane GROUP BY 1, 2, 3",
        STATE.replace(":now", "?1")
    );
    let mut statement = db.prepare_cached(&sql)?;
    let mut rows = statement.query([now])?;
    let mut counts = Vec::new();
    while let Some(row) = rows.next()? {
        let state: String = row.get(2)?;
        if let Ok(state) = state.parse() {
            let count = row.get::<_, i64>(3)?.unsigned_abs();
            counts.push(Count { queue: row.get(0)?, kind: row.get(1)?, state, count });
        }
    }
    Ok(counts)
}

/// The types that jobs wait for, of one queue or of all.
pub(crate) fn ready_types(db: &Connection, queue: Option<&str>) -> Result<Vec<CompactString>, StoreError> {
    let mut statement = db.prepare_cached(
        "SELECT DISTINCT l.type FROM lane l WHERE (?1 IS NULL OR l.queue = ?1) AND l.type <> ?2 AND (\
         EXISTS (SELECT 1 FROM ready r WHERE r.lane = l.id) OR EXISTS (SELECT 1 FROM suspect s WHERE s.lane = l.id))",
    )?;
    let types = statement.query_map((queue, NO_TYPE), |row| Ok(row.get_ref(0)?.as_str()?.into()))?;
    Ok(types.collect::<Result<_, _>>()?)
}

/// Jobs that match, newest first.
pub(crate) fn list(db: &Connection, filter: &Filter, page: &Page) -> Result<Vec<JobView>, StoreError> {
    let now = Timestamp::now().as_millis();
    let mut clause = Clause::of(filter, now);
    if let Some(id) = &page.after {
        let sql = "SELECT seq FROM job WHERE id = ?1";
        let seq: Option<i64> =
            db.prepare_cached(sql)?.query_row([id.to_string()], |row| row.get(0)).optional()?;
        let Some(seq) = seq else { return Ok(Vec::new()) };
        let at = clause.value(Value::Integer(seq));
        clause.sql += &format!(" AND j.seq < {at}");
    }
    let limit = page.limit.clamp(1, LIST_MAX);
    views(db, &clause, limit)
}

/// One job, with its output.
pub(crate) fn show(db: &Connection, id: &JobId) -> Result<Option<JobView>, StoreError> {
    let clause = Clause::of(&Filter::ids(vec![id.clone()]), Timestamp::now().as_millis());
    let Some(mut view) = views(db, &clause, 1)?.pop() else { return Ok(None) };
    let seq: i64 = db.query_row("SELECT seq FROM job WHERE id = ?1", [id.to_string()], |row| row.get(0))?;
    view.output = read::output(db, seq)?;
    Ok(Some(view))
}

fn views(db: &Connection, clause: &Clause, limit: usize) -> Result<Vec<JobView>, StoreError> {
    let sql = format!(
        "SELECT {COLUMNS}, {} AS state, j.reason, j.due, j.changed, j.handled \
         FROM job j JOIN lane l ON l.id = j.lane WHERE {} ORDER BY j.seq DESC LIMIT {limit}",
        STATE.replace(":now", "?1"),
        clause.sql
    );
    let holders = holders(db)?;
    let mut lanes = Lanes::default();
    let mut statement = db.prepare(&sql)?;
    let mut rows = statement.query(&*clause.params())?;
    let mut views = Vec::new();
    while let Some(row) = rows.next()? {
        let state: State = row.get::<_, String>(19)?.parse().unwrap_or(State::Ready);
        let handled: Option<String> = row.get(23)?;
        let (reason, due, changed): (Option<String>, Option<i64>, i64) =
            (row.get(20)?, row.get(21)?, row.get(22)?);
        let row = Row::read(db, row)?;
        let (seq, raw, record) = (row.seq, row.raw().map(<[u8]>::to_vec), row.record());
        let id: JobId = row.id.parse().unwrap_or_default();
        let lane = lanes.get(db, row.lane)?;
        let job = if raw.is_some() { None } else { row.job(lane).ok() };
        let holder = holders.iter().find(|(_, claim)| claim.items.iter().any(|item| item.seq() == Some(seq)));
        views.push(JobView {
            id,
            raw,
            state,
            reason,
            spent: record.spent,
            crashes: record.crashes,
            retrying: state == State::Scheduled && record.spent + record.crashes > 0,
            cancel: record.cancel,
            run_at: due
                .map(Timestamp::from_millis)
                .or(job.as_ref().and_then(|job| job.run_at))
                .filter(|_| state == State::Scheduled),
            ended_at: state.is_end().then(|| Timestamp::from_millis(changed)),
            holder: holder
                .filter(|_| state == State::Running)
                .map(|(token, _)| format!("{:016x}", token.incarnation)),
            attempts: record.attempts,
            output: None,
            handled: handled
                .and_then(|text| serde_json::from_str::<Vec<Handled>>(&text).ok())
                .unwrap_or_default(),
            input: job.as_ref().and_then(|job| job.rare().input.clone()),
            job,
        });
    }
    Ok(views)
}

/// All claims, to find a running job's holder.
fn holders(db: &Connection) -> Result<Vec<(Token, Claim)>, StoreError> {
    let mut statement = db.prepare_cached("SELECT incarnation, token, items FROM claim")?;
    let claims = statement.query_map([], |row| {
        let token = Token { incarnation: row.get::<_, i64>(0)? as u64, seq: row.get::<_, i64>(1)? as u64 };
        Ok((token, Claim::from_bytes(row.get_ref(2)?.as_blob()?)))
    })?;
    Ok(claims.collect::<Result<_, _>>()?)
}
