//! What both stores do to a document before it becomes a row: pure functions from values to values.

use std::{borrow::Cow, cmp::Reverse, collections::BTreeMap, fmt};

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};

use crate::{
    clock::Timestamp,
    model::{Fetched, Kind, ObjectId, OutboxEntry, Tag},
};

/// Characters that the tables' `name` columns hold.
pub const NAME_WIDTH: usize = 50;

/// Characters that the tables' `role` columns hold.
pub const ROLE_WIDTH: usize = 20;

/// The game's share link; a war has none.
#[must_use]
pub fn deep_link(kind: Kind, tag: &Tag) -> Option<String> {
    let action = match kind {
        Kind::Clan => "OpenClanProfile",
        Kind::Player => "OpenPlayerProfile",
        Kind::War => return None,
    };
    Some(format!("https://link.clashofclans.com/en?action={action}&tag={}", tag.path_segment()))
}

/// The JSON document with `deep_link` as its last key, every other byte kept. A document that has the key already, or that
/// is no object, stays as it is.
#[must_use]
pub fn with_deep_link<'a>(json: &'a str, link: &str) -> Cow<'a, str> {
    let Some(entries) = json.trim().strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) else {
        return Cow::Borrowed(json);
    };
    // A document of twenty kilobytes is read only when the key can be in it, by its name or as \u0064eep_link.
    let may_have_it = json.contains("deep_link") || json.contains('\\');
    if may_have_it && serde_json::from_str(json).map_or(true, |HasDeepLink(has_it)| has_it) {
        return Cow::Borrowed(json);
    }
    let entries = entries.trim_end();
    let comma = if entries.is_empty() { "" } else { "," };
    // After the last value rather than before the brace, so that a pretty-printed document stays readable.
    let end = json.trim_end().len() - 1;
    let end = json[..end].trim_end().len();
    Cow::Owned(format!("{}{comma}\"deep_link\":\"{link}\"{}", &json[..end], &json[end..]))
}

/// The document as it was received: what [`with_deep_link`] spliced in is taken out again. A column of type `jsonb` has given it
/// a place of its own, with spaces around it.
#[must_use]
pub fn without_deep_link(json: &str, link: &str) -> String {
    let spliced = [format!("\"deep_link\":\"{link}\""), format!("\"deep_link\": \"{link}\"")];
    let Some((before, after)) = spliced.iter().find_map(|spliced| json.rsplit_once(spliced)) else {
        return json.to_owned();
    };
    match before.trim_end().strip_suffix(',') {
        Some(before) => format!("{before}{after}"),
        // It came first.
        None => format!("{before}{}", after.strip_prefix(", ").unwrap_or(after)),
    }
}

/// Whether an object has the key at its top level.
struct HasDeepLink(bool);

impl<'de> Deserialize<'de> for HasDeepLink {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(KeyVisitor)
    }
}

struct KeyVisitor;

impl<'de> Visitor<'de> for KeyVisitor {
    type Value = HasDeepLink;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<HasDeepLink, A::Error> {
        let mut has_it = false;
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            has_it |= key == "deep_link";
            map.next_value::<IgnoredAny>()?;
        }
        Ok(HasDeepLink(has_it))
    }
}

/// The text as a column of `width` characters holds it. NUL, which PostgreSQL's text refuses, is left out.
#[must_use]
pub fn cut(text: &str, width: usize) -> Cow<'_, str> {
    if text.contains('\0') {
        return Cow::Owned(text.chars().filter(|&c| c != '\0').take(width).collect());
    }
    match text.char_indices().nth(width) {
        Some((end, _)) => Cow::Borrowed(&text[..end]),
        None => Cow::Borrowed(text),
    }
}

/// The places in the batch of the newest answer for each object, sorted by kind and tag. Of two answers that began in
/// the same moment the first stays.
#[must_use]
pub fn newest_answers(batch: &[Fetched]) -> Vec<usize> {
    let mut newest: BTreeMap<&ObjectId, usize> = BTreeMap::new();
    for (place, fetched) in batch.iter().enumerate() {
        let kept = newest.entry(&fetched.object).or_insert(place);
        *kept = std::cmp::min_by_key(*kept, place, |&place| (Reverse(batch[place].began), place));
    }
    newest.into_values().collect()
}

