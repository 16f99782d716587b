//! The command line, run as a user runs it.
#![allow(clippy::unwrap_used, reason = "a test fails where it panics")]

use std::{
    fs,
    io::Write,
    path::Path,
    process::{Command, Output, Stdio},
};

use tempfile::TempDir;

/// A config that opens no ports and keeps its jobs in the folder.
const QUIET: &str = r#"
stats_port = "off"
[[providers]]
disk = { db_name = "jobs.db" }
[[workers]]
cli = { workers = 2 }
"#;

struct Place(TempDir);

struct Told {
    code: i32,
    out: String,
    err: String,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("ganger.toml"), QUIET).unwrap();
        Place(folder)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ganger"));
        command.args(args).current_dir(self.path()).env("NO_COLOR", "1").env_remove("GANGER_LOG");
        command
    }

    fn run(&self, args: &[&str]) -> Told {
        told(self.command(&with_config(args)).stdin(Stdio::null()).output().unwrap())
    }

    fn fed(&self, args: &[&str], input: &[u8]) -> Told {
        let mut command = self.command(&with_config(args));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let bytes = input.to_vec();
        let writer = std::thread::spawn(move || {
            // A command that refuses its input early closes it.
            let _ = stdin.write_all(&bytes);
        });
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap();
        told(output)
    }
}

fn with_config<'a>(args: &[&'a str]) -> Vec<&'a str> {
    ["-c", "ganger.toml"].into_iter().chain(args.iter().copied()).collect()
}

