//! GoWorker's faults that show only in a whole process.

use ganger_e2e::{Place, eventually, free_port, get, post, request};

use crate::server::Server;

fn disk_and(rest: &str) -> String {
    format!("stats_port = \"off\"\n[[providers]]\ndisk = {{ db_name = \"jobs.db\" }}\n{rest}")
}

#[test]
fn b1_long_jobs_do_not_starve_the_source() {
    let place = Place::new();
    place.write("b1.toml", disk_and("[[workers]]\ncli = { workers = 3 }\n"));
    let running = place.start(&["run", "-c", "b1.toml"]);
    let long = "while [ ! -e go ]; do sleep 0.02; done";
    place.ganger(&["enqueue", "-c", "b1.toml", "cli", "--", "sh", "-c", long]).ok();
    place.ganger(&["enqueue", "-c", "b1.toml", "cli", "--", "sh", "-c", long]).ok();
    for _ in 0..3 {
        let finished = place.ganger(&["enqueue", "-c", "b1.toml", "cli", "--wait", "--", "echo", "on"]);
        assert_eq!(finished.stdout, "on\n", "{}{}", finished.stderr, running.stderr());
    }
    place.write("go", "");
}

#[test]
fn b2_no_end_of_a_command_is_missed() {
    let place = Place::new();
    place.write("b2.toml", disk_and("[[workers]]\ncli = { workers = 4 }\n"));
    let lines = "{\"type\":\"cli\",\"params\":{\"command\":\"/bin/true\"}}\n".repeat(3000);
    place.ganger_fed(&["enqueue", "-c", "b2.toml"], &lines).ok();
    place.ganger(&["run", "-c", "b2.toml", "--once"]).ok();
    let left = place.ganger(&["job", "ls", "-c", "b2.toml", "--state", "ready,running,dead", "--json"]).ok();
    assert_eq!(left.json_lines().len(), 0);
}

#[test]
fn b5_many_readers_of_the_stats_do_no_harm() {
    let place = Place::new();
    let port = free_port();
    place.write(
        "b5.toml",
        disk_and("[[workers]]\ncli = { workers = 4 }\n").replace("\"off\"", &format!("\"127.0.0.1:{port}\"")),
    );
    let mut running = place.start(&["run", "-c", "b5.toml"]);
    // True figures before the first job, where GoWorker divided by zero.
    let first = eventually("stats", || get(port, "/manager/stats"));
    assert_eq!((first.status, first.json()["total_job"].as_u64()), (200, Some(0)));
    let lines = "{\"type\":\"cli\",\"params\":{\"command\":\"/bin/true\"}}\n".repeat(300);
    place.ganger_fed(&["enqueue", "-c", "b5.toml"], &lines).ok();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                (0..300).for_each(|_| assert_eq!(get(port, "/manager/stats").unwrap().status, 200))
            });
        }
    });
    let total = || get(port, "/manager/stats")?.json()["total_job"].as_u64();
    eventually("300 jobs counted", || total().filter(|total| *total == 300));
    assert!(running.ended().is_none());
    assert_eq!(get(port, "/healthz").unwrap().status, 200);
    assert_eq!(get(port, "/readyz").unwrap().status, 200);
}

#[test]
fn b9_a_type_that_no_worker_does_holds_up_nobody() {
    let place = Place::new();
    place.write("b9.toml", disk_and("[[workers]]\ncli = { workers = 2 }\n"));
    let running = place.start(&["run", "-c", "b9.toml"]);
    let lines = "{\"type\":\"nobody\"}\n".repeat(50);
    place.ganger_fed(&["enqueue", "-c", "b9.toml"], &lines).ok();
    let finished = place.ganger(&["enqueue", "-c", "b9.toml", "cli", "--wait", "--", "echo", "on"]);
    assert_eq!(finished.stdout, "on\n", "{}{}", finished.stderr, running.stderr());
    let waiting = place.ganger(&["job", "ls", "-c", "b9.toml", "--state", "ready", "--json"]).ok();
    assert_eq!(waiting.json_lines().len(), 50, "none was dropped");
    running.terminate();
    running.finish().ok();
}

#[test]
fn b9_no_slots_and_no_worker_are_errors_before_the_start() {
    let place = Place::new();
    for workers in ["cli = { workers = 0 }", "cli = { workers = -1 }", "nobody = { workers = 1 }"] {
        place.write("b9.toml", disk_and(&format!("[[workers]]\n{workers}\n")));
        let finished = place.ganger(&["check", "-c", "b9.toml"]);
        assert_eq!(finished.code, Some(2), "{workers}: {}", finished.stderr);
    }
}

#[test]
fn b16_an_unknown_failure_handler_is_an_error_before_the_start() {
    let place = Place::new();
    place.write(
        "b16.toml",
        disk_and("[[workers]]\ncli = {}\n[[failure_handler]]\nfile = { bucket = \"x\" }\n"),
    );
    let finished = place.ganger(&["run", "-c", "b16.toml"]);
    assert_eq!(finished.code, Some(2), "{}", finished.stderr);
    assert!(finished.stderr.contains("file"), "{}", finished.stderr);
}

