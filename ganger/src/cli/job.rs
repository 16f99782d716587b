//! `ganger job`: stored jobs.

use std::{sync::Arc, time::Duration};

use ganger_core::{Admin, Ended, Filter, JobId, JobView, Order, Page, Period, State};
use serde_json::json;

use crate::Config;

use super::{
    Context,
    crew::Crew,
    failure::{Exit, Failure},
    logs,
    out::Out,
    recover,
    select::{FilterArgs, Selection},
    store::{Access, Store},
    table::{counted, grouped},
    view::{print_list, print_view, view_json},
};

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// List stored jobs, newest first
    #[command(
        after_help = "Examples:\n  ganger job ls --state ready,running\n  ganger job ls --type cli --json | jq -r .id"
    )]
    Ls(Ls),
    /// Show all that is known of a job
    #[command(
        after_help = "Examples:\n  ganger job show 0199f0c2-…\n  ganger job show nightly-backup --json | jq .attempts"
    )]
    Show(One),
    /// Print what a job's last run printed, or with `-f` what it prints
    #[command(
        after_help = "Examples:\n  ganger job logs 0199f0c2-…\n  ganger job logs -f nightly-backup && echo backed up"
    )]
    Logs(logs::Args),
    /// Wait until jobs have ended; exit 0 if all ended done
    #[command(after_help = "Example:\n  ganger job wait nightly-backup --timeout 1h && echo backed up")]
    Wait(Wait),
    /// Run ended jobs again with their budgets restored, or scheduled ones now
    #[command(
        after_help = "Examples:\n  ganger job retry 0199f0c2-…\n  ganger job retry --type http --error 'timed out'"
    )]
    Retry(Selection),
    /// End jobs: waiting ones at once, running ones by stopping them
    #[command(
        after_help = "Examples:\n  ganger job cancel 0199f0c2-…\n  ganger job cancel --queue mail --yes"
    )]
    Cancel(Selection),
    /// Forget jobs that are not running
    #[command(after_help = "Examples:\n  ganger job rm 0199f0c2-…\n  ganger job rm --name test --yes")]
    Rm(Selection),
    /// Bring back jobs that interrupted runs of ganger's predecessor left in a store
    #[command(
        after_help = "Examples:\n  ganger job recover                   how many there are\n  ganger job recover --all\n  ganger job recover --all --yes --provider jobs"
    )]
    Recover(recover::Args),
}

