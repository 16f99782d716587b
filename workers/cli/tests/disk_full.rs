//! A disk that is full under `keep_output`. In a program of its own: its limit is the whole process's.
#![allow(clippy::unwrap_used, reason = "a test fails where it panics")]
#![allow(unsafe_code)]

mod rig;

use std::fs;

use ganger_core::{Events, JobContext, Worker};
use rig::{Rig, job_told, sh, soon};
use serde_json::json;
use tempfile::TempDir;

/// Runs a job that ends well; what it left stays with it.
async fn work(rig: &Rig, job: &JobContext) {
    let mut slot = rig.slot().await;
    soon(slot.work(job.params().unwrap(), job)).await.unwrap();
}

#[tokio::test]
async fn disk_full_on_keep_output_fails_no_job_and_its_record_says_where_the_file_ends() {
    const ROOM: u64 = 100 << 10;
    let place = TempDir::new().unwrap();
    let rig = Rig::with(json!({ "keep_output": { "dir": place.path() } })).await;
    // SAFETY: sets what this process may do; nothing else runs in it.
    unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
        let limit = libc::rlimit { rlim_cur: ROOM, rlim_max: libc::RLIM_INFINITY };
        assert_eq!(libc::setrlimit(libc::RLIMIT_FSIZE, &limit), 0);
    }
    let job = job_told(sh("yes | head -c 1000000; echo last"), 100, &Events::default());
    work(&rig, &job).await;
    let file = fs::read_dir(place.path()).unwrap().next().unwrap().unwrap();
    assert_eq!(file.metadata().unwrap().len(), ROOM);
    let side = job.take_side().unwrap();
    let note = side.note.unwrap();
    assert!(note.contains(&format!("only the first {ROOM} bytes")) && note.contains("large"), "{note}");
    let output = side.output.unwrap().finish();
    assert_eq!((output.total(), output.text().ends_with("last\n")), (1_000_005, true));
}