#[test]
fn b17_an_http_failure_handler_posts_the_whole_record() {
    let place = Place::new();
    let server = Server::start(|_| (200, String::new()));
    let handler = format!("[[failure_handler]]\nhttp = {{ url = \"{}\" }}\n", server.url("/failed"));
    place.write("b17.toml", disk_and(&format!("[[workers]]\ncli = {{}}\n{handler}")));
    let job = r#"{"id":"bad","type":"cli","retries":1,"backoff":{"initial":"10ms"},"capture_output":true,
        "params":{"command":"sh","params":["-c","echo why; exit 3"]}}"#;
    place.ganger_fed(&["enqueue", "-c", "b17.toml"], &job.replace('\n', "")).ok();
    assert_eq!(place.ganger(&["run", "-c", "b17.toml", "--once"]).code, Some(1));
    let requests = server.requests();
    assert_eq!(requests.len(), 1, "once");
    let record: serde_json::Value =
        serde_json::from_str(requests[0].split_once("\r\n\r\n").unwrap().1).unwrap();
    assert_eq!((record["job"]["id"].as_str(), record["state"].as_str()), (Some("bad"), Some("dead")));
    assert_eq!(record["attempts"].as_array().unwrap().len(), 2);
    assert!(record["attempts"][0]["output"].as_str().unwrap().contains("why"), "{record}");
}

#[test]
fn b19_a_failing_command_is_a_failure_and_its_handlers_see_it() {
    let place = Place::new();
    place.write(
        "b19.toml",
        disk_and("[[workers]]\ncli = {}\n[[failure_handler]]\ncli = { command = \"sh\", params = [\"-c\", \"echo $GANGER_FAILED_JOB_ID > told\"] }\n"),
    );
    place
        .ganger_fed(
            &["enqueue", "-c", "b19.toml"],
            r#"{"id":"bad","type":"cli","params":{"command":"false"}}"#,
        )
        .ok();
    assert_eq!(place.ganger(&["run", "-c", "b19.toml", "--once"]).code, Some(1));
    assert_eq!(place.read("told").as_deref(), Some("bad\n"));
    let shown = place.ganger(&["job", "show", "-c", "b19.toml", "bad", "--json"]).ok().json();
    assert_eq!(shown["handled"][0]["state"], "done", "{shown}");
}

