//! The config's top level.

use ganger_core::{ByteSize, Period, Registry, Secret};

use super::{
    Config, DEFAULT_CONFIG,
    check::{check_addresses, check_names, check_sinks, open_commands},
    entry::{Place, Reader},
    error::{Problem, suggest},
    interpolate::{Environment, interpolate},
    mask,
    node::{Entry, Kind, Node, Span},
    read::{Syntax, duplicate, read as read_text},
    stats::StatsConfig,
};

/// The keys of the top level.
const KEYS: [&str; 12] = [
    "stats_port",
    "stats_token",
    "stats_hosts",
    "providers",
    "workers",
    "failure_handler",
    "failure_handlers",
    "grace",
    "output_max",
    "unknown_type",
    "lua_path",
    "manager_to_manager_port",
];

/// Reads a config. `lenient` passes over plugins that the program was built without. `hidden` are the places that
/// are not shown where problems are.
pub(super) fn read(
    text: &str,
    syntax: Syntax,
    registry: &Registry,
    lenient: bool,
    hidden: &mut Vec<Span>,
) -> Result<Config, Vec<Problem>> {
    let mut root = read_text(text, syntax).map_err(|problem| {
        *hidden = mask::words(text);
        vec![Problem { message: mask::redact(&problem.message, text, hidden), ..problem }]
    })?;
    let (mut problems, mut secrets) = (Vec::new(), Vec::new());
    interpolate(&mut root, &Environment, &mut problems);
    let unfilled: Vec<Span> = problems.iter().filter_map(|problem| problem.span.clone()).collect();
    let mut top =
        Top { config: empty(), problems, lenient, registry, secrets: &mut secrets, last_key: Vec::new() };
    top.read(&root);
    let Top { mut config, mut problems, .. } = top;
    // What a variable would have held fits nothing while it is not there.
    let mut told = 0;
    problems.retain(|problem| {
        told += 1;
        told <= unfilled.len() || !problem.span.as_ref().is_some_and(|span| unfilled.contains(span))
    });
    if problems.is_empty() {
        check_names(&config, &mut problems);
        check_sinks(&config, &mut problems);
        check_addresses(&config, &mut problems);
    }
    if !problems.is_empty() {
        problems.sort_by_key(|problem| problem.span.as_ref().map_or(0, |span| span.start));
        *hidden = mask::texts(&root, &problems, &secrets);
        return Err(problems);
    }
    config.warnings = open_commands(&config);
    Ok(config)
}

/// The default config, without what this program was built without.
pub(super) fn read_default(registry: &Registry) -> Result<Config, Vec<Problem>> {
    read(DEFAULT_CONFIG, Syntax::Toml, registry, true, &mut Vec::new())
}

fn empty() -> Config {
    Config {
        file: None,
        is_default: false,
        sources: Vec::new(),
        workers: Vec::new(),
        handlers: Vec::new(),
        stats: StatsConfig::standard(),
        grace: None,
        output_max: None,
        unknown_is_dead: false,
        notes: Vec::new(),
        warnings: Vec::new(),
    }
}

struct Top<'a> {
    config: Config,
    problems: Vec<Problem>,
    lenient: bool,
    registry: &'a Registry,
    secrets: &'a mut Vec<Span>,
    last_key: Vec<&'static str>,
}

