//! `ganger dead`: the dead letters.

use ganger_core::{JobId, Order, State};

use super::{
    Context,
    failure::{Exit, Failure},
    job::{List, One, order, show},
    out::Out,
    select::{FilterArgs, Selection},
    store::{Access, Store},
};

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// List dead letters, newest first
    #[command(after_help = "Examples:\n  ganger dead ls --type http\n  ganger dead ls --json | jq -r .id")]
    Ls(Ls),
    /// Show all that is known of one
    #[command(after_help = "Example:\n  ganger dead show 0199f0c2-…")]
    Show(One),
    /// Run them again with their budgets restored
    #[command(
        after_help = "Examples:\n  ganger dead retry --all\n  ganger dead retry --type http --error 503 --yes"
    )]
    Retry(Selection),
    /// Forget them
    #[command(
        after_help = "Examples:\n  ganger dead purge --all\n  ganger dead purge --type cli --error \"exit status 2\" --yes"
    )]
    Purge(Selection),
}

#[derive(Debug, clap::Args)]
pub(crate) struct Ls {
    #[command(flatten)]
    filter: FilterArgs,
    /// At most so many
    #[arg(short = 'n', long, default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..))]
    limit: u64,
    /// Those after this one in the list
    #[arg(long, value_name = "ID")]
    after: Option<JobId>,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
    /// The provider that holds them, by its name in the config
    #[arg(long, value_name = "NAME")]
    provider: Option<String>,
}

pub(crate) async fn run(cx: &Context, command: Command, out: &mut Out) -> Result<Exit, Failure> {
    let dead = vec![State::Dead];
    match command {
        Command::Ls(args) => {
            let filter = args.filter.filter(Some(dead));
            let (noun, config) = ("dead letters", cx.config()?);
            let list = List { noun, filter, limit: args.limit, after: args.after, json: args.json };
            let store = Store::open(&config, args.provider.as_deref(), Access::Existing).await?;
            let shown = list.print(&config, &store, out).await;
            store.close().await;
            shown
        }
        Command::Show(args) => show(cx, args, out, Some(State::Dead)).await,
        Command::Retry(selection) => order(cx, &selection, Order::Retry, dead, out).await,
        Command::Purge(selection) => order(cx, &selection, Order::Remove, dead, out).await,
    }
}
