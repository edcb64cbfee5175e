//! The operator's port over Redis: everything is read by bounded slices, and every change compares first.
//!
//! The producers' two keys are read one at a time and never changed here, so that this also works where they lie in other hash
//! slots than ours.

use ::redis::cmd;

use super::{
    CHUNK, RedisQueue,
    arguments::Arguments,
    call::Call,
    dead_letters,
    mailbox::orphan_score,
    repair,
    rows::ScannedRow,
    scripts::{HAS_DATA, PURGE, RESTORE, SCAN_KEYS, TAKE_AWAY},
};
use crate::{
    clock::Timestamp,
    model::ObjectId,
    queue::{
        DeadFilter, DeadLetter, Exported, MAX_MAIL_BYTES, QueueAdmin, QueueError, Repaired,
        admin::{Kept, Part, Place, Position, PutBack, Returning, Slice, covers},
        mailbox::{self, Content, DeadEntry, Decision, Entry, Id, Source},
        record::{MAX_BODY_BYTES, Record},
    },
};

/// The entries that one step of a scan looks at, which bounds a slice to 13 MB of the largest mail.
const SCAN_STEP: usize = 200;

/// A field of a hash and its value.
type Field = (Vec<u8>, Vec<u8>);

impl RedisQueue {
    /// Returns true when the other queue lies in the same database of the same server, whatever their URLs are.
    ///
    /// # Errors
    /// When one of them does not answer, or refuses.
    pub async fn is_same_database(&self, other: &Self) -> Result<bool, QueueError> {
        // Random, so that two checks at once do not see each other's mark.
        let mark = format!("{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..));
        let mut command = cmd("SET");
        command.arg(self.keys.check()).arg(&mark).arg("PX").arg(10_000);
        let _: () = self.link.ask("a write", Call::Command(&command)).await?;
        let mut command = cmd("GET");
        command.arg(self.keys.check());
        let found: Option<String> = other.link.ask("a read", Call::Command(&command)).await?;
        Ok(found.as_ref() == Some(&mark))
    }

    async fn scan(&self, command: &str, key: &str, cursor: &str) -> Result<(String, Vec<ScannedRow>), QueueError> {
        let mut arguments = Arguments::default();
        arguments.text(command).text(cursor).number(SCAN_STEP).number(MAX_MAIL_BYTES).number(MAX_BODY_BYTES);
        let keys = [key.to_owned()];
        self.link.ask("reading everything", Call::Script(&SCAN_KEYS, &keys, &arguments)).await
    }

    async fn read_data(&self, now: Timestamp, cursor: &str) -> Result<(String, Vec<Kept>), QueueError> {
        let (next, rows) = self.scan("HSCAN", mailbox::DATA, cursor).await?;
        let scores = self.scores_of(&rows).await?;
        let mail = rows.into_iter().zip(scores).map(|(row, score)| {
            let ScannedRow { id, id_bytes, digest, bytes, value } = row;
            // Larger mail cannot be put back: a run would refuse it, too.
            if digest.is_empty() && bytes <= MAX_MAIL_BYTES {
                return Kept::Mail { id, score, value: Some(value) };
            }
            let id = if digest.is_empty() { Id::Whole(id) } else { Id::TooLong { bytes: id_bytes, head: id, digest } };
            let source = score.map_or(Source::Scan, |score| Source::Index { score });
            too_large(&Entry { id, source, content: Content::TooLarge { bytes, head: value } }, now)
        });
        Ok((next, mail.collect()))
    }

    async fn scores_of(&self, rows: &[ScannedRow]) -> Result<Vec<Option<String>>, QueueError> {
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        let mut command = cmd("ZMSCORE");
        command.arg(mailbox::INDEX);
        for row in rows {
            command.arg(&row.id);
        }
        self.link.ask("reading the index", Call::Command(&command)).await
    }

    /// Reads index entries that have no data.
    async fn read_index(&self, now: Timestamp, cursor: &str) -> Result<(String, Vec<Kept>), QueueError> {
        let (next, rows) = self.scan("ZSCAN", mailbox::INDEX, cursor).await?;
        let mut arguments = Arguments::default();
        for row in &rows {
            arguments.bytes(&row.id);
        }
        let keys = [mailbox::DATA.to_owned()];
        let call = Call::Script(&HAS_DATA, &keys, &arguments);
        let has_data: Vec<bool> =
            if rows.is_empty() { Vec::new() } else { self.link.ask("reading the index", call).await? };
        let mut found = Vec::new();
        for (row, has_data) in rows.into_iter().zip(has_data) {
            let ScannedRow { id, id_bytes, digest, value: score, .. } = row;
            let score = String::from_utf8_lossy(&score).into_owned();
            if !digest.is_empty() {
                let id = Id::TooLong { bytes: id_bytes, head: id, digest };
                found.push(too_large(&Entry { id, source: Source::Index { score }, content: Content::Missing }, now));
            } else if !has_data {
                found.push(Kept::Mail { id, score: Some(score), value: None });
            }
        }
        Ok((next, found))
    }

    async fn read_orphans(&self, cursor: &str) -> Result<(String, Vec<Kept>), QueueError> {
        let (next, rows) = self.scan("ZSCAN", self.keys.orphans(), cursor).await?;
        let orphan = |row: ScannedRow| {
            let (class, since) = orphan_score(&String::from_utf8_lossy(&row.value))?;
            Some(Kept::Orphan { id: row.id, class, since })
        };
        Ok((next, rows.into_iter().filter_map(orphan).collect()))
    }

    async fn read_objects(&self, cursor: &str) -> Result<(String, Vec<Kept>), QueueError> {
        let mut command = cmd("HSCAN");
        command.arg(self.keys.objects()).arg(cursor).arg("COUNT").arg(CHUNK);
        let (next, fields): (String, Vec<Field>) = self.link.ask("reading the queue", Call::Command(&command)).await?;
        Ok((next, fields.into_iter().map(|(name, stored)| object_kept(name, stored)).collect()))
    }

    async fn stored(&self, names: &[String]) -> Result<Vec<Option<Vec<u8>>>, QueueError> {
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let mut command = cmd("HMGET");
        command.arg(self.keys.objects()).arg(names);
        self.link.ask("reading the queue", Call::Command(&command)).await
    }

    async fn orphan_is_there(&self, id: &[u8]) -> Result<bool, QueueError> {
        let mut command = cmd("ZSCORE");
        command.arg(self.keys.orphans()).arg(id);
        let score: Option<String> = self.link.ask("reading the queue", Call::Command(&command)).await?;
        Ok(score.is_some())
    }
}

/// Mail that is too large to be read counts as what admission would make of it.
fn too_large(entry: &Entry, now: Timestamp) -> Kept {
    match entry.decide(now, 1) {
        Decision::Refuse(invalid) => {
            let dead_entry = Box::new(invalid.dead_entry(now));
            Kept::DeadEntry { name: invalid.name, dead_entry, stored: Vec::new() }
        }
        _ => Kept::Broken { name: Vec::new(), value: Vec::new() },
    }
}

/// Reads a field of the hash of records.
fn object_kept(name: Vec<u8>, stored: Vec<u8>) -> Kept {
    let Ok(text) = std::str::from_utf8(&name) else { return Kept::Broken { name, value: stored } };
    if text.starts_with("mail:") {
        return match serde_json::from_slice::<DeadEntry>(&stored) {
            Ok(entry) => Kept::DeadEntry { name: text.to_owned(), dead_entry: Box::new(entry), stored },
            Err(_) => Kept::Broken { name, value: stored },
        };
    }
    // Another spelling of an object would be another record.
    let object = text.parse::<ObjectId>().ok().filter(|object| object.to_string() == text);
    match (object, serde_json::from_slice::<Record>(&stored)) {
        (Some(object), Ok(record)) => Kept::Record { object, record: Box::new(record), stored },
        _ => Kept::Broken { name, value: stored },
    }
}

impl QueueAdmin for RedisQueue {
    async fn repair(&self, now: Timestamp) -> Result<Repaired, QueueError> {
        repair::everything(self, now).await
    }