fn told(output: Output) -> Told {
    Told {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

#[test]
fn help_says_what_there_is() {
    let place = Place::new();
    let mut text = String::new();
    for args in [
        &["--help"][..],
        &["run", "--help"],
        &["enqueue", "--help"],
        &["job", "--help"],
        &["job", "ls", "--help"],
        &["job", "retry", "--help"],
        &["job", "wait", "--help"],
        &["job", "cancel", "--help"],
        &["job", "recover", "--help"],
        &["dead", "--help"],
        &["check", "--help"],
        &["plugin", "--help"],
    ] {
        let told = told(place.command(args).env("COLUMNS", "100").output().unwrap());
        assert_eq!(told.code, 0);
        text.push_str(&format!("$ ganger {}\n{}\n", args.join(" "), told.out));
    }
    insta::assert_snapshot!("help", text);
}

#[test]
fn each_kind_of_bad_job_is_told_with_its_line_and_disturbs_no_other() {
    let place = Place::new();
    let mut input: Vec<u8> = Vec::new();
    let mut line = |text: &[u8]| {
        input.extend_from_slice(text);
        input.push(b'\n');
    };
    let good = br#"{"type":"cli","params":{"command":"true"}}"#;
    line(good);
    line(br#"{"type":"cli","params":"#);
    line(br#"{"type":17}"#);
    line(
        format!("{{\"type\":\"cli\",\"params\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000)).as_bytes(),
    );
    line(b"{\"type\":\"cli\",\"name\":\"\xff\"}");
    line(format!("{{\"type\":\"cli\",\"params\":\"{}\"}}", "x".repeat(64 << 20)).as_bytes());
    line(b"{\"type\":\"cli\",\"name\":\"a\0b\"}");
    line(br#"{"type":"cli","Type":"http"}"#);
    line(br#"{"type":"cli","params":{"command":"true"},"limit":{"key":"a"}}"#);
    line(br#"{"type":"failure_handler.cli"}"#);
    line(br#"{"type":"cli","unheard_of":{"a":1},"params":{"command":"true"}}"#);
    line(good);
    line(br#"{"type":"cli"}"#);
    line(br#"{"type":"cli","params":{"command":["true"]}}"#);
    line(br#"{"type":"cli","params":{"command":"true","comand":"x"}}"#);
    let told = place.fed(&["enqueue"], &input);
    assert_eq!(told.code, 4, "{}", told.err);
    assert_eq!(told.out, "3 jobs stored, 12 refused\n");
    for n in 2..=10 {
        assert!(told.err.contains(&format!("line {n}: ")), "line {n} is not named: {}", told.err);
    }
    insta::assert_snapshot!("bad_lines", told.err);
    let listed = place.run(&["job", "ls", "--json"]);
    assert_eq!(listed.out.lines().count(), 3, "{}", listed.out);
    assert!(listed.out.contains("unheard_of"), "unknown fields are kept: {}", listed.out);
}

#[test]
fn each_kind_of_bad_argument_is_refused_before_a_store_is_made() {
    let place = Place::new();
    for (args, code, why) in [
        (&["enqueue", "cli", "{"][..], 2, "no JSON"),
        (&["enqueue", "cli", r#"{"command":"true"},"name":"x"#], 2, "no JSON"),
        (&["enqueue", "cli", r#"{"command":7}"#], 4, "do not fit type `cli`, `command`"),
        (&["enqueue", "cli", r#"{"cwd":"/"}"#], 4, "do not fit type `cli`: the job names no `command`"),
        (&["enqueue", "cli"], 4, "do not fit type `cli`: the job names no `command`"),
        (&["enqueue", "two words", "{}"], 2, "no spaces"),
        (&["enqueue", "http", "--", "true"], 2, "runs no commands"),
        (&["enqueue", "failure_handler.cli", "{}"], 4, "ganger's own"),
        (&["enqueue", "cli", "--in", "soon", "--", "true"], 2, "no duration"),
        (&["enqueue", "cli", "--at", "noon", "--", "true"], 2, "no time"),
        (&["enqueue", "cli", "--id", "two words", "--", "true"], 2, "no spaces"),
        (&["enqueue", "--retries", "3"], 2, "TYPE"),
        (&["enqueue", "cli", "--to", "dsik", "--", "true"], 2, "did you mean `disk`"),
        (&["job", "retry"], 2, "which jobs?"),
        (&["job", "ls", "--state", "asleep"], 2, "no state"),
        (&["run", "--jobs", "x"], 2, "--once"),
        (&["plugin", "show", "dsik"], 2, "did you mean `disk`"),
    ] {
        let told = place.run(args);
        assert_eq!(told.code, code, "{args:?}: {}", told.err);
        assert!(told.err.contains(why), "{args:?}: {}", told.err);
        assert!(!place.path().join("jobs.db").exists(), "{args:?} made a store");
    }
}

#[test]
fn each_line_becomes_a_job() {
    let place = Place::new();
    std::fs::create_dir(place.path().join("small")).unwrap();
    let names = ["a b.txt", "it's $(x).txt", "-n.txt"];
    names.iter().for_each(|name| std::fs::write(place.path().join(name), name).unwrap());
    let each = ["enqueue", "--each", "--retries", "0", "cli", "--", "cp", "./{}", "small/{}"];
    let told = place.fed(&each, (names.join("\n") + "\n\n").as_bytes());
    assert_eq!((told.code, told.out.as_str()), (0, "3 jobs stored\n"), "{}", told.err);
    let told = place.run(&["run", "--once"]);
    assert_eq!(told.code, 0, "{}{}", told.out, told.err);
    for name in names {
        assert_eq!(std::fs::read_to_string(place.path().join("small").join(name)).unwrap(), name);
    }
    let told =
        place.fed(&["enqueue", "--each", "-0", "--json", "cli", "--", "rm"], b"small/a b.txt\0-rf\0\xff\0");
    assert_eq!((told.code, told.out.lines().count()), (4, 3), "{}", told.err);
    assert!(told.out.contains("may take for an option") && told.out.contains("no UTF-8"), "{}", told.out);
    let refused = place.fed(&["enqueue", "--each", "cli", r#"{"command":"true"}"#], b"x\n");
    assert_eq!(refused.code, 2, "{}", refused.out);
    assert_eq!(place.fed(&["enqueue", "--each"], b"x\n").code, 2);
}

#[test]
fn reading_commands_make_no_store() {
    let place = Place::new();
    for args in [
        &["job", "ls"][..],
        &["job", "show", "x"],
        &["dead", "ls"],
        &["job", "wait", "x"],
        &["dead", "retry", "--all"],
    ] {
        let told = place.run(args);
        assert_eq!(told.code, 3, "{args:?}: {}", told.err);
        assert!(told.err.contains("jobs.db"), "{args:?}: {}", told.err);
        assert!(!place.path().join("jobs.db").exists());
    }
}

#[test]
fn once_does_a_file_and_names_what_died_and_what_is_left() {
    let place = Place::new();
    let jobs = [
        r#"{"type":"cli","id":"good","params":{"command":"true"}}"#,
        r#"{"type":"cli","id":"bad","params":{"command":"false"},"retries":1,"backoff":{"initial":"1ms"}}"#,
        r#"{"type":"knit","id":"strange"}"#,
        r#"{"type":"cli","id":"later","params":{"command":"true"},"delay":"1h"}"#,
    ];
    fs::write(place.path().join("jobs.jsonl"), jobs.join("\n")).unwrap();
    let told = place.run(&["run", "--once", "--jobs", "jobs.jsonl"]);
    assert_eq!(told.code, 1, "{}{}", told.out, told.err);
    for words in
        ["4 jobs stored", "bad", "exit status 1", "has no worker for it", "scheduled for later", "1 job done"]
    {
        assert!(told.out.contains(words), "lacks {words}: {}", told.out);
    }
    let again = place.run(&["run", "--once", "--jobs", "jobs.jsonl"]);
    assert!(again.out.contains("0 jobs stored, 4 known already"), "{}", again.out);
    assert_eq!(again.code, 0, "nothing died this time: {}{}", again.out, again.err);
}

#[test]
fn once_without_a_file_does_what_is_stored() {
    let place = Place::new();
    for n in 0..3 {
        assert_eq!(place.run(&["enqueue", "cli", "--name", &n.to_string(), "--", "true"]).code, 0);
    }
    let told = place.run(&["run", "--once"]);
    assert_eq!(told.code, 0, "{}{}", told.out, told.err);
    assert!(told.out.contains("3 jobs done"), "{}", told.out);
    let idle = place.run(&["run", "--once"]);
    assert_eq!((idle.code, idle.out.contains("nothing to do")), (0, true), "{}", idle.out);
}

#[test]
fn once_says_which_lines_it_refused() {
    let place = Place::new();
    fs::write(
        place.path().join("jobs.jsonl"),
        "{\"type\":\"cli\",\"params\":{\"command\":\"true\"}}\nnonsense\n",
    )
    .unwrap();
    let told = place.run(&["run", "--once", "--jobs", "jobs.jsonl"]);
    assert_eq!(told.code, 4, "{}{}", told.out, told.err);
    assert!(told.err.contains("jobs.jsonl:2: "), "{}", told.err);
    assert!(told.out.contains("1 job done"), "{}", told.out);
    assert_eq!(place.run(&["run", "--once", "--jobs", "nowhere.jsonl"]).code, 2);
}

#[test]
fn once_tells_machines_what_happened() {
    let place = Place::new();
    let jobs = [
        r#"{"type":"cli","id":"good","params":{"command":"true"}}"#,
        r#"{"type":"cli","id":"bad","params":{"command":"false"}}"#,
        r#"{"type":"cli","id":"later","params":{"command":"true"},"delay":"1h"}"#,
    ];
    fs::write(place.path().join("jobs.jsonl"), jobs.join("\n")).unwrap();
    let told = place.run(&["run", "--once", "--jobs", "jobs.jsonl", "--json"]);
    assert_eq!(told.code, 1, "{}{}", told.out, told.err);
    let told: serde_json::Value = serde_json::from_str(&told.out).unwrap();
    assert_eq!(
        (told["stored"].as_u64(), told["by_type"]["cli"]["done"].as_u64()),
        (Some(3), Some(1)),
        "{told}"
    );
    assert_eq!(
        (told["dead"][0]["id"].as_str(), told["left"][0]["count"].as_u64()),
        (Some("bad"), Some(1)),
        "{told}"
    );
}

#[test]
fn every_command_has_examples_and_json() {
    let place = Place::new();
    for args in [
        "run",
        "enqueue",
        "job ls",
        "job show",
        "job logs",
        "job wait",
        "job retry",
        "job cancel",
        "job rm",
        "job recover",
        "dead ls",
        "dead show",
        "dead retry",
        "dead purge",
        "check",
        "plugin ls",
        "plugin show",
        "bench",
    ] {
        let words: Vec<&str> = args.split(' ').chain(["--help"]).collect();
        let help = place.run(&words).out;
        assert!(help.contains("Example") && help.contains("--json"), "{args}: {help}");
    }
}

#[test]
fn check_warns_of_commands_from_other_machines_and_says_how_limits_are_kept() {
    let place = Place::new();
    let config = |workers: &str, redis: &str| {
        let text = format!(
            "stats_port = \"off\"\n[[providers]]\nredis = {{ host = \"{redis}\" }}\n[[providers]]\n\
             http = {{ listen_on = \"127.0.0.1:0\", into = \"redis\" }}\n[[workers]]\ncli = {{ {workers} }}\n"
        );
        fs::write(place.path().join("ganger.toml"), text).unwrap();
        place.run(&["check"]).out
    };
    let open = config("limits = { cpu = \"3s\" }", "redis.example");
    assert!(
        open.contains("warning: `cli` runs any command") && open.contains("`redis` brings jobs"),
        "{open}"
    );
    assert!(open.contains("limits by setrlimit"), "{open}");
    for (workers, redis) in [("allow = [\"convert\"]", "redis.example"), ("", "localhost")] {
        let fine = config(workers, redis);
        assert!(fine.contains("fits together") && !fine.contains("warning"), "{fine}");
    }
}

#[test]
fn what_a_run_used_is_shown_with_its_job() {
    let place = Place::new();
    place.run(&["enqueue", "cli", "--", "sh", "-c", "kill -TERM $$"]);
    place.run(&["run", "--once"]);
    let listed = place.run(&["dead", "ls", "--json"]);
    let job: serde_json::Value = serde_json::from_str(listed.out.lines().next().unwrap()).unwrap();
    let id = job["id"].as_str().unwrap();
    let shown = place.run(&["job", "show", id]).out;
    assert!(shown.contains("of processor time, at most") && shown.contains("ended by SIGTERM"), "{shown}");
    let as_json = place.run(&["job", "show", id, "--json"]).out;
    let job: serde_json::Value = serde_json::from_str(&as_json).unwrap();
    assert_eq!(job["attempts"][0]["usage"]["signal"], "SIGTERM", "{as_json}");
}

#[test]
fn once_refuses_params_that_no_worker_here_takes() {
    let place = Place::new();
    let jobs = [r#"{"type":"cli","id":"a"}"#, r#"{"type":"knit","params":{"rows":"many"},"id":"b"}"#];
    fs::write(place.path().join("jobs.jsonl"), jobs.join("\n")).unwrap();
    let told = place.run(&["run", "--once", "--jobs", "jobs.jsonl"]);
    assert_eq!(told.code, 4, "{}{}", told.out, told.err);
    assert!(told.err.contains("jobs.jsonl:1: the params do not fit type `cli`"), "{}", told.err);
    assert!(told.out.contains("1 job stored, 1 refused"), "another config may do `knit`: {}", told.out);
}

#[test]
fn once_waits_for_what_a_job_of_the_file_stored_and_for_no_one_elses() {
    let place = Place::new();
    let two = "stats_port = \"off\"\ngrace = \"100ms\"\n[[providers]]\ndisk = { db_name = \"jobs.db\" }\n[[workers]]\ncli = { workers = 2 }\n[[workers]]\ndisk = { db_name = \"jobs.db\" }\n";
    fs::write(place.path().join("ganger.toml"), two).unwrap();
    // Stored before, and still running when the file is done: a number at the end of its id makes nobody its parent.
    let other = r#"{"type":"cli","id":"other/1","params":{"command":"sleep","params":["600"]}}"#;
    assert_eq!(place.fed(&["enqueue"], other.as_bytes()).code, 0);
    let carried =
        r#"{"type":"disk","id":"mine","params":{"job":{"type":"cli","params":{"command":"true"}}}}"#;
    fs::write(place.path().join("jobs.jsonl"), carried).unwrap();
    let told = place.run(&["run", "--once", "--jobs", "jobs.jsonl"]);
    assert_eq!(told.code, 0, "{}{}", told.out, told.err);
    assert!(place.run(&["job", "show", "mine/1"]).out.contains("done"), "{}", told.out);
    assert!(!place.run(&["job", "show", "other/1"]).out.contains("done"));
}

#[test]
fn b25_two_providers_of_one_plugin_are_both_served() {
    let place = Place::new();
    let two = "stats_port = \"off\"\n[[providers]]\ndisk = { db_name = \"a.db\" }\n[[providers]]\ndisk = { name = \"second\", db_name = \"b.db\" }\n[[workers]]\ncli = { workers = 2 }\n";
    fs::write(place.path().join("ganger.toml"), two).unwrap();
    for to in ["disk", "second"] {
        assert_eq!(place.run(&["enqueue", "cli", "--to", to, "--id", to, "--", "true"]).code, 0);
    }
    let told = place.run(&["run", "--once"]);
    assert!(told.out.contains("2 jobs done"), "{}{}", told.out, told.err);
    for name in ["disk", "second"] {
        let shown = place.run(&["job", "show", name, "--provider", name]);
        assert!(shown.out.contains("state      done"), "{}{}", shown.out, shown.err);
    }
}

#[test]
fn a_job_is_waited_for_shown_and_ordered() {
    let place = Place::new();
    assert_eq!(place.run(&["enqueue", "cli", "--id", "a", "--", "sh", "-c", "echo seen; exit 3"]).code, 0);
    assert_eq!(place.run(&["run", "--once"]).code, 1);
    let wait = place.run(&["job", "wait", "a"]);
    assert_eq!((wait.code, wait.out.as_str()), (1, "a dead: exit status 3\n"));
    assert_eq!(place.run(&["job", "logs", "a"]).out, "seen\n");
    let asked = place.run(&["dead", "retry", "--all"]);
    assert_eq!(asked.code, 2);
    assert!(asked.err.contains("Retry 1 job?") && asked.err.contains("--yes"), "{}", asked.err);
    assert_eq!(place.run(&["dead", "retry", "--all", "--yes"]).out, "1 job to be run again\n");
    let cancelled = place.run(&["job", "cancel", "a", "b", "--json"]);
    assert_eq!(cancelled.code, 1, "{}", cancelled.err);
    let now =
        "{\"changed\":1,\"now\":[{\"id\":\"a\",\"state\":\"cancelled\"},{\"id\":\"b\",\"state\":null}]}\n";
    assert_eq!(cancelled.out, now);
    let again = place.run(&["job", "cancel", "a"]);
    assert_eq!((again.code, again.out.contains("a: is cancelled now")), (1, true), "{}", again.out);
    assert_eq!(place.run(&["job", "rm", "a"]).code, 0);
    assert_eq!(place.run(&["job", "show", "a"]).code, 1);
}

#[test]
fn plugins_are_listed_shown_and_described_for_machines() {
    let place = Place::new();
    let listed = place.run(&["plugin", "ls", "--json"]);
    for line in listed.out.lines() {
        let plugin: serde_json::Value = serde_json::from_str(line).unwrap();
        let name = plugin["name"].as_str().unwrap();
        assert!(plugin["summary"].as_str().unwrap().len() > 10, "{name}");
        assert_eq!(place.run(&["plugin", "show", name]).code, 0);
    }
    let schema: serde_json::Value = serde_json::from_str(&place.run(&["plugin", "schema"]).out).unwrap();
    // Every reference leads somewhere.
    let mut open = vec![&schema];
    while let Some(value) = open.pop() {
        match value {
            serde_json::Value::Object(object) => {
                if let Some(target) = object.get("$ref").and_then(|target| target.as_str()) {
                    assert!(
                        schema.pointer(target.trim_start_matches('#')).is_some(),
                        "{target} leads nowhere"
                    );
                }
                open.extend(object.values());
            }
            serde_json::Value::Array(items) => open.extend(items),
            _ => {}
        }
    }
}

#[test]
fn the_default_config_is_printed_and_is_what_runs_without_a_file() {
    let place = Place::new();
    let printed = told(place.command(&["run", "--print-default-config"]).output().unwrap());
    assert_eq!(printed.code, 0, "{}", printed.err);
    fs::write(place.path().join("ganger.toml"), &printed.out).unwrap();
    let copy = place.run(&["check", "--json"]);
    let without = told(place.command(&["check", "--json"]).output().unwrap());
    let read = |text: &str| {
        let mut value: serde_json::Value = serde_json::from_str(text).unwrap();
        value["file"].take();
        value
    };
    assert_eq!(read(&copy.out), read(&without.out));
}
