//! A job as a row: its columns, read and written.

use std::{fmt, marker::PhantomData, time::Duration};

use compact_str::CompactString;
use ganger_core::{Attempt, DEFAULT_QUEUE, Entry, Job, Malformed, Period, Rare, Record, Timestamp};
use rusqlite::{CachedStatement, Connection, types::Value};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{DeserializeOwned, MapAccess, Visitor},
};
use serde_json::value::RawValue;

use crate::tx::Lane;

/// The columns that [`Row::read`] reads, in its order, of a table named `j`. The first after `params` tells whether
/// any of those behind it has anything to say: asking SQLite that is cheaper than taking each out of it.
pub(crate) const COLUMNS: &str = "j.seq, j.lane, j.priority, j.created_at, j.id, j.params, \
     coalesce(j.name, j.retries, j.timeout, j.run_at, j.expires_at, j.attempts) IS NOT NULL \
     OR j.rare + j.cancel + j.suspect + j.spent + j.crashes + j.capture_output <> 0, \
     j.rare, j.cancel, j.suspect, j.spent, j.crashes, j.capture_output, j.name, j.retries, j.timeout, j.run_at, \
     j.expires_at, j.attempts";

/// The columns that only rare jobs have: reading eleven NULLs costs as much as reading the job.
const RARE: &str = "SELECT backoff, \"unique\", \"limit\", \"after\", headers, keep, input, via, extra, fault, raw \
     FROM job WHERE seq = ?1";

/// A job's columns, not yet made into a job: that is done by who asked, not by the writer.
#[derive(Debug, Default)]
pub(crate) struct Row {
    pub(crate) seq: i64,
    pub(crate) lane: i64,
    pub(crate) priority: i64,
    pub(crate) cancel: bool,
    pub(crate) suspect: bool,
    pub(crate) spent: u32,
    pub(crate) crashes: u32,
    capture_output: bool,
    created_at: i64,
    pub(crate) id: String,
    params: Option<String>,
    name: Option<String>,
    retries: Option<u32>,
    timeout: Option<i64>,
    run_at: Option<i64>,
    expires_at: Option<i64>,
    attempts: Option<String>,
    rare: Option<Box<RareRow>>,
}

#[derive(Debug)]
struct RareRow {
    backoff: Option<String>,
    unique: Option<String>,
    limit: Option<String>,
    after: Option<String>,
    headers: Option<String>,
    keep: Option<i64>,
    input: Option<String>,
    via: Option<String>,
    extra: Option<String>,
    fault: Option<String>,
    raw: Option<Vec<u8>>,
}

impl Row {
    /// Reads a row of [`COLUMNS`], and of a rare job the rest.
    pub(crate) fn read(db: &Connection, row: &rusqlite::Row<'_>) -> rusqlite::Result<Row> {
        let plain = Row {
            seq: row.get(0)?,
            lane: row.get(1)?,
            priority: row.get(2)?,
            created_at: row.get(3)?,
            id: row.get(4)?,
            params: row.get(5)?,
            ..Row::default()
        };
        if !row.get::<_, bool>(6)? {
            return Ok(plain);
        }
        let rare = match row.get::<_, bool>(7)? {
            false => None,
            true => Some(Box::new(db.prepare_cached(RARE)?.query_row([plain.seq], RareRow::read)?)),
        };
        Ok(Row {
            cancel: row.get(8)?,
            suspect: row.get(9)?,
            spent: row.get(10)?,
            crashes: row.get(11)?,
            capture_output: row.get(12)?,
            name: row.get(13)?,
            retries: row.get(14)?,
            timeout: row.get(15)?,
            run_at: row.get(16)?,
            expires_at: row.get(17)?,
            attempts: row.get(18)?,
            rare,
            ..plain
        })
    }

    /// How many bytes of the room in bytes it takes.
    pub(crate) fn weight(&self) -> u64 {
        let text = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        let rare = self.rare.as_ref().map_or(0, |rare| {
            text(&rare.input)
                + text(&rare.headers)
                + text(&rare.extra)
                + rare.raw.as_ref().map_or(0, Vec::len)
        });
        (text(&self.params) + rare) as u64
    }

    /// Whether it has a `keep` of its own.
    pub(crate) fn has_keep(&self) -> bool {
        self.rare.as_ref().is_some_and(|rare| rare.keep.is_some())
    }

    /// The bytes of an entry that is no job.
    pub(crate) fn raw(&self) -> Option<&[u8]> {
        self.rare.as_ref().and_then(|rare| rare.raw.as_deref())
    }

