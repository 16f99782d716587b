//! What entries say of each other: names that must differ, and names that must be there.

use super::{
    Config, SourceOptions, WorkerEntry, can_sink,
    error::{Problem, suggest},
    node::Span,
};

/// Two of a kind cannot have one name.
pub(super) fn check_names(config: &Config, problems: &mut Vec<Problem>) {
    let sources = config.sources.iter().map(|source| (source.name.as_str(), &source.span));
    differ("providers", sources, problems);
    differ("workers", config.workers.iter().map(|worker| (worker.name.as_str(), &worker.span)), problems);
    differ(
        "failure handlers",
        config.handlers.iter().map(|entry| (entry.name.as_str(), &entry.span)),
        problems,
    );
}

fn differ<'a>(what: &str, entries: impl Iterator<Item = (&'a str, &'a Span)>, problems: &mut Vec<Problem>) {
    let mut seen: Vec<&str> = Vec::new();
    for (name, span) in entries {
        if seen.contains(&name) {
            problems.push(
                Problem::at(span.clone(), format!("two {what} are named `{name}`"))
                    .help(format!("add `name` to one of them, as `name = \"{name}-2\"`")),
            );
        }
        seen.push(name);
    }
}

/// A sink that is named must be there, take jobs in, and not lead back to where the jobs came from.
pub(super) fn check_sinks(config: &Config, problems: &mut Vec<Problem>) {
    for source in &config.sources {
        if let SourceOptions::Intake(options) = &source.generic
            && let Some(into) = &options.into
        {
            problems.extend(sink_fault(config, into, &source.into_span));
        }
    }
    for worker in config.workers.iter().chain(&config.handlers) {
        for (name, span) in &worker.sinks {
            problems.extend(sink_fault(config, name, span));
        }
    }
    for handler in &config.handlers {
        for (name, span) in &handler.sinks {
            problems.extend(cycle(config, handler, name, span));
        }
    }
}

fn sink_fault(config: &Config, name: &str, span: &Span) -> Option<Problem> {
    let Some(source) = config.sources.iter().find(|source| source.name == name) else {
        let names: Vec<&str> =
            config.providers().filter(|source| can_sink(source)).map(|source| source.name.as_str()).collect();
        let problem = Problem::at(span.clone(), format!("there is no provider `{name}` in this config"));
        return Some(problem.help(suggest(name, "providers that take jobs in", &names)));
    };
    (!can_sink(source)).then(|| {
        Problem::at(span.clone(), format!("`{name}` takes no jobs in")).help(format!(
            "`{}` is {}: name a provider that has `sink` among its capabilities",
            source.plugin.name,
            match source.generic {
                SourceOptions::Intake(_) => "an intake, which stores nothing itself",
                SourceOptions::Provider(_) => "a source only",
            }
        ))
    })
}

/// A failed job that is handed back to the only provider it can have come from would fail there again, and again.
fn cycle(config: &Config, handler: &WorkerEntry, to: &str, span: &Span) -> Option<Problem> {
    let only = config.providers().count() == 1 && config.provider(Some(to)).is_some();
    // With a `type` the failure record goes on as another kind of job.
    let as_it_was = handler.params.as_ref().is_none_or(|params| !params.get().contains("\"type\":"));
    (only && as_it_was).then(|| {
        Problem::at(
            span.clone(),
            format!("failed jobs come from `{to}` and would go back to it, to fail again"),
        )
        .help("hand them to another provider, or say as which `type` of job")
    })
}
