//! The command line: exit codes, and what is said to whom.

use ganger_e2e::{Place, eventually};

use crate::crash::QUIET;

/// A place with a config that opens no ports.
fn quiet() -> Place {
    let place = Place::new();
    place.write("ganger.toml", QUIET);
    place
}

#[test]
fn exit_2_for_usage_and_config() {
    let place = quiet();
    for args in [
        &["no-such-command"][..],
        &["run", "--no-such-flag"],
        &["run", "-c", "missing.toml"],
        &["enqueue", "-c", "ganger.toml", "cli", "{not json"],
    ] {
        let finished = place.ganger(args);
        assert_eq!(finished.code, Some(2), "{args:?}: {}", finished.stderr);
        assert!(!finished.stderr.is_empty(), "{args:?} says why");
        assert!(finished.stdout.is_empty(), "{args:?} prints nothing: {}", finished.stdout);
    }
    assert!(!place.file("jobs.db").exists(), "a refused command creates no store");
}

#[test]
fn exit_3_for_a_store_out_of_reach() {
    let place = quiet();
    for args in [&["job", "ls", "-c", "ganger.toml"][..], &["dead", "ls", "-c", "ganger.toml"]] {
        let finished = place.ganger(args);
        assert_eq!(finished.code, Some(3), "{args:?}: {}", finished.stderr);
        assert!(finished.stderr.contains("jobs.db"), "{}", finished.stderr);
    }
    assert!(!place.file("jobs.db").exists(), "reading creates no store");
}

#[test]
fn exit_4_for_what_is_refused() {
    let place = quiet();
    let limit = r#"{"type":"cli","params":{"command":"true"},"limit":{"key":"a"}}"#;
    let finished = place.ganger_fed(&["enqueue", "-c", "ganger.toml"], limit);
    assert_eq!(finished.code, Some(4), "{}", finished.stderr);
    assert!(finished.stderr.contains("limit"), "{}", finished.stderr);
    let one = r#"{"id":"one","type":"cli","params":{"command":"true"}}"#;
    place.ganger_fed(&["enqueue", "-c", "ganger.toml"], one).ok();
    place.ganger_fed(&["enqueue", "-c", "ganger.toml"], one).ok();
    let other = place.ganger_fed(&["enqueue", "-c", "ganger.toml"], &one.replace("true", "false"));
    assert_eq!(other.code, Some(4), "{}", other.stderr);
}

