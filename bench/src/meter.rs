//! Reads the clock, the CPU time and the peak of memory of this process.

use std::time::Instant;

use crate::Stretch;

/// A running measurement.
pub(crate) struct Meter {
    started: Instant,
    cpu: f64,
}

impl Meter {
    /// Starts one; the peak of memory counts from here, where the system lets it be reset (Linux).
    pub(crate) fn start() -> Self {
        // Writing 5 resets VmHWM (proc(5)); where that is refused the peak is the process's.
        let _ = std::fs::write("/proc/self/clear_refs", "5");
        Meter { started: Instant::now(), cpu: cpu_secs() }
    }

    /// Ends it after `n` jobs.
    pub(crate) fn stop(self, n: u64) -> Stretch {
        Stretch {
            n,
            secs: self.started.elapsed().as_secs_f64(),
            cpu: cpu_secs() - self.cpu,
            rss_mib: peak_mib(),
        }
    }
}

/// User and system time so far, of this process and of its children that ended.
fn cpu_secs() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The fields after the command's closing bracket (proc(5)): utime is the 14th of all, the 12th of these.
    let fields: Vec<u64> = stat
        .rsplit_once(')')
        .map(|(_, rest)| {
            rest.split_whitespace().skip(11).take(4).filter_map(|field| field.parse().ok()).collect()
        })
        .unwrap_or_default();
    fields.iter().sum::<u64>() as f64 / ticks_per_sec()
}

fn ticks_per_sec() -> f64 {
    rustix::param::clock_ticks_per_second() as f64
}

fn peak_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
    line.split_whitespace().next().and_then(|kib| kib.parse::<f64>().ok()).unwrap_or(0.0) / 1024.0
}
