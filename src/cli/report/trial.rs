//! The two sides of a trial, compared by kind.

use std::fmt::Write as _;

use serde::Serialize;

use super::planned::GroupRow;
use crate::{
    cli::text::{Align, Style, Table, percent},
    model::Kind,
    worker::planned::tally::GROUPS,
};

/// The line for a period without a trial.
pub const NONE: &str =
    "There was no trial in these runs. PLANNED_TRIAL=tiers:50 tries the strategy tiers on half of the objects.";

/// With fewer groups that have reads on both sides the standard error says nothing.
const LEAST_GROUPS: usize = 8;

/// A difference below so many standard errors is chance.
const ERRORS: f64 = 2.0;

/// A comparison of one share of reads.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Compared {
    pub kind: String,
    pub measure: &'static str,
    /// The other strategy, on its part of the objects.
    pub strategy: String,
    pub main: f64,
    pub trial: f64,
    /// The trial less the main side.
    pub difference: f64,
    /// `None` with too few groups.
    pub standard_error: Option<f64>,
    pub verdict: Verdict,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    TrialHigher,
    TrialLower,
    NoDifferenceSeen,
    TooFewGroups,
}

/// A share of the reads: the part, of the groups' reads.
type Measure = fn(&GroupRow) -> f64;

const MEASURES: [(&str, Measure); 3] = [
    ("fresh reads, upper end", |group| group.fresh_high),
    ("fresh reads, lower end", |group| group.fresh_low),
    ("flagged reads", |group| group.flagged),
];

/// Compares the sides of every trial in these groups, by strategy and kind.
pub fn compare(groups: &[GroupRow]) -> Vec<Compared> {
    let mut strategies: Vec<&str> = groups.iter().filter_map(|group| group.against.as_deref()).collect();
    strategies.sort_unstable();
    strategies.dedup();
    let mut all = Vec::new();
    for strategy in strategies {
        let kinds = Kind::ALL.map(|kind| (kind.as_str(), Some(kind))).into_iter().chain([("all", None)]);
        for (name, kind) in kinds {
            let is_meant = |group: &&GroupRow| {
                group.against.as_deref() == Some(strategy) && kind.is_none_or(|kind| group.kind == kind.as_str())
            };
            let of_kind: Vec<&GroupRow> = groups.iter().filter(is_meant).collect();
            for (measure, part) in MEASURES {
                let [main, trial] = ["main", "trial"].map(|arm| Side::of(&of_kind, arm, part));
                let (Some(main_share), Some(trial_share)) = (main.share(None), trial.share(None)) else { continue };
                let difference = trial_share - main_share;
                let errors = main.standard_error().zip(trial.standard_error());
                let standard_error = errors.map(|(main, trial)| main.hypot(trial));
                let verdict = match standard_error {
                    None => Verdict::TooFewGroups,
                    Some(error) if difference.abs() < ERRORS * error || difference == 0.0 => Verdict::NoDifferenceSeen,
                    Some(_) if difference > 0.0 => Verdict::TrialHigher,
                    Some(_) => Verdict::TrialLower,
                };
                all.push(Compared {
                    kind: name.to_owned(),
                    measure,
                    strategy: strategy.to_owned(),
                    main: main_share,
                    trial: trial_share,
                    difference,
                    standard_error,
                    verdict,
                });
            }
        }
    }
    all
}

/// The part and all reads of each group of one side.
struct Side([(f64, f64); GROUPS]);

impl Side {
    fn of(groups: &[&GroupRow], arm: &str, part: Measure) -> Self {
        let mut side = Self([(0.0, 0.0); GROUPS]);
        for group in groups.iter().filter(|group| group.arm == arm) {
            let place = usize::try_from(group.place).ok().and_then(|place| place.checked_sub(1));
            if let Some(sum) = place.and_then(|place| side.0.get_mut(place)) {
                sum.0 += part(group);
                sum.1 += group.flagged + group.unflagged;
            }
        }
        side
    }

    /// The share over all groups but one.
    fn share(&self, without: Option<usize>) -> Option<f64> {
        let groups = self.0.iter().enumerate().filter(|(place, _)| Some(*place) != without);
        let (part, all) = groups.fold((0.0, 0.0), |sum, (_, group)| (sum.0 + group.0, sum.1 + group.1));
        (all > 0.0).then(|| part / all)
    }

    /// By leaving out one group at a time (jackknife), since the groups have different numbers of reads.
    fn standard_error(&self) -> Option<f64> {
        let with_reads = self.0.iter().enumerate().filter(|(_, group)| group.1 > 0.0);
        let shares: Vec<f64> = with_reads.filter_map(|(place, _)| self.share(Some(place))).collect();
        if shares.len() < LEAST_GROUPS {
            return None;
        }
        #[expect(clippy::cast_precision_loss, reason = "at most 16")]
        let count = shares.len() as f64;
        let mean = shares.iter().sum::<f64>() / count;
        let squares: f64 = shares.iter().map(|share| (share - mean).powi(2)).sum();
        Some((squares * (count - 1.0) / count).sqrt())
    }
}

