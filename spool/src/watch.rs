//! Learning that another process changed the file, without looking all the time.

use std::{
    io,
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use rusqlite::Connection;
use rustix::{
    event::{PollFd, PollFlags, poll},
    fs::inotify,
    pipe::{PipeFlags, pipe_with},
};

use crate::{
    error::StoreError,
    schema,
    spool::{Shared, beside},
};

/// How long after an event the file is looked at for the commit that it announced, at least: the log is written
/// to before its sync, and the commit can be seen only after it.
const SETTLE: Duration = Duration::from_millis(50);

/// How often, meanwhile.
const LOOK: Duration = Duration::from_millis(3);

/// Watches the write-ahead log of a store, which every commit of every process writes to.
pub(crate) struct Watcher {
    stopping: Arc<AtomicBool>,
    /// Closing it wakes the thread.
    wake: Option<OwnedFd>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Watcher {
    /// Starts the watching thread.
    pub(crate) fn start(shared: &Arc<Shared>) -> Result<Watcher, StoreError> {
        let db = schema::open_reader(&shared.path)?;
        // Reading once opens the log, which then stays as long as the connection.
        db.query_row("SELECT count(*) FROM sqlite_master", [], |_| Ok(()))?;
        let events = watch_log(shared);
        if let Err(error) = &events {
            tracing::warn!(
                file = %shared.path.display(), %error,
                "the job store cannot be watched: changes by other processes are looked for every 10 ms"
            );
        }
        let (sleep, wake) = pipe_with(PipeFlags::CLOEXEC).map_err(io::Error::from)?;
        let stopping = Arc::new(AtomicBool::new(false));
        let mut watching = Watching {
            db,
            shared: shared.clone(),
            events: events.ok(),
            sleep,
            stopping: stopping.clone(),
            version: 0,
        };
        let thread =
            std::thread::Builder::new().name("spool-watcher".to_owned()).spawn(move || watching.run())?;
        Ok(Watcher { stopping, wake: Some(wake), thread: Some(thread) })
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Release);
        self.wake.take();
        if let Some(thread) = self.thread.take() {
            // A panic there has been printed; there is nothing left to do about it here.
            let _ = thread.join();
        }
    }
}

fn watch_log(shared: &Shared) -> io::Result<OwnedFd> {
    let events = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
    inotify::add_watch(&events, beside(&shared.path, "-wal"), inotify::WatchFlags::MODIFY)?;
    Ok(events)
}

struct Watching {
    db: Connection,
    shared: Arc<Shared>,
    events: Option<OwnedFd>,
    sleep: OwnedFd,
    stopping: Arc<AtomicBool>,
    version: i64,
}

impl Watching {
    fn run(&mut self) {
        while !self.stopping.load(Ordering::Acquire) {
            match self.await_event() {
                Ok(()) => self.await_commit(),
                Err(error) => {
                    tracing::error!(file = %self.shared.path.display(), %error, "the job store's watcher failed");
                    return;
                }
            }
        }
    }

    /// Waits until the log is written to.
    fn await_event(&mut self) -> io::Result<()> {
        let Some(events) = &self.events else {
            std::thread::sleep(Duration::from_millis(10));
            return Ok(());
        };
        let mut watched =
            [PollFd::new(events, PollFlags::IN), PollFd::new(&self.sleep, PollFlags::IN | PollFlags::HUP)];
        match poll(&mut watched, None) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        drain(events);
        Ok(())
    }

    /// Looks until the commit that an event announced can be seen, or nobody is writing any more.
    fn await_commit(&mut self) {
        let mut looking = Looking::since(Instant::now());
        while !self.stopping.load(Ordering::Acquire) {
            // Asked first: whoever has stopped writing by then has committed what the version tells of.
            let writing = self.shared.visitors.writing();
            let version = self.version();
            let changed = version != self.version;
            if changed {
                self.version = version;
                self.shared.changed();
            }
            if !looking.goes_on(changed, writing, Instant::now()) || self.events.is_none() {
                return;
            }
            // Not more often than this, however fast the commits come.
            std::thread::sleep(LOOK);
        }
    }

    /// Counts the commits of other connections.
    fn version(&self) -> i64 {
        let version = self
            .db
            .prepare_cached("PRAGMA data_version")
            .and_then(|mut pragma| pragma.query_row([], |row| row.get(0)));
        // A failed look is like no change: the next one sees it.
        version.unwrap_or(self.version)
    }
}

/// How long the file is looked at after an event.
struct Looking {
    /// The event, or the last change seen after it.
    since: Instant,
}

impl Looking {
    fn since(since: Instant) -> Self {
        Looking { since }
    }

    /// Whether another look is due. A change does not end the looking: the events of the next commit may have been
    /// taken together with those of the one just seen, while its sync, and so the commit, is yet to come.
    fn goes_on(&mut self, changed: bool, writing: bool, now: Instant) -> bool {
        if changed {
            self.since = now;
        }
        writing || now.duration_since(self.since) <= SETTLE
    }
}

fn drain(events: &OwnedFd) {
    let mut buffer = [0; 4096];
    while rustix::io::read(events, &mut buffer).is_ok_and(|read| read > 0) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looking_goes_on_after_a_change_while_another_program_writes() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut looking = Looking::since(start);
        assert!(looking.goes_on(true, true, at(60)), "the commit of whoever writes has not been seen");
        assert!(looking.goes_on(false, true, at(5000)), "a sync may take as long as it likes");
        assert!(looking.goes_on(true, false, at(5003)), "this process may be writing as well, unseen");
        assert!(looking.goes_on(false, false, at(5003) + SETTLE));
        assert!(!looking.goes_on(false, false, at(5004) + SETTLE));
    }
}
