//! `jobs`: lists, queues, retries and deletes statistics jobs.

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::{
    Exit, Misuse, Shared,
    text::{self, Align, Style, Table, counted, short, span},
};
use crate::{
    app,
    clock::{Clock as _, SystemClock},
    columns::TableTime,
    config::{DatabaseConfig, env::process_var},
    maintenance::jobs::table::{JobRow, JobTable},
};

/// The retries of a job that names no other number.
const DEFAULT_MAX_RETRIES: i32 = 3;

/// Lists, queues, retries and deletes statistics jobs
///
/// A job runs the functions of STATS_FUNCTIONS and invalidates their cache tags. Queued jobs start with the next run of the
/// worker, or at once with the event {"task": "stats"}. Needs DATABASE_URL.
#[derive(Debug, Args)]
pub struct JobsArgs {
    #[command(subcommand)]
    command: JobsCommand,
}

#[derive(Debug, Subcommand)]
enum JobsCommand {
    Enqueue(EnqueueArgs),
    List(ListArgs),
    Show(ShowArgs),
    Retry(RetryArgs),
    Purge(PurgeArgs),
}

/// The origin of a job.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum TriggeredBy {
    PostMatch,
    Admin,
    Cron,
}

impl TriggeredBy {
    const fn as_str(self) -> &'static str {
        match self {
            Self::PostMatch => "post-match",
            Self::Admin => "admin",
            Self::Cron => "cron",
        }
    }

    /// Higher comes first: people wait for the statistics of a match.
    const fn priority(self) -> i32 {
        match self {
            Self::PostMatch => 2,
            Self::Admin | Self::Cron => 1,
        }
    }
}

/// Queues a job and prints its id
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  refresh-worker jobs enqueue
  refresh-worker jobs enqueue --triggered-by post-match --match-id 4711")]
struct EnqueueArgs {
    /// The origin: post-match (priority 2), admin or cron (priority 1)
    #[arg(long, value_enum, default_value = "admin", value_name = "WHO")]
    triggered_by: TriggeredBy,
    /// The match after which the job runs
    #[arg(long, value_name = "NUMBER")]
    match_id: Option<i64>,
    /// The user who requested the job
    #[arg(long, value_name = "ID")]
    user_id: Option<String>,
    /// The priority, instead of the one of its origin; higher comes first
    #[arg(long, value_name = "NUMBER")]
    priority: Option<i32>,
    /// The number of retries after a failure
    #[arg(long, value_name = "COUNT", default_value_t = DEFAULT_MAX_RETRIES, value_parser = clap::value_parser!(i32).range(0..=100))]
    max_retries: i32,
}

/// Lists jobs, newest first
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  refresh-worker jobs list
  refresh-worker jobs list --status failed --json")]
struct ListArgs {
    /// Only jobs of this status
    #[arg(long, value_enum, value_name = "STATUS")]
    status: Option<Status>,
    /// Show at most this many
    #[arg(long, default_value_t = 10, value_name = "COUNT")]
    limit: u32,
    /// Write JSON, one job per line
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Status {
    Queued,
    Processing,
    Completed,
    Failed,
}

impl Status {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Processing => "processing",
            Self::Completed => "completed",
            Self::Failed => "failed",
        }
    }
}

/// Shows all details of a job, with the result of each function
#[derive(Debug, Args)]
struct ShowArgs {
    /// The id, as `jobs list` shows it
    #[arg(value_name = "ID")]
    id: String,
    /// Write JSON
    #[arg(long)]
    json: bool,
}

/// Queues a failed job again and prints the id of the new job
///
/// The old job stays; the new one names it in `retryOf` and runs all functions.
#[derive(Debug, Args)]
struct RetryArgs {
    /// The id, as `jobs list` shows it
    #[arg(value_name = "ID")]
    id: String,
}

/// Deletes old jobs that have ended
///
/// Shows how many and asks for confirmation; without a terminal it needs --yes. Queued and running jobs always stay.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  refresh-worker jobs purge
  refresh-worker jobs purge --failed --older-than 30d --yes")]
struct PurgeArgs {
    /// Only jobs that ended longer ago than this: 90s, 30m, 12h, 2d, 1w
    #[arg(long, value_name = "AGE", value_parser = text::parse_span, default_value = "7d")]
    older_than: Duration,
    /// Delete failed jobs, too
    #[arg(long)]
    failed: bool,
    /// Delete without asking
    #[arg(long)]
    yes: bool,
}

pub async fn run(args: JobsArgs, shared: &Shared) -> anyhow::Result<Exit> {
    let store = app::store(&DatabaseConfig::read(&process_var)?)?;
    // The first connection learns what a pooler in between accepts. The commands report errors.
    let _ = crate::store::Store::ping(&store).await;
    let table = JobTable::new(store.pool());
    match args.command {
        JobsCommand::Enqueue(args) => enqueue(args, &table).await,
        JobsCommand::List(args) => list(args, &table, shared.style()).await,
        JobsCommand::Show(args) => show(args, &table, shared.style()).await,
        JobsCommand::Retry(args) => retry(args, &table).await,
        JobsCommand::Purge(args) => purge(args, &table).await,
    }
}

