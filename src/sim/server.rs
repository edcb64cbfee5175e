//! The simulator over HTTP: takes calls, records them, applies the rules, and responds from the world.

use std::{convert::Infallible, io, sync::Arc, time::Duration};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{ConnectInfo, Request, State},
    http::{HeaderMap, StatusCode, header},
    response::Response,
    routing::{get, post},
};
use futures_util::{Stream, StreamExt, stream};

use super::{
    answer::{Answer, CacheControl, HTML, JSON_UTF8},
    connection::Line,
    control, damage,
    misbehave::Misbehaviour,
    portal,
    request::Asked,
    shared::Shared,
};

pub(super) fn router(shared: Arc<Shared>) -> Router {
    let portal = Router::new()
        .route("/api/login", post(portal::login))
        .route("/api/apikey/list", post(portal::list))
        .route("/api/apikey/create", post(portal::create))
        .route("/api/apikey/revoke", post(portal::revoke))
        .with_state(shared.portal.clone());
    Router::new()
        .route("/_sim/misbehave", post(control::misbehave).get(control::rules).delete(control::clear))
        .route("/_sim/maintenance", post(control::maintenance))
        .route("/_sim/release", post(control::release))
        .route("/_sim/calls", get(control::calls))
        .route("/_sim/world", get(control::world))
        .route("/_sim/portal", get(control::portal))
        .route("/_sim/portal/account", post(control::open_account))
        .route("/_sim/portal/key", post(control::put_key).delete(control::revoke_key))
        .route("/_sim/portal/address", post(control::move_to))
        .route("/_sim/portal/trouble", post(control::portal_trouble))
        .fallback(take_call)
        .with_state(shared)
        .merge(portal)
}

async fn take_call(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(line): ConnectInfo<Line>,
    request: Request,
) -> Response {
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    let token = bearer(request.headers());
    // Recorded before any delay: a held call has arrived, too.
    let (number, in_last_second) = shared.book.arrive(line.received(), token, path);
    let asked = Asked::parse(path);

    let orders = shared.rules.orders_for(&asked, token);
    let delay = shared.latency + orders.slow;
    if !delay.is_zero() {
        tokio::time::sleep(delay).await;
    }
    // Held before the response is made, so that it shows the state at the release.
    if let Some(held) = orders.held {
        held.until_released().await;
    }

    let gzip = accepts_gzip(request.headers());
    // A misbehaviour replaces the response, never the record of the call.
    let response = match orders.answer {
        None => {
            let (answer, left) = shared.behave(&asked, token, in_last_second);
            respond(&answer, left, gzip)
        }
        Some(Misbehaviour::CutBeforeHeaders) => {
            // The next write to the connection fails. The response is never sent.
            line.cut();
            return Response::new(Body::empty());
        }
        Some(what) => misbehave(&what, &asked, || shared.truth(&asked).0),
    };
    shared.book.answer(number, response.status().as_u16());
    response
}

fn bearer(headers: &HeaderMap) -> &str {
    let value = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.strip_prefix("Bearer ").unwrap_or_default().trim()
}

fn accepts_gzip(headers: &HeaderMap) -> bool {
    headers
        .get(header::ACCEPT_ENCODING)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| value.contains("gzip"))
}

fn respond(answer: &Answer, left: Duration, gzip: bool) -> Response {
    let mut response = Response::builder().status(answer.status).header(header::CONTENT_TYPE, answer.content_type);
    if let Some(value) = answer.cache_control.header(left) {
        response = response.header(header::CACHE_CONTROL, value);
    }
    if let Some(seconds) = answer.retry_after {
        response = response.header(header::RETRY_AFTER, seconds);
    }
    // The real service does not compress errors.
    let gzip = gzip && answer.status == 200;
    if gzip {
        response = response.header(header::CONTENT_ENCODING, "gzip").header(header::VARY, "Accept-Encoding");
    }
    let body = if gzip { answer.gzipped() } else { answer.body.clone() };
    response.body(Body::from(body)).expect("every header is made of visible ASCII")
}

