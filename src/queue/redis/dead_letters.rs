//! Dead letters in Redis, and the way of records back to the mailbox. Everything is read in chunks, so that no reply grows with
//! the queue.

use ::redis::cmd;

use super::{CHUNK, RedisQueue, arguments::Arguments, call::Call, mailbox::StoredRecord, scripts};
use crate::{
    clock::Timestamp,
    queue::{
        DeadFilter, DeadLetter, Exported, QueueError,
        dead_letters::{KeptDeadLetter, exported, mailed, names, newest_first, second_id},
        mailbox::compose,
        record::{Record, State},
    },
};

pub(super) async fn list(queue: &RedisQueue, filter: &DeadFilter, limit: usize) -> Result<Vec<DeadLetter>, QueueError> {
    let letters = find(queue, filter, limit).await?;
    Ok(letters.iter().map(KeptDeadLetter::shown).collect())
}

pub(super) async fn redrive(queue: &RedisQueue, now: Timestamp, filter: &DeadFilter) -> Result<usize, QueueError> {
    let mut count = 0;
    for chunk in find(queue, filter, usize::MAX).await?.chunks(CHUNK) {
        let mut arguments = Arguments::default();
        arguments.number(now.as_millis());
        for letter in chunk.iter().filter(|letter| letter.can_be_redriven()) {
            let head = |arguments: &mut Arguments| {
                arguments.text(letter.name()).number(letter.died().as_millis());
            };
            match letter {
                KeptDeadLetter::Object(..) => {
                    head(&mut arguments);
                    arguments.text("object").text("").text("").text("");
                }
                KeptDeadLetter::Entry(name, entry) if queue.mailbox.put_entry(queue, name, entry).await? => {
                    let (id, value) = mailed(name, entry);
                    head(&mut arguments);
                    arguments.text("entry").bytes(&id).text(&entry.score).bytes(&value);
                }
                // Newer mail lies under its id.
                KeptDeadLetter::Entry(..) => {}
            }
        }
        let call = Call::Script(&scripts::REDRIVE, queue.mailbox.keys(&queue.keys), &arguments);
        // Not repeated: redriven entries would be counted as missing.
        count += queue.link.run::<usize>("redriving", call).await?;
    }
    Ok(count)
}

/// Finds dead letters, the newest first.
async fn find(queue: &RedisQueue, filter: &DeadFilter, limit: usize) -> Result<Vec<KeptDeadLetter>, QueueError> {
    let mut found = Vec::new();
    if filter.names.is_empty() {
        for set in [queue.keys.dead(), queue.keys.dead_entries()] {
            found.extend(find_in(queue, filter, set, limit).await?);
        }
    } else {
        for names in names(filter).chunks(CHUNK) {
            found.extend(load(queue, filter, names).await?);
        }
    }
    Ok(newest_first(found, limit))
}

async fn find_in(
    queue: &RedisQueue,
    filter: &DeadFilter,
    set: &str,
    limit: usize,
) -> Result<Vec<KeptDeadLetter>, QueueError> {
    let mut found = Vec::new();
    for start in (0..).step_by(CHUNK) {
        let mut command = cmd("ZREVRANGE");
        command.arg(set).arg(start).arg(start + CHUNK - 1);
        let names: Vec<String> = queue.link.ask("listing dead letters", Call::Command(&command)).await?;
        found.extend(load(queue, filter, &names).await?);
        // The set is read from the newest on, so the limit is reached early.
        if names.len() < CHUNK || found.len() >= limit {
            break;
        }
    }
    Ok(found)
}

async fn load(queue: &RedisQueue, filter: &DeadFilter, names: &[String]) -> Result<Vec<KeptDeadLetter>, QueueError> {
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let mut command = cmd("HMGET");
    command.arg(queue.keys.objects()).arg(names);
    let texts: Vec<Option<Vec<u8>>> = queue.link.ask("reading dead letters", Call::Command(&command)).await?;
    let entries = names.iter().zip(texts).filter_map(|(name, text)| KeptDeadLetter::read(name, &text?));
    Ok(entries.filter(|entry| entry.matches(filter)).collect())
}

/// A field of a hash and its value.
type Field = (Vec<u8>, Vec<u8>);

/// Takes one step through all records that wait. Returns the next cursor.
async fn scan(queue: &RedisQueue, cursor: &str) -> Result<(String, Vec<StoredRecord>), QueueError> {
    let mut command = cmd("HSCAN");
    command.arg(queue.keys.objects()).arg(cursor).arg("COUNT").arg(CHUNK);
    let (next, fields): (String, Vec<Field>) = queue.link.ask("reading the queue", Call::Command(&command)).await?;
    let waiting = fields.into_iter().filter_map(|(name, json)| {
        let name = String::from_utf8(name).ok()?;
        let object = name.parse().ok()?;
        let record: Record = serde_json::from_slice(&json).ok()?;
        // Broken records are left to the repair.
        let waits = record.state != State::Dead && !record.is_only_planned();
        waits.then_some(StoredRecord { name, object, json, record })
    });
    Ok((next, waiting.collect()))
}

pub(super) async fn export(queue: &RedisQueue, now: Timestamp) -> Result<Vec<Exported>, QueueError> {
    // A map, since a scan may show a record twice.
    let mut found = std::collections::BTreeMap::new();
    let mut cursor = "0".to_owned();
    loop {
        let (next, records) = scan(queue, &cursor).await?;
        found.extend(records.into_iter().map(|stored| (stored.name, (stored.object, stored.record))));
        cursor = next;
        if cursor == "0" {
            break;
        }
    }
    Ok(exported(found.into_values(), now))
}

pub(super) async fn return_to_mailbox(queue: &RedisQueue, now: Timestamp) -> Result<usize, QueueError> {
    let mut count = 0;
    let mut cursor = "0".to_owned();
    loop {
        let (next, records) = scan(queue, &cursor).await?;
        for chunk in records.chunks(CHUNK) {
            count += return_records(queue, chunk, now).await?;
        }
        cursor = next;
        if cursor == "0" {
            break;
        }
    }
    queue.mailbox.return_orphans(queue).await?;
    Ok(count)
}

async fn return_records(queue: &RedisQueue, records: &[StoredRecord], now: Timestamp) -> Result<usize, QueueError> {
    let mut arguments = Arguments::default();
    for StoredRecord { name, object, json, record } in records {
        let second = second_id(name, now);
        arguments.text(name).bytes(json).number(record.wanted_in_all().priority.as_number());
        arguments.text(name).text(&compose(name, object, record, now));
        arguments.text(&second).text(&compose(&second, object, record, now));
    }
    queue.mailbox.put_records(queue, records, now).await?;
    let call = Call::Script(&scripts::RETURN_RECORDS, queue.mailbox.keys(&queue.keys), &arguments);
    queue.link.run("returning to the mailbox", call).await
}
