//! What commands are held to: limits, a user, a mask, a nice value; and what stops them.
#![allow(clippy::unwrap_used, reason = "a test says so by a panic")]

mod rig;

use ganger_core::{Advice, JobError, Output, StopReason, Stream, Worker};
use ganger_worker_cli::{Cli, Config};
use rig::{Rig, context, eventually, job, lives, new_run, number_in, sh, soon};
use serde_json::{Value, json};

/// Whether this test may do what only root may; says so where it may not.
#[allow(clippy::print_stdout, reason = "a test that is not tried says so")]
fn is_root() -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        println!("not tried: it takes root to run commands as another user");
    }
    is_root
}

fn failed(result: &Result<Output, JobError>) -> (Advice, &str) {
    let error = result.as_ref().unwrap_err();
    (error.advice(), error.message())
}

async fn refused(config: Value) -> String {
    let config: Config = serde_json::from_value(config).unwrap();
    Cli::share(config, &context(&new_run())).await.unwrap_err().to_string()
}

#[tokio::test]
async fn a_command_has_the_limits_of_its_entry_and_ganger_has_not() {
    let limits = json!({"cpu": "90500ms", "memory": "64MiB", "open_files": 77, "file_size": "1MiB"});
    let rig = Rig::with(json!({"limits": limits})).await;
    let (result, printed) = rig.sh("cat /proc/self/limits").await;
    assert!(result.is_ok(), "{result:?}");
    let limit = |name: &str| {
        let line = printed.lines().find(|line| line.starts_with(name)).unwrap();
        line[name.len()..].split_whitespace().take(2).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(limit("Max cpu time"), ["91", "96"]);
    assert_eq!(limit("Max data size"), ["67108864", "67108864"]);
    assert_eq!(limit("Max open files"), ["77", "77"]);
    assert_eq!(limit("Max file size"), ["1048576", "1048576"]);
    assert_eq!(limit("Max core file size"), ["0", "0"], "none is written where nothing is said");
    assert_ne!(rustix::process::getrlimit(rustix::process::Resource::Nofile).current, Some(77));
}

#[tokio::test]
async fn f21_a_command_over_its_cpu_limit_is_stopped_and_the_limit_named() {
    let rig = Rig::with(json!({"limits": {"cpu": "1s"}})).await;
    let (result, _) = soon(rig.sh("while :; do :; done")).await;
    assert_eq!(failed(&result), (Advice::Retry, "killed by SIGXCPU: over its cpu limit of 1 s"));
}

#[tokio::test]
async fn f21_a_memory_hog_is_refused_what_is_over_its_limit_and_the_limit_named() {
    // Far more than this program has, whose own use a child's figure begins with.
    let rig = Rig::with(json!({"limits": {"memory": "256MiB"}})).await;
    let (result, printed) = soon(rig.run(json!({"command": "tail", "params": ["/dev/zero"]}))).await;
    let (advice, message) = failed(&result);
    assert_eq!(advice, Advice::Retry);
    assert!(message.starts_with("exit status 1; it had used "), "{message}: {printed}");
    assert!(message.ends_with("near its memory limit of 256MiB"), "{message}");
    assert!(printed.contains("memory"), "{printed}");
}

#[tokio::test]
async fn f21_a_hog_of_files_hits_its_limit_and_not_gangers() {
    let rig = Rig::with(json!({"limits": {"open_files": 40}})).await;
    let line = "i=3; while [ $i -lt 200 ]; do eval \"exec $i< /dev/null\" || exit 9; i=$((i+1)); done";
    let (result, printed) = rig.run(json!({"command": "bash", "params": ["-c", line]})).await;
    assert_eq!(failed(&result), (Advice::Retry, "exit status 9"));
    assert!(printed.contains("Too many open files"), "{printed}");
    assert!(rig.sh("exit 0").await.0.is_ok());
}

#[tokio::test]
async fn f21_a_file_over_its_size_ends_the_command_and_the_limit_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::with(json!({"limits": {"file_size": "64KiB"}, "cwd": dir.path()})).await;
    let (result, _) = rig.run(json!({"command": "dd", "params": ["if=/dev/zero", "of=file", "bs=1M"]})).await;
    assert_eq!(failed(&result), (Advice::Retry, "killed by SIGXFSZ: over its file_size limit of 64KiB"));
    assert_eq!(std::fs::metadata(dir.path().join("file")).unwrap().len(), 64 << 10);
}

#[tokio::test]
async fn f21_a_fork_bomb_stays_within_its_limit_and_dies_with_its_job() {
    if !is_root() {
        return;
    }
    // A user of this run's own: the limit counts all processes that the user has.
    let forker = 1_000_000 + std::process::id();
    let config = json!({
        "limits": {"processes": 20}, "user": forker, "group": forker, "grace": "100ms", "cwd": "/",
    });
    let run = new_run();
    let rig = Rig::of_run(config, &run).await;
    // The bomb dies of its failure to fork, but what it has started stays; the leader forks nothing more.
    let job = job(sh("bomb() { sleep 1000 & bomb & bomb; }; bomb & while :; do :; done"));
    let mut slot = rig.slot().await;
    let running = tokio::spawn({
        let job = job.clone();
        async move { rig::run(&mut slot, &job).await }
    });
    let mut most = 0;
    eventually("the bomb has filled its room and hit its limit", || {
        most = most.max(rig::marked(&run).len());
        let (_, printed) = job.output_from(Stream::Stdout, 0, 64 << 10);
        most > 9 && String::from_utf8_lossy(&printed).contains("fork")
    })
    .await;
    job.ask_to_stop(StopReason::Timeout);
    let (result, _) = soon(running).await.unwrap();
    assert!(failed(&result).1.starts_with("the command took longer"), "{result:?}");
    assert!(most <= 20, "{most} at once");
    eventually("the bomb is gone", || rig::marked(&run).is_empty()).await;
}

