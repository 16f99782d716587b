//! Jobs as they stand in lists of ganger's own: see `lua/head.lua`.

use std::fmt::Write;

use bytes::Bytes;
use ganger_core::{Attempt, Entry, FirstClaim, Job, JobId, LeaseRef, Malformed, Record, Timestamp, Token};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::error::CallError;

/// What of a job is not on the wire.
#[derive(Default, Serialize, Deserialize)]
struct Extra {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    via: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    input: Option<Box<RawValue>>,
}

/// A job's envelope, nothing spent. Its id and when it was created stand in the head alone; `job` is left as it is.
pub(crate) fn enclose(job: &mut Job, indexed: bool) -> Vec<u8> {
    let (id, created) = (job.id.take(), job.created_at.take());
    let rare = job.rare();
    let mut head = String::with_capacity(job.weight() + 200);
    head.push_str(if indexed { "E\tJ\t0\t0\t0\t" } else { "e\tJ\t0\t0\t0\t" });
    head.push_str(&job.kind);
    head.push('\t');
    head.push_str(job.queue.as_deref().unwrap_or_default());
    head.push('\t');
    // Writing into a text cannot fail.
    if let Some(id) = &id {
        let _ = write!(head, "{id}");
    }
    head.push('\t');
    if let Some(created) = created {
        let _ = write!(head, "{}", created.as_millis());
    }
    let keep = rare.keep.map_or(0, |keep| keep.as_millis());
    let _ = write!(head, "\t{keep}\t");
    if rare.via.is_some() || rare.input.is_some() {
        let extra = Extra { via: rare.via.as_ref().map(ToString::to_string), input: rare.input.clone() };
        // JSON in one line: what is on the lines of an envelope has no line break in it.
        head.push_str(&serde_json::to_string(&extra).unwrap_or_default().replace('\n', " "));
    }
    head.push_str("\n\n");
    let mut text = head.into_bytes();
    serde_json::to_writer(&mut text, &*job)
        .expect("a job's fields are texts, numbers and JSON that was read as such");
    (job.id, job.created_at) = (id, created);
    text
}

/// An envelope, taken apart.
pub(crate) struct Envelope {
    pub(crate) indexed: bool,
    pub(crate) is_job: bool,
    spent: u32,
    crashes: u32,
    suspect: bool,
    pub(crate) kind: String,
    pub(crate) queue: String,
    pub(crate) id: String,
    first: Option<FirstClaim>,
    created: Option<Timestamp>,
    pub(crate) keep: u64,
    extra: Option<Extra>,
    attempts: Vec<Attempt>,
    pub(crate) body: Bytes,
}

impl Envelope {
    /// Reads an envelope; `None` where the bytes are none.
    pub(crate) fn read(bytes: &Bytes) -> Option<Envelope> {
        let stop = memchr::memmem::find(bytes, b"\n\n")?;
        let head = std::str::from_utf8(&bytes[..stop]).ok()?;
        let mut lines = head.split('\n');
        let mut fields = lines.next()?.split('\t');
        let mut next = || fields.next();
        let indexed = next()? == "E";
        let is_job = next()? == "J";
        let (spent, crashes) = (next()?.parse().ok()?, next()?.parse().ok()?);
        let suspect = next()? == "1";
        let (kind, queue, id) = (next()?.to_owned(), next()?.to_owned(), next()?.to_owned());
        let first_or_created = next()?;
        let first = first_claim(first_or_created);
        let created = first_or_created.parse().ok().map(Timestamp::from_millis);
        let keep = next()?.parse().ok()?;
        let extra = next()?;
        let extra = if extra.is_empty() { None } else { serde_json::from_str(extra).ok() };
        let attempts = lines.filter_map(|line| serde_json::from_str(line).ok()).collect();
        let body = bytes.slice(stop + 2..);
        Some(Envelope {
            indexed,
            is_job,
            spent,
            crashes,
            suspect,
            kind,
            queue,
            id,
            first,
            created,
            keep,
            extra,
            attempts,
            body,
        })
    }

