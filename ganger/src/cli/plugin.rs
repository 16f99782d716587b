//! `ganger plugin`: what this program was built with, and what each plugin takes.

use ganger_core::{IntakeOptions, Plugin, ProviderOptions, Role, WorkerOptions};
use schemars::{Schema, SchemaGenerator};
use serde_json::{Map, Value, json};

use crate::config::{resolve, suggest};

use super::{
    Context,
    failure::{Exit, Failure},
    out::Out,
    table::Rows,
};

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// List the plugins
    #[command(after_help = "Example:\n  ganger plugin ls --json | jq -r .name")]
    Ls(Ls),
    /// Show a plugin: what it does, and every option
    #[command(after_help = "Examples:\n  ganger plugin show cli\n  ganger plugin show disk --json | jq")]
    Show(Show),
    /// Print the JSON Schema of a config file, or of one plugin's options
    #[command(
        after_help = "Examples:\n  ganger plugin schema > ganger.schema.json\n  ganger plugin schema cli"
    )]
    Schema(SchemaArgs),
    /// Try a program that is to do jobs for the `process` worker: does it speak the protocol?
    #[cfg(feature = "worker-process")]
    #[command(after_help = "Examples:\n  ganger plugin test -- python3 resize.py\n  \
        ganger plugin test --type resize --params '{\"path\":\"in.png\",\"width\":400}' -- python3 resize.py")]
    Test(super::plugin_test::Test),
}

#[derive(Debug, clap::Args)]
pub(crate) struct Ls {
    /// One JSON object a line
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Show {
    /// The plugin; where a provider and a worker have one name, both are shown
    name: String,
    /// As JSON
    #[arg(long)]
    json: bool,
    /// With its whole page
    #[arg(long)]
    readme: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct SchemaArgs {
    /// The plugin
    name: Option<String>,
}

pub(crate) async fn run(cx: &Context, command: Command, out: &mut Out) -> Result<Exit, Failure> {
    match command {
        Command::Ls(args) => ls(cx, args, out),
        Command::Show(args) => show(cx, args, out),
        Command::Schema(args) => schema(cx, args, out),
        #[cfg(feature = "worker-process")]
        Command::Test(args) => super::plugin_test::run(args, out).await,
    }
}

fn ls(cx: &Context, args: Ls, out: &mut Out) -> Result<Exit, Failure> {
    if args.json {
        cx.registry.all().iter().try_for_each(|plugin| out.json(&summary_json(plugin)))?;
        return Ok(Exit::Ok);
    }
    let mut rows = Rows::new(out, &["role", "name", "what it does"]);
    for role in ["provider", "intake", "worker"] {
        for plugin in cx.registry.all().iter().filter(|plugin| plugin.role_name() == role) {
            rows.row([role.to_owned(), plugin.name.to_owned(), plugin.summary().to_owned()]);
        }
    }
    rows.print(out)?;
    Ok(Exit::Ok)
}

fn summary_json(plugin: &Plugin) -> Value {
    let mut object = json!({ "role": plugin.role_name(), "name": plugin.name, "summary": plugin.summary() });
    match plugin.role {
        Role::Provider { capabilities, .. } => object["capabilities"] = json!(capabilities.names()),
        Role::Worker { traits, .. } => {
            object["runs_commands"] = json!(traits.runs_commands);
            object["blocking"] = json!(traits.blocking);
        }
        Role::Intake { .. } => {}
    }
    object
}

fn find<'a>(cx: &'a Context, name: &str) -> Result<Vec<&'a Plugin>, Failure> {
    let name = ganger_core::canonical_kind(name);
    let found: Vec<&Plugin> = cx.registry.all().iter().filter(|plugin| plugin.name == name).collect();
    if found.is_empty() {
        let names: Vec<&str> = cx.registry.all().iter().map(|plugin| plugin.name).collect();
        return Err(
            Failure::usage(format!("there is no plugin `{name}`")).help(suggest(name, "plugins", &names))
        );
    }
    Ok(found)
}

