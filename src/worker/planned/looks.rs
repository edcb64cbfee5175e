//! The planned looks of a run: which object a spare call is for. Values only: time is handed in, and nothing is read or written here.
//!
//! `upkeep` brings candidates from the store and carries away what is put off; the lease stage takes candidates to claim them.

use std::{collections::VecDeque, time::Duration};

use parking_lot::Mutex;
use tokio::time::Instant;

use super::pace::Pace;
use crate::{
    clock::Timestamp,
    config::PlannerConfig,
    planner::{Arm, EARLY, LATE, Level, PUT_OFF, Policy, Round, Teaching, lateness},
    signal::Signal,
    store::{Candidate, PutOff},
};

/// A look that failed is made again after this time. A person need not care: requests have their own attempts.
pub const FAILED_FOR: Duration = Duration::from_secs(10 * 60);

/// The object waits for a request, or for a war's next poll, which serves it: the plan comes back to it after this time.
pub const REFUSED_FOR: Duration = Duration::from_secs(60 * 60);

/// No error of the store or the queue is asked again sooner.
const PAUSE: Duration = Duration::from_secs(10);

/// More candidates are wanted when fewer than this are left, and than four claims take.
const FEW: usize = 60;

/// A page of those that would be next. Most of them were looked at within the last minutes where little is read.
const LARGE_PAGE: usize = 1000;

/// No look is planned for later than this, whatever a row says.
pub const FAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// How far the candidates of this round have been read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Read {
    /// Those whose time has come, or comes soon.
    #[default]
    Due,
    /// Those that would be next: calls are left over.
    Next,
    /// All that there are.
    All,
}

/// A question for the next page of candidates.
#[derive(Clone, Debug)]
pub struct Page {
    pub arm: Arm,
    pub until: Timestamp,
    pub after: Option<Candidate>,
    pub limit: usize,
}

/// A side of a trial; without a trial there is one.
#[derive(Debug, Default)]
struct Side {
    level: Level,
    candidates: VecDeque<Candidate>,
    /// The last candidate that was read in this round.
    last: Option<Candidate>,
    read: Read,
    /// The head of the plan at the beginning of this round was late.
    is_late: bool,
    /// Calls were left over after all that was due.
    room_was_left: bool,
    /// Calls of this run at its objects, planned or requested.
    calls: f64,
}

#[derive(Debug, Default)]
struct State {
    sides: [Side; Arm::ALL.len()],
    pace: Pace,
    put_off: Vec<PutOff>,
    paused_until: Option<Instant>,
    /// The number of candidates below which more are wanted, where that is more than [`FEW`].
    few: usize,
}

impl State {
    fn few(&self) -> usize {
        self.few.max(FEW)
    }

    fn wants_more(&self, side: &Side) -> bool {
        side.candidates.len() < self.few() && side.read != Read::All
    }
}

/// What the stages and the upkeep wake each other for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wake {
    /// Candidates are wanted.
    pub few: bool,
    /// Nothing was ready at least once: what else a run does in its spare time may begin.
    pub idle: bool,
    /// The lease stage has ended.
    pub over: bool,
}

/// The limits of one choice.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// At most this many candidates.
    pub most: usize,
    /// Planned calls a second of this run.
    pub per_second: f64,
    /// Planned calls that are left of the day.
    pub left_today: u64,
}

/// The planned looks of one run.
#[derive(Debug)]
pub struct PlannedLooks {
    teaching: Teaching,
    /// The longest time without a look, stretched where it has to be.
    longest: Mutex<Duration>,
    state: Mutex<State>,
    pub wake: Signal<Wake>,
}

impl PlannedLooks {
    #[must_use]
    pub fn new(config: PlannerConfig) -> Self {
        let teaching = config.teaching;
        let longest = Mutex::new(teaching.policy.longest);
        Self { teaching, longest, state: Mutex::default(), wake: Signal::default() }
    }