#[derive(Debug, clap::Args)]
pub(crate) struct Ls {
    /// In these states: scheduled, ready, running, done, dead, cancelled, expired
    #[arg(long, value_name = "STATE", value_delimiter = ',')]
    state: Vec<State>,
    #[command(flatten)]
    filter: FilterArgs,
    /// At most so many
    #[arg(short = 'n', long, default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..))]
    limit: u64,
    /// Those after this one in the list
    #[arg(long, value_name = "ID")]
    after: Option<JobId>,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
    /// The provider that holds them, by its name in the config
    #[arg(long, value_name = "NAME")]
    provider: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct One {
    /// The job's id
    id: JobId,
    /// As JSON
    #[arg(long)]
    json: bool,
    /// The provider that holds it, by its name in the config
    #[arg(long, value_name = "NAME")]
    provider: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Wait {
    /// The jobs' ids
    #[arg(required = true, value_name = "ID")]
    ids: Vec<JobId>,
    /// No longer than this, like `30s`; then exit 1
    #[arg(long, value_name = "DURATION")]
    timeout: Option<Period>,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
    /// The provider that holds them, by its name in the config
    #[arg(long, value_name = "NAME")]
    provider: Option<String>,
}

pub(crate) async fn run(cx: &Context, command: Command, out: &mut Out) -> Result<Exit, Failure> {
    match command {
        Command::Ls(args) => ls(cx, args, out).await,
        Command::Show(args) => show(cx, args, out, None).await,
        Command::Logs(args) => logs::run(cx, args, out).await,
        Command::Wait(args) => wait(cx, args, out).await,
        Command::Retry(selection) => {
            let states = vec![State::Dead, State::Cancelled, State::Expired, State::Scheduled];
            order(cx, &selection, Order::Retry, states, out).await
        }
        Command::Cancel(selection) => {
            let states = vec![State::Scheduled, State::Ready, State::Running];
            order(cx, &selection, Order::Cancel, states, out).await
        }
        Command::Rm(selection) => {
            let states = State::ALL.into_iter().filter(|state| *state != State::Running).collect();
            order(cx, &selection, Order::Remove, states, out).await
        }
        Command::Recover(args) => recover::run(cx, args, out).await,
    }
}

async fn ls(cx: &Context, args: Ls, out: &mut Out) -> Result<Exit, Failure> {
    let states = (!args.state.is_empty()).then_some(args.state);
    let (filter, config) = (args.filter.filter(states), cx.config()?);
    let list = List { noun: "jobs", filter, limit: args.limit, after: args.after, json: args.json };
    let store = Store::open(&config, args.provider.as_deref(), Access::Existing).await?;
    let shown = list.print(&config, &store, out).await;
    store.close().await;
    shown
}

/// A list to be printed page by page.
pub(super) struct List {
    /// What it lists.
    pub(super) noun: &'static str,
    pub(super) filter: Filter,
    pub(super) limit: u64,
    pub(super) after: Option<JobId>,
    pub(super) json: bool,
}

/// How many jobs are asked for at once.
const PAGE: u64 = 500;

impl List {
    pub(super) async fn print(self, config: &Config, store: &Store, out: &mut Out) -> Result<Exit, Failure> {
        let admin = store.admin()?;
        let (mut left, mut after, mut shown) = (self.limit, self.after.clone(), 0u64);
        while left > 0 {
            let page = Page { limit: left.min(PAGE) as usize, after: after.clone() };
            let mut views = store.ask(admin.list(&self.filter, &page)).await?;
            let crew = Crew::of(config, store, &views).await;
            if let Some(crew) = &crew {
                views.iter_mut().for_each(|view| crew.explain(view));
            }
            let Some(last) = views.last() else { break };
            after = Some(last.id.clone());
            left -= (views.len() as u64).min(left);
            shown += views.len() as u64;
            match self.json {
                true => views.iter().try_for_each(|view| out.json(&view_json(view)))?,
                false => print_list(out, &views)?,
            }
            if let Some(crew) = crew.filter(|_| shown == views.len() as u64 && !self.json) {
                out.flush()?;
                crew.note_if_nobody(&views);
            }
            if (views.len() as u64) < page.limit as u64 {
                break;
            }
        }
        if !self.json {
            self.tell_rest(store, &*admin, shown, out).await?;
        }
        Ok(Exit::Ok)
    }

    /// What a list does not show.
    async fn tell_rest(
        &self,
        store: &Store,
        admin: &dyn Admin,
        shown: u64,
        out: &mut Out,
    ) -> Result<(), Failure> {
        if shown == 0 {
            return out.line(format!("no {}", self.noun));
        }
        if shown < self.limit {
            return Ok(());
        }
        let all = store.ask(admin.count(&self.filter)).await?;
        if all > shown {
            out.line(format!("{} of {}; `-n` shows more", grouped(shown), counted(all, "job")))?;
        }
        Ok(())
    }
}

/// The job, or exit 1 if it is not known (any more).
pub(super) async fn find(store: &Store, admin: &Arc<dyn Admin>, id: &JobId) -> Result<JobView, Failure> {
    store.ask(admin.show(id)).await?.ok_or_else(|| unknown(id, &store.name))
}

fn unknown(id: &JobId, provider: &str) -> Failure {
    Failure::new(Exit::No, format!("provider `{provider}` knows no job {id}"))
        .help("it may be past its keeping time: done jobs are kept for a while only")
}

pub(super) async fn show(
    cx: &Context,
    args: One,
    out: &mut Out,
    wanted: Option<State>,
) -> Result<Exit, Failure> {
    let config = cx.config()?;
    let store = Store::open(&config, args.provider.as_deref(), Access::Existing).await?;
    let admin = store.admin()?;
    let mut view = find(&store, &admin, &args.id).await?;
    if let Some(state) = wanted.filter(|state| *state != view.state) {
        return Err(Failure::new(Exit::No, format!("job {} is {}, not {state}", view.id, view.state)));
    }
    let crew = Crew::of(&config, &store, std::slice::from_ref(&view)).await;
    if let Some(crew) = &crew {
        crew.explain(&mut view);
    }
    match args.json {
        true => out.json_pretty(&view_json(&view))?,
        false => print_view(out, &view)?,
    }
    if let Some(crew) = crew.filter(|_| !args.json) {
        out.flush()?;
        crew.note_if_nobody(std::slice::from_ref(&view));
    }
    store.close().await;
    Ok(Exit::Ok)
}

async fn wait(cx: &Context, args: Wait, out: &mut Out) -> Result<Exit, Failure> {
    let store = Store::open(&cx.config()?, args.provider.as_deref(), Access::Existing).await?;
    let waiting = wait_for(&store, &args.ids, args.json, out);
    let ended = match args.timeout {
        None => waiting.await?,
        Some(limit) => match tokio::time::timeout(limit.get(), waiting).await {
            Ok(ended) => ended?,
            Err(_) => return Err(Failure::new(Exit::No, format!("not all had ended after {limit}"))),
        },
    };
    store.close().await;
    Ok(if ended { Exit::Ok } else { Exit::No })
}

/// How often a wait is begun anew after the store failed.
const WAIT_AGAIN: Duration = Duration::from_secs(1);

/// Waits for jobs and tells the end of each; whether all ended done.
async fn wait_for(store: &Store, ids: &[JobId], json: bool, out: &mut Out) -> Result<bool, Failure> {
    let sink = store.sink()?;
    let (mut open, mut well) = (ids.to_vec(), true);
    while !open.is_empty() {
        // Not bounded: it is the wait itself, and the caller may give it a limit.
        let ended = match sink.ended(&open).await {
            Ok(ended) => ended,
            Err(error) if error.severity() == ganger_core::Severity::Transient => {
                tracing::warn!(%error, "waiting goes on");
                tokio::time::sleep(WAIT_AGAIN).await;
                continue;
            }
            Err(error) => return Err(Failure::store(&store.name, &error)),
        };
        for end in &ended {
            well &= end.state == Some(State::Done);
            tell_end(end, json, out)?;
        }
        out.flush()?;
        open.retain(|id| !ended.iter().any(|end| end.id == *id));
    }
    Ok(well)
}

fn tell_end(end: &Ended, json: bool, out: &mut Out) -> Result<(), Failure> {
    if json {
        return out.json(&json!({ "id": end.id, "state": end.state, "runs": end.runs, "error": end.error }));
    }
    let state = end.state.map_or("not known (any more)", State::as_str);
    let error =
        end.error.as_ref().map(|error| format!(": {}", super::out::one_line(error))).unwrap_or_default();
    out.line(format!("{} {state}{error}", end.id))
}

/// Carries out an order, after a question where it is for many.
pub(super) async fn order(
    cx: &Context,
    selection: &Selection,
    order: Order,
    states: Vec<State>,
    out: &mut Out,
) -> Result<Exit, Failure> {
    let filter = selection.filter(Some(states))?;
    let (verb, done) = match order {
        Order::Retry => ("Retry", "to be run again"),
        Order::Cancel => ("Cancel", "cancelled, or told to stop"),
        Order::Remove => ("Forget", "forgotten"),
    };
    let store = Store::open(&cx.config()?, selection.provider.as_deref(), Access::Existing).await?;
    let admin = store.admin()?;
    let count = store.ask(admin.count(&filter)).await?;
    if count > 0 && !selection.confirm(verb, count)? {
        out.line("nothing changed")?;
        return Ok(Exit::No);
    }
    let changed = if count == 0 { 0 } else { store.ask(admin.order(order, &filter)).await? };
    let is_whole = changed as usize >= selection.ids().len();
    let named = if is_whole { Vec::new() } else { passed(&store, &admin, selection.ids()).await? };
    store.close().await;
    if selection.json {
        let named: Vec<_> = named.iter().map(Passed::json).collect();
        out.json(&json!({ "changed": changed, "now": named }))?;
    } else {
        out.line(format!("{} {done}", counted(changed, "job")))?;
        named.iter().try_for_each(|passed| out.line(passed.text()))?;
        if order == Order::Retry && selection.ids().is_empty() && changed < count {
            out.line(format!(
                "{} left as they were: other jobs hold their `unique` keys, or they have moved on",
                counted(count - changed, "job")
            ))?;
        }
    }
    Ok(if is_whole { Exit::Ok } else { Exit::No })
}

/// A named job as it is now, where the order did not fit all of them.
struct Passed {
    id: JobId,
    state: Option<State>,
    /// The job that holds its unique key, where it has ended.
    holder: Option<JobId>,
}

impl Passed {
    fn text(&self) -> String {
        let Passed { id, state, holder } = self;
        match (state, holder) {
            (None, _) => format!("{id}: not known (any more)"),
            (Some(state), None) => format!("{id}: is {state} now"),
            (Some(state), Some(holder)) => {
                format!("{id}: is {state} now, and job {holder} holds its `unique` key")
            }
        }
    }

    fn json(&self) -> serde_json::Value {
        let mut json = json!({ "id": self.id, "state": self.state });
        if let Some(holder) = &self.holder {
            json["holder"] = json!(holder);
        }
        json
    }
}

async fn passed(store: &Store, admin: &Arc<dyn Admin>, ids: &[JobId]) -> Result<Vec<Passed>, Failure> {
    let mut passed = Vec::with_capacity(ids.len());
    for id in ids {
        let view = store.ask(admin.show(id)).await?;
        let ended = view.as_ref().filter(|view| view.state.is_end()).and_then(|view| view.job.as_ref());
        let holder = match ended.and_then(|job| job.rare().unique.as_ref()) {
            Some(unique) => store.ask(admin.holder(&unique.key)).await?.filter(|holder| holder != id),
            None => None,
        };
        passed.push(Passed { id: id.clone(), state: view.map(|view| view.state), holder });
    }
    Ok(passed)
}
