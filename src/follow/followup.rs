//! Follow-up requests: the next poll of a war, and members of a clan whose documents are outdated. Pure functions of values.
//!
//! **The polls of a war follow from its times alone**, never from its last poll: however often and by whomever a war is
//! refreshed, its next poll is the same one. So there is never more than one.

use std::{cmp::Reverse, time::Duration};

use crate::{
    clock::Timestamp,
    model::{FollowUp, KnownWar, MemberSeen, ObjectId, Priority, RefreshRequest, WarMemory},
};

/// The interval in preparation, in which the sides' members may still change.
pub const PREPARATION_INTERVAL: Duration = Duration::from_secs(60 * 60);

/// The interval in war …
pub const WAR_INTERVAL: Duration = Duration::from_secs(5 * 60);

/// … and in its last part, when most is decided. A cached copy of the API lives as long.
pub const LAST_PART_INTERVAL: Duration = Duration::from_secs(2 * 60);

/// The length of the last part.
pub const LAST_PART: Duration = Duration::from_secs(20 * 60);

/// The last poll comes this long after the end: the last attacks are over, and no older cached copy is left.
pub const LAST_POLL_DELAY: Duration = Duration::from_secs(5 * 60);

/// A war that does not seem to end is polled this long after its end.
pub const MAX_OVERTIME: Duration = Duration::from_secs(2 * 60 * 60);

/// No war lasts longer, whatever a response says.
const MAX_WAR_LENGTH: Duration = Duration::from_secs(3 * 24 * 60 * 60);

/// The least time between two polls of one war.
const MIN_INTERVAL: Duration = Duration::from_secs(60);

/// Times of ours that are further in the future were written by a wrong clock.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(60);

/// The next poll of a war whose stored response began at `began` and is repeated by the API until `fresh_until`; `None` when
/// nothing more will change.
#[must_use]
pub fn next_poll(war: &ObjectId, memory: &WarMemory, began: Timestamp, fresh_until: Timestamp) -> Option<FollowUp> {
    // Before `fresh_until` the API would repeat its response.
    let after = fresh_until.max(began + MIN_INTERVAL);
    let (at, priority) = poll_after(memory, after)?;
    let request = RefreshRequest { due: at, ..RefreshRequest::now(war.clone(), priority, at) };
    Some(FollowUp { request, is_spare: false })
}

/// The next poll of a war whose polls have failed until now, since the war goes on; `None` when nothing more will change, or the
/// war should have ended long ago.
#[must_use]
pub fn next_poll_after_failures(war: &ObjectId, memory: &WarMemory, now: Timestamp) -> Option<FollowUp> {
    memory.war.as_ref().filter(|known| now < known.ends + MAX_OVERTIME)?;
    next_poll(war, memory, now, now)
}

/// The time of the next poll, strictly after `after`: at that very millisecond the API may still return its cached copy.
fn poll_after(memory: &WarMemory, after: Timestamp) -> Option<(Timestamp, Priority)> {
    let just_after = after + Duration::from_millis(1);
    let war = memory.war.as_ref()?;
    // A league's next round begins when the last one ends.
    if memory.seeks_next_round {
        return Some((just_after, Priority::Critical));
    }
    // The last condition guards against wild times of a broken response.
    if war.is_final || after >= war.ends + MAX_OVERTIME || war.ends > after + MAX_WAR_LENGTH {
        return None;
    }
    // HIGH, since the result of an ended war does not change while the poll waits.
    if war.state == KnownWar::ENDED {
        return Some((just_after.max(war.ends + LAST_POLL_DELAY), Priority::High));
    }
    // Past its end and not reported as ended: keep polling, up to the overtime.
    Some((scheduled(war, after).unwrap_or(after + LAST_PART_INTERVAL), Priority::Critical))
}

/// The first scheduled poll after this time; `None` when all are over.
fn scheduled(war: &KnownWar, after: Timestamp) -> Option<Timestamp> {
    let last_part = war.ends.saturating_sub(LAST_PART);
    let parts = [(war.starts, PREPARATION_INTERVAL), (last_part, WAR_INTERVAL), (war.ends, LAST_PART_INTERVAL)];
    let part = parts.into_iter().find(|(end, _)| after < *end);
    match part {
        Some((end, step)) => Some(counted_back(end, step, after)),
        None => Some(war.ends + LAST_POLL_DELAY).filter(|last| *last > after),
    }
}

/// The first time after `after` that lies a whole number of steps before `end`, `end` included.
fn counted_back(end: Timestamp, step: Duration, after: Timestamp) -> Timestamp {
    // Minus one, so that a time exactly at a step counts as passed.
    let left = end.since(after).as_millis().saturating_sub(1);
    let steps = u32::try_from(left / step.as_millis()).unwrap_or(u32::MAX);
    end - step * steps
}

