//! Redis as bare as it can be: a script that moves a batch from list to list and lets the one before go; and one that
//! pushes a batch.

use redis::{Connection, RedisError};

const MOVE: &str = "if ARGV[2] ~= '' then redis.call('DEL', ARGV[2]) end \
     local got = redis.call('LPOP', KEYS[1], ARGV[1]) \
     if not got then return {} end \
     redis.call('RPUSH', ARGV[3], unpack(got)) \
     return got";

const PUSH: &str = "redis.call('RPUSH', KEYS[1], unpack(ARGV)) return #ARGV";

/// Drains a list in batches; how many entries it had.
pub(crate) fn drain(redis: &mut Connection, list: &str, batch: usize) -> Result<u64, RedisError> {
    let script = redis::Script::new(MOVE);
    let (mut drained, mut before) = (0, String::new());
    for number in 0.. {
        let into = format!("floor:{number}");
        let got: Vec<Vec<u8>> = script.key(list).arg(batch).arg(&before).arg(&into).invoke(redis)?;
        if got.is_empty() {
            break;
        }
        drained += got.len() as u64;
        before = into;
    }
    Ok(drained)
}

/// Pushes entries in batches.
pub(crate) fn push(
    redis: &mut Connection,
    list: &str,
    entries: &[String],
    batch: usize,
) -> Result<(), RedisError> {
    let script = redis::Script::new(PUSH);
    for batch in entries.chunks(batch) {
        let mut call = script.key(list);
        for entry in batch {
            call.arg(entry);
        }
        call.invoke::<u64>(redis)?;
    }
    Ok(())
}
