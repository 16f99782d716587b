//! A job's events as they happen, to whom they are told, and what listeners cannot do.
#![allow(clippy::unwrap_used, reason = "a test fails where it panics")]

use std::{
    collections::HashMap,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{Arc, Mutex},
    time::Duration,
};

use ganger_console::{Console, Options};
use ganger_core::{
    Attempt, Batch, Beat, BoxFuture, Ended, Enqueued, Events, Follower, Found, Job, JobContext, JobId,
    JobStart, JobView, LeaseRef, Output, ProviderError, Readiness, Record, Refused, Report, Secret, Sink,
    State, Status, Stream, Timestamp, Token,
};
use serde_json::{Value, json};
use tokio::sync::Notify;

/// A manager with the jobs that it is given.
#[derive(Clone, Default)]
struct House {
    events: Events,
    running: Arc<Mutex<HashMap<JobId, JobContext>>>,
    stored: Arc<Mutex<HashMap<JobId, JobView>>>,
    news: Arc<Notify>,
}

type Answer<'a, T> = BoxFuture<'a, Result<T, ProviderError>>;

impl Status for House {
    fn report(&self) -> Report {
        Report::default()
    }
    fn ready(&self) -> Readiness {
        Readiness::default()
    }
    fn follow(&self, id: &JobId) -> Follower {
        let mut follower = self.events.follow(id);
        if let Some(run) = self.running.lock().unwrap().get(id) {
            follower.attach(run.clone());
        }
        follower
    }
    fn find<'a>(&'a self, id: &'a JobId) -> Answer<'a, Option<Found>> {
        let found = self.stored.lock().unwrap().get(id).cloned();
        Box::pin(async move { Ok(found.map(|view| Found { view, sink: Some(Arc::new(self.clone())) })) })
    }
}

impl Sink for House {
    fn enqueue(&self, _: Batch) -> Answer<'_, Vec<Result<Enqueued, Refused>>> {
        unreachable!("nothing is stored")
    }
    fn states<'a>(&'a self, _: &'a [JobId]) -> Answer<'a, Vec<Option<State>>> {
        unreachable!("nobody asks")
    }
    fn ended<'a>(&'a self, ids: &'a [JobId]) -> Answer<'a, Vec<Ended>> {
        Box::pin(async move {
            loop {
                let news = self.news.notified();
                let view = self.stored.lock().unwrap()[&ids[0]].clone();
                if view.state.is_end() {
                    let error = view.attempts.last().and_then(|last| last.error.clone());
                    let state = Some(view.state);
                    return Ok(vec![Ended { id: view.id, state, runs: 1, error, output: None }]);
                }
                news.await;
            }
        })
    }
    fn managers(&self) -> Answer<'_, Vec<Beat>> {
        unreachable!("nobody asks")
    }
    fn ready_types(&self) -> Answer<'_, Vec<compact_str::CompactString>> {
        unreachable!("nobody asks")
    }
    fn cancel<'a>(&'a self, _: &'a JobId) -> Answer<'a, bool> {
        unreachable!("nobody cancels")
    }
}

fn id(text: &str) -> JobId {
    text.parse().unwrap()
}

impl House {
    fn put(&self, name: &str, state: State, output: Option<Output>) {
        let attempt = Attempt {
            number: 1,
            started: Timestamp::now(),
            millis: 1,
            outcome: "failed".to_owned(),
            note: None,
            error: Some("exit status 3".to_owned()),
            output: String::new(),
            stderr: String::new(),
            manager: String::new(),
            usage: None,
        };
        let view = JobView {
            id: id(name),
            job: None,
            raw: None,
            state,
            reason: None,
            spent: 0,
            crashes: 0,
            retrying: false,
            cancel: false,
            run_at: None,
            ended_at: None,
            holder: None,
            attempts: if state.is_end() { vec![attempt] } else { Vec::new() },
            output,
            handled: Vec::new(),
            input: None,
        };
        self.stored.lock().unwrap().insert(id(name), view);
        self.news.notify_waiters();
    }