impl Top<'_> {
    fn read(&mut self, root: &Node) {
        let Some(entries) = root.entries() else {
            self.problems.push(Problem::at(
                root.span.clone(),
                format!("a config is a set of keys, this is {}", root.what()),
            ));
            return;
        };
        for entry in entries {
            // As written, or else without case, as in GoWorker.
            let exact = KEYS.iter().find(|key| **key == entry.key);
            let Some(key) = exact.or_else(|| KEYS.iter().find(|key| key.eq_ignore_ascii_case(&entry.key)))
            else {
                self.problems.push(unknown_key(entry));
                continue;
            };
            let key = if *key == "failure_handlers" { "failure_handler" } else { key };
            if self.last_key.contains(&key) {
                self.problems.push(duplicate(&entry.key, entry.key_span.clone()));
                continue;
            }
            self.last_key.push(key);
            if let Err(problem) = self.key(key, entry) {
                self.problems.push(problem);
            }
        }
        let port =
            root.entries().into_iter().flatten().find(|entry| entry.key.eq_ignore_ascii_case("stats_port"));
        if let Some(Err(problem)) = port.map(|entry| self.config.stats.check(&entry.value)) {
            self.problems.push(problem);
        }
    }

    fn key(&mut self, key: &str, entry: &Entry) -> Result<(), Problem> {
        let node = &entry.value;
        match key {
            "providers" | "workers" | "failure_handler" => return self.list(key, entry),
            "stats_port" => self.config.stats.read_port(node, &mut self.config.notes)?,
            "stats_token" => {
                node.scalars(&mut |value| self.secrets.push(value.span.clone()));
                let token = node.text().map(str::trim).filter(|token| !token.is_empty());
                let token = token.ok_or_else(|| {
                    Problem::at(node.span.clone(), "`stats_token` must be a text that is not empty")
                })?;
                self.config.stats.token = Some(Secret::new(token));
            }
            "stats_hosts" => self.config.stats.hosts = texts(node, key)?,
            "grace" => self.config.grace = Some(parsed::<Period>(node, key)?.get()),
            "output_max" => self.config.output_max = Some(size(node, key)?.get()),
            "unknown_type" => self.config.unknown_is_dead = self.unknown_type(node)?,
            "lua_path" | "manager_to_manager_port" => {
                self.config.notes.push(format!("`{key}` is GoWorker's and has no effect here"));
            }
            _ => {}
        }
        Ok(())
    }

    fn unknown_type(&self, node: &Node) -> Result<bool, Problem> {
        match node.text() {
            Some("hold") => Ok(false),
            Some("dead") => Ok(true),
            _ => Err(Problem::at(
                node.span.clone(),
                "`unknown_type` says what becomes of jobs that no worker does",
            )
            .help("write \"hold\" (they wait) or \"dead\" (they go to the dead letters)")),
        }
    }

    fn list(&mut self, key: &str, entry: &Entry) -> Result<(), Problem> {
        if matches!(entry.value.kind, Kind::Null) {
            return Ok(());
        }
        let items = entry.value.items().ok_or_else(|| {
            Problem::at(
                entry.value.span.clone(),
                format!("`{key}` is a list, this is {}", entry.value.what()),
            )
            .help("write one `{ name = { options } }` for each entry of the list (in TOML: `[[…]]`)")
        })?;
        let place = match key {
            "providers" => Place::Providers,
            "workers" => Place::Workers,
            _ => Place::Handlers,
        };
        let known = |item: &Node| {
            let name = item.entries().and_then(|entries| entries.first()).map_or("", |entry| &entry.key);
            let found = match place {
                Place::Providers => self.registry.provider(name),
                _ => self.registry.worker(name),
            };
            found.is_some()
        };
        let items: Vec<&Node> = items.iter().filter(|item| !self.lenient || known(item)).collect();
        let mut reader = Reader {
            registry: self.registry,
            problems: &mut self.problems,
            notes: &mut self.config.notes,
            secrets: self.secrets,
        };
        for item in items {
            match place {
                Place::Providers => self.config.sources.extend(reader.source(item)),
                Place::Workers => self.config.workers.extend(reader.worker(item, place)),
                Place::Handlers => self.config.handlers.extend(reader.worker(item, place)),
            }
        }
        Ok(())
    }
}

fn unknown_key(entry: &Entry) -> Problem {
    let span = entry.key_span.clone();
    Problem::at(span, format!("there is no setting `{}`", entry.key))
        .help(suggest(&entry.key, "settings", &KEYS))
}

fn parsed<T: std::str::FromStr<Err: std::fmt::Display>>(node: &Node, key: &str) -> Result<T, Problem> {
    let wrong = |why: String| Problem::at(node.span.clone(), format!("`{key}`: {why}"));
    let text = node.text().ok_or_else(|| wrong(format!("a text is expected, this is {}", node.what())))?;
    text.parse().map_err(|error: T::Err| wrong(error.to_string()))
}

fn size(node: &Node, key: &str) -> Result<ByteSize, Problem> {
    match &node.kind {
        Kind::Number(number) => number.as_u64().map(ByteSize::new).ok_or_else(|| {
            Problem::at(node.span.clone(), format!("`{key}` is a whole number of bytes, or like \"1MiB\""))
        }),
        _ => parsed(node, key),
    }
}

fn texts(node: &Node, key: &str) -> Result<Vec<String>, Problem> {
    let all = node.items().map(|items| items.iter().map(|item| item.text().map(str::to_owned)).collect());
    match all {
        Some(Some(texts)) => Ok(texts),
        _ => Err(Problem::at(node.span.clone(), format!("`{key}` is a list of texts"))),
    }
}
