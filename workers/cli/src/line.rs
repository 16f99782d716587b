//! Which program a job runs, and with which arguments: the job's own, the config's, or the config's with values of the
//! job in them.

use std::borrow::Cow;

use ganger_child::{Text, shortened};
use ganger_core::{JobContext, OptionsError};

use crate::{
    config::{Config, UnknownParams},
    params::{NAMES, Params},
};

/// A program and its arguments.
#[derive(Debug)]
pub(crate) struct Line<'a> {
    /// What it is called: a path, or a name that is looked up.
    pub(crate) name: &'a str,
    pub(crate) arguments: Vec<Cow<'a, str>>,
    /// Whether the job chose the program, so that `allow` is asked.
    pub(crate) is_chosen: bool,
}

/// The arguments of an entry that have values of the job in them.
#[derive(Debug)]
pub(crate) struct Template(Vec<Argument>);

#[derive(Debug)]
enum Argument {
    Fixed(String),
    Id,
    Name,
    Param(String),
}

impl Argument {
    fn of(text: &str) -> Argument {
        let inner = text.strip_prefix('{').and_then(|text| text.strip_suffix('}'));
        match inner {
            Some("id") => Argument::Id,
            Some("name") => Argument::Name,
            Some(inner) if is_param(inner) => Argument::Param(inner["params.".len()..].to_owned()),
            _ => Argument::Fixed(text.to_owned()),
        }
    }
}

fn is_param(inner: &str) -> bool {
    inner.strip_prefix("params.").is_some_and(|name| {
        !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || ['_', '-'].contains(&c))
    })
}

impl Template {
    /// The template of an entry; `None` where its arguments are what they are.
    pub(crate) fn of(config: &Config) -> Option<Template> {
        // Nearly every entry has no arguments: nothing is allocated then.
        let arguments: Vec<_> = config.params.iter().map(|Text(text)| Argument::of(text)).collect();
        let is_one = arguments.iter().any(|argument| !matches!(argument, Argument::Fixed(_)));
        is_one.then_some(Template(arguments))
    }

    fn names(&self, param: &str) -> bool {
        self.0.iter().any(|argument| matches!(argument, Argument::Param(name) if name == param))
    }

    /// The arguments for a job; without one, as far as its params show them.
    fn fill(
        &self,
        config: &Config,
        params: &Params,
        job: Option<&JobContext>,
    ) -> Result<Vec<Cow<'static, str>>, OptionsError> {
        self.0
            .iter()
            .map(|argument| {
                let (what, value) = match argument {
                    Argument::Fixed(text) => return Ok(Cow::Owned(text.clone())),
                    Argument::Id => ("id", job.map(|job| job.id().to_string()).unwrap_or_default()),
                    Argument::Name => (
                        "name",
                        job.and_then(|job| job.job().name.as_deref().map(str::to_owned)).unwrap_or_default(),
                    ),
                    Argument::Param(name) => (name.as_str(), param(params, name)?),
                };
                match value.starts_with('-') && !config.options_from_jobs {
                    true => Err(OptionsError::of(
                        what,
                        format!(
                            "`{}` begins with `-`, so that the command could take it for an option: \
                             `options_from_jobs = true` in the worker's config would let it pass",
                            shortened(&value)
                        ),
                    )),
                    false => Ok(Cow::Owned(value)),
                }
            })
            .collect()
    }
}

/// The value of a param that an argument of the config names.
fn param(params: &Params, name: &str) -> Result<String, OptionsError> {
    let Some((_, value)) = params.unknown.iter().find(|(known, _)| known == name) else {
        return Err(OptionsError::whole(format!("missing `{name}`, which the worker's config names")));
    };
    match serde_json::from_str::<Text>(value.get()) {
        Ok(Text(value)) => Ok(value),
        Err(error) => Err(OptionsError::of(name, error.to_string())),
    }
}

