//! `ganger enqueue --each`: a job for each line, as xargs makes a command of each.

use ganger_core::{JOB_BYTES_MAX, Job};
use serde_json::{Value, json, value::to_raw_value};

use super::failure::Failure;

/// What stands for the line.
const HOLE: &str = "{}";

/// A job with holes in its params.
pub(super) struct Template {
    job: Job,
    params: Value,
    /// Of a command: an argument that is a line must be no option.
    is_command: bool,
}

impl Template {
    /// The template that a job is. A command without a hole gets the line as its last argument.
    pub(super) fn new(job: Job, is_command: bool) -> Result<Template, Failure> {
        let mut params: Value = serde_json::from_str(job.params_text())
            .map_err(|error| Failure::usage(format!("the params are no JSON: {error}")))?;
        if !has_hole(&params) {
            match params.get_mut("params").and_then(Value::as_array_mut).filter(|_| is_command) {
                Some(arguments) => arguments.push(json!(HOLE)),
                None => {
                    return Err(Failure::usage("--each: no value of the params has a `{}` for the line")
                        .help("write one, as '{\"url\": \"https://example.org/{}\"}'"));
                }
            }
        }
        Ok(Template { job, params, is_command })
    }

    /// The job of a line.
    pub(super) fn job(&self, line: &[u8]) -> Result<Job, String> {
        let line = std::str::from_utf8(line).map_err(|_| "no UTF-8: a job cannot hold it".to_owned())?;
        if self.is_command && line.starts_with('-') && self.takes_for_option() {
            return Err(format!(
                "{line:?} begins with `-`, which the command may take for an option: write `--` or `./` before the `{{}}`"
            ));
        }
        let mut params = self.params.clone();
        fill(&mut params, line);
        let params = to_raw_value(&params).map_err(|error| error.to_string())?;
        let job = Job { params: Some(params), ..self.job.clone() };
        let size = job.to_json().len();
        match size > JOB_BYTES_MAX {
            true => Err(format!("a job of {size} bytes, more than the {JOB_BYTES_MAX} that one may have")),
            false => Ok(job),
        }
    }

    /// Whether an argument is the line as a whole, and no `--` has come before it.
    fn takes_for_option(&self) -> bool {
        let arguments = self.params["params"].as_array().map(Vec::as_slice).unwrap_or_default();
        arguments
            .iter()
            .take_while(|argument| *argument != "--")
            .any(|argument| argument.as_str().is_some_and(|argument| argument.starts_with(HOLE)))
    }
}

fn has_hole(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains(HOLE),
        Value::Array(values) => values.iter().any(has_hole),
        Value::Object(fields) => fields.values().any(has_hole),
        _ => false,
    }
}

fn fill(value: &mut Value, line: &str) {
    match value {
        Value::String(text) if text.contains(HOLE) => *text = text.replace(HOLE, line),
        Value::Array(values) => values.iter_mut().for_each(|value| fill(value, line)),
        Value::Object(fields) => fields.values_mut().for_each(|value| fill(value, line)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(params: &str, is_command: bool) -> Template {
        let job = format!("{{\"type\":\"t\",\"params\":{params}}}");
        Template::new(Job::from_json(job.as_bytes()).unwrap(), is_command).ok().unwrap()
    }

    fn params(template: &Template, line: &str) -> Result<Value, String> {
        Ok(serde_json::from_str(template.job(line.as_bytes())?.params_text()).unwrap())
    }

    #[test]
    fn a_line_is_a_value_whatever_is_in_it() {
        let posts = template(r#"{"url":"http://h/{}","tags":["{}",1],"{}":true}"#, false);
        let line = r#" it's "$(x)" \ {} "#;
        let filled = json!({"url": format!("http://h/{line}"), "tags": [line, 1], "{}": true});
        assert_eq!(params(&posts, line).unwrap(), filled);
        assert!(posts.job(b"\xff").unwrap_err().contains("UTF-8"));
        assert!(posts.job(&vec![b'x'; JOB_BYTES_MAX]).unwrap_err().contains("more than"));
    }

    #[test]
    fn a_command_without_a_hole_has_the_line_at_its_end() {
        let gzip = template(r#"{"command":"gzip","params":["-9"]}"#, true);
        assert_eq!(params(&gzip, "a b").unwrap(), json!({"command": "gzip", "params": ["-9", "a b"]}));
        let job = Job::from_json(br#"{"type":"t","params":{"url":"x"}}"#).unwrap();
        assert!(Template::new(job, false).is_err());
    }

    #[test]
    fn no_line_becomes_an_option() {
        for (arguments, is_refused) in [
            (r#"[]"#, true),
            (r#"["{}.gz"]"#, true),
            (r#"["x","{}"]"#, true),
            (r#"["--","{}"]"#, false),
            (r#"["./{}"]"#, false),
            (r#"["--file={}"]"#, false),
        ] {
            let rm = template(&format!(r#"{{"command":"rm","params":{arguments}}}"#), true);
            assert_eq!(rm.job(b"-rf").is_err(), is_refused, "{arguments}");
            assert!(rm.job(b"rf").is_ok());
        }
    }
}
