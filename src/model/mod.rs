//! The values of the domain, without I/O.
//!
//! A producer's [`RefreshRequest`] asks for one [`ObjectId`] (a clan, a player, a clan's current war) at a [`Priority`]; the API
//! returns a [`Document`] or the fact that there is none ([`Answered`]). The result of a request is its [`Outcome`].

mod aimd;
mod change;
mod endpoint_kind;
mod fingerprint;
mod kind;

mod outcome;
mod priority;
mod request;
mod snapshot;
mod tag;
pub mod text;
mod war;

pub use aimd::AimdState;
pub use change::{Before, Change, Event, Learned, MemberSeen, Move, OutboxEntry};
pub use endpoint_kind::EndpointKind;
pub use fingerprint::Fingerprint;
pub use kind::{Kind, ObjectId, UnknownKind};

pub use outcome::{Outcome, Reason};
pub use priority::{Priority, UnknownPriority};
pub use request::{FollowUp, MAX_REQUEST_DELAY, RefreshRequest};
pub use snapshot::{
    Answered, ClanDocument, Document, Fetched, InClan, Json, Member, PlayerDocument, WarDocument, WarMember,
    content_hash,
};
pub use tag::{ImpossibleTag, Tag};
pub use war::{KnownWar, WarMemory, game_time};
