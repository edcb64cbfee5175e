//! The mailbox: the wire format that the producers write. Values only; who reads and writes it is the queue.
//!
//! What was read stays bytes until [`Entry::decide`] says what is to become of it: ids and values are free text, and may
//! not even be text.

use std::collections::HashMap;

use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use super::{
    ORPHAN_PATIENCE,
    record::{Letter, MAX_BODY_BYTES, Record, State},
    times,
};
use crate::{
    clock::Timestamp,
    model::{Kind, ObjectId, Priority, Reason, RefreshRequest, Tag},
};

/// The producers' index: a sorted set, request id by priority.
pub const INDEX: &str = "refresh_queue";

/// The producers' data: a hash, request id to a JSON text.
pub const DATA: &str = "refresh_requests";

/// What a dead letter of unreadable mail keeps, at most, of the value and of the id: more cannot be brought back.
pub const MAX_KEPT_BYTES: usize = 3 * 1024;
const MAX_KEPT_ID_BYTES: usize = 512;

/// A slice of the mailbox as it was read, not yet decoded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mail {
    pub entries: Vec<Entry>,
    /// Whether more was waiting than this slice holds.
    pub more: bool,
    /// How far the scan for data without an index entry came; admitting the slice moves the cursor.
    pub scan: Option<ScanStep>,
}

/// A step of the data scan, as cursors of `HSCAN`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScanStep {
    pub from: String,
    pub to: String,
}

impl Default for ScanStep {
    /// Nothing was looked at.
    fn default() -> Self {
        Self { from: "0".to_owned(), to: "0".to_owned() }
    }
}

/// One entry of the mailbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub id: Id,
    pub source: Source,
    pub content: Content,
}

/// The request id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Id {
    Whole(Vec<u8>),
    /// Not read: its size, its start, and a digest by which the queue finds it again.
    TooLong {
        bytes: usize,
        head: Vec<u8>,
        digest: String,
    },
}

impl Id {
    /// The id itself, when it was read.
    pub(super) fn whole(&self) -> Option<&[u8]> {
        match self {
            Self::Whole(id) => Some(id),
            Self::TooLong { .. } => None,
        }
    }
}

/// Where an entry was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// In the index, with this score as Redis writes it.
    Index { score: String },
    /// Among the index entries that wait for their data.
    Orphan { class: Priority, since: Timestamp },
    /// Data that no index entry points to.
    Scan,
}

impl Source {
    /// The class its place in the mailbox says; `None` when it has none.
    fn class(&self) -> Option<Priority> {
        match self {
            Self::Index { score } => Some(class_of_score(score.parse().unwrap_or(f64::INFINITY))),
            Self::Orphan { class, .. } => Some(*class),
            Self::Scan => None,
        }
    }
}

/// The data of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    Missing,
    Value(Vec<u8>),
    /// Not read: its size and its start.
    TooLarge {
        bytes: usize,
        head: Vec<u8>,
    },
}

/// What is to become of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Merge it into the queue.
    Admit(RefreshRequest),
    /// Make it a dead letter.
    Refuse(Unreadable),
    /// An index entry without data: set it aside, with the class its score says.
    SetAside(Priority),
    /// Its data did not come in time.
    Drop,
    /// Its data may still come.
    Wait,
}

/// Mail that cannot become a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// `mail:<id>`, escaped.
    pub name: String,
    pub reason: Reason,
    /// The score to bring it back with.
    pub score: String,
    /// The whole value, escaped, when it and the id are short enough to be kept.
    pub value: Option<String>,
    /// Else the start of what was read.
    pub body: Option<String>,
}

impl Unreadable {
    /// The dead letter it becomes.
    #[must_use]
    pub fn letter(&self, now: Timestamp) -> Letter {
        Letter {
            state: State::Dead,
            died: now,
            code: self.reason.code.to_owned(),
            reason: self.reason.detail.clone(),
            score: self.score.clone(),
            value: self.value.clone(),
            body: self.body.clone(),
        }
    }
}

