//! `${VAR}`, `${VAR:-default}` and `${file:/path}` in texts.

use std::env;

use super::{
    error::{Problem, nearest},
    node::{Kind, Node},
};

/// The largest file that `${file:…}` reads, in bytes.
const SECRET_FILE_MAX: u64 = 64 << 10;

/// Where variables come from.
pub(super) trait Source {
    fn var(&self, name: &str) -> Option<String>;
    fn names(&self) -> Vec<String>;
}

/// The environment of the process.
pub(super) struct Environment;

impl Source for Environment {
    fn var(&self, name: &str) -> Option<String> {
        env::var(name).ok()
    }
    fn names(&self) -> Vec<String> {
        env::vars_os().filter_map(|(name, _)| name.into_string().ok()).collect()
    }
}

/// Replaces every `${…}` in the texts of `node`; `$${` stands for `${` itself.
pub(super) fn interpolate(node: &mut Node, source: &impl Source, problems: &mut Vec<Problem>) {
    node.texts_mut(&mut |node| {
        let span = node.span.clone();
        let Kind::Text(text) = &mut node.kind else { return };
        if !text.contains("${") {
            return;
        }
        match expand(text, source) {
            Ok((expanded, touched)) => {
                *text = expanded;
                node.interpolated = touched;
            }
            Err(problem) => problems.push(Problem { span: Some(span), ..problem }),
        }
    });
}

/// The text with every `${…}` replaced, and whether there was one.
fn expand(text: &str, source: &impl Source) -> Result<(String, bool), Problem> {
    let (mut out, mut rest, mut touched) = (String::new(), text, false);
    while let Some(at) = rest.find("${") {
        if rest[..at].ends_with('$') {
            out.push_str(&rest[..at - 1]);
            out.push_str("${");
            rest = &rest[at + 2..];
            continue;
        }
        out.push_str(&rest[..at]);
        let end = rest[at..].find('}').ok_or_else(|| {
            Problem::whole("`${` is not closed")
                .help("close it with `}`, or write `$${` for the characters themselves")
        })?;
        out.push_str(&lookup(&rest[at + 2..at + end], source)?);
        touched = true;
        rest = &rest[at + end + 1..];
    }
    out.push_str(rest);
    Ok((out, touched))
}

fn lookup(inside: &str, source: &impl Source) -> Result<String, Problem> {
    if let Some(path) = inside.strip_prefix("file:") {
        return read_file(path);
    }
    let (name, default) = match inside.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (inside, None),
    };
    if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
        return Err(Problem::whole(format!("`${{{inside}}}` names no variable"))
            .help("write `${VAR}`, `${VAR:-default}` or `${file:/path}`"));
    }
    match (source.var(name), default) {
        // As in a shell: an empty variable counts as unset where there is a default.
        (Some(value), None) => Ok(value),
        (Some(value), Some(_)) if !value.is_empty() => Ok(value),
        (_, Some(default)) => Ok(default.to_owned()),
        (None, None) => {
            let names = source.names();
            let near = nearest(name, names.iter().map(String::as_str));
            let help = near.map_or_else(
                || format!("set it, or write `${{{name}:-default}}`"),
                |near| format!("did you mean `{near}`? Or write `${{{name}:-default}}`"),
            );
            Err(Problem::whole(format!("the environment has no variable `{name}`")).help(help))
        }
    }
}

fn read_file(path: &str) -> Result<String, Problem> {
    let fault = |why: String| Problem::whole(format!("{path} cannot be read: {why}"));
    let meta = std::fs::metadata(path).map_err(|error| fault(error.to_string()))?;
    if !meta.is_file() {
        return Err(fault("it is no file".to_owned()));
    }
    if meta.len() > SECRET_FILE_MAX {
        return Err(fault(format!("it has {} bytes, more than {SECRET_FILE_MAX}", meta.len())));
    }
    let text = std::fs::read_to_string(path).map_err(|error| fault(error.to_string()))?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed;

    impl Source for Fixed {
        fn var(&self, name: &str) -> Option<String> {
            match name {
                "HOST" => Some("db.example".to_owned()),
                "EMPTY" => Some(String::new()),
                _ => None,
            }
        }
        fn names(&self) -> Vec<String> {
            vec!["HOST".to_owned(), "EMPTY".to_owned()]
        }
    }

    fn expanded(text: &str) -> String {
        expand(text, &Fixed).unwrap().0
    }

    #[test]
    fn variables_defaults_and_files_are_put_in() {
        assert_eq!(expanded("x ${HOST} y"), "x db.example y");
        assert_eq!(expanded("${PORT:-6379}"), "6379");
        assert_eq!(expanded("${EMPTY:-e}${EMPTY}"), "e");
        assert_eq!(expanded("$${HOST} $HOST"), "${HOST} $HOST");
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "s3cret\n").unwrap();
        assert_eq!(expanded(&format!("${{file:{}}}", file.path().display())), "s3cret");
    }

    #[test]
    fn what_cannot_be_put_in_says_what_to_do() {
        let problem = |text: &str| expand(text, &Fixed).unwrap_err();
        assert_eq!(problem("${HOTS}").help.unwrap(), "did you mean `HOST`? Or write `${HOTS:-default}`");
        assert!(problem("${HOST").message.contains("not closed"));
        assert!(problem("${a b}").message.contains("names no variable"));
        assert!(problem("${file:/nowhere}").message.contains("/nowhere cannot be read"));
    }
}
