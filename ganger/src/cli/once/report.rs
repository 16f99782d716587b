//! The closing table: what happened, and what is left.

use anstream::eprintln;
use ganger_core::{Count, Figures, Filter, JobView, Page, Report, State};
use ganger_manager::Running;
use serde_json::{Value, json};

use super::{End, Watch, nobody};
use crate::{
    Config,
    cli::{
        enqueue::Tally,
        failure::{Exit, Failure},
        out::Out,
        store::bounded,
        table::{Rows, counted, grouped, took},
        view::{last_error, shortened, view_json},
    },
};

/// How many dead letters are named.
const DEAD_SHOWN: usize = 10;

/// How many dead letters are looked through for those of this run.
const DEAD_SEEN: usize = 10_000;

/// What is known at the end besides the stores.
pub(super) struct Closing<'a> {
    /// What became of the jobs of the file.
    pub(super) tally: Option<&'a Tally>,
    /// How many jobs there were to do at the start, besides those of a file that were stored already.
    pub(super) fresh: u64,
    pub(super) end: End,
    pub(super) json: bool,
}

/// What the stores tell at the end.
#[derive(Default)]
struct Told {
    dead: Vec<JobView>,
    /// What has not ended, and why it was not waited for.
    left: Vec<(Count, String)>,
    /// How many of the jobs ended, but not here; at least so many.
    elsewhere: u64,
    /// There was no job to do.
    nothing: bool,
}

/// How many of the jobs that there were at the start are neither left nor among those that ended here. Jobs that
/// these enqueued make it fewer, never more.
fn elsewhere(fresh: u64, report: &Report, left: &[(Count, String)]) -> u64 {
    let ends = |figures: &Figures| figures.done + figures.dead + figures.cancelled + figures.expired;
    let here: u64 = report.by_type.values().map(ends).sum();
    let left: u64 = left.iter().map(|(count, _)| count.count).sum();
    fresh.saturating_sub(here + left)
}

/// Tells what happened, as tables or as JSON; the exit code.
pub(super) async fn close(
    config: &Config,
    running: &Running,
    watch: &Watch,
    closing: Closing<'_>,
    out: &mut Out,
) -> Result<Exit, Failure> {
    let Closing { tally, fresh, end, json } = closing;
    let report = running.status().report();
    let mut told = Told::default();
    for (name, admin) in &watch.stores {
        let Some(admin) = admin else { continue };
        told.dead.extend(dead_of(watch, name, admin).await?);
        told.left.extend(left_of(config, watch, name, admin).await?);
    }
    if end == End::Done && watch.stores.iter().all(|(_, admin)| admin.is_some()) {
        told.elsewhere = elsewhere(fresh, &report, &told.left);
    }
    told.nothing = fresh == 0;
    match json {
        true => out.json_pretty(&as_json(&report, tally, &told))?,
        false => print(&report, tally, &told, out)?,
    }
    if end == End::Signal {
        out.flush()?;
        eprintln!("stopped by a signal: what had not ended was handed back");
    }
    // Where a store cannot list its jobs, the figures must do.
    let died = !told.dead.is_empty()
        || watch.stores.iter().any(|(_, admin)| admin.is_none())
            && report.by_type.values().any(|figures| figures.dead > 0);
    Ok(match tally {
        _ if died || end == End::Signal => Exit::No,
        Some(tally) if tally.refused > 0 => Exit::Refused,
        _ => Exit::Ok,
    })
}

fn print(report: &Report, tally: Option<&Tally>, told: &Told, out: &mut Out) -> Result<(), Failure> {
    if let Some(tally) = tally {
        out.line(tally.text())?;
    }
    print_done(report, told, out)?;
    print_dead(&told.dead, out)?;
    print_left(&told.left, out)
}

fn as_json(report: &Report, tally: Option<&Tally>, told: &Told) -> Value {
    let left = told.left.iter().map(|(count, why)| {
        json!({ "type": count.kind, "queue": count.queue, "state": count.state, "count": count.count, "why": why })
    });
    json!({
        "stored": tally.map(|tally| tally.stored),
        "known": tally.map(|tally| tally.known),
        "refused": tally.map(|tally| tally.refused),
        "seconds": report.uptime.as_secs_f64(),
        "by_type": report.by_type,
        "dead": told.dead.iter().map(view_json).collect::<Vec<_>>(),
        "left": left.collect::<Vec<_>>(),
        "elsewhere": told.elsewhere,
    })
}

