//! What the `http` intake promises, over a memory store.
#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use ganger_conformance::eventually;
use ganger_core::{Output, Settlement, State, Verdict};
use serde_json::json;
use support::{Held, open, reply};

const JOB: &str = r#"{"type":"http","params":{"url":"http://x/"}}"#;

#[tokio::test]
async fn a_post_waits_for_the_jobs_end_and_answers_its_output() {
    let house = open(json!({})).await;
    let mut stream = house.begin("POST", "/job/add", &[], r#"{"type":"http.http","id":"mine"}"#).await;
    let held = house.take("http").await;
    assert_eq!(held.job.rare().via.as_deref(), Some("door"));
    assert!(held.job.rare().keep.unwrap() > Duration::from_secs(300), "its end outlives the wait");
    let output = Output { content_type: Some("text/html".into()), ..Output::new("<b>done</b>") };
    house.end(&held, Verdict::Done, output, None).await;
    let reply = reply(&mut stream).await;
    assert_eq!((reply.status, reply.text().as_str()), (200, "<b>done</b>"));
    assert_eq!((reply.header("ganger-job-id"), reply.header("ganger-state")), ("mine", "done"));
    assert_eq!((reply.header("ganger-attempts"), reply.header("content-type")), ("1", "text/html"));
    assert_eq!(reply.header("x-content-type-options"), "nosniff");
}

#[tokio::test]
async fn b26_status_and_headers_tell_every_end() {
    let house = open(json!({"output_max": 10})).await;
    let dead = Verdict::Dead { reason: "retries spent".into() };
    let ends =
        [(dead, 500, "dead"), (Verdict::Cancelled, 409, "cancelled"), (Verdict::Expired, 504, "expired")];
    for (verdict, status, state) in ends {
        let mut stream = house.begin("POST", "/job/add", &[], JOB).await;
        let held = house.take("http").await;
        house.end(&held, verdict, Output::new("0123456789abcdef"), Some("exit 1\nünd")).await;
        let reply = reply(&mut stream).await;
        assert_eq!((reply.status, reply.header("ganger-state")), (status, state));
        assert_eq!(reply.header("ganger-output-cut"), "6");
        assert_eq!(reply.text(), "01234\n[… 6 bytes cut …]\nbcdef");
        assert!(reply.header("ganger-error").starts_with("exit 1?"), "{reply:?}");
    }
}

#[tokio::test]
async fn b12_a_retried_job_is_answered_once_at_its_end() {
    let house = open(json!({"max_waiting": 1})).await;
    for _ in 0..3 {
        let mut stream = house.begin("POST", "/job/add", &[], JOB).await;
        for run in 0..3 {
            let held = house.take("http").await;
            let verdict =
                if run < 2 { Verdict::Retry { at: ganger_core::Timestamp::now() } } else { Verdict::Done };
            house.settle(Settlement::new(held.lease, verdict)).await;
        }
        // Only one may wait at a time: the place of the one before is free again.
        assert_eq!(reply(&mut stream).await.status, 200);
    }
}

#[tokio::test]
async fn b24_the_answer_comes_when_the_job_is_durable_and_says_where_to_ask() {
    let house = open(json!({})).await;
    let job = r#"{"type":"http","id":"a/ü"}"#;
    for (path, headers) in [("/job/add?wait=false", &[][..]), ("/job/add", &[("prefer", "respond-async")])] {
        let reply = house.send("POST", path, headers, job).await;
        assert_eq!((reply.status, reply.header("location")), (202, "/job/add/a/%C3%BC"));
        assert_eq!(reply.json()["id"], "a/ü");
    }
    assert_eq!(house.state("a/ü").await, Some(State::Ready));
    let shown = house.get("/job/add/a/%C3%BC").await;
    assert_eq!((shown.status, shown.json()["state"].as_str()), (200, Some("ready")));
    assert_eq!(house.get("/job/add/nobody").await.status, 404);
    let other = house.post("/job/add?wait=false", r#"{"type":"http","id":"a/ü","params":{"n":1}}"#).await;
    assert_eq!(other.status, 409, "{other:?}");
}

#[tokio::test]
async fn when_the_wait_is_over_the_answer_is_where_to_ask() {
    let house = open(json!({"wait": "30ms"})).await;
    let reply = house.post("/job/add?wait=5m", JOB).await;
    assert_eq!((reply.status, reply.header("ganger-state")), (202, "ready"));
    assert_eq!(reply.header("location"), format!("/job/add/{}", reply.header("ganger-job-id")));
}

#[tokio::test]
async fn more_than_one_job_never_waits_and_each_has_its_line() {
    let house = open(json!({})).await;
    let bodies = [
        format!("[{JOB}, {{\"type\":7}},\n{{\"type\":\"nobody\"}}, {JOB}]"),
        format!("{JOB}\n{{\"type\":7}}\n\n{{\"type\":\"nobody\"}}\n{JOB}\n"),
    ];
    for body in bodies {
        let reply = house.post("/job/add", body).await;
        let lines = reply.lines();
        assert_eq!((reply.status, lines.len()), (202, 4), "{}", reply.text());
        for stored in [&lines[0], &lines[3]] {
            assert_eq!(house.state(stored["id"].as_str().unwrap()).await, Some(State::Ready));
        }
        assert_eq!((lines[1]["status"].as_u64(), lines[2]["status"].as_u64()), (Some(400), Some(422)));
        assert!(lines[1]["line"].is_number() && lines[2]["error"].as_str().unwrap().contains("nobody"));
    }
    let one = house.send("POST", "/job/add", &[("content-type", "application/x-ndjson")], JOB).await;
    assert_eq!((one.status, one.lines().len()), (202, 1));
}

#[tokio::test]
async fn bad_input_gets_a_clear_answer() {
    let house = open(json!({"max_job": 2000, "max_body": 10000, "max_jobs": 3})).await;
    let deep = format!(r#"{{"type":"http","params":{}{}}}"#, "[".repeat(900), "]".repeat(900));
    let cases: [(&[u8], u16, &str); 13] = [
        (b"", 400, "no job in the request"),
        (b"{\"type\":\"http\",", 400, "line 1 column 15"),
        (b"{\n\"type\":\"http\"} trailing", 400, "trailing"),
        (b"[{\"type\":\"http\"},\n{]", 400, "line 2 column 2"),
        (b"7", 400, "a job: an object"),
        (b"{\"type\":\"http\",\"retries\":\"3\"}", 400, "line 1"),
        (b"{\"type\":\"http\",\"name\":\"\xff\"}", 400, "unicode"),
        (b"{\"type\":\"http\",\"name\":\"a\0b\"}", 400, "control character"),
        (b"{\"type\":\"http\",\"type\":\"http\"}", 400, "given twice"),
        (deep.as_bytes(), 400, "nested deeper"),
        (b"{\"type\":\"nobody\"}", 422, "there is disk, http, shell"),
        (b"{\"type\":\"failure_handler.http\"}", 422, "ganger's own"),
        (b"{\"type\":\"http\",\"limit\":{\"key\":\"k\"}}", 422, "`limit`"),
    ];
    for (body, status, says) in cases {
        let reply = house.post("/job/add", body).await;
        assert_eq!(reply.status, status, "{}: {reply:?}", String::from_utf8_lossy(body));
        assert!(reply.error().contains(says), "{says}: {}", reply.error());
    }
    let large = format!(r#"{{"type":"http","params":"{}"}}"#, "x".repeat(3000));
    assert_eq!(house.post("/job/add", &large).await.status, 413);
    assert_eq!(house.post("/job/add", "x".repeat(20_000)).await.status, 413);
    assert_eq!(house.post("/job/add", vec![b'x'; 64 << 20]).await.status, 413, "its client hears the answer");
    let asks = house.send("POST", "/job/add", &[("expect", "100-continue")], "x".repeat(20_000)).await;
    assert_eq!(asks.status, 413);
    assert_eq!(house.post("/job/add", format!("[{JOB},{JOB},{JOB},{JOB}]")).await.status, 413);
    let zipped = house.send("POST", "/job/add", &[("content-encoding", "gzip")], JOB).await;
    assert_eq!(zipped.status, 415);
    assert_eq!(house.post("/job/add?whait=1", JOB).await.status, 400);
    assert_eq!(house.post("/other", JOB).await.status, 404);
    let get = house.get("/job/add").await;
    assert_eq!((get.status, get.header("allow")), (405, "POST, PUT"));
}

#[tokio::test]
async fn a_duplicate_is_told_who_holds_its_key() {
    let house = open(json!({})).await;
    let job = |id: &str| format!(r#"{{"type":"http","id":"{id}","unique":{{"key":"k"}}}}"#);
    assert_eq!(house.post("/job/add?wait=false", job("first")).await.status, 202);
    let reply = house.post("/job/add?wait=false", job("second")).await;
    assert_eq!(reply.status, 409);
    assert!(reply.error().contains("job first holds"), "{}", reply.error());
    assert_eq!(reply.json()["holder"], "first");
    assert_eq!(house.post("/job/add?wait=false", job("first")).await.status, 202, "no duplicate of itself");
    let many = house.post("/job/add", format!("[{},{JOB}]", job("third"))).await;
    let lines: Vec<serde_json::Value> =
        many.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((&lines[0]["status"], &lines[0]["holder"]), (&json!(409), &json!("first")));
    assert!(lines[1]["id"].is_string(), "{lines:?}");
}

#[tokio::test]
async fn s2_commands_are_taken_only_where_the_config_names_their_type() {
    let house = open(json!({})).await;
    let reply = house.post("/job/add", r#"{"type":"shell","params":{"command":"id"}}"#).await;
    assert_eq!(reply.status, 403);
    assert!(
        reply.error().contains(r#"accept = ["shell"]"#) && reply.error().contains("`door`"),
        "{}",
        reply.error()
    );
    let carried = r#"{"type":"disk","params":{"job":{"type":"disk","params":{"Job":{"type":"shell"}}}}}"#;
    let reply = house.post("/job/add", carried).await;
    assert_eq!(reply.status, 403);
    assert!(reply.error().contains("type `shell` that this one of type `disk` carries"), "{}", reply.error());
    let lines = house.post("/job/add", format!("[{carried},{JOB}]")).await.lines();
    assert_eq!((lines[0]["status"].as_u64(), lines[1]["state"].as_str()), (Some(403), Some("ready")));
    let broken = house.post("/job/add", r#"{"type":"disk","params":{"job":{"typ":"shell"}}}"#).await;
    assert_eq!(broken.status, 400);

    let open_door = open(json!({"accept": ["shell"]})).await;
    for job in [r#"{"type":"shell"}"#, carried] {
        assert_eq!(open_door.post("/job/add?wait=false", job).await.status, 202);
    }
}

#[tokio::test]
async fn a_type_that_another_manager_does_is_taken_unless_it_is_guarded() {
    let house = open(json!({"accept": ["mine"]})).await;
    house.beat(&["thumbnail", "cmd"], &["cmd"]).await;
    assert_eq!(house.post("/job/add?wait=false", r#"{"type":"thumbnail"}"#).await.status, 202);
    assert_eq!(house.post("/job/add?wait=false", r#"{"type":"mine"}"#).await.status, 202);
    let guarded = house.post("/job/add?wait=false", r#"{"type":"cmd"}"#).await;
    assert_eq!(guarded.status, 403);
    assert!(guarded.error().contains(r#"accept = ["mine", "cmd"]"#), "{}", guarded.error());
    let unknown = house.post("/job/add", r#"{"type":"nobody"}"#).await;
    assert!(unknown.error().contains("cmd, disk, http, mine, shell, thumbnail"), "{}", unknown.error());
}

#[tokio::test]
async fn a_client_that_goes_away_leaves_its_job_unless_it_asked_otherwise() {
    let house = open(json!({})).await;
    for (path, after) in [("/job/add", State::Ready), ("/job/add?cancel_on_disconnect", State::Cancelled)] {
        let id = format!("of-{}", path.len());
        let stream = house.begin("POST", path, &[], format!(r#"{{"type":"http","id":"{id}"}}"#)).await;
        eventually("the job is stored", async || house.state(&id).await.is_some()).await;
        drop(stream);
        if after == State::Cancelled {
            eventually("it is cancelled", async || house.state(&id).await == Some(after)).await;
        } else {
            // A second request on another connection is answered after the first was given up.
            assert_eq!(house.post("/job/add?wait=false", JOB).await.status, 202);
            assert_eq!(house.state(&id).await, Some(after));
        }
    }
}

#[tokio::test]
async fn over_its_limits_it_refuses_and_says_when_to_come_again() {
    let house = open(json!({"max_waiting": 1})).await;
    let waiting = house.begin("POST", "/job/add", &[], r#"{"type":"http","id":"first"}"#).await;
    eventually("the first waits", async || house.state("first").await.is_some()).await;
    let refused = house.post("/job/add", r#"{"type":"http","id":"second"}"#).await;
    assert_eq!((refused.status, refused.header("retry-after")), (503, "1"));
    assert_eq!(house.state("second").await, None, "it was not taken");
    assert_eq!(house.post("/job/add?wait=false", JOB).await.status, 202);
    drop(waiting);
    eventually("its place is free", async || {
        house.post("/job/add?wait=1ms", r#"{"type":"http"}"#).await.status == 202
    })
    .await;
}

#[tokio::test]
async fn a_stop_answers_who_waits_for_jobs_that_have_not_begun() {
    let house = open(json!({})).await;
    let mut running = house.begin("POST", "/job/add", &[], JOB).await;
    let held = house.take("http").await;
    let mut waiting = house.begin("POST", "/job/add", &[], r#"{"type":"http","id":"second"}"#).await;
    eventually("the second waits", async || house.state("second").await.is_some()).await;
    house.stopper.stop();
    assert_eq!(reply(&mut waiting).await.status, 202);
    assert!(tokio::net::TcpStream::connect(house.address).await.is_err(), "nothing more is taken in");
    house.end(&held, Verdict::Done, Output::new("out"), None).await;
    assert_eq!(reply(&mut running).await.text(), "out");
    house.served.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_requests_that_wait_are_one_question_to_the_store() {
    let house = open(json!({})).await;
    let mut waiting = Vec::new();
    for n in 0..300 {
        let job = format!(r#"{{"type":"http","id":"{n}"}}"#);
        waiting.push(house.begin("POST", "/job/add", &[], job).await);
    }
    let held = house.take_many("http", 300).await;
    for some in held.chunks(75) {
        let end = |held: &Held| {
            let mut settlement = Settlement::new(held.lease, Verdict::Done);
            settlement.more_mut().output = Some(Output::new(held.job.id.as_ref().unwrap().to_string()));
            settlement
        };
        house.settle_all(some.iter().map(end).collect()).await;
    }
    for (n, stream) in waiting.iter_mut().enumerate() {
        let reply = reply(stream).await;
        assert_eq!((reply.status, reply.text()), (200, n.to_string()));
    }
    assert_eq!(house.asking.most(), 1, "at any time");
}
