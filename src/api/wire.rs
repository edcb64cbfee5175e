//! The shapes of the responses, 2017 to 2026, read tolerantly. Texts become model documents; no I/O.
//!
//! A key that is absent, null or of an unexpected type counts as missing. Only keys without which a document is worthless are
//! demanded. Unknown keys come with every game update, and stay, since documents keep their bytes. Values are cut out as raw
//! text and inspected one by one, so nothing recurses, however deep a response is nested.

use std::{borrow::Cow, collections::HashSet, fmt};

use crate::model::{ClanDocument, InClan, KnownWar, Member, PlayerDocument, Tag, WarDocument, WarMember, game_time};
use serde::{
    Deserialize, Deserializer as _,
    de::{self, MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

/// The reason for which a text is not the requested document.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    #[error("the answer is not JSON: {0}")]
    NotJson(String),
    #[error("the answer is not a JSON object")]
    NotAnObject,
    #[error("the answer has no `{0}`")]
    MissingKey(&'static str),
    #[error("no entry of the answer's `{0}` has a tag")]
    UnreadableList(&'static str),
    /// A list that is empty and a count that is not, say.
    #[error("the answer contradicts itself: {0}")]
    Contradiction(String),
    #[error("asked for {asked}, answered with `{got}`")]
    WrongTag { asked: Tag, got: String },
}

/// The content of an error body.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Complaint {
    pub reason: String,
    pub message: String,
}

/// A war's document as seen from our clan.
#[derive(Clone, Debug)]
pub enum WarOf {
    /// Our war, with our clan moved to the `clan` side.
    Ours(WarDocument),
    /// A war of two other clans, with its state. Expected while a league round is searched.
    Others { state: String, clan: String },
    /// A war whose state is unknown or contradicted by the rest of the document: it says nothing about our war.
    Unclear(String),
}

/// The known states of a war. In all but the first there is a war.
const WAR_STATES: [&str; 4] = ["notInWar", KnownWar::PREPARATION, KnownWar::IN_WAR, KnownWar::ENDED];

/// The roles of a player without a clan.
const NO_ROLES: [&str; 3] = ["", "none", "notMember"];

/// The characters of a value that a message repeats.
const MAX_EXCERPT_CHARS: usize = 40;

/// The most entries of a list or object. The API's own stay far below; a body of the largest size could have a million.
const MAX_ENTRIES: usize = 10_000;

/// A league group, with the wars to search.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeagueGroup {
    /// `preparation`, `inWar`, `ended`, `notInWar`.
    pub state: String,
    /// `2026-03`.
    pub season: String,
    /// The wars of each round that is drawn, the oldest round first.
    pub rounds: Vec<Vec<Tag>>,
}

/// `/clans/{tag}`
pub fn clan(text: &str, asked: &Tag) -> Result<ClanDocument, Unusable> {
    let clan = Object::parse(text)?;
    clan.expect_tag(asked)?;
    let entries = clan.list("memberList").ok_or(Unusable::MissingKey("memberList"))?;
    let mut members: Vec<Member> = entries.iter().copied().filter_map(member).collect();
    // Entries of a new shape must not pass for a clan that everybody left.
    if members.is_empty() && !entries.is_empty() {
        return Err(Unusable::UnreadableList("memberList"));
    }
    // Counted before unreadable entries are dropped.
    let listed = i32::try_from(entries.len()).unwrap_or(i32::MAX);
    let counted = clan.integer("members");
    if let Some(counted) = counted.filter(|counted| *counted > 0 && entries.is_empty()) {
        return Err(Unusable::Contradiction(format!("it counts {counted} members and lists none")));
    }
    let contradicts = counted.is_some_and(|counted| counted != listed)
        || clan.is_ambiguous("members")
        || clan.is_ambiguous("memberList")
        || has_duplicates(members.iter().map(|member| &member.tag));
    // An empty list is believed only with its count, and a count that cannot be read leaves the list in doubt.
    let is_counted = counted.is_some() || (clan.get("members").is_none() && !entries.is_empty());
    let has_all_members = is_counted && !contradicts && members.len() == entries.len();
    // The count or the list is wrong, and nothing shows which. Without members, and not marked as whole, the list moves no player.
    if contradicts {
        members.clear();
    }
    Ok(ClanDocument {
        json: text.to_owned().into(),
        name: clan.text("name").ok_or(Unusable::MissingKey("name"))?,
        level: clan.integer("clanLevel"),
        war_wins: clan.integer("warWins"),
        war_losses: clan.integer("warLosses"),
        member_count: counted.filter(|counted| *counted >= 0).unwrap_or(listed),
        has_all_members,
        members,
    })
}

fn has_duplicates<'a>(tags: impl Iterator<Item = &'a Tag>) -> bool {
    let mut seen = HashSet::new();
    tags.into_iter().any(|tag| !seen.insert(tag))
}

