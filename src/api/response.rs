//! The responses of the API, and the table that classifies them: one pure function, [`classify`].
//!
//! It knows the endpoints and the shapes of the responses, and does nothing. A body is classified by what it is, never by its
//! `Content-Type`, which lies. A bad response carries a [`Sign`]: the judge finds out whose fault it is.

use std::time::Duration;

use reqwest::header::{AGE, CACHE_CONTROL, CONTENT_ENCODING, DATE, HeaderMap, RETRY_AFTER};
use time::{OffsetDateTime, format_description::well_known::Rfc2822};

pub use super::endpoint::Endpoint;
use super::{
    judge::Sign,
    verdict::Ending,
    wire::{self, Complaint, LeagueGroup, Unusable, WarOf},
};
use crate::model::{ClanDocument, PlayerDocument, Reason, WarDocument};

/// The bytes of a body that are kept with a dead letter.
const EXCERPT_BYTES: usize = 500;

/// The cooldown of a key after a 429 without `Retry-After`.
const DEFAULT_COOLDOWN: Duration = Duration::from_secs(30);

/// The longest cooldown that a 429 may demand.
pub const MAX_COOLDOWN: Duration = Duration::from_secs(10 * 60);

/// The characters of a foreign `Content-Encoding` that are repeated.
const MAX_ENCODING_CHARS: usize = 40;

/// A response, its body read.
#[derive(Debug)]
pub struct Response {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Body,
}

/// The body of a response.
#[derive(Debug)]
pub enum Body {
    Whole(Vec<u8>),
    /// The connection ended or broke before the body did.
    Cut(String),
    /// Longer than anything the API sends.
    TooLarge,
}

/// The reason for which there is no response.
#[derive(Debug)]
pub enum TransportError {
    /// None came within the full time of a call.
    TimedOut(Duration),
    /// None came within the time that was left, which was less than the full time.
    OutOfTime,
    /// There was no connection, or it broke.
    Broken(String),
}

/// The meaning of a response.
#[derive(Clone, Debug)]
pub enum Classified {
    Clan(ClanDocument),
    Player(PlayerDocument),
    War(WarDocument),
    /// A war of two other clans.
    OtherWar {
        state: String,
    },
    Group(LeagueGroup),
    /// A war whose state is unknown, or that contradicts itself. Proves nothing.
    UnknownState(String),
    Gone,
    PrivateWarLog,
    NotInLeague,
    /// 504 on a league group: the API searched for it for too long. Read as "in no league", and proves nothing.
    NoGroupInTime,
    /// The API says that the request is wrong.
    DeadLetter {
        reason: Reason,
        body: Option<String>,
    },
    /// 429, with the cooldown of the key.
    Throttled(Duration),
    /// A response that does not prove that the API spoke to us, or none at all.
    Bad(Bad),
    /// No time was left for the response.
    OutOfTime,
}

/// A bad response, before it is known whose fault it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bad {
    pub sign: Sign,
    pub reason: Reason,
    /// Applies when the fault is the object's own.
    pub ending: Ending,
}

impl Classified {
    /// True when the response proves that the API spoke to us.
    #[must_use]
    pub const fn is_good(&self) -> bool {
        matches!(
            self,
            Self::Clan(_)
                | Self::Player(_)
                | Self::War(_)
                | Self::OtherWar { .. }
                | Self::Group(_)
                | Self::Gone
                | Self::PrivateWarLog
                | Self::NotInLeague
        )
    }
}

