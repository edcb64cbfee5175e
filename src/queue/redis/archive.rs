//! Operators' tools over Redis: everything is read by bounded slices, and every change compares first.
//!
//! The producers' two keys are read one at a time and never changed here, so that this also works where they lie in
//! other hash slots than ours.

use ::redis::cmd;

use super::{
    CHUNK, RedisQueue,
    link::{Arguments, Call},
    orphan_score,
    scripts::{HAS_DATA, PURGE, RESTORE, SCAN_KEYS, TAKE_AWAY},
};
use crate::{
    clock::Timestamp,
    model::ObjectId,
    queue::{
        DeadLetter, MAX_MAIL_BYTES, QueueError,
        archive::{Archive, Kept, Part, Place, PutBack, Returning, Slice, Standing, covers},
        mailbox::{self, Content, Decision, Entry, Id, Source},
        record::{Letter, MAX_BODY_BYTES, Record},
    },
};

/// How many entries one step of a scan looks at: bounds a slice to 13 MB of the largest mail.
const STEP: usize = 200;

/// A row of `scan_keys.lua`: id, id size, id digest, value size, value or score.
type Row = (Vec<u8>, usize, String, usize, Vec<u8>);

/// A field of a hash and its value.
type Field = (Vec<u8>, Vec<u8>);

impl RedisQueue {
    /// Whether the other one is the same database of the same server, by whatever names they are called.
    ///
    /// # Errors
    /// When one of them does not answer, or refuses.
    pub async fn is_same_database(&self, other: &Self) -> Result<bool, QueueError> {
        let mark = format!("{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..));
        let mut command = cmd("SET");
        command.arg(self.keys.check()).arg(&mark).arg("PX").arg(10_000);
        let _: () = self.link.ask("a write", Call::Command(&command)).await?;
        let mut command = cmd("GET");
        command.arg(self.keys.check());
        let found: Option<String> = other.link.ask("a read", Call::Command(&command)).await?;
        Ok(found.as_ref() == Some(&mark))
    }

    async fn scan(&self, command: &str, key: &str, cursor: &str) -> Result<(String, Vec<Row>), QueueError> {
        let mut arguments = Arguments::default();
        arguments.text(command).text(cursor).number(STEP).number(MAX_MAIL_BYTES).number(MAX_BODY_BYTES);
        let keys = [key.to_owned()];
        self.link.ask("reading everything", Call::Script(&SCAN_KEYS, &keys, &arguments)).await
    }

    async fn read_data(&self, now: Timestamp, cursor: &str) -> Result<(String, Vec<Kept>), QueueError> {
        let (next, rows) = self.scan("HSCAN", mailbox::DATA, cursor).await?;
        let scores = self.scores_of(&rows).await?;
        let mail = rows.into_iter().zip(scores).map(|((id, id_bytes, digest, bytes, value), score)| {
            if digest.is_empty() && bytes <= MAX_MAIL_BYTES {
                return Kept::Mail { id, score, value: Some(value) };
            }
            let id = if digest.is_empty() { Id::Whole(id) } else { Id::TooLong { bytes: id_bytes, head: id, digest } };
            let source = score.map_or(Source::Scan, |score| Source::Index { score });
            too_large(&Entry { id, source, content: Content::TooLarge { bytes, head: value } }, now)
        });
        Ok((next, mail.collect()))
    }

    async fn scores_of(&self, rows: &[Row]) -> Result<Vec<Option<String>>, QueueError> {
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        let mut command = cmd("ZMSCORE");
        command.arg(mailbox::INDEX);
        for (id, ..) in rows {
            command.arg(id);
        }
        self.link.ask("reading the index", Call::Command(&command)).await
    }

    /// Index entries that have no data.
    async fn read_index(&self, now: Timestamp, cursor: &str) -> Result<(String, Vec<Kept>), QueueError> {
        let (next, rows) = self.scan("ZSCAN", mailbox::INDEX, cursor).await?;
        let mut arguments = Arguments::default();
        for (id, ..) in &rows {
            arguments.bytes(id);
        }
        let keys = [mailbox::DATA.to_owned()];
        let call = Call::Script(&HAS_DATA, &keys, &arguments);
        let has_data: Vec<bool> =
            if rows.is_empty() { Vec::new() } else { self.link.ask("reading the index", call).await? };
        let mut found = Vec::new();
        for ((id, bytes, digest, _, score), has_data) in rows.into_iter().zip(has_data) {
            let score = String::from_utf8_lossy(&score).into_owned();
            if !digest.is_empty() {
                let id = Id::TooLong { bytes, head: id, digest };
                found.push(too_large(&Entry { id, source: Source::Index { score }, content: Content::Missing }, now));
            } else if !has_data {
                found.push(Kept::Mail { id, score: Some(score), value: None });
            }
        }
        Ok((next, found))
    }

    async fn read_orphans(&self, cursor: &str) -> Result<(String, Vec<Kept>), QueueError> {
        let (next, rows) = self.scan("ZSCAN", self.orphans_key(), cursor).await?;
        let orphan = |(id, _, _, _, score): Row| {
            let (class, since) = orphan_score(&String::from_utf8_lossy(&score))?;
            Some(Kept::Orphan { id, class, since })
        };
        Ok((next, rows.into_iter().filter_map(orphan).collect()))
    }

    async fn read_objects(&self, cursor: &str) -> Result<(String, Vec<Kept>), QueueError> {
        let mut command = cmd("HSCAN");
        command.arg(self.keys.objects()).arg(cursor).arg("COUNT").arg(CHUNK);
        let (next, fields): (String, Vec<Field>) = self.link.ask("reading the queue", Call::Command(&command)).await?;
        Ok((next, fields.into_iter().map(|(name, stored)| object_kept(name, stored)).collect()))
    }

    fn orphans_key(&self) -> &str {
        &self.keys.queue()[9]
    }

    fn ready_key(&self) -> &str {
        &self.keys.queue()[1]
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
        command.arg(self.orphans_key()).arg(id);
        let score: Option<String> = self.link.ask("reading the queue", Call::Command(&command)).await?;
        Ok(score.is_some())
    }
}

/// Mail that is too large to be read is what admission makes of it.
fn too_large(entry: &Entry, now: Timestamp) -> Kept {
    match entry.decide(now, 1) {
        Decision::Refuse(unreadable) => {
            let letter = Box::new(unreadable.letter(now));
            Kept::Letter { name: unreadable.name, letter, stored: Vec::new() }
        }
        _ => Kept::Broken { name: Vec::new(), value: Vec::new() },
    }
}

/// What a field among the records is.
fn object_kept(name: Vec<u8>, stored: Vec<u8>) -> Kept {
    let Ok(text) = std::str::from_utf8(&name) else { return Kept::Broken { name, value: stored } };
    if text.starts_with("mail:") {
        return match serde_json::from_slice::<Letter>(&stored) {
            Ok(letter) => Kept::Letter { name: text.to_owned(), letter: Box::new(letter), stored },
            Err(_) => Kept::Broken { name, value: stored },
        };
    }
    let object = text.parse::<ObjectId>().ok().filter(|object| object.to_string() == text);
    match (object, serde_json::from_slice::<Record>(&stored)) {
        (Some(object), Ok(record)) => Kept::Record { object, record: Box::new(record), stored },
        _ => Kept::Broken { name, value: stored },
    }
}

impl Archive for RedisQueue {
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
        let mut answers = Vec::with_capacity(entries.len());
        for chunk in entries.chunks(CHUNK) {
            let mut arguments = Arguments::default();
            arguments.number(now.as_millis()).number(self.limits.dead_letters);
            for entry in chunk {
                returning_arguments(&mut arguments, entry, now);
            }
            let call = Call::Script(&RESTORE, self.keys.queue(), &arguments);
            // Done twice it merges twice, which changes nothing.
            let told: Vec<u8> = self.link.ask("putting back", call).await?;
            answers.extend(told.into_iter().map(|answer| match answer {
                3 => PutBack::NoRoom,
                2 => PutBack::New,
                1 => PutBack::Merged,
                _ => PutBack::Nothing,
            }));
        }
        Ok(answers)
    }

