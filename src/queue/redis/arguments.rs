//! The arguments of the scripts: how requests, mailbox entries and settlements are written.

use std::{fmt, time::Duration};

use crate::{
    clock::Timestamp,
    model::RefreshRequest,
    queue::{
        ORPHAN_TIMEOUT, Settlement,
        mailbox::{Content, Decision, Entry, Id, Source},
        record::{Wanted, clamp, clip},
    },
};

/// A script's arguments: bytes, in order.
#[derive(Default)]
pub(super) struct Arguments(pub Vec<Vec<u8>>);

impl Arguments {
    pub(super) fn text(&mut self, text: &str) -> &mut Self {
        self.bytes(text.as_bytes())
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.push(bytes.to_vec());
        self
    }

    pub(super) fn number(&mut self, number: impl fmt::Display) -> &mut Self {
        self.0.push(number.to_string().into_bytes());
        self
    }

    pub(super) fn request(&mut self, request: &RefreshRequest, now: Timestamp) -> &mut Self {
        let wanted = Wanted::of(request, now);
        self.text(&request.object.to_string()).number(wanted.priority.as_number());
        self.number(wanted.first.as_millis()).number(wanted.due.as_millis()).number(wanted.attempts)
    }

    pub(super) fn id(&mut self, id: &Id) -> &mut Self {
        match id {
            Id::Whole(id) => self.bytes(id).text(""),
            Id::TooLong { digest, .. } => self.text("").text(digest),
        }
    }

    pub(super) fn content(&mut self, content: &Content) -> &mut Self {
        match content {
            Content::Missing => self.text("missing").number(0).text(""),
            Content::Value(value) => self.text("value").number(value.len()).bytes(value),
            Content::TooLarge { bytes, head } => self.text("large").number(bytes).bytes(head),
        }
    }

    pub(super) fn entry(&mut self, entry: &Entry) -> &mut Self {
        let (source, score) = match &entry.source {
            Source::Index { score } => ("index", score.as_str()),
            Source::Orphan { .. } => ("orphan", ""),
            Source::Scan => ("scan", ""),
        };
        self.text(source).id(&entry.id).text(score).content(&entry.content)
    }

    pub(super) fn decision(&mut self, decision: &Decision, now: Timestamp) -> &mut Self {
        match decision {
            Decision::Admit(request) => {
                let asked = Wanted::of(request, now).asked.map_or(-1, Timestamp::as_millis);
                self.text("admit").request(request, now).number(asked)
            }
            Decision::Refuse(invalid) => {
                let dead_entry = serde_json::to_string(&invalid.dead_entry(now)).expect("texts and numbers are JSON");
                self.text("refuse").text(&invalid.name).text(&dead_entry)
            }
            Decision::Orphan(priority) => self.text("orphan").number(priority.as_number()),
            // `Wait` is filtered out before.
            Decision::Drop | Decision::Wait => self.text("drop").number(ORPHAN_TIMEOUT.as_millis()),
        }
    }

    pub(super) fn settlement(&mut self, settlement: &Settlement, now: Timestamp) -> &mut Self {
        let (until, reason, body) = match settlement {
            // The script ignores the time of these.
            Settlement::Done | Settlement::Release => (now, None, None),
            Settlement::Later { until } => (*until, None, None),
            Settlement::Failed { until, reason } => (*until, Some(reason), None),
            Settlement::Held { reason } => (now, Some(reason), None),
            Settlement::Dead { reason, body } => (now, Some(reason), body.as_deref()),
        };
        self.text(settlement.word()).number(clamp(until, now).as_millis());
        self.text(reason.map_or("", |reason| reason.code)).text(reason.map_or("", |reason| &reason.detail));
        self.number(u8::from(body.is_some())).text(clip(body.unwrap_or("")))
    }
}

/// The `PX` argument of a lifetime: never 0, which Redis refuses, and never too large for it.
pub(super) fn lifetime_millis(lifetime: Duration) -> u64 {
    u64::try_from(lifetime.as_millis()).unwrap_or(u64::MAX).clamp(1, 1_000_000_000_000)
}