    /// Stretches the longest time without a look.
    pub fn stretch_longest(&self, longest: Duration) {
        *self.longest.lock() = longest;
    }

    fn policy(&self) -> Policy {
        Policy { longest: *self.longest.lock(), ..self.teaching.policy }
    }

    /// The sides that have objects.
    pub fn arms(&self) -> impl Iterator<Item = (Arm, (u16, u16))> {
        let teaching = self.teaching;
        Arm::ALL.into_iter().filter_map(move |arm| Some((arm, teaching.buckets(arm)?)))
    }

    /// Chooses candidates that `allows` says may be called now. Those whose look was planned while calls were cheaper are put off.
    pub fn choose(
        &self,
        room: Room,
        now: Timestamp,
        moment: Instant,
        allows: impl Fn(&Candidate) -> bool,
    ) -> Vec<Candidate> {
        self.wake.update_if(|wake| !std::mem::replace(&mut wake.idle, true));
        let mut state = self.state.lock();
        if state.paused_until.is_some_and(|until| moment < until) {
            return Vec::new();
        }
        state.few = room.most * 4;
        let most = room.most.min(state.pace.allowed(room.per_second, moment));
        let most = most.min(usize::try_from(room.left_today).unwrap_or(usize::MAX));
        let mut chosen = Vec::new();
        let State { sides, put_off, pace, .. } = &mut *state;
        while chosen.len() < most {
            let Some(arm) = self.next_arm(sides) else {
                // Nothing at all is left to call.
                for side in sides.iter_mut() {
                    side.room_was_left = true;
                }
                break;
            };
            let side = &mut sides[arm as usize];
            let Some(candidate) = side.candidates.pop_front() else {
                // More are being read. Both sides get equal calls per object, so the other one does not take these.
                break;
            };
            if !allows(&candidate) {
                continue;
            }
            if side.is_late
                && let Some(until) = self.later_at(arm, &candidate, side.level, now)
            {
                put_off.push(PutOff::as_seen(&candidate, until));
                continue;
            }
            side.room_was_left |= candidate.next_look > now + EARLY;
            side.calls += 1.0;
            pace.count(1);
            chosen.push(candidate);
        }
        let few = self.arms().any(|(arm, _)| state.wants_more(&state.sides[arm as usize]));
        drop(state);
        self.wake.update_if(|wake| !std::mem::replace(&mut wake.few, few) && few);
        chosen
    }

    /// Takes back candidates for which no call was made; `again`: they stay the next ones.
    pub fn give_back(&self, candidates: Vec<Candidate>, again: bool) {
        let mut state = self.state.lock();
        for candidate in candidates.into_iter().rev() {
            state.pace.count(-1);
            let side = &mut state.sides[self.teaching.arm(candidate.bucket) as usize];
            side.calls -= 1.0;
            if again {
                side.candidates.push_front(candidate);
            }
        }
    }

    /// These looks are put off.
    pub fn put_off(&self, looks: impl IntoIterator<Item = PutOff>) {
        self.state.lock().put_off.extend(looks);
    }

    /// Takes what is to be put off.
    pub fn take_put_off(&self) -> Vec<PutOff> {
        std::mem::take(&mut self.state.lock().put_off)
    }

    /// Chooses nothing for a while, since the store or the queue does not take it.
    pub fn pause(&self, moment: Instant) {
        self.state.lock().paused_until = Some(moment + PAUSE);
    }

    /// Counts the calls that a look took beside the first.
    pub fn further_calls(&self, calls: u32) {
        self.state.lock().pace.count(i64::from(calls));
    }

    /// Counts a call that a request was served with, at an object of this bucket.
    pub fn requested_call(&self, bucket: u16) {
        self.state.lock().sides[self.teaching.arm(bucket) as usize].calls += 1.0;
    }

    /// Sets the level, as the store has it.
    pub fn set_level(&self, arm: Arm, level: Level) {
        self.state.lock().sides[arm as usize].level = level;
    }

