//! The shared copies that the service keeps: within an answer's `max-age` the same bytes come again.

use std::{collections::HashMap, sync::Arc, time::Duration};

use super::answer::Answer;

/// Expired copies are swept out each time this many have been added.
const SWEEP_EVERY: usize = 256;

#[derive(Debug)]
struct Copy {
    answer: Arc<Answer>,
    good_until: Duration,
}

/// Answers by path and query. Times are the boot time of the simulator's clock.
#[derive(Debug, Default)]
pub(super) struct Copies {
    copies: HashMap<String, Copy>,
    added: usize,
}

impl Copies {
    /// The copy of `path` if it is still good, else what `make` gives; with what is left of its age.
    pub(super) fn get_or_make(
        &mut self,
        path: &str,
        now: Duration,
        make: impl FnOnce() -> Answer,
    ) -> (Arc<Answer>, Duration) {
        if let Some(copy) = self.copies.get(path)
            && let left = copy.good_until.saturating_sub(now)
            && !left.is_zero()
        {
            return (copy.answer.clone(), left);
        }
        let answer = Arc::new(make());
        let age = answer.cache_control.duration().unwrap_or_default();
        if !age.is_zero() {
            self.sweep(now);
            self.copies.insert(path.to_owned(), Copy { answer: answer.clone(), good_until: now + age });
        }
        (answer, age)
    }

    pub(super) fn clear(&mut self) {
        self.copies.clear();
    }

    fn sweep(&mut self, now: Duration) {
        self.added += 1;
        if self.added.is_multiple_of(SWEEP_EVERY) {
            self.copies.retain(|_, copy| copy.good_until > now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_good_until_its_age_is_over() {
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
