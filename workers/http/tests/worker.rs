//! What the `http` worker promises, against a real server.
#![allow(clippy::unwrap_used)]

mod support;

use std::{sync::Arc, time::Duration};

use ganger_conformance::eventually;
use ganger_core::{
    Advice, FailureRecord, Job, JobContext, JobError, NoSinks, Output, Secret, SlotContext, State, Timestamp,
    Worker, WorkerContext, WorkerError,
};
use ganger_worker_http::{Http, HttpConfig, PLUGIN};
use serde_json::{Value, json};
use support::{answer, serve};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

async fn worker(config: Value) -> Result<Http, WorkerError> {
    started(serde_json::from_value(config).unwrap()).await
}

async fn started(config: HttpConfig) -> Result<Http, WorkerError> {
    let cx =
        WorkerContext { name: "http".into(), slots: 4, sinks: Arc::new(NoSinks), run: Secret::new("run") };
    let shared = Http::share(config, &cx).await?;
    Http::create(&shared, &SlotContext { name: "http".into(), slot: 0 }).await
}

fn job(params: &Value) -> JobContext {
    JobContext::detached(Job::new("http", params).unwrap())
}

async fn run(config: Value, params: Value) -> Result<Output, JobError> {
    let context = job(&params);
    worker(config).await.unwrap().work(context.params()?, &context).await
}

#[tokio::test]
async fn sends_what_the_job_says_and_keeps_the_answer() {
    let server = serve(|seen| async move {
        let echo = format!("{} {} {:?}", seen.method, seen.uri, seen.body);
        answer(201, &[("content-type", "text/x-echo")], echo)
    })
    .await;
    let params =
        json!({"url": server.url("/a?b=1"), "method": "PUT", "url_params": {"c": 2}, "body": "text"});
    let output = run(json!({}), params).await.unwrap();
    assert_eq!(output.text(), "PUT /a?b=1&c=2 b\"text\"");
    assert_eq!(output.content_type.as_deref(), Some("text/x-echo"));
}

#[tokio::test]
async fn b26_a_status_is_judged_and_a_failed_answer_is_kept() {
    let server = serve(|seen| async move {
        let status = seen.uri.path()[1..].parse().unwrap();
        answer(status, &[("retry-after", "7")], format!("body of {status}"))
    })
    .await;
    for status in [408, 425, 429, 500, 503, 599] {
        let error = run(json!({}), json!({"url": server.url(&format!("/{status}"))})).await.unwrap_err();
        assert_eq!(error.advice(), Advice::RetryAfter(Duration::from_secs(7)), "{error}");
        assert_eq!(error.output().unwrap().text(), format!("body of {status}"));
    }
    for status in [304, 400, 401, 404, 410, 422] {
        let error = run(json!({}), json!({"url": server.url(&format!("/{status}"))})).await.unwrap_err();
        assert_eq!(error.advice(), Advice::Dead, "{error}");
        assert!(error.message().contains(&status.to_string()), "{error}");
    }
    let expected = json!({"url": server.url("/404"), "expect": [404, "2xx"]});
    assert_eq!(run(json!({}), expected).await.unwrap().text(), "body of 404");
    let unexpected = run(json!({}), json!({"url": server.url("/200"), "expect": 201})).await.unwrap_err();
    assert_eq!(unexpected.advice(), Advice::Dead);
    let configured = run(json!({"retry_on": ["4xx"]}), json!({"url": server.url("/404")})).await.unwrap_err();
    assert_eq!(configured.advice(), Advice::RetryAfter(Duration::from_secs(7)));
}

#[tokio::test]
async fn b26_an_answer_is_kept_whole_or_as_head_and_tail() {
    let body = Arc::new((0..1_000_000).map(|n| b'a' + (n % 23) as u8).collect::<Vec<u8>>());
    let sent = body.clone();
    let server = serve(move |_| {
        let sent = sent.clone();
        async move { answer(200, &[], sent.to_vec()) }
    })
    .await;
    let whole = run(json!({}), json!({"url": server.url("/")})).await.unwrap();
    assert!(whole.bytes == *body && whole.cut == 0);
    let cut = run(json!({"output_max": 1000}), json!({"url": server.url("/")})).await.unwrap();
    assert_eq!((cut.bytes.len(), cut.total(), cut.cut_at), (1000, 1_000_000, 500));
    assert!(cut.bytes.starts_with(&body[..500]) && cut.bytes.ends_with(&body[body.len() - 500..]));
}

