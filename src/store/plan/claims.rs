//! The claims of a batch, as rows for the arbiter, and the winners among them.

use std::collections::{BTreeMap, HashMap};

use super::times::{TableTime, from_utc};
use crate::{
    clock::Timestamp,
    columns::from_row,
    model::{Answered, ClanDocument, Document, Fetched, Kind, Member, Tag, WarDocument},
    store::rows,
};

/// A player as a clan's member list shows it.
#[derive(Clone, Copy, Debug)]
pub struct Listed<'a> {
    pub member: &'a Member,
    pub clan: &'a Tag,
    /// The beginning of the call for the clan.
    pub began: Timestamp,
    /// The time of the API's copy.
    pub copied_at: Timestamp,
}

/// The batch with duplicates reduced to the newest.
#[derive(Debug)]
pub struct Claims<'a> {
    /// The newest response for each object, with its place in the batch.
    pub answers: Vec<(usize, &'a Fetched)>,
    /// The newest copy of each listed player.
    pub listed: BTreeMap<&'a Tag, Listed<'a>>,
}

impl<'a> Claims<'a> {
    pub fn of(batch: &'a [Fetched]) -> Self {
        let answers: Vec<(usize, &Fetched)> =
            rows::newest_answers(batch).into_iter().map(|place| (place, &batch[place])).collect();
        let own: HashMap<&Tag, Timestamp> = answers
            .iter()
            .filter(|(_, fetched)| fetched.object.kind == Kind::Player)
            .map(|(_, fetched)| (&fetched.object.tag, fetched.copied_at))
            .collect();
        let mut listed: BTreeMap<&Tag, Listed<'_>> = BTreeMap::new();
        for (_, fetched) in &answers {
            let Some(clan) = clan_document(fetched) else { continue };
            for member in &clan.members {
                let new =
                    Listed { member, clan: &fetched.object.tag, began: fetched.began, copied_at: fetched.copied_at };
                // Only the newest observation of a player claims its columns.
                let is_older_than_own = own.get(&member.tag).is_some_and(|&copied_at| copied_at > new.copied_at);
                let is_older = listed.get(&member.tag).is_some_and(|old| rank(old) >= rank(&new));
                if !is_older_than_own && !is_older {
                    listed.insert(&member.tag, new);
                }
            }
        }
        Self { answers, listed }
    }

    /// The rows for the arbiter, each object once.
    pub fn rows(&self) -> Vec<ClaimRow<'a>> {
        // A map, because PostgreSQL refuses an upsert that meets the same row twice.
        let mut rows: BTreeMap<(Kind, &Tag), ClaimRow<'_>> = BTreeMap::new();
        for &(_, fetched) in &self.answers {
            let object = &fetched.object;
            let row = rows.entry((object.kind, &object.tag)).or_insert_with(|| ClaimRow::new(object.kind, &object.tag));
            row.answer = Some(fetched);
            if let Some(war) = war_document(fetched) {
                for member in &war.members {
                    let row = rows
                        .entry((Kind::Player, &member.tag))
                        .or_insert_with(|| ClaimRow::new(Kind::Player, &member.tag));
                    // Two wars of a batch may name the same player.
                    row.attacks_at = row.attacks_at.max(Some(fetched.began));
                }
            }
        }
        for (&tag, listed) in &self.listed {
            let row = rows.entry((Kind::Player, tag)).or_insert_with(|| ClaimRow::new(Kind::Player, tag));
            row.member_at = Some(listed.copied_at);
        }
        rows.into_values().collect()
    }

    /// The clans with a member list in the batch.
    pub fn clans(&self) -> Vec<&'a str> {
        let with_list = self.answers.iter().filter(|(_, fetched)| clan_document(fetched).is_some());
        with_list.map(|(_, fetched)| fetched.object.tag.as_str()).collect()
    }
}

/// The order of copies: by time, then by any rule that is always the same.
fn rank<'a>(listed: &Listed<'a>) -> (Timestamp, Timestamp, &'a Tag) {
    (listed.copied_at, listed.began, listed.clan)
}

pub fn clan_document(fetched: &Fetched) -> Option<&ClanDocument> {
    match &fetched.answered {
        Answered::Document(Document::Clan(clan)) => Some(clan),
        _ => None,
    }
}

