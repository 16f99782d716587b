//! How jobs ended, as the store remembers it.

use bytes::Bytes;
use ganger_core::{Ended, Handled, JobId, JobView, LeaseRef, Output, State, Timestamp, Token};
use redis::Value;

use crate::{
    envelope::Envelope, error::CallError, exchange::output_of, pack, store::Store, unique::states_sum,
};

/// The end of a job.
pub(crate) struct End {
    /// The record as it is stored.
    pub(crate) record: Bytes,
    pub(crate) state: State,
    pub(crate) at: Timestamp,
    reason: Option<String>,
    output: Option<Output>,
    /// Its last run was not worth a record.
    unrecorded: bool,
    /// `None` while its entry still waits to be dropped.
    pub(crate) envelope: Option<Envelope>,
    /// The unique key that it had, and the states in which it holds it, as a number.
    key: Option<(String, String)>,
}

impl End {
    pub(crate) fn read(record: Bytes) -> Option<End> {
        let texts = pack::texts(&record)?;
        let field = |at: usize| texts.get(at).map(|(_, range)| record.slice(range.clone()));
        let text = |at: usize| field(at).and_then(|bytes| String::from_utf8(bytes.to_vec()).ok());
        Some(End {
            state: text(0)?.parse().ok()?,
            at: Timestamp::from_millis(text(1)?.parse().ok()?),
            reason: text(2).filter(|reason| !reason.is_empty()),
            output: field(3).and_then(|bytes| output_of(&bytes)),
            unrecorded: text(4)? == "1",
            envelope: field(5).and_then(|bytes| Envelope::read(&bytes)),
            key: text(6).zip(text(7)),
            record,
        })
    }

    /// The unique key that it takes when it is retried, and the states in which it holds it, as a number; empty if none.
    pub(crate) fn key(&self) -> (String, String) {
        let asked = || {
            let job = self.envelope.as_ref()?.any_job()?;
            let unique = job.rare().unique.as_ref()?;
            Some((unique.key.clone(), states_sum(unique).to_string()))
        };
        self.key.clone().or_else(asked).unwrap_or_default()
    }

    /// What one who waits for the job learns.
    pub(crate) fn ended(self, id: JobId) -> Ended {
        let runs = self.envelope.as_ref().map_or(0, |envelope| {
            let (spent, crashes) = envelope.figures();
            envelope.attempts().last().map_or(0, |run| run.number).max(spent.saturating_add(crashes))
        });
        let last = self.envelope.as_ref().and_then(|envelope| envelope.attempts().last());
        let error = last.and_then(|run| run.error.clone()).or(self.reason);
        Ended {
            id,
            state: Some(self.state),
            runs: runs + u32::from(self.unrecorded),
            error,
            output: self.output,
        }
    }

    pub(crate) fn view(self, id: JobId, handled: Vec<Handled>) -> JobView {
        let mut view = view_of(id, self.envelope.as_ref(), self.state);
        view.reason = self.reason;
        view.ended_at = Some(self.at);
        view.output = self.output;
        view.handled = handled;
        view
    }
}

/// What an envelope tells of its job.
pub(crate) fn view_of(id: JobId, envelope: Option<&Envelope>, state: State) -> JobView {
    let job = envelope.and_then(Envelope::any_job);
    let raw = envelope.filter(|_| job.is_none()).map(|envelope| envelope.body.to_vec());
    let (spent, crashes) = envelope.map_or((0, 0), Envelope::figures);
    JobView {
        id,
        raw,
        state,
        reason: None,
        spent,
        crashes,
        retrying: state == State::Scheduled && spent + crashes > 0,
        cancel: false,
        run_at: job.as_ref().and_then(|job| job.run_at).filter(|_| state == State::Scheduled),
        ended_at: None,
        holder: None,
        attempts: envelope.map_or_else(Vec::new, |envelope| envelope.attempts().to_vec()),
        output: None,
        handled: Vec::new(),
        input: job.as_ref().and_then(|job| job.rare().input.clone()),
        job,
    }
}

/// The lease of `R token/index`, as the index of ids has it.
pub(crate) fn running(state: &str) -> Option<&str> {
    state.strip_prefix("R ")
}

/// The state that the index of ids tells.
pub(crate) fn indexed_state(state: &str) -> State {
    match state {
        "s" => State::Scheduled,
        other if running(other).is_some() => State::Running,
        _ => State::Ready,
    }
}

/// Which manager a lease is of.
pub(crate) fn holder(lease: &str) -> Option<String> {
    let (token, _) = lease.rsplit_once('/')?;
    token.parse::<Token>().ok().map(|token| format!("{:016x}", token.incarnation))
}

/// A lease's id, for bytes that name none themselves.
pub(crate) fn claimed_id(lease: &str) -> Option<JobId> {
    let (token, index) = lease.rsplit_once('/')?;
    Some(JobId::claimed(LeaseRef { token: token.parse().ok()?, index: index.parse().ok()? }))
}

impl Store {
    /// The ends of jobs, in order; `None` for those that have none on record.
    pub(crate) async fn ends_of(&self, ids: &[JobId]) -> Result<Vec<Option<End>>, CallError> {
        let records = self.fields("ends", ids.iter().map(ToString::to_string)).await?;
        Ok(records.into_iter().map(|record| record.and_then(|record| End::read(record.into()))).collect())
    }

    /// How the failure handlers of a job ended.
    pub(crate) async fn handled(&self, id: &JobId) -> Result<Vec<Handled>, CallError> {
        let lines =
            self.fields("handled", [id.to_string()].into_iter()).await?.pop().flatten().unwrap_or_default();
        let lines = lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        Ok(lines.filter_map(|line| serde_json::from_slice(line).ok()).collect())
    }

    /// Fields of a hash of ganger's own, in order.
    pub(crate) async fn fields(
        &self,
        hash: &str,
        names: impl ExactSizeIterator<Item = String>,
    ) -> Result<Vec<Option<Vec<u8>>>, CallError> {
        if names.len() == 0 {
            return Ok(Vec::new());
        }
        let mut command = redis::cmd("HMGET");
        command.arg(self.keys.own(hash));
        for name in names {
            command.arg(name);
        }
        let Value::Array(values) = self.side.call(&command).await? else {
            return Err(CallError::Strange("fields of a hash that are no list"));
        };
        let bytes = |value| match value {
            Value::BulkString(bytes) => Some(bytes),
            _ => None,
        };
        Ok(values.into_iter().map(bytes).collect())
    }
}
