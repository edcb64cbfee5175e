//! The keeper: renews leases and key slots until the stages are done, and watches for the request to stop.

use tracing::{debug, warn};

use super::{
    context::{CLOCK_TOLERANCE, RunContext},
    halt::Force,
    report::StopReason,
};
use crate::{
    queue::{Queue, SharedState},
    store::Store,
};

/// Renews what a run holds.
#[derive(Debug)]
pub struct Keeper<'a, Q, S> {
    pub ctx: &'a RunContext<'a, Q, S>,
}

impl<Q: Queue + SharedState, S: Store> Keeper<'_, Q, S> {
    /// Renews leases and key slots, and ends the run when the worker is asked to stop. Never returns.
    pub async fn run(&self) {
        let ctx = self.ctx;
        // A third of the lifetime, so that each lease and slot has three chances to be renewed before it expires.
        let mut tick = tokio::time::interval(ctx.worker.config.lease.min(ctx.slots.lifetime()) / 3);
        // A frozen sandbox misses ticks; one renewal makes up for them.
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        // Skips the first tick, which is due at once: leases and slots are new.
        tick.reset();
        loop {
            tokio::select! {
                _ = tick.tick() => self.renew().await,
                () = ctx.worker.stop.asked() => {
                    ctx.halt.end(Force::Abandon, StopReason::Shutdown, None);
                    // The stages end the drain, not the keeper; returning here would drop them.
                    std::future::pending::<()>().await;
                }
            }
        }
    }

    async fn renew(&self) {
        let Self { ctx } = self;
        if ctx.time.is_doubtful(CLOCK_TOLERANCE) {
            match ctx.worker.queue.time().await {
                Ok(server) => ctx.time.reset(server),
                Err(error) => return warn!(error = %error, "could not read the queue's time; will try again"),
            }
        }
        let leases = ctx.in_hand.all();
        let now = ctx.time.now();
        let renewed = async {
            if leases.is_empty() {
                return Ok(Vec::new());
            }
            ctx.worker.queue.renew(now, &leases, now + ctx.lease_duration()).await
        };
        failpoint!("renew.before");
        let (renewed, slots) = tokio::join!(renewed, ctx.slots.renew());
        failpoint!("renew.after");
        match renewed {
            Ok(ours) => {
                for ((object, _), _) in leases.iter().zip(ours).filter(|(_, still_ours)| !still_ours) {
                    // The fetch goes on: its response is stored all the same, only its settlement finds the lease lost.
                    debug!(object = %object, "the lease of this object is no longer ours");
                }
            }
            Err(error) => warn!(error = %error, "could not renew leases; will try again"),
        }
        if let Err(error) = slots {
            warn!(error = %error, "could not renew key slots; will try again");
        }
    }

    /// Logs in when the API has rejected a key that came from the portal; calls wait for the new keys. Never returns.
    pub async fn replace_rejected_keys(&self) {
        let Self { ctx } = self;
        loop {
            ctx.slots.login_is_due().await;
            let login = ctx.slots.log_in(ctx.deadline.leasing_ends()).await;
            if let Some(failure) = login.failure() {
                warn!("could not replace a key that the API rejected: {failure}");
            }
            ctx.tally.lock().logged_in(login);
        }
    }
}
