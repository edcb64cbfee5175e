//! The `/_sim/` calls by which a simulator in a process of its own is controlled. They are not in the book of calls.

use std::sync::Arc;

use axum::{Json, extract::State, http::StatusCode};
use serde::Deserialize;

use super::{
    Census,
    calls::CallSummary,
    misbehave::Rule,
    portal::{PortalKey, PortalTrouble, PortalView},
    shared::{Content, Shared},
};

pub(super) async fn misbehave(State(shared): State<Arc<Shared>>, Json(rule): Json<Rule>) -> Json<Vec<Rule>> {
    shared.rules.add(rule);
    Json(shared.rules.all())
}

pub(super) async fn rules(State(shared): State<Arc<Shared>>) -> Json<Vec<Rule>> {
    Json(shared.rules.all())
}

pub(super) async fn clear(State(shared): State<Arc<Shared>>) -> Json<Vec<Rule>> {
    shared.rules.clear();
    Json(shared.rules.all())
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Maintenance {
    on: bool,
}

pub(super) async fn maintenance(State(shared): State<Arc<Shared>>, Json(order): Json<Maintenance>) {
    shared.set_maintenance(order.on);
}

pub(super) async fn release(State(shared): State<Arc<Shared>>) {
    shared.rules.release();
}

pub(super) async fn calls(State(shared): State<Arc<Shared>>) -> Json<CallSummary> {
    Json(shared.book.summary())
}

pub(super) async fn world(State(shared): State<Arc<Shared>>) -> Json<Census> {
    let Content { source, .. } = &mut *shared.content();
    Json(source.census())
}

pub(super) async fn portal(State(shared): State<Arc<Shared>>) -> Json<PortalView> {
    Json(shared.portal.view())
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OpenAccount {
    email: String,
    password: String,
}

pub(super) async fn open_account(State(shared): State<Arc<Shared>>, Json(order): Json<OpenAccount>) {
    shared.portal.open_account(&order.email, &order.password);
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PutKey {
    email: String,
    name: String,
    cidr: String,
}

pub(super) async fn put_key(
    State(shared): State<Arc<Shared>>,
    Json(order): Json<PutKey>,
) -> Result<Json<PortalKey>, StatusCode> {
    // A misspelt account must not be created by accident.
    if shared.portal.has_account(&order.email) {
        Ok(Json(shared.portal.put_key(&order.email, &order.name, &order.cidr)))
    } else {
        Err(StatusCode::NOT_FOUND)
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RevokeKey {
    key: String,
}

pub(super) async fn revoke_key(State(shared): State<Arc<Shared>>, Json(order): Json<RevokeKey>) {
    shared.portal.revoke_by_hand(&order.key);
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Move {
    address: String,
}

pub(super) async fn move_to(State(shared): State<Arc<Shared>>, Json(order): Json<Move>) {
    shared.portal.move_to(&order.address);
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Trouble {
    what: Option<PortalTrouble>,
}

pub(super) async fn portal_trouble(State(shared): State<Arc<Shared>>, Json(order): Json<Trouble>) {
    shared.portal.trouble(order.what);
}
