//! `ganger enqueue`: one job, or many from standard input.

use std::{
    io::{self, IsTerminal},
    sync::Arc,
    time::Duration,
};

use anstream::eprintln;
use ganger_core::{
    Batch, Catalog, Enqueued, JOB_BYTES_MAX, Job, JobId, Period, Refused, RefusedKind, Severity, Sink, State,
    Timestamp, canonical_kind, name_fault,
};
use serde_json::{json, value::RawValue};

use crate::{Config, Ports, plan_of};

use super::{
    Context,
    crew::note_nobody,
    each::Template,
    failure::{Exit, Failure},
    lines::{Form, Line, admit, batches},
    out::Out,
    store::{Access, Store},
    table::counted,
};

const EXAMPLES: &str = "\
Examples:
  ganger enqueue cli -- echo hello
  ganger enqueue http '{\"url\": \"https://example.org/hook\", \"method\": \"POST\"}' --retries 5
  ganger enqueue cli --in 10m --name backup -- ./backup.sh
  ganger enqueue cli --wait -- date
  ganger enqueue < jobs.jsonl
  ls *.png | ganger enqueue --each cli -- convert ./{} -resize 50% small/{}

On standard input, one job a line, as {\"type\": \"cli\", \"params\": {\"command\": \"true\"}}.
They are stored in batches; a refused line is told with its number and disturbs no other.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The job's type: the name that a worker has in the config. Without it jobs are read from standard input
    #[arg(value_name = "TYPE")]
    kind: Option<String>,
    /// The worker's arguments, as JSON
    #[arg(value_name = "JSON", conflicts_with = "command")]
    params: Option<String>,
    /// A command and its arguments, for a worker that runs commands
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
    /// The provider that stores it, by its name in the config
    #[arg(long, visible_alias = "provider", value_name = "PROVIDER")]
    to: Option<String>,
    /// Not before this much time has passed, like `5m`
    #[arg(long = "in", value_name = "DURATION", requires = "kind", conflicts_with = "at")]
    delay: Option<Period>,
    /// Not before this time, like `2026-11-24T09:30:00Z`
    #[arg(long, value_name = "TIME", requires = "kind")]
    at: Option<Timestamp>,
    /// How often it is run again if it fails
    #[arg(long, value_name = "N", allow_negative_numbers = true, requires = "kind")]
    retries: Option<u32>,
    /// Longest single run, like `30s`
    #[arg(long, value_name = "DURATION", requires = "kind")]
    timeout: Option<Period>,
    /// The queue
    #[arg(long, requires = "kind")]
    queue: Option<String>,
    /// Higher first, where the provider can order
    #[arg(long, value_name = "N", allow_negative_numbers = true, requires = "kind")]
    priority: Option<i32>,
    /// Its id; a second job of the same id and content is not stored again
    #[arg(long, requires = "kind")]
    id: Option<JobId>,
    /// A label for people
    #[arg(long, requires = "kind")]
    name: Option<String>,
    /// Wait until it has ended, print what it printed, and exit by its fate
    #[arg(long, requires = "kind")]
    wait: bool,
    /// A job for each line of standard input, which stands for `{}` in the command (else at its end) or in the
    /// params' texts
    #[arg(long, requires = "kind", conflicts_with_all = ["id", "wait"])]
    each: bool,
    /// With `--each`, lines end with a NUL byte, as `find -print0` prints them
    #[arg(short = '0', long, requires = "each")]
    null: bool,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
}

/// How long the record of a job that is waited for stays: longer than anyone waits to look at it.
const KEEP: Period = Period::secs(3600);

