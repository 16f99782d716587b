//! `ganger check`.

use serde_json::{Value, json};

use crate::{
    Config, Ports,
    config::{SourceOptions, WorkerEntry},
    plan_of,
};

use super::{
    Context,
    failure::{Exit, Failure},
    out::Out,
    table::Rows,
};

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  ganger check -c ganger.toml && systemctl restart ganger")]
pub(crate) struct Args {
    /// As JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(cx: &Context, args: Args, out: &mut Out) -> Result<Exit, Failure> {
    let config = cx.config()?;
    let plan = plan_of(&config, &cx.registry, Ports::Open);
    plan.check().map_err(|error| Failure::usage(format!("{}: {error}", config.name())))?;
    if args.json {
        out.json_pretty(&as_json(&config))?;
        return Ok(Exit::Ok);
    }
    out.line(format!("{} fits together", config.name()))?;
    out.line("")?;
    let mut rows = Rows::new(out, &["", "name", "plugin", "how"]);
    for source in &config.sources {
        let (what, how) = match &source.generic {
            SourceOptions::Intake(options) => {
                let into = options.into.clone().or_else(|| Some(config.provider(None)?.name.clone()));
                ("intake", format!("into {}", into.unwrap_or_else(|| "ganger.db".to_owned())))
            }
            SourceOptions::Provider(options) if options.target > 0.0 => {
                ("provider", format!("at most {} jobs/s", options.target))
            }
            SourceOptions::Provider(_) => ("provider", String::new()),
        };
        rows.row([what.to_owned(), source.name.clone(), source.plugin.name.to_owned(), how]);
    }
    for (what, entries) in [("worker", &config.workers), ("handler", &config.handlers)] {
        for worker in entries {
            let about = worker.plugin.about(&worker.options).map(|about| format!(", {about}"));
            let how = format!("{} at once{}", worker.generic.workers, about.unwrap_or_default());
            rows.row([what.to_owned(), worker.name.clone(), worker.plugin.name.to_owned(), how]);
        }
    }
    if let Some(listen) = &config.stats.listen {
        rows.row([
            "stats".to_owned(),
            String::new(),
            String::new(),
            format!("http://{listen}/manager/stats"),
        ]);
    }
    rows.print(out)?;
    for note in &config.notes {
        out.line(format!("note: {note}"))?;
    }
    for warning in &config.warnings {
        out.line(format!("warning: {warning}"))?;
    }
    Ok(Exit::Ok)
}

fn as_json(config: &Config) -> Value {
    let entry = |name: &str, plugin: &str| json!({ "name": name, "plugin": plugin });
    let workers = |entries: &[WorkerEntry]| -> Vec<_> {
        let told = |worker: &WorkerEntry| {
            json!({
                "name": worker.name, "plugin": worker.plugin.name, "workers": worker.generic.workers,
                "about": worker.plugin.about(&worker.options),
            })
        };
        entries.iter().map(told).collect()
    };
    json!({
        "file": config.file,
        "providers": config.sources.iter().map(|source| entry(&source.name, source.plugin.name)).collect::<Vec<_>>(),
        "workers": workers(&config.workers),
        "failure_handlers": workers(&config.handlers),
        "stats": config.stats.listen,
        "notes": config.notes,
        "warnings": config.warnings,
    })
}
