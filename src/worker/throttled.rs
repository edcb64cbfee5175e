//! Requests that met a 429. A key that is over its rate is not the object's fault; an object whose every call meets a 429, while others
//! do not, has that as its response.

use std::{collections::BTreeSet, time::Duration};

use parking_lot::Mutex;

use super::{breaker::Breaker, context::RunContext, flow::Behind, halt::Force, hand_over::How};
use crate::{
    api::judge::Scope,
    model::{Fingerprint, FollowUp, ObjectId, Reason},
    queue::{Lease, Queue, SharedState},
    store::Store,
};

// After this many holds in a row for a 429 that no other object met, the object itself is taken to be the cause.
const MAX_THROTTLED_HOLDS: u32 = 2;

const THROTTLED: &str = "throttled";

/// A key that is over its rate, and the cooldown that the API asks for.
#[derive(Clone, Debug)]
pub struct Cooldown {
    pub key: Fingerprint,
    pub lasts: Duration,
}

impl Cooldown {
    pub fn reason(&self) -> Reason {
        Reason::new(THROTTLED, format!("429 on key {}, which cools down for {} s", self.key, self.lasts.as_secs()))
    }
}

/// The objects that met a 429 in this run.
#[derive(Debug, Default)]
pub struct Throttled(Mutex<BTreeSet<ObjectId>>);

impl Throttled {
    /// Records an object. Returns true when it may be called again in this run: it met no 429 before, and is not the probe of an API
    /// that failed.
    pub async fn record<Q: Queue + SharedState, S: Store>(
        &self,
        ctx: &RunContext<'_, Q, S>,
        breaker: &Breaker<'_, Q, S>,
        object: &ObjectId,
    ) -> bool {
        ctx.share_cooldowns().await;
        let is_first = self.0.lock().insert(object.clone());
        is_first && !breaker.judge().read(|judge| judge.is_convicted(&Scope::Api))
    }

    /// The end of a request that is not called again in this run: it is held, so that others come first. An object that is the only one
    /// to meet a 429, twice in each of several runs, has failed.
    pub fn end(&self, lease: &Lease, cooldown: &Cooldown, is_first: bool, next_poll: Option<FollowUp>) -> How {
        let is_alone = !is_first && self.0.lock().len() == 1;
        let was_before = lease.held_for.as_deref() == Some(THROTTLED) && lease.held >= MAX_THROTTLED_HOLDS;
        let reason = cooldown.reason();
        if is_alone && was_before { How::Failed(reason, next_poll) } else { How::Held(reason) }
    }
}

/// Waits until this run has called everything else that it can, so that an object which alone meets 429 does not keep the others from
/// their key. False when there is no time for another call.
pub async fn until_others_are_called<Q: Queue + SharedState, S: Store>(
    ctx: &RunContext<'_, Q, S>,
    behind: &Behind<'_>,
) -> bool {
    tokio::select! {
        () = behind.has_its_turn() => true,
        // After a forced end no call begins, so those behind never get their turn.
        () = ctx.halt.forced(Force::StartNothing) => false,
        () = tokio::time::sleep_until(ctx.deadline.leasing_ends()) => false,
    }
}
