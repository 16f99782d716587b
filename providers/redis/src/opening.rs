//! What is looked at when a store is opened.

use std::sync::{Arc, atomic::Ordering};

use ganger_core::ProviderError;
use redis::{Cmd, Value};

use crate::{error::CallError, script::FORMAT, store::Store};

/// The oldest Redis that has what the scripts use (`LPOP` with a count, `BLMOVE`).
const OLDEST: (u32, u32) = (6, 2);
/// The oldest Redis that tells when what was written is on its disk (`WAITAOF`).
const TELLS_SYNCED: (u32, u32) = (7, 2);

impl Store {
    /// Refuses a server or a store that cannot be used.
    pub(crate) async fn check_opening(&self) -> Result<(), ProviderError> {
        let at = |error| self.error("opening", error);
        let info = self.text(redis::cmd("INFO").arg("server")).await.map_err(at)?;
        let version = field(&info, "redis_version").unwrap_or_default();
        if is_older(version, OLDEST) {
            return Err(ProviderError::fatal(format!(
                "redis at {}: it is Redis {version}, and ganger needs {}.{} or newer",
                self.server.name, OLDEST.0, OLDEST.1
            )));
        }
        self.check_syncing(version).await?;
        let oldest =
            self.text(redis::cmd("HGET").arg(self.keys.own("meta")).arg("oldest")).await.map_err(at)?;
        if oldest.parse::<u32>().is_ok_and(|oldest| oldest > FORMAT) {
            return Err(ProviderError::refused(format!(
                "redis at {}: the jobs of list `{}` are of format {oldest}, and this version of ganger reads {FORMAT} \
                 at most: use a newer one",
                self.server.name, self.keys.lists[0]
            )));
        }
        Ok(())
    }

    /// Refuses a server that cannot tell when something is on its disk, where that is asked for.
    async fn check_syncing(&self, version: &str) -> Result<(), ProviderError> {
        if !self.holders.synced {
            return Ok(());
        }
        let refused = |why: String| {
            Err(ProviderError::fatal(format!("redis at {}: option `synced`: {why}", self.server.name)))
        };
        if is_older(version, TELLS_SYNCED) {
            return refused(format!(
                "it is Redis {version}, and only {}.{} or newer tells when a job is on its disk: leave the option out, \
                 and set `appendfsync always` there",
                TELLS_SYNCED.0, TELLS_SYNCED.1
            ));
        }
        let persistence = self.text(redis::cmd("INFO").arg("persistence")).await;
        let persistence = persistence.map_err(|error| self.error("opening", error))?;
        if field(&persistence, "aof_enabled") == Some("0") {
            return refused("it keeps no log of what is written: set `appendonly yes` there".into());
        }
        Ok(())
    }

    /// Warns of settings that lose jobs, once.
    pub(crate) fn warn_once(self: &Arc<Self>) {
        if self.warned.swap(true, Ordering::AcqRel) {
            return;
        }
        let store = self.clone();
        self.server.handle().spawn(async move {
            for warning in store.settings_that_lose().await {
                tracing::warn!(server = %store.server.name, "{warning}");
            }
        });
    }

    /// What of the server's settings may lose jobs, in words; nothing where that cannot be read.
    pub(crate) async fn settings_that_lose(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        let memory = self.text(redis::cmd("INFO").arg("memory")).await.unwrap_or_default();
        let policy = field(&memory, "maxmemory_policy").unwrap_or("noeviction");
        if policy != "noeviction" {
            warnings.push(format!(
                "maxmemory-policy is `{policy}`: when memory runs short Redis deletes jobs; set it to `noeviction`"
            ));
        }
        let persistence = self.text(redis::cmd("INFO").arg("persistence")).await.unwrap_or_default();
        if field(&persistence, "aof_enabled") == Some("0") {
            let saves = self.setting("save").await;
            warnings.push(match saves.as_deref() {
                Some("") => "persistence is off: a restart of Redis loses all jobs; set `appendonly yes`".to_owned(),
                _ => "only snapshots are on: a crash of Redis loses what came since the last one; set `appendonly yes`"
                    .to_owned(),
            });
        }
        warnings
    }

    /// A setting of the server; `None` where that cannot be read.
    async fn setting(&self, name: &str) -> Option<String> {
        match self.side.call(redis::cmd("CONFIG").arg("GET").arg(name)).await {
            Ok(Value::Array(pair)) => pair.get(1).map(text_of),
            _ => None,
        }
    }

    /// A call that answers a text, or nothing.
    pub(crate) async fn text(&self, command: &Cmd) -> Result<String, CallError> {
        self.side.call(command).await.map(|value| text_of(&value))
    }
}

/// A value as a text; empty where it is none.
pub(crate) fn text_of(value: &Value) -> String {
    match value {
        Value::BulkString(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Value::SimpleString(text) => text.clone(),
        Value::VerbatimString { text, .. } => text.clone(),
        Value::Int(number) => number.to_string(),
        _ => String::new(),
    }
}

/// A field of what `INFO` tells.
pub(crate) fn field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

fn is_older(version: &str, than: (u32, u32)) -> bool {
    let mut parts = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    let version = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    version != (0, 0) && version < than
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_server_is_told_from_a_new_one() {
        for (version, older) in
            [("6.0.16", true), ("5.0.3", true), ("6.2.0", false), ("7.0.15", false), ("", false)]
        {
            assert_eq!(is_older(version, OLDEST), older, "{version}");
        }
        assert_eq!(field("# Server\r\nredis_version:7.0.15\r\n", "redis_version"), Some("7.0.15"));
    }
}