/// What a note says, as it is stored.
pub fn words_of(note: &OutboxEntry) -> String {
    serde_json::to_string(note).expect("texts and their lists are JSON")
}

/// A note as it was stored. Words that somebody edited into something unreadable say nothing.
pub fn note(id: i64, stored_at: Timestamp, words: &str) -> OutboxEntry {
    OutboxEntry { id, stored_at, ..serde_json::from_str(words).unwrap_or_default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{clock::Timestamp, model::Answered};

    const LINK: &str = "https://link.clashofclans.com/en?action=OpenClanProfile&tag=%232PP";

    fn tag(text: &str) -> Tag {
        text.parse().unwrap()
    }

    #[test]
    fn clans_and_players_have_a_share_link_and_wars_have_none() {
        assert_eq!(deep_link(Kind::Clan, &tag("#2PP")).unwrap(), LINK);
        assert!(deep_link(Kind::Player, &tag("#2PP")).unwrap().contains("action=OpenPlayerProfile&tag=%232PP"));
        assert_eq!(deep_link(Kind::War, &tag("#2PP")), None);
    }

    #[test]
    fn the_link_becomes_the_last_key_and_every_other_byte_stays() {
        let json = "{ \"b\" : 1.0,\n  \"a\": {\"deep_link\": 1}\n}\n";
        let expected = format!("{{ \"b\" : 1.0,\n  \"a\": {{\"deep_link\": 1}},\"deep_link\":\"{LINK}\"\n}}\n");
        assert_eq!(with_deep_link(json, LINK), expected);
        assert_eq!(with_deep_link("{}", LINK), format!("{{\"deep_link\":\"{LINK}\"}}"));
        assert_eq!(with_deep_link("{ }", LINK), format!("{{\"deep_link\":\"{LINK}\" }}"));
    }

    #[test]
    fn a_document_that_has_the_key_already_is_left_alone() {
        for json in [r#"{"deep_link":null,"tag":"x"}"#, r#"{"deep\u005flink":1}"#, r#"{"\ud83d":1}"#, "[1]", "not json"]
        {
            assert_eq!(with_deep_link(json, LINK), json);
        }
    }

    #[test]
    fn what_was_spliced_in_is_taken_out_again_without_a_trace() {
        for json in ["{ \"b\" : 1.0,\n  \"a\": {\"deep_link\": 1}\n}\n", "{}", "{ }", "[1]"] {
            assert_eq!(without_deep_link(&with_deep_link(json, LINK), LINK), json);
        }
        let reordered = [
            (format!("{{\"deep_link\": \"{LINK}\", \"a\": 1}}"), "{\"a\": 1}"),
            (format!("{{\"a\": 1, \"deep_link\": \"{LINK}\", \"b\": 2}}"), "{\"a\": 1, \"b\": 2}"),
            (format!("{{\"deep_link\": \"{LINK}\"}}"), "{}"),
        ];
        for (stored, received) in reordered {
            assert_eq!(without_deep_link(&stored, LINK), received);
        }
    }

    #[test]
    fn texts_are_cut_by_characters_and_lose_their_nul() {
        assert_eq!(cut("Ünïcode", 3), "Ünï");
        assert_eq!(cut("short", 50), "short");
        assert_eq!(cut("a\0b\0cd", 3), "abc");
    }

    #[test]
    fn of_several_answers_for_one_object_the_newest_stays_and_the_order_is_by_object() {
        let fetched = |object: ObjectId, began| Fetched {
            object,
            began: Timestamp::from_millis(began),
            copied_at: Timestamp::from_millis(began),
            fresh_until: Timestamp::from_millis(began),
            answered: Answered::Gone,
            league: None,
        };
        let batch = [
            fetched(ObjectId::player(tag("2PP")), 5),
            fetched(ObjectId::clan(tag("9PP")), 1),
            fetched(ObjectId::clan(tag("2PP")), 3),
            fetched(ObjectId::player(tag("2PP")), 7),
            fetched(ObjectId::player(tag("2PP")), 7),
        ];
        assert_eq!(newest_answers(&batch), [2, 1, 3]);
    }
}
