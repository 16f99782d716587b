//! An intake over a memory store, a client that sees every byte, and a manager of one job at a time.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use compact_str::CompactString;
use ganger_core::{
    Batch, Beat, BoxFuture, Catalog, Clock, DynProvider, Ended, Enqueued, Entry, Events, Exchange, Hold,
    Intake, IntakeContext, IntakeSink, Job, JobContext, JobId, JobStart, LeaseRef, Output, ProviderError,
    Record, Refused, Room, Settlement, Sink, State, Stopper, Timestamp, Token, TypeInfo, TypeRoom, Verdict,
    erase_provider,
};
use ganger_provider_http::{HttpIntake, HttpIntakeConfig};
use ganger_provider_memory::MemoryProvider;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinHandle,
};

pub struct TestClock(std::time::Instant);

impl Clock for TestClock {
    fn monotonic(&self) -> Duration {
        self.0.elapsed()
    }
    fn wall(&self) -> Timestamp {
        Timestamp::now()
    }
}

pub fn context(name: &str) -> IntakeContext {
    let info = |kind: &str, runs_commands, carries| TypeInfo {
        kind: kind.into(),
        runs_commands,
        carries,
        ..TypeInfo::default()
    };
    IntakeContext {
        name: name.into(),
        catalog: Arc::new(Catalog::new(vec![
            info("http", false, &[]),
            info("disk", false, &["job"]),
            info("shell", true, &[]),
        ])),
        clock: Arc::new(TestClock(std::time::Instant::now())),
        configured: true,
    }
}

/// An intake that serves, and its store.
pub struct House {
    pub address: SocketAddr,
    pub store: Arc<dyn DynProvider>,
    pub sink: Arc<dyn Sink>,
    pub stopper: Stopper,
    pub served: JoinHandle<()>,
    /// The questions of the intake to the store about jobs' ends.
    pub asking: Arc<Asking>,
    pub events: Events,
}

/// A sink that counts how many questions about jobs' ends it is asked at once.
pub struct Asking {
    sink: Arc<dyn Sink>,
    now: AtomicUsize,
    most: AtomicUsize,
}

impl Asking {
    pub fn most(&self) -> usize {
        self.most.load(Ordering::SeqCst)
    }
}

struct Question<'a>(&'a AtomicUsize);

impl Drop for Question<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

type Answer<'a, T> = BoxFuture<'a, Result<T, ProviderError>>;

impl Sink for Asking {
    fn enqueue(&self, batch: Batch) -> Answer<'_, Vec<Result<Enqueued, Refused>>> {
        self.sink.enqueue(batch)
    }
    fn states<'a>(&'a self, ids: &'a [JobId]) -> Answer<'a, Vec<Option<State>>> {
        self.sink.states(ids)
    }
    fn ended<'a>(&'a self, ids: &'a [JobId]) -> Answer<'a, Vec<Ended>> {
        Box::pin(async move {
            let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
            self.most.fetch_max(now, Ordering::SeqCst);
            let _question = Question(&self.now);
            self.sink.ended(ids).await
        })
    }
    fn managers(&self) -> Answer<'_, Vec<Beat>> {
        self.sink.managers()
    }
    fn ready_types(&self) -> Answer<'_, Vec<CompactString>> {
        self.sink.ready_types()
    }
    fn cancel<'a>(&'a self, id: &'a JobId) -> Answer<'a, bool> {
        self.sink.cancel(id)
    }
}

pub async fn open(config: Value) -> House {
    let store: Arc<dyn DynProvider> = erase_provider(Arc::new(MemoryProvider::new()));
    let mut config = config;
    config.as_object_mut().unwrap().entry("listen_on").or_insert(json!("127.0.0.1:0"));
    let config: HttpIntakeConfig = serde_json::from_value(config).unwrap();
    let intake = HttpIntake::open(config, context("door")).await.unwrap();
    let address = intake.local_addr();
    let (stopper, sink) = (Stopper::default(), store.sink().unwrap());
    let asking = Arc::new(Asking { sink: sink.clone(), now: AtomicUsize::new(0), most: AtomicUsize::new(0) });
    let events = Events::default();
    let into = IntakeSink {
        name: "memory".into(),
        sink: asking.clone(),
        admin: store.admin(),
        events: events.clone(),
    };
    let stop = stopper.handle();
    let served = tokio::spawn(async move { intake.run(into, stop).await.unwrap() });
    House { address, store, sink, stopper, served, asking, events }
}

/// The next token of the one manager there is.
fn next_token() -> Token {
    static SEQ: AtomicU64 = AtomicU64::new(1);
    Token { incarnation: 7, seq: SEQ.fetch_add(1, Ordering::Relaxed) }
}

fn beat(types: &[&str], guarded: &[&str]) -> Beat {
    Beat {
        incarnation: 9,
        host: "other".into(),
        pid: 1,
        version: "0".into(),
        types: types.iter().map(|kind| ((*kind).to_owned(), 1)).collect(),
        guarded: guarded.iter().map(|kind| (*kind).to_owned()).collect(),
        draining: false,
        started: Timestamp::now(),
        lease_millis: 60_000,
    }
}

/// A job that a manager holds.
pub struct Held {
    pub lease: LeaseRef,
    pub job: Job,
}

impl House {
    /// Sends a request whose other parts do not matter.
    pub async fn post(&self, path: &str, body: impl AsRef<[u8]>) -> Reply {
        self.send("POST", path, &[], body).await
    }