impl Entry {
    /// Decides what becomes of this entry. `max_attempts` caps the retry count that others wrote, so that a used-up
    /// entry still gets one attempt.
    #[must_use]
    pub fn decide(&self, now: Timestamp, max_attempts: u32) -> Decision {
        if let Id::TooLong { bytes, .. } = &self.id {
            return self.refuse(Reason::new("too_large", format!("the id has {bytes} bytes")));
        }
        match (&self.content, &self.source) {
            (Content::Missing, Source::Orphan { since, .. }) if *since + ORPHAN_PATIENCE <= now => Decision::Drop,
            (Content::Missing, Source::Orphan { .. }) => Decision::Wait,
            (Content::Missing, source) => Decision::SetAside(source.class().unwrap_or(Priority::Low)),
            (Content::TooLarge { bytes, .. }, _) => {
                self.refuse(Reason::new("too_large", format!("the value has {bytes} bytes")))
            }
            (Content::Value(value), source) => match decode(value, source.class(), now, max_attempts) {
                Ok(request) => Decision::Admit(request),
                Err(reason) => self.refuse(reason),
            },
        }
    }

    /// The same entry, for who need not see what was read.
    pub(super) fn without_content(&self) -> Self {
        Self { id: self.id.clone(), source: self.source.clone(), content: Content::Missing }
    }

    fn refuse(&self, reason: Reason) -> Decision {
        let (score, head) = match (&self.source, &self.content) {
            (Source::Index { score }, _) => (score.clone(), self.head()),
            (Source::Orphan { class, .. }, _) => (class.as_number().to_string(), self.head()),
            (Source::Scan, _) => (Priority::Low.as_number().to_string(), self.head()),
        };
        let kept = match (&self.id, &self.content) {
            (Id::Whole(id), Content::Value(value)) if fits(id, MAX_KEPT_ID_BYTES) => {
                Some(escape(value)).filter(|value| value.len() <= MAX_KEPT_BYTES)
            }
            _ => None,
        };
        let body = if kept.is_some() { None } else { head };
        Decision::Refuse(Unreadable { name: self.letter_name(), reason, score, value: kept, body })
    }

    /// The start of the value for people: what is not text is replaced.
    fn head(&self) -> Option<String> {
        let bytes = match &self.content {
            Content::Missing => return None,
            Content::Value(bytes) | Content::TooLarge { head: bytes, .. } => bytes,
        };
        Some(String::from_utf8_lossy(&bytes[..bytes.len().min(MAX_BODY_BYTES)]).into_owned())
    }

    /// `mail:<id>`; of a long id the start, its size and a digest, so that two of them stay two.
    fn letter_name(&self) -> String {
        let (head, bytes, digest) = match &self.id {
            Id::Whole(id) if fits(id, MAX_KEPT_ID_BYTES) => return format!("mail:{}", escape(id)),
            Id::Whole(id) => (&id[..], id.len(), digest(id)),
            Id::TooLong { bytes, head, digest } => (&head[..], *bytes, digest.clone()),
        };
        let start = escape(&head[..head.len().min(100)]);
        format!("mail:{start}… ({bytes} bytes, {})", &digest[..digest.len().min(16)])
    }
}

fn fits(bytes: &[u8], limit: usize) -> bool {
    bytes.len() <= limit && escape(bytes).len() <= limit
}

