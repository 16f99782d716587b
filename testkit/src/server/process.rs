//! A server's process: started, watched by what it says, signalled, ended.

use std::{
    collections::VecDeque,
    fs,
    io::{BufRead, BufReader, Read},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::signal::PATIENCE;

/// So many of its last lines are kept for messages.
const LINES_MAX: usize = 20;

/// The last lines that a server said.
type Said = Arc<Mutex<VecDeque<String>>>;

/// A child process of this test. Killed and waited for when dropped.
#[derive(Debug)]
pub(super) struct Process {
    name: &'static str,
    child: Child,
    said: Said,
}

impl Process {
    /// Starts a server and waits until it says that it is ready.
    ///
    /// # Errors
    /// It cannot be started, ends at once, or is not ready in time: with what it said.
    pub(super) fn start(
        name: &'static str,
        package: &str,
        command: &mut Command,
        is_ready: fn(&str) -> bool,
    ) -> Result<Self, String> {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| super::missing(name, package, &error))?;
        let said = Said::default();
        let (sender, ready) = channel();
        let stdout = child.stdout.take().expect("it was asked for");
        let stderr = child.stderr.take().expect("it was asked for");
        listen(stdout, said.clone(), is_ready, sender.clone());
        listen(stderr, said.clone(), is_ready, sender);
        let process = Process { name, child, said };
        process.wait_until_ready(&ready)?;
        Ok(process)
    }

    /// Both readers end, and with them the channel, when the server does.
    fn wait_until_ready(&self, ready: &Receiver<()>) -> Result<(), String> {
        let fault = match ready.recv_timeout(PATIENCE) {
            Ok(()) => return Ok(()),
            Err(RecvTimeoutError::Disconnected) => "ended at once".to_owned(),
            Err(RecvTimeoutError::Timeout) => format!("is not ready after {PATIENCE:?}"),
        };
        Err(format!("{} {fault}; it said:\n{}", self.name, self.said()))
    }

    /// What it said last.
    fn said(&self) -> String {
        let said = self.said.lock().expect("nothing panics under this lock");
        said.iter().map(|line| format!("  {line}\n")).collect()
    }

    /// Its process id.
    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal. The child is ours until it is waited for, so its id is nobody else's.
    pub(super) fn signal(&self, signal: Signal) {
        if let Err(error) = kill_process(Pid::from_child(&self.child), signal) {
            panic!("{} takes no {signal:?}: {error}", self.name);
        }
    }

    /// Ends it at once, as a crash does.
    pub(super) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Asks it to end and waits until it has.
    ///
    /// # Panics
    /// It does not end in time.
    pub(super) fn terminate(&mut self) {
        self.signal(Signal::CONT);
        self.signal(Signal::TERM);
        let until = Instant::now() + PATIENCE;
        while self.child.try_wait().is_ok_and(|status| status.is_none()) {
            assert!(Instant::now() < until, "{} does not end; it said:\n{}", self.name, self.said());
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// The processor time that it has used, user and system, to 10 ms.
    ///
    /// # Panics
    /// It has ended.
    pub(super) fn cpu_time(&self) -> Duration {
        let path = format!("/proc/{}/stat", self.child.id());
        let stat = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        ticks(&stat)
            .map(|ticks| Duration::from_secs(ticks) / u32::try_from(per_second()).unwrap_or(100))
            .unwrap_or_else(|| panic!("{path} reads otherwise than it should: {stat}"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

fn per_second() -> u64 {
    rustix::param::clock_ticks_per_second()
}

/// The user and system time in a line of `/proc/PID/stat`: fields 14 and 15, after the name in parentheses.
fn ticks(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(") ")?;
    let mut fields = after_name.split(' ').skip(11);
    let mut next = || fields.next()?.parse::<u64>().ok();
    Some(next()? + next()?)
}

/// Reads a stream to its end on a thread of its own, so that the server never waits for us.
fn listen(stream: impl Read + Send + 'static, said: Said, is_ready: fn(&str) -> bool, ready: Sender<()>) {
    std::thread::spawn(move || {
        for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).into_owned();
            let is_ready = is_ready(&line);
            let mut said = said.lock().expect("nothing panics under this lock");
            if said.len() == LINES_MAX {
                said.pop_front();
            }
            said.push_back(line);
            drop(said);
            if is_ready {
                // Nobody listens after the first time.
                let _ = ready.send(());
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(script: &str) -> Result<Process, String> {
        Process::start("sh", "dash", Command::new("sh").args(["-c", script]), |line| line == "ready")
    }

    #[test]
    fn a_program_that_is_missing_is_named_with_its_package() {
        let mut command = Command::new("no-such-server");
        let fault = Process::start("no-such-server", "its-package", &mut command, |_| true).unwrap_err();
        assert!(fault.contains("no-such-server") && fault.contains("apt-get install its-package"), "{fault}");
    }

    #[test]
    fn a_server_that_ends_at_once_is_an_error_with_what_it_said() {
        let fault = start("echo no room >&2; exit 3").unwrap_err();
        assert!(fault.contains("ended at once") && fault.contains("no room"), "{fault}");
    }

    #[test]
    fn a_server_is_ready_when_it_says_so_and_gone_when_dropped() {
        let process = start("echo ready; read never <&1").unwrap();
        let folder = format!("/proc/{}", process.id());
        assert!(fs::exists(&folder).unwrap());
        drop(process);
        assert!(!fs::exists(&folder).unwrap());
    }

    #[test]
    fn the_ticks_of_a_process_whose_name_has_spaces_are_read() {
        let stat = "7 (a b) c) S 1 7 7 0 -1 4194304 95 0 0 0 12 30 0 0 20 0 1 0 1 1 1";
        assert_eq!(ticks(stat), Some(42));
        assert_eq!(ticks("7 (a) S 1"), None);
    }
}
