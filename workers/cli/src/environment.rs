//! The environment of a command: little of ganger's, what the config and the job add, and what ganger says of
//! the job.

use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::OsStrExt,
    time::Instant,
};

use ganger_core::{FailureRecord, JobContext, JobError, Timestamp};

use crate::{
    params::{Env, shortened},
    strings::{Nul, Strings},
};

/// What a command is found in when ganger itself has no PATH.
const PATH_DEFAULT: &str = "/usr/local/bin:/usr/bin:/bin";

/// What every command gets of ganger's environment.
const PASSED: [&str; 7] = ["PATH", "HOME", "USER", "LANG", "LC_*", "TZ", "TMPDIR"];

/// What ganger's own variables begin with: no job sets one.
const OWN: &str = "GANGER_";

/// The variable that marks every process of this run of ganger.
pub(crate) const RUN: &str = "GANGER_RUN";

/// The longest value that a text of a failure record becomes, in bytes: exec(3) limits each to 128 KiB, and all
/// of them together.
const FAILED_TEXT_MAX: usize = 4 << 10;

/// What all commands of an entry have in their environment, made once.
#[derive(Clone, Debug)]
pub(crate) struct Base {
    variables: Vec<(OsString, OsString)>,
    mark: Vec<u8>,
}

impl Base {
    /// Takes what may pass from `from`, then the entry's own variables. `mark` is `GANGER_RUN=…`.
    pub(crate) fn new(
        from: impl Iterator<Item = (OsString, OsString)>,
        pass: &[String],
        env: &Env,
        mark: &[u8],
    ) -> Self {
        let mut base = Base { variables: Vec::new(), mark: mark.to_vec() };
        for (name, value) in from {
            let mut patterns = PASSED.into_iter().chain(pass.iter().map(String::as_str));
            // A ganger that is itself a job of another does not pass that one's marks on as its own.
            if !name.as_bytes().starts_with(OWN.as_bytes()) && patterns.any(|pattern| fits(pattern, &name)) {
                base.set(name, value);
            }
        }
        for (name, value) in &env.0 {
            base.set(name.into(), value.0.clone().into());
        }
        if !base.variables.iter().any(|(name, _)| name == "PATH") {
            base.set("PATH".into(), PATH_DEFAULT.into());
        }
        base
    }

    fn set(&mut self, name: OsString, value: OsString) {
        self.variables.retain(|(other, _)| *other != name);
        self.variables.push((name, value));
    }

    /// The environment of one run, with the PATH in which its program is looked up.
    pub(crate) fn of(&self, env: &Env, job: &JobContext) -> Result<(Strings, OsString), JobError> {
        let mut strings = Strings::default();
        let mut path = None;
        for (name, value) in &env.0 {
            check_name(name).map_err(JobError::dead)?;
            if env.0.iter().filter(|(other, _)| other == name).count() > 1 {
                return Err(JobError::dead(format!("`env` has `{}` twice", shortened(name))));
            }
            push(&mut strings, name.as_bytes(), value.0.as_bytes())?;
            if name == "PATH" {
                path = Some(OsString::from(&value.0));
            }
        }
        for (name, value) in &self.variables {
            if name == "PATH" {
                path.get_or_insert_with(|| value.clone());
            }
            if !env.0.iter().any(|(other, _)| OsStr::new(other) == name) {
                push(&mut strings, name.as_bytes(), value.as_bytes())?;
            }
        }
        self.tell_of_job(&mut strings, job)?;
        Ok((strings, path.unwrap_or_default()))
    }

