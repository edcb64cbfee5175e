//! Each misbehaviour as a client meets it.

use std::time::Duration;

use refresh_worker::sim::{Endpoint, Misbehaviour, Rule};

use super::*;

async fn misbehaving(what: Misbehaviour) -> (Asker, String) {
    let asker = Asker::default().await;
    let path = clan(&asker.simulator.world().clan_tags()[0]);
    asker.simulator.misbehave(Rule::new(what).on(Endpoint::Clan));
    (asker, path)
}

#[tokio::test]
async fn refusals_have_status_type_and_reason() {
    for (what, status, content_type, part) in [
        (Misbehaviour::Throttled { retry_after: None }, 429, "application/json", "requestThrottled"),
        (Misbehaviour::InvalidIp, 403, "application/json", "accessDenied.invalidIp"),
        (Misbehaviour::InvalidAuthorization, 403, "application/json", "Invalid authorization"),
        (Misbehaviour::AddressBan, 403, "text/html", "403 Forbidden"),
        (Misbehaviour::OtherForbidden, 403, "application/json", "accessDenied.unforeseen"),
        (Misbehaviour::PrivateWarLog, 403, "application/json", r#"{"reason":"accessDenied"}"#),
        (Misbehaviour::NotFound, 404, "application/json", "notFound"),
        (Misbehaviour::BadRequest, 400, "application/json", "badRequest"),
        (Misbehaviour::Status500, 500, "text/html", "500 Internal Server Error"),
        (Misbehaviour::UnknownException, 500, "application/json", "unknownException"),
        (Misbehaviour::Status502, 502, "text/html", "502 Bad Gateway"),
        (Misbehaviour::Status504, 504, "text/html", "504 Gateway Time-out"),
        (Misbehaviour::Maintenance, 503, "application/json", "inMaintenance"),
        (Misbehaviour::MaintenanceHtml, 503, "text/html", "503 Service"),
    ] {
        let (asker, path) = misbehaving(what.clone()).await;
        let response = asker.get(&path).await;
        assert_eq!(response.status().as_u16(), status, "{what:?}");
        assert_eq!(header(&response, "content-type"), Some(content_type), "{what:?}");
        assert_eq!(header(&response, "retry-after"), None);
        let body = response.text().await.unwrap();
        assert!(body.contains(part), "{what:?}: {body}");
        assert_eq!(asker.simulator.calls()[0].status, Some(status));
    }
}

#[tokio::test]
async fn throttling_sends_retry_after() {
    let (asker, path) = misbehaving(Misbehaviour::Throttled { retry_after: Some(7) }).await;
    assert_eq!(header(&asker.get(&path).await, "retry-after"), Some("7"));
}

#[tokio::test]
async fn cut_before_headers_gives_no_response() {
    let (asker, path) = misbehaving(Misbehaviour::CutBeforeHeaders).await;
    let error = asker.try_get(&path).await.unwrap_err();
    assert!(!error.is_timeout() && !error.is_connect(), "{error:?}");
    // The client may try once more by itself on a fresh connection.
    assert!(asker.simulator.calls().iter().all(|call| call.status.is_none()));
    asker.simulator.clear();
    assert_eq!(asker.status(&path).await, 200, "only the connection was cut");
}

#[tokio::test]
async fn cut_body_follows_good_headers() {
    let (asker, path) = misbehaving(Misbehaviour::CutMidBody).await;
    let response = asker.get(&path).await;
    assert_eq!(response.status(), 200);
    assert!(response.content_length().unwrap() > 1000);
    response.bytes().await.unwrap_err();
}

#[tokio::test]
async fn bodies_are_damaged_as_ordered() {
    let parse = |body: &[u8]| serde_json::from_slice::<Value>(body);
    let (asker, path) = misbehaving(Misbehaviour::Truncated).await;
    let response = asker.get(&path).await;
    assert_eq!((response.status().as_u16(), header(&response, "content-type").unwrap().len()), (200, 31));
    assert!(parse(&response.bytes().await.unwrap()).is_err());

    let (asker, path) = misbehaving(Misbehaviour::WrongJson).await;
    let document = asker.json(&path).await;
    assert!(document.get("tag").is_none() && document.get("memberList").is_some());

    let (asker, path) = misbehaving(Misbehaviour::WrongTag).await;
    let document = asker.json(&path).await;
    assert!(!path.contains(tag_of(&document).as_str()));

    let (asker, path) = misbehaving(Misbehaviour::NotJson).await;
    let response = asker.get(&path).await;
    assert_eq!(header(&response, "content-type"), Some("application/json; charset=utf-8"));
    assert!(response.text().await.unwrap().starts_with("<html>"));

    let (asker, path) = misbehaving(Misbehaviour::LyingContentType).await;
    let response = asker.get(&path).await;
    assert_eq!(header(&response, "content-type"), Some("text/html"));
    assert!(parse(&response.bytes().await.unwrap()).is_ok());

    let (asker, path) = misbehaving(Misbehaviour::HugeBody(300_000)).await;
    let body = asker.get(&path).await.bytes().await.unwrap();
    assert_eq!(body.len(), 300_000);
    assert!(parse(&body).is_ok());

    let (asker, path) = misbehaving(Misbehaviour::DeepJson).await;
    let error = parse(&asker.get(&path).await.bytes().await.unwrap()).unwrap_err();
    assert!(error.to_string().contains("recursion"), "{error}");
}

#[tokio::test]
async fn wrong_tag_war_does_not_name_clan() {
    let asker = Asker::default().await;
    let war = asker.simulator.world().clans_in_war()[0].clone();
    asker.simulator.misbehave(Rule::new(Misbehaviour::WrongTag));
    let document = asker.json(&current_war(&war)).await;
    assert_ne!(tag_of(&document["clan"]), war);
    assert_ne!(tag_of(&document["opponent"]), war);
}

#[tokio::test]
async fn rule_ends_after_its_times() {
    let asker = Asker::default().await;
    let path = clan(&asker.simulator.world().clan_tags()[0]);
    asker.simulator.misbehave(Rule::new(Misbehaviour::Status502).on_path("/clans/").after(1).times(2));
    let mut statuses = Vec::new();
    for _ in 0..4 {
        statuses.push(asker.status(&path).await);
    }
    assert_eq!(statuses, [200, 502, 502, 200]);
}

#[tokio::test]
async fn held_calls_wait_for_release() {
    let (asker, path) = misbehaving(Misbehaviour::HoldUntilReleased).await;
    let calls = futures_util::future::join_all((0..3).map(|_| asker.status(&path)));
    let director = async {
        asker.simulator.wait_until_held(3).await;
        assert!(asker.simulator.calls().iter().all(|call| call.status.is_none()));
        asker.simulator.release();
    };
    let (statuses, ()) = tokio::join!(calls, director);
    assert_eq!(statuses, [200, 200, 200]);
    assert_eq!((asker.simulator.held(), asker.status(&path).await), (0, 200), "the barrier stays open");
}

#[tokio::test]
async fn client_that_gives_up_leaves_barrier() {
    let (asker, path) = misbehaving(Misbehaviour::HoldUntilReleased).await;
    let impatient = asker.client.get(asker.url(&path)).bearer_auth("key").timeout(Duration::from_millis(200));
    assert!(impatient.send().await.unwrap_err().is_timeout());
    asker.simulator.wait_until_none_is_held().await;
}

#[tokio::test]
async fn slow_response_is_correct() {
    let delay = Duration::from_millis(40);
    let (asker, path) = misbehaving(Misbehaviour::Slow(delay)).await;
    let began = std::time::Instant::now();
    assert_eq!(asker.status(&path).await, 200);
    assert!(began.elapsed() >= delay);
}
