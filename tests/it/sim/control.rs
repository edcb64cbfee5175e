//! Control over HTTP, for a simulator in a process of its own.

use super::*;

async fn order(asker: &Asker, method: reqwest::Method, path: &str, body: &'static str) -> (u16, Value) {
    let url = asker.simulator.base_url().join(path).unwrap();
    let request = asker.client.request(method, url).header("content-type", "application/json").body(body);
    let response = request.send().await.unwrap();
    let status = response.status().as_u16();
    (status, serde_json::from_slice(&response.bytes().await.unwrap()).unwrap_or_default())
}

#[tokio::test]
async fn control_adds_lists_and_removes_rules() {
    let asker = Asker::default().await;
    let path = clan(&asker.simulator.world().clan_tags()[0]);
    let rule = r#"{"matches": {"endpoint": "clan"}, "what": "status_502"}"#;
    assert_eq!(order(&asker, reqwest::Method::POST, "/_sim/misbehave", rule).await.0, 200);
    let (_, rules) = order(&asker, reqwest::Method::GET, "/_sim/misbehave", "").await;
    assert_eq!(rules[0]["what"], "status_502");
    assert_eq!(asker.status(&path).await, 502);
    order(&asker, reqwest::Method::DELETE, "/_sim/misbehave", "").await;
    assert_eq!(asker.status(&path).await, 200);
    let (refused, _) = order(&asker, reqwest::Method::POST, "/_sim/misbehave", r#"{"what": "explode"}"#).await;
    assert_eq!(refused, 422);
}

#[tokio::test]
async fn control_switches_maintenance() {
    let asker = Asker::default().await;
    let path = clan(&asker.simulator.world().clan_tags()[0]);
    order(&asker, reqwest::Method::POST, "/_sim/maintenance", r#"{"on": true}"#).await;
    assert_eq!(asker.status(&path).await, 503);
    order(&asker, reqwest::Method::POST, "/_sim/maintenance", r#"{"on": false}"#).await;
    assert_eq!(asker.status(&path).await, 200);
}

#[tokio::test]
async fn control_reports_calls_and_tags() {
    let asker = Asker::default().await;
    let census = asker.simulator.world();
    asker.status(&clan(&census.clan_tags()[0])).await;
    asker.status(&clan(&census.unknown_tag())).await;
    let (_, calls) = order(&asker, reqwest::Method::GET, "/_sim/calls", "").await;
    let expected = serde_json::json!({
        "total": 2,
        "by_token": {"key": {"total": 2, "most_in_any_second": asker.simulator.most_in_any_second("key")}},
        "by_status": {"200": 1, "404": 1},
    });
    assert_eq!(calls, expected);
    let (_, world) = order(&asker, reqwest::Method::GET, "/_sim/world", "").await;
    assert_eq!(world["clans"].as_array().unwrap().len(), census.clan_tags().len());
    assert_eq!(asker.simulator.total_calls(), 2);
}

#[tokio::test]
async fn control_shows_and_changes_portal() {
    let asker = Asker::default().await;
    let post = async |path: &str, body: &'static str| order(&asker, reqwest::Method::POST, path, body).await;
    post("/_sim/portal/account", r#"{"email": "a@x.com", "password": "p"}"#).await;
    let key = r#"{"email": "a@x.com", "name": "by-hand", "cidr": "198.51.100.4"}"#;
    let (_, key) = post("/_sim/portal/key", key).await;
    assert_eq!((&key["name"], &key["cidrRanges"][0]), (&"by-hand".into(), &"198.51.100.4".into()));
    assert_eq!(post("/_sim/portal/key", r#"{"email": "b@x.com", "name": "n", "cidr": "::1"}"#).await.0, 404);
    post("/_sim/portal/address", r#"{"address": "198.51.100.4"}"#).await;
    post("/_sim/portal/trouble", r#"{"what": "cannot_create"}"#).await;
    let (_, portal) = order(&asker, reqwest::Method::GET, "/_sim/portal", "").await;
    let expected = serde_json::json!({
        "address": "198.51.100.4",
        "trouble": "cannot_create",
        "accounts": {"a@x.com": [key]},
        "acts": [],
    });
    assert_eq!(portal, expected);
    post("/_sim/portal/trouble", r#"{"what": null}"#).await;
    let body: &'static str = Box::leak(format!(r#"{{"key": {}}}"#, key["key"]).into_boxed_str());
    order(&asker, reqwest::Method::DELETE, "/_sim/portal/key", body).await;
    let (_, portal) = order(&asker, reqwest::Method::GET, "/_sim/portal", "").await;
    assert_eq!((&portal["trouble"], portal["accounts"]["a@x.com"].as_array().map(Vec::len)), (&Value::Null, Some(0)));
    assert_eq!(asker.simulator.total_calls(), 0);
}
