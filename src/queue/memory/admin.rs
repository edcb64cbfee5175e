//! The operator's port over the queue in this process.

use super::{Contents, MemoryQueue};
use crate::{
    clock::Timestamp,
    model::ObjectId,
    queue::{
        DeadFilter, DeadLetter, Exported, MAX_MAIL_BYTES, QueueAdmin, QueueError, Repaired,
        admin::{Kept, Part, Place, Position, PutBack, Returning, Slice, covers, merged},
        dead_letters::{KeptDeadLetter, exported, mailed, newest_first, second_id},
        mailbox::{Content, Decision, Entry, Id, Source, compose, digest},
        record::{MAX_BODY_BYTES, Record, State},
    },
};

const JSON: &str = "texts and numbers are JSON";

impl QueueAdmin for MemoryQueue {
    /// Each record is kept once and whole here: nothing can disagree.
    async fn repair(&self, _now: Timestamp) -> Result<Repaired, QueueError> {
        Ok(Repaired::default())
    }

    async fn dead_letters(&self, filter: &DeadFilter, limit: usize) -> Result<Vec<DeadLetter>, QueueError> {
        let found = newest_first(self.contents().find_dead(filter), limit);
        Ok(found.iter().map(KeptDeadLetter::shown).collect())
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

    /// Returns a whole part as one slice: it lies in this memory already.
    async fn read_slice(&self, now: Timestamp, from: &Place) -> Result<Slice, QueueError> {
        let entries = self.contents().part(from.part, now);
        Ok(Slice { entries, next: from.after("0".to_owned()) })
    }

    async fn put_back(&self, now: Timestamp, entries: &[Returning]) -> Result<Vec<PutBack>, QueueError> {
        let mut contents = self.contents();
        Ok(entries.iter().map(|entry| contents.put_back(entry, self.limits.dead_letters, now)).collect())
    }

    async fn has(&self, entries: &[Returning]) -> Result<Vec<bool>, QueueError> {
        let contents = self.contents();
        let has = |entry: &Returning| match entry {
            Returning::Record { object, record } => {
                contents.records.get(&object.to_string()).is_some_and(|current| covers(current, record))
            }
            Returning::DeadEntry { name, dead_entry } => {
                contents.dead_entries.get(name).is_some_and(|current| current.died >= dead_entry.died)
            }
            Returning::Orphan { id, .. } => contents.orphans.contains_key(id),
        };
        Ok(entries.iter().map(has).collect())
    }

    async fn take_away(&self, entries: &[(String, Vec<u8>)]) -> Result<Vec<bool>, QueueError> {
        let mut contents = self.contents();
        Ok(entries.iter().map(|(name, stored)| contents.take_away(name, stored)).collect())
    }

    async fn purge(&self, letters: &[DeadLetter]) -> Result<usize, QueueError> {
        let mut contents = self.contents();
        Ok(letters.iter().filter(|letter| contents.purge(letter)).count())
    }

    async fn position(&self, object: &ObjectId) -> Result<Position, QueueError> {
        let contents = self.contents();
        let name = object.to_string();
        let ready = contents.in_order(State::Ready);
        let ahead = ready.iter().position(|(_, other)| *other == name).map(|place| place as u64);
        Ok(Position { record: contents.records.get(&name).cloned(), ahead })
    }
}

impl Contents {
    fn find_dead(&self, filter: &DeadFilter) -> Vec<KeptDeadLetter> {
        let objects = self.records.iter().filter(|(_, record)| record.state == State::Dead);
        let objects = objects.map(|(name, record)| KeptDeadLetter::Object(name.clone(), record.clone()));
        let entries = self.dead_entries.iter();
        let entries = entries.map(|(name, entry)| KeptDeadLetter::Entry(name.clone(), entry.clone()));
        objects.chain(entries).filter(|one| one.matches(filter)).collect()
    }

    fn redrive(&mut self, dead_letter: &KeptDeadLetter, now: Timestamp) -> bool {
        match dead_letter {
            KeptDeadLetter::Object(name, _) => {
                let Some(record) = self.records.get_mut(name) else { return false };
                record.redrive(now);
            }
            KeptDeadLetter::Entry(name, entry) => {
                if entry.value.is_none() {
                    return false;
                }
                let (id, value) = mailed(name, entry);
                if self.data.contains_key(&id) || self.index.contains_key(&id) {
                    return false;
                }
                self.index.insert(id.clone(), entry.score.parse().unwrap_or(f64::INFINITY));
                self.data.insert(id, value);
                self.dead_entries.remove(name);
            }
        }
        true
    }