pub(crate) async fn run(cx: &Context, args: Args, out: &mut Out) -> Result<Exit, Failure> {
    let config = cx.config()?;
    let catalog = plan_of(&config, &cx.registry, Ports::Closed).catalog();
    let Some(kind) = args.kind.clone() else {
        return many(&config, Form::json(), catalog, &args, out).await;
    };
    let job = job_of(&config, &kind, &args)?;
    if args.each {
        note_unknown(&config, &job.kind);
        let template = Template::new(job, !args.command.is_empty())?;
        let end = if args.null { 0 } else { b'\n' };
        let form = Form { end, read: Box::new(move |line| template.job(line)) };
        return many(&config, form, catalog, &args, out).await;
    }
    let job = admit(job, &catalog).map_err(|why| {
        let failure = Failure::new(Exit::Refused, why);
        match config.workers.iter().find(|worker| worker.name == canonical_kind(&kind)) {
            Some(worker) => {
                failure.help(format!("`ganger plugin show {}` lists its params", worker.plugin.name))
            }
            None => failure,
        }
    })?;
    note_unknown(&config, &job.kind);
    let store = Store::open(&config, args.to.as_deref(), Access::Create).await?;
    let stored = put_one(&store, job, args.json, out).await?;
    let exit = match args.wait {
        true => wait(&store, &stored.id, args.json, out).await?,
        false => {
            tell_stored(&stored, &args, out)?;
            Exit::Ok
        }
    };
    store.close().await;
    Ok(exit)
}

/// The job that the arguments describe.
fn job_of(config: &Config, kind: &str, args: &Args) -> Result<Job, Failure> {
    let kind = canonical_kind(kind);
    if let Some(fault) = name_fault(kind) {
        return Err(Failure::usage(format!("type `{}`: {fault}", super::out::one_line(kind))));
    }
    let params = match (&args.params, args.command.split_first()) {
        (_, Some((program, rest))) => Some(command_params(config, kind, program, rest)?),
        (Some(text), None) => Some(json_params(text)?),
        (None, None) => None,
    };
    if args.timeout.is_some_and(|limit| limit.get().is_zero()) {
        return Err(Failure::usage("--timeout: no run ends in no time").help("leave it out for no limit"));
    }
    for (what, name) in [("queue", &args.queue), ("name", &args.name)] {
        let fault = name.as_deref().and_then(|name| if what == "queue" { name_fault(name) } else { None });
        if let Some(fault) = fault {
            return Err(Failure::usage(format!("--{what}: {fault}")));
        }
    }
    let mut job = Job {
        kind: kind.into(),
        params,
        id: args.id.clone(),
        name: args.name.as_deref().map(Into::into),
        queue: args.queue.as_deref().map(Into::into),
        retries: args.retries,
        priority: args.priority.unwrap_or_default(),
        timeout: args.timeout.map(Period::get),
        run_at: args.at,
        ..Job::default()
    };
    if let Some(delay) = args.delay {
        job.rare_mut().delay = Some(delay.get());
    }
    if args.wait {
        job.capture_output = true;
        job.keep_at_least(KEEP);
    }
    let size = job.to_json().len();
    if size > JOB_BYTES_MAX {
        return Err(Failure::new(
            Exit::Refused,
            format!("the job has {size} bytes, more than the {JOB_BYTES_MAX} that one may have"),
        ));
    }
    Ok(job)
}

fn command_params(
    config: &Config,
    kind: &str,
    program: &str,
    rest: &[String],
) -> Result<Box<RawValue>, Failure> {
    let worker = config.workers.iter().find(|worker| worker.name == kind);
    let plugin = worker.map_or(kind, |worker| worker.plugin.name);
    if plugin != "cli" {
        return Err(Failure::usage(format!("type `{kind}` runs no commands: `--` does not go with it"))
            .help("give its params as JSON"));
    }
    let params = json!({ "command": program, "params": rest });
    serde_json::value::to_raw_value(&params).map_err(|error| Failure::usage(error.to_string()))
}

fn json_params(text: &str) -> Result<Box<RawValue>, Failure> {
    // Read as a job's params are read, so that nothing is taken here that is refused there.
    let whole = format!("{{\"type\":\"t\",\"params\":{text}}}");
    match Job::from_json(whole.as_bytes()) {
        Ok(job) if job.rare.is_none() && job.name.is_none() => {
            job.params.ok_or_else(|| Failure::usage("the params are empty"))
        }
        Ok(_) => Err(Failure::usage("the params are no JSON: something follows after their end")),
        Err(fault) => {
            let plain = serde_json::from_str::<Box<RawValue>>(text)
                .err()
                .map_or(fault.message, |error| error.to_string());
            Err(Failure::usage(format!("the params are no JSON: {plain}"))
                .help("quote them for the shell, as '{\"command\": \"true\"}'"))
        }
    }
}

