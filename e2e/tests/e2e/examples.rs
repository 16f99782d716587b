//! Every example does what its README says.

use std::{fs, path::Path};

use ganger_e2e::{Place, checkout, eventually, example, free_port, get, post};

use crate::server::Server;

/// Copies what the quickstart's jobs read into a place of its own.
fn quickstart() -> Place {
    let place = Place::new();
    for name in ["LICENSE-APACHE", "examples/quickstart/jobs.jsonl"] {
        let to = place.file(name);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(checkout().join(name), to).unwrap();
    }
    for room in ["core", "manager", "spool", "providers", "workers", "ganger"] {
        fs::create_dir(place.file(room)).unwrap();
        fs::write(place.file(room).join("a.rs"), "fn main() {}\n").unwrap();
    }
    place
}

#[test]
fn the_quickstart_runs_twice() {
    let place = quickstart();
    let args = ["run", "--once", "--jobs", "examples/quickstart/jobs.jsonl"];
    let first = place.ganger(&args).ok();
    let done = place.ganger(&["job", "ls", "--state", "done", "--json"]).ok().json_lines();
    let lines = fs::read_to_string(place.file("examples/quickstart/jobs.jsonl")).unwrap().lines().count();
    assert!(done.len() >= lines, "{} of {lines} done\n{}{}", done.len(), first.stdout, first.stderr);
    place.ganger(&args).ok();
    let again = place.ganger(&["job", "ls", "--state", "done", "--json"]).ok().json_lines();
    let hello = again.iter().filter(|job| job["id"] == "quickstart-hello").count();
    assert_eq!(hello, 1, "a known id is not stored again");
    assert!(again.len() >= 2 * lines - 1, "{} done after the second time", again.len());
}

#[test]
fn the_quickstart_shows_a_retry_and_output() {
    let place = quickstart();
    place.ganger(&["run", "--once", "--jobs", "examples/quickstart/jobs.jsonl"]).ok();
    let done = place.ganger(&["job", "ls", "--state", "done", "--json"]).ok().json_lines();
    let find = |name: &str| done.iter().find(|job| job["job"]["name"] == name).unwrap();
    assert_eq!(find("succeeds at its third run")["retries_spent"], 2);
    let id = find("hello")["id"].as_str().unwrap();
    assert_eq!(place.ganger(&["job", "logs", id]).ok().stdout, "hello from ganger\n");
}

/// A config of the examples, with ports that are free here.
fn with_ports(path: &str, place: &Place) -> u16 {
    let port = free_port();
    let text = fs::read_to_string(checkout().join(path)).unwrap();
    let text = text.replace("127.0.0.1:8081", &format!("127.0.0.1:{port}"));
    place.write("ganger.toml", text.replace("127.0.0.1:9090", &format!("127.0.0.1:{}", free_port())));
    port
}

#[test]
fn the_webhook_answers_what_the_job_got() {
    let place = Place::new();
    let port = with_ports("examples/webhook/ganger.toml", &place);
    let server = Server::start(|_| (200, "here you are".to_owned()));
    let running = place.start(&["run", "-c", "ganger.toml"]);
    let job = format!(
        r#"{{"type":"http","params":{{"method":"POST","url":"{}","body":{{"a":1}}}},"capture_output":true}}"#,
        server.url("/hook")
    );
    let answer = eventually("answer of the intake", || post(port, "/job/add", &job));
    assert_eq!((answer.status, answer.text().as_str()), (200, "here you are"), "{}", running.stderr());
    let requests = server.requests();
    assert!(requests[0].starts_with("POST /hook HTTP/1.1\r\n"), "{}", requests[0]);
    assert!(requests[0].ends_with(r#"{"a":1}"#), "{}", requests[0]);
}

#[test]
fn the_webhook_tries_again_when_the_other_side_is_down() {
    let place = Place::new();
    let port = with_ports("examples/webhook/ganger.toml", &place);
    let server = Server::start(|n| if n < 3 { (503, "not yet".to_owned()) } else { (200, "now".to_owned()) });
    let _running = place.start(&["run", "-c", "ganger.toml"]);
    let job = format!(
        r#"{{"type":"http","params":{{"url":"{}"}},"capture_output":true,"backoff":{{"initial":"10ms"}}}}"#,
        server.url("/")
    );
    let answer = eventually("answer of the intake", || post(port, "/job/add", &job));
    assert_eq!((answer.status, answer.text().as_str()), (200, "now"));
    assert_eq!(answer.header("ganger-attempts"), Some("3"), "{:?}", answer.headers);
    let id = answer.header("ganger-job-id").unwrap();
    let state = get(port, &format!("/job/add/{id}")).unwrap();
    assert_eq!(state.json()["state"], "done");
}

#[test]
fn a_strangers_worker_does_jobs_of_its_type() {
    let place = Place::new();
    let running = place.launch(&mut place.command(example("custom-worker")));
    let args = ["enqueue", "shout", r#"{"text": "hello", "times": 3}"#, "--wait"];
    let finished = place.ganger(&args);
    assert_eq!(finished.stdout.trim_end(), "HELLO! HELLO! HELLO!", "{}{}", finished.stderr, running.stderr());
    finished.ok();
    let refused = place.ganger(&["enqueue", "shout", r#"{"text": ""}"#, "--wait"]);
    assert_eq!(refused.code, Some(1), "{}{}", refused.stdout, refused.stderr);
    running.terminate();
    running.finish().ok();
}

#[test]
fn a_strangers_worker_is_a_program_of_under_30_lines() {
    let text = fs::read_to_string(checkout().join("examples/custom-worker/src/main.rs")).unwrap();
    assert!(text.lines().count() < 30);
}

#[test]
fn a_strangers_provider_gives_the_lines_of_a_file() {
    let place = Place::new();
    place.write("jobs.jsonl", r#"{"type":"cli","params":{"command":"touch","params":["done"]}}"#);
    let running = place.launch(place.command(example("custom-provider")).arg("jobs.jsonl"));
    eventually("file that the job makes", || place.file("done").exists().then_some(()));
    running.terminate();
    running.finish().ok();
}

#[test]
fn a_strangers_provider_has_at_most_150_lines_of_code() {
    let is_code = |line: &&str| !line.trim().is_empty() && !line.trim().starts_with("//");
    let count = |path: &Path| fs::read_to_string(path).unwrap().lines().filter(is_code).count();
    let source = checkout().join("examples/custom-provider/src");
    let lines: usize = fs::read_dir(source).unwrap().map(|entry| count(&entry.unwrap().path())).sum();
    assert!(lines <= 150, "{lines}");
}

#[test]
fn an_application_learns_how_its_jobs_ended() {
    let place = Place::new();
    let finished = place.finish(place.command(example("embedded")).arg("invoices.db")).ok();
    let mut lines: Vec<&str> = finished.stdout.lines().collect();
    lines.sort_unstable();
    assert_eq!(
        lines,
        [
            "done: Ada owes 12.50 (run 1)",
            "done: Grace owes 0.99 (run 1)",
            "failed: an invoice over nothing is a mistake"
        ],
        "{}",
        finished.stderr
    );
}

#[test]
fn every_example_config_is_sound() {
    let place = Place::new();
    for entry in fs::read_dir(checkout().join("examples")).unwrap() {
        let config = entry.unwrap().path().join("ganger.toml");
        if config.exists() {
            place.ganger(&["check", "-c", config.to_str().unwrap()]).ok();
        }
    }
}
