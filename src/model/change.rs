//! What a commit found out beside what became of each answer: the facts that follow-ups, events and caches are made of.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::{ObjectId, Tag};
use crate::clock::Timestamp;

/// What storing one answer brought to light. Empty unless the store was asked to tell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Learned {
    /// Of a clan: its members, as far as its list has the newest word on them.
    pub members: Vec<MemberSeen>,
    /// Of an answer that brought other content.
    pub change: Option<Change>,
}

/// A member of a clan that was refreshed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberSeen {
    pub tag: Tag,
    /// When the call began that fetched the player's full document; `None`: never.
    pub fetched_at: Option<Timestamp>,
    /// The list shows other trophies or donations than were stored.
    pub is_active: bool,
}

/// An answer brought other content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub before: Before,
}

/// What was stored before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Before {
    /// This is the first document of the object.
    Nothing,
    /// There was one, and it is not to be had any more.
    Unknown,
    /// As it was received.
    Document(String),
}

/// What other programs are told: one entry of a stream, as names and values.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event(pub Vec<(Cow<'static, str>, String)>);

impl Event {
    #[must_use]
    pub fn of(fields: Vec<(&'static str, String)>) -> Self {
        Self(fields.into_iter().map(|(name, value)| (Cow::Borrowed(name), value)).collect())
    }
}

/// What a commit has to tell others. It is stored with the commit and forgotten when it is told, so that a run that dies in
/// between takes nothing with it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutboxEntry {
    /// Tells it from others; drawn at random.
    #[serde(skip)]
    pub id: i64,
    #[serde(skip)]
    pub stored_at: Timestamp,
    /// For the stream of events.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub events: Vec<Event>,
    /// Objects of which readers hold something old now.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub renewed: Vec<ObjectId>,
    /// Objects with new content, for the caches of an application.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changed: Vec<ObjectId>,
}

impl OutboxEntry {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.events.is_empty() && self.renewed.is_empty() && self.changed.is_empty()
    }
}

/// A player has come to a clan, or left it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Move {
    pub player: Tag,
    pub clan: Tag,
    /// The latest moment at which it can have happened: when the call began that showed it.
    pub seen: Timestamp,
    pub joined: bool,
}
