//! Limits that control groups keep. They are tried in a machine of its own: no test may divide the groups of the one it
//! runs on.
#![allow(clippy::unwrap_used, reason = "a test says so by a panic")]

mod rig;

use std::{
    fs,
    os::unix::{fs::chown, process::CommandExt},
    path::{Path, PathBuf},
    process::Command,
};

use ganger_core::{Advice, JobContext, JobError, Output, StopReason, Worker};
use ganger_testkit::machine::{Errand, Machine};
use ganger_worker_cli::{Cli, Config};
use rig::{Rig, context, eventually, job, lives, marked, new_run, number_in, sh, soon};
use rustix::fs::{XattrFlags, removexattr, setxattr};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

/// Set, this test program plays a part in the machine.
const PLAY: &str = "CLI_TEST_PLAYS_IN_A_MACHINE";

/// The tests below that the machine runs, each in a process of its own.
const PARTS: [&str; 8] = [
    "played_hog_of_memory",
    "played_limit_of_processes",
    "played_fork_bomb",
    "played_stray",
    "played_daemon",
    "played_user_with_a_group",
    "played_container",
    "played_group_that_is_not_gangers",
];

#[test]
#[allow(clippy::print_stdout, reason = "a test that is not tried says so")]
fn f21_limits_hold_for_a_job_as_a_whole_where_a_control_group_is_delegated() {
    let machine = match Machine::find() {
        Ok(machine) => machine.with(UNSHARE),
        Err(why) => return println!("not tried: {why}"),
    };
    let errands = PARTS.map(|part| Errand {
        args: ["--exact", part, "--nocapture"].map(str::to_owned).into(),
        env: vec![(PLAY.to_owned(), "1".to_owned())],
    });
    let ran = machine.run(&std::env::current_exe().unwrap(), &errands).unwrap_or_else(|why| panic!("{why}"));
    for (part, ran) in PARTS.iter().zip(ran) {
        assert!(ran.status == 0 && ran.printed.contains("1 passed"), "{part}: {}", ran.printed);
    }
}

fn plays() -> bool {
    std::env::var_os(PLAY).is_some()
}

/// A new control group with this process in it.
fn group(name: &str) -> PathBuf {
    let root = Path::new("/sys/fs/cgroup");
    fs::write(root.join("cgroup.subtree_control"), "+memory +pids").unwrap();
    let group = root.join(name);
    fs::create_dir(&group).unwrap();
    fs::write(group.join("cgroup.procs"), std::process::id().to_string()).unwrap();
    group
}

/// One that is delegated, as systemd says it.
fn delegated(name: &str) -> PathBuf {
    let group = group(name);
    setxattr(&group, "user.delegate", b"1", XattrFlags::empty()).unwrap();
    group
}

/// The groups of jobs in a group.
fn cages(group: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(group).unwrap().flatten().map(|entry| entry.path());
    entries.filter(|path| path.is_dir() && path.file_name().unwrap() != "ganger").collect()
}

fn about(config: &Value) -> String {
    let config: Config = serde_json::from_value(config.clone()).unwrap();
    Cli::about(&config).unwrap()
}

fn failed(result: &Result<Output, JobError>) -> (Advice, &str) {
    let error = result.as_ref().unwrap_err();
    (error.advice(), error.message())
}

type Running = JoinHandle<(Result<Output, JobError>, String)>;

/// Begins a run in a slot of its own.
async fn begin(rig: &Rig, line: &str) -> (JobContext, Running) {
    let job = job(sh(line));
    let mut slot = rig.slot().await;
    let running = tokio::spawn({
        let job = job.clone();
        async move { rig::run(&mut slot, &job).await }
    });
    (job, running)
}

/// Takes 40 MiB and holds them: what it prints nobody reads.
const HOLD: &str = "dd if=/dev/zero bs=40M count=1 2>/dev/null | sleep 1000";

