//! No command outlives ganger, whatever ends ganger.
#![allow(clippy::unwrap_used, reason = "a test says so by a panic")]

mod rig;

use std::{
    fs,
    os::unix::process::ExitStatusExt,
    path::Path,
    process::{Child, Command, Stdio},
};

use rig::{Rig, eventually, job, lives, marked, number_in, sh};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

/// How many commands are running when ganger is killed.
const COMMANDS: usize = 50;

/// Set, this test program plays ganger: it runs commands of the mark given, in the folder given.
const PLAY: &str = "CLI_TEST_PLAYS_GANGER";

/// Not a test: what [`ganger`] starts. Without the variable it does nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn played_ganger() {
    let Ok(play) = std::env::var(PLAY) else { return };
    let (run, dir) = play.split_once(' ').unwrap();
    let rig = Rig::of_run(json!({"orphan_after": "1s"}), run).await;
    let mut runs = Vec::new();
    for n in 0..COMMANDS {
        let mut slot = rig.slot().await;
        // Every other one leaves its group and session as daemons do, and nobody can ask any of them to stop.
        let daemon = if n % 2 == 0 { "setsid " } else { "" };
        let line = format!("trap '' TERM; {daemon}sh -c 'echo $$ > {dir}/{n}; exec sleep 1000' & wait; wait");
        let job = job(sh(&line));
        runs.push(tokio::spawn(async move { rig::run(&mut slot, &job).await }));
    }
    for run in runs {
        let _ = run.await;
    }
    fs::write(Path::new(dir).join("ended"), "").unwrap();
    std::future::pending::<()>().await;
}

/// Starts this program as ganger, and waits until its commands run.
async fn ganger(run: &str, dir: &Path) -> (Child, Vec<i32>) {
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "played_ganger", "--nocapture"])
        .env(PLAY, format!("{run} {}", dir.display()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut commands = Vec::new();
    for n in 0..COMMANDS {
        commands.push(number_in(&dir.join(n.to_string())).await);
    }
    (child, commands)
}

fn pid_of(child: &Child) -> Pid {
    Pid::from_child(child)
}

/// GoWorker's children ran on, beside those of the jobs' second run.
#[tokio::test]
async fn b28_no_command_survives_a_kill_of_ganger() {
    let (run, dir) = (rig::new_run(), tempfile::tempdir().unwrap());
    let (mut ganger, commands) = ganger(&run, dir.path()).await;
    assert_eq!(marked(&run).len(), 2 * COMMANDS);
    ganger.kill().unwrap();
    assert_eq!(ganger.wait().unwrap().signal(), Some(9));
    eventually("all commands are dead", || !commands.iter().any(|pid| lives(*pid))).await;
    eventually("nothing carries the mark", || marked(&run).is_empty()).await;
}

#[tokio::test]
async fn b28_no_command_survives_a_ganger_that_a_signal_ends() {
    let (run, dir) = (rig::new_run(), tempfile::tempdir().unwrap());
    let (mut ganger, commands) = ganger(&run, dir.path()).await;
    kill_process(pid_of(&ganger), Signal::TERM).unwrap();
    assert_eq!(ganger.wait().unwrap().signal(), Some(15));
    eventually("all commands are dead", || !commands.iter().any(|pid| lives(*pid))).await;
}

#[tokio::test]
async fn a_ganger_that_stands_still_loses_its_commands_before_its_leases() {
    let (run, dir) = (rig::new_run(), tempfile::tempdir().unwrap());
    let (mut ganger, commands) = ganger(&run, dir.path()).await;
    kill_process(pid_of(&ganger), Signal::STOP).unwrap();
    eventually("all commands are dead", || !commands.iter().any(|pid| lives(*pid))).await;
    kill_process(pid_of(&ganger), Signal::CONT).unwrap();
    eventually("the runs have ended", || dir.path().join("ended").exists()).await;
    ganger.kill().unwrap();
    ganger.wait().unwrap();
}

/// The watchers of this process: those that hold the other end of one of its pipes.
fn watchers() -> Vec<i32> {
    let ours = pipes("self");
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let names = processes.filter_map(|entry| entry.file_name().into_string().ok());
    names
        .filter(|pid| {
            fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "ganger-watch\n")
        })
        .filter(|pid| pipes(pid).iter().any(|pipe| ours.contains(pipe)))
        .filter_map(|pid| pid.parse().ok())
        .collect()
}

