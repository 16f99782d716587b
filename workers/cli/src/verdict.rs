//! What the end of a command means for its job.

use std::os::unix::process::ExitStatusExt;

use ganger_child::{Killer, Reaped, describe};
use ganger_core::JobError;

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

#[cfg(test)]
mod tests {
    use ganger_core::Advice;
    use std::{process::ExitStatus, time::Duration};

    use super::*;

    fn judge(wait_status: i32) -> (String, Option<Advice>) {
        let reaped =
            Reaped { status: ExitStatus::from_raw(wait_status), cpu: Duration::ZERO, max_rss_kib: 2048 };
        match of(&reaped, &Killer::new()) {
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
