//! Connections: as many as there is room for, and none that only holds its place.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    future::poll_fn,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::Poll,
    time::Duration,
};

use http_body_util::Either;
use hyper::{Request, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot},
    task::{JoinHandle, JoinSet},
    time::{sleep, timeout},
};

use crate::{
    intake::Door,
    paced::{Limits, Paced, Phase, Turn, Watch},
    routes,
};

/// The largest head of a request, in bytes.
const HEAD_MAX: usize = 64 << 10;

/// How many clients beyond the limit are told so at once; more are turned away without a word.
const REFUSALS: usize = 64;

/// How long a new connection waits for the place of an idle one.
const PLACE_LIMIT: Duration = Duration::from_millis(200);

/// How long after a stop what is under way may take. A request whose job runs waits for it as long as the manager
/// lets it run.
const LAST_ANSWERS: Duration = Duration::from_secs(35);

/// How long a connection that is to be closed may go on writing what was answered.
const LAST_BYTES: Duration = Duration::from_secs(1);

/// The same when its place is wanted.
const LAST_BYTES_FULL: Duration = Duration::from_millis(50);

/// How long to leave off accepting when the system has no more files.
const NO_FILES: Duration = Duration::from_millis(100);

const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 1\r\n\
    connection: close\r\ncontent-length: 57\r\n\r\n{\"error\":\"too many connections (`max_connections`) now\"}\n";

const SHUT: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 1\r\n\
    connection: close\r\ncontent-length: 74\r\n\r\n{\"error\":\"the store that jobs go into cannot be reached yet: come again\"}\n";

/// How long clients wait for the store to be opened before they are told that it is not.
const OPENING: Duration = Duration::from_secs(2);

/// Holds the address until the store is open. Who comes meanwhile is told so.
pub(crate) struct Porch {
    leave: oneshot::Sender<()>,
    task: JoinHandle<TcpListener>,
}

impl Porch {
    pub(crate) fn new(listener: TcpListener) -> Self {
        let (leave, left) = oneshot::channel();
        Porch { leave, task: tokio::spawn(turn_away(listener, left, OPENING)) }
    }

    /// The listener, for jobs to be taken in; `None` if the runtime ends.
    pub(crate) async fn leave(self) -> Option<TcpListener> {
        drop(self.leave);
        self.task.await.ok()
    }
}

/// Tells clients that the store is not open, after a moment in which it may be.
async fn turn_away(
    listener: TcpListener,
    mut left: oneshot::Receiver<()>,
    patience: Duration,
) -> TcpListener {
    if timeout(patience, &mut left).await.is_ok() {
        return listener;
    }
    let refusals = Arc::new(Semaphore::new(REFUSALS));
    loop {
        tokio::select! {
            biased;
            _ = &mut left => return listener,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    if let Ok(refusal) = refusals.clone().try_acquire_owned() {
                        tokio::spawn(refuse(stream, SHUT, refusal));
                    }
                }
                Err(_) => sleep(NO_FILES).await,
            },
        }
    }
}

/// Serves until the stop; then lets what is under way end.
pub(crate) async fn serve(listener: TcpListener, door: Arc<Door>) {
    let limit = door.config.max_connections as usize;
    let (places, refusals) = (Arc::new(Semaphore::new(limit)), Arc::new(Semaphore::new(REFUSALS)));
    let idle = Arc::new(Idle::default());
    let mut tasks = JoinSet::new();
    loop {
        let stream = tokio::select! {
            biased;
            () = door.stop.wait() => break,
            Some(_) = tasks.join_next(), if !tasks.is_empty() => continue,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    cannot_accept(&door, &idle, &error).await;
                    continue;
                }
            },
        };
        match place(&places, &idle).await {
            Some(place) => {
                tasks.spawn(connection(stream, door.clone(), idle.clone(), place));
            }
            None => {
                if let Ok(refusal) = refusals.clone().try_acquire_owned() {
                    tasks.spawn(refuse(stream, FULL, refusal));
                }
            }
        }
    }
    drop(listener);
    let last = async { while tasks.join_next().await.is_some() {} };
    if timeout(LAST_ANSWERS, last).await.is_err() {
        tracing::warn!(intake = door.name, "some answers were not taken in time: their connections are cut");
    }
}

/// A place for a connection: a free one, or that of the connection which has been idle longest.
async fn place(places: &Arc<Semaphore>, idle: &Idle) -> Option<OwnedSemaphorePermit> {
    if let Ok(place) = places.clone().try_acquire_owned() {
        return Some(place);
    }
    if !idle.close_oldest() {
        return None;
    }
    timeout(PLACE_LIMIT, places.clone().acquire_owned()).await.ok()?.ok()
}

async fn cannot_accept(door: &Door, idle: &Idle, error: &io::Error) {
    if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset) {
        return;
    }
    // No more files or memory: an idle connection may free some.
    tracing::warn!(intake = door.name, %error, "a connection cannot be accepted");
    idle.close_oldest();
    sleep(NO_FILES).await;
}

/// Tells a client why it is not served. It is read from, so that the answer is not lost to a reset.
async fn refuse(mut stream: TcpStream, why: &'static [u8], _refusal: OwnedSemaphorePermit) {
    let _ = timeout(Duration::from_secs(1), async {
        stream.write_all(why).await?;
        stream.shutdown().await?;
        let mut scrap = [0; 1024];
        while stream.read(&mut scrap).await? > 0 {}
        io::Result::Ok(())
    })
    .await;
}

