//! The listener, and what it answers.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use axum::{
    Router,
    extract::{Extension, Path, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::any,
};
use ganger_core::{Secret, Status, Stop, Stopper};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};

use crate::{access::Access, line::Line, live, stats::stats_json};

/// How long a client may take by default to send its headers, or keep a connection idle.
const HEADERS_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a connection lasts, but for one on which events are read.
const CONNECTION_MAX: Duration = Duration::from_secs(600);

/// How long a client that listens to events may take nothing.
const STALL_MAX: Duration = Duration::from_secs(60);

/// How often a client that listens is told that there is nothing to tell.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// How many listen to events at once.
const LISTENERS_MAX: usize = 100;

/// How many bytes the headers of a request may have.
const HEADERS_MAX: usize = 16 << 10;

/// How many connections are served at once; more wait in the system's queue.
const CONNECTIONS_MAX: usize = 512;

/// How old an answer may be.
const FRESH: Duration = Duration::from_millis(100);

/// Where and to whom figures are told.
#[derive(Clone, Debug)]
pub struct Options {
    /// Host and port.
    pub listen: String,
    /// What readers must show; needed off loopback.
    pub token: Option<Secret>,
    /// Names besides this machine's own under which it may be reached.
    pub hosts: Vec<String>,
    /// The keys of providers in the figures, by their names.
    pub keys: Vec<(String, String)>,
    /// How long a client may take to send its headers, or keep a connection idle.
    pub headers_timeout: Duration,
    /// How often a client that listens to events is told that there is nothing to tell.
    pub heartbeat: Duration,
    /// How long a client that listens may take nothing; then it is cut off.
    pub stall: Duration,
    /// How many listen at once.
    pub listeners: usize,
}

impl Options {
    /// On this address, for this machine only.
    pub fn new(listen: impl Into<String>) -> Self {
        Options {
            listen: listen.into(),
            token: None,
            hosts: Vec::new(),
            keys: Vec::new(),
            headers_timeout: HEADERS_TIMEOUT,
            heartbeat: HEARTBEAT,
            stall: STALL_MAX,
            listeners: LISTENERS_MAX,
        }
    }
}

/// Figures cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ConsoleError {
    /// The address cannot be listened on.
    #[error("stats_port {listen}: {error}")]
    Listen {
        /// The address.
        listen: String,
        /// What the system said.
        error: io::Error,
    },
    /// Other machines could read them.
    #[error("stats_port {0} can be reached from other machines: set a `stats_token`, or listen on 127.0.0.1")]
    Open(String),
}

impl ConsoleError {
    /// Whether another program listens there.
    pub fn is_taken(&self) -> bool {
        matches!(self, ConsoleError::Listen { error, .. } if error.kind() == io::ErrorKind::AddrInUse)
    }
}

/// A listener that tells health and figures. Dropped, it ends.
#[derive(Debug)]
pub struct Console {
    address: SocketAddr,
    _stopper: Stopper,
}

