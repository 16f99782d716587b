//! `keep_output`: the whole output in a file, and what keeps those files safe and few.
#![allow(clippy::unwrap_used, reason = "a test fails where it panics")]

mod rig;

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use ganger_core::{Events, JobContext, Worker};
use ganger_worker_cli::Cli;
use rig::{Rig, eventually, job_told, sh, soon};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Runs a job that ends well; what it left stays with it.
async fn work(rig: &Rig, job: &JobContext) {
    let mut slot = rig.slot().await;
    soon(slot.work(job.params().unwrap(), job)).await.unwrap();
}

async fn rig(dir: &Path, more: Value) -> Rig {
    let mut keep = json!({ "dir": dir });
    keep.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    Rig::with(json!({ "keep_output": keep })).await
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

#[tokio::test]
async fn the_whole_output_is_in_a_file_that_is_its_owners_alone() {
    let place = TempDir::new().unwrap();
    let dir = place.path().join("deep/output");
    let rig = rig(&dir, json!({})).await;
    let job = job_told(sh("seq 100000; printf '\\377'; echo to stderr >&2"), 100, &Events::default());
    work(&rig, &job).await;
    let wanted = dir.join(format!("{}.1.log", job.id()));
    assert_eq!(files(&dir), std::slice::from_ref(&wanted));
    let kept = fs::read(&wanted).unwrap();
    assert_eq!((kept.len(), kept.ends_with(b"100000\n\xffto stderr\n")), (588_895 + 11, true));
    assert_eq!(fs::metadata(&wanted).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::metadata(&dir).unwrap().permissions().mode() & 0o777, 0o700);
    let config = serde_json::from_value(json!({ "dir": dir })).unwrap();
    assert_eq!(ganger_worker_cli::kept_files(&config, job.id()), [Some(wanted), None]);
    assert_eq!(ganger_worker_cli::kept_files(&config, &"other".parse().unwrap()), [None, None]);
    // The number of a run that was lost comes again: both outputs stay.
    work(&rig, &job).await;
    assert_eq!(files(&dir).len(), 2);
    soon(rig.sh("true")).await.0.unwrap();
    assert_eq!(files(&dir).len(), 2, "what prints nothing has no file");
}

#[tokio::test]
async fn in_the_store_it_is_kept_as_if_each_job_asked_for_it() {
    for (config, keeps) in [(json!({ "keep_output": "store" }), true), (json!({}), false)] {
        let job = job_told(sh("echo out"), 100, &Events::default());
        work(&Rig::with(config).await, &job).await;
        assert_eq!(job.take_side().unwrap().keep_output, keeps);
    }
    let refused =
        |text: &str| serde_json::from_str::<ganger_worker_cli::Config>(text).unwrap_err().to_string();
    let error = refused(r#"{"keep_output": "shop"}"#);
    assert!(error.contains(r#"invalid value: string "shop", expected "store", or a table"#), "{error}");
    let error = refused(r#"{"keep_output": {"dri": "x"}}"#);
    assert!(error.contains("unknown field `dri`"), "{error}");
}

#[tokio::test]
async fn s6_a_link_that_lies_in_wait_is_not_followed_and_an_open_folder_is_refused() {
    let place = TempDir::new().unwrap();
    let dir = place.path().join("output");
    let rig = rig(&dir, json!({})).await;
    let victim = place.path().join("victim");
    fs::write(&victim, "precious").unwrap();
    let job = job_told(sh("echo evil"), 100, &Events::default());
    symlink(&victim, dir.join(format!("{}.1.log", job.id()))).unwrap();
    symlink(place.path().join("new"), dir.join(format!("{}.1-2.log", job.id()))).unwrap();
    work(&rig, &job).await;
    assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
    assert!(!place.path().join("new").exists());
    assert_eq!(fs::read_to_string(dir.join(format!("{}.1-3.log", job.id()))).unwrap(), "evil\n");
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).unwrap();
    let config = serde_json::from_value(json!({ "keep_output": { "dir": dir } })).unwrap();
    let refused = Cli::share(config, &rig::context("run")).await;
    assert!(refused.unwrap_err().to_string().contains("everybody may write"));
}

#[tokio::test]
async fn a_file_ends_at_its_max_size_and_the_record_says_so() {
    let place = TempDir::new().unwrap();
    let rig = rig(place.path(), json!({ "max_size": "10KiB" })).await;
    let job = job_told(sh("yes | head -c 50000"), 100, &Events::default());
    work(&rig, &job).await;
    assert_eq!(fs::metadata(&files(place.path())[0]).unwrap().size(), 10 << 10);
    let side = job.take_side().unwrap();
    let note = side.note.unwrap();
    assert!(note.contains("only the first 10240 bytes") && note.contains("max_size"), "{note}");
    assert_eq!(side.output.unwrap().finish().total(), 50_000, "nothing else is cut");
}

#[tokio::test]
async fn old_files_go_and_the_oldest_when_all_are_too_much() {
    let place = TempDir::new().unwrap();
    let put = |name: &str, age: u64, size: usize| {
        let file = fs::File::create(place.path().join(name)).unwrap();
        file.set_len(size as u64).unwrap();
        // tidy: allow(wall-clock), a file's age is counted by it
        file.set_modified(SystemTime::now() - Duration::from_secs(age)).unwrap();
    };
    put("ancient.1.log", 90_000, 1);
    put("older.1.log", 300, 600);
    put("newer.1.log", 200, 600);
    put("newest.2-3.log", 100, 300);
    put("somebody's.txt", 1_000_000, 5000);
    let _rig = rig(place.path(), json!({ "max_age": "1d", "max_total": "1000B" })).await;
    let names =
        || files(place.path()).iter().map(|file| file.file_name().unwrap().to_owned()).collect::<Vec<_>>();
    eventually("the old ones to go", || names() == ["newer.1.log", "newest.2-3.log", "somebody's.txt"]).await;
}

#[tokio::test]
async fn when_runs_have_written_much_what_is_too_much_goes_at_once() {
    let place = TempDir::new().unwrap();
    let rig = rig(place.path(), json!({ "max_total": "100KiB" })).await;
    for _ in 0..10 {
        soon(rig.sh("yes | head -c 30000")).await.0.unwrap();
    }
    let total = || {
        files(place.path()).iter().map(|file| fs::metadata(file).map_or(0, |data| data.size())).sum::<u64>()
    };
    eventually("the limit to be kept", || total() <= 100 << 10).await;
    assert!(!files(place.path()).is_empty());
}

/// The file takes no more, as on a disk that is full: the system says so to each write.
#[tokio::test]
async fn a_full_disk_is_no_fault_of_the_job_and_its_record_says_where_the_file_ends() {
    let place = TempDir::new().unwrap();
    let rig = rig(place.path(), json!({})).await;
    // The first file cannot be made, as where the disk has no room for a name more.
    let job = job_told(sh("echo out"), 100, &Events::default());
    fs::remove_dir(place.path()).unwrap();
    work(&rig, &job).await;
    let side = job.take_side().unwrap();
    assert!(side.note.unwrap().contains("only the first 0 bytes"), "it says so");
    assert_eq!(side.output.unwrap().finish().text(), "out\n");
}
