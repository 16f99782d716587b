//! Programs that stay: with ganger's clients, through faults, and none longer than ganger.

use std::process::Command;

use ganger_e2e::{Place, eventually, free_port, get};
use serde_json::json;

/// A program with the Python client, in the place.
fn program(place: &Place, text: &str) {
    let client = ganger_e2e::checkout().join("clients/ganger.py");
    place.write("ganger.py", std::fs::read(client).unwrap());
    place.write("program.py", text);
}

fn config(place: &Place, port: &str, more: &str) {
    let text = format!(
        "stats_port = \"{port}\"\n[[providers]]\ndisk = {{ db_name = \"jobs.db\" }}\n[[workers]]\n\
         process = {{ name = \"job\", command = \"python3\", params = [\"program.py\"], workers = 2, retries = 2, \
         backoff = {{ initial = \"10ms\" }}{more} }}\n"
    );
    place.write("process.toml", text);
}

fn has(program: &str) {
    let has = Command::new(program).arg("--version").output().is_ok();
    assert!(has, "this test needs {program}: install it");
}

/// Plays the whole scenario at a program.
fn plays(command: &[&str]) {
    has(command[0]);
    let place = Place::new();
    let args = [&["plugin", "test", "--patience", "20s", "--json", "--"], command].concat();
    let steps = place.ganger(&args).ok().json_lines();
    assert!(steps.len() >= 15, "{steps:?}");
    assert!(steps.iter().all(|step| step["verdict"] == "ok"), "{steps:#?}");
}

fn client(name: &str) -> String {
    ganger_e2e::checkout().join("clients/tests").join(name).display().to_string()
}

#[test]
fn the_python_client_keeps_the_protocol() {
    plays(&["python3", &client("all.py")]);
    plays(&["python3", &client("async.py")]);
}

#[test]
fn the_javascript_client_keeps_the_protocol() {
    plays(&["node", &client("all.mjs")]);
}

#[test]
fn a_program_that_does_not_keep_it_is_told_line_by_line() {
    has("python3");
    let place = Place::new();
    let told =
        place.ganger(&["plugin", "test", "--patience", "2s", "--", "python3", "-c", "print('hello there')"]);
    assert_eq!(told.code, Some(1));
    assert!(
        told.stdout.contains("not ok   says hello: the first line that it printed is no `hello`"),
        "{}",
        told.stdout
    );
    // Answers the first job only, and never hears of the end.
    let deaf = "import time\nprint('{\"kind\":\"hello\",\"protocol\":1}', flush=True)\ninput()\ninput()\n\
                print('{\"kind\":\"done\",\"job\":1}', flush=True)\ntime.sleep(1000)";
    let told = place.ganger(&["plugin", "test", "--patience", "500ms", "--", "python3", "-c", deaf]);
    assert_eq!(told.code, Some(1));
    assert!(told.stdout.contains("ok       answers a job: done"), "{}", told.stdout);
    assert!(told.stdout.contains("not ok   exits when its input ends"), "{}", told.stdout);
}

#[test]
fn jobs_are_done_by_a_program_of_a_few_lines() {
    let place = Place::new();
    program(
        &place,
        "from ganger import worker, job, Dead\n@worker(\"job\")\ndef work(n):\n    if n == 7:\n        raise Dead(\"seven\")\n    \
         if n == 8 and job().attempt < 3:\n        raise ValueError(\"not yet\")\n    job().follow(\"job\", {\"n\": n + 100}) if n < 3 else None\n    \
         return {\"n\": n}\n",
    );
    config(&place, "off", "");
    let lines: String = (0..200)
        .map(|n| format!("{}\n", json!({"type": "job", "name": n.to_string(), "params": {"n": n}})))
        .collect();
    place.ganger_fed(&["enqueue", "-c", "process.toml"], &lines).ok();
    place.ganger(&["run", "-c", "process.toml", "--once"]);
    let jobs = place.ganger(&["job", "ls", "-c", "process.toml", "--json", "-n", "1000"]).ok().json_lines();
    assert_eq!(jobs.len(), 203, "with three that followed");
    let dead: Vec<_> = jobs.iter().filter(|job| job["state"] != "done").collect();
    assert_eq!(dead.len(), 1, "{dead:?}");
    assert_eq!(dead[0]["job"]["name"], "7");
    let retried = jobs.iter().find(|job| job["job"]["name"] == "8").unwrap();
    assert_eq!(retried["attempts"].as_array().map(Vec::len), Some(3), "{retried}");
}

