//! The mailbox on a cluster, where its two keys lie in other slots than ours and than each other: no script sees two of the
//! three, so that what is one script on a single server is several here, strictly one after the other.
//!
//! **Invariant: merge first, then delete the data, then the index entry, each only when it is still what was read.** What
//! ends between two steps is in both places for a while and is merged twice; it is never in none.
//!
//! A producer sends `HEXISTS`, `ZREM` and `HDEL` when the id is known, `ZADD`, `HSET`, and each of them may come between any
//! two of our steps. What was thought through:
//!
//! - **Before the data is compared and deleted**: `HDEL` or `HSET` change it (a new value differs at least in
//!   `requested_at`), so nothing is deleted, and the new request is read in the next slice. What was merged is an older request
//!   for the same object.
//! - **`ZREM` alone came**: the data goes, the index is found empty; the producer's `HDEL` finds nothing, and its `ZADD` and
//!   `HSET` are a new request.
//! - **Between our `HDEL` and our `ZREM`**: `HEXISTS` says no, `ZADD` writes the index anew. With another score our `ZREM`
//!   lets it stand. With the same score it goes, and the `HSET` that comes (or came) is data without an index entry, which
//!   the scan finds and admits.
//! - **An index entry without data** is first written to the orphans, then taken from the index. `HSET` in between, or at any
//!   time after: the orphan is looked up by id and admitted. `ZREM`, `ZADD` in between: it is in the index and among the
//!   orphans, and is read from the index.
//! - **Data without an index entry**: a `ZADD` that comes while it is admitted is left behind alone, becomes an orphan,
//!   and is dropped and counted after its ten minutes; its request was merged.
//! - **Two runs with the same slice**: both compare first, and at most both merge; one deletes, the other finds it changed.
//!   An object that the first has answered meanwhile is wanted again, and fresh without a call when the answer is young.
//!
//! A key that is gone for a while (its node is down) ends the step with an error; the steps before it stand.

use std::collections::{HashMap, HashSet};

use ::redis::{Cmd, cmd};

use super::{
    CHUNK, HeadRow, MailRow, ORPHANS, RedisQueue,
    letters::{Stored, mailed},
    link::{Arguments, Call},
    scripts,
};
use crate::{
    clock::Timestamp,
    model::Priority,
    queue::{
        Admitted, MAX_MAIL_BYTES, MailLimits, QueueError,
        letters::{DeadEntry, second_id},
        mailbox::{self, Content, Decision, Entry, Id, Mail, ScanStep, Source},
        record::{LARGEST_LOOKED_AT, LOOKED_AT_FOR_OLDEST, MAX_BODY_BYTES},
    },
};

/// A row of `read_index.lua`: class, id, id size, id digest, score.
type IndexRow = (u8, Vec<u8>, usize, String, String);

/// A row of `scan_data.lua`: id, id size, id digest, content, size, value.
type ScanRow = (Vec<u8>, usize, String, String, usize, Vec<u8>);

/// A row of `read_data.lua`: content, size, value.
type DataRow = (String, usize, Vec<u8>);

/// Where ids whose data is read came from; each has a share of the bytes.
const ORPHAN_GROUP: u8 = 4;
const SCAN_GROUP: u8 = 5;

/// How many entries the mailbox holds, and those at the head of each class; none where a script counts them together with the
/// rest.
pub(super) async fn mailbox(queue: &RedisQueue) -> Result<(u64, Vec<HeadRow>), QueueError> {
    if !queue.is_cluster() {
        return Ok((0, Vec::new()));
    }
    let mut command = cmd("ZCARD");
    command.arg(mailbox::INDEX);
    let bytes = 6 * LOOKED_AT_FOR_OLDEST * LARGEST_LOOKED_AT;
    let limits = MailLimits { per_class: LOOKED_AT_FOR_OLDEST, bytes, ..MailLimits::default() };
    let (count, index) = tokio::join!(queue.link.ask("counting", Call::Command(&command)), read_index(queue, limits));
    let rows: Vec<IndexRow> = index?.1.into_iter().filter(|row| row.3.is_empty()).collect();
    let ids: Vec<(u8, &[u8])> = rows.iter().map(|row| (row.0, &row.1[..])).collect();
    let data = read_data(queue, limits, &ids).await?;
    let heads =
        rows.iter().zip(data).filter(|(_, (content, bytes, _))| content == "value" && *bytes <= LARGEST_LOOKED_AT);
    Ok((count?, heads.map(|(row, (_, _, value))| (row.1.clone(), row.4.clone(), value)).collect()))
}

