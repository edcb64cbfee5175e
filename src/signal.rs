//! A shared value that tasks wait on. A leaf.
//!
//! It wraps `tokio`'s watch channel for the case in which the value outlives every waiter: then waiting cannot fail.

use std::sync::Arc;

use tokio::sync::watch;

/// A value that changes, and that others wait on. Clones share it.
#[derive(Clone, Debug)]
pub struct Signal<T>(Arc<watch::Sender<T>>);

impl<T: Default> Default for Signal<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

impl<T> Signal<T> {
    #[must_use]
    pub fn new(value: T) -> Self {
        Self(Arc::new(watch::Sender::new(value)))
    }

    /// Changes the value and wakes whoever waits.
    pub fn update(&self, change: impl FnOnce(&mut T)) {
        self.0.send_modify(change);
    }

    /// Changes the value. Wakes whoever waits only when `change` returns true.
    pub fn update_if(&self, change: impl FnOnce(&mut T) -> bool) -> bool {
        self.0.send_if_modified(change)
    }
}

impl<T: Clone> Signal<T> {
    #[must_use]
    pub fn get(&self) -> T {
        self.0.borrow().clone()
    }

    /// Waits until the value meets the condition, and returns the value.
    pub async fn wait_for(&self, condition: impl FnMut(&T) -> bool) -> T {
        // The sender lives in `self`, so waiting does not fail.
        let found = self.0.subscribe().wait_for(condition).await.map(|value| value.clone());
        found.unwrap_or_else(|_| self.get())
    }
}
