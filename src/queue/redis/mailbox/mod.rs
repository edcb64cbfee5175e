//! The mailbox in Redis. On one server a script sees the mailbox's two keys together with ours; on a cluster they lie in other
//! slots, and each step is a script of its own. Which of the two applies is chosen once, when the queue is made.

mod cluster;
#[cfg(feature = "cli")]
mod giving_back;
mod server;

#[cfg(feature = "cli")]
pub(super) use self::giving_back::StoredRecord;
use super::{
    RedisQueue,
    arguments::Arguments,
    call::Call,
    repair,
    rows::{AdmitReply, HeadRow, MailRow},
    scripts::{self, Keys},
};
use crate::{
    clock::Timestamp,
    model::Priority,
    queue::{
        Admitted, MAX_MAIL_BYTES, MailLimits, QueueError,
        mailbox::{Content, Decision, Entry, Id, Mail, Source},
    },
};

/// The most orphans of one slice: the longest waiting, and as many of the newest.
const MAX_ORPHANS: usize = 100;

/// The implementation of the mailbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mailbox {
    Server,
    Cluster,
}

impl Mailbox {
    /// The keys of a script that sees the mailbox where it can.
    pub(super) fn keys(self, keys: &Keys) -> &[String] {
        match self {
            Self::Server => keys.with_mailbox(),
            Self::Cluster => keys.queue(),
        }
    }

    pub(super) async fn read(self, queue: &RedisQueue, limits: MailLimits) -> Result<Mail, QueueError> {
        match self {
            Self::Server => server::read(queue, limits).await,
            // Boxed, so that a run without a cluster does not carry this large future.
            Self::Cluster => Box::pin(cluster::read(queue, limits)).await,
        }
    }

    /// Merges a slice and deletes it from the mailbox.
    pub(super) async fn admit(
        self,
        queue: &RedisQueue,
        now: Timestamp,
        mail: &Mail,
        decided: Vec<(&Entry, Decision)>,
    ) -> Result<Admitted, QueueError> {
        match self {
            Self::Server => merge(queue, now, mail, &decided).await,
            Self::Cluster => Box::pin(cluster::admit(queue, now, mail, decided)).await,
        }
    }

    /// The number of entries in the mailbox and the heads of its priorities, where `stats.lua` does not see them; else nothing.
    pub(super) async fn count_apart(self, queue: &RedisQueue) -> Result<(u64, Vec<HeadRow>), QueueError> {
        match self {
            Self::Server => Ok((0, Vec::new())),
            Self::Cluster => Box::pin(cluster::count(queue)).await,
        }
    }
}

/// Merges a slice in one script. On one server the script also compares the mail with what was read, and deletes it.
async fn merge(
    queue: &RedisQueue,
    now: Timestamp,
    mail: &Mail,
    decided: &[(&Entry, Decision)],
) -> Result<Admitted, QueueError> {
    let scan = mail.scan.clone().unwrap_or_default();
    let mut arguments = Arguments::default();
    arguments.number(now.as_millis()).number(queue.limits.dead_entries);
    arguments.text(&scan.from).text(&scan.to).number(MAX_MAIL_BYTES).number(decided.len());
    for (entry, decision) in decided {
        match queue.mailbox {
            Mailbox::Server => arguments.entry(entry),
            Mailbox::Cluster => arguments.entry(&entry.without_content()),
        };
        arguments.decision(decision, now);
    }
    let call = Call::Script(&scripts::ADMIT, queue.mailbox.keys(&queue.keys), &arguments);
    // Safe to repeat: the script compares first, and a second run of it finds the mail changed. On a cluster the second run merges
    // the same requests again, which changes only the count of merges.
    let reply: AdmitReply = queue.link.ask("admitting mail", call).await?;
    let AdmitReply { admitted, unreadable, changed, orphaned, orphans_dropped, found_by_scan, repaired } = reply;
    let (repaired, more) = (repair::repaired(&repaired), mail.more);
    Ok(Admitted { admitted, unreadable, changed, orphaned, orphans_dropped, found_by_scan, repaired, more })
}

fn entry_of(queue: &RedisQueue, row: MailRow) -> Result<Entry, QueueError> {
    let MailRow { source, id, id_bytes, digest, score, content, bytes, value } = row;
    let odd = |what: &str| queue.link.unexpected("reading mail", format!("a row with the {what}"));
    let id = if digest.is_empty() { Id::Whole(id) } else { Id::TooLong { bytes: id_bytes, head: id, digest } };
    let source = match source.as_str() {
        "index" => Source::Index { score },
        "orphan" => {
            let (priority, since) = orphan_score(&score).ok_or_else(|| odd(&format!("score {score}")))?;
            Source::Orphan { priority, since }
        }
        "scan" => Source::Scan,
        _ => return Err(odd(&format!("source {source}"))),
    };
    let content = match content.as_str() {
        "missing" => Content::Missing,
        "value" => Content::Value(value),
        "large" => Content::TooLarge { bytes, head: value },
        _ => return Err(odd(&format!("content {content}"))),
    };
    Ok(Entry { id, source, content })
}

/// An orphan's score is the time when it was first seen, with a quarter of a millisecond for each priority below CRITICAL.
#[expect(clippy::cast_possible_truncation, reason = "milliseconds of this millennium fit both")]
pub(super) fn orphan_score(score: &str) -> Option<(Priority, Timestamp)> {
    let score: f64 = score.parse().ok()?;
    let priority = Priority::nearest((score.fract() * 4.0).round() as i64);
    Some((priority, Timestamp::from_millis(score.trunc() as i64)))
}
