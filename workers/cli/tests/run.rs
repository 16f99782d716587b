//! What a command gets, and what its end means.
#![allow(clippy::unwrap_used, reason = "a test says so by a panic")]

mod rig;

use ganger_core::{Advice, FailureRecord, Job, JobContext, JobError, Output, State, Timestamp};
use rig::{Rig, job, sh};
use serde_json::json;

fn advice(result: &Result<Output, JobError>) -> (Option<Advice>, String) {
    match result {
        Ok(_) => (None, String::new()),
        Err(error) => (Some(error.advice()), error.message().to_owned()),
    }
}

#[tokio::test]
async fn arguments_reach_the_program_as_they_are() {
    let (result, printed) = Rig::new()
        .await
        .run(json!({"command": "printf", "params": ["%s|", "a b", "$HOME; ls", "*", "", "-1", 7, 1.5, "ü"]}))
        .await;
    assert!(result.is_ok(), "{result:?}");
    assert_eq!(printed, "a b|$HOME; ls|*||-1|7|1.5|ü|");
}

#[tokio::test]
async fn b19_a_failing_command_is_a_failure() {
    let rig = Rig::new().await;
    let (result, _) = rig.run(json!({"command": "false"})).await;
    assert_eq!(advice(&result), (Some(Advice::Retry), "exit status 1".into()));
    let (result, printed) = rig.sh("echo so far; echo why >&2; exit 3").await;
    assert_eq!(advice(&result), (Some(Advice::Retry), "exit status 3".into()));
    assert_eq!(printed, "so far\nwhy\n");
    let (result, _) = rig.sh("kill -SEGV $$").await;
    let (advice, message) = advice(&result);
    assert_eq!(advice, Some(Advice::Retry));
    assert!(message.starts_with("killed by SIGSEGV"), "{message}");
}

#[tokio::test]
async fn an_exit_status_decides_what_becomes_of_the_job() {
    let config = json!({"retry_on": [64], "discard_on": [3], "dead_on": [1], "retry_later": "90s"});
    let rig = Rig::with(config).await;
    for (line, expected, message) in [
        ("exit 2", Advice::Retry, "exit status 2"),
        ("exit 64", Advice::Retry, "exit status 64"),
        ("exit 78", Advice::Dead, "exit status 78 (EX_CONFIG)"),
        ("exit 1", Advice::Dead, "exit status 1"),
        ("exit 3", Advice::Discard, "exit status 3"),
        ("exit 75", Advice::RetryAfter(std::time::Duration::from_secs(90)), "exit status 75 (EX_TEMPFAIL)"),
        // A shell's own words for "not found": the shell ran, and what it said is an exit status as any other.
        ("no-such-command 2> /dev/null", Advice::Retry, "exit status 127"),
    ] {
        assert_eq!(advice(&rig.sh(line).await.0), (Some(expected), message.into()), "{line}");
    }
}

#[tokio::test]
async fn what_a_run_used_is_told() {
    let rig = Rig::new().await;
    let mut slot = rig.slot().await;
    let busy = job(sh("i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; kill -TERM $$"));
    assert!(rig::run(&mut slot, &busy).await.0.is_err());
    let usage = busy.usage().unwrap();
    assert!(usage.cpu_us > 10_000 && usage.max_rss_kib > 500, "{usage:?}");
    assert_eq!(usage.signal.as_deref(), Some("SIGTERM"));
    let never = job(json!({"command": "no-such-command"}));
    assert!(rig::run(&mut slot, &never).await.0.is_err());
    assert_eq!(never.usage(), None);
}

#[tokio::test]
async fn f2_a_kill_that_is_not_gangers_is_a_lost_run() {
    let (result, _) = Rig::new().await.sh("kill -9 $$").await;
    let (advice, message) = advice(&result);
    assert_eq!(advice, Some(Advice::Lost));
    assert!(message.starts_with("killed by SIGKILL"), "{message}");
}

