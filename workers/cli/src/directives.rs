//! Lines by which a command speaks to ganger: `::progress 40 text`, `::result {json}`, `::header content-type=…`.

use memchr::{memchr, memmem};
use serde::de::IgnoredAny;

/// The longest line that is read as a directive; a longer one is output like any other.
const LINE_MAX: usize = 256 << 10;

/// The longest value of a header.
const VALUE_MAX: usize = 200;

/// What a line says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Directive {
    Progress { percent: u8, message: String },
    Result(Vec<u8>),
    ContentType(String),
}

/// What comes of a piece of output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Said<'a> {
    Output(&'a [u8]),
    Directive(Directive),
}

/// Tells directives from output, whatever the pieces in which it comes.
#[derive(Debug)]
pub(crate) struct Directives {
    at_line_start: bool,
    /// The beginning of a line that may be a directive.
    held: Vec<u8>,
}

impl Directives {
    pub(crate) fn new() -> Self {
        Directives { at_line_start: true, held: Vec::new() }
    }

    /// Takes a piece.
    pub(crate) fn take(&mut self, mut bytes: &[u8], say: &mut impl FnMut(Said<'_>)) {
        while !bytes.is_empty() {
            bytes = match self.held.is_empty() && !(self.at_line_start && bytes[0] == b':') {
                true => self.plain(bytes, say),
                false => self.hold(bytes, say),
            };
        }
    }

    /// The output has ended: a last line without an end is one all the same.
    pub(crate) fn end(&mut self, say: &mut impl FnMut(Said<'_>)) {
        if !self.held.is_empty() {
            self.judge(say);
        }
    }

    /// Passes on what is output up to where a directive may begin; what is left.
    fn plain<'a>(&mut self, bytes: &'a [u8], say: &mut impl FnMut(Said<'_>)) -> &'a [u8] {
        let end = memmem::find(bytes, b"\n:").map_or(bytes.len(), |at| at + 1);
        say(Said::Output(&bytes[..end]));
        self.at_line_start = bytes[end - 1] == b'\n';
        &bytes[end..]
    }

    /// Holds the rest of a line that may be a directive; what is left.
    fn hold<'a>(&mut self, bytes: &'a [u8], say: &mut impl FnMut(Said<'_>)) -> &'a [u8] {
        let line = memchr(b'\n', bytes).map_or(bytes.len(), |at| at + 1);
        let now = line.min(LINE_MAX + 1 - self.held.len());
        self.held.extend_from_slice(&bytes[..now]);
        let is_none = self.held.get(1).is_some_and(|second| *second != b':');
        if self.held.ends_with(b"\n") && !is_none {
            self.judge(say);
        } else if is_none || self.held.len() > LINE_MAX {
            say(Said::Output(&self.held));
            self.at_line_start = self.held.ends_with(b"\n");
            self.held.clear();
        }
        &bytes[now..]
    }

    fn judge(&mut self, say: &mut impl FnMut(Said<'_>)) {
        say(match read(&self.held) {
            Some(directive) => Said::Directive(directive),
            None => Said::Output(&self.held),
        });
        self.at_line_start = true;
        self.held.clear();
    }
}

/// Reads a line; `None` if it is no directive, or not a whole one.
fn read(line: &[u8]) -> Option<Directive> {
    let text = std::str::from_utf8(line).ok()?.trim_end_matches(['\n', '\r']).strip_prefix("::")?;
    let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
    let rest = rest.trim();
    match word {
        "progress" => {
            let (percent, message) = rest.split_once(' ').unwrap_or((rest, ""));
            let percent = percent.strip_suffix('%').unwrap_or(percent).parse().ok()?;
            (percent <= 100).then(|| Directive::Progress { percent, message: message.trim().to_owned() })
        }
        "result" => {
            serde_json::from_str::<IgnoredAny>(rest).ok()?;
            Some(Directive::Result(rest.as_bytes().to_vec()))
        }
        "header" => {
            let (name, value) = rest.split_once('=')?;
            let fits =
                value.len() <= VALUE_MAX && value.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic());
            let known = name.trim().eq_ignore_ascii_case("content-type") && !value.trim().is_empty();
            (fits && known).then(|| Directive::ContentType(value.trim().to_owned()))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is said of some pieces: the output, and the directives.
    fn said(pieces: &[&[u8]]) -> (Vec<u8>, Vec<Directive>) {
        let (mut output, mut found) = (Vec::new(), Vec::new());
        let mut say = |said: Said<'_>| match said {
            Said::Output(bytes) => output.extend_from_slice(bytes),
            Said::Directive(directive) => found.push(directive),
        };
        let mut directives = Directives::new();
        pieces.iter().for_each(|piece| directives.take(piece, &mut say));
        directives.end(&mut say);
        (output, found)
    }

    fn progress(percent: u8, message: &str) -> Directive {
        Directive::Progress { percent, message: message.to_owned() }
    }

    #[test]
    fn directives_are_no_output_whatever_the_pieces() {
        let text = b"one\n::progress 40 half way\n:x\n\n::result {\"a\": [1]}\r\ntwo ::progress 1\n\
                     ::header Content-Type=text/html; charset=utf-8\n::progress 100%";
        let wanted = (
            b"one\n:x\n\ntwo ::progress 1\n".to_vec(),
            vec![
                progress(40, "half way"),
                Directive::Result(b"{\"a\": [1]}".to_vec()),
                Directive::ContentType("text/html; charset=utf-8".to_owned()),
                progress(100, ""),
            ],
        );
        for size in 1..text.len() {
            assert_eq!(said(&text.chunks(size).collect::<Vec<_>>()), wanted, "pieces of {size}");
        }
    }

    #[test]
    fn what_is_not_quite_a_directive_stays_output() {
        for line in [
            "::progress\n",
            "::progress 101 much\n",
            "::progress -1\n",
            "::progress four\n",
            "::result {\"a\": \n",
            "::result\n",
            "::header a=b\n",
            "::header content-type=\n",
            "::header content-type\n",
            "::group x\n",
            "::\n",
            ":\n",
            ":",
            "::progressing 40\n",
            " ::progress 40\n",
        ] {
            assert_eq!(said(&[line.as_bytes()]), (line.as_bytes().to_vec(), Vec::new()), "{line:?}");
        }
        let broken = b"::progress 4 \xff\n";
        assert_eq!(said(&[broken]).0, broken);
    }

    #[test]
    fn a_line_that_is_too_long_is_output_and_bounded() {
        let long = [b"::result \"", &[b'x'; 2 * LINE_MAX][..], b"\"\n::progress 5\n"].concat();
        let mut directives = Directives::new();
        let (mut output, mut found, mut most) = (0, Vec::new(), 0);
        for piece in long.chunks(1000) {
            directives.take(piece, &mut |said| match said {
                Said::Output(bytes) => output += bytes.len(),
                Said::Directive(directive) => found.push(directive),
            });
            most = most.max(directives.held.len());
        }
        assert_eq!((output, found), (long.len() - b"::progress 5\n".len(), vec![progress(5, "")]));
        assert!(most <= LINE_MAX + 1, "{most}");
    }
}
