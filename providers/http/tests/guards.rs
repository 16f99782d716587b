//! Who is kept out of the `http` intake, and who cannot hold it up.
#![allow(clippy::unwrap_used)]

mod support;

use ganger_conformance::eventually;
use ganger_core::{Intake, Output, Severity, Verdict};
use ganger_provider_http::{HttpIntake, HttpIntakeConfig, PLUGIN};
use serde_json::json;
use support::{context, open, reply};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const JOB: &str = r#"{"type":"http"}"#;

#[tokio::test]
async fn s4_a_token_is_asked_for_on_every_path() {
    let house = open(json!({"token": "open sesame"})).await;
    let send = async |value: &'static str| {
        let headers = [("authorization", value)];
        house.send("POST", "/job/add?wait=false", &headers, JOB).await.status
    };
    assert_eq!(send("Bearer open sesame").await, 202);
    assert_eq!(send("bearer open sesame").await, 202);
    for wrong in ["Bearer open sesam", "Bearer open sesame2", "Basic open sesame", "Bearer ", "x", ""] {
        assert_eq!(send(wrong).await, 401, "{wrong}");
    }
    let get = house.get("/job/add/some-id").await;
    assert_eq!((get.status, get.header("www-authenticate")), (401, "Bearer"));
}

#[tokio::test]
async fn s5_browsers_are_kept_out() {
    let house = open(json!({"hosts": ["jobs.example"]})).await;
    let send = async |headers: &'static [(&'static str, &'static str)]| {
        house.send("POST", "/job/add?wait=false", headers, JOB).await.status
    };
    assert_eq!(send(&[]).await, 202);
    assert_eq!(send(&[("host", "jobs.example")]).await, 202);
    assert_eq!(send(&[("host", "evil.example")]).await, 403);
    assert_eq!(send(&[("origin", "http://evil.example")]).await, 403);
    assert_eq!(send(&[("sec-fetch-site", "cross-site")]).await, 403);
    let preflight = house.send("OPTIONS", "/job/add", &[("origin", "http://evil.example")], "").await;
    assert!(
        preflight.status == 403 && !preflight.headers.keys().any(|name| name.starts_with("access-control"))
    );
}

#[tokio::test]
async fn s9_a_slow_head_and_a_slow_body_are_cut_off() {
    let house = open(json!({"header_timeout": "50ms", "body_timeout": "50ms"})).await;
    let mut slow_head = TcpStream::connect(house.address).await.unwrap();
    slow_head.write_all(b"POST /job/add HTTP/1.1\r\nhost: lo").await.unwrap();
    let mut rest = Vec::new();
    let _ = slow_head.read_to_end(&mut rest).await;
    assert!(!String::from_utf8_lossy(&rest).contains("200"), "it was closed");
    let mut slow_body = TcpStream::connect(house.address).await.unwrap();
    slow_body
        .write_all(b"POST /job/add HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\n{\"type\"")
        .await
        .unwrap();
    let reply = reply(&mut slow_body).await;
    assert_eq!(reply.status, 408, "{reply:?}");
}

#[tokio::test]
async fn s9_who_stays_on_has_a_limit_of_its_own() {
    let send = async |stream: &mut TcpStream, text: &str| stream.write_all(text.as_bytes()).await.unwrap();
    let asks = "GET /job/add/some-id HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let is_closed = async |stream: &mut TcpStream| {
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
        rest.is_empty()
    };
    // One that has been answered is closed soon; one that has sent nothing yet, or half a head, is not.
    let house = open(json!({"idle_timeout": "50ms", "header_timeout": "5m"})).await;
    let mut fresh = TcpStream::connect(house.address).await.unwrap();
    let mut slow = TcpStream::connect(house.address).await.unwrap();
    send(&mut slow, asks).await;
    assert_eq!(reply(&mut slow).await.status, 404);
    send(&mut slow, "GET /job").await;
    let mut idle = TcpStream::connect(house.address).await.unwrap();
    send(&mut idle, asks).await;
    assert_eq!(reply(&mut idle).await.status, 404);
    assert!(is_closed(&mut idle).await);
    send(&mut slow, &asks[8..]).await;
    send(&mut fresh, asks).await;
    assert_eq!((reply(&mut slow).await.status, reply(&mut fresh).await.status), (404, 404));
    // And the other way round: half a head is closed soon, one that is idle is not.
    let house = open(json!({"idle_timeout": "5m", "header_timeout": "50ms"})).await;
    let mut idle = TcpStream::connect(house.address).await.unwrap();
    send(&mut idle, asks).await;
    assert_eq!(reply(&mut idle).await.status, 404);
    let mut slow = TcpStream::connect(house.address).await.unwrap();
    send(&mut slow, asks).await;
    assert_eq!(reply(&mut slow).await.status, 404);
    send(&mut slow, "GET /job").await;
    assert!(is_closed(&mut slow).await);
    send(&mut idle, asks).await;
    assert_eq!(reply(&mut idle).await.status, 404);
}

