//! Operators' tools over the queue in this process.

use super::{Contents, MemoryQueue};
use crate::{
    clock::Timestamp,
    model::ObjectId,
    queue::{
        DeadLetter, MAX_MAIL_BYTES, QueueError,
        archive::{Archive, Kept, Part, Place, PutBack, Returning, Slice, Standing, covers, merged},
        mailbox::{Content, Decision, Entry, Id, Source, digest},
        record::{MAX_BODY_BYTES, Record, State},
    },
};

const JSON: &str = "texts and numbers are JSON";

impl Archive for MemoryQueue {
    /// A part is one slice: it lies in this memory already.
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
            Returning::Letter { name, letter } => {
                contents.letters.get(name).is_some_and(|current| current.died >= letter.died)
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

    async fn standing(&self, object: &ObjectId) -> Result<Standing, QueueError> {
        let contents = self.contents();
        let name = object.to_string();
        let ready = contents.in_order(State::Ready);
        let ahead = ready.iter().position(|(_, other)| *other == name).map(|place| place as u64);
        Ok(Standing { record: contents.records.get(&name).cloned(), ahead })
    }
}

impl Contents {
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
            Decision::Refuse(unreadable) => {
                let letter = Box::new(unreadable.letter(now));
                Kept::Letter { name: unreadable.name, letter, stored: Vec::new() }
            }
            _ => Kept::Broken { name: Vec::new(), value: Vec::new() },
        }
    }

    fn objects(&self) -> Vec<Kept> {
        let records = self.records.iter().filter_map(|(name, record)| {
            let stored = serde_json::to_vec(record).expect(JSON);
            Some(Kept::Record { object: name.parse().ok()?, record: Box::new(record.clone()), stored })
        });
        let letters = self.letters.iter().map(|(name, letter)| Kept::Letter {
            name: name.clone(),
            letter: Box::new(letter.clone()),
            stored: serde_json::to_vec(letter).expect(JSON),
        });
        records.chain(letters).collect()
    }

    fn put_back(&mut self, entry: &Returning, most_dead: usize, now: Timestamp) -> PutBack {
        match entry {
            Returning::Record { object, record } => self.put_record_back(&object.to_string(), record, most_dead, now),
            Returning::Letter { name, letter } => {
                let current = self.letters.get(name).map(|current| current.died);
                if current >= Some(letter.died) {
                    return PutBack::Nothing;
                }
                self.letters.insert(name.clone(), (**letter).clone());
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
        if record.state == State::Dead && !self.records.contains_key(name) && !self.has_room(most_dead) {
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
        let is_letter = self.letters.get(name).is_some_and(|letter| serde_json::to_vec(letter).expect(JSON) == stored);
        is_record && self.records.remove(name).is_some() || is_letter && self.letters.remove(name).is_some()
    }

    fn purge(&mut self, letter: &DeadLetter) -> bool {
        if self.letters.get(&letter.name).is_some_and(|current| current.died == letter.died) {
            return self.letters.remove(&letter.name).is_some();
        }
        let is_as_listed = |record: &Record| {
            record.state == State::Dead
                && record.died == Some(letter.died)
                && letter.request.as_ref().is_some_and(|request| request.merges == record.merges)
        };
        self.records.get(&letter.name).is_some_and(is_as_listed) && self.records.remove(&letter.name).is_some()
    }
}
