//! Jobs, one a line, read in batches: bounded in lines and in bytes, whatever comes.

use std::io::{self, BufRead};

use ganger_core::{Catalog, HANDLER_PREFIX, JOB_BYTES_MAX, Job};

/// How many jobs are stored at once.
pub(crate) const BATCH_MAX: usize = 500;

/// How many bytes are stored at once.
const BATCH_BYTES_MAX: usize = 4 << 20;

/// What some editors begin a file of UTF-8 with.
const BOM: &[u8] = "\u{feff}".as_bytes();

/// A job, or what is wrong with it, and its line.
pub(crate) struct Line {
    pub(crate) number: u64,
    pub(crate) job: Result<Job, String>,
}

/// Makes a job of a line, or says why not.
type Read = dyn Fn(&[u8]) -> Result<Job, String> + Send;

/// How a line becomes a job.
pub(crate) struct Form {
    /// What a line ends with.
    pub(crate) end: u8,
    pub(crate) read: Box<Read>,
}

impl Form {
    /// JSON, a job a line.
    pub(crate) fn json() -> Form {
        Form { end: b'\n', read: Box::new(parse) }
    }
}

/// Reads batches of lines from `input` on a thread of its own; the channel holds two of them.
pub(crate) fn batches(
    input: impl BufRead + Send + 'static,
    form: Form,
    catalog: Catalog,
) -> tokio::sync::mpsc::Receiver<io::Result<Vec<Line>>> {
    let (sender, receiver) = tokio::sync::mpsc::channel(2);
    std::thread::spawn(move || {
        let mut reader = Reader { input, form, number: 0, catalog };
        loop {
            let batch = reader.batch();
            let is_end = !matches!(&batch, Ok(lines) if !lines.is_empty());
            if matches!(&batch, Ok(lines) if lines.is_empty())
                || sender.blocking_send(batch).is_err()
                || is_end
            {
                return;
            }
        }
    });
    receiver
}

struct Reader<R> {
    input: R,
    form: Form,
    number: u64,
    catalog: Catalog,
}

impl<R: BufRead> Reader<R> {
    /// The next batch; empty at the end.
    fn batch(&mut self) -> io::Result<Vec<Line>> {
        let (mut lines, mut bytes, mut text) = (Vec::new(), 0, Vec::new());
        while lines.len() < BATCH_MAX && bytes < BATCH_BYTES_MAX {
            text.clear();
            let Some(size) = self.line(&mut text)? else { break };
            self.number += 1;
            let line = match text.strip_prefix(BOM) {
                Some(rest) if self.number == 1 => rest,
                _ => &text[..],
            };
            if line.trim_ascii().is_empty() {
                continue;
            }
            bytes += line.len();
            let job = if size > JOB_BYTES_MAX {
                Err(format!("{size} bytes, more than the {JOB_BYTES_MAX} that a job may have"))
            } else {
                (self.form.read)(line).and_then(|job| admit(job, &self.catalog))
            };
            lines.push(Line { number: self.number, job });
        }
        Ok(lines)
    }

    /// Reads a line, keeping at most one byte more than a job may have; answers its true length.
    fn line(&mut self, kept: &mut Vec<u8>) -> io::Result<Option<usize>> {
        let mut size = 0;
        loop {
            let buffer = match self.input.fill_buf() {
                Ok(buffer) => buffer,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            if buffer.is_empty() {
                return Ok((size > 0).then_some(size));
            }
            let end = buffer.iter().position(|byte| *byte == self.form.end);
            let part = &buffer[..end.unwrap_or(buffer.len())];
            kept.extend_from_slice(&part[..part.len().min((JOB_BYTES_MAX + 1).saturating_sub(kept.len()))]);
            size += part.len();
            let used = part.len() + usize::from(end.is_some());
            self.input.consume(used);
            if end.is_some() {
                // An empty line is a line.
                return Ok(Some(size));
            }
        }
    }
}

/// Reads a job from outside.
fn parse(text: &[u8]) -> Result<Job, String> {
    // A line's own position is always line 1.
    Job::from_json(text).map_err(|fault| fault.message.replace(" at line 1 column ", " at column "))
}

/// The door for jobs from outside: no types of ganger's own, and no params that the worker of this config refuses.
/// A type that it has no worker for may be another config's.
pub(crate) fn admit(job: Job, catalog: &Catalog) -> Result<Job, String> {
    match refused_kind(&job.kind) {
        Some(reason) => Err(reason),
        None => catalog.check_params(&job).map(|()| job),
    }
}

/// Why a type is not for outsiders.
fn refused_kind(kind: &str) -> Option<String> {
    kind.starts_with(HANDLER_PREFIX)
        .then(|| format!("type `{kind}`: types that begin with `{HANDLER_PREFIX}` are ganger's own"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &[u8]) -> Vec<Line> {
        let input = io::BufReader::with_capacity(16, text);
        Reader { input, form: Form::json(), number: 0, catalog: Catalog::default() }.batch().unwrap()
    }

    #[test]
    fn lines_are_numbered_and_blank_ones_passed_over() {
        let lines = read(b"{\"type\":\"a\"}\n\n  \r\n{\"type\":\"b\"}\r\n[1]\n\xff\n{\"type\":\"c\"}");
        let told: Vec<_> = lines
            .iter()
            .map(|line| (line.number, line.job.as_ref().map(|job| job.kind.to_string()).ok()))
            .collect();
        assert_eq!(
            told,
            [(1, Some("a".into())), (4, Some("b".into())), (5, None), (6, None), (7, Some("c".into()))]
        );
    }

    #[test]
    fn a_byte_order_mark_before_the_first_line_is_no_part_of_it() {
        let lines = read("\u{feff}{\"type\":\"a\"}\n\u{feff}{\"type\":\"b\"}".as_bytes());
        assert_eq!(lines.iter().map(|line| line.job.is_ok()).collect::<Vec<_>>(), [true, false]);
    }

    #[test]
    fn a_line_of_64_mib_is_refused_and_not_kept() {
        let mut text = vec![b'x'; 64 << 20];
        text.extend_from_slice(b"\n{\"type\":\"a\"}\n");
        let mut reader =
            Reader { input: &text[..], form: Form::json(), number: 0, catalog: Catalog::default() };
        let mut kept = Vec::new();
        assert_eq!(reader.line(&mut kept).unwrap(), Some(64 << 20));
        assert_eq!(kept.len(), JOB_BYTES_MAX + 1);
        let lines = read(&text);
        assert!(lines[0].job.as_ref().unwrap_err().contains("67108864 bytes"));
        assert!(lines[1].job.is_ok());
    }

    #[test]
    fn gangers_own_types_are_refused() {
        assert!(
            admit(Job { kind: "failure_handler.http".into(), ..Job::default() }, &Catalog::default())
                .unwrap_err()
                .contains("ganger's own")
        );
    }
}
