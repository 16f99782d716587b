//! A proxy that stands between a client and a server and does to their connections what networks do.
//!
//! It runs on a thread of its own, so that a test may block, or stop its clock, and the proxy goes on. Each switch has
//! taken effect when its call returns: what was not passed by then follows the new rule. Nothing needs a sleep:
//! [`Proxy::until`] waits for what the proxy saw.
//!
//! ```
//! # use ganger_testkit::{proxy::{Proxy, Way}, server::{Redis, RedisOptions}};
//! # async fn test() {
//! let redis = Redis::start(RedisOptions::default());
//! let proxy = Proxy::start(redis.address());
//! // … a client connects to redis.url_at(proxy.address()) …
//! proxy.cut_after(Way::ToClient, 0); // the next command runs, and its reply is lost
//! proxy.until("the reply to be lost", |seen| seen.cuts == 1).await;
//! # }
//! ```

mod link;
mod upstream;

use std::{
    net::SocketAddr,
    sync::{Arc, Condvar, Mutex, MutexGuard},
    thread::JoinHandle,
    time::Duration,
};

use tokio::{net::TcpListener, sync::watch};

pub use upstream::Upstream;

use crate::{port::Port, signal::PATIENCE};

/// A direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From the client to the server: requests.
    ToServer,
    /// From the server to the client: replies.
    ToClient,
}

/// What the proxy has seen since it was started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Connections that clients made, those included that no server was found for.
    pub connections: u64,
    /// Those of them that are open now.
    pub open: u64,
    /// Bytes that were passed to the server.
    pub to_server: u64,
    /// Bytes that were passed to the client.
    pub to_client: u64,
    /// Bytes that were swallowed, both ways together.
    pub swallowed: u64,
    /// How often all connections were cut.
    pub cuts: u64,
}

/// The faults that last until [`Proxy::heal`].
#[derive(Clone, Copy, Debug, Default)]
struct Faults {
    refuse: bool,
    black_hole: bool,
    swallow: [bool; 2],
    piece_max: Option<usize>,
    delay: Duration,
}

/// What the test's side and the proxy's thread share.
#[derive(Debug)]
struct Shared {
    upstream: Upstream,
    address: SocketAddr,
    state: Mutex<State>,
    /// Tells that the accepting side has done as `Faults::refuse` says.
    listens: Condvar,
    /// Tells that a switch was moved. Its value has no meaning.
    switched: watch::Sender<()>,
    seen: watch::Sender<Seen>,
}

#[derive(Debug, Default)]
struct State {
    faults: Faults,
    /// So many bytes may still pass that way; in place of the next, all is cut.
    left: [Option<u64>; 2],
    is_listening: bool,
    is_over: bool,
    seen: Seen,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics under this lock")
    }

    /// Changes something and tells everyone. The sight is published in the order of the changes.
    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state();
        let answer = change(&mut state);
        self.seen.send_replace(state.seen);
        answer
    }

    /// Moves a switch.
    fn switch(&self, change: impl FnOnce(&mut State)) {
        self.change(change);
        self.switched.send_replace(());
    }
}

/// A proxy on a port of loopback. Ends, with all its connections, when dropped.
#[derive(Debug)]
pub struct Proxy {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    /// Held, so that a client that is refused never meets somebody else.
    _port: Port,
}

