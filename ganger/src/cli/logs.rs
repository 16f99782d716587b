//! `ganger job logs`: what a job printed, or prints.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use ganger_core::{JobId, JobView, Output, State, cut_note};
use serde_json::json;

use crate::Config;

use super::{
    Context,
    failure::{Exit, Failure},
    follow::{Apart, How, follow},
    job::find,
    out::Out,
    store::{Access, Store},
};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The job's id
    id: JobId,
    /// Follow it to its end, by the running ganger of the config; exit 0 if it ended done
    #[arg(short, long)]
    follow: bool,
    /// The bytes as they are, also what would steer a terminal
    #[arg(long, conflicts_with = "json")]
    raw: bool,
    /// As JSON; with `-f` each event as a line
    #[arg(long)]
    json: bool,
    /// The provider that holds it, by its name in the config
    #[arg(long, value_name = "NAME")]
    provider: Option<String>,
}

pub(super) async fn run(cx: &Context, args: Args, out: &mut Out) -> Result<Exit, Failure> {
    let config = cx.config()?;
    if !args.follow {
        let view = stored(&config, &args).await?;
        print_output(&config, &view, &args, out)?;
        return Ok(Exit::Ok);
    }
    let how = How { json: args.json, raw: args.raw };
    let apart = match follow(&config.stats, &args.id, how, out).await? {
        Ok(exit) => return Ok(exit),
        Err(apart) => apart,
    };
    // It may have ended, and then there is nothing to follow.
    let view = stored(&config, &args).await?;
    let (id, state) = (&view.id, view.state);
    if state.is_end() {
        match print_output(&config, &view, &args, out) {
            Ok(()) => out.flush()?,
            // What it printed is not kept; how it ended is known all the same.
            Err(failure) => failure.print(),
        }
        return Ok(if state == State::Done { Exit::Ok } else { Exit::No });
    }
    Err(match apart {
        Apart::Nobody(address) => Failure::new(
            Exit::Unreachable,
            format!("no ganger answers at {address} (the config's `stats_port`); job {id} is {state}"),
        )
        .help("start one with `ganger run`, or wait for the job's end in its store: `ganger job wait ID`"),
        Apart::Unknown(address) => Failure::new(
            Exit::No,
            format!("the ganger at {address} does not work on the store that has job {id}, which is {state}"),
        )
        .help("follow it by the config of the one that does, or wait for its end: `ganger job wait ID`"),
    })
}

/// The job of a request for its output.
async fn stored(config: &Config, args: &Args) -> Result<JobView, Failure> {
    let store = Store::open(config, args.provider.as_deref(), Access::Existing).await?;
    let admin = store.admin()?;
    let view = find(&store, &admin, &args.id).await?;
    store.close().await;
    Ok(view)
}

/// What is kept of what a job's last run printed: its output, and its standard error where that is kept apart.
fn print_output(config: &Config, view: &JobView, args: &Args, out: &mut Out) -> Result<(), Failure> {
    let last = view.attempts.last();
    let tail = || last.map(|last| Output::new(last.output.as_str())).unwrap_or_default();
    let output = view.output.clone().unwrap_or_else(tail);
    let stderr = last.map(|last| last.stderr.as_str()).unwrap_or_default();
    let is_whole = view.output.is_some() && output.cut == 0;
    let [file, stderr_file] = kept_files(config, view);
    let file = file.filter(|_| !is_whole);
    if args.json {
        let mut json = json!({ "id": view.id, "output": output.text(), "whole": is_whole });
        let mut put = |key: &str, value: Option<serde_json::Value>| {
            value.into_iter().for_each(|value| json[key] = value);
        };
        put("file", file.map(|file| json!(file)));
        put("stderr", Some(json!(stderr)).filter(|_| !stderr.is_empty()));
        put("stderr_file", stderr_file.map(|file| json!(file)));
        return out.json(&json);
    }
    if file.is_none() && output.is_empty() && stderr.is_empty() && stderr_file.is_none() {
        return Err(Failure::new(Exit::No, format!("no output of job {} is kept", view.id)).help(
            "the output of a job is kept if it is enqueued with `capture_output`, or someone waits for it; of a failed run, the end",
        ));
    }
    match file {
        Some(file) => print_file(&file, args, out)?,
        None => print_stored(&output, args, out)?,
    }
    out.flush()?;
    let mut complaints = Out::stderr();
    match stderr_file {
        Some(file) => print_file(&file, args, &mut complaints)?,
        None => print_stored(&Output::new(stderr), args, &mut complaints)?,
    }
    complaints.finish()
}

fn print_stored(output: &Output, args: &Args, out: &mut Out) -> Result<(), Failure> {
    if output.cut == 0 {
        return if args.raw { out.piece(&output.bytes, true) } else { out.output(&output.bytes) };
    }
    let (head, tail) = output.bytes.split_at(output.cut_at.min(output.bytes.len()));
    out.piece(head, args.raw)?;
    match args.raw {
        true => {
            out.flush()?;
            anstream::eprintln!("{} bytes are missing here", output.cut);
            out.piece(tail, true)
        }
        false => {
            out.piece(cut_note(output.cut).as_bytes(), false)?;
            out.output(tail)
        }
    }
}

/// The files that have all that a job's last run printed, by stream, where the worker of its type keeps such files here.
fn kept_files(config: &Config, view: &JobView) -> [Option<PathBuf>; 2] {
    let kind = view.job.as_ref().map(|job| &job.kind);
    let mut entries = config.workers.iter().chain(&config.handlers);
    match entries.find(|entry| kind.is_some_and(|kind| entry.name == *kind)) {
        Some(entry) => crate::plugins::kept_files(entry.plugin.name, &entry.options, &view.id),
        None => [None, None],
    }
}

fn print_file(path: &Path, args: &Args, out: &mut Out) -> Result<(), Failure> {
    let cannot =
        |error: io::Error| Failure::new(Exit::No, format!("{} cannot be read: {error}", path.display()));
    let mut file = File::open(path).map_err(cannot)?;
    let mut buffer = vec![0; 64 << 10];
    loop {
        match file.read(&mut buffer).map_err(cannot)? {
            0 => return Ok(()),
            read => out.piece(&buffer[..read], args.raw)?,
        }
    }
}
