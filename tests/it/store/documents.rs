//! Synthetic documents in the API's shapes, and responses made of them.
//!
//! Their JSON has what careless code loses: unknown keys, `1.0` beside `1`, escapes, odd spacing, and absent keys.

use std::fmt::Write as _;

use refresh_worker::{
    clock::Timestamp,
    model::{
        Answered, ClanDocument, Document, Fetched, Member, ObjectId, PlayerDocument, Tag, WarDocument, WarMember,
        WarMemory,
    },
};

/// Seconds after the moment all tests begin at.
pub fn at(seconds: i64) -> Timestamp {
    Timestamp::from_millis(1_772_600_000_000 + seconds * 1000)
}

pub const DAY: i64 = 24 * 3600;

pub fn tag(text: &str) -> Tag {
    text.parse().expect("a tag of the test")
}

/// The player of this number: always the same tag, and other numbers have other tags.
pub fn nth_tag(number: usize) -> Tag {
    const DIGITS: &[u8; 14] = b"0289PYLQGRJCUV";
    let mut rest = number;
    let mut text = String::from("P");
    while rest > 0 {
        text.push(char::from(DIGITS[rest % 14]));
        rest /= 14;
    }
    text.push('Y');
    tag(&text)
}

/// A player, from which both the short form in a clan's list and the full document are made.
#[derive(Clone, Debug)]
pub struct Player {
    pub tag: Tag,
    pub name: String,
    pub role: Option<&'static str>,
    pub town_hall: Option<i32>,
    pub trophies: Option<i32>,
    pub donations: Option<i32>,
    pub donations_received: Option<i32>,
    pub clan: Option<Tag>,
}

pub fn player(tag_text: &str) -> Player {
    Player {
        tag: tag(tag_text),
        name: format!("name of {tag_text}"),
        role: Some("member"),
        town_hall: Some(12),
        trophies: Some(1000),
        donations: Some(10),
        donations_received: Some(20),
        clan: None,
    }
}

impl Player {
    pub fn named(self, name: &str) -> Self {
        Self { name: name.to_owned(), ..self }
    }

    pub fn role(self, role: &'static str) -> Self {
        Self { role: Some(role), ..self }
    }

    pub fn town_hall(self, town_hall: i32) -> Self {
        Self { town_hall: Some(town_hall), ..self }
    }

    pub fn trophies(self, trophies: i32) -> Self {
        Self { trophies: Some(trophies), ..self }
    }

    pub fn donations(self, donations: i32) -> Self {
        Self { donations: Some(donations), ..self }
    }

    pub fn donations_received(self, donations_received: i32) -> Self {
        Self { donations_received: Some(donations_received), ..self }
    }

    pub fn of(self, clan: &str) -> Self {
        Self { clan: Some(tag(clan)), ..self }
    }

