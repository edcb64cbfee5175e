//! `retention`: counts or deletes old snapshots.

use std::time::Duration;

use clap::Args;
use tokio::time::Instant;

use super::{
    Exit, Misuse, Shared,
    text::{self, Align, Style, Table, count, counted},
};
use crate::{
    app,
    clock::{Clock as _, SystemClock},
    config::{AfterConfig, DatabaseConfig, env::process_var},
    maintenance::retention::{Outlook, Retention},
};

/// Deletes old snapshots, keeping the newest per object and day
///
/// Snapshots are old after the number of days of --days or SNAPSHOT_RETENTION_DAYS. Younger ones all stay, and so does
/// the newest snapshot of each object. If SNAPSHOT_RETENTION_DAYS is set, the worker's runs do the same in small steps. Try
/// --dry-run before you set it. Needs DATABASE_URL.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  refresh-worker retention --days 90 --dry-run
  refresh-worker retention --days 90 --yes")]
pub struct RetentionArgs {
    /// Keep all snapshots of this many days [env: SNAPSHOT_RETENTION_DAYS]
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(1..=36_500))]
    days: Option<u32>,
    /// Only count the snapshots that would be deleted
    #[arg(long)]
    dry_run: bool,
    /// Delete without asking
    #[arg(long, conflicts_with = "dry_run")]
    yes: bool,
    /// Write JSON
    #[arg(long)]
    json: bool,
}

/// A person ends it earlier with Ctrl-C.
const MAX_RUNTIME: Duration = Duration::from_secs(24 * 3600);

pub async fn run(args: RetentionArgs, shared: &Shared) -> anyhow::Result<Exit> {
    let configured = AfterConfig::read(&process_var)?.retention_days;
    let Some(days) = args.days.or(configured) else {
        return Err(Misuse(
            "nothing was deleted: set the number of days to keep with --days or SNAPSHOT_RETENTION_DAYS".to_owned(),
        )
        .into());
    };
    let store = app::store(&DatabaseConfig::read(&process_var)?)?;
    // The first connection learns what a pooler in between accepts. The statements below report errors.
    let _ = crate::store::Store::ping(&store).await;
    let retention = Retention::new(store.pool(), days);
    let now = SystemClock.wall();
    // The count reads every table, so it is skipped when nobody sees it.
    let outlook = if args.dry_run || !args.yes { Some(retention.outlook(now).await?) } else { None };
    if args.dry_run {
        let outlook = outlook.unwrap_or_default();
        let output = if args.json { serde_json::to_string(&outlook)? + "\n" } else { render(&outlook, shared.style()) };
        text::print(&output)?;
        return Ok(Exit::Success);
    }
    let number = outlook.iter().flatten().map(|table| table.would_go).sum();
    let number = counted(number, "snapshot", "snapshots");
    if !args.yes && !super::dead::is_confirmed(&number)? {
        return Err(Misuse(format!("nothing was deleted: this would delete {number} for good; add --yes")).into());
    }
    let thinned = retention.thin(now, Instant::now() + MAX_RUNTIME).await;
    let output = if args.json {
        serde_json::to_string(&thinned)? + "\n"
    } else {
        let failure = thinned.failure.as_ref().map(|failure| format!("; {failure}")).unwrap_or_default();
        let more = if thinned.more { "; more are left" } else { "" };
        format!("deleted {}{failure}{more}\n", counted(thinned.deleted, "snapshot", "snapshots"))
    };
    text::print(&output)?;
    Ok(if thinned.failure.is_none() { Exit::Success } else { Exit::Failure })
}

fn render(outlook: &[Outlook], style: Style) -> String {
    let mut table = Table::new([
        ("table", Align::Left),
        ("would be deleted", Align::Right),
        ("would stay of these days", Align::Right),
    ]);
    for one in outlook {
        table.row([one.table.to_owned(), count(one.would_go), count(one.would_stay)]);
    }
    table.render(style)
}
