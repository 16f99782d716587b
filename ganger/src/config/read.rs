//! Reads a config file, whatever it is written in.

use std::path::Path;

use super::{
    error::Problem,
    json,
    node::{Node, Span},
    toml, yaml,
};

/// How deep a config may nest.
pub(super) const DEPTH_MAX: usize = 64;

/// The largest config file, in bytes.
pub(super) const FILE_MAX: usize = 4 << 20;

/// What a config is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Syntax {
    /// JSON, GoWorker's own.
    Json,
    /// TOML.
    Toml,
    /// YAML.
    Yaml,
}

impl Syntax {
    /// What a file is written in, by its extension.
    pub(super) fn of(file: &Path) -> Result<Syntax, Problem> {
        let extension = file.extension().map(|extension| extension.to_string_lossy().to_lowercase());
        match extension.as_deref() {
            Some("json") => Ok(Syntax::Json),
            Some("toml") => Ok(Syntax::Toml),
            Some("yaml" | "yml") => Ok(Syntax::Yaml),
            _ => Err(Problem::whole("what it is written in cannot be told by its name")
                .help("end the file's name in .json, .toml or .yaml")),
        }
    }
}

/// The file's bytes as text.
pub(super) fn text(bytes: Vec<u8>) -> Result<String, (String, Problem)> {
    if bytes.len() > FILE_MAX {
        return Err((
            String::new(),
            Problem::whole(format!("a config has at most {FILE_MAX} bytes, this has {}", bytes.len())),
        ));
    }
    match String::from_utf8(bytes) {
        // Some editors put a byte order mark first: replaced by a space, so that places stay right.
        Ok(text) => Ok(text.strip_prefix('\u{feff}').map(|rest| format!("   {rest}")).unwrap_or(text)),
        Err(error) => {
            let at = error.utf8_error().valid_up_to();
            let text = String::from_utf8_lossy(error.as_bytes()).into_owned();
            Err((text, Problem::at(at..at + 1, "not UTF-8 from here on").help("save the file as UTF-8")))
        }
    }
}

pub(super) fn read(text: &str, syntax: Syntax) -> Result<Node, Problem> {
    if let Some(at) = text.find('\0') {
        return Err(Problem::at(at..at + 1, "a NUL byte: this is no text file"));
    }
    match syntax {
        Syntax::Json => json::read(text),
        Syntax::Toml => toml::read(text),
        Syntax::Yaml => yaml::read(text),
    }
}

pub(super) fn duplicate(key: &str, span: Span) -> Problem {
    Problem::at(span, format!("`{key}` is given twice")).help("keep one of them")
}

pub(super) fn no_number(span: Span) -> Problem {
    Problem::at(span, "a number that cannot be used: it is too large, or none")
}
