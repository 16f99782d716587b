//! Other programs on the same file.

use std::process::Command;

use ganger_e2e::{Place, eventually};

use crate::crash::QUIET;

/// Runs a Python script in the place, to its end.
fn python(place: &Place, script: &str) {
    let has_python = Command::new("python3").arg("--version").output().is_ok();
    assert!(has_python, "this test needs python3: install it");
    place.finish(place.command("python3").args(["-c", script])).ok();
}

#[test]
fn an_insert_by_python_wakes_a_running_manager() {
    let place = Place::new();
    place.write("quiet.toml", QUIET);
    let running = place.start(&["run", "-c", "quiet.toml"]);
    eventually("word that it works", || running.stderr().contains("ganger works").then_some(()));
    python(
        &place,
        r#"
import sqlite3, json
db = sqlite3.connect("jobs.db", timeout=30)
with db:
    db.execute("CREATE TABLE IF NOT EXISTS orders(id INTEGER PRIMARY KEY)")
    db.execute("INSERT INTO orders(id) VALUES (1)")
    db.execute("INSERT INTO jobs(type, params) VALUES (?, ?)",
               ("cli", json.dumps({"command": "touch", "params": ["made"]})))
"#,
    );
    eventually("file that the job makes", || place.file("made").exists().then_some(()));
}

#[test]
fn what_the_guides_script_enqueues_is_done() {
    let place = Place::new();
    place.write("quiet.toml", QUIET);
    place.ganger(&["enqueue", "-c", "quiet.toml", "cli", "--", "true"]).ok();
    let script = ganger_e2e::checkout().join("providers/disk/enqueue.py");
    place.finish(place.command("python3").arg(script).arg("jobs.db")).ok();
    place.ganger(&["run", "-c", "quiet.toml", "--once"]).ok();
    let jobs = place.ganger(&["job", "ls", "-c", "quiet.toml", "--json"]).ok().json_lines();
    assert_eq!(jobs[0]["attempts"][0]["output"], "order 1\n", "{}", jobs[0]);
    assert_eq!(jobs[0]["state"], "done");
}

#[test]
fn an_insert_that_is_rolled_back_is_no_job() {
    let place = Place::new();
    place.write("quiet.toml", QUIET);
    place.ganger(&["enqueue", "-c", "quiet.toml", "cli", "--", "true"]).ok();
    python(
        &place,
        r#"
import sqlite3
db = sqlite3.connect("jobs.db", timeout=30)
db.execute("INSERT INTO jobs(type, params) VALUES ('cli', '{\"command\":\"touch\",\"params\":[\"made\"]}')")
db.rollback()
"#,
    );
    place.ganger(&["run", "-c", "quiet.toml", "--once"]).ok();
    let jobs = place.ganger(&["job", "ls", "-c", "quiet.toml", "--json"]).ok().json_lines();
    assert_eq!(jobs.len(), 1);
    assert!(!place.file("made").exists());
}

#[test]
fn rows_that_are_no_jobs_end_among_the_dead_letters_and_disturb_no_other() {
    let place = Place::new();
    place.write("quiet.toml", QUIET);
    place.ganger(&["enqueue", "-c", "quiet.toml", "cli", "--", "true"]).ok();
    python(
        &place,
        r#"
import sqlite3
db = sqlite3.connect("jobs.db", timeout=30, isolation_level=None)
good = '{"command":"true"}'
def insert(id, params=good, **more):
    row = {"id": id, "type": "cli", "params": params, **more}
    db.execute(f"INSERT INTO jobs({','.join(row)}) VALUES ({','.join('?' * len(row))})", list(row.values()))
insert("good-1")
insert("bad-cut", '{"command":')
insert("bad-deep", "[" * 300 + "]" * 300)
insert("bad-utf8", b'{"command":"\xff"}')
insert("bad-nul", '{"command":"tr\0ue"}')
insert("bad-big", '{"command":"true","params":["' + "a" * (64 << 20) + '"]}')
insert("bad-type", type=7)
insert("bad-no-type", type=None)
insert("bad-retries", retries="many")
insert("bad-timeout", timeout=0)
insert("bad-twice", extra='{"type":"http"}')
insert("bad-limit", extra='{"limit":{"key":"a"}}')
insert("wrong-params", "7")
insert("wrong-key", '{"comand":"true"}')
insert("wrong-twice", '{"command":"true","command":"false"}')
insert("good-2", extra='{"colour":"kept as it is"}')
"#,
    );
    assert_eq!(place.ganger(&["run", "-c", "quiet.toml", "--once"]).code, Some(1), "some jobs died");
    let jobs = place.ganger(&["job", "ls", "-c", "quiet.toml", "--json"]).ok().json_lines();
    assert_eq!(jobs.len(), 17);
    for job in &jobs {
        let id = job["id"].as_str().unwrap();
        let is_bad = id.starts_with("bad-") || id.starts_with("wrong-");
        assert_eq!(job["state"], if is_bad { "dead" } else { "done" }, "{id}: {job}");
        if id.starts_with("bad-") {
            assert!(job["reason"].as_str().is_some_and(|why| why.starts_with("malformed: ")), "{id}");
        }
    }
    let shown = place.ganger(&["dead", "show", "-c", "quiet.toml", "bad-utf8"]).ok().stdout;
    assert!(shown.contains("eyJjb21tYW5kIjoi/yJ9"), "as base64, for it is no text: {shown}");
}