/// Says so where no worker of this config does a type: it may be another config's.
fn note_unknown(config: &Config, kind: &str) {
    if config.workers.iter().any(|worker| worker.name == kind) {
        return;
    }
    if !config.is_default || config.workers.is_empty() {
        eprintln!(
            "note: {} has no worker `{kind}`: the job waits until some ganger does that type",
            config.name()
        );
        return;
    }
    let names: Vec<&str> = config.workers.iter().map(|worker| worker.name.as_str()).collect();
    let help = crate::config::suggest(kind, "types of this config", &names);
    eprintln!("note: no worker here does type `{kind}` ({help}): the job waits until some ganger does");
}

async fn put_one(store: &Store, job: Job, json: bool, out: &mut Out) -> Result<Enqueued, Failure> {
    let sink = store.sink()?;
    let answers = put(store, &*sink, vec![job]).await?;
    match answers.into_iter().next() {
        Some(Ok(stored)) => Ok(stored),
        Some(Err(Refused { message, holder: Some(holder), .. })) => {
            if json {
                out.json(&json!({ "error": message, "holder": holder }))?;
            }
            let help = format!("`ganger job wait {holder}` waits for that one");
            Err(Failure::new(Exit::Refused, message).help(help))
        }
        Some(Err(refused)) => Err(Failure::new(Exit::Refused, refused.message)),
        None => Err(Failure::new(
            Exit::Unreachable,
            format!("provider `{}` gave no answer for the job", store.name),
        )),
    }
}

/// How often a batch is tried.
const TRIES: u32 = 5;

/// Stores a batch; the same one again while the store fails in passing, so that nothing is stored twice.
async fn put(
    store: &Store,
    sink: &dyn Sink,
    jobs: Vec<Job>,
) -> Result<Vec<Result<Enqueued, Refused>>, Failure> {
    let batch = Batch::new(jobs);
    for attempt in 1..TRIES {
        match store.ask_raw(sink.enqueue(batch.clone())).await {
            Some(Ok(answers)) => return Ok(answers),
            Some(Err(error)) if error.severity() == Severity::Fatal => {
                return Err(Failure::store(&store.name, &error));
            }
            Some(Err(error)) => tracing::warn!(%error, attempt, "storing is tried again"),
            None => tracing::warn!(attempt, "no answer in time: storing is tried again"),
        }
        tokio::time::sleep(Duration::from_millis(100 << attempt)).await;
    }
    store.ask(sink.enqueue(batch)).await
}

fn tell_stored(stored: &Enqueued, args: &Args, out: &mut Out) -> Result<(), Failure> {
    if args.json {
        return out.json(&json!({ "id": stored.id, "state": stored.state, "existed": stored.existed }));
    }
    if stored.existed {
        eprintln!("note: this job was there already, it is {}", stored.state);
    }
    out.line(stored.id.to_string())
}

/// How long a waiter hears nothing before it is told that nobody works.
const NOBODY_AFTER: Duration = Duration::from_secs(2);

async fn wait(store: &Store, id: &JobId, json: bool, out: &mut Out) -> Result<Exit, Failure> {
    let sink = store.sink()?;
    let ids = [id.clone()];
    let nobody = tell_if_nobody_works(store, &*sink);
    let ended = async {
        loop {
            match sink.ended(&ids).await {
                Ok(ended) => return Ok(ended),
                Err(error) if error.severity() == Severity::Transient => {
                    tokio::time::sleep(Duration::from_secs(1)).await
                }
                Err(error) => return Err(Failure::store(&store.name, &error)),
            }
        }
    };
    let (mut nobody, mut ended) = (std::pin::pin!(nobody), std::pin::pin!(ended));
    let ended = tokio::select! {
        biased;
        ended = &mut ended => ended?,
        () = &mut nobody => ended.await?,
    };
    let Some(end) = ended.into_iter().next() else {
        return Err(Failure::new(
            Exit::Unreachable,
            format!("provider `{}` lost sight of job {id}", store.name),
        ));
    };
    let output = end.output.as_ref();
    if json {
        let text = output.map(ganger_core::Output::text);
        out.json(&json!({ "id": end.id, "state": end.state, "runs": end.runs, "error": end.error, "output": text }))?;
    } else {
        match output {
            Some(output) if output.cut == 0 => out.output(&output.bytes)?,
            Some(output) => out.output(output.text().as_bytes())?,
            None => {}
        }
        if end.state != Some(State::Done) {
            let state = end.state.map_or("not known any more", State::as_str);
            let error = end
                .error
                .as_deref()
                .map(|error| format!(": {}", super::out::one_line(error)))
                .unwrap_or_default();
            out.flush()?;
            eprintln!("job {id} is {state}{error}");
        }
    }
    Ok(if end.state == Some(State::Done) { Exit::Ok } else { Exit::No })
}