#[tokio::test]
async fn s9_idle_connections_make_room_and_busy_ones_do_not() {
    let house = open(json!({"max_connections": 3})).await;
    let mut idle = Vec::new();
    for _ in 0..20 {
        let mut stream = TcpStream::connect(house.address).await.unwrap();
        stream.write_all(b"POST /job/a").await.unwrap();
        idle.push(stream);
    }
    assert_eq!(
        house.post("/job/add?wait=false", JOB).await.status,
        202,
        "a client among idle ones is served"
    );
    drop(idle);
    let mut busy = Vec::new();
    for n in 0..3 {
        let id = format!("busy-{n}");
        busy.push(house.begin("POST", "/job/add", &[], format!(r#"{{"type":"http","id":"{id}"}}"#)).await);
        eventually("it waits", async || house.state(&id).await.is_some()).await;
    }
    let mut refused = TcpStream::connect(house.address).await.unwrap();
    let answer = reply(&mut refused).await;
    assert_eq!((answer.status, answer.header("retry-after")), (503, "1"));
    // Those three and the one that nobody waits for, in whatever order they come.
    for _ in 0..4 {
        let held = house.take("http").await;
        house.end(&held, Verdict::Done, Output::default(), None).await;
    }
    for mut stream in busy {
        assert_eq!(reply(&mut stream).await.status, 200);
    }
}

#[tokio::test]
async fn s9_large_heads_are_refused() {
    let house = open(json!({})).await;
    let mut stream = TcpStream::connect(house.address).await.unwrap();
    let head = format!("POST /job/add HTTP/1.1\r\nhost: localhost\r\nx: {}\r\n\r\n", "y".repeat(200_000));
    let _ = stream.write_all(head.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 431"), "{}", String::from_utf8_lossy(&answer));
    assert_eq!(house.post("/job/add?wait=false", JOB).await.status, 202);
}

#[tokio::test]
async fn a_config_that_cannot_work_stops_the_start() {
    let wrong = [
        (json!({"listen_on": "nowhere"}), "nowhere"),
        (json!({"listen_on": "127.0.0.1:0", "token": ""}), "token"),
        (json!({"listen_on": "127.0.0.1:0", "endpoint": "/a b"}), "endpoint"),
        (json!({"listen_on": "127.0.0.1:0", "methods": []}), "methods"),
    ];
    for (config, names) in wrong {
        let parsed: HttpIntakeConfig = serde_json::from_value(config.clone()).unwrap();
        let error = HttpIntake::open(parsed, context("http")).await.err().unwrap();
        assert_eq!(error.severity(), Severity::Fatal);
        assert!(error.to_string().contains(names), "{config}: {error}");
    }
    let open = json!({"listen_on": "0.0.0.0:0"});
    assert!(PLUGIN.check(&open).unwrap_err().message.contains("token"));
    assert!(PLUGIN.check(&json!({"listen": ":80"})).unwrap_err().message.contains("listen_on"));
    let config: HttpIntakeConfig = serde_json::from_value(json!({"token": "canary"})).unwrap();
    assert!(!format!("{config:?}").contains("canary"));
}
