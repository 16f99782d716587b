//! What wakes a wait: blocking reads that take nothing, and the bell that ganger's own scripts ring.
//!
//! A blocking `BLMOVE` from the head of a producers' list to its own head returns as soon as the list has an entry, and
//! leaves it where it is: no crash can lose it, and the order stays. Behind the read, on the same connection, stands the
//! exchange that is to come then: Redis runs it as soon as the read returns, and a job reaches a manager that waits with
//! one answer.

use std::{sync::Arc, time::Duration};

use futures_util::StreamExt;
use redis::Value;
use tokio::{
    sync::{Notify, mpsc, watch},
    task::JoinHandle,
    time::{sleep, timeout},
};

use crate::{
    error::CallError,
    exchange::is_claim,
    link::{Link, Server},
    script::Call,
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
}

/// What a wait has the reads do.
#[derive(Clone)]
struct Order {
    /// The call that the server makes as soon as a read finds something.
    claim: Option<Arc<Call>>,
    /// Told once: the answer to the claim, or that there may be work.
    tell: mpsc::Sender<Option<Value>>,
}

/// The tasks that wake waits.
pub(crate) struct Bell {
    pub(crate) signals: Arc<Signals>,
    orders: watch::Sender<Option<Order>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Bell {
    pub(crate) fn start(server: &Arc<Server>, keys: &Keys) -> Bell {
        let signals = Arc::new(Signals::default());
        let orders = watch::Sender::new(None);
        let hear = hear(server.clone(), signals.clone(), keys.own("bell"), keys.own("ended"));
        let mut tasks = vec![server.handle().spawn(hear)];
        for list in &keys.lists {
            let read = read(Link::new(server.clone()), orders.subscribe(), list.clone());
            tasks.push(server.handle().spawn(read));
        }
        Bell { signals, orders, tasks }
    }

    /// Has all lists read until one has an entry, and `claim` called there and then. It ends with the receiver, which
    /// another order closes.
    pub(crate) fn order(&self, claim: Option<Arc<Call>>) -> mpsc::Receiver<Option<Value>> {
        let (tell, told) = mpsc::channel(1);
        self.orders.send_replace(Some(Order { claim, tell }));
        told
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

/// Reads one list as it is ordered to.
async fn read(link: Link, mut orders: watch::Receiver<Option<Order>>, list: String) {
    let mut command = redis::cmd("BLMOVE");
    command.arg(&list).arg(&list).arg("LEFT").arg("LEFT").arg(READ_SECS);
    while orders.changed().await.is_ok() {
        let Some(Order { claim, tell }) = orders.borrow_and_update().clone() else { continue };
        while !tell.is_closed() {
            let found = match &claim {
                Some(claim) => claim.send_behind(&command, &link).await.map(found),
                None => link
                    .call_within(&command, READ_LIMIT)
                    .await
                    .map(|read| (read != Value::Nil).then_some(None)),
            };
            match found {
                Ok(None) => continue,
                Ok(Some(answer)) => {
                    // Whoever was told already, or waits no more, needs no second word.
                    let _ = tell.try_send(answer);
                }
                Err(error) => {
                    tracing::debug!(list, ?error, "a blocking read failed");
                    // Whoever waits asks Redis itself, and tells what it says.
                    let _ = tell.try_send(None);
                    sleep(PAUSE).await;
                }
            }
            break;
        }
    }
}

/// What a read and the claim behind it came to: nothing yet, an answer to the claim, or something to be looked at.
fn found((read, answer): (Value, Value)) -> Option<Option<Value>> {
    match (is_claim(&answer), read) {
        (true, _) => Some(Some(answer)),
        (false, Value::Nil) => None,
        (false, _) => Some(None),
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
