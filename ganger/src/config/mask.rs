//! Keeps what a config says out of what is said about it: an excerpt shows keys, shape and places, and of the values
//! only the one that it is about. A secret may stand anywhere, under a mistyped key as well.

use super::{
    error::Problem,
    node::{Kind, Node, Span},
};

/// The longest word that passes for a key where the text cannot be read.
const KEY_MAX: usize = 40;

/// The places of all texts that no problem is about. `secrets` are hidden in any case.
pub(super) fn texts(root: &Node, problems: &[Problem], secrets: &[Span]) -> Vec<Span> {
    let mut hidden = secrets.to_vec();
    let shown: Vec<&Span> = match root.kind {
        Kind::Map(_) => problems.iter().filter_map(|problem| problem.span.as_ref()).collect(),
        _ => Vec::new(),
    };
    root.texts(&mut |text| {
        if !shown.contains(&&text.span) {
            hidden.push(text.span.clone());
        }
    });
    hidden
}

/// The places of everything in a text that may be a value, where it cannot be read: all words but those that stand
/// where a key does.
pub(super) fn words(text: &str) -> Vec<Span> {
    let mut hidden = Vec::new();
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        hide_line(line, start, &mut hidden);
        start += line.len();
    }
    hidden
}

fn hide_line(line: &str, start: usize, hidden: &mut Vec<Span>) {
    let (mut at, mut before) = (0, None);
    while let Some(c) = line[at..].chars().next() {
        let word = match c {
            _ if c.is_whitespace() => None,
            '"' | '\'' => {
                let inside = &line[at + 1..];
                // Without its closing quote, a text goes to the end of the line.
                let (end, past) = match closing(inside, c) {
                    Some(end) => (end, end + 1),
                    None => (inside.trim_end().len(), inside.trim_end().len()),
                };
                Some((at + 1..at + 1 + end, at + 1 + past))
            }
            _ if is_shape(c) => {
                before = Some(c);
                None
            }
            _ => {
                let end =
                    line[at..].find(|c: char| c.is_whitespace() || is_shape(c) || c == '"' || c == '\'');
                let end = end.map_or(line.len(), |end| at + end);
                // The dash of a list, which a key may follow.
                if &line[at..end] == "-" && before.is_none() {
                    at = end;
                    continue;
                }
                Some((at..end, end))
            }
        };
        let Some((word, next)) = word else {
            at += c.len_utf8();
            continue;
        };
        let in_place = matches!(before, None | Some('{' | ',' | '['));
        if !(in_place && is_key(&line[word.clone()]) && is_followed_as_key(line, next)) {
            hidden.push(start + word.start..start + word.end);
        }
        before = Some('x');
        at = next;
    }
}

/// Where a quoted text ends.
fn closing(inside: &str, quote: char) -> Option<usize> {
    let mut escaped = false;
    inside.char_indices().find_map(|(at, c)| {
        let ends = c == quote && !escaped;
        escaped = c == '\\' && !escaped && quote == '"';
        ends.then_some(at)
    })
}

fn is_shape(c: char) -> bool {
    matches!(c, '{' | '}' | '[' | ']' | ',' | ':' | '=' | '#')
}

fn is_key(word: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    (1..=KEY_MAX).contains(&word.len()) && word.chars().all(plain)
}

/// Whether `:` or `=` follows; at the end of a line, `=` right behind a word may be the padding of a secret.
fn is_followed_as_key(line: &str, at: usize) -> bool {
    let rest = &line[at..];
    match rest.trim_start().strip_prefix(['=', ':']) {
        Some(value) if rest.starts_with('=') => !value.trim().is_empty() && !value.starts_with('='),
        Some(_) => true,
        // A table's heading in TOML.
        None => {
            line.starts_with('[')
                && is_key(line[..at].trim_start_matches('['))
                && rest.trim_end().trim_matches(']').is_empty()
        }
    }
}

/// The text without what is hidden, as long as before, so that places stay right in bytes and in characters.
pub(super) fn blot(text: &str, hidden: &[Span]) -> String {
    let mut sorted = hidden.to_vec();
    sorted.sort_by_key(|span| span.start);
    let mut spans = sorted.into_iter().peekable();
    let mut out = String::with_capacity(text.len());
    for (at, c) in text.char_indices() {
        while spans.next_if(|span| span.end <= at).is_some() {}
        let is_hidden = spans.peek().is_some_and(|span| span.contains(&at));
        out.push(match c.len_utf8() {
            _ if !is_hidden || c.is_whitespace() || c == '"' || c == '\'' => c,
            1 => '*',
            2 => '¤',
            3 => '•',
            _ => '🞄',
        });
    }
    out
}

/// A message without the words that are hidden in the text that it is about.
pub(super) fn redact(message: &str, text: &str, hidden: &[Span]) -> String {
    let words = hidden.iter().filter_map(|span| text.get(span.clone()));
    let words =
        words.map(|word| word.trim_matches(|c: char| !c.is_alphanumeric())).filter(|word| word.len() >= 4);
    words.fold(message.to_owned(), |message, word| message.replace(word, "***"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masked(text: &str) -> String {
        blot(text, &words(text))
    }

    #[test]
    fn keys_and_shape_stay_and_values_go() {
        for (text, shown) in [
            ("token = \"s3cret", "token = \"******"),
            (
                "[[providers]]\nredis = { host = \"h\", password = 's\\' }",
                "[[providers]]\nredis = { host = \"*\", password = '**' }",
            ),
            ("{\"stats_token\": \"a\\\"b\", \"x\": s3cret}", "{\"stats_token\": \"**\"*\", \"x\": ******}"),
            ("providers:\n  - redis: {password: hünter2}\n", "providers:\n  - redis: {password: *¤*****}\n"),
            ("url: http://user:pass@host/", "url: ****:******:**********"),
            ("key: |\n  MIIEabc/1+x=\n  pass word", "key: *\n  ***********=\n  **** ****"),
            ("[\"pass\"]", "[\"****\"]"),
            ("[pass, word]", "[****, ****]"),
            ("MIIEabc=\n", "*******=\n"),
            ("# token: s3cret", "# *****: ******"),
            ("token s3cret", "***** ******"),
            ("token\": \"s3cret\"", "*****\"* \"******\""),
            ("token: \"s3cret\u{a0}\n", "token: \"******\u{a0}\n"),
        ] {
            let got = masked(text);
            assert_eq!(got.len(), text.len(), "{text}: {got}");
            assert_eq!(got.chars().count(), text.chars().count(), "{text}: {got}");
            assert_eq!(got, shown, "{text}");
        }
    }

    #[test]
    fn a_message_does_not_tell_either() {
        let text = "token: *s3cret";
        assert_eq!(
            redact("no anchor `s3cret`", text, &words(text)),
            "no anchor `s3cret`".replace("s3cret", "***")
        );
    }
}
