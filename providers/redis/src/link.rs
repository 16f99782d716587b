//! Connections: made when needed, given up when they do not answer.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, RedisError, Value,
    aio::{MultiplexedConnection, PubSub},
};
use tokio::{
    runtime::Handle,
    sync::Mutex,
    time::{Instant, timeout},
};

use crate::error::CallError;

/// How long a connection may take to be made.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);
/// How long a call may take.
const CALL_LIMIT: Duration = Duration::from_secs(4);
/// A call that was given up after so long tells that its connection may be dead.
const SUSPICIOUS: Duration = Duration::from_millis(250);

/// Where connections lead, and the runtime on which they live.
pub(crate) struct Server {
    client: Client,
    handle: Handle,
    /// The address, for messages; without credentials.
    pub(crate) name: String,
    /// Whether TLS is spoken to it.
    tls: bool,
}

impl Server {
    /// On the runtime that this is called on.
    pub(crate) fn new(client: Client) -> Self {
        let address = client.get_connection_info().addr();
        let tls = matches!(address, ConnectionAddr::TcpTls { .. });
        let name = match address {
            ConnectionAddr::Unix(path) => path.display().to_string(),
            other => other.to_string(),
        };
        Server { client, handle: Handle::current(), name, tls }
    }

    pub(crate) fn handle(&self) -> &Handle {
        &self.handle
    }

    /// A new connection, whose task lives on the server's runtime.
    async fn connect(&self) -> Result<MultiplexedConnection, CallError> {
        let client = self.client.clone();
        let connect = async move {
            // Deadlines are ours: a call's is known to whoever makes it.
            let config = AsyncConnectionConfig::new()
                .set_connection_timeout(Some(CONNECT_LIMIT))
                .set_response_timeout(None);
            client.get_multiplexed_async_connection_with_config(&config).await
        };
        self.on_runtime(connect).await
    }

    /// A new connection that hears channels.
    pub(crate) async fn hear(&self) -> Result<PubSub, CallError> {
        let client = self.client.clone();
        self.on_runtime(async move { client.get_async_pubsub().await }).await
    }

    async fn on_runtime<T: Send + 'static>(
        &self,
        connect: impl Future<Output = Result<T, RedisError>> + Send + 'static,
    ) -> Result<T, CallError> {
        match self.handle.spawn(timeout(CONNECT_LIMIT * 2, connect)).await {
            Ok(Ok(Err(error))) if self.tls && error.is_timeout() => Err(CallError::Silent),
            Ok(Ok(connection)) => Ok(connection?),
            Ok(Err(_)) => Err(CallError::Late),
            Err(_) => Err(CallError::Closed),
        }
    }
}

/// One connection, which is made anew when it failed.
pub(crate) struct Link {
    pub(crate) server: Arc<Server>,
    current: Mutex<Option<(u64, MultiplexedConnection)>>,
    made: AtomicU64,
    /// The number of the newest connection that is of no more use.
    spent: AtomicU64,
}

impl Link {
    pub(crate) fn new(server: Arc<Server>) -> Self {
        Link { server, current: Mutex::new(None), made: AtomicU64::new(0), spent: AtomicU64::new(0) }
    }

    /// One call, answered or given up within the limit.
    pub(crate) async fn call(&self, command: &Cmd) -> Result<Value, CallError> {
        self.call_within(command, CALL_LIMIT).await
    }

    /// One call with a limit of its own.
    pub(crate) async fn call_within(&self, command: &Cmd, limit: Duration) -> Result<Value, CallError> {
        let (number, mut connection) = self.connection().await?;
        let mut unanswered = Unanswered { link: self, number, since: Some(Instant::now()) };
        let answer = match timeout(limit, connection.send_packed_command(command)).await {
            Ok(answer) => answer.and_then(Value::extract_error).map_err(CallError::Redis),
            Err(_) => Err(CallError::Late),
        };
        unanswered.since = None;
        if answer.as_ref().is_err_and(CallError::is_of_connection) {
            self.spend(number);
        }
        answer
    }

    /// Two commands on one connection, one right after the other.
    pub(crate) async fn call_both(&self, first: &Cmd, second: &Cmd) -> Result<(Value, Value), CallError> {
        let (number, mut connection) = self.connection().await?;
        let mut unanswered = Unanswered { link: self, number, since: Some(Instant::now()) };
        let mut pipeline = redis::pipe();
        pipeline.add_command(first.clone()).add_command(second.clone());
        let answer = match timeout(CALL_LIMIT, connection.send_packed_commands(&pipeline, 0, 2)).await {
            Ok(answer) => answer.map_err(CallError::Redis).and_then(two),
            Err(_) => Err(CallError::Late),
        };
        unanswered.since = None;
        if answer.as_ref().is_err_and(CallError::is_of_connection) {
            self.spend(number);
        }
        answer
    }

    /// Lets the connection go; the next call makes a new one.
    pub(crate) async fn close(&self) {
        self.current.lock().await.take();
    }

    fn spend(&self, number: u64) {
        self.spent.fetch_max(number, Ordering::AcqRel);
    }

    async fn connection(&self) -> Result<(u64, MultiplexedConnection), CallError> {
        let mut current = self.current.lock().await;
        match &*current {
            Some((number, connection)) if *number > self.spent.load(Ordering::Acquire) => {
                Ok((*number, connection.clone()))
            }
            _ => {
                *current = None;
                let connection = self.server.connect().await?;
                let number = self.made.fetch_add(1, Ordering::AcqRel) + 1;
                *current = Some((number, connection.clone()));
                Ok((number, connection))
            }
        }
    }
}

fn two(answers: Vec<Value>) -> Result<(Value, Value), CallError> {
    match <[Value; 2]>::try_from(answers) {
        Ok([first, second]) => Ok((first.extract_error()?, second.extract_error()?)),
        Err(_) => Err(CallError::Strange("two commands without two answers")),
    }
}

/// A call that nobody waits for any more: where it had taken long, its connection is not used again, since one that
/// is half open never says so.
struct Unanswered<'a> {
    link: &'a Link,
    number: u64,
    since: Option<Instant>,
}

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        if self.since.is_some_and(|since| since.elapsed() >= SUSPICIOUS) {
            self.link.spend(self.number);
        }
    }
}