    /// What happened to it so far.
    pub(crate) fn record(&self) -> Record {
        Record {
            spent: self.spent,
            crashes: self.crashes,
            suspect: self.suspect,
            cancel: self.cancel,
            duplicate_of: None,
            attempts: attempts(self.attempts.as_deref()),
            first: None,
        }
    }

    /// The job, or what is wrong with it.
    pub(crate) fn entry(self, lane: Lane) -> Entry {
        if let Some(fault) = self.rare.as_ref().and_then(|rare| rare.fault.clone()) {
            return Entry::Malformed(Malformed::whole(fault));
        }
        match self.job(lane) {
            Ok(job) => Entry::Job(job),
            Err(fault) => Entry::Malformed(fault),
        }
    }

    /// The job.
    pub(crate) fn job(self, lane: Lane) -> Result<Job, Malformed> {
        let rare = self.rare.map(|rare| rare.read_fields()).transpose()?.flatten();
        let id = self.id.parse().map_err(|error| Malformed::whole(format!("column `id`: {error}")))?;
        Ok(Job {
            kind: lane.kind,
            params: raw_json("params", self.params)?,
            id: Some(id),
            name: self.name.map(CompactString::from),
            queue: (lane.queue != DEFAULT_QUEUE).then_some(lane.queue),
            retries: self.retries,
            priority: i32::try_from(self.priority).unwrap_or(0),
            capture_output: self.capture_output,
            timeout: self.timeout.map(millis),
            run_at: self.run_at.map(Timestamp::from_millis),
            expires_at: self.expires_at.map(Timestamp::from_millis),
            created_at: Some(Timestamp::from_millis(self.created_at)),
            rare,
        })
    }
}

impl RareRow {
    fn read(row: &rusqlite::Row<'_>) -> rusqlite::Result<RareRow> {
        Ok(RareRow {
            backoff: row.get(0)?,
            unique: row.get(1)?,
            limit: row.get(2)?,
            after: row.get(3)?,
            headers: row.get(4)?,
            keep: row.get(5)?,
            input: row.get(6)?,
            via: row.get(7)?,
            extra: row.get(8)?,
            fault: row.get(9)?,
            raw: row.get(10)?,
        })
    }

    fn read_fields(self) -> Result<Option<Box<Rare>>, Malformed> {
        Ok(Some(Box::new(Rare {
            delay: None,
            max_age: None,
            backoff: json("backoff", self.backoff)?,
            unique: json("unique", self.unique)?,
            limit: json("limit", self.limit)?,
            after: json("after", self.after)?.unwrap_or_default(),
            headers: json::<Pairs<String>>("headers", self.headers)?.unwrap_or_default().0,
            keep: self.keep.map(millis),
            input: raw_json("input", self.input)?,
            via: self.via.map(CompactString::from),
            unknown: json::<Pairs<Box<RawValue>>>("extra", self.extra)?.unwrap_or_default().0,
        })))
    }
}

/// An object, its order kept.
struct Pairs<T>(Vec<(CompactString, T)>);

impl<T> Default for Pairs<T> {
    fn default() -> Self {
        Pairs(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Pairs<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Object<T> {
            type Value = Pairs<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs<T>, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(Object(PhantomData))
    }
}

struct PairsRef<'a, T>(&'a [(CompactString, T)]);

impl<T: Serialize> Serialize for PairsRef<'_, T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(key, value)| (key, value)))
    }
}

/// The runs on record.
pub(crate) fn attempts(text: Option<&str>) -> Vec<Attempt> {
    // Only ganger writes the column; a text that another version wrote otherwise is no reason to hold a job back.
    text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}

fn millis(millis: i64) -> Duration {
    Duration::from_millis(u64::try_from(millis).unwrap_or(0))
}

fn json<T: DeserializeOwned>(column: &str, text: Option<String>) -> Result<Option<T>, Malformed> {
    text.map(|text| {
        serde_json::from_str(&text).map_err(|error| Malformed::whole(format!("column `{column}`: {error}")))
    })
    .transpose()
}

fn raw_json(column: &str, text: Option<String>) -> Result<Option<Box<RawValue>>, Malformed> {
    text.map(|text| {
        RawValue::from_string(text).map_err(|error| Malformed::whole(format!("column `{column}`: {error}")))
    })
    .transpose()
}

/// Writes a job that has its id and times. Nothing is written where its id is taken.
pub(crate) const INSERT: &str = "INSERT INTO job (seq, lane, state, changed, priority, rare, cancel, suspect, spent, \
     crashes, capture_output, created_at, id, params, name, retries, timeout, run_at, expires_at) \
     VALUES (?1, ?2, 2, ?3, ?4, 0, 0, 0, 0, 0, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13) ON CONFLICT DO NOTHING";

