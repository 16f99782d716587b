//! What is wrong with a config file, and where.

use std::{fmt, path::PathBuf};

use super::node::Span;

/// One thing that is wrong: what, where, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// What is wrong.
    pub message: String,
    /// The place in the file, in bytes; `None` when it is about the whole.
    pub span: Option<std::ops::Range<usize>>,
    /// What to do about it.
    pub help: Option<String>,
}

impl Problem {
    pub(crate) fn at(span: Span, message: impl Into<String>) -> Self {
        Problem { message: message.into(), span: Some(span), help: None }
    }

    pub(crate) fn whole(message: impl Into<String>) -> Self {
        Problem { message: message.into(), span: None, help: None }
    }

    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    pub(crate) fn maybe_help(mut self, help: Option<String>) -> Self {
        self.help = help;
        self
    }
}

/// A config that cannot be used. Its text names file, line and column of each problem.
#[derive(Clone, Debug)]
pub struct ConfigError {
    /// The file; `None` for a config given as text.
    pub file: Option<PathBuf>,
    /// What the file says, without its values: only those that the problems are about are there.
    pub text: String,
    /// Everything that is wrong with it, at least one.
    pub problems: Vec<Problem>,
}

impl ConfigError {
    /// The file's name for people.
    pub fn name(&self) -> String {
        self.file.as_ref().map_or_else(|| "the config".to_owned(), |file| file.display().to_string())
    }

    /// Line and column of a place, both from 1; the column counts characters.
    pub fn position(&self, at: usize) -> (usize, usize) {
        let before = &self.text.as_bytes()[..at.min(self.text.len())];
        let line_start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |found| found + 1);
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        (line, String::from_utf8_lossy(&before[line_start..]).chars().count() + 1)
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, problem) in self.problems.iter().enumerate() {
            if n > 0 {
                writeln!(f)?;
            }
            write!(f, "{}", self.name())?;
            if let Some(span) = &problem.span {
                let (line, column) = self.position(span.start);
                write!(f, ":{line}:{column}")?;
            }
            write!(f, ": {}", problem.message)?;
            if let Some(help) = &problem.help {
                write!(f, " ({help})")?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

/// The name among `known` that `name` was probably meant to be.
pub(crate) fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lower = name.to_lowercase();
    let likeness = |candidate: &str| {
        let candidate = candidate.to_lowercase();
        // Jaro-Winkler sees shared beginnings; for short names a slip of one or two letters says more.
        let slips = strsim::osa_distance(&lower, &candidate);
        let few = slips <= 1 + candidate.len() / 5 && slips < candidate.len();
        strsim::jaro_winkler(&lower, &candidate).max(if few { 1.0 - 0.1 * slips as f64 } else { 0.0 })
    };
    known
        .into_iter()
        .map(|candidate| (likeness(candidate), candidate))
        .filter(|(score, _)| *score > 0.75)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

/// "did you mean …", or else all there are.
pub(crate) fn suggest(name: &str, what: &str, known: &[&str]) -> String {
    match nearest(name, known.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None if known.is_empty() => format!("there are no {what}"),
        None => format!("the {what} are {}", listed(known)),
    }
}

/// `a`, `b` and `c`.
pub(crate) fn listed(names: &[&str]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    match quoted.split_last() {
        None => String::new(),
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} and {last}", rest.join(", ")),
    }
}