#[test]
fn a_crash_loop_shows_in_readiness_and_heals_with_its_cause() {
    let place = Place::new();
    let port = free_port();
    program(
        &place,
        "import os, sys\nif not os.path.exists(\"database\"):\n    sys.exit(\"no database\")\nfrom ganger import worker\n\
         @worker(\"job\")\ndef work():\n    pass\n",
    );
    config(&place, &format!("127.0.0.1:{port}"), "");
    place.ganger(&["enqueue", "-c", "process.toml", "job", "{}"]).ok();
    let running = place.start(&["run", "-c", "process.toml"]);
    let ready = || get(port, "/readyz").map(|answer| (answer.status, answer.text()));
    eventually("word in readiness", || {
        ready().filter(|(status, text)| *status == 503 && text.contains("no database"))
    });
    place.write("database", "");
    eventually("the job's end", || {
        let jobs = place.ganger(&["job", "ls", "-c", "process.toml", "--json"]).ok().json_lines();
        (jobs[0]["state"] == "done").then_some(())
    });
    let jobs = place.ganger(&["job", "ls", "-c", "process.toml", "--json"]).ok().json_lines();
    assert!(
        jobs[0]["attempts"].as_array().is_none_or(|all| all.len() <= 1),
        "nothing was spent: {}",
        jobs[0]
    );
    eventually("readiness", || ready().filter(|(status, _)| *status == 200));
    running.terminate();
    running.finish().ok();
}

#[test]
fn killed_with_its_jobs_ganger_leaves_no_program_behind() {
    let place = Place::new();
    program(
        &place,
        "import os, time, subprocess\nfrom ganger import worker\n@worker(\"job\")\ndef work():\n    \
         child = subprocess.Popen([\"setsid\", \"sleep\", \"1000\"])\n    \
         open(\"pids\", \"a\").write(\"%d\\n%d\\n\" % (os.getpid(), child.pid))\n    time.sleep(1000)\n",
    );
    config(&place, "off", "");
    place.ganger_fed(&["enqueue", "-c", "process.toml"], "{\"type\":\"job\"}\n{\"type\":\"job\"}\n").ok();
    let mut running = place.start(&["run", "-c", "process.toml"]);
    let pids = || -> Vec<i32> {
        place.read("pids").unwrap_or_default().lines().filter_map(|line| line.parse().ok()).collect()
    };
    eventually("two programs at work, with a child each", || (pids().len() == 4).then_some(()));
    running.kill();
    let lives = |pid: &i32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, state)| !state.starts_with(['Z', 'X']))
    };
    eventually("the end of all four", || (!pids().iter().any(lives)).then_some(()));
}

/// What a program does when its input has closed, ganger waits for.
#[test]
fn at_a_shutdown_an_idle_program_has_its_time_to_end() {
    let place = Place::new();
    program(
        &place,
        "import time, ganger\n@ganger.worker(\"job\")\ndef work():\n    pass\nganger.run()\ntime.sleep(0.3)\n\
         open(\"left\", \"w\").write(\"in time\")\n",
    );
    config(&place, "off", "");
    place.ganger(&["enqueue", "-c", "process.toml", "job", "{}"]).ok();
    let running = place.start(&["run", "-c", "process.toml"]);
    eventually("the job's end", || {
        let jobs = place.ganger(&["job", "ls", "-c", "process.toml", "--json"]).ok().json_lines();
        (jobs[0]["state"] == "done").then_some(())
    });
    assert_eq!(place.read("left"), None, "it stays until then");
    running.terminate();
    running.finish().ok();
    assert_eq!(place.read("left").as_deref(), Some("in time"));
}