    async fn dead_letters(&self, filter: &DeadFilter, limit: usize) -> Result<Vec<DeadLetter>, QueueError> {
        dead_letters::list(self, filter, limit).await
    }

    async fn redrive(&self, now: Timestamp, filter: &DeadFilter) -> Result<usize, QueueError> {
        dead_letters::redrive(self, now, filter).await
    }

    async fn export(&self, now: Timestamp) -> Result<Vec<Exported>, QueueError> {
        dead_letters::export(self, now).await
    }

    async fn return_to_mailbox(&self, now: Timestamp) -> Result<usize, QueueError> {
        dead_letters::return_to_mailbox(self, now).await
    }

    async fn read_slice(&self, now: Timestamp, from: &Place) -> Result<Slice, QueueError> {
        let (cursor, entries) = match from.part {
            Part::Data => self.read_data(now, &from.cursor).await?,
            Part::Index => self.read_index(now, &from.cursor).await?,
            Part::Orphans => self.read_orphans(&from.cursor).await?,
            Part::Objects => self.read_objects(&from.cursor).await?,
        };
        Ok(Slice { entries, next: from.after(cursor) })
    }

    async fn put_back(&self, now: Timestamp, entries: &[Returning]) -> Result<Vec<PutBack>, QueueError> {
        let mut results = Vec::with_capacity(entries.len());
        for chunk in entries.chunks(CHUNK) {
            let mut arguments = Arguments::default();
            arguments.number(now.as_millis()).number(self.limits.dead_letters);
            for entry in chunk {
                returning_arguments(&mut arguments, entry, now);
            }
            let call = Call::Script(&RESTORE, self.keys.queue(), &arguments);
            // Safe to repeat: merging twice changes nothing.
            let codes: Vec<u8> = self.link.ask("putting back", call).await?;
            results.extend(codes.into_iter().map(|code| match code {
                3 => PutBack::NoRoom,
                2 => PutBack::New,
                1 => PutBack::Merged,
                _ => PutBack::Nothing,
            }));
        }
        Ok(results)
    }

