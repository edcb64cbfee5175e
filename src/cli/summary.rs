//! The summary of a run for people: a pure function from a [`RunReport`] to text.

use std::fmt::Write as _;

use super::text::{Align, Style, Table, count, counted, percent, short, span};
use crate::{
    maintenance::invalidate::Invalidated,
    model::{Kind, Outcome},
    worker::report::{QueueReport, RunReport, StopReason},
};

/// The report in a few lines.
#[must_use]
pub fn render(report: &RunReport, style: Style) -> String {
    let mut text = headline(report, style);
    let table = outcomes(report, style);
    if !table.is_empty() {
        let _ = write!(text, "\n{table}");
    }
    let mut facts = Table::new([("", Align::Left), ("", Align::Left)]);
    for (name, fact) in facts_of(report) {
        facts.row([name.to_owned(), fact]);
    }
    let facts = facts.render(style);
    if !facts.is_empty() {
        let _ = write!(text, "\n{facts}");
    }
    text
}

fn headline(report: &RunReport, style: Style) -> String {
    let runtime = span(std::time::Duration::from_secs_f64(report.runtime_seconds.max(0.0)));
    let why = match report.stopped_because {
        // At a terminal there is no sandbox: a person stopped the run.
        StopReason::Shutdown => "stopped on request; unfinished requests are back in the queue",
        reason => reason.sentence(),
    };
    if report.stopped_because.is_failure() || report.failure.is_some() {
        let failure = report.failure.as_deref().unwrap_or(why);
        let head = style.bad(&format!("Run failed after {runtime}: "));
        return format!("{head}{failure}\n");
    }
    // A run that did some work before it was turned away has a table to show.
    if report.stopped_because.is_turned_away()
        && report.processed_requests == 0
        && report.planned.as_ref().is_none_or(|planned| planned.looks == 0)
    {
        return format!("{} {why}\n", style.warn("Nothing done:"));
    }
    let done = counted(report.processed_requests, "request", "requests");
    format!("{} {why}\n", style.bold(&format!("{done} done in {runtime};")))
}

/// A table with a row per kind and a column per outcome that occurred. There is no sum across, since a released or delayed
/// request may come again in the same run.
fn outcomes(report: &RunReport, style: Style) -> String {
    let columns: Vec<Outcome> = Outcome::ALL
        .into_iter()
        // Columns of zeros would hide the few that matter.
        .filter(|outcome| report.outcomes.get(outcome.as_str()).is_some_and(|count| *count > 0))
        .collect();
    if columns.is_empty() {
        return String::new();
    }
    let header = columns.iter().map(|outcome| (heading(*outcome), Align::Right));
    let mut table = Table::new([("", Align::Left)].into_iter().chain(header));
    let kinds: Vec<Kind> =
        Kind::ALL.into_iter().filter(|kind| report.outcomes_by_kind.contains_key(kind.as_str())).collect();
    for kind in &kinds {
        let counts = &report.outcomes_by_kind[kind.as_str()];
        let cells: Vec<u64> =
            columns.iter().map(|outcome| counts.get(outcome.as_str()).copied().unwrap_or(0)).collect();
        table.row(line(plural(*kind), &cells));
    }
    // A sum of one row is that row.
    if kinds.len() > 1 {
        let cells: Vec<u64> = columns.iter().map(|outcome| report.outcomes[outcome.as_str()]).collect();
        table.row(line("all", &cells));
    }
    table.render(style)
}

fn line(name: &str, cells: &[u64]) -> Vec<String> {
    let shown = |number: u64| if number == 0 { "-".to_owned() } else { count(number) };
    let numbers = cells.iter().copied().map(shown);
    [name.to_owned()].into_iter().chain(numbers).collect()
}

const fn heading(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::PrivateWarLog => "private log",
        Outcome::DeadLetter => "dead letter",
        Outcome::LeaseLost => "lease lost",
        other => other.as_str(),
    }
}

