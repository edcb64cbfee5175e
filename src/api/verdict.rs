//! The table from an answer to what to do about it: one pure function, [`rule`].
//!
//! It knows the endpoints and the shapes of the answers and does nothing. What is decided by the body is decided by
//! what the body is, never by its `Content-Type`, which lies.

use std::time::Duration;

use reqwest::header::{CACHE_CONTROL, DATE, HeaderMap, RETRY_AFTER};
use time::{OffsetDateTime, format_description::well_known::Rfc2822};

pub use super::endpoint::Endpoint;
use super::wire::{self, Complaint, LeagueGroup, Unusable, WarOf};
use crate::model::{ClanDocument, Fetched, Fingerprint, PlayerDocument, Reason, WarDocument};

/// How much of a body is kept with a dead letter, in bytes.
pub const EXCERPT_BYTES: usize = 500;

/// How long a key rests after a 429 that does not say.
pub const DEFAULT_REST: Duration = Duration::from_secs(30);

/// The longest rest that a 429 may ask for.
pub const LONGEST_REST: Duration = Duration::from_secs(10 * 60);

/// What a fetch came to, all quick tries included.
#[derive(Clone, Debug)]
pub enum Verdict {
    /// The API's word is final for now: store it.
    Answered(Box<Fetched>),
    /// It would be the same again: set the request aside, with the first 500 bytes of what came.
    DeadLetter { reason: Reason, body: Option<String> },
    /// It may go better later: a failed attempt.
    Transient { reason: Reason },
    /// Something other than the object stood in the way: give it back, nothing counted.
    GivenBack(Obstacle),
}

/// What stood in the way. The keys of this run know already; their slots do not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// 429: the key is over its rate.
    Throttled { key: Fingerprint, rest: Duration },
    /// 503: every call would meet it.
    Maintenance { detail: String },
    /// The token is unknown, revoked, or bound to another address.
    KeyRejected { key: Fingerprint, detail: String },
    /// Any other 403: our address is banned, or something between us and the API refuses.
    KeyForbidden { key: Fingerprint, detail: String },
    /// All keys rest, or their slots are not certainly ours.
    NoUsableKey,
    /// The calls of this day are used up.
    DayUsedUp,
    /// No time is left for a call.
    Deadline,
}

/// What came of one call.
#[derive(Debug)]
pub enum Heard {
    Answer { status: u16, headers: HeaderMap, body: Body },
    Nothing(Silence),
}

/// The body of an answer.
#[derive(Debug)]
pub enum Body {
    Whole(Vec<u8>),
    /// The connection ended or broke before the body did.
    Cut(String),
    /// Longer than anything the API sends.
    TooLarge,
}

/// Why there is no answer.
#[derive(Debug)]
pub enum Silence {
    /// Not within the time a call has.
    TimedOut(Duration),
    /// Not within the time that was left, which was less than a call has.
    OutOfTime,
    /// No connection, or it broke.
    Broken(String),
}

/// What to do about one call.
#[derive(Clone, Debug)]
pub enum Ruling {
    Clan(ClanDocument),
    Player(PlayerDocument),
    War(WarDocument),
    /// A war of two other clans.
    OtherWar {
        state: String,
    },
    Group(LeagueGroup),
    Gone,
    PrivateWarLog,
    NotInLeague,
    DeadLetter {
        reason: Reason,
        body: Option<String>,
    },
    Transient(Reason),
    GivenBack(Obstacle),
}