pub fn render(compared: &[Compared], style: Style) -> String {
    if compared.is_empty() {
        return format!("{NONE}\n");
    }
    let mut text = String::new();
    for strategy in compared.chunk_by(|one, next| one.strategy == next.strategy) {
        let name = &strategy[0].strategy;
        let title = format!("Trial: value against {name} (estimated; differences in points, trial less main)");
        let columns = [
            ("", Align::Left),
            ("", Align::Left),
            ("value", Align::Right),
            (name.as_str(), Align::Right),
            ("difference", Align::Right),
            ("", Align::Left),
        ];
        let mut table = Table::new(columns);
        for row in strategy {
            let error = row.standard_error.map_or_else(String::new, |error| format!(" ± {:.1}", error * 100.0));
            let verdict = match row.verdict {
                Verdict::TrialHigher => format!("{name} is higher"),
                Verdict::TrialLower => format!("{name} is lower"),
                Verdict::NoDifferenceSeen => "no difference seen".to_owned(),
                Verdict::TooFewGroups => "too few reads to compare".to_owned(),
            };
            table.row([
                row.kind.clone(),
                row.measure.to_owned(),
                percent(row.main),
                percent(row.trial),
                // Rounded first: a difference that is shown as none has no sign.
                format!("{:+.1}{error}", (row.difference * 1000.0).round() / 10.0 + 0.0),
                verdict,
            ]);
        }
        let _ = write!(text, "{}\n{}", style.bold(&title), table.render(style));
    }
    let _ = writeln!(
        text,
        "  ± is one standard error over 16 groups of clans. A difference below two of them may be chance."
    );
    text
}

#[cfg(test)]
mod tests {
    use super::{super::planned::tests::group, *};

    /// A trial against tiers. On each side there are 16 groups, of which the n-th has this many fresh reads of a hundred.
    fn trial(main: impl Fn(i64) -> f64, trial: impl Fn(i64) -> f64) -> Vec<GroupRow> {
        let side = |arm: &'static str, fresh: &dyn Fn(i64) -> f64| -> Vec<GroupRow> {
            let group = |place| GroupRow {
                against: Some("tiers".to_owned()),
                fresh_low: fresh(place) - 10.0,
                fresh_high: fresh(place),
                ..group(arm, "clan", place)
            };
            (1..=16).map(group).collect()
        };
        [side("main", &main), side("trial", &trial)].concat()
    }

    #[expect(clippy::cast_precision_loss, reason = "a small number")]
    fn noise(place: i64) -> f64 {
        ((place * 7) % 16) as f64 - 7.5
    }

    #[test]
    fn difference_within_two_errors_is_none_seen() {
        let compared = compare(&trial(|place| 60.0 + noise(place), |place| 61.0 + noise(place * 5)));
        let upper = &compared[0];
        assert_eq!((upper.measure, upper.verdict), ("fresh reads, upper end", Verdict::NoDifferenceSeen), "{upper:?}");
        // The deviation of one group is 4.76, over the root of 16 groups, on both sides.
        assert!((upper.standard_error.unwrap() * 100.0 - 4.76 / 4.0 * 2.0_f64.sqrt()).abs() < 0.01, "{upper:?}");
        let same = compare(&trial(|_| 60.0, |_| 60.0));
        assert!(same.iter().all(|row| row.verdict == Verdict::NoDifferenceSeen), "{same:?}");
    }

    #[test]
    fn clear_difference_is_named() {
        let compared = compare(&trial(|place| 60.0 + noise(place), |place| 48.0 + noise(place * 3)));
        assert_eq!(compared[0].verdict, Verdict::TrialLower);
        assert!((compared[0].difference + 0.12).abs() < 1e-9);
        insta::assert_snapshot!(render(&compared, Style::PLAIN));
    }

    #[test]
    fn few_groups_are_not_compared() {
        let mut groups = trial(|_| 60.0, |_| 48.0);
        groups.retain(|group| group.place < 8);
        assert!(compare(&groups).iter().all(|row| row.verdict == Verdict::TooFewGroups));
    }

    #[test]
    fn without_trial_there_is_nothing_to_compare() {
        assert!(compare(&[group("main", "clan", 1)]).is_empty());
        assert!(render(&[], Style::PLAIN).contains("no trial"));
        // Numbers of others.
        let odd = GroupRow { against: Some("tiers".to_owned()), place: i64::MIN, ..group("trial", "clan", 1) };
        assert!(compare(&[odd]).is_empty());
    }
}
