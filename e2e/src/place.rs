//! A folder of its own for one test, and the programs that run in it.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::{eventually, ganger};

/// A temporary folder in which a test runs its programs.
#[derive(Debug)]
pub struct Place(TempDir);

impl Default for Place {
    fn default() -> Self {
        Place::new()
    }
}

impl Place {
    /// An empty folder.
    ///
    /// # Panics
    /// If there is no room for one.
    pub fn new() -> Place {
        Place(tempfile::Builder::new().prefix("ganger-e2e-").tempdir().expect("a temporary folder"))
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// The path of a file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// Writes a file and answers its path.
    ///
    /// # Panics
    /// If that fails.
    pub fn write(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.file(name);
        fs::write(&path, text).expect("a temporary folder takes files");
        path
    }

    /// Reads a file; `None` if it is not there yet.
    pub fn read(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.file(name)).ok()
    }

    /// A command that runs here, in an environment with nothing of ganger's.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.current_dir(self.path()).stdin(Stdio::null()).env_remove("RUST_LOG").env("NO_COLOR", "1");
        command
    }

    /// Runs `ganger` to its end.
    pub fn ganger(&self, args: &[&str]) -> Finished {
        self.finish(self.command(ganger()).args(args))
    }

    /// Runs `ganger` to its end with this on its standard input.
    pub fn ganger_fed(&self, args: &[&str], input: &str) -> Finished {
        let mut command = self.command(ganger());
        command.args(args);
        self.fed(&mut command, input)
    }

    /// Starts `ganger`.
    pub fn start(&self, args: &[&str]) -> Running {
        self.launch(self.command(ganger()).args(args))
    }

    /// Runs a command to its end.
    pub fn finish(&self, command: &mut Command) -> Finished {
        self.launch(command).finish()
    }

    /// Runs a command to its end with this on its standard input.
    ///
    /// # Panics
    /// If it does not start.
    pub fn fed(&self, command: &mut Command, input: &str) -> Finished {
        let mut running = self.launch(command.stdin(Stdio::piped()));
        let mut stdin = running.child.stdin.take().expect("it was asked for");
        // A command that ends early reads no further: that is its right.
        let _ = stdin.write_all(input.as_bytes());
        drop(stdin);
        running.finish()
    }

    /// Starts a command; what it prints goes into files of this folder.
    ///
    /// # Panics
    /// If it does not start.
    pub fn launch(&self, command: &mut Command) -> Running {
        let logs = tempfile::Builder::new()
            .prefix("log-")
            .tempdir_in(self.path())
            .expect("a folder for logs")
            .keep();
        let log = |name: &str| File::create(logs.join(name)).expect("a file for what it prints");
        let child =
            command.stdout(log("stdout")).stderr(log("stderr")).spawn().unwrap_or_else(|error| {
                panic!("{} does not start: {error}", command.get_program().display())
            });
        Running { child, logs }
    }
}

/// A program that is running. It is killed when this is dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
    logs: PathBuf,
}

/// A program that has ended.
#[derive(Debug)]
pub struct Finished {
    /// Its exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// What it printed.
    pub stdout: String,
    /// What it said besides.
    pub stderr: String,
}

impl Running {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has said so far on standard error.
    pub fn stderr(&self) -> String {
        self.log("stderr")
    }

    /// What it has printed so far.
    pub fn stdout(&self) -> String {
        self.log("stdout")
    }

    /// Asks it to end: SIGTERM.
    ///
    /// # Panics
    /// If it has ended already.
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Sends it a signal.
    ///
    /// # Panics
    /// If it has ended already.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("it is still there");
    }

    /// Ends it with SIGKILL and waits for its end.
    pub fn kill(&mut self) {
        // One that has ended already is no fault.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Whether it has ended, and how.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// If it does not end in [`crate::PATIENCE`].
    pub fn finish(mut self) -> Finished {
        let said = self.logs.join("stderr");
        let status = eventually(&format!("end of the program that says {}", said.display()), || self.ended());
        Finished { code: status.code(), stdout: self.stdout(), stderr: self.stderr() }
    }

    fn log(&self, name: &str) -> String {
        String::from_utf8_lossy(&fs::read(self.logs.join(name)).unwrap_or_default()).into_owned()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Finished {
    /// Itself, if it ended well.
    ///
    /// # Panics
    /// If it did not, with all that it said.
    pub fn ok(self) -> Finished {
        assert_eq!(self.code, Some(0), "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }

    /// Standard output, read as JSON.
    ///
    /// # Panics
    /// If it is none.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error} in {:?}", self.stdout))
    }

    /// Standard output, read as JSON lines.
    ///
    /// # Panics
    /// If a line is no JSON.
    pub fn json_lines(&self) -> Vec<serde_json::Value> {
        let read =
            |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line:?}"));
        self.stdout.lines().filter(|line| !line.trim().is_empty()).map(read).collect()
    }
}
