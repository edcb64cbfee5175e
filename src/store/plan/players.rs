//! The rows of players: pure decisions from the newest stored row and the observations.

use std::{borrow::Cow, collections::BTreeMap, time::Duration};

use super::{
    claims::{Claims, Listed, StateRow, Winners, war_document},
    snapshots::{Newest, Place},
    times::{TableTime, from_utc, utc},
};
use crate::{
    clock::Timestamp,
    columns::Number,
    model::{Answered, Document, Fetched, InClan, Kind, PlayerDocument, Tag},
    store::rows::{self, NAME_WIDTH, ROLE_WIDTH},
};

/// Attacks used are carried to new rows for this long. Readers ignore them after the same time.
const ATTACKS_LIFETIME: Duration = Duration::from_secs(7 * 24 * 3600);

/// The columns that responses set for a player.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Columns<'a> {
    pub name: Option<Cow<'a, str>>,
    pub role: Option<Cow<'a, str>>,
    /// Empty when the player is in no clan.
    pub clan_tag: Cow<'a, str>,
    pub town_hall: Option<i64>,
    pub trophies: Option<i64>,
    pub donations: Option<i64>,
    pub donations_received: Option<i64>,
}

impl<'a> Columns<'a> {
    fn of_newest(newest: &'a Newest) -> Self {
        Self {
            name: newest.name.as_deref().map(Cow::Borrowed),
            role: newest.role.as_deref().map(Cow::Borrowed),
            clan_tag: newest.clan_tag.as_deref().unwrap_or_default().into(),
            town_hall: number(newest.town_hall),
            trophies: number(newest.trophies),
            donations: number(newest.donations),
            donations_received: number(newest.donations_received),
        }
    }

    /// An unreadable clan leaves clan and role unchanged. A missing role in the same clan leaves the role unchanged.
    fn of_document(player: &'a PlayerDocument, before: Self) -> Self {
        let role = player.role.as_deref().map(|role| rows::cut(role, ROLE_WIDTH));
        let (clan_tag, role) = match &player.clan {
            InClan::None => ("".into(), role),
            InClan::Known(clan) if before.clan_tag == clan.as_str() => (clan.as_str().into(), role.or(before.role)),
            InClan::Known(clan) => (clan.as_str().into(), role),
            InClan::Unknown => (before.clan_tag, before.role.or(role)),
        };
        Self {
            name: Some(rows::cut(&player.name, NAME_WIDTH)),
            role,
            clan_tag,
            town_hall: player.town_hall.map(i64::from),
            trophies: player.trophies.map(i64::from),
            donations: player.donations.map(i64::from),
            donations_received: player.donations_received.map(i64::from),
        }
    }

    /// Fields that a member list lacks stay unchanged.
    fn of_listed(listed: &Listed<'a>, before: Self) -> Self {
        let member = listed.member;
        Self {
            name: Some(rows::cut(&member.name, NAME_WIDTH)).filter(|name| !name.is_empty()).or(before.name),
            role: member.role.as_deref().map(|role| rows::cut(role, ROLE_WIDTH)).or(before.role),
            clan_tag: listed.clan.as_str().into(),
            town_hall: member.town_hall.map(i64::from).or(before.town_hall),
            trophies: member.trophies.map(i64::from).or(before.trophies),
            donations: member.donations.map(i64::from).or(before.donations),
            donations_received: member.donations_received.map(i64::from).or(before.donations_received),
        }
    }

    /// True when trophies rose or donations differ. A number that either side lacks is not activity.
    fn shows_activity_after(&self, before: &Self) -> bool {
        let differ = |old: Option<i64>, new: Option<i64>| matches!((old, new), (Some(old), Some(new)) if old != new);
        matches!((before.trophies, self.trophies), (Some(old), Some(new)) if new > old)
            || differ(before.donations, self.donations)
            || differ(before.donations_received, self.donations_received)
    }
}

fn number(column: Option<Number>) -> Option<i64> {
    column?.get()
}

/// The source of a player's row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    Document,
    Member,
    War,
}

impl Claim {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Document => "document",
            Self::Member => "member",
            Self::War => "war",
        }
    }
}

