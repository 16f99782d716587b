//! What a measurement prints: one JSON object a line, or a table for people.

use serde::Serialize;

/// One measured thing. The last of a bench is its headline, whose `name` is the bench's.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Figure {
    /// What was measured.
    pub name: String,
    /// How many jobs.
    pub n: u64,
    /// Jobs a second: the median of the rounds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jobs_per_s: Option<f64>,
    /// The floor's, in the same run: the same work with no manager.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub floor_per_s: Option<f64>,
    /// `jobs_per_s / floor_per_s`, round by round: the median.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ratio: Option<f64>,
    /// User and system time of this process for each job, in microseconds; children that ended are counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_us_per_job: Option<f64>,
    /// The floor's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub floor_cpu_us_per_job: Option<f64>,
    /// The most memory that ganger's part of the run held, in MiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rss_mib: Option<f64>,
    /// From the acknowledged enqueue to the start of the job, in milliseconds: the median.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p50_ms: Option<f64>,
    /// The same, 99th percentile.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p99_ms: Option<f64>,
    /// What the numbers mean, in a line.
    pub note: &'static str,
}

/// One timed stretch: jobs, seconds on the clock, seconds of CPU, and the peak of memory.
#[derive(Clone, Copy, Debug)]
pub struct Stretch {
    /// How many jobs.
    pub n: u64,
    /// Wall-clock seconds.
    pub secs: f64,
    /// CPU seconds.
    pub cpu: f64,
    /// Peak memory in MiB.
    pub rss_mib: f64,
}

impl Stretch {
    /// Jobs a second.
    pub fn rate(&self) -> f64 {
        self.n as f64 / self.secs
    }

    /// Microseconds of CPU a job.
    pub fn cpu_us(&self) -> f64 {
        self.cpu * 1e6 / self.n as f64
    }
}

/// The median of some numbers; 0 of none.
pub(crate) fn median(numbers: impl IntoIterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = numbers.into_iter().collect();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        n if n % 2 == 1 => sorted[n / 2],
        n => (sorted[n / 2 - 1] + sorted[n / 2]) / 2.0,
    }
}

/// The value below which `part` (0 to 1) of the numbers lie.
pub(crate) fn percentile(numbers: &[f64], part: f64) -> f64 {
    let mut sorted = numbers.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = (part * sorted.len() as f64).ceil() as usize;
    sorted.get(at.saturating_sub(1)).copied().unwrap_or(0.0)
}

impl Figure {
    /// Rounds of ganger beside its floor, paired: the machine's drift falls out of the ratio.
    pub fn paired(name: &str, rounds: &[(Stretch, Stretch)], note: &'static str) -> Self {
        let ours = || rounds.iter().map(|(ours, _)| ours);
        let floors = || rounds.iter().map(|(_, floor)| floor);
        Figure {
            name: name.to_owned(),
            n: ours().next().map_or(0, |stretch| stretch.n),
            jobs_per_s: Some(median(ours().map(Stretch::rate))),
            floor_per_s: Some(median(floors().map(Stretch::rate))),
            ratio: Some(median(rounds.iter().map(|(ours, floor)| ours.rate() / floor.rate()))),
            cpu_us_per_job: Some(median(ours().map(Stretch::cpu_us))),
            floor_cpu_us_per_job: Some(median(floors().map(Stretch::cpu_us))),
            rss_mib: Some(ours().map(|stretch| stretch.rss_mib).fold(0.0, f64::max)),
            note,
            ..Figure::default()
        }
    }

    /// Rounds of ganger alone.
    pub fn alone(name: &str, rounds: &[Stretch], note: &'static str) -> Self {
        Figure {
            name: name.to_owned(),
            n: rounds.first().map_or(0, |stretch| stretch.n),
            jobs_per_s: Some(median(rounds.iter().map(Stretch::rate))),
            cpu_us_per_job: Some(median(rounds.iter().map(Stretch::cpu_us))),
            rss_mib: Some(rounds.iter().map(|stretch| stretch.rss_mib).fold(0.0, f64::max)),
            note,
            ..Figure::default()
        }
    }

    /// Waits in milliseconds.
    pub fn latency(name: &str, waits_ms: &[f64], note: &'static str) -> Self {
        Figure {
            name: name.to_owned(),
            n: waits_ms.len() as u64,
            p50_ms: Some(percentile(waits_ms, 0.5)),
            p99_ms: Some(percentile(waits_ms, 0.99)),
            note,
            ..Figure::default()
        }
    }

    /// The figure for people, in two lines.
    pub fn text(&self) -> String {
        let mut parts = Vec::new();
        let mut put = |label: &str, value: Option<f64>, digits: usize| {
            if let Some(value) = value {
                parts.push(format!("{label} {}", grouped(value, digits)));
            }
        };
        put("jobs/s", self.jobs_per_s, 0);
        put("floor/s", self.floor_per_s, 0);
        put("ratio", self.ratio, 2);
        put("CPU µs/job", self.cpu_us_per_job, 2);
        put("floor's", self.floor_cpu_us_per_job, 2);
        put("peak MiB", self.rss_mib, 0);
        put("p50 ms", self.p50_ms, 2);
        put("p99 ms", self.p99_ms, 2);
        format!(
            "{:<18} n {:<10} {}\n{:<18} {}",
            self.name,
            grouped(self.n as f64, 0),
            parts.join("  "),
            "",
            self.note
        )
    }
}

/// A number with thousands apart.
fn grouped(value: f64, digits: usize) -> String {
    let text = format!("{value:.digits$}");
    let (whole, rest) =
        text.split_once('.').map_or((text.as_str(), String::new()), |(a, b)| (a, format!(".{b}")));
    let mut out = String::new();
    for (at, digit) in whole.chars().enumerate() {
        if at > 0 && (whole.len() - at).is_multiple_of(3) && whole.starts_with(|c: char| c.is_ascii_digit()) {
            out.push(',');
        }
        out.push(digit);
    }
    out + &rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_percentiles_and_grouping() {
        assert_eq!(median([3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median([4.0, 1.0]), 2.5);
        assert_eq!(median([]), 0.0);
        let hundred: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!((percentile(&hundred, 0.5), percentile(&hundred, 0.99)), (50.0, 99.0));
        assert_eq!(grouped(1_234_567.0, 0), "1,234,567");
        assert_eq!(grouped(999.5, 2), "999.50");
    }
}
