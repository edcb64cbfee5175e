//! The endpoints of the API: their paths, and the greatest age of a copy. Values only.

use std::time::Duration;

use crate::model::{EndpointKind, Tag};

/// An endpoint with its tags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint<'a> {
    Clan(&'a Tag),
    Player(&'a Tag),
    CurrentWar(&'a Tag),
    /// The current war of our opponent, seen from our clan.
    OtherSide {
        opponent: &'a Tag,
        clan: &'a Tag,
    },
    LeagueGroup(&'a Tag),
    /// A war of a league round, seen from the clan whose war is sought.
    LeagueWar {
        war: &'a Tag,
        clan: &'a Tag,
    },
}

impl Endpoint<'_> {
    pub const fn kind(&self) -> EndpointKind {
        match self {
            Self::Clan(_) => EndpointKind::Clan,
            Self::Player(_) => EndpointKind::Player,
            Self::CurrentWar(_) | Self::OtherSide { .. } => EndpointKind::CurrentWar,
            Self::LeagueGroup(_) => EndpointKind::LeagueGroup,
            Self::LeagueWar { .. } => EndpointKind::LeagueWar,
        }
    }

    /// The tag in the path.
    pub const fn tag(&self) -> &Tag {
        match self {
            Self::Clan(tag) | Self::Player(tag) | Self::CurrentWar(tag) | Self::LeagueGroup(tag) => tag,
            Self::OtherSide { opponent, .. } => opponent,
            Self::LeagueWar { war, .. } => war,
        }
    }

    /// The path below the base URL.
    pub fn path(&self) -> String {
        match self {
            Self::Clan(tag) => format!("clans/{}", tag.path_segment()),
            Self::Player(tag) => format!("players/{}", tag.path_segment()),
            Self::CurrentWar(tag) | Self::OtherSide { opponent: tag, .. } => {
                format!("clans/{}/currentwar", tag.path_segment())
            }
            Self::LeagueGroup(tag) => format!("clans/{}/currentwar/leaguegroup", tag.path_segment()),
            Self::LeagueWar { war, .. } => format!("clanwarleagues/wars/{}", war.path_segment()),
        }
    }

    /// The greatest age that a copy may have when it is handed out: the longest `max-age` ever seen.
    pub const fn longest_max_age(&self) -> Duration {
        Duration::from_secs(match self {
            Self::Clan(_) | Self::CurrentWar(_) | Self::OtherSide { .. } => 120,
            Self::Player(_) => 60,
            Self::LeagueGroup(_) | Self::LeagueWar { .. } => 600,
        })
    }

    // Only these can be hidden by a private war log.
    pub(super) const fn is_war(&self) -> bool {
        matches!(self, Self::CurrentWar(_) | Self::OtherSide { .. } | Self::LeagueGroup(_) | Self::LeagueWar { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_escape_tag_hash() {
        let [tag, war] = ["2PP", "8Q8"].map(|tag| tag.parse().unwrap());
        let all = [
            Endpoint::Clan(&tag),
            Endpoint::Player(&tag),
            Endpoint::CurrentWar(&tag),
            Endpoint::LeagueGroup(&tag),
            Endpoint::LeagueWar { war: &war, clan: &tag },
        ];
        insta::assert_snapshot!(all.map(|endpoint| endpoint.path()).join("\n"), @r"
        clans/%232PP
        players/%232PP
        clans/%232PP/currentwar
        clans/%232PP/currentwar/leaguegroup
        clanwarleagues/wars/%238Q8
        ");
    }
}