#[test]
fn b23_the_disk_failure_handler_keeps_the_whole_record() {
    let place = Place::new();
    let handler = "[[failure_handler]]\ndisk = { db_name = \"failures.db\", bucket = \"failed\" }\n";
    place.write("b23.toml", disk_and(&format!("[[workers]]\ncli = {{}}\n{handler}")));
    for n in 0..2 {
        let job = format!(r#"{{"id":"bad-{n}","type":"cli","params":{{"command":"false"}}}}"#);
        place.ganger_fed(&["enqueue", "-c", "b23.toml"], &job).ok();
    }
    place.ganger(&["run", "-c", "b23.toml", "--once"]);
    // In the same second, and neither overwrites the other.
    place.write(
        "failures.toml",
        "[[providers]]\ndisk = { db_name = \"failures.db\" }\n[[workers]]\ncli = {}\n",
    );
    let kept = place.ganger(&["dead", "ls", "-c", "failures.toml", "--json"]).ok();
    for n in 0..2 {
        assert!(kept.stdout.contains(&format!("bad-{n}")), "{}", kept.stdout);
    }
}

#[test]
fn b25_two_intakes_are_both_served() {
    let place = Place::new();
    let ports = [free_port(), free_port()];
    let intakes: String = ports
        .iter()
        .enumerate()
        .map(|(n, port)| format!("[[providers]]\nhttp = {{ name = \"in{n}\", listen_on = \"127.0.0.1:{port}\", accept = [\"cli\"] }}\n"))
        .collect();
    place.write("b25.toml", disk_and(&format!("{intakes}[[workers]]\ncli = {{}}\n")));
    let running = place.start(&["run", "-c", "b25.toml"]);
    let job = r#"{"type":"cli","params":{"command":"echo","params":["hi"]},"capture_output":true}"#;
    for port in ports {
        let answer = eventually("answer of the intake", || post(port, "/job/add", job));
        assert_eq!((answer.status, answer.text().as_str()), (200, "hi\n"), "{}", running.stderr());
    }
}

#[test]
fn b31_a_thousand_http_jobs_leave_no_files_open() {
    let place = Place::new();
    let server = Server::start(|_| (200, "x".repeat(10_000)));
    place.write("b31.toml", disk_and("[[workers]]\nhttp = { workers = 8 }\n"));
    let running = place.start(&["run", "-c", "b31.toml"]);
    eventually("word that it works", || running.stderr().contains("ganger works").then_some(()));
    let open = || std::fs::read_dir(format!("/proc/{}/fd", running.pid())).unwrap().count();
    let job = format!("{{\"type\":\"http\",\"params\":{{\"url\":\"{}\"}}}}\n", server.url("/"));
    place.ganger_fed(&["enqueue", "-c", "b31.toml"], &job.repeat(1000)).ok();
    eventually("a thousand requests", || (server.requests().len() == 1000).then_some(()));
    eventually("few open files", || (open() < 60).then_some(()));
}

/// A command that forks as long as it may: what it made ends with it, and the next job runs. How many processes a
/// command may have is not bounded yet.
#[test]
fn f22_a_command_that_forks_and_forks_is_ended_with_all_it_made() {
    const CHILDREN: usize = 300;
    let place = Place::new();
    place.write("f22.toml", disk_and("[[workers]]\ncli = { workers = 1, grace = \"200ms\" }\n"));
    let running = place.start(&["run", "-c", "f22.toml"]);
    // Deaf to TERM, and each child in turn.
    let script = format!(
        "trap '' TERM; i=0; while [ $i -lt {CHILDREN} ]; do sleep 600 & echo $! >> pids; i=$((i+1)); done; touch all; wait"
    );
    place.ganger(&["enqueue", "-c", "f22.toml", "cli", "--id", "bomb", "--", "sh", "-c", &script]).ok();
    eventually("all children", || place.read("all"));
    place.ganger(&["job", "cancel", "-c", "f22.toml", "bomb"]).ok();
    let next = place.ganger(&["enqueue", "-c", "f22.toml", "cli", "--wait", "--", "echo", "on"]);
    assert_eq!(next.stdout, "on\n", "{}{}", next.stderr, running.stderr());
    let pids: Vec<u32> = place.read("pids").unwrap().lines().filter_map(|line| line.parse().ok()).collect();
    assert_eq!(pids.len(), CHILDREN);
    eventually("end of all children", || (!pids.iter().any(|pid| crate::crash::lives(*pid))).then_some(()));
    let shown = place.ganger(&["job", "show", "-c", "f22.toml", "bomb", "--json"]).ok().json();
    assert_eq!(shown["state"], "cancelled", "{shown}");
}

#[test]
fn p11_secrets_are_in_no_log_and_no_answer() {
    let place = Place::new();
    let (stats, port) = (free_port(), free_port());
    place.write("token", "canary-file\n");
    place.write(
        "p11.toml",
        format!(
            "stats_port = \"127.0.0.1:{stats}\"\nstats_token = \"canary-stats\"\n\
             [[providers]]\ndisk = {{ db_name = \"jobs.db\" }}\n\
             [[providers]]\nhttp = {{ listen_on = \"127.0.0.1:{port}\", token = \"${{file:token}}\", accept = [\"cli\"] }}\n\
             [[workers]]\ncli = {{}}\n\
             [[workers]]\nhttp = {{ proxy = \"http://user:canary-proxy@127.0.0.1:1\" }}\n"
        ),
    );
    let mut told = String::new();
    for args in [&["check", "-c", "p11.toml"][..], &["check", "-c", "p11.toml", "--json", "--log", "trace"]] {
        let finished = place.ganger(args).ok();
        told.push_str(&(finished.stdout + &finished.stderr));
    }
    let running = place.start(&["run", "-c", "p11.toml", "--log", "trace"]);
    let wrong = [("Authorization", "Bearer canary-wrong")];
    let job = br#"{"type":"http","params":{"url":"http://u:canary-url@h.example/?key=canary-query"}}"#;
    let refused = eventually("refusal", || request(port, "POST", "/job/add", &wrong, job));
    assert_eq!(refused.status, 401, "{}", refused.text());
    let right = [("Authorization", "Bearer canary-file")];
    let dead = request(port, "POST", "/job/add", &right, job).unwrap();
    assert_eq!(dead.status, 500, "no proxy is there: {}", dead.text());
    let env = br#"{"type":"cli","params":{"command":"env"},"capture_output":true}"#;
    let env = request(port, "POST", "/job/add", &right, env).unwrap();
    assert!(env.status == 200 && env.text().contains("PATH="), "{}", env.text());
    for answer in [refused, dead, env] {
        told.push_str(&answer.text());
        told.extend(answer.headers.iter().map(|(name, value)| format!("{name}: {value}\n")));
    }
    for path in ["/manager/stats", "/readyz", "/healthz"] {
        told.push_str(&request(stats, "GET", path, &wrong, b"").unwrap().text());
        told.push_str(
            &request(stats, "GET", path, &[("Authorization", "Bearer canary-stats")], b"").unwrap().text(),
        );
    }
    running.terminate();
    let finished = running.finish();
    told.push_str(&(finished.stdout + &finished.stderr));
    assert!(told.contains("ganger works"), "{told}");
    let lines: Vec<&str> = told.lines().filter(|line| line.contains("canary")).collect();
    assert!(lines.is_empty(), "{lines:#?}");
}
