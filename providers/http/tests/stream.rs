//! `?stream`: the output while the job runs.
#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use ganger_conformance::eventually;
use ganger_core::{Hold, Output, State, Timestamp, Verdict};
use serde_json::{Value, json};
use support::{House, open, reply};
use tokio::{io::AsyncReadExt, net::TcpStream};

const JOB: &str = r#"{"type":"http","id":"a"}"#;

/// Reads until this has come.
async fn read_until(stream: &mut TcpStream, text: &str) -> String {
    let mut bytes = Vec::new();
    while !String::from_utf8_lossy(&bytes).contains(text) {
        assert!(stream.read_buf(&mut bytes).await.unwrap() > 0, "{}", String::from_utf8_lossy(&bytes));
    }
    String::from_utf8(bytes).unwrap()
}

/// The rest of an answer that comes in chunks: its body, and its trailers.
async fn rest(stream: &mut TcpStream) -> (Vec<u8>, String) {
    let (mut bytes, mut body) = (Vec::new(), Vec::new());
    stream.read_to_end(&mut bytes).await.unwrap();
    let mut rest = bytes.as_slice();
    loop {
        let end = rest.windows(2).position(|two| two == b"\r\n").unwrap();
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..end]).unwrap(), 16).unwrap();
        rest = &rest[end + 2..];
        if size == 0 {
            return (body, String::from_utf8_lossy(rest).to_lowercase());
        }
        body.extend_from_slice(&rest[..size]);
        rest = &rest[size + 2..];
    }
}

async fn end(house: &House, held: &support::Held, verdict: Verdict, output: Output, error: Option<&str>) {
    let state = verdict.state();
    house.events.changed(held.job.id.as_ref().unwrap(), Timestamp::now(), state, error);
    house.end(held, verdict, output, error).await;
}

#[tokio::test]
async fn the_output_comes_while_the_job_runs_and_its_fate_is_the_last_line() {
    let house = open(json!({"max_waiting": 1})).await;
    let mut stream = house.begin("POST", "/job/add?stream", &[], JOB).await;
    let head = read_until(&mut stream, "\r\n\r\n").await.to_lowercase();
    assert!(head.starts_with("http/1.1 200 ") && head.contains("ganger-job-id: a\r\n"), "{head}");
    assert!(head.contains("transfer-encoding: chunked") && !head.contains("trailer:"), "{head}");
    let held = house.take("http").await;
    let run = house.run(&held);
    run.write(b"first\n");
    read_until(&mut stream, "first\n\r\n").await;
    let busy = house.post("/job/add", r#"{"type":"http","id":"b"}"#).await;
    assert_eq!(busy.status, 503, "it counts among those who wait");
    run.write(&[0xff, b'x']);
    drop(run.take_side());
    let dead = Verdict::Dead { reason: "retries spent".into() };
    end(&house, &held, dead, Output::new("first\nx"), Some("exit status 3")).await;
    let (body, trailers) = rest(&mut stream).await;
    let fate: Value = serde_json::from_slice(body.strip_prefix(b"\xffx\n").unwrap()).unwrap();
    assert_eq!(fate, json!({"id": "a", "state": "dead", "attempts": 1, "error": "exit status 3"}));
    assert_eq!(trailers, "\r\n");
}

#[tokio::test]
async fn the_fate_comes_as_trailers_to_whom_it_may() {
    let house = open(json!({})).await;
    let te = [("te", "gzip, trailers")];
    for (n, path) in ["/job/add?stream=trailers", "/job/add?stream"].into_iter().enumerate() {
        let mut stream = house.begin("POST", path, &te, format!(r#"{{"type":"http","id":"job-{n}"}}"#)).await;
        assert!(read_until(&mut stream, "\r\n\r\n").await.contains("trailer: ganger-state"));
        let held = house.take("http").await;
        // It ran elsewhere: what is stored of its output comes at the end.
        house.end(&held, Verdict::Done, Output::new("from afar"), None).await;
        let (body, trailers) = rest(&mut stream).await;
        let line = format!("\n{{\"id\":\"job-{n}\",\"state\":\"done\",\"attempts\":1}}\n");
        let line = if n == 0 { "" } else { &line };
        assert_eq!(String::from_utf8(body).unwrap(), format!("from afar{line}"));
        assert!(trailers.contains("ganger-state: done\r\n"), "{trailers}");
        assert!(trailers.contains("ganger-attempts: 1\r\n") && !trailers.contains("error"), "{trailers}");
    }
    let untold = house.post("/job/add?stream=trailers", JOB).await;
    assert_eq!((untold.status, house.state("a").await), (400, None));
}

#[tokio::test]
async fn a_client_that_goes_away_leaves_its_job_unless_it_asked_otherwise() {
    for (path, cancelled) in [("/job/add?stream", false), ("/job/add?stream&cancel_on_disconnect", true)] {
        let house = open(json!({"max_waiting": 1})).await;
        let mut stream = house.begin("POST", path, &[], JOB).await;
        read_until(&mut stream, "\r\n\r\n").await;
        let held = house.take("http").await;
        let run = house.run(&held);
        run.write(b"going on");
        read_until(&mut stream, "going on").await;
        drop(stream);
        eventually("its place is free", async || {
            house.post("/job/add?wait=1ms", r#"{"type":"http","id":"b"}"#).await.status == 202
        })
        .await;
        let hold = if cancelled { Hold::Cancel } else { Hold::Held };
        eventually("it is marked, or not", async || house.hold(&held).await == hold).await;
        assert_eq!(house.state("a").await, Some(State::Running));
    }
}

#[tokio::test]
async fn a_stream_that_is_quiet_for_long_is_no_idle_connection() {
    let house = open(json!({"idle_timeout": "50ms", "header_timeout": "50ms", "max_connections": 1})).await;
    let mut stream = house.begin("POST", "/job/add?stream", &[], JOB).await;
    read_until(&mut stream, "\r\n\r\n").await;
    let held = house.take("http").await;
    let run = house.run(&held);
    // tidy: allow(sleep), the job is quiet for longer than a connection may be idle
    tokio::time::sleep(Duration::from_millis(200)).await;
    let turned_away = house.get("/job/add/a").await;
    assert_eq!(turned_away.status, 503, "its place is not given away either");
    run.write(b"late");
    drop(run.take_side());
    end(&house, &held, Verdict::Done, Output::new("late"), None).await;
    assert!(rest(&mut stream).await.0.starts_with(b"late\n"));
}

#[tokio::test]
async fn when_the_wait_is_over_the_last_line_says_how_it_stands() {
    let house = open(json!({})).await;
    let mut stream = house.begin("POST", "/job/add?stream&wait=50ms", &[], JOB).await;
    read_until(&mut stream, "\r\n\r\n").await;
    assert_eq!(rest(&mut stream).await.0, b"{\"id\":\"a\",\"state\":\"ready\"}\n");
    let mut many = house.begin("POST", "/job/add?stream", &[], "[]").await;
    assert_eq!(reply(&mut many).await.status, 400);
    let refused = house.post("/job/add?stream", r#"{"type":"nobodys"}"#).await;
    assert_eq!(refused.status, 422, "a job that is not taken has no stream");
}
