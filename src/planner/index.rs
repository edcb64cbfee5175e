//! The planner in memory: all objects, ordered by their next look. For replays; a run keeps them in the database.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    time::Duration,
};

use super::{EARLY, Knowledge, LATE, Level, Look, PUT_OFF, Policy, Round, Strategy, level, usual_floor};
use crate::{clock::Timestamp, model::Kind};

/// A round passes over at most this many objects whose time has not come.
const MAX_PASSED_OVER: usize = 10_000;

/// All known objects of a replay.
#[derive(Debug)]
pub struct Index {
    policy: Policy,
    strategy: Strategy,
    level: Level,
    objects: HashMap<u64, Entry>,
    /// The next looks. An object that was put in anew leaves its older entries behind; their number tells them apart.
    order: BinaryHeap<Reverse<(Timestamp, u64, u64)>>,
    /// The first round: no reader could be heard before.
    began: Option<Timestamp>,
    last_round: Option<Timestamp>,
}

#[derive(Debug)]
struct Entry {
    kind: Kind,
    known: Knowledge,
    number: u64,
}

impl Index {
    #[must_use]
    pub fn new(strategy: Strategy, policy: Policy) -> Self {
        Self {
            policy,
            strategy,
            level: Level::default(),
            objects: HashMap::new(),
            order: BinaryHeap::new(),
            began: None,
            last_round: None,
        }
    }

    #[must_use]
    pub const fn level(&self) -> Level {
        self.level
    }

    /// The knowledge of an object.
    #[must_use]
    pub fn get(&self, id: u64) -> Option<&Knowledge> {
        self.objects.get(&id).map(|entry| &entry.known)
    }

    /// Adds an object whose stored copy was fetched then.
    pub fn add(&mut self, id: u64, kind: Kind, fetched: Timestamp) {
        let known = Knowledge { looked_at: Some(fetched), ..Knowledge::default() };
        self.objects.insert(id, Entry { kind, known, number: 0 });
        self.put(id, fetched);
    }

    /// Learns from a look. False when there is no such object.
    pub fn learn(&mut self, id: u64, look: Look) -> bool {
        let (began, policy) = (self.began.unwrap_or(look.at), self.policy);
        let Some(entry) = self.objects.get_mut(&id) else { return false };
        entry.known = entry.known.learn(entry.kind, look, Some(began), policy);
        self.put(id, look.at);
        true
    }

    /// A member list has shown a change. False when there is no such object.
    pub fn hint(&mut self, id: u64, now: Timestamp) -> bool {
        let Some(entry) = self.objects.get_mut(&id) else { return false };
        if !entry.known.hinted {
            entry.known = entry.known.hint();
            self.put(id, now);
        }
        true
    }

    /// Chooses at most this many objects, the most overdue first, and moves the level.
    pub fn choose(&mut self, now: Timestamp, most: usize) -> Vec<u64> {
        self.began.get_or_insert(now);
        let head = self.head();
        let is_late = level::lateness(head, now) > LATE.as_secs_f64();
        let (mut chosen, mut too_soon) = (Vec::new(), Vec::new());
        while chosen.len() < most {
            let Some(id) = self.pop(now, now + EARLY, &mut too_soon) else { break };
            if is_late && self.puts_off(id, now) {
                continue;
            }
            chosen.push(id);
        }
        let room_was_left = chosen.len() < most;
        // No call is left over while any is worth something: the rest goes to those that would be next.
        while chosen.len() < most && too_soon.len() < MAX_PASSED_OVER {
            let Some(id) = self.pop(now, Timestamp::from_millis(i64::MAX), &mut too_soon) else { break };
            chosen.push(id);
        }
        self.order.extend(too_soon);
        let since_last = self.last_round.map_or(Duration::from_secs(1), |last| now.since(last));
        self.last_round = Some(now);
        self.level = self.level.moved(Level::step(Round { since_last, head, room_was_left }, now));
        chosen
    }

    /// Takes the next object out of the order, if its time is not after `until`.
    fn pop(
        &mut self,
        now: Timestamp,
        until: Timestamp,
        too_soon: &mut Vec<Reverse<(Timestamp, u64, u64)>>,
    ) -> Option<u64> {
        loop {
            let next = self.order.pop()?;
            let Reverse((due, id, number)) = next;
            let Some(entry) = self.objects.get(&id).filter(|entry| entry.number == number) else { continue };
            if due > until {
                self.order.push(next);
                return None;
            }
            if entry.known.may_be_called(due, fresh_until(entry), now, self.policy) {
                return Some(id);
            }
            too_soon.push(next);
        }
    }

    /// Puts an object back whose look was planned when calls were cheaper. True when it was.
    fn puts_off(&mut self, id: u64, now: Timestamp) -> bool {
        let Some(entry) = self.objects.get(&id) else { return false };
        let due =
            self.strategy.next_look(entry.kind, &entry.known, fresh_until(entry), self.level.reads(), now, self.policy);
        let is_put_off = due.is_some_and(|due| due > now + PUT_OFF);
        if is_put_off {
            self.put(id, now);
        }
        is_put_off
    }

    /// The seconds by which the most overdue look is late; negative when it is early.
    pub fn lateness(&mut self, now: Timestamp) -> f64 {
        level::lateness(self.head(), now)
    }

    /// The time of the earliest next look.
    fn head(&mut self) -> Option<Timestamp> {
        while let Some(&Reverse((due, id, number))) = self.order.peek() {
            if self.objects.get(&id).is_some_and(|entry| entry.number == number) {
                return Some(due);
            }
            self.order.pop();
        }
        None
    }

    fn put(&mut self, id: u64, now: Timestamp) {
        let level = self.level.reads();
        let Some(entry) = self.objects.get_mut(&id) else { return };
        entry.number += 1;
        let due = self.strategy.next_look(entry.kind, &entry.known, fresh_until(entry), level, now, self.policy);
        if let Some(due) = due {
            self.order.push(Reverse((due, id, entry.number)));
        }
    }
}

fn fresh_until(entry: &Entry) -> Timestamp {
    entry.known.looked_at.map_or(Timestamp::EPOCH, |looked_at| looked_at + usual_floor(entry.kind))
}