/// Reads a member. An entry with an impossible tag could not be stored: it is left out, and the clan kept.
fn member(entry: &RawValue) -> Option<Member> {
    let member = Object::parse(entry.get()).ok()?;
    Some(Member {
        tag: member.tag("tag")?,
        json: entry.get().to_owned(),
        name: member.text("name").unwrap_or_default(),
        role: member.text("role"),
        town_hall: member.integer("townHallLevel"),
        trophies: member.integer("trophies"),
        donations: member.integer("donations"),
        donations_received: member.integer("donationsReceived"),
    })
}

/// `/players/{tag}`
pub fn player(text: &str, asked: &Tag) -> Result<PlayerDocument, Unusable> {
    let player = Object::parse(text)?;
    player.expect_tag(asked)?;
    Ok(PlayerDocument {
        json: text.to_owned().into(),
        name: player.text("name").ok_or(Unusable::MissingKey("name"))?,
        role: player.text("role"),
        town_hall: player.integer("townHallLevel"),
        trophies: player.integer("trophies"),
        donations: player.integer("donations"),
        donations_received: player.integer("donationsReceived"),
        clan: in_clan(&player),
    })
}

/// The clan of a player. A player without a clan lacks both the clan and the role. A clan or role that is there and cannot be
/// read leaves it open.
fn in_clan(player: &Object<'_>) -> InClan {
    let role_says_none = player.text("role").is_none_or(|role| NO_ROLES.contains(&role.as_str()));
    match player.get("clan") {
        _ if player.is_ambiguous("clan") => InClan::Unknown,
        None if player.get("role").is_none() || (player.text("role").is_some() && role_says_none) => InClan::None,
        None => InClan::Unknown,
        Some(_) => match player.object("clan").and_then(|clan| clan.tag("tag")) {
            Some(_) if player.text("role").is_some() && role_says_none => InClan::Unknown,
            Some(clan) => InClan::Known(clan),
            None => InClan::Unknown,
        },
    }
}

