//! What entries say of each other: names and addresses that must differ, and names that must be there.

use std::net::{IpAddr, Ipv4Addr};

use ganger_core::Role;
use serde_json::Value;

use super::{
    Config, SourceEntry, SourceOptions, WorkerEntry, can_sink,
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

/// Workers that run any command that a job names, where jobs come from other machines.
pub(super) fn open_commands(config: &Config) -> Vec<String> {
    let mut warnings = Vec::new();
    for worker in &config.workers {
        let runs_any = matches!(worker.plugin.role, Role::Worker { traits, .. } if traits.runs_commands)
            && worker.options.get("allow").is_none_or(Value::is_null);
        let mut sources = config.sources.iter().filter(|source| runs_any && brings(source, &worker.name));
        if let Some(source) = sources.find(|source| is_foreign(&source.options)) {
            warnings.push(format!(
                "`{}` runs any command that a job names, and `{}` brings jobs from other machines: name the commands \
                 in its `allow`",
                worker.name, source.name
            ));
        }
    }
    warnings
}

/// Whether jobs of a type that runs commands come in there: an intake takes them only where it says so.
fn brings(source: &SourceEntry, kind: &str) -> bool {
    let accept = source.options.get("accept").and_then(Value::as_array);
    let accepts = accept.is_some_and(|kinds| kinds.iter().any(|known| known == kind));
    accepts || matches!(source.generic, SourceOptions::Provider(_))
}

/// Whether a source listens for or connects to more than this machine. No name is looked up: a name is another
/// machine.
fn is_foreign(options: &Value) -> bool {
    host_of(options).is_some_and(|host| {
        let host = host.trim_matches(['[', ']']);
        let is_own = ["", "localhost"].contains(&host)
            || host.starts_with('/')
            || host.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback());
        !is_own
    })
}

/// The host that a source names. Never shown: an address may be a secret.
fn host_of(options: &Value) -> Option<&str> {
    let text = |key| options.get(key).and_then(Value::as_str).map(str::trim);
    if let Some(url) = text("url") {
        let (scheme, rest) = url.split_once("://")?;
        let place = rest.split(['/', '?']).next().unwrap_or_default();
        let place = place.rsplit_once('@').map_or(place, |(_, place)| place);
        return match scheme {
            "unix" => None,
            _ => {
                Some(place.rsplit_once(':').filter(|_| !place.ends_with(']')).map_or(place, |(host, _)| host))
            }
        };
    }
    match text("listen_on") {
        Some(listen_on) => listen_on.rsplit_once(':').map(|(host, _)| host),
        None => text("host"),
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn hosts_of_other_machines_are_told_from_this_one() {
        for (options, foreign) in [
            (json!({}), false),
            (json!({"host": "localhost"}), false),
            (json!({"host": "127.0.0.2"}), false),
            (json!({"host": "::1"}), false),
            (json!({"host": "redis.example"}), true),
            (json!({"listen_on": ":8081"}), false),
            (json!({"listen_on": "8081"}), false),
            (json!({"listen_on": "0.0.0.0:8081"}), true),
            (json!({"listen_on": "[::]:8081"}), true),
            (json!({"url": "redis://user:pass@10.0.0.7:6379/1", "host": "localhost"}), true),
            (json!({"url": "rediss://localhost"}), false),
            (json!({"url": "redis://[::1]/0"}), false),
            (json!({"url": "redis://[fe80::1]:6379"}), true),
            (json!({"url": "unix:///run/redis.sock?db=1"}), false),
        ] {
            assert_eq!(is_foreign(&options), foreign, "{options}");
        }
    }
}