async fn tell_if_nobody_works(store: &Store, sink: &dyn Sink) {
    tokio::time::sleep(NOBODY_AFTER).await;
    if matches!(store.ask(sink.managers()).await, Ok(managers) if managers.is_empty()) {
        note_nobody(&store.name);
    }
}

/// What became of the jobs of a stream.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) stored: u64,
    /// Ids that were there already.
    pub(crate) known: u64,
    pub(crate) refused: u64,
}

/// Stores a batch of lines and tells what became of each, in order.
pub(crate) async fn put_lines(
    store: &Store,
    sink: &Arc<dyn Sink>,
    lines: Vec<Line>,
    tally: &mut Tally,
    mut tell: impl FnMut(u64, &Result<Enqueued, Refused>) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let (mut jobs, mut numbers, mut told) = (Vec::new(), Vec::new(), Vec::new());
    for line in lines {
        match line.job {
            Ok(job) => {
                jobs.push(job);
                numbers.push(line.number);
            }
            Err(why) => told.push((line.number, Err(Refused::new(RefusedKind::Malformed, why)))),
        }
    }
    if !jobs.is_empty() {
        let answers = put(store, &**sink, jobs).await?;
        told.extend(numbers.into_iter().zip(answers));
        told.sort_by_key(|(number, _)| *number);
    }
    for (number, answer) in &told {
        match answer {
            Ok(stored) => {
                tally.stored += u64::from(!stored.existed);
                tally.known += u64::from(stored.existed);
            }
            Err(_) => tally.refused += 1,
        }
        tell(*number, answer)?;
    }
    Ok(())
}

async fn many(
    config: &Config,
    form: Form,
    catalog: Catalog,
    args: &Args,
    out: &mut Out,
) -> Result<Exit, Failure> {
    // Lines for a template may be typed in.
    if io::stdin().is_terminal() && !args.each {
        return Err(Failure::usage("which job?").help(
            "name a type, as in `ganger enqueue cli -- echo hello`, or send jobs as JSON lines: `ganger enqueue < jobs.jsonl`",
        ));
    }
    let store = Store::open(config, args.to.as_deref(), Access::Create).await?;
    let sink = store.sink()?;
    let mut batches = batches(io::BufReader::with_capacity(256 << 10, io::stdin()), form, catalog);
    let mut tally = Tally::default();
    while let Some(batch) = batches.recv().await {
        let lines = batch
            .map_err(|error| Failure::new(Exit::No, format!("standard input cannot be read: {error}")))?;
        let told = put_lines(&store, &sink, lines, &mut tally, |line, answer| match (answer, args.json) {
            (Ok(stored), true) => out.json(
                &json!({ "line": line, "id": stored.id, "state": stored.state, "existed": stored.existed }),
            ),
            (Ok(_), false) => Ok(()),
            (Err(Refused { message, holder: Some(holder), .. }), true) => {
                out.json(&json!({ "line": line, "error": message, "holder": holder }))
            }
            (Err(refused), true) => out.json(&json!({ "line": line, "error": refused.message })),
            (Err(refused), false) => {
                eprintln!("line {line}: {}", super::out::one_line(&refused.message));
                Ok(())
            }
        });
        if let Err(failure) = told.await {
            eprintln!("{} were stored before this:", counted(tally.stored, "job"));
            return Err(failure);
        }
    }
    if !args.json {
        out.line(tally.text())?;
    }
    store.close().await;
    Ok(if tally.refused > 0 { Exit::Refused } else { Exit::Ok })
}

impl Tally {
    /// In a line.
    pub(crate) fn text(&self) -> String {
        let mut text = format!("{} stored", counted(self.stored, "job"));
        if self.known > 0 {
            text.push_str(&format!(", {} known already", super::table::grouped(self.known)));
        }
        if self.refused > 0 {
            text.push_str(&format!(", {} refused", super::table::grouped(self.refused)));
        }
        text
    }
}