/// What of an entry's arguments cannot work.
pub(crate) fn fault(config: &Config) -> Option<String> {
    if config.command.as_ref().is_some_and(|command| !matches!(Argument::of(command), Argument::Fixed(_))) {
        return Some("`command` is a program: no job can choose it by a value".to_owned());
    }
    let is_held = config.allow.is_some() || Template::of(config).is_some();
    let by_place = |command: &&String| command.contains('/') && !command.starts_with('/');
    if let Some(command) = config.command.as_ref().filter(|command| is_held && by_place(command)) {
        return Some(format!(
            "`command` is `{}`, which depends on the `cwd` of jobs: write the whole path",
            shortened(command)
        ));
    }
    for Text(text) in &config.params {
        match Argument::of(text) {
            Argument::Fixed(fixed) if fixed.contains("{params.") => {
                return Some(format!(
                    "`{}` in `params`: a value of the job is a whole argument",
                    shortened(text)
                ));
            }
            Argument::Param(name) if NAMES.iter().any(|known| known.eq_ignore_ascii_case(&name)) => {
                return Some(format!("`{text}` in `params`: `{name}` is a param with a meaning of its own"));
            }
            Argument::Param(_) | Argument::Id | Argument::Name if config.command.is_none() => {
                return Some(format!("`{text}` in `params`: it takes a `command` in the config too"));
            }
            _ => {}
        }
    }
    None
}

impl<'a> Line<'a> {
    /// Reads which program a job runs; without the job itself, as far as its params show it.
    ///
    /// # Errors
    /// What is wrong with the params.
    pub(crate) fn of(
        config: &'a Config,
        template: Option<&Template>,
        params: &'a Params,
        job: Option<&JobContext>,
    ) -> Result<Line<'a>, OptionsError> {
        // The params of a failure-handler job are its config entry, with all options in it.
        let is_handler = job.is_some_and(|job| job.input().is_some());
        if !is_handler {
            refuse_unknown(config, template, params)?;
            refuse_loader(config, template, params)?;
        }
        if params.timeout.is_some_and(|longest| longest.get().is_zero()) {
            return Err(OptionsError::of("timeout", "it must be more than nothing"));
        }
        if let Some(script) = &params.script {
            return Line::of_script(config, params, script);
        }
        let plain = |texts: &'a [Text]| texts.iter().map(|Text(text)| Cow::Borrowed(text.as_str())).collect();
        match (&params.command, &config.command) {
            (Some(command), _) if !command.is_empty() => {
                Ok(Line { name: command, arguments: plain(&params.params), is_chosen: !is_handler })
            }
            (None, Some(command)) if !command.is_empty() => {
                let arguments = match template {
                    Some(template) => template.fill(config, params, job)?,
                    // The arguments belong to the command, unless the job has its own.
                    None if params.params.is_empty() => plain(&config.params),
                    None => plain(&params.params),
                };
                Ok(Line { name: command, arguments, is_chosen: false })
            }
            _ => Err(OptionsError::whole("the job names no `command`, and its worker's config has none")),
        }
    }

    /// The script is one argument of the shell, and what else the job brings are others: `$1` and so on.
    fn of_script(config: &'a Config, params: &'a Params, script: &'a str) -> Result<Line<'a>, OptionsError> {
        if params.command.is_some() {
            return Err(OptionsError::whole("it has both `command` and `script`: one of them runs"));
        }
        let Some(shell) = config.shell.as_deref() else {
            let why = "no shell is switched on: the `shell` of the worker's config names one, like \"sh\"";
            return Err(OptionsError::of("script", why));
        };
        let own = params.params.iter().map(|Text(text)| text.as_str());
        let arguments = ["-c", script, shell].into_iter().chain(own).map(Cow::Borrowed).collect();
        Ok(Line { name: shell, arguments, is_chosen: false })
    }
}

/// Variables by which the loader runs something else than the program: not where the config says what may run.
fn refuse_loader(config: &Config, template: Option<&Template>, params: &Params) -> Result<(), OptionsError> {
    let is_held = template.is_some() || config.allow.is_some();
    match params.env.0.iter().find(|(name, _)| is_held && name.starts_with("LD_")) {
        Some((name, _)) => {
            let why = format!(
                "`{}` could run something else than the command, and the worker's config says which may run",
                shortened(name)
            );
            Err(OptionsError::of("env", why))
        }
        None => Ok(()),
    }
}