    async fn has(&self, entries: &[Returning]) -> Result<Vec<bool>, QueueError> {
        let mut results = Vec::with_capacity(entries.len());
        for chunk in entries.chunks(CHUNK) {
            let names: Vec<String> = chunk.iter().map(Returning::name).collect();
            for (entry, stored) in chunk.iter().zip(self.stored(&names).await?) {
                results.push(match (entry, stored) {
                    (Returning::Record { record, .. }, Some(stored)) => {
                        serde_json::from_slice::<Record>(&stored).is_ok_and(|current| covers(&current, record))
                    }
                    (Returning::DeadEntry { dead_entry, .. }, Some(stored)) => {
                        serde_json::from_slice::<DeadEntry>(&stored)
                            .is_ok_and(|current| current.died >= dead_entry.died)
                    }
                    (Returning::Orphan { id, .. }, _) => self.orphan_is_there(id).await?,
                    (_, None) => false,
                });
            }
        }
        Ok(results)
    }

    async fn take_away(&self, entries: &[(String, Vec<u8>)]) -> Result<Vec<bool>, QueueError> {
        let mut results = Vec::with_capacity(entries.len());
        for chunk in entries.chunks(CHUNK) {
            let mut arguments = Arguments::default();
            for (name, stored) in chunk {
                arguments.text(name).bytes(stored);
            }
            let call = Call::Script(&TAKE_AWAY, self.keys.queue(), &arguments);
            results.extend(self.link.run::<Vec<bool>>("taking away", call).await?);
        }
        Ok(results)
    }

    async fn purge(&self, letters: &[DeadLetter]) -> Result<usize, QueueError> {
        let mut count = 0;
        for chunk in letters.chunks(CHUNK) {
            let mut arguments = Arguments::default();
            for letter in chunk {
                arguments.text(&letter.name).number(letter.died.as_millis());
                arguments.number(letter.request.as_ref().map_or(0, |request| request.merges));
            }
            let call = Call::Script(&PURGE, self.keys.queue(), &arguments);
            count += self.link.run::<usize>("purging", call).await?;
        }
        Ok(count)
    }

    async fn position(&self, object: &ObjectId) -> Result<Position, QueueError> {
        let name = object.to_string();
        let stored = self.stored(std::slice::from_ref(&name)).await?.into_iter().next().flatten();
        let mut command = cmd("ZRANK");
        command.arg(self.keys.ready()).arg(&name);
        let ahead = self.link.ask("reading the queue", Call::Command(&command)).await?;
        let Some(stored) = stored else { return Ok(Position::default()) };
        let record = serde_json::from_slice(&stored)
            .map_err(|error| self.link.unexpected("reading the queue", format!("the record of {name}: {error}")))?;
        Ok(Position { record: Some(record), ahead })
    }
}

fn returning_arguments(arguments: &mut Arguments, entry: &Returning, now: Timestamp) {
    const JSON: &str = "texts and numbers are JSON";
    match entry {
        Returning::Record { object, record } => {
            arguments.text("record").text(&object.to_string()).text(&serde_json::to_string(record).expect(JSON));
        }
        Returning::DeadEntry { name, dead_entry } => {
            arguments.text("entry").text(name).text(&serde_json::to_string(dead_entry).expect(JSON));
        }
        Returning::Orphan { id, class } => {
            // The form of `orphan_score`: a quarter for each priority.
            let score = format!("{}.{:02}", now.as_millis(), u32::from(class.as_number()) * 25);
            arguments.text("orphan").bytes(id).text(&score);
        }
    }
}
