//! The stored facts of a clan's war beside its document: the state of its league, and the times for the next poll.

use time::{PrimitiveDateTime, format_description::BorrowedFormatItem, macros::format_description};

use super::Tag;
use crate::clock::Timestamp;

/// The facts on which the next fetch of a clan's war and the time of the next poll depend. Stored with the object.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct WarMemory {
    /// The clan is in no league war until this time.
    pub none_until: Option<Timestamp>,
    /// The clan's war of the current round. Until `war_tag_until` it is fetched without reading the group again.
    pub war_tag: Option<String>,
    pub war_tag_until: Option<Timestamp>,
    /// The war of the stored document, if it has times.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub war: Option<Box<KnownWar>>,
    /// A round of a league is over, so the next one is searched.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub seeks_next_round: bool,
}

/// The times of a war.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct KnownWar {
    /// `preparation`, `inWar` or `warEnded`.
    pub state: String,
    pub starts: Timestamp,
    pub ends: Timestamp,
    /// The clan on the other side of the war.
    pub opponent: Option<Tag>,
    /// True when the war is over and its last attacks are counted.
    pub is_final: bool,
}

impl KnownWar {
    /// An attack that began just before the end of the war lasts at most this long.
    pub const MAX_ATTACK_DURATION: std::time::Duration = std::time::Duration::from_secs(3 * 60);

    pub const PREPARATION: &'static str = "preparation";
    pub const IN_WAR: &'static str = "inWar";
    pub const ENDED: &'static str = "warEnded";

    /// True while the war is prepared or fought.
    #[must_use]
    pub fn is_on(&self) -> bool {
        matches!(self.state.as_str(), Self::PREPARATION | Self::IN_WAR)
    }
}

/// Reads a time of the game: `20241127T204939.000Z`.
#[must_use]
pub fn game_time(text: &str) -> Option<Timestamp> {
    const FORMAT: &[BorrowedFormatItem<'_>] = format_description!("[year][month][day]T[hour][minute][second]");
    // The fraction does not matter.
    let time = PrimitiveDateTime::parse(text.get(..15)?, FORMAT).ok()?;
    Some(Timestamp::from_utc(time.assume_utc()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn game_time_is_read() {
        let expected = "2024-11-27T20:49:39.000Z";
        assert_eq!(game_time("20241127T204939.000Z").unwrap().to_string(), expected);
        assert_eq!(game_time("20241127T2049"), None);
        assert_eq!(game_time("2024-11-27T20:49:39Z"), None);
    }
}
