//! The queue without a server: the demo's queue, and the model that Redis is tested against.
//!
//! One lock around one value, and the rules of [`record`](super::record). It keeps no index: order is found by sorting,
//! which is fine for thousands and not for millions.

mod slots;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use self::slots::Agreements;
use super::{
    Admitted, DeadFilter, DeadLetter, Exported, Lease, LeaseRequest, LeaseToken, Leased, MAX_MAIL_BYTES, MailLimits,
    Queue, QueueError, QueueStats, Settled, Settlement,
    letters::{DeadEntry, exported, newest_first, second_id},
    mailbox::{Content, Decision, Entry, Id, Mail, Source, class_of_score, compose, digest, unescape},
    record::{CLASS_WIDTH, Draw, Letter, MAX_BODY_BYTES, QueueLimits, Record, SWEEP, State, clamp},
};
use crate::{
    clock::{Clock, Timestamp},
    model::{ObjectId, Priority, Wish},
    queue::SUSPECT_LAPSES,
};

/// A queue in this process.
#[derive(Debug)]
pub struct MemoryQueue {
    clock: Arc<dyn Clock>,
    limits: QueueLimits,
    contents: Mutex<Contents>,
    agreements: Mutex<Agreements>,
}

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
        Self { clock, limits: QueueLimits::default(), contents: Mutex::default(), agreements: Mutex::default() }
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

    async fn enqueue(&self, now: Timestamp, wishes: &[Wish]) -> Result<(), QueueError> {
        let mut contents = self.contents();
        for wish in wishes {
            contents.add_wish(wish, now);
        }
        Ok(())
    }

    async fn lease(&self, now: Timestamp, request: &LeaseRequest) -> Result<Leased, QueueError> {
        let mut contents = self.contents();
        let mut leased = contents.take_back(now);
        contents.evict_objects(self.limits.dead_letters);
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
            true
        };
        Ok(leases.iter().map(&mut renew).collect())
    }

    async fn settle(&self, now: Timestamp, settlements: &[(Lease, Settlement)]) -> Result<Vec<Settled>, QueueError> {
        let mut contents = self.contents();
        let settled = settlements.iter().map(|(lease, settlement)| contents.settle(lease, settlement, now)).collect();
        contents.evict_objects(self.limits.dead_letters);
        Ok(settled)
    }

    async fn stats(&self, _now: Timestamp) -> Result<QueueStats, QueueError> {
        Ok(self.contents().stats())
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

/// Fills one part of a slice of mail up to its share of bytes.
struct Part<'a> {
    mail: &'a mut Mail,
    bytes: usize,
    used: usize,
}

impl Part<'_> {
    /// Adds an entry unless the part is full.
    fn add(&mut self, source: Source, id: &[u8], value: Option<&Vec<u8>>) -> bool {
        let cost = id.len().min(MAX_MAIL_BYTES) + value.map_or(0, |value| value.len().min(MAX_MAIL_BYTES));
        if self.used > 0 && self.used + cost > self.bytes {
            self.mail.more = true;
            return false;
        }
        self.used += cost;
        let head = |bytes: &[u8]| bytes[..bytes.len().min(MAX_BODY_BYTES)].to_vec();
        let long_id = id.len() > MAX_MAIL_BYTES;
        let content = match value {
            None => Content::Missing,
            Some(value) if long_id || value.len() > MAX_MAIL_BYTES => {
                Content::TooLarge { bytes: value.len(), head: head(value) }
            }
            Some(value) => Content::Value(value.clone()),
        };
        let id = if long_id {
            Id::TooLong { bytes: id.len(), head: head(id), digest: digest(id) }
        } else {
            Id::Whole(id.to_vec())
        };
        self.mail.entries.push(Entry { id, source, content });
        true
    }
}

impl Contents {
    fn read_mail(&self, limits: MailLimits) -> Mail {
        let mut mail = Mail::default();
        for class in Priority::ALL {
            let mut slice: Vec<(&f64, &Vec<u8>)> = self
                .index
                .iter()
                .filter(|(_, score)| class_of_score(**score) == class)
                .map(|(id, score)| (score, id))
                .collect();
            slice.sort_by(|one, other| one.0.total_cmp(other.0).then_with(|| one.1.cmp(other.1)));
            mail.more |= slice.len() > limits.per_class;
            let mut part = Part { mail: &mut mail, bytes: limits.bytes_of_part(), used: 0 };
            for (score, id) in slice.into_iter().take(limits.per_class) {
                if !part.add(Source::Index { score: score.to_string() }, id, self.data.get(id)) {
                    break;
                }
            }
        }
        self.read_orphans(&mut Part { mail: &mut mail, bytes: limits.bytes_of_part(), used: 0 });
        self.read_unindexed(&mut Part { mail: &mut mail, bytes: limits.bytes_of_part(), used: 0 });
        mail
    }

    fn read_orphans(&self, part: &mut Part<'_>) {
        let mut orphans: Vec<_> = self.orphans.iter().filter(|(id, _)| !self.index.contains_key(*id)).collect();
        orphans.sort_by_key(|(id, (since, class))| (*since, *class, *id));
        for (id, (since, class)) in orphans {
            if !part.add(Source::Orphan { class: *class, since: *since }, id, self.data.get(id)) {
                return;
            }
        }
    }

    fn read_unindexed(&self, part: &mut Part<'_>) {
        for (id, value) in &self.data {
            if !self.orphans.contains_key(id)
                && !self.index.contains_key(id)
                && !part.add(Source::Scan, id, Some(value))
            {
                return;
            }
        }
    }

