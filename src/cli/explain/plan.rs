//! The place of an object in the plan of spare calls, as text and as JSON.

use std::time::Duration;

use serde_json::{Value, json};

use super::outlook::at;
use crate::{
    cli::text::{Table, span},
    clock::Timestamp,
    planner::{PlannedLook, Policy, Strategy, Why},
    store::Candidate,
};

/// An object's place in the plan, and what is needed to explain it.
#[derive(Clone, Debug)]
pub struct Plan {
    pub place: Candidate,
    /// The present level, in stale reads.
    pub level: f64,
    pub strategy: Strategy,
    pub policy: Policy,
    /// The planner is on in the settings here.
    pub is_on: bool,
}

impl Plan {
    fn why(&self, now: Timestamp) -> Why {
        let Candidate { object, known, fresh_until, next_look, .. } = &self.place;
        let look = PlannedLook {
            kind: object.kind,
            next_look: *next_look,
            fresh_until: *fresh_until,
            level: self.level,
            strategy: self.strategy,
        };
        known.why(look, now, self.policy)
    }

    pub fn rows(&self, table: &mut Table, now: Timestamp) {
        let known = &self.place.known;
        let rates = known.rates(self.place.object.kind);
        let listened = seconds(known.exposed);
        let reads = if known.mails >= HALF {
            let learned = format!("{} in {listened} of listening", counted(known.mails, "request"));
            format!("about every {}, learned from {learned}", every(rates.reads))
        } else if known.exposed < 1.0 {
            "not known yet".to_owned()
        } else {
            format!("no reader was heard in {listened} of listening")
        };
        table.row(["read", &reads]);
        let watched = seconds(known.watched);
        let changes = if known.changes >= HALF {
            let learned = format!("{} in {watched} between looks", counted(known.changes, "change"));
            format!("about every {}, learned from {learned}", every(rates.changes))
        } else if known.watched < 1.0 {
            "not known yet".to_owned()
        } else {
            format!("no change was seen in {watched} between looks")
        };
        table.row(["changes", &changes]);
        if let Some(heard) = known.heard_at {
            let known_well = if known.is_heard(now) { "" } else { "; too long ago or too seldom to know them" };
            table.row(["last reader", &format!("{}{known_well}", at(heard, now))]);
        }
        if known.hinted {
            table.row(["hinted", "a member list has shown a change since the last look"]);
        }
        table.row(["next look", &format!("{}: {}", at(self.place.next_look, now), self.sentence(now))]);
    }

    /// The reason for the time of the next look.
    fn sentence(&self, now: Timestamp) -> String {
        match self.why(now) {
            Why::NeverLooked => "its first look has a time by chance".to_owned(),
            Why::Hinted => "a member list has shown a change, and a call is worth it".to_owned(),
            Why::Value => format!(
                "a call then saves {:.3} stale reads, as many as the last one that the budget pays for",
                self.level
            ),
            Why::Listening => "not earlier, so that its readers can be heard".to_owned(),
            Why::FreshUntil => "as soon as the API has news".to_owned(),
            Why::AtLeastEvery => {
                format!("nothing known gets older than {}, though a call is not worth it", span(self.policy.longest))
            }
            Why::PutOff => {
                "put off: a call failed, a request had it, or calls were worth more when it was planned".to_owned()
            }
            Why::Tiers => "the tiers of the trial, by the last reader".to_owned(),
            Why::Age => "the oldest copy first, by the trial".to_owned(),
        }
    }

    /// The end of the outlook for an object that nobody has requested.
    pub fn outlook(&self, now: Timestamp) -> String {
        let due = self.place.next_look;
        let when = if due <= now { "is due now".to_owned() } else { format!("is at {}", at(due, now)) };
        if self.is_on {
            format!("its planned look {when}, and a request is served sooner")
        } else {
            format!(
                "nothing will happen until someone requests it. Its planned look {when}, if runs have the planner on (it is off here)"
            )
        }
    }

