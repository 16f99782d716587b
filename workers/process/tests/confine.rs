//! What programs are held to: limits, a user, a mask, a nice value; and what tells them to end.
#![allow(clippy::unwrap_used, reason = "a test says so by a panic")]

mod rig;

use ganger_core::{Advice, JobError, Worker};
use ganger_worker_process::{Config, Process};
use rig::{eventually, lives, one, pid_of, slot};
use serde_json::{Value, json};

/// What a program says of itself.
async fn shown(more: &Value) -> Value {
    let mut worker = slot(&json!({}), more).await;
    let (end, printed) = one(&mut worker, json!({"do": "show"})).await;
    let text = end.unwrap_or_else(|error| panic!("{error}: {printed}")).text();
    serde_json::from_str(&text).unwrap()
}

/// Has a program do a job that takes it to a limit: its error, and what was printed. The next job is done by another.
async fn over(more: &Value, params: Value) -> (JobError, String) {
    let mut worker = slot(&json!({}), more).await;
    let before = pid_of(&mut worker).await;
    let (end, printed) = one(&mut worker, params).await;
    assert!(!lives(before));
    assert_ne!(pid_of(&mut worker).await, before);
    (end.unwrap_err(), printed)
}

async fn refused(more: Value) -> String {
    let config: Config = serde_json::from_value(rig::config(&json!({}), &more)).unwrap();
    let cx = ganger_conformance::worker::worker_context("process");
    Process::share(config, &cx).await.unwrap_err().to_string()
}

#[tokio::test]
async fn a_program_has_the_limits_of_its_entry_and_ganger_has_not() {
    let limits = json!({"cpu": "90500ms", "memory": "256MiB", "open_files": 77, "file_size": "1MiB"});
    let shown = shown(&json!({"limits": limits})).await;
    let limit = |name: &str| {
        let line = shown["limits"].as_str().unwrap().lines().find(|line| line.starts_with(name)).unwrap();
        line[name.len()..].split_whitespace().take(2).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(limit("Max cpu time"), ["91", "96"]);
    assert_eq!(limit("Max data size"), ["268435456", "268435456"]);
    assert_eq!(limit("Max open files"), ["77", "77"]);
    assert_eq!(limit("Max file size"), ["1048576", "1048576"]);
    assert_eq!(limit("Max core file size"), ["0", "0"], "none is written where nothing is said");
    assert_ne!(rustix::process::getrlimit(rustix::process::Resource::Nofile).current, Some(77));
}

#[tokio::test]
async fn one_over_its_cpu_limit_fails_its_job_and_the_limit_is_named() {
    let (error, _) = over(&json!({"limits": {"cpu": "1s"}}), json!({"do": "spin"})).await;
    assert_eq!(error.advice(), Advice::Retry);
    assert!(error.message().ends_with("it ended (killed by SIGXCPU: over its cpu limit of 1 s)"), "{error}");
}

#[tokio::test]
async fn one_over_its_file_size_fails_its_job_and_the_limit_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    let (error, _) =
        over(&json!({"limits": {"file_size": "64KiB"}}), json!({"do": "write", "file": file})).await;
    assert_eq!(error.advice(), Advice::Retry);
    let words = "it ended (killed by SIGXFSZ: over its file_size limit of 64KiB)";
    assert!(error.message().ends_with(words), "{error}");
    assert_eq!(std::fs::metadata(file).unwrap().len(), 64 << 10);
}

#[tokio::test]
async fn a_hog_of_files_fails_its_job_hits_its_limit_and_not_gangers() {
    let (error, printed) = over(&json!({"limits": {"open_files": 40}}), json!({"do": "open"})).await;
    assert_eq!(error.advice(), Advice::Retry);
    assert!(error.message().ends_with("it ended (exit status 1)"), "{error}");
    assert!(printed.contains("Too many open files"), "{printed}");
}

