//! What a run tells: the answer to whoever woke it, the one log line, the metrics and the row of `refresh_runs` are all
//! made of this one value. Touches nothing.

use std::{collections::BTreeMap, num::NonZeroU64, time::Duration};

use serde::Serialize;

use super::login::Told;
use crate::{
    clock::{ClocksApart, Timestamp, WrongClock},
    derive::AfterReport,
    model::{Kind, Outcome, Priority},
    queue::{Admitted, Enqueued, NotQueued, QueueStats, Repaired},
};

/// How many error texts a report keeps; the rest is only counted.
pub const MAX_ERRORS: usize = 20;

/// Why a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// Nothing is ready any more.
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
    /// Every key rests after a refusal.
    #[serde(rename = "keys_cooling_down")]
    KeysCoolingDown,
    /// All calls that `COC_REQS_PER_DAY` allows are made.
    #[serde(rename = "daily_cap")]
    DayUsedUp,
    /// The API is in maintenance.
    Maintenance,
    /// What is left waits for the API, or for one of its endpoints, to work again.
    CircuitOpen,
    /// No call was answered well.
    ApiUnreachable,
    /// The room for dead letters is full.
    DeadLettersFull,
    /// No key is accepted any more.
    NoUsableKey,
    /// The invocation had less time than the deadline buffer takes: no run can do anything.
    TimeoutTooShort,
    /// The queue does not answer.
    QueueDown,
    /// The database does not answer.
    DatabaseDown,
}

impl StopReason {
    /// Every reason there is, in the order above.
    pub const ALL: [Self; 16] = [
        Self::QueueEmpty,
        Self::Deadline,
        Self::MaxRequests,
        Self::Shutdown,
        Self::RefreshPaused,
        Self::AlreadyRunning,
        Self::KeysCoolingDown,
        Self::DayUsedUp,
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
            Self::DayUsedUp => "daily_cap",
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

    /// The reason of that name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == name)
    }

    /// The same for people.
    #[must_use]
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::QueueEmpty => "the queue is empty",
            Self::Deadline => "the time of the run is used up; the next run continues",
            Self::MaxRequests => "the requested number of requests is done",
            Self::Shutdown => "the sandbox was shut down; the next run continues",
            Self::RefreshPaused => "refreshes are paused (REFRESH_PAUSED or DISABLE_AUTO_REFRESH_QUEUE)",
            Self::AlreadyRunning => "another run uses every API key and works through the queue",
            Self::KeysCoolingDown => "every API key is cooling down after a refusal; the queue waits",
            Self::DayUsedUp => "the calls of the day (COC_REQS_PER_DAY) are used up; the queue waits",
            Self::Maintenance => "the API is in maintenance; the queue waits",
            Self::CircuitOpen => "the remaining requests wait until the API, or one of its endpoints, recovers",
            Self::ApiUnreachable => "no call succeeded",
            Self::DeadLettersFull => "there is no room for more dead letters",
            Self::NoUsableKey => "no API key is accepted",
            Self::TimeoutTooShort => "the timeout of the function is too short",
            Self::QueueDown => "the queue cannot be used",
            Self::DatabaseDown => "the database cannot be used",
        }
    }

    /// Whether the run as a whole failed and somebody should look.
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

    /// Whether this, when it is there from the beginning, turns a run away before it can do any work.
    #[must_use]
    pub const fn is_turned_away(self) -> bool {
        matches!(
            self,
            Self::RefreshPaused
                | Self::AlreadyRunning
                | Self::KeysCoolingDown
                | Self::DayUsedUp
                | Self::Maintenance
                | Self::CircuitOpen
        )
    }
}

