//! ganger inside an application: it stores typed jobs, does them in the background, and learns how they ended.
#![expect(clippy::print_stdout, reason = "it shows what happens")]

use std::{error::Error, sync::Arc};

use ganger::{Batch, Job, JobContext, JobError, JobId, Sink, plugins::function::function};
use serde::{Deserialize, Serialize};

/// What a job of the type `invoice` works on: the same type where it is enqueued and where it is done.
#[derive(Serialize, Deserialize)]
struct Invoice {
    customer: String,
    cents: u64,
}

async fn send(invoice: Invoice, job: JobContext) -> Result<String, JobError> {
    if invoice.cents == 0 {
        return Err(JobError::dead("an invoice over nothing is a mistake"));
    }
    let Invoice { customer, cents } = invoice;
    Ok(format!("{customer} owes {}.{:02} (run {})", cents / 100, cents % 100, job.attempt()))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let file = std::env::args().nth(1).unwrap_or_else(|| "invoices.db".to_owned());
    let ganger = ganger::builtin()
        .provider("disk", serde_json::json!({ "db_name": file }))
        .worker(function("invoice", send).slots(2).retries(3))
        .start()
        .await?;
    let sink = ganger.sink(None).ok_or("the store is not open yet")?;

    // Acknowledged means durable: after this line the jobs survive the end of the process.
    let ids = enqueue(&sink, [("Ada", 1250), ("Grace", 99), ("Nobody", 0)]).await?;
    wait_for(&sink, ids).await?;

    ganger.drain();
    Ok(ganger.ended().await?)
}

async fn enqueue(sink: &Arc<dyn Sink>, invoices: [(&str, u64); 3]) -> Result<Vec<JobId>, Box<dyn Error>> {
    let mut jobs = Vec::new();
    for (customer, cents) in invoices {
        let mut job = Job::new("invoice", &Invoice { customer: customer.to_owned(), cents })?;
        job.capture_output = true;
        jobs.push(job);
    }
    let mut ids = Vec::new();
    for answer in sink.enqueue(Batch::new(jobs)).await? {
        ids.push(answer?.id);
    }
    Ok(ids)
}

/// Tells of each job as it ends.
async fn wait_for(sink: &Arc<dyn Sink>, mut ids: Vec<JobId>) -> Result<(), Box<dyn Error>> {
    while !ids.is_empty() {
        for end in sink.ended(&ids).await? {
            let output = end.output.map(|output| output.text()).unwrap_or_default();
            match end.error {
                Some(error) => println!("failed: {error}"),
                None => println!("done: {output}"),
            }
            ids.retain(|id| *id != end.id);
        }
    }
    Ok(())
}