const fn plural(kind: Kind) -> &'static str {
    match kind {
        Kind::Clan => "clans",
        Kind::Player => "players",
        Kind::War => "wars",
    }
}

fn facts_of(report: &RunReport) -> Vec<(&'static str, String)> {
    let mut facts = Vec::new();
    if report.mail.admitted + report.mail.unreadable + report.mail.orphans_dropped > 0 {
        facts.push(("mail", mail(report)));
    }
    if report.api_requests > 0 {
        facts.push(("calls", calls(report)));
    }
    if let Some(planned) = report.planned.as_ref().filter(|planned| planned.looks > 0) {
        let looks = counted(planned.looks, "look", "looks");
        facts.push((
            "planned",
            format!("{looks} at known objects with calls to spare, {} had changed", count(planned.changed)),
        ));
    }
    if report.followups > 0 {
        let followups = count(report.followups);
        facts.push(("follow-ups", format!("{followups} queued: next war polls, clan members")));
    }
    if report.events > 0 {
        facts.push(("events", format!("{} published", counted(report.events, "event", "events"))));
    }
    if report.cache_keys_deleted > 0 {
        facts.push(("caches", format!("{} deleted", counted(report.cache_keys_deleted, "key", "keys"))));
    }
    if report.lapsed > 0 {
        let lapsed = counted(report.lapsed, "lease", "leases");
        facts.push(("lapsed", format!("{lapsed} of dead runs ran out")));
    }
    if report.repaired.total() > 0 {
        facts.push(("repaired", super::repair::render(&report.repaired)));
    }
    if let Some(invalidated) = &report.after.caches {
        facts.push(("caches", caches(invalidated)));
    }
    if let Some((refreshed, failed)) = report.after.views_refreshed_and_failed().filter(|counts| *counts != (0, 0)) {
        facts.push(("views", format!("{} refreshed, {} failed", count(refreshed), count(failed))));
    }
    if let Some(stats) = report.after.stats.as_ref().filter(|stats| !stats.jobs.is_empty()) {
        facts.push(("jobs", format!("{} completed, {} failed", count(stats.completed), count(stats.failed))));
    }
    if let Some(thinned) = report.after.retention.as_ref().filter(|thinned| thinned.deleted > 0) {
        facts.push(("thinned", counted(thinned.deleted, "old snapshot", "old snapshots")));
    }
    if let Some(queue) = &report.queue {
        facts.push(("queue", queue_left(queue)));
    }
    facts.extend(report.errors.iter().map(|error| ("error", short(error, 160))));
    // The report keeps a bounded number of errors.
    if report.errors_omitted > 0 {
        facts.push(("error", format!("and {} more", count(report.errors_omitted))));
    }
    facts
}

fn mail(report: &RunReport) -> String {
    let mut text = format!("{} admitted", counted(report.mail.admitted, "request", "requests"));
    if report.mail.unreadable > 0 {
        let _ = write!(text, ", {} invalid (now dead letters)", count(report.mail.unreadable));
    }
    if report.mail.orphans_dropped > 0 {
        let _ = write!(text, ", {} incomplete (dropped: no data within 10 min)", count(report.mail.orphans_dropped));
    }
    text
}

fn caches(invalidated: &Invalidated) -> String {
    let mut text = format!("{} invalidated", counted(invalidated.tags, "tag", "tags"));
    if invalidated.lost > 0 {
        let _ = write!(text, ", {} lost", count(invalidated.lost));
    }
    if let Some(failure) = &invalidated.failure {
        let _ = write!(text, ": {}", short(failure, 140));
    }
    text
}

fn calls(report: &RunReport) -> String {
    let mut text = format!(
        "{}, {} of the budget, {} per second",
        count(report.api_requests),
        percent(report.budget_used),
        report.api_requests_per_second,
    );
    if report.keys_held > 1 {
        let _ = write!(text, ", with {} keys", report.keys_held);
    }
    if report.throttled > 0 {
        let _ = write!(text, "; throttled {}", counted(report.throttled, "time", "times"));
    }
    text
}

