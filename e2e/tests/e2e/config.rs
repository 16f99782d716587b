//! Config files: what is wrong is shown with its place, and GoWorker's are taken.

use ganger_e2e::{Place, eventually, free_port, get, post};

#[test]
fn a_mistake_is_shown_with_its_place_and_the_nearest_name() {
    let place = Place::new();
    for (name, text) in [
        ("a.toml", "[[workers]]\ncli = { wokers = 4 }\n"),
        ("a.json", "{\n \"workers\": [{\"cli\": {\"wokers\": 4}}]\n}\n"),
        ("a.yaml", "workers:\n  - cli:\n      wokers: 4\n"),
    ] {
        place.write(name, text);
        let finished = place.ganger(&["check", "-c", name]);
        assert_eq!(finished.code, Some(2), "{name}");
        for word in [name, "wokers", "workers"] {
            assert!(finished.stderr.contains(word), "{name} lacks {word}: {}", finished.stderr);
        }
        let place_of_it = match name {
            "a.yaml" => "3:",
            _ => "2:",
        };
        assert!(finished.stderr.contains(&format!("{name}:{place_of_it}")), "{}", finished.stderr);
    }
}

#[test]
fn goworkers_config_and_job_spellings_are_taken() {
    let place = Place::new();
    let (stats, port) = (free_port(), free_port());
    place.write(
        "config.json",
        format!(
            r#"{{"stats_port":":{stats}","manager_to_manager_port":"","lua_path":"/nowhere",
            "providers":[{{"http":{{"listen_on":":{port}","endpoint":"/job/add","accept":["cli"]}}}}],
            "workers":[{{"cli.cli":{{"workers":4}}}},{{"http.http":{{"workers":4}}}},{{"disk.disk":{{"db_name":"my.db","bucket":"b"}}}}],
            "failure_handler":[{{"disk.disk":{{"db_name":"failed.db","bucket":"failed"}}}}]}}"#
        ),
    );
    place.ganger(&["check", "-c", "config.json"]).ok();
    let running = place.start(&["run", "-c", "config.json"]);
    let job = r#"{"Name":"x","Type":"cli.cli","PARAMS":{"command":"echo","params":["hi","there"]},"capture_output":true}"#;
    let answer = eventually("answer of the intake", || post(port, "/job/add", job));
    assert_eq!((answer.status, answer.text().as_str()), (200, "hi there\n"), "{}", running.stderr());
    let stats = get(stats, "/manager/stats").unwrap().json();
    for key in ["uptime", "total_job", "job_persecond_by_provider", "channel_stats", "average_duration"] {
        assert!(!stats[key].is_null(), "{key}: {stats}");
    }
    assert_eq!(stats["total_job"], 1);
}

#[test]
fn without_a_file_it_works_and_a_default_port_that_is_taken_is_a_warning() {
    let place = Place::new();
    // Both take the default ports, if nobody else has; the second gets on without them.
    let first = place.start(&["run"]);
    eventually("word that it works", || first.stderr().contains("ganger works").then_some(()));
    let other = Place::new();
    let second = other.start(&["run"]);
    eventually("word that it works", || second.stderr().contains("ganger works").then_some(()));
    let finished = other.ganger(&["enqueue", "cli", "--wait", "--", "echo", "both"]).ok();
    assert_eq!(finished.stdout, "both\n");
    for running in [first, second] {
        running.terminate();
        running.finish().ok();
    }
}

#[test]
fn a_port_that_was_asked_for_and_is_taken_is_an_error_that_names_it() {
    let place = Place::new();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    place.write(
        "taken.toml",
        format!("stats_port = \"off\"\n[[providers]]\ndisk = {{}}\n[[providers]]\nhttp = {{ listen_on = \"127.0.0.1:{port}\" }}\n[[workers]]\ncli = {{}}\n"),
    );
    let finished = place.ganger(&["run", "-c", "taken.toml"]);
    assert_ne!(finished.code, Some(0));
    assert!(finished.stderr.contains(&port.to_string()), "{}", finished.stderr);
}

#[test]
fn off_loopback_an_intake_without_a_token_does_not_start() {
    let place = Place::new();
    let port = free_port();
    place.write(
        "open.toml",
        format!("stats_port = \"off\"\n[[providers]]\ndisk = {{}}\n[[providers]]\nhttp = {{ listen_on = \"0.0.0.0:{port}\" }}\n[[workers]]\nhttp = {{}}\n"),
    );
    let finished = place.ganger(&["run", "-c", "open.toml"]);
    assert_eq!(finished.code, Some(2), "{}", finished.stderr);
    assert!(finished.stderr.contains("token"), "{}", finished.stderr);
}