/// Tells long ids apart.
#[must_use]
pub fn digest(id: &[u8]) -> String {
    use std::fmt::Write as _;
    Sha256::digest(id).iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The class of a score: producers write 0 to 3, and every other number counts as the next worse of them.
#[must_use]
pub fn class_of_score(score: f64) -> Priority {
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

/// When a value says that it was asked for, to the second, as one number: 20260304050607. 0 when it says nothing of the usual
/// form. Not what [`decode`] reads: it orders a slice, and `mail.lua` repeats it.
#[must_use]
pub(super) fn asked_at(value: &[u8]) -> u64 {
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
fn decode(value: &[u8], place: Option<Priority>, now: Timestamp, max_attempts: u32) -> Result<RefreshRequest, Reason> {
    let not_json = |detail: String| Reason::new("not_json", detail);
    let text = std::str::from_utf8(value).map_err(|error| not_json(format!("the value is not UTF-8: {error}")))?;
    let fields: HashMap<String, &RawValue> =
        serde_json::from_str(text).map_err(|error| not_json(format!("the value is not a JSON object: {error}")))?;
    let string = |name: &str| fields.get(name).and_then(|raw| serde_json::from_str::<String>(raw.get()).ok());
    let number = |name: &str| fields.get(name).and_then(|raw| raw.get().parse::<f64>().ok());

    let kind = string("type").ok_or_else(|| Reason::new("unknown_type", "`type` is missing or not a text"))?;
    let kind: Kind = kind.parse().map_err(|error| Reason::new("unknown_type", format!("{error}")))?;
    let tag = string("tag").ok_or_else(|| Reason::new("impossible_tag", "`tag` is missing or not a text"))?;
    let tag = Tag::normalise(&tag).map_err(|error| Reason::new("impossible_tag", error.to_string()))?;

    let stated = Priority::ALL.into_iter().find(|class| number("priority") == Some(f64::from(class.as_number())));
    let priority = [stated, place].into_iter().flatten().min().unwrap_or(Priority::Low);
    let requested_at = string("requested_at").and_then(|text| times::parse(&text)).unwrap_or(now);
    let last_updated = string("last_updated").and_then(|text| times::parse(&text));
    let retries = fields.get("retry_count").and_then(|raw| raw.get().parse::<u32>().ok()).unwrap_or(0);
    let attempts = retries.min(max_attempts.saturating_sub(1));
    Ok(RefreshRequest::from_mail(ObjectId::new(kind, tag), priority, requested_at, last_updated, attempts, now))
}

/// A record's value exactly as the Python producer writes it.
///
/// `requested_at` is the latest asked, so that an answer to an older request does not pass for one to this; a record that
/// must wait says so by a request time in the future, as the old worker does.
#[must_use]
pub fn compose(id: &str, object: &ObjectId, record: &Record, now: Timestamp) -> String {
    let wanted = record.wanted_in_all();
    let ready_at = wanted.due.max(record.hold);
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
            for unit in c.encode_utf16(&mut [0; 2]) {
                let _ = write!(out, "\\u{unit:04x}");
            }
        }
        out
    })
}

/// Bytes as readable text that can be turned back: text stays as it is; backslashes, control characters and what is
/// not UTF-8 become `\\` and `\xNN`.
#[must_use]
pub fn escape(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\\' => text.push_str("\\\\"),
                c if c.is_control() => {
                    for byte in c.encode_utf8(&mut [0; 4]).bytes() {
                        let _ = write!(text, "\\x{byte:02x}");
                    }
                }
                c => text.push(c),
            }
        }
        for byte in chunk.invalid() {
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text
}

/// The bytes behind an escaped text.
#[must_use]
pub fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let (byte, used) = match (first, after) {
            (b'\\', [b'x', high, low, ..]) => (hex_digit(*high) << 4 | hex_digit(*low), 4),
            (b'\\', [b'\\', ..]) => (b'\\', 2),
            _ => (first, 1),
        };
        bytes.push(byte);
        rest = &rest[used..];
    }
    bytes
}

