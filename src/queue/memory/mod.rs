//! The queue without a server: the demo's queue, and the model that Redis is tested against.
//!
//! One lock around one value, and the rules of [`record`](super::record). It keeps no index: order is found by sorting, which is
//! fast enough for thousands of records and not for millions. `lease` has the rules of leasing, `mailbox` those of the mailbox.

#[cfg(feature = "cli")]
mod admin;
mod lease;
mod mailbox;
mod shared_state;

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::{Mutex, MutexGuard};

use self::shared_state::Shared;
use super::{
    Admitted, ClaimRequest, Claimed, Enqueued, Following, Lease, LeaseRequest, LeaseToken, Leased, MailLimits,
    NotQueued, Oldest, Publisher, Queue, QueueError, QueueStats, Repaired, RunSummaries, RunSummary, Settled,
    Settlement,
    lease::name_of_batch,
    mailbox::{DeadEntry, Mail},
    record::{OLDEST_SAMPLE, QueueLimits, REPLY_LIFETIME, Record, State, clamp},
};
use crate::{
    clock::{Clock, Timestamp},
    model::{Event, FollowUp, Kind, ObjectId, Priority, RefreshRequest},
};

/// A queue in this process.
#[derive(Debug)]
pub struct MemoryQueue {
    clock: Arc<dyn Clock>,
    limits: QueueLimits,
    contents: Mutex<Contents>,
    replies: Mutex<Vec<Reply>>,
    shared: Mutex<Shared>,
    events: Mutex<Vec<Event>>,
    run_summaries: Mutex<RunSummaries>,
}

/// The reply to a batch of settlements of the last minute.
#[derive(Debug)]
struct Reply {
    batch: String,
    at: Timestamp,
    settled: Vec<Settled>,
    accepted: usize,
}

/// Everything that the queue keeps, for tests that compare.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Contents {
    /// The producers' index.
    pub index: BTreeMap<Vec<u8>, f64>,
    /// The producers' data.
    pub data: BTreeMap<Vec<u8>, Vec<u8>>,
    pub records: BTreeMap<String, Record>,
    /// Invalid entries among the dead letters, by `mail:<id>`.
    pub dead_entries: BTreeMap<String, DeadEntry>,
    /// Index entries that wait for their data.
    pub orphans: BTreeMap<Vec<u8>, (Timestamp, Priority)>,
    pub dead_letters_evicted: u64,
    /// Leases ever granted; they number the tokens.
    pub leases: u64,
}

impl MemoryQueue {
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            limits: QueueLimits::default(),
            contents: Mutex::default(),
            replies: Mutex::default(),
            shared: Mutex::default(),
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

    /// The events that were published so far.
    #[must_use]
    pub fn events(&self) -> Vec<Event> {
        self.events.lock().clone()
    }

    fn contents(&self) -> MutexGuard<'_, Contents> {
        self.contents.lock()
    }
}

impl Publisher for MemoryQueue {
    async fn publish_events(&self, _stream: &str, most: u64, events: &[Event]) -> Result<usize, QueueError> {
        let mut kept = self.events.lock();
        kept.extend_from_slice(events);
        let excess = kept.len().saturating_sub(usize::try_from(most).unwrap_or(usize::MAX));
        kept.drain(..excess);
        Ok(events.len())
    }

    /// There are no readers with a cache in this process.
    async fn delete_cache_keys(&self, _keys: &[String]) -> Result<usize, QueueError> {
        Ok(0)
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
        // In the order of `lease.lua`: what is released or taken back here can be leased by the same call.
        contents.release_lost(request, now);
        let mut leased = contents.take_back(self.limits.dead_letters, now);
        leased.more |= contents.move_due(now);
        contents.grant(now, request, &mut leased);
        Ok(leased)
    }

    async fn claim(&self, now: Timestamp, request: &ClaimRequest) -> Result<Claimed, QueueError> {
        Ok(self.contents().claim(now, request))
    }

