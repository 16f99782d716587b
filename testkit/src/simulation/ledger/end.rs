//! What must hold when everything has ended.

use ganger_core::State;

use super::book::{Book, MAX_CRASHES};
use crate::simulation::fate::How;

impl Book {
    /// Holds the promises against the whole course of a job.
    pub(super) fn check(&mut self, at: usize, untouched: bool) {
        let log = &self.jobs[at];
        let (label, running) = (log.label.clone(), self.runs.all.values().any(|run| run.at == Some(at)));
        if log.vanished {
            return;
        }
        let Some(end) = log.end else { return self.violate(format!("P1: `{label}` never ended")) };
        let allowed = 1 + log.spent + log.crashes + log.cut_off + log.forgotten;
        let cancel = log.cancel.is_some() || log.was_cancelled && end == State::Cancelled;
        let runs = log.runs;
        let crashes = log.crashes + log.lost_as_suspect;
        let (fate, retries) = (log.fate, log.retries);
        self.expect(!running, || format!("a run of `{label}` never ended"));
        self.expect(runs <= allowed, || {
            format!("P2: `{label}` ran {runs} times, at most {allowed} were due")
        });
        if cancel {
            let fits = matches!(end, State::Cancelled | State::Done);
            return self.expect(fits, || format!("P9: `{label}` was cancelled and ended {end}"));
        }
        let Some(fate) = fate else {
            self.expect(runs == 0, || format!("P8: bytes that are no job ran: {label}"));
            return self.expect(end == State::Dead, || format!("P8: `{label}` ended {end}"));
        };
        let (course, dead) = match fate.how {
            How::Poison => (MAX_CRASHES + 1, true),
            _ => fate.plain_course(retries, MAX_CRASHES),
        };
        match end {
            State::Done => self.expect(!dead, || format!("`{label}` ended done against its fate {fate:?}")),
            State::Dead => self.expect(dead || crashes >= MAX_CRASHES, || {
                format!("P7: `{label}` is dead with {crashes} crashes, and its fate is {fate:?}")
            }),
            other => self.violate(format!("`{label}` ended {other}, which nobody asked for")),
        }
        if untouched {
            self.expect(runs == course, || format!("P2: `{label}` ran {runs} times, {course} were due"));
        }
    }
}