#[tokio::test]
async fn a_command_runs_as_its_user_and_stays_ours_to_kill() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let rig = Rig::with(json!({"user": "nobody", "cwd": "/", "grace": "100ms"})).await;
    let line = "id -un; id -Gn | wc -w; echo $HOME $USER; echo here > /dev/stdout; cat";
    let mut params = sh(line);
    params["stdin"] = json!("read\n");
    let (result, printed) = rig.run(params).await;
    assert!(result.is_ok(), "{result:?}");
    assert_eq!(printed, "nobody\n1\n/nonexistent nobody\nhere\nread\n");
    assert!(rig.run(json!({"command": "cat", "params": ["/proc/1/environ"]})).await.0.is_err());

    // A daemon of that user's is found by its marks.
    let file = dir.path().join("daemon");
    let line =
        format!("setsid sh -c 'echo $$ > {}; exec sleep 1000' & trap '' TERM; wait; wait", file.display());
    let job = job(sh(&line));
    let mut slot = rig.slot().await;
    let running = tokio::spawn({
        let job = job.clone();
        async move { rig::run(&mut slot, &job).await }
    });
    let daemon = number_in(&file).await;
    job.ask_to_stop(StopReason::Cancel);
    assert!(running.await.unwrap().0.is_err());
    eventually("the daemon is dead", || !lives(daemon)).await;
}

#[tokio::test]
async fn a_user_by_number_has_the_group_named_and_no_name() {
    if !is_root() {
        return;
    }
    let rig = Rig::with(json!({"user": 4000124, "group": "daemon", "cwd": "/"})).await;
    let (_, printed) = rig.sh("id -u; id -g; id -G; echo \"<$USER$HOME>\"").await;
    assert_eq!(printed, "4000124\n1\n1\n<>\n");
}

#[tokio::test]
async fn what_cannot_be_had_is_refused_at_the_start() {
    let error = refused(json!({"user": "no-such-user"})).await;
    assert!(error.contains("there is no user `no-such-user`"), "{error}");
    if rustix::process::geteuid().is_root() {
        let error = refused(json!({"limits": {"processes": 9}})).await;
        assert!(error.contains("does not bind root: name a `user`"), "{error}");
    } else {
        let error = refused(json!({"user": "root"})).await;
        assert!(error.contains("only as root"), "{error}");
        let error = refused(json!({"nice": -20})).await;
        assert!(error.contains("`nice` cannot be -20"), "{error}");
    }
    // More than the system has for anybody.
    let error = refused(json!({"limits": {"open_files": u64::MAX - 1}})).await;
    assert!(error.contains("`limits.open_files` cannot be"), "{error}");
}

#[test]
fn options_that_make_no_sense_are_refused_where_they_are_read() {
    for (config, part) in [
        (json!({"nice": 20}), "-20 to 19"),
        (json!({"kill_signal": "STOP"}), "unknown variant `STOP`"),
        (json!({"limits": {"cpu": "0s"}}), "`limits.cpu` must be more than nothing"),
        (json!({"limits": {"cpus": 1}}), "unknown field `cpus`"),
        (json!({"umask": 22}), "octal"),
        (json!({"umask": "1777"}), "octal"),
    ] {
        let error = serde_json::from_value::<Config>(config).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
}

#[tokio::test]
async fn mask_nice_value_and_privileges_are_as_the_config_says() {
    let rig = Rig::with(json!({"umask": "027", "nice": 15, "no_new_privs": true})).await;
    let line = "umask; cut -d' ' -f19 /proc/self/stat; grep NoNewPrivs /proc/self/status";
    let (result, printed) = rig.sh(line).await;
    assert!(result.is_ok(), "{result:?}");
    assert_eq!(printed.split_whitespace().collect::<Vec<_>>(), ["0027", "15", "NoNewPrivs:", "1"]);
    let own = json!({"command": "sh", "params": ["-c", "umask"], "umask": "077"});
    assert_eq!(rig.run(own).await.1, "0077\n", "a job's own goes before");
    let error = rig.run(json!({"command": "true", "umask": "999"})).await.0.unwrap_err();
    assert_eq!(error.advice(), Advice::Dead);
    assert!(error.message().contains("octal"), "{}", error.message());
}

#[tokio::test]
async fn the_kill_signal_tells_a_command_to_stop() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::with(json!({"kill_signal": "SIGINT"})).await;
    let file = dir.path().join("pid");
    let line = format!("trap 'exit 7' INT; trap '' TERM; echo $$ > {}; while :; do :; done", file.display());
    let job = job(sh(&line));
    let mut slot = rig.slot().await;
    let running = tokio::spawn({
        let job = job.clone();
        async move { rig::run(&mut slot, &job).await }
    });
    number_in(&file).await;
    job.ask_to_stop(StopReason::Cancel);
    let (result, _) = running.await.unwrap();
    assert!(failed(&result).1.ends_with("it ended: exit status 7"), "{result:?}");
}
