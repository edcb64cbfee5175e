//! A deployment in trouble: what its runs report, rendered by the worker's own code, and what Lambda, SQS and API Gateway count.

use std::{collections::BTreeMap, time::Duration};

use hcl::{Value, value::Map};
use refresh_worker::{
    clock::Timestamp,
    config::TelemetryConfig,
    maintenance::{MaintenanceReport, jobs::JobsReport, retention::Thinned, views::Refreshed},
    metrics,
    model::{Kind, Outcome, Priority},
    worker::{
        planned::tally::PlannedReport,
        report::{QueueReport, RunEnd, RunReport, StopReason, Tally},
    },
};

use super::{
    cloudwatch::{CloudWatch, Fired, numbers_of},
    definitions::{self, Alarms, series},
};

pub const MINUTE: i64 = 60;
pub const HOUR: i64 = 3600;

// What runs take at most, and the calls of one key.
const MAX_RUNTIME: f64 = 230.0;
const CALLS_PER_SECOND: f64 = 29.0;

/// The variables of a deployment that alarms depend on.
#[derive(Clone, Copy, Debug)]
pub struct Deployment {
    pub schedule: &'static str,
    /// Seconds between two ticks.
    pub tick: i64,
    pub parallel_runs: i64,
    /// With views, statistics jobs and retention.
    pub tasks: bool,
    /// With planned looks: runs go on until their time is up.
    pub planner: bool,
    /// Each run has keys of its own, and so much to do that it takes all its time: none is turned away.
    pub long_runs: bool,
}

pub const DEFAULT: Deployment = Deployment {
    schedule: "rate(2 minutes)",
    tick: 2 * MINUTE,
    parallel_runs: 1,
    tasks: false,
    planner: false,
    long_runs: false,
};

impl Deployment {
    /// The alarms before and after the time 0 of this trouble.
    pub fn alarms(&self, trouble: Trouble) -> [Alarms; 2] {
        [!trouble.was_off(), trouble != Trouble::SwitchedOff].map(|enabled| self.alarms_with(enabled))
    }

    pub fn alarms_with(&self, schedule_enabled: bool) -> Alarms {
        let mut variables: Map<String, Value> = Map::new();
        variables.insert("schedule_enabled".to_owned(), schedule_enabled.into());
        variables.insert("schedule_expression".to_owned(), self.schedule.into());
        variables.insert("parallel_runs".to_owned(), self.parallel_runs.into());
        let tasks: &[_] =
            if self.tasks { &["REFRESH_VIEWS", "STATS_FUNCTIONS", "SNAPSHOT_RETENTION_DAYS"] } else { &[] };
        let settings = tasks.iter().chain(self.planner.then_some(&"PLANNED_CALLS_PER_SEC"));
        let settings: Map<String, Value> = settings.map(|name| ((*name).to_owned(), Value::from("x"))).collect();
        if !settings.is_empty() {
            variables.insert("environment_variables".to_owned(), settings.into());
        }
        let mut alarms = definitions::of_module(&variables);
        alarms.metric.extend(definitions::of_complete_example(&Map::new()));
        alarms
    }
}

/// What is wrong, from the time 0 on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    None,
    LightLoad,
    ScheduleDeleted,
    ScheduleMayNotInvoke,
    SwitchedOff,
    /// The schedule was off, and is on from the time 0.
    SwitchedOn,
    SwitchedOnInVain,
    /// The same, with a run by hand two minutes before.
    SwitchedOnAfterRun,
    /// Every run ends with this reason.
    EveryRun(StopReason),
    OneRun(StopReason),
    NoReport,
    EveryKeyRejected,
    OneKeyRejected,
    EveryRunKilled,
    OneRunKilled,
    TaskKilled,
    SlowRuns,
    ThrottledOnce,
    ThrottledAlways,
    ThrottledManualRuns,
    TooManyRequests,
    /// The planner is on, and nothing is wrong.
    PlannedLooks,
    LooksOfAnOutage,
    MoreObjectsThanCalls,
    DeadLetter,
    OneViewFails,
    AllViewsFail,
    JobsFail,
    RetentionFails,
    BadEvents,
    ManyBadEvents,
    ApiGateway,
    DatabaseFills,
    CacheFills,
}

impl Trouble {
    /// True when the schedule was off before the time 0.
    const fn was_off(self) -> bool {
        matches!(self, Self::SwitchedOn | Self::SwitchedOnInVain | Self::SwitchedOnAfterRun)
    }

