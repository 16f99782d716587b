//! Jobs go in.

use ganger_core::{
    Batch, Capabilities, Enqueued, HANDLER_PREFIX, JOB_BYTES_MAX, Job, JobId, Refused, RefusedKind, State,
    Timestamp,
};
use rusqlite::OptionalExtension;

use crate::{
    error::StoreError,
    read,
    row::{self, COLUMNS, INSERT, INSERT_RARE, Row},
    tx::{Place, Tx},
    unique,
};

/// What the store can do for a job.
pub const CAPABILITIES: Capabilities = Capabilities {
    filter: true,
    schedule: true,
    priority: true,
    unique: true,
    limit: false,
    after: false,
    repeat: true,
    wait_and_claim: false,
    follow: true,
    sink: true,
    admin: true,
    recover: false,
    find: true,
    durable: true,
};

/// The largest failure record that a handler's job may carry: a job and the ends of its runs.
const INPUT_MAX: usize = 4 * JOB_BYTES_MAX;

/// The jobs of a batch with ids and times. The `n`th id is made from the batch's token, so that a repeated batch
/// finds its jobs; a batch without a token (0) gets new ones.
pub(crate) fn accept(batch: Batch, queue: Option<&str>) -> Vec<Job> {
    let now = Timestamp::now();
    let Batch { token, mut jobs } = batch;
    for (n, job) in jobs.iter_mut().enumerate() {
        if token != 0 && job.id.is_none() {
            job.id = Some(batch_id(token, n));
        }
        if job.queue.is_none() {
            job.queue = queue.map(Into::into);
        }
        job.accept(now);
    }
    jobs
}

/// The token, its low 32 bits moved on by `n`: a UUIDv7's random part stays one, in the order of the batch.
fn batch_id(token: u128, n: usize) -> JobId {
    let low = (token as u32).wrapping_add(n as u32);
    let id = (token & !u128::from(u32::MAX)) | u128::from(low);
    let (a, b, c, d, e) =
        (id >> 96, (id >> 80) & 0xffff, (id >> 64) & 0xffff, (id >> 48) & 0xffff, id & 0xffff_ffff_ffff);
    format!("{a:08x}-{b:04x}-{c:04x}-{d:04x}-{e:012x}").parse().unwrap_or_default()
}

/// Why a job is not taken, if it is not.
pub(crate) fn admit(job: &Job) -> Result<(), Refused> {
    CAPABILITIES.admit(job)?;
    let input = job.rare().input.as_ref();
    if job.kind.starts_with(HANDLER_PREFIX) && input.is_none() {
        return Err(Refused::unsupported(format!(
            "type `{}` is ganger's own: jobs of failure handlers are made when a job is dead",
            job.kind
        )));
    }
    let max = if input.is_some() { INPUT_MAX } else { JOB_BYTES_MAX };
    match job.weight() {
        weight if weight > max => Err(Refused::new(
            RefusedKind::TooLarge,
            format!("the job has {weight} bytes, and at most {max} are taken: pass a reference to the data"),
        )),
        _ => Ok(()),
    }
}

/// The type of an entry that is no job.
pub(crate) const NO_TYPE: &str = "";

/// Stores jobs that have ids and times; answers for each, in order.
pub(crate) fn enqueue(tx: &mut Tx<'_>, jobs: &[Job]) -> Result<Vec<Result<Enqueued, Refused>>, StoreError> {
    jobs.iter().map(|job| enqueue_one(tx, job)).collect()
}