/// Carries out a misbehaviour that has a response of some kind. `truth` is the response that it damages.
fn misbehave(what: &Misbehaviour, asked: &Asked, truth: impl FnOnce() -> Arc<Answer>) -> Response {
    let answer = match what {
        Misbehaviour::Throttled { retry_after } => Answer::throttled(*retry_after),
        Misbehaviour::InvalidIp => Answer::invalid_ip("203.0.113.7"),
        Misbehaviour::InvalidAuthorization => Answer::invalid_authorization(),
        Misbehaviour::AddressBan => Answer::address_ban(),
        Misbehaviour::OtherForbidden => Answer::other_forbidden(),
        Misbehaviour::PrivateWarLog => Answer::private_war_log(asked),
        Misbehaviour::NotFound => Answer::not_found(asked),
        Misbehaviour::BadRequest => Answer::bad_request(),
        Misbehaviour::Status500 => Answer::html_page(500),
        Misbehaviour::UnknownException => Answer::unknown_exception(),
        Misbehaviour::Status502 => Answer::html_page(502),
        Misbehaviour::Status504 => Answer::html_page(504),
        Misbehaviour::Maintenance => Answer::maintenance(),
        Misbehaviour::MaintenanceHtml => Answer::html_page(503),
        Misbehaviour::Foreign { status, body } => Answer::new(*status, HTML, CacheControl::None, body.clone()),
        Misbehaviour::Truncated => damaged(&truth(), JSON_UTF8, damage::first_half),
        Misbehaviour::WrongJson => damaged(&truth(), JSON_UTF8, damage::without_mandatory_keys),
        Misbehaviour::WrongTag => damaged(&truth(), JSON_UTF8, |body| damage::with_another_tag(body, asked)),
        Misbehaviour::NotJson => damaged(&truth(), JSON_UTF8, |_| damage::not_json()),
        Misbehaviour::DeepJson => damaged(&truth(), JSON_UTF8, |_| damage::deep_json()),
        Misbehaviour::LyingContentType => damaged(&truth(), HTML, <[u8]>::to_vec),
        Misbehaviour::CutMidBody => return half_of_the_body(&truth(), cut()),
        Misbehaviour::StallMidBody => return half_of_the_body(&truth(), stream::pending()),
        Misbehaviour::HugeBody(bytes) => return huge_body(*bytes),
        // Carried out already, before there is a response.
        Misbehaviour::CutBeforeHeaders | Misbehaviour::Slow(_) | Misbehaviour::HoldUntilReleased => {
            return Response::new(Body::empty());
        }
    };
    respond(&answer, answer.cache_control.duration().unwrap_or_default(), false)
}

fn damaged(truth: &Answer, content_type: &'static str, damage: impl FnOnce(&[u8]) -> Vec<u8>) -> Answer {
    let age = truth.cache_control.duration().unwrap_or(Duration::from_secs(60));
    Answer::new(200, content_type, CacheControl::MaxAge(age), damage(&truth.body))
}

/// Sends headers for the whole body, half of the body, and `then` instead of the rest.
fn half_of_the_body(truth: &Answer, then: impl Stream<Item = io::Result<Bytes>> + Send + 'static) -> Response {
    let half = truth.body.slice(..truth.body.len() / 2);
    let sent = stream::once(async { Ok(half) });
    Response::builder()
        .header(header::CONTENT_TYPE, JSON_UTF8)
        .header(header::CONTENT_LENGTH, truth.body.len())
        .body(Body::from_stream(sent.chain(then)))
        .expect("every header is made of visible ASCII")
}

/// Breaks the body, and with it the connection.
fn cut() -> impl Stream<Item = io::Result<Bytes>> {
    stream::once(async {
        // One turn of the loop, so that the first half is really on the wire.
        tokio::task::yield_now().await;
        Err(io::Error::from(io::ErrorKind::ConnectionReset))
    })
}

/// A JSON document of exactly `bytes` bytes (or the smallest possible), sent in pieces.
fn huge_body(bytes: u64) -> Response {
    const HEAD: &[u8] = br#"{"padding":""#;
    const TAIL: &[u8] = br#""}"#;
    const PIECE: &[u8] = &[b'x'; 64 * 1024];
    // Sent in pieces: the body may be larger than memory.
    let padding = bytes.saturating_sub((HEAD.len() + TAIL.len()) as u64);
    let whole =
        stream::repeat(Bytes::from_static(PIECE)).take(usize::try_from(padding / PIECE.len() as u64).unwrap_or(0));
    let rest = usize::try_from(padding % PIECE.len() as u64).unwrap_or(0);
    let ends = |part: &'static [u8]| stream::once(async move { Bytes::from_static(part) });
    let pieces = ends(HEAD).chain(whole).chain(ends(&PIECE[..rest])).chain(ends(TAIL));
    let mut response = Response::new(Body::from_stream(pieces.map(Ok::<_, Infallible>)));
    *response.status_mut() = StatusCode::OK;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(JSON_UTF8));
    response
}
