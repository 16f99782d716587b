//! Rows that other programs inserted into `jobs` become jobs.

use ganger_core::{Job, JobId, RefusedKind, Timestamp, name_fault};
use rusqlite::types::ValueRef;
use serde_json::value::RawValue;

use crate::{enqueue, error::StoreError, tx::Tx};

/// How many rows one transaction takes over at most.
pub(crate) const ABSORB_MAX: i64 = 4096;

/// The columns of `inbox` by the fields of a job that they are.
const FIELDS: [&str; 20] = [
    "id",
    "type",
    "params",
    "name",
    "queue",
    "retries",
    "priority",
    "capture_output",
    "timeout",
    "run_at",
    "expires_at",
    "delay",
    "max_age",
    "backoff",
    "unique",
    "limit",
    "after",
    "headers",
    "keep",
    "extra",
];

/// Columns whose text is JSON.
const JSON: [&str; 7] = ["params", "backoff", "unique", "limit", "after", "headers", "extra"];

/// Columns whose numbers are seconds.
const SECONDS: [&str; 4] = ["timeout", "delay", "max_age", "keep"];

/// Takes over rows in their order; answers whether there may be more.
pub(crate) fn absorb(tx: &mut Tx<'_>) -> Result<bool, StoreError> {
    if tx.number("SELECT seq FROM inbox LIMIT 1", [])?.is_none() {
        return Ok(false);
    }
    let mut entries = Vec::new();
    {
        let mut statement = tx.db.prepare_cached(
            "SELECT seq, at, id, type, params, name, queue, retries, priority, capture_output, timeout, run_at, \
             expires_at, delay, max_age, backoff, \"unique\", \"limit\", \"after\", headers, keep, extra \
             FROM inbox ORDER BY seq LIMIT ?1",
        )?;
        let mut rows = statement.query([ABSORB_MAX])?;
        while let Some(row) = rows.next()? {
            entries.push(Arrival::read(row)?);
        }
    }
    let Some(last) = entries.last().map(|entry| entry.seq) else { return Ok(false) };
    let full = entries.len() as i64 == ABSORB_MAX;
    // Gone first: a place in the order is given to one row only.
    tx.run("DELETE FROM inbox WHERE seq <= ?1", [last])?;
    for entry in entries {
        tx.next_at(entry.seq);
        entry.store(tx)?;
    }
    tx.forget_next();
    Ok(full)
}

/// A row as it came.
struct Arrival {
    seq: i64,
    id: String,
    /// What could be read of its queue.
    queue: String,
    job: Result<Box<Job>, String>,
    /// Its bytes, where it is no job.
    raw: Vec<u8>,
}

impl Arrival {
    fn read(row: &rusqlite::Row<'_>) -> rusqlite::Result<Arrival> {
        let at: i64 = row.get(1)?;
        let text = |column: &str| -> rusqlite::Result<Option<String>> {
            Ok(match row.get_ref(column)? {
                ValueRef::Text(text) => std::str::from_utf8(text).ok().map(str::to_owned),
                _ => None,
            })
        };
        let id =
            text("id")?.filter(|id| id.parse::<JobId>().is_ok()).unwrap_or_else(|| JobId::new().to_string());
        let queue = text("queue")?
            .filter(|queue| name_fault(queue).is_none())
            .unwrap_or_else(|| ganger_core::DEFAULT_QUEUE.to_owned());
        let mut values = Vec::with_capacity(FIELDS.len());
        for field in FIELDS {
            values.push((field, row.get_ref(field)?));
        }
        let job = read_job(&values, at);
        let raw = if job.is_err() { raw_bytes(&values) } else { Vec::new() };
        Ok(Arrival { seq: row.get(0)?, id, queue, job: job.map(Box::new), raw })
    }

    fn store(self, tx: &mut Tx<'_>) -> Result<(), StoreError> {
        let fault = match &self.job {
            Ok(job) => match enqueue::enqueue_one(tx, job)? {
                Ok(_) => return Ok(()),
                Err(refused) if refused.kind == RefusedKind::Duplicate => {
                    tx.next_at(self.seq);
                    return enqueue::end_as_duplicate(tx, job, &refused);
                }
                Err(refused) => refused.message,
            },
            Err(fault) => fault.clone(),
        };
        let raw = match &self.job {
            Ok(job) => job.to_json().into_bytes(),
            Err(_) => self.raw,
        };
        let taken = tx.number("SELECT seq FROM job WHERE id = ?1", [&self.id])?.is_some();
        let id = if taken { JobId::new().to_string() } else { self.id };
        tx.next_at(self.seq);
        enqueue::store_malformed(tx, &id, &self.queue, &fault, &raw)
    }
}

