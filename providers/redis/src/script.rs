//! The scripts, each one atomic step at the server.

use std::sync::LazyLock;

use redis::{Cmd, Value};

use crate::{error::CallError, link::Link};

/// The format of what ganger stores in Redis.
pub(crate) const FORMAT: u32 = 1;

/// How long replicas may take.
const REPLICAS_LIMIT_MILLIS: u64 = 2_000;

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

script!(EXCHANGE, "head.lua", "claims.lua", "exchange.lua");
script!(RENEW, "head.lua", "claims.lua", "renew.lua");
script!(PEEK, "head.lua", "claims.lua", "peek.lua");
script!(ENQUEUE, "head.lua", "enqueue.lua");
script!(ORDER, "head.lua", "claims.lua", "order.lua");
script!(OVERFLOW, "head.lua", "claims.lua", "overflow.lua");
script!(RETRY, "head.lua", "claims.lua", "retry.lua");
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

    /// Calls it, and waits until so many replicas have what it wrote.
    pub(crate) async fn send_to_replicas(&self, link: &Link, replicas: u32) -> Result<Value, CallError> {
        let mut wait = redis::cmd("WAIT");
        wait.arg(replicas).arg(REPLICAS_LIMIT_MILLIS);
        let both = match link.call_both(&self.command, &wait).await {
            Err(error) if error.is_no_script() => {
                link.call(redis::cmd("SCRIPT").arg("LOAD").arg(&self.script.text)).await?;
                link.call_both(&self.command, &wait).await
            }
            both => both,
        };
        match both? {
            (answer, Value::Int(have)) if have >= i64::from(replicas) => Ok(answer),
            (_, Value::Int(have)) => Err(CallError::TooFewReplicas(have)),
            _ => Err(CallError::Strange("the form of WAIT's answer")),
        }
    }
}