    /// What happened to the job; `lease` is its claim now, at `at`.
    pub(crate) fn record(&mut self, lease: LeaseRef, at: Timestamp) -> Record {
        let first = (!self.is_job).then(|| self.first.unwrap_or(FirstClaim { lease, at }));
        Record {
            spent: self.spent,
            crashes: self.crashes,
            suspect: self.suspect,
            cancel: false,
            duplicate_of: None,
            attempts: std::mem::take(&mut self.attempts),
            first,
        }
    }

    /// The job or the bytes.
    pub(crate) fn entry(self) -> Entry {
        match self.job() {
            None => Entry::Raw(self.body),
            Some(Ok(job)) => Entry::Job(job),
            Some(Err(fault)) => Entry::Malformed(fault),
        }
    }

    /// The job; `None` for a producer's bytes.
    fn job(&self) -> Option<Result<Job, Malformed>> {
        if !self.is_job {
            return None;
        }
        let mut job = match Job::from_json(&self.body) {
            Ok(job) => job,
            Err(fault) => return Some(Err(fault)),
        };
        job.id = job.id.or_else(|| self.id.parse().ok());
        job.created_at = job.created_at.or(self.created);
        if let Some(Extra { via, input }) = &self.extra {
            let rare = job.rare_mut();
            rare.via = via.as_deref().map(Into::into);
            rare.input = input.clone();
        }
        Some(Ok(job))
    }

    /// The job, also of a producer's bytes, with the id and times of their first claim; `None` where they are no job.
    pub(crate) fn any_job(&self) -> Option<Job> {
        match self.job() {
            Some(job) => job.ok(),
            None => {
                let mut job = Job::from_json(&self.body).ok()?;
                if let Some(first) = self.first {
                    job.id.get_or_insert_with(|| JobId::claimed(first.lease));
                    job.accept(first.at);
                }
                Some(job)
            }
        }
    }

    pub(crate) fn figures(&self) -> (u32, u32) {
        (self.spent, self.crashes)
    }

    pub(crate) fn attempts(&self) -> &[Attempt] {
        &self.attempts
    }

    /// The envelope again with its budgets restored; an `expires_at` that is past is dropped.
    pub(crate) fn renewed(&self, now: Timestamp) -> Option<Vec<u8>> {
        if let Some(job) = self.job() {
            let mut job = job.ok()?;
            if job.expires_at.is_some_and(|at| at <= now) {
                job.expires_at = None;
            }
            return Some(enclose(&mut job, self.indexed));
        }
        let first = self.first.map_or_else(String::new, |first| {
            format!("{}/{}/{}", first.lease.token, first.lease.index, first.at.as_millis())
        });
        let Envelope { kind, queue, id, keep, .. } = self;
        let mark = if self.indexed { 'E' } else { 'e' };
        let head = format!("{mark}\tR\t0\t0\t0\t{kind}\t{queue}\t{id}\t{first}\t{keep}\t\n\n");
        Some([head.as_bytes(), &self.body].concat())
    }
}

/// The item that waits for its time, as one that waits for nothing: a producer's bytes name their time themselves, and who
/// claims them would let them wait again.
pub(crate) fn without_time(item: &Bytes) -> Bytes {
    let Some(envelope) = Envelope::read(item).filter(|envelope| !envelope.is_job) else {
        return item.clone();
    };
    let Ok(mut job) = Job::from_json(&envelope.body) else { return item.clone() };
    job.run_at = None;
    job.rare_mut().delay = None;
    let head = &item[..item.len() - envelope.body.len()];
    [head, job.to_json().as_bytes()].concat().into()
}

/// The first claim of a producer's bytes, as `token/index/milliseconds`.
fn first_claim(text: &str) -> Option<FirstClaim> {
    let (lease, at) = text.rsplit_once('/')?;
    Some(FirstClaim { lease: lease_ref(lease)?, at: Timestamp::from_millis(at.parse().ok()?) })
}

/// A lease as `token/index`.
pub(crate) fn lease_ref(text: &str) -> Option<LeaseRef> {
    let (token, index) = text.rsplit_once('/')?;
    Some(LeaseRef { token: token.parse::<Token>().ok()?, index: index.parse().ok()? })
}