/// One connection, to its end.
async fn connection(stream: TcpStream, door: Arc<Door>, idle: Arc<Idle>, _place: OwnedSemaphorePermit) {
    let _ = stream.set_nodelay(true);
    let seat = Seat::new(idle);
    let (close, stop, turn) = (seat.close.clone(), door.stop.clone(), seat.turn.clone());
    let limits = Limits {
        head: door.config.header_timeout.get(),
        idle: door.config.idle_timeout.get(),
        write: door.config.body_timeout.get(),
    };
    let seat = Arc::new(seat);
    let watched = seat.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let (door, busy) = (door.clone(), Busy::new(seat.clone()));
        async move {
            let mut answer = routes::answer(&door, request).await;
            match answer.body_mut() {
                Either::Left(_) => drop(busy),
                // The client is served until the last piece.
                Either::Right(streamed) => streamed.hold(busy),
            }
            Ok::<_, Infallible>(answer)
        }
    });
    let served = http1::Builder::new()
        .header_read_timeout(None)
        .max_buf_size(HEAD_MAX)
        .serve_connection(TokioIo::new(Paced::new(stream, limits, turn.clone())), service);
    let mut served = std::pin::pin!(served);
    let mut watch = Watch::new(limits, turn);
    let ended = poll_fn(|cx| match served.as_mut().poll(cx) {
        Poll::Ready(_) => Poll::Ready(()),
        Poll::Pending => watch.poll(cx),
    });
    // An error is a client that went away or was too slow: nobody is left to be told.
    let last = tokio::select! {
        biased;
        () = ended => return,
        () = close.notified() => LAST_BYTES_FULL,
        () = stop.wait() => LAST_BYTES,
    };
    served.as_mut().graceful_shutdown();
    while timeout(last, served.as_mut()).await.is_err() {
        // Nothing is asked or answered: it would be waited for in vain.
        if watched.is_idle() {
            return;
        }
    }
}

/// The connections without a request, by age: the first to go when there is no room.
#[derive(Default)]
struct Idle(Mutex<Sitting>);

#[derive(Default)]
struct Sitting {
    next: u64,
    seats: BTreeMap<u64, Arc<Notify>>,
}

impl Idle {
    fn lock(&self) -> MutexGuard<'_, Sitting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close_oldest(&self) -> bool {
        let oldest = self.lock().seats.pop_first();
        oldest.inspect(|(_, close)| close.notify_one()).is_some()
    }

    fn sit(&self, close: &Arc<Notify>) -> u64 {
        let mut sitting = self.lock();
        sitting.next += 1;
        let number = sitting.next;
        sitting.seats.insert(number, close.clone());
        number
    }

    fn rise(&self, number: u64) {
        self.lock().seats.remove(&number);
    }
}

/// A connection's entry among the idle ones; its number while it is one.
struct Seat {
    idle: Arc<Idle>,
    number: Mutex<Option<u64>>,
    close: Arc<Notify>,
    turn: Turn,
}

impl Seat {
    fn new(idle: Arc<Idle>) -> Self {
        let close = Arc::new(Notify::new());
        let number = Mutex::new(Some(idle.sit(&close)));
        Seat { idle, number, close, turn: Turn::default() }
    }

    fn number(&self) -> MutexGuard<'_, Option<u64>> {
        self.number.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_idle(&self) -> bool {
        self.number().is_some()
    }

    fn rise(&self) {
        if let Some(number) = self.number().take() {
            self.idle.rise(number);
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.rise();
    }
}

/// A request is under way on the connection.
struct Busy(Arc<Seat>);

impl Busy {
    fn new(seat: Arc<Seat>) -> Self {
        seat.rise();
        seat.turn.begin(Phase::Busy);
        Busy(seat)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.turn.begin(Phase::Idle);
        let number = self.0.idle.sit(&self.0.close);
        *self.0.number() = Some(number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_canned_answers_are_as_long_as_they_say() {
        for text in [FULL, SHUT] {
            let (head, body) = std::str::from_utf8(text).unwrap().split_once("\r\n\r\n").unwrap();
            assert!(head.contains(&format!("content-length: {}", body.len())), "{} bytes", body.len());
        }
    }

    #[tokio::test]
    async fn who_comes_before_the_store_is_open_is_told_so() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (leave, left) = oneshot::channel();
        let porch = tokio::spawn(turn_away(listener, left, Duration::ZERO));
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(b"POST /job/add HTTP/1.1\r\n\r\n").await.unwrap();
        client.shutdown().await.unwrap();
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, SHUT);
        drop(leave);
        assert_eq!(porch.await.unwrap().local_addr().unwrap(), address);
    }

    #[test]
    fn the_connection_that_was_idle_longest_goes_first() {
        let idle = Arc::new(Idle::default());
        let (first, second) = (Arc::new(Seat::new(idle.clone())), Arc::new(Seat::new(idle.clone())));
        drop(Busy::new(first.clone()));
        assert!(idle.close_oldest());
        let closing = |seat: &Seat| {
            let mut notified = std::pin::pin!(seat.close.notified());
            notified.as_mut().enable()
        };
        assert!(closing(&second) && !closing(&first));
        let busy = Busy::new(first.clone());
        assert!(!idle.close_oldest(), "a busy one stays");
        drop((busy, first));
        assert!(!idle.close_oldest(), "one that is gone is not in the list");
    }
}