/// The write to a player's snapshot rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SnapshotWrite {
    Document(Place),
    /// Update the columns of the newest row in place.
    Amend {
        id: i64,
    },
    /// Write nothing: the newest row is up to date.
    Leave {
        id: i64,
    },
}

/// Everything that is written about one player.
#[derive(Clone, Debug)]
pub struct PlayerWrite<'a> {
    pub tag: &'a Tag,
    pub claim: Claim,
    pub columns: Columns<'a>,
    pub attacks: Option<i64>,
    pub last_seen: Option<TableTime>,
    /// With its link. The short form of a member list is used only for a player without any row.
    pub document: Option<Cow<'a, str>>,
    pub updated_at: TableTime,
    pub snapshot: SnapshotWrite,
}

/// All that the winners of a batch say of a player.
#[derive(Debug, Default)]
pub struct Observation<'a> {
    answer: Option<(&'a Fetched, &'a PlayerDocument, &'a StateRow)>,
    listed: Option<Listed<'a>>,
    wars: Vec<InWar<'a>>,
}

/// A clan's war that names the player.
#[derive(Clone, Copy, Debug)]
struct InWar<'a> {
    clan: &'a Tag,
    began: Timestamp,
    attacks_used: i32,
}

/// Collects the winners of the arbiter by player.
pub fn observations<'a>(claims: &Claims<'a>, winners: &'a Winners) -> BTreeMap<&'a Tag, Observation<'a>> {
    let mut observations: BTreeMap<&Tag, Observation<'_>> = BTreeMap::new();
    for &(_, fetched) in &claims.answers {
        let Some(state) = winners.of_answer(fetched) else { continue };
        if let Answered::Document(Document::Player(player)) = &fetched.answered {
            observations.entry(&fetched.object.tag).or_default().answer = Some((fetched, player, state));
        }
        for member in war_document(fetched).into_iter().flat_map(|war| &war.members) {
            let war = InWar { clan: &fetched.object.tag, began: fetched.began, attacks_used: member.attacks_used };
            observations.entry(&member.tag).or_default().wars.push(war);
        }
    }
    for (&tag, listed) in claims.listed.iter().filter(|(_, listed)| winners.has_listed(listed)) {
        observations.entry(tag).or_default().listed = Some(*listed);
    }
    observations
}

impl<'a> Observation<'a> {
    /// The time of a new row.
    pub fn new_row_at(&self) -> Timestamp {
        // An observation has at least one source when the rows are read, so the epoch at the end is never used.
        let answered = self.answer.map(|(fetched, ..)| fetched.began);
        let in_war = self.wars.first().map(|war| war.began);
        answered.or(self.listed.map(|listed| listed.began)).or(in_war).unwrap_or_default()
    }

    pub const fn is_in_war(&self) -> bool {
        !self.wars.is_empty()
    }

    /// The player's entry in a clan's member list.
    pub const fn listed(&self) -> Option<&Listed<'a>> {
        self.listed.as_ref()
    }

    /// True when the list shows other trophies or donations than the stored ones.
    pub fn shows_activity(&self, newest: Option<&Newest>) -> bool {
        let (Some(listed), Some(newest)) = (&self.listed, newest) else { return false };
        Columns::of_listed(listed, Columns::of_newest(newest)).shows_activity_after(&Columns::of_newest(newest))
    }

    /// Discards the member list's entry when another program's row is newer.
    pub fn discard_outdated(&mut self, newest: Option<&Newest>, horizon: TableTime) {
        let newest_at = newest.and_then(|newest| newest.ts).filter(|&at| at <= horizon);
        self.listed = self.listed.filter(|listed| newest_at.is_none_or(|at| from_utc(at) <= listed.copied_at));
    }

    /// The clan that the player is observed in: clan, time of the copy, beginning of the call.
    pub fn clan(&self, horizon: TableTime) -> Option<(Option<&'a Tag>, Timestamp, Timestamp)> {
        if let Some(listed) = self.listed {
            return Some((Some(listed.clan), listed.copied_at, listed.began));
        }
        let (fetched, player, state) = self.answer?;
        let clan = match &player.clan {
            InClan::None => None,
            InClan::Known(clan) => Some(clan),
            InClan::Unknown => return None,
        };
        (!is_late(fetched, state, horizon)).then_some((clan, fetched.copied_at, fetched.began))
    }

    /// The write for this player; `None` when a war names a player without a row.
    pub fn write(&self, tag: &'a Tag, newest: Option<&'a Newest>, horizon: TableTime) -> Option<PlayerWrite<'a>> {
        // In this order: a list is not older than the response, and a war counts only for the clan that both set.
        let mut draft = Draft::new(newest, horizon);
        if let Some((fetched, player, state)) = self.answer {
            draft.answer(fetched, player, state, horizon);
        }
        if let Some(listed) = &self.listed {
            draft.list(listed);
        }
        for war in &self.wars {
            draft.war(war);
        }
        draft.finish(tag)
    }
}