/// Classifies the result of a call.
pub fn classify(endpoint: &Endpoint<'_>, result: &Result<Response, TransportError>) -> Classified {
    let (status, headers, body) = match result {
        Ok(Response { status, headers, body }) => (*status, headers, body),
        Err(error) => return classify_transport_error(error),
    };
    match status {
        429 => Classified::Throttled(cooldown(headers)),
        503 => {
            let sign = if says(body, "inmaintenance") { Sign::Maintenance } else { Sign::Unavailable };
            bad(sign, "unavailable", describe(status, body))
        }
        // The API itself has never sent this status; a proxy in between may have.
        401 => bad(Sign::Forbidden, "forbidden", describe(status, body)),
        200 | 400 | 403 | 404 if foreign_encoding(headers).is_some() => {
            let name = foreign_encoding(headers).unwrap_or_default();
            let detail = format!("status {status}, encoded as `{name}`, which was not offered (only gzip is)");
            bad(Sign::Foreign(None), "foreign_encoding", detail)
        }
        200 | 400 | 403 | 404 => match body {
            Body::Whole(bytes) => match status {
                200 => classify_document(endpoint, bytes),
                // Any reason is enough: the API has several for a bad request.
                400 if says(body, "") => Classified::DeadLetter {
                    reason: Reason::new("bad_request", describe(status, body)),
                    body: Some(excerpt(bytes)),
                },
                403 => classify_forbidden(endpoint, bytes, || describe(status, body)),
                // "Not found" beside a document proves nothing.
                404 if says(body, "notfound")
                    && !std::str::from_utf8(without_mark(bytes)).is_ok_and(wire::has_document) =>
                {
                    match endpoint {
                        Endpoint::LeagueGroup(_) => Classified::NotInLeague,
                        _ => Classified::Gone,
                    }
                }
                400 => foreign(describe(status, body), Ending::DeadLetter { body: Some(excerpt(bytes)) }),
                _ => foreign(describe(status, body), Ending::Attempt),
            },
            Body::Cut(detail) => {
                bad(Sign::Failed, "cut_body", format!("status {status}, then the body was cut: {detail}"))
            }
            Body::TooLarge => Classified::Bad(Bad {
                sign: Sign::Foreign(None),
                reason: Reason::new("too_large", format!("status {status} with a body beyond all bounds")),
                ending: Ending::DeadLetter { body: None },
            }),
        },
        500 => bad(Sign::Failed, "server_error", describe(status, body)),
        502 => bad(Sign::Failed, "bad_gateway", describe(status, body)),
        // Seen for clans in no league, while the API is well.
        504 if matches!(endpoint, Endpoint::LeagueGroup(_)) => Classified::NoGroupInTime,
        504 => bad(Sign::Failed, "gateway_timeout", describe(status, body)),
        // An unknown 5xx is treated like the known ones.
        505.. => bad(Sign::Failed, "unexpected_status", describe(status, body)),
        _ => foreign(describe(status, body), Ending::Attempt),
    }
}

fn classify_transport_error(error: &TransportError) -> Classified {
    match error {
        TransportError::TimedOut(limit) => bad(Sign::Failed, "timeout", format!("no answer within {limit:?}")),
        TransportError::OutOfTime => Classified::OutOfTime,
        TransportError::Broken(detail) => bad(Sign::Failed, "connection", detail.clone()),
    }
}

fn classify_document(endpoint: &Endpoint<'_>, bytes: &[u8]) -> Classified {
    let bytes = without_mark(bytes);
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(_) if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") => {
            return bad(Sign::Foreign(None), "not_json", "the answer is UTF-16: expected UTF-8");
        }
        Err(error) => return bad(Sign::Foreign(None), "not_json", format!("the answer is not UTF-8: {error}")),
    };
    let read = match endpoint {
        Endpoint::Clan(tag) => wire::clan(text, tag).map(Classified::Clan),
        Endpoint::Player(tag) => wire::player(text, tag).map(Classified::Player),
        Endpoint::CurrentWar(tag) => wire::war(text, tag).and_then(|war| match war {
            WarOf::Ours(war) => Ok(Classified::War(war)),
            WarOf::Others { clan, .. } => Err(Unusable::WrongTag { asked: (*tag).clone(), got: clan }),
            WarOf::Unclear(state) => Ok(Classified::UnknownState(state)),
        }),
        Endpoint::LeagueWar { clan, .. } | Endpoint::OtherSide { clan, .. } => {
            wire::war(text, clan).map(|war| match war {
                WarOf::Ours(war) => Classified::War(war),
                WarOf::Others { state, .. } => Classified::OtherWar { state },
                WarOf::Unclear(state) => Classified::UnknownState(state),
            })
        }
        Endpoint::LeagueGroup(_) => wire::league_group(text).map(Classified::Group),
    };
    read.unwrap_or_else(|unusable| {
        let detail = unusable.to_string();
        let (tag, code) = match unusable {
            // The next response may be in order.
            Unusable::Contradiction(_) => return bad(Sign::Foreign(None), "contradiction", detail),
            Unusable::NotJson(_) => return bad(Sign::Foreign(None), "not_json", detail),
            Unusable::NotAnObject | Unusable::MissingKey(_) | Unusable::UnreadableList(_) => (None, "missing_key"),
            Unusable::WrongTag { got, .. } => (Some(got.trim_start_matches('#').to_owned()), "wrong_tag"),
        };
        Classified::Bad(Bad {
            sign: Sign::Foreign(tag),
            reason: Reason::new(code, detail),
            ending: Ending::DeadLetter { body: Some(excerpt(bytes)) },
        })
    })
}

fn classify_forbidden(endpoint: &Endpoint<'_>, bytes: &[u8], describe: impl FnOnce() -> String) -> Classified {
    let complaint = complaint(bytes).unwrap_or_default();
    let (reason, message) = (complaint.reason.to_ascii_lowercase(), complaint.message.to_ascii_lowercase());
    // Both wordings have changed before. So only their prefixes count, and for a private log also its message.
    if reason.starts_with("accessdenied.invalid") || message.starts_with("invalid authorization") {
        return bad(Sign::Rejected, "key_rejected", describe());
    }
    let private = reason.starts_with("accessdenied.privatewarlog")
        || (reason == "accessdenied" && message.is_empty())
        || (reason.starts_with("accessdenied") && message.contains("war log"));
    if endpoint.is_war() && private {
        return Classified::PrivateWarLog;
    }
    bad(Sign::Forbidden, "forbidden", describe())
}

