//! How a command ends, and what it says when it fails.

use std::{io, process::ExitCode};

use anstream::eprintln;
use ganger_core::{ProviderError, WorkerError};
use miette::{GraphicalReportHandler, GraphicalTheme, LabeledSpan, MietteDiagnostic, NamedSource, Report};

use crate::{ConfigError, Error, config::Problem};

/// The exit codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// It went well.
    Ok = 0,
    /// The answer is no.
    No = 1,
    /// Usage or config.
    Usage = 2,
    /// A store is out of reach.
    Unreachable = 3,
    /// Refused.
    Refused = 4,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}

/// Why a command failed.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    text: Text,
}

#[derive(Debug)]
enum Text {
    Line {
        message: String,
        help: Option<String>,
    },
    Config(ConfigError),
    /// Nothing to say: the reader of our output went away.
    Silent,
}

impl Failure {
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Failure { exit, text: Text::Line { message: message.into(), help: None } }
    }

    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Failure::new(Exit::Usage, message)
    }

    pub(crate) fn help(mut self, text: impl Into<String>) -> Self {
        if let Text::Line { help, .. } = &mut self.text {
            *help = Some(text.into());
        }
        self
    }

    /// A store's error.
    pub(crate) fn store(name: &str, error: &ProviderError) -> Self {
        let exit = if error.is_refused() { Exit::Refused } else { Exit::Unreachable };
        Failure::new(exit, crate::plan::describe(name, error))
    }

    /// Output that cannot be written; a closed pipe is no failure.
    pub(crate) fn output(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Failure { exit: Exit::Ok, text: Text::Silent },
            _ => Failure::new(Exit::No, format!("the output cannot be written: {error}")),
        }
    }

    /// Says it on standard error.
    pub(crate) fn print(&self) {
        match &self.text {
            Text::Silent => {}
            Text::Line { message, help } => {
                eprintln!("{}error:{} {message}", style("\x1b[1;31m"), style("\x1b[0m"));
                if let Some(help) = help {
                    eprintln!("{}help:{} {help}", style("\x1b[36m"), style("\x1b[0m"));
                }
            }
            Text::Config(error) => eprintln!("{}", render(error, colours())),
        }
    }
}

fn style(code: &str) -> &str {
    // anstream takes it out again where there is no terminal.
    code
}

/// Whether standard error is shown in colours.
fn colours() -> bool {
    anstream::AutoStream::choice(&io::stderr()) != anstream::ColorChoice::Never
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Failure { exit: Exit::Usage, text: Text::Config(error) }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Failure::output(&error)
    }
}

impl From<WorkerError> for Failure {
    fn from(error: WorkerError) -> Self {
        Failure::usage(error.to_string())
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Config(error) => error.into(),
            Error::Manager(ganger_manager::ManagerError::Provider { name, error }) => {
                // What the manager gives up on at once is the set-up's fault.
                let exit = if error.is_refused() { Exit::Refused } else { Exit::Usage };
                Failure::new(exit, crate::plan::describe(&name, &error))
            }
            other => Failure::usage(other.to_string()),
        }
    }
}

impl From<ganger_manager::ManagerError> for Failure {
    fn from(error: ganger_manager::ManagerError) -> Self {
        Error::from(error).into()
    }
}

/// How many problems of a config are shown.
const SHOWN_MAX: usize = 10;

/// A config's problems, each with its line and a caret.
pub(crate) fn render(error: &ConfigError, colours: bool) -> String {
    let theme = if colours { GraphicalTheme::unicode() } else { GraphicalTheme::unicode_nocolor() };
    let handler =
        GraphicalReportHandler::new_themed(theme).with_links(false).with_width(100).with_context_lines(1);
    let mut text = String::new();
    for (n, problem) in error.problems.iter().take(SHOWN_MAX).enumerate() {
        if n > 0 {
            text.push('\n');
        }
        let report = diagnostic(error, problem);
        // Writing to a String does not fail.
        let _ = handler.render_report(&mut text, report.as_ref());
    }
    let more = error.problems.len().saturating_sub(SHOWN_MAX);
    if more > 0 {
        text.push_str(&format!("  … and {more} more\n"));
    }
    text.trim_end().to_owned()
}

/// The longest line that is shown whole; a longer one is only named.
const LINE_MAX: usize = 200;

fn diagnostic(error: &ConfigError, problem: &Problem) -> Report {
    let place = problem.span.as_ref().map(|span| {
        let start = span.start.min(error.text.len());
        (start, span.end.clamp(start, error.text.len()))
    });
    let shown =
        place.filter(|(start, _)| lines_around(&error.text, *start).all(|line| line.len() <= LINE_MAX));
    let mut diagnostic = MietteDiagnostic::new(match (place, shown) {
        (_, Some(_)) => problem.message.clone(),
        (Some((start, _)), None) => {
            let (line, column) = error.position(start);
            format!("{}:{line}:{column}: {}", error.name(), problem.message)
        }
        (None, None) => format!("{}: {}", error.name(), problem.message),
    });
    if let Some(help) = &problem.help {
        diagnostic = diagnostic.with_help(help.clone());
    }
    let Some((start, end)) = shown else { return Report::new(diagnostic) };
    // A value over many lines is pointed at by its first.
    let end =
        error.text.as_bytes()[start..end].iter().position(|byte| *byte == b'\n').map_or(end, |at| start + at);
    let diagnostic = diagnostic.with_label(LabeledSpan::new_with_span(None, start..end));
    let text = super::out::same_length(&error.text);
    Report::new(diagnostic).with_source_code(NamedSource::new(error.name(), text))
}

/// The line at a place, and its neighbours.
fn lines_around(text: &str, at: usize) -> impl Iterator<Item = &str> {
    let line = text.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count();
    text.lines().skip(line.saturating_sub(1)).take(3)
}
