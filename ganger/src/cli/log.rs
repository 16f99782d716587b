//! The log: text on a terminal, JSON otherwise, on standard error.

use std::io::{self, IsTerminal, Write};

use tracing_subscriber::{EnvFilter, fmt};

use super::failure::Failure;

/// Starts it, at the `usual` level unless told otherwise.
pub(super) fn start(level: Option<&str>, usual: &str) -> Result<(), Failure> {
    let from_env = std::env::var("GANGER_LOG").ok().filter(|text| !text.is_empty());
    let rules = level.map(str::to_owned).or(from_env);
    let rules = rules.unwrap_or_else(|| usual.to_owned());
    let filter = EnvFilter::try_new(&rules).map_err(|error| {
        Failure::usage(format!("`{rules}` is no log level: {error}"))
            .help("write error, warn, info, debug or trace, or rules like `ganger=debug`")
    })?;
    let is_terminal = io::stderr().is_terminal();
    let colours = is_terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let builder = fmt().with_env_filter(filter).with_writer(|| Heedless(io::stderr())).with_ansi(colours);
    if is_terminal {
        builder.with_target(false).compact().init();
    } else {
        builder.json().flatten_event(true).with_current_span(false).with_span_list(false).init();
    }
    Ok(())
}

/// A log that nobody takes (a reader that went away, a full disk, a terminal that was closed) is lost: it must not cost
/// the work that it tells of, and the library's own word about it would end in a panic.
struct Heedless(io::Stderr);

impl Write for Heedless {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _ = self.0.write_all(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let _ = self.0.flush();
        Ok(())
    }
}
