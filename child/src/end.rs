//! How a child ended, in words.

use std::{
    fs,
    os::unix::process::ExitStatusExt,
    process::ExitStatus,
    sync::atomic::{AtomicU64, Ordering},
};

use ganger_core::Usage;

use crate::sys::Reaped;

impl Reaped {
    /// What it used, for the record of a run.
    pub fn usage(&self) -> Usage {
        Usage {
            cpu_us: u64::try_from(self.cpu.as_micros()).unwrap_or(u64::MAX),
            max_rss_kib: self.max_rss_kib,
            signal: self.status.signal().map(signal_name),
        }
    }
}

/// `exit status 3`, `killed by SIGSEGV (core dumped)`.
pub fn describe(status: ExitStatus) -> String {
    let Some(signal) = status.signal() else {
        return format!("exit status {}", status.code().unwrap_or_default());
    };
    let core = if status.core_dumped() { " (core dumped)" } else { "" };
    format!("killed by {}{core}", signal_name(signal))
}

fn signal_name(signal: i32) -> String {
    match SIGNALS.iter().find(|(number, _)| *number == signal) {
        Some((_, name)) => (*name).to_owned(),
        None => format!("signal {signal}"),
    }
}

const SIGNALS: [(i32, &str); 24] = [
    (libc::SIGHUP, "SIGHUP"),
    (libc::SIGINT, "SIGINT"),
    (libc::SIGQUIT, "SIGQUIT"),
    (libc::SIGILL, "SIGILL"),
    (libc::SIGTRAP, "SIGTRAP"),
    (libc::SIGABRT, "SIGABRT"),
    (libc::SIGBUS, "SIGBUS"),
    (libc::SIGFPE, "SIGFPE"),
    (libc::SIGKILL, "SIGKILL"),
    (libc::SIGUSR1, "SIGUSR1"),
    (libc::SIGSEGV, "SIGSEGV"),
    (libc::SIGUSR2, "SIGUSR2"),
    (libc::SIGPIPE, "SIGPIPE"),
    (libc::SIGALRM, "SIGALRM"),
    (libc::SIGTERM, "SIGTERM"),
    (libc::SIGXCPU, "SIGXCPU"),
    (libc::SIGXFSZ, "SIGXFSZ"),
    (libc::SIGVTALRM, "SIGVTALRM"),
    (libc::SIGPROF, "SIGPROF"),
    (libc::SIGIO, "SIGIO"),
    (libc::SIGPWR, "SIGPWR"),
    (libc::SIGSYS, "SIGSYS"),
    (libc::SIGTTIN, "SIGTTIN"),
    (libc::SIGTTOU, "SIGTTOU"),
];

/// The kernel's out-of-memory killer, as far as it can be seen: it leaves the same signal as anybody else, but it
/// counts.
#[derive(Debug)]
pub struct Killer {
    seen: AtomicU64,
}

impl Default for Killer {
    fn default() -> Self {
        Killer::new()
    }
}

impl Killer {
    /// One that counts from now on.
    pub fn new() -> Self {
        Killer { seen: AtomicU64::new(kills()) }
    }

    /// Whether it killed something since the last look.
    pub fn struck(&self) -> bool {
        let now = kills();
        self.seen.swap(now, Ordering::Relaxed) < now
    }
}

/// How many processes it killed since the system started (`oom_kill` in vmstat(5), control groups included).
fn kills() -> u64 {
    let counters = fs::read_to_string("/proc/vmstat").unwrap_or_default();
    counters
        .lines()
        .find_map(|line| line.strip_prefix("oom_kill "))
        .and_then(|count| count.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_end_has_its_words() {
        let cases = [
            (3 << 8, "exit status 3"),
            (137 << 8, "exit status 137"),
            (libc::SIGTERM, "killed by SIGTERM"),
            (libc::SIGSEGV | 0x80, "killed by SIGSEGV (core dumped)"),
            (40, "killed by signal 40"),
        ];
        for (status, words) in cases {
            assert_eq!(describe(ExitStatus::from_raw(status)), words, "wait status {status}");
        }
    }
}