    /// A job's run begins.
    fn begin(&self, name: &str, seq: u64) -> JobContext {
        let job = Job::from_json(json!({ "id": name, "type": "t" }).to_string().as_bytes()).unwrap();
        let run = JobContext::new(JobStart {
            job,
            lease: LeaseRef { token: Token { incarnation: 1, seq }, index: 0 },
            origin: 0,
            record: Record::default(),
            events: self.events.clone(),
            output_max: 64 << 10,
        });
        self.put(name, State::Running, None);
        self.running.lock().unwrap().insert(id(name), run.clone());
        self.events.began(&run, Timestamp::now());
        run
    }

    /// A job's run ends, and with it the job.
    fn end(&self, run: &JobContext, state: State) {
        drop(run.take_side());
        self.events.changed(run.id(), Timestamp::now(), state, None);
        self.put(&run.id().to_string(), state, None);
    }

    async fn open(&self, change: impl FnOnce(&mut Options)) -> Console {
        let mut options = Options::new("127.0.0.1:0");
        change(&mut options);
        Console::open(options, Arc::new(self.clone())).await.unwrap()
    }
}

/// One who listens.
struct Ear(BufReader<TcpStream>);

impl Ear {
    /// Asks; the answer's head is read.
    fn listen(address: SocketAddr, name: &str, headers: &str) -> (Ear, String) {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        // Of the older protocol, whose answers are not in chunks.
        write!(stream, "GET /jobs/{name}/events HTTP/1.0\r\n{headers}\r\n").unwrap();
        let mut ear = Ear(BufReader::new(stream));
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") && ear.0.read_line(&mut head).unwrap() > 0 {}
        (ear, head.to_lowercase())
    }

    fn open(address: SocketAddr, name: &str) -> Ear {
        let (ear, head) = Ear::listen(address, name, "Host: localhost\r\n");
        assert!(head.contains(" 200 ") && head.contains("content-type: text/event-stream"), "{head}");
        ear
    }

    /// The next event, with its name; `None` at the end. A heartbeat is an event without a name.
    fn next(&mut self) -> Option<(String, Value)> {
        let (mut name, mut data) = (String::new(), Value::Null);
        loop {
            let mut line = String::new();
            if self.0.read_line(&mut line).unwrap() == 0 {
                return None;
            }
            let line = line.trim_end();
            if let Some(text) = line.strip_prefix("event: ") {
                name = text.to_owned();
            } else if let Some(text) = line.strip_prefix("data: ") {
                data = serde_json::from_str(text).unwrap();
            } else if line.is_empty() {
                return Some((name, data));
            }
        }
    }

    fn hear(&mut self) -> String {
        let Some((name, data)) = self.next() else { return "(over)".to_owned() };
        let known = ["text", "base64", "state", "bytes", "percent"].into_iter().find_map(|key| data.get(key));
        format!("{name} {}", known.map(ToString::to_string).unwrap_or_default())
    }
}