fn show(cx: &Context, args: Show, out: &mut Out) -> Result<Exit, Failure> {
    for (n, plugin) in find(cx, &args.name)?.into_iter().enumerate() {
        if args.json {
            let mut object = summary_json(plugin);
            object["options"] = options_schema(plugin);
            if let Role::Worker { params_schema, .. } = plugin.role {
                object["params"] = params_schema().to_value();
            }
            out.json(&object)?;
            continue;
        }
        if n > 0 {
            out.line("")?;
        }
        show_one(plugin, args.readme, out)?;
    }
    Ok(Exit::Ok)
}

fn show_one(plugin: &Plugin, readme: bool, out: &mut Out) -> Result<(), Failure> {
    out.line(format!("{} {}: {}", plugin.role_name(), plugin.name, plugin.summary()))?;
    if let Role::Provider { capabilities, .. } = plugin.role {
        out.line(format!("capabilities: {}", capabilities.names().join(", ")))?;
    }
    print_options(&plugin.config_schema(), "options", out)?;
    print_options(&generic(plugin), &format!("options of every {}", plugin.role_name()), out)?;
    if let Role::Worker { params_schema, .. } = plugin.role {
        print_options(&params_schema(), "params of its jobs", out)?;
    }
    if readme {
        out.line("")?;
        out.line(plugin.readme.trim())?;
    }
    Ok(())
}

fn print_options(schema: &Schema, title: &str, out: &mut Out) -> Result<(), Failure> {
    let root = schema.as_value();
    let Some(properties) = root.get("properties").and_then(Value::as_object).filter(|all| !all.is_empty())
    else {
        return Ok(());
    };
    out.line("")?;
    out.line(format!("{title}:"))?;
    let required: Vec<&str> = root
        .get("required")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let mut rows = Rows::new(out, &["option", "type", "default", "meaning"]);
    for (name, option) in properties {
        let default = match option.get("default") {
            Some(Value::Null) | None if required.contains(&name.as_str()) => "(required)".to_owned(),
            Some(Value::Null) | None => String::new(),
            Some(value) => value.to_string(),
        };
        let meaning = option.get("description").or_else(|| resolve(root, option).get("description"));
        let meaning = meaning.and_then(Value::as_str).unwrap_or_default();
        rows.row([name.clone(), type_word(root, option, 0), default, meaning.to_owned()]);
    }
    rows.print(out)
}

/// What an option may be, in words.
fn type_word(root: &Value, option: &Value, depth: usize) -> String {
    let option = resolve(root, option);
    if depth > 4 {
        return "any".to_owned();
    }
    if let Some(words) = option.get("enum").and_then(Value::as_array) {
        return words
            .iter()
            .map(|word| word.as_str().map_or_else(|| word.to_string(), str::to_owned))
            .collect::<Vec<_>>()
            .join("|");
    }
    if let Some(word) = option.get("const") {
        return word.as_str().map_or_else(|| word.to_string(), str::to_owned);
    }
    for key in ["anyOf", "oneOf"] {
        if let Some(parts) = option.get(key).and_then(Value::as_array) {
            let mut words: Vec<String> = parts
                .iter()
                .map(|part| type_word(root, part, depth + 1))
                .filter(|word| word != "null")
                .collect();
            words.dedup();
            return words.join("|");
        }
    }
    match option.get("type") {
        Some(Value::String(word)) if word == "array" => match option.get("items") {
            Some(items) => format!("list of {}", type_word(root, items, depth + 1)),
            None => "list".to_owned(),
        },
        Some(Value::String(word)) => word.clone(),
        Some(Value::Array(words)) => words
            .iter()
            .filter_map(Value::as_str)
            .filter(|word| *word != "null")
            .collect::<Vec<_>>()
            .join("|"),
        _ => "any".to_owned(),
    }
}

/// The options that every entry of the plugin's kind has.
fn generic(plugin: &Plugin) -> Schema {
    let generator = SchemaGenerator::default();
    match plugin.role {
        Role::Provider { .. } => generator.into_root_schema_for::<ProviderOptions>(),
        Role::Intake { .. } => generator.into_root_schema_for::<IntakeOptions>(),
        Role::Worker { .. } => generator.into_root_schema_for::<WorkerOptions>(),
    }
}

