//! `ganger run --once`: does what is stored, or the jobs of a file, and ends.
//!
//! What is watched is told by when it was stored, never by a list of ids: two million jobs cost no more memory
//! than two. A job that a watched one enqueues tells so by its id, `<parent>/<n>`, and is watched too. Only ids of a
//! file that were stored already and have not ended are remembered one by one.

mod progress;
mod report;
mod watch;

use std::{
    collections::HashSet,
    fs::File,
    io::{self, BufReader, Read},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anstream::eprintln;
use ganger_core::{Catalog, JobId, ProviderContext, Timestamp};
use ganger_manager::{Manager, Plan, Running};

use crate::{Config, Ports, Signals, plan_of};

use self::{
    progress::Progress,
    report::{Closing, close},
    watch::Watch,
};
use super::{
    Context,
    enqueue::{Tally, put_lines},
    failure::{Exit, Failure},
    lines::{Form, batches},
    out::{Out, one_line},
    store::{Store, find},
};

pub(super) async fn run(
    cx: &Context,
    jobs: Option<PathBuf>,
    json: bool,
    out: &mut Out,
) -> Result<Exit, Failure> {
    let mut signals = Signals::listen()?;
    let config = cx.config()?;
    for note in &config.notes {
        tracing::info!("{note}");
    }
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    let mut plan = plan_of(&config, &cx.registry, Ports::Closed);
    plan.check().map_err(|error| Failure::usage(format!("{}: {error}", config.name())))?;
    let started = Timestamp::now();
    let stores = open_all(&mut plan).await?;
    let kinds = kinds_of(&plan);
    let mut progress = Progress::new();
    let mut watch = Watch::backlog(&stores, kinds, started);
    let tally = match &jobs {
        None => None,
        Some(file) => {
            let target = &find(&config, None)?.name;
            let store = stores.iter().find(|store| store.name == *target);
            let store = store.ok_or_else(|| Failure::usage(format!("provider `{target}` is not open")))?;
            let (tally, known) = load(store, file, plan.catalog(), &mut progress).await?;
            watch.narrow(target, known);
            Some(tally)
        }
    };
    let fresh = match &tally {
        Some(tally) => tally.stored,
        None => watch.count().await,
    };
    progress.begin(fresh + watch.known());
    let running = Manager::start(plan).await?;
    let end = until_done(&running, &mut watch, &mut progress, &mut signals).await?;
    progress.clear();
    close(&config, &running, &watch, Closing { tally: tally.as_ref(), fresh, end, json }, out).await
}

/// Why the work ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Everything watched has ended.
    Done,
    /// A signal came.
    Signal,
}

/// Opens every provider here, so that the manager and the watch see the same store.
async fn open_all(plan: &mut Plan) -> Result<Vec<Store>, Failure> {
    let mut stores = Vec::new();
    let mut opened = Plan { providers: Vec::new(), ..plan.clone() };
    for entry in &plan.providers {
        let cx = ProviderContext {
            name: entry.name.clone(),
            incarnation: plan.incarnation,
            clock: plan.clock.clone(),
            existing_only: false,
        };
        let store = Store::opening(&entry.name, (entry.open)(cx)).await?;
        opened = opened.opened_dyn(&entry.name, entry.options.clone(), store.provider.clone());
        stores.push(store);
    }
    *plan = opened;
    Ok(stores)
}

/// The types that are done here, failure handlers' included.
fn kinds_of(plan: &Plan) -> Vec<String> {
    let workers = plan.workers.iter().map(|worker| worker.name.clone());
    let prefix = ganger_core::HANDLER_PREFIX;
    workers.chain(plan.handlers.iter().map(|handler| format!("{prefix}{}", handler.name))).collect()
}

/// Stores the jobs of a file; those that were stored already and have not ended are told one by one.
async fn load(
    store: &Store,
    file: &Path,
    catalog: Catalog,
    progress: &mut Progress,
) -> Result<(Tally, HashSet<JobId>), Failure> {
    let input: Box<dyn Read + Send> = if file == Path::new("-") {
        Box::new(io::stdin())
    } else {
        let open = File::open(file).and_then(|open| match open.metadata()?.is_dir() {
            true => Err(io::Error::from(io::ErrorKind::IsADirectory)),
            false => Ok(open),
        });
        Box::new(open.map_err(|error| {
            Failure::usage(format!("{} cannot be read: {error}", file.display()))
                .help("`--jobs` names a file with one job as JSON a line")
        })?)
    };
    let sink = store.sink()?;
    let mut batches = batches(BufReader::with_capacity(256 << 10, input), Form::json(), catalog);
    let (mut tally, mut known) = (Tally::default(), HashSet::new());
    while let Some(batch) = batches.recv().await {
        let lines =
            batch.map_err(|error| Failure::usage(format!("{} cannot be read: {error}", file.display())))?;
        put_lines(store, &sink, lines, &mut tally, |line, answer| {
            match answer {
                Ok(stored) if stored.existed && !stored.state.is_end() => {
                    known.insert(stored.id.clone());
                }
                Ok(_) => {}
                Err(why) => {
                    progress.aside(|| eprintln!("{}:{line}: {}", file.display(), one_line(&why.message)))
                }
            }
            Ok(())
        })
        .await?;
        progress.stored(tally.stored + tally.known);
    }
    Ok((tally, known))
}

/// How often the figures are looked at.
const TICK: Duration = Duration::from_millis(50);

/// Works until everything watched has ended, or a signal comes.
async fn until_done(
    running: &Running,
    watch: &mut Watch,
    progress: &mut Progress,
    signals: &mut Signals,
) -> Result<End, Failure> {
    let status = running.status();
    let mut ended = std::pin::pin!(running.ended());
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            result = &mut ended => {
                result?;
                return Ok(End::Done);
            }
            _ = signals.next() => break,
            _ = tick.tick() => {
                progress.show(&status.report());
                if watch.is_over(&*status).await {
                    running.drain();
                    ended.await?;
                    return Ok(End::Done);
                }
            }
        }
    }
    running.drain();
    loop {
        tokio::select! {
            biased;
            result = &mut ended => {
                result?;
                return Ok(End::Signal);
            }
            _ = signals.next() => running.hurry(),
        }
    }
}

/// The name of the config, for what has no worker.
fn nobody(config: &Config) -> String {
    format!("{} has no worker for it", config.name())
}

/// A store shared with the watch.
type SharedAdmin = Arc<dyn ganger_core::Admin>;
