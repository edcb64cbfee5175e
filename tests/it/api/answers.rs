//! A call and its response: each row of the classification through real HTTP.

use std::time::Duration;

use refresh_worker::{
    api::{FetchTask, Verdict, verdict::Ending},
    model::{Answered, Document, ObjectId},
};
use tokio::time::Instant;

use super::{
    rig::{NOW, Rig, SLOT_LIFETIME, answered, document, name, outcome},
    scripted::Reply,
};

const CLAN: &str = r##"{"tag":"#2PP","name":"x","memberList":[{"tag":"#8Q8","name":"y","role":"leader"}]}"##;
const PLAYER: &str = r##"{"tag":"#2PP","name":"x","trophies":7}"##;
const NOT_FOUND: &str = r#"{"reason":"notFound"}"#;

/// `{"tag":"#2PP","name":"squeezed","trophies":7}`, compressed with gzip.
const SQUEEZED: [u8; 62] = [
    31, 139, 8, 0, 0, 0, 0, 0, 2, 3, 171, 86, 42, 73, 76, 87, 178, 82, 82, 54, 10, 8, 80, 210, 81, 202, 75, 204, 77, 5,
    242, 138, 11, 75, 83, 83, 171, 82, 83, 128, 34, 37, 69, 249, 5, 25, 153, 169, 197, 74, 86, 230, 181, 0, 158, 129,
    126, 162, 45, 0, 0, 0,
];

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[tokio::test]
async fn clan_has_bytes_members_and_times() {
    let rig = Rig::new().await;
    rig.server.on("clans/%232PP", [Reply::new(200, &["Cache-Control: public max-age=91"], CLAN)]);
    let fetch = rig.fetch("clan:2PP").await;
    assert_eq!(fetch.calls, 1);
    let fetched = answered(fetch);
    assert_eq!((fetched.began, fetched.copied_at), (NOW, NOW - seconds(120 - 91)));
    assert_eq!(fetched.fresh_until, NOW + seconds(91));
    let Document::Clan(clan) = document(fetched) else { panic!("not a clan") };
    assert_eq!(clan.json.as_str(), CLAN);
    assert_eq!(clan.members[0].json, r##"{"tag":"#8Q8","name":"y","role":"leader"}"##);
}

#[tokio::test]
async fn calls_carry_token_and_accept_gzip() {
    let rig = Rig::new().await;
    rig.server.on("players/%232PP", [Reply::json(PLAYER)]);
    rig.fetch("player:2PP").await;
    let head = rig.server.calls()[0].head.to_ascii_lowercase();
    for line in [
        "authorization: bearer token-one",
        "accept: application/json",
        "accept-encoding: gzip",
        "user-agent: coc-refresh-worker/",
    ] {
        assert!(head.contains(line), "{line} is missing in\n{head}");
    }
}

#[tokio::test]
async fn compressed_response_is_read() {
    let rig = Rig::new().await;
    rig.server.on("players/%232PP", [Reply::new(200, &["content-encoding: gzip"], SQUEEZED)]);
    let Document::Player(player) = document(answered(rig.fetch("player:2PP").await)) else { panic!("not a player") };
    assert_eq!((player.name.as_str(), player.trophies), ("squeezed", Some(7)));
}

#[tokio::test]
async fn broken_compression_is_transient() {
    let rig = Rig::new().await;
    let mut broken = SQUEEZED;
    broken[40] ^= 0x55;
    rig.server.on("players/%232PP", [Reply::new(200, &["content-encoding: gzip"], broken)]);
    assert_eq!(outcome(&rig.fetch("player:2PP").await), "transient: cut_body");
}

#[tokio::test]
async fn not_found_is_gone_until_max_age() {
    let rig = Rig::new().await;
    rig.server.on("players/%232PP", [Reply::new(404, &["cache-control: public max-age=600"], NOT_FOUND)]);
    let fetched = answered(rig.fetch("player:2PP").await);
    assert!(matches!(fetched.answered, Answered::Gone));
    assert_eq!(fetched.fresh_until, NOW + seconds(600));
}

#[tokio::test]
async fn missing_max_age_means_unknown_freshness() {
    let rig = Rig::new().await;
    rig.server.on("clans/%232PP", [Reply::json(CLAN)]);
    let fetched = answered(rig.fetch("clan:2PP").await);
    assert_eq!((fetched.copied_at, fetched.fresh_until), (NOW - seconds(120), NOW));
}

#[tokio::test]
async fn bad_request_is_dead_letter_with_excerpt() {
    let rig = Rig::new().await;
    let long = format!(r##"{{"tag":"#8Q8","name":"{}"}}"##, "ä".repeat(600));
    rig.server
        .on("players/%232PP", [Reply::status(400, r#"{"reason":"badRequest"}"#), Reply::json(&long)])
        .on("clans/%232PP", [Reply::json(PLAYER)]);
    assert_eq!(outcome(&rig.fetch("player:2PP").await), "dead letter: bad_request");
    match rig.fetch("player:2PP").await.verdict {
        Verdict::Bad { accusation, ending: Ending::DeadLetter { body: Some(body) } } => {
            assert_eq!(accusation.reason.code, "wrong_tag");
            assert!(long.starts_with(&body) && (499..=500).contains(&body.len()), "{} bytes", body.len());
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(outcome(&rig.fetch("clan:2PP").await), "dead letter: missing_key");
}

#[tokio::test]
async fn endless_body_is_abandoned() {
    let rig = Rig::new().await;
    rig.server.on("players/%232PP", [Reply::json(&" ".repeat(5 * 1024 * 1024))]);
    assert_eq!(outcome(&rig.fetch("player:2PP").await), "dead letter: too_large");
}

#[tokio::test]
async fn cut_response_is_tried_again_at_once() {
    for bad in [
        Reply::json(PLAYER).cut(5),
        Reply::json(&PLAYER[..20]),
        Reply::html(200),
        Reply::html(404),
        Reply::html(500),
        Reply::html(502),
        Reply::html(504),
        Reply::Close,
    ] {
        let rig = Rig::new().await;
        rig.server.on("players/%232PP", [bad.clone(), Reply::json(PLAYER)]);
        let fetch = rig.fetch_with_quick_tries("player:2PP", 2).await;
        assert_eq!((outcome(&fetch).as_str(), fetch.calls), ("a player", 2), "{bad:?}");
        assert_eq!(rig.keys.calls_made(), 2, "each try has its permit");
    }
}

#[tokio::test]
async fn quick_tries_are_limited() {
    let rig = Rig::new().await;
    rig.server.on("players/%232PP", [Reply::html(502)]);
    for quick_tries in [0, 2] {
        let fetch = rig.fetch_with_quick_tries("player:2PP", quick_tries).await;
        assert_eq!((outcome(&fetch).as_str(), fetch.calls), ("transient: bad_gateway", quick_tries + 1));
    }
}

#[tokio::test]
async fn final_response_is_not_tried_again() {
    for reply in [
        Reply::json(PLAYER),
        Reply::json("{}"),
        Reply::status(400, "{}"),
        Reply::status(404, NOT_FOUND),
        Reply::html(403),
        Reply::status(429, ""),
        Reply::html(503),
    ] {
        let rig = Rig::new().await;
        rig.server.on("players/%232PP", [reply.clone()]);
        assert_eq!(rig.fetch_with_quick_tries("player:2PP", 2).await.calls, 1, "{reply:?}");
    }
}

#[tokio::test]
async fn maintenance_reports_api_message() {
    let rig = Rig::new().await;
    let body = r#"{"reason":"inMaintenance","message":"come back later"}"#;
    rig.server.on("clans/%232PP", [Reply::status(503, body)]);
    let fetch = rig.fetch_with_quick_tries("clan:2PP", 2).await;
    let Verdict::Bad { accusation, .. } = &fetch.verdict else { panic!("{fetch:?}") };
    assert_eq!(accusation.reason.detail, "status 503, inMaintenance: come back later");
    assert_eq!((outcome(&fetch).as_str(), rig.keys.usable()), ("Maintenance", 1), "the key is not to blame");
}

#[tokio::test]
async fn throttled_key_cools_down_alone() {
    let rig = Rig::with_tokens(&["token-one", "token-two"]).await;
    let throttled = Reply::new(429, &["retry-after: 7"], r#"{"reason":"requestThrottled"}"#);
    rig.server.on("players/%232PP", [throttled, Reply::json(PLAYER)]);
    let fetch = rig.fetch_with_quick_tries("player:2PP", 2).await;
    let Verdict::Throttled { key, cooldown } = &fetch.verdict else { panic!("{fetch:?}") };
    assert_eq!((key, *cooldown), (&name("token-one"), seconds(7)));
    for _ in 0..3 {
        assert_eq!(outcome(&rig.fetch("player:2PP").await), "a player");
    }
    let by_other_key = rig.server.calls().iter().filter(|call| call.head.contains("token-two")).count();
    assert_eq!(by_other_key, 3);
    rig.clock.advance(seconds(7));
    assert_eq!(rig.keys.usable(), 2);
}

#[tokio::test]
async fn rejected_token_is_reported() {
    for body in [
        r#"{"reason":"accessDenied","message":"Invalid authorization"}"#,
        r#"{"reason":"accessDenied.invalidIp","message":"Invalid authorization: API key does not allow access from IP 203.0.113.7"}"#,
    ] {
        let rig = Rig::new().await;
        rig.server.on("clans/%232PP/currentwar", [Reply::status(403, body)]);
        assert_eq!(outcome(&rig.fetch("war:2PP").await), "Rejected");
        assert_eq!(rig.keys.usable(), 1, "one object alone cools down no key");
    }
}

#[tokio::test]
async fn address_ban_is_not_private_log() {
    for reply in [Reply::html(403), Reply::status(403, r#"{"reason":"accessDenied"}"#)] {
        let rig = Rig::new().await;
        rig.server.on("clans/%232PP", [reply]);
        assert_eq!(outcome(&rig.fetch("clan:2PP").await), "Forbidden");
        assert_eq!(rig.keys.usable(), 1, "one object alone cools down no key");
    }
}

#[tokio::test]
async fn redirect_is_not_followed() {
    let rig = Rig::new().await;
    rig.server.on("clans/%232PP", [Reply::new(302, &["location: /v1/players/%232PP"], "")]);
    assert_eq!(outcome(&rig.fetch("clan:2PP").await), "transient: not_the_api");
    assert_eq!(rig.server.paths(), ["clans/%232PP"]);
}

#[tokio::test]
async fn call_cut_by_deadline_is_released() {
    let rig = Rig::new().await;
    rig.server.on("clans/%232PP", [Reply::Silence]);
    let object: ObjectId = "clan:2PP".parse().unwrap();
    let until = Instant::now() + Duration::from_millis(700);
    let fetch = rig.client.fetch(FetchTask { until, quick_tries: 2, ..rig.ask(&object) }).await;
    assert_eq!((outcome(&fetch).as_str(), fetch.calls), ("prevented: Deadline", 1));
    assert!(fetch.slowest_call > Duration::ZERO);
}

#[tokio::test]
async fn too_little_time_begins_no_call() {
    let rig = Rig::new().await;
    let object: ObjectId = "clan:2PP".parse().unwrap();
    for left in [Duration::ZERO, Duration::from_millis(90)] {
        let fetch = rig.client.fetch(FetchTask { until: Instant::now() + left, ..rig.ask(&object) }).await;
        assert_eq!((outcome(&fetch).as_str(), fetch.calls), ("prevented: Deadline", 0));
    }
    assert_eq!(rig.server.calls(), []);
}

#[tokio::test]
async fn failure_near_deadline_is_not_tried_again() {
    let rig = Rig::new().await;
    rig.server.on("clans/%232PP", [Reply::html(502)]);
    let object: ObjectId = "clan:2PP".parse().unwrap();
    // Less than the shortest wait and the shortest call together.
    let until = Instant::now() + Duration::from_millis(290);
    let fetch = rig.client.fetch(FetchTask { until, quick_tries: 2, ..rig.ask(&object) }).await;
    assert!(fetch.calls <= 1, "{fetch:?}");
    assert!(["transient: bad_gateway", "prevented: Deadline"].contains(&outcome(&fetch).as_str()), "{fetch:?}");
}

#[tokio::test]
async fn uncertain_slot_begins_no_call() {
    for frozen_boot_time in [false, true] {
        let rig = Rig::new().await;
        rig.server.on("clans/%232PP", [Reply::json(CLAN)]);
        assert_eq!(outcome(&rig.fetch("clan:2PP").await), "a clan");
        if frozen_boot_time {
            rig.clock.set_wall(NOW + SLOT_LIFETIME);
        } else {
            rig.clock.advance(SLOT_LIFETIME);
        }
        let fetch = rig.fetch("clan:2PP").await;
        assert_eq!((outcome(&fetch).as_str(), fetch.calls), ("prevented: NoUsableKey", 0));
        assert_eq!(rig.server.calls().len(), 1);
    }
}

#[tokio::test]
async fn first_permit_is_used() {
    let rig = Rig::new().await;
    rig.server.on("clans/%232PP", [Reply::json(CLAN)]);
    let object: ObjectId = "clan:2PP".parse().unwrap();
    let ask = rig.ask(&object);
    let first_permit = Some(rig.keys.permit(ask.until).await.unwrap());
    let fetch = rig.client.fetch(FetchTask { first_permit, ..ask }).await;
    assert_eq!((outcome(&fetch).as_str(), fetch.calls, rig.keys.calls_made()), ("a clan", 1, 1));
}

#[tokio::test]
async fn long_sleep_renews_connections() {
    let rig = Rig::new().await;
    rig.server.on("clans/%232PP", [Reply::json(CLAN)]);
    rig.fetch("clan:2PP").await;
    rig.clock.advance(seconds(120));
    rig.keys.confirm(&name("token-one"), refresh_worker::api::SlotStart::now(&*rig.clock), SLOT_LIFETIME);
    assert_eq!(outcome(&rig.fetch("clan:2PP").await), "a clan");
}

#[tokio::test]
async fn token_is_never_printed() {
    let rig = Rig::new().await;
    rig.server.on("clans/%232PP", [Reply::Close]).on("players/%232PP", [Reply::html(403)]);
    let printed = [
        format!("{:?}", rig.fetch("clan:2PP").await),
        format!("{:?}", rig.fetch("player:2PP").await),
        format!("{:?} {:?} {:?}", rig.keys, rig.client, rig.keys.cooldowns()),
    ]
    .concat();
    assert!(!printed.contains("token-one"), "{printed}");
    assert!(printed.contains(&name("token-one").0), "{printed}");
}

#[tokio::test]
async fn missing_server_is_transient() {
    let rig = Rig::new().await;
    let gone = refresh_worker::api::ApiClient::new(&"http://127.0.0.1:1/v1".parse().unwrap()).unwrap();
    let object: ObjectId = "clan:2PP".parse().unwrap();
    let fetch = gone.fetch(rig.ask(&object)).await;
    assert_eq!((outcome(&fetch).as_str(), fetch.calls), ("transient: connection", 1));
}
