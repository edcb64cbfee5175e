//! The mailbox on a cluster: its two keys lie in other slots than ours and than each other. No script sees two of the three, so
//! one script on a single server is several here, strictly one after the other.
//!
//! **Invariant: merge first, then delete the data, then the index entry, each only when it is still what was read.** A run that
//! ends between two steps leaves mail in both places, and it is merged twice; it is never in none.
//!
//! A producer sends `HEXISTS`, `ZREM` and `HDEL` when the id is known, then `ZADD` and `HSET`. Each of them may come between any
//! two of our steps:
//!
//! - **Before the data is compared and deleted**: `HDEL` or `HSET` change it (a new value differs at least in `requested_at`),
//!   so nothing is deleted, and the next slice reads the new request. What was merged is an older request for the same object.
//! - **`ZREM` alone came**: the data goes, and the index has no entry. The producer's `HDEL` finds nothing, and its `ZADD` and
//!   `HSET` are a new request.
//! - **Between our `HDEL` and our `ZREM`**: `HEXISTS` says no, `ZADD` writes the index anew. With another score our `ZREM` leaves
//!   the entry. With the same score the entry goes, and the data of the `HSET` has no index entry: the scan finds and admits it.
//! - **An index entry without data** is first written to the orphans, then taken from the index. After a later `HSET` the orphan
//!   is looked up by id and admitted. After a later `ZADD` it is in both places, and is read from the index.
//! - **Data without an index entry**: a `ZADD` that comes during its admission is left behind alone, becomes an orphan, and is
//!   dropped and counted after ten minutes; its request was merged.
//! - **Two runs with the same slice**: both compare first, and at most both merge; one deletes, the other finds it changed. An
//!   object that the first run has refreshed meanwhile is queued again, and is already fresh.
//!
//! A key that is missing for a while (its node is down) ends the step with an error; the steps before it stand.

use std::collections::{HashMap, HashSet};

use ::redis::cmd;

use super::{MAX_ORPHANS, entry_of, merge};
use crate::{
    clock::Timestamp,
    queue::{
        Admitted, MAX_MAIL_BYTES, MailLimits, QueueError,
        mailbox::{self, Content, Decision, Entry, Mail, ScanStep, Source},
        record::{MAX_BODY_BYTES, MAX_SAMPLED_BYTES, OLDEST_SAMPLE},
        redis::{
            RedisQueue,
            arguments::Arguments,
            call::Call,
            rows::{DataRow, HeadRow, IndexRow, MailRow, ScanRow},
            scripts,
        },
    },
};

/// The groups of ids whose data is read, besides the four priorities; each group has a share of the bytes.
const ORPHAN_GROUP: u8 = 4;
const SCAN_GROUP: u8 = 5;

/// The number of entries in the mailbox, and those at the head of each priority.
pub(super) async fn count(queue: &RedisQueue) -> Result<(u64, Vec<HeadRow>), QueueError> {
    let mut command = cmd("ZCARD");
    command.arg(mailbox::INDEX);
    // Enough for the whole sample in every part of the slice.
    let bytes = 6 * OLDEST_SAMPLE * MAX_SAMPLED_BYTES;
    let limits = MailLimits { per_class: OLDEST_SAMPLE, bytes, ..MailLimits::default() };
    let (count, index) = tokio::join!(queue.link.ask("counting", Call::Command(&command)), read_index(queue, limits));
    let rows: Vec<IndexRow> = index?.1.into_iter().filter(|row| row.digest.is_empty()).collect();
    let ids: Vec<(u8, &[u8])> = rows.iter().map(|row| (row.class, &row.id[..])).collect();
    let data = read_data(queue, limits, &ids).await?;
    let heads = rows.into_iter().zip(data);
    let heads = heads.filter(|(_, data)| data.content == "value" && data.bytes <= MAX_SAMPLED_BYTES);
    let head = |(row, data): (IndexRow, DataRow)| HeadRow { id: row.id, score: row.score, value: data.value };
    Ok((count?, heads.map(head).collect()))
}