/// A plugin's options with those that every entry has, as one schema.
fn options_schema(plugin: &Plugin) -> Value {
    let mut own = plugin.config_schema().to_value();
    let mut every = generic(plugin).to_value();
    for part in ["properties", "$defs"] {
        let Some(more) = every.get_mut(part).and_then(Value::as_object_mut).map(std::mem::take) else {
            continue;
        };
        if let Some(own) = own.as_object_mut() {
            let target = own.entry(part).or_insert_with(|| Value::Object(Map::new()));
            for (key, value) in more {
                if let Some(target) = target.as_object_mut() {
                    target.entry(key).or_insert(value);
                }
            }
        }
    }
    own
}

fn schema(cx: &Context, args: SchemaArgs, out: &mut Out) -> Result<Exit, Failure> {
    if let Some(name) = args.name {
        for plugin in find(cx, &name)? {
            out.json_pretty(&options_schema(plugin))?;
        }
        return Ok(Exit::Ok);
    }
    let (mut defs, mut entries) = (Map::new(), (Vec::new(), Vec::new()));
    for plugin in cx.registry.all() {
        let key =
            format!("{}.{}", if plugin.role_name() == "worker" { "worker" } else { "provider" }, plugin.name);
        let mut options = options_schema(plugin);
        // References are to the root of the whole: each plugin's definitions get names of their own.
        let inner = options.as_object_mut().and_then(|object| {
            object.remove("$schema");
            object.remove("$defs")
        });
        rename_refs(&mut options, &key);
        for (name, mut definition) in inner.as_ref().and_then(Value::as_object).cloned().unwrap_or_default() {
            rename_refs(&mut definition, &key);
            defs.insert(format!("{key}.{name}"), definition);
        }
        let entry = json!({
            "type": "object",
            "description": plugin.summary(),
            "properties": { plugin.name: { "$ref": format!("#/$defs/{key}") } },
            "required": [plugin.name],
            "additionalProperties": false,
        });
        defs.insert(key, options);
        if plugin.role_name() == "worker" { entries.1.push(entry) } else { entries.0.push(entry) }
    }
    let (sources, workers) = entries;
    let list = |entries: &[Value]| json!({ "type": "array", "items": { "oneOf": entries } });
    out.json_pretty(&json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "ganger's config",
        "type": "object",
        "properties": {
            "stats_port": { "type": ["string", "integer"], "description": "where figures and health are read: host:port, :port, or off", "default": "127.0.0.1:9090" },
            "stats_token": { "type": "string", "writeOnly": true, "description": "what readers must show; needed off loopback" },
            "stats_hosts": { "type": "array", "items": { "type": "string" }, "description": "names besides this machine's own under which figures may be read" },
            "providers": list(&sources),
            "workers": list(&workers),
            "failure_handler": { "type": "array", "items": { "type": "object" }, "description": "workers that are told of each dead job, in this order; their options are the worker's and its params" },
            "grace": { "type": "string", "description": "how long a shutdown waits for running jobs", "default": "30s" },
            "output_max": { "type": ["integer", "string"], "description": "how much of a run's output is kept", "default": "1MiB" },
            "unknown_type": { "enum": ["hold", "dead"], "description": "what becomes of jobs that no worker does", "default": "hold" },
            "lua_path": { "type": "string", "description": "GoWorker's; has no effect" },
            "manager_to_manager_port": { "type": "string", "description": "GoWorker's; has no effect" },
        },
        "additionalProperties": false,
        "$defs": defs,
    }))?;
    Ok(Exit::Ok)
}

fn rename_refs(value: &mut Value, prefix: &str) {
    match value {
        Value::Object(object) => {
            for (key, value) in object.iter_mut() {
                match value {
                    Value::String(target) if key == "$ref" => {
                        if let Some(name) = target.strip_prefix("#/$defs/") {
                            *target = format!("#/$defs/{prefix}.{name}");
                        }
                    }
                    other => rename_refs(other, prefix),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| rename_refs(item, prefix)),
        _ => {}
    }
}
