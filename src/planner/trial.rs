//! Trials of a strategy on a share of the objects. A clan and its members are on one side, since a clan's list tells of its members.

use super::{Policy, Strategy};

/// Buckets go from 0 to this.
pub const MAX_BUCKET: u16 = 9_999;

/// Everything that a commit needs to teach the planner.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Teaching {
    pub policy: Policy,
    /// The strategy on the other side of a trial, if there is one.
    pub trial: Option<Trial>,
    /// Looks at this many of a hundred clans, with their members, are recorded for replays; 0: none.
    pub recorded_percent: u8,
}

/// A trial of another strategy on a share of the objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trial {
    pub strategy: Strategy,
    /// This many of a hundred clans, with their members.
    pub percent: u8,
}

/// A side of a trial. Without a trial all objects are on the main side. Each side has its own level.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Arm {
    #[default]
    Main,
    Trial,
}

impl Arm {
    pub const ALL: [Self; 2] = [Self::Main, Self::Trial];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Main => "main",
            Self::Trial => "trial",
        }
    }
}

impl Teaching {
    /// The side of the objects in this bucket.
    #[must_use]
    pub fn arm(&self, bucket: u16) -> Arm {
        if bucket < self.first_main_bucket() { Arm::Trial } else { Arm::Main }
    }

    /// The strategy of a side.
    #[must_use]
    pub fn strategy(&self, arm: Arm) -> Strategy {
        match (arm, self.trial) {
            (Arm::Trial, Some(trial)) => trial.strategy,
            (Arm::Trial, None) | (Arm::Main, _) => Strategy::Value,
        }
    }

    /// True when looks at the objects of this bucket are recorded: a share of both sides of a trial.
    #[must_use]
    pub fn records(&self, bucket: u16) -> bool {
        bucket % 100 < u16::from(self.recorded_percent)
    }

    /// The first and the last bucket of a side; `None` when it has none.
    #[must_use]
    pub fn buckets(&self, arm: Arm) -> Option<(u16, u16)> {
        let first = self.first_main_bucket();
        match arm {
            Arm::Trial => first.checked_sub(1).map(|last| (0, last)),
            Arm::Main => (first <= MAX_BUCKET).then_some((first, MAX_BUCKET)),
        }
    }

    fn first_main_bucket(&self) -> u16 {
        self.trial.map_or(0, |trial| u16::from(trial.percent.min(100)) * 100)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_share_all_buckets() {
        for percent in [0, 1, 50, 99, 100, 200] {
            let trial = Some(Trial { strategy: Strategy::Tiers, percent });
            let teaching = Teaching { trial, ..Teaching::default() };
            let mut count = 0;
            for arm in Arm::ALL {
                let Some((first, last)) = teaching.buckets(arm) else { continue };
                assert!((first..=last).all(|bucket| teaching.arm(bucket) == arm), "{percent} {arm:?}");
                count += last - first + 1;
            }
            assert_eq!(count, MAX_BUCKET + 1, "{percent}");
        }
        let without = Teaching::default();
        assert_eq!((without.buckets(Arm::Main), without.buckets(Arm::Trial)), (Some((0, MAX_BUCKET)), None));
    }

    #[test]
    fn records_are_a_share_of_both_sides() {
        let trial = Some(Trial { strategy: Strategy::Age, percent: 50 });
        let teaching = Teaching { trial, recorded_percent: 7, ..Teaching::default() };
        for arm in Arm::ALL {
            let (first, last) = teaching.buckets(arm).unwrap();
            assert_eq!((first..=last).filter(|&bucket| teaching.records(bucket)).count(), 350, "{arm:?}");
        }
    }
}
