//! What the API said about an object: the document as received, and the columns the tables want from it.

use std::{
    fmt,
    ops::Deref,
    sync::{Arc, OnceLock},
};

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
    /// The size of its document.
    #[must_use]
    pub fn bytes(&self) -> usize {
        match &self.answered {
            Answered::Document(document) => document.json().len(),
            Answered::Gone | Answered::PrivateWarLog | Answered::UnknownState(_) => 0,
        }
    }

    /// What of the answer could not be believed or read, for the report. Nothing that cannot be undone follows from it.
    #[must_use]
    pub fn doubt(&self) -> Option<String> {
        match &self.answered {
            Answered::Document(Document::Clan(clan)) if clan.has_all_members => None,
            Answered::Document(Document::Clan(clan)) if clan.members.is_empty() => Some(
                "its member list contradicts itself or its count; who comes and who leaves is not seen while it does"
                    .to_owned(),
            ),
            Answered::Document(Document::Clan(_)) => Some(
                "an entry of its member list cannot be read; leaves are not recorded until that ends"
                    .to_owned(),
            ),
            Answered::Document(Document::Player(PlayerDocument { clan: InClan::Unknown, .. })) => {
                Some("its clan cannot be read; where the player is stays as stored".to_owned())
            }
            Answered::Document(Document::War(war)) if !war.is_whole => {
                Some("its war is not whole or contradicts itself; attacks and its end are not taken from it".to_owned())
            }
            Answered::UnknownState(state) => {
                Some(format!("the API says the state `{state}`, which is not known; what is stored of the war stays"))
            }
            Answered::Document(_) | Answered::Gone | Answered::PrivateWarLog => None,
        }
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
    /// A war in a state that is not known, or that is no state: it says nothing about the war that is stored, which stays.
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

    /// SHA-256 of the document as received; reckoned once.
    #[must_use]
    pub fn content_hash(&self) -> [u8; 32] {
        let json = self.text();
        *json.hash.get_or_init(|| content_hash(&json.text))
    }

    /// Keeps something for as long as the document is kept: its share of the memory that all answers have.
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

/// A JSON text, and its hash once that was asked for.
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
    /// As the clan counts them.
    pub member_count: i32,
    /// Nobody when the list contradicts itself or the count.
    pub members: Vec<Member>,
    /// Whether the list is whole: all entries could be read, each once, and as many as the clan counts. Else who is not
    /// among the members may be in the clan all the same.
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
    pub clan: InClan,
}

/// Where a player's document puts the player.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum InClan {
    /// In no clan.
    #[default]
    None,
    Known(Tag),
    /// The document names a clan that cannot be read, or contradicts itself: it places the player nowhere.
    Unknown,
}

impl From<Option<Tag>> for InClan {
    fn from(clan: Option<Tag>) -> Self {
        clan.map_or(Self::None, Self::Known)
    }
}

/// `/clans/{tag}/currentwar`, or a league war with our clan put on the `clan` side.
#[derive(Clone, Debug)]
pub struct WarDocument {
    pub json: Json,
    /// `notInWar`, `preparation`, `inWar` or `warEnded`.
    pub state: String,
    /// Our side's players; empty when there is no war, or it is not whole.
    pub members: Vec<WarMember>,
    /// The other side; absent when there is no war, or it cannot be read.
    pub opponent: Option<Tag>,
    pub starts: Option<Timestamp>,
    pub ends: Option<Timestamp>,
    /// Whether the document has what its state needs and does not contradict itself. Else no war ends by it.
    pub is_whole: bool,
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