#[test]
fn a_duplicate_is_told_who_holds_its_unique_key() {
    let place = quiet();
    let job = |id: &str| {
        format!(r#"{{"id":"{id}","type":"cli","params":{{"command":"false"}},"unique":{{"key":"k"}}}}"#)
    };
    let told = "a duplicate: job first holds its `unique` key";
    place.ganger_fed(&["enqueue", "-c", "ganger.toml"], &job("first")).ok();
    let finished = place.ganger_fed(&["enqueue", "-c", "ganger.toml", "--json"], &job("second"));
    assert_eq!(finished.code, Some(4), "{}", finished.stderr);
    let lines = finished.json_lines();
    assert_eq!((&lines[0]["error"], &lines[0]["holder"]), (&told.into(), &"first".into()));
    let shown = place.ganger(&["job", "show", "-c", "ganger.toml", "first"]).ok().stdout;
    assert!(shown.contains("unique     k while scheduled, ready, running"), "{shown}");

    // A dead letter whose key another job has got meanwhile stays as it is.
    assert_eq!(place.ganger(&["run", "-c", "ganger.toml", "--once"]).code, Some(1));
    place.ganger_fed(&["enqueue", "-c", "ganger.toml"], &job("second")).ok();
    let retried = place.ganger(&["dead", "retry", "-c", "ganger.toml", "first"]);
    assert_eq!(retried.code, Some(1), "{}", retried.stderr);
    let says = "first: is dead now, and job second holds its `unique` key";
    assert!(retried.stdout.contains(says), "{}", retried.stdout);
    place.ganger(&["job", "cancel", "-c", "ganger.toml", "second"]).ok();
    place.ganger(&["dead", "retry", "-c", "ganger.toml", "first"]).ok();
}

#[test]
fn exit_1_when_the_answer_is_no() {
    let place = quiet();
    place
        .ganger_fed(
            &["enqueue", "-c", "ganger.toml"],
            r#"{"id":"bad","type":"cli","params":{"command":"false"}}"#,
        )
        .ok();
    let once = place.ganger(&["run", "-c", "ganger.toml", "--once"]);
    assert_eq!(once.code, Some(1), "a watched job died: {}{}", once.stdout, once.stderr);
    assert_eq!(place.ganger(&["job", "wait", "-c", "ganger.toml", "bad"]).code, Some(1));
    assert_eq!(place.ganger(&["job", "show", "-c", "ganger.toml", "nobody"]).code, Some(1));
}

#[test]
fn once_says_so_where_another_ganger_did_its_jobs() {
    let place = quiet();
    place.write("one.toml", place.read("ganger.toml").unwrap().replace("workers = 4", "workers = 1"));
    let waits = r#"{"id":"waits","type":"cli","params":{"command":"sh","params":["-c","touch begun; until test -e go; do sleep 0.02; done"]}}"#;
    place.ganger_fed(&["enqueue", "-c", "one.toml"], waits).ok();
    let _other = place.start(&["run", "-c", "one.toml"]);
    eventually("begin of the first job", || place.read("begun"));
    let frees = r#"{"type":"cli","params":{"command":"touch","params":["go"]}}"#;
    place.ganger_fed(&["enqueue", "-c", "one.toml"], frees).ok();

    let once = place.ganger(&["run", "-c", "one.toml", "--once"]).ok();
    assert!(once.stdout.contains("1 job done"), "{}", once.stdout);
    assert!(once.stdout.contains("1 job ended elsewhere"), "{}", once.stdout);
    let nothing = place.ganger(&["run", "-c", "one.toml", "--once"]).ok();
    assert_eq!(nothing.stdout, "nothing to do\n");
}

#[test]
fn a_timeout_of_no_time_is_refused() {
    let place = quiet();
    let flag = place.ganger(&["enqueue", "-c", "ganger.toml", "--timeout", "0s", "cli", "--", "true"]);
    assert_eq!(flag.code, Some(2), "{}", flag.stderr);
    assert!(flag.stderr.contains("--timeout"), "{}", flag.stderr);
    let job = r#"{"type":"cli","timeout":"0s","params":{"command":"true"}}"#;
    let line = place.ganger_fed(&["enqueue", "-c", "ganger.toml"], job);
    assert_ne!(line.code, Some(0));
    assert!(line.stderr.contains("field `timeout`"), "{}", line.stderr);
    assert_eq!(place.ganger(&["job", "ls", "-c", "ganger.toml", "--json"]).stdout, "");
}

#[test]
fn a_dead_job_is_retried_and_purged_by_order() {
    let place = quiet();
    let job = r#"{"id":"bad","type":"cli","params":{"command":"test","params":["-e","mended"]}}"#;
    place.ganger_fed(&["enqueue", "-c", "ganger.toml"], job).ok();
    assert_eq!(place.ganger(&["run", "-c", "ganger.toml", "--once"]).code, Some(1));
    let dead = place.ganger(&["dead", "ls", "-c", "ganger.toml", "--json"]).ok().json_lines();
    assert_eq!(dead[0]["id"], "bad");
    place.write("mended", "");
    place.ganger(&["dead", "retry", "-c", "ganger.toml", "bad"]).ok();
    place.ganger(&["run", "-c", "ganger.toml", "--once"]).ok();
    assert_eq!(place.ganger(&["dead", "ls", "-c", "ganger.toml", "--json"]).ok().json_lines().len(), 0);
    let bulk = place.ganger(&["job", "rm", "-c", "ganger.toml"]);
    assert_ne!(bulk.code, Some(0), "a bulk change without a filter needs --all");
}

#[test]
fn thousands_are_enqueued_from_standard_input_and_a_bad_line_disturbs_no_other() {
    let place = quiet();
    let mut lines = String::new();
    for n in 0..3000 {
        lines.push_str(&format!(
            "{{\"type\":\"cli\",\"name\":\"{n}\",\"params\":{{\"command\":\"true\"}}}}\n"
        ));
        if n == 1500 {
            lines.push_str("{\"type\":17}\n");
        }
    }
    let finished = place.ganger_fed(&["enqueue", "-c", "ganger.toml"], &lines);
    assert_ne!(finished.code, Some(0));
    assert!(finished.stderr.contains("1502"), "the line is named: {}", finished.stderr);
    let stored = place.ganger(&["job", "ls", "-c", "ganger.toml", "--json", "-n", "10000"]).ok().json_lines();
    assert_eq!(stored.len(), 3000);
}

#[test]
fn enqueue_waits_for_what_the_job_prints() {
    let place = quiet();
    let running = place.start(&["run", "-c", "ganger.toml"]);
    let finished =
        place.ganger(&["enqueue", "-c", "ganger.toml", "cli", "--wait", "--", "echo", "hello there"]);
    assert_eq!(finished.stdout, "hello there\n", "{}{}", finished.stderr, running.stderr());
    finished.ok();
}

#[test]
fn every_command_has_help_and_completions_are_printed() {
    let place = Place::new();
    for args in
        [&["--help"][..], &["run", "--help"], &["job", "--help"], &["job", "ls", "--help"], &["--version"]]
    {
        assert!(!place.ganger(args).ok().stdout.is_empty(), "{args:?}");
    }
    for shell in ["bash", "zsh", "fish"] {
        assert!(place.ganger(&["completions", shell]).ok().stdout.contains("ganger"), "{shell}");
    }
}

#[test]
fn what_is_written_into_a_closed_pipe_is_no_fault() {
    let place = quiet();
    let mut shell = place.command("sh");
    shell.args(["-c", "\"$GANGER\" plugin schema | head -n 1"]).env("GANGER", ganger_e2e::ganger());
    let finished = place.finish(&mut shell).ok();
    assert!(!finished.stderr.contains("panic"), "{}", finished.stderr);
}
