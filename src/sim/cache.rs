//! The shared copies of the service: within a response's `max-age` the same bytes come again.

use std::{collections::HashMap, sync::Arc, time::Duration};

use super::answer::Answer;

/// Expired copies are swept out each time this many have been added.
const SWEEP_EVERY: usize = 256;

#[derive(Debug)]
struct Copy {
    answer: Arc<Answer>,
    good_until: Duration,
}

/// Copies by path and query. Times are boot times of the simulator's clock.
#[derive(Debug, Default)]
pub(super) struct Copies {
    /// The first copy of each document has been shared for a while already.
    shared: bool,
    by_path: HashMap<String, Copy>,
    added: usize,
}

impl Copies {
    pub(super) fn new(shared: bool) -> Self {
        Self { shared, ..Self::default() }
    }

    /// Returns the copy of `path` if it is still good, else a new one from `make`; with the rest of its lifetime.
    pub(super) fn get_or_make(
        &mut self,
        path: &str,
        now: Duration,
        make: impl FnOnce() -> Answer,
    ) -> (Arc<Answer>, Duration) {
        if let Some(copy) = self.by_path.get(path)
            && let left = copy.good_until.saturating_sub(now)
            && !left.is_zero()
        {
            return (copy.answer.clone(), left);
        }
        // An expired copy stays in the map until a sweep, so its key shows that the path was copied before.
        let is_first = !self.by_path.contains_key(path);
        let answer = Arc::new(make());
        let age = answer.cache_control.duration().unwrap_or_default();
        // The first copy is of some age, as in a cache that others filled. A later one is new: its predecessor has just expired.
        let age = if self.shared && is_first { part_of(age, path) } else { age };
        // Errors without an age are not shared.
        if !age.is_zero() {
            self.sweep(now);
            self.by_path.insert(path.to_owned(), Copy { answer: answer.clone(), good_until: now + age });
        }
        (answer, age)
    }

    pub(super) fn clear(&mut self) {
        self.by_path.clear();
    }

    fn sweep(&mut self, now: Duration) {
        self.added += 1;
        if self.added.is_multiple_of(SWEEP_EVERY) {
            self.by_path.retain(|_, copy| copy.good_until > now);
        }
    }
}

/// A time between a second and the whole age, always the same for a path.
fn part_of(age: Duration, path: &str) -> Duration {
    // FNV-1a: stable over runs, unlike the hasher of the standard library.
    let hash = path
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    let seconds = age.as_secs().max(1);
    Duration::from_secs(1 + hash % seconds).min(age)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_copy_has_partial_age() {
        let mut copies = Copies::new(true);
        let mut left = |path: &str, seconds| {
            copies.get_or_make(path, Duration::from_secs(seconds), || Answer::found("{}".into(), 60)).1.as_secs()
        };
        let first: Vec<u64> = (0..20).map(|number| left(&format!("/{number}"), 100)).collect();
        assert!(first.iter().all(|left| (1..=60).contains(left)), "{first:?}");
        assert!(first.iter().any(|left| *left < 30) && first.iter().any(|left| *left > 30), "{first:?}");
        assert_eq!(left("/0", 200), 60);
    }

    #[test]
    fn copy_is_served_until_it_expires() {
        let mut copies = Copies::default();
        let mut get = |seconds: u64, body: &'static str| {
            let now = Duration::from_secs(seconds);
            let (answer, left) = copies.get_or_make("/x", now, || Answer::found(body.into(), 60));
            (answer.body.clone(), left.as_secs())
        };
        assert_eq!(get(100, "old"), ("old".into(), 60));
        assert_eq!(get(159, "new"), ("old".into(), 1));
        assert_eq!(get(160, "new"), ("new".into(), 60));
    }
}
