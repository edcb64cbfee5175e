//! `queue`: `stats` and `export`. The other subcommands have files of their own.

use std::{fmt::Write as _, fs, path::PathBuf};

use anyhow::Context as _;
use clap::{Args, Subcommand, ValueEnum};

use super::{
    Exit, Misuse, Shared, backup, connect, explain, restore,
    text::{self, Align, Style, Table, count, counted, span},
    transfer,
};
use crate::{
    clock::Timestamp,
    config::{Pause, WorkerConfig, env::process_var},
    model::Priority,
    queue::{Circuit, Exported, Oldest, Queue, QueueAdmin, QueueStats, SharedState as _, mailbox},
    worker::report::QueueReport,
};

/// Inspects, backs up, restores, moves, repairs or exports the queue
#[derive(Debug, Args)]
pub struct QueueArgs {
    #[command(subcommand)]
    command: QueueCommand,
}

#[derive(Debug, Subcommand)]
enum QueueCommand {
    Stats(StatsArgs),
    Explain(explain::ExplainArgs),
    Backup(backup::BackupArgs),
    Restore(restore::RestoreArgs),
    #[command(name = "migrate")]
    Transfer(transfer::TransferArgs),
    Export(ExportArgs),
    Repair(super::repair::RepairArgs),
}

/// Counts the requests by state
///
/// Mailbox: written by producers, not yet in the queue. Ready: can be leased now. Delayed: not due yet, or waiting for the
/// next attempt. Leased: a run is working on it. Incomplete: an index entry without data in the mailbox. Needs REDIS_URL.
#[derive(Debug, Args)]
struct StatsArgs {
    /// Write JSON: the fields of `queue` in the report of a run
    #[arg(long)]
    json: bool,
}

/// Writes the queue in the mailbox's format, or returns it to the mailbox
///
/// Without --return nothing is changed. Dead letters are not exported. Needs REDIS_URL.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  refresh-worker queue export --to waiting.jsonl
  refresh-worker queue export --format commands | redis-cli -h old-redis
  refresh-worker queue export --return --yes

The last example hands the queue to the old worker. Stop the schedule of this worker first.")]
struct ExportArgs {
    /// The file to write; - is standard output
    #[arg(long, default_value = "-", value_name = "FILE")]
    to: PathBuf,
    /// json: one object per line with id, score and value; commands: input for redis-cli
    #[arg(long, value_enum, default_value_t = Format::Json)]
    format: Format,
    /// Return every request to refresh_queue and refresh_requests, where the old worker finds it
    #[arg(long = "return", conflicts_with_all = ["to", "format"])]
    return_to_mailbox: bool,
    /// Confirm --return; without it nothing is changed
    #[arg(long, requires = "return_to_mailbox")]
    yes: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Json,
    Commands,
}

pub async fn run(args: QueueArgs, shared: &Shared) -> anyhow::Result<Exit> {
    match args.command {
        QueueCommand::Stats(args) => stats(&args, shared).await,
        QueueCommand::Explain(args) => explain::run(args, shared).await,
        QueueCommand::Backup(args) => backup::run(args).await,
        QueueCommand::Restore(args) => restore::run(args).await,
        QueueCommand::Transfer(args) => transfer::run(args).await,
        QueueCommand::Export(args) if args.return_to_mailbox => return_to_mailbox(&args).await,
        QueueCommand::Export(args) => export(&args).await,
        QueueCommand::Repair(args) => super::repair::run(&args).await,
    }
}

