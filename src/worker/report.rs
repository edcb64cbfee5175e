//! The report of a run. The response to the caller, the one log line, the metrics and the row of `refresh_runs` are all made of this one
//! value.

use std::{collections::BTreeMap, num::NonZeroU64, time::Duration};

use serde::Serialize;

use super::{
    login::Login,
    planned::tally::{PlannedReport, PlannedTally},
};
use crate::{
    clock::{ClocksApart, Timestamp, WrongClock},
    maintenance::MaintenanceReport,
    model::{Kind, Outcome, Priority},
    queue::{Admitted, Enqueued, NotQueued, QueueStats, Repaired},
};

/// The error texts that a report keeps; the rest is only counted.
pub const MAX_ERRORS: usize = 20;

/// The reason for which a run ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// Nothing is ready any more.
    #[default]
    QueueEmpty,
    /// The time of the invocation, or of `MAX_RUNTIME_SECONDS`, is used up.
    Deadline,
    /// `max_requests` was reached.
    MaxRequests,
    /// The process was asked to stop (SIGTERM).
    Shutdown,
    /// `REFRESH_PAUSED` or `DISABLE_AUTO_REFRESH_QUEUE`.
    RefreshPaused,
    /// Every key is in use by another run.
    AlreadyRunning,
    /// Every key cools down.
    #[serde(rename = "keys_cooling_down")]
    KeysCoolingDown,
    /// The daily quota (`COC_REQS_PER_DAY`) is used up.
    #[serde(rename = "daily_quota")]
    DailyQuotaExhausted,
    /// The API is in maintenance.
    Maintenance,
    /// The rest waits until the API, or one of its endpoints, works again.
    CircuitOpen,
    /// Calls get no good response.
    ApiUnreachable,
    /// The room for dead letters is full.
    DeadLettersFull,
    /// The API rejects every key.
    NoUsableKey,
    /// The invocation had less time than the deadline buffer takes: no run can do anything.
    TimeoutTooShort,
    /// The queue cannot be used.
    QueueDown,
    /// The database cannot be used.
    DatabaseDown,
}