/// True when a newer member list has set the columns. The document is still the newest one.
fn is_late(fetched: &Fetched, state: &StateRow, horizon: TableTime) -> bool {
    state.member_at().is_some_and(|at| at > fetched.copied_at && utc(at) <= horizon)
}

struct Draft<'a> {
    newest: Option<&'a Newest>,
    claim: Option<Claim>,
    columns: Columns<'a>,
    attacks: Option<i64>,
    last_seen: Option<TableTime>,
    document: Option<Cow<'a, str>>,
    updated_at: TableTime,
    place: Option<Place>,
}

impl<'a> Draft<'a> {
    fn new(newest: Option<&'a Newest>, horizon: TableTime) -> Self {
        Self {
            newest,
            claim: None,
            columns: newest.map(Columns::of_newest).unwrap_or_default(),
            attacks: newest.and_then(|newest| number(newest.war_attacks_used)),
            // A time outside the calendar or in the future would never be replaced.
            last_seen: newest.and_then(|newest| newest.last_seen).filter(|at| at.is_in_calendar() && *at <= horizon),
            document: None,
            // Only a war leaves the epoch here, and a war writes no row of `players`.
            updated_at: utc(Timestamp::EPOCH),
            place: None,
        }
    }

    fn answer(&mut self, fetched: &'a Fetched, player: &'a PlayerDocument, state: &StateRow, horizon: TableTime) {
        let place = Place::of(self.newest, state, fetched.began, horizon);
        let attacks_hold =
            state.attacks_at().is_some_and(|at| utc(at) <= horizon && fetched.began.since(at) <= ATTACKS_LIFETIME);
        if matches!(place, Place::Insert { .. }) && !attacks_hold {
            self.attacks = None;
        }
        // For a player without any row even a late document is the best there is.
        if self.newest.is_none() || !is_late(fetched, state, horizon) {
            self.set(Columns::of_document(player, self.columns.clone()), fetched.began);
        }
        self.document = Some(linked(&player.json, &fetched.object.tag));
        self.claim = Some(Claim::Document);
        self.updated_at = utc(fetched.began);
        self.place = Some(place);
    }

    fn list(&mut self, listed: &Listed<'a>) {
        let columns = Columns::of_listed(listed, self.columns.clone());
        self.set(columns, listed.began);
        if self.claim.is_none() {
            self.claim = Some(Claim::Member);
            self.updated_at = utc(listed.began);
            if self.newest.is_none() {
                self.document = Some(linked(&listed.member.json, &listed.member.tag));
                self.place = Some(Place::Insert { at: utc(listed.began) });
            }
        }
    }

    /// Counts only the war of the player's own clan. The war of a former clan names its players for days, and the two counts
    /// would alternate. A change from unknown to zero is not activity: the war has just begun.
    fn war(&mut self, war: &InWar<'_>) {
        if self.columns.clan_tag != war.clan.as_str() {
            return;
        }
        // Readers show earlier attacks, so those are the value that changes.
        let before = self.attacks.or(self.newest.and_then(|newest| number(newest.earlier_attacks)));
        let used = i64::from(war.attacks_used);
        if before.unwrap_or(0) != used {
            self.see(war.began);
        }
        self.attacks = Some(used);
        self.claim.get_or_insert(Claim::War);
    }

    fn set(&mut self, columns: Columns<'a>, began: Timestamp) {
        // A player without `last_seen` gets the time of the first observation.
        if columns.shows_activity_after(&self.columns) || self.last_seen.is_none() {
            self.see(began);
        }
        self.columns = columns;
    }