    fn tell_of_job(&self, strings: &mut Strings, job: &JobContext) -> Result<(), JobError> {
        strings
            .push(&[&self.mark])
            .map_err(|Nul| JobError::dead("the mark of this run has a NUL byte in it"))?;
        push(strings, b"GANGER_JOB_ID", job.id().to_string().as_bytes())?;
        push(strings, b"GANGER_ATTEMPT", job.attempt().to_string().as_bytes())?;
        if let Some(deadline) = job.deadline() {
            let left = deadline.saturating_duration_since(Instant::now());
            push(strings, b"GANGER_DEADLINE", Timestamp::now().plus(left).to_string().as_bytes())?;
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
    strings.push(&[name, b"=", value]).map_err(|Nul| {
        let name = String::from_utf8_lossy(name);
        JobError::dead(format!("the variable `{}` has a NUL byte in it", shortened(&name)))
    })
}

/// Whether a variable of `env` may have this name; if not, why.
pub(crate) fn check_name(name: &str) -> Result<(), String> {
    match name {
        "" => Err("a variable of `env` has no name".to_owned()),
        _ if name.contains(['=', '\0']) => {
            Err(format!("`env` has `{}`: a name cannot contain `=` or NUL", shortened(name)))
        }
        _ if name.starts_with(OWN) => {
            Err(format!("`env` has `{}`: names that begin with `{OWN}` are ganger's own", shortened(name)))
        }
        _ => Ok(()),
    }
}

/// Whether a name is meant by a pattern: the name itself, or its beginning and `*`.
fn fits(pattern: &str, name: &OsStr) -> bool {
    match pattern.strip_suffix('*') {
        Some(beginning) => name.as_bytes().starts_with(beginning.as_bytes()),
        None => name == pattern,
    }
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
    use ganger_core::Job;

    use super::*;
    use crate::params::Text;

    fn base(pass: &[&str]) -> Base {
        let from =
            ["PATH", "HOME", "LC_ALL", "LC_TIME", "AWS_KEY", "AWS_SECRET", "TOKEN", "LCX", "GANGER_RUN"];
        let from = from.into_iter().map(|name| (OsString::from(name), OsString::from("of ganger")));
        let pass: Vec<_> = pass.iter().map(|name| (*name).to_owned()).collect();
        Base::new(from, &pass, &Env::default(), b"GANGER_RUN=mark")
    }

    fn env(variables: &[(&str, &str)]) -> Env {
        Env(variables.iter().map(|(name, value)| ((*name).into(), Text((*value).into()))).collect())
    }

    fn names(base: &Base, env: &Env, job: Job) -> Vec<String> {
        let (strings, _) = base.of(env, &JobContext::detached(job)).unwrap();
        let mut all: Vec<_> = strings.iter().map(|text| String::from_utf8_lossy(text).into_owned()).collect();
        all.sort();
        all
    }

    fn job() -> Job {
        Job { id: Some("j1".parse().unwrap()), ..Job::default() }
    }

    #[test]
    fn a_command_gets_what_is_named_and_nothing_else_of_gangers() {
        let own = ["GANGER_ATTEMPT=1", "GANGER_JOB_ID=j1", "GANGER_RUN=mark"];
        let few = ["HOME=of ganger", "LC_ALL=of ganger", "LC_TIME=of ganger", "PATH=of ganger"];
        assert_eq!(names(&base(&[]), &Env::default(), job()), [own.as_slice(), &few].concat());
        let more = names(&base(&["AWS_*", "TOKEN"]), &Env::default(), job());
        assert_eq!(more.len(), own.len() + few.len() + 3, "{more:?}");
    }

    #[test]
    fn a_jobs_variable_goes_before_gangers() {
        let (strings, path) =
            base(&[]).of(&env(&[("PATH", "/x"), ("A", "")]), &JobContext::detached(job())).unwrap();
        assert_eq!(path, "/x");
        let texts: Vec<_> = strings.iter().filter(|text| text.starts_with(b"PATH=")).collect();
        assert_eq!(texts, [b"PATH=/x"]);
    }

    #[test]
    fn a_job_cannot_pose_as_ganger() {
        for (name, part) in [("GANGER_RUN", "ganger's own"), ("", "no name"), ("A=B", "`=`")] {
            let error = base(&[]).of(&env(&[(name, "x")]), &JobContext::detached(job())).unwrap_err();
            assert!(error.message().contains(part), "{}", error.message());
            assert_eq!(error.advice(), ganger_core::Advice::Dead);
        }
        assert!(base(&[]).of(&env(&[("A", "\0")]), &JobContext::detached(job())).is_err());
        assert!(base(&[]).of(&env(&[("A", "1"), ("A", "2")]), &JobContext::detached(job())).is_err());
    }

    #[test]
    fn headers_become_variables() {
        let mut job = job();
        job.rare_mut().headers = vec![("x-Tenant id".into(), "7".into()), ("X_TENANT_ID".into(), "8".into())];
        let all = names(&base(&[]), &Env::default(), job);
        assert!(all.contains(&"GANGER_HEADER_X_TENANT_ID=7".to_owned()), "{all:?}");
        assert!(!all.iter().any(|text| text.ends_with("=8")));
    }
}