pub fn war_document(fetched: &Fetched) -> Option<&WarDocument> {
    match &fetched.answered {
        Answered::Document(Document::War(war)) => Some(war),
        _ => None,
    }
}

/// A row for the arbiter.
#[derive(Clone, Copy, Debug)]
pub struct ClaimRow<'a> {
    pub kind: Kind,
    pub tag: &'a Tag,
    pub answer: Option<&'a Fetched>,
    pub member_at: Option<Timestamp>,
    pub attacks_at: Option<Timestamp>,
}

impl<'a> ClaimRow<'a> {
    const fn new(kind: Kind, tag: &'a Tag) -> Self {
        Self { kind, tag, answer: None, member_at: None, attacks_at: None }
    }

    pub fn content_hash(&self) -> Option<[u8; 32]> {
        match &self.answer?.answered {
            Answered::Document(document) => Some(document.content_hash()),
            Answered::Gone | Answered::PrivateWarLog | Answered::UnknownState(_) => None,
        }
    }

    /// The outcome, unless the content is the stored content.
    pub fn outcome(&self) -> Option<&'static str> {
        Some(match &self.answer?.answered {
            Answered::Document(_) => STORED,
            Answered::Gone => "gone",
            Answered::PrivateWarLog => "private_war_log",
            Answered::UnknownState(_) => "unknown_state",
        })
    }

    /// The facts about the league, as JSON.
    pub fn league(&self) -> Option<String> {
        serde_json::to_string(self.answer?.league.as_ref()?).ok()
    }
}

const STORED: &str = "stored";

/// The row of an object after the arbiter, when some claim on it won.
#[derive(Debug)]
pub struct StateRow {
    pub kind: String,
    pub tag: String,
    pub fetched_at: Option<TableTime>,
    pub member_at: Option<TableTime>,
    pub attacks_at: Option<TableTime>,
    pub last_outcome: Option<String>,
    pub snapshot_id: Option<i64>,
}

from_row!(both: StateRow { kind, tag, fetched_at, member_at, attacks_at, last_outcome, snapshot_id });

impl StateRow {
    /// True when the response that began then counts.
    pub fn is_answer_of(&self, began: Timestamp) -> bool {
        self.fetched_at.map(from_utc) == Some(began)
    }

    /// True when the member list's copy of then counts.
    pub fn is_copy_of(&self, copied_at: Timestamp) -> bool {
        self.member_at.map(from_utc) == Some(copied_at)
    }

    /// The beginning of the call whose response counts.
    pub fn fetched_at(&self) -> Option<Timestamp> {
        self.fetched_at.map(from_utc)
    }

    /// True when the response has new content.
    pub fn has_changed(&self) -> bool {
        self.last_outcome.as_deref() == Some(STORED)
    }

    /// The time of the member list that last set the columns.
    pub fn member_at(&self) -> Option<Timestamp> {
        self.member_at.map(from_utc)
    }

    /// The time of the war that last set the attacks used.
    pub fn attacks_at(&self) -> Option<Timestamp> {
        self.attacks_at.map(from_utc)
    }
}

/// Values by object. A lookup allocates no key.
#[derive(Debug)]
pub struct ByObject<T>([HashMap<String, T>; 3]);

impl<T> ByObject<T> {
    /// Rows of an unknown kind are dropped.
    pub fn new(rows: Vec<T>, name: impl Fn(&mut T) -> (&str, String)) -> Self {
        let mut maps = [HashMap::new(), HashMap::new(), HashMap::new()];
        for mut row in rows {
            let (kind, tag) = name(&mut row);
            if let Ok(kind) = kind.parse::<Kind>() {
                // The cast gives the place of the kind in its enum; there is one map for each.
                maps[kind as usize].insert(tag, row);
            }
        }
        Self(maps)
    }

    pub fn get(&self, kind: Kind, tag: &Tag) -> Option<&T> {
        self.0[kind as usize].get(tag.as_str())
    }
}

/// The rows that the arbiter returned, by object.
#[derive(Debug)]
pub struct Winners(ByObject<StateRow>);

impl Winners {
    pub fn new(rows: Vec<StateRow>) -> Self {
        Self(ByObject::new(rows, |row| (&row.kind, std::mem::take(&mut row.tag))))
    }

