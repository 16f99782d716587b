//! Hands a job on to another provider.

use std::sync::Arc;

use ganger_core::{
    Batch, Enqueued, FailureRecord, HANDLER_PREFIX, Job, JobContext, JobError, OptionsError, Output, Refused,
    RefusedKind, Severity, Sink, Sinks, SlotContext, Worker, WorkerContext, WorkerError,
};

use crate::{ForwardConfig, ForwardParams};

/// How often a job may be handed on because it failed, before that is a circle.
const FAILURES_MAX: usize = 8;

/// What the slots share: where jobs can go.
pub struct ForwardShared {
    to: Option<String>,
    sinks: Arc<dyn Sinks>,
}

/// Enqueues the job that it carries, or the job that failed, at another provider.
pub struct Forward {
    to: Option<String>,
    sinks: Arc<dyn Sinks>,
}

impl Worker for Forward {
    const NAME: &'static str = "forward";
    const CARRIES: &'static [&'static str] = &["job"];
    type Config = ForwardConfig;
    type Params = ForwardParams;
    type Shared = ForwardShared;

    fn check(config: &ForwardConfig, params: &ForwardParams) -> Result<(), OptionsError> {
        if config.to.is_none() && params.to.is_none() {
            return Err(OptionsError::of("to", "it is missing, here and in the config: it names a provider"));
        }
        carried(params).map(drop)
    }

    async fn share(config: ForwardConfig, cx: &WorkerContext) -> Result<ForwardShared, WorkerError> {
        let sinks = cx.sinks.clone();
        if let Some(to) = config.to.as_deref().filter(|to| !is_known(&*sinks, to)) {
            return Err(WorkerError::new(format!("`to`: {}", unknown(&*sinks, to))));
        }
        Ok(ForwardShared { to: config.to, sinks })
    }

    async fn create(shared: &ForwardShared, _: &SlotContext) -> Result<Self, WorkerError> {
        Ok(Forward { to: shared.to.clone(), sinks: shared.sinks.clone() })
    }

    async fn work(&mut self, params: ForwardParams, job: &JobContext) -> Result<Output, JobError> {
        let Some(to) = params.to.as_deref().or(self.to.as_deref()) else {
            return Err(JobError::dead(format!(
                "`to` is missing, in the job's params and in the config: it names a provider ({})",
                self.sinks.names().join(", ")
            )));
        };
        let to = to.to_owned();
        let sink = self.sink(&to)?;
        let mut carried = match job.failure()? {
            Some(record) => failed(record, &params, job)?,
            None => carried(&params).map_err(|error| job.unfit(&error))?,
        };
        // The same id on every run, so that a rerun stores no second job.
        carried.id.get_or_insert_with(|| job.id().child(1));
        let stored = enqueue(&*sink, &to, carried).await?;
        Ok(Output::from(format!("{} is in `{to}`\n", stored.id)))
    }
}

impl Forward {
    fn sink(&self, to: &str) -> Result<Arc<dyn Sink>, JobError> {
        match self.sinks.find(Some(to)) {
            Some(sink) => Ok(sink),
            None if is_known(&*self.sinks, to) => {
                Err(JobError::retry(format!("provider `{to}` is out of reach now")))
            }
            None => Err(JobError::dead(unknown(&*self.sinks, to))),
        }
    }
}

fn is_known(sinks: &dyn Sinks, to: &str) -> bool {
    sinks.names().iter().any(|name| name == to) || sinks.find(Some(to)).is_some()
}

fn unknown(sinks: &dyn Sinks, to: &str) -> String {
    let names = sinks.names();
    let known =
        if names.is_empty() { "there are none".to_owned() } else { format!("there is {}", names.join(", ")) };
    format!("there is no provider `{to}` that takes jobs in ({known})")
}

/// The job in the params.
fn carried(params: &ForwardParams) -> Result<Job, OptionsError> {
    if params.kind.is_some() {
        return Err(OptionsError::of(
            "type",
            "it is for a failure handler; a job to hand on stands in `job`",
        ));
    }
    let Some(raw) = &params.job else {
        return Err(OptionsError::of("job", "it is missing: it is the job to hand on"));
    };
    let carried = Job::from_json(raw.get().as_bytes()).map_err(|why| OptionsError::of("job", why.message))?;
    not_our_own(&carried).map_err(|why| OptionsError::of("job", why))?;
    Ok(carried)
}

fn not_our_own(job: &Job) -> Result<(), String> {
    match job.kind.starts_with(HANDLER_PREFIX) {
        true => {
            Err(format!("type `{}`: types that begin with `{HANDLER_PREFIX}` are ganger's own", job.kind))
        }
        false => Ok(()),
    }
}

/// The job that failed as a new one, or its record as the params of one.
fn failed(record: FailureRecord, params: &ForwardParams, job: &JobContext) -> Result<Job, JobError> {
    if params.job.is_some() {
        return Err(JobError::dead("`job` is not for a failure handler: it hands on the job that failed"));
    }
    if job.id().to_string().matches("/failed/").count() > FAILURES_MAX {
        return Err(JobError::dead(format!(
            "the job has failed and was handed on {FAILURES_MAX} times: it goes round in a circle"
        )));
    }
    if let Some(kind) = &params.kind {
        let raw = record.to_raw();
        let told = Job { kind: kind.clone(), params: Some(raw), name: record.job.name, ..Job::default() };
        not_our_own(&told).map_err(JobError::dead)?;
        return Ok(told);
    }
    let mut again = record.job;
    // Its times are past; its id belongs to the dead job.
    (again.id, again.created_at, again.run_at, again.expires_at) = (None, None, None, None);
    if again.rare.is_some() {
        let rare = again.rare_mut();
        rare.after.clear();
        rare.input = None;
    }
    Ok(again)
}

async fn enqueue(sink: &dyn Sink, to: &str, job: Job) -> Result<Enqueued, JobError> {
    let answers = match sink.enqueue(Batch::new(vec![job])).await {
        Ok(answers) => answers,
        Err(error) if error.severity() == Severity::Transient => {
            return Err(JobError::retry(format!("provider `{to}`: {error}")));
        }
        Err(error) => return Err(JobError::dead(format!("provider `{to}`: {error}"))),
    };
    match answers.into_iter().next() {
        Some(Ok(stored)) => Ok(stored),
        Some(Err(refused)) => Err(refusal(to, &refused)),
        None => Err(JobError::retry(format!("provider `{to}` gave no answer for the job"))),
    }
}

fn refusal(to: &str, refused: &Refused) -> JobError {
    let message = format!("provider `{to}` refused the job: {refused}");
    match refused.kind {
        RefusedKind::Full => JobError::retry(message),
        // Its work is there already, or under way.
        RefusedKind::Duplicate => JobError::discard(message),
        _ => JobError::dead(message),
    }
}
