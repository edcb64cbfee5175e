//! What both queues do alike for an operator: which dead letters are meant, how they look, how a record is exported.
//! Values only.

use super::{
    DeadFilter, DeadLetter, DeadRequest, Exported,
    mailbox::compose,
    record::{Letter, Record, State},
};
use crate::{clock::Timestamp, model::ObjectId};

/// A dead letter as it is kept.
#[derive(Clone, Debug)]
pub(super) enum DeadEntry {
    Object(String, Record),
    Mail(String, Letter),
}

impl DeadEntry {
    /// Reads what is stored under a name; `None` when that is no dead letter.
    pub(super) fn read(name: &str, json: &[u8]) -> Option<Self> {
        if name.starts_with("mail:") {
            return serde_json::from_slice(json).ok().map(|letter| Self::Mail(name.to_owned(), letter));
        }
        let record: Record = serde_json::from_slice(json).ok()?;
        (record.state == State::Dead).then(|| Self::Object(name.to_owned(), record))
    }

    pub(super) fn name(&self) -> &str {
        match self {
            Self::Object(name, _) | Self::Mail(name, _) => name,
        }
    }

    pub(super) fn died(&self) -> Timestamp {
        match self {
            Self::Object(_, record) => record.died.unwrap_or_default(),
            Self::Mail(_, letter) => letter.died,
        }
    }

    fn code(&self) -> &str {
        match self {
            Self::Object(_, record) => record.code.as_deref().unwrap_or_default(),
            Self::Mail(_, letter) => &letter.code,
        }
    }

    /// Mail of which only the start was kept cannot be brought back.
    pub(super) fn can_be_redriven(&self) -> bool {
        match self {
            Self::Object(..) => true,
            Self::Mail(_, letter) => letter.value.is_some(),
        }
    }

    pub(super) fn is_meant_by(&self, filter: &DeadFilter) -> bool {
        let kind = self.name().parse::<ObjectId>().ok().map(|object| object.kind);
        (filter.names.is_empty() || names(filter).iter().any(|name| name == self.name()))
            && filter.kind.is_none_or(|wanted| kind == Some(wanted))
            && filter.reason_code.as_ref().is_none_or(|wanted| wanted == self.code())
            && filter.died_before.is_none_or(|before| self.died() < before)
    }

    pub(super) fn letter(&self) -> DeadLetter {
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
                    first_asked: record.wanted.first,
                    last_asked: record.wanted.last,
                    merges: record.merges,
                }),
                score: None,
                can_be_redriven: true,
            },
            Self::Mail(_, letter) => DeadLetter {
                name,
                died,
                reason_code,
                reason: letter.reason.clone(),
                attempts: 0,
                lapses: 0,
                body: letter.value.as_deref().map(super::record::clip).or(letter.body.as_deref()).map(str::to_owned),
                request: None,
                score: Some(letter.score.clone()),
                can_be_redriven: self.can_be_redriven(),
            },
        }
    }
}

/// The names that a filter means, objects in the queue's spelling.
pub(super) fn names(filter: &DeadFilter) -> Vec<String> {
    let spelled = |name: &String| name.parse::<ObjectId>().map_or_else(|_| name.clone(), |object| object.to_string());
    filter.names.iter().map(spelled).collect()
}

pub(super) fn newest_first(mut entries: Vec<DeadEntry>, limit: usize) -> Vec<DeadEntry> {
    entries.sort_by(|one, other| (other.died(), other.name()).cmp(&(one.died(), one.name())));
    entries.dedup_by(|one, other| one.name() == other.name());
    entries.truncate(limit);
    entries
}

/// Records in the mailbox's format, the best class first.
pub(super) fn exported(records: impl Iterator<Item = (ObjectId, Record)>, now: Timestamp) -> Vec<Exported> {
    let mut all: Vec<Exported> = records
        .map(|(object, record)| {
            let id = object.to_string();
            let value = compose(&id, &object, &record, now);
            Exported { id, score: record.wanted_in_all().priority.as_number(), value }
        })
        .collect();
    all.sort_by(|one, other| (one.score, &one.id).cmp(&(other.score, &other.id)));
    all
}

/// The id under which a record goes back when newer mail lies under its name.
pub(super) fn second_id(name: &str, now: Timestamp) -> String {
    format!("{name}-returned-{}", now.as_millis())
}