/// Reads a slice with the bounds of `read_mail.lua`.
pub(super) async fn read(queue: &RedisQueue, limits: MailLimits) -> Result<Mail, QueueError> {
    let (index, waiting) = tokio::join!(read_index(queue, limits), read_waiting(queue, limits));
    let ((mut more, rows), (more_orphans, from, orphans)) = (index?, waiting?);
    more |= more_orphans;

    let orphan_ids: Vec<&[u8]> = orphans.iter().map(|(id, _)| &id[..]).collect();
    // Data of long ids cannot be requested by id; the scan brings it.
    let short = rows.iter().filter(|row| row.digest.is_empty()).map(|row| (row.class, &row.id[..]));
    let wanted: Vec<(u8, &[u8])> = short.chain(orphan_ids.iter().map(|id| (ORPHAN_GROUP, *id))).collect();
    let (data, scanned, indexed) = tokio::join!(
        read_data(queue, limits, &wanted),
        scan_data(queue, limits, &from),
        are_indexed(queue, &orphan_ids)
    );
    let (data, (cut, mut to, scanned), indexed) = (data?, scanned?, indexed?);
    more |= cut;

    let mut data = data.into_iter();
    let mut mail: Vec<MailRow> = Vec::new();
    let mut seen: HashSet<Vec<u8>> = HashSet::new();
    let mut long: HashMap<String, usize> = HashMap::new();
    for IndexRow { id, id_bytes, digest, score, .. } in rows {
        let data = if digest.is_empty() {
            data.next().ok_or_else(|| odd(queue))?
        } else {
            long.insert(digest.clone(), mail.len());
            DataRow { content: "missing".to_owned(), bytes: 0, value: Vec::new() }
        };
        if data.content == "cut" {
            more = true;
            continue;
        }
        if digest.is_empty() {
            seen.insert(id.clone());
        }
        mail.push(mail_row("index", id, id_bytes, digest, score, data));
    }
    // In the order of `wanted` above: the index first, then the orphans.
    for ((id, score), indexed) in orphans.into_iter().zip(indexed) {
        let data = data.next().ok_or_else(|| odd(queue))?;
        seen.insert(id.clone());
        // An orphan that is in the index again is read from there.
        if indexed {
            continue;
        }
        if data.content == "cut" {
            more = true;
        } else {
            let id_bytes = id.len();
            mail.push(mail_row("orphan", id, id_bytes, String::new(), score, data));
        }
    }
    if read_scanned(queue, limits, scanned, &seen, &long, &mut mail).await? {
        // The cursor stays, so that the next step meets again what did not fit.
        (more, to) = (true, from.clone());
    }
    let entries = mail.into_iter().map(|row| entry_of(queue, row)).collect::<Result<_, _>>()?;
    Ok(Mail { entries, more, scan: Some(ScanStep { from, to }) })
}

fn mail_row(source: &str, id: Vec<u8>, id_bytes: usize, digest: String, score: String, data: DataRow) -> MailRow {
    let DataRow { content, bytes, value } = data;
    MailRow { source: source.to_owned(), id, id_bytes, digest, score, content, bytes, value }
}

