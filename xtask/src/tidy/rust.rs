//! Just enough of Rust's grammar: what is code and what is text, where functions begin and end, what is test.

/// The source with the insides of comments, texts and characters blanked out; lines stay where they are.
pub(super) fn mask(source: &str) -> String {
    let bytes = source.as_bytes();
    let mut masked = Vec::with_capacity(bytes.len());
    while masked.len() < bytes.len() {
        let at = masked.len();
        let end = skip(bytes, at);
        if end == at {
            masked.push(bytes[at]);
        } else {
            let blank = |byte: &u8| if *byte == b'\n' { b'\n' } else { b' ' };
            masked.extend(bytes[at..end].iter().map(blank));
        }
    }
    String::from_utf8(masked).unwrap_or_default()
}

/// Where the comment, text or character that begins at `at` ends; `at` itself if none begins there.
fn skip(bytes: &[u8], at: usize) -> usize {
    let rest = &bytes[at..];
    if rest.starts_with(b"//") {
        return at + rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
    }
    if rest.starts_with(b"/*") {
        return skip_block_comment(bytes, at);
    }
    if rest[0] == b'"' {
        return skip_text(bytes, at);
    }
    if rest[0] == b'r' && !is_word_end(bytes, at) {
        return skip_raw_text(bytes, at);
    }
    if rest[0] == b'\'' {
        return skip_character(bytes, at);
    }
    // What is no ASCII is no code.
    if rest[0] >= 0x80 { at + 1 } else { at }
}

/// Whether a word goes on at `at`, so that an `r` there is no prefix.
fn is_word_end(bytes: &[u8], at: usize) -> bool {
    // `br"…"` has its `b` before.
    let before = bytes[..at].strip_suffix(b"b").unwrap_or(&bytes[..at]);
    before.last().is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_')
}

fn skip_block_comment(bytes: &[u8], at: usize) -> usize {
    let mut depth = 0_usize;
    let mut here = at;
    while here < bytes.len() {
        if bytes[here..].starts_with(b"/*") {
            depth += 1;
            here += 2;
        } else if bytes[here..].starts_with(b"*/") {
            depth -= 1;
            here += 2;
            if depth == 0 {
                break;
            }
        } else {
            here += 1;
        }
    }
    here.min(bytes.len())
}

fn skip_text(bytes: &[u8], at: usize) -> usize {
    let mut here = at + 1;
    while here < bytes.len() {
        match bytes[here] {
            b'\\' => here += 2,
            b'"' => return here + 1,
            _ => here += 1,
        }
    }
    bytes.len()
}

fn skip_raw_text(bytes: &[u8], at: usize) -> usize {
    let hashes = bytes[at + 1..].iter().take_while(|byte| **byte == b'#').count();
    let open = at + 1 + hashes;
    if bytes.get(open) != Some(&b'"') {
        return at;
    }
    let close: Vec<u8> = std::iter::once(b'"').chain(std::iter::repeat_n(b'#', hashes)).collect();
    let found = bytes[open + 1..].windows(close.len()).position(|window| window == close);
    found.map_or(bytes.len(), |found| open + 1 + found + close.len())
}

/// A character, told from a lifetime by its closing quote.
fn skip_character(bytes: &[u8], at: usize) -> usize {
    if bytes.get(at + 1) == Some(&b'\\') {
        let close = bytes[(at + 3).min(bytes.len())..].iter().position(|byte| *byte == b'\'');
        return close.map_or(bytes.len(), |close| at + 3 + close + 1);
    }
    let width = bytes.get(at + 1).map_or(1, |first| match first {
        0xf0.. => 4,
        0xe0.. => 3,
        0xc0.. => 2,
        _ => 1,
    });
    if bytes.get(at + 1 + width) == Some(&b'\'') { at + width + 2 } else { at }
}

/// A function of the source.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Function {
    /// Its name.
    pub(super) name: String,
    /// The line on which it begins, from 1.
    pub(super) line: usize,
    /// How many lines it has, signature and braces included.
    pub(super) lines: usize,
}

/// The functions of a masked source that have a body.
pub(super) fn functions(masked: &str) -> Vec<Function> {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let bytes = masked.as_bytes();
    let starts = masked.match_indices("fn ").map(|(at, _)| at);
    starts
        .filter(|at| *at == 0 || !is_word(bytes[at - 1]))
        .filter_map(|at| {
            let rest = &masked[at + 3..];
            let name: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            if name.is_empty() {
                return None;
            }
            let end = body_end(masked, at)?;
            let lines = masked[at..end].matches('\n').count() + 1;
            Some(Function { name, line: line_of(masked, at), lines })
        })
        .collect()
}

/// The line of a byte, from 1.
pub(super) fn line_of(text: &str, at: usize) -> usize {
    text[..at].matches('\n').count() + 1
}

/// Where the item that begins at `at` ends with its body; `None` if it has none.
fn body_end(masked: &str, at: usize) -> Option<usize> {
    let mut inner = 0_usize;
    let mut braces = 0_usize;
    for (offset, byte) in masked.bytes().enumerate().skip(at) {
        match byte {
            b'(' | b'[' => inner += 1,
            b')' | b']' => inner = inner.saturating_sub(1),
            b';' if inner == 0 && braces == 0 => return None,
            b'{' => braces += 1,
            b'}' => {
                braces = braces.saturating_sub(1);
                if braces == 0 && inner == 0 {
                    return Some(offset + 1);
                }
            }
            _ => {}
        }
    }
    None
}

/// The lines that are test code, as ranges of bytes of the masked source.
pub(super) fn test_ranges(masked: &str) -> Vec<std::ops::Range<usize>> {
    masked
        .match_indices("#[cfg(test)]")
        .filter_map(|(at, attribute)| Some(at..body_end(masked, at + attribute.len())?))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_texts_are_blanked() {
        let source = "a // fn x\nb /* { /* } */ */ c \"fn \\\" {\" d r#\"}\"# e b\"{\" f";
        let masked = mask(source);
        assert_eq!(masked.len(), source.len());
        assert_eq!(masked.split_whitespace().collect::<Vec<_>>(), ["a", "b", "c", "d", "e", "b", "f"]);
    }

    #[test]
    fn a_character_is_no_lifetime() {
        let masked = mask("fn f<'a>(x: &'a str) { let y = '{'; let z = '\\''; let u = 'ä'; }");
        assert_eq!(masked.matches('{').count(), 1);
        assert!(masked.contains("<'a>"), "{masked}");
    }

    #[test]
    fn functions_are_measured_from_signature_to_brace() {
        let masked = mask("trait T {\n    fn declared(&self);\n}\nfn two(a: [u8; 2]) -> u8 {\n    a[0]\n}\n");
        assert_eq!(functions(&masked), [Function { name: "two".into(), line: 4, lines: 3 }]);
    }

    #[test]
    fn a_function_type_is_no_function() {
        assert_eq!(functions(&mask("type F = fn (u8) -> u8; struct S { often: u8 }")), []);
    }

    #[test]
    fn test_modules_are_found() {
        let masked = mask("fn a() {}\n#[cfg(test)]\nmod tests {\n    fn b() {}\n}\nfn c() {}\n");
        let ranges = test_ranges(&masked);
        assert_eq!(ranges.len(), 1);
        assert!(masked[ranges[0].clone()].contains("fn b"));
        assert!(!masked[ranges[0].clone()].contains("fn c"));
    }
}
