//! Which programs jobs may choose, what of a job becomes an argument, and when a shell reads it.
#![allow(clippy::unwrap_used, reason = "a test says so by a panic")]

mod rig;

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use ganger_core::{Advice, JobContext, Worker};
use ganger_worker_cli::{Cli, Config, Params};
use rig::{Rig, sh};
use serde_json::{Value, json};

/// A program that says its name.
fn program(path: &Path) {
    fs::write(path, "#!/bin/sh\necho \"ran $0\"\n").unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// A folder with a program that is allowed, one that is not, and links between them.
struct Folders {
    dir: tempfile::TempDir,
    fine: String,
    other: String,
}

impl Folders {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().canonicalize().unwrap();
        let (fine, other) = (real.join("fine"), real.join("other"));
        fs::create_dir_all(fine.join("below")).unwrap();
        fs::create_dir(&other).unwrap();
        program(&fine.join("tool"));
        program(&fine.join("below/deep"));
        program(&other.join("tool"));
        std::os::unix::fs::symlink(other.join("tool"), fine.join("out")).unwrap();
        std::os::unix::fs::symlink(fine.join("tool"), other.join("in")).unwrap();
        std::os::unix::fs::symlink("tool", fine.join("alias")).unwrap();
        let text = |path: std::path::PathBuf| path.to_str().unwrap().to_owned();
        Folders { dir, fine: text(fine), other: text(other) }
    }
}

fn check(config: &Value, params: &Value) -> Result<(), String> {
    let config: Config = serde_json::from_value(config.clone()).unwrap();
    let params: Params = serde_json::from_str(&params.to_string()).unwrap();
    Cli::check(&config, &params).map_err(|error| error.of_job("cli"))
}

#[tokio::test]
async fn a_directory_allows_what_lies_in_it_and_no_link_or_dots_lead_around_it() {
    let folders = Folders::new();
    let (fine, other) = (&folders.fine, &folders.other);
    let config = json!({"allow": [format!("{fine}/")]});
    let rig = Rig::with(config.clone()).await;
    let allowed = [
        json!({"command": format!("{fine}/tool")}),
        json!({"command": format!("{fine}/below/deep")}),
        json!({"command": format!("{fine}/alias")}),
        json!({"command": "./tool", "cwd": fine}),
        json!({"command": "../fine/tool", "cwd": other}),
    ];
    for params in allowed {
        let (result, printed) = rig.run(params.clone()).await;
        assert!(result.is_ok() && printed.starts_with("ran "), "{params}: {result:?}");
        assert_eq!(check(&config, &params), Ok(()), "{params}");
    }
    let refused = [
        json!({"command": format!("{other}/tool")}),
        json!({"command": format!("{fine}/../other/tool")}),
        json!({"command": format!("{fine}/out")}),
        json!({"command": format!("{other}/in")}),
        json!({"command": "./tool", "cwd": other}),
        json!({"command": "sh", "params": ["-c", "true"]}),
        json!({"command": "tool", "env": {"PATH": other}}),
        json!({"command": format!("{fine}/tool"), "env": {"LD_PRELOAD": "/tmp/x.so"}}),
    ];
    for params in refused {
        let (result, printed) = rig.run(params.clone()).await;
        let error = result.unwrap_err();
        assert_eq!((error.advice(), printed.as_str()), (Advice::Dead, ""), "{params}");
        // A name that is in no PATH is not found before it is not allowed.
        let parts = ["`allow`", "not found in PATH", "says which may run"];
        let named = parts.iter().any(|part| error.message().contains(part));
        assert!(named, "{params}: {}", error.message());
        let told = check(&config, &params);
        assert!(told.is_err() || params["command"] == "tool", "{params} is refused where it comes in");
    }
    drop(folders.dir);
}

#[tokio::test]
async fn a_name_means_what_it_means_in_gangers_own_path() {
    let folders = Folders::new();
    let rig = Rig::with(json!({"allow": ["echo", "/bin/cat"]})).await;
    assert_eq!(rig.run(json!({"command": "echo", "params": ["x"]})).await.1, "x\n");
    assert!(rig.run(json!({"command": "/bin/cat"})).await.0.is_ok());
    fs::copy(format!("{}/tool", folders.other), format!("{}/echo", folders.other)).unwrap();
    let posed = json!({"command": "echo", "params": ["y"], "env": {"PATH": folders.other}});
    assert_eq!(rig.run(posed).await.1, "y\n", "a job's own PATH names no other program");
    for command in ["true", "/bin/../bin/cat", "./echo"] {
        let error = rig.run(json!({"command": command, "cwd": folders.other})).await.0.unwrap_err();
        assert!(error.message().contains("is not allowed"), "{command}: {}", error.message());
    }
}