    /// Begins a round with the head of the plan: forgets the candidates that were read, and returns the step by which the level moves.
    pub fn begin_round(&self, arm: Arm, head: Option<Timestamp>, since_last: Option<Duration>, now: Timestamp) -> f64 {
        let mut state = self.state.lock();
        let side = &mut state.sides[arm as usize];
        let round = Round { since_last: since_last.unwrap_or_default(), head, room_was_left: side.room_was_left };
        let (level, calls) = (side.level, side.calls);
        let is_late = lateness(head, now) > LATE.as_secs_f64();
        *side = Side { level, is_late, calls, ..Side::default() };
        Level::step(round, now)
    }

    /// The next page to read; `None` while there are enough candidates, or no more.
    pub fn wanted(&self, arm: Arm, now: Timestamp) -> Option<Page> {
        let state = self.state.lock();
        let side = &state.sides[arm as usize];
        if !state.wants_more(side) {
            return None;
        }
        let (until, limit) = match side.read {
            Read::Due => (now + EARLY, 2 * state.few()),
            Read::Next => (now + FAR, LARGE_PAGE),
            Read::All => return None,
        };
        Some(Page { arm, until, after: side.last.clone(), limit })
    }

    /// Adds those of a page that may be called; `is_last`: there are no more until the page's end.
    pub fn add(&self, arm: Arm, candidates: Vec<Candidate>, is_last: bool, now: Timestamp) {
        let policy = self.policy();
        let may_be_called = |one: &Candidate| one.known.may_be_called(one.next_look, one.fresh_until, now, policy);
        let mut state = self.state.lock();
        let side = &mut state.sides[arm as usize];
        side.last = candidates.last().cloned().or(side.last.take());
        // What was looked at a moment ago stands in front again where little is read, and is passed over here, page by page.
        side.candidates.extend(candidates.into_iter().filter(may_be_called));
        if is_last {
            side.read = if side.read == Read::Due { Read::Next } else { Read::All };
        }
        drop(state);
        self.wake.update_if(|wake| std::mem::take(&mut wake.few));
    }

    /// The side that has had fewer calls for its share of the objects.
    fn next_arm(&self, sides: &[Side]) -> Option<Arm> {
        let share = |arm: Arm, (first, last): (u16, u16)| sides[arm as usize].calls / f64::from(last - first + 1);
        // A side that has nothing to call does not keep the other one from it.
        let is_spent = |side: &Side| side.candidates.is_empty() && side.read == Read::All;
        let arms = self.arms().filter(|(arm, _)| !is_spent(&sides[*arm as usize]));
        let arms = arms.map(|(arm, buckets)| (arm, share(arm, buckets)));
        arms.min_by(|one, other| one.1.total_cmp(&other.1)).map(|(arm, _)| arm)
    }