#[tokio::test]
async fn b31_connections_are_used_again_and_none_is_left_open() {
    let server = serve(|seen| async move {
        let status = if seen.uri.path() == "/fails" { 500 } else { 200 };
        answer(status, &[], vec![b'x'; 5_000])
    })
    .await;
    let mut http = worker(json!({})).await.unwrap();
    for n in 0..200 {
        let path = if n % 2 == 0 { "/fails" } else { "/" };
        let context = job(&json!({"url": server.url(path)}));
        let _ = http.work(context.params().unwrap(), &context).await;
    }
    assert_eq!((server.requests(), server.connections()), (200, 1));
    drop(http);
    let open = server.open.clone();
    eventually("all closed", async || open.load(std::sync::atomic::Ordering::SeqCst) == 0).await;
}

#[tokio::test]
async fn b3_b4_b17_a_request_without_an_answer_is_a_failure_that_is_retried() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        // Each connection is closed after its first bytes: an end of file in place of an answer.
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 64]).await;
        }
    });
    let closed = { TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap() };
    let urls = [
        format!("http://{address}/"),
        format!("http://{closed}/"),
        "http://no-such-host.invalid/".to_owned(),
    ];
    for url in urls {
        let mut job = Job::new("http", &json!({"url": url})).unwrap();
        job.capture_output = true;
        let context = JobContext::detached(job);
        let params = context.params().unwrap();
        let error = worker(json!({})).await.unwrap().work(params, &context).await.unwrap_err();
        assert_eq!(error.advice(), Advice::Retry, "{error}");
        assert!(error.message().starts_with("GET http://"), "{error}");
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_retried_and_what_came_is_kept() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let _ = stream.read(&mut [0; 1024]).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\npart").await.unwrap();
    });
    let error = run(json!({}), json!({"url": format!("http://{address}/")})).await.unwrap_err();
    assert_eq!(error.advice(), Advice::Retry);
    assert!(error.message().contains("broke off"), "{error}");
    assert_eq!(error.output().unwrap().text(), "part");
}

#[tokio::test]
async fn b21_a_run_that_was_stopped_leaves_nothing_for_the_next() {
    let server = serve(|seen| async move {
        if seen.uri.path() == "/hangs" {
            std::future::pending::<()>().await;
        }
        answer(200, &[], "next")
    })
    .await;
    let mut http = worker(json!({})).await.unwrap();
    let hangs = job(&json!({"url": server.url("/hangs")}));
    {
        let mut run = std::pin::pin!(http.work(hangs.params().unwrap(), &hangs));
        tokio::select! {
            _ = &mut run => panic!("it answers nothing"),
            () = eventually("the request has come", async || server.requests() == 1) => {}
        }
    }
    let open = server.open.clone();
    eventually("its connection is closed", async || open.load(std::sync::atomic::Ordering::SeqCst) == 0)
        .await;
    let next = job(&json!({"url": server.url("/")}));
    assert_eq!(http.work(next.params().unwrap(), &next).await.unwrap().text(), "next");
}

#[tokio::test]
async fn a_timeout_covers_the_whole_answer() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let _ = stream.read(&mut [0; 1024]).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\npart").await;
        let _ = stream.read_to_end(&mut Vec::new()).await;
    });
    let params = json!({"url": format!("http://{address}/"), "timeout": "50ms"});
    let error = run(json!({}), params).await.unwrap_err();
    assert_eq!(error.advice(), Advice::Retry);
    assert!(error.message().contains("within 50ms"), "{error}");
}

#[tokio::test]
async fn follows_redirects_up_to_its_limit() {
    let server = serve(|seen| async move {
        let left: u32 = seen.uri.path()[1..].parse().unwrap();
        match left {
            0 => answer(200, &[], format!("{} {:?}", seen.method, seen.body)),
            _ => answer(302, &[("location", &format!("/{}", left - 1))], "moved"),
        }
    })
    .await;
    let post = json!({"url": server.url("/3"), "method": "POST", "body": "b"});
    assert_eq!(run(json!({}), post).await.unwrap().text(), "GET b\"\"");
    let error = run(json!({}), json!({"url": server.url("/6")})).await.unwrap_err();
    assert_eq!(error.advice(), Advice::Dead);
    assert!(error.message().contains("more than 5 redirects"), "{error}");
    let none = run(json!({"redirects": 0}), json!({"url": server.url("/1"), "expect": "3xx"})).await.unwrap();
    assert_eq!(none.text(), "moved");
}

