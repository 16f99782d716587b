//! `ganger plugin test`: plays a scenario at a program that is to do jobs for the `process` worker.

use std::sync::Arc;

use ganger_core::{JobId, NoSinks, Period, Secret, WorkerContext};
use ganger_worker_process::check::{Scenario, Step, Verdict, play};
use serde_json::{Value, json};

use super::{
    failure::{Exit, Failure},
    out::Out,
};

#[derive(Debug, clap::Args)]
pub(crate) struct Test {
    /// The type of the jobs; by default the first that the program names
    #[arg(long = "type", value_name = "TYPE")]
    job_type: Option<String>,
    /// Params that it should do a job with, as JSON
    #[arg(long)]
    params: Option<String>,
    /// How long each answer may take
    #[arg(long, default_value = "10s", value_name = "TIME")]
    patience: Period,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
    /// The program and its arguments, after `--`
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

pub(crate) async fn run(args: Test, out: &mut Out) -> Result<Exit, Failure> {
    let params: Option<Value> = args
        .params
        .map(|text| serde_json::from_str(&text))
        .transpose()
        .map_err(|error| Failure::usage(format!("`--params` is no JSON: {error}")))?;
    let scenario =
        Scenario { command: args.command, job_type: args.job_type, params, patience: args.patience.get() };
    let context = WorkerContext {
        name: "test".to_owned(),
        slots: 1,
        sinks: Arc::new(NoSinks),
        run: Secret::new(JobId::new().to_string()),
    };
    let mut written = Ok(());
    let played = play(&scenario, &context, |step| {
        if written.is_ok() {
            written = show(&step, args.json, out);
        }
    })
    .await;
    written?;
    match played {
        Ok(true) => Ok(Exit::Ok),
        Ok(false) => Ok(Exit::No),
        Err(why) => Err(Failure::usage(why)),
    }
}

fn show(step: &Step, as_json: bool, out: &mut Out) -> Result<(), Failure> {
    let (word, text) = match &step.verdict {
        Verdict::Ok(text) => ("ok", text),
        Verdict::NotOk(text) => ("not ok", text),
        Verdict::Skipped(text) => ("skipped", text),
    };
    match as_json {
        true => out.json(&json!({ "step": step.name, "verdict": word, "seen": text })),
        false => out.line(format!("{word:7}  {}: {text}", step.name)),
    }
}