impl StopReason {
    /// Every reason, in the order above.
    pub const ALL: [Self; 16] = [
        Self::QueueEmpty,
        Self::Deadline,
        Self::MaxRequests,
        Self::Shutdown,
        Self::RefreshPaused,
        Self::AlreadyRunning,
        Self::KeysCoolingDown,
        Self::DailyQuotaExhausted,
        Self::Maintenance,
        Self::CircuitOpen,
        Self::ApiUnreachable,
        Self::DeadLettersFull,
        Self::NoUsableKey,
        Self::TimeoutTooShort,
        Self::QueueDown,
        Self::DatabaseDown,
    ];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::QueueEmpty => "queue_empty",
            Self::Deadline => "deadline",
            Self::MaxRequests => "max_requests",
            Self::Shutdown => "shutdown",
            Self::RefreshPaused => "refresh_paused",
            Self::AlreadyRunning => "already_running",
            Self::KeysCoolingDown => "keys_cooling_down",
            Self::DailyQuotaExhausted => "daily_quota",
            Self::Maintenance => "maintenance",
            Self::CircuitOpen => "circuit_open",
            Self::ApiUnreachable => "api_unreachable",
            Self::DeadLettersFull => "dead_letters_full",
            Self::NoUsableKey => "no_usable_key",
            Self::TimeoutTooShort => "timeout_too_short",
            Self::QueueDown => "queue_down",
            Self::DatabaseDown => "database_down",
        }
    }

    /// The reason with a name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == name)
    }

    /// A sentence for people.
    #[must_use]
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::QueueEmpty => "the queue is empty",
            Self::Deadline => "the time is up; the next run goes on",
            Self::MaxRequests => "max_requests is reached",
            Self::Shutdown => "the worker was asked to stop; the next run goes on",
            Self::RefreshPaused => "refreshes are paused (REFRESH_PAUSED or DISABLE_AUTO_REFRESH_QUEUE)",
            Self::AlreadyRunning => "another run uses every key and serves the queue",
            Self::KeysCoolingDown => "every key is cooling down; the queue waits",
            Self::DailyQuotaExhausted => "the daily quota (COC_REQS_PER_DAY) is used up; the queue waits",
            Self::Maintenance => "the API is in maintenance; the queue waits",
            Self::CircuitOpen => "the rest waits until the API, or one of its endpoints, works again",
            Self::ApiUnreachable => "the API gives no good response",
            Self::DeadLettersFull => "there is no room for more dead letters",
            Self::NoUsableKey => "the API rejects every key",
            Self::TimeoutTooShort => "the timeout of the function is too short",
            Self::QueueDown => "the queue cannot be used",
            Self::DatabaseDown => "the database cannot be used",
        }
    }

    /// True when the run as a whole failed and a person should look.
    #[must_use]
    pub const fn is_failure(self) -> bool {
        matches!(
            self,
            Self::ApiUnreachable
                | Self::DeadLettersFull
                | Self::NoUsableKey
                | Self::TimeoutTooShort
                | Self::QueueDown
                | Self::DatabaseDown
        )
    }

    /// True when requests wait on purpose, or for something outside: nothing here is broken, and nobody can speed it up.
    #[must_use]
    pub const fn holds_back(self) -> bool {
        matches!(self, Self::RefreshPaused | Self::DailyQuotaExhausted | Self::Maintenance)
    }

    /// True when this reason, if it is there from the beginning, turns a run away before it can do any work.
    #[must_use]
    pub const fn is_turned_away(self) -> bool {
        matches!(
            self,
            Self::RefreshPaused
                | Self::AlreadyRunning
                | Self::KeysCoolingDown
                | Self::DailyQuotaExhausted
                | Self::Maintenance
                | Self::CircuitOpen
        )
    }
}

/// The report of one run.
#[derive(Clone, Debug, Default, Serialize)]
pub struct RunReport {
    /// Names the run in lease tokens, key slots, logs and `refresh_runs`; the Lambda request id when there is one.
    pub run: String,
    /// By the queue server's clock (the machine's when the queue never responded), as RFC 3339.
    #[serde(serialize_with = "as_text")]
    pub started: Timestamp,
    pub runtime_seconds: f64,
    pub stopped_because: StopReason,
    /// The reason of a failure, in one sentence.
    pub failure: Option<String>,
    /// Requests that are done: stored, unchanged, fresh, gone, private.
    pub processed_requests: u64,
    /// Failed attempts: delayed and dead letters.
    pub failed_requests: u64,
    /// All outcomes, zeros included.
    pub outcomes: BTreeMap<&'static str, u64>,
    /// Outcomes by kind, without zeros.
    pub outcomes_by_kind: BTreeMap<&'static str, BTreeMap<&'static str, u64>>,
    /// Calls and outcomes by kind and priority, without zeros: what the calls brought. Planned looks are under `planned`, and in none
    /// of the counts of requests above.
    pub work_by_kind_and_priority: BTreeMap<&'static str, BTreeMap<&'static str, BTreeMap<&'static str, u64>>>,
    /// The first [`MAX_ERRORS`] errors.
    pub errors: Vec<String>,
    /// Errors that did not fit.
    pub errors_omitted: u64,
    pub api_requests: u64,
    /// Calls among them that were made of objects with good responses before, to classify bad responses.
    pub control_calls: u64,
    /// The circuits that are open when the run ends: `api`, or the names of endpoints.
    pub circuits: Vec<&'static str>,
    pub api_requests_per_second: f64,
    /// Calls made / calls allowed by the cap of the keys held, 0 when none was held.
    pub budget_used: f64,
    /// Responses with status 429.
    pub throttled: u64,
    /// Keys that the run could use when it ended.
    pub keys_usable: u64,
    pub keys_held: u64,
    /// Configured keys that the API rejects, as this run or one before it saw: a person has to replace them.
    pub keys_rejected: u64,
    /// True when these are all keys: the run could not do anything, and the next ones cannot either.
    pub all_keys_rejected: bool,
    /// Logins to the developer portal without a key; `errors` has the reasons.
    pub logins_failed: u64,
    /// Requests put in front because the event named them.
    pub enqueued: u64,
    /// Objects that the event named and that were not queued.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_queued: Vec<NotQueuedReport>,
    /// Follow-ups that were queued: next polls of wars, members whose documents are old.
    pub followups: u64,
    /// Entries appended to the stream of events.
    pub events: u64,
    /// Readers' keys that were deleted because they were outdated.
    pub cache_keys_deleted: u64,
    pub mail: MailReport,
    /// Leases of dead runs that were taken back.
    pub lapsed: u64,
    /// Requests among them that lapsed so often that they are dead letters now.
    pub lapsed_dead: u64,
    /// Faults of the queue that were repaired.
    pub repaired: RepairReport,
    /// The clocks of Redis and of the machine; absent when they agree.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clocks: Option<ClocksReport>,
    /// The work after the drain.
    #[serde(flatten)]
    pub after: MaintenanceReport,
    /// The daily quota; absent without `COC_REQS_PER_DAY`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub day: Option<DayReport>,
    /// The freshness planner; absent while it is off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub planned: Option<PlannedReport>,
    /// The queue as the run left it; absent when the queue does not respond.
    #[serde(flatten)]
    pub queue: Option<QueueReport>,
}

