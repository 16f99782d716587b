//! Which jobs are taken: those whose type somebody does, and no commands unless the config says so.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use compact_str::CompactString;
use ganger_core::{Beat, Catalog, HANDLER_PREFIX, Job, Sink, canonical_kind};
use hyper::StatusCode;
use tokio::sync::Mutex;

use crate::answer::Refusal;

/// How long the register of managers is remembered: jobs of unknown types ask the store no more often.
const BEATS_FRESH: Duration = Duration::from_secs(1);

/// The longest wait for the register of managers.
const BEATS_LIMIT: Duration = Duration::from_secs(5);

/// Decides which jobs are taken.
pub(crate) struct Admission {
    /// The intake's name in the config.
    name: String,
    accept: Vec<CompactString>,
    catalog: Arc<Catalog>,
    beats: Mutex<Option<(Instant, Arc<[Beat]>)>>,
}

/// What is known of a type.
enum Standing {
    Taken,
    /// Its worker runs commands that the job names, or may.
    Guarded,
    Unknown,
}

impl Admission {
    pub(crate) fn new(name: &str, accept: &[String], catalog: Arc<Catalog>) -> Self {
        let accept = accept.iter().map(|kind| canonical_kind(kind).into()).collect();
        Admission { name: name.to_owned(), accept, catalog, beats: Mutex::new(None) }
    }

    /// Whether a job is taken, and every job that it carries.
    ///
    /// # Errors
    /// 400 for a carried job that is none; 403 for one that runs commands; 422 for a type that nobody does, and for
    /// params that the worker here refuses.
    pub(crate) async fn check(&self, job: &Job, sink: &dyn Sink) -> Result<(), Refusal> {
        let kinds = self.catalog.unpack(job).map_err(|fault| {
            let message = format!("the job that this one carries: {}", fault.message);
            Refusal::new(StatusCode::BAD_REQUEST, message)
        })?;
        for (depth, kind) in kinds.iter().enumerate() {
            if kind.starts_with(HANDLER_PREFIX) {
                let message =
                    format!("type `{kind}`: types that begin with `{HANDLER_PREFIX}` are ganger's own");
                return Err(Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, message));
            }
            let carrier = (depth > 0).then_some(&job.kind);
            match self.standing(kind, sink).await {
                Standing::Taken => {}
                Standing::Guarded => return Err(self.guarded(kind, carrier)),
                Standing::Unknown => return Err(self.unknown(kind, carrier, sink).await),
            }
        }
        self.catalog.check_params(job).map_err(|fault| Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, fault))
    }

    async fn standing(&self, kind: &str, sink: &dyn Sink) -> Standing {
        if self.accept.iter().any(|accepted| accepted == kind) {
            return Standing::Taken;
        }
        if let Some(info) = self.catalog.get(kind) {
            return if info.runs_commands { Standing::Guarded } else { Standing::Taken };
        }
        let beats = self.beats(sink).await;
        let mut doing =
            beats.iter().filter(|beat| beat.types.iter().any(|(known, _)| known == kind)).peekable();
        if doing.peek().is_none() {
            return Standing::Unknown;
        }
        let guarded = doing.any(|beat| beat.guarded.iter().any(|known| known == kind));
        if guarded { Standing::Guarded } else { Standing::Taken }
    }

    /// The managers that are alive; none if the store cannot say.
    async fn beats(&self, sink: &dyn Sink) -> Arc<[Beat]> {
        let mut kept = self.beats.lock().await;
        if let Some((at, beats)) = &*kept
            && at.elapsed() < BEATS_FRESH
        {
            return beats.clone();
        }
        let beats: Arc<[Beat]> = match tokio::time::timeout(BEATS_LIMIT, sink.managers()).await {
            Ok(Ok(beats)) => beats.into(),
            Ok(Err(error)) => {
                tracing::warn!(intake = self.name, %error, "the store does not say which managers are alive");
                Arc::new([])
            }
            Err(_) => Arc::new([]),
        };
        *kept = Some((Instant::now(), beats.clone()));
        beats
    }

    fn guarded(&self, kind: &str, carrier: Option<&CompactString>) -> Refusal {
        let what = match carrier {
            None => format!("jobs of type `{kind}`"),
            Some(carrier) => format!("the job of type `{kind}` that this one of type `{carrier}` carries"),
        };
        Refusal::new(
            StatusCode::FORBIDDEN,
            format!(
                "{what} may run any command on the machine that does it. If everyone who reaches this address may do \
                 that, add the line  accept = [{}]  to the provider `{}` in the config",
                self.accept_with(kind),
                self.name
            ),
        )
    }

    async fn unknown(&self, kind: &str, carrier: Option<&CompactString>, sink: &dyn Sink) -> Refusal {
        let carried =
            carrier.map(|carrier| format!(", which a job of type `{carrier}` carries")).unwrap_or_default();
        let beats = self.beats(sink).await;
        let mut known: Vec<&str> = self.catalog.names();
        known.extend(self.accept.iter().map(CompactString::as_str));
        known.extend(beats.iter().flat_map(|beat| beat.types.iter().map(|(kind, _)| kind.as_str())));
        known.retain(|kind| !kind.starts_with(HANDLER_PREFIX));
        known.sort_unstable();
        known.dedup();
        let known = if known.is_empty() {
            "there are none".to_owned()
        } else {
            format!("there is {}", known.join(", "))
        };
        Refusal::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            format!(
                "no worker does the type `{kind}`{carried} ({known}). If one will, add the line  accept = [{}]  to the \
                 provider `{}` in the config",
                self.accept_with(kind),
                self.name
            ),
        )
    }

    fn accept_with(&self, kind: &str) -> String {
        let all = self.accept.iter().map(CompactString::as_str).chain([kind]);
        all.map(|kind| format!("{kind:?}")).collect::<Vec<_>>().join(", ")
    }
}