async fn stats(args: &StatsArgs, shared: &Shared) -> anyhow::Result<Exit> {
    let queue = connect::queue()?;
    let now = queue.time().await?;
    let stats = queue.stats(now).await?;
    let circuits = queue.circuits().await?;
    let paused = paused(WorkerConfig::read(&process_var)?.paused, &circuits);
    let output = if args.json {
        let mut json = serde_json::to_value(QueueReport::new(&stats, now))?;
        // Not a part of the report of a run, which says it in `stopped_because`.
        json["paused"] = paused.map_or(serde_json::Value::Null, |because| serde_json::json!({"because": because}));
        serde_json::to_string_pretty(&json)? + "\n"
    } else {
        let paused = paused.map(|because| shared.style().warn(&format!("  paused: {because}\n")));
        render(&stats, now, shared.style()) + &paused.unwrap_or_default()
    };
    text::print(&output)?;
    Ok(Exit::Success)
}

/// The reason why runs do nothing although no server is down. The switches are those of this environment.
fn paused(pause: Option<Pause>, circuits: &[Circuit]) -> Option<String> {
    match (pause, Circuit::of_api(circuits)) {
        // A switch outweighs a circuit: runs do not even look at circuits then.
        (Some(Pause::RefreshPaused), _) => Some("REFRESH_PAUSED is true".to_owned()),
        (Some(Pause::DisableAutoRefreshQueue), _) => Some("DISABLE_AUTO_REFRESH_QUEUE is true".to_owned()),
        (None, Some(circuit)) => {
            Some(format!("{}, the next probe is at {}", circuit.what_is_wrong(), circuit.next_probe))
        }
        (None, None) => None,
    }
}

fn render(stats: &QueueStats, now: Timestamp, style: Style) -> String {
    let number_of = |priority: &Priority| {
        stats.ready_by_priority.get(priority).map(|number| format!("{priority} {}", count(*number)))
    };
    let priorities: Vec<String> = Priority::ALL.iter().filter_map(number_of).collect();
    let due = |at: Timestamp| {
        if at > now { format!("next due in {}", span(at.since(now))) } else { "some are due now".to_owned() }
    };
    let mut dead = Vec::new();
    if stats.dead_letters > 0 {
        dead.push("see `refresh-worker dead list`".to_owned());
    }
    if stats.dead_letters_evicted > 0 {
        dead.push(format!("{} unreadable ones evicted so far", count(stats.dead_letters_evicted)));
    }
    let mut table = Table::new([("", Align::Left), ("", Align::Right), ("", Align::Left)]);
    table.row(["mailbox", &count(stats.mailbox), ""]);
    table.row(["ready", &count(stats.ready), &priorities.join(", ")]);
    table.row(["delayed", &count(stats.delayed), &stats.next_due.map(due).unwrap_or_default()]);
    table.row(["leased", &count(stats.leased), ""]);
    table.row(["dead letters", &count(stats.dead_letters), &dead.join("; ")]);
    if stats.orphans > 0 {
        table.row(["incomplete", &count(stats.orphans), "index entry without data (dropped after 10 min)"]);
    }
    let mut text = table.render(style);
    match stats.oldest {
        Oldest::NothingWaits => {}
        Oldest::Since(asked) => {
            let _ = writeln!(text, "  oldest request: {} ago", span(now.since(asked)));
        }
        Oldest::Unknown => text.push_str("  oldest request: age unknown, its mail has no time\n"),
    }
    if let Some(number) = stats.mail_in_database_0.filter(|number| *number > 0) {
        let number = counted(number, "request is", "requests are");
        text.push_str(&style.warn(&format!(
            "  {number} in database 0, which this worker does not read: producers ignore the database number in REDIS_URL\n"
        )));
    }
    text
}

async fn export(args: &ExportArgs) -> anyhow::Result<Exit> {
    let queue = connect::queue()?;
    let now = queue.time().await?;
    let entries = queue.export(now).await?;
    let rendered = render_export(&entries, args.format);
    // The confirmation would be a part of the exported data.
    if args.to.as_os_str() == "-" {
        text::print(&rendered)?;
        return Ok(Exit::Success);
    }
    let name = args.to.display();
    fs::write(&args.to, rendered).with_context(|| format!("cannot write `{name}`"))?;
    text::print(&format!("wrote {} to {name}\n", counted(entries.len() as u64, "request", "requests")))?;
    Ok(Exit::Success)
}