/// The members whose full documents are older than their priority allows, at most `most`: the active first, then the oldest.
#[must_use]
pub fn stale_members(members: &[MemberSeen], most: usize, now: Timestamp) -> Vec<FollowUp> {
    let mut stale: Vec<(Priority, Reverse<Duration>, &MemberSeen)> = members
        .iter()
        .filter_map(|member| {
            let class = if member.is_active { Priority::Medium } else { Priority::Low };
            // Otherwise a wrong clock would keep a member from ever being refreshed.
            let fetched_at = member.fetched_at.filter(|at| *at <= now + CLOCK_TOLERANCE);
            let age = fetched_at.map_or(Duration::MAX, |at| now.since(at));
            (age >= class.staleness()).then_some((class, Reverse(age), member))
        })
        .collect();
    // The tag last, so that equal ages have a stable order.
    stale.sort_by(|one, other| (one.0, one.1, &one.2.tag).cmp(&(other.0, other.1, &other.2.tag)));
    let request = |(class, _, member): (Priority, Reverse<Duration>, &MemberSeen)| FollowUp {
        request: RefreshRequest::now(ObjectId::player(member.tag.clone()), class, now),
        is_spare: true,
    };
    stale.into_iter().take(most).map(request).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(60 * 60);
    const MINUTE: Duration = Duration::from_secs(60);
    const SECOND: Duration = Duration::from_secs(1);

    fn at(duration: Duration) -> Timestamp {
        Timestamp::from_millis(1_772_600_767_089) + duration
    }

    /// A war as the API reports it at this time.
    fn reported(now: Timestamp, starts: Timestamp, ends: Timestamp) -> WarMemory {
        let state = if now < starts {
            KnownWar::PREPARATION
        } else if now < ends {
            KnownWar::IN_WAR
        } else {
            KnownWar::ENDED
        };
        let is_final = now >= ends + KnownWar::MAX_ATTACK_DURATION;
        WarMemory {
            war: Some(Box::new(KnownWar { state: state.to_owned(), starts, ends, opponent: None, is_final })),
            ..WarMemory::default()
        }
    }

    /// All polls of a war, each made `late` after its time. `max_age`: the lifetime of the API's cached copy.
    fn polls(
        starts: Timestamp,
        ends: Timestamp,
        first: Timestamp,
        late: Duration,
        max_age: Duration,
    ) -> Vec<Timestamp> {
        let object = "war:2PP".parse().unwrap();
        let mut polls = vec![first];
        loop {
            let now = *polls.last().unwrap();
            let Some(next) = next_poll(&object, &reported(now, starts, ends), now, now + max_age) else { return polls };
            assert!(next.request.due > now + max_age && next.request.asked == next.request.due, "{next:?}");
            assert!(!next.is_spare);
            polls.push(next.request.due + late);
            assert!(polls.len() < 1000, "it ends");
        }
    }

    #[test]
    fn whole_war_follows_schedule() {
        let (found, starts, ends) = (at(Duration::ZERO), at(23 * HOUR), at(47 * HOUR));
        let polls = polls(starts, ends, found, SECOND, 60 * SECOND);
        let between =
            |from: Timestamp, to: Timestamp| polls.iter().filter(|poll| **poll > from && **poll <= to).count();
        assert_eq!(between(found, starts - SECOND), 22, "hourly in preparation");
        assert_eq!(between(starts - SECOND, starts + SECOND), 1, "at the start");
        let last_part = ends - LAST_PART;
        assert_eq!(between(starts + SECOND, last_part + SECOND), 284, "every five minutes");
        assert_eq!(between(last_part + SECOND, ends + SECOND), 10, "every two at the end");
        assert_eq!(between(ends + SECOND, at(1000 * HOUR)), 1, "once when all attacks are in");
        assert_eq!(polls.len(), 1 + 22 + 1 + 284 + 10 + 1);
    }

    #[test]
    fn next_poll_ignores_extra_refreshes() {
        let object = "war:2PP".parse().unwrap();
        let (starts, ends) = (at(23 * HOUR), at(47 * HOUR));
        let due =
            |now: Timestamp| next_poll(&object, &reported(now, starts, ends), now, now + SECOND).unwrap().request.due;
        let in_war = starts + HOUR;
        for seconds in 1..239 {
            assert_eq!(due(in_war + seconds * SECOND), in_war + WAR_INTERVAL, "{seconds} s later");
        }
    }

    #[test]
    fn cached_copies_are_not_polled_twice() {
        let (starts, ends) = (at(23 * HOUR), at(47 * HOUR));
        let polls = polls(starts, ends, at(Duration::ZERO), SECOND, 10 * MINUTE);
        assert!(polls.windows(2).all(|pair| pair[1].since(pair[0]) > 10 * MINUTE));
        assert!(polls.len() < 170, "{}", polls.len());
    }

    #[test]
    fn late_polls_are_not_made_up_for() {
        let (starts, ends) = (at(Duration::ZERO), at(24 * HOUR));
        assert_eq!(polls(starts, ends, ends + 30 * MINUTE, SECOND, MINUTE).len(), 1, "it is final already");
        let late = polls(starts, ends, starts + HOUR, 7 * MINUTE, MINUTE);
        assert!(late.windows(2).all(|pair| pair[1].since(pair[0]) > 5 * MINUTE), "no poll is made up for");
    }

    #[test]
    fn short_war_is_polled_at_start_and_end() {
        let (found, starts, ends) = (at(Duration::ZERO), at(5 * MINUTE), at(15 * MINUTE));
        let polls = polls(starts, ends, found, SECOND, SECOND);
        assert_eq!(polls[1], starts + SECOND);
        assert_eq!(*polls.last().unwrap(), ends + LAST_POLL_DELAY + SECOND);
        assert_eq!(polls.len(), 8, "{polls:?}");
    }

    #[test]
    fn endless_war_is_given_up_after_overtime() {
        let object = "war:2PP".parse().unwrap();
        let (starts, ends) = (at(Duration::ZERO), at(24 * HOUR));
        let mut now = ends;
        let mut polls = 0;
        while let Some(next) = next_poll(&object, &reported(ends - SECOND, starts, ends), now, now + MINUTE) {
            now = next.request.due;
            polls += 1;
        }
        assert!(now <= ends + MAX_OVERTIME + 2 * MINUTE && polls < 130, "{polls}");
    }

    #[test]
    fn failing_war_is_polled_until_overtime() {
        let object = "war:2PP".parse().unwrap();
        let (starts, ends) = (at(Duration::ZERO), at(24 * HOUR));
        let known = reported(ends - HOUR, starts, ends);
        let next =
            |memory: &WarMemory, now| next_poll_after_failures(&object, memory, now).map(|next| next.request.due);
        assert_eq!(next(&known, ends - HOUR), Some(ends - HOUR + WAR_INTERVAL), "the same poll as after a response");
        assert_eq!(next(&known, ends + MINUTE), Some(ends + LAST_POLL_DELAY), "its result is still to come");
        assert!(next(&known, ends + HOUR).is_some());
        assert_eq!(next(&known, ends + MAX_OVERTIME), None);
        assert_eq!(next(&WarMemory { seeks_next_round: true, ..known }, ends + MAX_OVERTIME), None);
        assert_eq!(next(&reported(ends + HOUR, starts, ends), ends + HOUR), None, "it is final");
    }

    #[test]
    fn war_without_plausible_times_is_not_polled() {
        let object = "war:2PP".parse().unwrap();
        let now = at(Duration::ZERO);
        let next = |memory: &WarMemory| next_poll(&object, memory, now, now);
        assert_eq!(next(&WarMemory::default()), None);
        assert_eq!(next(&reported(now, now + 1000 * HOUR, now + 1024 * HOUR)), None);
    }

    #[test]
    fn polls_are_critical_only_during_war() {
        let object = "war:2PP".parse().unwrap();
        let (starts, ends) = (at(23 * HOUR), at(47 * HOUR));
        let class = |now: Timestamp| {
            next_poll(&object, &reported(now, starts, ends), now, now).map(|next| next.request.priority)
        };
        assert_eq!(class(at(HOUR)), Some(Priority::Critical));
        assert_eq!(class(starts + HOUR), Some(Priority::Critical));
        assert_eq!(class(ends), Some(Priority::High));
        assert_eq!(class(ends + LAST_POLL_DELAY), None);
    }

    #[test]
    fn league_round_leads_to_next_round_at_once() {
        let object = "war:2PP".parse().unwrap();
        let (starts, ends) = (at(Duration::ZERO), at(24 * HOUR));
        let now = ends + LAST_POLL_DELAY;
        let memory = WarMemory { seeks_next_round: true, ..reported(now, starts, ends) };
        let next = next_poll(&object, &memory, now, now).unwrap();
        assert!(next.request.due.since(now) <= MIN_INTERVAL + SECOND);
    }

    fn member(tag: &str, hours: Option<u32>, is_active: bool) -> MemberSeen {
        let fetched_at = hours.map(|hours| at(100 * HOUR) - hours * HOUR);
        MemberSeen { tag: tag.parse().unwrap(), fetched_at, is_active }
    }

    #[test]
    fn stale_members_are_active_first_then_oldest() {
        let members = [
            member("2PP", Some(9), false),
            member("2QQ", Some(7), false),
            member("2YY", Some(3), true),
            member("2LL", Some(1), true),
            member("2GG", None, false),
            member("2RR", Some(30), false),
        ];
        let asked = |most| -> Vec<(String, Priority)> {
            let follow_ups = stale_members(&members, most, at(100 * HOUR));
            assert!(follow_ups.iter().all(|one| one.is_spare && one.request.due == at(100 * HOUR)));
            follow_ups.into_iter().map(|one| (one.request.object.to_string(), one.request.priority)).collect()
        };
        let low = |tag: &str| (format!("player:{tag}"), Priority::Low);
        let all = [("player:2YY".to_owned(), Priority::Medium), low("2GG"), low("2RR"), low("2PP")];
        assert_eq!(asked(5), all);
        assert_eq!(asked(2), all[..2]);
        assert_eq!(asked(0), []);
    }

    #[test]
    fn fetch_time_in_future_counts_as_stale() {
        let ahead = MemberSeen { fetched_at: Some(at(200 * HOUR)), ..member("2PP", None, false) };
        assert_eq!(stale_members(&[ahead], 5, at(100 * HOUR)).len(), 1);
    }
}
