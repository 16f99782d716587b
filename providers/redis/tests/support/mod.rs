//! What the provider's tests share: a server, and a provider that is opened on it.
#![allow(dead_code)]

pub(crate) mod crew;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use ganger_core::{DynProvider, Provider, ProviderContext, ProviderError, Timestamp, erase_provider};
use ganger_provider_redis::RedisProvider;
use ganger_testkit::server::{Durability, Redis, RedisOptions};
use redis::{Cmd, RedisResult, Value, cmd};

/// The producers' list of the tests.
pub(crate) const LIST: &str = "jobs";

/// A server that keeps all it has answered.
pub(crate) fn durable() -> Redis {
    Redis::start(RedisOptions { durability: Durability::Always, ..RedisOptions::default() })
}

/// A command by hand.
pub(crate) fn try_run(redis: &Redis, command: &Cmd) -> RedisResult<Value> {
    let client = redis::Client::open(redis.url())?;
    command.query(&mut client.get_connection()?)
}

/// A command by hand, which works.
pub(crate) fn run(redis: &Redis, command: &Cmd) -> Value {
    try_run(redis, command).unwrap()
}

/// Pushes entries as producers do.
pub(crate) fn push(redis: &Redis, entries: &[&str]) {
    run(redis, cmd("RPUSH").arg(LIST).arg(entries));
}

/// Leaves a job behind as GoWorker does that has popped it; with `held`, less than 30 s ago. In place of the hash of its
/// bytes it has a number.
pub(crate) fn strand(redis: &Redis, bytes: &[u8], held: bool) {
    let hash = run(redis, cmd("INCR").arg("hashes"));
    let hash: String = redis::from_redis_value(hash).unwrap();
    run(redis, cmd("SET").arg(format!("tmp_job:value:{hash}")).arg(bytes));
    if held {
        run(redis, cmd("SET").arg(format!("tmp_job:lock:{hash}")).arg("").arg("EX").arg(30));
    }
}

/// All keys with their contents.
pub(crate) fn dump(redis: &Redis) -> Vec<(String, Value)> {
    let keys: Vec<String> = redis::from_redis_value(run(redis, cmd("KEYS").arg("*"))).unwrap();
    let mut dump: Vec<(String, Value)> = keys
        .into_iter()
        .map(|key| {
            let value = run(redis, cmd("DUMP").arg(&key));
            (key, value)
        })
        .collect();
    dump.sort_by(|a, b| a.0.cmp(&b.0));
    dump
}

struct Wall(Instant);

impl ganger_core::Clock for Wall {
    fn monotonic(&self) -> Duration {
        self.0.elapsed()
    }
    fn wall(&self) -> Timestamp {
        Timestamp::now()
    }
}

pub(crate) fn context(incarnation: u64) -> ProviderContext {
    let clock = Arc::new(Wall(Instant::now()));
    ProviderContext { name: "redis".into(), incarnation, clock, existing_only: false }
}

/// Opens the store of the tests' list.
pub(crate) async fn open(url: &str, incarnation: u64) -> Result<Arc<dyn DynProvider>, ProviderError> {
    open_with(serde_json::json!({"url": url, "job_list": LIST}), incarnation).await
}

/// Opens a store with these options.
pub(crate) async fn open_with(
    options: serde_json::Value,
    incarnation: u64,
) -> Result<Arc<dyn DynProvider>, ProviderError> {
    let config = serde_json::from_value(options).unwrap();
    Ok(erase_provider(Arc::new(RedisProvider::open(config, &context(incarnation)).await?)))
}
