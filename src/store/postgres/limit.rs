//! The time limit of a call, all its tries together.

use std::time::Duration;

use tokio::time::Instant;

#[derive(Clone, Copy, Debug)]
pub(super) struct Limit {
    since: Instant,
    whole: Duration,
}

impl Limit {
    pub(super) fn from_now(whole: Duration) -> Self {
        Self { since: Instant::now(), whole }
    }

    pub(super) fn left(self) -> Duration {
        self.whole.saturating_sub(self.since.elapsed())
    }
}
