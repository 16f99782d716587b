//! Standard output: buffered, and a reader who goes away is no failure.

use std::io::{self, BufWriter, IsTerminal, Write};

use serde::Serialize;

use super::failure::Failure;

/// Where a command prints.
pub(crate) struct Out {
    writer: BufWriter<Box<dyn Write + Send>>,
    pub(crate) is_terminal: bool,
}

impl Out {
    pub(crate) fn stdout() -> Self {
        let stdout = io::stdout();
        let is_terminal = stdout.is_terminal();
        Out { writer: BufWriter::new(Box::new(stdout)), is_terminal }
    }

    /// Standard error, for what a job says there.
    pub(crate) fn stderr() -> Self {
        let stderr = io::stderr();
        let is_terminal = stderr.is_terminal();
        Out { writer: BufWriter::new(Box::new(stderr)), is_terminal }
    }

    /// A line.
    pub(crate) fn line(&mut self, text: impl AsRef<str>) -> Result<(), Failure> {
        Ok(writeln!(self.writer, "{}", text.as_ref())?)
    }

    /// A value as JSON in one line.
    pub(crate) fn json(&mut self, value: &impl Serialize) -> Result<(), Failure> {
        let text = serde_json::to_string(value).map_err(|error| Failure::output(&io::Error::other(error)))?;
        self.line(text)
    }

    /// A value as JSON over many lines.
    pub(crate) fn json_pretty(&mut self, value: &impl Serialize) -> Result<(), Failure> {
        let text =
            serde_json::to_string_pretty(value).map_err(|error| Failure::output(&io::Error::other(error)))?;
        self.line(text)
    }

    /// A job's output: as it is into a file or pipe, harmless onto a terminal.
    pub(crate) fn output(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        if !self.is_terminal {
            return Ok(self.writer.write_all(bytes)?);
        }
        let text = harmless(&String::from_utf8_lossy(bytes));
        write!(self.writer, "{text}")?;
        if !text.is_empty() && !text.ends_with('\n') {
            writeln!(self.writer)?;
        }
        Ok(())
    }

    /// A piece of a job's output, as [`output`](Out::output); as it is, where that is asked for.
    pub(crate) fn piece(&mut self, bytes: &[u8], raw: bool) -> Result<(), Failure> {
        match self.is_terminal && !raw {
            true => write!(self.writer, "{}", harmless(&String::from_utf8_lossy(bytes)))?,
            false => self.writer.write_all(bytes)?,
        }
        Ok(())
    }

    /// Shows what was printed so far.
    pub(crate) fn flush(&mut self) -> Result<(), Failure> {
        Ok(self.writer.flush()?)
    }

    pub(crate) fn finish(mut self) -> Result<(), Failure> {
        self.flush()
    }
}

/// A text without what would move a terminal's cursor or change its title: a job's words are a stranger's.
pub(crate) fn harmless(text: &str) -> String {
    let show = |c: char| match c {
        '\n' | '\t' => c,
        '\u{0}'..='\u{1f}' => char::from_u32(0x2400 + c as u32).unwrap_or('\u{fffd}'),
        '\u{7f}' => '\u{2421}',
        '\u{80}'..='\u{9f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => '\u{fffd}',
        other => other,
    };
    text.chars().map(show).collect()
}

/// A text whose control characters are blanked, byte for byte, so that places in it stay right.
pub(crate) fn same_length(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_control() && c != '\n' && c != '\t' { ' ' } else { c }).collect()
}

/// The same in one line.
pub(crate) fn one_line(text: &str) -> String {
    harmless(text).trim().replace(['\n', '\t'], " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jobs_words_cannot_steer_the_terminal() {
        assert_eq!(harmless("a\u{1b}[31mb\rc\n"), "a␛[31mb␍c\n");
        assert_eq!(one_line(" a\n\tb "), "a  b");
    }
}
