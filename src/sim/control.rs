//! The `/_sim/` calls by which a simulator in a process of its own is controlled. They are not in the book of calls.

use std::sync::Arc;

use axum::{Json, extract::State};
use serde::Deserialize;

use super::{
    Census,
    calls::CallSummary,
    misbehave::Rule,
    server::{Content, Shared},
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
