//! One entry of the config: a plugin's name and its options, split into those that every entry of its kind has
//! and the plugin's own.

use std::fmt;

use ganger_core::{
    IntakeOptions, OptionsError, Plugin, ProviderOptions, Registry, Role, WorkerOptions, canonical_kind,
    in_words, name_fault, read_options,
};
use schemars::{Schema, SchemaGenerator};
use serde::de::DeserializeOwned;
use serde_json::{Value, value::RawValue};

use super::{
    error::{Problem, listed, suggest},
    node::{Entry, Kind, Node, Span},
    schema::{is_secret, properties},
};

/// Where jobs come from: a provider or an intake.
#[derive(Clone)]
pub struct SourceEntry {
    /// The instance's name.
    pub name: String,
    /// The plugin.
    pub plugin: Plugin,
    /// The plugin's own options.
    pub options: Value,
    /// The options that every entry of its kind has.
    pub generic: SourceOptions,
    /// Whether it names the address that it listens on.
    pub configured: bool,
    pub(crate) span: Span,
    pub(crate) into_span: Span,
}

/// The options that every provider or intake has.
#[derive(Clone, Debug)]
pub enum SourceOptions {
    /// Of a provider.
    Provider(ProviderOptions),
    /// Of an intake.
    Intake(IntakeOptions),
}

/// A worker, or a failure handler.
#[derive(Clone)]
pub struct WorkerEntry {
    /// The instance's name: the type of the jobs it does.
    pub name: String,
    /// The plugin.
    pub plugin: Plugin,
    /// The plugin's own options.
    pub options: Value,
    /// The options that every worker has.
    pub generic: WorkerOptions,
    /// A failure handler's params: what each of its jobs is told.
    pub params: Option<Box<RawValue>>,
    pub(crate) span: Span,
    /// The sinks that its options name, with their places.
    pub(crate) sinks: Vec<(String, Span)>,
}

// By hand: options may hold secrets, which are printed nowhere.
impl fmt::Debug for SourceEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({:?})", self.name, self.plugin)
    }
}

impl fmt::Debug for WorkerEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({:?})", self.name, self.plugin)
    }
}

/// Where an entry stands.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Providers,
    Workers,
    Handlers,
}

impl Place {
    fn noun(self) -> &'static str {
        match self {
            Place::Providers => "provider",
            Place::Workers => "worker",
            Place::Handlers => "failure handler",
        }
    }
}

/// Reads entries, gathering what is wrong with them.
pub(super) struct Reader<'a> {
    pub(super) registry: &'a Registry,
    pub(super) problems: &'a mut Vec<Problem>,
    pub(super) notes: &'a mut Vec<String>,
    /// Places of secrets, which are never shown.
    pub(super) secrets: &'a mut Vec<Span>,
}

/// An entry's plugin and its options, not yet read.
struct Raw {
    plugin: Plugin,
    place: Place,
    span: Span,
    options: Node,
}

/// The options of an entry, sorted by whom they are for.
struct Split {
    generic: Node,
    own: Node,
    params: Node,
}

