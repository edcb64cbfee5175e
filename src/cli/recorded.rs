//! The recorded looks, read for replays.

use std::time::Duration;

use crate::{
    cli::text::{count, span},
    clock::Timestamp,
    planner::{
        Policy,
        replay::{Amount, LEAST_COVERED, LEAST_CYCLES, LEAST_REQUESTS, Lacking, Record, Sight, World},
    },
    store::{Looks, RecordedLook, Seen, StoreError},
};

/// The planner of a replay learns in this time before the period that counts, if looks were recorded then.
const LEARNING: Duration = Duration::from_secs(24 * 60 * 60);

/// One statement reads at most this much time.
const SLICE: Duration = Duration::from_secs(60 * 60);

/// The recorded looks of a period.
#[derive(Debug)]
pub struct Recorded {
    pub records: Vec<Record>,
    /// More is recorded than a replay takes: the oldest part is left out.
    pub is_cut: bool,
    /// Reads count from here on.
    pub counted_from: Timestamp,
}

impl Recorded {
    /// Reads the newest records first, and stops after about `most`.
    pub async fn read(store: &impl Looks, now: Timestamp, since: Duration, most: usize) -> Result<Self, StoreError> {
        let counted_from = now - since;
        let from = counted_from - LEARNING;
        let (mut records, mut until) = (Vec::new(), now);
        while until > from && records.len() < most {
            let begin = (until - SLICE).max(from);
            records.extend(store.looks(begin, until).await?.into_iter().map(record));
            until = begin;
        }
        Ok(Self { is_cut: until > from && records.len() >= most, records, counted_from })
    }

    /// The world of these records, or one sentence on what is missing.
    pub fn world(&self, seed: u64, policy: Policy) -> Result<World, String> {
        let world = World::rebuild(&self.records, self.counted_from, seed, policy);
        let world = world.ok_or_else(|| missing(Lacking::Everything, Amount::default()))?;
        match world.amount().lacking() {
            Some(lacking) => Err(missing(lacking, world.amount())),
            None => Ok(world),
        }
    }
}

fn record(look: RecordedLook) -> Record {
    let sight = match look.seen {
        Seen::Response { changed, asked } => Sight::Response { changed, asked },
        Seen::ActiveMember => Sight::ActiveMember,
    };
    Record { at: look.at, object: look.object, sight }
}

/// What is missing for a replay, and how to get it.
fn missing(lacking: Lacking, amount: Amount) -> String {
    let covered = span(amount.covered);
    match lacking {
        Lacking::Everything => format!(
            "no looks are recorded in this time. Runs record them while PLANNED_CALLS_PER_SEC and PLANNED_RECORD are above 0; a replay \
             needs {}",
            span(LEAST_COVERED)
        ),
        Lacking::Time => format!(
            "looks of {covered} are recorded, and a replay needs {}. Wait another {}, or choose a longer time",
            span(LEAST_COVERED),
            span(LEAST_COVERED.saturating_sub(amount.covered))
        ),
        Lacking::Cycles => format!(
            "only {} of the looks recorded in {covered} have an earlier look at the same object, and a replay needs {}. {}",
            count(amount.cycles),
            count(LEAST_CYCLES),
            wait(amount.cycles, LEAST_CYCLES, amount.covered)
        ),
        Lacking::Requests => format!(
            "only {} of the looks recorded in {covered} were requested by readers, and a replay needs {}. {}",
            count(amount.requests),
            count(LEAST_REQUESTS),
            wait(amount.requests, LEAST_REQUESTS, amount.covered)
        ),
    }
}

fn wait(have: u64, need: u64, covered: Duration) -> String {
    #[expect(clippy::cast_precision_loss, reason = "an estimate of a time")]
    let more = (have > 0).then(|| covered.mul_f64((need as f64 / have as f64 - 1.0).clamp(0.0, 1e4)));
    match more {
        Some(more) => format!("Wait about another {}, or set PLANNED_RECORD higher", span(more)),
        None => "Set PLANNED_RECORD higher, or wait".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_one_sentence_each() {
        let amount = Amount { covered: Duration::from_secs(7800), objects: 9, responses: 40, cycles: 30, requests: 5 };
        let lacking = [Lacking::Everything, Lacking::Time, Lacking::Cycles, Lacking::Requests];
        let sentences: Vec<String> = lacking.into_iter().map(|lacking| missing(lacking, amount)).collect();
        insta::assert_snapshot!(sentences.join("\n"));
    }
}
