//! The queue without a server: the demo's queue, and the model that Redis is tested against.
//!
//! One lock around one value, and the rules of [`record`](super::record). It keeps no index: order is found by sorting,
//! which is fine for thousands and not for millions.

#[cfg(feature = "cli")]
mod archive;
mod mail;
mod slots;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use self::slots::Agreements;
use super::{
    Admitted, DeadFilter, DeadLetter, Enqueued, Exported, Following, Lease, LeaseRequest, LeaseToken, Leased,
    MailLimits, NotQueued, Oldest, Queue, QueueError, QueueStats, Repaired, RunSummaries, RunSummary, SetAside,
    Settled, Settlement,
    letters::{DeadEntry, exported, newest_first, second_id},
    mailbox::{Mail, compose, unescape},
    record::{
        ANSWER_LIFETIME, CLASS_WIDTH, Draw, LOOKED_AT_FOR_OLDEST, Letter, MOST_SET_ASIDE, QueueLimits, Record, SWEEP,
        State, clamp, name_of_batch,
    },
};
use crate::{
    clock::{Clock, Timestamp},
    model::{Event, FollowUp, Kind, ObjectId, Priority, RefreshRequest},
    queue::{SUSPECT_LAPSES, suspects_together},
};

/// A queue in this process.
#[derive(Debug)]
pub struct MemoryQueue {
    clock: Arc<dyn Clock>,
    limits: QueueLimits,
    contents: Mutex<Contents>,
    /// What was answered to settlements of the last minute.
    answered: Mutex<Vec<Answered>>,
    agreements: Mutex<Agreements>,
    events: Mutex<Vec<Event>>,
    run_summaries: Mutex<RunSummaries>,
}

/// The answer to a batch of settlements, by its name.
type Answered = (String, Timestamp, (Vec<Settled>, usize));

/// Everything it holds, for tests that compare.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Contents {
    /// The producers' index.
    pub index: BTreeMap<Vec<u8>, f64>,
    /// The producers' data.
    pub data: BTreeMap<Vec<u8>, Vec<u8>>,
    pub records: BTreeMap<String, Record>,
    /// Unreadable mail, by `mail:<id>`.
    pub letters: BTreeMap<String, Letter>,
    /// Index entries whose data is awaited.
    pub orphans: BTreeMap<Vec<u8>, (Timestamp, Priority)>,
    pub dead_letters_evicted: u64,
    /// Leases handed out ever; they number the tokens.
    pub leases: u64,
}

