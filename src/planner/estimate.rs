//! The reads between two looks: how many there were, and how many of them met a copy equal to upstream.
//!
//! A reader leaves a trace only when its copy is older than the readers' maximum age. Those reads are counted; the others, in the time
//! before, are estimated from the rate of the counted ones. A look tells the past: unchanged means that every read was fresh, changed
//! means that the copy became stale somewhere in between.

use super::{Knowledge, Look, Policy};
use crate::model::Kind;

/// A rate from a short time of listening would be none: so much is added to it.
const LEAST_EXPOSED_SECONDS: f64 = 60.0;

/// Reads of one object, or a sum of such.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Reads {
    /// Reads that left a request: counted. Requests that were merged count once.
    pub flagged: f64,
    /// Those among them whose copy was not equal to upstream, as the look showed.
    pub flagged_stale: f64,
    /// Reads of a copy younger than the maximum age: estimated.
    pub unflagged: f64,
    /// Reads of a copy equal to upstream, if every copy that changed was stale all the time: the lower end of the bracket.
    pub fresh_low: f64,
    /// The same with the time of the change estimated: the upper end of the bracket.
    pub fresh_high: f64,
}

impl Reads {
    /// The reads since the look before; when that one is not known, only the one that left a request.
    #[must_use]
    pub fn before(look: Look, known: &Knowledge, kind: Kind, policy: Policy) -> Self {
        let span = known.looked_at.map_or(0.0, |before| look.at.since(before).as_secs_f64());
        let quiet = span.min(policy.max_age.as_secs_f64());
        let flagged = f64::from(u8::from(look.asked.is_some()));
        let unflagged = known.mails / (known.exposed + LEAST_EXPOSED_SECONDS) * quiet;
        if look.changed {
            let fresh = unflagged * fresh_share(known.rates(kind).changes, quiet, span);
            Self { flagged, flagged_stale: flagged, unflagged, fresh_low: 0.0, fresh_high: fresh }
        } else {
            let fresh = unflagged + flagged;
            Self { flagged, flagged_stale: 0.0, unflagged, fresh_low: fresh, fresh_high: fresh }
        }
    }

    /// All reads.
    #[must_use]
    pub fn all(&self) -> f64 {
        self.flagged + self.unflagged
    }
}

impl std::ops::AddAssign for Reads {
    fn add_assign(&mut self, other: Self) {
        self.flagged += other.flagged;
        self.flagged_stale += other.flagged_stale;
        self.unflagged += other.unflagged;
        self.fresh_low += other.fresh_low;
        self.fresh_high += other.fresh_high;
    }
}

/// The share of the first `quiet` seconds before the first change, when there was at least one within `span` seconds.
fn fresh_share(changes: f64, quiet: f64, span: f64) -> f64 {
    let (in_quiet, in_span) = (changes * quiet, changes * span);
    if in_span < 1e-6 {
        // The limit: the change is anywhere in the span.
        return if span > 0.0 { 1.0 - quiet / span / 2.0 } else { 0.0 };
    }
    let none = (-in_span).exp();
    let before_first = if in_quiet > 1e-9 { (1.0 - (-in_quiet).exp()) / in_quiet } else { 1.0 };
    ((before_first - none) / (1.0 - none)).clamp(0.0, 1.0)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock::Timestamp;

    const START: Timestamp = Timestamp::from_millis(1_772_600_000_000);

    fn known(mails: f64, exposed: f64) -> Knowledge {
        Knowledge { looked_at: Some(START), mails, exposed, ..Knowledge::default() }
    }

    fn look(after: u64, changed: bool, asked: bool) -> Look {
        let at = START + Duration::from_secs(after);
        Look { at, changed, asked: asked.then_some(at) }
    }

    #[test]
    fn unchanged_copy_was_fresh_for_all() {
        let reads = Reads::before(look(900, false, true), &known(9.0, 840.0), Kind::Clan, Policy::default());
        assert!((reads.unflagged - 6.0).abs() < 1e-9, "nine in 900 s, so six in the quiet 600 s: {reads:?}");
        assert!((reads.fresh_low - 7.0).abs() < 1e-9 && (reads.fresh_high - 7.0).abs() < 1e-9);
        assert_eq!((reads.flagged.to_bits(), reads.flagged_stale.to_bits()), (1.0_f64.to_bits(), 0.0_f64.to_bits()));
    }

    #[test]
    fn changed_copy_was_fresh_for_some() {
        let reads = Reads::before(look(600, true, false), &known(9.0, 840.0), Kind::Clan, Policy::default());
        assert!(reads.fresh_low.abs() < 1e-9 && reads.fresh_high > 0.0 && reads.fresh_high < reads.all() / 2.0);
    }

    #[test]
    fn first_look_tells_only_its_request() {
        let reads = Reads::before(look(600, true, true), &Knowledge::default(), Kind::Clan, Policy::default());
        assert_eq!(reads, Reads { flagged: 1.0, flagged_stale: 1.0, ..Reads::default() });
    }

    #[test]
    fn share_stays_within_its_limits() {
        for changes in [1e-12, 1e-7, 1e-3, 1.0, 1e6] {
            for (quiet, span) in [(0.0, 0.0), (0.0, 600.0), (600.0, 600.0), (600.0, 86_400.0), (1e-3, 1e-3)] {
                let share = fresh_share(changes, quiet, span);
                assert!((0.0..=1.0).contains(&share), "{changes} {quiet} {span}: {share}");
            }
        }
        assert!((fresh_share(1e-7, 600.0, 600.0) - fresh_share(1e-8, 600.0, 600.0)).abs() < 1e-3);
    }
}