/// `/clans/{tag}/currentwar` and `/clanwarleagues/wars/{tag}`, for the clan `ours`.
pub fn war(text: &str, ours: &Tag) -> Result<WarOf, Unusable> {
    let war = Object::parse(text)?;
    // A document with neither is not a war, but a response of somebody else.
    if war.text("state").is_none() && war.get("clan").is_none() {
        return Err(Unusable::MissingKey("state"));
    }
    let (clan, opponent) = (war.object("clan").unwrap_or_default(), war.object("opponent").unwrap_or_default());
    let is_ours = |side: &Object<'_>| side.tag("tag").as_ref() == Some(ours);
    // A clan that is both sides stays where it is; the war contradicts itself anyway.
    let swapped = is_ours(&opponent) && !is_ours(&clan);
    if !swapped && !is_ours(&clan) && clan.get("tag").is_some() {
        return Ok(WarOf::Others { state: war.text("state").unwrap_or_default(), clan: clan.excerpt("tag") });
    }
    let state = war.text("state").filter(|state| WAR_STATES.contains(&state.as_str()) && !war.is_ambiguous("state"));
    let Some(state) = state else { return Ok(WarOf::Unclear(war.excerpt("state"))) };
    let is_war = state != WAR_STATES[0];
    let has_ours = swapped || is_ours(&clan);
    // A war without tags cannot be known as ours.
    if is_war && !has_ours {
        return Ok(WarOf::Unclear(format!("{state} without our clan")));
    }
    if !is_war && opponent.get("tag").is_some() {
        return Ok(WarOf::Unclear(format!("{state} with an opponent")));
    }
    let (json, ours, other) = if swapped {
        (war.with_swapped(text, "clan", "opponent"), &opponent, &clan)
    } else {
        // No tags at all: not in war.
        (text.to_owned(), &clan, &opponent)
    };
    let time = |key| war.text(key).as_deref().and_then(game_time);
    let (starts, ends, other_tag) = (time("startTime"), time("endTime"), other.tag("tag"));
    let (members, all_are_readable) = war_members(ours);
    let contradicts = is_war
        && (has_duplicates(members.iter().map(|member| &member.tag))
            || ours.tag("tag") == other_tag
            || matches!((starts, ends), (Some(starts), Some(ends)) if starts > ends)
            || ["clan", "opponent", "startTime", "endTime", "teamSize"].into_iter().any(|key| war.is_ambiguous(key))
            || [ours, other].into_iter().any(|side| war.get("teamSize").is_some() && !side.has_as_many(&war)));
    // Only a whole war may end the polling of a war.
    let is_whole =
        !is_war || (!contradicts && all_are_readable && starts.is_some() && ends.is_some() && other_tag.is_some());
    Ok(WarOf::Ours(WarDocument {
        json: json.into(),
        state,
        members: if contradicts { Vec::new() } else { members },
        opponent: other_tag,
        starts,
        ends,
        is_whole,
    }))
}

/// The readable players of a side; true when those are all.
fn war_members(side: &Object<'_>) -> (Vec<WarMember>, bool) {
    let member = |entry: &RawValue| {
        let member = Object::parse(entry.get()).ok()?;
        let attacks = match member.get("attacks") {
            Some(_) => member.list("attacks")?.len(),
            None => 0,
        };
        Some(WarMember { tag: member.tag("tag")?, attacks_used: i32::try_from(attacks).unwrap_or(i32::MAX) })
    };
    let Some(entries) = side.list("members") else { return (Vec::new(), side.get("members").is_none()) };
    let count = entries.len();
    let members: Vec<WarMember> = entries.into_iter().filter_map(member).collect();
    let all_are_readable = members.len() == count;
    (members, all_are_readable)
}

/// `/clans/{tag}/currentwar/leaguegroup`
pub fn league_group(text: &str) -> Result<LeagueGroup, Unusable> {
    let group = Object::parse(text)?;
    let round = |entry: &RawValue| {
        let round = Object::parse(entry.get()).ok()?;
        // `#0`, a round not drawn yet, is not a possible tag.
        let wars = round.list("warTags")?.into_iter().filter_map(tag).collect::<Vec<_>>();
        (!wars.is_empty()).then_some(wars)
    };
    Ok(LeagueGroup {
        state: group.text("state").ok_or(Unusable::MissingKey("state"))?,
        season: group.text("season").unwrap_or_default(),
        rounds: group.list("rounds").unwrap_or_default().into_iter().filter_map(round).collect(),
    })
}

/// True when a text has a key that only documents have. An error with such a key contradicts itself.
pub fn has_document(text: &str) -> bool {
    Object::parse(text).is_ok_and(|body| ["tag", "memberList", "state"].into_iter().any(|key| body.get(key).is_some()))
}

/// Reads an error body; `None` when it is not the API's.
pub fn complaint(text: &str) -> Option<Complaint> {
    let body = Object::parse(text).ok()?;
    Some(Complaint {
        reason: body.text("reason").unwrap_or_default(),
        message: body.text("message").unwrap_or_default(),
    })
}

/// A JSON object whose values are still text. When a key comes twice, the last one counts, as in most readers.
#[derive(Debug, Default)]
struct Object<'a> {
    entries: Vec<(Cow<'a, str>, &'a RawValue)>,
}