/// The table. `key` is the one the call was made with.
pub fn rule(endpoint: &Endpoint<'_>, key: &Fingerprint, heard: &Heard) -> Ruling {
    let (status, headers, body) = match heard {
        Heard::Answer { status, headers, body } => (*status, headers, body),
        Heard::Nothing(silence) => return rule_silence(silence),
    };
    let in_league_group = matches!(endpoint, Endpoint::LeagueGroup(_));
    match status {
        429 => Ruling::GivenBack(Obstacle::Throttled { key: key.clone(), rest: rest(headers) }),
        503 => Ruling::GivenBack(Obstacle::Maintenance { detail: describe(status, body) }),
        504 if in_league_group => Ruling::NotInLeague,
        200 | 400 | 403 | 404 => match body {
            Body::Whole(bytes) => match status {
                200 => rule_document(endpoint, bytes),
                400 => dead("bad_request", describe(status, body), bytes),
                403 => rule_forbidden(endpoint, key, bytes, || describe(status, body)),
                _ => rule_not_found(endpoint, bytes, || describe(status, body)),
            },
            Body::Cut(detail) => transient("cut_body", format!("status {status}, then the body was cut: {detail}")),
            Body::TooLarge => Ruling::DeadLetter {
                reason: Reason::new("too_large", format!("status {status} with a body beyond all bounds")),
                body: None,
            },
        },
        500 => transient("server_error", describe(status, body)),
        502 => transient("bad_gateway", describe(status, body)),
        504 => transient("gateway_timeout", describe(status, body)),
        _ => transient("unexpected_status", describe(status, body)),
    }
}

fn rule_silence(silence: &Silence) -> Ruling {
    match silence {
        Silence::TimedOut(limit) => transient("timeout", format!("no answer within {limit:?}")),
        Silence::OutOfTime => Ruling::GivenBack(Obstacle::Deadline),
        Silence::Broken(detail) => transient("connection", detail.clone()),
    }
}

fn rule_document(endpoint: &Endpoint<'_>, bytes: &[u8]) -> Ruling {
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => return transient("not_json", format!("the answer is not UTF-8: {error}")),
    };
    let read = match endpoint {
        Endpoint::Clan(tag) => wire::clan(text, tag).map(Ruling::Clan),
        Endpoint::Player(tag) => wire::player(text, tag).map(Ruling::Player),
        Endpoint::CurrentWar(tag) => wire::war(text, tag).and_then(|war| match war {
            WarOf::Ours(war) => Ok(Ruling::War(war)),
            WarOf::Others { clan, .. } => Err(Unusable::WrongTag { asked: (*tag).clone(), got: clan }),
        }),
        Endpoint::LeagueWar { clan, .. } | Endpoint::OtherSide { clan, .. } => {
            wire::war(text, clan).map(|war| match war {
                WarOf::Ours(war) => Ruling::War(war),
                WarOf::Others { state, .. } => Ruling::OtherWar { state },
            })
        }
        Endpoint::LeagueGroup(_) => wire::league_group(text).map(Ruling::Group),
    };
    read.unwrap_or_else(|unusable| match unusable {
        Unusable::NotJson(_) => transient("not_json", unusable.to_string()),
        Unusable::NotAnObject | Unusable::MissingKey(_) | Unusable::UnreadableList(_) => {
            dead("missing_key", unusable.to_string(), bytes)
        }
        Unusable::WrongTag { .. } => dead("wrong_tag", unusable.to_string(), bytes),
    })
}

fn rule_forbidden(
    endpoint: &Endpoint<'_>,
    key: &Fingerprint,
    bytes: &[u8],
    describe: impl FnOnce() -> String,
) -> Ruling {
    let complaint = complaint(bytes).unwrap_or_default();
    let (reason, message) = (complaint.reason.to_ascii_lowercase(), complaint.message.to_ascii_lowercase());
    // Both wordings have changed before: by prefix, and the private log also by what a message would have to say.
    if reason.starts_with("accessdenied.invalid") || message.starts_with("invalid authorization") {
        return Ruling::GivenBack(Obstacle::KeyRejected { key: key.clone(), detail: describe() });
    }
    let private = reason.starts_with("accessdenied.privatewarlog")
        || (reason == "accessdenied" && message.is_empty())
        || (reason.starts_with("accessdenied") && message.contains("war log"));
    if endpoint.is_war() && private {
        return Ruling::PrivateWarLog;
    }
    Ruling::GivenBack(Obstacle::KeyForbidden { key: key.clone(), detail: describe() })
}

fn rule_not_found(endpoint: &Endpoint<'_>, bytes: &[u8], describe: impl FnOnce() -> String) -> Ruling {
    if matches!(endpoint, Endpoint::LeagueGroup(_)) {
        return Ruling::NotInLeague;
    }
    // A page says that somebody else answered, such as a proxy or a wrong `COC_BASE_URL`. Believing it would mark
    // everything as gone.
    if bytes.trim_ascii_start().starts_with(b"<") {
        return transient("not_json", describe());
    }
    Ruling::Gone
}