impl Proxy {
    /// Starts one in front of a server: a [`SocketAddr`], or the path of a Unix socket. The server need not be there
    /// yet: it is looked for anew for each connection, which ends at once where there is none.
    ///
    /// # Panics
    /// No port or no thread is to be had.
    pub fn start(upstream: impl Into<Upstream>) -> Self {
        let port = Port::reserve().expect("a free port on loopback");
        let shared = Arc::new(Shared {
            upstream: upstream.into(),
            address: port.address(),
            state: Mutex::default(),
            listens: Condvar::new(),
            switched: watch::Sender::new(()),
            seen: watch::Sender::default(),
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime can be built");
        let serving = shared.clone();
        let thread = std::thread::Builder::new()
            .name("fault-proxy".to_owned())
            .spawn(move || runtime.block_on(serve(&serving)))
            .expect("a thread can be started");
        let proxy = Proxy { shared, thread: Some(thread), _port: port };
        proxy.wait_until_listening(true);
        proxy
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.shared.address
    }

    /// Cuts all connections, once; new ones are served.
    pub fn cut(&self) {
        self.shared.switch(|state| state.seen.cuts += 1);
    }

    /// Lets so many more bytes pass this way, then, in place of the next one, cuts all connections, once. With
    /// [`Way::ToClient`] and 0, the reply to the next command is lost after the command ran.
    pub fn cut_after(&self, way: Way, bytes: u64) {
        self.shared.switch(|state| state.left[way as usize] = Some(bytes));
    }

    /// Passes pieces of at most so many bytes, each in a write of its own.
    ///
    /// # Panics
    /// At 0.
    pub fn slice(&self, bytes: usize) {
        assert!(bytes > 0, "pieces of no bytes pass nothing: use black_hole");
        self.shared.switch(|state| state.faults.piece_max = Some(bytes));
    }

    /// Holds each piece back for so long before it is passed, in both directions.
    pub fn delay(&self, delay: Duration) {
        self.shared.switch(|state| state.faults.delay = delay);
    }

    /// Half-open: takes what comes this way, its end too, and passes nothing, while the connection seems well. As
    /// a stream with a hole cannot go on, [`Proxy::heal`] cuts the connections that lost bytes.
    pub fn swallow(&self, way: Way) {
        self.shared.switch(|state| state.faults.swallow[way as usize] = true);
    }

    /// Refuses new connections; those that there are go on.
    pub fn refuse(&self) {
        self.shared.switch(|state| state.faults.refuse = true);
        self.wait_until_listening(false);
    }

    /// Passes nothing any more, neither bytes nor ends; new connections are made and nobody answers. After
    /// [`Proxy::heal`] all goes on with nothing lost, as after a network's partition.
    pub fn black_hole(&self) {
        self.shared.switch(|state| state.faults.black_hole = true);
    }

    /// Ends all faults.
    pub fn heal(&self) {
        self.shared.switch(|state| {
            state.faults = Faults::default();
            state.left = [None; 2];
        });
        self.wait_until_listening(true);
    }

    /// What it has seen so far.
    pub fn seen(&self) -> Seen {
        self.shared.state().seen
    }

    /// Waits until it has seen something, and answers what it has seen by then.
    ///
    /// # Panics
    /// It does not see it within [`PATIENCE`]; `what` says what that is, as "a second connection".
    pub async fn until(&self, what: &str, mut is_so: impl FnMut(&Seen) -> bool) -> Seen {
        let mut seen = self.shared.seen.subscribe();
        match tokio::time::timeout(PATIENCE, seen.wait_for(|seen| is_so(seen))).await {
            Ok(seen) => *seen.expect("the sender lives in self"),
            Err(_) => panic!("the proxy waited {PATIENCE:?} for {what}; it saw {:?}", self.seen()),
        }
    }

    /// The proxy's thread never blocks, so this is soon so.
    fn wait_until_listening(&self, wanted: bool) {
        let state = self.shared.state();
        let is_otherwise = |state: &mut State| state.is_listening != wanted;
        let waited = self.shared.listens.wait_timeout_while(state, PATIENCE, is_otherwise);
        let (state, _) = waited.expect("nothing panics under this lock");
        let is_so = state.is_listening == wanted;
        drop(state);
        assert!(is_so, "the proxy's thread is gone");
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.switch(|state| state.is_over = true);
        if let Some(thread) = self.thread.take() {
            // It has panicked only where a test has failed for it already.
            let _ = thread.join();
        }
    }
}

/// Listens, or not, as the switch says, until the proxy is dropped. Its tasks end with the runtime.
async fn serve(shared: &Arc<Shared>) {
    let mut switched = shared.switched.subscribe();
    loop {
        let listener = Port::listen(shared.address).expect("the port is held for this");
        tell(shared, true);
        tokio::select! {
            () = accept(shared, &listener) => {}
            over = changed_to(shared, &mut switched, |state| state.faults.refuse) => if over { return },
        }
        drop(listener);
        tell(shared, false);
        if changed_to(shared, &mut switched, |state| !state.faults.refuse).await {
            return;
        }
    }
}

fn tell(shared: &Shared, is_listening: bool) {
    shared.state().is_listening = is_listening;
    shared.listens.notify_all();
}

/// Waits until a condition holds or the proxy is over; whether it is over.
async fn changed_to(
    shared: &Shared,
    switched: &mut watch::Receiver<()>,
    is_so: impl Fn(&State) -> bool,
) -> bool {
    loop {
        switched.borrow_and_update();
        {
            let state = shared.state();
            if state.is_over || is_so(&state) {
                return state.is_over;
            }
        }
        // The sender is in `shared`.
        let _ = switched.changed().await;
    }
}

async fn accept(shared: &Arc<Shared>, listener: &TcpListener) {
    loop {
        // One that went away again before it was accepted is no connection.
        let Ok((client, _)) = listener.accept().await else {
            tokio::task::yield_now().await;
            continue;
        };
        // Before anything else is seen of it.
        let life = link::Life::begin(shared.clone());
        tokio::spawn(link::run(life, client));
    }
}
