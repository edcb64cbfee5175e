//! Control calls: calls of objects that had good responses before. They show whether bad responses are the objects' own fault.

use std::time::Duration;

use tokio::time::Instant;
use tracing::warn;

use super::{context::RunContext, halt::Force};
use crate::{
    api::{
        FetchTask,
        judge::{Judge, SharedJudge},
    },
    model::EndpointKind,
    queue::{Queue, SharedState},
    store::Store,
};

// When no key could make the control call, the judge wants it again at once. The wait keeps that from spinning, and gives a key
// time to recover.
const CONTROL_RETRY_DELAY: Duration = Duration::from_millis(200);

/// The result of a control call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Made {
    /// It had a response, good or bad.
    Response,
    /// It had none: no key could make it, it met a 429, or it was cut off.
    NoResponse,
    /// No object had a good response before.
    NoObject,
}

/// Makes the control calls that the judge wants.
#[derive(Debug)]
pub struct ControlCalls<'a, Q, S> {
    pub ctx: &'a RunContext<'a, Q, S>,
    pub judge: &'a SharedJudge,
}

// By hand: a derive would want queue and store to be `Copy` as well.
impl<Q, S> Copy for ControlCalls<'_, Q, S> {}
impl<Q, S> Clone for ControlCalls<'_, Q, S> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<Q: Queue + SharedState, S: Store> ControlCalls<'_, Q, S> {
    /// Makes every control call that the judge wants. Never returns.
    pub async fn run(self) {
        let Self { ctx, judge } = self;
        loop {
            let wanted = judge.until(Judge::control).await;
            let made = tokio::select! {
                made = self.call(&wanted.endpoints) => made,
                // A run that ends has no use for the response.
                () = ctx.halt.forced(Force::StartNothing) => Made::NoResponse,
            };
            if made == Made::NoResponse && ctx.pool().usable() == 0 {
                judge.update(Judge::control_failed);
                // The lease stage waits for a key, or ends the run.
                tokio::time::sleep(CONTROL_RETRY_DELAY).await;
            } else {
                judge.update(Judge::control_done);
            }
        }
    }

    /// Makes one call, at the first of these endpoints that has an object for it.
    pub async fn call(self, endpoints: &[EndpointKind]) -> Made {
        let Self { ctx, judge } = self;
        for endpoint in endpoints {
            // The store keeps no tags of league wars, so it cannot name one for a control call.
            if *endpoint == EndpointKind::LeagueWar {
                continue;
            }
            let limit = ctx.deadline.left_for_the_database(Instant::now());
            // An accused object cannot clear itself.
            let but = judge.read(Judge::accused_tags);
            let object = match ctx.worker.store.control_object(endpoint.kind(), &but, ctx.time.now(), limit).await {
                Ok(Some(object)) => object,
                Ok(None) => continue,
                Err(error) => {
                    warn!(error = %error, "could not look for an object for a control call");
                    return Made::NoObject;
                }
            };
            let ask = FetchTask {
                object: &object,
                league: None,
                first_permit: None,
                keys: ctx.pool(),
                judge,
                time: ctx.time,
                until: ctx.deadline.calls_end(),
                // The first response decides.
                quick_tries: 0,
                earlier: None,
            };
            let responses = |judge: &Judge| judge.good_count() + judge.bad_count();
            let before = judge.read(responses);
            let calls = ctx.worker.api.client.control(ask, *endpoint).await;
            ctx.tally.lock().report.control_calls += u64::from(calls);
            ctx.share_cooldowns().await;
            // The judge counts responses; a call that met a 429 or was cut off is not among them.
            return if judge.read(responses) > before { Made::Response } else { Made::NoResponse };
        }
        Made::NoObject
    }
}