fn print_done(report: &Report, told: &Told, out: &mut Out) -> Result<(), Failure> {
    let headings = ["type", "runs", "done", "failed runs", "dead", "other", "median", "p95"];
    let mut rows = Rows::new(out, &headings).right(&[1, 2, 3, 4, 5, 6, 7]);
    for (kind, figures) in report.by_type.iter().filter(|(_, figures)| **figures != Figures::default()) {
        rows.row([
            kind.clone(),
            grouped(figures.runs),
            grouped(figures.done),
            grouped(figures.failed + figures.lost),
            grouped(figures.dead),
            grouped(figures.cancelled + figures.expired),
            took(figures.p50),
            took(figures.p95),
        ]);
    }
    if rows.is_empty() {
        out.line(if told.nothing { "nothing to do" } else { "nothing was done here" })?;
        return print_elsewhere(told.elsewhere, out);
    }
    rows.print(out)?;
    let done: u64 = report.by_type.values().map(|figures| figures.done).sum();
    let secs = report.uptime.as_secs_f64();
    let rate = if secs > 0.0 { done as f64 / secs } else { 0.0 };
    out.line(format!(
        "{} done in {} ({} a second)",
        counted(done, "job"),
        took(report.uptime.as_nanos() as u64),
        grouped(rate as u64)
    ))?;
    print_elsewhere(told.elsewhere, out)
}

fn print_elsewhere(jobs: u64, out: &mut Out) -> Result<(), Failure> {
    match jobs {
        0 => Ok(()),
        jobs => out.line(format!(
            "{} ended elsewhere: by another ganger on this store, or by an order",
            counted(jobs, "job")
        )),
    }
}

/// The watched jobs that died in this run.
async fn dead_of(watch: &Watch, name: &str, admin: &super::SharedAdmin) -> Result<Vec<JobView>, Failure> {
    let filter = Filter { states: Some(vec![State::Dead]), ..Filter::default() };
    let (mut dead, mut seen) = (Vec::new(), 0);
    let mut page = Page { limit: 500, after: None };
    while seen < DEAD_SEEN {
        let views = bounded(name, admin.list(&filter, &page)).await?;
        let Some(last) = views.last() else { break };
        page.after = Some(last.id.clone());
        seen += views.len();
        let is_last = views.len() < page.limit;
        let fresh = |view: &JobView| view.ended_at.is_none_or(|at| at >= watch.started);
        for view in views.into_iter().filter(fresh) {
            if watch.is_watched(name, admin, &view).await? {
                dead.push(view);
            }
        }
        if is_last {
            break;
        }
    }
    Ok(dead)
}

fn print_dead(dead: &[JobView], out: &mut Out) -> Result<(), Failure> {
    if dead.is_empty() {
        return Ok(());
    }
    out.line("")?;
    let mut rows = Rows::new(out, &["dead", "type", "name", "runs", "why"]).right(&[3]).whole(&[0, 3]);
    for view in dead.iter().take(DEAD_SHOWN) {
        let job = view.job.as_ref();
        let why = last_error(view).or_else(|| view.reason.clone()).unwrap_or_default();
        rows.row([
            view.id.to_string(),
            job.map_or("(no job)", |job| job.kind.as_str()).to_owned(),
            shortened(job.and_then(|job| job.name.as_deref()).unwrap_or_default(), 32),
            crate::cli::view::runs(view).to_string(),
            shortened(&why, 80),
        ]);
    }
    rows.print(out)?;
    if dead.len() > DEAD_SHOWN {
        out.line(format!("… and {} more", grouped((dead.len() - DEAD_SHOWN) as u64)))?;
    }
    out.line("see them with `ganger dead ls`, run them again with `ganger dead retry`")
}

/// What has not ended, and why it was not waited for.
async fn left_of(
    config: &Config,
    watch: &Watch,
    name: &str,
    admin: &super::SharedAdmin,
) -> Result<Vec<(Count, String)>, Failure> {
    let mut left = Vec::new();
    for count in bounded(name, admin.counts()).await?.into_iter().filter(|count| count.count > 0) {
        let why = match count.state {
            State::Ready if watch.does(&count.kind) => "not of this run".to_owned(),
            State::Ready => nobody(config),
            State::Scheduled if watch.does(&count.kind) => "scheduled for later".to_owned(),
            State::Scheduled => format!("scheduled for later; {}", nobody(config)),
            State::Running => "held by another ganger".to_owned(),
            _ => continue,
        };
        left.push((count, why));
    }
    Ok(left)
}

fn print_left(left: &[(Count, String)], out: &mut Out) -> Result<(), Failure> {
    if left.is_empty() {
        return Ok(());
    }
    out.line("")?;
    let mut rows = Rows::new(out, &["left", "type", "queue", "why"]).right(&[0]);
    for (count, why) in left {
        rows.row([grouped(count.count), count.kind.clone(), count.queue.clone(), why.clone()]);
    }
    rows.print(out)
}
