//! The JSON of the producers: reading their values, and writing values as the Python producer does.

use std::collections::HashMap;

use serde_json::value::RawValue;

use crate::{
    clock::Timestamp,
    model::{Kind, ObjectId, Priority, Reason, RefreshRequest, Tag},
    queue::{record::Record, times},
};

/// The priority of a score: producers write 0 to 3, and every other number counts as the next worse of them.
#[must_use]
pub fn class_of_score(score: f64) -> Priority {
    // NaN fails every comparison and ends as LOW.
    if score <= 0.0 {
        Priority::Critical
    } else if score <= 1.0 {
        Priority::High
    } else if score <= 2.0 {
        Priority::Medium
    } else {
        Priority::Low
    }
}

/// The `requested_at` of a value, to the second, as one number: 20260304050607; 0 when it has not the usual form. It only orders a
/// slice, and [`decode`] reads the same field independently; `mail.lua` repeats this function.
#[must_use]
pub(in crate::queue) fn asked_at(value: &[u8]) -> u64 {
    const NAME: &[u8] = b"\"requested_at\"";
    value
        .windows(NAME.len())
        .enumerate()
        .filter(|(_, found)| *found == NAME)
        .find_map(|(at, _)| seconds(&value[at + NAME.len()..]))
        .unwrap_or(0)
}

/// The digits of a time as it follows its name.
fn seconds(after: &[u8]) -> Option<u64> {
    const FORM: &[u8] = b"0000-00-00T00:00:00";
    let is_space = |byte: &u8| matches!(byte, b' ' | b'\t'..=b'\r');
    let trimmed = |text: &[u8]| text.iter().take_while(|byte| is_space(byte)).count();
    let colon = after.get(trimmed(after)..)?.strip_prefix(b":")?;
    let time = colon.get(trimmed(colon)..)?.strip_prefix(b"\"")?.get(..FORM.len())?;
    let mut number = 0;
    for (byte, form) in time.iter().zip(FORM) {
        match (byte, form) {
            (b'0'..=b'9', b'0') => number = number * 10 + u64::from(byte - b'0'),
            (b'T' | b't' | b' ', b'T') => {}
            (byte, form) if byte == form && *form != b'0' => {}
            _ => return None,
        }
    }
    Some(number)
}

/// Reads one JSON value. Only type and tag must be right; everything else has a sensible reading when it is odd.
pub(super) fn decode(
    value: &[u8],
    place: Option<Priority>,
    now: Timestamp,
    max_attempts: u32,
) -> Result<RefreshRequest, Reason> {
    let not_json = |detail: String| Reason::new("not_json", detail);
    let text = std::str::from_utf8(value).map_err(|error| not_json(format!("the value is not UTF-8: {error}")))?;
    // Raw values: a field with an odd type must not make the others unreadable.
    let fields: HashMap<String, &RawValue> =
        serde_json::from_str(text).map_err(|error| not_json(format!("the value is not a JSON object: {error}")))?;
    let string = |name: &str| fields.get(name).and_then(|raw| serde_json::from_str::<String>(raw.get()).ok());
    let number = |name: &str| fields.get(name).and_then(|raw| raw.get().parse::<f64>().ok());

    let kind = string("type").ok_or_else(|| Reason::new("unknown_type", "`type` is missing or not a text"))?;
    let kind: Kind = kind.parse().map_err(|error| Reason::new("unknown_type", format!("{error}")))?;
    let tag = string("tag").ok_or_else(|| Reason::new("impossible_tag", "`tag` is missing or not a text"))?;
    let tag = Tag::normalise(&tag).map_err(|error| Reason::new("impossible_tag", error.to_string()))?;

    let stated = Priority::ALL.into_iter().find(|class| number("priority") == Some(f64::from(class.as_number())));
    // A producer may write one of the two and forget the other: the more urgent one counts.
    let priority = [stated, place].into_iter().flatten().min().unwrap_or(Priority::Low);
    // Without a readable time the request counts as new.
    let requested_at = string("requested_at").and_then(|text| times::parse(&text)).unwrap_or(now);
    let last_updated = string("last_updated").and_then(|text| times::parse(&text));
    let retries = fields.get("retry_count").and_then(|raw| raw.get().parse::<u32>().ok()).unwrap_or(0);
    // A used-up entry still gets one attempt.
    let attempts = retries.min(max_attempts.saturating_sub(1));
    Ok(RefreshRequest::from_mail(ObjectId::new(kind, tag), priority, requested_at, last_updated, attempts, now))
}

/// A record's value exactly as the Python producer writes it.
///
/// `requested_at` is the latest request's time, so that an answer to an older request does not pass for one to this. A record
/// that must wait has a request time in the future, as with the old worker.
#[must_use]
pub fn compose(id: &str, object: &ObjectId, record: &Record, now: Timestamp) -> String {
    let wanted = record.wanted_in_all();
    let ready_at = wanted.due.max(record.hold);
    // The old worker reads a time in the future as "not before".
    let requested_at = if ready_at > now { ready_at } else { wanted.last };
    format!(
        "{{\"id\": {}, \"type\": \"{}\", \"tag\": \"{}\", \"priority\": {}, \"requested_at\": \"{}\", \
         \"last_updated\": null, \"retry_count\": {}}}",
        ascii_json(id),
        object.kind,
        object.tag.as_str(),
        wanted.priority.as_number(),
        times::naive(requested_at),
        wanted.attempts
    )
}