    /// The time of the look at the present level, when that is much later.
    fn later_at(&self, arm: Arm, candidate: &Candidate, level: Level, now: Timestamp) -> Option<Timestamp> {
        let Candidate { object, known, fresh_until, .. } = candidate;
        let strategy = self.teaching.strategy(arm);
        let due = strategy.next_look(object.kind, known, *fresh_until, level.reads(), now, self.policy())?;
        (due > now + PUT_OFF).then_some(due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::{Kind, ObjectId},
        planner::{Knowledge, Strategy},
        store::{MAX_BUCKET, Trial},
    };

    const NOW: Timestamp = Timestamp::from_millis(1_772_600_767_089);
    const PLENTY: Room = Room { most: 100, per_second: 1000.0, left_today: u64::MAX };

    fn minutes(count: u64) -> Duration {
        Duration::from_secs(60 * count)
    }

    fn looks(trial: Option<Trial>) -> PlannedLooks {
        PlannedLooks::new(PlannerConfig { calls_per_second: 1000, teaching: Teaching { trial, ..Teaching::default() } })
    }

    /// An object that was looked at an hour ago.
    fn candidate(number: u16, next_look: Timestamp) -> Candidate {
        let tag = format!("2PP{}", "0289PYLQ".chars().nth(usize::from(number % 8)).unwrap());
        let known = Knowledge { looked_at: Some(NOW - minutes(60)), ..Knowledge::default() };
        let object = ObjectId::new(Kind::Player, tag.parse().unwrap());
        Candidate { object, known, fresh_until: NOW - minutes(59), next_look, bucket: number }
    }

    fn choose(looks: &PlannedLooks, room: Room) -> Vec<u16> {
        looks.choose(room, NOW, Instant::now(), |_| true).iter().map(|candidate| candidate.bucket).collect()
    }

    #[test]
    fn earliest_candidates_are_chosen_within_the_room() {
        let looks = looks(None);
        looks.add(Arm::Main, (1..=5).map(|number| candidate(number, NOW)).collect(), true, NOW);
        assert_eq!(choose(&looks, Room { most: 2, ..PLENTY }), [1, 2]);
        assert_eq!(choose(&looks, Room { left_today: 1, ..PLENTY }), [3]);
        assert_eq!(choose(&looks, Room { most: 0, ..PLENTY }), [0; 0]);
        assert_eq!(choose(&looks, PLENTY), [4, 5]);
        assert!(looks.wake.get().few && looks.wake.get().idle);
    }

    #[test]
    fn candidates_given_back_stay_the_next_ones() {
        let looks = looks(None);
        looks.add(Arm::Main, (1..=3).map(|number| candidate(number, NOW)).collect(), true, NOW);
        let chosen = looks.choose(PLENTY, NOW, Instant::now(), |_| true);
        looks.give_back(chosen, true);
        assert_eq!(choose(&looks, PLENTY), [1, 2, 3]);
    }

    #[test]
    fn copy_that_is_fresh_is_not_chosen() {
        let looks = looks(None);
        let fresh = Candidate { fresh_until: NOW + minutes(1), ..candidate(1, NOW) };
        looks.add(Arm::Main, vec![fresh, candidate(2, NOW)], true, NOW);
        assert_eq!(choose(&looks, PLENTY), [2]);
    }

    #[test]
    fn pages_without_callable_objects_are_passed_over() {
        let looks = looks(None);
        looks.add(Arm::Main, Vec::new(), true, NOW);
        let known = Knowledge { looked_at: Some(NOW - minutes(5)), ..Knowledge::default() };
        let just_seen = |number| Candidate { known, ..candidate(number, NOW + minutes(30)) };
        looks.add(Arm::Main, (0..200).map(just_seen).collect(), false, NOW);
        let next = looks.wanted(Arm::Main, NOW).expect("none of them may be called").after.unwrap();
        assert_eq!(next.bucket, 199, "the next page begins behind them");
    }

    #[test]
    fn late_candidates_are_weighed_again() {
        let looks = looks(None);
        looks.begin_round(Arm::Main, Some(NOW - minutes(2)), None, NOW);
        // At this price no unread player is worth a call within the day.
        looks.set_level(Arm::Main, Level { logarithm: 5.0 });
        let unknown = Candidate { known: Knowledge::default(), ..candidate(2, NOW) };
        looks.add(Arm::Main, vec![candidate(1, NOW - minutes(2)), unknown], true, NOW);
        assert_eq!(choose(&looks, PLENTY), [2], "nothing is known of it yet");
        let put_off = looks.take_put_off();
        assert!(put_off.len() == 1 && put_off[0].until > NOW + PUT_OFF, "{put_off:?}");
        assert!(looks.take_put_off().is_empty());
    }

    #[test]
    fn level_falls_when_calls_are_left_over() {
        let ten = Some(Duration::from_secs(10));
        let looks = looks(None);
        looks.begin_round(Arm::Main, Some(NOW), None, NOW);
        looks.add(Arm::Main, vec![candidate(1, NOW)], true, NOW);
        choose(&looks, Room { most: 1, ..PLENTY });
        assert!(looks.begin_round(Arm::Main, Some(NOW - minutes(1)), ten, NOW) > 0.0, "late, and no room was left");
        looks.begin_round(Arm::Main, Some(NOW), ten, NOW);
        looks.add(Arm::Main, vec![candidate(1, NOW), candidate(2, NOW + minutes(60))], true, NOW);
        assert_eq!(choose(&looks, PLENTY), [1, 2], "no call is left over while any is worth something");
        assert!(looks.begin_round(Arm::Main, Some(NOW), ten, NOW) < 0.0, "the second was ahead of its time");
        looks.add(Arm::Main, Vec::new(), true, NOW);
        looks.add(Arm::Main, Vec::new(), true, NOW);
        assert_eq!(choose(&looks, PLENTY), [0; 0]);
        assert!(looks.begin_round(Arm::Main, None, ten, NOW) < 0.0, "there was nothing to call");
    }

    #[test]
    fn pages_go_on_beyond_what_is_due() {
        let looks = looks(None);
        let due = looks.wanted(Arm::Main, NOW).unwrap();
        assert!(due.until == NOW + EARLY && due.after.is_none());
        looks.add(Arm::Main, vec![candidate(1, NOW)], true, NOW);
        let next = looks.wanted(Arm::Main, NOW).unwrap();
        assert!(next.until == NOW + FAR && next.after == Some(candidate(1, NOW)));
        looks.add(Arm::Main, (0..200).map(|number| candidate(number, NOW)).collect(), false, NOW);
        assert_eq!(looks.wanted(Arm::Main, NOW).map(|page| page.limit), None, "enough");
        choose(&looks, PLENTY);
        choose(&looks, PLENTY);
        looks.add(Arm::Main, Vec::new(), true, NOW);
        assert!(looks.wanted(Arm::Main, NOW).is_none(), "there are no more");
    }

    #[test]
    fn sides_share_calls_by_their_objects() {
        let looks = looks(Some(Trial { strategy: Strategy::Age, percent: 25 }));
        let trial = |number: u16| number;
        let main = |number: u16| MAX_BUCKET - number;
        looks.add(Arm::Trial, (0..50).map(|number| candidate(trial(number), NOW)).collect(), false, NOW);
        looks.add(Arm::Main, (0..90).map(|number| candidate(main(number), NOW)).collect(), false, NOW);
        let of_trial = |chosen: &[u16]| chosen.iter().filter(|bucket| **bucket < 2500).count();
        assert_eq!(of_trial(&choose(&looks, Room { most: 40, ..PLENTY })), 10);
        // Requests count, too: this side has had its calls for a while.
        (0..10).for_each(|_| looks.requested_call(0));
        assert_eq!(of_trial(&choose(&looks, Room { most: 30, ..PLENTY })), 0);
    }

    #[test]
    fn empty_side_does_not_stop_the_other() {
        let looks = looks(Some(Trial { strategy: Strategy::Age, percent: 1 }));
        (0..2).for_each(|_| looks.add(Arm::Trial, Vec::new(), true, NOW));
        looks.add(Arm::Main, vec![candidate(5000, NOW), candidate(5001, NOW)], false, NOW);
        assert_eq!(choose(&looks, PLENTY), [5000, 5001]);
    }

    #[test]
    fn nothing_is_chosen_during_a_pause() {
        let (looks, start) = (looks(None), Instant::now());
        looks.add(Arm::Main, vec![candidate(1, NOW)], false, NOW);
        looks.pause(start);
        assert!(looks.choose(PLENTY, NOW, start, |_| true).is_empty());
        assert_eq!(looks.choose(PLENTY, NOW, start + PAUSE, |_| true).len(), 1);
    }
}
