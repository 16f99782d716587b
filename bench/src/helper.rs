//! Other processes that a measurement needs: this program once more, in another role.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdout, Command, Stdio},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// Names the role in the environment of the other process.
const ROLE: &str = "GANGER_BENCH_ROLE";

/// A second process of this program, ended when dropped.
pub(crate) struct Helper {
    child: Child,
    /// What it prints.
    pub(crate) lines: BufReader<ChildStdout>,
}

impl Helper {
    /// Starts this program again in a role, with arguments for it.
    ///
    /// # Errors
    /// It cannot be started.
    pub(crate) fn start(role: &str) -> Result<Self, String> {
        let program =
            std::env::current_exe().map_err(|error| format!("this program is not found: {error}"))?;
        // `bench` is for the ganger binary; a bench binary takes no notice of it.
        let mut child = Command::new(program)
            .arg("bench")
            .env(ROLE, role)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("a second process cannot be started: {error}"))?;
        let stdout = child.stdout.take().expect("its standard output was asked for");
        Ok(Helper { child, lines: BufReader::new(stdout) })
    }

    /// The next line that it prints.
    ///
    /// # Errors
    /// It has ended.
    pub(crate) fn line(&mut self) -> Result<String, String> {
        let mut line = String::new();
        match self.lines.read_line(&mut line) {
            Ok(0) | Err(_) => Err("the second process ended early".to_owned()),
            Ok(_) => Ok(line.trim_end().to_owned()),
        }
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        // It is our child and has not been waited for, so the pid is its own.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Plays the role that the environment names; `false` if it names none.
///
/// # Errors
/// The role's own.
pub(crate) fn play() -> Result<bool, String> {
    let Ok(role) = std::env::var(ROLE) else { return Ok(false) };
    let (role, argument) = role.split_once('=').unwrap_or((&role, ""));
    match role {
        "slow-server" => slow_server(argument)?,
        "enqueue" => crate::disk::enqueue_role(argument)?,
        other => return Err(format!("{ROLE} names no role: `{other}`")),
    }
    Ok(true)
}

/// Answers every request after so many milliseconds; prints its port.
fn slow_server(millis: &str) -> Result<(), String> {
    let hold =
        Duration::from_millis(millis.parse().map_err(|_| "a number of milliseconds is expected".to_owned())?);
    let runtime = crate::runtime(1)?;
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.map_err(|error| error.to_string())?;
        let port = listener.local_addr().map_err(|error| error.to_string())?.port();
        crate::print_line(&port.to_string());
        std::io::stdout().flush().map_err(|error| error.to_string())?;
        loop {
            let (stream, _) = listener.accept().await.map_err(|error| error.to_string())?;
            tokio::spawn(answer_slowly(stream, hold));
        }
    })
}

async fn answer_slowly(mut stream: TcpStream, hold: Duration) -> std::io::Result<()> {
    let mut request = [0; 2048];
    while stream.read(&mut request).await? > 0 {
        tokio::time::sleep(hold).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await?;
    }
    Ok(())
}