/// A JSON string in ASCII only, as Python's `json.dumps` writes it.
fn ascii_json(text: &str) -> String {
    use std::fmt::Write as _;
    let quoted = serde_json::Value::from(text).to_string();
    quoted.chars().fold(String::new(), |mut out, c| {
        if c.is_ascii() {
            out.push(c);
        } else {
            // Python writes characters beyond the basic plane as two surrogates.
            for unit in c.encode_utf16(&mut [0; 2]) {
                // Writing to a text cannot fail.
                let _ = write!(out, "\\u{unit:04x}");
            }
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::mailbox::{Content, Decision, Entry, Id, Source};

    const NOW: Timestamp = Timestamp::from_millis(1_772_600_767_089);

    fn entry(score: &str, value: &str) -> Entry {
        Entry {
            id: Id::Whole(b"any id".to_vec()),
            source: Source::Index { score: score.to_owned() },
            content: Content::Value(value.as_bytes().to_vec()),
        }
    }

    fn request(score: &str, value: &str) -> RefreshRequest {
        match entry(score, value).decide(NOW, 3) {
            Decision::Admit(request) => request,
            other => panic!("{value} became {other:?}"),
        }
    }

    #[test]
    fn decode_reads_examples_of_contract() {
        let clan = request(
            "1",
            r#"{"id": "clan:2PYL0Q8", "type": "clan", "tag": "2PYL0Q8", "priority": 1, "requested_at": "2026-03-04T05:06:07.000089", "last_updated": null, "retry_count": 0}"#,
        );
        assert_eq!(clan.object.to_string(), "clan:2PYL0Q8");
        assert_eq!((clan.priority, clan.attempts), (Priority::High, 0));
        assert_eq!(clan.asked.to_string(), "2026-03-04T05:06:07.000Z");

        let player = request(
            "2",
            r##"{"id": "player:#8gql2", "type": "player", "tag": "#8gql2", "priority": 2, "requested_at": "2026-03-04T05:06:07", "last_updated": "2026-03-04T04:06:07.000089", "retry_count": 0}"##,
        );
        assert_eq!(player.object.to_string(), "player:8GQL2");
        assert_eq!(player.due.to_string(), "2026-03-04T06:06:07.000Z");

        let retry = request(
            "3",
            r#"{"id": "clan:2PYL0Q8-retry-2", "type": "clan", "tag": "2PYL0Q8", "priority": 3, "requested_at": "2026-03-04T05:10:07.000089", "last_updated": null, "retry_count": 2}"#,
        );
        assert_eq!((retry.object.to_string().as_str(), retry.attempts), ("clan:2PYL0Q8", 2));
        assert_eq!(retry.due.to_string(), "2026-03-04T05:10:07.000Z");
    }

    #[test]
    fn better_of_score_and_stated_priority_wins() {
        assert_eq!(request("3", r#"{"type":"war","tag":"2PP","priority":1}"#).priority, Priority::High);
        assert_eq!(request("0", r#"{"type":"war","tag":"2PP","priority":1}"#).priority, Priority::Critical);
        assert_eq!(request("2", r#"{"type":"war","tag":"2PP","priority":-7}"#).priority, Priority::Medium);
        assert_eq!(request("inf", r#"{"type":"war","tag":"2PP","priority":"high"}"#).priority, Priority::Low);
        assert_eq!(request("0.5", r#"{"type":"war","tag":"2PP"}"#).priority, Priority::High);
    }

    #[test]
    fn decode_tolerates_odd_counts_and_times() {
        let odd =
            request("1", r#"{"type":"clan","tag":"2PP","retry_count":-1,"requested_at":7,"last_updated":"soon"}"#);
        assert_eq!((odd.attempts, odd.asked, odd.due), (0, NOW, NOW));
    }

    #[test]
    fn used_up_entry_still_gets_one_attempt() {
        assert_eq!(request("1", r#"{"type":"clan","tag":"2PP","retry_count":9}"#).attempts, 2);
    }

    #[test]
    fn last_of_two_equal_fields_counts() {
        assert_eq!(request("1", r#"{"type":"x","type":"clan","tag":"2PP"}"#).object.to_string(), "clan:2PP");
    }

    #[test]
    fn composed_value_equals_python_producers_value() {
        let request = RefreshRequest::now("war:2PYL0Q8".parse().unwrap(), Priority::Critical, NOW);
        let record = Record::with_request(None, &request, NOW);
        assert_eq!(
            compose("war:2PYL0Q8", &request.object, &record, NOW),
            r#"{"id": "war:2PYL0Q8", "type": "war", "tag": "2PYL0Q8", "priority": 0, "requested_at": "2026-03-04T05:06:07.089000", "last_updated": null, "retry_count": 0}"#
        );
    }

    #[test]
    fn texts_beyond_ascii_are_escaped_like_python() {
        assert_eq!(ascii_json("ß😀\""), r#""\u00df\ud83d\ude00\"""#);
    }
}
