//! Targets: the share of the objects, or of the reads, within an age.

use std::{str::FromStr, time::Duration};

use serde::Serialize;
use sqlx::PgConnection;

use super::planned::Planned;
use crate::{
    cli::text::{Style, percent, span},
    columns::from_row,
    config::read_span,
    model::Kind,
};

const OBJECTS: &str = include_str!("../sql/report_target.sql");

/// A target, as `clan:10m:95`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Target {
    kind: Kind,
    age: Duration,
    /// Per cent.
    at_least: f64,
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let expected = || "expected kind:age:percent, such as clan:10m:95".to_owned();
        let parts: Vec<&str> = text.split(':').collect();
        let [kind, age, share] = *parts.as_slice() else { return Err(expected()) };
        let kind = kind.parse().map_err(|_| expected())?;
        let age = read_span(age).ok_or_else(expected)?;
        let at_least: f64 = share.parse().map_err(|_| expected())?;
        if !(0.0..=100.0).contains(&at_least) {
            return Err("the percentage of a target is from 0 to 100".to_owned());
        }
        Ok(Self { kind, age, at_least })
    }
}

struct ObjectsRow {
    objects: i64,
    young: i64,
}

from_row!(postgres: ObjectsRow { objects, young });

/// A target and what is known of it.
#[derive(Clone, Debug, Serialize)]
pub struct Checked {
    kind: &'static str,
    age_seconds: u64,
    target_percent: f64,
    /// Stored objects, now.
    objects: i64,
    objects_within_measured: i64,
    /// The share of the reads whose copy was not older, while the planner was on. Only for the readers' own maximum age.
    reads_within_estimated: Option<f64>,
    /// By the reads when they are known, else by the objects. `None` without either.
    met: Option<bool>,
}

impl Target {
    /// `max_age` is the readers' own.
    pub async fn check(
        self,
        connection: &mut PgConnection,
        planned: Option<&Planned>,
        max_age: Duration,
    ) -> Result<Checked, sqlx::Error> {
        let row: ObjectsRow = sqlx::query_as(OBJECTS)
            .persistent(false)
            .bind(self.kind.as_str())
            .bind(self.age.as_secs_f64())
            .fetch_one(connection)
            .await?;
        let reads = planned.filter(|_| self.age == max_age).and_then(|planned| planned.unflagged_share(self.kind));
        Ok(self.checked(row.objects, row.young, reads))
    }

    fn checked(self, objects: i64, within: i64, reads_within_estimated: Option<f64>) -> Checked {
        let share = reads_within_estimated.or_else(|| share(within, objects));
        Checked {
            kind: self.kind.as_str(),
            age_seconds: self.age.as_secs(),
            target_percent: self.at_least,
            objects,
            objects_within_measured: within,
            reads_within_estimated,
            // What is shown as equal counts as met.
            met: share.map(|share| share * 100.0 >= self.at_least - 1e-9),
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a share")]
fn share(part: i64, of: i64) -> Option<f64> {
    (of > 0).then(|| part as f64 / of as f64)
}

impl Checked {
    /// True when something is known, and it falls short.
    pub fn is_missed(&self) -> bool {
        self.met == Some(false)
    }

    pub fn render(&self, style: Style) -> String {
        let age = span(Duration::from_secs(self.age_seconds));
        let verdict = match self.met {
            Some(true) => style.good("met"),
            Some(false) => style.bad("missed"),
            None => "not known".to_owned(),
        };
        let objects = share(self.objects_within_measured, self.objects).map_or_else(
            || "no object is stored".to_owned(),
            |share| format!("{} of the stored objects now (measured)", percent(share)),
        );
        let facts = match self.reads_within_estimated {
            Some(reads) => format!("{} of the reads (estimated); {objects}", percent(reads)),
            None => objects,
        };
        format!("  {} within {age}, target {} %: {verdict}: {facts}\n", self.kind, self.target_percent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn target_is_kind_age_and_percent() {
        let target = Target { kind: Kind::Clan, age: Duration::from_secs(600), at_least: 95.0 };
        assert_eq!("clan:10m:95".parse(), Ok(target));
        for wrong in [
            "",
            "clan",
            "clan:10m",
            "clam:10m:95",
            "clan:10:95",
            "clan:10m:x",
            "clan:10m:101",
            "clan:10m:NaN",
            "a:b:c:d",
        ] {
            assert!(wrong.parse::<Target>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn target_is_judged_by_reads_if_known() {
        let target: Target = "clan:10m:95".parse().unwrap();
        let cases = [
            (target.checked(0, 0, None), None),
            (target.checked(100, 95, None), Some(true)),
            (target.checked(100, 94, None), Some(false)),
            (target.checked(100, 10, Some(0.96)), Some(true)),
            (target.checked(100, 100, Some(0.5)), Some(false)),
        ];
        let shown: String = cases.iter().map(|(checked, _)| checked.render(Style::PLAIN)).collect();
        for (checked, met) in cases {
            assert_eq!(checked.met, met, "{checked:?}");
        }
        insta::assert_snapshot!(shown);
    }
}