#[tokio::test]
async fn what_cannot_be_started_is_dead_at_once_and_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(path("plain"), "#!/bin/sh\n").unwrap();
    std::fs::write(path("lost"), "#!/no/such/interpreter\n").unwrap();
    std::fs::write(path("noise"), [7u8; 64]).unwrap();
    for name in ["lost", "noise"] {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(path(name), std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let long = "x".repeat(200_000);
    let cases = [
        (json!({"command": "no-such-command"}), "not found in PATH"),
        (json!({"command": path("none")}), "not found"),
        (json!({"command": path("plain/none")}), "not found"),
        (json!({"command": path("plain")}), "not executable"),
        (json!({"command": "plain", "env": {"PATH": path("")}}), "not executable"),
        (json!({"command": path("")}), "is a directory"),
        (json!({"command": path("lost")}), "interpreter"),
        (json!({"command": path("noise")}), "no program for this machine"),
        (json!({"command": "true", "params": [long]}), "longer than the system allows"),
        (json!({"command": "tr\0ue"}), "NUL"),
        (json!({"command": "true", "params": ["a\0b"]}), "NUL"),
        (json!({"command": "true", "env": {"A": "\0"}}), "NUL"),
        (json!({"command": "true", "env": {"GANGER_RUN": "x"}}), "ganger's own"),
        (json!({"command": "true", "cwd": "/\0"}), "NUL"),
        (json!({"command": "true", "shell": true}), "`shell` is no param"),
        (json!({"command": "true", "timeout": 5}), "params do not fit"),
        (json!({"command": "true", "timeout": "0s"}), "more than nothing"),
        (json!({"script": "exit 0"}), "no shell is switched on"),
        (json!({"command": ""}), "names no `command`"),
        (json!({}), "names no `command`"),
        (json!(null), "names no `command`"),
        (json!([1]), "params do not fit"),
        (json!({"command": "true", "params": "a b"}), "params do not fit"),
        (json!({"command": "true", "params": [null]}), "params do not fit"),
    ];
    let rig = Rig::new().await;
    for (params, part) in cases {
        let (result, _) = rig.run(params.clone()).await;
        let (advice, message) = advice(&result);
        let params = params.to_string();
        let params = &params[..params.len().min(100)];
        assert_eq!(advice, Some(Advice::Dead), "{params}: {message}");
        assert!(message.contains(part) && message.len() < 400, "{params}: {message}");
    }
}

/// GoWorker died of a nil response when such a job wanted its output.
#[tokio::test]
async fn b4_a_job_that_cannot_start_with_its_output_wanted_disturbs_nothing() {
    let rig = Rig::new().await;
    let mut slot = rig.slot().await;
    let mut wanted = rig::with_id(json!({"command": "no-such-command"}));
    wanted.capture_output = true;
    let (result, printed) = rig::run(&mut slot, &JobContext::detached(wanted)).await;
    assert_eq!(advice(&result).0, Some(Advice::Dead));
    assert_eq!(printed, "");
    let (result, printed) = rig::run(&mut slot, &job(json!({"command": "echo", "params": ["on"]}))).await;
    assert!(result.is_ok());
    assert_eq!(printed, "on\n");
}

#[tokio::test]
async fn a_directory_that_is_gone_may_come_back() {
    let (result, _) = Rig::new().await.run(json!({"command": "true", "cwd": "/no/such/place"})).await;
    let (advice, message) = advice(&result);
    assert_eq!(advice, Some(Advice::Retry));
    assert!(message.contains("/no/such/place"), "{message}");
}

#[tokio::test]
async fn a_command_runs_where_it_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let real = dir.path().canonicalize().unwrap();
    std::os::unix::fs::symlink("/bin/pwd", real.join("here")).unwrap();
    let rig = Rig::with(json!({"cwd": "/"})).await;
    assert_eq!(rig.run(json!({"command": "pwd"})).await.1, "/\n");
    let (result, printed) = rig.run(json!({"command": "./here", "cwd": real})).await;
    assert!(result.is_ok(), "a path with a slash counts from there: {result:?}");
    assert_eq!(printed.trim(), real.to_str().unwrap());
}

#[tokio::test]
async fn a_command_knows_its_job_and_little_of_ganger() {
    let mut job = rig::with_id(json!({"command": "env", "env": {"COLOUR": "blue", "N": 7}}));
    job.rare_mut().headers = vec![("traceparent".into(), "00-ab".into())];
    let id = job.id.clone().unwrap();
    let context = JobContext::detached(job);
    context.set_deadline(std::time::Instant::now() + std::time::Duration::from_secs(60));
    let rig = Rig::of_run(json!({"env": {"SHAPE": "round", "COLOUR": "red"}}), "the-run").await;
    let (_, printed) = rig::run(&mut rig.slot().await, &context).await;
    let lines: Vec<_> = printed.lines().collect();
    for line in ["COLOUR=blue", "N=7", "SHAPE=round", "GANGER_ATTEMPT=1", "GANGER_RUN=the-run"] {
        assert!(lines.contains(&line), "{line} in {printed}");
    }
    assert!(lines.contains(&"GANGER_HEADER_TRACEPARENT=00-ab"), "{printed}");
    assert!(lines.contains(&format!("GANGER_JOB_ID={id}").as_str()), "{printed}");
    let deadline = lines.iter().find_map(|line| line.strip_prefix("GANGER_DEADLINE=")).unwrap();
    assert!(deadline.parse::<Timestamp>().unwrap() > Timestamp::now());
    // Cargo sets many for a test: none of them passes.
    let allowed = ["PATH", "HOME", "USER", "LANG", "TZ", "TMPDIR", "COLOUR", "N", "SHAPE"];
    for line in lines {
        let name = line.split_once('=').unwrap().0;
        let fits = allowed.contains(&name) || name.starts_with("LC_") || name.starts_with("GANGER_");
        assert!(fits, "{name} was passed on");
    }
}

