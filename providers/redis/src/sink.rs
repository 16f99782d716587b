//! Where jobs go in.

use std::{collections::HashMap, ops::Range, time::Duration};

use compact_str::CompactString;
use ganger_core::{
    Batch, Beat, BoxFuture, Ended, Enqueued, JOB_BYTES_MAX, Job, JobId, Order, Provider, ProviderError,
    Refused, RefusedKind, Sink, State, Timestamp,
};
use redis::Value;
use tokio::time::{Instant, sleep, timeout};

use crate::{
    RedisProvider,
    ends::{End, indexed_state},
    envelope::{digest, enclose},
    error::CallError,
    script::{Call, ENQUEUE},
    store::Store,
    unique::states_sum,
};

/// So many jobs, or bytes, are stored by one call.
const JOBS_MAX: usize = 2_000;
const BYTES_MAX: usize = 4 << 20;
/// How often a call whose outcome is unknown is made.
const TRIES: u32 = 3;
/// How long one who waits for jobs that no index knows sleeps before they are looked for again.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

type Answer = Result<Enqueued, Refused>;

impl Sink for Store {
    fn enqueue(&self, batch: Batch) -> BoxFuture<'_, Result<Vec<Answer>, ProviderError>> {
        Box::pin(
            async move { self.enqueue_all(batch).await.map_err(|error| self.error("storing jobs", error)) },
        )
    }

    fn states<'a>(&'a self, ids: &'a [JobId]) -> BoxFuture<'a, Result<Vec<Option<State>>, ProviderError>> {
        Box::pin(
            async move { self.states_of(ids).await.map_err(|error| self.error("looking for jobs", error)) },
        )
    }

    fn ended<'a>(&'a self, ids: &'a [JobId]) -> BoxFuture<'a, Result<Vec<Ended>, ProviderError>> {
        Box::pin(
            async move { self.ended_of(ids).await.map_err(|error| self.error("waiting for jobs", error)) },
        )
    }

    fn managers(&self) -> BoxFuture<'_, Result<Vec<Beat>, ProviderError>> {
        Box::pin(async move {
            self.beats().await.map_err(|error| self.error("reading the managers' register", error))
        })
    }

    fn ready_types(&self) -> BoxFuture<'_, Result<Vec<CompactString>, ProviderError>> {
        Box::pin(async move {
            // All that have, or had, a lane.
            let mut command = redis::cmd("SMEMBERS");
            command.arg(self.keys.own("types"));
            let types = self.list(&command).await;
            let types = types.map_err(|error| self.error("asking for the types that wait", error))?;
            Ok(types.iter().map(|kind| String::from_utf8_lossy(kind).into()).collect())
        })
    }

    fn cancel<'a>(&'a self, id: &'a JobId) -> BoxFuture<'a, Result<bool, ProviderError>> {
        Box::pin(async move {
            let cancelled = self.order_one(Order::Cancel, id, None).await;
            cancelled.map_err(|error| self.error("cancelling a job", error))
        })
    }
}

/// A call that stores a part of a batch.
struct Part {
    call: Call,
    jobs: usize,
    bytes: usize,
    /// Its place in the batch.
    range: Range<usize>,
    /// The places in the batch of those that the call answers for.
    indexed: Vec<usize>,
}

/// A batch that is being put into calls.
struct Parts<'a> {
    store: &'a Store,
    token: u128,
    parts: Vec<Part>,
    /// The type of the ready jobs that come next, and their envelopes.
    run: (String, Vec<Vec<u8>>),
}

/// When a job is stored, where not in a lane at once.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Due {
    Now,
    At(Timestamp),
}

