//! Dead letters: what an operator sees, how they are selected, and how records return to the mailbox.
//!
//! Values only, shared by the memory queue and Redis.

use super::{
    mailbox::{DeadEntry, compose, unescape},
    record::{Record, State, clip},
};
use crate::{
    clock::Timestamp,
    model::{Kind, ObjectId, Priority},
};

/// A request that failed for good and waits for a person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// `clan:2PP`, or `mail:<id>` for mail that could not be read.
    pub name: String,
    pub died: Timestamp,
    pub reason_code: String,
    pub reason: String,
    pub attempts: u32,
    pub lapses: u32,
    /// The start of the response or of the mail.
    pub body: Option<String>,
    /// The request; `None` for mail that could not be read.
    pub request: Option<DeadRequest>,
    /// The score that unreadable mail had.
    pub score: Option<String>,
    /// False for mail of which only the start was kept.
    pub can_be_redriven: bool,
}

/// The request of a dead letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadRequest {
    pub priority: Priority,
    pub first_requested: Timestamp,
    pub last_requested: Timestamp,
    /// Requests merged so far; shows whether the dead letter is still as it was listed.
    pub merges: u64,
}

/// Selects dead letters.
#[derive(Clone, Debug, Default)]
pub struct DeadFilter {
    /// Only these names; empty means any.
    pub names: Vec<String>,
    pub kind: Option<Kind>,
    pub reason_code: Option<String>,
    /// Only those that died before this time.
    pub died_before: Option<Timestamp>,
}

/// A queue entry in the mailbox's own format, for going back to the old worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exported {
    pub id: String,
    pub score: u8,
    /// The JSON value as the Python producer writes it.
    pub value: String,
}

/// A dead letter as the queue keeps it.
#[derive(Clone, Debug)]
pub(super) enum KeptDeadLetter {
    Object(String, Record),
    Entry(String, DeadEntry),
}

impl KeptDeadLetter {
    /// Reads what is stored under a name; `None` when that is not a dead letter.
    pub(super) fn read(name: &str, json: &[u8]) -> Option<Self> {
        // No object has this kind.
        if name.starts_with("mail:") {
            return serde_json::from_slice(json).ok().map(|entry| Self::Entry(name.to_owned(), entry));
        }
        let record: Record = serde_json::from_slice(json).ok()?;
        (record.state == State::Dead).then(|| Self::Object(name.to_owned(), record))
    }

    pub(super) fn name(&self) -> &str {
        match self {
            Self::Object(name, _) | Self::Entry(name, _) => name,
        }
    }

    pub(super) fn died(&self) -> Timestamp {
        match self {
            Self::Object(_, record) => record.died.unwrap_or_default(),
            Self::Entry(_, entry) => entry.died,
        }
    }

    fn code(&self) -> &str {
        match self {
            Self::Object(_, record) => record.code.as_deref().unwrap_or_default(),
            Self::Entry(_, entry) => &entry.code,
        }
    }

    /// False for an entry of which only the start was kept.
    pub(super) fn can_be_redriven(&self) -> bool {
        match self {
            Self::Object(..) => true,
            Self::Entry(_, entry) => entry.value.is_some(),
        }
    }

    pub(super) fn matches(&self, filter: &DeadFilter) -> bool {
        let kind = self.name().parse::<ObjectId>().ok().map(|object| object.kind);
        (filter.names.is_empty() || names(filter).iter().any(|name| name == self.name()))
            && filter.kind.is_none_or(|wanted| kind == Some(wanted))
            && filter.reason_code.as_ref().is_none_or(|wanted| wanted == self.code())
            && filter.died_before.is_none_or(|before| self.died() < before)
    }

    pub(super) fn shown(&self) -> DeadLetter {
        let (name, died, reason_code) = (self.name().to_owned(), self.died(), self.code().to_owned());
        match self {
            Self::Object(_, record) => DeadLetter {
                name,
                died,
                reason_code,
                reason: record.reason.clone().unwrap_or_default(),
                attempts: record.wanted.attempts,
                lapses: record.lapses,
                body: record.body.clone(),
                request: Some(DeadRequest {
                    priority: record.wanted.priority,
                    first_requested: record.wanted.first,
                    last_requested: record.wanted.last,
                    merges: record.merges,
                }),
                score: None,
                can_be_redriven: true,
            },
            Self::Entry(_, entry) => DeadLetter {
                name,
                died,
                reason_code,
                reason: entry.reason.clone(),
                attempts: 0,
                lapses: 0,
                body: entry.value.as_deref().map(clip).or(entry.body.as_deref()).map(str::to_owned),
                request: None,
                score: Some(entry.score.clone()),
                can_be_redriven: self.can_be_redriven(),
            },
        }
    }
}

/// Id and value of a dead entry as they lay in the mailbox.
pub(super) fn mailed(name: &str, entry: &DeadEntry) -> (Vec<u8>, Vec<u8>) {
    let id = unescape(name.strip_prefix("mail:").unwrap_or(name));
    (id, unescape(entry.value.as_deref().unwrap_or_default()))
}

/// The names of a filter, objects in the queue's spelling.
pub(super) fn names(filter: &DeadFilter) -> Vec<String> {
    let spelled = |name: &String| name.parse::<ObjectId>().map_or_else(|_| name.clone(), |object| object.to_string());
    filter.names.iter().map(spelled).collect()
}

pub(super) fn newest_first(mut entries: Vec<KeptDeadLetter>, limit: usize) -> Vec<KeptDeadLetter> {
    entries.sort_by(|one, other| (other.died(), other.name()).cmp(&(one.died(), one.name())));
    // A filter may name one dead letter twice.
    entries.dedup_by(|one, other| one.name() == other.name());
    entries.truncate(limit);
    entries
}

/// Records in the mailbox's format, the best priority first.
pub(super) fn exported(records: impl Iterator<Item = (ObjectId, Record)>, now: Timestamp) -> Vec<Exported> {
    let mut all: Vec<Exported> = records
        .map(|(object, record)| {
            // The object's name is a valid id: the old worker uses such ids itself.
            let id = object.to_string();
            let value = compose(&id, &object, &record, now);
            Exported { id, score: record.wanted_in_all().priority.as_number(), value }
        })
        .collect();
    all.sort_by(|one, other| (one.score, &one.id).cmp(&(other.score, &other.id)));
    all
}

/// The id under which a record returns to the mailbox when newer mail lies under its name.
pub(super) fn second_id(name: &str, now: Timestamp) -> String {
    format!("{name}-returned-{}", now.as_millis())
}