#[tokio::test]
async fn what_env_pass_names_is_passed_on() {
    let rig = Rig::with(json!({"env_pass": ["CARGO_PKG_*"]})).await;
    let (_, printed) = rig.run(json!({"command": "env"})).await;
    assert!(printed.contains("CARGO_PKG_NAME=ganger-worker-cli\n"), "{printed}");
    assert!(!printed.contains("CARGO_MANIFEST_DIR"), "{printed}");
}

#[tokio::test]
async fn standard_input_is_a_text_json_or_nothing() {
    let rig = Rig::new().await;
    let cat = |stdin| json!({"command": "cat", "stdin": stdin});
    assert_eq!(rig.run(cat(json!("a\nb"))).await.1, "a\nb");
    assert_eq!(rig.run(cat(json!({"a": [1, "x"]}))).await.1, r#"{"a":[1,"x"]}"#);
    assert_eq!(rig.run(json!({"command": "cat"})).await.1, "");
    let large = "line of text\n".repeat(60_000);
    let (result, printed) = rig.run(json!({"command": "wc", "params": ["-c"], "stdin": large})).await;
    assert!(result.is_ok());
    assert_eq!(printed.trim(), large.len().to_string());
    let (result, _) = rig.run(json!({"command": "true", "stdin": large})).await;
    assert!(result.is_ok(), "a command that reads nothing is no failure: {result:?}");
}

#[tokio::test]
async fn signals_are_as_a_program_expects_them() {
    // `yes` ends only if SIGPIPE is not ignored, which Rust programs hand on.
    let (result, printed) = Rig::new().await.sh("yes | head -n 1; grep SigBlk /proc/self/status").await;
    assert!(result.is_ok());
    assert_eq!(printed.split_whitespace().collect::<Vec<_>>(), ["y", "SigBlk:", "0000000000000000"]);
}

fn failure(params: serde_json::Value) -> JobContext {
    let mut failed = Job::new("cli", &json!({"command": "false"})).unwrap();
    failed.id = Some("order-17".parse().unwrap());
    let record = FailureRecord {
        job: failed,
        state: State::Dead,
        reason: "no retries left".into(),
        error: Some("exit\0 status 1".into()),
        attempts: Vec::new(),
        at: Timestamp::now(),
    };
    let mut handler = rig::with_id(params);
    handler.kind = "failure_handler.cli".into();
    handler.rare_mut().input = Some(record.to_raw());
    handler.capture_output = true;
    JobContext::detached(handler)
}

const TELL: &str =
    "cat; echo $GANGER_FAILED_JOB_ID/$GANGER_FAILED_TYPE/$GANGER_FAILED_STATE/$GANGER_FAILED_ERROR";

#[tokio::test]
async fn a_failure_handler_gets_the_record_on_stdin_and_in_its_environment() {
    let entry = json!({"command": "sh", "params": ["-c", TELL], "workers": 2, "grace": "1s"});
    let of_config = json!({"command": "sh", "params": ["-c", TELL]});
    for (config, params) in [(json!({}), entry), (of_config, json!(null))] {
        let rig = Rig::with(config).await;
        let (result, printed) = rig::run(&mut rig.slot().await, &failure(params)).await;
        assert!(result.is_ok(), "{result:?}");
        let (record, line) = printed.trim().split_once('\n').unwrap();
        let record: FailureRecord = serde_json::from_str(record).unwrap();
        assert_eq!(record.job.id.unwrap().to_string(), "order-17");
        assert_eq!(line, "order-17/cli/dead/exit\u{fffd} status 1");
    }
}

/// GoWorker's handler ran the failed job once more, or died of its output.
#[tokio::test]
async fn b17_a_failure_handler_without_a_command_fails_and_says_so() {
    let rig = Rig::new().await;
    let (result, printed) = rig::run(&mut rig.slot().await, &failure(json!({"workers": 1}))).await;
    let (advice, message) = advice(&result);
    assert_eq!((advice, printed.as_str()), (Some(Advice::Dead), ""));
    assert!(message.contains("names no `command`"), "{message}");
}

#[tokio::test]
async fn a_config_can_fix_the_command_of_jobs_that_name_none() {
    let rig = Rig::with(json!({"command": "echo", "params": ["of config"]})).await;
    assert_eq!(rig.run(json!({})).await.1, "of config\n");
    assert_eq!(rig.run(json!({"params": ["of job", 1]})).await.1, "of job 1\n");
    assert_eq!(rig.run(json!({"command": "printf", "params": ["x"]})).await.1, "x");
    assert_eq!(rig.run(json!({"command": "echo"})).await.1, "\n", "another command has its own arguments");
    assert_eq!(rig.run(sh("echo y")).await.1, "y\n");
}
