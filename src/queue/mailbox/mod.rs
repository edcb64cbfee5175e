//! The mailbox: the two keys that the producers write, and the format of its entries.
//!
//! Values only; the queue's implementations read and write the keys. What was read stays bytes until [`Entry::decide`] says
//! what becomes of it: ids and values are free text, and may not even be text. `entry` has the entries and the decision,
//! `wire` the JSON of the producers, `escape` the way from bytes to text and back.

mod entry;
mod escape;
mod wire;

use std::time::Duration;

pub(super) use self::wire::asked_at;
pub use self::{
    entry::{Content, DeadEntry, Decision, Entry, Id, InvalidEntry, MAX_KEPT_BYTES, Source},
    escape::{digest, escape, unescape},
    wire::{class_of_score, compose},
};
use super::repaired::Repaired;

/// The producers' index: a sorted set, request id by priority.
pub const INDEX: &str = "refresh_queue";

/// The producers' data: a hash, request id to a JSON text.
pub const DATA: &str = "refresh_requests";

/// Mail with a longer id or value, in bytes, is not read: it becomes a dead letter with its size.
pub const MAX_MAIL_BYTES: usize = 64 * 1024;

/// An index entry waits this long for its data before it is dropped and counted.
pub const ORPHAN_TIMEOUT: Duration = Duration::from_secs(10 * 60);

/// The bounds of one slice of mail.
#[derive(Clone, Copy, Debug)]
pub struct MailLimits {
    /// Entries of each priority: the oldest of the sample.
    pub per_class: usize,
    /// Further entries that one step of the scan through the data takes, of whatever priority. A server that counts fields and
    /// values apart takes about half as many. Long ids are only found again among this many (`mail.lua`).
    pub scan: usize,
    /// Bytes of values altogether.
    pub bytes: usize,
}

impl Default for MailLimits {
    fn default() -> Self {
        // At most 2,000 entries and 1 MB: a script must not block the server for long.
        Self { per_class: 250, scan: 1000, bytes: 1024 * 1024 }
    }
}

impl MailLimits {
    /// The share of the bytes that each priority, the orphans and the scan have for themselves.
    pub(crate) const fn bytes_of_part(&self) -> usize {
        // Four priorities, the orphans and the scan.
        self.bytes / 6
    }

    /// The number of entries that are sampled from each end of a priority.
    pub(crate) const fn reach(&self) -> usize {
        2 * self.per_class
    }

    /// The bytes that are sampled of each priority.
    pub(crate) const fn bytes_of_sample(&self) -> usize {
        4 * self.bytes_of_part()
    }
}

/// The result of admitting one slice of mail.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Admitted {
    /// Requests merged into the queue.
    pub admitted: usize,
    /// Entries that became dead letters: unreadable, unknown type, impossible tag, too large.
    pub unreadable: usize,
    /// Entries whose value changed between reading and admitting; they stay for the next slice.
    pub changed: usize,
    /// Index entries without data, set aside to wait for it.
    pub orphaned: usize,
    /// Index entries whose data did not come in time; dropped.
    pub orphans_dropped: usize,
    /// Data without an index entry, found by the scan and admitted.
    pub found_by_scan: usize,
    /// Records that had to be repaired before they could take a request.
    pub repaired: Repaired,
    /// True when more mail waits than this slice held.
    pub more: bool,
}

/// A slice of the mailbox, not yet decoded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mail {
    pub entries: Vec<Entry>,
    /// True when more mail waits than this slice holds.
    pub more: bool,
    /// The step of the scan for data without an index entry; admitting the slice moves the cursor.
    pub scan: Option<ScanStep>,
}

/// A step of the data scan, as cursors of `HSCAN`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScanStep {
    pub from: String,
    pub to: String,
}

impl Default for ScanStep {
    /// A step over nothing.
    fn default() -> Self {
        Self { from: "0".to_owned(), to: "0".to_owned() }
    }
}
