//! The facts that a commit finds beside the result of each response. Follow-ups, events and cache invalidation use them.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::{ObjectId, Tag};
use crate::clock::Timestamp;

/// The facts found when one response was stored. Empty unless the store was configured to find them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Learned {
    /// The members of a clan for which its list is the newest source.
    pub members: Vec<MemberSeen>,
    /// Present when the response has new content.
    pub change: Option<Change>,
}

/// A member of a refreshed clan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberSeen {
    pub tag: Tag,
    /// The begin of the call that fetched the player's full document; `None`: never fetched.
    pub fetched_at: Option<Timestamp>,
    /// The list differs from the stored trophies or donations.
    pub is_active: bool,
}

/// A change of the content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub before: Before,
}

/// The content that was stored before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Before {
    /// The object has its first document.
    Nothing,
    /// There was a document, which is not available any more.
    Unknown,
    /// The document as it was received.
    Document(String),
}

/// An entry of the event stream, as names and values.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event(pub Vec<(Cow<'static, str>, String)>);

impl Event {
    #[must_use]
    pub fn of(fields: Vec<(&'static str, String)>) -> Self {
        Self(fields.into_iter().map(|(name, value)| (Cow::Borrowed(name), value)).collect())
    }
}

/// An entry of the transactional outbox. It is stored with the commit and deleted when it is delivered, so that a crash in
/// between loses nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutboxEntry {
    /// A random number.
    #[serde(skip)]
    pub id: i64,
    #[serde(skip)]
    pub stored_at: Timestamp,
    /// For the event stream.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub events: Vec<Event>,
    /// Objects whose copies at readers are outdated.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub renewed: Vec<ObjectId>,
    /// Objects with new content, for the caches of the application.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changed: Vec<ObjectId>,
}

impl OutboxEntry {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.events.is_empty() && self.renewed.is_empty() && self.changed.is_empty()
    }
}

/// A player who joined or left a clan.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Move {
    pub player: Tag,
    pub clan: Tag,
    /// The latest time at which it can have happened: the begin of the call that showed it.
    pub seen: Timestamp,
    pub joined: bool,
}
