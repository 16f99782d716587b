//! The bar on a terminal; nothing elsewhere.

use std::io::{self, IsTerminal};

use ganger_core::Report;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::cli::table::counted;

/// How far the work is.
pub(super) struct Progress {
    bar: ProgressBar,
}

impl Progress {
    pub(super) fn new() -> Self {
        let target = match io::stderr().is_terminal() {
            true => ProgressDrawTarget::stderr_with_hz(10),
            false => ProgressDrawTarget::hidden(),
        };
        let bar = ProgressBar::with_draw_target(None, target);
        bar.set_style(style("{spinner} storing jobs: {human_pos}"));
        Progress { bar }
    }

    /// So many are stored.
    pub(super) fn stored(&self, jobs: u64) {
        self.bar.set_position(jobs);
    }

    /// The work begins.
    pub(super) fn begin(&self, total: u64) {
        self.bar.reset();
        self.bar.set_length(total);
        self.bar.set_style(style("{bar:20} {human_pos}/{human_len} jobs · {wide_msg}"));
    }

    /// Says how it stands.
    pub(super) fn show(&self, report: &Report) {
        let sum = |figure: fn(&ganger_core::Figures) -> u64| report.by_type.values().map(figure).sum::<u64>();
        let ended = sum(|figures| figures.done + figures.dead + figures.cancelled + figures.expired);
        self.bar.set_position(ended.min(self.bar.length().unwrap_or(u64::MAX)));
        let running: u64 = report.pools.values().map(|pool| u64::from(pool.busy)).sum();
        // No types at all add up to -0.
        let rate = report.rate_by_type.values().sum::<f64>() + 0.0;
        let failed = counted(sum(|figures| figures.failed), "failed run");
        self.bar.set_message(format!("{rate:.0} a second · {running} running · {failed}"));
    }

    /// Prints something without spoiling the bar.
    pub(super) fn aside(&self, print: impl FnOnce()) {
        self.bar.suspend(print);
    }

    pub(super) fn clear(&self) {
        self.bar.finish_and_clear();
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the templates are the ones above")
}
