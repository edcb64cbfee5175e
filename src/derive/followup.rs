//! What to ask for next because of what an answer said: the war clock, and members whose documents are old. Pure
//! functions of values.
//!
//! **The moments of a war's looks follow from its times alone**, never from when it was looked at last: however often and
//! by whomever a war is refreshed, the next look is the same one. That is why there is never more than one.

use std::{cmp::Reverse, time::Duration};

use crate::{
    clock::Timestamp,
    model::{FollowUp, KnownWar, MemberSeen, ObjectId, Priority, RefreshRequest, WarMemory},
};

/// Between looks in preparation: the sides' members may still be changed.
pub const IN_PREPARATION: Duration = Duration::from_secs(60 * 60);

/// Between looks in war …
pub const IN_WAR: Duration = Duration::from_secs(5 * 60);

/// … and in the last part of it, when most is decided. A copy of the API lives as long.
pub const NEAR_THE_END: Duration = Duration::from_secs(2 * 60);

/// How long the last part is.
pub const LAST_PART: Duration = Duration::from_secs(20 * 60);

/// How long after the end the last look comes: the last attacks are fought out, and no older copy lives any more.
pub const LAST_LOOK: Duration = Duration::from_secs(5 * 60);

/// How long after its end a war is still looked at that does not seem to end.
pub const PATIENCE: Duration = Duration::from_secs(2 * 60 * 60);

/// No war that is on lasts longer, whatever an answer says.
const LONGEST_WAR: Duration = Duration::from_secs(3 * 24 * 60 * 60);

/// Two looks at one war are never nearer than this.
const SHORTEST_WAIT: Duration = Duration::from_secs(60);

/// Times of ours that are further in the future were written by a wrong clock.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(60);

/// The next look at a war whose stored answer began at `began` and is given again until `fresh_until`. `None`: there is
/// nothing more to be seen.
#[must_use]
pub fn next_look(war: &ObjectId, memory: &WarMemory, began: Timestamp, fresh_until: Timestamp) -> Option<FollowUp> {
    let after = fresh_until.max(began + SHORTEST_WAIT);
    let (at, priority) = moment(memory, after)?;
    let request = RefreshRequest { due: at, ..RefreshRequest::now(war.clone(), priority, at) };
    Some(FollowUp { request, is_spare: false })
}

/// The next look at a war at which look after look has failed until now: the war goes on all the same. `None` when there is
/// nothing more to be seen, or the war should have ended long ago.
#[must_use]
pub fn next_look_after_failures(war: &ObjectId, memory: &WarMemory, now: Timestamp) -> Option<FollowUp> {
    memory.war.as_ref().filter(|known| now < known.ends + PATIENCE)?;
    next_look(war, memory, now, now)
}

/// Strictly after `after`: what comes at the very moment until which a copy lives would be answered by that copy.
fn moment(memory: &WarMemory, after: Timestamp) -> Option<(Timestamp, Priority)> {
    let just_after = after + Duration::from_millis(1);
    let war = memory.war.as_ref()?;
    if memory.seeks_next_round {
        return Some((just_after, Priority::Critical));
    }
    if war.is_final || after >= war.ends + PATIENCE || war.ends > after + LONGEST_WAR {
        return None;
    }
    if war.state == KnownWar::ENDED {
        return Some((just_after.max(war.ends + LAST_LOOK), Priority::High));
    }
    Some((scheduled(war, after).unwrap_or(after + NEAR_THE_END), Priority::Critical))
}

/// The first of a war's moments after this time; `None` when it is past them all.
fn scheduled(war: &KnownWar, after: Timestamp) -> Option<Timestamp> {
    let last_part = war.ends.saturating_sub(LAST_PART);
    let parts = [(war.starts, IN_PREPARATION), (last_part, IN_WAR), (war.ends, NEAR_THE_END)];
    let part = parts.into_iter().find(|(end, _)| after < *end);
    match part {
        Some((end, step)) => Some(counted_back(end, step, after)),
        None => Some(war.ends + LAST_LOOK).filter(|last| *last > after),
    }
}

/// The first moment after `after` that lies a whole number of steps before `end`, `end` included.
fn counted_back(end: Timestamp, step: Duration, after: Timestamp) -> Timestamp {
    let left = end.since(after).as_millis().saturating_sub(1);
    let steps = u32::try_from(left / step.as_millis()).unwrap_or(u32::MAX);
    end - step * steps
}