#[tokio::test]
async fn the_command_of_the_config_is_always_allowed() {
    let rig = Rig::with(json!({"allow": [], "command": "echo", "params": ["fixed"]})).await;
    assert_eq!(rig.run(json!({})).await.1, "fixed\n");
    let error = rig.run(json!({"command": "echo"})).await.0.unwrap_err();
    assert!(error.message().contains("is not allowed"), "{}", error.message());
}

#[test]
fn lists_that_could_not_work_are_refused_where_they_are_read() {
    for (config, part) in [
        (json!({"allow": ["bin/x"]}), "it takes names"),
        (json!({"allow": [""]}), "it takes names"),
        (json!({"allow": ["ls"], "shell": "sh"}), "leave one of them out"),
        (json!({"shell": ""}), "names no shell"),
    ] {
        let error = serde_json::from_value::<Config>(config).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
}

#[tokio::test]
async fn values_of_a_job_are_whole_arguments_that_no_shell_reads() {
    let config =
        json!({"command": "printf", "params": ["%s|", "{params.a}", "{params.n}", "{id}", "{name}"]});
    let rig = Rig::with(config.clone()).await;
    let mut with_name = rig::with_id(json!({"a": "$(id); `id` *", "n": 7}));
    with_name.name = Some("a name".into());
    let id = with_name.id.clone().unwrap();
    let (result, printed) = rig::run(&mut rig.slot().await, &JobContext::detached(with_name)).await;
    assert!(result.is_ok(), "{result:?}");
    assert_eq!(printed, format!("$(id); `id` *|7|{id}|a name|"));
    for (params, part) in [
        (json!({"a": "-x", "n": 1}), "`options_from_jobs = true`"),
        (json!({"a": "x"}), "missing `n`"),
        (json!({"a": "x", "n": 1, "command": "sh"}), "says which command runs"),
        (json!({"a": "x", "n": 1, "env": {"LD_PRELOAD": "/x.so"}}), "`LD_PRELOAD` could run something else"),
    ] {
        let error = rig.run(params.clone()).await.0.unwrap_err();
        assert_eq!(error.advice(), Advice::Dead);
        assert!(error.message().contains(part), "{}", error.message());
        assert_eq!(
            check(&config, &params),
            Err(error.message().to_owned()),
            "in the same words at the intake"
        );
    }
    let folders = Folders::new();
    fs::copy(format!("{}/tool", folders.other), format!("{}/printf", folders.other)).unwrap();
    let posed = rig.run(json!({"a": "x", "n": 1, "env": {"PATH": folders.other}})).await;
    assert!(posed.1.starts_with("x|1|"), "a job's own PATH names no other program: {}", posed.1);
    let mut optioned = rig::with_id(json!({"a": "x", "n": 1}));
    optioned.name = Some("--help".into());
    let (result, _) = rig::run(&mut rig.slot().await, &JobContext::detached(optioned)).await;
    assert!(result.unwrap_err().message().contains("`--help` begins with `-`"));
}

#[tokio::test]
async fn a_script_runs_in_the_shell_that_is_switched_on() {
    let rig = Rig::with(json!({"shell": "sh"})).await;
    let (result, printed) =
        rig.run(json!({"script": "echo \"$1\" | tr a-z A-Z; exit 4", "params": ["a b; $HOME"]})).await;
    assert_eq!(result.unwrap_err().message(), "exit status 4");
    assert_eq!(printed, "A B; $HOME\n");
    assert!(rig.run(sh("exit 0")).await.0.is_ok(), "commands run beside it");
    let error = Rig::new().await.run(json!({"script": "true"})).await.0.unwrap_err();
    assert_eq!(error.advice(), Advice::Dead);
    assert!(error.message().contains("no shell is switched on"), "{}", error.message());
}