    /// Moves `last_seen` forward, never back.
    fn see(&mut self, began: Timestamp) {
        self.last_seen = self.last_seen.max(Some(utc(began)));
    }

    fn finish(self, tag: &'a Tag) -> Option<PlayerWrite<'a>> {
        let snapshot = match (self.place, self.newest) {
            (Some(place), _) => SnapshotWrite::Document(place),
            (None, Some(newest)) if self.is_as(newest) => SnapshotWrite::Leave { id: newest.id },
            (None, Some(newest)) => SnapshotWrite::Amend { id: newest.id },
            // A war alone does not create a player.
            (None, None) => return None,
        };
        Some(PlayerWrite {
            tag,
            claim: self.claim?,
            columns: self.columns,
            attacks: self.attacks,
            last_seen: self.last_seen,
            document: self.document,
            updated_at: self.updated_at,
            snapshot,
        })
    }

    fn is_as(&self, newest: &Newest) -> bool {
        self.columns == Columns::of_newest(newest)
            && self.attacks == number(newest.war_attacks_used)
            && self.last_seen == newest.last_seen
    }
}

fn linked<'a>(json: &'a str, tag: &Tag) -> Cow<'a, str> {
    match rows::deep_link(Kind::Player, tag) {
        Some(link) => rows::with_deep_link(json, &link),
        None => Cow::Borrowed(json),
    }
}

impl SnapshotWrite {
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Document(Place::Insert { .. }) => "insert",
            Self::Document(Place::Move { .. }) | Self::Amend { .. } => "rewrite",
            Self::Leave { .. } => "leave",
        }
    }

    pub const fn at(&self) -> Option<TableTime> {
        match self {
            Self::Document(place) => Some(place.at()),
            Self::Amend { .. } | Self::Leave { .. } => None,
        }
    }

    pub const fn row(&self) -> Option<i64> {
        match self {
            Self::Document(place) => place.row(),
            Self::Amend { id } | Self::Leave { id } => Some(*id),
        }
    }

    pub const fn replaces(&self) -> bool {
        matches!(self, Self::Document(place) if place.replaces())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(trophies: i64, donations: i64) -> Columns<'static> {
        Columns { trophies: Some(trophies), donations: Some(donations), ..Columns::default() }
    }

    fn seen_after(before: &Newest, columns: Columns<'_>, began: i64) -> Option<TableTime> {
        let mut draft = Draft::new(Some(before), utc(Timestamp::from_millis(1000)));
        draft.set(columns, Timestamp::from_millis(began));
        draft.last_seen
    }

    fn newest(last_seen: Option<i64>) -> Newest {
        let last_seen = last_seen.map(|at| utc(Timestamp::from_millis(at)));
        Newest { trophies: Some(1000.into()), donations: Some(10.into()), last_seen, ..Newest::default() }
    }

    #[test]
    fn last_seen_moves_only_forward_with_activity() {
        let at = |millis| Some(utc(Timestamp::from_millis(millis)));
        for (columns, expected) in
            [(numbers(1001, 10), 50), (numbers(1000, 9), 50), (numbers(999, 10), 20), (Columns::default(), 20)]
        {
            assert_eq!(seen_after(&newest(Some(20)), columns.clone(), 50), at(expected), "{columns:?}");
        }
        assert_eq!(seen_after(&newest(Some(80)), numbers(2000, 10), 50), at(80));
        assert_eq!(seen_after(&newest(None), numbers(1000, 10), 50), at(50));
    }

    #[test]
    fn attacks_are_activity_unless_the_war_merely_began() {
        for (before, used, moves) in [(None, 0, false), (None, 1, true), (Some(1), 1, false), (Some(2), 0, true)] {
            let clan = "8GG".parse().unwrap();
            let row = Newest {
                war_attacks_used: before.map(Number::from),
                clan_tag: Some("8GG".to_owned()),
                ..newest(Some(20))
            };
            let mut draft = Draft::new(Some(&row), utc(Timestamp::from_millis(1000)));
            draft.war(&InWar { clan: &clan, began: Timestamp::from_millis(50), attacks_used: used });
            assert_eq!(draft.last_seen == Some(utc(Timestamp::from_millis(50))), moves, "{before:?} to {used}");
        }
    }
}