fn transient(code: &'static str, detail: impl Into<String>) -> Ruling {
    Ruling::Transient(Reason::new(code, detail))
}

fn dead(code: &'static str, detail: String, bytes: &[u8]) -> Ruling {
    Ruling::DeadLetter { reason: Reason::new(code, detail), body: Some(excerpt(bytes)) }
}

fn complaint(bytes: &[u8]) -> Option<Complaint> {
    wire::complaint(std::str::from_utf8(bytes).ok()?)
}

/// The first 500 bytes as text, cut between characters.
fn excerpt(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(EXCERPT_BYTES)]);
    // The cut may have halved a character, which then shows as one that was never there.
    let text = if bytes.len() > EXCERPT_BYTES { text.trim_end_matches('\u{fffd}') } else { &text };
    text[..text.floor_char_boundary(EXCERPT_BYTES)].to_owned()
}

/// `status 503, inMaintenance: API is currently in maintenance`
fn describe(status: u16, body: &Body) -> String {
    let Body::Whole(bytes) = body else { return format!("status {status} with a cut body") };
    let said = match complaint(bytes) {
        Some(Complaint { reason, message }) if message.is_empty() => reason,
        Some(Complaint { reason, message }) => format!("{reason}: {message}"),
        None => excerpt(bytes).split_whitespace().collect::<Vec<_>>().join(" "),
    };
    let said: String = said.chars().take(Reason::MAX_DETAIL).collect();
    if said.is_empty() { format!("status {status} without a body") } else { format!("status {status}, {said}") }
}

/// `max-age` in either spelling, `max-age=N` or `public max-age=N`: what is left of the life of a shared copy.
pub fn max_age(headers: &HeaderMap) -> Option<Duration> {
    let number = |value: &str| {
        let lower = value.to_ascii_lowercase();
        let (before, after) = lower.split_once("max-age=")?;
        if before.ends_with('-') || before.ends_with(|c: char| c.is_ascii_alphanumeric()) {
            return None;
        }
        let digits = after.trim_start_matches('"');
        let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
        digits[..end].parse::<u32>().ok()
    };
    let mut values = headers.get_all(CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok());
    values.find_map(number).map(|seconds| Duration::from_secs(seconds.into()))
}

/// How long a 429 wants the key to rest: seconds, or a date that is compared with the answer's own `Date`.
fn rest(headers: &HeaderMap) -> Duration {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    let date = |text: &str| OffsetDateTime::parse(text, &Rfc2822).ok();
    let asked = text(RETRY_AFTER).and_then(|value| match value.parse::<u64>() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => Duration::try_from(date(value)? - date(text(DATE)?)?).ok(),
    });
    asked.unwrap_or(DEFAULT_REST).clamp(Duration::from_secs(1), LONGEST_REST)
}

#[cfg(test)]
mod tests {
    use reqwest::header::{HeaderName, HeaderValue};

    use super::*;
    use crate::model::Tag;

    const PRIVATE: &str = r#"{"reason":"accessDenied"}"#;

