//! Turns a config into the manager's plan.

use std::sync::Arc;

#[cfg(feature = "cli")]
use ganger_core::ProviderError;
use ganger_core::{ConfiguredWorkers, IntakeOptions, Plugin, ProviderOptions, Registry, Role, Workers};
use ganger_manager::{HandlerPlan, IntakePlan, OpenIntakeFn, OpenProviderFn, Plan};
use serde_json::{Value, json};

use crate::config::{Config, SourceEntry, SourceOptions, WorkerEntry};

/// Whether intakes are opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ports {
    /// As the config says.
    Open,
    /// None at all: what is stored is done, nothing comes in.
    Closed,
}

/// The plan of a config.
pub fn plan_of(config: &Config, registry: &Registry, ports: Ports) -> Plan {
    let mut plan = Plan::new();
    plan.host = host_name();
    if let Some(grace) = config.grace {
        plan.grace = grace;
    }
    if let Some(max) = config.output_max {
        plan.output_max = usize::try_from(max).unwrap_or(usize::MAX);
    }
    if config.unknown_is_dead {
        plan.unknown = ganger_manager::UnknownType::Dead;
    }
    for source in &config.sources {
        match &source.generic {
            SourceOptions::Provider(options) => plan = add_provider(plan, source, options.clone()),
            SourceOptions::Intake(options) if ports == Ports::Open => {
                plan = add_intake(plan, source, options)
            }
            SourceOptions::Intake(_) => {}
        }
    }
    if config.sources.iter().any(stores_by_default) {
        let own = config.providers().find(|source| source.plugin.name == "disk");
        plan = match own.map(|source| source.name.clone()) {
            Some(name) => store_into(plan, &name),
            None => add_default_store(plan, registry),
        };
    }
    for worker in &config.workers {
        if let Some(workers) = workers_of(worker) {
            plan = plan.worker(&worker.name, worker.generic.clone(), workers);
        }
    }
    for handler in &config.handlers {
        if let Some(workers) = workers_of(handler) {
            plan = plan.handler(HandlerPlan {
                name: handler.name.clone(),
                workers,
                options: handler.generic.clone(),
                params: handler.params.clone(),
            });
        }
    }
    plan
}

/// An intake that does not say where its jobs are stored.
fn stores_by_default(source: &SourceEntry) -> bool {
    matches!(&source.generic, SourceOptions::Intake(options) if options.into.is_none())
}

fn workers_of(entry: &WorkerEntry) -> Option<Arc<dyn Workers>> {
    ConfiguredWorkers::new(entry.plugin, entry.options.clone())
        .map(|workers| Arc::new(workers) as Arc<dyn Workers>)
}

fn add_provider(plan: Plan, source: &SourceEntry, options: ProviderOptions) -> Plan {
    match opener(source.plugin, source.options.clone()) {
        Some(open) => plan.provider(&source.name, options, open),
        None => plan,
    }
}

/// How a provider is opened, again and again while it cannot be; `None` if the plugin is no provider.
pub(crate) fn opener(plugin: Plugin, options: Value) -> Option<OpenProviderFn> {
    let Role::Provider { open, .. } = plugin.role else { return None };
    Some(Arc::new(move |cx| open(options.clone(), cx)))
}

fn add_intake(plan: Plan, source: &SourceEntry, options: &IntakeOptions) -> Plan {
    let (Role::Intake { open }, values) = (source.plugin.role, source.options.clone()) else { return plan };
    let opener: OpenIntakeFn = Arc::new(move |cx| open(values.clone(), cx));
    plan.intake(IntakePlan {
        name: source.name.clone(),
        open: opener,
        into: options.into.clone(),
        configured: source.configured,
    })
}

/// Where jobs go that came in without a word of where to: an embedded store beside the process, drained as any
/// other provider.
fn add_default_store(plan: Plan, registry: &Registry) -> Plan {
    let taken = |name: &str| plan.providers.iter().any(|provider| provider.name == name);
    let name = if taken("disk") { "ganger.db" } else { "disk" };
    let Some(plugin) = registry.provider("disk") else { return plan };
    let Some(open) = opener(plugin, json!({ "db_name": "ganger.db" })) else { return plan };
    store_into(plan.provider(name, ProviderOptions::default(), open), name)
}

/// Where the jobs of intakes go that do not say.
fn store_into(mut plan: Plan, name: &str) -> Plan {
    for intake in &mut plan.intakes {
        intake.into.get_or_insert_with(|| name.to_owned());
    }
    plan
}

/// This machine's name, as it shows in the register of managers.
pub fn host_name() -> String {
    let read = std::fs::read_to_string("/proc/sys/kernel/hostname")
        .or_else(|_| std::fs::read_to_string("/etc/hostname"));
    match read.map(|name| name.trim().to_owned()) {
        Ok(name) if !name.is_empty() => name,
        _ => "localhost".to_owned(),
    }
}

/// A provider's error as the command line tells it.
#[cfg(feature = "cli")]
pub(crate) fn describe(name: &str, error: &ProviderError) -> String {
    format!("provider `{name}`: {error}")
}