/// Adds what only rare jobs have.
pub(crate) const INSERT_RARE: &str = "UPDATE job SET rare = 1, backoff = ?2, \"unique\" = ?3, \"limit\" = ?4, \
     \"after\" = ?5, headers = ?6, keep = ?7, input = ?8, via = ?9, extra = ?10 WHERE seq = ?1";

/// Binds [`INSERT`] and runs it; `false` where the id is taken.
pub(crate) fn insert(
    statement: &mut CachedStatement<'_>,
    seq: i64,
    lane: i64,
    now: i64,
    job: &Job,
) -> rusqlite::Result<bool> {
    let id = job.id.as_ref().map(ToString::to_string).unwrap_or_default();
    let written = statement.execute((
        seq,
        lane,
        now,
        job.priority,
        job.capture_output,
        job.created_at.map_or(now, Timestamp::as_millis),
        id,
        job.params.as_ref().map(|raw| raw.get()),
        job.name.as_deref(),
        job.retries,
        job.timeout.map(as_millis),
        job.run_at.map(Timestamp::as_millis),
        job.expires_at.map(Timestamp::as_millis),
    ))?;
    Ok(written > 0)
}

/// The values of [`INSERT_RARE`], where the job has any.
pub(crate) fn rare_values(seq: i64, job: &Job) -> Option<[Value; 10]> {
    let rare = job.rare.as_deref()?;
    Some([
        Value::Integer(seq),
        text_of(rare.backoff.as_ref()),
        text_of(rare.unique.as_ref()),
        text_of(rare.limit.as_ref()),
        text_of((!rare.after.is_empty()).then_some(&rare.after)),
        text_of((!rare.headers.is_empty()).then(|| PairsRef(&rare.headers)).as_ref()),
        rare.keep.map_or(Value::Null, |keep| Value::Integer(as_millis(keep))),
        rare.input.as_ref().map_or(Value::Null, |raw| Value::Text(raw.get().to_owned())),
        rare.via.as_ref().map_or(Value::Null, |via| Value::Text(via.to_string())),
        text_of((!rare.unknown.is_empty()).then(|| PairsRef(&rare.unknown)).as_ref()),
    ])
}

fn text_of(value: Option<&impl serde::Serialize>) -> Value {
    value.and_then(|value| serde_json::to_string(value).ok()).map_or(Value::Null, Value::Text)
}

/// A span in whole milliseconds.
pub(crate) fn as_millis(span: Duration) -> i64 {
    i64::try_from(Period::from(span).get().as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::MIGRATIONS;

    #[test]
    fn a_job_with_any_one_thing_of_its_own_is_read_whole() {
        let db = Connection::open_in_memory().unwrap();
        db.execute_batch(MIGRATIONS[0]).unwrap();
        db.execute_batch(
            "INSERT INTO job (seq, lane, state, changed, priority, rare, cancel, suspect, spent, crashes, capture_output, \
             created_at, id) VALUES (9, 1, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 'a')",
        )
        .unwrap();
        let read = || {
            let sql = format!("SELECT {COLUMNS} FROM job j");
            format!("{:?}", db.query_row(&sql, [], |row| Row::read(&db, row)).unwrap())
        };
        let plain = read();
        for (set, seen, unset) in [
            ("name = ''", "name: Some(\"\")", "name = NULL"),
            ("retries = 0", "retries: Some(0)", "retries = NULL"),
            ("timeout = 0", "timeout: Some(0)", "timeout = NULL"),
            ("run_at = 0", "run_at: Some(0)", "run_at = NULL"),
            ("expires_at = 0", "expires_at: Some(0)", "expires_at = NULL"),
            ("attempts = '[]'", "attempts: Some(\"[]\")", "attempts = NULL"),
            ("cancel = 1", "cancel: true", "cancel = 0"),
            ("suspect = 1", "suspect: true", "suspect = 0"),
            ("spent = 2", "spent: 2", "spent = 0"),
            ("crashes = 3", "crashes: 3", "crashes = 0"),
            ("capture_output = 1", "capture_output: true", "capture_output = 0"),
            ("rare = 1, keep = 7", "keep: Some(7)", "rare = 0, keep = NULL"),
        ] {
            db.execute(&format!("UPDATE job SET {set}"), []).unwrap();
            assert!(read().contains(seen), "{set}: {}", read());
            db.execute(&format!("UPDATE job SET {unset}"), []).unwrap();
            assert_eq!(read(), plain, "{unset}");
        }
    }
}
