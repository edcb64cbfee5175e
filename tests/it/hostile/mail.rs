//! Mail: every entry is decided, and what is admitted is sound.

use std::time::Duration;

use proptest::{prelude::*, sample::select};
use refresh_worker::{
    clock::Timestamp,
    queue::mailbox::{Content, Decision, Entry, Id, Source, escape, unescape},
};
use serde_json::{Value, json};

use super::json::{any_json, odd, text};

const NOW: Timestamp = Timestamp::from_millis(1_770_000_000_000);
const MAX_ATTEMPTS: u32 = 3;

/// Scores as Redis writes them, the ones that nobody sends included.
pub const SCORES: [&str; 12] =
    ["0", "1", "2", "3", "-5", "2.5", "inf", "-inf", "1e+308", "nan", "99999999999999999", "0.0000001"];

/// An id, a score and a value, each as broken as can be.
pub fn entry() -> impl Strategy<Value = (Vec<u8>, String, Vec<u8>)> {
    (id(), select(&SCORES[..]).prop_map(str::to_owned), value())
}

fn id() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        any::<Vec<u8>>(),
        ".{0,30}".prop_map(String::into_bytes),
        odd().prop_map(|value| text(&value).into_bytes()),
        (500_usize..5_000).prop_map(|length| vec![0xff; length]),
    ]
}

fn value() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        1 => any::<Vec<u8>>(),
        1 => any_json().prop_map(|value| text(&value).into_bytes()),
        6 => almost_right().prop_map(|value| text(&value).into_bytes()),
        2 => (almost_right(), any::<usize>()).prop_map(|(value, cut)| {
            let mut bytes = text(&value).into_bytes();
            bytes.truncate(cut % (bytes.len() + 1));
            bytes
        }),
    ]
}

/// A producer's value with some fields odd or missing.
fn almost_right() -> impl Strategy<Value = Value> {
    let field = || proptest::option::weighted(0.4, odd());
    (
        select(&["clan", "player", "war", "Clan", "cwl"][..]),
        "[0289PYLQGRJCUVO]{1,12}",
        [field(), field(), field()],
        [field(), field(), field()],
    )
        .prop_map(|(kind, tag, first, second)| {
            let [priority, requested_at, last_updated] = first;
            let [retry_count, odd_kind, odd_tag] = second;
            json!({
                "id": format!("{kind}:{tag}"),
                "type": odd_kind.unwrap_or_else(|| json!(kind)),
                "tag": odd_tag.unwrap_or_else(|| json!(format!("#{tag}"))),
                "priority": priority.unwrap_or_else(|| json!(2)),
                "requested_at": requested_at.unwrap_or_else(|| json!("2026-02-02T10:00:00.000000")),
                "last_updated": last_updated.unwrap_or(Value::Null),
                "retry_count": retry_count.unwrap_or_else(|| json!(0)),
            })
        })
}

proptest! {
    #![proptest_config(super::config())]

    #[test]
    fn every_entry_is_decided_and_what_is_admitted_is_sound((id, score, value) in entry()) {
        let source = Source::Index { score };
        let entry = Entry { id: Id::Whole(id), source, content: Content::Value(value) };
        match entry.decide(NOW, MAX_ATTEMPTS) {
            Decision::Admit(request) => {
                prop_assert!(request.object.tag.as_str().chars().all(|c| "0289PYLQGRJCUV".contains(c)), "{request:?}");
                prop_assert!(request.due <= NOW + Duration::from_secs(24 * 60 * 60), "{request:?}");
                prop_assert!(request.attempts < MAX_ATTEMPTS, "{request:?}");
            }
            Decision::Refuse(unreadable) => {
                prop_assert!(unreadable.name.starts_with("mail:") && unreadable.name.len() < 1_000, "{unreadable:?}");
                prop_assert!(!unreadable.reason.detail.is_empty() && unreadable.reason.detail.len() < 2_000);
                prop_assert!(unreadable.value.is_some() || unreadable.body.is_some(), "{unreadable:?}");
            }
            other => prop_assert!(false, "an entry with data became {other:?}"),
        }
    }

    #[test]
    fn escaped_bytes_come_back_as_they_were(bytes in any::<Vec<u8>>()) {
        prop_assert_eq!(unescape(&escape(&bytes)), bytes);
    }
}