    fn numbers(&self) -> String {
        let mut json = String::new();
        for (key, value) in [
            ("townHallLevel", self.town_hall),
            ("trophies", self.trophies),
            ("donations", self.donations),
            ("donationsReceived", self.donations_received),
        ] {
            if let Some(value) = value {
                write!(json, r#","{key}":{value}"#).expect("a text grows");
            }
        }
        json
    }

    fn member(&self) -> Member {
        let role = self.role.map_or_else(String::new, |role| format!(r#","role":"{role}""#));
        let name = serde_json::to_string(&self.name).expect("a text is JSON");
        Member {
            tag: self.tag.clone(),
            json: format!(r##"{{"tag":"#{}","name":{name}{role}{},"clanRank":1}}"##, self.tag.as_str(), self.numbers()),
            name: self.name.clone(),
            role: self.role.map(str::to_owned),
            town_hall: self.town_hall,
            trophies: self.trophies,
            donations: self.donations,
            donations_received: self.donations_received,
        }
    }

    /// The full document, with labels and an unknown key.
    pub fn json(&self) -> String {
        let clan =
            self.clan.as_ref().map_or_else(String::new, |clan| format!(r##","clan":{{"tag":"#{}"}}"##, clan.as_str()));
        let name = serde_json::to_string(&self.name).expect("a text is JSON");
        format!(
            r##"{{"zeta":1.0,"tag":"#{}", "name":{name}{}{clan},"labels":[{{"id":57000000,"name":"Clan Wars"}}],"new_in_2031":{{"b":1,"a":"\u00e9"}} }}"##,
            self.tag.as_str(),
            self.numbers(),
        )
    }

    /// The answer to a call for the player that began then.
    pub fn fetched(&self, began: Timestamp) -> Fetched {
        let in_clan = self.clan.is_some();
        let document = PlayerDocument {
            json: self.json().into(),
            name: self.name.clone(),
            role: self.role.filter(|_| in_clan).map(str::to_owned),
            town_hall: self.town_hall,
            trophies: self.trophies,
            donations: self.donations,
            donations_received: self.donations_received,
            clan: self.clan.clone().into(),
        };
        fetched(ObjectId::player(self.tag.clone()), began, Answered::Document(Document::Player(document)))
    }

    /// The same, of a copy that may be older than the call.
    pub fn fetched_copy(&self, began: Timestamp, copied_at: Timestamp) -> Fetched {
        Fetched { copied_at, ..self.fetched(began) }
    }
}

#[derive(Clone, Debug)]
pub struct Clan {
    pub tag: Tag,
    pub name: String,
    pub level: Option<i32>,
    pub war_losses: Option<i32>,
    pub members: Vec<Player>,
    /// True when the list had entries that could not be read.
    pub is_incomplete: bool,
}

pub fn clan(tag_text: &str) -> Clan {
    Clan {
        tag: tag(tag_text),
        name: format!("clan {tag_text}"),
        level: Some(10),
        war_losses: None,
        members: Vec::new(),
        is_incomplete: false,
    }
}

impl Clan {
    pub fn incomplete(self) -> Self {
        Self { is_incomplete: true, ..self }
    }

    pub fn with(mut self, members: impl IntoIterator<Item = Player>) -> Self {
        self.members.extend(members);
        self
    }

    pub fn named(self, name: &str) -> Self {
        Self { name: name.to_owned(), ..self }
    }

    pub fn level(self, level: i32) -> Self {
        Self { level: Some(level), ..self }
    }

    pub fn json(&self) -> String {
        let members: Vec<String> = self.members.iter().map(|member| member.member().json).collect();
        let name = serde_json::to_string(&self.name).expect("a text is JSON");
        let level = self.level.map_or_else(String::new, |level| format!(r#","clanLevel":{level}"#));
        format!(
            r##"{{"tag":"#{}","name":{name}{level},"warWins":7, "warWinStreak":3,"members":{},"memberList":[{}],"beta":1e2}}"##,
            self.tag.as_str(),
            members.len(),
            members.join(",")
        )
    }

    /// The answer to a call for the clan that began then; its copy was made at that moment.
    pub fn fetched(&self, began: Timestamp) -> Fetched {
        let document = ClanDocument {
            json: self.json().into(),
            name: self.name.clone(),
            level: self.level,
            war_wins: Some(7),
            war_losses: self.war_losses,
            member_count: i32::try_from(self.members.len()).expect("a small clan"),
            members: self.members.iter().map(Player::member).collect(),
            has_all_members: !self.is_incomplete,
        };
        fetched(ObjectId::clan(self.tag.clone()), began, Answered::Document(Document::Clan(document)))
    }

    /// The same, of a copy that may be older than the call.
    pub fn fetched_copy(&self, began: Timestamp, copied_at: Timestamp) -> Fetched {
        Fetched { copied_at, ..self.fetched(began) }
    }
}

#[derive(Clone, Debug)]
pub struct War {
    pub clan: Tag,
    pub state: &'static str,
    pub members: Vec<(Tag, i32)>,
}

pub fn war(clan: &str, members: &[(&str, i32)]) -> War {
    War {
        clan: tag(clan),
        state: "inWar",
        members: members.iter().map(|(member, attacks)| (tag(member), *attacks)).collect(),
    }
}

pub fn no_war(clan: &str) -> War {
    War { clan: tag(clan), state: "notInWar", members: Vec::new() }
}

impl War {
    pub fn json(&self) -> String {
        let members: Vec<String> = self
            .members
            .iter()
            .map(|(member, attacks)| {
                format!(
                    r##"{{"tag":"#{}","attacks":[{}]}}"##,
                    member.as_str(),
                    (0..*attacks).map(|_| "{}").collect::<Vec<_>>().join(",")
                )
            })
            .collect();
        format!(
            r#"{{"state":"{}","clan":{{"stars":0,"members":[{}]}},"opponent":{{}}}}"#,
            self.state,
            members.join(",")
        )
    }

    pub fn fetched(&self, began: Timestamp) -> Fetched {
        let members = self.members.iter().cloned().map(|(tag, attacks_used)| WarMember { tag, attacks_used }).collect();
        let document = WarDocument {
            json: self.json().into(),
            state: self.state.to_owned(),
            members,
            opponent: None,
            starts: None,
            ends: None,
            is_whole: true,
        };
        fetched(ObjectId::war(self.clan.clone()), began, Answered::Document(Document::War(document)))
    }

    pub fn fetched_with(&self, began: Timestamp, league: WarMemory) -> Fetched {
        Fetched { league: Some(league), ..self.fetched(began) }
    }
}

pub fn gone(object: ObjectId, began: Timestamp) -> Fetched {
    fetched(object, began, Answered::Gone)
}

pub fn private_war_log(clan: &str, began: Timestamp) -> Fetched {
    fetched(ObjectId::war(tag(clan)), began, Answered::PrivateWarLog)
}

fn fetched(object: ObjectId, began: Timestamp, answered: Answered) -> Fetched {
    let fresh_until = began + std::time::Duration::from_secs(60);
    Fetched { object, began, copied_at: began, fresh_until, answered, league: None, asked: None }
}
