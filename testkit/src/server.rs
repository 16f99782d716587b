//! Real servers, each on a port of its own and in a temporary folder, ended when dropped.
//!
//! A server is ready when its `start` returns. It ends with its value, also when the test panics; nothing else is
//! ever ended. What it said last stands in the message of whatever goes wrong.

mod nginx;
mod process;
mod redis;

pub use nginx::Nginx;
pub use redis::{Durability, Redis, RedisOptions, RedisTls};

/// Names the program and its package where it could not be started.
fn missing(program: &str, package: &str, error: &std::io::Error) -> String {
    format!(
        "{program} cannot be started ({error}): install it, as by `apt-get install {package}`, or let \
         `cargo xtask test` do so"
    )
}
