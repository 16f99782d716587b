//! The environment of a command: what every child has, what the job adds, and what ganger says of the job.

use std::{ffi::OsString, time::Duration};

use ganger_child::{Base, Strings};
use ganger_core::{FailureRecord, JobContext, JobError, Period, Timestamp};

use crate::params::Params;

/// The longest value that a text of a failure record becomes, in bytes: exec(3) limits each to 128 KiB, and all
/// of them together.
const FAILED_TEXT_MAX: usize = 4 << 10;

/// The environment of one run that may take until `limit`, with the PATH in which its program is looked up.
pub(crate) fn of(
    base: &Base,
    params: &Params,
    job: &JobContext,
    limit: Option<Duration>,
) -> Result<(Strings, OsString), JobError> {
    let (mut strings, path) = base.with(&params.env).map_err(JobError::dead)?;
    let own = params.timeout.map(Period::get);
    tell_of_job(&mut strings, job, limit.into_iter().chain(own).min())?;
    Ok((strings, path))
}

fn tell_of_job(strings: &mut Strings, job: &JobContext, limit: Option<Duration>) -> Result<(), JobError> {
    push(strings, b"GANGER_JOB_ID", job.id().to_string().as_bytes())?;
    push(strings, b"GANGER_ATTEMPT", job.attempt().to_string().as_bytes())?;
    if let Some(limit) = limit {
        push(strings, b"GANGER_DEADLINE", Timestamp::now().plus(limit).to_string().as_bytes())?;
    }
    let headers = &job.job().rare().headers;
    for (at, (name, value)) in headers.iter().enumerate() {
        let variable = header_variable(name);
        // Two headers may become one variable; the first one counts.
        if !headers[..at].iter().any(|(other, _)| header_variable(other) == variable) {
            push(strings, variable.as_bytes(), value.as_bytes())?;
        }
    }
    match job.failure()? {
        Some(record) => tell_of_failure(strings, &record),
        None => Ok(()),
    }
}

/// What a failure handler learns without reading its input.
fn tell_of_failure(strings: &mut Strings, record: &FailureRecord) -> Result<(), JobError> {
    let id = record.job.id.as_ref().map(ToString::to_string).unwrap_or_default();
    let texts = [
        ("JOB_ID", id.as_str()),
        ("TYPE", record.job.kind.as_str()),
        ("NAME", record.job.name.as_deref().unwrap_or_default()),
        ("STATE", record.state.as_str()),
        ("REASON", record.reason.as_str()),
        ("ERROR", record.error.as_deref().unwrap_or_default()),
    ];
    for (name, text) in texts {
        let end = text.floor_char_boundary(FAILED_TEXT_MAX);
        // An error quotes what a command said, so anything may be in it.
        let text = text[..end].replace('\0', "\u{fffd}");
        push(strings, format!("GANGER_FAILED_{name}").as_bytes(), text.as_bytes())?;
    }
    push(strings, b"GANGER_FAILED_ATTEMPTS", record.attempts.len().to_string().as_bytes())
}

fn push(strings: &mut Strings, name: &[u8], value: &[u8]) -> Result<(), JobError> {
    strings.variable(name, value).map_err(JobError::dead)
}

fn header_variable(name: &str) -> String {
    let letter = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
    name.chars().map(letter).fold("GANGER_HEADER_".to_owned(), |mut variable, c| {
        variable.push(c);
        variable
    })
}

#[cfg(test)]
mod tests {
    use ganger_child::Env;
    use ganger_core::Job;

    use super::*;

    fn all_of(job: Job) -> Vec<String> {
        let base = Base::new(std::iter::empty(), &[], &Env::default(), b"GANGER_RUN=mark");
        let (strings, _) = of(&base, &Params::default(), &JobContext::detached(job), None).unwrap();
        let mut all: Vec<_> = strings.iter().map(|text| String::from_utf8_lossy(text).into_owned()).collect();
        all.sort();
        all
    }

    fn job() -> Job {
        Job { id: Some("j1".parse().unwrap()), ..Job::default() }
    }

    #[test]
    fn a_command_is_told_of_its_job() {
        let all = all_of(job());
        assert_eq!(all[..3], ["GANGER_ATTEMPT=1", "GANGER_JOB_ID=j1", "GANGER_RUN=mark"]);
        assert!(all[3].starts_with("PATH=/"), "{all:?}");
    }

    #[test]
    fn headers_become_variables() {
        let mut job = job();
        job.rare_mut().headers = vec![("x-Tenant id".into(), "7".into()), ("X_TENANT_ID".into(), "8".into())];
        let all = all_of(job);
        assert!(all.contains(&"GANGER_HEADER_X_TENANT_ID=7".to_owned()), "{all:?}");
        assert!(!all.iter().any(|text| text.ends_with("=8")));
    }
}
