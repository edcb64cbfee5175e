//! Tries again after a failure, with delays that grow. Leaf module: knows no other room.

use std::{slice::Iter, time::Duration};

use tokio::time::Instant;

/// The retries that one action still has.
#[derive(Clone, Debug)]
pub struct Retries(Iter<'static, Duration>);

impl Retries {
    /// The retries after these delays.
    #[must_use]
    pub fn after(delays: &'static [Duration]) -> Self {
        Self(delays.iter())
    }

    /// The delay before the next retry; `None` when none is left, or the next one would begin after `until`.
    pub fn next(&mut self, until: Instant) -> Option<Duration> {
        self.0.next().copied().filter(|delay| Instant::now() + *delay < until)
    }

    /// Waits for the next retry. False, without a wait, when there is none.
    pub async fn wait(&mut self, until: Instant) -> bool {
        let Some(delay) = self.next(until) else { return false };
        tokio::time::sleep(delay).await;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn retries_end_with_delays_or_time() {
        const DELAYS: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(5)];
        let began = Instant::now();
        let mut retries = Retries::after(&DELAYS);
        let later = began + Duration::from_secs(60);
        assert_eq!(
            (retries.wait(later).await, retries.wait(later).await, retries.wait(later).await),
            (true, true, false)
        );
        assert_eq!(began.elapsed(), Duration::from_secs(6));
        let mut retries = Retries::after(&DELAYS);
        assert!(!retries.wait(Instant::now() + DELAYS[0]).await, "the retry would begin too late");
    }
}
