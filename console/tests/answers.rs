//! What the console answers, and to whom.
#![allow(clippy::unwrap_used, reason = "a test fails where it panics")]

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use ganger_console::{Console, Options};
use ganger_core::{
    BoxFuture, Events, Figures, Follower, Found, JobId, PoolFigures, ProviderError, Readiness, Report,
    Secret, Status,
};
use serde_json::Value;

/// A manager that says what it is told to.
#[derive(Default)]
struct Said {
    report: Mutex<Report>,
    reasons: Mutex<Vec<String>>,
    asked: AtomicU64,
}

impl Status for Said {
    fn report(&self) -> Report {
        self.asked.fetch_add(1, Ordering::Relaxed);
        self.report.lock().unwrap().clone()
    }
    fn ready(&self) -> Readiness {
        Readiness { reasons: self.reasons.lock().unwrap().clone() }
    }
    fn follow(&self, id: &JobId) -> Follower {
        Events::default().follow(id)
    }
    fn find<'a>(&'a self, _: &'a JobId) -> BoxFuture<'a, Result<Option<Found>, ProviderError>> {
        Box::pin(async { Ok(None) })
    }
}

async fn console(said: &Arc<Said>, change: impl FnOnce(&mut Options)) -> Console {
    let mut options = Options::new("127.0.0.1:0");
    change(&mut options);
    Console::open(options, said.clone()).await.unwrap()
}

struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }
}

/// One request on a connection of its own.
async fn ask(address: SocketAddr, path: &str, headers: &str) -> Answer {
    let request = format!("GET {path} HTTP/1.1\r\n{headers}Connection: close\r\n\r\n");
    let text = tokio::task::spawn_blocking(move || {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    })
    .await
    .unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).and_then(|word| word.parse().ok()).unwrap_or(0);
    Answer { status, head: head.to_lowercase(), body: body.to_owned() }
}

const LOCAL: &str = "Host: localhost\r\n";