/// The row as the job that it describes, read by the reader that reads jobs from everywhere.
fn read_job(values: &[(&str, ValueRef<'_>)], at: i64) -> Result<Job, String> {
    let mut json = String::from("{");
    for (field, value) in values {
        let text = match value {
            ValueRef::Null => continue,
            value => field_json(field, *value).map_err(|fault| format!("column `{field}`: {fault}"))?,
        };
        if *field == "extra" {
            // An object: its fields stand beside the others.
            let inner = text.trim();
            let inner =
                inner.strip_prefix('{').and_then(|inner| inner.strip_suffix('}')).unwrap_or("").trim();
            if !inner.is_empty() {
                json.push_str(inner);
                json.push(',');
            }
            continue;
        }
        json.push_str(&format!("\"{field}\":{text},"));
    }
    json.push_str("\"created_at\":\"");
    json.push_str(&Timestamp::from_millis(at).to_string());
    json.push_str("\"}");
    let mut job = Job::from_json(json.as_bytes()).map_err(|fault| strip_position(&fault.message))?;
    job.accept(Timestamp::from_millis(at));
    Ok(job)
}

/// The reader's position is one in a text that the producer never saw.
fn strip_position(message: &str) -> String {
    message.split(" at line ").next().unwrap_or(message).to_owned()
}

/// One column as JSON.
fn field_json(field: &str, value: ValueRef<'_>) -> Result<String, String> {
    match value {
        ValueRef::Null => Ok("null".to_owned()),
        ValueRef::Integer(number) => number_json(field, number as f64, number.to_string()),
        ValueRef::Real(number) => number_json(field, number, number.to_string()),
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => {
            let text = std::str::from_utf8(bytes).map_err(|error| format!("not UTF-8: {error}"))?;
            if JSON.contains(&field) {
                let raw =
                    RawValue::from_string(text.to_owned()).map_err(|error| format!("not JSON: {error}"))?;
                if field == "extra" && !raw.get().starts_with('{') {
                    return Err("an object is expected".to_owned());
                }
                return Ok(raw.get().to_owned());
            }
            serde_json::to_string(text).map_err(|error| error.to_string())
        }
    }
}

/// A number, as the field wants it: times and spans are seconds, a flag is 0 or 1.
fn number_json(field: &str, number: f64, plain: String) -> Result<String, String> {
    let millis = || (number * 1000.0).round();
    if SECONDS.contains(&field) {
        if !number.is_finite() || number < 0.0 {
            return Err(format!("{number} is no span of seconds"));
        }
        return Ok(format!("\"{}ms\"", millis()));
    }
    match field {
        "run_at" | "expires_at" => Ok(format!("\"{}\"", Timestamp::from_millis(millis() as i64))),
        "capture_output" => Ok((number != 0.0).to_string()),
        // What a number means there is for the job's reader to say.
        _ => Ok(plain),
    }
}

/// What a row that is no job is kept as: its params as they are if nothing else is there, else all its columns.
fn raw_bytes(values: &[(&str, ValueRef<'_>)]) -> Vec<u8> {
    if let Some((_, ValueRef::Text(bytes) | ValueRef::Blob(bytes))) =
        values.iter().find(|(field, _)| *field == "params")
        && std::str::from_utf8(bytes).ok().is_none_or(|text| serde_json::from_str::<&RawValue>(text).is_err())
    {
        return bytes.to_vec();
    }
    let columns: serde_json::Map<String, serde_json::Value> = values
        .iter()
        .filter_map(|(field, value)| {
            let value = match value {
                ValueRef::Null => return None,
                ValueRef::Integer(number) => (*number).into(),
                ValueRef::Real(number) => (*number).into(),
                ValueRef::Text(bytes) | ValueRef::Blob(bytes) => String::from_utf8_lossy(bytes).into(),
            };
            Some(((*field).to_owned(), value))
        })
        .collect();
    serde_json::Value::Object(columns).to_string().into_bytes()
}
