//! An exchange, put into arguments and read out of an answer.

use std::sync::Arc;

use bytes::Bytes;
use ganger_core::{
    Attempt, Entry, Exchange, Exchanged, FirstClaim, Job, LeaseRef, Leased, Output, Record, Settlement,
    Spend, State, Timestamp, Unique, Verdict,
};
use redis::Value;
use serde::{Deserialize, Serialize};

use crate::{
    bits::{self, ByToken},
    envelope::{Envelope, enclose, lease_ref_of},
    error::CallError,
    pack,
    script::{Call, EXCHANGE},
    store::Store,
    unique::{Keyed, states_sum},
};

impl Store {
    /// One exchange.
    pub(crate) async fn exchange(&self, give: &Exchange) -> Result<Exchanged, CallError> {
        let answer = self.exchange_call(give, false).send(&self.work).await?;
        self.keeps.forget(give.settle.iter().map(|one| one.lease));
        self.read(give, answer).await
    }

    /// Reads an exchange's answer.
    async fn read(&self, give: &Exchange, answer: Value) -> Result<Exchanged, CallError> {
        let (mut exchanged, keyed) = self.read_answer(give, answer)?;
        self.mark_duplicates(give.token, keyed, &mut exchanged.leased).await?;
        Ok(exchanged)
    }

    /// One exchange that the server makes itself when a list has an entry; `None` when an exchange may find work.
    pub(crate) async fn exchange_later(&self, give: &Exchange) -> Result<Option<Exchanged>, CallError> {
        let call = Arc::new(self.exchange_call(give, true));
        match self.await_work(&give.room, Some(call)).await? {
            Some(answer) => self.read(give, answer).await.map(Some),
            None => Ok(None),
        }
    }

    /// An exchange's call; behind a wait it takes no suspect.
    fn exchange_call(&self, give: &Exchange, waits: bool) -> Call {
        let mut call = self.script_on_lists(&EXCHANGE);
        let room = &give.room;
        call.arg(&self.manager)
            .arg(give.token.to_string())
            .arg(give.token.seq)
            .arg(millis(give.lease))
            .arg(room.jobs)
            .arg(room.bytes)
            .arg(u8::from(room.suspect && !waits))
            .arg(u8::from(room.crashed && !waits))
            .arg(u8::from(waits));
        let types = || room.types.iter().filter(|of| of.jobs > 0);
        call.arg(types().count());
        for of in types() {
            call.arg(of.kind.as_str()).arg(of.jobs);
        }
        let mut done = ByToken::default();
        let mut others = Vec::new();
        for settlement in &give.settle {
            let keep = self.keeps.of(settlement.lease);
            if settlement.verdict == Verdict::Done
                && settlement.more.is_none()
                && settlement.spend == Spend::Nothing
                && keep == 0
            {
                done.add(settlement.lease);
            } else {
                others.push((settlement, keep));
            }
        }
        call.arg(done.sets.len());
        for (token, bits) in &done.sets {
            call.arg(token.to_string()).arg(&bits[..]);
        }
        call.arg(others.len());
        for (settlement, keep) in others {
            self.add_settlement(&mut call, settlement, keep);
        }
        call
    }

    fn add_settlement(&self, call: &mut Call, settlement: &Settlement, keep: u64) {
        let duplicate;
        let (verdict, at, reason) = match &settlement.verdict {
            Verdict::Done => ("done", None, ""),
            Verdict::Retry { at } | Verdict::Park { until: Some(at) } => ("at", Some(*at), ""),
            Verdict::Dead { reason } => ("dead", None, reason.as_str()),
            Verdict::Release => ("release", None, ""),
            Verdict::Park { until: None } => ("park", None, ""),
            Verdict::Cancelled => ("cancelled", None, ""),
            Verdict::Duplicate { of } => {
                duplicate = Unique::duplicate_of(of);
                ("cancelled", None, duplicate.as_str())
            }
            Verdict::Expired => ("expired", None, ""),
        };
        let spend = match settlement.spend {
            Spend::Nothing => "",
            Spend::Retry => "r",
            Spend::Crash => "c",
        };
        let more = settlement.more.as_deref();
        let run = more.and_then(|more| more.attempt.as_ref()).map_or_else(String::new, line_of);
        let output = more.and_then(|more| more.output.as_ref()).map_or_else(Vec::new, output_bytes);
        let handled = more.and_then(|more| more.handled.as_ref());
        let follow = more.map_or(&[][..], |more| &more.follow);
        let LeaseRef { token, index } = settlement.lease;
        call.arg(token.to_string())
            .arg(index)
            .arg(verdict)
            .arg(at.map_or(0, Timestamp::as_millis))
            .arg(reason)
            .arg(spend)
            .arg(run)
            .arg(more.and_then(|more| more.kind.as_deref()).unwrap_or_default())
            .arg(output)
            .arg(keep)
            .arg(handled.map_or_else(String::new, |handled| handled.job.to_string()))
            .arg(
                handled
                    .map_or_else(String::new, |handled| serde_json::to_string(handled).unwrap_or_default()),
            )
            .arg(follow.len());
        for job in follow {
            let mut job: Job = job.clone();
            let wall = self.clock.wall();
            job.accept(wall);
            let due = job.run_at.filter(|_| job.initial_state(wall) == State::Scheduled);
            let unique = job.rare().unique.clone();
            call.arg(job.kind.as_str())
                .arg(due.map_or(0, Timestamp::as_millis))
                .arg(enclose(&mut job, unique.is_some()));
            match unique {
                Some(unique) => call.arg(states_sum(&unique)).arg(unique.key),
                None => call.arg("").arg(""),
            };
        }
    }