impl RunReport {
    /// The requests and entries that this run made dead letters, in each of the ways there are.
    #[must_use]
    pub fn dead_letters_added(&self) -> u64 {
        let attempted = self.outcomes.get(Outcome::DeadLetter.as_str()).copied().unwrap_or_default();
        attempted + self.lapsed_dead + self.mail.unreadable + self.repaired.invalid_entries
    }
}

/// Clocks that did not agree when a run began.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct ClocksReport {
    pub apart_seconds: f64,
    #[serde(serialize_with = "as_text")]
    pub redis: Timestamp,
    #[serde(serialize_with = "as_text")]
    pub machine: Timestamp,
    /// `redis`, `machine`, or `unknown`.
    pub wrong: &'static str,
}

impl From<ClocksApart> for ClocksReport {
    fn from(clocks: ClocksApart) -> Self {
        Self {
            apart_seconds: round(clocks.difference().as_secs_f64(), 1),
            redis: clocks.server,
            machine: clocks.machine,
            wrong: match clocks.wrong() {
                WrongClock::Server => "redis",
                WrongClock::Machine => "machine",
                WrongClock::AllDiffer | WrongClock::Unknown => "unknown",
            },
        }
    }
}

/// An object that an event named and that was not queued.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NotQueuedReport {
    pub object: String,
    /// The state of the object, its cause, and the fix.
    pub reason: String,
}

/// The daily quota (`COC_REQS_PER_DAY`), over all keys and runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct DayReport {
    pub calls_allowed: u64,
    /// Made, or taken by a run that may still make them.
    pub calls_taken: u64,
    pub calls_left: u64,
    /// Midnight in UTC, as RFC 3339.
    #[serde(serialize_with = "as_text")]
    pub resets_at: Timestamp,
}

impl DayReport {
    #[must_use]
    pub fn new(per_day: NonZeroU64, taken: u64, now: Timestamp) -> Self {
        let resets_at = super::daily_quota::resets_at(now);
        Self {
            calls_allowed: per_day.get(),
            calls_taken: taken,
            calls_left: per_day.get().saturating_sub(taken),
            resets_at,
        }
    }
}

/// The entries of the mailbox that a run took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct MailReport {
    pub admitted: u64,
    pub unreadable: u64,
    pub orphans_dropped: u64,
}