async fn enqueue(args: EnqueueArgs, table: &JobTable) -> anyhow::Result<Exit> {
    let mut payload = json!({
        "triggeredBy": args.triggered_by.as_str(),
        // The keys of other programs that queue jobs.
        "timestamp": SystemClock.wall().to_string(),
        "requestId": request_id(),
    });
    if let Some(id) = args.match_id {
        payload["matchId"] = json!(id);
    }
    if let Some(id) = args.user_id {
        payload["userId"] = json!(id);
    }
    let priority = args.priority.unwrap_or(args.triggered_by.priority());
    let id = table.enqueue(&payload, priority, args.max_retries).await?;
    text::print(&format!("{id}\n"))?;
    Ok(Exit::Success)
}

fn request_id() -> String {
    format!("cli-{:016x}", fastrand::u64(..))
}

async fn list(args: ListArgs, table: &JobTable, style: Style) -> anyhow::Result<Exit> {
    let status = args.status.map(Status::as_str);
    let rows = table.list(None, status, i64::from(args.limit)).await?;
    let output = if args.json { rows.iter().map(json_line).collect() } else { render(&rows, style) };
    text::print(&output)?;
    Ok(Exit::Success)
}

async fn found(id: &str, table: &JobTable) -> anyhow::Result<JobRow> {
    let rows = table.list(Some(id), None, 1).await?;
    let missing = || Misuse(format!("there is no job `{}`; see `refresh-worker jobs list`", short(id, 60)));
    Ok(rows.into_iter().next().ok_or_else(missing)?)
}

async fn show(args: ShowArgs, table: &JobTable, style: Style) -> anyhow::Result<Exit> {
    let job = found(&args.id, table).await?;
    text::print(&if args.json { json_line(&job) } else { render_whole(&job, style) })?;
    Ok(Exit::Success)
}

async fn retry(args: RetryArgs, table: &JobTable) -> anyhow::Result<Exit> {
    let job = found(&args.id, table).await?;
    // A queued or running job would run twice at the same time.
    if job.status != "failed" {
        return Err(Misuse(format!(
            "nothing was queued: the job is {}, and only failed jobs can be retried",
            job.status
        ))
        .into());
    }
    let mut payload = job.payload();
    // Other programs may have written anything into the column.
    if !payload.is_object() {
        payload = json!({"triggeredBy": "admin"});
    }
    payload["timestamp"] = json!(SystemClock.wall().to_string());
    payload["requestId"] = json!(request_id());
    // The link from the new job to the failed one, for people.
    payload["retryOf"] = json!(job.id);
    let id = table.enqueue(&payload, job.priority, job.max_retries).await?;
    text::print(&format!("{id}\n"))?;
    Ok(Exit::Success)
}

async fn purge(args: PurgeArgs, table: &JobTable) -> anyhow::Result<Exit> {
    let statuses: &[&str] = if args.failed { &["completed", "failed"] } else { &["completed"] };
    // A dry run of the same statement, so that the count matches the deletion.
    let count = table.purge(statuses, args.older_than, true).await?;
    let number = counted(count, "job", "jobs");
    if count > 0 && !args.yes && !super::dead::is_confirmed(&number)? {
        return Err(Misuse(format!("nothing was deleted: this would delete {number} for good; add --yes")).into());
    }
    let gone = table.purge(statuses, args.older_than, false).await?;
    text::print(&format!("deleted {}\n", counted(gone, "job", "jobs")))?;
    Ok(Exit::Success)
}

fn time_text(time: Option<TableTime>) -> Option<String> {
    time.map(|time| time.to_string())
}

fn json_line(job: &JobRow) -> String {
    let json = json!({
        "id": job.id,
        "status": job.status,
        "payload": job.payload(),
        "priority": job.priority,
        "retry_count": job.retry_count,
        "max_retries": job.max_retries,
        "created_at": time_text(job.created_at),
        "started_at": time_text(job.started_at),
        "completed_at": time_text(job.completed_at),
        "duration_seconds": took(job).map(|took| took.as_secs_f64()),
        "error_message": job.error_message,
        "results": job.results.as_deref().and_then(|results| serde_json::from_str::<Value>(results).ok()),
    });
    json.to_string() + "\n"
}

/// The time, unless it is infinite or out of the calendar: a duration cannot be counted from such a time.
fn real(time: Option<TableTime>) -> Option<OffsetDateTime> {
    time.filter(|time| time.is_in_calendar()).map(OffsetDateTime::from)
}

/// The time from the start of the job to its end, or until now while it is running.
fn took(job: &JobRow) -> Option<Duration> {
    let end = match (job.status.as_str(), job.completed_at) {
        // The database's clock, since other workers wrote the start.
        ("processing", _) => job.now,
        (_, end) => real(end)?,
    };
    Some((end - real(job.started_at)?).try_into().unwrap_or_default())
}