/// Runs blocking client code beside the console.
async fn client<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_hears_what_was_printed_before_and_what_is_printed_now() {
    let house = House::default();
    let console = house.open(|_| ()).await;
    let address = console.address();
    let run = house.begin("a", 1);
    run.write("before \u{1b}[1m, and a cut ä".as_bytes().split_last().unwrap().1);
    client(move || {
        let mut ear = Ear::open(address, "a");
        assert_eq!(ear.hear(), r#"state "running""#);
        assert_eq!(ear.hear(), r#"output "before \u001b[1m, and a cut ""#);
        run.write(&["ä".as_bytes()[1]]);
        assert_eq!(ear.hear(), r#"output "ä""#);
        run.write(&[0xff, 0]);
        assert_eq!(ear.hear(), r#"output "/wA=""#);
        run.progress(40, "nearly");
        assert_eq!(ear.hear(), "progress 40");
        run.write(b"last words");
        house.end(&run, State::Done);
        assert_eq!(ear.hear(), r#"output "last words""#);
        assert_eq!(ear.hear(), r#"state "done""#);
        assert_eq!(ear.hear(), r#"end "done""#);
        assert_eq!(ear.hear(), "(over)");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_of_standard_error_says_so_live_and_stored() {
    let house = House::default();
    let console = house.open(|_| ()).await;
    let address = console.address();
    let run = house.begin("a", 1);
    client(move || {
        let mut ear = Ear::open(address, "a");
        assert_eq!(ear.hear(), r#"state "running""#);
        // A character that is cut in one stream is not mended with what the other brings.
        run.write_to(Stream::Stderr, "ä".as_bytes().split_at(1).0);
        run.write(b"out");
        assert_eq!(ear.next().unwrap().1, json!({ "text": "out" }));
        run.write_to(Stream::Stderr, "ä".as_bytes().split_at(1).1);
        assert_eq!(ear.next().unwrap().1, json!({ "text": "ä", "stream": "stderr" }));
        house.end(&run, State::Dead);
        house.stored.lock().unwrap().get_mut(run.id()).unwrap().attempts[0].stderr = "stored".to_owned();
        let mut late = Ear::open(address, "a");
        assert_eq!(late.next().unwrap().1, json!({ "text": "stored", "stream": "stderr" }));
        assert_eq!(late.hear(), r#"end "dead""#);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_waits_for_a_job_that_has_not_begun_and_hears_its_retries() {
    let house = House::default();
    let console = house.open(|options| options.heartbeat = Duration::from_millis(50)).await;
    let address = console.address();
    house.put("a/failed/1", State::Ready, None);
    client(move || {
        let mut ear = Ear::open(address, "a/failed/1");
        assert_eq!(ear.hear(), r#"state "ready""#);
        assert_eq!(ear.hear(), " ", "a heartbeat");
        let run = house.begin("a/failed/1", 1);
        run.write(b"first");
        drop(run.take_side());
        house.events.changed(run.id(), Timestamp::now(), State::Scheduled, Some("failed"));
        let again = house.begin("a/failed/1", 2);
        again.write(b"second");
        house.end(&again, State::Dead);
        let mut heard = Vec::new();
        while heard.last().is_none_or(|last| last != "(over)") {
            heard.push(ear.hear());
            heard.retain(|heard| heard != " ");
        }
        let story = [
            r#"state "running""#,
            r#"output "first""#,
            r#"state "scheduled""#,
            r#"state "running""#,
            r#"output "second""#,
            r#"state "dead""#,
            r#"end "dead""#,
            "(over)",
        ];
        assert_eq!(heard, story);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_job_that_has_ended_or_ran_elsewhere_the_stored_output_is_told() {
    let house = House::default();
    let console = house.open(|_| ()).await;
    let address = console.address();
    house.put("old", State::Dead, Some(Output { cut: 7, cut_at: 4, ..Output::new("headtail") }));
    house.put("elsewhere", State::Running, None);
    client(move || {
        let mut ear = Ear::open(address, "old");
        let heard: Vec<_> = (0..5).map(|_| ear.hear()).collect();
        assert_eq!(heard, [r#"output "head""#, "missed 7", r#"output "tail""#, r#"end "dead""#, "(over)"]);
        let mut ear = Ear::open(address, "elsewhere");
        assert_eq!(ear.hear(), r#"state "running""#);
        house.put("elsewhere", State::Done, Some(Output::new("from afar")));
        assert_eq!(ear.hear(), r#"output "from afar""#);
        assert_eq!(ear.next(), Some(("end".to_owned(), json!({ "state": "done", "attempts": 1 }))));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_who_comes_again_goes_on_where_it_was() {
    let house = House::default();
    let console = house.open(|_| ()).await;
    let address = console.address();
    let run = house.begin("a", 1);
    run.write(b"one two");
    client(move || {
        for (place, output) in [
            ("00000001.1.0-4-0", r#"output "two""#),
            ("00000001.1.0-99999999999999999999-0", r#"output "one two""#),
            ("00000001.2.0-4-0", r#"output "one two""#),
        ] {
            let headers = format!("Host: localhost\r\nLast-Event-ID: {place}\r\n");
            let (mut ear, _) = Ear::listen(address, "a", &headers);
            ear.hear();
            assert_eq!(ear.hear(), output, "{place}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s5_a_page_of_another_site_hears_nothing() {
    let house = House::default();
    let open = house.open(|_| ()).await;
    let closed = house.open(|options| options.token = Some(Secret::new("s3cret"))).await;
    let (open, closed, run) = (open.address(), closed.address(), house.begin("a", 1));
    run.write(b"a private word");
    let ask = |address: SocketAddr, headers: &str| {
        let headers = headers.to_owned();
        client(move || {
            let (mut ear, mut answer) = Ear::listen(address, "a", &headers);
            if !answer.contains(" 200 ") {
                ear.0.read_to_string(&mut answer).unwrap();
            }
            answer
        })
    };
    let own = "Host: localhost:9090\r\nOrigin: http://localhost:9090\r\nSec-Fetch-Site: same-origin\r\n";
    assert!(ask(open, own).await.contains(" 200 "));
    for (headers, status) in [
        ("Host: localhost\r\nOrigin: http://evil.example\r\n", " 403 "),
        ("Host: localhost\r\nOrigin: null\r\n", " 403 "),
        ("Host: localhost\r\nSec-Fetch-Site: cross-site\r\n", " 403 "),
        ("Host: evil.example\r\n", " 421 "),
        ("", " 421 "),
    ] {
        let answer = ask(open, headers).await;
        assert!(answer.contains(status) && !answer.contains("private"), "{headers}: {answer}");
        assert!(!answer.contains("access-control"), "{answer}");
    }
    assert!(ask(closed, "Host: localhost\r\n").await.contains(" 401 "));
    assert!(ask(closed, "Host: x\r\nAuthorization: Bearer s3cret\r\n").await.contains(" 200 "));
    let foreign = "Host: x\r\nAuthorization: Bearer s3cret\r\nOrigin: http://evil.example\r\n";
    assert!(ask(closed, foreign).await.contains(" 403 "));
}

#[tokio::test(flavor = "multi_thread")]
async fn f33_a_slow_listener_holds_nobody_up_and_is_told_what_it_missed() {
    let house = House::default();
    let console = house.open(|_| ()).await;
    let address = console.address();
    let run = house.begin("a", 1);
    client(move || {
        let mut ears: Vec<_> = (0..50).map(|_| Ear::open(address, "a")).collect();
        let line = [&[b'x'; 1023][..], b"\n"].concat();
        // Nobody reads meanwhile: were anybody waited for, this would not end.
        (0..64 << 10).for_each(|_| run.write(&line));
        house.end(&run, State::Done);
        for ear in &mut ears {
            let (mut printed, mut missed) = (0, 0);
            while let Some((name, data)) = ear.next() {
                match name.as_str() {
                    "output" => printed += data["text"].as_str().unwrap().len() as u64,
                    "missed" => missed += data["bytes"].as_u64().unwrap(),
                    _ => {}
                }
            }
            assert_eq!(printed + missed, 64 << 20);
            assert!(missed > 0);
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s9_listeners_are_bounded_and_one_that_takes_nothing_loses_its_place() {
    let house = House::default();
    let console = house
        .open(|options| {
            options.listeners = 1;
            options.stall = Duration::from_millis(200);
            options.heartbeat = Duration::from_millis(20);
        })
        .await;
    let address = console.address();
    let run = house.begin("a", 1);
    client(move || {
        let first = Ear::open(address, "a");
        let (_, head) = Ear::listen(address, "a", "Host: localhost\r\n");
        assert!(head.contains(" 503 ") && head.contains("retry-after"), "{head}");
        // It takes nothing of what is told: its place is another's.
        let deadline = std::time::Instant::now() + Duration::from_secs(30);
        loop {
            run.write(&[b'x'; 64 << 10]);
            let (_, head) = Ear::listen(address, "a", "Host: localhost\r\n");
            if head.contains(" 200 ") {
                break;
            }
            assert!(std::time::Instant::now() < deadline, "the place is still taken");
        }
        drop(first);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_nobody_knows_is_not_found() {
    let house = House::default();
    let console = house.open(|_| ()).await;
    let address = console.address();
    client(move || {
        for (name, status) in [("b", " 404 "), ("%00", " 400 ")] {
            let (_, head) = Ear::listen(address, name, "Host: localhost\r\n");
            assert!(head.contains(status), "{head}");
        }
    })
    .await;
}
