//! Stored jobs as people and programs read them.

use base64::{Engine, engine::general_purpose::STANDARD};
use ganger_core::{Attempt, JobView, State, Timestamp, Unique, Usage};
use serde_json::{Map, Value, json};

use super::{
    failure::Failure,
    out::{Out, harmless, one_line},
    table::{Rows, span},
};

/// A stored job as JSON.
pub(crate) fn view_json(view: &JobView) -> Value {
    let mut object = Map::new();
    let mut put = |key: &str, value: Value| {
        if !value.is_null() {
            object.insert(key.to_owned(), value);
        }
    };
    put("id", json!(view.id));
    put("state", json!(view.state));
    put("type", json!(view.job.as_ref().map(|job| job.kind.as_str())));
    put("reason", json!(view.reason));
    put("retrying", if view.retrying { json!(true) } else { Value::Null });
    put("cancel", if view.cancel { json!(true) } else { Value::Null });
    put("retries_spent", json!(view.spent));
    put("crashes", json!(view.crashes));
    put("run_at", json!(view.run_at));
    put("ended_at", json!(view.ended_at));
    put("holder", json!(view.holder));
    put("job", json!(view.job));
    put("attempts", json!(view.attempts));
    if !view.handled.is_empty() {
        put("handled", json!(view.handled));
    }
    if let Some(output) = &view.output {
        put("output", json!(output.text()));
    }
    put("input", json!(view.input));
    if let Some(raw) = &view.raw {
        match std::str::from_utf8(raw) {
            Ok(text) => put("raw", json!(text)),
            Err(_) => put("raw_base64", json!(STANDARD.encode(raw))),
        }
    }
    Value::Object(object)
}

/// A table of stored jobs.
pub(crate) fn print_list(out: &mut Out, views: &[JobView]) -> Result<(), Failure> {
    let now = Timestamp::now();
    let mut rows = Rows::new(out, &["id", "state", "type", "name", "runs", "age", "what"])
        .right(&[4, 5])
        .whole(&[0, 1, 4, 5]);
    for view in views {
        let job = view.job.as_ref();
        let created = job.and_then(|job| job.created_at);
        rows.row([
            view.id.to_string(),
            state_word(view).to_owned(),
            job.map_or("(no job)", |job| job.kind.as_str()).to_owned(),
            shortened(job.and_then(|job| job.name.as_deref()).unwrap_or_default(), 32),
            runs(view).to_string(),
            created.map(|at| span(now.as_millis() - at.as_millis())).unwrap_or_default(),
            shortened(&summary(view, now), 80),
        ]);
    }
    rows.print(out)
}

/// The state, telling a retry from a first schedule.
pub(crate) fn state_word(view: &JobView) -> &'static str {
    match view.state {
        State::Scheduled if view.retrying => "retrying",
        state => state.as_str(),
    }
}

/// How many runs are on record.
pub(crate) fn runs(view: &JobView) -> u32 {
    view.attempts.last().map_or(0, |attempt| attempt.number).max(view.spent.saturating_add(view.crashes))
}

/// What there is to say of a job, in a line.
fn summary(view: &JobView, now: Timestamp) -> String {
    let until = |at: Timestamp| span(at.as_millis() - now.as_millis());
    match view.state {
        State::Scheduled => {
            let when = view.run_at.map(|at| format!("in {}", until(at))).unwrap_or_default();
            match last_error(view) {
                Some(error) => format!("{when}: {error}"),
                None => when,
            }
        }
        State::Running => {
            let by = view.holder.as_ref().map(|holder| format!("by {holder}")).unwrap_or_default();
            let what = view.reason.clone().unwrap_or(by);
            if view.cancel { format!("{what} (to be cancelled)") } else { what }
        }
        State::Dead | State::Expired => last_error(view).or_else(|| view.reason.clone()).unwrap_or_default(),
        _ => view.reason.clone().unwrap_or_default(),
    }
}

/// What went wrong last, and the last line that the run printed.
pub(crate) fn last_error(view: &JobView) -> Option<String> {
    let attempt = view.attempts.iter().rev().find(|attempt| attempt.error.is_some())?;
    let error = attempt.error.clone()?;
    let mut lines = attempt.stderr.lines().rev().chain(attempt.output.lines().rev());
    match lines.find(|line| !line.trim().is_empty()) {
        Some(line) if !error.contains(line.trim()) => Some(format!("{error}: {}", line.trim())),
        _ => Some(error),
    }
}