/// A bad response; the next one may be better.
fn bad(sign: Sign, code: &'static str, detail: impl Into<String>) -> Classified {
    Classified::Bad(Bad { sign, reason: Reason::new(code, detail), ending: Ending::Attempt })
}

/// A response of somebody else, such as a proxy or a wrong `COC_BASE_URL`. Believed, it would mark everything as gone.
fn foreign(detail: String, ending: Ending) -> Classified {
    Classified::Bad(Bad { sign: Sign::Foreign(None), reason: Reason::new("not_the_api", detail), ending })
}

/// True when the body is an error of the API itself, with a `reason` that begins like this.
fn says(body: &Body, reason: &str) -> bool {
    let Body::Whole(bytes) = body else { return false };
    let complaint = complaint(bytes).unwrap_or_default();
    !complaint.reason.is_empty() && complaint.reason.to_ascii_lowercase().starts_with(reason)
}

fn complaint(bytes: &[u8]) -> Option<Complaint> {
    wire::complaint(std::str::from_utf8(without_mark(bytes)).ok()?)
}

/// Strips the byte order mark of UTF-8.
fn without_mark(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes)
}

/// The encoding of the response, if it was not offered. An offered one is decoded by now.
fn foreign_encoding(headers: &HeaderMap) -> Option<String> {
    let values = headers.get_all(CONTENT_ENCODING).iter();
    let names = values.map(|value| String::from_utf8_lossy(value.as_bytes()).trim().to_ascii_lowercase());
    names
        .into_iter()
        .find(|name| !matches!(name.as_str(), "" | "identity"))
        .map(|name| name.chars().take(MAX_ENCODING_CHARS).collect())
}

/// The first 500 bytes as text, cut between characters.
fn excerpt(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(EXCERPT_BYTES)]);
    // The cut may have halved a character, which then shows as a replacement character.
    let text = if bytes.len() > EXCERPT_BYTES { text.trim_end_matches('\u{fffd}') } else { &text };
    text[..text.floor_char_boundary(EXCERPT_BYTES)].to_owned()
}

/// Describes a response: `status 503, inMaintenance: API is currently in maintenance`.
fn describe(status: u16, body: &Body) -> String {
    let Body::Whole(bytes) = body else { return format!("status {status} with a cut body") };
    let said = match complaint(bytes) {
        Some(Complaint { reason, message }) if message.is_empty() && !reason.is_empty() => reason,
        Some(Complaint { reason, message }) if !reason.is_empty() => format!("{reason}: {message}"),
        _ => excerpt(bytes).split_whitespace().collect::<Vec<_>>().join(" "),
    };
    let said: String = said.chars().take(Reason::MAX_DETAIL).collect();
    if said.is_empty() { format!("status {status} without a body") } else { format!("status {status}, {said}") }
}

