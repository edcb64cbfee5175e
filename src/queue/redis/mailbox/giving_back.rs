//! The way back into the mailbox, for an operator: dead entries, records and orphans.
//!
//! On one server the scripts that delete them from the queue also write them into the mailbox. On a cluster the mailbox is
//! written first, data before index, and the queue's script only deletes.

use ::redis::{Cmd, cmd};

use super::{Mailbox, cluster::are_indexed, orphan_score};
use crate::{
    clock::Timestamp,
    model::{ObjectId, Priority},
    queue::{
        QueueError,
        dead_letters::{mailed, second_id},
        mailbox::{self, DeadEntry},
        record::Record,
        redis::{CHUNK, RedisQueue, arguments::Arguments, call::Call, scripts},
    },
};

const RETURNING: &str = "returning to the mailbox";

/// A record, decoded and as its stored text.
pub(in crate::queue::redis) struct StoredRecord {
    pub name: String,
    pub object: ObjectId,
    pub json: Vec<u8>,
    pub record: Record,
}

impl Mailbox {
    /// Prepares the redriving of a dead entry. Returns false when newer mail lies under its id.
    pub(in crate::queue::redis) async fn put_entry(
        self,
        queue: &RedisQueue,
        name: &str,
        entry: &DeadEntry,
    ) -> Result<bool, QueueError> {
        match self {
            Self::Server => Ok(true),
            Self::Cluster => Box::pin(put_entry(queue, name, entry)).await,
        }
    }

    /// Prepares the return of records; the caller then deletes those that did not change meanwhile.
    pub(in crate::queue::redis) async fn put_records(
        self,
        queue: &RedisQueue,
        records: &[StoredRecord],
        now: Timestamp,
    ) -> Result<(), QueueError> {
        match self {
            Self::Server => Ok(()),
            Self::Cluster => Box::pin(put_records(queue, records, now)).await,
        }
    }

    /// Moves index entries that wait for their data back into the index.
    pub(in crate::queue::redis) async fn return_orphans(self, queue: &RedisQueue) -> Result<(), QueueError> {
        match self {
            Self::Server => {
                let mut arguments = Arguments::default();
                arguments.number(CHUNK);
                let call = Call::Script(&scripts::RETURN_ORPHANS, queue.keys.with_mailbox(), &arguments);
                // A full chunk means that more may be left.
                while queue.link.run::<usize>(RETURNING, call).await? == CHUNK {}
                Ok(())
            }
            Self::Cluster => Box::pin(return_orphans(queue)).await,
        }
    }
}

async fn put_entry(queue: &RedisQueue, name: &str, entry: &DeadEntry) -> Result<bool, QueueError> {
    let (id, value) = mailed(name, entry);
    // Newer mail under this id must not be replaced.
    if are_indexed(queue, &[&id]).await? != [false] {
        return Ok(false);
    }
    let mut put = cmd("HSETNX");
    put.arg(mailbox::DATA).arg(&id).arg(&value);
    // Not repeated: a second try would take our own data of the first try for newer mail.
    if !queue.link.run::<bool>("redriving", Call::Command(&put)).await? {
        return Ok(false);
    }
    // After the data: an index entry alone would become an orphan.
    add_to_index(queue, "redriving", &[(entry.score.clone(), id)]).await?;
    Ok(true)
}

/// Adds entries to the index; an id that is there already keeps its place.
async fn add_to_index(
    queue: &RedisQueue,
    action: &'static str,
    entries: &[(String, Vec<u8>)],
) -> Result<(), QueueError> {
    if entries.is_empty() {
        return Ok(());
    }
    let mut command: Cmd = cmd("ZADD");
    // NX: a producer may have queued the id again meanwhile.
    command.arg(mailbox::INDEX).arg("NX");
    for (score, id) in entries {
        command.arg(score).arg(id);
    }
    // The count is not needed: an id that is in the index already is as good as a new one.
    let _: u64 = queue.link.ask(action, Call::Command(&command)).await?;
    Ok(())
}

/// Writes records into the mailbox, data before index.
async fn put_records(queue: &RedisQueue, records: &[StoredRecord], now: Timestamp) -> Result<(), QueueError> {
    let ids: Vec<&[u8]> = records.iter().map(|stored| stored.name.as_bytes()).collect();
    let indexed = are_indexed(queue, &ids).await?;
    let mut arguments = Arguments::default();
    for (StoredRecord { name, object, record, .. }, indexed) in records.iter().zip(indexed) {
        let second = second_id(name, now);
        arguments.number(u8::from(indexed));
        arguments.text(name).text(&mailbox::compose(name, object, record, now));
        arguments.text(&second).text(&mailbox::compose(&second, object, record, now));
    }
    let call = Call::Script(&scripts::CLUSTER_PUT_DATA, queue.keys.mailbox_data(), &arguments);
    let chosen: Vec<u8> = queue.link.run(RETURNING, call).await?;
    let entries: Vec<(String, Vec<u8>)> = records
        .iter()
        .zip(chosen)
        .map(|(stored, chosen)| {
            let id = if chosen == 1 { stored.name.clone() } else { second_id(&stored.name, now) };
            (stored.record.wanted_in_all().priority.as_number().to_string(), id.into_bytes())
        })
        .collect();
    add_to_index(queue, RETURNING, &entries).await
}

async fn return_orphans(queue: &RedisQueue) -> Result<(), QueueError> {
    loop {
        let mut command = cmd("ZRANGE");
        command.arg(queue.keys.orphans()).arg(0).arg(CHUNK - 1).arg("WITHSCORES");
        let found: Vec<(Vec<u8>, String)> = queue.link.ask(RETURNING, Call::Command(&command)).await?;
        // Each round removes what it found, so the loop ends.
        if found.is_empty() {
            return Ok(());
        }
        let priority = |score: &str| orphan_score(score).map_or(Priority::Low, |(priority, _)| priority);
        let entries: Vec<(String, Vec<u8>)> =
            found.iter().map(|(id, score)| (priority(score).as_number().to_string(), id.clone())).collect();
        add_to_index(queue, RETURNING, &entries).await?;
        // After the index: an entry may be in both places for a moment, but never in none.
        let mut command = cmd("ZREM");
        command.arg(queue.keys.orphans());
        for (id, _) in &found {
            command.arg(id);
        }
        let _: u64 = queue.link.ask(RETURNING, Call::Command(&command)).await?;
    }
}