fn painted(status: &str, style: Style) -> String {
    match status {
        "completed" => style.good(status),
        "failed" => style.bad(status),
        "processing" => style.warn(status),
        other => style.faint(other),
    }
}

fn triggered_by(job: &JobRow) -> String {
    let payload = job.payload();
    let who = payload.get("triggeredBy").and_then(Value::as_str).unwrap_or("?");
    let of_match = payload.get("matchId").map(|id| format!(" {id}")).unwrap_or_default();
    short(&format!("{who}{of_match}"), 30)
}

/// Jobs as a table.
fn render(jobs: &[JobRow], style: Style) -> String {
    if jobs.is_empty() {
        return "no jobs\n".to_owned();
    }
    let columns = [("job", Align::Left), ("origin", Align::Left), ("started", Align::Right), ("ended", Align::Right)];
    let mut table = Table::new(columns.into_iter().chain([("took", Align::Right), ("status", Align::Left)]));
    for job in jobs {
        let ago = |time: Option<TableTime>| {
            let ago = real(time).and_then(|time| Duration::try_from(job.now - time).ok());
            ago.map_or_else(|| "-".to_owned(), |ago| format!("{} ago", span(ago)))
        };
        let error = job.error_message.as_deref().map(|error| format!("  {}", short(error, 100))).unwrap_or_default();
        table.row([
            job.id.clone(),
            triggered_by(job),
            ago(job.started_at),
            ago(job.completed_at),
            took(job).map_or_else(|| "-".to_owned(), span),
            // The last column, since colour codes would count as width.
            format!("{}{error}", painted(&job.status, style)),
        ]);
    }
    table.render(style)
}

fn render_whole(job: &JobRow, style: Style) -> String {
    let mut facts = Table::new([("", Align::Left), ("", Align::Left)]);
    facts.row(["status", &painted(&job.status, style)]);
    facts.row(["origin", &triggered_by(job)]);
    facts.row(["priority", &job.priority.to_string()]);
    facts.row(["failed attempts", &format!("{} (at most {} retries)", job.retry_count, job.max_retries)]);
    for (name, time) in [("queued", job.created_at), ("started", job.started_at), ("ended", job.completed_at)] {
        facts.row([name, &time_text(time).unwrap_or_else(|| "-".to_owned())]);
    }
    facts.row(["took", &took(job).map_or_else(|| "-".to_owned(), span)]);
    if let Some(error) = &job.error_message {
        facts.row(["error", &short(error, 300)]);
    }
    facts.row(["payload", &short(&job.payload, 300)]);
    let mut text = format!("{}\n{}", style.bold(&job.id), facts.render(style));
    let results = job.results();
    if !results.is_empty() {
        let mut table = Table::new([("function", Align::Left), ("took", Align::Right), ("result", Align::Left)]);
        for result in results {
            let how = match &result.error {
                Some(error) => style.bad(&short(error, 160)),
                None => short(&result.message, 160),
            };
            table.row([result.name, span(Duration::from_millis(result.duration)), how]);
        }
        text = format!("{text}\n{}", table.render(style));
    }
    text
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    fn job(status: &str) -> JobRow {
        JobRow {
            id: "6f9619ff-8b86-4011-b42d-00c04fc964ff".to_owned(),
            payload: r#"{"triggeredBy": "post-match", "matchId": 4711}"#.to_owned(),
            status: status.to_owned(),
            started_at: Some(datetime!(2026-03-04 05:06 UTC).into()),
            completed_at: (status != "processing").then_some(datetime!(2026-03-04 05:06:12.5 UTC).into()),
            error_message: (status == "failed").then(|| "1 of 2 functions failed, b: division by zero (22012)".to_owned()),
            results: Some(
                r#"[{"name": "a", "success": true, "message": "done", "duration": 350, "error": null},
                    {"name": "b", "success": false, "message": "failed", "duration": 5, "error": "division by zero (22012)"}]"#
                    .to_owned(),
            ),
            retry_count: 1,
            max_retries: 3,
            priority: 2,
            created_at: Some(datetime!(2026-03-04 05:05 UTC).into()),
            updated_at: None,
            now: datetime!(2026-03-04 05:08 UTC),
        }
    }

    #[test]
    fn list_shows_origin_and_progress() {
        let jobs = [job("processing"), job("failed"), job("completed")];
        insta::assert_snapshot!(render(&jobs, Style::PLAIN));
    }

    #[test]
    fn show_has_each_function() {
        insta::assert_snapshot!(render_whole(&job("failed"), Style::PLAIN));
        let line: Value = serde_json::from_str(&json_line(&job("failed"))).unwrap();
        assert_eq!((&line["duration_seconds"], &line["results"][1]["success"]), (&json!(12.5), &json!(false)));
    }
}