/// Adds what the scan met and is not in the slice yet. Returns true when something did not fit.
async fn read_scanned(
    queue: &RedisQueue,
    limits: MailLimits,
    scanned: Vec<ScanRow>,
    seen: &HashSet<Vec<u8>>,
    long: &HashMap<String, usize>,
    mail: &mut Vec<MailRow>,
) -> Result<bool, QueueError> {
    let mut unknown = Vec::new();
    for ScanRow { id, id_bytes, digest, content, bytes, value } in scanned {
        if let Some(at) = long.get(&digest) {
            // The index had this long id; its data is only known now.
            let row = &mut mail[*at];
            (row.content, row.bytes, row.value) = (content, bytes, value);
        } else if !digest.is_empty() {
            mail.push(mail_row("scan", id, id_bytes, digest, String::new(), DataRow { content, bytes, value }));
        } else if !seen.contains(&id) {
            unknown.push(id);
        }
    }
    let ids: Vec<&[u8]> = unknown.iter().map(|id| &id[..]).collect();
    let wanted: Vec<(u8, &[u8])> = ids.iter().map(|id| (SCAN_GROUP, *id)).collect();
    let (places, data) = tokio::join!(places(queue, &ids), read_data(queue, limits, &wanted));
    let mut cut = false;
    for ((id, place), data) in ids.iter().zip(places?).zip(data?) {
        match data.content.as_str() {
            "cut" => cut = true,
            // Another run has admitted it since the scan met it.
            "missing" => {}
            _ => {
                let source = if place.is_empty() { "scan" } else { "index" };
                mail.push(mail_row(source, id.to_vec(), id.len(), String::new(), place, data));
            }
        }
    }
    Ok(cut)
}

fn odd(queue: &RedisQueue) -> QueueError {
    queue.link.unexpected("reading mail", "fewer values than were asked for")
}

async fn read_index(queue: &RedisQueue, limits: MailLimits) -> Result<(bool, Vec<IndexRow>), QueueError> {
    let mut arguments = Arguments::default();
    arguments.number(limits.reach()).number(limits.bytes_of_sample()).number(MAX_MAIL_BYTES).number(MAX_BODY_BYTES);
    let call = Call::Script(&scripts::CLUSTER_READ_INDEX, queue.keys.mailbox_index(), &arguments);
    queue.link.ask("reading mail", call).await
}

/// Reads orphans with their scores, and the cursor of the scan.
async fn read_waiting(
    queue: &RedisQueue,
    limits: MailLimits,
) -> Result<(bool, String, Vec<(Vec<u8>, String)>), QueueError> {
    let mut arguments = Arguments::default();
    arguments.number(MAX_ORPHANS).number(limits.bytes_of_part());
    let call = Call::Script(&scripts::CLUSTER_READ_WAITING, queue.keys.queue(), &arguments);
    queue.link.ask("reading mail", call).await
}

async fn scan_data(
    queue: &RedisQueue,
    limits: MailLimits,
    from: &str,
) -> Result<(bool, String, Vec<ScanRow>), QueueError> {
    let mut arguments = Arguments::default();
    arguments
        .text(from)
        .number(limits.scan.max(1))
        .number(limits.bytes_of_part())
        .number(MAX_MAIL_BYTES)
        .number(MAX_BODY_BYTES);
    let call = Call::Script(&scripts::CLUSTER_SCAN_DATA, queue.keys.mailbox_data(), &arguments);
    queue.link.ask("reading mail", call).await
}

async fn read_data(queue: &RedisQueue, limits: MailLimits, ids: &[(u8, &[u8])]) -> Result<Vec<DataRow>, QueueError> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let mut arguments = Arguments::default();
    arguments.number(limits.per_class).number(limits.bytes_of_part()).number(limits.bytes_of_sample());
    arguments.number(MAX_MAIL_BYTES).number(MAX_BODY_BYTES);
    for (group, id) in ids {
        arguments.number(group).bytes(id);
    }
    let call = Call::Script(&scripts::CLUSTER_READ_DATA, queue.keys.mailbox_data(), &arguments);
    queue.link.ask("reading mail", call).await
}

/// Returns, in order, which of these ids are in the index.
pub(super) async fn are_indexed(queue: &RedisQueue, ids: &[&[u8]]) -> Result<Vec<bool>, QueueError> {
    Ok(places(queue, ids).await?.iter().map(|place| !place.is_empty()).collect())
}

/// Returns the scores of these ids in the index, `""` for none.
async fn places(queue: &RedisQueue, ids: &[&[u8]]) -> Result<Vec<String>, QueueError> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let mut arguments = Arguments::default();
    for id in ids {
        arguments.bytes(id);
    }
    let call = Call::Script(&scripts::CLUSTER_PLACES, queue.keys.mailbox_index(), &arguments);
    queue.link.ask("reading mail", call).await
}

