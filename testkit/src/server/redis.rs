//! A real Redis.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use rustix::process::Signal;
use tempfile::TempDir;

use super::process::Process;
use crate::port::Port;

const PROGRAM: &str = "redis-server";
const PACKAGE: &str = "redis-server";

/// What a [`Redis`] keeps on disk, and so what a crash of it loses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// Nothing: it comes back empty.
    #[default]
    Memory,
    /// Every write, synced before it is answered.
    Always,
    /// Every write, synced within a second.
    EverySecond,
}

/// How a [`Redis`] is set up; the default is an empty one with no password that keeps nothing on disk.
#[derive(Clone, Debug, Default)]
pub struct RedisOptions {
    /// What it keeps on disk.
    pub durability: Durability,
    /// The password that it asks for.
    pub password: Option<String>,
    /// The memory that it may use, in bytes; over it, writes are refused.
    pub memory_max: Option<u64>,
    /// Speaks TLS on its port, and nothing else.
    pub tls: Option<RedisTls>,
    /// Further settings as in `redis.conf`, by name.
    pub settings: Vec<(String, String)>,
}

/// The files, in PEM, with which a [`Redis`] speaks TLS.
#[derive(Clone, Debug)]
pub struct RedisTls {
    /// Its certificate; for the address 127.0.0.1, where clients look.
    pub certificate: PathBuf,
    /// The certificate's key.
    pub key: PathBuf,
    /// The authority of its clients' certificates, which it then asks for.
    pub clients: Option<PathBuf>,
}

/// A `redis-server` of one test's own, on loopback and on a Unix socket. Killed, and its folder removed, when dropped.
#[derive(Debug)]
pub struct Redis {
    // Before the folder, which must outlive it.
    process: Process,
    options: RedisOptions,
    port: Port,
    folder: TempDir,
}

impl Redis {
    /// Starts one and returns when it takes connections. Blocks for some 10 ms.
    ///
    /// # Panics
    /// It is not installed (the message says what to install), or does not come up: with what it said.
    pub fn start(options: RedisOptions) -> Self {
        Redis::try_start(options).unwrap_or_else(|fault| panic!("{fault}"))
    }

    fn try_start(options: RedisOptions) -> Result<Self, String> {
        let folder = tempfile::Builder::new()
            .prefix("ganger-redis-")
            .tempdir()
            .map_err(|error| format!("no temporary folder: {error}"))?;
        let port = Port::reserve().map_err(|error| format!("no free port on loopback: {error}"))?;
        let process = launch(&options, port.address(), folder.path())?;
        Ok(Redis { process, options, port, folder })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// The port where it listens on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.address().port()
    }

    /// Its Unix socket.
    pub fn socket(&self) -> PathBuf {
        socket_in(self.folder.path())
    }

    /// Its URL, with the password: `redis://:PASSWORD@127.0.0.1:PORT`; `rediss` with TLS.
    pub fn url(&self) -> String {
        self.url_at(self.address())
    }

    /// The URL that reaches it through another address, as a proxy's.
    pub fn url_at(&self, address: SocketAddr) -> String {
        let scheme = if self.options.tls.is_some() { "rediss" } else { "redis" };
        match &self.options.password {
            Some(password) => format!("{scheme}://:{password}@{address}"),
            None => format!("{scheme}://{address}"),
        }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Ends it by SIGKILL, as a crash does. Whoever connects is then refused.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Has it end in order, by SIGTERM, and waits until it has.
    ///
    /// # Panics
    /// It has ended already, or does not end.
    pub fn stop(&mut self) {
        self.process.terminate();
    }

    /// Starts it again on the same port, with what it kept on disk. One that still runs is killed first.
    ///
    /// # Panics
    /// As [`Redis::start`].
    pub fn restart(&mut self) {
        self.kill();
        let process = launch(&self.options, self.address(), self.folder.path());
        self.process = process.unwrap_or_else(|fault| panic!("{fault}"));
    }

    /// Stops it in its tracks (SIGSTOP): connections stay, and nothing is answered until [`Redis::thaw`].
    ///
    /// # Panics
    /// It has ended.
    pub fn freeze(&self) {
        self.process.signal(Signal::STOP);
    }

    /// Lets it go on (SIGCONT).
    ///
    /// # Panics
    /// It has ended.
    pub fn thaw(&self) {
        self.process.signal(Signal::CONT);
    }

    /// The processor time that it has used since it was started, to 10 ms.
    ///
    /// # Panics
    /// It has ended.
    pub fn cpu_time(&self) -> Duration {
        self.process.cpu_time()
    }
}

fn socket_in(folder: &Path) -> PathBuf {
    folder.join("socket")
}

fn launch(options: &RedisOptions, address: SocketAddr, folder: &Path) -> Result<Process, String> {
    let mut command = Command::new(PROGRAM);
    // No file named: what it has comes from here alone. Its log goes to standard output.
    command.current_dir(folder).args(["--daemonize", "no", "--loglevel", "notice", "--save", ""]);
    let port = address.port().to_string();
    let (plain, secured) = if options.tls.is_some() { ("0", port.as_str()) } else { (port.as_str(), "0") };
    command.args(["--bind", &address.ip().to_string(), "--port", plain]);
    if let Some(RedisTls { certificate, key, clients }) = &options.tls {
        command.args([
            "--tls-port",
            secured,
            "--tls-auth-clients",
            if clients.is_some() { "yes" } else { "no" },
        ]);
        command.arg("--tls-cert-file").arg(certificate).arg("--tls-key-file").arg(key);
        // It wants to be told an authority in any case.
        command.arg("--tls-ca-cert-file").arg(clients.as_ref().unwrap_or(certificate));
    }
    command.arg("--unixsocket").arg(socket_in(folder));
    command.arg("--dir").arg(folder);
    let fsync = match options.durability {
        Durability::Memory => None,
        Durability::Always => Some("always"),
        Durability::EverySecond => Some("everysec"),
    };
    if let Some(fsync) = fsync {
        command.args(["--appendonly", "yes", "--appendfsync", fsync]);
    }
    if let Some(password) = &options.password {
        command.args(["--requirepass", password]);
    }
    if let Some(bytes) = options.memory_max {
        command.args(["--maxmemory", &bytes.to_string(), "--maxmemory-policy", "noeviction"]);
    }
    for (name, value) in &options.settings {
        command.args([&format!("--{name}"), value]);
    }
    Process::start(PROGRAM, PACKAGE, &mut command, |line| line.contains("Ready to accept connections"))
}