#[tokio::test]
async fn s3_the_guard_refuses_before_anything_is_sent_and_at_every_redirect() {
    let inside = serve(|_| async { answer(200, &[], "secret") }).await;
    let port = inside.address.port();
    let spellings = [
        format!("http://127.0.0.1:{port}/"),
        format!("http://localhost:{port}/"),
        format!("http://2130706433:{port}/"),
        format!("http://0x7f.1:{port}/"),
        format!("http://[::ffff:127.0.0.1]:{port}/"),
        "http://169.254.169.254/latest/meta-data/".to_owned(),
    ];
    for url in spellings {
        let error = run(json!({"guard": true}), json!({"url": url})).await.unwrap_err();
        assert_eq!(error.advice(), Advice::Dead, "{url}: {error}");
        assert!(error.message().contains("`allow`"), "{error}");
    }
    assert_eq!(inside.connections(), 0);
    // The door is on the list by its name; what it redirects to is not.
    let target = inside.url("/");
    let door = serve(move |_| {
        let target = target.clone();
        async move { answer(302, &[("location", &target)], "") }
    })
    .await;
    let url = format!("http://localhost:{}/", door.address.port());
    let config = json!({"guard": true, "allow": ["localhost"]});
    let error = run(config, json!({"url": url})).await.unwrap_err();
    assert_eq!((error.advice(), door.requests(), inside.connections()), (Advice::Dead, 1, 0), "{error}");
    let allowed = json!({"guard": true, "allow": ["127.0.0.0/8"]});
    assert_eq!(run(allowed, json!({"url": inside.url("/")})).await.unwrap().text(), "secret");
}

#[tokio::test]
async fn proxies_are_used_only_where_the_config_names_one() {
    let proxy = serve(|seen| async move {
        let credentials = seen.headers.get("proxy-authorization").unwrap().to_str().unwrap().to_owned();
        answer(200, &[], format!("{} {credentials}", seen.uri))
    })
    .await;
    let config = json!({"proxy": format!("http://u:p@{}", proxy.address)});
    let output = run(config, json!({"url": "http://example.invalid/a?b"})).await.unwrap();
    assert_eq!(output.text(), "http://example.invalid/a?b Basic dTpw");
}

#[tokio::test]
async fn https_goes_through_the_proxy_in_a_tunnel() {
    let proxy = support::serve_tunnels().await;
    let address = support::serve_tls("safe").await;
    let ca = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/tls/ca.pem");
    let url = json!({"url": format!("https://localhost:{}/", address.port())});
    let config = json!({"ca_file": ca, "proxy": format!("http://u:p@{}", proxy.address)});
    let mut http = worker(config).await.unwrap();
    for _ in 0..2 {
        let context = job(&url);
        let output = http.work(context.params().unwrap(), &context).await.unwrap();
        assert_eq!(output.text(), "safe");
    }
    let asked = proxy.asked();
    assert_eq!(asked.len(), 1, "the tunnel is used again: {asked:?}");
    let (first, headers) = asked[0].split_once("\r\n").unwrap();
    assert_eq!(first, format!("CONNECT localhost:{} HTTP/1.1", address.port()));
    assert!(headers.to_ascii_lowercase().contains("proxy-authorization: basic dtpw"), "{headers}");

    let refuses = json!({"ca_file": ca, "proxy": format!("http://{}", proxy.address)});
    let error = run(refuses, url).await.unwrap_err();
    assert_eq!(error.advice(), Advice::Retry);
    assert!(error.message().contains("proxy"), "{error}");
}

#[tokio::test]
async fn a_connection_that_the_server_closed_is_not_used_again() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let (told, mut closed) = tokio::sync::mpsc::channel(1);
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 1024]).await;
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
            drop(stream);
            told.send(()).await.unwrap();
        }
    });
    let mut http = worker(json!({})).await.unwrap();
    for _ in 0..5 {
        let post = job(&json!({"url": url, "method": "POST", "body": "once"}));
        assert_eq!(http.work(post.params().unwrap(), &post).await.unwrap().text(), "ok");
        closed.recv().await.unwrap();
    }
}

#[tokio::test]
async fn a_request_that_got_lost_on_a_kept_connection_goes_again_only_if_that_is_harmless() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    tokio::spawn(async move {
        loop {
            // Answers the first request of each connection, and closes it when the second is there.
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 1024]).await;
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
            let _ = stream.read(&mut [0; 1024]).await;
        }
    });
    let mut http = worker(json!({})).await.unwrap();
    let get = job(&json!({"url": url}));
    for _ in 0..2 {
        assert_eq!(http.work(get.params().unwrap(), &get).await.unwrap().text(), "ok");
    }
    let post = job(&json!({"url": url, "method": "POST", "body": "once"}));
    let error = http.work(post.params().unwrap(), &post).await.unwrap_err();
    assert_eq!(error.advice(), Advice::Retry, "{error}");
}

