//! What the end of a command means for its job.

use std::{
    fs,
    os::unix::process::ExitStatusExt,
    process::ExitStatus,
    sync::atomic::{AtomicU64, Ordering},
};

use ganger_core::JobError;

use crate::sys::Reaped;

/// Judges how a command ended that nobody had stopped.
pub(crate) fn of(reaped: &Reaped, killer: &Killer) -> Result<(), JobError> {
    match (reaped.status.code(), reaped.status.signal()) {
        (Some(0), _) => Ok(()),
        (_, Some(libc::SIGKILL)) => {
            let mib = reaped.max_rss_kib.div_ceil(1024);
            Err(JobError::lost(match killer.struck() {
                true => format!("killed by SIGKILL, out of memory (it had used at most {mib} MiB)"),
                false => format!("killed by SIGKILL, not by ganger (it had used at most {mib} MiB)"),
            }))
        }
        _ => Err(JobError::retry(describe(reaped.status))),
    }
}

/// `exit status 3`, `killed by SIGSEGV (core dumped)`.
pub(crate) fn describe(status: ExitStatus) -> String {
    let Some(signal) = status.signal() else {
        return format!("exit status {}", status.code().unwrap_or_default());
    };
    let core = if status.core_dumped() { " (core dumped)" } else { "" };
    match SIGNALS.iter().find(|(number, _)| *number == signal) {
        Some((_, name)) => format!("killed by {name}{core}"),
        None => format!("killed by signal {signal}{core}"),
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
pub(crate) struct Killer {
    seen: AtomicU64,
}

impl Killer {
    pub(crate) fn new() -> Self {
        Killer { seen: AtomicU64::new(kills()) }
    }

    /// Whether it killed something since the last look.
    fn struck(&self) -> bool {
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
    use ganger_core::Advice;
    use std::time::Duration;

    use super::*;

    fn judge(wait_status: i32) -> (String, Option<Advice>) {
        let reaped =
            Reaped { status: ExitStatus::from_raw(wait_status), cpu: Duration::ZERO, max_rss_kib: 2048 };
        match of(&reaped, &Killer { seen: AtomicU64::new(u64::MAX) }) {
            Ok(()) => (String::new(), None),
            Err(error) => (error.message().to_owned(), Some(error.advice())),
        }
    }

    #[test]
    fn every_end_has_its_meaning() {
        let cases = [
            (0, "", None),
            (3 << 8, "exit status 3", Some(Advice::Retry)),
            (137 << 8, "exit status 137", Some(Advice::Retry)),
            (libc::SIGTERM, "killed by SIGTERM", Some(Advice::Retry)),
            (libc::SIGSEGV | 0x80, "killed by SIGSEGV (core dumped)", Some(Advice::Retry)),
            (40, "killed by signal 40", Some(Advice::Retry)),
            (
                libc::SIGKILL,
                "killed by SIGKILL, not by ganger (it had used at most 2 MiB)",
                Some(Advice::Lost),
            ),
        ];
        for (status, message, advice) in cases {
            assert_eq!(judge(status), (message.to_owned(), advice), "wait status {status}");
        }
    }

    #[test]
    fn b19_a_failing_command_is_a_failure() {
        for code in 1..=255 {
            assert_eq!(judge(code << 8).1, Some(Advice::Retry), "exit status {code}");
        }
    }
}