    /// The row, if this response won.
    pub fn of_answer(&self, fetched: &Fetched) -> Option<&StateRow> {
        self.0.get(fetched.object.kind, &fetched.object.tag).filter(|row| row.is_answer_of(fetched.began))
    }

    /// The row of the object, if some claim on it won.
    pub fn of_object(&self, kind: Kind, tag: &Tag) -> Option<&StateRow> {
        self.0.get(kind, tag)
    }

    /// True when this copy won, and the clan's response that it came with won too.
    pub fn has_listed(&self, listed: &Listed<'_>) -> bool {
        // Both rows are locked by the arbiter, so this stays true until the commit.
        let is_newest_copy =
            self.0.get(Kind::Player, &listed.member.tag).is_some_and(|row| row.is_copy_of(listed.copied_at));
        is_newest_copy && self.0.get(Kind::Clan, listed.clan).is_some_and(|row| row.is_answer_of(listed.began))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{InClan, ObjectId, PlayerDocument, WarMember};

    fn tag(text: &str) -> Tag {
        text.parse().unwrap()
    }

    fn fetched(object: ObjectId, began: i64, copied_at: i64, answered: Answered) -> Fetched {
        let [began, copied_at] = [began, copied_at].map(Timestamp::from_millis);
        Fetched { object, began, copied_at, fresh_until: began, answered, league: None, asked: None }
    }

    fn clan(clan: &str, began: i64, copied_at: i64, members: &[&str]) -> Fetched {
        let member = |member: &&str| Member {
            tag: tag(member),
            json: "{}".to_owned(),
            name: String::new(),
            role: None,
            town_hall: None,
            trophies: None,
            donations: None,
            donations_received: None,
        };
        let document = ClanDocument {
            json: "{}".to_owned().into(),
            name: String::new(),
            level: None,
            war_wins: None,
            war_losses: None,
            member_count: i32::try_from(members.len()).unwrap(),
            members: members.iter().map(member).collect(),
            has_all_members: true,
        };
        fetched(ObjectId::clan(tag(clan)), began, copied_at, Answered::Document(Document::Clan(document)))
    }

    fn player(player: &str, began: i64) -> Fetched {
        let document = PlayerDocument {
            json: "{}".to_owned().into(),
            name: String::new(),
            role: None,
            town_hall: None,
            trophies: None,
            donations: None,
            donations_received: None,
            clan: InClan::None,
        };
        fetched(ObjectId::player(tag(player)), began, began, Answered::Document(Document::Player(document)))
    }

    #[test]
    fn listed_twice_later_copy_claims() {
        let batch = [clan("8GG", 50, 20, &["2PP"]), clan("9CC", 40, 30, &["2PP"])];
        assert_eq!(Claims::of(&batch).listed[&tag("2PP")].clan, &tag("9CC"));
    }

    #[test]
    fn own_response_beats_older_copy_only() {
        let batch = [clan("8GG", 50, 20, &["2PP", "2YY"]), player("2PP", 30), player("2YY", 10)];
        let claims = Claims::of(&batch);
        assert!(!claims.listed.contains_key(&tag("2PP")));
        assert!(claims.listed.contains_key(&tag("2YY")));
    }

    #[test]
    fn every_object_is_one_row() {
        let war = WarDocument {
            json: "{}".to_owned().into(),
            state: "inWar".to_owned(),
            members: vec![WarMember { tag: tag("2PP"), attacks_used: 1 }],
            opponent: None,
            starts: None,
            ends: None,
            is_whole: true,
        };
        let batch = [
            clan("8GG", 50, 50, &["2PP", "2YY"]),
            player("2PP", 10),
            fetched(ObjectId::war(tag("8GG")), 60, 60, Answered::Document(Document::War(war))),
        ];
        let rows = Claims::of(&batch).rows();
        let names: Vec<String> = rows.iter().map(|row| format!("{}:{}", row.kind, row.tag.as_str())).collect();
        assert_eq!(names, ["clan:8GG", "player:2PP", "player:2YY", "war:8GG"]);
        let both = &rows[1];
        assert!(both.answer.is_some() && both.member_at.is_some() && both.attacks_at.is_some());
    }
}