/// The `max-age` of a response, written `max-age=N` or `public max-age=N`: the remaining lifetime of a shared copy.
pub fn max_age(headers: &HeaderMap) -> Option<Duration> {
    let number = |value: &str| {
        let lower = value.to_ascii_lowercase();
        let (before, after) = lower.split_once("max-age=")?;
        // Not `s-maxage`, and not the end of another word.
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

/// The time for which a shared copy has been kept already (`Age`). Anything but a number counts as missing.
pub fn age(headers: &HeaderMap) -> Duration {
    let seconds = headers.get(AGE).and_then(|value| value.to_str().ok()).and_then(|text| text.trim().parse().ok());
    Duration::from_secs(seconds.unwrap_or(0))
}

/// The cooldown that a 429 demands: seconds, or a date, which is compared with the response's own `Date`.
fn cooldown(headers: &HeaderMap) -> Duration {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    let date = |text: &str| OffsetDateTime::parse(text, &Rfc2822).ok();
    let demanded = text(RETRY_AFTER).and_then(|value| match value.parse::<u64>() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        // Compared with the date of the server, whose clock may differ from ours.
        Err(_) => Duration::try_from(date(value)? - date(text(DATE)?)?).ok(),
    });
    // At least a second: a cooldown of 0 would throttle again at once.
    demanded.unwrap_or(DEFAULT_COOLDOWN).clamp(Duration::from_secs(1), MAX_COOLDOWN)
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

    #[expect(clippy::unnecessary_wraps, reason = "the rows of the table are results")]
    fn answer(status: u16, body: impl AsRef<[u8]>) -> Result<Response, TransportError> {
        Ok(Response { status, headers: HeaderMap::new(), body: Body::Whole(body.as_ref().to_vec()) })
    }

    #[expect(clippy::unnecessary_wraps, reason = "the rows of the table are results")]
    fn throttled(pairs: &[(&'static str, &str)]) -> Result<Response, TransportError> {
        let body = Body::Whole(br#"{"reason":"requestThrottled"}"#.to_vec());
        Ok(Response { status: 429, headers: headers(pairs), body })
    }

    fn show(classified: Classified) -> String {
        match classified {
            Classified::Clan(clan) => format!("clan {} with {} members", clan.name, clan.members.len()),
            Classified::Player(player) => format!("player {}", player.name),
            Classified::War(war) => format!("war {}", war.state),
            Classified::OtherWar { state } => format!("somebody else's war {state}"),
            Classified::Group(group) => format!("league group {}", group.state),
            Classified::UnknownState(state) => format!("a war in the unknown state {state}"),
            Classified::Gone => "gone".to_owned(),
            Classified::PrivateWarLog => "private war log".to_owned(),
            Classified::NotInLeague => "not in a league".to_owned(),
            Classified::NoGroupInTime => "no group in time".to_owned(),
            Classified::DeadLetter { reason, body } => format!("dead letter, {reason} | {body:?}"),
            Classified::Throttled(rest) => format!("throttled for {rest:?}"),
            Classified::OutOfTime => "out of time".to_owned(),
            Classified::Bad(Bad { sign, reason, ending: Ending::Attempt }) => format!("{sign:?}, {reason}"),
            Classified::Bad(Bad { sign, reason, ending: Ending::DeadLetter { body } }) => {
                format!("{sign:?}, then a dead letter, {reason} | {body:?}")
            }
        }
    }

    fn table(rows: Vec<(&str, Endpoint<'_>, Result<Response, TransportError>)>) -> String {
        rows.into_iter()
            .map(|(what, endpoint, result)| format!("{what:<44} -> {}", show(classify(&endpoint, &result))))
            .collect::<Vec<_>>()
            .join("\n")
    }

    #[test]
    fn classify_covers_every_response() {
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
        let cut = |status| {
            let body = Body::Cut("end of file before message length reached".to_owned());
            Ok(Response { status, headers: HeaderMap::new(), body })
        };
        let html_type = headers(&[("content-type", "text/html")]);
        let lying = Ok(Response { status: 200, headers: html_type, body: Body::Whole(good_clan.into()) });
        let large = Ok(Response { status: 200, headers: HeaderMap::new(), body: Body::TooLarge });
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
            ("400 HTML", player, answer(400, html)),
            ("200 with an error body", player, answer(200, maintenance)),
            ("401", player, answer(401, "")),
            ("403 keyExpired", player, answer(403, r#"{"reason":"accessDenied.keyExpired"}"#)),
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
            ("404 league group without a reason", group, answer(404, "page not found")),
            ("404 empty", player, answer(404, "")),
            ("404 of somebody else, as JSON", player, answer(404, "{}")),
            ("404 with another reason", player, answer(404, r#"{"reason":"noSuchRoute"}"#)),
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
            ("503 with another reason", player, answer(503, r#"{"reason":"overloaded"}"#)),
            ("503 HTML, on league group", group, answer(503, html)),
            ("503 cut", clan, cut(503)),
            ("504", player, answer(504, html)),
            ("504 league group", group, answer(504, html)),
            ("502 league group", group, answer(502, html)),
            ("time-out", player, Err(TransportError::TimedOut(seconds(10)))),
            ("out of time", player, Err(TransportError::OutOfTime)),
            ("broken", player, Err(TransportError::Broken("connection reset".to_owned()))),
        ];
        insta::assert_snapshot!(table(rows));
    }

    #[test]
    fn max_age_is_found_in_both_spellings() {
        let age = |value| max_age(&headers(&[("cache-control", value)])).map(|age| age.as_secs());
        assert_eq!(age("max-age=91"), Some(91));
        assert_eq!(age("public max-age=600"), Some(600));
        assert_eq!(age("public, Max-Age=600, must-revalidate"), Some(600));
        assert_eq!(["s-maxage=9", "max-age=", "max-age=-5", "no-store", "x-max-age=4"].map(age), [None; 5]);
        assert_eq!(max_age(&HeaderMap::new()), None);
    }

    #[test]
    fn excerpt_is_cut_between_characters() {
        let body = "ä".repeat(600);
        assert_eq!(excerpt(&body.as_bytes()[1..]).chars().last(), Some('ä'));
        assert!(excerpt(&body.as_bytes()[1..]).len() <= EXCERPT_BYTES);
        assert_eq!(excerpt(body.as_bytes()), "ä".repeat(250));
        assert_eq!(excerpt("kurz".as_bytes()), "kurz");
    }
}
