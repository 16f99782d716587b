//! The system is short of something, or the host program has odd habits: jobs wait, or end as they should.
#![allow(clippy::unwrap_used, reason = "a test says so by a panic")]

mod rig;

use std::{fs, os::fd::OwnedFd, path::Path, process::Command};

use ganger_core::Advice;
use rig::{Rig, eventually, job, sh};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;

/// Set, this test program plays a part in a process of its own.
const PLAY: &str = "CLI_TEST_PLAYS";

/// Runs one of the parts below in a process of its own, started by a line of shell.
fn play(part: &str, before: &str) {
    let exe = std::env::current_exe().unwrap();
    let line = format!("{before} exec \"$0\" --exact {part} --nocapture");
    let output = Command::new("sh").args(["-c", &line]).arg(exe).env(PLAY, "1").output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{part}: {text}");
}

fn plays() -> bool {
    std::env::var_os(PLAY).is_some()
}

#[test]
fn f22_without_a_file_to_spare_a_job_waits_and_is_done_when_there_is_one() {
    play("played_shortage_of_files", "");
}

/// Not a test by itself: see [`play`].
#[tokio::test]
async fn played_shortage_of_files() {
    if !plays() {
        return;
    }
    let rig = Rig::new().await;
    let mut slot = rig.slot().await;
    assert!(rig::run(&mut slot, &job(json!({"command": "true"}))).await.0.is_ok());
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(64), maximum: limit.maximum }).unwrap();
    let nothing = OwnedFd::from(fs::File::open("/dev/null").unwrap());
    let hoard: Vec<_> = std::iter::from_fn(|| nothing.try_clone().ok()).collect();
    let job = job(sh("echo done"));
    let waits = job.clone();
    let mut running = tokio::spawn(async move { rig::run(&mut slot, &waits).await });
    let early = tokio::time::timeout(std::time::Duration::from_millis(100), &mut running).await;
    assert!(early.is_err(), "it could not have started: {early:?}");
    drop(hoard);
    let (result, printed) = running.await.unwrap();
    assert!(result.is_ok(), "{result:?}");
    assert_eq!(printed, "done\n");
}

#[test]
fn f22_a_job_that_waits_for_a_process_can_be_cancelled() {
    play("played_cancel_in_a_shortage", "");
}

/// Not a test by itself: see [`play`].
#[tokio::test]
async fn played_cancel_in_a_shortage() {
    if !plays() {
        return;
    }
    let rig = Rig::new().await;
    let mut slot = rig.slot().await;
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(64), maximum: limit.maximum }).unwrap();
    let nothing = OwnedFd::from(fs::File::open("/dev/null").unwrap());
    let mut hoard: Vec<_> = std::iter::from_fn(|| nothing.try_clone().ok()).collect();
    // One to look with: a pipe takes two.
    hoard.pop();
    let job = job(json!({"command": "true"}));
    let stop = async {
        eventually("it tries again and again", || waits_of("ganger-cli-0") > 4).await;
        job.ask_to_stop(ganger_core::StopReason::Cancel);
    };
    let ((result, _), ()) = tokio::join!(rig::run(&mut slot, &job), stop);
    assert!(result.unwrap_err().message().contains("before it could be started"));
}

/// How often a thread has waited.
fn waits_of(name: &str) -> u64 {
    let tasks: Vec<_> = fs::read_dir("/proc/self/task").unwrap().flatten().map(|task| task.path()).collect();
    let read = |path: &Path, file: &str| fs::read_to_string(path.join(file)).unwrap_or_default();
    let task = tasks.iter().find(|task| read(task, "comm").trim() == name);
    let status = task.map(|task| read(task, "status")).unwrap_or_default();
    let waits = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    waits.and_then(|waits| waits.trim().parse().ok()).unwrap_or_default()
}

#[test]
fn a_host_that_ignores_its_children_still_learns_how_commands_end() {
    play("played_deaf_host", "trap '' CHLD;");
}

/// Not a test by itself: see [`play`].
#[tokio::test]
async fn played_deaf_host() {
    if !plays() {
        return;
    }
    let rig = Rig::new().await;
    for _ in 0..20 {
        assert_eq!(rig.sh("exit 3").await.0.unwrap_err().message(), "exit status 3");
        assert!(rig.sh("exit 0").await.0.is_ok());
    }
}

#[test]
fn a_command_hears_signals_that_gangers_own_parent_ignored() {
    play("played_by_nohup", "trap '' HUP INT QUIT TERM;");
}

/// Not a test by itself: see [`play`].
#[tokio::test]
async fn played_by_nohup() {
    if !plays() {
        return;
    }
    let (result, printed) = Rig::new().await.sh("grep SigIgn /proc/self/status").await;
    assert!(result.is_ok());
    let ignored = u64::from_str_radix(printed.split_whitespace().last().unwrap(), 16).unwrap();
    // Those above 31 are the C library's own.
    assert_eq!(ignored & 0x7fff_ffff, 0, "{printed}");
}

/// A control group with little memory, where this user may make one.
struct SmallGroup(String);

impl SmallGroup {
    fn new() -> Option<Self> {
        let name = format!("ganger-test-{}", std::process::id());
        for (root, limit) in
            [("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")]
        {
            let group = SmallGroup(format!("{root}/{name}"));
            if fs::create_dir(&group.0).is_ok()
                && fs::write(Path::new(&group.0).join(limit), "33554432").is_ok()
            {
                return Some(group);
            }
        }
        None
    }
}

impl Drop for SmallGroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

#[tokio::test]
async fn f21_a_command_that_the_kernel_kills_for_its_memory_is_a_lost_run_and_named() {
    let Some(group) = SmallGroup::new() else {
        println!("not tried: this user may make no control group with a memory limit");
        return;
    };
    let hog = format!("set -e; ulimit -v 1000000; echo $$ > {}/cgroup.procs; exec tail /dev/zero", group.0);
    let (result, _) = Rig::new().await.sh(&hog).await;
    let error = result.unwrap_err();
    assert_eq!(error.advice(), Advice::Lost, "{}", error.message());
    assert!(error.message().contains("out of memory"), "{}", error.message());
}
