//! Values of rows, for both stores: pure functions.

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

/// The JSON document with `deep_link` as its last key and every other byte kept. A document that has the key, or is not an
/// object, stays as it is.
#[must_use]
pub fn with_deep_link<'a>(json: &'a str, link: &str) -> Cow<'a, str> {
    let Some(entries) = json.trim().strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) else {
        return Cow::Borrowed(json);
    };
    // Parsing twenty kilobytes is worth it only when the key can be there, by its name or as \u0064eep_link.
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

/// The document as it was received, without the link of [`with_deep_link`]. A `jsonb` column may have moved the link and put
/// spaces around it.
#[must_use]
pub fn without_deep_link(json: &str, link: &str) -> String {
    let spliced = [format!("\"deep_link\":\"{link}\""), format!("\"deep_link\": \"{link}\"")];
    let Some((before, after)) = spliced.iter().find_map(|spliced| json.rsplit_once(spliced)) else {
        return json.to_owned();
    };
    match before.trim_end().strip_suffix(',') {
        Some(before) => format!("{before}{after}"),
        // No comma before the link: it is the first key, so the comma after it goes.
        None => format!("{before}{}", after.strip_prefix(", ").unwrap_or(after)),
    }
}

/// True for an object with the key at its top level.
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

/// The text, cut to `width` characters. NUL is left out, since PostgreSQL refuses it.
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

/// The places in the batch of the newest response for each object, sorted by kind and tag. Of two responses that began at
/// the same time the first stays.
#[must_use]
pub fn newest_answers(batch: &[Fetched]) -> Vec<usize> {
    let mut newest: BTreeMap<&ObjectId, usize> = BTreeMap::new();
    for (place, fetched) in batch.iter().enumerate() {
        let kept = newest.entry(&fetched.object).or_insert(place);
        *kept = std::cmp::min_by_key(*kept, place, |&place| (Reverse(batch[place].began), place));
    }
    newest.into_values().collect()
}

/// The payload of an outbox entry, as it is stored.
pub fn payload(entry: &OutboxEntry) -> String {
    serde_json::to_string(entry).expect("texts and their lists are JSON")
}

/// An outbox entry from its row. A payload that somebody edited into something unreadable is empty.
pub fn entry(id: i64, stored_at: Timestamp, payload: &str) -> OutboxEntry {
    OutboxEntry { id, stored_at, ..serde_json::from_str(payload).unwrap_or_default() }
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
    fn wars_have_no_share_link() {
        assert_eq!(deep_link(Kind::Clan, &tag("#2PP")).unwrap(), LINK);
        assert!(deep_link(Kind::Player, &tag("#2PP")).unwrap().contains("action=OpenPlayerProfile&tag=%232PP"));
        assert_eq!(deep_link(Kind::War, &tag("#2PP")), None);
    }

    #[test]
    fn link_becomes_last_key_other_bytes_stay() {
        let json = "{ \"b\" : 1.0,\n  \"a\": {\"deep_link\": 1}\n}\n";
        let expected = format!("{{ \"b\" : 1.0,\n  \"a\": {{\"deep_link\": 1}},\"deep_link\":\"{LINK}\"\n}}\n");
        assert_eq!(with_deep_link(json, LINK), expected);
        assert_eq!(with_deep_link("{}", LINK), format!("{{\"deep_link\":\"{LINK}\"}}"));
        assert_eq!(with_deep_link("{ }", LINK), format!("{{\"deep_link\":\"{LINK}\" }}"));
    }

    #[test]
    fn document_with_the_key_stays() {
        for json in [r#"{"deep_link":null,"tag":"x"}"#, r#"{"deep\u005flink":1}"#, r#"{"\ud83d":1}"#, "[1]", "not json"]
        {
            assert_eq!(with_deep_link(json, LINK), json);
        }
    }

    #[test]
    fn link_removal_restores_document() {
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
    fn texts_cut_by_characters_without_nul() {
        assert_eq!(cut("Ünïcode", 3), "Ünï");
        assert_eq!(cut("short", 50), "short");
        assert_eq!(cut("a\0b\0cd", 3), "abc");
    }

    #[test]
    fn newest_answer_per_object_in_object_order() {
        let fetched = |object: ObjectId, began| Fetched {
            object,
            began: Timestamp::from_millis(began),
            copied_at: Timestamp::from_millis(began),
            fresh_until: Timestamp::from_millis(began),
            answered: Answered::Gone,
            league: None,
            asked: None,
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
