//! What is remembered of a clan's war beside its document: where its league stands, and when to look again.

use time::{PrimitiveDateTime, format_description::BorrowedFormatItem, macros::format_description};

use super::Tag;
use crate::clock::Timestamp;

/// What the next fetch of a clan's war, and the time of the next look, depend on. Stored with the object.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct WarMemory {
    /// The clan is in no league war until at least then.
    pub none_until: Option<Timestamp>,
    /// The clan's war of the current round, and until when that is worth asking without reading the group again.
    pub war_tag: Option<String>,
    pub war_tag_until: Option<Timestamp>,
    /// The war whose document is stored, when it has times at all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub war: Option<Box<KnownWar>>,
    /// A round of a league has been seen to its end; the next one is to be looked for.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub seeks_next_round: bool,
}

/// A war as far as time is concerned.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct KnownWar {
    /// `preparation`, `inWar` or `warEnded`.
    pub state: String,
    pub starts: Timestamp,
    pub ends: Timestamp,
    /// Who sees the same war from the other side.
    pub opponent: Option<Tag>,
    /// It is over, and its last attacks are in.
    pub is_final: bool,
}

impl KnownWar {
    /// An attack that was begun before the end may still be fought out so long after it.
    pub const LAST_ATTACK: std::time::Duration = std::time::Duration::from_secs(3 * 60);

    pub const PREPARATION: &'static str = "preparation";
    pub const IN_WAR: &'static str = "inWar";
    pub const ENDED: &'static str = "warEnded";

    /// Whether it is prepared or fought.
    #[must_use]
    pub fn is_on(&self) -> bool {
        matches!(self.state.as_str(), Self::PREPARATION | Self::IN_WAR)
    }
}

/// The game's way to write a time: `20241127T204939.000Z`.
#[must_use]
pub fn game_time(text: &str) -> Option<Timestamp> {
    const FORMAT: &[BorrowedFormatItem<'_>] = format_description!("[year][month][day]T[hour][minute][second]");
    let time = PrimitiveDateTime::parse(text.get(..15)?, FORMAT).ok()?;
    Some(Timestamp::from_utc(time.assume_utc()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_games_times_are_read() {
        let expected = "2024-11-27T20:49:39.000Z";
        assert_eq!(game_time("20241127T204939.000Z").unwrap().to_string(), expected);
        assert_eq!(game_time("20241127T2049"), None);
        assert_eq!(game_time("2024-11-27T20:49:39Z"), None);
    }
}
