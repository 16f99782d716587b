//! The scripts, each one atomic step at the server.

use std::sync::LazyLock;

use redis::{Cmd, Value};

use crate::{error::CallError, link::Link};

/// The format of what ganger stores in Redis.
pub(crate) const FORMAT: u32 = 1;

/// How long replicas, or a disk, may take.
const HOLDERS_LIMIT_MILLIS: u64 = 2_000;

/// A script, called by the hash of its text.
pub(crate) struct Script {
    text: String,
    sha: String,
}

macro_rules! script {
    ($name:ident, $($part:literal),+) => {
        pub(crate) static $name: LazyLock<Script> =
            LazyLock::new(|| Script::new([$(include_str!(concat!("../lua/", $part))),+].concat()));
    };
}

script!(EXCHANGE, "head.lua", "claims.lua", "unique.lua", "moves.lua", "exchange.lua");
script!(RENEW, "head.lua", "claims.lua", "unique.lua", "moves.lua", "renew.lua");
script!(PEEK, "head.lua", "claims.lua", "unique.lua", "moves.lua", "peek.lua");
script!(ENQUEUE, "head.lua", "claims.lua", "unique.lua", "enqueue.lua");
script!(DUPLICATES, "head.lua", "claims.lua", "unique.lua", "duplicates.lua");
script!(HOLDER, "head.lua", "claims.lua", "unique.lua", "holder.lua");
script!(ORDER, "head.lua", "claims.lua", "unique.lua", "moves.lua", "order.lua");
script!(OVERFLOW, "head.lua", "claims.lua", "unique.lua", "moves.lua", "overflow.lua");
script!(RETRY, "head.lua", "claims.lua", "unique.lua", "moves.lua", "retry.lua");
script!(RECOVER, "head.lua", "recover.lua");

/// A script call, packed once and sent as often as needed.
pub(crate) struct Call {
    script: &'static Script,
    command: Cmd,
}

impl Script {
    fn new(text: String) -> Self {
        let sha = redis::Script::new(&text).get_hash().to_owned();
        Script { text, sha }
    }

    /// A call on these keys; its first argument is the format.
    pub(crate) fn on<'a>(&'static self, keys: impl ExactSizeIterator<Item = &'a str>) -> Call {
        let mut command = redis::cmd("EVALSHA");
        command.arg(&self.sha).arg(keys.len());
        for key in keys {
            command.arg(key);
        }
        command.arg(FORMAT);
        Call { script: self, command }
    }
}

impl Call {
    /// Adds an argument.
    pub(crate) fn arg(&mut self, arg: impl redis::ToRedisArgs) -> &mut Self {
        self.command.arg(arg);
        self
    }

    /// Calls it; a server that does not know the script (any more) is told it first.
    pub(crate) async fn send(&self, link: &Link) -> Result<Value, CallError> {
        match link.call(&self.command).await {
            Err(error) if error.is_no_script() => {
                link.call(redis::cmd("SCRIPT").arg("LOAD").arg(&self.script.text)).await?;
                link.call(&self.command).await
            }
            answer => answer,
        }
    }

    /// Has it called as soon as `first`, which may block, has its answer: both answers.
    pub(crate) async fn send_behind(&self, first: &Cmd, link: &Link) -> Result<(Value, Value), CallError> {
        let both = link.call_both(first, &self.command).await;
        if both.as_ref().is_err_and(CallError::is_no_script) {
            link.call(redis::cmd("SCRIPT").arg("LOAD").arg(&self.script.text)).await?;
        }
        both
    }

    /// Calls it, and waits until those who must have what it wrote have it.
    pub(crate) async fn send_and_hold(&self, link: &Link, holders: Holders) -> Result<Value, CallError> {
        let Some(wait) = holders.wait() else { return self.send(link).await };
        let both = match link.call_both(&self.command, &wait).await {
            Err(error) if error.is_no_script() => {
                link.call(redis::cmd("SCRIPT").arg("LOAD").arg(&self.script.text)).await?;
                link.call_both(&self.command, &wait).await
            }
            both => both,
        };
        let (answer, held) = both?;
        holders.judge(&held).map(|()| answer)
    }
}

/// Who must have what was written before it counts as stored.
#[derive(Clone, Copy)]
pub(crate) struct Holders {
    pub(crate) replicas: u32,
    /// On disk, here and there.
    pub(crate) synced: bool,
}

impl Holders {
    /// The command that waits for them; `None` if there is nobody to wait for.
    fn wait(self) -> Option<Cmd> {
        let mut wait = match (self.synced, self.replicas) {
            (true, _) => redis::cmd("WAITAOF"),
            (false, 0) => return None,
            (false, _) => redis::cmd("WAIT"),
        };
        if self.synced {
            wait.arg(1);
        }
        wait.arg(self.replicas).arg(HOLDERS_LIMIT_MILLIS);
        Some(wait)
    }

    /// Whether its answer says that they have it.
    fn judge(self, held: &Value) -> Result<(), CallError> {
        let (local, replicas) = match held {
            Value::Int(replicas) if !self.synced => (1, *replicas),
            Value::Array(both) => match both[..] {
                [Value::Int(local), Value::Int(replicas)] if self.synced => (local, replicas),
                _ => return Err(CallError::Strange("the form of WAITAOF's answer")),
            },
            _ => return Err(CallError::Strange("the form of WAIT's answer")),
        };
        if local < 1 {
            return Err(CallError::NotSynced);
        }
        if replicas < i64::from(self.replicas) {
            return Err(CallError::TooFewReplicas(replicas));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_for_holders_tells_whether_they_have_it() {
        let text = |holders: Holders| {
            let command = holders.wait()?.get_packed_command();
            Some(String::from_utf8(command).unwrap().lines().skip(2).step_by(2).collect::<Vec<_>>().join(" "))
        };
        let held = |local, replicas| Value::Array(vec![Value::Int(local), Value::Int(replicas)]);
        let none = Holders { replicas: 0, synced: false };
        let synced = Holders { replicas: 1, synced: true };
        assert_eq!(text(none), None);
        assert_eq!(text(Holders { replicas: 2, ..none }).as_deref(), Some("WAIT 2 2000"));
        assert_eq!(text(synced).as_deref(), Some("WAITAOF 1 1 2000"));
        assert!(synced.judge(&held(1, 1)).is_ok() && synced.judge(&held(1, 2)).is_ok());
        assert!(matches!(synced.judge(&held(0, 1)), Err(CallError::NotSynced)));
        assert!(matches!(synced.judge(&held(1, 0)), Err(CallError::TooFewReplicas(0))));
        assert!(matches!(synced.judge(&Value::Int(1)), Err(CallError::Strange(_))));
        assert!(Holders { replicas: 1, synced: false }.judge(&Value::Int(1)).is_ok());
    }
}
