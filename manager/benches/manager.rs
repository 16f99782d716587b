//! How fast the manager is alone: jobs as JSON bytes in the memory provider, decoded, done by a function that does
//! nothing. Prints jobs a second and CPU time a job, one line a round; the last line is the best round.
//!
//! `cargo bench -p ganger-manager [-- JOBS ROUNDS]`

#![allow(clippy::print_stdout, reason = "it is what the bench is for")]

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use ganger_core::{JobContext, JobError, ProviderOptions};
use ganger_manager::{Manager, Plan};
use ganger_provider_memory::MemoryProvider;
use ganger_worker_function::function;

fn main() {
    let mut numbers = std::env::args().skip(1).filter_map(|arg| arg.parse::<usize>().ok());
    let jobs = numbers.next().unwrap_or(2_000_000);
    let rounds = numbers.next().unwrap_or(3);
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be made");
    let mut best = (0.0, 0.0);
    for round in 1..=rounds {
        let (per_second, cpu) = runtime.block_on(drain(jobs));
        println!("round {round}: {per_second:.0} jobs/s, {cpu:.3} µs of CPU a job");
        if per_second > best.0 {
            best = (per_second, cpu);
        }
    }
    println!("best: {:.0} jobs/s, {:.3} µs of CPU a job, {jobs} jobs", best.0, best.1);
}

async fn drain(jobs: usize) -> (f64, f64) {
    let provider = Arc::new(MemoryProvider::new());
    let payload = Bytes::from_static(
        br#"{"type":"nothing","params":{"to":"someone@example.org","subject":"hello","body":"how are you doing today?"},"name":"mail","retries":3}"#,
    );
    provider.push_all((0..jobs).map(|_| payload.clone()));
    let nothing =
        function("nothing", |_: serde::de::IgnoredAny, _: JobContext| async { Ok::<_, JobError>(()) });
    let plan = Plan::new().opened("memory", ProviderOptions::default(), provider.clone()).worker(
        &nothing.name,
        nothing.options,
        nothing.workers,
    );
    let (started, cpu) = (Instant::now(), cpu_time());
    let running = Manager::start(plan).await.expect("the plan fits");
    while provider.waiting() > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let (took, cpu) = (started.elapsed(), cpu_time().saturating_sub(cpu));
    let runs = running.status().report().by_type["nothing"].runs;
    assert_eq!(runs, jobs as u64, "every job ran once");
    running.drain();
    running.ended().await.expect("nothing went wrong");
    (jobs as f64 / took.as_secs_f64(), cpu.as_secs_f64() * 1e6 / jobs as f64)
}

/// CPU time of this process.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}
