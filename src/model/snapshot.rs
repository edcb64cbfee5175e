//! Responses of the API: the document as received, and the columns for the tables.

use std::{
    fmt,
    ops::Deref,
    sync::{Arc, OnceLock},
};

use sha2::{Digest, Sha256};

use super::{Kind, ObjectId, Tag, WarMemory};
use crate::clock::Timestamp;

/// The response to a fetch, ready to be stored.
#[derive(Clone, Debug)]
pub struct Fetched {
    pub object: ObjectId,
    /// The begin of its (last) call. Of two responses for one object, the one that began later is newer.
    pub began: Timestamp,
    /// The earliest time of the cached copy: [`began`](Self::began) minus the age that `max-age` allows, at most 120 s. Clan
    /// memberships in the document are as of this time.
    pub copied_at: Timestamp,
    /// The time until which the API returns the same copy (`max-age`, at most 1 h).
    pub fresh_until: Timestamp,
    pub answered: Answered,
    /// For wars: the facts about the war and the clan's league, stored with the object.
    pub league: Option<WarMemory>,
    /// The first request of a reader that it answers; `None` for a planned look, and when nobody keeps count.
    pub asked: Option<Timestamp>,
}

impl Fetched {
    /// The size of its document.
    #[must_use]
    pub fn bytes(&self) -> usize {
        match &self.answered {
            Answered::Document(document) => document.json().len(),
            Answered::Gone | Answered::PrivateWarLog | Answered::UnknownState(_) => 0,
        }
    }

    /// A warning for the report about parts of the response that are unreadable or contradictory. Such parts are not stored.
    #[must_use]
    pub fn doubt(&self) -> Option<String> {
        match &self.answered {
            Answered::Document(Document::Clan(clan)) if clan.has_all_members => None,
            Answered::Document(Document::Clan(clan)) if clan.members.is_empty() => Some(
                "its member list contradicts itself or its count; joins and leaves are not recorded until that ends"
                    .to_owned(),
            ),
            Answered::Document(Document::Clan(_)) => {
                Some("an entry of its member list cannot be read; leaves are not recorded until that ends".to_owned())
            }
            Answered::Document(Document::Player(PlayerDocument { clan: InClan::Unknown, .. })) => {
                Some("its clan cannot be read; the stored clan stays".to_owned())
            }
            Answered::Document(Document::War(war)) if !war.is_whole => {
                Some("its war is incomplete or contradicts itself; its attacks and its end are not stored".to_owned())
            }
            Answered::UnknownState(state) => Some(format!("its state `{state}` is unknown; the stored war stays")),
            Answered::Document(_) | Answered::Gone | Answered::PrivateWarLog => None,
        }
    }
}

/// A definite response of the API about an object.
#[derive(Clone, Debug)]
pub enum Answered {
    Document(Document),
    /// 404.
    Gone,
    /// 403 without a message on a war endpoint.
    PrivateWarLog,
    /// A war in an unknown state. The stored war stays.
    UnknownState(String),
}

/// A document of one of the three kinds.
#[derive(Clone, Debug)]
pub enum Document {
    Clan(ClanDocument),
    Player(PlayerDocument),
    War(WarDocument),
}

impl Document {
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Clan(_) => Kind::Clan,
            Self::Player(_) => Kind::Player,
            Self::War(_) => Kind::War,
        }
    }

    /// The JSON text as received: bytes, order and unknown keys kept.
    #[must_use]
    pub fn json(&self) -> &str {
        self.text().as_str()
    }

    /// SHA-256 of the document as received, computed once.
    #[must_use]
    pub fn content_hash(&self) -> [u8; 32] {
        // Not every response is stored, so the hash is computed on demand.
        let json = self.text();
        *json.hash.get_or_init(|| content_hash(&json.text))
    }

    /// Attaches a value that is dropped with the document: its share of the memory for all responses.
    pub fn take_along(&mut self, what: impl fmt::Debug + Send + Sync + 'static) {
        let json = match self {
            Self::Clan(clan) => &mut clan.json,
            Self::Player(player) => &mut player.json,
            Self::War(war) => &mut war.json,
        };
        json.along = Some(Arc::new(what));
    }

    const fn text(&self) -> &Json {
        match self {
            Self::Clan(clan) => &clan.json,
            Self::Player(player) => &player.json,
            Self::War(war) => &war.json,
        }
    }
}

/// A JSON text and its cached hash.
#[derive(Clone, Debug)]
pub struct Json {
    text: String,
    hash: OnceLock<[u8; 32]>,
    /// Dropped with the text.
    along: Option<Arc<dyn fmt::Debug + Send + Sync>>,
}

impl Json {
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl From<String> for Json {
    fn from(text: String) -> Self {
        Self { text, hash: OnceLock::new(), along: None }
    }
}

impl Deref for Json {
    type Target = str;

    fn deref(&self) -> &str {
        &self.text
    }
}

/// `/clans/{tag}`.
#[derive(Clone, Debug)]
pub struct ClanDocument {
    pub json: Json,
    pub name: String,
    pub level: Option<i32>,
    pub war_wins: Option<i32>,
    /// Absent when the war log is private.
    pub war_losses: Option<i32>,
    /// The count in the document, which may differ from the list.
    pub member_count: i32,
    /// Empty when the list contradicts itself or the count.
    pub members: Vec<Member>,
    /// True when the list is complete: every entry is readable and unique, and their number is the count. Otherwise a player
    /// who is not in the list may still be a member.
    pub has_all_members: bool,
}

/// An entry of a clan's `memberList`: a short form of a player.
#[derive(Clone, Debug)]
pub struct Member {
    pub tag: Tag,
    /// The entry itself as received.
    pub json: String,
    pub name: String,
    pub role: Option<String>,
    pub town_hall: Option<i32>,
    pub trophies: Option<i32>,
    pub donations: Option<i32>,
    pub donations_received: Option<i32>,
}

/// `/players/{tag}`.
#[derive(Clone, Debug)]
pub struct PlayerDocument {
    pub json: Json,
    pub name: String,
    pub role: Option<String>,
    pub town_hall: Option<i32>,
    pub trophies: Option<i32>,
    pub donations: Option<i32>,
    pub donations_received: Option<i32>,
    pub clan: InClan,
}

/// The clan in a player's document.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum InClan {
    /// In no clan.
    #[default]
    None,
    Known(Tag),
    /// The document names an unreadable clan, or contradicts itself.
    Unknown,
}

impl From<Option<Tag>> for InClan {
    fn from(clan: Option<Tag>) -> Self {
        clan.map_or(Self::None, Self::Known)
    }
}

/// `/clans/{tag}/currentwar`, or a league war with the clan moved to the `clan` side.
#[derive(Clone, Debug)]
pub struct WarDocument {
    pub json: Json,
    /// `notInWar`, `preparation`, `inWar` or `warEnded`.
    pub state: String,
    /// The players of the clan; empty when there is no war, or it is incomplete.
    pub members: Vec<WarMember>,
    /// The other clan; absent when there is no war, or it is unreadable.
    pub opponent: Option<Tag>,
    pub starts: Option<Timestamp>,
    pub ends: Option<Timestamp>,
    /// True when the document has everything that its state requires, without contradictions. Otherwise no war ends by it.
    pub is_whole: bool,
}

/// A player of the clan in a war.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WarMember {
    pub tag: Tag,
    pub attacks_used: i32,
}

/// SHA-256 of a document as received.
#[must_use]
pub fn content_hash(json: &str) -> [u8; 32] {
    Sha256::digest(json.as_bytes()).into()
}