/// One run, told.
#[derive(Clone, Debug, Serialize)]
pub struct RunReport {
    /// Names the run in lease tokens, key slots, logs and `refresh_runs`; the Lambda request id when there is one.
    pub run: String,
    /// By the queue server's clock (the machine's when the queue never answered), as RFC 3339.
    #[serde(serialize_with = "as_text")]
    pub started: Timestamp,
    pub runtime_seconds: f64,
    pub stopped_because: StopReason,
    /// What made the run fail, in one sentence.
    pub failure: Option<String>,
    /// Requests answered for good in this run: stored, unchanged, fresh, gone, private.
    pub processed_requests: u64,
    /// Attempts that failed: delayed and dead letters.
    pub failed_requests: u64,
    /// All outcomes, zeros included.
    pub outcomes: BTreeMap<&'static str, u64>,
    /// Outcomes by kind, without zeros.
    pub outcomes_by_kind: BTreeMap<&'static str, BTreeMap<&'static str, u64>>,
    /// Calls and outcomes by kind and class, without zeros: what the calls bought.
    pub work_by_kind_and_class: BTreeMap<&'static str, BTreeMap<&'static str, BTreeMap<&'static str, u64>>>,
    /// The first [`MAX_ERRORS`] errors.
    pub errors: Vec<String>,
    /// Errors that did not fit.
    pub errors_omitted: u64,
    pub api_requests: u64,
    /// Of those, calls of objects that used to be answered well, made to find out whose fault bad answers are.
    pub control_calls: u64,
    /// The circuits that are open as the run leaves them: `api`, or the names of endpoints.
    pub circuits: Vec<&'static str>,
    pub api_requests_per_second: f64,
    /// Calls made / calls allowed by the cap of the keys held, 0 when none was held.
    pub budget_used: f64,
    /// Answers 429.
    pub throttled: u64,
    /// Keys this run could use when it ended; when it held none, 0.
    pub keys_usable: u64,
    pub keys_held: u64,
    /// Configured keys that the API did not accept in this run: somebody has to replace them.
    pub keys_rejected: u64,
    /// Logins to the developer portal that gave no keys; `errors` says why.
    pub logins_failed: u64,
    /// Requests put in front because the event named them.
    pub enqueued: u64,
    /// Those that the event named and that were not queued, and why.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_queued: Vec<NotQueuedReport>,
    /// Requests that follow from answers: the next looks at wars, members whose documents are old.
    pub followups: u64,
    /// Entries appended to the stream of events.
    pub events: u64,
    /// Readers' keys that were deleted because they held something old.
    pub cache_keys_deleted: u64,
    pub mail: MailReport,
    /// Leases of dead runs that were taken back.
    pub lapsed: u64,
    /// What was out of order in the queue and was mended.
    pub repaired: RepairReport,
    /// How far the clocks of Redis and of the machine are apart; absent when they agree.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clocks: Option<ClocksReport>,
    /// What followed the drain.
    #[serde(flatten)]
    pub after: AfterReport,
    /// How the limit of the day stands; absent without `COC_REQS_PER_DAY`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub day: Option<DayReport>,
    /// The queue as the run left it; absent when the queue does not answer.
    #[serde(flatten)]
    pub queue: Option<QueueReport>,
}

/// Clocks that do not agree, as a run found them when it began.
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

/// An object that was named and not queued.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NotQueuedReport {
    pub object: String,
    /// What it is, why, and what would help.
    pub reason: String,
}

/// The limit of the day (`COC_REQS_PER_DAY`), over all keys and runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct DayReport {
    pub calls_allowed: u64,
    /// Made, or in the hands of a run that may still make them.
    pub calls_taken: u64,
    pub calls_left: u64,
    /// Midnight in UTC, as RFC 3339.
    #[serde(serialize_with = "as_text")]
    pub resets_at: Timestamp,
}

impl DayReport {
    #[must_use]
    pub fn new(per_day: NonZeroU64, taken: u64, now: Timestamp) -> Self {
        let resets_at = super::allowance::resets_at(now);
        Self {
            calls_allowed: per_day.get(),
            calls_taken: taken,
            calls_left: per_day.get().saturating_sub(taken),
            resets_at,
        }
    }
}

/// What the mailbox gave.
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

/// What was out of order in the queue: deleted, broken or written by hand, or lost by the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RepairReport {
    /// Records rebuilt from what was left of them.
    pub records: u64,
    /// Objects that stood in no set or in a wrong one.
    pub places: u64,
    /// Entries that are no object, set aside as dead letters.
    pub invalid_entries: u64,
    /// Counters that held something else and began anew.
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
    /// Mailbox and ready: what waits to be done now.
    pub queue_size: u64,
    pub mailbox: u64,
    pub ready_by_priority: BTreeMap<&'static str, u64>,
    pub delayed: u64,
    pub leased: u64,
    pub dead_letters: u64,
    pub orphans: u64,
    /// Of all that waits to be done now, the mailbox included; 0 when nothing waits, left out when it is unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oldest_request_age_seconds: Option<f64>,
    /// Mail that producers wrote to database 0 while our URL selects another.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mail_in_database_0: Option<u64>,
}

