//! ganger with a worker of its own: jobs of the type `shout` are done by a Rust function.

use ganger::{JobContext, JobError, plugins::function::function};

#[derive(serde::Deserialize)]
struct Shout {
    text: String,
    #[serde(default)]
    times: usize,
}

async fn shout(params: Shout, job: JobContext) -> Result<String, JobError> {
    if params.text.is_empty() {
        return Err(JobError::dead("there is nothing to shout"));
    }
    job.progress(50, "taking a deep breath");
    Ok(format!("{}! ", params.text.to_uppercase()).repeat(params.times.max(1)))
}

#[tokio::main]
async fn main() -> Result<(), ganger::Error> {
    ganger::builtin().worker(function("shout", shout).slots(4).retries(2)).run().await
}
