//! The kinds of API endpoints that the worker calls.

use std::fmt;

/// A kind of endpoint. The circuit of a failing endpoint covers one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EndpointKind {
    Clan,
    Player,
    /// `currentwar`, of the clan or of its opponent.
    CurrentWar,
    /// `currentwar/leaguegroup`.
    LeagueGroup,
    /// `clanwarleagues/wars`.
    LeagueWar,
}

impl EndpointKind {
    pub const ALL: [Self; 5] = [Self::Clan, Self::Player, Self::CurrentWar, Self::LeagueGroup, Self::LeagueWar];

    /// The endpoint that a request of this kind calls first and always needs.
    #[must_use]
    pub const fn of(kind: super::Kind) -> Self {
        match kind {
            super::Kind::Clan => Self::Clan,
            super::Kind::Player => Self::Player,
            super::Kind::War => Self::CurrentWar,
        }
    }

    /// The kind of the requests that call this endpoint.
    #[must_use]
    pub const fn kind(self) -> super::Kind {
        match self {
            Self::Clan => super::Kind::Clan,
            Self::Player => super::Kind::Player,
            Self::CurrentWar | Self::LeagueGroup | Self::LeagueWar => super::Kind::War,
        }
    }

    /// The name in Redis keys, reports and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Clan => "clan",
            Self::Player => "player",
            Self::CurrentWar => "current_war",
            Self::LeagueGroup => "league_group",
            Self::LeagueWar => "league_war",
        }
    }
}

impl fmt::Display for EndpointKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