    fn tag() -> Tag {
        "2PP".parse().unwrap()
    }

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap()))
            .collect()
    }

    fn answer(status: u16, body: impl AsRef<[u8]>) -> Heard {
        Heard::Answer { status, headers: HeaderMap::new(), body: Body::Whole(body.as_ref().to_vec()) }
    }

    fn throttled(pairs: &[(&'static str, &str)]) -> Heard {
        let body = Body::Whole(br#"{"reason":"requestThrottled"}"#.to_vec());
        Heard::Answer { status: 429, headers: headers(pairs), body }
    }

    fn show(ruling: Ruling) -> String {
        match ruling {
            Ruling::Clan(clan) => format!("clan {} with {} members", clan.name, clan.members.len()),
            Ruling::Player(player) => format!("player {}", player.name),
            Ruling::War(war) => format!("war {}", war.state),
            Ruling::OtherWar { state } => format!("somebody else's war {state}"),
            Ruling::Group(group) => format!("league group {}", group.state),
            Ruling::Gone => "gone".to_owned(),
            Ruling::PrivateWarLog => "private war log".to_owned(),
            Ruling::NotInLeague => "not in a league".to_owned(),
            Ruling::DeadLetter { reason, body } => format!("dead letter, {reason} | {body:?}"),
            Ruling::Transient(reason) => format!("transient, {reason}"),
            Ruling::GivenBack(obstacle) => format!("given back, {obstacle:?}"),
        }
    }

    fn table(rows: Vec<(&str, Endpoint<'_>, Heard)>) -> String {
        let key = Fingerprint("3f9a".to_owned());
        rows.into_iter()
            .map(|(what, endpoint, heard)| format!("{what:<44} -> {}", show(rule(&endpoint, &key, &heard))))
            .collect::<Vec<_>>()
            .join("\n")
    }

    #[test]
    fn every_answer_has_its_ruling() {
        let tag = &tag();
        let other: &Tag = &"8Q8".parse().unwrap();
        let (clan, player, war) = (Endpoint::Clan(tag), Endpoint::Player(tag), Endpoint::CurrentWar(tag));
        let (group, league) = (Endpoint::LeagueGroup(tag), Endpoint::LeagueWar { war: other, clan: tag });
        let html = "<html><body>  <h1>Bad\nGateway</h1></body></html>";
        let good_clan = r##"{"tag":"#2PP","name":"x","memberList":[]}"##;
        let good_player = r##"{"tag":"#2PP","name":"x"}"##;
        let not_in_war = r#"{"state":"notInWar","clan":{},"opponent":{}}"#;
        let our_war = r##"{"state":"inWar","clan":{"tag":"#8Q8"},"opponent":{"tag":"#2PP"}}"##;
        let their_war = r##"{"state":"warEnded","clan":{"tag":"#8Q8"},"opponent":{"tag":"#9Q9"}}"##;
        let invalid_ip = r#"{"reason":"accessDenied.invalidIp","message":"Invalid authorization: API key does not allow access from IP 203.0.113.7"}"#;
        let not_found = r#"{"reason":"notFound","message":"Not found with tag 2PP"}"#;
        let maintenance =
            r#"{"reason":"inMaintenance","message":"API is currently in maintenance, please come back later"}"#;
        let cut = |status| Heard::Answer {
            status,
            headers: HeaderMap::new(),
            body: Body::Cut("end of file before message length reached".to_owned()),
        };
        let lying = Heard::Answer {
            status: 200,
            headers: headers(&[("content-type", "text/html")]),
            body: Body::Whole(good_clan.into()),
        };
        let large = Heard::Answer { status: 200, headers: HeaderMap::new(), body: Body::TooLarge };
        let seconds = Duration::from_secs;
        let rows = vec![
            ("200 clan", clan, answer(200, good_clan)),
            ("200 clan that claims to be HTML", clan, lying),
            ("200 player", player, answer(200, good_player)),
            ("200 not in war", war, answer(200, not_in_war)),
            ("200 war, ours as opponent", war, answer(200, our_war)),
            ("200 war of others, asked as current war", war, answer(200, their_war)),
            ("200 war of others, asked as league war", league, answer(200, their_war)),
            ("200 league group", group, answer(200, r#"{"state":"inWar"}"#)),
            ("200 another tag", player, answer(200, r##"{"tag":"#8Q8","name":"x"}"##)),
            ("200 mandatory key missing", clan, answer(200, good_player)),
            ("200 a list", player, answer(200, "[]")),
            ("200 HTML", clan, answer(200, html)),
            ("200 not UTF-8", player, answer(200, b"{\"tag\":\"\xff\"}")),
            ("200 ends early", clan, answer(200, &good_clan[..20])),
            ("200 empty", clan, answer(200, "")),
            ("200 cut", clan, cut(200)),
            ("200 without end", clan, large),
            ("204", clan, answer(204, "")),
            ("301", clan, answer(301, "")),
            ("400", player, answer(400, r#"{"reason":"badRequest","message":"Unknown value"}"#)),
            ("401", player, answer(401, "")),
            ("403 without message, on current war", war, answer(403, PRIVATE)),
            ("403 without message, on league war", league, answer(403, PRIVATE)),
            (
                "403 privateWarLog, with message",
                war,
                answer(403, r#"{"reason":"accessDenied.privateWarLog","message":"x"}"#),
            ),
            ("403 without message, on clan", clan, answer(403, PRIVATE)),
            ("403 privateWarLog, on player", player, answer(403, r#"{"reason":"accessDenied.privateWarLog"}"#)),
            (
                "403 Invalid authorization, on war",
                war,
                answer(403, r#"{"reason":"accessDenied","message":"Invalid authorization"}"#),
            ),
            ("403 invalidIp", clan, answer(403, invalid_ip)),
            ("403 invalidIp, reworded", war, answer(403, r#"{"reason":"accessDenied.invalidIpAddress"}"#)),
            ("403 with another message, on war", war, answer(403, r#"{"reason":"accessDenied","message":"Go away"}"#)),
            ("403 HTML, on war", war, answer(403, html)),
            ("403 empty, on war", war, answer(403, "")),
            ("403 cut, on war", war, cut(403)),
            ("404 clan", clan, answer(404, r#"{"reason":"notFound"}"#)),
            ("404 player", player, answer(404, not_found)),
            ("404 current war", war, answer(404, not_found)),
            ("404 league group", group, answer(404, r#"{"reason":"notFound"}"#)),
            ("404 empty", player, answer(404, "")),
            ("404 HTML", player, answer(404, html)),
            ("418", player, answer(418, "short and stout")),
            ("429", player, throttled(&[])),
            ("429 for 5 s", player, throttled(&[("retry-after", "5")])),
            ("429 for a day", player, throttled(&[("retry-after", "86400")])),
            ("429 for no time", player, throttled(&[("retry-after", "0")])),
            (
                "429 until a date",
                player,
                throttled(&[
                    ("date", "Wed, 21 Oct 2026 07:28:00 GMT"),
                    ("retry-after", "Wed, 21 Oct 2026 07:29:30 GMT"),
                ]),
            ),
            ("429 until a date, without ours", player, throttled(&[("retry-after", "Wed, 21 Oct 2026 07:29:30 GMT")])),
            ("429 until nonsense", player, throttled(&[("retry-after", "soon")])),
            ("429 cut", player, cut(429)),
            ("500", player, answer(500, r#"{"reason":"unknownException"}"#)),
            ("502", player, answer(502, html)),
            ("503", player, answer(503, maintenance)),
            ("503 HTML, on league group", group, answer(503, html)),
            ("503 cut", clan, cut(503)),
            ("504", player, answer(504, html)),
            ("504 league group", group, answer(504, html)),
            ("502 league group", group, answer(502, html)),
            ("time-out", player, Heard::Nothing(Silence::TimedOut(seconds(10)))),
            ("out of time", player, Heard::Nothing(Silence::OutOfTime)),
            ("broken", player, Heard::Nothing(Silence::Broken("connection reset".to_owned()))),
        ];
        insta::assert_snapshot!(table(rows));
    }

    #[test]
    fn max_age_is_found_in_either_spelling() {
        let age = |value| max_age(&headers(&[("cache-control", value)])).map(|age| age.as_secs());
        assert_eq!(age("max-age=91"), Some(91));
        assert_eq!(age("public max-age=600"), Some(600));
        assert_eq!(age("public, Max-Age=600, must-revalidate"), Some(600));
        assert_eq!(["s-maxage=9", "max-age=", "max-age=-5", "no-store", "x-max-age=4"].map(age), [None; 5]);
        assert_eq!(max_age(&HeaderMap::new()), None);
    }

    #[test]
    fn an_excerpt_is_cut_between_characters() {
        let body = "ä".repeat(600);
        assert_eq!(excerpt(&body.as_bytes()[1..]).chars().last(), Some('ä'));
        assert!(excerpt(&body.as_bytes()[1..]).len() <= EXCERPT_BYTES);
        assert_eq!(excerpt(body.as_bytes()), "ä".repeat(250));
        assert_eq!(excerpt("kurz".as_bytes()), "kurz");
    }
}
