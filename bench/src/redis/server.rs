//! A real redis-server on a free port, for the time of a measurement.

use std::{
    net::TcpListener,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use redis::{Client, Connection};
use tempfile::TempDir;

/// A Redis that keeps nothing on disk. Ended, and its folder removed, when dropped.
pub(crate) struct Server {
    child: Child,
    port: u16,
    _folder: TempDir,
}

impl Server {
    /// Starts one.
    ///
    /// # Errors
    /// It is not installed (the message says what to install), or it does not come up within 5 s.
    pub(crate) fn start() -> Result<Self, String> {
        let folder = tempfile::tempdir().map_err(|error| format!("no temporary folder: {error}"))?;
        let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let port = free.map_err(|error| format!("no free port on loopback: {error}"))?.port();
        let child = Command::new("redis-server")
            .args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--save", "", "--appendonly", "no"])
            .arg("--dir")
            .arg(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| {
                format!(
                    "redis-server cannot be started ({error}): install it, as by `apt-get install redis-server`"
                )
            })?;
        let mut server = Server { child, port, _folder: folder };
        server.wait_until_up()?;
        Ok(server)
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub(crate) fn connect(&self) -> Result<Connection, String> {
        let client = Client::open(self.url()).map_err(|error| format!("redis: {error}"))?;
        client.get_connection().map_err(|error| format!("redis: {error}"))
    }

    /// User and system time of the server so far.
    pub(crate) fn cpu_secs(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap_or_default();
        // The fields after the command's closing bracket (proc(5)): utime is the 14th of all, the 12th of these.
        let fields = stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace().skip(11).take(2));
        let ticks: u64 = fields.into_iter().flatten().filter_map(|field| field.parse::<u64>().ok()).sum();
        ticks as f64 / rustix::param::clock_ticks_per_second() as f64
    }

    fn wait_until_up(&mut self) -> Result<(), String> {
        let until = Instant::now() + Duration::from_secs(5);
        loop {
            if self.connect().is_ok() {
                return Ok(());
            }
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(format!("redis-server ended at once: {status}"));
            }
            if Instant::now() > until {
                return Err(format!("redis-server does not answer on port {}", self.port));
            }
            std::thread::yield_now();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It is our child and has not been waited for, so the pid is its own.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
