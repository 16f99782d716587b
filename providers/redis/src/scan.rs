//! Looking for jobs: where no index leads, the lists are read, a part at a time.
//!
//! Lists are read from their tail, since they are popped from their head: what stays is then seen. A job that moves on
//! while it is looked for is found further on; one that comes back is found by a second look.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use ganger_core::{Job, JobId, JobView, State, Timestamp};
use redis::Value;

use crate::{
    ends::{End, claimed_id, holder, view_of},
    envelope::Envelope,
    error::CallError,
    store::Store,
};

/// So many entries are read at once.
const PART: isize = 500;

/// Where a job was found.
pub(crate) enum Place {
    Waits,
    Due(Timestamp),
    /// Under a lease, `token/index`; or a suspect that waits for its own.
    Leased(String),
}

/// A job that has not ended.
pub(crate) struct Found {
    pub(crate) place: Place,
    /// `None` for bytes that no manager has read yet.
    pub(crate) envelope: Option<Envelope>,
    pub(crate) item: Bytes,
    /// Someone asked for it to be cancelled.
    pub(crate) cancel: bool,
}

impl Found {
    pub(crate) fn id(&self) -> Option<JobId> {
        if let Some(envelope) = &self.envelope {
            return envelope.id.parse().ok();
        }
        self.named().or_else(|| match &self.place {
            Place::Leased(lease) => claimed_id(lease),
            _ => None,
        })
    }

    /// The id that bytes name.
    fn named(&self) -> Option<JobId> {
        let names = self.item.windows(4).any(|window| window.eq_ignore_ascii_case(b"\"id\""));
        if names { Job::from_json(&self.item).ok()?.id } else { None }
    }

    pub(crate) fn state(&self) -> State {
        match &self.place {
            Place::Due(_) => State::Scheduled,
            Place::Leased(lease) if !lease.starts_with('s') => State::Running,
            Place::Waits | Place::Leased(_) => State::Ready,
        }
    }

    /// Its place, as `lua/order.lua` is told it.
    pub(crate) fn place_text(&self) -> String {
        match &self.place {
            Place::Waits => "w".into(),
            Place::Due(_) => "d".into(),
            Place::Leased(lease) => format!("R {lease}"),
        }
    }

    pub(crate) fn view(&self, id: JobId) -> JobView {
        let state = self.state();
        let mut view = view_of(id, self.envelope.as_ref(), state);
        if self.envelope.is_none() {
            match Job::from_json(&self.item) {
                Ok(job) => view.job = Some(job),
                Err(_) => view.raw = Some(self.item.to_vec()),
            }
        }
        if let Place::Due(at) = &self.place {
            view.run_at = Some(*at);
        }
        if let (State::Running, Place::Leased(lease)) = (state, &self.place) {
            view.holder = holder(lease);
        }
        view.cancel = self.cancel;
        view
    }
}

impl Store {
    /// Shows every job that has not ended to `visit`, until it says that it has seen enough.
    pub(crate) async fn scan(&self, visit: &mut (dyn FnMut(Found) -> bool + Send)) -> Result<(), CallError> {
        let marks = self.names("HKEYS", "marks").await?;
        // What is marked has ended, though its entry is there still; one entry for each mark.
        let mut marks: HashSet<String> = marks.into_iter().collect();
        let mut unmarked = |found: Found| {
            let marked = !marks.is_empty() && found.id().is_some_and(|id| marks.remove(&id.to_string()));
            marked || visit(found)
        };
        for kind in self.names("SMEMBERS", "types").await? {
            if !self.scan_list(&self.keys.own(&format!("lane:{kind}")), true, &mut unmarked).await? {
                return Ok(());
            }
        }
        if !self.scan_list(&self.keys.own("lane:"), true, &mut unmarked).await? {
            return Ok(());
        }
        for list in &self.keys.lists {
            if !self.scan_list(list, false, &mut unmarked).await? {
                return Ok(());
            }
        }
        if !self.scan_overflow(&mut unmarked).await? {
            return Ok(());
        }
        if self.scan_due(visit).await? {
            self.scan_leased(visit).await?;
        }
        Ok(())
    }

    async fn scan_list(
        &self,
        key: &str,
        enveloped: bool,
        visit: &mut (dyn FnMut(Found) -> bool + Send),
    ) -> Result<bool, CallError> {
        let mut last = -1;
        loop {
            let first = last - PART + 1;
            let items = self.list(redis::cmd("LRANGE").arg(key).arg(first).arg(last)).await?;
            if items.is_empty() {
                return Ok(true);
            }
            for item in items.into_iter().rev() {
                let envelope = if enveloped { Envelope::read(&item) } else { None };
                if !visit(Found { place: Place::Waits, envelope, item, cancel: false }) {
                    return Ok(false);
                }
            }
            last = first - 1;
        }
    }

    async fn scan_due(&self, visit: &mut (dyn FnMut(Found) -> bool + Send)) -> Result<bool, CallError> {
        let mut from = 0;
        loop {
            let mut command = redis::cmd("ZREVRANGE");
            command.arg(self.keys.own("due")).arg(from).arg(from + PART - 1).arg("WITHSCORES");
            let pairs = self.list(&command).await?;
            if pairs.is_empty() {
                return Ok(true);
            }
            for pair in pairs.chunks_exact(2) {
                let score = std::str::from_utf8(&pair[1]).ok().and_then(|score| score.parse::<f64>().ok());
                let place = Place::Due(Timestamp::from_millis(score.unwrap_or(0.0) as i64));
                let (item, envelope) = (pair[0].clone(), Envelope::read(&pair[0]));
                if !visit(Found { place, envelope, item, cancel: false }) {
                    return Ok(false);
                }
            }
            from += PART;
        }
    }