    /// True when only a deployment with the planner can have it.
    pub const fn needs_planner(self) -> bool {
        matches!(self, Self::PlannedLooks | Self::LooksOfAnOutage | Self::MoreObjectsThanCalls)
    }
}

/// The state of the queue: a fluid that producers pour in and runs take out.
#[derive(Debug)]
struct Level {
    waiting: f64,
    at: i64,
}

pub struct World {
    deployment: Deployment,
    trouble: Trouble,
    until: i64,
    cloudwatch: CloudWatch,
    level: Level,
    /// By number of the run within a tick: when its key is free again.
    busy_until: BTreeMap<i64, i64>,
    /// When rejected keys are tried again.
    keys_cool_until: i64,
    first_message: Option<i64>,
    lines: BTreeMap<String, Vec<(String, f64)>>,
}

/// The end of an invocation.
struct Ended {
    seconds: f64,
    failed: bool,
}

impl World {
    /// Lets the trouble last from 0 to `until`, with the first tick after it at `phase`, and returns what the alarms did until `end`.
    pub fn fire(
        deployment: Deployment,
        alarms: &[Alarms; 2],
        trouble: Trouble,
        until: i64,
        phase: i64,
        end: i64,
    ) -> Fired {
        let before = (4 * deployment.tick).max(2 * HOUR);
        let start = phase - before.div_euclid(deployment.tick) * deployment.tick;
        let mut world = Self {
            deployment,
            trouble,
            until,
            cloudwatch: CloudWatch::of(&alarms[1]),
            level: Level { waiting: 0.0, at: start },
            busy_until: BTreeMap::new(),
            keys_cool_until: 0,
            first_message: None,
            lines: BTreeMap::new(),
        };
        for tick in (start..end).step_by(usize::try_from(deployment.tick).unwrap()) {
            let is_off = match trouble {
                Trouble::SwitchedOff => world.is_on(tick),
                Trouble::SwitchedOnInVain => tick < until,
                _ => tick < 0 && trouble.was_off(),
            };
            if is_off {
                continue;
            }
            for number in 0..deployment.parallel_runs {
                world.start(tick, number);
            }
        }
        for minute in (start..end).step_by(60) {
            world.minute(minute);
        }
        if trouble == Trouble::SwitchedOnAfterRun {
            let ended = world.report(StopReason::QueueEmpty, -2 * MINUTE, 5.0, |_| {});
            world.count(-2 * MINUTE, &ended);
        }
        world.queue_is_active(end);
        // Between rare ticks little changes: a look every quarter of an hour.
        let is_near = |now: &i64| {
            let since = (now - phase).rem_euclid(deployment.tick);
            deployment.tick < HOUR || since < 20 * MINUTE || since % (15 * MINUTE) == 0
        };
        let times = (phase - before / 2..=end).step_by(60).filter(is_near);
        world.cloudwatch.watch(alarms, times)
    }

    fn is_on(&self, now: i64) -> bool {
        (0..self.until).contains(&now)
    }

    fn is(&self, trouble: Trouble, now: i64) -> bool {
        self.trouble == trouble && self.is_on(now)
    }

    fn is_first(&self, now: i64) -> bool {
        (0..self.deployment.tick).contains(&now)
    }

    fn start(&mut self, now: i64, number: i64) {
        let Self { trouble, .. } = *self;
        if self.is(Trouble::ScheduleDeleted, now) {
            return;
        }
        if self.is(Trouble::ScheduleMayNotInvoke, now) {
            return self.sqs(now);
        }
        if self.is(Trouble::ThrottledAlways, now) {
            self.lambda("Throttles", now, now, 2.0);
            return self.sqs(now + 60);
        }
        let is_on = self.is_on(now);
        let ended = match trouble {
            _ if self.busy_until.get(&number).is_some_and(|until| now < *until) => {
                self.report(StopReason::AlreadyRunning, now, 0.1, |_| {})
            }
            Trouble::NoReport if is_on => Ended { seconds: 0.1, failed: true },
            Trouble::EveryRunKilled if is_on => self.killed(now, number),
            Trouble::OneRunKilled if self.is_first(now) => self.killed(now, number),
            Trouble::EveryRun(reason) if is_on => self.every_run(reason, now, number),
            Trouble::OneRun(reason) if self.is_first(now) => self.report(reason, now, 5.0, |_| {}),
            Trouble::EveryKeyRejected if is_on && now < self.keys_cool_until => {
                self.report(StopReason::KeysCoolingDown, now, 0.1, |report| {
                    (report.keys_rejected, report.all_keys_rejected) = (1, true);
                })
            }
            Trouble::EveryKeyRejected if is_on => {
                self.keys_cool_until = now + 9 * MINUTE;
                self.report(StopReason::NoUsableKey, now, 1.0, |report| {
                    (report.keys_rejected, report.all_keys_rejected) = (1, true);
                })
            }
            Trouble::SlowRuns if is_on => {
                self.busy_until.insert(number, now + 265);
                self.report(StopReason::Deadline, now, 265.0, |_| {})
            }
            _ => self.drain(now, number),
        };
        self.count(now, &ended);
    }

