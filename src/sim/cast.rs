//! The parts that clans play, so that every kind of clan and war is in every world.

/// The part of a clan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// In war, against the next clan of the world when there is one.
    InWar,
    /// The other side of the clan before.
    Opponent,
    Preparation,
    WarEnded,
    /// A war of one attack each.
    FriendlyWar,
    Peace,
    /// A single member.
    Lonely,
    /// In war, but nobody may see it.
    PrivateWar,
    /// In a league, with no war beside it.
    League,
    /// In a league, with the last ordinary war still on show.
    LeagueAfterWar,
    /// In a league, with a private war log.
    PrivateLeague,
    /// Nobody is left.
    Empty,
    /// Fifty members, in war.
    Full,
}

/// The parts, clan by clan, over and over.
const PLAYBILL: [Part; 16] = [
    Part::InWar,
    Part::Opponent,
    Part::League,
    Part::Preparation,
    Part::PrivateWar,
    Part::WarEnded,
    Part::Peace,
    Part::LeagueAfterWar,
    Part::Empty,
    Part::Full,
    Part::League,
    Part::Preparation,
    Part::Opponent,
    Part::FriendlyWar,
    Part::PrivateLeague,
    Part::Lonely,
];

impl Part {
    pub(super) fn of(clan: usize) -> Self {
        PLAYBILL[clan % PLAYBILL.len()]
    }

    /// True when the clan after this one is its opponent.
    pub(super) fn fights_next(clan: usize) -> bool {
        Self::of(clan + 1) == Self::Opponent
    }

    pub(super) fn war_log_public(self) -> bool {
        !matches!(self, Self::PrivateWar | Self::PrivateLeague)
    }

    pub(super) fn in_league(self) -> bool {
        matches!(self, Self::League | Self::LeagueAfterWar | Self::PrivateLeague)
    }

    /// True for clans that keep their members whatever happens: otherwise they could not play their part.
    pub(super) fn keeps_its_people(self) -> bool {
        matches!(self, Self::Empty | Self::Lonely | Self::Full)
    }

    pub(super) fn size(self, random: &mut fastrand::Rng) -> usize {
        match self {
            Self::Empty => 0,
            Self::Lonely => 1,
            Self::Full => 50,
            Self::League | Self::LeagueAfterWar | Self::PrivateLeague => random.usize(18..=42),
            Self::Peace => random.usize(3..=30),
            _ => random.usize(12..=45),
        }
    }
}