fn hex_digit(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        b'a'..=b'f' => digit - b'a' + 10,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_772_600_767_089);

    fn entry(id: &[u8], score: &str, value: &str) -> Entry {
        Entry {
            id: Id::Whole(id.to_vec()),
            source: Source::Index { score: score.to_owned() },
            content: Content::Value(value.as_bytes().to_vec()),
        }
    }

    fn request(score: &str, value: &str) -> RefreshRequest {
        match entry(b"any id", score, value).decide(NOW, 3) {
            Decision::Admit(request) => request,
            other => panic!("{value} became {other:?}"),
        }
    }

    fn refused(value: &str) -> Unreadable {
        match entry(b"any id", "1", value).decide(NOW, 3) {
            Decision::Refuse(unreadable) => unreadable,
            other => panic!("{value} became {other:?}"),
        }
    }

    #[test]
    fn the_examples_of_the_wire_format_are_read() {
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
    fn of_score_and_stated_priority_the_better_class_wins() {
        assert_eq!(request("3", r#"{"type":"war","tag":"2PP","priority":1}"#).priority, Priority::High);
        assert_eq!(request("0", r#"{"type":"war","tag":"2PP","priority":1}"#).priority, Priority::Critical);
        assert_eq!(request("2", r#"{"type":"war","tag":"2PP","priority":-7}"#).priority, Priority::Medium);
        assert_eq!(request("inf", r#"{"type":"war","tag":"2PP","priority":"high"}"#).priority, Priority::Low);
        assert_eq!(request("0.5", r#"{"type":"war","tag":"2PP"}"#).priority, Priority::High);
    }

    #[test]
    fn odd_counts_and_times_have_a_sensible_reading() {
        let odd =
            request("1", r#"{"type":"clan","tag":"2PP","retry_count":-1,"requested_at":7,"last_updated":"soon"}"#);
        assert_eq!((odd.attempts, odd.asked, odd.due), (0, NOW, NOW));
    }

    #[test]
    fn a_used_up_legacy_entry_still_gets_one_attempt() {
        assert_eq!(request("1", r#"{"type":"clan","tag":"2PP","retry_count":9}"#).attempts, 2);
    }

    #[test]
    fn the_last_of_two_equal_fields_counts_as_in_python() {
        assert_eq!(request("1", r#"{"type":"x","type":"clan","tag":"2PP"}"#).object.to_string(), "clan:2PP");
    }

    #[test]
    fn what_cannot_be_a_request_says_why() {
        for (value, code) in [
            ("", "not_json"),
            ("[]", "not_json"),
            (r#"{"type":"clan","tag":"2PP""#, "not_json"),
            (r#"{"type":"clam","tag":"2PP"}"#, "unknown_type"),
            (r#"{"tag":"2PP"}"#, "unknown_type"),
            (r#"{"type":"clan","tag":"2PX"}"#, "impossible_tag"),
            (r#"{"type":"clan","tag":220}"#, "impossible_tag"),
        ] {
            let unreadable = refused(value);
            assert_eq!(unreadable.reason.code, code, "{value}");
            assert_eq!(unreadable.value.as_deref(), Some(value));
            assert_eq!(unreadable.name, "mail:any id");
        }
    }

    #[test]
    fn of_long_unreadable_mail_only_the_start_is_kept() {
        let unreadable = refused(&"x".repeat(MAX_KEPT_BYTES + 1));
        assert_eq!(unreadable.value, None);
        assert_eq!(unreadable.body.unwrap().len(), MAX_BODY_BYTES);
    }

    #[test]
    fn two_long_ids_with_the_same_start_are_two_letters() {
        let name = |last: u8| {
            let mut id = vec![b'a'; 5000];
            id.push(last);
            entry(&id, "1", "x").letter_name()
        };
        assert_ne!(name(b'x'), name(b'y'));
        assert!(name(b'x').len() < 200);
    }

    #[test]
    fn any_bytes_survive_escaping() {
        let bytes: Vec<u8> = (0..=255).chain(*b"\\xff Stra\xc3\x9fe \\\\").collect();
        assert_eq!(unescape(&escape(&bytes)), bytes);
        assert!(!escape(&bytes).chars().any(char::is_control));
        assert_ne!(escape(b"\xff"), escape(b"\\xff"));
    }

    #[test]
    fn a_composed_value_is_what_the_python_producer_writes() {
        let request = RefreshRequest::now("war:2PYL0Q8".parse().unwrap(), Priority::Critical, NOW);
        let record = Record::with_request(None, &request, NOW);
        assert_eq!(
            compose("war:2PYL0Q8", &request.object, &record, NOW),
            r#"{"id": "war:2PYL0Q8", "type": "war", "tag": "2PYL0Q8", "priority": 0, "requested_at": "2026-03-04T05:06:07.089000", "last_updated": null, "retry_count": 0}"#
        );
    }

    #[test]
    fn texts_beyond_ascii_are_escaped_as_python_does() {
        assert_eq!(ascii_json("ß😀\""), r#""\u00df\ud83d\ude00\"""#);
    }
}