#[tokio::test]
async fn s7_an_error_shows_no_password_and_no_query() {
    let server = serve(|_| async { answer(404, &[], "") }).await;
    let url = format!("http://user:canary@{}/path?key=canary", server.address);
    let error = run(json!({}), json!({"url": url})).await.unwrap_err();
    assert!(!error.message().contains("canary") && error.message().contains("/path?…"), "{error}");
    let config: HttpConfig = serde_json::from_value(json!({"proxy": "http://u:canary@p/"})).unwrap();
    assert!(!format!("{config:?}").contains("canary"));
}

#[tokio::test]
async fn a_param_that_is_not_known_is_refused_by_name_or_ignored_as_configured() {
    let server = serve(|_| async { answer(200, &[], "") }).await;
    let params = json!({"url": server.url("/"), "timout": "1s"});
    let error = run(json!({}), params.clone()).await.unwrap_err();
    assert_eq!(error.advice(), Advice::Dead);
    assert!(error.message().contains("`timout`") && error.message().contains("timeout"), "{error}");
    assert!(run(json!({"unknown_params": "ignore"}), params).await.is_ok());
}

#[tokio::test]
async fn a_config_that_cannot_work_stops_the_start() {
    let wrong = [
        (json!({"allow": ["10.0.0.0/8"]}), "guard"),
        (json!({"guard": true, "allow": ["10.0.0.0/99"]}), "10.0.0.0/99"),
        (json!({"guard": true, "proxy": "http://p/"}), "exclude"),
        (json!({"proxy": "socks5://p/"}), "proxy"),
        (json!({"user_agent": "a\nb"}), "user_agent"),
    ];
    for (config, names) in wrong {
        let error = PLUGIN.check(&config).unwrap_err();
        assert!(error.message.contains(names), "{config}: {error}");
    }
    let open = HttpConfig { allow: vec!["10.0.0.0/8".into()], ..HttpConfig::default() };
    assert!(started(open).await.err().unwrap().to_string().contains("guard"));
    let error = worker(json!({"ca_file": "/no/such/file.pem"})).await.err().unwrap().to_string();
    assert!(error.contains("/no/such/file.pem"), "{error}");
    let error = PLUGIN.check(&json!({"garde": true})).unwrap_err();
    assert!(error.message.contains("garde"), "{error}");
    PLUGIN.check(&json!({"retry_on": [500, "4xx"], "output_max": "2MiB"})).unwrap();
}

#[tokio::test]
async fn b17_as_failure_handler_it_posts_the_record() {
    let server = serve(|seen| async move {
        assert_eq!(
            (seen.method.as_str(), &seen.headers["content-type"]),
            ("POST", &"application/json".parse().unwrap())
        );
        let id = seen.headers["ganger-job-id"].to_str().unwrap().to_owned();
        let record: FailureRecord = serde_json::from_slice(&seen.body).unwrap();
        answer(200, &[], format!("{id} {} {}", record.job.kind, record.error.unwrap()))
    })
    .await;
    let record = FailureRecord {
        job: Job::from_json(br#"{"type":"cli","id":"a"}"#).unwrap(),
        state: State::Dead,
        reason: "retries spent".into(),
        error: Some("exit 1".into()),
        attempts: Vec::new(),
        at: Timestamp::from_millis(0),
    };
    let mut handler = Job::new("failure_handler.http", &json!({"url": server.url("/")})).unwrap();
    handler.id = Some("a/failed/1".parse().unwrap());
    handler.capture_output = true;
    handler.rare_mut().input = Some(record.to_raw());
    let context = JobContext::detached(handler);
    let output = worker(json!({})).await.unwrap().work(context.params().unwrap(), &context).await.unwrap();
    assert_eq!(output.text(), "a/failed/1 cli exit 1");
}

#[tokio::test]
async fn https_trusts_the_certificates_it_is_given_and_no_others() {
    let address = support::serve_tls("safe").await;
    let url = json!({"url": format!("https://localhost:{}/", address.port())});
    let ca = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/tls/ca.pem");
    assert_eq!(run(json!({"ca_file": ca}), url.clone()).await.unwrap().text(), "safe");
    let other_name = json!({"url": format!("https://127.0.0.1:{}/", address.port())});
    for (config, url) in [(json!({}), url), (json!({"ca_file": ca}), other_name)] {
        let error = run(config, url).await.unwrap_err();
        assert_eq!(error.advice(), Advice::Retry);
        assert!(error.message().contains("certificate"), "{error}");
    }
}

#[test]
fn a_failure_handlers_options_are_checked_as_params() {
    let ganger_core::Role::Worker { check_params, .. } = PLUGIN.role else { panic!("a worker") };
    check_params(&json!({"url": "http://x/", "body": {"a": [1, "b"]}, "expect": ["2xx"], "timeout": "5s"}))
        .unwrap();
    assert!(check_params(&json!({"headers": {}})).unwrap_err().message.contains("missing field `url`"));
}
