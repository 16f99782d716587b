//! `ganger job recover`: jobs that the program which used a store before has left in it.

use ganger_core::Stranded;
use serde_json::json;

use super::{
    Context,
    failure::{Exit, Failure},
    out::Out,
    select,
    store::{Access, Store},
    table::counted,
};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Bring all of them back; without it they are only counted
    #[arg(long)]
    all: bool,
    /// Do not ask (needed where no one can be asked)
    #[arg(short, long, requires = "all")]
    yes: bool,
    /// As JSON
    #[arg(long)]
    json: bool,
    /// The provider where they lie, by its name in the config; without it the first that can bring jobs back
    #[arg(long, value_name = "NAME")]
    provider: Option<String>,
}

pub(crate) async fn run(cx: &Context, args: Args, out: &mut Out) -> Result<Exit, Failure> {
    let config = cx.config()?;
    let first = || config.providers().find(|source| source.plugin.can().is_some_and(|can| can.recover));
    let name = args.provider.as_deref().or_else(|| Some(first()?.name.as_str()));
    let store = Store::open(&config, name, Access::Existing).await?;
    if !store.provider.capabilities().recover {
        return Err(Failure::new(Exit::Refused, format!("provider `{}` brings no jobs back", store.name))
            .help(
                "name one that has `recover` among its capabilities: `ganger plugin show NAME` tells them",
            ));
    }
    let admin = store.admin()?;
    let found = store.ask(admin.stranded()).await?;
    let mut back = None;
    if args.all && found.jobs > 0 {
        if !args.yes
            && !select::ask(&format!("{} Bring back {}?", caution(&found), counted(found.jobs, "job")))?
        {
            out.line("nothing changed")?;
            return Ok(Exit::No);
        }
        back = Some(store.ask(admin.recover()).await?);
    }
    store.close().await;
    tell(&args, &found, back.as_ref(), out)?;
    Ok(Exit::Ok)
}

fn tell(args: &Args, found: &Stranded, back: Option<&Stranded>, out: &mut Out) -> Result<(), Failure> {
    let held = back.unwrap_or(found).held;
    let changed = back.map_or(0, |back| back.jobs);
    if args.json {
        return out.json(&json!({ "found": found.jobs, "held": held, "changed": changed }));
    }
    match back {
        Some(back) => out.line(format!("{} brought back", counted(back.jobs, "job")))?,
        None => out.line(format!("{} can be brought back", counted(found.jobs, "job")))?,
    }
    if held > 0 {
        out.line(format!("{} may still run: left alone, look again later", counted(held, "more job")))?;
    }
    if !args.all && found.jobs > 0 {
        out.line(format!("{} Then `--all` brings them back.", caution(found)))?;
    }
    Ok(())
}

/// The caution as a sentence of its own.
fn caution(found: &Stranded) -> String {
    let mut letters = found.caution.chars();
    letters.next().map(|first| format!("{}{}.", first.to_uppercase(), letters.as_str())).unwrap_or_default()
}