    async fn renew(
        &self,
        now: Timestamp,
        leases: &[(ObjectId, LeaseToken)],
        until: Timestamp,
    ) -> Result<Vec<bool>, QueueError> {
        let mut contents = self.contents();
        // As in Redis, no lease ends later than a day from now.
        let until = clamp(until, now);
        let mut renew = |(object, token): &(ObjectId, LeaseToken)| {
            let Some(record) = contents.leased(object, token) else { return false };
            // A late renewal must not shorten a newer one.
            record.expires = record.expires.max(Some(until));
            // A renewal shows that the reply to the lease arrived, so that a later lapse counts in full.
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
        // `contents` stays locked until the reply is kept, so that a batch sent twice at once is settled once.
        let mut replies = self.replies.lock();
        // In Redis the key of the reply expires.
        replies.retain(|reply| now.since(reply.at) <= REPLY_LIFETIME);
        let batch = name_of_batch(settlements);
        if let Some(reply) = replies.iter().find(|reply| reply.batch == batch) {
            return Ok((reply.settled.clone(), reply.accepted));
        }
        let most_dead = self.limits.dead_letters;
        let settled: Vec<Settled> =
            settlements.iter().map(|(lease, settlement)| contents.settle(lease, settlement, most_dead, now)).collect();
        let follow_ups = following.follow_ups.iter();
        let accepted = follow_ups.filter(|follow_up| contents.follow_up(follow_up, following.most_ready, now)).count();
        // Only a batch that changed something needs its reply remembered: any other changes nothing when it is sent again.
        if settled.iter().any(|settled| *settled != Settled::LeaseLost) {
            replies.push(Reply { batch, at: now, settled: settled.clone(), accepted });
        }
        Ok((settled, accepted))
    }

    /// Each record is kept once and whole here: nothing can disagree.
    async fn reconcile(&self, _now: Timestamp) -> Result<Repaired, QueueError> {
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

    async fn record_run(&self, summary: &RunSummary) -> Result<(), QueueError> {
        let mut summaries = self.run_summaries.lock();
        let kept = if summary.error.is_some() { &mut summaries.failed } else { &mut summaries.good };
        *kept = Some(summary.clone());
        Ok(())
    }

    async fn run_summaries(&self) -> Result<RunSummaries, QueueError> {
        Ok(self.run_summaries.lock().clone())
    }

    async fn stats(&self, now: Timestamp) -> Result<QueueStats, QueueError> {
        Ok(self.contents().stats(now))
    }
}

impl Contents {
    fn add_request(&mut self, request: &RefreshRequest, now: Timestamp) {
        let name = request.object.to_string();
        let record = Record::with_request(self.records.remove(&name), request, now);
        self.records.insert(name, record);
    }

    /// Adds a request; returns the object when it stays dead.
    fn enqueue(&mut self, request: &RefreshRequest, now: Timestamp) -> Option<NotQueued> {
        self.add_request(request, now);
        let record = self.records.get(&request.object.to_string()).filter(|record| record.state == State::Dead)?;
        Some(NotQueued {
            object: request.object.clone(),
            died: record.died.unwrap_or_default(),
            reason: record.reason.clone().unwrap_or_default(),
        })
    }

    /// Adds a follow-up; returns false when it is not wanted.
    fn follow_up(&mut self, follow_up: &FollowUp, most_ready: usize, now: Timestamp) -> bool {
        // An object that waits needs no spare request, and a dead one waits for an operator.
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

    /// The record of a lease that its holder has not lost.
    fn leased(&mut self, object: &ObjectId, token: &LeaseToken) -> Option<&mut Record> {
        self.records
            .get_mut(&object.to_string())
            .filter(|record| record.state == State::Leased && record.token.as_ref() == Some(&token.0))
    }

    /// True when one more object can become a dead letter.
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
        // Reported, so that an operator makes room.
        let no_room = matches!(settlement, Settlement::Dead { .. }) && record.waits_for_room();
        self.records.insert(name, record);
        if no_room { Settled::NoRoom } else { Settled::Settled }
    }

    /// Evicts the oldest dead entries. Objects among the dead letters are never evicted: they could still be served.
    fn evict_dead_entries(&mut self, most: usize) {
        while self.dead_entries.len() > most {
            let oldest = self.dead_entries.iter().min_by_key(|(name, entry)| (entry.died, (*name).clone()));
            let Some(oldest) = oldest.map(|(name, _)| name.clone()) else { return };
            self.dead_entries.remove(&oldest);
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
            dead_letters: count(State::Dead) + self.dead_entries.len() as u64,
            dead_letters_evicted: self.dead_letters_evicted,
            orphans: self.orphans.len() as u64,
            oldest: Oldest::of(self.waiting_since(now).into_iter(), &self.heads(), self.index.len() as u64, now),
            next_due: of(State::Delayed).map(Record::ready_at).min(),
            mail_in_database_0: None,
        }
    }

    /// The first requests of what is ready, and of what is due and not yet moved.
    fn waiting_since(&self, now: Timestamp) -> Vec<Timestamp> {
        let ready = self.records.values().filter(|record| record.state == State::Ready);
        let mut all: Vec<Timestamp> = ready.map(|record| record.wanted.first).collect();
        for class in Priority::ALL {
            let due = self.in_order(State::Delayed).into_iter().filter(|(due, _)| *due <= now.as_millis());
            let due = due.map(|(_, name)| &self.records[&name]).filter(|record| record.wanted.priority == class);
            all.extend(due.take(OLDEST_SAMPLE).map(|record| record.wanted.first));
        }
        all
    }
}

/// True when an object of this name is of this kind.
fn is_of(name: &str, kind: Kind) -> bool {
    name.split_once(':').is_some_and(|(word, _)| word == kind.as_str())
}
