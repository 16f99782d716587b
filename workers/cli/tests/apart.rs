//! `streams = "apart"`: standard output is the job's output, standard error is kept beside it.
#![allow(clippy::unwrap_used, reason = "a test says so by a panic")]

mod rig;

use std::fs;

use ganger_core::{Events, JobContext, Live, Output, Stream, Worker};
use rig::{Rig, eventually, job_told, lives, number_in, sh, soon};
use serde_json::{Value, json};
use tempfile::TempDir;

async fn apart(more: Value) -> Rig {
    let mut config = json!({ "streams": "apart" });
    config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    Rig::with(config).await
}

/// Runs a line of shell; what was returned, printed and complained.
async fn run(rig: &Rig, line: &str) -> (Output, String, String) {
    let job = job_told(sh(line), 64 << 10, &Events::default());
    let returned = work(rig, &job).await;
    let side = job.take_side().unwrap_or_default();
    let text = |written: Option<ganger_core::OutputBuffer>| written.map(|written| written.finish().text());
    (returned, text(side.output).unwrap_or_default(), text(side.stderr).unwrap_or_default())
}

async fn work(rig: &Rig, job: &JobContext) -> Output {
    let mut slot = rig.slot().await;
    soon(slot.work(job.params().unwrap(), job)).await.unwrap()
}

#[tokio::test]
async fn only_standard_output_is_the_jobs_output() {
    let rig = apart(json!({})).await;
    let (_, printed, complained) = run(&rig, "echo out; echo err >&2; echo more").await;
    assert_eq!((printed.as_str(), complained.as_str()), ("out\nmore\n", "err\n"));
    let (_, printed, complained) = run(&rig, "echo err >&2").await;
    assert_eq!((printed.as_str(), complained.as_str()), ("", "err\n"));
}

#[tokio::test]
async fn a_flood_on_one_stream_holds_up_neither() {
    let rig = apart(json!({})).await;
    let line = "echo first; yes e | head -c 20000000 >&2; echo last; yes o | head -c 20000000; echo end >&2";
    let (_, printed, complained) = run(&rig, line).await;
    assert!(printed.starts_with("first\nlast\no\n") && printed.contains("bytes cut"), "{}", printed.len());
    assert!(complained.starts_with("e\n") && complained.ends_with("e\nend\n"));
}

#[tokio::test]
async fn f20_a_stream_that_is_closed_or_held_open_keeps_no_job() {
    let rig = apart(json!({})).await;
    for (line, out, err) in [
        ("exec >&-; sleep 0.05; echo err >&2", "", "err\n"),
        ("exec 2>&-; sleep 0.05; echo out", "out\n", ""),
        ("exec >&- 2>&-; sleep 0.05", "", ""),
    ] {
        let (_, printed, complained) = run(&rig, line).await;
        assert_eq!((printed.as_str(), complained.as_str()), (out, err), "{line}");
    }
    let dir = TempDir::new().unwrap();
    let pid = dir.path().join("pid");
    for holds in [">/dev/null", "2>/dev/null"] {
        let line = format!("sleep 1000 {holds} & echo $! > {}; echo done; echo well >&2", pid.display());
        let (_, printed, complained) = run(&rig, &line).await;
        assert_eq!((printed.as_str(), complained.as_str()), ("done\n", "well\n"));
        let left = number_in(&pid).await;
        eventually("what was left in the group is killed", || !lives(left)).await;
        fs::remove_file(&pid).unwrap();
    }
}

#[tokio::test]
async fn directives_are_read_on_standard_output_alone() {
    let rig = apart(json!({ "directives": true })).await;
    let (returned, printed, complained) =
        run(&rig, "echo '::result 1' >&2; echo '::result {\"n\": 2}'; echo '::progress 7 x' >&2; echo o")
            .await;
    assert_eq!(returned.text(), r#"{"n": 2}"#);
    assert_eq!((printed.as_str(), complained.as_str()), ("o\n", "::result 1\n::progress 7 x\n"));
}

#[tokio::test]
async fn who_follows_sees_both_streams_each_from_its_beginning() {
    let rig = apart(json!({})).await;
    let events = Events::default();
    let mut heard = events.listen();
    let job = job_told(sh("echo out; echo err >&2"), 64 << 10, &events);
    let mut follower = events.follow(job.id());
    follower.attach(job.clone());
    work(&rig, &job).await;
    job.take_side();
    let mut seen = Vec::new();
    while let Some(live) = follower.try_next() {
        let Live::Output { stream, start, bytes, .. } = live else { panic!("{live:?}") };
        seen.push((stream.as_str(), start, String::from_utf8(bytes).unwrap()));
    }
    seen.sort();
    assert_eq!(seen, [("stderr", 0, "err\n".to_owned()), ("stdout", 0, "out\n".to_owned())]);
    // One that comes later goes on where an earlier one was, in each.
    let place = follower.place([2, 1]).unwrap();
    let mut later = events.follow(job.id());
    later.attach(job.clone());
    later.resume(&place);
    let rest = |live: Option<Live>| match live {
        Some(Live::Output { stream, start, bytes, .. }) => (stream, start, bytes),
        other => panic!("{other:?}"),
    };
    assert_eq!(rest(later.try_next()), (Stream::Stdout, 2, b"t\n".to_vec()));
    assert_eq!(rest(later.try_next()), (Stream::Stderr, 3, b"\n".to_vec()));
    let mut told = Vec::new();
    while let Ok(batch) = heard.try_recv() {
        told.extend(batch.iter().map(|event| format!("{:?}", event.what)));
    }
    assert!(told.iter().any(|what| what.contains("Stderr")), "{told:?}");
}

#[tokio::test]
async fn each_stream_has_a_file_and_both_are_of_one_run() {
    let place = TempDir::new().unwrap();
    let rig = apart(json!({ "keep_output": { "dir": place.path(), "max_size": 1000 } })).await;
    let config = serde_json::from_value(json!({ "dir": place.path() })).unwrap();
    let job = job_told(sh("echo err >&2"), 64 << 10, &Events::default());
    let kept = |job: &JobContext| ganger_worker_cli::kept_files(&config, job.id());
    work(&rig, &job).await;
    let stderr = place.path().join(format!("{}.1.err.log", job.id()));
    assert_eq!(kept(&job), [None, Some(stderr)]);
    // The number of a run that was lost comes again; its file has no part in what this one printed.
    let again = JobContext::detached(ganger_core::Job { params: None, ..job.job().clone() });
    let mut slot = rig.slot().await;
    let params = serde_json::from_value(sh("seq 10000; seq 10000 >&2")).unwrap();
    soon(slot.work(params, &again)).await.unwrap();
    let [stdout, stderr] = kept(&again).map(Option::unwrap);
    assert!(stdout.ends_with(format!("{}.1-2.log", job.id())), "{stdout:?}");
    assert!(stderr.ends_with(format!("{}.1-2.err.log", job.id())), "{stderr:?}");
    for file in [stdout, stderr] {
        assert_eq!(fs::read(file).unwrap().len(), 1000, "each ends at its `max_size`");
    }
    let note = again.take_side().unwrap().note.unwrap();
    assert!(note.contains("only the first 1000 bytes of the output"), "{note}");
}
