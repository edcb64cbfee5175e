//! The small shapes that several documents share, with their keys in the recorded order.

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use serde::Serialize;
use time::macros::format_description;

use super::{game, names};
use crate::{clock::Timestamp, model::Tag};

/// The badge of a clan without one, as in `notInWar`.
pub(super) const NO_BADGE: u64 = 0;

/// A tag as documents write it, with `#`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HashTag<'a>(pub(super) &'a Tag);

impl Serialize for HashTag<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self.0)
    }
}

/// A moment as documents write it: `20241127T204939.000Z`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment(pub(super) Timestamp);

impl Serialize for Moment {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let format = format_description!("[year][month][day]T[hour][minute][second].000Z");
        serializer.serialize_str(&self.0.to_utc().format(&format).map_err(serde::ser::Error::custom)?)
    }
}

#[derive(Debug, Serialize)]
pub(super) struct BadgeUrls {
    small: String,
    large: String,
    medium: String,
}

impl BadgeUrls {
    pub(super) fn of(badge: u64) -> Self {
        let size = |size| names::asset("badges", size, badge);
        Self { small: size(70), large: size(512), medium: size(200) }
    }
}

#[derive(Debug, Serialize)]
pub(super) struct Named {
    pub(super) id: u32,
    pub(super) name: String,
}

/// A label, old league or league tier: all have pictures, in different sizes.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Pictured {
    id: u32,
    name: String,
    icon_urls: Pictures,
}

#[derive(Debug, Default, Serialize)]
struct Pictures {
    small: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    tiny: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    large: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    medium: Option<String>,
}

pub(super) fn label((id, name): (u32, &str)) -> Pictured {
    let small = names::asset("labels", 64, id.into());
    let medium = Some(names::asset("labels", 128, id.into()));
    Pictured { id, name: name.to_owned(), icon_urls: Pictures { small, medium, ..Pictures::default() } }
}

/// The league of before October 2025, which clan lists still carry. 0 is unranked and has no large picture.
pub(super) fn league(rank: u32) -> Pictured {
    let id = 29_000_000 + rank;
    let name = match rank {
        // Three ranks in each of seven leagues.
        0 => "Unranked".to_owned(),
        1..=21 => {
            let step = rank as usize - 1;
            format!("{} League {}", game::LEAGUES[step / 3], game::RANKS[2 + step % 3])
        }
        _ => "Legend League".to_owned(),
    };
    let size = |size| names::asset("leagues", size, id.into());
    // The recorded unranked league lacks this picture.
    let medium = (rank > 0).then(|| size(288));
    Pictured { id, name, icon_urls: Pictures { small: size(72), tiny: Some(size(36)), medium, ..Pictures::default() } }
}

/// The league tier of the ranked era; 0 is unranked.
pub(super) fn league_tier(tier: u32) -> Pictured {
    let id = 105_000_000 + tier;
    let name = match tier {
        0 => "Unranked".to_owned(),
        _ => format!("{} League {tier}", game::LEAGUE_TIERS[(tier as usize - 1) / 3 % game::LEAGUE_TIERS.len()]),
    };
    let size = |size| names::asset("leaguetiers", size, id.into());
    Pictured { id, name, icon_urls: Pictures { small: size(125), large: Some(size(326)), ..Pictures::default() } }
}

/// The builder base's league by trophies.
pub(super) fn builder_league(trophies: u32) -> Named {
    // About 150 trophies a rank, and 36 ranks.
    let wanted = (trophies as usize / 150).min(35);
    let mut first = 0;
    for (name, ranks) in game::BUILDER_LEAGUES {
        if wanted < first + ranks {
            // The lower leagues have five ranks, the upper ones fewer: the last names are used.
            let rank = game::RANKS[5 - ranks + wanted - first];
            return Named {
                id: 44_000_000 + u32::try_from(wanted).unwrap_or(0),
                name: format!("{name} League {rank}"),
            };
        }
        first += ranks;
    }
    Named { id: 44_000_035, name: "Diamond League".to_owned() }
}

/// A rank of the leagues of wars and of the capital: both count up from unranked, in threes.
pub(super) fn trio_league(first_id: u32, rank: u32) -> Named {
    let name = match (rank as usize).checked_sub(1) {
        None => "Unranked".to_owned(),
        Some(step) => format!("{} League {}", game::LEAGUES[(step / 3).min(6)], game::RANKS[2 + step % 3]),
    };
    Named { id: first_id + rank, name }
}

#[derive(Debug, Serialize)]
pub(super) struct PlayerHouse {
    elements: Vec<HouseElement>,
}

#[derive(Debug, Serialize)]
struct HouseElement {
    #[serde(rename = "type")]
    kind: &'static str,
    id: u32,
}

impl PlayerHouse {
    pub(super) fn of(seed: u64) -> Self {
        let mut random = names::die(seed, 21);
        let elements = ["ground", "walls", "roof", "decoration"];
        let elements = elements.map(|kind| HouseElement { kind, id: 82_000_000 + random.u32(0..137) });
        Self { elements: elements.into() }
    }
}

/// A page of a list.
#[derive(Debug, Serialize)]
pub(super) struct Page<T> {
    pub(super) items: Vec<T>,
    paging: Paging,
}

#[derive(Debug, Serialize)]
struct Paging {
    cursors: Cursors,
}

#[derive(Debug, Serialize)]
struct Cursors {
    #[serde(skip_serializing_if = "Option::is_none")]
    after: Option<String>,
}

impl<T> Page<T> {
    /// The first `limit` items, with a cursor when there are more.
    pub(super) fn first(mut items: Vec<T>, limit: Option<usize>) -> Self {
        let limit = limit.unwrap_or(usize::MAX);
        // The cursor is the position of the next item, as recorded.
        let after = (items.len() > limit).then(|| STANDARD_NO_PAD.encode(format!(r#"{{"pos":{limit}}}"#)));
        items.truncate(limit);
        Self { items, paging: Paging { cursors: Cursors { after } } }
    }
}

/// A document as bytes: compact, as the service sends it.
pub(super) fn bytes(document: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(document).expect("documents have text keys and finite numbers")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn league_names_match_recordings() {
        let name = |pictured: Pictured| (pictured.id, pictured.name);
        assert_eq!(name(league(20)), (29_000_020, "Titan League II".into()));
        assert_eq!(name(league_tier(33)), (105_000_033, "Electro League 33".into()));
        assert_eq!(name(league_tier(2)), (105_000_002, "Skeleton League 2".into()));
        let builder = |trophies| (builder_league(trophies).id, builder_league(trophies).name);
        assert_eq!(builder(24 * 150), (44_000_024, "Iron League II".into()));
        assert_eq!(builder(33 * 150), (44_000_033, "Platinum League II".into()));
        let trio = |first, rank| (trio_league(first, rank).id, trio_league(first, rank).name);
        assert_eq!(trio(48_000_000, 7), (48_000_007, "Gold League III".into()));
        assert_eq!(trio(85_000_000, 9), (85_000_009, "Gold League I".into()));
    }

    #[test]
    fn times_and_cursors_match_recordings() {
        let moment = Moment(Timestamp::from_millis(1_732_740_579_000));
        assert_eq!(serde_json::to_string(&moment).unwrap(), r#""20241127T204939.000Z""#);
        assert_eq!(STANDARD_NO_PAD.encode(br#"{"pos":3}"#), "eyJwb3MiOjN9");
        assert_eq!(STANDARD_NO_PAD.encode(br#"{"pos":50}"#), "eyJwb3MiOjUwfQ");
    }
}
