//! An entry of the mailbox, and the decision about it.

use serde::{Deserialize, Serialize};

use super::{
    ORPHAN_TIMEOUT,
    escape::{digest, escape},
    wire::{class_of_score, decode},
};
use crate::{
    clock::Timestamp,
    model::{Priority, Reason, RefreshRequest},
    queue::record::{MAX_BODY_BYTES, State},
};

/// A dead letter keeps at most this much of the value of an invalid entry: a longer one cannot be redriven.
pub const MAX_KEPT_BYTES: usize = 3 * 1024;

/// The same bound for its id.
const MAX_KEPT_ID_BYTES: usize = 512;

/// An entry of the mailbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub id: Id,
    pub source: Source,
    pub content: Content,
}

/// The request id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Id {
    Whole(Vec<u8>),
    /// Too long to be read: its size, its start, and a digest by which the queue finds it again.
    TooLong {
        bytes: usize,
        head: Vec<u8>,
        digest: String,
    },
}

impl Id {
    /// The id itself, when it was read.
    pub(in crate::queue) fn whole(&self) -> Option<&[u8]> {
        match self {
            Self::Whole(id) => Some(id),
            Self::TooLong { .. } => None,
        }
    }
}

/// The place where an entry was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// In the index, with this score as Redis writes it.
    Index { score: String },
    /// Among the index entries that wait for their data.
    Orphan { priority: Priority, since: Timestamp },
    /// Data that no index entry points to.
    Scan,
}

impl Source {
    /// The priority that its place in the mailbox says; `None` for data without an index entry.
    fn priority(&self) -> Option<Priority> {
        match self {
            // Redis never returns another text; if it did, the entry would be the least urgent.
            Self::Index { score } => Some(class_of_score(score.parse().unwrap_or(f64::INFINITY))),
            Self::Orphan { priority, .. } => Some(*priority),
            Self::Scan => None,
        }
    }
}

/// The data of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    Missing,
    Value(Vec<u8>),
    /// Too large to be read: its size and its start.
    TooLarge {
        bytes: usize,
        head: Vec<u8>,
    },
}

/// The decision about an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Merge it into the queue.
    Admit(RefreshRequest),
    /// Make it a dead letter.
    Refuse(InvalidEntry),
    /// An index entry without data: let it wait as an orphan, with the priority of its score.
    Orphan(Priority),
    /// Its data did not come in time.
    Drop,
    /// Its data may still come.
    Wait,
}

/// An entry that cannot become a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidEntry {
    /// `mail:<id>`, escaped.
    pub name: String,
    pub reason: Reason,
    /// The score for redriving it.
    pub score: String,
    /// The whole value, escaped, when value and id are short enough to be kept.
    pub value: Option<String>,
    /// Otherwise the start of the value.
    pub body: Option<String>,
}

impl InvalidEntry {
    /// The dead letter it becomes.
    #[must_use]
    pub fn dead_entry(&self, now: Timestamp) -> DeadEntry {
        DeadEntry {
            state: State::Dead,
            died: now,
            code: self.reason.code.to_owned(),
            reason: self.reason.detail.clone(),
            score: self.score.clone(),
            value: self.value.clone(),
            body: self.body.clone(),
        }
    }
}

/// An invalid entry as a dead letter. In Redis it lies beside the records, under `mail:<id>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadEntry {
    pub state: State,
    pub died: Timestamp,
    pub code: String,
    pub reason: String,
    /// The score it had in the mailbox, as Redis writes it.
    pub score: String,
    /// The whole value, escaped, when it is short enough to be kept and redriven.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// Otherwise its start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
}

impl Entry {
    /// Decides what becomes of this entry. `max_attempts` caps the retry count that others wrote, so that a used-up
    /// entry still gets one attempt.
    #[must_use]
    pub fn decide(&self, now: Timestamp, max_attempts: u32) -> Decision {
        // No object has such a long name, whatever the value says.
        if let Id::TooLong { bytes, .. } = &self.id {
            return self.refuse(Reason::new("too_large", format!("the id has {bytes} bytes")));
        }
        match (&self.content, &self.source) {
            (Content::Missing, Source::Orphan { since, .. }) if *since + ORPHAN_TIMEOUT <= now => Decision::Drop,
            (Content::Missing, Source::Orphan { .. }) => Decision::Wait,
            // The producer writes index and data with separate commands, so the data may still come.
            (Content::Missing, source) => Decision::Orphan(source.priority().unwrap_or(Priority::Low)),
            (Content::TooLarge { bytes, .. }, _) => {
                self.refuse(Reason::new("too_large", format!("the value has {bytes} bytes")))
            }
            (Content::Value(value), source) => match decode(value, source.priority(), now, max_attempts) {
                Ok(request) => Decision::Admit(request),
                Err(reason) => self.refuse(reason),
            },
        }
    }

