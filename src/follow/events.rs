//! The events that other programs read: one for each object whose content changed, and further ones for wars and moves of
//! members. Pure functions of values; `docs/events.md` describes the format.

use std::{borrow::Cow, collections::BTreeMap};

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    clock::Timestamp,
    model::{
        Answered, Before, Change, Document, Event, Fetched, KnownWar, Learned, Move, ObjectId, Tag, WarDocument,
        game_time, text::hex,
    },
};

/// An event names at most this many fields; the API's documents have thirty.
const MAX_FIELDS: usize = 64;

/// The events of a commit.
#[must_use]
pub fn of_commit(fetched: &[Fetched], learned: &[Learned], moves: &[Move]) -> Vec<Event> {
    let changes =
        fetched.iter().zip(learned).filter_map(|(fetched, learned)| Some((fetched, learned.change.as_ref()?)));
    let changes = changes.flat_map(|(fetched, change)| of_change(fetched, change));
    changes.chain(moves.iter().map(of_move)).collect()
}

/// The events of one document with new content.
#[must_use]
pub fn of_change(fetched: &Fetched, change: &Change) -> Vec<Event> {
    let Answered::Document(document) = &fetched.answered else { return Vec::new() };
    let mut events = vec![changed(fetched, document, &change.before)];
    if let (Document::War(war), Before::Document(before)) = (document, &change.before) {
        events.extend(of_war(&fetched.object.tag, before, war, fetched.began));
    }
    events
}

/// The event of a player who joined or left a clan.
#[must_use]
pub fn of_move(one: &Move) -> Event {
    let event = if one.joined { "joined" } else { "left" };
    let (player, clan) = (one.player.as_str(), one.clan.as_str());
    Event::of(vec![
        ("event", event.to_owned()),
        ("id", format!("{event}:{player}:{clan}:{}", one.seen.as_millis())),
        ("kind", "player".to_owned()),
        ("tag", player.to_owned()),
        ("clan", clan.to_owned()),
        ("at", one.seen.to_string()),
    ])
}

/// The id contains the time, so that content that returns is a change of its own.
fn id_of_change(object: &ObjectId, content_hash: &str, at: Timestamp) -> String {
    // Sixteen digits of the hash are enough, because the id has the object and the time as well.
    format!("changed:{object}:{}:{}", &content_hash[..content_hash.len().min(16)], at.as_millis())
}

fn changed(fetched: &Fetched, document: &Document, before: &Before) -> Event {
    let new = hex(document.content_hash());
    let mut fields = vec![
        ("event", "changed".to_owned()),
        ("id", id_of_change(&fetched.object, &new, fetched.began)),
        ("kind", fetched.object.kind.to_string()),
        ("tag", fetched.object.tag.as_str().to_owned()),
    ];
    let names = match before {
        Before::Nothing => Some(changed_fields("{}", document.json())),
        Before::Document(before) => {
            fields.push(("old", hex(crate::model::content_hash(before))));
            Some(changed_fields(before, document.json()))
        }
        // Without the old document the event names no fields.
        Before::Unknown => None,
    };
    fields.push(("new", new));
    fields.extend(names.map(|names| ("fields", serde_json::to_string(&names).expect("texts are JSON"))));
    fields.push(("at", fetched.began.to_string()));
    Event::of(fields)
}

/// The top-level keys that were added, were removed, or have another value, in order.
#[must_use]
pub fn changed_fields(before: &str, now: &str) -> Vec<String> {
    let (before, now) = (Fields::of(before), Fields::of(now));
    let names = before.0.keys().chain(now.0.keys().filter(|name| !before.0.contains_key(*name)));
    let differs = |name: &&Cow<'_, str>| before.value(name) != now.value(name);
    let mut names: Vec<String> = names.filter(differs).map(|name| name.clone().into_owned()).collect();
    names.sort_unstable();
    // Sorted first, so that the cut is the same every time.
    names.truncate(MAX_FIELDS);
    names
}

#[derive(Default, Deserialize)]
struct Fields<'a>(#[serde(borrow)] BTreeMap<Cow<'a, str>, &'a RawValue>);

impl<'a> Fields<'a> {
    /// Reads the fields of an object; other texts have none.
    fn of(json: &'a str) -> Self {
        serde_json::from_str(json).unwrap_or_default()
    }

    fn value(&self, name: &str) -> Option<&'a str> {
        self.0.get(name).map(|value| value.get())
    }
}