    fn read_answer(&self, give: &Exchange, answer: Value) -> Result<(Exchanged, Vec<Keyed>), CallError> {
        let strange = || CallError::Strange("the form of an exchange's answer");
        let Value::Array(fields) = answer else { return Err(strange()) };
        let Ok([stale, more, envelopes, at, open, packed]) = <[Value; 6]>::try_from(fields) else {
            return Err(strange());
        };
        let (Value::Array(stale), Value::Int(more), Value::Int(envelopes)) = (stale, more, envelopes) else {
            return Err(strange());
        };
        let (Value::BulkString(at), Value::BulkString(open), Value::BulkString(packed)) = (at, open, packed)
        else {
            return Err(strange());
        };
        let at = std::str::from_utf8(&at).ok().and_then(|at| at.parse().ok()).ok_or_else(strange)?;
        let stale = stale
            .into_iter()
            .map(|one| match one {
                Value::BulkString(text) => lease_ref_of(&text),
                _ => Err(strange()),
            })
            .collect::<Result<Vec<_>, _>>()?;
        let claim =
            Claim { give, envelopes: u32::try_from(envelopes).unwrap_or(0), at: Timestamp::from_millis(at) };
        let (leased, keyed) = self.read_claim(&claim, &open, Bytes::from(packed))?;
        Ok((Exchanged { stale, leased, more: more == 1 }, keyed))
    }

    /// What was leased, and those of it that want a unique key.
    fn read_claim(
        &self,
        claim: &Claim<'_>,
        open: &[u8],
        packed: Bytes,
    ) -> Result<(Vec<Leased>, Vec<Keyed>), CallError> {
        if packed.is_empty() {
            return Ok((Vec::new(), Vec::new()));
        }
        let mut keyed = Vec::new();
        let items = pack::texts(&packed).ok_or(CallError::Strange("a claim that is not packed as one"))?;
        let mut leased = Vec::with_capacity(items.len());
        for (index, range) in items {
            if !bits::has(open, index) {
                continue;
            }
            let bytes = packed.slice(range);
            let lease = LeaseRef { token: claim.give.token, index };
            let envelope = if index < claim.envelopes { Envelope::read(&bytes) } else { None };
            leased.push(match envelope {
                Some(mut envelope) => {
                    let record = envelope.record(lease, claim.at);
                    if !envelope.is_job {
                        self.keeps.note(lease, &envelope.body);
                        keyed.extend(Keyed::look(leased.len(), &envelope.body, Some(&envelope)));
                    }
                    let entry = envelope.entry();
                    Leased { index, entry, record }
                }
                None => {
                    self.keeps.note(lease, &bytes);
                    keyed.extend(Keyed::look(leased.len(), &bytes, None));
                    let first = Some(FirstClaim { lease, at: claim.at });
                    Leased { index, entry: Entry::Raw(bytes), record: Record { first, ..Record::default() } }
                }
            });
        }
        if leased.len() == 1 {
            self.lone.note(claim.give.token);
        }
        Ok((leased, keyed))
    }
}

/// Whether an exchange's answer has leased something.
pub(crate) fn is_claim(answer: &Value) -> bool {
    matches!(answer, Value::Array(fields) if matches!(fields.last(), Some(Value::BulkString(packed)) if !packed.is_empty()))
}

/// A claim that is being read.
struct Claim<'a> {
    give: &'a Exchange,
    /// So many of its items, the first ones, are in envelopes.
    envelopes: u32,
    at: Timestamp,
}

/// A span in whole milliseconds, at least 1.
pub(crate) fn millis(span: std::time::Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX).max(1)
}

/// A run on one line.
fn line_of(attempt: &Attempt) -> String {
    serde_json::to_string(attempt).unwrap_or_default()
}

/// What is kept beside an output's bytes.
#[derive(Serialize, Deserialize)]
struct OutputHead {
    cut: u64,
    cut_at: usize,
    content_type: Option<String>,
}

/// An output: a line of JSON, then its bytes.
fn output_bytes(output: &Output) -> Vec<u8> {
    let head =
        OutputHead { cut: output.cut, cut_at: output.cut_at, content_type: output.content_type.clone() };
    let mut bytes = serde_json::to_vec(&head).unwrap_or_default();
    bytes.push(b'\n');
    bytes.extend_from_slice(&output.bytes);
    bytes
}

/// The output that [`output_bytes`] wrote.
pub(crate) fn output_of(bytes: &[u8]) -> Option<Output> {
    let at = bytes.iter().position(|byte| *byte == b'\n')?;
    let head: OutputHead = serde_json::from_slice(&bytes[..at]).ok()?;
    let OutputHead { cut, cut_at, content_type } = head;
    Some(Output { bytes: bytes[at + 1..].to_vec(), cut, cut_at, content_type })
}
