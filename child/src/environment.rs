//! The environment of a child: little of ganger's, what the config and the job add, and the mark of this run.

use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::OsStrExt,
};

use crate::{
    strings::Strings,
    text::{Env, shortened},
};

/// What a program is found in when ganger itself has no PATH.
const PATH_DEFAULT: &str = "/usr/local/bin:/usr/bin:/bin";

/// What every child gets of ganger's environment.
const PASSED: [&str; 7] = ["PATH", "HOME", "USER", "LANG", "LC_*", "TZ", "TMPDIR"];

/// What ganger's own variables begin with: no job sets one.
pub const OWN: &str = "GANGER_";

/// The variable that marks every process of this run of ganger.
pub const RUN: &str = "GANGER_RUN";

/// What all children of an entry have in their environment, made once.
#[derive(Clone, Debug)]
pub struct Base {
    variables: Vec<(OsString, OsString)>,
    mark: Vec<u8>,
}

impl Base {
    /// Takes what may pass from `from`, then the entry's own variables. `mark` is `GANGER_RUN=…`.
    pub fn new(
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

    /// Where programs are looked up, unless a job says otherwise.
    pub fn path(&self) -> &OsStr {
        let path = self.variables.iter().find(|(name, _)| name == "PATH");
        path.map_or(OsStr::new(PATH_DEFAULT), |(_, path)| path)
    }

    /// The environment of one child, with the PATH in which its program is looked up. More may be added.
    ///
    /// # Errors
    /// What is wrong with a variable, in words.
    pub fn with(&self, env: &Env) -> Result<(Strings, OsString), String> {
        let mut strings = Strings::default();
        let mut path = None;
        for (name, value) in &env.0 {
            check_name(name)?;
            if env.0.iter().filter(|(other, _)| other == name).count() > 1 {
                return Err(format!("`env` has `{}` twice", shortened(name)));
            }
            strings.variable(name.as_bytes(), value.0.as_bytes())?;
            if name == "PATH" {
                path = Some(OsString::from(&value.0));
            }
        }
        for (name, value) in &self.variables {
            if name == "PATH" {
                path.get_or_insert_with(|| value.clone());
            }
            if !env.0.iter().any(|(other, _)| OsStr::new(other) == name) {
                strings.variable(name.as_bytes(), value.as_bytes())?;
            }
        }
        strings.push(&[&self.mark]).map_err(|_| "the mark of this run has a NUL byte in it".to_owned())?;
        Ok((strings, path.unwrap_or_default()))
    }
}

/// Whether a variable of `env` may have this name; if not, why.
pub fn check_name(name: &str) -> Result<(), String> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::Text;

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

    fn names(base: &Base, env: &Env) -> Vec<String> {
        let (strings, _) = base.with(env).unwrap();
        let mut all: Vec<_> = strings.iter().map(|text| String::from_utf8_lossy(text).into_owned()).collect();
        all.sort();
        all
    }

    #[test]
    fn a_child_gets_what_is_named_and_nothing_else_of_gangers() {
        let own = ["GANGER_RUN=mark"];
        let few = ["HOME=of ganger", "LC_ALL=of ganger", "LC_TIME=of ganger", "PATH=of ganger"];
        assert_eq!(names(&base(&[]), &Env::default()), [own.as_slice(), &few].concat());
        let more = names(&base(&["AWS_*", "TOKEN"]), &Env::default());
        assert_eq!(more.len(), own.len() + few.len() + 3, "{more:?}");
    }

    #[test]
    fn a_jobs_variable_goes_before_gangers() {
        let (strings, path) = base(&[]).with(&env(&[("PATH", "/x"), ("A", "")])).unwrap();
        assert_eq!(path, "/x");
        let texts: Vec<_> = strings.iter().filter(|text| text.starts_with(b"PATH=")).collect();
        assert_eq!(texts, [b"PATH=/x"]);
    }

    #[test]
    fn a_job_cannot_pose_as_ganger() {
        for (name, part) in [("GANGER_RUN", "ganger's own"), ("", "no name"), ("A=B", "`=`")] {
            let error = base(&[]).with(&env(&[(name, "x")])).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
        assert!(base(&[]).with(&env(&[("A", "\0")])).is_err());
        assert!(base(&[]).with(&env(&[("A", "1"), ("A", "2")])).is_err());
    }
}
