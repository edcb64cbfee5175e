//! `queue`: `stats` and `export` here, the other tools in files of their own.

use std::{fmt::Write as _, fs, path::PathBuf};

use anyhow::Context as _;
use clap::{Args, Subcommand, ValueEnum};

use super::{
    Ending, Misuse, Shared, backup, connect, explain, restore,
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

/// Shows what waits and why, backs it up, moves it, or hands it back to the old worker
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

/// Shows how many requests wait, and in what state
///
/// Mailbox: written by producers and not admitted yet. Ready: to be done now. Delayed: not due yet, or waiting after a
/// failure. Leased: being done by a run. Needs REDIS_URL.
#[derive(Debug, Args)]
struct StatsArgs {
    /// Write JSON: the same fields as the answer of a run
    #[arg(long)]
    json: bool,
}

/// Writes what waits in the mailbox's format, or puts it back into the mailbox
///
/// Without --return nothing is changed. Dead letters are not part of it. Needs REDIS_URL.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  refresh-worker queue export --to waiting.jsonl
  refresh-worker queue export --format commands | redis-cli -h old-redis
  refresh-worker queue export --return --yes

The last one goes back to the old worker: stop the schedule of this one first.")]
struct ExportArgs {
    /// The file to write; - is standard output
    #[arg(long, default_value = "-", value_name = "FILE")]
    to: PathBuf,
    /// json: one object a line with id, score and value; commands: what redis-cli takes
    #[arg(long, value_enum, default_value_t = Format::Json)]
    format: Format,
    /// Put everything that waits back into refresh_queue and refresh_requests, where the old worker finds it
    #[arg(long = "return", conflicts_with_all = ["to", "format"])]
    return_to_mailbox: bool,
    /// Do it without being asked again
    #[arg(long, requires = "return_to_mailbox")]
    yes: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Json,
    Commands,
}

pub async fn run(args: QueueArgs, shared: &Shared) -> anyhow::Result<Ending> {
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

async fn stats(args: &StatsArgs, shared: &Shared) -> anyhow::Result<Ending> {
    let queue = connect::queue()?;
    let now = queue.time().await.context("failed to read the queue")?;
    let stats = queue.stats(now).await.context("failed to read the queue")?;
    let circuits = queue.circuits().await.context("failed to read the queue")?;
    let paused = paused(WorkerConfig::read(&process_var)?.paused, &circuits);
    let told = if args.json {
        let mut json = serde_json::to_value(QueueReport::new(&stats, now))?;
        json["paused"] = paused.map_or(serde_json::Value::Null, |because| serde_json::json!({"because": because}));
        serde_json::to_string_pretty(&json)? + "\n"
    } else {
        let paused = paused.map(|because| shared.style().warn(&format!("  paused: {because}\n")));
        render(&stats, now, shared.style()) + &paused.unwrap_or_default()
    };
    text::print(&told)?;
    Ok(Ending::Well)
}

/// What keeps runs from working although everything is well. The switches are those of this environment.
fn paused(pause: Option<Pause>, circuits: &[Circuit]) -> Option<String> {
    match (pause, Circuit::of_api(circuits)) {
        (Some(Pause::RefreshPaused), _) => Some("REFRESH_PAUSED is true".to_owned()),
        (Some(Pause::DisableAutoRefreshQueue), _) => Some("DISABLE_AUTO_REFRESH_QUEUE is true".to_owned()),
        (None, Some(circuit)) => {
            Some(format!("{}, the next probe is at {}", circuit.what_is_wrong(), circuit.next_probe))
        }
        (None, None) => None,
    }
}

fn render(stats: &QueueStats, now: Timestamp, style: Style) -> String {
    let by_class = |class: &Priority| stats.ready_by_priority.get(class).map(|number| format!("{class} {number}"));
    let classes: Vec<String> = Priority::ALL.iter().filter_map(by_class).collect();
    let due = |at: Timestamp| {
        if at > now { format!("next due in {}", span(at.since(now))) } else { "some are due now".to_owned() }
    };
    let mut dead = Vec::new();
    if stats.dead_letters > 0 {
        dead.push("see `refresh-worker dead list`".to_owned());
    }
    if stats.dead_letters_evicted > 0 {
        dead.push(format!("{} unreadable ones gave way, ever", count(stats.dead_letters_evicted)));
    }
    let mut table = Table::new([("", Align::Left), ("", Align::Right), ("", Align::Left)]);
    table.row(["mailbox", &count(stats.mailbox), ""]);
    table.row(["ready", &count(stats.ready), &classes.join(", ")]);
    table.row(["delayed", &count(stats.delayed), &stats.next_due.map(due).unwrap_or_default()]);
    table.row(["leased", &count(stats.leased), ""]);
    table.row(["dead letters", &count(stats.dead_letters), &dead.join("; ")]);
    if stats.orphans > 0 {
        table.row(["orphans", &count(stats.orphans), "in the index, their data is awaited"]);
    }
    let mut told = table.render(style);
    match stats.oldest {
        Oldest::NothingWaits => {}
        Oldest::Since(asked) => {
            let _ = writeln!(told, "  the oldest request that waits was asked for {} ago", span(now.since(asked)));
        }
        Oldest::Unknown => told.push_str("  how long the oldest request waits is unknown: its mail does not say\n"),
    }
    if let Some(number) = stats.mail_in_database_0.filter(|number| *number > 0) {
        let number = counted(number, "request lies", "requests lie");
        told.push_str(&style.warn(&format!(
            "  {number} in database 0: producers ignore the database number in REDIS_URL, and this worker does not look \
             there\n"
        )));
    }
    told
}

async fn export(args: &ExportArgs) -> anyhow::Result<Ending> {
    let queue = connect::queue()?;
    let now = queue.time().await.context("failed to export the queue")?;
    let entries = queue.export(now).await.context("failed to export the queue")?;
    let written = written(&entries, args.format);
    if args.to.as_os_str() == "-" {
        text::print(&written)?;
        return Ok(Ending::Well);
    }
    let name = args.to.display();
    fs::write(&args.to, written).with_context(|| format!("failed to write `{name}`"))?;
    text::print(&format!("wrote {} to {name}\n", counted(entries.len() as u64, "request", "requests")))?;
    Ok(Ending::Well)
}

fn written(entries: &[Exported], format: Format) -> String {
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

/// As redis-cli reads an argument: in double quotes, every byte that is not plain ASCII as `\xNN`.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for byte in text.bytes() {
        match byte {
            b'"' => quoted.push_str("\\\""),
            b'\\' => quoted.push_str("\\\\"),
            b' '..=b'~' => quoted.push(char::from(byte)),
            other => {
                let _ = write!(quoted, "\\x{other:02x}");
            }
        }
    }
    quoted.push('"');
    quoted
}

async fn return_to_mailbox(args: &ExportArgs) -> anyhow::Result<Ending> {
    let queue = connect::queue()?;
    let now = queue.time().await.context("failed to return the queue to the mailbox")?;
    if !args.yes {
        let waiting = queue.export(now).await.context("failed to read the queue")?.len() as u64;
        return Err(Misuse(format!(
            "nothing was changed: this would put {} back into the mailbox; stop the schedule of this worker, then add \
             --yes",
            counted(waiting, "request", "requests")
        ))
        .into());
    }
    let moved = queue.return_to_mailbox(now).await.context("failed to return the queue to the mailbox")?;
    let moved = counted(moved as u64, "request is", "requests are");
    text::print(&format!("{moved} back in {} and {}\n", mailbox::INDEX, mailbox::DATA))?;
    Ok(Ending::Well)
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, time::Duration};

    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_772_600_767_089);

    #[test]
    fn stats_tell_every_state_and_the_oldest_age() {
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
        ready         1,300  critical 100, low 1200
        delayed           4  next due in 30.0 s
        leased            0
        dead letters      2  see `refresh-worker dead list`; 7 unreadable ones gave way, ever
        orphans           1  in the index, their data is awaited
        the oldest request that waits was asked for 3 min 12 s ago
        3 requests lie in database 0: producers ignore the database number in REDIS_URL, and this worker does not look there
        ");
    }

    #[test]
    fn an_export_can_be_fed_to_redis_cli_byte_for_byte() {
        let entry = Exported { id: "clan:ä\"".to_owned(), score: 1, value: r#"{"id": "clan:\u00e4"}"#.to_owned() };
        insta::assert_snapshot!(written(std::slice::from_ref(&entry), Format::Commands), @r#"
        HSET refresh_requests "clan:\xc3\xa4\"" "{\"id\": \"clan:\\u00e4\"}"
        ZADD refresh_queue 1 "clan:\xc3\xa4\""
        "#);
        let json: serde_json::Value = serde_json::from_str(&written(&[entry], Format::Json)).unwrap();
        assert_eq!((&json["id"], &json["score"]), (&"clan:ä\"".into(), &1.into()));
    }
}