/// The queue in one line.
#[must_use]
pub fn queue_left(queue: &QueueReport) -> String {
    let mut parts = vec![format!("{} waiting", count(queue.queue_size))];
    let others = [
        (queue.delayed, "delayed"),
        (queue.leased, "leased"),
        (queue.dead_letters, "dead letters"),
        (queue.orphans, "incomplete"),
    ];
    parts.extend(others.into_iter().filter(|(number, _)| *number > 0).map(|(number, what)| {
        let what = if number == 1 && what == "dead letters" { "dead letter" } else { what };
        format!("{} {what}", count(number))
    }));
    if let Some(number) = queue.mail_in_database_0 {
        parts.push(format!("{} in database 0, which this worker does not read", count(number)));
    }
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        clock::Timestamp,
        model::Priority,
        worker::report::{MailReport, RunEnd, Tally},
    };

    fn end(stopped_because: StopReason) -> RunEnd {
        RunEnd {
            stopped_because,
            failure: None,
            runtime: Duration::from_millis(10_640),
            api_requests: 306,
            calls_allowed: 312.0,
            keys_usable: 1,
            keys_held: 1,
            day: None,
            queue: Some(QueueReport { delayed: 1, dead_letters: 2, ..QueueReport::default() }),
        }
    }

    fn tally() -> Tally {
        let mut tally = Tally::new("run".to_owned(), Timestamp::EPOCH);
        for _ in 0..90 {
            tally.count(Kind::Clan, Priority::High, Outcome::Stored);
        }
        tally.count(Kind::Player, Priority::High, Outcome::Gone);
        tally.count(Kind::Player, Priority::High, Outcome::DeadLetter);
        tally.count(Kind::War, Priority::High, Outcome::PrivateWarLog);
        tally.report.mail = MailReport { admitted: 93, unreadable: 1, orphans_dropped: 0 };
        tally
    }

    #[test]
    fn summary_of_a_full_run() {
        let report = tally().finish(end(StopReason::QueueEmpty));
        insta::assert_snapshot!(render(&report, Style::PLAIN), @r"
        92 requests done in 10.6 s; the queue is empty

                   stored  gone  private log  dead letter
          clans        90     -            -            -
          players       -     1            -            1
          wars          -     -            1            -
          all          90     1            1            1

          mail   93 requests admitted, 1 invalid (now dead letters)
          calls  306, 98.1 % of the budget, 28.76 per second
          queue  0 waiting, 1 delayed, 2 dead letters
        ");
    }

    #[test]
    fn failed_run_summary_begins_with_failure() {
        let mut tally = tally();
        tally.error("cannot store a batch in the database at localhost/coc: disk full");
        let failed = RunEnd {
            failure: Some("cannot reach the database at localhost/coc: connection refused".to_owned()),
            ..end(StopReason::DatabaseDown)
        };
        insta::assert_snapshot!(render(&tally.finish(failed), Style::PLAIN), @r"
        Run failed after 10.6 s: cannot reach the database at localhost/coc: connection refused

                   stored  gone  private log  dead letter
          clans        90     -            -            -
          players       -     1            -            1
          wars          -     -            1            -
          all          90     1            1            1

          mail   93 requests admitted, 1 invalid (now dead letters)
          calls  306, 98.1 % of the budget, 28.76 per second
          queue  0 waiting, 1 delayed, 2 dead letters
          error  cannot store a batch in the database at localhost/coc: disk full
        ");
    }

    #[test]
    fn summary_of_a_rejected_run_names_the_reason() {
        let tally = Tally::new("run".to_owned(), Timestamp::EPOCH);
        let away = RunEnd { api_requests: 0, queue: None, ..end(StopReason::AlreadyRunning) };
        insta::assert_snapshot!(render(&tally.finish(away), Style::PLAIN), @"Nothing done: another run uses every key and serves the queue");
    }
}
