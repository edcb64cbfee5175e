//! The strategies that a trial or a replay compares.

use std::{str::FromStr, time::Duration};

use super::{Knowledge, Policy};
use crate::{clock::Timestamp, model::Kind};

const HOUR: Duration = Duration::from_secs(60 * 60);

/// A rule for the time of the next look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Strategy {
    /// Where a call saves most stale reads.
    #[default]
    Value,
    /// Fixed tiers by the last request: 5 min, 30 min, 2 h, 8 h.
    Tiers,
    /// The oldest copy first.
    Age,
}

/// The name of a strategy that does not exist.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no strategy `{0}`; use value, tiers or age")]
pub struct UnknownStrategy(pub String);

impl FromStr for Strategy {
    type Err = UnknownStrategy;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let all = [Self::Value, Self::Tiers, Self::Age];
        all.into_iter().find(|strategy| strategy.as_str() == name).ok_or_else(|| UnknownStrategy(name.to_owned()))
    }
}

impl Strategy {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Value => "value",
            Self::Tiers => "tiers",
            Self::Age => "age",
        }
    }

    /// The time of the next look; `None` before the first look.
    #[must_use]
    pub fn next_look(
        self,
        kind: Kind,
        known: &Knowledge,
        fresh_until: Timestamp,
        level: f64,
        now: Timestamp,
        policy: Policy,
    ) -> Option<Timestamp> {
        let looked_at = known.looked_at?;
        match self {
            Self::Value => known.next_look(kind, fresh_until, level, now, policy),
            Self::Tiers => Some(fresh_until.max(looked_at + tier(known.heard_at.map(|heard| now.since(heard))))),
            Self::Age => Some(fresh_until.max(looked_at)),
        }
    }
}

/// The time between looks of an object whose last request is this old.
fn tier(quiet: Option<Duration>) -> Duration {
    match quiet {
        Some(quiet) if quiet < HOUR => Duration::from_secs(5 * 60),
        Some(quiet) if quiet < 6 * HOUR => Duration::from_secs(30 * 60),
        Some(quiet) if quiet < 24 * HOUR => 2 * HOUR,
        _ => 8 * HOUR,
    }
}
