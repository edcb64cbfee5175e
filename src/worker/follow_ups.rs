//! Follow-ups: the requests that a stored response makes worth queueing. The rules are in [`follow`](crate::follow); here they meet a run.

use std::time::Duration;

use parking_lot::Mutex;

use super::{freshness, report::Tally};
use crate::{
    api::budget::KeyPool,
    clock::Timestamp,
    config::FollowUpConfig,
    follow::followup,
    model::{Fetched, FollowUp, Kind, Learned, ObjectId, WarMemory},
    store::{Committed, Freshness},
};

// The schedule starts a run every two minutes. Spare follow-ups fill the queue only up to the calls that a run can make in that
// time, so that they never delay what producers request.
const RUN_INTERVAL: Duration = Duration::from_secs(2 * 60);

/// The follow-ups of a response that was stored, or was the same as the stored one.
pub fn of_commit(
    config: FollowUpConfig,
    fetched: &Fetched,
    committed: &Committed,
    learned: &Learned,
    now: Timestamp,
) -> Vec<FollowUp> {
    if matches!(committed, Committed::Superseded | Committed::Poison(_) | Committed::Held(_)) {
        return Vec::new();
    }
    match fetched.object.kind {
        Kind::War if config.wars => {
            let memory = fetched.league.as_ref();
            let next = |memory| followup::next_poll(&fetched.object, memory, fetched.began, fetched.fresh_until);
            memory.and_then(next).into_iter().collect()
        }
        Kind::Clan => followup::stale_members(&learned.members, config.players_per_clan, now),
        _ => Vec::new(),
    }
}

/// The next poll of a war that needs no call now. Whoever stored it may have died before the poll was queued.
pub fn next_poll_of_stored(config: FollowUpConfig, object: &ObjectId, stored: &Freshness) -> Option<FollowUp> {
    let memory = stored.league.as_ref().filter(|_| config.wars)?;
    followup::next_poll(object, memory, stored.fetched_at, freshness::believed(stored))
}

/// The next poll of a war that is known to go on, for when no attempt is left to fetch it now.
pub fn next_poll_after_failures(
    config: FollowUpConfig,
    object: &ObjectId,
    memory: Option<&WarMemory>,
    now: Timestamp,
) -> Option<FollowUp> {
    followup::next_poll_after_failures(object, memory.filter(|_| config.wars)?, now)
}

/// The follow-ups that this run may queue, and the number of ready requests above which spare ones are left out.
pub fn within_budget(follow_ups: &[FollowUp], pool: &KeyPool, tally: &Mutex<Tally>) -> (Vec<FollowUp>, usize) {
    let most_ready = requests_of_one_run(pool.total_rate());
    let queued = usize::try_from(tally.lock().report.followups).unwrap_or(usize::MAX);
    (that_fit(follow_ups, most_ready.saturating_sub(queued)), most_ready)
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "rates are small and positive")]
fn requests_of_one_run(rate: f64) -> usize {
    (rate * RUN_INTERVAL.as_secs_f64()) as usize
}

/// Leaves out the spare follow-ups for which there is no room.
fn that_fit(follow_ups: &[FollowUp], room: usize) -> Vec<FollowUp> {
    let mut spare = 0;
    let fits = |follow_up: &&FollowUp| {
        spare += usize::from(follow_up.is_spare);
        !follow_up.is_spare || spare <= room
    };
    follow_ups.iter().filter(fits).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Priority, RefreshRequest};

    #[test]
    fn spare_follow_ups_are_limited_others_are_not() {
        let follow_up = |object: &str, is_spare| {
            let request = RefreshRequest::now(object.parse().unwrap(), Priority::Low, Timestamp::default());
            FollowUp { request, is_spare }
        };
        let all = [("player:2PP", true), ("war:2QQ", false), ("player:8LL", true), ("player:9YY", true)];
        let all = all.map(|(object, is_spare)| follow_up(object, is_spare));
        let fitting = |room| -> Vec<String> {
            that_fit(&all, room).into_iter().map(|one| one.request.object.to_string()).collect()
        };
        assert_eq!(fitting(0), ["war:2QQ"]);
        assert_eq!(fitting(2), ["player:2PP", "war:2QQ", "player:8LL"]);
        assert_eq!(fitting(9).len(), 4);
    }
}
