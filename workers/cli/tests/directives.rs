//! `directives = true`: lines by which a command speaks to ganger.
#![allow(clippy::unwrap_used, reason = "a test fails where it panics")]

mod rig;

use ganger_core::{Events, Live, Worker};
use rig::{Rig, job_told, run, sh, soon};
use serde_json::json;

const SCRIPT: &str = "echo one; echo '::progress 40 half way'; printf '::res'; sleep 0.05; \
                      printf 'ult {\"rows\": 7}\\n::header x=y\\n'; echo two; printf '::progress 100'";

#[tokio::test]
async fn a_commands_result_is_the_output_and_its_progress_is_told() {
    let rig = Rig::with(json!({ "directives": true })).await;
    let events = Events::default();
    let job = job_told(sh(SCRIPT), 1 << 20, &events);
    let mut follower = events.follow(job.id());
    let (result, printed) = soon(run(&mut rig.slot().await, &job)).await;
    let result = result.unwrap();
    assert_eq!(result.content_type.as_deref(), Some("application/json"));
    assert_eq!(result.text(), r#"{"rows": 7}"#);
    assert_eq!(printed, "one\n::header x=y\ntwo\n", "what is no directive is output, and no directive is");
    let progress = follower.try_next();
    assert_eq!(progress, Some(Live::Progress { percent: 100, message: String::new() }), "the newest");
}

#[tokio::test]
async fn a_media_type_goes_with_what_was_printed() {
    let rig = Rig::with(json!({ "directives": true })).await;
    let job = job_told(sh("echo '::header content-type=text/csv'; echo a,b"), 1 << 20, &Events::default());
    let mut slot = rig.slot().await;
    let returned = soon(Worker::work(&mut slot, job.params().unwrap(), &job)).await.unwrap();
    assert!(returned.is_empty());
    let side = job.take_side().unwrap();
    assert_eq!(
        (side.content_type.as_deref(), side.output.unwrap().finish().text().as_str()),
        (Some("text/csv"), "a,b\n")
    );
}

#[tokio::test]
async fn without_the_option_such_lines_are_output() {
    let rig = Rig::new().await;
    let (result, printed) = soon(rig.sh("echo '::result {}'; echo '::progress 1'")).await;
    assert_eq!((result.unwrap().is_empty(), printed.as_str()), (true, "::result {}\n::progress 1\n"));
}