impl MailReport {
    pub fn add(&mut self, admitted: &Admitted) {
        self.admitted += admitted.admitted as u64;
        self.unreadable += admitted.unreadable as u64;
        self.orphans_dropped += admitted.orphans_dropped as u64;
    }
}

/// Faults of the queue that were repaired: deleted, broken or written by hand, or lost by the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RepairReport {
    /// Records that were rebuilt from their remains.
    pub records: u64,
    /// Objects that were in no set or in a wrong one.
    pub places: u64,
    /// Entries that are not objects, kept as dead letters.
    pub invalid_entries: u64,
    /// Counters that held something else and were reset.
    pub counters: u64,
}

impl RepairReport {
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.records + self.places + self.invalid_entries + self.counters
    }

    pub const fn add(&mut self, repaired: Repaired) {
        self.records += repaired.records as u64;
        self.places += repaired.places as u64;
        self.invalid_entries += repaired.invalid_entries as u64;
        self.counters += repaired.counters as u64;
    }
}

/// The queue in numbers, as health, metrics and reports show it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct QueueReport {
    /// Mailbox and ready: requests that wait to be done now.
    pub queue_size: u64,
    pub mailbox: u64,
    pub ready_by_priority: BTreeMap<&'static str, u64>,
    pub delayed: u64,
    pub leased: u64,
    pub dead_letters: u64,
    pub orphans: u64,
    /// The oldest request that waits to be done now, mailbox included; 0 when none waits, absent when it is unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oldest_request_age_seconds: Option<f64>,
    /// Entries that producers wrote to database 0 while our URL selects another.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mail_in_database_0: Option<u64>,
}

/// An empty queue.
impl Default for QueueReport {
    fn default() -> Self {
        Self::new(&QueueStats::default(), Timestamp::EPOCH)
    }
}

impl QueueReport {
    #[must_use]
    pub fn new(stats: &QueueStats, now: Timestamp) -> Self {
        Self {
            queue_size: stats.queue_size(),
            mailbox: stats.mailbox,
            ready_by_priority: stats.ready_by_priority.iter().map(|(class, count)| (class.as_str(), *count)).collect(),
            delayed: stats.delayed,
            leased: stats.leased,
            dead_letters: stats.dead_letters,
            orphans: stats.orphans,
            oldest_request_age_seconds: stats.oldest.age(now).map(|age| age.as_secs_f64()),
            mail_in_database_0: stats.mail_in_database_0,
        }
    }
}

/// Counts while a run goes on, and becomes its [`RunReport`].
#[derive(Clone, Debug)]
pub struct Tally {
    /// The report so far. [`Self::finish`] fills in the rest.
    pub report: RunReport,
    /// By the priority of the request; `None` counts planned looks, which nobody requested.
    counts: BTreeMap<(Kind, Option<Priority>, Outcome), u64>,
    calls: BTreeMap<(Kind, Option<Priority>), u64>,
    /// `None` while the planner is off.
    pub planned: Option<PlannedTally>,
    /// The maintenance, when it was done beside planned looks.
    pub maintained: Option<MaintenanceReport>,
}

impl Tally {
    #[must_use]
    pub fn new(run: String, started: Timestamp) -> Self {
        Self {
            report: RunReport { run, started, ..RunReport::default() },
            counts: BTreeMap::new(),
            calls: BTreeMap::new(),
            planned: None,
            maintained: None,
        }
    }

    /// Counts what the planner learns, if it is on.
    #[must_use]
    pub fn with_planned(self, is_on: bool) -> Self {
        Self { planned: is_on.then(PlannedTally::default), ..self }
    }

    /// Records the result of queueing the requests that the event named.
    pub fn enqueued(&mut self, enqueued: Enqueued) {
        self.report.enqueued = enqueued.queued as u64;
        let not_queued = |dead: NotQueued| NotQueuedReport { object: dead.object.to_string(), reason: dead.why() };
        self.report.not_queued = enqueued.dead.into_iter().map(not_queued).collect();
    }