    /// What Lambda counts of an invocation.
    fn count(&mut self, now: i64, ended: &Ended) {
        let end = now + ended.seconds.ceil() as i64;
        self.lambda("Invocations", now, end, 1.0);
        self.lambda("Errors", now, end, f64::from(u8::from(ended.failed)));
        self.lambda("Throttles", now, end, 0.0);
        self.lambda("Duration", now, end, ended.seconds * 1000.0);
        if ended.failed {
            self.sqs(end);
        }
    }

    /// A run that hangs until Lambda ends it. Its key is free when the slot has run out.
    fn killed(&mut self, now: i64, number: i64) -> Ended {
        self.busy_until.insert(number, now + 315);
        Ended { seconds: 300.0, failed: true }
    }

    fn every_run(&mut self, reason: StopReason, now: i64, number: i64) -> Ended {
        // One run of a tick probes; the others are turned away.
        let reason = match reason {
            StopReason::ApiUnreachable if number > 0 => StopReason::CircuitOpen,
            reason => reason,
        };
        self.report(reason, now, 5.0, |_| {})
    }

    /// A run that serves what waits.
    fn drain(&mut self, now: i64, number: i64) -> Ended {
        self.pour(now);
        let Deployment { long_runs, planner, .. } = self.deployment;
        let most = CALLS_PER_SECOND * if planner { MAX_RUNTIME } else { self.seconds_of_a_run() };
        let done = self.level.waiting.min(most);
        self.level.waiting -= done;
        let seconds = if long_runs || planner { MAX_RUNTIME } else { 1.0 + done / CALLS_PER_SECOND };
        let reason = if planner { StopReason::Deadline } else { StopReason::QueueEmpty };
        if planner {
            self.busy_until.insert(number, now + MAX_RUNTIME as i64);
        }
        let lateness = planner.then(|| self.lateness(now));
        let (trouble, is_on, is_first) = (self.trouble, self.is_on(now), self.is_first(now));
        self.report(reason, now, seconds, |report| {
            report.planned =
                lateness.map(|lateness| PlannedReport { lateness_seconds: Some(lateness), ..PlannedReport::default() });
            report.keys_held = if trouble == Trouble::OneKeyRejected { 2 } else { 1 };
            report.keys_usable = 1;
            match trouble {
                Trouble::OneKeyRejected if is_on => report.keys_rejected = 1,
                Trouble::RetentionFails if is_on => {
                    report.after.retention =
                        Some(Thinned { failure: Some("a right".to_owned()), ..Thinned::default() });
                }
                Trouble::DeadLetter if is_first && number == 0 => {
                    report.outcomes.insert(Outcome::DeadLetter.as_str(), 1);
                }
                _ => {}
            }
        })
    }

    /// The lateness of planned looks, in steps of a minute.
    fn lateness(&self, now: i64) -> f64 {
        let hours = now as f64 / HOUR as f64;
        let late_hours = match self.trouble {
            Trouble::MoreObjectsThanCalls if self.is_on(now) => hours,
            Trouble::LooksOfAnOutage if self.is_on(now) => 12.0 - 8.0 * hours,
            _ => 0.05,
        };
        (late_hours.max(0.05) * 60.0).floor() * 60.0
    }

    fn seconds_of_a_run(&self) -> f64 {
        MAX_RUNTIME.min(self.deployment.tick as f64 * 0.96)
    }

    /// Lets the requests since the last run arrive: two fifths of what runs can do.
    fn pour(&mut self, now: i64) {
        self.level.waiting += self.arriving(now) * (now - self.level.at) as f64;
        self.level.at = now;
    }

