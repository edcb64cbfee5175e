//! `views`: creates the materialized views that come with the worker, and refreshes the configured ones.

use std::time::Duration;

use clap::{Args, Subcommand};
use tokio::time::Instant;

use super::{
    Exit, Misuse, Shared,
    text::{self, Align, Style, Table, span},
};
use crate::{
    app,
    clock::{Clock as _, SystemClock},
    config::{AfterConfig, DatabaseConfig, env::process_var},
    maintenance::views::{
        Refreshed, Views, Way, When,
        own::{OWN_VIEWS, OwnView},
    },
    store::Store as _,
};

/// Creates the worker's materialized views, and refreshes those of REFRESH_VIEWS
#[derive(Debug, Args)]
pub struct ViewsArgs {
    #[command(subcommand)]
    command: ViewsCommand,
}

#[derive(Debug, Subcommand)]
enum ViewsCommand {
    Install(InstallArgs),
    Refresh(RefreshArgs),
}

/// Creates clan_leaderboard and refresh_progress in the schema refresh_worker
///
/// clan_leaderboard: the clans by points, from their newest snapshots. refresh_progress: how many objects of each kind
/// are as fresh as each priority promises. An existing view stays, unless an earlier version of the worker created it
/// in another form: then it is replaced and keeps its grants. The views belong to the role of DATABASE_URL, so that
/// runs can refresh them; name them in REFRESH_VIEWS. Needs DATABASE_URL.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  refresh-worker views install
  refresh-worker views install clan_leaderboard")]
struct InstallArgs {
    /// Create only these views
    #[arg(value_name = "VIEW")]
    names: Vec<String>,
}

/// Refreshes every view of REFRESH_VIEWS now, due or not
///
/// Shows the method, the duration and the statistics of each. Needs DATABASE_URL and REFRESH_VIEWS.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  REFRESH_VIEWS=clan_leaderboard refresh-worker views refresh
  refresh-worker views refresh --json

Exit codes: 0 all views were refreshed, 1 some failed, 2 wrong usage or configuration.")]
struct RefreshArgs {
    /// End after this time: 90s, 30m, 12h
    #[arg(long, value_name = "TIME", value_parser = text::parse_span, default_value = "10m")]
    max_runtime: Duration,
    /// Write JSON, one view per line
    #[arg(long)]
    json: bool,
}

pub async fn run(args: ViewsArgs, shared: &Shared) -> anyhow::Result<Exit> {
    match args.command {
        ViewsCommand::Install(args) => install(args).await,
        ViewsCommand::Refresh(args) => refresh(args, shared.style()).await,
    }
}

async fn install(args: InstallArgs) -> anyhow::Result<Exit> {
    let views = wanted(&args.names)?;
    let store = app::store(&DatabaseConfig::read(&process_var)?)?;
    // The views read tables of the worker, which must exist first.
    store.migrate().await?;
    let mut ending = Exit::Success;
    for view in views {
        match view.install(&store.pool()).await {
            Ok(()) => text::print(&format!("refresh_worker.{}: {}\n", view.name, view.shows))?,
            // The next view may succeed.
            Err(error) => {
                text::print_error(&format!("error: {error}"));
                ending = Exit::Failure;
            }
        }
    }
    Ok(ending)
}

fn wanted(names: &[String]) -> Result<Vec<OwnView>, Misuse> {
    if names.is_empty() {
        return Ok(OWN_VIEWS.to_vec());
    }
    let find = |name: &String| {
        // People copy the name with its schema from REFRESH_VIEWS.
        let base = name.strip_prefix("refresh_worker.").unwrap_or(name);
        OWN_VIEWS.into_iter().find(|view| view.name == base).ok_or_else(|| {
            let known: Vec<&str> = OWN_VIEWS.iter().map(|view| view.name).collect();
            Misuse(format!("the worker has no view `{}`: expected {}", text::short(name, 60), known.join(" or ")))
        })
    };
    names.iter().map(find).collect()
}

async fn refresh(args: RefreshArgs, style: Style) -> anyhow::Result<Exit> {
    let config = AfterConfig::read(&process_var)?;
    let store = app::store(&DatabaseConfig::read(&process_var)?)?;
    let Some(views) = Views::new(store.pool(), &config.views) else {
        return Err(Misuse(
            "nothing was refreshed: set REFRESH_VIEWS, as in REFRESH_VIEWS=clan_leaderboard".to_owned(),
        )
        .into());
    };
    // The first connection learns what a pooler in between accepts. The refreshes report errors.
    let _ = store.ping().await;
    let refreshed = views.refresh(When::Now, SystemClock.wall(), Instant::now() + args.max_runtime).await;
    let output = if args.json {
        refreshed
            .iter()
            .map(|view| serde_json::to_string(view).map(|line| line + "\n"))
            .collect::<Result<String, _>>()?
    } else {
        render(&refreshed, style)
    };
    text::print(&output)?;
    Ok(if refreshed.iter().all(|view| view.success) { Exit::Success } else { Exit::Failure })
}

fn render(views: &[Refreshed], style: Style) -> String {
    let mut table =
        Table::new([("view", Align::Left), ("took", Align::Right), ("how", Align::Left), ("", Align::Left)]);
    for view in views {
        let how = match (view.refresh_type, view.skipped) {
            (Some(Way::Concurrent), _) => "concurrent",
            (Some(Way::Regular), _) => "regular",
            (None, Some(_)) => "skipped",
            (None, None) => "failed",
        };
        let rest = match (&view.error, view.skipped) {
            (Some(error), _) => format!("{error}. {}", view.message.as_deref().unwrap_or_default()),
            (None, Some(why)) => why.to_owned(),
            (None, None) => facts(view),
        };
        let took = span(Duration::from_secs_f64(view.duration_seconds.max(0.0)));
        table.row([view.view.clone(), took, how.to_owned(), text::short(&rest, 200)]);
    }
    table.render(style)
}

/// The statistics and the remarks.
fn facts(view: &Refreshed) -> String {
    let statistics = view.statistics.as_object().into_iter().flatten().map(|(name, value)| format!("{name} {value}"));
    statistics.chain(view.notes.iter().cloned()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn install_refuses_unknown_views() {
        assert_eq!(wanted(&[]).unwrap().len(), 2);
        assert_eq!(wanted(&["refresh_worker.clan_leaderboard".to_owned()]).unwrap().len(), 1);
        let error = wanted(&["job_progress".to_owned()]).unwrap_err().to_string();
        assert!(error.contains("clan_leaderboard or refresh_progress"), "{error}");
    }
}