    pub async fn get(&self, path: &str) -> Reply {
        self.send("GET", path, &[], "").await
    }

    pub async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl AsRef<[u8]>,
    ) -> Reply {
        let mut stream = self.begin(method, path, headers, body).await;
        reply(&mut stream).await
    }

    /// Sends a request and does not wait for its answer.
    pub async fn begin(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl AsRef<[u8]>,
    ) -> TcpStream {
        let body = body.as_ref();
        let mut head =
            format!("{method} {path} HTTP/1.1\r\nconnection: close\r\ncontent-length: {}\r\n", body.len());
        if !headers.iter().any(|(name, _)| *name == "host") {
            head.push_str(&format!("host: {}\r\n", self.address));
        }
        headers.iter().for_each(|(name, value)| head.push_str(&format!("{name}: {value}\r\n")));
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(format!("{head}\r\n").as_bytes()).await.unwrap();
        stream.write_all(body).await.unwrap();
        stream
    }

    /// Begins the run of a job that is held.
    pub fn run(&self, held: &Held) -> JobContext {
        let run = JobContext::new(JobStart {
            job: held.job.clone(),
            lease: held.lease,
            origin: 0,
            record: Record::default(),
            events: self.events.clone(),
            output_max: 1 << 10,
        });
        self.events.began(&run, Timestamp::now());
        run
    }

    /// Leases the next job of a type.
    pub async fn take(&self, kind: &str) -> Held {
        self.take_many(kind, 1).await.remove(0)
    }

    /// Leases so many jobs of a type.
    pub async fn take_many(&self, kind: &str, count: u32) -> Vec<Held> {
        let mut taken = Vec::new();
        while (taken.len() as u32) < count {
            let jobs = count - taken.len() as u32;
            let room = Room {
                types: vec![TypeRoom { kind: kind.into(), jobs }],
                jobs,
                bytes: 1 << 20,
                suspect: false,
                crashed: false,
            };
            let token = next_token();
            let give =
                Exchange { token, settle: Vec::new(), room: room.clone(), lease: Duration::from_secs(600) };
            let leased = self.store.exchange(&give).await.unwrap().leased;
            if leased.is_empty() {
                self.store.wait(&room).await.unwrap();
            }
            for leased in leased {
                let Entry::Job(job) = leased.entry else { panic!("a job") };
                taken.push(Held { lease: LeaseRef { token, index: leased.index }, job });
            }
        }
        taken
    }

    pub async fn settle(&self, settlement: Settlement) {
        self.settle_all(vec![settlement]).await;
    }

    pub async fn settle_all(&self, settle: Vec<Settlement>) {
        let token = next_token();
        let give = Exchange { token, settle, room: Room::none(), lease: Duration::from_secs(600) };
        assert!(self.store.exchange(&give).await.unwrap().stale.is_empty());
    }

    /// Ends a job.
    pub async fn end(&self, held: &Held, verdict: Verdict, output: Output, error: Option<&str>) {
        let outcome = if error.is_some() { "failed" } else { "done" };
        let mut settlement = Settlement::new(held.lease, verdict);
        settlement.more_mut().output = Some(output);
        settlement.more_mut().attempt = Some(ganger_core::Attempt {
            number: 1,
            started: Timestamp::now(),
            millis: 1,
            outcome: outcome.into(),
            note: None,
            error: error.map(str::to_owned),
            output: String::new(),
            stderr: String::new(),
            manager: String::new(),
            usage: None,
        });
        self.settle(settlement).await;
    }

    /// Another manager shows that it is alive.
    pub async fn beat(&self, types: &[&str], guarded: &[&str]) {
        self.store.renew(&beat(types, guarded), &[]).await.unwrap();
    }

    /// What the store says of a lease.
    pub async fn hold(&self, held: &Held) -> Hold {
        self.store.renew(&beat(&[], &[]), &[held.lease]).await.unwrap()[0]
    }

    pub async fn state(&self, id: &str) -> Option<State> {
        self.sink.states(&[id.parse().unwrap()]).await.unwrap()[0]
    }
}

/// An answer.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: HashMap<String, String>,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    pub fn lines(&self) -> Vec<Value> {
        self.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    pub fn error(&self) -> String {
        self.json()["error"].as_str().unwrap().to_owned()
    }
}

/// Reads an answer to the end of its connection, or of its body.
pub async fn reply(stream: &mut TcpStream) -> Reply {
    let mut bytes = Vec::new();
    loop {
        if let Some(reply) = parse(&bytes) {
            return reply;
        }
        if stream.read_buf(&mut bytes).await.unwrap() == 0 {
            panic!("the connection ended after {:?}", String::from_utf8_lossy(&bytes));
        }
    }
}

fn parse(bytes: &[u8]) -> Option<Reply> {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&bytes[..end]).unwrap();
    let (first, rest) = head.split_once("\r\n").unwrap_or((head, ""));
    let status: u16 = first.split(' ').nth(1).unwrap().parse().unwrap();
    if status == 100 {
        return parse(&bytes[end + 4..]);
    }
    let pair =
        |line: &str| line.split_once(": ").map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()));
    let headers: HashMap<String, String> = rest.split("\r\n").filter_map(pair).collect();
    let length: usize = headers.get("content-length").map_or(0, |length| length.parse().unwrap());
    let body = &bytes[end + 4..];
    (body.len() >= length).then(|| Reply { status, headers, body: body[..length].to_vec() })
}
