//! The request of a call: its path, parsed as the real service does it.

use serde::{Deserialize, Serialize};

use crate::model::Tag;

/// The endpoints of the simulator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Endpoint {
    /// `/clans/{tag}`
    Clan,
    /// `/players/{tag}`
    Player,
    /// `/clans/{tag}/currentwar`
    CurrentWar,
    /// `/clans/{tag}/currentwar/leaguegroup`
    LeagueGroup,
    /// `/clanwarleagues/wars/{warTag}`
    LeagueWar,
    /// `/clans/{tag}/warlog`
    WarLog,
    /// `/clans/{tag}/capitalraidseasons`
    RaidSeasons,
    /// Anything else.
    Unknown,
}

impl Endpoint {
    /// The lifetime of a shared copy in seconds: the longest `max-age` recorded.
    pub const fn max_age_seconds(self) -> u64 {
        match self {
            Self::Player => 60,
            Self::Clan | Self::CurrentWar | Self::WarLog | Self::RaidSeasons => 120,
            Self::LeagueGroup | Self::LeagueWar | Self::Unknown => 600,
        }
    }
}

/// A parsed call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Asked {
    /// Path and query as sent, from the version on.
    pub(super) path: String,
    pub(super) endpoint: Endpoint,
    /// `None` when there is no `%23` where a tag belongs, or no tag behind it.
    pub(super) tag: Option<Tag>,
    pub(super) limit: Option<usize>,
}

impl Asked {
    /// Parses a path. The part before the version is left out: it may distinguish callers, as behind a gateway.
    pub(super) fn parse(path_and_query: &str) -> Self {
        let path_and_query = path_and_query.find("/v1/").map_or(path_and_query, |from| &path_and_query[from..]);
        let (path, query) = path_and_query.split_once('?').unwrap_or((path_and_query, ""));
        let segments: Vec<&str> = path.strip_prefix("/v1/").unwrap_or_default().split('/').collect();
        let (endpoint, tag) = match segments[..] {
            ["clans", tag] => (Endpoint::Clan, tag),
            ["players", tag] => (Endpoint::Player, tag),
            ["clans", tag, "currentwar"] => (Endpoint::CurrentWar, tag),
            ["clans", tag, "currentwar", "leaguegroup"] => (Endpoint::LeagueGroup, tag),
            ["clanwarleagues", "wars", tag] => (Endpoint::LeagueWar, tag),
            ["clans", tag, "warlog"] => (Endpoint::WarLog, tag),
            ["clans", tag, "capitalraidseasons"] => (Endpoint::RaidSeasons, tag),
            _ => (Endpoint::Unknown, ""),
        };
        // A limit that is not a number counts as none.
        let limit = query.split('&').find_map(|pair| pair.strip_prefix("limit=")).and_then(|limit| limit.parse().ok());
        // A raw `#` would end the path, so clients have to escape it.
        let tag = tag.strip_prefix("%23").and_then(|tag| Tag::normalise(tag).ok());
        Self { path: path_and_query.to_owned(), endpoint, tag, limit }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_parsed() {
        let asked = Asked::parse("/v1/clans/%232PP/currentwar/leaguegroup");
        assert_eq!((asked.endpoint, asked.tag.unwrap().as_str()), (Endpoint::LeagueGroup, "2PP"));
        let asked = Asked::parse("/v1/clans/%232PP/capitalraidseasons?after=x&limit=3");
        assert_eq!((asked.endpoint, asked.limit), (Endpoint::RaidSeasons, Some(3)));
        assert_eq!(Asked::parse("/gateway/v1/clans/%232PP"), Asked::parse("/v1/clans/%232PP"));
        assert_eq!(Asked::parse("/clans/%232PP").endpoint, Endpoint::Unknown, "the version belongs to the path");
    }

    #[test]
    fn tag_without_encoded_hash_is_refused() {
        assert_eq!(Asked::parse("/v1/clans/2PP").tag, None);
        assert_eq!(Asked::parse("/v1/players/%23").tag, None);
    }
}