/// Those members whose full documents are older than their class allows, at most `most`: the active first, then the oldest.
#[must_use]
pub fn stale_members(members: &[MemberSeen], most: usize, now: Timestamp) -> Vec<FollowUp> {
    let mut stale: Vec<(Priority, Reverse<Duration>, &MemberSeen)> = members
        .iter()
        .filter_map(|member| {
            let class = if member.is_active { Priority::Medium } else { Priority::Low };
            let fetched_at = member.fetched_at.filter(|at| *at <= now + CLOCK_TOLERANCE);
            let age = fetched_at.map_or(Duration::MAX, |at| now.since(at));
            (age >= class.staleness()).then_some((class, Reverse(age), member))
        })
        .collect();
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

    /// A war of 23 hours of preparation and 24 of war, as the API tells it at this moment.
    fn told(now: Timestamp, starts: Timestamp, ends: Timestamp) -> WarMemory {
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

    /// Every look at a war that is looked at when it is asked for, `late` after its time. `max_age`: what the API says.
    fn looks(
        starts: Timestamp,
        ends: Timestamp,
        first: Timestamp,
        late: Duration,
        max_age: Duration,
    ) -> Vec<Timestamp> {
        let object = "war:2PP".parse().unwrap();
        let mut looks = vec![first];
        loop {
            let now = *looks.last().unwrap();
            let Some(next) = next_look(&object, &told(now, starts, ends), now, now + max_age) else { return looks };
            assert!(next.request.due > now + max_age && next.request.asked == next.request.due, "{next:?}");
            assert!(!next.is_spare);
            looks.push(next.request.due + late);
            assert!(looks.len() < 1000, "it ends");
        }
    }

    #[test]
    fn a_whole_war_is_looked_at_hourly_then_at_its_start_then_every_five_minutes_then_every_two_and_once_after() {
        let (found, starts, ends) = (at(Duration::ZERO), at(23 * HOUR), at(47 * HOUR));
        let looks = looks(starts, ends, found, SECOND, 60 * SECOND);
        let between =
            |from: Timestamp, to: Timestamp| looks.iter().filter(|look| **look > from && **look <= to).count();
        assert_eq!(between(found, starts - SECOND), 22, "hourly in preparation");
        assert_eq!(between(starts - SECOND, starts + SECOND), 1, "at the start");
        let last_part = ends - LAST_PART;
        assert_eq!(between(starts + SECOND, last_part + SECOND), 284, "every five minutes");
        assert_eq!(between(last_part + SECOND, ends + SECOND), 10, "every two at the end");
        assert_eq!(between(ends + SECOND, at(1000 * HOUR)), 1, "once when all attacks are in");
        assert_eq!(looks.len(), 1 + 22 + 1 + 284 + 10 + 1);
    }

    #[test]
    fn however_often_a_war_is_refreshed_the_next_look_stays_the_same() {
        let object = "war:2PP".parse().unwrap();
        let (starts, ends) = (at(23 * HOUR), at(47 * HOUR));
        let due = |now: Timestamp| next_look(&object, &told(now, starts, ends), now, now + SECOND).unwrap().request.due;
        let in_war = starts + HOUR;
        for seconds in 1..239 {
            assert_eq!(due(in_war + seconds * SECOND), in_war + IN_WAR, "{seconds} s later");
        }
    }

    #[test]
    fn copies_that_live_ten_minutes_are_not_asked_for_twice() {
        let (starts, ends) = (at(23 * HOUR), at(47 * HOUR));
        let looks = looks(starts, ends, at(Duration::ZERO), SECOND, 10 * MINUTE);
        assert!(looks.windows(2).all(|pair| pair[1].since(pair[0]) > 10 * MINUTE));
        assert!(looks.len() < 170, "{}", looks.len());
    }

    #[test]
    fn a_war_met_late_or_looked_at_late_is_caught_up_with_once() {
        let (starts, ends) = (at(Duration::ZERO), at(24 * HOUR));
        assert_eq!(looks(starts, ends, ends + 30 * MINUTE, SECOND, MINUTE).len(), 1, "it is final already");
        let late = looks(starts, ends, starts + HOUR, 7 * MINUTE, MINUTE);
        assert!(late.windows(2).all(|pair| pair[1].since(pair[0]) > 5 * MINUTE), "no look is made up for");
    }

    #[test]
    fn a_friendly_war_of_minutes_has_its_start_and_its_end() {
        let (found, starts, ends) = (at(Duration::ZERO), at(5 * MINUTE), at(15 * MINUTE));
        let looks = looks(starts, ends, found, SECOND, SECOND);
        assert_eq!(looks[1], starts + SECOND);
        assert_eq!(*looks.last().unwrap(), ends + LAST_LOOK + SECOND);
        assert_eq!(looks.len(), 8, "{looks:?}");
    }

    #[test]
    fn a_war_that_does_not_seem_to_end_is_given_up_in_time() {
        let object = "war:2PP".parse().unwrap();
        let (starts, ends) = (at(Duration::ZERO), at(24 * HOUR));
        let mut now = ends;
        let mut looks = 0;
        while let Some(next) = next_look(&object, &told(ends - SECOND, starts, ends), now, now + MINUTE) {
            now = next.request.due;
            looks += 1;
        }
        assert!(now <= ends + PATIENCE + 2 * MINUTE && looks < 130, "{looks}");
    }

    #[test]
    fn a_war_whose_looks_fail_is_looked_at_again_until_it_should_long_be_over() {
        let object = "war:2PP".parse().unwrap();
        let (starts, ends) = (at(Duration::ZERO), at(24 * HOUR));
        let known = told(ends - HOUR, starts, ends);
        let next =
            |memory: &WarMemory, now| next_look_after_failures(&object, memory, now).map(|next| next.request.due);
        assert_eq!(next(&known, ends - HOUR), Some(ends - HOUR + IN_WAR), "the same look as after an answer");
        assert_eq!(next(&known, ends + MINUTE), Some(ends + LAST_LOOK), "what it came to is still to be seen");
        assert!(next(&known, ends + HOUR).is_some());
        assert_eq!(next(&known, ends + PATIENCE), None);
        assert_eq!(next(&WarMemory { seeks_next_round: true, ..known }, ends + PATIENCE), None);
        assert_eq!(next(&told(ends + HOUR, starts, ends), ends + HOUR), None, "it is final");
    }

    #[test]
    fn without_times_in_no_war_or_with_wild_times_there_is_no_clock() {
        let object = "war:2PP".parse().unwrap();
        let now = at(Duration::ZERO);
        let next = |memory: &WarMemory| next_look(&object, memory, now, now);
        assert_eq!(next(&WarMemory::default()), None);
        assert_eq!(next(&told(now, now + 1000 * HOUR, now + 1024 * HOUR)), None);
    }

    #[test]
    fn looks_are_critical_while_a_war_is_on_and_not_after_it() {
        let object = "war:2PP".parse().unwrap();
        let (starts, ends) = (at(23 * HOUR), at(47 * HOUR));
        let class =
            |now: Timestamp| next_look(&object, &told(now, starts, ends), now, now).map(|next| next.request.priority);
        assert_eq!(class(at(HOUR)), Some(Priority::Critical));
        assert_eq!(class(starts + HOUR), Some(Priority::Critical));
        assert_eq!(class(ends), Some(Priority::High));
        assert_eq!(class(ends + LAST_LOOK), None);
    }

    #[test]
    fn after_a_round_of_a_league_the_next_one_is_looked_for_at_once() {
        let object = "war:2PP".parse().unwrap();
        let (starts, ends) = (at(Duration::ZERO), at(24 * HOUR));
        let now = ends + LAST_LOOK;
        let memory = WarMemory { seeks_next_round: true, ..told(now, starts, ends) };
        let next = next_look(&object, &memory, now, now).unwrap();
        assert!(next.request.due.since(now) <= SHORTEST_WAIT + SECOND);
    }

    fn member(tag: &str, hours: Option<u32>, is_active: bool) -> MemberSeen {
        let fetched_at = hours.map(|hours| at(100 * HOUR) - hours * HOUR);
        MemberSeen { tag: tag.parse().unwrap(), fetched_at, is_active }
    }

    #[test]
    fn old_members_are_asked_for_the_active_first_then_the_oldest_and_no_more_than_allowed() {
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
    fn a_time_from_a_wrong_clock_counts_as_old() {
        let ahead = MemberSeen { fetched_at: Some(at(200 * HOUR)), ..member("2PP", None, false) };
        assert_eq!(stale_members(&[ahead], 5, at(100 * HOUR)).len(), 1);
    }
}
