//! A call under way: when it leaves this process, as far as that can be known. Tells its key's limiter, and nobody else.

use std::convert::Infallible;

use tokio::task::yield_now;

use super::{
    super::{connects::Connects, limit::CallNumber},
    KeyPool,
};
use crate::model::Fingerprint;

/// A connection that was opened is made ready, is given its call, and writes it: each a turn of its own on this thread.
const TURNS_OF_A_NEW_CONNECTION: usize = 4;

/// A call under way.
pub(in crate::api) struct Begun<'a> {
    pub(in crate::api) key: Fingerprint,
    pub(super) keys: &'a KeyPool,
    pub(super) number: CallNumber,
}

impl Begun<'_> {
    /// Notes when the call leaves, for as long as it is awaited: after its connection had its turn on this thread, which may
    /// be busy with something else meanwhile, and after every connection that was opened for it.
    pub(in crate::api) async fn watch(&self, connects: &Connects) -> Infallible {
        let mut ended = connects.ended();
        yield_now().await;
        if !connects.is_opening() {
            self.left();
        }
        loop {
            ended = connects.none_after(ended).await;
            for _ in 0..TURNS_OF_A_NEW_CONNECTION {
                yield_now().await;
            }
            self.left();
        }
    }

    fn left(&self) {
        self.keys.note(&self.key, |limit| limit.left(self.number));
    }
}

impl Drop for Begun<'_> {
    /// Answered or given up: it has left, or never will.
    fn drop(&mut self) {
        self.keys.note(&self.key, |limit| limit.left_at_the_latest(self.number));
    }
}