impl<'a> Object<'a> {
    fn parse(text: &'a str) -> Result<Self, Unusable> {
        serde_json::from_str(text).map_err(|error| {
            // For a number or a list this error says only that it is not an object. Parsing the text as any value shows if it is broken.
            let broken = if error.is_data() { serde_json::from_str::<&RawValue>(text).err() } else { Some(error) };
            broken.map_or(Unusable::NotAnObject, |error| Unusable::NotJson(error.to_string()))
        })
    }

    fn get(&self, key: &str) -> Option<&'a RawValue> {
        let (_, value) = self.entries.iter().rfind(|(name, _)| name == key)?;
        // Null counts as missing.
        (value.get() != "null").then_some(value)
    }

    fn text(&self, key: &str) -> Option<String> {
        text(self.get(key)?)
    }

    /// A tag. A key that comes twice with different values is not believed.
    fn tag(&self, key: &str) -> Option<Tag> {
        tag(self.get(key).filter(|_| !self.is_ambiguous(key))?)
    }

    /// True when a key comes more than once, with different values.
    fn is_ambiguous(&self, key: &str) -> bool {
        let mut values = self.entries.iter().filter(|(name, _)| name == key).map(|(_, value)| value.get());
        values.next().is_some_and(|first| values.any(|other| other != first))
    }

    /// True when a side of a war lists as many players as its team has.
    fn has_as_many(&self, war: &Self) -> bool {
        let listed = self.list("members").and_then(|members| i32::try_from(members.len()).ok());
        listed.is_some() && listed == war.integer("teamSize")
    }

    /// A whole number in the range of the tables' columns. A fraction is cut off; anything else counts as missing.
    fn integer(&self, key: &str) -> Option<i32> {
        let number = self.get(key)?.get();
        if let Ok(whole) = number.parse::<i64>() {
            return i32::try_from(whole).ok();
        }
        let fraction = number.parse::<f64>().ok()?.trunc();
        let in_range = fraction >= f64::from(i32::MIN) && fraction <= f64::from(i32::MAX);
        #[expect(clippy::cast_possible_truncation, reason = "its range was checked just now")]
        in_range.then_some(fraction as i32)
    }

    fn object(&self, key: &str) -> Option<Self> {
        Self::parse(self.get(key)?.get()).ok()
    }

    fn list(&self, key: &str) -> Option<Vec<&'a RawValue>> {
        serde_json::from_str(self.get(key)?.get()).ok().map(|List(entries)| entries)
    }

    /// The start of any value, for a message.
    fn excerpt(&self, key: &str) -> String {
        let raw = self.get(key).map_or("nothing", RawValue::get);
        raw.trim_matches('"').chars().take(MAX_EXCERPT_CHARS).collect()
    }

    fn expect_tag(&self, asked: &Tag) -> Result<(), Unusable> {
        self.get("tag").ok_or(Unusable::MissingKey("tag"))?;
        if self.tag("tag").as_ref() == Some(asked) {
            return Ok(());
        }
        Err(Unusable::WrongTag { asked: asked.clone(), got: self.excerpt("tag") })
    }

    /// The text of this object with two values exchanged, and every other byte as it was.
    fn with_swapped(&self, text: &str, one: &str, other: &str) -> String {
        let (Some(one), Some(other)) = (self.get(one), self.get(other)) else { return text.to_owned() };
        let start = |value: &RawValue| value.get().as_ptr().addr() - text.as_ptr().addr();
        let (first, second) = if start(one) < start(other) { (one, other) } else { (other, one) };
        let (first_start, second_start) = (start(first), start(second));
        [
            &text[..first_start],
            second.get(),
            &text[first_start + first.get().len()..second_start],
            first.get(),
            &text[second_start + second.get().len()..],
        ]
        .concat()
    }
}

fn tag(value: &RawValue) -> Option<Tag> {
    Tag::normalise(&text(value)?).ok()
}

