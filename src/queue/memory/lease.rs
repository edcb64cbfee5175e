//! The rules of leasing: order, floors, suspects, kinds that are set aside, probes. `lua/lease.lua` has the same for Redis.

use std::collections::BTreeMap;

use super::{Contents, is_of};
use crate::{
    clock::Timestamp,
    model::Priority,
    queue::{
        ClaimRequest, Claimed, Lease, LeaseRequest, Leased, SUSPECT_LAPSES, SetAside, Settlement,
        lease::Draw,
        record::{CLASS_WIDTH, MAX_SET_ASIDE, MAX_SWEPT, Record, State, clamp},
        suspects_together,
    },
};

impl Contents {
    /// Releases the leases of calls whose replies were lost.
    pub(super) fn release_lost(&mut self, request: &LeaseRequest, now: Timestamp) {
        let lost: Vec<String> = request.lost.iter().map(|nonce| format!("{}:{nonce}-", request.run)).collect();
        let is_lost = |record: &Record| {
            let token = record.token.as_deref().unwrap_or_default();
            record.state == State::Leased && lost.iter().any(|prefix| token.starts_with(prefix))
        };
        let names: Vec<String> =
            self.records.iter().filter(|(_, record)| is_lost(record)).map(|(name, _)| name.clone()).collect();
        for name in names {
            let record = self.records.remove(&name).and_then(|record| record.settle(&Settlement::Release, true, now));
            self.records.extend(record.map(|record| (name, record)));
        }
    }

    /// Claims objects for planned looks, unless a request is ready or due.
    pub(super) fn claim(&mut self, now: Timestamp, request: &ClaimRequest) -> Claimed {
        let waits = |record: &Record| match record.state {
            State::Ready => true,
            State::Delayed => record.ready_at() <= now,
            State::Leased => record.expires.is_none_or(|expires| expires <= now),
            State::Dead => false,
        };
        if !request.objects.is_empty() && self.records.values().any(waits) {
            return Claimed { work_waits: true, ..Claimed::default() };
        }
        let mut claimed = Claimed::default();
        for object in &request.objects {
            let name = object.to_string();
            if let Some(record) = self.records.get(&name) {
                claimed.refused.push((object.clone(), record.state));
                continue;
            }
            self.records.insert(name.clone(), Record::planned(now));
            claimed.leases.push(self.lease_object(&name, &request.run, &request.nonce, now + request.duration));
        }
        claimed
    }

    /// Takes back leases that ran out.
    pub(super) fn take_back(&mut self, most_dead: usize, now: Timestamp) -> Leased {
        let mut leased = Leased::default();
        let expired = self.in_order(State::Leased).into_iter().filter(|(expires, _)| *expires <= now.as_millis());
        for (_, name) in expired.take(MAX_SWEPT) {
            let has_room = self.has_room(most_dead);
            let record = self.records.get_mut(&name).expect("a listed name has a record");
            record.lapse(has_room, now);
            leased.lapsed += 1;
            leased.lapsed_dead += usize::from(record.state == State::Dead);
        }
        leased.more = leased.lapsed == MAX_SWEPT;
        leased
    }

    /// Moves what is due to ready; true when there may be more.
    pub(super) fn move_due(&mut self, now: Timestamp) -> bool {
        let mut moved = BTreeMap::<Priority, usize>::new();
        // Bounded for each priority, so that many due LOW objects do not delay a CRITICAL one.
        for (due, name) in self.in_order(State::Delayed) {
            let record = self.records.get_mut(&name).expect("a listed name has a record");
            let moved = moved.entry(record.wanted.priority).or_default();
            if due <= now.as_millis() && *moved < MAX_SWEPT {
                record.place(now);
                *moved += 1;
            }
        }
        moved.values().any(|moved| *moved == MAX_SWEPT)
    }