impl Parts<'_> {
    /// The part that is being made; a new one where that is full.
    fn current(&mut self, place: usize, bytes: usize) -> &mut Part {
        if self.parts.last().is_none_or(|part| part.jobs >= JOBS_MAX || part.bytes >= BYTES_MAX) {
            self.end_run();
            let mut call = self.store.script(&ENQUEUE);
            call.arg(format!("{:032x}.{}", self.token, self.parts.len()));
            self.parts.push(Part { call, jobs: 0, bytes: 0, range: place..place, indexed: Vec::new() });
        }
        let part = self.parts.last_mut().expect("one was pushed above where there was none");
        (part.jobs, part.bytes) = (part.jobs + 1, part.bytes + bytes);
        part.range.end = place + 1;
        part
    }

    fn add(&mut self, place: usize, job: &Job, due: Due, is_indexed: bool, text: Vec<u8>) {
        if is_indexed || due != Due::Now || self.run.0 != job.kind {
            self.end_run();
        }
        let part = self.current(place, text.len());
        let at = match due {
            Due::Now => 0,
            Due::At(at) => at.as_millis(),
        };
        if is_indexed {
            part.indexed.push(place);
            let id = job.id.as_ref().map(ToString::to_string);
            let unique = job.rare().unique.as_ref();
            part.call.arg(if unique.is_some() { "u" } else { "x" });
            part.call.arg(job.kind.as_str()).arg(id).arg(digest(job)).arg(at).arg(text);
            if let Some(unique) = unique {
                part.call.arg(states_sum(unique)).arg(&unique.key);
            }
        } else if due != Due::Now {
            part.call.arg("d").arg(at).arg(text);
        } else {
            self.run.0.clear();
            self.run.0.push_str(&job.kind);
            self.run.1.push(text);
        }
    }

    /// Ends a run of ready jobs of one type.
    fn end_run(&mut self) {
        let (kind, texts) = &mut self.run;
        if let Some(part) = self.parts.last_mut().filter(|_| !texts.is_empty()) {
            part.call.arg("p").arg(kind.as_str()).arg(texts.len());
            for text in texts.drain(..) {
                part.call.arg(text);
            }
        }
    }
}

impl Store {
    async fn enqueue_all(&self, batch: Batch) -> Result<Vec<Answer>, CallError> {
        let wall = self.clock.wall();
        let mut answers = Vec::with_capacity(batch.jobs.len());
        let mut parts = Parts { store: self, token: batch.token, parts: Vec::new(), run: Default::default() };
        let mut indexed = HashMap::new();
        for (place, mut job) in batch.jobs.into_iter().enumerate() {
            let rare = job.rare();
            let is_indexed = job.id.is_some() || rare.keep.is_some() || rare.unique.is_some();
            // Made from the batch's token, so that the same batch again has the same ids.
            job.id.get_or_insert_with(|| id_in_batch(batch.token, place));
            let (answer, text) = prepare(&mut job, is_indexed, wall);
            let scheduled = matches!(&answer, Ok(Enqueued { state: State::Scheduled, .. }));
            answers.push(answer);
            let Some(text) = text else { continue };
            let due = job.run_at.filter(|_| scheduled).map_or(Due::Now, Due::At);
            parts.add(place, &job, due, is_indexed, text);
            if is_indexed {
                indexed.insert(place, job);
            }
        }
        parts.end_run();
        for part in parts.parts {
            self.store_part(&part, &indexed, &mut answers).await?;
        }
        Ok(answers)
    }