    fn admit(
        &mut self,
        entry: &Entry,
        decision: Decision,
        limits: QueueLimits,
        now: Timestamp,
        admitted: &mut Admitted,
    ) {
        if decision == Decision::Wait {
            return;
        }
        let Some(id) = self.find_as_read(entry) else {
            admitted.changed += 1;
            return;
        };
        match decision {
            Decision::Admit(wish) => {
                self.add_wish(&wish, now);
                self.delete_mail(&id);
                admitted.admitted += 1;
                admitted.found_by_scan += usize::from(entry.source == Source::Scan);
            }
            Decision::Refuse(unreadable) => {
                self.letters.insert(unreadable.name.clone(), unreadable.letter(now));
                self.evict_letters(limits.unreadable_letters);
                self.delete_mail(&id);
                admitted.unreadable += 1;
            }
            Decision::SetAside(class) => {
                self.index.remove(&id);
                self.orphans.insert(id, (now, class));
                admitted.orphaned += 1;
            }
            Decision::Drop => admitted.orphans_dropped += usize::from(self.orphans.remove(&id).is_some()),
            Decision::Wait => {}
        }
    }

    /// The id of an entry that is still as it was read.
    fn find_as_read(&self, entry: &Entry) -> Option<Vec<u8>> {
        let id = match &entry.id {
            Id::Whole(id) => id.clone(),
            Id::TooLong { digest: wanted, .. } => self
                .index
                .keys()
                .chain(self.data.keys())
                .find(|id| id.len() > MAX_MAIL_BYTES && digest(id) == *wanted)?
                .clone(),
        };
        let same_score = match &entry.source {
            Source::Index { score } => self.index.get(&id).map(f64::to_string).as_ref() == Some(score),
            Source::Orphan { .. } | Source::Scan => !self.index.contains_key(&id),
        };
        let value = self.data.get(&id);
        let same_value = match &entry.content {
            Content::Missing => value.is_none(),
            Content::Value(read) => value == Some(read),
            Content::TooLarge { bytes, head } => {
                value.is_some_and(|value| value.len() == *bytes && value.starts_with(head))
            }
        };
        (same_score && same_value).then_some(id)
    }

    fn delete_mail(&mut self, id: &[u8]) {
        self.index.remove(id);
        self.data.remove(id);
        self.orphans.remove(id);
    }

    fn add_wish(&mut self, wish: &Wish, now: Timestamp) {
        let name = wish.object.to_string();
        let record = Record::with_wish(self.records.remove(&name), wish, now);
        self.records.insert(name, record);
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

    fn take_back(&mut self, now: Timestamp) -> Leased {
        let mut leased = Leased::default();
        let over = self.in_order(State::Leased).into_iter().filter(|(expires, _)| *expires <= now.as_millis());
        for (_, name) in over.take(SWEEP) {
            let record = self.records.get_mut(&name).expect("a listed name has a record");
            record.lapse(now);
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
        waiting.retain(|(score, _)| request.priorities.is_empty() || request.priorities.contains(&class_of(*score)));
        while leased.leases.len() < request.max {
            let favoured = draw.favoured();
            let place = waiting.iter().position(|(score, _)| Some(class_of(*score)) == favoured).unwrap_or(0);
            let Some((_, name)) = waiting.get(place) else { return };
            let record = self.records.get_mut(name).expect("a listed name has a record");
            let suspect = record.lapses >= SUSPECT_LAPSES;
            if suspect && !(request.alone && leased.leases.is_empty()) {
                leased.suspect_waits = true;
                return;
            }
            self.leases += 1;
            let object = name.parse().expect("a record is named after its object");
            let token = format!("{}:{}", request.run, self.leases);
            leased.leases.push(record.lease(object, token, now + request.duration));
            waiting.remove(place);
            if suspect {
                break;
            }
        }
        leased.more |= leased.leases.len() == request.max && !waiting.is_empty();
    }

    /// The record of a lease that is still its holder's.
    fn leased(&mut self, object: &ObjectId, token: &LeaseToken) -> Option<&mut Record> {
        self.records
            .get_mut(&object.to_string())
            .filter(|record| record.state == State::Leased && record.token.as_ref() == Some(&token.0))
    }

    fn settle(&mut self, lease: &Lease, settlement: &Settlement, now: Timestamp) -> Settled {
        let Some(record) = self.leased(&lease.object, &lease.token).cloned() else { return Settled::Stale };
        let name = lease.object.to_string();
        match record.settle(settlement, now) {
            Some(record) => self.records.insert(name, record),
            None => self.records.remove(&name),
        };
        Settled::Settled
    }

    fn evict_objects(&mut self, most: usize) {
        let dead = self.in_order(State::Dead);
        for (_, name) in &dead[..dead.len().saturating_sub(most)] {
            self.records.remove(name);
            self.dead_letters_evicted += 1;
        }
    }

    fn evict_letters(&mut self, most: usize) {
        while self.letters.len() > most {
            let oldest = self.letters.iter().min_by_key(|(name, letter)| (letter.died, (*name).clone()));
            let Some(oldest) = oldest.map(|(name, _)| name.clone()) else { return };
            self.letters.remove(&oldest);
            self.dead_letters_evicted += 1;
        }
    }

    fn stats(&self) -> QueueStats {
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
            oldest_ready: of(State::Ready).map(|record| record.wanted.first).min(),
            next_due: of(State::Delayed).map(Record::ready_at).min(),
            mail_in_database_0: None,
        }
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