/// Stores one job that has its id and times.
pub(crate) fn enqueue_one(tx: &mut Tx<'_>, job: &Job) -> Result<Result<Enqueued, Refused>, StoreError> {
    if let Err(refused) = admit(job) {
        return Ok(Err(refused));
    }
    let id = job.id.clone().unwrap_or_default();
    if let Some(unique) = &job.rare().unique {
        let text = id.to_string();
        if tx.number("SELECT seq FROM job WHERE id = ?1", [&text])?.is_some() {
            return existing(tx, id, job);
        }
        if let Some(holder) = unique::holder(tx.db, &unique.key, &text, tx.now)? {
            return Ok(Err(Refused::duplicate(holder)));
        }
    }
    let Some((seq, lane)) = write_row(tx, job)? else { return existing(tx, id, job) };
    let state = job.initial_state(Timestamp::from_millis(tx.now));
    match job.run_at {
        Some(at) if state == State::Scheduled => tx.put_due(seq, at.as_millis())?,
        _ => {
            let sql = "INSERT INTO ready VALUES (?1, ?2, ?3)";
            tx.run(sql, (lane, -i64::from(job.priority), seq))?;
        }
    }
    Ok(Ok(Enqueued { id, existed: false, state }))
}

/// Writes a job that is open and listed nowhere yet: its place in the order, and its lane. `None` where its id is taken.
fn write_row(tx: &mut Tx<'_>, job: &Job) -> Result<Option<(i64, i64)>, StoreError> {
    let seq = tx.next_seq()?;
    let lane = tx.lane(job.queue(), &job.kind)?;
    if !row::insert(&mut tx.db.prepare_cached(INSERT)?, seq, lane, tx.now, job)? {
        return Ok(None);
    }
    if let Some(values) = row::rare_values(seq, job) {
        tx.run(INSERT_RARE, values)?;
    }
    Ok(Some((seq, lane)))
}

/// Keeps on record that a job was not run, since another one holds its key: there is nobody to be refused.
pub(crate) fn end_as_duplicate(tx: &mut Tx<'_>, job: &Job, refused: &Refused) -> Result<(), StoreError> {
    let Some((seq, _)) = write_row(tx, job)? else { return Ok(()) };
    match tx.place(seq)? {
        Some(place) => tx.end(&place, State::Cancelled, Some(&refused.message)),
        None => Ok(()),
    }
}

/// The id is taken: by the same job, or by another.
fn existing(tx: &mut Tx<'_>, id: JobId, job: &Job) -> Result<Result<Enqueued, Refused>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM job j WHERE j.id = ?1");
    let row =
        tx.db.prepare_cached(&sql)?.query_row([id.to_string()], |row| Row::read(tx.db, row)).optional()?;
    let conflict = || {
        Refused::new(
            RefusedKind::Conflict,
            format!("id `{id}` is taken by a job with other content: choose another id"),
        )
    };
    let Some(row) = row else { return Ok(Err(conflict())) };
    let lane = tx.lanes.get(tx.db, row.lane)?;
    match row.job(lane) {
        Ok(stored) if stored.same_content(job) => {
            let state = read::state(tx.db, &id.to_string(), tx.now)?.unwrap_or(State::Ready);
            Ok(Ok(Enqueued { id, existed: true, state }))
        }
        _ => Ok(Err(conflict())),
    }
}

/// Stores an entry that is no job, so that it can be leased as such and end among the dead letters. It has no
/// type, which is what any manager takes.
pub(crate) fn store_malformed(
    tx: &mut Tx<'_>,
    id: &str,
    queue: &str,
    fault: &str,
    raw: &[u8],
) -> Result<(), StoreError> {
    let seq = tx.next_seq()?;
    let lane = tx.lane(queue, NO_TYPE)?;
    tx.run(
        "INSERT INTO job (seq, lane, state, changed, priority, rare, cancel, suspect, spent, crashes, \
         capture_output, created_at, id, fault, raw) VALUES (?1, ?2, 2, ?3, 0, 1, 0, 0, 0, 0, 0, ?3, ?4, ?5, ?6)",
        (seq, lane, tx.now, id, fault, raw),
    )?;
    let place = Place {
        seq,
        lane,
        priority: 0,
        state: crate::tx::OPEN,
        suspect: false,
        spent: 0,
        crashes: 0,
        cancel: false,
        due: None,
        keep: None,
    };
    tx.put_ready(&place)
}