impl Console {
    /// Listens, and answers on the runtime that calls.
    ///
    /// # Errors
    /// The address is taken or wrong, or off loopback without a token.
    pub async fn open(options: Options, status: Arc<dyn Status>) -> Result<Self, ConsoleError> {
        let fault = |error| ConsoleError::Listen { listen: options.listen.clone(), error };
        let listener = TcpListener::bind(&options.listen).await.map_err(fault)?;
        let address = listener.local_addr().map_err(fault)?;
        if !address.ip().is_loopback() && options.token.is_none() {
            return Err(ConsoleError::Open(options.listen));
        }
        let stopper = Stopper::default();
        let desk = Arc::new(Desk {
            status,
            access: Access { token: options.token, hosts: options.hosts },
            keys: options.keys,
            answer: Mutex::new(None),
            listeners: Arc::new(Semaphore::new(options.listeners)),
            heartbeat: options.heartbeat,
            stall: options.stall,
        });
        tokio::spawn(accept(listener, router(desk), options.headers_timeout, stopper.handle()));
        Ok(Console { address, _stopper: stopper })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// What the answers are made from.
pub(crate) struct Desk {
    pub(crate) status: Arc<dyn Status>,
    pub(crate) access: Access,
    keys: Vec<(String, String)>,
    answer: Mutex<Option<(Instant, Arc<str>)>>,
    pub(crate) listeners: Arc<Semaphore>,
    pub(crate) heartbeat: Duration,
    pub(crate) stall: Duration,
}

impl Desk {
    /// The figures, made anew at most every [`FRESH`]: readers share the work.
    fn figures(&self) -> Arc<str> {
        let mut answer = self.answer.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((made, text)) = &*answer
            && made.elapsed() < FRESH
        {
            return text.clone();
        }
        let text: Arc<str> = stats_json(&self.status.report(), &self.keys).to_string().into();
        *answer = Some((Instant::now(), text.clone()));
        text
    }
}

fn router(desk: Arc<Desk>) -> Router {
    Router::new()
        .route("/manager/stats", any(stats))
        .route("/healthz", any(healthz))
        .route("/readyz", any(readyz))
        .route("/jobs/{*rest}", any(events))
        .fallback(nothing_here)
        .with_state(desk)
}

async fn nothing_here() -> Response {
    let there_is = "there is /manager/stats, /jobs/{id}/events, /healthz and /readyz\n";
    (StatusCode::NOT_FOUND, there_is).into_response()
}

async fn events(
    State(desk): State<Arc<Desk>>,
    Extension(line): Extension<Line>,
    Path(rest): Path<String>,
    headers: HeaderMap,
) -> Response {
    let Some(id) = rest.strip_suffix("/events") else { return nothing_here().await };
    match desk.access.admit_listener(&headers) {
        Ok(()) => live::answer(&desk, line, id, &headers).await,
        Err(refusal) => refusal.into_response(),
    }
}

async fn stats(State(desk): State<Arc<Desk>>, headers: HeaderMap) -> Response {
    if let Err(refusal) = desk.access.admit(&headers) {
        return refusal.into_response();
    }
    let kind = [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")];
    (kind, desk.figures().to_string()).into_response()
}

async fn healthz() -> &'static str {
    "ok\n"
}

async fn readyz(State(desk): State<Arc<Desk>>, headers: HeaderMap) -> Response {
    let readiness = desk.status.ready();
    if readiness.is_ready() {
        return "ready\n".into_response();
    }
    let body = match desk.access.admit(&headers) {
        Ok(()) => readiness.reasons.join("\n") + "\n",
        Err(_) => "not ready\n".to_owned(),
    };
    (StatusCode::SERVICE_UNAVAILABLE, body).into_response()
}

async fn accept(listener: TcpListener, router: Router, headers_timeout: Duration, stop: Stop) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let permit = tokio::select! {
            biased;
            () = stop.wait() => return,
            permit = room.clone().acquire_owned() => permit,
        };
        let Ok(permit) = permit else { return };
        let accepted = tokio::select! {
            biased;
            () = stop.wait() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let answered = converse(stream, router.clone(), headers_timeout, stop.clone());
                tokio::spawn(async move {
                    answered.await;
                    drop(permit);
                });
            }
            Err(error) => {
                // Out of files, most likely: those in use must end first.
                tracing::warn!(%error, "stats_port: a connection could not be taken");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn converse(stream: TcpStream, router: Router, headers_timeout: Duration, stop: Stop) {
    let (line, expired) = Line::new(CONNECTION_MAX);
    let router = TowerToHyperService::new(router.layer(Extension(line)));
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(headers_timeout)
        .max_buf_size(HEADERS_MAX)
        .serve_connection(TokioIo::new(stream), router);
    tokio::select! {
        biased;
        () = stop.wait() => {}
        () = expired => {}
        // A client that breaks off is no concern of ours.
        _ = connection => {}
    }
}