/// Not a test by itself, as all that follow: see [`PARTS`].
#[tokio::test]
async fn played_hog_of_memory() {
    if !plays() {
        return;
    }
    let group = delegated("memory");
    let (config, run) = (json!({"limits": {"memory": "64MiB", "open_files": 99}}), new_run());
    let kept = "limits: memory of each job as a whole by control group, the rest by setrlimit";
    assert_eq!(about(&config), kept);
    assert_eq!(cages(&group), Vec::<PathBuf>::new(), "a look changes nothing");
    let rig = Rig::of_run(config.clone(), &run).await;
    assert_eq!(about(&config), kept, "it is the same when ganger has divided the group");
    let own = fs::read_to_string("/proc/self/cgroup").unwrap();
    assert!(own.contains("0::/memory/ganger\n"), "{own}");

    let mut slot = rig.slot().await;
    let (result, printed) =
        rig::run(&mut slot, &job(sh("grep -E 'data size|open files' /proc/self/limits"))).await;
    assert!(result.is_ok() && printed.contains("unlimited") && printed.contains("99"), "{printed}");
    // Each of the two is within the limit.
    let hog = job(sh(&format!("{HOLD} & {HOLD}")));
    let (result, _) = soon(rig::run(&mut slot, &hog)).await;
    assert_eq!(
        failed(&result),
        (Advice::Lost, "killed by SIGKILL, out of memory: over its memory limit of 64MiB")
    );
    eventually("nothing of the job is left", || marked(&run).is_empty()).await;
    // A run after it is not blamed for it.
    for _ in 0..3 {
        assert!(rig::run(&mut slot, &job(sh("dd if=/dev/zero of=/dev/null bs=40M count=1"))).await.0.is_ok());
        let (result, _) = rig::run(&mut slot, &job(sh("kill -KILL $$"))).await;
        assert!(failed(&result).1.starts_with("killed by SIGKILL, not by ganger"), "{result:?}");
    }
    // Nor is it charged for files in memory, which stay.
    let (result, _) = rig::run(&mut slot, &job(sh("dd if=/dev/zero of=/tmp/left bs=10M count=4"))).await;
    assert!(result.is_ok(), "{result:?}");
    assert!(rig::run(&mut slot, &job(sh("dd if=/dev/zero of=/dev/null bs=40M count=1"))).await.0.is_ok());
    assert_eq!(cages(&group).len(), 1, "one for the slot: {:?}", cages(&group));
    drop((slot, rig));
    eventually("the groups are gone", || cages(&group).is_empty()).await;
}

#[tokio::test]
async fn played_limit_of_processes() {
    if !plays() {
        return;
    }
    let group = delegated("processes");
    let leftover = group.join("ganger-4000000-7");
    fs::create_dir_all(leftover.join("divided")).unwrap();
    let rig = Rig::with(json!({"limits": {"processes": 20}, "grace": "100ms"})).await;
    assert!(!leftover.exists(), "what a ganger before left is gone");
    // Root, and each job by itself.
    let line =
        "for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do sleep 1000 & done; echo $i > /tmp/FILE; wait";
    let mut runs = Vec::new();
    for file in ["first", "second"] {
        runs.push(begin(&rig, &line.replace("FILE", file)).await);
        assert_eq!(number_in(&Path::new("/tmp").join(file)).await, 15);
    }
    assert_eq!(cages(&group).len(), 2);
    let mut second = Command::new(std::env::current_exe().unwrap());
    second.args(["--exact", "played_second_ganger"]).env(PLAY, "second");
    assert!(second.status().unwrap().success());
    assert_eq!(cages(&group).len(), 2, "another ganger has removed its own alone");
    for (job, running) in runs {
        job.ask_to_stop(StopReason::Cancel);
        assert!(soon(running).await.unwrap().0.is_err());
    }
    let (result, printed) = rig.sh("for i in $(seq 30); do sleep 1000 & done").await;
    assert_eq!(
        failed(&result),
        (Advice::Retry, "exit status 2; it was at its processes limit of 20"),
        "{printed}"
    );
}

/// One that [`played_limit_of_processes`] starts.
#[tokio::test]
async fn played_second_ganger() {
    if std::env::var(PLAY).is_ok_and(|play| play == "second") {
        let group = Path::new("/sys/fs/cgroup/processes");
        let rig = Rig::with(json!({"limits": {"memory": "64MiB", "processes": 5}})).await;
        let (result, printed) = rig.sh("cat /proc/self/cgroup").await;
        assert!(result.is_ok() && printed.contains("0::/processes/ganger-"), "{printed}");
        drop(rig);
        eventually("its groups are gone", || cages(group).len() == 2).await;
    }
}

