//! ganger with jobs of the type `good`, and of the type `poison`, which take the whole process along.

use std::{fs::OpenOptions, io::Write};

use ganger::{JobContext, JobError, plugins::function::function};

async fn good(_: Option<()>, _: JobContext) -> Result<(), JobError> {
    Ok(())
}

async fn poison(_: Option<()>, _: JobContext) -> Result<(), JobError> {
    let mut file = OpenOptions::new().append(true).create(true).open("aborted")?;
    file.write_all(b"x\n")?;
    std::process::abort()
}

#[tokio::main]
async fn main() -> Result<(), ganger::Error> {
    ganger::builtin()
        .config_file("quiet.toml")
        .worker(function("good", good).slots(8))
        .worker(function("poison", poison).slots(2))
        .run()
        .await
}