fn refuse_unknown(config: &Config, template: Option<&Template>, params: &Params) -> Result<(), OptionsError> {
    if template.is_some() {
        let given = [
            ("command", params.command.is_some()),
            ("params", !params.params.is_empty()),
            ("script", params.script.is_some()),
        ];
        if let Some((name, _)) = given.into_iter().find(|(_, given)| *given) {
            let why = "the worker's config says which command runs and with which arguments";
            return Err(OptionsError::of(name, why));
        }
    }
    if config.unknown_params == UnknownParams::Ignore {
        return Ok(());
    }
    let mut unknown = params.unknown.iter().map(|(name, _)| name);
    match unknown.find(|name| !template.is_some_and(|template| template.names(name))) {
        None => Ok(()),
        Some(name) => Err(OptionsError::whole(format!(
            "`{}` is no param of a command; there are `{}`",
            shortened(name),
            NAMES.join("`, `")
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Result<Config, String> {
        serde_json::from_str(text).map_err(|error: serde_json::Error| error.to_string())
    }

    fn line(config: &Config, params: &str) -> Result<(String, Vec<String>), String> {
        let params: Params = serde_json::from_str(params).unwrap();
        let template = Template::of(config);
        let line = Line::of(config, template.as_ref(), &params, None);
        line.map(|line| (line.name.to_owned(), line.arguments.into_iter().map(Cow::into_owned).collect()))
            .map_err(|error| error.of_job("cli"))
    }

    #[test]
    fn a_value_of_a_job_is_one_argument_and_no_option() {
        let entry =
            config(r#"{"command":"convert","params":["-resize","{params.width}","{params.in}"]}"#).unwrap();
        let (name, arguments) = line(&entry, r#"{"width":100,"in":"a b; rm *"}"#).unwrap();
        assert_eq!(
            (name.as_str(), arguments),
            ("convert", vec!["-resize".into(), "100".into(), "a b; rm *".into()])
        );
        for (params, part) in [
            (r#"{"width":100,"in":"-version"}"#, "`in`: `-version` begins with `-`"),
            (r#"{"width":-1,"in":"x"}"#, "`options_from_jobs = true`"),
            (r#"{"width":100}"#, "missing `in`"),
            (r#"{"width":[1],"in":"x"}"#, "`width`: expected a text or a number"),
            (r#"{"width":1,"in":"x","out":"y"}"#, "`out` is no param"),
            (r#"{"width":1,"in":"x","command":"sh"}"#, "says which command runs"),
            (r#"{"width":1,"in":"x","params":["a"]}"#, "says which command runs"),
        ] {
            let error = line(&entry, params).unwrap_err();
            assert!(error.contains(part), "{params}: {error}");
        }
        let bold = config(r#"{"command":"c","params":["{params.a}"],"options_from_jobs":true}"#).unwrap();
        assert_eq!(line(&bold, r#"{"a":"-x"}"#).unwrap().1, ["-x"]);
    }

    #[test]
    fn arguments_that_only_look_alike_stay_as_they_are() {
        let entry = config(r#"{"command":"awk","params":["{print}","{}","{params}","{params.}"]}"#);
        assert!(entry.is_err_and(|error| error.contains("whole argument")));
        let entry = config(r#"{"command":"awk","params":["{print}","{}","x{id}"]}"#).unwrap();
        assert_eq!(line(&entry, "{}").unwrap().1, ["{print}", "{}", "x{id}"]);
    }

    #[test]
    fn a_template_that_could_not_work_is_refused() {
        for (text, part) in [
            (r#"{"command":"c","params":["--width={params.w}"]}"#, "whole argument"),
            (r#"{"command":"{params.c}"}"#, "no job can choose it"),
            (r#"{"command":"{name}"}"#, "no job can choose it"),
            (r#"{"params":["{params.w}"]}"#, "it takes a `command`"),
            (r#"{"command":"./c","params":["{params.w}"]}"#, "write the whole path"),
            (r#"{"command":"bin/c","allow":[]}"#, "write the whole path"),
            (r#"{"command":"c","params":["{params.stdin}"]}"#, "a meaning of its own"),
        ] {
            let error = config(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn a_script_runs_only_where_a_shell_is_switched_on() {
        let error = line(&Config::default(), r#"{"script":"ls"}"#).unwrap_err();
        assert!(error.contains("no shell is switched on"), "{error}");
        let entry = config(r#"{"shell":"bash"}"#).unwrap();
        let (name, arguments) = line(&entry, r#"{"script":"echo \"$1\"","params":["a b"]}"#).unwrap();
        assert_eq!((name.as_str(), arguments.join("|")), ("bash", r#"-c|echo "$1"|bash|a b"#.to_owned()));
        assert!(line(&entry, r#"{"script":"ls","command":"ls"}"#).unwrap_err().contains("both"));
    }
}