#[tokio::test]
async fn played_fork_bomb() {
    if !plays() {
        return;
    }
    delegated("bomb");
    let run = new_run();
    let rig = Rig::of_run(json!({"limits": {"processes": 20}, "grace": "100ms"}), &run).await;
    let (job, running) =
        begin(&rig, "bomb() { sleep 1000 & bomb & bomb; }; bomb & while :; do :; done").await;
    let mut most = 0;
    eventually("the bomb has filled its room", || {
        most = most.max(marked(&run).len());
        most > 9
    })
    .await;
    job.ask_to_stop(StopReason::Timeout);
    let (result, printed) = soon(running).await.unwrap();
    assert!(failed(&result).1.starts_with("the command took longer"), "{result:?}");
    assert!(printed.contains("fork"), "it hit its limit: {printed}");
    assert!(most <= 20, "{most} at once");
    eventually("the bomb is gone", || marked(&run).is_empty()).await;
}

#[tokio::test]
async fn played_stray() {
    if !plays() {
        return;
    }
    delegated("stray");
    let rig = Rig::with(json!({"limits": {"processes": 20}, "grace": "100ms"})).await;
    // Neither its group nor its environment tells whose it is.
    let line = "setsid env -i /bin/sh -c 'echo $$ > /tmp/stray; exec sleep 1000' & trap '' TERM; wait; wait";
    let (job, running) = begin(&rig, line).await;
    let stray = number_in(Path::new("/tmp/stray")).await;
    job.ask_to_stop(StopReason::Cancel);
    assert!(soon(running).await.unwrap().0.is_err());
    eventually("the stray is dead", || !lives(stray)).await;
}

#[tokio::test]
async fn played_daemon() {
    if !plays() {
        return;
    }
    let group = delegated("daemon");
    let rig = Rig::with(json!({"limits": {"memory": "64MiB", "processes": 20}})).await;
    let mut slot = rig.slot().await;
    let line = format!("setsid sh -c 'echo $$ > /tmp/daemon; {HOLD}' & until [ -s /tmp/daemon ]; do :; done");
    let (result, _) = soon(rig::run(&mut slot, &job(sh(&line)))).await;
    assert!(result.is_ok(), "{result:?}");
    let daemon = number_in(Path::new("/tmp/daemon")).await;
    assert!(lives(daemon), "it left its process group, and may stay");
    let held = cages(&group).pop().unwrap();
    // The next job of the slot has all of its limit.
    let (result, _) = rig::run(&mut slot, &job(sh("dd if=/dev/zero of=/dev/null bs=40M count=1"))).await;
    assert!(result.is_ok(), "{result:?}");
    assert_eq!(cages(&group).len(), 2);
    assert!(lives(daemon));
    // Its group goes with it, when another is made.
    fs::write(held.join("cgroup.kill"), "1").unwrap();
    eventually("the daemon is dead", || fs::read_to_string(held.join("pids.current")).unwrap() == "0\n")
        .await;
    assert!(rig.sh("true").await.0.is_ok());
    assert!(!held.exists());
    // One that stays goes with ganger.
    let line = "setsid env -i /bin/sh -c 'echo $$ > /tmp/last; exec sleep 1000' & until [ -s /tmp/last ]; do :; done";
    assert!(soon(rig::run(&mut slot, &job(sh(line)))).await.0.is_ok());
    let last = number_in(Path::new("/tmp/last")).await;
    assert!(lives(last));
    drop((slot, rig));
    eventually("the groups are gone", || cages(&group).is_empty()).await;
    assert!(!lives(last));
}

/// A user's number that nothing else has.
const USER: u32 = 4242;

#[tokio::test]
async fn played_user_with_a_group() {
    let play = std::env::var(PLAY).unwrap_or_default();
    if play == "1" {
        // As root: gives the group away, and begins anew as that user.
        let group = group("user");
        for name in ["", "cgroup.procs", "cgroup.subtree_control", "cgroup.threads"] {
            chown(group.join(name), Some(USER), Some(USER)).unwrap();
        }
        let mut again = Command::new(std::env::current_exe().unwrap());
        again.args(["--exact", "played_user_with_a_group"]).env(PLAY, "user").uid(USER).gid(USER);
        assert!(again.status().unwrap().success());
    }
    if play == "user" {
        let config = json!({"limits": {"memory": "64MiB", "processes": 20}});
        let kept =
            "limits: memory and processes of each job as a whole by control group, the rest by setrlimit";
        assert_eq!(about(&config), kept);
        let (result, _) = soon(Rig::with(config).await.sh(&format!("{HOLD} & {HOLD}"))).await;
        assert!(failed(&result).1.contains("over its memory limit"), "{result:?}");
    }
}

