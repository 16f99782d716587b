//! What the end of a command means for its job.

use std::os::unix::process::ExitStatusExt;

use ganger_child::{Killer, Limits, Over, Reaped, describe};
use ganger_core::JobError;

use crate::exits::{Exits, Fate};

/// Judges how a command ended that nobody had stopped.
pub(crate) fn of(
    reaped: &Reaped,
    exits: &Exits,
    limits: Option<&Limits>,
    tree: Option<Over>,
    killer: &Killer,
) -> Result<(), JobError> {
    if reaped.status.success() {
        return Ok(());
    }
    let over = limits.and_then(|limits| limits.over(reaped, tree));
    let is_killed = reaped.status.signal() == Some(libc::SIGKILL);
    if let Some(over) = over.as_ref().filter(|_| is_killed && tree.is_some_and(|tree| tree.memory)) {
        // So that it is not held against the next command.
        killer.struck();
        return Err(JobError::lost(format!("killed by SIGKILL, {over}")));
    }
    let error = match (reaped.status.code(), over) {
        // A wait status has no more than eight bits for it.
        (Some(code), over) => of_exit(code as u8, over, exits),
        (None, Some(over)) => JobError::retry(format!("{}: {over}", describe(reaped.status))),
        (None, None) => of_signal(reaped, killer),
    };
    Err(error)
}

fn of_signal(reaped: &Reaped, killer: &Killer) -> JobError {
    if reaped.status.signal() != Some(libc::SIGKILL) {
        return JobError::retry(describe(reaped.status));
    }
    let mib = reaped.max_rss_kib.div_ceil(1024);
    JobError::lost(match killer.struck() {
        true => format!("killed by SIGKILL, out of memory (it had used at most {mib} MiB)"),
        false => format!("killed by SIGKILL, not by ganger (it had used at most {mib} MiB)"),
    })
}

fn of_exit(code: u8, over: Option<String>, exits: &Exits) -> JobError {
    let (fate, name) = exits.of(code);
    let name = name.map(|name| format!(" ({name})")).unwrap_or_default();
    let over = over.map(|over| format!("; {over}")).unwrap_or_default();
    let message = format!("exit status {code}{name}{over}");
    match fate {
        Fate::Retry => JobError::retry(message),
        Fate::Later(wait) => JobError::retry_after(wait, message),
        Fate::Discard => JobError::discard(message),
        Fate::Dead => JobError::dead(message),
    }
}

#[cfg(test)]
mod tests {
    use ganger_core::{Advice, ByteSize};
    use std::{process::ExitStatus, time::Duration};

    use super::*;
    use crate::config::Config;

    fn judge(wait_status: i32) -> (String, Option<Advice>) {
        judge_tree(wait_status, None)
    }

    /// With limits, that a job's processes may have reached together.
    fn judge_tree(wait_status: i32, tree: Option<Over>) -> (String, Option<Advice>) {
        let reaped =
            Reaped { status: ExitStatus::from_raw(wait_status), cpu: Duration::ZERO, max_rss_kib: 2048 };
        let limits =
            Limits { memory: Some(ByteSize::new(64 << 20)), processes: Some(20), ..Limits::default() };
        let limits = tree.map(|_| &limits);
        match of(&reaped, &Exits::new(&Config::default()), limits, tree, &Killer::new()) {
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

    #[test]
    fn what_the_whole_job_was_over_is_named() {
        let (memory, processes) =
            (Over { memory: true, processes: false }, Over { memory: false, processes: true });
        let out_of_memory = "killed by SIGKILL, out of memory: over its memory limit of 64MiB";
        let not_by_ganger = "killed by SIGKILL, not by ganger (it had used at most 2 MiB)";
        let cases = [
            (libc::SIGKILL, memory, out_of_memory, Advice::Lost),
            (libc::SIGKILL, processes, not_by_ganger, Advice::Lost),
            (2 << 8, processes, "exit status 2; it was at its processes limit of 20", Advice::Retry),
            (
                libc::SIGSEGV,
                processes,
                "killed by SIGSEGV: it was at its processes limit of 20",
                Advice::Retry,
            ),
            (
                1 << 8,
                memory,
                "exit status 1; what it started was killed, over its memory limit of 64MiB",
                Advice::Retry,
            ),
            (1 << 8, Over::default(), "exit status 1", Advice::Retry),
        ];
        for (status, over, message, advice) in cases {
            assert_eq!(
                judge_tree(status, Some(over)),
                (message.to_owned(), Some(advice)),
                "wait status {status}"
            );
        }
        assert_eq!(judge_tree(0, Some(memory)), (String::new(), None));
    }
}