    /// Shows every job under a lease.
    pub(crate) async fn scan_leased(
        &self,
        visit: &mut (dyn FnMut(Found) -> bool + Send),
    ) -> Result<(), CallError> {
        let cancels: HashSet<String> = self.names("HKEYS", "cancel").await?.into_iter().collect();
        let mut claims = self.pairs("claims", 20).await?;
        let heads: Vec<String> = claims.keys().filter(|name| !name.ends_with(['i', 'u'])).cloned().collect();
        for token in heads {
            let Some(head) = claims.get(&token).and_then(Head::read) else { continue };
            let packed = claims.remove(&format!("{token}i")).unwrap_or_default();
            for (index, range) in crate::pack::texts(&packed).unwrap_or_default() {
                if !crate::bits::has(&head.bits, index) {
                    continue;
                }
                let item = packed.slice(range);
                let envelope = if index < head.envelopes { Envelope::read(&item) } else { None };
                let lease = format!("{token}/{index}");
                let cancel = cancels.contains(&lease);
                if !visit(Found { place: Place::Leased(lease), envelope, item, cancel }) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Looks for jobs by their ids. A job that was under way when it was looked for is looked for once more.
    pub(crate) async fn find(&self, ids: &[&JobId]) -> Result<HashMap<JobId, Found>, CallError> {
        let mut found = HashMap::new();
        for _ in 0..2 {
            let mut missing: HashSet<&JobId> =
                ids.iter().copied().filter(|id| !found.contains_key(*id)).collect();
            if missing.is_empty() {
                break;
            }
            let mut look = |one: Found| {
                if let Some(id) = one.id().filter(|id| missing.remove(id)) {
                    found.insert(id, one);
                }
                !missing.is_empty()
            };
            self.scan(&mut look).await?;
        }
        Ok(found)
    }

    /// Shows the end of every job that has one on record.
    pub(crate) async fn scan_ends(
        &self,
        visit: &mut (dyn FnMut(JobId, End) + Send),
    ) -> Result<(), CallError> {
        for (id, record) in self.pairs("ends", 200).await? {
            if let (Ok(id), Some(end)) = (id.parse(), End::read(record)) {
                visit(id, end);
            }
        }
        Ok(())
    }

    /// All fields of a hash with their values, read in parts.
    pub(crate) async fn pairs(&self, hash: &str, part: usize) -> Result<HashMap<String, Bytes>, CallError> {
        let (mut cursor, mut pairs) = ("0".to_owned(), HashMap::new());
        loop {
            let mut command = redis::cmd("HSCAN");
            command.arg(self.keys.own(hash)).arg(&cursor).arg("COUNT").arg(part);
            let (next, values) = self.scan_step(&command).await?;
            let mut values = values.into_iter();
            while let (Some(name), Some(value)) = (values.next(), values.next()) {
                pairs.insert(String::from_utf8_lossy(&name).into_owned(), value);
            }
            cursor = next;
            if cursor == "0" {
                return Ok(pairs);
            }
        }
    }

    /// A step of a scan: where the next one begins, `0` after the last, and what this one found.
    pub(crate) async fn scan_step(&self, command: &redis::Cmd) -> Result<(String, Vec<Bytes>), CallError> {
        let Value::Array(answer) = self.side.call(command).await? else {
            return Err(CallError::Strange("a scan that is no list"));
        };
        match <[Value; 2]>::try_from(answer) {
            Ok([Value::BulkString(next), Value::Array(values)]) => {
                let next = String::from_utf8_lossy(&next).into_owned();
                Ok((next, values.into_iter().filter_map(bytes_of).collect()))
            }
            _ => Err(CallError::Strange("the form of a scan")),
        }
    }

    async fn names(&self, command: &str, key: &str) -> Result<Vec<String>, CallError> {
        let names = self.list(redis::cmd(command).arg(self.keys.own(key))).await?;
        Ok(names.into_iter().map(|name| String::from_utf8_lossy(&name).into_owned()).collect())
    }

    pub(crate) async fn list(&self, command: &redis::Cmd) -> Result<Vec<Bytes>, CallError> {
        match self.side.call(command).await? {
            Value::Array(values) | Value::Set(values) => {
                Ok(values.into_iter().filter_map(bytes_of).collect())
            }
            _ => Err(CallError::Strange("something else than a list")),
        }
    }
}

fn bytes_of(value: Value) -> Option<Bytes> {
    match value {
        Value::BulkString(bytes) => Some(bytes.into()),
        _ => None,
    }
}

/// The head of a claim, and which of its items are open; see `lua/claims.lua`.
struct Head {
    envelopes: u32,
    bits: Bytes,
}

impl Head {
    fn read(bytes: &Bytes) -> Option<Head> {
        let envelopes = u32::from_le_bytes(bytes.get(..4)?.try_into().ok()?);
        (bytes.len() >= 17).then(|| Head { envelopes, bits: bytes.slice(17..) })
    }
}