    pub fn json(&self, now: Timestamp) -> Value {
        let known = &self.place.known;
        let rates = known.rates(self.place.object.kind);
        json!({
            "next_look": self.place.next_look.to_string(),
            "why": self.why(now).as_str(),
            "strategy": self.strategy.as_str(),
            "level": self.level,
            "read_every_seconds": 1.0 / rates.reads,
            "changes_every_seconds": 1.0 / rates.changes,
            "requests": known.mails,
            "listened_seconds": known.exposed,
            "changes": known.changes,
            "watched_seconds": known.watched,
            "heard": known.is_heard(now),
            "last_reader": known.heard_at.map(|time| time.to_string()),
            "hinted": known.hinted,
            "planner_on_here": self.is_on,
        })
    }
}

/// Counts fade, so less than this is as good as none.
const HALF: f64 = 0.5;

fn counted(number: f64, one: &str) -> String {
    let rounded = number.round();
    format!("{rounded:.0} {one}{}", if rounded < 1.5 { "" } else { "s" })
}

fn seconds(number: f64) -> String {
    span(Duration::try_from_secs_f64(number).unwrap_or(Duration::MAX))
}

/// The time between events of this rate a second, in one unit: it is an estimate.
fn every(rate: f64) -> String {
    match 1.0 / rate {
        seconds @ ..100.0 => format!("{seconds:.0} s"),
        seconds @ ..6000.0 => format!("{:.0} min", seconds / 60.0),
        seconds @ ..172_800.0 => format!("{:.0} h", seconds / 3600.0),
        seconds => format!("{:.0} days", seconds / 86_400.0),
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::{
        cli::text::{Align, Style},
        planner::Knowledge,
    };

    const NOW: Timestamp = Timestamp::from_millis(1_772_600_767_089);
    const MINUTE: Duration = Duration::from_secs(60);

    /// A clan that is read and changes.
    pub fn plan() -> Plan {
        let known = Knowledge {
            looked_at: Some(NOW - MINUTE),
            heard_at: Some(NOW - MINUTE * 30),
            changes: 300.0,
            watched: 86_400.0,
            mails: 50.0,
            exposed: 36_000.0,
            hinted: false,
        };
        let (policy, level) = (Policy::default(), 0.1);
        let object: crate::model::ObjectId = "clan:2PP".parse().unwrap();
        let next_look = known.next_look(object.kind, NOW, level, NOW, policy).unwrap();
        let place = Candidate { object, known, fresh_until: NOW, next_look, bucket: 5000 };
        Plan { place, level, strategy: Strategy::Value, policy, is_on: true }
    }

    fn text(plan: &Plan) -> String {
        let mut table = Table::new([("", Align::Left), ("", Align::Left)]);
        plan.rows(&mut table, NOW);
        format!("{}{}\n", table.render(Style::PLAIN), plan.outlook(NOW))
    }

    #[test]
    fn plan_says_how_often_and_why() {
        let mut hinted = plan();
        hinted.place.known.hinted = true;
        hinted.place.next_look = NOW;
        let mut unknown = plan();
        unknown.place.known = Knowledge { looked_at: Some(NOW - MINUTE), ..Knowledge::default() };
        unknown.place.next_look = NOW + MINUTE * 19;
        unknown.is_on = false;
        let mut unheard = plan();
        unheard.place.known.heard_at = Some(NOW - MINUTE * 60 * 9);
        unheard.place.next_look = NOW + MINUTE * 19;
        let mut worthless = plan();
        worthless.level = 1e6;
        worthless.place.next_look = NOW + MINUTE * 60 * 24 - MINUTE;
        let mut never = plan();
        never.place.known.looked_at = None;
        let mut gone = plan();
        gone.place.next_look = NOW + MINUTE * 60 * 24 * 7;
        let all = [plan(), hinted, unknown, unheard, worthless, never, gone];
        insta::assert_snapshot!(all.map(|plan| text(&plan)).join("\n"));
    }

    #[test]
    fn odd_numbers_do_not_panic() {
        let mut odd = plan();
        odd.place.known = Knowledge { mails: 1e15, exposed: 1e15, changes: 1e15, watched: 1e15, ..odd.place.known };
        for millis in [i64::MIN, 0, i64::MAX] {
            odd.place.next_look = Timestamp::from_millis(millis);
            odd.level = 0.0;
            let _ = (text(&odd), odd.json(NOW));
        }
    }
}