/// What the files of a process are, as far as they are pipes.
fn pipes(pid: &str) -> Vec<String> {
    let files = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let targets =
        files.filter_map(|entry| fs::read_link(entry.path()).ok()?.into_os_string().into_string().ok());
    targets.filter(|target| target.starts_with("pipe:")).collect()
}

async fn a_watcher() -> i32 {
    eventually("a watcher runs", || watchers().len() == 1).await;
    watchers()[0]
}

#[tokio::test]
async fn the_watcher_holds_nothing_but_its_pipe_and_ends_with_its_run() {
    let _alone = ALONE.lock().await;
    let rig = Rig::new().await;
    let watcher = a_watcher().await;
    let mut open = Vec::new();
    eventually("it has closed what it was born with", || {
        open = fs::read_dir(format!("/proc/{watcher}/fd"))
            .unwrap()
            .flatten()
            .map(|entry| fs::read_link(entry.path()).unwrap_or_default().display().to_string())
            .collect();
        open.len() == 1
    })
    .await;
    assert!(open[0].starts_with("pipe:"), "{open:?}");
    let status = fs::read_to_string(format!("/proc/{watcher}/status")).unwrap();
    let parent = format!("PPid:\t{}\n", std::process::id());
    assert!(!status.contains(&parent), "it is nobody's child here");
    let stat = fs::read_to_string(format!("/proc/{watcher}/stat")).unwrap();
    let fields: Vec<_> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    assert_ne!(fields[3], std::process::id().to_string(), "it has a session of its own");
    assert_eq!(fs::read_link(format!("/proc/{watcher}/cwd")).unwrap(), Path::new("/"));
    kill_process(Pid::from_raw(watcher).unwrap(), Signal::TERM).unwrap();
    kill_process(Pid::from_raw(watcher).unwrap(), Signal::INT).unwrap();
    assert!(rig.sh("exit 0").await.0.is_ok());
    assert!(lives(watcher), "it is deaf to signals");
    drop(rig);
    eventually("it has ended", || !lives(watcher)).await;
}

#[tokio::test]
async fn a_watcher_that_is_killed_is_replaced() {
    let _alone = ALONE.lock().await;
    let _rig = Rig::new().await;
    let watcher = a_watcher().await;
    kill_process(Pid::from_raw(watcher).unwrap(), Signal::KILL).unwrap();
    eventually("it is dead", || !lives(watcher)).await;
    assert_ne!(a_watcher().await, watcher);
}

#[tokio::test]
async fn entries_of_one_run_share_a_watcher_and_its_end_takes_daemons_along() {
    let _alone = ALONE.lock().await;
    let run = rig::new_run();
    let one = Rig::of_run(json!({}), &run).await;
    let two = Rig::of_run(json!({}), &run).await;
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().display();
    // It ends only when the daemon has left its group.
    let daemon = format!("setsid sh -c 'echo $$ > {path}; exec sleep 1000' > /dev/null 2>&1 &");
    assert!(two.sh(&format!("{daemon} until test -s {path}; do sleep 0.01; done")).await.0.is_ok());
    a_watcher().await;
    let pid = number_in(file.path()).await;
    drop(one);
    assert!(lives(pid));
    drop(two);
    eventually("the daemon ends with the run", || marked(&run).is_empty()).await;
}

/// Tests that count watchers do so one at a time.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// A ganger that is a job of another carries that one's mark, and its watcher must not: it would be killed with it.
#[tokio::test]
async fn a_ganger_within_a_ganger_takes_its_commands_along_when_it_is_killed() {
    let (outer, inner) = (rig::new_run(), rig::new_run());
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::of_run(json!({"grace": "0ms"}), &outer).await;
    let job = job(json!({
        "command": std::env::current_exe().unwrap(),
        "params": ["--exact", "played_ganger", "--nocapture"],
        "env": {PLAY: format!("{inner} {}", dir.path().display())},
    }));
    let mut slot = rig.slot().await;
    let running = tokio::spawn({
        let job = job.clone();
        async move { rig::run(&mut slot, &job).await }
    });
    let mut commands = Vec::new();
    for n in 0..COMMANDS {
        commands.push(number_in(&dir.path().join(n.to_string())).await);
    }
    let carriers = marked(&outer);
    assert!(!carriers.iter().any(|name| name == "ganger-watch"), "{carriers:?}");
    assert_eq!(carriers.len(), 1);
    job.ask_to_stop(ganger_core::StopReason::Cancel);
    assert!(running.await.unwrap().0.is_err());
    eventually("all commands are dead", || !commands.iter().any(|pid| lives(*pid))).await;
}