/// Reads a slice with the bounds that `read_mail.lua` has.
pub(super) async fn read_mail(queue: &RedisQueue, limits: MailLimits) -> Result<Mail, QueueError> {
    let (index, waiting) = tokio::join!(read_index(queue, limits), read_waiting(queue, limits));
    let ((mut more, mut rows), (more_orphans, from, orphans)) = (index?, waiting?);
    more |= more_orphans;

    let orphan_ids: Vec<&[u8]> = orphans.iter().map(|(id, _)| &id[..]).collect();
    let short = rows.iter().filter(|row| row.3.is_empty()).map(|row| (row.0, &row.1[..]));
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
    for (_, id, size, digest, score) in rows.drain(..) {
        if digest.is_empty() {
            let (content, bytes, value) = data.next().ok_or_else(|| odd(queue))?;
            if content == "cut" {
                more = true;
            } else {
                seen.insert(id.clone());
                mail.push(("index".to_owned(), id, size, digest, score, content, bytes, value));
            }
        } else {
            long.insert(digest.clone(), mail.len());
            mail.push(("index".to_owned(), id, size, digest, score, "missing".to_owned(), 0, Vec::new()));
        }
    }
    for ((id, score), indexed) in orphans.into_iter().zip(indexed) {
        let (content, bytes, value) = data.next().ok_or_else(|| odd(queue))?;
        seen.insert(id.clone());
        // An orphan that is in the index again is read from there.
        if indexed {
            continue;
        }
        if content == "cut" {
            more = true;
        } else {
            let size = id.len();
            mail.push(("orphan".to_owned(), id, size, String::new(), score, content, bytes, value));
        }
    }
    if read_scanned(queue, limits, scanned, &seen, &long, &mut mail).await? {
        // What does not fit any more is met again: the cursor stays.
        (more, to) = (true, from.clone());
    }
    let entries = mail.into_iter().map(|row| queue.entry(row)).collect::<Result<_, _>>()?;
    Ok(Mail { entries, more, scan: Some(ScanStep { from, to }) })
}

