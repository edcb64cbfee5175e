//! The mailbox in memory: reads and admits slices, by the rules of [`mailbox`](crate::queue::mailbox).

use std::collections::HashSet;

use super::Contents;
use crate::{
    clock::Timestamp,
    model::Priority,
    queue::{
        Admitted, MAX_MAIL_BYTES, MailLimits, ORPHAN_TIMEOUT,
        mailbox::{Content, Decision, Entry, Id, Mail, Source, asked_at, class_of_score, digest},
        record::{MAX_BODY_BYTES, MAX_SAMPLED_BYTES, OLDEST_SAMPLE, QueueLimits},
    },
};

/// Fills one part of a slice of mail up to its share of bytes.
struct Part<'a> {
    mail: &'a mut Mail,
    bytes: usize,
    used: usize,
}

impl Part<'_> {
    /// Adds an entry unless the part is full.
    fn add(&mut self, source: Source, id: &[u8], value: Option<&Vec<u8>>) -> bool {
        let cost = cost(id, value);
        // The first entry of a part always fits: a large one must not block the part.
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

/// The bytes that an entry takes of its part.
fn cost(id: &[u8], value: Option<&Vec<u8>>) -> usize {
    id.len().min(MAX_MAIL_BYTES) + value.map_or(0, |value| value.len().min(MAX_MAIL_BYTES))
}

impl Contents {
    pub(super) fn read_mail(&self, limits: MailLimits) -> Mail {
        let mut mail = Mail::default();
        for class in Priority::ALL {
            let entries = self.both_ends(class, limits.reach());
            let sample = self.oldest_first(&entries, limits.bytes_of_sample());
            let mut part = Part { mail: &mut mail, bytes: limits.bytes_of_part(), used: 0 };
            let mut taken = 0;
            for (id, score) in sample.into_iter().take(limits.per_class) {
                if !part.add(Source::Index { score: score.to_string() }, id, self.data.get(id)) {
                    break;
                }
                taken += 1;
            }
            // What the sample left out is read by a later slice.
            mail.more |= taken < entries.len();
        }
        self.read_orphans(&mut Part { mail: &mut mail, bytes: limits.bytes_of_part(), used: 0 });
        self.read_scanned(&mut Part { mail: &mut mail, bytes: limits.bytes_of_part(), used: 0 }, limits.scan);
        mail
    }

    /// The mail at the head of each priority.
    pub(super) fn heads(&self) -> Vec<Entry> {
        let mut heads = Vec::new();
        for class in Priority::ALL {
            let of_class = self.index.iter().filter(|(_, score)| class_of_score(**score) == class);
            let mut slice: Vec<(&f64, &Vec<u8>)> = of_class.map(|(id, score)| (score, id)).collect();
            slice.sort_by(|one, other| one.0.total_cmp(other.0).then_with(|| one.1.cmp(other.1)));
            for (score, id) in slice.into_iter().take(OLDEST_SAMPLE) {
                let small = |bytes: &[u8]| bytes.len() <= MAX_SAMPLED_BYTES;
                let Some(value) = self.data.get(id).filter(|value| small(id) && small(value)) else { continue };
                heads.push(Entry {
                    id: Id::Whole(id.clone()),
                    source: Source::Index { score: score.to_string() },
                    content: Content::Value(value.clone()),
                });
            }
        }
        heads
    }

    fn read_orphans(&self, part: &mut Part<'_>) {
        let mut orphans: Vec<_> = self.orphans.iter().filter(|(id, _)| !self.index.contains_key(*id)).collect();
        orphans.sort_by_key(|(id, (since, class))| (*since, *class, *id));
        for (id, (since, class)) in orphans {
            if !part.add(Source::Orphan { priority: *class, since: *since }, id, self.data.get(id)) {
                return;
            }
        }
    }

    /// The scan needs no cursor here: what it reads leaves the mailbox, and the next step begins anew.
    fn read_scanned(&self, part: &mut Part<'_>, step: usize) {
        let read: HashSet<Vec<u8>> =
            part.mail.entries.iter().filter_map(|entry| entry.id.whole().map(<[u8]>::to_vec)).collect();
        let unread = self.data.iter().filter(|(id, _)| !self.orphans.contains_key(*id) && !read.contains(*id));
        for (id, value) in unread.take(step) {
            let source = match self.index.get(id) {
                // A long id is only found again at its place in the index.
                Some(_) if id.len() > MAX_MAIL_BYTES => continue,
                Some(score) => Source::Index { score: score.to_string() },
                None => Source::Scan,
            };
            if !part.add(source, id, Some(value)) {
                return;
            }
        }
    }

    /// The entries of a priority by turns from either end of it, at most `reach` from each.
    fn both_ends(&self, class: Priority, reach: usize) -> Vec<(&Vec<u8>, f64)> {
        let of_class = self.index.iter().filter(|(_, score)| class_of_score(**score) == class);
        let mut all: Vec<(&Vec<u8>, f64)> = of_class.map(|(id, score)| (id, *score)).collect();
        all.sort_by(|one, other| one.1.total_cmp(&other.1).then_with(|| one.0.cmp(other.0)));
        let by_turns = (0..all.len().min(reach)).flat_map(|at| [at, all.len() - 1 - at]);
        let mut seen = HashSet::new();
        by_turns.filter(|at| seen.insert(*at)).map(|at| all[at]).collect()
    }

    /// The entries by the time of their request. Samples as many of them as have `bytes` altogether.
    fn oldest_first<'a>(&self, entries: &[(&'a Vec<u8>, f64)], bytes: usize) -> Vec<(&'a Vec<u8>, f64)> {
        let mut used = 0;
        let fits = |(id, _): &&(&Vec<u8>, f64)| {
            let cost = cost(id, self.data.get(*id));
            let fits = used == 0 || used + cost <= bytes;
            used += cost;
            fits
        };
        let mut sample: Vec<(&Vec<u8>, f64)> = entries.iter().take_while(fits).copied().collect();
        let readable = |id: &Vec<u8>| self.data.get(id).filter(|value| id.len().max(value.len()) <= MAX_MAIL_BYTES);
        sample.sort_by_cached_key(|(id, _)| readable(id).map_or(0, |value| asked_at(value)));
        sample
    }

    pub(super) fn admit(
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
            // Merge and delete in one step, as the script does.
            Decision::Admit(request) => {
                self.add_request(&request, now);
                self.delete_mail(&id);
                admitted.admitted += 1;
                admitted.found_by_scan += usize::from(entry.source == Source::Scan);
            }
            Decision::Refuse(invalid) => {
                self.dead_entries.insert(invalid.name.clone(), invalid.dead_entry(now));
                self.evict_dead_entries(limits.dead_entries);
                self.delete_mail(&id);
                admitted.unreadable += 1;
            }
            Decision::Orphan(class) => {
                self.index.remove(&id);
                self.orphans.insert(id, (now, class));
                admitted.orphaned += 1;
            }
            // The entry may have returned to the index since it was read, and become an orphan again with a new timeout.
            Decision::Drop if self.orphans.get(&id).is_some_and(|(since, _)| *since + ORPHAN_TIMEOUT <= now) => {
                self.orphans.remove(&id);
                admitted.orphans_dropped += 1;
            }
            Decision::Drop | Decision::Wait => {}
        }
    }

    /// The id of an entry, when the entry is still as it was read.
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
                // No more than the length and the head was read, so these stand for the whole value.
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
}
