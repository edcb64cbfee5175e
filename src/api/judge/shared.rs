//! The judge of a run, shared by its calls. Its guards report to the judge when a call or a wait is given up.

use parking_lot::{Mutex, MutexGuard};

use super::{Accusation, Call, CallId, FailureClass, Judge, Sign};
use crate::{model::Reason, signal::Signal};

/// The judge of a run, shared by its calls.
#[derive(Debug, Default)]
pub struct SharedJudge {
    judge: Mutex<Judge>,
    /// Counts changes, so that whoever waits for a class looks again.
    changes: Signal<u64>,
}

impl SharedJudge {
    fn judge(&self) -> MutexGuard<'_, Judge> {
        // A panic while the lock was held leaves plain values behind.
        self.judge.lock()
    }

    /// Reads the judge's state.
    pub fn read<T>(&self, read: impl FnOnce(&Judge) -> T) -> T {
        read(&self.judge())
    }

    /// Changes the judge's state, and wakes everybody who waits for a change.
    pub fn update<T>(&self, update: impl FnOnce(&mut Judge) -> T) -> T {
        let result = update(&mut self.judge());
        self.changes.update(|changes| *changes += 1);
        result
    }

    /// Changes the judge's state in a way for which nobody waits.
    pub fn update_quietly<T>(&self, update: impl FnOnce(&mut Judge) -> T) -> T {
        update(&mut self.judge())
    }

    /// Begins a call. It is forgotten when it is dropped without a response.
    pub(in crate::api) fn begin(&self, call: Call) -> Pending<'_> {
        Pending { judge: self, id: Some(self.update_quietly(|judge| judge.begin(call))) }
    }

    /// Waits until `find` finds something.
    pub async fn until<T>(&self, mut find: impl FnMut(&Judge) -> Option<T>) -> T {
        loop {
            // Read before the state: a change in between must not be missed.
            let seen = self.changes.get();
            if let Some(found) = find(&self.judge()) {
                return found;
            }
            self.changes.wait_for(|changes| *changes != seen).await;
        }
    }

    /// Waits for the class of a failure.
    pub async fn classify(&self, accusation: &Accusation) -> FailureClass {
        let _waiting = Waiting::new(self, accusation);
        self.until(|judge| judge.classify(accusation)).await
    }
}

/// A call under way, as the judge knows it.
pub(in crate::api) struct Pending<'a> {
    judge: &'a SharedJudge,
    id: Option<CallId>,
}

impl Pending<'_> {
    pub(in crate::api) fn good(mut self) {
        if let Some(id) = self.id.take() {
            self.judge.update(|judge| judge.good(id));
        }
    }

    pub(in crate::api) fn bad(
        mut self,
        sign: Sign,
        reason: Reason,
        earlier: Option<&Accusation>,
    ) -> Option<Accusation> {
        let id = self.id.take()?;
        self.judge.update(|judge| judge.bad(id, sign, reason, earlier))
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        // Dropped without a response: the judge must not wait for it.
        if let Some(id) = self.id.take() {
            self.judge.update(|judge| judge.forget(id));
        }
    }
}

/// A request that waits for the class of its failure, until this is dropped.
struct Waiting<'a> {
    judge: &'a SharedJudge,
    accusation: &'a Accusation,
}

impl<'a> Waiting<'a> {
    fn new(judge: &'a SharedJudge, accusation: &'a Accusation) -> Self {
        judge.update(|judge| judge.wait(accusation, true));
        Self { judge, accusation }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.judge.update(|judge| judge.wait(self.accusation, false));
    }
}