/// Its limit counts over all its life: it is replaced before it meets it in a job that used little.
#[tokio::test]
async fn one_that_has_used_half_of_its_cpu_limit_is_replaced_between_jobs() {
    let mut worker = slot(&json!({}), &json!({"limits": {"cpu": "1s"}})).await;
    let before = pid_of(&mut worker).await;
    assert!(one(&mut worker, json!({"do": "use", "seconds": 0.55})).await.0.is_ok());
    // What it used is looked at every 200 ms.
    let mut after = before;
    let replaced = async {
        while after == before {
            after = pid_of(&mut worker).await;
        }
    };
    ganger_conformance::soon("a new program", replaced).await;
    for _ in 0..3 {
        one(&mut worker, json!({"do": "use", "seconds": 0.35})).await.0.unwrap();
    }
}

#[tokio::test]
#[allow(clippy::print_stdout, reason = "a test that is not tried says so")]
async fn a_program_runs_as_its_user_and_stays_ours_to_kill() {
    if !rustix::process::geteuid().is_root() {
        println!("not tried: it takes root to run programs as another user");
        return;
    }
    // Not a python3 that only root may run.
    let more = json!({"user": "nobody", "cwd": "/", "env": {"PATH": "/usr/local/bin:/usr/bin:/bin"}});
    let shown = shown(&more).await;
    assert_eq!((&shown["home"], &shown["user"]), (&json!("/nonexistent"), &json!("nobody")));
    assert_ne!(shown["uid"], 0);
    assert_eq!(shown["groups"], json!([shown["gid"]]));
    assert_eq!(shown["opened"], json!(["stderr", "stdin", "stdout"]), "it may open its pipes anew");

    let mut worker = slot(&json!({}), &more).await;
    let daemon: i32 = one(&mut worker, json!({"do": "daemon"})).await.0.unwrap().text().parse().unwrap();
    let before = pid_of(&mut worker).await;
    assert!(one(&mut worker, json!({"do": "die"})).await.0.is_err());
    assert!(!lives(before));
    eventually("the end of what has a session of its own", || !lives(daemon)).await;
}

#[tokio::test]
async fn mask_nice_value_and_privileges_are_as_the_config_says() {
    let shown = shown(&json!({"umask": "027", "nice": 15, "no_new_privs": true})).await;
    assert_eq!((&shown["umask"], &shown["nice"]), (&json!(0o027), &json!(15)));
    assert!(shown["status"].as_str().unwrap().contains("NoNewPrivs:\t1\n"));
}

#[tokio::test]
async fn the_kill_signal_tells_a_program_that_does_not_leave_to_end() {
    let folder = tempfile::tempdir().unwrap();
    let notes = folder.path().join("notes");
    let more = json!({"recycle_after": 1, "grace": "100ms", "kill_signal": "SIGUSR1"});
    let mut worker = slot(&json!({"stays": true, "notes": notes}), &more).await;
    let before = pid_of(&mut worker).await;
    assert_ne!(pid_of(&mut worker).await, before);
    eventually("the note of the signal", || rig::lines(&notes).contains(&format!("told {before}"))).await;
    eventually("the end of one that stays", || !lives(before)).await;
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
    assert!(error.contains("programs cannot be started so: `limits.open_files` cannot be"), "{error}");
}

#[test]
fn options_that_make_no_sense_are_refused_where_they_are_read() {
    for (more, part) in [
        (json!({"nice": 20}), "-20 to 19"),
        (json!({"kill_signal": "STOP"}), "unknown variant `STOP`"),
        (json!({"limits": {"cpu": "0s"}}), "`limits.cpu` must be more than nothing"),
        (json!({"limits": {"cpus": 1}}), "unknown field `cpus`"),
        (json!({"umask": 22}), "octal"),
        (json!({"umask": "1777"}), "octal"),
    ] {
        let config = rig::config(&json!({}), &more);
        let error = serde_json::from_value::<Config>(config).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
}