fn render_export(entries: &[Exported], format: Format) -> String {
    let line = |entry: &Exported| match format {
        Format::Json => {
            serde_json::json!({"id": entry.id, "score": entry.score, "value": entry.value}).to_string() + "\n"
        }
        Format::Commands => format!(
            "HSET {} {} {}\nZADD {} {} {}\n",
            mailbox::DATA,
            quoted(&entry.id),
            quoted(&entry.value),
            mailbox::INDEX,
            entry.score,
            quoted(&entry.id)
        ),
    };
    entries.iter().map(line).collect()
}

/// An argument as redis-cli reads it: in double quotes, with `\xNN` for bytes that are not plain ASCII.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for byte in text.bytes() {
        match byte {
            b'"' => quoted.push_str("\\\""),
            b'\\' => quoted.push_str("\\\\"),
            // redis-cli decodes `\xNN`, so any byte survives a terminal and a pipe.
            b' '..=b'~' => quoted.push(char::from(byte)),
            other => {
                let _ = write!(quoted, "\\x{other:02x}");
            }
        }
    }
    quoted.push('"');
    quoted
}

async fn return_to_mailbox(args: &ExportArgs) -> anyhow::Result<Exit> {
    let queue = connect::queue()?;
    let now = queue.time().await?;
    // The count is read without changing anything.
    if !args.yes {
        let waiting = queue.export(now).await?.len() as u64;
        return Err(Misuse(format!(
            "nothing was changed: this would return {} to the mailbox; stop the schedule of this worker, then add --yes",
            counted(waiting, "request", "requests")
        ))
        .into());
    }
    let moved = queue.return_to_mailbox(now).await?;
    let moved = counted(moved as u64, "request", "requests");
    text::print(&format!("returned {moved} to {} and {}\n", mailbox::INDEX, mailbox::DATA))?;
    Ok(Exit::Success)
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, time::Duration};

    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_772_600_767_089);

    #[test]
    fn stats_show_every_state_and_the_oldest_age() {
        let stats = QueueStats {
            mailbox: 12,
            ready: 1300,
            ready_by_priority: BTreeMap::from([(Priority::Critical, 100), (Priority::Low, 1200)]),
            delayed: 4,
            leased: 0,
            dead_letters: 2,
            dead_letters_evicted: 7,
            orphans: 1,
            oldest: Oldest::Since(NOW - Duration::from_secs(192)),
            next_due: Some(NOW + Duration::from_secs(30)),
            mail_in_database_0: Some(3),
        };
        insta::assert_snapshot!(render(&stats, NOW, Style::PLAIN), @r"
        mailbox          12
        ready         1,300  critical 100, low 1,200
        delayed           4  next due in 30.0 s
        leased            0
        dead letters      2  see `refresh-worker dead list`; 7 unreadable ones evicted so far
        incomplete        1  index entry without data (dropped after 10 min)
        oldest request: 3 min 12 s ago
        3 requests are in database 0, which this worker does not read: producers ignore the database number in REDIS_URL
        ");
    }

    #[test]
    fn export_is_input_for_redis_cli() {
        let entry = Exported { id: "clan:ä\"".to_owned(), score: 1, value: r#"{"id": "clan:\u00e4"}"#.to_owned() };
        insta::assert_snapshot!(render_export(std::slice::from_ref(&entry), Format::Commands), @r#"
        HSET refresh_requests "clan:\xc3\xa4\"" "{\"id\": \"clan:\\u00e4\"}"
        ZADD refresh_queue 1 "clan:\xc3\xa4\""
        "#);
        let json: serde_json::Value = serde_json::from_str(&render_export(&[entry], Format::Json)).unwrap();
        assert_eq!((&json["id"], &json["score"]), (&"clan:ä\"".into(), &1.into()));
    }
}
