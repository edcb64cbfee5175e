//! The flow of requests through a run, as counts. The stages wait for one another here, without polling.

use tokio::sync::watch;

/// The counts at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Leased, and waiting for a permit to call.
    pub unstarted: usize,
    /// Calling.
    pub in_flight: usize,
    /// Bad responses, waiting to be classified.
    pub waiting: usize,
    /// Put behind all others, and waiting until those are called.
    pub behind: usize,
    /// Leased and not yet settled, in whichever stage.
    pub open: usize,
    /// Requests whose fetch has begun, so far.
    pub begun: usize,
    /// Leases that were released without a call, so far.
    pub not_begun: usize,
}

/// The counts of a run, to be waited for.
#[derive(Debug, Default)]
pub struct Flow {
    counts: watch::Sender<Counts>,
    /// Counts the turns of the requests behind.
    turns: watch::Sender<u64>,
}

/// A request that was put behind the others, until it is dropped.
#[derive(Debug)]
pub struct Behind<'a> {
    flow: &'a Flow,
    turns_seen: u64,
}

impl Behind<'_> {
    /// Returns when all others are called.
    pub async fn has_its_turn(&self) {
        // The sender lives in the flow, so the wait cannot fail.
        let _ = self.flow.turns.subscribe().wait_for(|turns| *turns > self.turns_seen).await;
    }
}

impl Drop for Behind<'_> {
    fn drop(&mut self) {
        self.flow.counts.send_modify(|counts| counts.behind -= 1);
    }
}

impl Flow {
    #[must_use]
    pub fn counts(&self) -> Counts {
        *self.counts.borrow()
    }

    pub fn leased(&self, count: usize) {
        self.counts.send_modify(|counts| counts.open += count);
    }

    pub fn queued(&self) {
        self.counts.send_modify(|counts| counts.unstarted += 1);
    }

    /// `again`: an earlier call of it began.
    pub fn started(&self, again: bool) {
        self.counts.send_modify(|counts| {
            counts.unstarted -= 1;
            counts.in_flight += 1;
            counts.begun += usize::from(!again);
        });
    }

    /// `again`: an earlier call of it began.
    pub fn not_started(&self, again: bool) {
        self.counts.send_modify(|counts| {
            counts.unstarted -= 1;
            counts.not_begun += usize::from(!again);
        });
    }

    pub fn answered(&self) {
        self.counts.send_modify(|counts| counts.in_flight -= 1);
    }

    /// Puts a request behind the others.
    pub fn goes_behind(&self) -> Behind<'_> {
        self.counts.send_modify(|counts| counts.behind += 1);
        Behind { flow: self, turns_seen: *self.turns.borrow() }
    }

    /// All others are called: the requests behind have their turn.
    pub fn now_those_behind(&self) {
        self.turns.send_modify(|turns| *turns += 1);
    }

    /// A bad response waits to be classified.
    pub fn waits(&self) {
        self.counts.send_modify(|counts| counts.waiting += 1);
    }

    pub fn is_classified(&self) {
        self.counts.send_modify(|counts| counts.waiting -= 1);
    }

    /// This many requests are settled.
    pub fn closed(&self, count: usize) {
        self.counts.send_modify(|counts| counts.open -= count);
    }

    /// Returns once the counts meet a condition.
    pub async fn until(&self, condition: impl FnMut(&Counts) -> bool) {
        // The sender lives in `self`, so the wait cannot fail.
        let _ = self.counts.subscribe().wait_for(condition).await;
    }
}
