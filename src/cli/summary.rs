//! The summary of a run, for people. A pure function from a [`RunReport`] to text; touches nothing.

use std::fmt::Write as _;

use super::text::{Align, Style, Table, count, counted, percent, short, span};
use crate::{
    derive::invalidate::Invalidated,
    model::{Kind, Outcome},
    worker::report::{QueueReport, RunReport, StopReason},
};

/// What a report tells, in a few lines.
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
    let why = stopped(report.stopped_because);
    if report.stopped_because.is_failure() || report.failure.is_some() {
        let failure = report.failure.as_deref().unwrap_or(why);
        let head = style.bad(&format!("Run failed after {runtime}: "));
        return format!("{head}{failure}\n");
    }
    if report.stopped_because.is_turned_away() && report.processed_requests == 0 {
        return format!("{} {why}\n", style.warn("Nothing done:"));
    }
    let done = counted(report.processed_requests, "request", "requests");
    format!("{} {why}\n", style.bold(&format!("{done} answered in {runtime};")))
}

/// Why a run ended, as part of a sentence.
#[must_use]
pub const fn stopped(reason: StopReason) -> &'static str {
    match reason {
        StopReason::QueueEmpty => "nothing is ready any more",
        StopReason::Deadline => "the time for this run is used up",
        StopReason::MaxRequests => "the number of requests asked for is reached",
        StopReason::Shutdown => "stopped on request; what was not done is back in the queue",
        StopReason::RefreshPaused => "refreshing is switched off (REFRESH_PAUSED or DISABLE_AUTO_REFRESH_QUEUE)",
        StopReason::AlreadyRunning => "another run holds every API key",
        StopReason::KeysCoolingDown => "every API key rests after a refusal",
        StopReason::DayUsedUp => "the calls that COC_REQS_PER_DAY allows are made",
        StopReason::Maintenance => "the API is in maintenance",
        StopReason::CircuitOpen => "what is left waits until the API, or one of its endpoints, works again",
        StopReason::ApiUnreachable => "no call was answered well",
        StopReason::DeadLettersFull => "there is no room for more dead letters",
        StopReason::NoUsableKey => "no API key is accepted any more",
        StopReason::TimeoutTooShort => "the timeout of the function is too short",
        StopReason::QueueDown => "the queue cannot be used",
        StopReason::DatabaseDown => "the database cannot be used",
    }
}

/// One row a kind, one column an outcome that occurred, and a line of sums. There is no sum across: what is given back or
/// delayed may come again in the same run.
fn outcomes(report: &RunReport, style: Style) -> String {
    let columns: Vec<Outcome> = Outcome::ALL
        .into_iter()
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
        Outcome::Released => "given back",
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
        facts.push(("budget", budget(report)));
    }
    if report.followups > 0 {
        let followups = counted(report.followups, "request", "requests");
        facts.push((
            "follow-up",
            format!("{followups} made of what the answers said: next looks at wars, members of clans"),
        ));
    }
    if report.events > 0 {
        facts.push(("events", format!("{} told", counted(report.events, "change", "changes"))));
    }
    if report.cache_keys_deleted > 0 {
        facts.push(("caches", format!("{} deleted", counted(report.cache_keys_deleted, "key", "keys"))));
    }
    if report.lapsed > 0 {
        let lapsed = counted(report.lapsed, "lease", "leases");
        facts.push(("lapsed", format!("{lapsed} of dead runs taken back")));
    }
    if report.repaired.total() > 0 {
        facts.push(("repaired", super::repair::told(&report.repaired)));
    }
    if let Some(told) = &report.after.caches {
        facts.push(("caches", caches(told)));
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
    facts.extend(report.errors.iter().map(|error| ("note", short(error, 160))));
    if report.errors_omitted > 0 {
        facts.push(("note", format!("and {} more", count(report.errors_omitted))));
    }
    facts
}

fn mail(report: &RunReport) -> String {
    let mut text = format!("{} admitted", counted(report.mail.admitted, "request", "requests"));
    if report.mail.unreadable > 0 {
        let _ = write!(text, ", {} unreadable (now dead letters)", count(report.mail.unreadable));
    }
    if report.mail.orphans_dropped > 0 {
        let _ = write!(text, ", {} dropped because their data never came", count(report.mail.orphans_dropped));
    }
    text
}

fn caches(told: &Invalidated) -> String {
    let mut text = format!("{} told", counted(told.tags, "tag", "tags"));
    if told.lost > 0 {
        let _ = write!(text, ", {} lost", count(told.lost));
    }
    if let Some(failure) = &told.failure {
        let _ = write!(text, ": failed to {}", short(failure, 140));
    }
    text
}

fn budget(report: &RunReport) -> String {
    let mut text = format!(
        "{} made, {} of what was allowed, {} a second",
        counted(report.api_requests, "call", "calls"),
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
        (queue.orphans, "awaiting their data"),
    ];
    parts.extend(others.into_iter().filter(|(number, _)| *number > 0).map(|(number, what)| {
        let what = if number == 1 && what == "dead letters" { "dead letter" } else { what };
        format!("{} {what}", count(number))
    }));
    if let Some(number) = queue.mail_in_database_0 {
        parts.push(format!("{} in database 0, where this worker does not look", count(number)));
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
        tally.mail = MailReport { admitted: 93, unreadable: 1, orphans_dropped: 0 };
        tally
    }

    #[test]
    fn a_summary_shows_outcomes_by_kind_budget_mail_and_what_is_left() {
        let report = tally().finish(end(StopReason::QueueEmpty));
        insta::assert_snapshot!(render(&report, Style::PLAIN), @r"
        92 requests answered in 10.6 s; nothing is ready any more

                   stored  gone  private log  dead letter
          clans        90     -            -            -
          players       -     1            -            1
          wars          -     -            1            -
          all          90     1            1            1

          mail    93 requests admitted, 1 unreadable (now dead letters)
          budget  306 calls made, 98.1 % of what was allowed, 28.76 a second
          queue   0 waiting, 1 delayed, 2 dead letters
        ");
    }

    #[test]
    fn a_failed_run_says_so_first() {
        let mut tally = tally();
        tally.error("commit 12 results: the database at localhost/coc failed to insert clans: disk full");
        let failed = RunEnd {
            failure: Some("reach the database at localhost/coc: connection refused".to_owned()),
            ..end(StopReason::DatabaseDown)
        };
        insta::assert_snapshot!(render(&tally.finish(failed), Style::PLAIN), @r"
        Run failed after 10.6 s: reach the database at localhost/coc: connection refused

                   stored  gone  private log  dead letter
          clans        90     -            -            -
          players       -     1            -            1
          wars          -     -            1            -
          all          90     1            1            1

          mail    93 requests admitted, 1 unreadable (now dead letters)
          budget  306 calls made, 98.1 % of what was allowed, 28.76 a second
          queue   0 waiting, 1 delayed, 2 dead letters
          note    commit 12 results: the database at localhost/coc failed to insert clans: disk full
        ");
    }

    #[test]
    fn a_run_that_was_turned_away_says_why() {
        let tally = Tally::new("run".to_owned(), Timestamp::EPOCH);
        let away = RunEnd { api_requests: 0, queue: None, ..end(StopReason::AlreadyRunning) };
        insta::assert_snapshot!(render(&tally.finish(away), Style::PLAIN), @"Nothing done: another run holds every API key");
    }
}
