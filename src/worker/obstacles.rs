//! What stands in the way and is not a request's fault: a key that rests or is refused, an API in maintenance, a day that is
//! used up. Ends the run or part of it, and tells other runs through the queue's keys.

use tracing::{info, warn};

use super::{
    drain::{Drain, PROBE_INTERVAL, lock},
    halt::Force,
    report::StopReason,
};
use crate::{
    api::verdict::Obstacle,
    model::Fingerprint,
    queue::{Circuit, CircuitReason, CircuitScope, Queue, QueueError, Slots},
    store::Store,
};

impl<Q: Queue + Slots, S: Store> Drain<'_, Q, S> {
    /// Something that is not the request's fault stood in the way.
    pub async fn meet(&self, obstacle: Obstacle) {
        let met = match obstacle {
            Obstacle::Throttled { .. } => {
                lock(self.tally).throttled += 1;
                self.ring.share_rests().await
            }
            Obstacle::Maintenance { detail } => self.maintenance(&detail).await,
            Obstacle::KeyRejected { key, detail } => {
                self.refused_key(&key, &detail);
                self.ring.share_rests().await
            }
            Obstacle::KeyForbidden { key, detail } => {
                self.refused_key(&key, &detail);
                let failure = format!("the API forbids key {key} altogether ({detail}): is our address banned?");
                self.halt.end(Force::StartNothing, StopReason::NoUsableKey, Some(failure));
                self.ring.share_rests().await
            }
            Obstacle::DayUsedUp => {
                self.day_used_up();
                Ok(())
            }
            Obstacle::NoUsableKey | Obstacle::Deadline => Ok(()),
        };
        if let Err(error) = met {
            warn!(error = %error, "could not tell other runs what the API said");
        }
    }

    fn refused_key(&self, key: &Fingerprint, detail: &str) {
        if self.keys.fingerprints().contains(key) {
            warn!(key.fingerprint = %key, detail, "the API does not accept this key");
            let mut tally = lock(self.tally);
            tally.error(format!("key {key}: {detail}"));
            tally.keys_refused += u64::from(!self.worker.wallet.came_from_the_portal(key));
        }
    }

    /// The API is in maintenance: the drain ends, and one run in 30 s probes.
    async fn maintenance(&self, detail: &str) -> Result<(), QueueError> {
        if self.halt.is_forced() {
            return Ok(());
        }
        info!(detail, "the API is in maintenance; everything is given back and one probe is made every 30 s");
        self.halt.end(Force::StartNothing, StopReason::Maintenance, None);
        let now = self.time.now();
        let circuit = Circuit {
            scope: CircuitScope::Api,
            since: now,
            next_probe: now + PROBE_INTERVAL,
            reason: CircuitReason::new(CircuitReason::MAINTENANCE, detail),
        };
        self.worker.queue.open_circuit(&circuit).await
    }
}
