//! What wakes a wait: blocking reads that take nothing, and the bell that ganger's own scripts ring.
//!
//! A blocking `BLMOVE` from the head of a producers' list to its own head returns as soon as the list has an entry, and
//! leaves it where it is: no crash can lose it, and the order stays.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::StreamExt;
use redis::Value;
use tokio::{
    sync::Notify,
    task::JoinHandle,
    time::{sleep, timeout},
};

use crate::{
    error::CallError,
    link::{Link, Server},
    store::Keys,
};

/// How long a blocking read lasts at most; then it is begun again.
const READ_SECS: u64 = 2;
/// A blocking read that is not answered by then is on a dead connection.
const READ_LIMIT: Duration = Duration::from_secs(READ_SECS + 2);
/// How often the channel's connection is tried, and how long its answer may take.
const PING: Duration = Duration::from_secs(2);
/// How long to pause after a failure.
const PAUSE: Duration = Duration::from_millis(250);

/// What waiters and the tasks that wake them share.
#[derive(Default)]
pub(crate) struct Signals {
    /// Something may have become ready.
    pub(crate) work: Notify,
    /// A job has ended.
    pub(crate) ended: Notify,
    /// A wait begins: the blocking reads begin too.
    begin: Vec<Notify>,
    waiting: AtomicUsize,
}

/// The tasks that wake waits.
pub(crate) struct Bell {
    pub(crate) signals: Arc<Signals>,
    tasks: Vec<JoinHandle<()>>,
}

impl Bell {
    pub(crate) fn start(server: &Arc<Server>, keys: &Keys) -> Bell {
        let begin = keys.lists.iter().map(|_| Notify::new()).collect();
        let signals = Arc::new(Signals { begin, ..Signals::default() });
        let hear = hear(server.clone(), signals.clone(), keys.own("bell"), keys.own("ended"));
        let mut tasks = vec![server.handle().spawn(hear)];
        for (at, list) in keys.lists.iter().enumerate() {
            let read = read(Link::new(server.clone()), signals.clone(), at, list.clone());
            tasks.push(server.handle().spawn(read));
        }
        Bell { signals, tasks }
    }

    /// Begins a wait: from now on the blocking reads are under way, until what this returns is dropped.
    pub(crate) fn waiting(&self) -> Waiting<'_> {
        self.signals.waiting.fetch_add(1, Ordering::AcqRel);
        self.signals.begin.iter().for_each(Notify::notify_one);
        Waiting(&self.signals)
    }

    pub(crate) fn stop(&self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Drop for Bell {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A wait that is under way.
pub(crate) struct Waiting<'a>(&'a Signals);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Reads one list while somebody waits.
async fn read(link: Link, signals: Arc<Signals>, at: usize, list: String) {
    let mut command = redis::cmd("BLMOVE");
    command.arg(&list).arg(&list).arg("LEFT").arg("LEFT").arg(READ_SECS);
    loop {
        signals.begin[at].notified().await;
        while signals.waiting.load(Ordering::Acquire) > 0 {
            match link.call_within(&command, READ_LIMIT).await {
                Ok(Value::Nil) => {}
                Ok(_) => {
                    signals.work.notify_waiters();
                    break;
                }
                Err(error) => {
                    tracing::debug!(list, ?error, "a blocking read failed");
                    // Whoever waits asks Redis itself, and tells what it says.
                    signals.work.notify_waiters();
                    sleep(PAUSE).await;
                }
            }
        }
    }
}

/// Hears the channels. What was said while nobody listened is unknown, so each beginning wakes everybody.
async fn hear(server: Arc<Server>, signals: Arc<Signals>, bell: String, ended: String) {
    loop {
        if let Err(error) = hear_once(&server, &signals, &bell, &ended).await {
            tracing::debug!(?error, "the channel is not heard");
        }
        sleep(PAUSE).await;
    }
}

async fn hear_once(server: &Server, signals: &Signals, bell: &str, ended: &str) -> Result<(), CallError> {
    let mut channel = server.hear().await?;
    let subscribe = async {
        channel.subscribe(bell).await?;
        channel.subscribe(ended).await
    };
    timeout(PING * 2, subscribe).await.map_err(|_| CallError::Late)??;
    signals.work.notify_waiters();
    signals.ended.notify_waiters();
    let (mut sink, mut messages) = channel.split();
    loop {
        match timeout(PING, messages.next()).await {
            Ok(Some(message)) if message.get_channel_name() == ended => signals.ended.notify_waiters(),
            Ok(Some(_)) => signals.work.notify_waiters(),
            Ok(None) => return Ok(()),
            Err(_) => {
                timeout(PING, sink.ping::<Value>()).await.map_err(|_| CallError::Late)??;
            }
        }
    }
}