pub(crate) fn shortened(text: &str, max: usize) -> String {
    let line = one_line(text);
    match line.char_indices().nth(max) {
        Some((at, _)) => format!("{}…", &line[..at]),
        None => line,
    }
}

/// A unique key, and when it is held.
fn unique_text(unique: &Unique) -> String {
    let states: Vec<&str> = unique.states.iter().map(|state| state.as_str()).collect();
    format!("{} while {}", unique.key, states.join(", "))
}

/// One stored job with all that is known of it.
pub(crate) fn print_view(out: &mut Out, view: &JobView) -> Result<(), Failure> {
    let mut field = |name: &str, value: Option<String>| match value.filter(|value| !value.is_empty()) {
        Some(value) => out.line(format!("{name:<10} {}", one_line(&value))),
        None => Ok(()),
    };
    let job = view.job.as_ref();
    field("id", Some(view.id.to_string()))?;
    field("state", Some(state_word(view).to_owned()))?;
    field("reason", view.reason.clone())?;
    field("type", job.map(|job| job.kind.to_string()))?;
    field("name", job.and_then(|job| job.name.as_ref().map(ToString::to_string)))?;
    field("queue", job.map(|job| job.queue().to_owned()))?;
    field("created", job.and_then(|job| job.created_at).map(|at| at.to_string()))?;
    field("run at", view.run_at.map(|at| at.to_string()))?;
    field("ended", view.ended_at.map(|at| at.to_string()))?;
    field("held by", view.holder.clone())?;
    let retries =
        job.and_then(|job| job.retries).map_or_else(String::new, |retries| format!(" of {retries}"));
    field("retries", Some(format!("{}{retries}", view.spent)))?;
    field("crashes", (view.crashes > 0).then(|| view.crashes.to_string()))?;
    field("params", job.map(|job| job.params_text().to_owned()))?;
    field("unique", job.and_then(|job| job.rare().unique.as_ref()).map(unique_text))?;
    for (key, value) in job.map(|job| job.rare().headers.as_slice()).unwrap_or_default() {
        field("header", Some(format!("{key}: {value}")))?;
    }
    if let Some(raw) = &view.raw {
        match std::str::from_utf8(raw) {
            Ok(text) => {
                out.line("the entry as it came:")?;
                out.line(harmless(text))?;
            }
            Err(_) => {
                out.line("the entry as it came, in base64, for it is no UTF-8:")?;
                out.line(STANDARD.encode(raw))?;
            }
        }
    }
    for attempt in &view.attempts {
        print_attempt(out, attempt)?;
    }
    for handled in &view.handled {
        let error = handled.error.as_ref().map(|error| format!(": {}", one_line(error))).unwrap_or_default();
        out.line(format!("handler    {} {}{error}", handled.handler, handled.state))?;
    }
    if let Some(output) = &view.output {
        out.line("output:")?;
        out.output(output.text().as_bytes())?;
    }
    match view.attempts.last().map(|last| last.stderr.as_str()).filter(|stderr| !stderr.is_empty()) {
        Some(stderr) => {
            out.line("the end of standard error:")?;
            out.output(stderr.as_bytes())
        }
        None => Ok(()),
    }
}

fn print_attempt(out: &mut Out, attempt: &Attempt) -> Result<(), Failure> {
    let by = if attempt.manager.is_empty() { String::new() } else { format!(" by {}", attempt.manager) };
    let error = attempt.error.as_ref().map(|error| format!(": {}", one_line(error))).unwrap_or_default();
    let took = super::table::took(attempt.millis.saturating_mul(1_000_000));
    out.line(format!(
        "run {:<6} {} {} after {took}{by}{error}",
        attempt.number, attempt.started, attempt.outcome
    ))?;
    if let Some(note) = &attempt.note {
        out.line(format!("{:<10} {}", "", one_line(note)))?;
    }
    match &attempt.usage {
        Some(usage) => out.line(format!("           used {}", used(usage))),
        None => Ok(()),
    }
}

/// `1.2s of processor time, at most 34 MiB of memory, ended by SIGTERM`.
fn used(usage: &Usage) -> String {
    let cpu = super::table::took(usage.cpu_us.saturating_mul(1_000));
    let memory = usage.max_rss_kib.div_ceil(1024);
    let signal = usage.signal.as_ref().map(|signal| format!(", ended by {signal}")).unwrap_or_default();
    format!("{cpu} of processor time, at most {memory} MiB of memory{signal}")
}