    async fn store_part(
        &self,
        part: &Part,
        jobs: &HashMap<usize, Job>,
        answers: &mut [Answer],
    ) -> Result<(), CallError> {
        let known = match self.send_surely(&part.call).await {
            Ok(Value::Array(known)) => known,
            Ok(_) => return Err(CallError::Strange("the form of an enqueue's answer")),
            Err(error) if error.is_out_of_memory() => {
                let message = "Redis is over its `maxmemory`: wait until jobs are done, or raise it";
                for answer in answers[part.range.clone()].iter_mut().filter(|answer| answer.is_ok()) {
                    *answer = Err(Refused::new(RefusedKind::Full, message));
                }
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        for (place, known) in part.indexed.iter().zip(known) {
            if let (Value::BulkString(known), Some(job)) = (known, jobs.get(place)) {
                judge_known(&mut answers[*place], job, known);
            }
        }
        Ok(())
    }

    /// Makes a call until its outcome is known, or it is not worth another try. Safe for calls with a token.
    async fn send_surely(&self, call: &Call) -> Result<Value, CallError> {
        let mut tries = 0;
        loop {
            match call.send_and_hold(&self.side, self.holders).await {
                Err(error) if error.is_unknown_outcome() && tries + 1 < TRIES => {
                    tries += 1;
                    sleep(Duration::from_millis(100) * tries).await;
                }
                answer => return answer,
            }
        }
    }

    async fn states_of(&self, ids: &[JobId]) -> Result<Vec<Option<State>>, CallError> {
        // In this order: a job that ends in between is seen as ended.
        let indexed = self.fields("state", ids.iter().map(ToString::to_string)).await?;
        let ends = self.ends_of(ids).await?;
        let mut states: Vec<Option<State>> = indexed
            .into_iter()
            .zip(ends)
            .map(|(state, end)| {
                let indexed = || state.map(|state| indexed_state(&String::from_utf8_lossy(&state)));
                end.map(|end| end.state).or_else(indexed)
            })
            .collect();
        let missing: Vec<&JobId> =
            ids.iter().zip(&states).filter(|(_, state)| state.is_none()).map(|(id, _)| id).collect();
        if !missing.is_empty() {
            let found = self.find(&missing).await?;
            let ends = self.ends_of(ids).await?;
            for ((id, state), end) in ids.iter().zip(&mut states).zip(ends) {
                let found = || found.get(id).map(|found| found.state());
                *state = state.or(end.map(|end| end.state)).or_else(found);
            }
        }
        Ok(states)
    }

    async fn ended_of(&self, ids: &[JobId]) -> Result<Vec<Ended>, CallError> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let mut searched: Option<Instant> = None;
        loop {
            let mut rung = std::pin::pin!(self.bell.signals.ended.notified());
            rung.as_mut().enable();
            let indexed = self.fields("state", ids.iter().map(ToString::to_string)).await?;
            let ends = self.ends_of(ids).await?;
            let mut ended = Vec::new();
            let mut unknown = Vec::new();
            for ((id, end), state) in ids.iter().zip(ends).zip(indexed) {
                match (end, state) {
                    (Some(end), _) => ended.push(end.ended(id.clone())),
                    (None, Some(_)) => {}
                    (None, None) => unknown.push(id),
                }
            }
            // A job that no index knows leaves no trace when it is done: it is looked for now and then.
            let is_due = searched.is_none_or(|at| at.elapsed() >= LOOK_AGAIN);
            if ended.is_empty() && !unknown.is_empty() && is_due {
                searched = Some(Instant::now());
                ended = self.gone(&unknown).await?;
            }
            if !ended.is_empty() {
                return Ok(ended);
            }
            let _ = timeout(LOOK_AGAIN, rung).await;
        }
    }

    /// Those of the jobs that are nowhere any more, or have ended just now.
    async fn gone(&self, ids: &[&JobId]) -> Result<Vec<Ended>, CallError> {
        let found = self.find(ids).await?;
        let gone: Vec<JobId> =
            ids.iter().filter(|id| !found.contains_key(**id)).map(|id| (*id).clone()).collect();
        let ends = self.ends_of(&gone).await?;
        let ended = gone.into_iter().zip(ends).map(|(id, end)| match end {
            Some(end) => end.ended(id),
            None => Ended { id, state: None, runs: 0, error: None, output: None },
        });
        Ok(ended.collect())
    }

    async fn beats(&self) -> Result<Vec<Beat>, CallError> {
        let (now, _) = self.time().await?;
        let mut command = redis::cmd("ZRANGEBYSCORE");
        command.arg(self.keys.own("beats:at")).arg(format!("({now}")).arg("+inf");
        let alive = self.list(&command).await?;
        let alive: Vec<String> =
            alive.iter().map(|name| String::from_utf8_lossy(name).into_owned()).collect();
        let beats = self.fields("beats", alive.into_iter()).await?;
        Ok(beats.into_iter().flatten().filter_map(|beat| serde_json::from_slice(&beat).ok()).collect())
    }

    /// Redis's clock: milliseconds, and the microseconds beyond.
    async fn time(&self) -> Result<(u64, u64), CallError> {
        let parts = self.list(&redis::cmd("TIME")).await?;
        let number = |at: usize| -> Option<u64> { std::str::from_utf8(parts.get(at)?).ok()?.parse().ok() };
        match (number(0), number(1)) {
            (Some(secs), Some(micros)) => Ok((secs * 1000 + micros / 1000, micros % 1000)),
            _ => Err(CallError::Strange("a time that is none")),
        }
    }
}

/// The id of a job of a batch that came without one: the batch's own token, counted on. That is a UUIDv7, as ids are.
fn id_in_batch(token: u128, place: usize) -> JobId {
    // The version, the variant and all that stands before them stay.
    const COUNTED: u128 = (1 << 62) - 1;
    let low = (token & COUNTED).wrapping_add(place as u128) & COUNTED;
    let digits = format!("{:032x}", token & !COUNTED | low);
    let mut text = String::with_capacity(36);
    for (from, to) in [(0, 8), (8, 12), (12, 16), (16, 20), (20, 32)] {
        if from > 0 {
            text.push('-');
        }
        text.push_str(&digits[from..to]);
    }
    // Such a text is an id always; a new one in its place would only be counted twice.
    text.parse().unwrap_or_default()
}

/// Fixes what is fixed at the first write, and encloses the job; no text for one that is refused.
fn prepare(job: &mut Job, is_indexed: bool, wall: Timestamp) -> (Answer, Option<Vec<u8>>) {
    if let Err(refused) = RedisProvider::CAPABILITIES.admit(job) {
        return (Err(refused), None);
    }
    let id = job.accept(wall).clone();
    let text = enclose(job, is_indexed);
    if text.len() > JOB_BYTES_MAX {
        let message = format!("{} bytes: a job has at most {JOB_BYTES_MAX}", text.len());
        return (Err(Refused::new(RefusedKind::TooLarge, message)), None);
    }
    (Ok(Enqueued { id, existed: false, state: job.initial_state(wall) }), Some(text))
}

/// What the store knows under a job's id decides whether it is the same.
fn judge_known(answer: &mut Answer, job: &Job, known: Vec<u8>) {
    let Ok(enqueued) = answer else { return };
    if known.is_empty() {
        return;
    }
    let is_same = |same: bool, state: State| {
        if same {
            return Ok(Enqueued { id: enqueued.id.clone(), existed: true, state });
        }
        Err(Refused::new(
            RefusedKind::Conflict,
            format!("the id `{}` belongs to another job: leave it out, or choose another", enqueued.id),
        ))
    };
    let text = std::str::from_utf8(&known).ok().and_then(|text| text.split_once(' '));
    if let Some(holder) = text.and_then(|(word, id)| (word == "dup").then(|| id.parse().ok()).flatten()) {
        *answer = Err(Refused::duplicate(holder));
        return;
    }
    *answer = match text.filter(|(of, _)| of.bytes().all(|byte| byte.is_ascii_hexdigit())) {
        Some((of, state)) => is_same(of == digest(job), indexed_state(state)),
        None => match End::read(known.into()) {
            Some(end) => {
                let other = end.envelope.as_ref().and_then(|envelope| envelope.any_job());
                is_same(other.is_none_or(|other| other.same_content(job)), end.state)
            }
            None => is_same(false, State::Ready),
        },
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ids_of_a_batch_are_uuids_in_order() {
        let token = Batch::new(Vec::new()).token;
        let ids: Vec<String> = (0..3).map(|place| id_in_batch(token, place).to_string()).collect();
        assert!(ids.is_sorted() && ids[0] != ids[1]);
        assert_eq!(ids[0].replace('-', ""), format!("{token:032x}"));
        assert_eq!(id_in_batch(u128::MAX, 1).to_string(), "ffffffff-ffff-ffff-c000-000000000000");
    }
}