/// Of an empty queue.
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
    pub run: String,
    pub started: Timestamp,
    counts: BTreeMap<(Kind, Priority, Outcome), u64>,
    calls: BTreeMap<(Kind, Priority), u64>,
    pub errors: Vec<String>,
    pub errors_omitted: u64,
    pub throttled: u64,
    pub control_calls: u64,
    pub circuits: Vec<&'static str>,
    pub enqueued: u64,
    pub not_queued: Vec<NotQueuedReport>,
    pub followups: u64,
    pub events: u64,
    pub cache_keys_deleted: u64,
    pub mail: MailReport,
    pub lapsed: u64,
    pub repaired: RepairReport,
    pub clocks: Option<ClocksReport>,
    pub after: AfterReport,
    pub keys_held: u64,
    pub keys_usable: u64,
    pub keys_rejected: u64,
    pub logins_failed: u64,
}

impl Tally {
    #[must_use]
    pub fn new(run: String, started: Timestamp) -> Self {
        Self {
            run,
            started,
            counts: BTreeMap::new(),
            calls: BTreeMap::new(),
            errors: Vec::new(),
            errors_omitted: 0,
            throttled: 0,
            control_calls: 0,
            circuits: Vec::new(),
            enqueued: 0,
            not_queued: Vec::new(),
            followups: 0,
            events: 0,
            cache_keys_deleted: 0,
            mail: MailReport { admitted: 0, unreadable: 0, orphans_dropped: 0 },
            lapsed: 0,
            repaired: RepairReport { records: 0, places: 0, invalid_entries: 0, counters: 0 },
            clocks: None,
            after: AfterReport::default(),
            keys_held: 0,
            keys_usable: 0,
            keys_rejected: 0,
            logins_failed: 0,
        }
    }

    /// Notes what became of the requests that the event named.
    pub fn enqueued(&mut self, enqueued: Enqueued) {
        self.enqueued = enqueued.queued as u64;
        let told = |dead: NotQueued| NotQueuedReport { object: dead.object.to_string(), reason: dead.why() };
        self.not_queued = enqueued.dead.into_iter().map(told).collect();
    }

    /// Counts a slice of mail.
    pub fn admitted(&mut self, admitted: &Admitted) {
        self.mail.add(admitted);
        self.repaired.add(admitted.repaired);
    }

    pub fn count(&mut self, kind: Kind, class: Priority, outcome: Outcome) {
        *self.counts.entry((kind, class, outcome)).or_default() += 1;
    }

    /// Whether a request was given back.
    pub fn gave_back(&self) -> bool {
        self.sum(|outcome| outcome == Outcome::Released) > 0
    }

    /// Calls that a request cost, quick tries included.
    pub fn count_calls(&mut self, kind: Kind, class: Priority, calls: u64) {
        *self.calls.entry((kind, class)).or_default() += calls;
    }

    /// A login was made, or could not be.
    pub fn logged_in(&mut self, told: Told) {
        self.logins_failed += told.failures.len() as u64;
        for text in told.failures.into_iter().chain(told.news) {
            self.error(text);
        }
    }

    pub fn error(&mut self, text: impl Into<String>) {
        if self.errors.len() < MAX_ERRORS {
            self.errors.push(crate::model::text::clean(text.into()));
        } else {
            self.errors_omitted += 1;
        }
    }

    fn sum(&self, wanted: impl Fn(Outcome) -> bool) -> u64 {
        self.counts.iter().filter(|((_, _, outcome), _)| wanted(*outcome)).map(|(_, count)| count).sum()
    }

    /// Requests answered for good so far.
    #[must_use]
    pub fn processed(&self) -> u64 {
        self.sum(Outcome::is_processed)
    }

