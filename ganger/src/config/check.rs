//! What entries say of each other: names and addresses that must differ, and names that must be there.

use std::net::{IpAddr, Ipv4Addr};

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

/// Two cannot listen on one address. Where one of them did not ask for it, it gives way, with a warning.
pub(super) fn check_addresses(config: &Config, problems: &mut Vec<Problem>) {
    let stats = config.stats.listen.as_deref().filter(|_| config.stats.configured);
    let mut taken: Vec<(String, (IpAddr, u16))> =
        stats.and_then(address).map(|address| ("`stats_port`".to_owned(), address)).into_iter().collect();
    for source in config.sources.iter().filter(|source| source.configured) {
        let listen_on = source.options.get("listen_on").and_then(|value| value.as_str());
        let Some(at) = listen_on.and_then(address) else { continue };
        if let Some((first, _)) = taken.iter().find(|(_, other)| collide(*other, at)) {
            let message = format!("`{}` listens on {}:{}, and so does {first}", source.name, at.0, at.1);
            problems
                .push(Problem::at(source.span.clone(), message).help("give one of them another `listen_on`"));
        }
        taken.push((format!("`{}`", source.name), at));
    }
}

/// The address and port of `host:port`, `:port` or `port`; `None` for a name, which is looked up when it is bound,
/// and for a port that the system chooses.
fn address(text: &str) -> Option<(IpAddr, u16)> {
    let (host, port) = text.trim().rsplit_once(':').unwrap_or(("", text.trim()));
    let host = match host.trim_matches(['[', ']']) {
        "" | "localhost" => IpAddr::V4(Ipv4Addr::LOCALHOST),
        host => host.parse().ok()?,
    };
    port.parse().ok().filter(|port| *port != 0).map(|port| (host, port))
}

fn collide(one: (IpAddr, u16), other: (IpAddr, u16)) -> bool {
    let all = one.0.is_unspecified() || other.0.is_unspecified();
    one.1 == other.1 && (one.0 == other.0 || all && one.0.is_ipv4() == other.0.is_ipv4())
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