    async fn has(&self, entries: &[Returning]) -> Result<Vec<bool>, QueueError> {
        let mut answers = Vec::with_capacity(entries.len());
        for chunk in entries.chunks(CHUNK) {
            let names: Vec<String> = chunk.iter().map(Returning::name).collect();
            for (entry, stored) in chunk.iter().zip(self.stored(&names).await?) {
                answers.push(match (entry, stored) {
                    (Returning::Record { record, .. }, Some(stored)) => {
                        serde_json::from_slice::<Record>(&stored).is_ok_and(|current| covers(&current, record))
                    }
                    (Returning::Letter { letter, .. }, Some(stored)) => {
                        serde_json::from_slice::<Letter>(&stored).is_ok_and(|current| current.died >= letter.died)
                    }
                    (Returning::Orphan { id, .. }, _) => self.orphan_is_there(id).await?,
                    (_, None) => false,
                });
            }
        }
        Ok(answers)
    }

    async fn take_away(&self, entries: &[(String, Vec<u8>)]) -> Result<Vec<bool>, QueueError> {
        let mut answers = Vec::with_capacity(entries.len());
        for chunk in entries.chunks(CHUNK) {
            let mut arguments = Arguments::default();
            for (name, stored) in chunk {
                arguments.text(name).bytes(stored);
            }
            let call = Call::Script(&TAKE_AWAY, self.keys.queue(), &arguments);
            let told: Vec<bool> = self.link.run("taking away", call).await?;
            answers.extend(told);
        }
        Ok(answers)
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

    async fn standing(&self, object: &ObjectId) -> Result<Standing, QueueError> {
        let name = object.to_string();
        let stored = self.stored(std::slice::from_ref(&name)).await?.into_iter().next().flatten();
        let mut command = cmd("ZRANK");
        command.arg(self.ready_key()).arg(&name);
        let ahead = self.link.ask("reading the queue", Call::Command(&command)).await?;
        let Some(stored) = stored else { return Ok(Standing::default()) };
        let record = serde_json::from_slice(&stored)
            .map_err(|error| self.link.unexpected("reading the queue", format!("the record of {name}: {error}")))?;
        Ok(Standing { record: Some(record), ahead })
    }
}

fn returning_arguments(arguments: &mut Arguments, entry: &Returning, now: Timestamp) {
    const JSON: &str = "texts and numbers are JSON";
    match entry {
        Returning::Record { object, record } => {
            arguments.text("record").text(&object.to_string()).text(&serde_json::to_string(record).expect(JSON));
        }
        Returning::Letter { name, letter } => {
            arguments.text("letter").text(name).text(&serde_json::to_string(letter).expect(JSON));
        }
        Returning::Orphan { id, class } => {
            let score = format!("{}.{:02}", now.as_millis(), u32::from(class.as_number()) * 25);
            arguments.text("orphan").bytes(id).text(&score);
        }
    }
}