    fn arriving(&self, now: i64) -> f64 {
        let share = match self.trouble {
            Trouble::LightLoad => 0.001,
            Trouble::TooManyRequests if self.is_on(now) => 2.0 * self.deployment.parallel_runs as f64,
            _ => 0.4,
        };
        share * CALLS_PER_SECOND * self.seconds_of_a_run() / self.deployment.tick as f64
    }

    /// The line of a run that starts now, as the worker writes it at the end.
    fn report(&mut self, reason: StopReason, now: i64, seconds: f64, change: impl Fn(&mut RunReport)) -> Ended {
        self.pour(now);
        let mut tally = Tally::new("8f507cfc".to_owned(), time(now));
        tally.count(Kind::Clan, Priority::High, Outcome::Stored);
        let queue_size = self.level.waiting as u64;
        let oldest = self.level.waiting / self.arriving(now);
        let queue = QueueReport { queue_size, oldest_request_age_seconds: Some(oldest), ..QueueReport::default() };
        let mut report = tally.finish(RunEnd {
            stopped_because: reason,
            failure: reason.is_failure().then(|| "told".to_owned()),
            runtime: Duration::from_secs_f64(seconds),
            api_requests: 1,
            calls_allowed: 1.0,
            keys_usable: 0,
            keys_held: 0,
            queue: (reason != StopReason::QueueDown).then_some(queue),
            day: None,
        });
        if self.deployment.tasks {
            report.after.retention = Some(Thinned::default());
        }
        change(&mut report);
        // Most runs of a story differ in their times only.
        report.started = time(0);
        let line = || metrics::run_line(&report, &telemetry(), time(now + seconds as i64));
        let numbers = self.lines.entry(format!("{report:?}")).or_insert_with(|| numbers_of(&line()));
        self.cloudwatch.take(numbers, now + seconds as i64);
        Ended { seconds, failed: reason.is_failure() }
    }

    /// What happens every minute beside the runs: the tasks, a monitor that asks for health, the servers' own numbers.
    fn minute(&mut self, now: i64) {
        let is_on = self.is_on(now);
        let no_database = self.trouble == Trouble::EveryRun(StopReason::DatabaseDown) && is_on;
        if self.deployment.tasks {
            self.tasks(now, no_database);
        }
        let is_unhealthy = match self.trouble {
            Trouble::EveryRun(reason) => matches!(
                reason,
                StopReason::DatabaseDown | StopReason::QueueDown | StopReason::ApiUnreachable | StopReason::NoUsableKey
            ),
            Trouble::EveryKeyRejected | Trouble::NoReport | Trouble::ApiGateway => true,
            _ => false,
        };
        let failed = f64::from(u8::from(is_unhealthy && is_on));
        self.put("AWS/ApiGateway", "5XXError", &[("ApiName", "refresh-worker"), ("Stage", "live")], now, now, failed);
        match self.trouble {
            Trouble::BadEvents if is_on && now % 120 == 0 => self.bad_event(now),
            Trouble::ManyBadEvents if (0..MINUTE).contains(&now) => (0..40).for_each(|_| self.bad_event(now)),
            Trouble::ThrottledOnce if (0..2 * MINUTE).contains(&now) => self.lambda("Throttles", now, now, 20.0),
            Trouble::ThrottledManualRuns if is_on => self.lambda("Throttles", now, now, 3.0),
            _ => {}
        }
        let used = |filled: bool, most: f64| if filled { most } else { 0.0 };
        let free = 5e9 - used(self.is(Trouble::DatabaseFills, now), 4e9);
        self.put("AWS/RDS", "FreeStorageSpace", &[("DBInstanceIdentifier", "refresh-worker")], now, now, free);
        let memory = 5.0 + used(self.is(Trouble::CacheFills, now), 80.0);
        let node = [("CacheClusterId", "refresh-worker-001")];
        self.put("AWS/ElastiCache", "DatabaseMemoryUsagePercentage", &node, now, now, memory);
    }

