//! `retention`: what the thinning of old snapshots would delete, and thinning now.

use std::time::Duration;

use clap::Args;
use tokio::time::Instant;

use super::{
    Ending, Misuse, Shared,
    text::{self, Align, Style, Table, count, counted},
};
use crate::{
    app,
    clock::{Clock as _, SystemClock},
    config::{AfterConfig, DatabaseConfig, env::process_var},
    derive::retention::{Outlook, Retention},
};

/// Thins old snapshots to one a day and object, the newest of the day
///
/// Days older than SNAPSHOT_RETENTION_DAYS are thinned; younger ones are kept whole. The newest snapshot of an object is
/// never deleted. Runs of the worker do this by themselves when SNAPSHOT_RETENTION_DAYS is set, little by little; look with
/// --dry-run before you set it. Needs DATABASE_URL.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  refresh-worker retention --days 90 --dry-run
  refresh-worker retention --days 90 --yes")]
pub struct RetentionArgs {
    /// Keep so many days whole; SNAPSHOT_RETENTION_DAYS says it otherwise
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(1..=36_500))]
    days: Option<u32>,
    /// Only count what would go
    #[arg(long)]
    dry_run: bool,
    /// Delete without asking
    #[arg(long, conflicts_with = "dry_run")]
    yes: bool,
    /// Write JSON
    #[arg(long)]
    json: bool,
}

pub async fn run(args: RetentionArgs, shared: &Shared) -> anyhow::Result<Ending> {
    let configured = AfterConfig::read(&process_var)?.retention_days;
    let Some(days) = args.days.or(configured) else {
        return Err(Misuse("say how many days are kept whole: --days, or SNAPSHOT_RETENTION_DAYS".to_owned()).into());
    };
    let store = app::store(&DatabaseConfig::read(&process_var)?)?;
    // Finds out how the server is to be reached. What is wrong with it the statements say.
    let _ = crate::store::Store::ping(&store).await;
    let retention = Retention::new(store.pool(), days);
    let now = SystemClock.wall();
    let outlook = if args.dry_run || !args.yes {
        Some(retention.outlook(now).await.map_err(|error| anyhow::anyhow!("{error}"))?)
    } else {
        None
    };
    if args.dry_run {
        let outlook = outlook.unwrap_or_default();
        let told = if args.json { serde_json::to_string(&outlook)? + "\n" } else { render(&outlook, shared.style()) };
        text::print(&told)?;
        return Ok(Ending::Well);
    }
    let number = outlook.iter().flatten().map(|table| table.would_go).sum();
    let number = counted(number, "snapshot", "snapshots");
    if !args.yes && !super::dead::is_confirmed(&number)? {
        return Err(Misuse(format!("nothing was deleted: this would delete {number} for good; add --yes")).into());
    }
    let thinned = retention.thin(now, Instant::now() + Duration::from_secs(24 * 3600)).await;
    let told = if args.json {
        serde_json::to_string(&thinned)? + "\n"
    } else {
        let failure = thinned.failure.as_ref().map(|failure| format!("; {failure}")).unwrap_or_default();
        let more = if thinned.more { "; more is left" } else { "" };
        format!("deleted {}{failure}{more}\n", counted(thinned.deleted, "snapshot", "snapshots"))
    };
    text::print(&told)?;
    Ok(if thinned.failure.is_none() { Ending::Well } else { Ending::Badly })
}

fn render(outlook: &[Outlook], style: Style) -> String {
    let mut table =
        Table::new([("table", Align::Left), ("would go", Align::Right), ("would stay of those days", Align::Right)]);
    for one in outlook {
        table.row([one.table.to_owned(), count(one.would_go), count(one.would_stay)]);
    }
    table.render(style)
}
