//! Reads the settings of the freshness planner.

use std::{ops::RangeInclusive, time::Duration};

use super::reader::Reader;
use crate::{
    config::{Config, PlannerConfig, read_span},
    planner::{Policy, Strategy, Teaching, Trial},
};

/// Rarer looks than once in 30 days would keep no promise that a reader notices, and more than one an hour no budget.
const AT_LEAST_EVERY: RangeInclusive<Duration> = Duration::from_secs(3600)..=Duration::from_secs(30 * 24 * 3600);

impl Reader<'_> {
    /// `None` while the planner is off. Its other settings are checked all the same: whoever switches it on must not find their
    /// problems only then.
    pub(super) fn planner(&mut self) -> Option<PlannerConfig> {
        let calls_per_second: u32 = self.number("PLANNED_CALLS_PER_SEC", 0..=u64::from(PlannerConfig::EVERY_CALL));
        let max_age: Option<u64> = self.optional_number("SNAPSHOT_MAX_AGE", 60..=86_400);
        let longest = self.at_least_every();
        let teaching = Teaching {
            policy: Policy {
                max_age: max_age.map_or(Policy::default().max_age, Duration::from_secs),
                longest: longest.unwrap_or(Policy::default().longest),
            },
            trial: self.planned_trial(),
            recorded_percent: self.number("PLANNED_RECORD", 0..=100),
        };
        if calls_per_second == 0 {
            return None;
        }
        // The readers' variable may be longer than any look is away, as long as nothing is planned by it.
        if max_age.is_some() && longest.is_some_and(|longest| longest <= teaching.policy.max_age) {
            let expected =
                format!("expected a time longer than SNAPSHOT_MAX_AGE ({} s)", teaching.policy.max_age.as_secs());
            self.refuse_as("PLANNED_AT_LEAST_EVERY", expected, ());
        }
        Some(PlannerConfig { calls_per_second, teaching })
    }

    /// What follows a run goes beside planned looks, and must leave the connections that their calls need.
    pub(super) fn connections_beside_looks(&mut self, config: &Config) {
        let after = &config.after;
        let uses_database = !after.views.is_empty() || after.stats.is_some() || after.retention_days.is_some();
        let too_few = config.database.max_connections <= PlannerConfig::CONNECTIONS;
        if config.worker.planner.is_some() && uses_database && too_few {
            let expected = format!(
                "expected at least {} with PLANNED_CALLS_PER_SEC and REFRESH_VIEWS, STATS_FUNCTIONS or SNAPSHOT_RETENTION_DAYS, which \
                 then go on beside the calls",
                PlannerConfig::CONNECTIONS + 1
            );
            self.refuse_as("DB_POOL_MAX", expected, ());
        }
    }

    fn at_least_every(&mut self) -> Option<Duration> {
        let text = self.text("PLANNED_AT_LEAST_EVERY").unwrap_or_default();
        let span = read_span(&text).filter(|span| AT_LEAST_EVERY.contains(span));
        if span.is_none() {
            self.refuse_as("PLANNED_AT_LEAST_EVERY", "expected a time from 1h to 30d, such as 12h or 1d", ());
        }
        span
    }

    fn planned_trial(&mut self) -> Option<Trial> {
        let text = self.own("PLANNED_TRIAL")?;
        let read = || {
            let (strategy, percent) = text.split_once(':')?;
            let strategy = strategy.trim().parse::<Strategy>().ok()?;
            let percent = percent.trim().parse::<u8>().ok().filter(|percent| (1..=99).contains(percent))?;
            Some(Trial { strategy, percent })
        };
        let trial = read();
        if trial.is_none() {
            let expected = "expected a strategy (tiers, age or value) and its share of the clans in per cent (1 to 99), as in tiers:50";
            self.refuse_as("PLANNED_TRIAL", expected, ());
        }
        trial
    }
}
