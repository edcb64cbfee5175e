//! How many requests are where in a run. The stages wait for one another here, without polling. Touches nothing.

use tokio::sync::watch;

/// The counts at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Leased, and waiting for a permit to call.
    pub unstarted: usize,
    /// Calling.
    pub in_flight: usize,
    /// Answered badly, and waiting for the ruling whose fault that is.
    pub waiting: usize,
    /// Put behind everything else, and waiting for it to be called.
    pub behind: usize,
    /// Leased and not yet settled, wherever they are.
    pub open: usize,
    /// Requests whose fetch has begun, so far.
    pub begun: usize,
    /// Leases that were given back without a call, so far.
    pub not_begun: usize,
}

/// The counts, and who waits for them to change.
#[derive(Debug, Default)]
pub struct Flow {
    counts: watch::Sender<Counts>,
    /// How often those behind had their turn.
    turns: watch::Sender<u64>,
}

/// Takes a request off the count of those behind, however it leaves.
struct Leaves<'a>(&'a Flow);

impl Drop for Leaves<'_> {
    fn drop(&mut self) {
        self.0.counts.send_modify(|counts| counts.behind -= 1);
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

    /// Put behind the others, which includes waiting: returns when they are all called.
    pub async fn others_are_called(&self) {
        self.counts.send_modify(|counts| counts.behind += 1);
        let _leaves = Leaves(self);
        // The sender lives in `self`, so waiting cannot fail.
        let _ = self.turns.subscribe().changed().await;
    }

    /// Everything else is called: whoever was put behind has its turn.
    pub fn now_those_behind(&self) {
        self.turns.send_modify(|turns| *turns += 1);
    }

    /// Answered badly: it waits for a ruling.
    pub fn waits(&self) {
        self.counts.send_modify(|counts| counts.waiting += 1);
    }

    pub fn is_ruled(&self) {
        self.counts.send_modify(|counts| counts.waiting -= 1);
    }

    /// Settled.
    pub fn closed(&self, count: usize) {
        self.counts.send_modify(|counts| counts.open -= count);
    }

    /// Returns once the counts are so.
    pub async fn until(&self, condition: impl FnMut(&Counts) -> bool) {
        // The sender lives in `self`, so waiting cannot fail.
        let _ = self.counts.subscribe().wait_for(condition).await;
    }
}
