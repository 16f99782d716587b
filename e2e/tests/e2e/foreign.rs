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