/// The state of a war, and the properties that distinguish it from other wars.
#[derive(Clone, Debug, PartialEq, Eq)]
struct War {
    state: String,
    opponent: Option<Tag>,
    starts: Timestamp,
    ends: Timestamp,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WarBefore {
    state: Option<String>,
    start_time: Option<String>,
    end_time: Option<String>,
    opponent: Option<SideBefore>,
}

#[derive(Deserialize)]
struct SideBefore {
    tag: Option<String>,
}

impl War {
    /// Reads a stored document; `None` for a clan that is not in a war.
    fn of_stored(json: &str) -> Option<Self> {
        let war: WarBefore = serde_json::from_str(json).ok()?;
        Some(Self {
            state: war.state?,
            opponent: war.opponent.and_then(|side| side.tag).and_then(|tag| tag.parse().ok()),
            starts: game_time(&war.start_time?)?,
            ends: game_time(&war.end_time?)?,
        })
    }

    fn of_document(war: &WarDocument) -> Option<Self> {
        let (starts, ends) = (war.starts?, war.ends?);
        Some(Self { state: war.state.clone(), opponent: war.opponent.clone(), starts, ends })
    }

    /// True for a war against the same clan, as far as both can be read, that began before the other was over. A maintenance break
    /// may move its times.
    fn is_same_as(&self, earlier: &Self) -> bool {
        // An unknown opponent may be the same one.
        let is_other = matches!((&self.opponent, &earlier.opponent), (Some(one), Some(other)) if one != other);
        !is_other && self.starts < earlier.ends
    }