impl MemoryQueue {
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            limits: QueueLimits::default(),
            contents: Mutex::default(),
            answered: Mutex::default(),
            agreements: Mutex::default(),
            events: Mutex::default(),
            run_summaries: Mutex::default(),
        }
    }

    #[must_use]
    pub const fn with_limits(mut self, limits: QueueLimits) -> Self {
        self.limits = limits;
        self
    }

    /// Puts mail into the mailbox as a producer does.
    pub fn put_mail(&self, id: impl Into<Vec<u8>>, score: f64, value: impl Into<Vec<u8>>) {
        let id = id.into();
        self.put_index(id.clone(), score);
        self.put_data(id, value);
    }

    /// A producer's `ZADD` alone.
    pub fn put_index(&self, id: impl Into<Vec<u8>>, score: f64) {
        self.contents().index.insert(id.into(), score);
    }

    /// A producer's `HSET` alone.
    pub fn put_data(&self, id: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) {
        self.contents().data.insert(id.into(), value.into());
    }

    /// A producer's `ZREM` alone.
    pub fn remove_index(&self, id: &[u8]) {
        self.contents().index.remove(id);
    }

    /// A producer's `HDEL` alone.
    pub fn remove_data(&self, id: &[u8]) {
        self.contents().data.remove(id);
    }

    /// A copy of everything.
    #[must_use]
    pub fn dump(&self) -> Contents {
        self.contents().clone()
    }

    /// What was told to others so far.
    #[must_use]
    pub fn events(&self) -> Vec<Event> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn contents(&self) -> MutexGuard<'_, Contents> {
        self.contents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue for MemoryQueue {
    async fn time(&self) -> Result<Timestamp, QueueError> {
        Ok(self.clock.wall())
    }

    async fn read_mail(&self, _now: Timestamp, limits: MailLimits) -> Result<Mail, QueueError> {
        Ok(self.contents().read_mail(limits))
    }

    async fn admit(&self, now: Timestamp, mail: Mail) -> Result<Admitted, QueueError> {
        let mut contents = self.contents();
        let mut admitted = Admitted { more: mail.more, ..Admitted::default() };
        for entry in &mail.entries {
            contents.admit(entry, entry.decide(now, self.limits.max_attempts), self.limits, now, &mut admitted);
        }
        Ok(admitted)
    }

    async fn enqueue(&self, now: Timestamp, requests: &[RefreshRequest]) -> Result<Enqueued, QueueError> {
        let mut contents = self.contents();
        let dead: Vec<NotQueued> = requests.iter().filter_map(|request| contents.enqueue(request, now)).collect();
        Ok(Enqueued { queued: requests.len() - dead.len(), dead })
    }

    async fn lease(&self, now: Timestamp, request: &LeaseRequest) -> Result<Leased, QueueError> {
        let mut contents = self.contents();
        contents.give_back_lost(request, now);
        let mut leased = contents.take_back(self.limits.dead_letters, now);
        leased.more |= contents.move_due(now);
        contents.hand_out(now, request, &mut leased);
        Ok(leased)
    }

    async fn renew(
        &self,
        now: Timestamp,
        leases: &[(ObjectId, LeaseToken)],
        until: Timestamp,
    ) -> Result<Vec<bool>, QueueError> {
        let mut contents = self.contents();
        let until = clamp(until, now);
        let mut renew = |(object, token): &(ObjectId, LeaseToken)| {
            let Some(record) = contents.leased(object, token) else { return false };
            record.expires = record.expires.max(Some(until));
            record.received = true;
            true
        };
        Ok(leases.iter().map(&mut renew).collect())
    }

    async fn settle_and_follow(
        &self,
        now: Timestamp,
        settlements: &[(Lease, Settlement)],
        following: Following<'_>,
    ) -> Result<(Vec<Settled>, usize), QueueError> {
        let mut contents = self.contents();
        let mut answered = self.answered.lock().unwrap_or_else(PoisonError::into_inner);
        answered.retain(|(_, at, _)| now.since(*at) <= ANSWER_LIFETIME);
        let batch = name_of_batch(settlements);
        if let Some((_, _, answer)) = answered.iter().find(|(name, ..)| *name == batch) {
            return Ok(answer.clone());
        }
        let most_dead = self.limits.dead_letters;
        let settled: Vec<Settled> =
            settlements.iter().map(|(lease, settlement)| contents.settle(lease, settlement, most_dead, now)).collect();
        let follow_ups = following.follow_ups.iter();
        let taken = follow_ups.filter(|follow_up| contents.follow_up(follow_up, following.most_ready, now)).count();
        if settled.iter().any(|settled| *settled != Settled::LeaseLost) {
            answered.push((batch, now, (settled.clone(), taken)));
        }
        Ok((settled, taken))
    }

    async fn append_events(&self, _stream: &str, most: u64, events: &[Event]) -> Result<usize, QueueError> {
        let mut kept = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        kept.extend_from_slice(events);
        let excess = kept.len().saturating_sub(usize::try_from(most).unwrap_or(usize::MAX));
        kept.drain(..excess);
        Ok(events.len())
    }

    /// Nobody else keeps anything in this process.
    async fn forget_keys(&self, _keys: &[String]) -> Result<usize, QueueError> {
        Ok(0)
    }

    /// Records are kept once and whole here: there is nothing that could disagree.
    async fn reconcile(&self, _now: Timestamp) -> Result<Repaired, QueueError> {
        Ok(Repaired::default())
    }

    async fn repair(&self, _now: Timestamp) -> Result<Repaired, QueueError> {
        Ok(Repaired::default())
    }

    async fn lift_holds(&self, now: Timestamp, code: &str) -> Result<usize, QueueError> {
        let mut contents = self.contents();
        let of_code = |record: &&mut Record| record.is_held() && record.held_for.as_deref() == Some(code);
        Ok(contents.records.values_mut().filter(of_code).map(|record| record.lift_hold(now)).count())
    }

    async fn return_set_aside(&self, now: Timestamp, kind: Kind, until: Timestamp) -> Result<usize, QueueError> {
        let mut contents = self.contents();
        let aside = contents.records.iter_mut().filter(|(name, record)| {
            let is_aside = record.state == State::Delayed && record.held_for.is_some() && record.hold == until;
            is_aside && record.ready_at() == until && is_of(name, kind)
        });
        Ok(aside.map(|(_, record)| record.return_set_aside(now)).count())
    }

    async fn record_run(&self, note: &RunSummary) -> Result<(), QueueError> {
        let mut notes = self.run_summaries.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = if note.error.is_some() { &mut notes.failed } else { &mut notes.good };
        *kept = Some(note.clone());
        Ok(())
    }

    async fn run_summaries(&self) -> Result<RunSummaries, QueueError> {
        Ok(self.run_summaries.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }

    async fn stats(&self, now: Timestamp) -> Result<QueueStats, QueueError> {
        Ok(self.contents().stats(now))
    }

    async fn dead_letters(&self, filter: &DeadFilter, limit: usize) -> Result<Vec<DeadLetter>, QueueError> {
        let found = newest_first(self.contents().find_dead(filter), limit);
        Ok(found.iter().map(DeadEntry::letter).collect())
    }

    async fn redrive(&self, now: Timestamp, filter: &DeadFilter) -> Result<usize, QueueError> {
        let mut contents = self.contents();
        let found = contents.find_dead(filter);
        Ok(found.into_iter().filter(|entry| contents.redrive(entry, now)).count())
    }

    async fn export(&self, now: Timestamp) -> Result<Vec<Exported>, QueueError> {
        Ok(exported(self.contents().waiting().into_iter(), now))
    }

    async fn return_to_mailbox(&self, now: Timestamp) -> Result<usize, QueueError> {
        Ok(self.contents().return_to_mailbox(now))
    }
}

impl Contents {
    fn add_request(&mut self, request: &RefreshRequest, now: Timestamp) {
        let name = request.object.to_string();
        let record = Record::with_request(self.records.remove(&name), request, now);
        self.records.insert(name, record);
    }

    /// Says what it is when it is dead all the same.
    fn enqueue(&mut self, request: &RefreshRequest, now: Timestamp) -> Option<NotQueued> {
        self.add_request(request, now);
        let record = self.records.get(&request.object.to_string()).filter(|record| record.state == State::Dead)?;
        Some(NotQueued {
            object: request.object.clone(),
            died: record.died.unwrap_or_default(),
            reason: record.reason.clone().unwrap_or_default(),
        })
    }

    /// Whether it was taken in.
    fn follow_up(&mut self, follow_up: &FollowUp, most_ready: usize, now: Timestamp) -> bool {
        let known = self.records.get(&follow_up.request.object.to_string());
        let ready = self.records.values().filter(|record| record.state == State::Ready).count();
        let is_unwanted = match known {
            Some(record) => follow_up.is_spare || record.state == State::Dead,
            None => follow_up.is_spare && ready >= most_ready,
        };
        if !is_unwanted {
            self.add_request(&follow_up.request, now);
        }
        !is_unwanted
    }

    /// The names in a state, in the order of their set.
    fn in_order(&self, state: State) -> Vec<(i64, String)> {
        let mut names: Vec<_> = self
            .records
            .iter()
            .filter(|(_, record)| record.state == state)
            .map(|(name, record)| (record.score(), name.clone()))
            .collect();
        names.sort_unstable();
        names
    }

    /// Gives back what calls of this run leased and never heard of.
    fn give_back_lost(&mut self, request: &LeaseRequest, now: Timestamp) {
        let lost: Vec<String> = request.lost.iter().map(|nonce| format!("{}:{nonce}-", request.run)).collect();
        for record in self.records.values_mut().filter(|record| record.state == State::Leased) {
            let token = record.token.as_deref().unwrap_or_default();
            if lost.iter().any(|prefix| token.starts_with(prefix)) {
                record.take_back(now);
            }
        }
    }

    fn take_back(&mut self, most_dead: usize, now: Timestamp) -> Leased {
        let mut leased = Leased::default();
        let over = self.in_order(State::Leased).into_iter().filter(|(expires, _)| *expires <= now.as_millis());
        for (_, name) in over.take(SWEEP) {
            let has_room = self.has_room(most_dead);
            let record = self.records.get_mut(&name).expect("a listed name has a record");
            record.lapse(has_room, now);
            leased.lapsed += 1;
            leased.lapsed_dead += usize::from(record.state == State::Dead);
        }
        leased.more = leased.lapsed == SWEEP;
        leased
    }

    /// Moves what is due to ready; says whether there may be more.
    fn move_due(&mut self, now: Timestamp) -> bool {
        let mut moved = BTreeMap::<Priority, usize>::new();
        for (due, name) in self.in_order(State::Delayed) {
            let record = self.records.get_mut(&name).expect("a listed name has a record");
            let moved = moved.entry(record.wanted.priority).or_default();
            if due <= now.as_millis() && *moved < SWEEP {
                record.place(now);
                *moved += 1;
            }
        }
        moved.values().any(|moved| *moved == SWEEP)
    }

    fn hand_out(&mut self, now: Timestamp, request: &LeaseRequest, leased: &mut Leased) {
        let mut draw = Draw::from_seed(request.seed);
        let mut waiting = self.in_order(State::Ready);
        let class_of = |score: i64| Priority::nearest(score / CLASS_WIDTH);
        let is_wanted = |class: Priority| request.priorities.is_empty() || request.priorities.contains(&class);
        waiting.retain(|(score, _)| is_wanted(class_of(*score)));
        let mut named = request.first.iter().map(ToString::to_string);
        let mut aside: Vec<SetAside> = request.set_aside.clone();
        aside.retain(|aside| aside.until > now);
        let mut set_aside = 0;
        let mut group = None;
        while leased.leases.len() < request.max {
            if set_aside == MOST_SET_ASIDE {
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
                let place = waiting.iter().position(|(score, _)| Some(class_of(*score)) == favoured).unwrap_or(0);
                let Some((_, name)) = waiting.get(place) else {
                    if request.probe && leased.leases.is_empty() {
                        self.probe(now, request, &aside, leased);
                    }
                    return;
                };
                name.clone()
            };
            let record = self.records.get_mut(&name).expect("a listed name has a record");
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
            if suspect && !(request.alone && (group.is_some() || leased.leases.is_empty())) {
                leased.suspect_waits = true;
                return;
            }
            let lapses = record.lapses;
            if let Some(kind) = kind {
                kind.probes -= 1;
            }
            leased.leases.push(self.lease_to(&name, request, now));
            waiting.retain(|(_, other)| *other != name);
            group = suspect.then_some(lapses);
            if suspect && leased.leases.len() >= suspects_together(lapses) {
                break;
            }
        }
        leased.more |= leased.leases.len() == request.max && !waiting.is_empty();
    }

    /// Hands out what is held and would be free first.
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
        leased.leases.push(self.lease_to(&name, request, now));
    }

    fn lease_to(&mut self, name: &str, request: &LeaseRequest, now: Timestamp) -> Lease {
        self.leases += 1;
        let object = name.parse().expect("a record is named after its object");
        let dash = if request.nonce.is_empty() { "" } else { "-" };
        let token = format!("{}:{}{dash}{}", request.run, request.nonce, self.leases);
        let record = self.records.get_mut(name).expect("a listed name has a record");
        record.lease(object, token, now + request.duration)
    }

    /// The record of a lease that is still its holder's.
    fn leased(&mut self, object: &ObjectId, token: &LeaseToken) -> Option<&mut Record> {
        self.records
            .get_mut(&object.to_string())
            .filter(|record| record.state == State::Leased && record.token.as_ref() == Some(&token.0))
    }

    /// Whether one more object can become a dead letter.
    fn has_room(&self, most_dead: usize) -> bool {
        self.records.values().filter(|record| record.state == State::Dead).count() < most_dead
    }

    fn settle(&mut self, lease: &Lease, settlement: &Settlement, most_dead: usize, now: Timestamp) -> Settled {
        let has_room = self.has_room(most_dead);
        let Some(record) = self.leased(&lease.object, &lease.token).cloned() else { return Settled::LeaseLost };
        let name = lease.object.to_string();
        let Some(record) = record.settle(settlement, has_room, now) else {
            self.records.remove(&name);
            return Settled::Settled;
        };
        let no_room = matches!(settlement, Settlement::Dead { .. }) && record.waits_for_room();
        self.records.insert(name, record);
        if no_room { Settled::NoRoom } else { Settled::Settled }
    }

    /// Objects among the dead letters never give way: they could still be served.
    fn evict_letters(&mut self, most: usize) {
        while self.letters.len() > most {
            let oldest = self.letters.iter().min_by_key(|(name, letter)| (letter.died, (*name).clone()));
            let Some(oldest) = oldest.map(|(name, _)| name.clone()) else { return };
            self.letters.remove(&oldest);
            self.dead_letters_evicted += 1;
        }
    }

    fn stats(&self, now: Timestamp) -> QueueStats {
        let of = |state: State| self.records.values().filter(move |record| record.state == state);
        let count = |state: State| of(state).count() as u64;
        let ready_of = |class: Priority| of(State::Ready).filter(move |record| record.wanted.priority == class);
        QueueStats {
            mailbox: self.index.len() as u64,
            ready: count(State::Ready),
            ready_by_priority: Priority::ALL.into_iter().map(|class| (class, ready_of(class).count() as u64)).collect(),
            delayed: count(State::Delayed),
            leased: count(State::Leased),
            dead_letters: count(State::Dead) + self.letters.len() as u64,
            dead_letters_evicted: self.dead_letters_evicted,
            orphans: self.orphans.len() as u64,
            oldest: Oldest::of(self.first_asked(now).into_iter(), &self.heads(), self.index.len() as u64, now),
            next_due: of(State::Delayed).map(Record::ready_at).min(),
            mail_in_database_0: None,
        }
    }

    /// When what is ready was first asked for, and what is due and not yet moved.
    fn first_asked(&self, now: Timestamp) -> Vec<Timestamp> {
        let ready = self.records.values().filter(|record| record.state == State::Ready);
        let mut all: Vec<Timestamp> = ready.map(|record| record.wanted.first).collect();
        for class in Priority::ALL {
            let due = self.in_order(State::Delayed).into_iter().filter(|(due, _)| *due <= now.as_millis());
            let due = due.map(|(_, name)| &self.records[&name]).filter(|record| record.wanted.priority == class);
            all.extend(due.take(LOOKED_AT_FOR_OLDEST).map(|record| record.wanted.first));
        }
        all
    }

    fn find_dead(&self, filter: &DeadFilter) -> Vec<DeadEntry> {
        let objects = self.records.iter().filter(|(_, record)| record.state == State::Dead);
        let objects = objects.map(|(name, record)| DeadEntry::Object(name.clone(), record.clone()));
        let mail = self.letters.iter().map(|(name, letter)| DeadEntry::Mail(name.clone(), letter.clone()));
        objects.chain(mail).filter(|entry| entry.is_meant_by(filter)).collect()
    }

    fn redrive(&mut self, entry: &DeadEntry, now: Timestamp) -> bool {
        match entry {
            DeadEntry::Object(name, _) => {
                let Some(record) = self.records.get_mut(name) else { return false };
                record.redrive(now);
            }
            DeadEntry::Mail(name, letter) => {
                let id = unescape(name.strip_prefix("mail:").unwrap_or(name));
                let Some(value) = &letter.value else { return false };
                if self.data.contains_key(&id) || self.index.contains_key(&id) {
                    return false;
                }
                self.index.insert(id.clone(), letter.score.parse().unwrap_or(f64::INFINITY));
                self.data.insert(id, unescape(value));
                self.letters.remove(name);
            }
        }
        true
    }

    fn waiting(&self) -> Vec<(ObjectId, Record)> {
        let waiting = self.records.iter().filter(|(_, record)| record.state != State::Dead);
        waiting.filter_map(|(name, record)| Some((name.parse().ok()?, record.clone()))).collect()
    }

    fn return_to_mailbox(&mut self, now: Timestamp) -> usize {
        let waiting = self.waiting();
        for (object, record) in &waiting {
            let name = object.to_string();
            let taken = self.data.contains_key(name.as_bytes()) || self.index.contains_key(name.as_bytes());
            let id = if taken { second_id(&name, now) } else { name.clone() };
            let score = f64::from(record.wanted_in_all().priority.as_number());
            self.index.insert(id.clone().into_bytes(), score);
            self.data.insert(id.clone().into_bytes(), compose(&id, object, record, now).into_bytes());
            self.records.remove(&name);
        }
        for (id, (_, class)) in std::mem::take(&mut self.orphans) {
            self.index.entry(id).or_insert(f64::from(class.as_number()));
        }
        waiting.len()
    }
}

/// Whether an object of this name is of this kind.
fn is_of(name: &str, kind: Kind) -> bool {
    name.split_once(':').is_some_and(|(word, _)| word == kind.as_str())
}
