//! The words of the domain: values only, no I/O, no async.
//!
//! A producer's [`Wish`] asks for one [`ObjectId`] (a clan, a player, a clan's current war) at a [`Priority`]; the API
//! answers with a [`Document`] or with the fact that there is none ([`Answered`]); what became of a request in the end
//! is its [`Outcome`].

mod fingerprint;
mod kind;
mod outcome;
mod priority;
mod snapshot;
mod tag;
mod wish;

pub use fingerprint::Fingerprint;
pub use kind::{Kind, ObjectId, UnknownKind};
pub use outcome::{Outcome, Reason};
pub use priority::{Priority, UnknownPriority};
pub use snapshot::{
    Answered, ClanDocument, Document, Fetched, LeagueMemory, Member, PlayerDocument, WarDocument, WarMember,
};
pub use tag::{ImpossibleTag, Tag};
pub use wish::{LONGEST_WAIT, Wish};