/// Merges a slice and deletes it from the mailbox, in the order of the invariant above.
pub(super) async fn admit(
    queue: &RedisQueue,
    now: Timestamp,
    mail: &Mail,
    decided: Vec<(&Entry, Decision)>,
) -> Result<Admitted, QueueError> {
    let from = mail.scan.as_ref().map_or("0", |scan| &scan.from);
    let entries: Vec<&Entry> = decided.iter().map(|(entry, _)| *entry).collect();
    // The check is not needed for the invariant. It avoids merging what another run took or a producer replaced.
    let (data, index) = tokio::join!(match_data(queue, false, from, &entries), match_index(queue, false, &entries));
    let as_read: Vec<bool> = data?.into_iter().zip(index?).map(|(data, index)| data && index).collect();
    let all = decided.len();
    let kept: Vec<(&Entry, Decision)> =
        decided.into_iter().zip(as_read).filter(|(_, as_read)| *as_read).map(|(entry, _)| entry).collect();
    let mut admitted = merge(queue, now, mail, &kept).await?;
    admitted.changed += all - kept.len();

    let with_data: Vec<&Entry> =
        kept.iter().map(|(entry, _)| *entry).filter(|entry| entry.content != Content::Missing).collect();
    // After the merge: mail may be in both places, never in none.
    let deleted = match_data(queue, true, from, &with_data).await?;
    let gone = with_data.iter().zip(deleted).filter(|(_, deleted)| *deleted).map(|(entry, _)| *entry);
    let without_data = kept.iter().map(|(entry, _)| *entry).filter(|entry| entry.content == Content::Missing);
    let from_index: Vec<&Entry> =
        gone.chain(without_data).filter(|entry| matches!(entry.source, Source::Index { .. })).collect();
    // Last: an entry without data would become an orphan, data without an entry waits for the scan.
    match_index(queue, true, &from_index).await?;
    Ok(admitted)
}

/// Returns which data is still as it was read; with `delete` that data is deleted.
async fn match_data(
    queue: &RedisQueue,
    delete: bool,
    scanned_from: &str,
    entries: &[&Entry],
) -> Result<Vec<bool>, QueueError> {
    if entries.is_empty() {
        return Ok(Vec::new());
    }
    let mut arguments = Arguments::default();
    // Long ids are found again from the place where the scan began.
    arguments.number(u8::from(delete)).text(scanned_from).number(MAX_MAIL_BYTES);
    for entry in entries {
        arguments.id(&entry.id).content(&entry.content);
    }
    let call = Call::Script(&scripts::CLUSTER_MATCH_DATA, queue.keys.mailbox_data(), &arguments);
    send(queue, delete, call).await
}

/// Returns which index entries are still as they were read; with `delete` those are deleted.
async fn match_index(queue: &RedisQueue, delete: bool, entries: &[&Entry]) -> Result<Vec<bool>, QueueError> {
    if entries.is_empty() {
        return Ok(Vec::new());
    }
    let mut arguments = Arguments::default();
    arguments.number(u8::from(delete)).number(MAX_MAIL_BYTES);
    for entry in entries {
        match &entry.source {
            Source::Index { score } => arguments.id(&entry.id).text(score),
            Source::Orphan { .. } | Source::Scan => arguments.id(&entry.id).text(""),
        };
    }
    let call = Call::Script(&scripts::CLUSTER_MATCH_INDEX, queue.keys.mailbox_index(), &arguments);
    send(queue, delete, call).await
}

/// Sends a deletion once: a second try would find the data changed by the first, and leave its index entry behind.
async fn send(queue: &RedisQueue, delete: bool, call: Call<'_>) -> Result<Vec<bool>, QueueError> {
    if delete { queue.link.run("deleting mail", call).await } else { queue.link.ask("comparing mail", call).await }
}
