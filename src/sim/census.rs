//! The tags of the world that can be requested.

use serde::Serialize;

use crate::model::Tag;

/// The tags of a world, by the kind of their responses. In fixtures mode: the tags of the recordings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Census {
    pub(super) clans: Vec<Tag>,
    pub(super) players: Vec<Tag>,
    pub(super) clanless_players: Vec<Tag>,
    pub(super) in_war: Vec<Tag>,
    pub(super) preparation: Vec<Tag>,
    pub(super) war_ended: Vec<Tag>,
    pub(super) not_in_war: Vec<Tag>,
    pub(super) private_war_log: Vec<Tag>,
    pub(super) in_league: Vec<Tag>,
    pub(super) league_wars: Vec<Tag>,
    pub(super) unknown: Option<Tag>,
}

impl Census {
    pub fn clan_tags(&self) -> &[Tag] {
        &self.clans
    }

    /// All players, in a clan or not.
    pub fn player_tags(&self) -> &[Tag] {
        &self.players
    }

    pub fn clanless_player_tags(&self) -> &[Tag] {
        &self.clanless_players
    }

    /// Clans whose `currentwar` is in state `inWar`. Clans with a private war log are in none of the four lists of
    /// states.
    pub fn clans_in_war(&self) -> &[Tag] {
        &self.in_war
    }

    pub fn preparation(&self) -> &[Tag] {
        &self.preparation
    }

    pub fn ended(&self) -> &[Tag] {
        &self.war_ended
    }

    pub fn not_in_war(&self) -> &[Tag] {
        &self.not_in_war
    }

    pub fn private_war_log(&self) -> &[Tag] {
        &self.private_war_log
    }

    /// Clans that have a league group, whatever their `currentwar` says.
    pub fn in_league(&self) -> &[Tag] {
        &self.in_league
    }

    /// Tags of the league wars that are drawn.
    pub fn league_war_tags(&self) -> &[Tag] {
        &self.league_wars
    }

    /// A possible tag that nobody has: 404 as clan and as player.
    ///
    /// # Panics
    /// Never: every world leaves one out.
    pub fn unknown_tag(&self) -> Tag {
        self.unknown.clone().expect("every world leaves a tag out")
    }
}
