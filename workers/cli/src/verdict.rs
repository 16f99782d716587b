//! What the end of a command means for its job.

use std::os::unix::process::ExitStatusExt;

use ganger_child::{Killer, Reaped, describe};
use ganger_core::JobError;

use crate::exits::{Exits, Fate};

/// Judges how a command ended that nobody had stopped.
pub(crate) fn of(reaped: &Reaped, exits: &Exits, killer: &Killer) -> Result<(), JobError> {
    match (reaped.status.code(), reaped.status.signal()) {
        (Some(0), _) => Ok(()),
        // A wait status has no more than eight bits for it.
        (Some(code), _) => Err(of_exit(code as u8, exits)),
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

fn of_exit(code: u8, exits: &Exits) -> JobError {
    let (fate, name) = exits.of(code);
    let message = match name {
        Some(name) => format!("exit status {code} ({name})"),
        None => format!("exit status {code}"),
    };
    match fate {
        Fate::Retry => JobError::retry(message),
        Fate::Later(wait) => JobError::retry_after(wait, message),
        Fate::Discard => JobError::discard(message),
        Fate::Dead => JobError::dead(message),
    }
}

#[cfg(test)]
mod tests {
    use ganger_core::Advice;
    use std::{process::ExitStatus, time::Duration};

    use super::*;
    use crate::config::Config;

    fn judge(wait_status: i32) -> (String, Option<Advice>) {
        let reaped =
            Reaped { status: ExitStatus::from_raw(wait_status), cpu: Duration::ZERO, max_rss_kib: 2048 };
        match of(&reaped, &Exits::new(&Config::default()), &Killer::new()) {
            Ok(()) => (String::new(), None),
            Err(error) => (error.message().to_owned(), Some(error.advice())),
        }
    }

    #[test]
    fn every_end_has_its_meaning() {
        let cases = [
            (0, "", None),
            (3 << 8, "exit status 3", Some(Advice::Retry)),
            (126 << 8, "exit status 126", Some(Advice::Retry)),
            (137 << 8, "exit status 137", Some(Advice::Retry)),
            (255 << 8, "exit status 255", Some(Advice::Retry)),
            (65 << 8, "exit status 65 (EX_DATAERR)", Some(Advice::Dead)),
            (75 << 8, "exit status 75 (EX_TEMPFAIL)", Some(Advice::RetryAfter(crate::RETRY_LATER))),
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
}