    /// Counts a slice of the mailbox.
    pub fn admitted(&mut self, admitted: &Admitted) {
        self.report.mail.add(admitted);
        self.report.repaired.add(admitted.repaired);
    }

    /// Counts the end of a request; without a priority, that of a planned look.
    pub fn count(&mut self, kind: Kind, priority: impl Into<Option<Priority>>, outcome: Outcome) {
        *self.counts.entry((kind, priority.into(), outcome)).or_default() += 1;
    }

    /// True when a request or a planned look was released.
    pub fn released_any(&self) -> bool {
        self.counts.keys().any(|(_, _, outcome)| *outcome == Outcome::Released)
    }

    /// Counts the calls of a request, quick tries included; without a priority, those of a planned look.
    pub fn count_calls(&mut self, kind: Kind, priority: impl Into<Option<Priority>>, calls: u64) {
        *self.calls.entry((kind, priority.into())).or_default() += calls;
    }

    /// Records the result of a login.
    pub fn logged_in(&mut self, login: Login) {
        self.report.logins_failed += login.failures.len() as u64;
        for text in login.failures.into_iter().chain(login.notices) {
            self.error(text);
        }
    }

    pub fn error(&mut self, text: impl Into<String>) {
        if self.report.errors.len() < MAX_ERRORS {
            self.report.errors.push(crate::model::text::clean(text.into()));
        } else {
            self.report.errors_omitted += 1;
        }
    }

    /// The requests with such an outcome. Planned looks are no requests.
    fn sum(&self, wanted: impl Fn(Outcome) -> bool) -> u64 {
        let requests = self.counts.iter().filter(|((_, priority, outcome), _)| priority.is_some() && wanted(*outcome));
        requests.map(|(_, count)| count).sum()
    }

    /// The requests that are done so far.
    #[must_use]
    pub fn processed(&self) -> u64 {
        self.sum(Outcome::is_processed)
    }

    /// The attempts that failed so far.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.sum(Outcome::is_failure)
    }

    /// Completes the report.
    #[must_use]
    pub fn finish(mut self, end: RunEnd) -> RunReport {
        let (processed_requests, failed_requests) = (self.processed(), self.failed());
        let outcomes = Outcome::ALL.iter().map(|outcome| (outcome.as_str(), self.sum(|other| other == *outcome)));
        self.report.outcomes = outcomes.collect();
        for ((kind, priority, outcome), count) in &self.counts {
            if priority.is_some() {
                let of_kind = self.report.outcomes_by_kind.entry(kind.as_str()).or_default();
                *of_kind.entry(outcome.as_str()).or_default() += count;
            }
            let work = self.report.work_by_kind_and_priority.entry(kind.as_str()).or_default();
            work.entry(class(*priority)).or_default().insert(outcome.as_str(), *count);
        }
        for ((kind, priority), calls) in &self.calls {
            let work = self.report.work_by_kind_and_priority.entry(kind.as_str()).or_default();
            work.entry(class(*priority)).or_default().insert("calls", *calls);
        }
        let seconds = end.runtime.as_secs_f64();
        RunReport {
            planned: self.planned.map(PlannedTally::finish),
            runtime_seconds: round(seconds, 3),
            stopped_because: end.stopped_because,
            failure: end.failure.map(crate::model::text::clean),
            processed_requests,
            failed_requests,
            api_requests: end.api_requests,
            api_requests_per_second: round(ratio(end.api_requests, seconds), 2),
            // The limiter's slack may let a run of a few calls make more than its share; no run reports more than 100 %.
            budget_used: round(ratio(end.api_requests, end.calls_allowed).min(1.0), 4),
            keys_usable: end.keys_usable,
            keys_held: end.keys_held,
            day: end.day,
            queue: end.queue,
            ..self.report
        }
    }
}

