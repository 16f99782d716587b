//! Jobs over HTTP, with real sockets.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
};

use ganger_e2e::{Place, Running, eventually, free_port, get, post, request};

/// ganger with an intake that takes `cli` jobs, and the port it listens on.
fn start(place: &Place, intake: &str) -> (Running, u16) {
    let port = free_port();
    place.write(
        "intake.toml",
        format!(
            "stats_port = \"off\"\n[[providers]]\ndisk = {{ db_name = \"jobs.db\" }}\n\
             [[providers]]\nhttp = {{ listen_on = \"127.0.0.1:{port}\", {intake} }}\n\
             [[workers]]\ncli = {{ workers = 4 }}\n[[workers]]\nhttp = {{ workers = 2 }}\n"
        ),
    );
    let running = place.start(&["run", "-c", "intake.toml"]);
    eventually("an open port", || get(port, "/nowhere"));
    (running, port)
}

const ACCEPT: &str = "accept = [\"cli\"]";

fn command(text: &str) -> String {
    format!(r#"{{"type":"cli","params":{{"command":"sh","params":["-c","{text}"]}},"capture_output":true}}"#)
}

#[test]
fn a_request_waits_and_its_status_tells_the_jobs_fate() {
    let place = Place::new();
    let (_running, port) = start(&place, ACCEPT);
    let good = post(port, "/job/add", &command("echo well done")).unwrap();
    assert_eq!((good.status, good.text().as_str()), (200, "well done\n"));
    assert_eq!(good.header("ganger-state"), Some("done"));
    let bad = post(port, "/job/add", &command("echo so far; exit 3")).unwrap();
    assert!(bad.status >= 500, "{}", bad.status);
    assert_eq!(bad.text(), "so far\n");
    assert_eq!(bad.header("ganger-state"), Some("dead"));
}

#[test]
fn a_file_that_may_not_grow_refuses_jobs_and_ends_nothing() {
    let place = Place::new();
    let port = free_port();
    place.write(
        "small.toml",
        format!(
            "stats_port = \"off\"\n[[providers]]\ndisk = {{ db_name = \"jobs.db\" }}\n\
             [[providers]]\nhttp = {{ listen_on = \"127.0.0.1:{port}\", {ACCEPT} }}\n[[workers]]\ncli = {{}}\n"
        ),
    );
    let mut limited = place.command("sh");
    limited.args(["-c", "ulimit -f 2048; exec \"$0\" run -c small.toml"]).arg(ganger_e2e::ganger());
    let running = place.launch(&mut limited);
    eventually("an open port", || get(port, "/nowhere"));
    let large = format!(
        r#"{{"type":"cli","delay":"1h","params":{{"command":"true","stdin":"{}"}}}}"#,
        "x".repeat(100_000)
    );
    let refused = (0..100).find_map(|_| {
        let answer = post(port, "/job/add?wait=false", &large).expect("it lives and answers");
        (answer.status >= 300).then_some(answer)
    });
    let refused = refused.expect("the file may not hold them all");
    assert_eq!(refused.status, 503, "{}", refused.text());
    assert!(get(port, "/nowhere").is_some());
    running.terminate();
    running.finish().ok();
}

#[test]
fn a_store_out_of_reach_at_the_start_is_told_and_comes_back_by_itself() {
    let place = Place::new();
    let (port, stats) = (free_port(), free_port());
    place.write(
        "later.toml",
        format!(
            "stats_port = \"127.0.0.1:{stats}\"\n[[providers]]\ndisk = {{ db_name = \"later/jobs.db\" }}\n\
             [[providers]]\nhttp = {{ listen_on = \"127.0.0.1:{port}\", {ACCEPT} }}\n[[workers]]\ncli = {{}}\n"
        ),
    );
    let _running = place.start(&["run", "-c", "later.toml"]);
    eventually("the reason why it is not ready", || {
        get(stats, "/readyz").filter(|answer| answer.status == 503 && answer.text().contains("later"))
    });
    assert_eq!(get(stats, "/healthz").unwrap().status, 200);
    let answer = post(port, "/job/add", &command("true")).unwrap();
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")), "{}", answer.text());

    std::fs::create_dir(place.file("later")).unwrap();
    eventually("readiness", || get(stats, "/readyz").filter(|answer| answer.status == 200));
    let answer = eventually("an answer that is not 503", || {
        post(port, "/job/add", &command("echo well")).filter(|answer| answer.status != 503)
    });
    assert_eq!((answer.status, answer.text().as_str()), (200, "well\n"));
}

#[test]
fn output_of_a_megabyte_arrives_whole() {
    let place = Place::new();
    let (_running, port) = start(&place, ACCEPT);
    let answer = post(port, "/job/add", &command("head -c 1000000 /dev/zero | tr '\\\\0' x")).unwrap();
    assert_eq!((answer.status, answer.body.len()), (200, 1_000_000));
}

#[test]
fn b10_an_unknown_type_is_answered_and_the_next_job_runs() {
    let place = Place::new();
    let (_running, port) = start(&place, ACCEPT);
    let answer = post(port, "/job/add", r#"{"type":"nobody"}"#).unwrap();
    assert_eq!(answer.status, 422);
    assert!(answer.text().contains("nobody") && answer.text().contains("cli"), "{}", answer.text());
    assert_eq!(post(port, "/job/add", &command("true")).unwrap().status, 200);
}

#[test]
fn a_type_that_runs_commands_is_refused_with_the_line_that_lets_it_in() {
    let place = Place::new();
    let (_running, port) = start(&place, "endpoint = \"/job/add\"");
    let answer = post(port, "/job/add", &command("true")).unwrap();
    assert_eq!(answer.status, 403);
    assert!(answer.text().contains("accept"), "{}", answer.text());
}

#[test]
fn bad_json_is_400_with_its_place() {
    let place = Place::new();
    let (_running, port) = start(&place, ACCEPT);
    let answer = post(port, "/job/add", "{\"type\": \"cli\",\n \"retries\": \"3\"}").unwrap();
    assert_eq!(answer.status, 400);
    assert_eq!(answer.json()["line"], 2, "{}", answer.text());
    for body in ["", "[", "17", "{\"type\":\"cli\"} x", "{\"type\":\"cli\",\"type\":\"cli\"}"] {
        assert_eq!(post(port, "/job/add", body).unwrap().status, 400, "{body}");
    }
    let deep = format!("{{\"type\":\"cli\",\"params\":{}{}}}", "[".repeat(10_000), "]".repeat(10_000));
    assert_eq!(post(port, "/job/add", &deep).unwrap().status, 400);
    assert_eq!(request(port, "POST", "/job/add", &[], b"{\"type\":\"\xff\"}").unwrap().status, 400);
    assert_eq!(post(port, "/job/add", &command("true")).unwrap().status, 200, "nothing else is disturbed");
}

#[test]
fn params_that_the_worker_here_refuses_are_422_and_others_are_another_configs() {
    let place = Place::new();
    let (_running, port) = start(&place, "accept = [\"cli\", \"knit\"]");
    for (body, parts) in [
        (r#"{"type":"cli"}"#, ["`cli`", "names no `command`"]),
        (r#"{"type":"cli.cli","params":{"command":["true"]}}"#, ["`cli`, `command`", "expected a text"]),
        (r#"{"type":"cli","params":{"command":"true","shell":true}}"#, ["`cli`", "`shell` is no param"]),
        (r#"{"type":"http","params":{"url":"ftp://x/"}}"#, ["`http`", "scheme `ftp`"]),
        (r#"{"type":"http","params":{"url":"http://x/","headers":[]}}"#, ["`http`, `headers`", "an object"]),
        (r#"{"type":"http"}"#, ["`http`", "missing field `url`"]),
    ] {
        let answer = post(port, "/job/add", body).unwrap();
        assert_eq!(answer.status, 422, "{body}: {}", answer.text());
        assert!(parts.iter().all(|part| answer.text().contains(part)), "{body}: {}", answer.text());
    }
    // Nobody here does that type, so nobody here can say what its params are.
    let answer = post(port, "/job/add?wait=false", r#"{"type":"knit","params":7}"#).unwrap();
    assert_eq!(answer.status, 202, "{}", answer.text());
    assert_eq!(post(port, "/job/add", &command("true")).unwrap().status, 200, "nothing else is disturbed");
}

#[test]
fn a_body_of_64_mib_is_413() {
    let place = Place::new();
    let (_running, port) = start(&place, ACCEPT);
    let body = vec![b' '; 64 << 20];
    assert_eq!(request(port, "POST", "/job/add", &[], &body).unwrap().status, 413);
    assert_eq!(post(port, "/job/add", &command("true")).unwrap().status, 200);
}

#[test]
fn many_jobs_are_answered_one_line_each_and_do_not_wait() {
    let place = Place::new();
    let (_running, port) = start(&place, ACCEPT);
    let jobs = format!("[{},{{\"type\":\"nobody\"}},{}]", command("true"), command("true"));
    for body in [jobs.clone(), jobs[1..jobs.len() - 1].replace("},{\"type\"", "}\n{\"type\"")] {
        let answer = post(port, "/job/add", &body).unwrap();
        assert_eq!(answer.status, 202, "{}", answer.text());
        let lines: Vec<serde_json::Value> =
            answer.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 3, "{}", answer.text());
        assert!(lines[0]["id"].is_string() && lines[1]["error"].is_string() && lines[2]["id"].is_string());
    }
}

#[test]
fn b24_an_accepted_job_survives_the_end_of_the_process() {
    let place = Place::new();
    let (mut running, port) = start(&place, ACCEPT);
    let script = "while [ ! -e go ]; do sleep 0.02; done; echo done > made";
    let answer = post(port, "/job/add?wait=false", &command(script)).unwrap();
    assert_eq!(answer.status, 202);
    let id = answer.header("ganger-job-id").unwrap().to_owned();
    assert!(answer.header("location").is_some_and(|location| location.ends_with(&id)));
    let asked = get(port, &format!("/job/add/{id}")).unwrap().json();
    assert!(["ready", "running"].contains(&asked["state"].as_str().unwrap()), "{asked}");
    running.kill();
    place.write("go", "");
    let again = place.start(&["run", "-c", "intake.toml"]);
    eventually("file that the job makes", || place.read("made"));
    let state = || Some(get(port, &format!("/job/add/{id}"))?.json()["state"] == "done");
    eventually("end of the job", || state().filter(|is_done| *is_done));
    drop(again);
}

#[test]
fn a_request_that_waits_learns_the_end_whichever_process_ran_the_job() {
    let place = Place::new();
    let (mut running, port) = start(&place, ACCEPT);
    running.kill();
    // This process takes jobs in and does none of them; another one on the same file does.
    let text = place.read("intake.toml").unwrap();
    place.write("intake.toml", text.replace("accept = [\"cli\"]", "accept = [\"elsewhere\"]"));
    place.write("other.toml", "stats_port = \"off\"\n[[providers]]\ndisk = { db_name = \"jobs.db\" }\n[[workers]]\ncli = { name = \"elsewhere\" }\n");
    let _intake = place.start(&["run", "-c", "intake.toml"]);
    let _other = place.start(&["run", "-c", "other.toml"]);
    eventually("an open port", || get(port, "/nowhere"));
    let job = command("echo from there").replace("\"cli\"", "\"elsewhere\"");
    let answer = post(port, "/job/add", &job).unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (200, "from there\n"));
}

#[test]
fn browsers_are_kept_out() {
    let place = Place::new();
    let (_running, port) = start(&place, ACCEPT);
    let body = command("true");
    for headers in [
        &[("Origin", "http://evil.example")][..],
        &[("Host", "evil.example")],
        &[("Sec-Fetch-Site", "cross-site")],
    ] {
        let answer = request(port, "POST", "/job/add", headers, body.as_bytes()).unwrap();
        assert!([403, 421].contains(&answer.status), "{headers:?}: {}", answer.status);
    }
}

#[test]
fn b11_slow_jobs_of_one_type_do_not_hold_up_another() {
    let place = Place::new();
    let server = crate::server::Server::start(|_| (200, "quick".to_owned()));
    let (_running, port) = start(&place, ACCEPT);
    for _ in 0..12 {
        let answer =
            post(port, "/job/add?wait=false", &command("while [ ! -e go ]; do sleep 0.02; done")).unwrap();
        assert_eq!(answer.status, 202);
    }
    let job = format!(r#"{{"type":"http","params":{{"url":"{}"}},"capture_output":true}}"#, server.url("/"));
    // All four slots of `cli` are taken until the file is there: this answer comes before.
    let answer = post(port, "/job/add", &job).unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (200, "quick"));
    place.write("go", "");
}

#[test]
fn a_commands_output_is_streamed_while_it_runs_and_its_fate_ends_it() {
    let place = Place::new();
    let (_running, port) = start(&place, ACCEPT);
    let body = command("echo one; while [ ! -e go ]; do sleep 0.01; done; echo two; exit 3");
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    write!(
        stream,
        "POST /job/add?stream HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut answer = String::new();
    let mut lines = BufReader::new(stream);
    while !answer.ends_with("one\n") {
        assert_ne!(lines.read_line(&mut answer).unwrap(), 0, "{answer}");
    }
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    place.write("go", "");
    lines.read_to_string(&mut answer).unwrap();
    let (_, told) = answer.split_once("two\n").unwrap();
    assert!(told.contains(r#""state":"dead","attempts":1,"error":"exit status 3"}"#), "{told}");
    let unknown = post(port, "/job/add?stream=sideways", &command("true")).unwrap();
    assert_eq!(unknown.status, 400, "{}", unknown.text());
}