fn two_runs() -> Report {
    let figures = Figures {
        runs: 2,
        done: 1,
        failed: 1,
        dead: 1,
        nanos: 3_000_000,
        p50: 1,
        p95: 2,
        p99: 2,
        ..Figures::default()
    };
    Report {
        uptime: Duration::from_secs(4),
        by_type: BTreeMap::from([("cli".to_owned(), figures)]),
        by_provider: BTreeMap::from([("http".to_owned(), figures)]),
        pools: BTreeMap::from([("cli".to_owned(), PoolFigures { slots: 4, busy: 1, queued: 3 })]),
        rate_by_type: BTreeMap::from([("cli".to_owned(), 2.0)]),
        rate_by_provider: BTreeMap::from([("http".to_owned(), 2.0)]),
        ..Report::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn goworkers_keys_have_true_figures() {
    let said = Arc::new(Said::default());
    *said.report.lock().unwrap() = two_runs();
    let key = "http_127.0.0.1:8081/job/add";
    let console = console(&said, |options| options.keys = vec![("http".to_owned(), key.to_owned())]).await;
    let answer = ask(console.address(), "/manager/stats", LOCAL).await;
    assert_eq!(answer.status, 200);
    assert!(answer.head.contains("content-type: application/json"), "{}", answer.head);
    let stats = answer.json();
    assert_eq!((&stats["uptime"], &stats["total_job"]), (&4.into(), &2.into()));
    assert_eq!(
        (&stats["job_per_second_cumulative"], &stats["job_per_second_by_type"]["cli"]),
        (&2.0.into(), &2.0.into())
    );
    assert_eq!(
        (&stats["job_persecond_by_provider"][key], &stats["total_job_by_provider"][key]),
        (&2.0.into(), &2.into())
    );
    assert_eq!((&stats["total_average"], &stats["total_average_by_type"]["cli"]), (&0.5.into(), &0.5.into()));
    assert_eq!(
        (&stats["average_duration"], &stats["average_duration_by_provider"][key]),
        (&1_500_000.into(), &1_500_000.into())
    );
    assert_eq!(
        (&stats["total_duration_by_type"]["cli"], &stats["total_job_by_type"]["cli"]),
        (&3_000_000.into(), &2.into())
    );
    assert_eq!(stats["channel_stats"]["worker_cli"], serde_json::json!({ "capasity": 4, "queue": 1 }));
    assert_eq!(stats["channel_stats"]["job_channel"]["queue"], 3);
    assert_eq!(
        (&stats["failed"], &stats["dead"], &stats["by_type"]["cli"]["p95"]),
        (&1.into(), &1.into(), &2.into())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn there_are_figures_before_the_first_job() {
    let console = console(&Arc::new(Said::default()), |_| ()).await;
    let stats = ask(console.address(), "/manager/stats", LOCAL).await.json();
    for key in ["total_job", "average_duration", "uptime"] {
        assert_eq!(stats[key], 0, "{key}");
    }
    for key in ["total_average", "job_per_second_cumulative"] {
        assert_eq!(stats[key].to_string(), "0.0", "{key}");
    }
    for key in [
        "total_job_by_type",
        "job_per_second_by_type",
        "job_persecond_by_provider",
        "average_duration_by_type",
    ] {
        assert_eq!(stats[key], serde_json::json!({}), "{key}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn b5_thousands_of_readers_at_once_do_no_harm() {
    let said = Arc::new(Said::default());
    let console = console(&said, |_| ()).await;
    let address = console.address();
    let readers: Vec<_> = (0..8)
        .map(|_| {
            std::thread::spawn(move || {
                let mut stream = TcpStream::connect(address).unwrap();
                stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
                let mut buffer = [0; 16 << 10];
                for _ in 0..500 {
                    stream.write_all(b"GET /manager/stats HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
                    let read = stream.read(&mut buffer).unwrap();
                    assert!(buffer[..read].starts_with(b"HTTP/1.1 200"));
                }
            })
        })
        .collect();
    tokio::task::spawn_blocking(|| readers.into_iter().for_each(|reader| reader.join().unwrap()))
        .await
        .unwrap();
    let asked = said.asked.load(Ordering::Relaxed);
    assert!(asked < 2_000, "4,000 readers made the manager count {asked} times");
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_says_what_stands_in_the_way() {
    let said = Arc::new(Said::default());
    let console = console(&said, |_| ()).await;
    assert_eq!(ask(console.address(), "/readyz", LOCAL).await.status, 200);
    *said.reasons.lock().unwrap() = vec!["provider `disk` is out of reach".to_owned()];
    let answer = ask(console.address(), "/readyz", LOCAL).await;
    assert_eq!((answer.status, answer.body.as_str()), (503, "provider `disk` is out of reach\n"));
    assert_eq!(ask(console.address(), "/healthz", LOCAL).await.status, 200);
    assert_eq!(ask(console.address(), "/", LOCAL).await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_web_page_cannot_read_under_a_name_of_its_own() {
    let said = Arc::new(Said::default());
    *said.reasons.lock().unwrap() = vec!["a private reason".to_owned()];
    let console = console(&said, |_| ()).await;
    let answer = ask(console.address(), "/manager/stats", "Host: evil.example\r\n").await;
    assert_eq!(answer.status, 421);
    assert!(!answer.body.contains("uptime") && !answer.head.contains("access-control"), "{}", answer.head);
    let ready = ask(console.address(), "/readyz", "Host: evil.example\r\n").await;
    assert_eq!((ready.status, ready.body.as_str()), (503, "not ready\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_opens_it_under_any_name() {
    let said = Arc::new(Said::default());
    let console = console(&said, |options| options.token = Some(Secret::new("s3cret"))).await;
    let ask = |headers: &'static str| ask(console.address(), "/manager/stats", headers);
    assert_eq!(ask("Host: a.example\r\n").await.status, 401);
    assert_eq!(ask("Host: a.example\r\nAuthorization: Bearer wrong\r\n").await.status, 401);
    assert_eq!(ask("Host: a.example\r\nAuthorization: Bearer s3cret\r\n").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn off_loopback_it_needs_a_token() {
    let said = Arc::new(Said::default());
    let error = Console::open(Options::new("0.0.0.0:0"), said.clone()).await.unwrap_err();
    assert!(error.to_string().contains("stats_token"), "{error}");
    let options = Options { token: Some(Secret::new("s3cret")), ..Options::new("0.0.0.0:0") };
    assert!(Console::open(options, said).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_is_taken_is_told_from_other_faults() {
    let said = Arc::new(Said::default());
    let first = console(&said, |_| ()).await;
    let error = Console::open(Options::new(first.address().to_string()), said.clone()).await.unwrap_err();
    assert!(error.is_taken() && error.to_string().contains(&first.address().to_string()), "{error}");
    assert!(!Console::open(Options::new("256.0.0.1:1"), said).await.unwrap_err().is_taken());
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_and_large_heads_are_cut_off() {
    let said = Arc::new(Said::default());
    let console = console(&said, |options| options.headers_timeout = Duration::from_millis(200)).await;
    let address = console.address();
    let ended = tokio::task::spawn_blocking(move || {
        let mut slow = TcpStream::connect(address).unwrap();
        slow.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        slow.write_all(b"GET /manager/stats HTTP/1.1\r\nHost: loc").unwrap();
        let mut rest = Vec::new();
        // Ends when the console hangs up, with or without a word.
        slow.read_to_end(&mut rest).is_ok()
    });
    assert!(ended.await.unwrap(), "a slow head is cut off");
    let large = format!("Host: localhost\r\nX-Large: {}\r\n", "x".repeat(64 << 10));
    let status = tokio::task::spawn_blocking(move || {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        // It may hang up before the last byte is sent.
        let _ = stream.write_all(format!("GET /manager/stats HTTP/1.1\r\n{large}\r\n").as_bytes());
        let mut text = Vec::new();
        let _ = stream.read_to_end(&mut text);
        String::from_utf8_lossy(&text).into_owned()
    });
    let answer = status.await.unwrap();
    assert!(!answer.contains("200 OK"), "{answer}");
}