    fn tasks(&mut self, now: i64, no_database: bool) {
        let is_on = self.is_on(now);
        if self.is(Trouble::ScheduleDeleted, now) {
            return;
        }
        if self.is(Trouble::ScheduleMayNotInvoke, now) {
            return [now, now].into_iter().for_each(|now| self.sqs(now));
        }
        if self.is(Trouble::ThrottledAlways, now) {
            self.lambda("Throttles", now, now, 4.0);
            return [now + 60, now + 60].into_iter().for_each(|now| self.sqs(now));
        }
        let no_report = self.is(Trouble::NoReport, now);
        let views = match self.trouble {
            Trouble::OneViewFails if is_on => 1,
            Trouble::AllViewsFail if is_on => 8,
            _ if no_database => 8,
            _ => 0,
        };
        let views = (0..views).map(|_| failed_view()).collect();
        let stats = JobsReport {
            failed: u64::from(self.is(Trouble::JobsFail, now) && now % 120 == 0),
            failure: no_database.then(|| "the database cannot be used".to_owned()),
            ..JobsReport::default()
        };
        let stats_failed = stats.failed;
        let killed = self.is(Trouble::TaskKilled, now) && now % 900 == 0;
        let reports = [
            ("refresh-views", MaintenanceReport { views: Some(views), ..MaintenanceReport::default() }, false, false),
            ("stats", MaintenanceReport { stats: Some(stats), ..MaintenanceReport::default() }, no_database, killed),
        ];
        for (task, report, failed, killed) in reports {
            let (seconds, failed) = if killed { (300, true) } else { (1, failed || no_report) };
            if !killed && !no_report {
                // The same few lines come every minute.
                let key = format!("{task} {} {failed} {}", report.views.as_ref().map_or(0, Vec::len), stats_failed);
                let line = || metrics::task_line(task, "8f507cfd", &report, &telemetry(), time(now));
                let numbers = self.lines.entry(key).or_insert_with(|| numbers_of(&line()));
                self.cloudwatch.take(numbers, now);
            }
            self.lambda("Invocations", now, now + seconds, 1.0);
            self.lambda("Errors", now, now + seconds, f64::from(u8::from(failed)));
            self.lambda("Duration", now, now + seconds, seconds as f64 * 1000.0);
            if failed {
                self.sqs(now + seconds);
            }
        }
    }

    /// An event that the worker refuses, sent by somebody without waiting.
    fn bad_event(&mut self, now: i64) {
        self.lambda("Invocations", now, now, 1.0);
        self.lambda("Errors", now, now, 1.0);
        self.lambda("Duration", now, now, 2.0);
        self.sqs(now);
    }

    /// A number of an invocation: its time is the start, and it is there when the invocation has ended.
    fn lambda(&mut self, metric: &str, start: i64, end: i64, number: f64) {
        self.put("AWS/Lambda", metric, &[("FunctionName", "refresh-worker-refresh")], start, end, number);
    }

    /// A failed event is sent to the queue.
    fn sqs(&mut self, now: i64) {
        self.first_message.get_or_insert(now);
        self.put("AWS/SQS", "NumberOfMessagesSent", &[("QueueName", "refresh-worker-failures")], now, now, 1.0);
    }

    /// SQS begins to count with the first message, and goes on for hours.
    fn queue_is_active(&mut self, end: i64) {
        if let Some(first) = self.first_message {
            for minute in (first..end).step_by(60) {
                self.put(
                    "AWS/SQS",
                    "NumberOfMessagesSent",
                    &[("QueueName", "refresh-worker-failures")],
                    minute,
                    minute,
                    0.0,
                );
            }
        }
    }

    fn put(&mut self, namespace: &str, metric: &str, dimensions: &[(&str, &str)], at: i64, seen: i64, number: f64) {
        let dimensions = dimensions.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        self.cloudwatch.put(&series(namespace, metric, &dimensions), at, seen, number);
    }
}

/// What the module gives the functions.
fn telemetry() -> TelemetryConfig {
    TelemetryConfig { environment: "production".to_owned(), ..TelemetryConfig::default() }
}

/// A time of the story; its 0 is some midnight.
fn time(seconds: i64) -> Timestamp {
    Timestamp::from_millis(seconds * 1000)
}

fn failed_view() -> Refreshed {
    Refreshed {
        view: "clan_leaderboard".to_owned(),
        success: false,
        duration_seconds: 0.1,
        refresh_type: None,
        timestamp: String::new(),
        statistics: serde_json::Value::Null,
        skipped: None,
        notes: Vec::new(),
        error: Some("missing".to_owned()),
        message: None,
        is_unreachable: false,
    }
}
