//! One connection through the proxy.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::{net::TcpStream, sync::watch, time::Instant};

use super::{
    Shared, State, Way,
    upstream::{Reader, Writer, split},
};

/// A connection's time: counted as open until this is dropped.
pub(super) struct Life {
    shared: Arc<Shared>,
    /// The cuts before it: one more, and it ends.
    cuts: u64,
    /// Whether bytes of it were swallowed.
    has_hole: AtomicBool,
}

/// What became of a piece.
enum Passed {
    /// So many of its bytes are gone from here.
    Bytes(usize),
    /// The receiver takes none now.
    Full,
    /// A switch holds it back.
    Held,
}

impl Life {
    pub(super) fn begin(shared: Arc<Shared>) -> Self {
        let cuts = shared.change(|state| {
            state.seen.connections += 1;
            state.seen.open += 1;
            state.seen.cuts
        });
        Life { shared, cuts, has_hole: AtomicBool::new(false) }
    }

    fn is_cut(&self, state: &State) -> bool {
        let is_swallowing = state.faults.swallow.contains(&true);
        state.is_over
            || state.seen.cuts > self.cuts
            || !is_swallowing && self.has_hole.load(Ordering::Relaxed)
    }

    /// Waits until a switch lets this hold, or the connection is cut.
    async fn wait_for(&self, mut is_so: impl FnMut(&Life, &State) -> bool) {
        let mut switched = self.shared.switched.subscribe();
        loop {
            switched.borrow_and_update();
            if is_so(self, &self.shared.state()) {
                return;
            }
            // The sender is in `shared`.
            let _ = switched.changed().await;
        }
    }

    /// Passes what the switches allow, under their lock: none moves meanwhile.
    fn pass(&self, way: Way, bytes: &[u8], to: &Writer) -> io::Result<Passed> {
        let aborted = || io::Error::from(io::ErrorKind::ConnectionAborted);
        self.shared.change(|state| {
            if self.is_cut(state) {
                return Err(aborted());
            }
            if state.faults.black_hole {
                return Ok(Passed::Held);
            }
            if state.faults.swallow[way as usize] {
                self.has_hole.store(true, Ordering::Relaxed);
                state.seen.swallowed += bytes.len() as u64;
                return Ok(Passed::Bytes(bytes.len()));
            }
            let left = state.left[way as usize]
                .map_or(usize::MAX, |left| usize::try_from(left).unwrap_or(usize::MAX));
            if left == 0 {
                state.left[way as usize] = None;
                state.seen.cuts += 1;
                self.shared.switched.send_replace(());
                return Err(aborted());
            }
            let most = bytes.len().min(left).min(state.faults.piece_max.unwrap_or(usize::MAX));
            to.write_now(&bytes[..most]).map(|written| state.count(way, written))
        })
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        self.shared.change(|state| state.seen.open -= 1);
    }
}

impl State {
    fn count(&mut self, way: Way, written: usize) -> Passed {
        if written == 0 {
            return Passed::Full;
        }
        let bytes = written as u64;
        match way {
            Way::ToServer => self.seen.to_server += bytes,
            Way::ToClient => self.seen.to_client += bytes,
        }
        if let Some(left) = &mut self.left[way as usize] {
            *left -= bytes;
        }
        Passed::Bytes(written)
    }
}

/// Serves a connection until both sides have ended, one fails, or it is cut.
pub(super) async fn run(life: Life, client: TcpStream) {
    tokio::select! {
        biased;
        () = life.wait_for(Life::is_cut) => {}
        // A failing side ends both; the other learns it by its connection's end.
        _ = both_ways(&life, client) => {}
    }
}

async fn both_ways(life: &Life, client: TcpStream) -> io::Result<()> {
    life.wait_for(|_, state| !state.faults.black_hole).await;
    let (from_client, to_client) = split(client)?;
    let (from_server, to_server) = life.shared.upstream.connect().await?;
    tokio::try_join!(
        pump(life, Way::ToServer, from_client, to_server),
        pump(life, Way::ToClient, from_server, to_client),
    )?;
    Ok(())
}

async fn pump(life: &Life, way: Way, from: Reader, to: Writer) -> io::Result<()> {
    let mut buffer = vec![0; 16 << 10];
    loop {
        let mut rest = match from.read(&mut buffer).await? {
            0 => break,
            read => &buffer[..read],
        };
        while !rest.is_empty() {
            delay(life).await;
            match life.pass(way, rest, &to)? {
                Passed::Bytes(count) => rest = &rest[count..],
                Passed::Full => to.writable().await?,
                Passed::Held => life.wait_for(|_, state| !state.faults.black_hole).await,
            }
            // So that a small piece is seen alone, and no connection starves another.
            tokio::task::yield_now().await;
        }
    }
    life.wait_for(|_, state| !state.faults.black_hole && !state.faults.swallow[way as usize]).await;
    drop(to);
    Ok(())
}

/// Waits until the delay that is set, also if it changes meanwhile, is over.
async fn delay(life: &Life) {
    let start = Instant::now();
    let mut switched: watch::Receiver<()> = life.shared.switched.subscribe();
    loop {
        switched.borrow_and_update();
        let delay = life.shared.state().faults.delay;
        if delay.is_zero() {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep_until(start + delay) => return,
            _ = switched.changed() => {}
        }
    }
}