/// The values that are only known when the run is over.
#[derive(Clone, Debug)]
pub struct RunEnd {
    pub stopped_because: StopReason,
    pub failure: Option<String>,
    pub runtime: Duration,
    pub api_requests: u64,
    /// By the cap of the keys held, from the first call to the last.
    pub calls_allowed: f64,
    pub keys_usable: u64,
    pub keys_held: u64,
    pub queue: Option<QueueReport>,
    pub day: Option<DayReport>,
}

/// The name of a priority among the work of a run.
fn class(priority: Option<Priority>) -> &'static str {
    priority.map_or("planned", Priority::as_str)
}

#[expect(clippy::cast_precision_loss, reason = "counts of one run are far below 2^52")]
fn ratio(count: u64, whole: f64) -> f64 {
    if whole > 0.0 { count as f64 / whole } else { 0.0 }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
fn as_text<S: serde::Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(time)
}

/// A number with so many digits after the point.
pub(super) fn round(value: f64, digits: i32) -> f64 {
    let scale = 10_f64.powi(digits);
    (value * scale).round() / scale
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end() -> RunEnd {
        RunEnd {
            stopped_because: StopReason::QueueEmpty,
            failure: None,
            runtime: Duration::from_secs(2),
            api_requests: 58,
            calls_allowed: 60.0,
            keys_usable: 1,
            keys_held: 1,
            queue: None,
            day: None,
        }
    }

    #[test]
    fn report_counts_outcomes_and_budget() {
        let mut tally = Tally::new("run".to_owned(), Timestamp::EPOCH);
        tally.count(Kind::Clan, Priority::High, Outcome::Stored);
        tally.count(Kind::Player, Priority::High, Outcome::Stored);
        tally.count(Kind::Player, Priority::High, Outcome::DeadLetter);
        tally.count(Kind::Player, Priority::Low, Outcome::Stored);
        tally.count_calls(Kind::Player, Priority::Low, 2);
        tally.count(Kind::Clan, None, Outcome::Unchanged);
        tally.count_calls(Kind::Clan, None, 1);
        let report = tally.finish(end());
        assert_eq!((report.processed_requests, report.failed_requests), (3, 1));
        assert_eq!(report.outcomes["stored"], 3);
        assert_eq!(report.outcomes_by_kind["player"]["stored"], 2);
        let low = &report.work_by_kind_and_priority["player"]["low"];
        assert_eq!((low["stored"], low["calls"]), (1, 2));
        let planned = &report.work_by_kind_and_priority["clan"]["planned"];
        assert_eq!((planned["unchanged"], planned["calls"], report.outcomes["unchanged"]), (1, 1, 0));
        assert_eq!(report.outcomes.len(), Outcome::ALL.len());
        assert_eq!(report.outcomes_by_kind["player"]["dead_letter"], 1);
        assert!((report.budget_used - 0.9667).abs() < 1e-9);
        assert!((report.api_requests_per_second - 29.0).abs() < 1e-9);
    }

    #[test]
    fn report_and_logs_share_names_of_reasons() {
        for reason in StopReason::ALL {
            assert_eq!(serde_json::to_value(reason).unwrap(), reason.as_str());
        }
    }

    #[test]
    fn released_look_counts_as_released() {
        let mut tally = Tally::new("run".to_owned(), Timestamp::EPOCH);
        tally.count(Kind::Clan, None, Outcome::Stored);
        assert!(!tally.released_any());
        tally.count(Kind::Clan, None, Outcome::Released);
        assert!(tally.released_any(), "a run that lost its keys has to say so");
    }

    #[test]
    fn errors_beyond_the_limit_are_counted() {
        let mut tally = Tally::new("run".to_owned(), Timestamp::EPOCH);
        for number in 0..MAX_ERRORS + 3 {
            tally.error(number.to_string());
        }
        let report = tally.finish(end());
        assert_eq!((report.errors.len(), report.errors_omitted), (MAX_ERRORS, 3));
    }
}
