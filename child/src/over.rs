//! Which limit a child had reached, as far as that can be told.

use std::os::unix::process::ExitStatusExt;

use crate::{
    cgroup::Over,
    confine::Limits,
    sys::{Reaped, own_max_rss_kib},
};

impl Limits {
    /// Which of them a child that failed had reached, by itself or with all that it started, in words.
    pub fn over(&self, reaped: &Reaped, together: Option<Over>) -> Option<String> {
        let signal = reaped.status.signal();
        let is_killed = signal == Some(libc::SIGKILL);
        let together = together.unwrap_or_default();
        if let Some(memory) = self.memory.filter(|_| together.memory) {
            return Some(match is_killed {
                true => format!("out of memory: over its memory limit of {memory}"),
                false => format!("what it started was killed, over its memory limit of {memory}"),
            });
        }
        if let Some(processes) = self.processes.filter(|_| together.processes && !is_killed) {
            return Some(format!("it was at its processes limit of {processes}"));
        }
        if let Some(seconds) = self.cpu_seconds()
            && (signal == Some(libc::SIGXCPU) || is_killed && reaped.cpu.as_secs() >= seconds)
        {
            return Some(format!("over its cpu limit of {seconds} s"));
        }
        if let Some(size) = self.file_size.filter(|_| signal == Some(libc::SIGXFSZ)) {
            return Some(format!("over its file_size limit of {size}"));
        }
        // What it was refused only it knows; but where it had nearly all, it wanted more.
        let memory = self.memory.filter(|_| !is_killed)?;
        let near = memory.get() / 1024 / 10 * 9;
        (reaped.max_rss_kib >= near && own_max_rss_kib() < near).then(|| {
            let mib = reaped.max_rss_kib.div_ceil(1024);
            format!("it had used {mib} MiB, near its memory limit of {memory}")
        })
    }
}
