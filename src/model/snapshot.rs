//! What the API said about an object: the document as received, and the columns the tables want from it.

use std::{ops::Deref, sync::OnceLock};

use sha2::{Digest, Sha256};

use super::{Kind, ObjectId, Tag, WarMemory};
use crate::clock::Timestamp;

/// One answered fetch, ready to be stored.
#[derive(Clone, Debug)]
pub struct Fetched {
    pub object: ObjectId,
    /// When the (last) call for it began. Of two answers for one object the later begun is the newer.
    pub began: Timestamp,
    /// When the copy we were given may have been made: [`began`](Self::began) less the age that `max-age` allows, at
    /// most 120 s. What it says of who is in which clan speaks of this moment.
    pub copied_at: Timestamp,
    /// Until when the API would give the same bytes again (`max-age`, capped at 1 h).
    pub fresh_until: Timestamp,
    pub answered: Answered,
    /// For wars: what was learned about the war and the clan's league, to be remembered with the object.
    pub league: Option<WarMemory>,
}

impl Fetched {
    /// Whether it is a clan some of whose members could not be read.
    #[must_use]
    pub const fn lacks_members(&self) -> bool {
        matches!(&self.answered, Answered::Document(Document::Clan(clan)) if !clan.has_all_members)
    }
}

/// The API's word on an object that is final for now.
#[derive(Clone, Debug)]
pub enum Answered {
    Document(Document),
    /// 404.
    Gone,
    /// 403 without a message on a war endpoint.
    PrivateWarLog,
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

    /// SHA-256 of the document as received; reckoned once.
    #[must_use]
    pub fn content_hash(&self) -> [u8; 32] {
        let json = self.text();
        *json.hash.get_or_init(|| content_hash(&json.text))
    }

    const fn text(&self) -> &Json {
        match self {
            Self::Clan(clan) => &clan.json,
            Self::Player(player) => &player.json,
            Self::War(war) => &war.json,
        }
    }
}

/// A JSON text, and its hash once that was asked for.
#[derive(Clone, Debug)]
pub struct Json {
    text: String,
    hash: OnceLock<[u8; 32]>,
}

impl Json {
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl From<String> for Json {
    fn from(text: String) -> Self {
        Self { text, hash: OnceLock::new() }
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
    pub members: Vec<Member>,
    /// Whether all entries of the list could be read. Else who is not among the members may be in the clan all the same.
    pub has_all_members: bool,
}

/// One entry of a clan's `memberList`: a short form of a player.
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
    /// `None`: in no clan.
    pub clan: Option<Tag>,
}

/// `/clans/{tag}/currentwar`, or a league war with our clan put on the `clan` side.
#[derive(Clone, Debug)]
pub struct WarDocument {
    pub json: Json,
    /// `notInWar`, `preparation`, `inWar` or `warEnded`.
    pub state: String,
    /// Our side's players; empty when there is no war.
    pub members: Vec<WarMember>,
    /// The other side; absent when there is no war.
    pub opponent: Option<Tag>,
    pub starts: Option<Timestamp>,
    pub ends: Option<Timestamp>,
}

/// A player of our side in a war.
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