/// What makes a namespace. That of busybox makes none of control groups.
const UNSHARE: &str = "/usr/bin/unshare";

#[tokio::test]
async fn played_container() {
    let play = std::env::var(PLAY).unwrap_or_default();
    if play == "1" {
        let group = group("container");
        let line = "umount /sys/fs/cgroup; mount -t cgroup2 groups /sys/fs/cgroup; \
                    exec /program --exact played_container";
        let mut again = Command::new(UNSHARE);
        again.args(["--cgroup", "--mount", "sh", "-c", line]).env(PLAY, "container");
        assert!(again.status().unwrap().success());
        let own = fs::read_to_string("/proc/self/cgroup").unwrap();
        assert_eq!(own, "0::/container/ganger\n", "what ganger was started by makes room with it");
        assert_eq!(cages(&group), Vec::<PathBuf>::new());
    }
    if play == "container" {
        let own = fs::read_to_string("/proc/self/cgroup").unwrap();
        assert_eq!(own, "0::/\n");
        let config = json!({"limits": {"memory": "64MiB"}});
        let root = Path::new("/sys/fs/cgroup");
        assert!(about(&config).starts_with("limits: memory"), "{}", about(&config));
        // A unit of systemd's that has a namespace, and is not delegated.
        setxattr(root, "user.invocation_id", b"0123456789abcdef", XattrFlags::empty()).unwrap();
        assert!(about(&config).contains("/sys/fs/cgroup is not delegated"), "{}", about(&config));
        removexattr(root, "user.invocation_id").unwrap();
        let rig = Rig::with(config).await;
        let (result, _) = soon(rig.sh(&format!("{HOLD} & {HOLD}"))).await;
        assert!(failed(&result).1.contains("over its memory limit"), "{result:?}");
        drop(rig);
        eventually("the groups are gone", || cages(root).is_empty()).await;
    }
}

#[tokio::test]
async fn played_group_that_is_not_gangers() {
    if !plays() {
        return;
    }
    // Root can write to it, and has not been told to.
    let group = group("system");
    let config = json!({"limits": {"memory": "64MiB"}});
    let why = "the control group /sys/fs/cgroup/system is not delegated to ganger (a unit of systemd's is by \
               `Delegate=yes`)";
    assert_eq!(about(&config), format!("limits by setrlimit, each process by itself: {why}"));
    let (_, printed) = Rig::with(config.clone()).await.sh("grep 'data size' /proc/self/limits").await;
    assert!(printed.contains("67108864"), "{printed}");
    let processes: Config = serde_json::from_value(json!({"limits": {"processes": 9}})).unwrap();
    let error = Cli::share(processes, &context(&new_run())).await.unwrap_err().to_string();
    assert!(error.contains("does not bind root: name a `user`") && error.contains(why), "{error}");

    // Told, but with somebody in it whom ganger does not know: its parent is gone.
    setxattr(&group, "user.delegate", b"1", XattrFlags::empty()).unwrap();
    let other = Command::new("sh").args(["-c", "sleep 1000 >/dev/null 2>&1 & echo $!"]).output().unwrap();
    let other = String::from_utf8(other.stdout).unwrap();
    let stranger = format!("there are other processes (`sleep`, {})", other.trim());
    // Until its exec it is called after the shell that made it.
    eventually("the stranger is named", || about(&config).contains(&stranger)).await;
    assert!(Rig::with(config.clone()).await.sh("true").await.0.is_ok());
    assert_eq!(cages(&group), Vec::<PathBuf>::new());
    assert_eq!(fs::read_to_string("/proc/self/cgroup").unwrap(), "0::/system\n");
    assert!(Command::new("kill").arg(other.trim()).status().unwrap().success());
    eventually("it is gone", || !about(&config).contains("other processes")).await;
    assert!(about(&config).starts_with("limits: memory"), "{}", about(&config));
    fs::write("/proc/self/oom_score_adj", "-1000").unwrap();
    assert!(about(&config).contains("`OOMScoreAdjust=-1000`"), "{}", about(&config));
}