/// What the scan met and is not in the slice yet. Answers whether something did not fit.
async fn read_scanned(
    queue: &RedisQueue,
    limits: MailLimits,
    scanned: Vec<ScanRow>,
    seen: &HashSet<Vec<u8>>,
    long: &HashMap<String, usize>,
    mail: &mut Vec<MailRow>,
) -> Result<bool, QueueError> {
    let mut unknown = Vec::new();
    for (id, size, digest, content, bytes, value) in scanned {
        if let Some(at) = long.get(&digest) {
            let row = &mut mail[*at];
            (row.5, row.6, row.7) = (content, bytes, value);
        } else if !digest.is_empty() {
            mail.push(("scan".to_owned(), id, size, digest, String::new(), content, bytes, value));
        } else if !seen.contains(&id) {
            unknown.push(id);
        }
    }
    let ids: Vec<&[u8]> = unknown.iter().map(|id| &id[..]).collect();
    let wanted: Vec<(u8, &[u8])> = ids.iter().map(|id| (SCAN_GROUP, *id)).collect();
    let (places, data) = tokio::join!(places(queue, &ids), read_data(queue, limits, &wanted));
    let mut cut = false;
    for ((id, place), (content, bytes, value)) in ids.iter().zip(places?).zip(data?) {
        match content.as_str() {
            "cut" => cut = true,
            // Taken by somebody since the scan met it.
            "missing" => {}
            _ => {
                let source = if place.is_empty() { "scan" } else { "index" };
                mail.push((source.to_owned(), id.to_vec(), id.len(), String::new(), place, content, bytes, value));
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
    arguments.number(limits.reach()).number(limits.bytes_of_look()).number(MAX_MAIL_BYTES).number(MAX_BODY_BYTES);
    let call = Call::Script(&scripts::CLUSTER_READ_INDEX, queue.keys.mailbox_index(), &arguments);
    queue.link.ask("reading mail", call).await
}

/// Orphans with their scores, and the cursor of the scan.
async fn read_waiting(
    queue: &RedisQueue,
    limits: MailLimits,
) -> Result<(bool, String, Vec<(Vec<u8>, String)>), QueueError> {
    let mut arguments = Arguments::default();
    arguments.number(ORPHANS).number(limits.bytes_of_part());
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
    arguments.number(limits.per_class).number(limits.bytes_of_part()).number(limits.bytes_of_look());
    arguments.number(MAX_MAIL_BYTES).number(MAX_BODY_BYTES);
    for (group, id) in ids {
        arguments.number(group).bytes(id);
    }
    let call = Call::Script(&scripts::CLUSTER_READ_DATA, queue.keys.mailbox_data(), &arguments);
    queue.link.ask("reading mail", call).await
}

/// Which of these ids are in the index.
async fn are_indexed(queue: &RedisQueue, ids: &[&[u8]]) -> Result<Vec<bool>, QueueError> {
    Ok(places(queue, ids).await?.iter().map(|place| !place.is_empty()).collect())
}

/// The scores that the index has for these ids, `""` for none.
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

/// Merges a slice and deletes it from the mailbox; the order is what the invariant above says.
pub(super) async fn admit(
    queue: &RedisQueue,
    now: Timestamp,
    mail: &Mail,
    decided: Vec<(&Entry, Decision)>,
) -> Result<Admitted, QueueError> {
    let from = mail.scan.as_ref().map_or("0", |scan| &scan.from);
    let entries: Vec<&Entry> = decided.iter().map(|(entry, _)| *entry).collect();
    // Not needed for what is promised: it spares merging what another run took or a producer replaced.
    let (data, index) = tokio::join!(match_data(queue, false, from, &entries), match_index(queue, false, &entries));
    let as_read: Vec<bool> = data?.into_iter().zip(index?).map(|(data, index)| data && index).collect();
    let all = decided.len();
    let kept: Vec<(&Entry, Decision)> =
        decided.into_iter().zip(as_read).filter(|(_, as_read)| *as_read).map(|(entry, _)| entry).collect();
    let mut admitted = queue.merge(now, mail, &kept).await?;
    admitted.changed += all - kept.len();

    let with_data: Vec<&Entry> =
        kept.iter().map(|(entry, _)| *entry).filter(|entry| entry.content != Content::Missing).collect();
    let deleted = match_data(queue, true, from, &with_data).await?;
    let gone = with_data.iter().zip(deleted).filter(|(_, deleted)| *deleted).map(|(entry, _)| *entry);
    let without_data = kept.iter().map(|(entry, _)| *entry).filter(|entry| entry.content == Content::Missing);
    let from_index: Vec<&Entry> =
        gone.chain(without_data).filter(|entry| matches!(entry.source, Source::Index { .. })).collect();
    match_index(queue, true, &from_index).await?;
    Ok(admitted)
}

/// Which data is still as it was read; with `delete` that is deleted.
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
    arguments.number(u8::from(delete)).text(scanned_from).number(MAX_MAIL_BYTES);
    for entry in entries {
        id_arguments(&mut arguments, &entry.id);
        match &entry.content {
            Content::Missing => arguments.text("missing").number(0).text(""),
            Content::Value(value) => arguments.text("value").number(value.len()).bytes(value),
            Content::TooLarge { bytes, head } => arguments.text("large").number(bytes).bytes(head),
        };
    }
    let call = Call::Script(&scripts::CLUSTER_MATCH_DATA, queue.keys.mailbox_data(), &arguments);
    send(queue, delete, call).await
}

/// Which index entries are still as they were read; with `delete` those are deleted.
async fn match_index(queue: &RedisQueue, delete: bool, entries: &[&Entry]) -> Result<Vec<bool>, QueueError> {
    if entries.is_empty() {
        return Ok(Vec::new());
    }
    let mut arguments = Arguments::default();
    arguments.number(u8::from(delete)).number(MAX_MAIL_BYTES);
    for entry in entries {
        id_arguments(&mut arguments, &entry.id);
        match &entry.source {
            Source::Index { score } => arguments.text(score),
            Source::Orphan { .. } | Source::Scan => arguments.text(""),
        };
    }
    let call = Call::Script(&scripts::CLUSTER_MATCH_INDEX, queue.keys.mailbox_index(), &arguments);
    send(queue, delete, call).await
}

/// A deletion is sent once: sent again it would find what it deleted changed, and its index entry would stay behind.
async fn send(queue: &RedisQueue, delete: bool, call: Call<'_>) -> Result<Vec<bool>, QueueError> {
    if delete { queue.link.run("deleting mail", call).await } else { queue.link.ask("comparing mail", call).await }
}

fn id_arguments(arguments: &mut Arguments, id: &Id) {
    match id {
        Id::Whole(id) => arguments.bytes(id).text(""),
        Id::TooLong { digest, .. } => arguments.text("").text(digest),
    };
}

/// Puts the mail of a letter into the mailbox, unless newer mail lies under its id; then the letter may be forgotten. Of other
/// letters it says that they may be redriven.
pub(super) async fn redrive_mail(queue: &RedisQueue, letter: &DeadEntry) -> Result<bool, QueueError> {
    let DeadEntry::Mail(name, mail) = letter else { return Ok(true) };
    let (id, value) = mailed(name, mail);
    if are_indexed(queue, &[&id]).await? != [false] {
        return Ok(false);
    }
    let mut put = cmd("HSETNX");
    put.arg(mailbox::DATA).arg(&id).arg(&value);
    if !queue.link.run::<bool>("redriving", Call::Command(&put)).await? {
        return Ok(false);
    }
    add_to_index(queue, "redriving", &[(mail.score.clone(), id)]).await?;
    Ok(true)
}

/// `ZADD`; what is in the index already keeps its place.
async fn add_to_index(
    queue: &RedisQueue,
    action: &'static str,
    entries: &[(String, Vec<u8>)],
) -> Result<(), QueueError> {
    if entries.is_empty() {
        return Ok(());
    }
    let mut command: Cmd = cmd("ZADD");
    command.arg(mailbox::INDEX).arg("NX");
    for (score, id) in entries {
        command.arg(score).arg(id);
    }
    let _: u64 = queue.link.ask(action, Call::Command(&command)).await?;
    Ok(())
}

/// Writes records into the mailbox, data first; whoever calls this deletes those that did not change meanwhile.
pub(super) async fn return_records(queue: &RedisQueue, records: &[Stored], now: Timestamp) -> Result<(), QueueError> {
    const ACTION: &str = "returning to the mailbox";
    let ids: Vec<&[u8]> = records.iter().map(|stored| stored.name.as_bytes()).collect();
    let indexed = are_indexed(queue, &ids).await?;
    let mut arguments = Arguments::default();
    for (Stored { name, object, record, .. }, indexed) in records.iter().zip(indexed) {
        let second = second_id(name, now);
        arguments.number(u8::from(indexed));
        arguments.text(name).text(&mailbox::compose(name, object, record, now));
        arguments.text(&second).text(&mailbox::compose(&second, object, record, now));
    }
    let call = Call::Script(&scripts::CLUSTER_PUT_DATA, queue.keys.mailbox_data(), &arguments);
    let chosen: Vec<u8> = queue.link.run(ACTION, call).await?;
    let entries: Vec<(String, Vec<u8>)> = records
        .iter()
        .zip(chosen)
        .map(|(stored, chosen)| {
            let id = if chosen == 1 { stored.name.clone() } else { second_id(&stored.name, now) };
            (stored.record.wanted_in_all().priority.as_number().to_string(), id.into_bytes())
        })
        .collect();
    add_to_index(queue, ACTION, &entries).await
}

/// Moves index entries that wait for their data back into the index.
pub(super) async fn return_orphans(queue: &RedisQueue) -> Result<(), QueueError> {
    const ACTION: &str = "returning to the mailbox";
    loop {
        let mut command = cmd("ZRANGE");
        command.arg(queue.keys.orphans()).arg(0).arg(CHUNK - 1).arg("WITHSCORES");
        let found: Vec<(Vec<u8>, String)> = queue.link.ask(ACTION, Call::Command(&command)).await?;
        if found.is_empty() {
            return Ok(());
        }
        let class = |score: &str| super::orphan_score(score).map_or(Priority::Low, |(class, _)| class);
        let entries: Vec<(String, Vec<u8>)> =
            found.iter().map(|(id, score)| (class(score).as_number().to_string(), id.clone())).collect();
        add_to_index(queue, ACTION, &entries).await?;
        let mut command = cmd("ZREM");
        command.arg(queue.keys.orphans());
        for (id, _) in &found {
            command.arg(id);
        }
        let _: u64 = queue.link.ask(ACTION, Call::Command(&command)).await?;
    }
}