    fn waiting(&self) -> Vec<(ObjectId, Record)> {
        let waits = |record: &Record| record.state != State::Dead && !record.is_only_planned();
        let waiting = self.records.iter().filter(|(_, record)| waits(record));
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
    fn part(&self, part: Part, now: Timestamp) -> Vec<Kept> {
        match part {
            Part::Data => self.data.iter().map(|(id, value)| self.mail(id, Some(value), now)).collect(),
            Part::Index => {
                let without_data = self.index.keys().filter(|id| !self.data.contains_key(*id));
                without_data.map(|id| self.mail(id, None, now)).collect()
            }
            Part::Orphans => {
                let orphan = |(id, (since, class)): (&Vec<u8>, &(Timestamp, _))| Kept::Orphan {
                    id: id.clone(),
                    class: *class,
                    since: *since,
                };
                self.orphans.iter().map(orphan).collect()
            }
            Part::Objects => self.objects(),
        }
    }

    fn mail(&self, id: &[u8], value: Option<&Vec<u8>>, now: Timestamp) -> Kept {
        let score = self.index.get(id).map(f64::to_string);
        let is_small = |bytes: &[u8]| bytes.len() <= MAX_MAIL_BYTES;
        if is_small(id) && value.is_none_or(|value| is_small(value)) {
            return Kept::Mail { id: id.to_vec(), score, value: value.cloned() };
        }
        let head = |bytes: &[u8]| bytes[..bytes.len().min(MAX_BODY_BYTES)].to_vec();
        let content =
            value.map_or(Content::Missing, |value| Content::TooLarge { bytes: value.len(), head: head(value) });
        let source = score.map_or(Source::Scan, |score| Source::Index { score });
        let id = if is_small(id) {
            Id::Whole(id.to_vec())
        } else {
            Id::TooLong { bytes: id.len(), head: head(id), digest: digest(id) }
        };
        match (Entry { id, source, content }).decide(now, 1) {
            Decision::Refuse(invalid) => {
                let dead_entry = Box::new(invalid.dead_entry(now));
                Kept::DeadEntry { name: invalid.name, dead_entry, stored: Vec::new() }
            }
            _ => Kept::Broken { name: Vec::new(), value: Vec::new() },
        }
    }

    fn objects(&self) -> Vec<Kept> {
        let records = self.records.iter().filter_map(|(name, record)| {
            let stored = serde_json::to_vec(record).expect(JSON);
            Some(Kept::Record { object: name.parse().ok()?, record: Box::new(record.clone()), stored })
        });
        let entries = self.dead_entries.iter().map(|(name, entry)| Kept::DeadEntry {
            name: name.clone(),
            dead_entry: Box::new(entry.clone()),
            stored: serde_json::to_vec(entry).expect(JSON),
        });
        records.chain(entries).collect()
    }

    fn put_back(&mut self, entry: &Returning, most_dead: usize, now: Timestamp) -> PutBack {
        match entry {
            Returning::Record { object, record } => self.put_record_back(&object.to_string(), record, most_dead, now),
            Returning::DeadEntry { name, dead_entry } => {
                let current = self.dead_entries.get(name).map(|current| current.died);
                if current >= Some(dead_entry.died) {
                    return PutBack::Nothing;
                }
                self.dead_entries.insert(name.clone(), (**dead_entry).clone());
                if current.is_some() { PutBack::Merged } else { PutBack::New }
            }
            Returning::Orphan { id, .. } if self.orphans.contains_key(id) => PutBack::Nothing,
            Returning::Orphan { id, class } => {
                self.orphans.insert(id.clone(), (now, *class));
                PutBack::New
            }
        }
    }

    fn put_record_back(&mut self, name: &str, record: &Record, most_dead: usize, now: Timestamp) -> PutBack {
        let is_new = self.records.get(name).is_none_or(Record::is_only_planned);
        if record.state == State::Dead && is_new && !self.has_room(most_dead) {
            return PutBack::NoRoom;
        }
        let Some(current) = self.records.get_mut(name) else {
            self.records.insert(name.to_owned(), record.clone());
            return PutBack::New;
        };
        match merged(current, record, now) {
            Some(merged) => {
                *current = merged;
                PutBack::Merged
            }
            None => PutBack::Nothing,
        }
    }

    fn take_away(&mut self, name: &str, stored: &[u8]) -> bool {
        let is_record = self.records.get(name).is_some_and(|record| serde_json::to_vec(record).expect(JSON) == stored);
        let is_entry =
            self.dead_entries.get(name).is_some_and(|entry| serde_json::to_vec(entry).expect(JSON) == stored);
        is_record && self.records.remove(name).is_some() || is_entry && self.dead_entries.remove(name).is_some()
    }

    fn purge(&mut self, letter: &DeadLetter) -> bool {
        if self.dead_entries.get(&letter.name).is_some_and(|current| current.died == letter.died) {
            return self.dead_entries.remove(&letter.name).is_some();
        }
        let is_as_listed = |record: &Record| {
            record.state == State::Dead
                && record.died == Some(letter.died)
                && letter.request.as_ref().is_some_and(|request| request.merges == record.merges)
        };
        self.records.get(&letter.name).is_some_and(is_as_listed) && self.records.remove(&letter.name).is_some()
    }
}