    /// The same entry for a script that cannot see the mailbox and need not compare.
    pub(in crate::queue) fn without_content(&self) -> Self {
        Self { id: self.id.clone(), source: self.source.clone(), content: Content::Missing }
    }

    fn refuse(&self, reason: Reason) -> Decision {
        let (score, head) = match (&self.source, &self.content) {
            (Source::Index { score }, _) => (score.clone(), self.head()),
            (Source::Orphan { priority, .. }, _) => (priority.as_number().to_string(), self.head()),
            (Source::Scan, _) => (Priority::Low.as_number().to_string(), self.head()),
        };
        let kept = match (&self.id, &self.content) {
            (Id::Whole(id), Content::Value(value)) if fits(id, MAX_KEPT_ID_BYTES) => {
                Some(escape(value)).filter(|value| value.len() <= MAX_KEPT_BYTES)
            }
            _ => None,
        };
        // The whole value includes its start.
        let body = if kept.is_some() { None } else { head };
        Decision::Refuse(InvalidEntry { name: self.dead_letter_name(), reason, score, value: kept, body })
    }

    /// The start of the value for people: bytes that are not text are replaced.
    fn head(&self) -> Option<String> {
        let bytes = match &self.content {
            Content::Missing => return None,
            Content::Value(bytes) | Content::TooLarge { head: bytes, .. } => bytes,
        };
        Some(String::from_utf8_lossy(&bytes[..bytes.len().min(MAX_BODY_BYTES)]).into_owned())
    }

    /// `mail:<id>`; for a long id its start, size and digest, so that two of them keep different names.
    fn dead_letter_name(&self) -> String {
        let (head, bytes, digest) = match &self.id {
            // Only a whole id can be redriven.
            Id::Whole(id) if fits(id, MAX_KEPT_ID_BYTES) => return format!("mail:{}", escape(id)),
            // Short enough to be read, but too long for a name.
            Id::Whole(id) => (&id[..], id.len(), digest(id)),
            Id::TooLong { bytes, head, digest } => (&head[..], *bytes, digest.clone()),
        };
        let start = escape(&head[..head.len().min(100)]);
        format!("mail:{start}… ({bytes} bytes, {})", &digest[..digest.len().min(16)])
    }
}

fn fits(bytes: &[u8], limit: usize) -> bool {
    bytes.len() <= limit && escape(bytes).len() <= limit
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_772_600_767_089);

    fn entry(id: &[u8], score: &str, value: &str) -> Entry {
        Entry {
            id: Id::Whole(id.to_vec()),
            source: Source::Index { score: score.to_owned() },
            content: Content::Value(value.as_bytes().to_vec()),
        }
    }

    fn refused(value: &str) -> InvalidEntry {
        match entry(b"any id", "1", value).decide(NOW, 3) {
            Decision::Refuse(invalid) => invalid,
            other => panic!("{value} became {other:?}"),
        }
    }

    #[test]
    fn invalid_entry_names_its_reason() {
        for (value, code) in [
            ("", "not_json"),
            ("[]", "not_json"),
            (r#"{"type":"clan","tag":"2PP""#, "not_json"),
            (r#"{"type":"clam","tag":"2PP"}"#, "unknown_type"),
            (r#"{"tag":"2PP"}"#, "unknown_type"),
            (r#"{"type":"clan","tag":"2PX"}"#, "impossible_tag"),
            (r#"{"type":"clan","tag":220}"#, "impossible_tag"),
        ] {
            let invalid = refused(value);
            assert_eq!(invalid.reason.code, code, "{value}");
            assert_eq!(invalid.value.as_deref(), Some(value));
            assert_eq!(invalid.name, "mail:any id");
        }
    }

    #[test]
    fn dead_entry_keeps_only_start_of_long_value() {
        let invalid = refused(&"x".repeat(MAX_KEPT_BYTES + 1));
        assert_eq!(invalid.value, None);
        assert_eq!(invalid.body.unwrap().len(), MAX_BODY_BYTES);
    }

    #[test]
    fn long_ids_with_same_start_get_two_names() {
        let name = |last: u8| {
            let mut id = vec![b'a'; 5000];
            id.push(last);
            entry(&id, "1", "x").dead_letter_name()
        };
        assert_ne!(name(b'x'), name(b'y'));
        assert!(name(b'x').len() < 200);
    }
}
