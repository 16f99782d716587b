//! Errors of plugins, which say whether trying again can help.

use std::fmt;

/// Whether trying again can help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// It may pass: retried with backoff, readiness off meanwhile.
    Transient,
    /// It will not pass: config, permission, a newer format. ganger stops with the message.
    Fatal,
}

/// A provider's or intake's error: what failed, on what, why, and whether to try again.
#[derive(Debug)]
pub struct ProviderError {
    severity: Severity,
    message: String,
    refused: bool,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl ProviderError {
    /// An error that may pass.
    pub fn transient(message: impl Into<String>) -> Self {
        ProviderError { severity: Severity::Transient, message: message.into(), refused: false, source: None }
    }

    /// An error that will not pass.
    pub fn fatal(message: impl Into<String>) -> Self {
        ProviderError { severity: Severity::Fatal, ..ProviderError::transient(message) }
    }

    /// A store that must be left untouched (a newer format): fatal, and exit code 4 on the command line.
    pub fn refused(message: impl Into<String>) -> Self {
        ProviderError { refused: true, ..ProviderError::fatal(message) }
    }

    /// Adds the cause.
    pub fn because(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Whether trying again can help.
    pub fn severity(&self) -> Severity {
        self.severity
    }

    /// Whether the store was left untouched on purpose.
    pub fn is_refused(&self) -> bool {
        self.refused
    }
}

impl fmt::Display for ProviderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.source {
            Some(source) => write!(f, ": {source}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for ProviderError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

/// A worker that cannot be set up: its config is wrong, or what it needs is missing.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct WorkerError(String);

impl WorkerError {
    /// What is wrong, and what to do.
    pub fn new(message: impl Into<String>) -> Self {
        WorkerError(message.into())
    }
}

/// Options of a plugin that do not fit: what, where in its entry, and what was expected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct OptionsError {
    /// The path of the option within the plugin's entry, as `["limits", "cpu"]`; empty for the whole entry.
    pub path: Vec<String>,
    /// What is wrong with it.
    pub message: String,
}

impl OptionsError {
    /// Something wrong with the whole, or with what the message names.
    pub fn whole(message: impl Into<String>) -> Self {
        OptionsError { path: Vec::new(), message: message.into() }
    }

    /// Something wrong with one option or param.
    pub fn of(name: &str, message: impl Into<String>) -> Self {
        OptionsError { path: vec![name.to_owned()], message: message.into() }
    }

    /// The sentence for a job whose params it is about.
    pub fn of_job(&self, kind: &str) -> String {
        let OptionsError { path, message } = self;
        match path.is_empty() {
            true => format!("the params do not fit type `{kind}`: {message}"),
            false => {
                format!("the params do not fit type `{kind}`, `{}`: {message}", path.join(".").escape_debug())
            }
        }
    }
}