    /// Attempts that failed so far.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.sum(Outcome::is_failure)
    }

    /// Closes the books.
    #[must_use]
    pub fn finish(self, end: RunEnd) -> RunReport {
        let outcomes = Outcome::ALL.iter().map(|outcome| (outcome.as_str(), self.sum(|other| other == *outcome)));
        let outcomes = outcomes.collect();
        let mut outcomes_by_kind: BTreeMap<&'static str, BTreeMap<&'static str, u64>> = BTreeMap::new();
        let mut work: BTreeMap<_, BTreeMap<_, BTreeMap<_, u64>>> = BTreeMap::new();
        for ((kind, class, outcome), count) in &self.counts {
            *outcomes_by_kind.entry(kind.as_str()).or_default().entry(outcome.as_str()).or_default() += count;
            work.entry(kind.as_str()).or_default().entry(class.as_str()).or_default().insert(outcome.as_str(), *count);
        }
        for ((kind, class), calls) in &self.calls {
            work.entry(kind.as_str()).or_default().entry(class.as_str()).or_default().insert("calls", *calls);
        }
        let seconds = end.runtime.as_secs_f64();
        RunReport {
            runtime_seconds: round(seconds, 3),
            stopped_because: end.stopped_because,
            failure: end.failure.map(crate::model::text::clean),
            processed_requests: self.processed(),
            failed_requests: self.failed(),
            outcomes,
            outcomes_by_kind,
            work_by_kind_and_class: work,
            api_requests: end.api_requests,
            circuits: self.circuits,
            control_calls: self.control_calls,
            api_requests_per_second: round(ratio(end.api_requests, seconds), 2),
            // In a run of a few calls the limiter's slack shows: that is not more than all of the budget.
            budget_used: round(ratio(end.api_requests, end.calls_allowed).min(1.0), 4),
            keys_usable: end.keys_usable,
            keys_held: end.keys_held,
            keys_rejected: self.keys_rejected,
            logins_failed: self.logins_failed,
            day: end.day,
            queue: end.queue,
            run: self.run,
            started: self.started,
            errors: self.errors,
            errors_omitted: self.errors_omitted,
            throttled: self.throttled,
            enqueued: self.enqueued,
            not_queued: self.not_queued,
            followups: self.followups,
            events: self.events,
            cache_keys_deleted: self.cache_keys_deleted,
            mail: self.mail,
            lapsed: self.lapsed,
            repaired: self.repaired,
            clocks: self.clocks,
            after: self.after,
        }
    }
}

/// What is only known when the run is over.
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

#[expect(clippy::cast_precision_loss, reason = "counts of one run are far below 2^52")]
fn ratio(count: u64, whole: f64) -> f64 {
    if whole > 0.0 { count as f64 / whole } else { 0.0 }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
fn as_text<S: serde::Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(time)
}

fn round(value: f64, digits: i32) -> f64 {
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
    fn a_report_counts_every_outcome_and_says_how_much_of_the_budget_was_used() {
        let mut tally = Tally::new("run".to_owned(), Timestamp::EPOCH);
        tally.count(Kind::Clan, Priority::High, Outcome::Stored);
        tally.count(Kind::Player, Priority::High, Outcome::Stored);
        tally.count(Kind::Player, Priority::High, Outcome::DeadLetter);
        tally.count(Kind::Player, Priority::Low, Outcome::Stored);
        tally.count_calls(Kind::Player, Priority::Low, 2);
        let report = tally.finish(end());
        assert_eq!((report.processed_requests, report.failed_requests), (3, 1));
        assert_eq!(report.outcomes["stored"], 3);
        assert_eq!(report.outcomes_by_kind["player"]["stored"], 2);
        let low = &report.work_by_kind_and_class["player"]["low"];
        assert_eq!((low["stored"], low["calls"]), (1, 2));
        assert_eq!(report.outcomes.len(), Outcome::ALL.len());
        assert_eq!(report.outcomes_by_kind["player"]["dead_letter"], 1);
        assert!((report.budget_used - 0.9667).abs() < 1e-9);
        assert!((report.api_requests_per_second - 29.0).abs() < 1e-9);
    }

    #[test]
    fn a_report_names_the_end_of_a_run_as_logs_and_metrics_do() {
        for reason in StopReason::ALL {
            assert_eq!(serde_json::to_value(reason).unwrap(), reason.as_str());
        }
    }

    #[test]
    fn errors_beyond_the_bound_are_only_counted() {
        let mut tally = Tally::new("run".to_owned(), Timestamp::EPOCH);
        for number in 0..MAX_ERRORS + 3 {
            tally.error(number.to_string());
        }
        let report = tally.finish(end());
        assert_eq!((report.errors.len(), report.errors_omitted), (MAX_ERRORS, 3));
    }
}