/// The same, of an answer.
pub(crate) fn lease_ref_of(bytes: &[u8]) -> Result<LeaseRef, CallError> {
    std::str::from_utf8(bytes).ok().and_then(lease_ref).ok_or(CallError::Strange("a lease that is none"))
}

/// A digest of what makes two jobs of one id the same job; see [`Job::same_content`].
pub(crate) fn digest(job: &Job) -> String {
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    let mut add = |text: &str| {
        for byte in text.bytes().chain([0]) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    };
    let params = job.params_text();
    add(&job.kind);
    add(params);
    add(job.queue());
    add(job.name.as_deref().unwrap_or_default());
    add(&format!("{:?} {}", job.retries, job.priority));
    format!("{hash:016x}{:x}", params.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease() -> LeaseRef {
        LeaseRef { token: Token { incarnation: 7, seq: 3 }, index: 2 }
    }

    #[test]
    fn a_job_comes_out_as_it_went_in() {
        let text =
            r#"{"id":"a","type":"t","params":{"x":[1, 2]},"queue":"q","keep":"1m","headers":{"k":"v"}}"#;
        let mut job = Job::from_json(text.as_bytes()).unwrap();
        job.created_at = Some(Timestamp::from_millis(1_700_000_000_123));
        job.rare_mut().via = Some("http".into());
        job.rare_mut().input = Some(RawValue::from_string("{\"a\":\n1}".into()).unwrap());
        let mut envelope = Envelope::read(&Bytes::from(enclose(&mut job, true))).unwrap();
        assert!(envelope.indexed);
        assert_eq!((envelope.kind.as_str(), envelope.id.as_str(), envelope.keep), ("t", "a", 60_000));
        assert_eq!(envelope.record(lease(), Timestamp::from_millis(5)), Record::default());
        let Entry::Job(again) = envelope.entry() else { panic!("it is a job") };
        assert_eq!((again.to_json(), again.rare().via.as_deref()), (job.to_json(), Some("http")));
        assert_eq!(again.rare().input.as_ref().unwrap().get(), "{\"a\": 1}");
    }

    #[test]
    fn a_producers_bytes_keep_their_first_claim() {
        let raw = Bytes::from("e\tR\t1\t2\t1\tt\t\tc-x\t0000000000000007-3/2/99\t0\t\n{}\n\nraw\n\nbytes");
        let mut envelope = Envelope::read(&raw).unwrap();
        let record = envelope.record(LeaseRef { index: 9, ..lease() }, Timestamp::from_millis(5));
        assert_eq!(record.first, Some(FirstClaim { lease: lease(), at: Timestamp::from_millis(99) }));
        assert_eq!((record.spent, record.crashes, record.suspect), (1, 2, true));
        assert!(matches!(envelope.entry(), Entry::Raw(bytes) if bytes == "raw\n\nbytes"));
    }

    #[test]
    fn bytes_that_are_to_run_now_name_no_time_any_more() {
        let head = "e\tR\t1\t2\t1\tt\t\tc-x\t0000000000000007-3/2/99\t0\t\n{}\n\n";
        let item = |body: &str| Bytes::from(format!("{head}{body}"));
        for time in [r#""run_at":"2099-01-01T00:00:00Z""#, r#""DELAY":"1h""#] {
            let now = without_time(&item(&format!(r#"{{"type":"t","mine":7,{time}}}"#)));
            let body = now.strip_prefix(head.as_bytes()).unwrap();
            let job = Job::from_json(body).unwrap();
            assert!(job.run_at.is_none() && job.rare().delay.is_none());
            assert!(String::from_utf8_lossy(body).contains(r#""mine":7"#));
        }
        assert_eq!(without_time(&item("no job")), item("no job"));
    }

    #[test]
    fn what_is_no_envelope_is_none() {
        for bytes in ["", "\n\n", "{\"type\":\"t\"}", "e\tJ\tx\t0\t0\t\t\t\t\t0\t\n\n{}"] {
            assert!(Envelope::read(&Bytes::from(bytes)).is_none(), "{bytes:?}");
        }
    }
}
