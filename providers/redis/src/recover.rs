//! Jobs that GoWorker had popped and not finished: it kept them in keys `tmp_job:value:*`.

use std::collections::HashSet;

use ganger_core::Stranded;
use redis::Value;

use crate::{error::CallError, script::RECOVER, store::Store};

/// So many keys Redis looks at in one step of a search, and so many jobs come back in one.
const LOOK: usize = 1000;
const MOVE: usize = 100;

const CAUTION: &str =
    "stop every GoWorker that uses this database first: what one of them still runs would run twice";

impl Store {
    /// Counts GoWorker's interrupted jobs, or brings them back to the front of the first list.
    pub(crate) async fn goworkers_jobs(&self, bring_back: bool) -> Result<Stranded, CallError> {
        let mut found = Stranded { caution: CAUTION.into(), ..Stranded::default() };
        let keys: Vec<String> = self.goworkers_keys().await?.into_iter().collect();
        for keys in keys.chunks(MOVE) {
            let fixed = [&self.keys.prefix, &self.keys.lists[0]];
            let keys: Vec<&str> = fixed.into_iter().chain(keys).map(String::as_str).collect();
            let mut call = RECOVER.on(keys.into_iter());
            call.arg(u8::from(bring_back));
            let Value::Array(counts) = call.send(&self.side).await? else {
                return Err(CallError::Strange("the form of a recovery's answer"));
            };
            if let [Value::Int(free), Value::Int(locked)] = counts[..] {
                found.jobs += u64::try_from(free).unwrap_or(0);
                found.held += u64::try_from(locked).unwrap_or(0);
            }
        }
        Ok(found)
    }

    /// A search that goes on may show a key twice.
    async fn goworkers_keys(&self) -> Result<HashSet<String>, CallError> {
        let (mut cursor, mut keys) = ("0".to_owned(), HashSet::new());
        loop {
            let mut command = redis::cmd("SCAN");
            command.arg(&cursor).arg("MATCH").arg("tmp_job:value:*").arg("COUNT").arg(LOOK);
            command.arg("TYPE").arg("string");
            let (next, part) = self.scan_step(&command).await?;
            keys.extend(part.iter().map(|key| String::from_utf8_lossy(key).into_owned()));
            if next == "0" {
                return Ok(keys);
            }
            cursor = next;
        }
    }
}