/// A string. Half a surrogate pair, as a name cut off in an emoji leaves it, becomes a replacement character.
fn text(value: &RawValue) -> Option<String> {
    struct Lossy;

    impl Visitor<'_> for Lossy {
        type Value = String;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a string")
        }

        fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<String, E> {
            Ok(String::from_utf8_lossy(bytes).into_owned())
        }
    }

    serde_json::Deserializer::from_str(value.get()).deserialize_bytes(Lossy).ok()
}

#[derive(Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'de> Deserialize<'de> for Object<'de> {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;

        impl<'de> Visitor<'de> for Entries {
            type Value = Object<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object<'de>, A::Error> {
                // A player has about 30 keys.
                let mut entries = Vec::with_capacity(32);
                while let Some((Key(key), value)) = map.next_entry::<Key<'de>, &'de RawValue>()? {
                    // An object of a million keys would take far more memory than its text.
                    if entries.len() == MAX_ENTRIES {
                        return Err(de::Error::custom("too many keys"));
                    }
                    entries.push((key, value));
                }
                Ok(Object { entries })
            }
        }

        deserializer.deserialize_map(Entries)
    }
}

/// A list whose values are still text.
#[derive(Debug)]
struct List<'a>(Vec<&'a RawValue>);

impl<'de> Deserialize<'de> for List<'de> {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;

        impl<'de> Visitor<'de> for Entries {
            type Value = List<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<List<'de>, A::Error> {
                let mut entries = Vec::new();
                while let Some(value) = seq.next_element::<&'de RawValue>()? {
                    if entries.len() == MAX_ENTRIES {
                        return Err(de::Error::custom("too many entries"));
                    }
                    entries.push(value);
                }
                Ok(List(entries))
            }
        }

        deserializer.deserialize_seq(Entries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two_pp() -> Tag {
        "2PP".parse().unwrap()
    }

    fn ours(text: &str) -> WarDocument {
        match war(text, &two_pp()).unwrap() {
            WarOf::Ours(war) => war,
            other => panic!("not our war: {other:?}"),
        }
    }

    #[test]
    fn clan_keeps_its_bytes() {
        let text = r##"{ "tag":"#2pp", "name":"\u2606 x", "warWins":7.9, "warLosses":null, "future":{"a":[1]},
            "memberList":[{"tag":"#8QU8J9LP","name":"n","role":"admin","trophies":-3,"donations":99999999999,
                           "donationsReceived":"12"}] }"##;
        let clan = clan(text, &two_pp()).unwrap();
        assert_eq!((clan.json.as_str(), clan.name.as_str()), (text, "\u{2606} x"));
        assert_eq!((clan.level, clan.war_wins, clan.war_losses), (None, Some(7), None));
        let member = &clan.members[0];
        assert_eq!((member.trophies, member.donations, member.donations_received), (Some(-3), None, None));
        assert_eq!((member.role.as_deref(), member.town_hall), (Some("admin"), None));
        assert!(clan.has_all_members);
        assert!(member.json.starts_with(r##"{"tag":"#8QU8J9LP""##) && member.json.ends_with(r#""12"}"#));
    }

    #[test]
    fn member_with_impossible_tag_is_skipped() {
        let text = r##"{"tag":"#2PP","name":"x","memberList":[{"tag":"#AAA","name":"a"},7,{"name":"b"},{"tag":"#8Q8","name":"c"}]}"##;
        let clan = clan(text, &two_pp()).unwrap();
        assert!(!clan.has_all_members);
        assert_eq!(clan.members.iter().map(|member| member.name.as_str()).collect::<Vec<_>>(), ["c"]);
    }

    #[test]
    fn mandatory_keys_are_demanded() {
        let refused = |text| clan(text, &two_pp()).unwrap_err().to_string();
        insta::assert_snapshot!(
            [
                r##"{"tag":"#2PP","name":"x"}"##,
                r##"{"tag":"#2PP","name":"x","memberList":null}"##,
                r##"{"tag":"#2PP","name":"x","memberList":[{"player":{"tag":"#8Q8"}},{"tag":"#AAA"},7]}"##,
                r##"{"tag":"#2PP","memberList":[]}"##,
                r#"{"name":"x","memberList":[]}"#,
                r##"{"tag":"#2QQ","name":"x","memberList":[]}"##,
                r#"{"tag":7,"name":"x","memberList":[]}"#,
                r##"["#2PP","x",[]]"##,
                r##"{"tag":"#2PP","name":"x","memberList":["##,
                "<html>",
                "502 Bad Gateway",
                "",
            ]
            .map(refused)
            .join("\n"),
            @r"
        the answer has no `memberList`
        the answer has no `memberList`
        no entry of the answer's `memberList` has a tag
        the answer has no `name`
        the answer has no `tag`
        asked for #2PP, answered with `#2QQ`
        asked for #2PP, answered with `7`
        the answer is not a JSON object
        the answer is not JSON: EOF while parsing a list at line 1 column 39
        the answer is not JSON: expected value at line 1 column 1
        the answer is not JSON: trailing characters at line 1 column 5
        the answer is not JSON: EOF while parsing a value at line 1 column 0
        "
        );
    }

    fn clan_of(rest: &str) -> InClan {
        player(&format!(r##"{{"tag":"#2PP","name":"x"{rest}}}"##), &two_pp()).unwrap().clan
    }

    #[test]
    fn player_without_clan_key_is_clanless() {
        for rest in ["", r#","clan":null"#, r#","clan":null,"role":"notMember""#, r#","role":null"#] {
            assert_eq!(clan_of(rest), InClan::None, "{rest}");
        }
        let named = r#","clan":{"tag":" #8q8"},"role":"leader""#;
        assert_eq!(clan_of(named), InClan::Known("8Q8".parse().unwrap()));
    }

    #[test]
    fn unreadable_clan_is_not_none() {
        for clan in ["{}", "[]", "7", "false", r#""8Q8""#, r#"{"tag":null}"#, r#"{"tag":""}"#, r#"{"tag":7}"#] {
            assert_eq!(clan_of(&format!(r#","clan":{clan}"#)), InClan::Unknown, "{clan}");
        }
        for rest in [
            r##","clan":{"tag":"#AAA"}"##,
            r##","clan":{"tag":"#0"}"##,
            r##","clan":{"tag":"#8Q8","tag":"#9Q9"}"##,
            r##","clan":{"tag":"#8Q8"},"clan":null"##,
            r##","clan":{"tag":"#8Q8"},"role":"notMember""##,
            r#","role":"leader""#,
            r#","clan":null,"role":7"#,
        ] {
            assert_eq!(clan_of(rest), InClan::Unknown, "{rest}");
        }
    }

    /// Returns (true when the list counts as whole, the members it places, the members the clan counts).
    fn list_of(rest: &str) -> (bool, usize, i32) {
        let clan = clan(&format!(r##"{{"tag":"#2PP","name":"x",{rest}}}"##), &two_pp()).unwrap();
        (clan.has_all_members, clan.members.len(), clan.member_count)
    }

    #[test]
    fn member_list_is_whole_when_count_agrees() {
        let (one, two) = (r##"{"tag":"#8Q8"}"##, r##"{"tag":"#9Q9"}"##);
        assert_eq!(list_of(&format!(r#""members":2,"memberList":[{one},{two}]"#)), (true, 2, 2));
        assert_eq!(list_of(&format!(r#""memberList":[{one},{two}]"#)), (true, 2, 2), "older answers do not count");
        assert_eq!(list_of(r#""members":0,"memberList":[]"#), (true, 0, 0), "really empty");
        assert_eq!(list_of(r#""memberList":[]"#), (false, 0, 0), "an empty list that nobody counted");
        assert_eq!(list_of(&format!(r#""members":"2","memberList":[{one},{two}]"#)), (false, 2, 2));
        assert_eq!(list_of(&format!(r#""members":2,"memberList":[{one},7]"#)), (false, 1, 2));
    }

    #[test]
    fn contradicting_member_list_places_nobody() {
        let (one, two) = (r##"{"tag":"#8Q8"}"##, r##"{"tag":"#9Q9"}"##);
        for (rest, counted) in [
            (format!(r#""members":50,"memberList":[{one},{two}]"#), 50),
            (format!(r#""members":0,"memberList":[{one}]"#), 0),
            (format!(r#""members":-1,"memberList":[{one}]"#), 1),
            (format!(r#""members":2,"memberList":[{one},{one}]"#), 2),
            (format!(r#""members":1,"memberList":[{one},{two}],"memberList":[{one}]"#), 1),
            (format!(r#""members":2,"members":1,"memberList":[{one}]"#), 1),
        ] {
            assert_eq!(list_of(&rest), (false, 0, counted), "{rest}");
        }
        let empty = clan(r##"{"tag":"#2PP","name":"x","members":50,"memberList":[]}"##, &two_pp());
        assert!(matches!(empty, Err(Unusable::Contradiction(_))), "{empty:?}");
        let two_tags = clan(r##"{"tag":"#8Q8","tag":"#2PP","name":"x","memberList":[]}"##, &two_pp());
        assert!(matches!(two_tags, Err(Unusable::WrongTag { .. })), "{two_tags:?}");
    }

    #[test]
    fn oversized_lists_and_objects_are_not_read() {
        let many = vec![r##"{"tag":"#8Q8"}"##; MAX_ENTRIES + 1].join(",");
        let text = format!(r##"{{"tag":"#2PP","name":"x","memberList":[{many}]}}"##);
        assert_eq!(clan(&text, &two_pp()).unwrap_err(), Unusable::MissingKey("memberList"));
        let keys: Vec<String> = (0..=MAX_ENTRIES).map(|key| format!(r#""{key}":1"#)).collect();
        assert_eq!(player(&format!("{{{}}}", keys.join(",")), &two_pp()).unwrap_err(), Unusable::NotAnObject);
    }

    const TIMES: &str = r#","startTime":"20260304T050000.000Z","endTime":"20260305T050000.000Z""#;

    fn fought(rest: &str, ours: &str, theirs: &str) -> WarDocument {
        self::ours(&format!(
            r##"{{"state":"inWar"{rest},"clan":{{"tag":"#2PP","members":[{ours}]}},"opponent":{{"tag":"#8Q8","members":[{theirs}]}}}}"##
        ))
    }

    #[test]
    fn war_is_whole_for_its_state() {
        let (one, other) = (r##"{"tag":"#99P","attacks":[{}]}"##, r##"{"tag":"#88P"}"##);
        let whole = fought(&format!(r#","teamSize":1{TIMES}"#), one, other);
        assert!(whole.is_whole && whole.members.len() == 1);
        for (war, members) in [
            (fought("", one, other), 1),
            (fought(TIMES, &format!("{one},7"), other), 1),
            (fought(TIMES, r##"{"tag":"#99P","attacks":{}}"##, other), 0),
            (fought(&format!(r#","teamSize":15{TIMES}"#), one, other), 0),
            (fought(&format!(r#","teamSize":"x"{TIMES}"#), one, other), 0),
            (fought(&format!(r#","teamSize":1{TIMES}"#), one, ""), 0),
            (fought(TIMES, &format!("{one},{one}"), other), 0),
            (fought(r#","startTime":"20260306T050000.000Z","endTime":"20260305T050000.000Z""#, one, other), 0),
        ] {
            assert_eq!((war.is_whole, war.members.len()), (false, members), "{}", war.json.as_str());
        }
        let text = format!(r##"{{"state":"warEnded"{TIMES},"clan":{{"tag":"#2PP"}},"opponent":{{"tag":"#2PP"}}}}"##);
        assert!(!ours(&text).is_whole, "against itself");
        assert!(ours(r#"{"state":"notInWar","clan":{"stars":0},"opponent":{}}"#).is_whole);
    }

    #[test]
    fn unknown_war_state_says_nothing() {
        for text in [
            r#"{"state":"accessDenied"}"#,
            r#"{"state":"inMatchmaking","clan":{},"opponent":{}}"#,
            r##"{"state":"enterWar","clan":{"tag":"#2PP"}}"##,
            r##"{"state":"INWAR","clan":{"tag":"#2PP"},"opponent":{"tag":"#8Q8"}}"##,
            r#"{"state":null,"clan":{}}"#,
            r#"{"state":7,"clan":{}}"#,
            r#"{"clan":{},"opponent":{}}"#,
            r#"{"state":"inWar","clan":{},"opponent":{}}"#,
            r##"{"state":"notInWar","clan":{"tag":"#2PP"},"opponent":{"tag":"#8Q8"}}"##,
            r##"{"state":"inWar","state":"notInWar","clan":{"tag":"#2PP"},"opponent":{"tag":"#8Q8"}}"##,
        ] {
            assert!(matches!(war(text, &two_pp()), Ok(WarOf::Unclear(_))), "{text}");
        }
        assert_eq!(war(r#"{"opponent":{}}"#, &two_pp()).unwrap_err(), Unusable::MissingKey("state"));
    }

    #[test]
    fn opponent_side_is_swapped_to_ours() {
        let text = r##"{ "clan" : {"tag":"#8Q8","members":[]},"x":1.50, "opponent":{"tag":"#2PP","members":[
            {"tag":"#99P","attacks":[{},{}]},{"tag":"#88P"},{"tag":"#AAA"}]} ,"state":"inWar"}"##;
        let war = ours(text);
        let expected = r##"{ "clan" : {"tag":"#2PP","members":[
            {"tag":"#99P","attacks":[{},{}]},{"tag":"#88P"},{"tag":"#AAA"}]},"x":1.50, "opponent":{"tag":"#8Q8","members":[]} ,"state":"inWar"}"##;
        assert_eq!(war.json.as_str(), expected);
        let used: Vec<_> = war.members.iter().map(|member| (member.tag.as_str(), member.attacks_used)).collect();
        assert_eq!(used, [("99P", 2), ("88P", 0)]);
    }

    #[test]
    fn war_is_of_others_only_when_both_tags_differ() {
        let text = r#"{"state":"notInWar","clan":{"stars":0},"opponent":{"stars":0}}"#;
        assert_eq!(ours(text).state, "notInWar");
        let text = r##"{"state":"inWar","clan":{"tag":"#8Q8"},"opponent":{"tag":"#9Q9"}}"##;
        assert!(
            matches!(war(text, &two_pp()), Ok(WarOf::Others { state, clan }) if state == "inWar" && clan == "#8Q8")
        );
    }

    #[test]
    fn undrawn_rounds_are_left_out() {
        let text =
            r##"{"state":"inWar","season":"2026-03","rounds":[{"warTags":["#8Q8","#9Q9"]},{"warTags":["#0","#0"]}]}"##;
        let group = league_group(text).unwrap();
        assert_eq!(group.rounds, [["8Q8", "9Q9"].map(|tag| tag.parse::<Tag>().unwrap())]);
    }

    #[test]
    fn deep_nesting_does_not_overflow() {
        let deep = "[".repeat(1_000_000) + &"]".repeat(1_000_000);
        let text = format!(
            r##"{{"tag":"#2PP","name":"x","deep":{deep},"clan":{deep},"memberList":[{deep},{{"tag":"#8Q8"}}]}}"##
        );
        assert_eq!(player(&text, &two_pp()).unwrap().json.len(), text.len());
        assert_eq!(clan(&text, &two_pp()).unwrap().members.len(), 1);
        assert_eq!(complaint(&deep), None);
    }

    #[test]
    fn broken_text_and_numbers_keep_document() {
        let text = r##"{"tag":"#2PP","name":"x\ud83d","trophies":1e400,"donations":1e3}"##;
        let player = player(text, &two_pp()).unwrap();
        assert!(player.name.starts_with('x') && player.name.contains('\u{fffd}'), "{:?}", player.name);
        assert_eq!((player.trophies, player.donations), (None, Some(1000)));
    }
}