    /// Leases the next objects in order.
    pub(super) fn grant(&mut self, now: Timestamp, request: &LeaseRequest, leased: &mut Leased) {
        // The seed must give the same draws here and in `lease.lua`: tests compare the two queues.
        let mut draw = Draw::from_seed(request.seed);
        let mut waiting = self.in_order(State::Ready);
        let class_of = |score: i64| Priority::nearest(score / CLASS_WIDTH);
        let is_wanted = |class: Priority| request.priorities.is_empty() || request.priorities.contains(&class);
        waiting.retain(|(score, _)| is_wanted(class_of(*score)));
        let mut named = request.first.iter().map(ToString::to_string);
        let mut aside: Vec<SetAside> = request.set_aside.clone();
        // A circuit that has just closed no longer counts.
        aside.retain(|aside| aside.until > now);
        let mut set_aside = 0;
        let mut group = None;
        while leased.leases.len() < request.max {
            // Bounded, as one script of Redis must be short.
            if set_aside == MAX_SET_ASIDE {
                leased.more = true;
                return;
            }
            let goes_first = |record: &Record| {
                let is_held = record.is_held() && record.wanted.due <= now;
                (record.state == State::Ready || is_held) && record.lapses < SUSPECT_LAPSES
            };
            let mut next_named = || named.find(|name| self.records.get(name).is_some_and(goes_first));
            let name = if let Some(name) = group.is_none().then(&mut next_named).flatten() {
                name
            } else {
                let favoured = if group.is_none() { draw.favoured() } else { None };
                // Without a request of that priority the strict order applies.
                let place = waiting.iter().position(|(score, _)| Some(class_of(*score)) == favoured).unwrap_or(0);
                let Some((_, name)) = waiting.get(place) else {
                    // A held request is leased as the probe only when nothing is ready.
                    if request.probe && leased.leases.is_empty() {
                        self.probe(now, request, &aside, leased);
                    }
                    return;
                };
                name.clone()
            };
            let record = self.records.get_mut(&name).expect("a listed name has a record");
            // Suspects with another number of lapses form a group of their own.
            if group.is_some_and(|lapses| lapses != record.lapses) {
                break;
            }
            let kind = aside.iter_mut().find(|aside| is_of(&name, aside.kind));
            if let Some(kind) = kind.as_ref().filter(|kind| kind.probes == 0) {
                record.set_aside(clamp(kind.until, now), now);
                set_aside += 1;
                waiting.retain(|(_, other)| *other != name);
                continue;
            }
            let suspect = record.lapses >= SUSPECT_LAPSES;
            // A suspect may kill its worker: nothing else may be in flight.
            if suspect && !(request.alone && (group.is_some() || leased.leases.is_empty())) {
                leased.suspect_waits = true;
                return;
            }
            let lapses = record.lapses;
            if let Some(kind) = kind {
                kind.probes -= 1;
            }
            leased.leases.push(self.lease_object(&name, &request.run, &request.nonce, now + request.duration));
            waiting.retain(|(_, other)| *other != name);
            group = suspect.then_some(lapses);
            if suspect && leased.leases.len() >= suspects_together(lapses) {
                break;
            }
        }
        leased.more |= leased.leases.len() == request.max && !waiting.is_empty();
    }

    /// Leases the held object whose hold ends first.
    fn probe(&mut self, now: Timestamp, request: &LeaseRequest, aside: &[SetAside], leased: &mut Leased) {
        let may_go = |(name, record): &(&String, &Record)| {
            record.is_held()
                && record.wanted.due <= now
                && (request.priorities.is_empty() || request.priorities.contains(&record.wanted.priority))
                && !aside.iter().any(|aside| is_of(name, aside.kind) && aside.probes == 0)
        };
        let first = self.records.iter().filter(may_go).min_by_key(|(name, record)| (record.hold, (*name).clone()));
        let Some((name, record)) = first else { return };
        if record.lapses >= SUSPECT_LAPSES && !request.alone {
            leased.suspect_waits = true;
            return;
        }
        let name = name.clone();
        leased.leases.push(self.lease_object(&name, &request.run, &request.nonce, now + request.duration));
    }

    fn lease_object(&mut self, name: &str, run: &str, nonce: &str, expires: Timestamp) -> Lease {
        self.leases += 1;
        let object = name.parse().expect("a record is named after its object");
        let dash = if nonce.is_empty() { "" } else { "-" };
        let token = format!("{run}:{nonce}{dash}{}", self.leases);
        let record = self.records.get_mut(name).expect("a listed name has a record");
        record.lease(object, token, expires)
    }
}
