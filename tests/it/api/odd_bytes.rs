//! Odd responses: byte order marks, encodings that were not offered, copies with an age.

use std::time::Duration;

use refresh_worker::api::Verdict;

use super::{
    rig::{NOW, Rig, answered, document, outcome},
    scripted::Reply,
};

const PLAYER: &str = r##"{"tag":"#2PP","name":"x"}"##;
const PATH: &str = "players/%232PP";

/// The reason of a bad response.
async fn reason(reply: Reply) -> String {
    let rig = Rig::new().await;
    rig.server.on(PATH, [reply]);
    match rig.fetch("player:2PP").await.verdict {
        Verdict::Bad { accusation, .. } => accusation.reason.to_string(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn byte_order_mark_is_skipped() {
    let rig = Rig::new().await;
    rig.server.on(PATH, [Reply::json(&format!("\u{feff}{PLAYER}"))]);
    assert_eq!(document(answered(rig.fetch("player:2PP").await)).json(), PLAYER);
    rig.server.on(PATH, [Reply::status(404, "\u{feff}{\"reason\":\"notFound\"}")]);
    assert_eq!(outcome(&rig.fetch("player:2PP").await), "gone");
}

#[tokio::test]
async fn utf_16_is_named_in_reason() {
    for order in [u16::to_le_bytes, u16::to_be_bytes] {
        let body: Vec<u8> = format!("\u{feff}{PLAYER}").encode_utf16().flat_map(order).collect();
        assert!(reason(Reply::new(200, &[], body)).await.contains("UTF-16"));
    }
}

#[tokio::test]
async fn unoffered_encoding_is_named() {
    for encoding in ["br", "zstd", "deflate", "rot13"] {
        for status in [200, 404] {
            let header = format!("content-encoding: {encoding}");
            let reason_text = reason(Reply::new(status, &[&header], b"\x0b\x02\x80\x00")).await;
            assert!(reason_text.contains(&format!("`{encoding}`, which was not offered")), "{reason_text}");
        }
    }
    let broken = reason(Reply::new(200, &["content-encoding: gzip"], "no gzip at all")).await;
    assert!(broken.contains("gzip"), "{broken}");
}

#[tokio::test]
async fn copy_age_counts() {
    for (age, left) in [("0", 60), ("25", 35), ("60", 0), ("4000000000", 0), ("-5", 60), ("old", 60), ("", 60)] {
        let rig = Rig::new().await;
        let header = format!("age: {age}");
        rig.server.on(PATH, [Reply::new(200, &["cache-control: public max-age=60", &header], PLAYER)]);
        let fetched = answered(rig.fetch("player:2PP").await);
        assert_eq!(fetched.fresh_until, NOW + Duration::from_secs(left), "age {age}");
    }
}

#[tokio::test]
async fn control_characters_of_errors_are_dropped() {
    let reason_text = reason(Reply::status(500, r#"{"reason":"x\u0000y","message":"a\u001b[31mb\nc"}"#)).await;
    assert!(reason_text.contains("xy: a[31mb c"), "{reason_text}");
}