impl Reader<'_> {
    pub(super) fn source(&mut self, node: &Node) -> Option<SourceEntry> {
        let raw = self.raw(node, Place::Providers)?;
        let is_intake = matches!(raw.plugin.role, Role::Intake { .. });
        let split = match is_intake {
            true => self.split::<IntakeOptions>(&raw),
            false => self.split::<ProviderOptions>(&raw),
        };
        let own = self.own(&raw, split.own);
        let (generic, name) = match is_intake {
            true => {
                let options: IntakeOptions = self.generic(&raw, split.generic)?;
                (SourceOptions::Intake(options.clone()), options.name)
            }
            false => {
                let options: ProviderOptions = self.generic(&raw, split.generic)?;
                (SourceOptions::Provider(options.clone()), options.name)
            }
        };
        if let SourceOptions::Provider(options) = &generic
            && !(options.target.is_finite() && options.target >= 0.0)
        {
            let at = raw.options.at(&["target".to_owned()]);
            self.problems
                .push(Problem::at(at.span.clone(), "`target` is a number of jobs a second, 0 for no limit"));
        }
        let into_span = raw.options.at(&["into".to_owned()]).span.clone();
        let configured = raw.options.get("listen_on").is_some();
        let name = self.name(&raw, name)?;
        Some(SourceEntry {
            name,
            plugin: raw.plugin,
            options: own?,
            generic,
            configured,
            span: raw.span,
            into_span,
        })
    }

    pub(super) fn worker(&mut self, node: &Node, place: Place) -> Option<WorkerEntry> {
        let raw = self.raw(node, place)?;
        let split = self.split::<WorkerOptions>(&raw);
        let sinks = sinks(&raw.options).collect();
        let params = (place == Place::Handlers).then(|| self.params(&raw, split.params));
        let own = self.own(&raw, split.own);
        let generic: WorkerOptions = self.generic(&raw, split.generic)?;
        self.check_counts(&raw, &generic);
        let name = self.name(&raw, generic.name.clone())?;
        Some(WorkerEntry {
            name,
            plugin: raw.plugin,
            options: own?,
            generic,
            params: params.flatten(),
            span: raw.span,
            sinks,
        })
    }

    fn check_counts(&mut self, raw: &Raw, generic: &WorkerOptions) {
        for (key, value) in [("workers", generic.workers), ("max_crashes", generic.max_crashes)] {
            if value == 0 {
                let span = raw.options.at(&[key.to_owned()]).span.clone();
                let help = match key {
                    "workers" => format!("leave the whole entry out if no {} is wanted", raw.place.noun()),
                    _ => "with 1, a job is dead at its first crash".to_owned(),
                };
                self.problems.push(Problem::at(span, format!("`{key}` must be 1 or more")).help(help));
            }
        }
        if generic.timeout.is_some_and(|limit| limit.get().is_zero()) {
            let span = raw.options.at(&["timeout".to_owned()]).span.clone();
            let problem = Problem::at(span, "`timeout` must be more than nothing");
            self.problems.push(problem.help("leave it out: then runs may last as long as they will"));
        }
    }

    /// The entry's one key, found among the plugins.
    fn raw(&mut self, node: &Node, place: Place) -> Option<Raw> {
        let noun = place.noun();
        let shape = format!(
            "an entry is the name of a {noun} and its options, like `{{\"{}\": {{…}}}}`",
            example(place)
        );
        let Some(entries) = node.entries() else {
            self.problems
                .push(Problem::at(node.span.clone(), format!("{} is no {noun}", node.what())).help(shape));
            return None;
        };
        let [entry] = entries else {
            let problem = match entries.get(1) {
                None => Problem::at(node.span.clone(), format!("an empty {noun} entry")).help(shape),
                Some(second) => {
                    let names = [entries[0].key.as_str(), second.key.as_str()];
                    Problem::at(second.key_span.clone(), format!("one entry names both {}", listed(&names)))
                        .help("give each an entry of its own")
                }
            };
            self.problems.push(problem);
            return None;
        };
        let Some(plugin) = self.find(&entry.key, place) else {
            self.problems.push(self.unknown(entry, place));
            return None;
        };
        let options = match &entry.value.kind {
            Kind::Map(_) => entry.value.clone(),
            Kind::Null => Node::new(entry.key_span.clone(), Kind::Map(Vec::new())),
            _ => {
                let message = format!("the options of {noun} `{}` are {}", entry.key, entry.value.what());
                self.problems.push(Problem::at(entry.value.span.clone(), message).help(shape));
                return None;
            }
        };
        Some(Raw { plugin, place, span: entry.key_span.clone(), options })
    }

    fn find(&self, key: &str, place: Place) -> Option<Plugin> {
        let name = canonical_kind(key);
        match place {
            Place::Providers => self.registry.provider(name),
            _ => self.registry.worker(name),
        }
    }

    fn unknown(&self, entry: &Entry, place: Place) -> Problem {
        let noun = place.noun();
        let is_source = place == Place::Providers;
        let fits = |plugin: &&Plugin| matches!(plugin.role, Role::Worker { .. }) != is_source;
        let names: Vec<&str> = self.registry.all().iter().filter(fits).map(|plugin| plugin.name).collect();
        let message = format!("there is no {noun} `{}`", entry.key);
        let help = match (entry.key.as_str(), is_source) {
            // What GoWorker's own example names and never had.
            ("file", _) => "`disk` keeps jobs in a file".to_owned(),
            (key, _) => suggest(key, &format!("{noun}s"), &names),
        };
        Problem::at(entry.key_span.clone(), message).help(help)
    }

    /// Sorts the options; a key in another case than its option's is read as that option, as in GoWorker.
    fn split<G: schemars::JsonSchema>(&mut self, raw: &Raw) -> Split {
        let generic_names = properties(&SchemaGenerator::default().into_root_schema_for::<G>());
        let own_schema = raw.plugin.config_schema();
        let own_names = properties(&own_schema);
        let params_schema = match (&raw.plugin.role, raw.place) {
            (Role::Worker { params_schema, .. }, Place::Handlers) => Some(params_schema()),
            _ => None,
        };
        let params_names = params_schema.as_ref().map(properties).unwrap_or_default();
        let (mut generic, mut own, mut params) = (Vec::new(), Vec::new(), Vec::new());
        for entry in raw.options.entries().unwrap_or_default() {
            let mut entry = entry.clone();
            let all = || generic_names.iter().chain(&own_names).chain(&params_names);
            if !all().any(|name| *name == entry.key)
                && let Some(name) = all().find(|name| name.eq_ignore_ascii_case(&entry.key))
            {
                entry.key = name.clone();
            }
            self.mark_secret(&entry, &[Some(&own_schema), params_schema.as_ref()]);
            let is_own = own_names.contains(&entry.key);
            let is_param = params_names.contains(&entry.key);
            let is_generic = generic_names.contains(&entry.key);
            if is_generic {
                generic.push(entry.clone());
            }
            if is_param {
                params.push(entry.clone());
            }
            if is_own || !(is_param || is_generic) {
                own.push(entry);
            }
        }
        let node = |entries| Node::new(raw.span.clone(), Kind::Map(entries));
        Split { generic: node(generic), own: node(own), params: node(params) }
    }

    fn mark_secret(&mut self, entry: &Entry, schemas: &[Option<&Schema>]) {
        if schemas.iter().flatten().any(|schema| is_secret(schema, &entry.key)) {
            entry.value.scalars(&mut |value| self.secrets.push(value.span.clone()));
        }
    }

    /// The options that every entry has. Numbers may stand in quotes.
    fn generic<G: DeserializeOwned>(&mut self, raw: &Raw, mut node: Node) -> Option<G> {
        for key in ["workers", "retries", "max_crashes", "target"] {
            let number = node.at_mut(&[key.to_owned()]);
            if let Some(value) = number.text().and_then(as_number) {
                number.kind = Kind::Number(value);
            }
            if let Kind::Number(value) = &number.kind
                && let Some(whole) =
                    value.as_f64().filter(|value| value.fract() == 0.0 && *value >= 0.0 && *value < 1e9)
                && key != "target"
            {
                number.kind = Kind::Number((whole as u64).into());
            }
        }
        match read_options::<G>(node.value()) {
            Ok(options) => Some(options),
            Err(error) => {
                let problem = self.problem(raw, &node, error);
                self.problems.push(problem);
                None
            }
        }
    }

    /// The plugin's own options, checked.
    fn own(&mut self, raw: &Raw, node: Node) -> Option<Value> {
        self.checked(raw, node, |value| raw.plugin.check(value))
    }

    /// A failure handler's params, checked.
    fn params(&mut self, raw: &Raw, node: Node) -> Option<Box<RawValue>> {
        let Role::Worker { check_params, .. } = raw.plugin.role else { return None };
        let value = self.checked(raw, node, check_params)?;
        serde_json::value::to_raw_value(&value).ok()
    }

    fn checked(
        &mut self,
        raw: &Raw,
        mut node: Node,
        check: impl Fn(&Value) -> Result<(), OptionsError>,
    ) -> Option<Value> {
        loop {
            let value = node.value();
            let Err(error) = check(&value) else { return Some(value) };
            // A variable is a text; where a number or a switch is wanted, it may be one.
            let place = node.at_mut(&error.path);
            let meant = place
                .text()
                .filter(|_| place.interpolated && error.message.starts_with("invalid type: string"));
            if let Some(kind) = meant.and_then(as_scalar) {
                place.kind = kind;
                continue;
            }
            let problem = self.problem(raw, &node, error);
            self.problems.push(problem);
            return None;
        }
    }

    fn name(&mut self, raw: &Raw, given: Option<String>) -> Option<String> {
        let Some(name) = given else { return Some(raw.plugin.name.to_owned()) };
        let span = raw.options.at(&["name".to_owned()]).span.clone();
        if let Some(fault) = name_fault(&name) {
            self.problems.push(Problem::at(span, format!("`name`: {fault}")));
            return None;
        }
        if name.starts_with(ganger_core::HANDLER_PREFIX) {
            let message = format!("names that begin with `{}` are ganger's own", ganger_core::HANDLER_PREFIX);
            self.problems.push(Problem::at(span, message).help("choose another name"));
            return None;
        }
        let canonical = canonical_kind(&name);
        if canonical != name {
            self.notes
                .push(format!("the {} `{name}` is named `{canonical}`: they are the same", raw.place.noun()));
        }
        Some(canonical.to_owned())
    }

    /// An option that does not fit, as a problem with its place.
    fn problem(&self, raw: &Raw, node: &Node, error: OptionsError) -> Problem {
        let subject = format!("{} `{}`", raw.place.noun(), raw.plugin.name);
        let place = node.at(&error.path);
        let quoted: Vec<&str> = error.message.split('`').skip(1).step_by(2).collect();
        if let (true, Some(name)) = (error.message.starts_with("unknown field"), quoted.first()) {
            let parent = if place.get(name).is_some() {
                place
            } else {
                node.at(&error.path[..error.path.len().saturating_sub(1)])
            };
            let span = parent.get(name).map_or_else(|| place.span.clone(), |entry| entry.key_span.clone());
            let mut known: Vec<&str> = quoted[1..].to_vec();
            let others = self.other_names(raw);
            if error.path.len() <= 1 {
                known.extend(others.iter().map(String::as_str));
            }
            return Problem::at(span, format!("{subject} has no option `{name}`"))
                .help(suggest(name, "options", &known));
        }
        if let (true, Some(name)) = (error.message.starts_with("missing field"), quoted.first()) {
            let span = if error.path.is_empty() { raw.span.clone() } else { place.span.clone() };
            let help = format!("add it; `ganger plugin show {}` lists the options", raw.plugin.name);
            return Problem::at(span, format!("{subject} needs the option `{name}`")).help(help);
        }
        let path = error.path.join(".");
        let is_hidden = self.secrets.contains(&place.span);
        let message = match is_hidden {
            true => "does not fit (its value is a secret and not shown)".to_owned(),
            false => redact(&error.message, node),
        };
        let what = if path.is_empty() { subject } else { format!("{subject}, `{path}`") };
        Problem::at(place.span.clone(), format!("{what}: {message}"))
    }

    /// The options that an entry has besides its plugin's own.
    fn other_names(&self, raw: &Raw) -> Vec<String> {
        let generator = SchemaGenerator::default();
        let generic = match (raw.place, &raw.plugin.role) {
            (Place::Providers, Role::Intake { .. }) => generator.into_root_schema_for::<IntakeOptions>(),
            (Place::Providers, _) => generator.into_root_schema_for::<ProviderOptions>(),
            _ => generator.into_root_schema_for::<WorkerOptions>(),
        };
        let mut names = properties(&generic);
        if let (Place::Handlers, Role::Worker { params_schema, .. }) = (raw.place, &raw.plugin.role) {
            names.extend(properties(&params_schema()));
        }
        names
    }
}

fn example(place: Place) -> &'static str {
    match place {
        Place::Providers => "disk",
        Place::Workers => "cli",
        Place::Handlers => "http",
    }
}

/// The options that name a sink.
fn sinks(node: &Node) -> impl Iterator<Item = (String, Span)> {
    let found =
        node.get("to").and_then(|entry| Some((entry.value.text()?.to_owned(), entry.value.span.clone())));
    found.into_iter()
}

fn as_number(text: &str) -> Option<serde_json::Number> {
    text.trim().parse::<serde_json::Number>().ok()
}

fn as_scalar(text: &str) -> Option<Kind> {
    match text {
        "true" => Some(Kind::Bool(true)),
        "false" => Some(Kind::Bool(false)),
        _ => as_number(text).map(Kind::Number),
    }
}

/// A message without the texts that `${…}` put in.
fn redact(message: &str, node: &Node) -> String {
    let mut message = in_words(message);
    node.texts(&mut |text| {
        let Some(value) = text.text().filter(|value| text.interpolated && !value.is_empty()) else { return };
        for shown in [format!("{value:?}"), format!("`{value}`")] {
            message = message.replace(&shown, "`***`");
        }
        if value.len() >= 4 {
            message = message.replace(value, "***");
        }
    });
    message
}