    fn is(&self, state: &str) -> bool {
        self.state == state
    }
}

fn of_war(clan: &Tag, before: &str, now: &WarDocument, at: Timestamp) -> Vec<Event> {
    // An incomplete document does not show that a war began or ended.
    if !now.is_whole {
        return Vec::new();
    }
    let (before, now) = (War::of_stored(before), War::of_document(now));
    let mut events = Vec::new();
    // A clan may be in another war by the next poll.
    let same = matches!((&before, &now), (Some(before), Some(now)) if now.is_same_as(before));
    if let Some(before) = before.as_ref().filter(|before| !same && !before.is(KnownWar::ENDED)) {
        // No poll saw its end, and none will.
        events.push(war_event("war_ended", clan, before, at));
    }
    let Some(now) = now else { return events };
    let was = |state: &str| same && before.as_ref().is_some_and(|before| before.is(state));
    // A response from an older cached copy must not start a war twice.
    if now.is(KnownWar::IN_WAR) && !was(KnownWar::IN_WAR) && !was(KnownWar::ENDED) {
        events.push(war_event("war_started", clan, &now, at));
    }
    if now.is(KnownWar::ENDED) && !was(KnownWar::ENDED) {
        events.push(war_event("war_ended", clan, &now, at));
    }
    events
}

fn war_event(event: &'static str, clan: &Tag, war: &War, at: Timestamp) -> Event {
    let mut fields = vec![
        ("event", event.to_owned()),
        ("id", format!("{event}:{}:{}", clan.as_str(), war.starts.as_millis())),
        ("kind", "war".to_owned()),
        ("tag", clan.as_str().to_owned()),
    ];
    fields.extend(war.opponent.as_ref().map(|opponent| ("opponent", opponent.as_str().to_owned())));
    fields.extend([("starts", war.starts.to_string()), ("ends", war.ends.to_string()), ("at", at.to_string())]);
    Event::of(fields)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::PlayerDocument;

    const NOW: Timestamp = Timestamp::from_millis(1_772_600_767_089);

    fn player(json: &str) -> Fetched {
        let document = PlayerDocument {
            json: json.to_owned().into(),
            name: "x".to_owned(),
            role: None,
            town_hall: None,
            trophies: None,
            donations: None,
            donations_received: None,
            clan: crate::model::InClan::None,
        };
        Fetched {
            object: "player:2PP".parse().unwrap(),
            began: NOW,
            copied_at: NOW,
            fresh_until: NOW,
            answered: Answered::Document(Document::Player(document)),
            league: None,
            asked: None,
        }
    }

    fn shown(events: &[Event]) -> String {
        let line = |event: &Event| event.0.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>();
        events.iter().map(|event| line(event).join(" ")).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn changed_event_names_fields_and_hashes() {
        let now = r#"{"tag":"x","trophies":11,"clan":{"a":1},"new":1}"#;
        let before = r#"{"trophies":10,"tag":"x","clan":{"a":1},"old":[1, 2]}"#;
        let hash = |json: &str| hex(crate::model::content_hash(json));
        let (old, new) = (hash(before), hash(now));
        let expected = format!(
            "event=changed id=changed:player:2PP:{}:1772600767089 kind=player tag=2PP old={old} new={new} \
             fields=[\"new\",\"old\",\"trophies\"] at=2026-03-04T05:06:07.089Z",
            &new[..16]
        );
        let change = Change { before: Before::Document(before.to_owned()) };
        assert_eq!(shown(&of_change(&player(now), &change)), expected);
    }

    /// An unknown document before it leads to no field names at all.
    #[test]
    fn first_document_names_all_fields() {
        let fetched = player(r#"{"tag":"x","trophies":11}"#);
        let first = shown(&of_change(&fetched, &Change { before: Before::Nothing }));
        assert!(first.contains(r#"fields=["tag","trophies"]"#) && !first.contains("old="), "{first}");
        let unknown = shown(&of_change(&fetched, &Change { before: Before::Unknown }));
        assert!(!unknown.contains("fields=") && !unknown.contains("old="), "{unknown}");
    }

    #[test]
    fn changed_fields_ignores_order() {
        assert_eq!(changed_fields(r#"{"a":1,"b":[1],"c":"x"}"#, r#"{"c":"x","b":[1,2],"d":null}"#), ["a", "b", "d"]);
        assert_eq!(changed_fields("{}", "{}"), [""; 0]);
        assert_eq!(changed_fields("not json", r#"{"a":1}"#), ["a"]);
    }

    fn war(state: &str, opponent: &str, day: u8) -> String {
        format!(
            r##"{{"state":"{state}","startTime":"202603{day:02}T050000.000Z","endTime":"202603{:02}T050000.000Z","clan":{{"tag":"#2PP"}},"opponent":{{"tag":"#{opponent}"}}}}"##,
            day + 1
        )
    }

    fn between(before: &str, now: &str) -> Vec<String> {
        between_whole(before, now, true)
    }

    fn between_whole(before: &str, now: &str, is_whole: bool) -> Vec<String> {
        let stored = War::of_stored(now);
        let document = WarDocument {
            json: now.to_owned().into(),
            state: stored.as_ref().map_or_else(|| "notInWar".to_owned(), |war| war.state.clone()),
            members: Vec::new(),
            opponent: stored.as_ref().and_then(|war| war.opponent.clone()),
            starts: stored.as_ref().map(|war| war.starts),
            ends: stored.as_ref().map(|war| war.ends),
            is_whole,
        };
        let events = of_war(&"2PP".parse().unwrap(), before, &document, NOW);
        let name = |event: &Event| {
            let value = |wanted: &str| event.0.iter().find(|(name, _)| *name == wanted).unwrap().1.clone();
            format!("{} {}", value("event"), value("opponent"))
        };
        events.iter().map(name).collect()
    }

    #[test]
    fn war_starts_once_and_ends_once() {
        let (none, no): (&str, [&str; 0]) = (r#"{"state":"notInWar","clan":{},"opponent":{}}"#, []);
        let preparation = war("preparation", "8QQ", 4);
        let (fought, over) = (war("inWar", "8QQ", 4), war("warEnded", "8QQ", 4));
        assert_eq!(between(none, &preparation), no);
        assert_eq!(between(&preparation, &fought), ["war_started 8QQ"]);
        assert_eq!(between(&fought, &fought), no);
        assert_eq!(between(&fought, &over), ["war_ended 8QQ"]);
        assert_eq!(between(&over, &over), no);
        assert_eq!(between(&over, none), no);
        assert_eq!(between(none, &fought), ["war_started 8QQ"], "its preparation was never seen");
        assert_eq!(between(&preparation, &over), ["war_ended 8QQ"], "nobody waits for a start that is long past");
    }

    #[test]
    fn replaced_war_has_ended() {
        let fought = war("inWar", "8QQ", 4);
        assert_eq!(between(&fought, r#"{"state":"notInWar"}"#), ["war_ended 8QQ"]);
        assert_eq!(between(&fought, &war("inWar", "9QQ", 5)), ["war_ended 8QQ", "war_started 9QQ"]);
        assert_eq!(between(&war("warEnded", "8QQ", 4), &war("inWar", "8QQ", 8)), ["war_started 8QQ"], "a rematch");
    }

    #[test]
    fn incomplete_war_ends_nothing() {
        let fought = war("inWar", "8QQ", 4);
        let no: [&str; 0] = [];
        for now in [war("warEnded", "8QQ", 4), war("inWar", "9QQ", 5), r#"{"state":"inWar"}"#.to_owned()] {
            assert_eq!(between_whole(&fought, &now, false), no, "{now}");
        }
        assert_eq!(
            between(&fought, &fought.replace("#8QQ", "#???")),
            no,
            "an opponent that cannot be read is no other"
        );
    }

    #[test]
    fn move_event_names_player_and_clan() {
        let one = Move { player: "2PP".parse().unwrap(), clan: "8QQ".parse().unwrap(), seen: NOW, joined: true };
        assert_eq!(
            shown(&[of_move(&one)]),
            "event=joined id=joined:2PP:8QQ:1772600767089 kind=player tag=2PP clan=8QQ at=2026-03-04T05:06:07.089Z"
        );
    }
}
