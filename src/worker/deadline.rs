//! How much time is left, and what still fits into it. Looks at the runtime's clock only.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// The longest a single call may take.
pub const LONGEST_CALL: Duration = Duration::from_secs(10);

/// Kept free between the end of the last call and the commit of its answer.
const MARGIN: Duration = Duration::from_millis(200);

/// What a call and a commit are taken to cost before the first one was seen.
const FIRST_CALL_GUESS: Duration = Duration::from_millis(500);
const FIRST_COMMIT_GUESS: Duration = Duration::from_millis(300);

/// Without any limit a run may go on for this long.
const WITHOUT_LIMIT: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// The end of a run, and the recent costs that decide what may still be begun before it.
#[derive(Debug)]
pub struct Deadline {
    end: Instant,
    commits_end: Instant,
    costs: Mutex<Costs>,
}

#[derive(Clone, Copy, Debug)]
struct Costs {
    call: Duration,
    commit: Duration,
}

impl Deadline {
    /// `time_left` is the invocation's, the buffer not yet taken off; `limits` are budgets of their own
    /// (`MAX_RUNTIME_SECONDS`, the event's `max_runtime`).
    #[must_use]
    pub fn new(now: Instant, time_left: Option<Duration>, buffer: Duration, limits: &[Option<Duration>]) -> Self {
        let invocation = time_left.map_or(WITHOUT_LIMIT, |left| left.saturating_sub(buffer));
        let budget = limits.iter().flatten().copied().fold(invocation, Duration::min);
        let costs = Costs { call: FIRST_CALL_GUESS, commit: FIRST_COMMIT_GUESS };
        let end = now + budget.min(WITHOUT_LIMIT);
        Self { end, commits_end: end + buffer / 3, costs: Mutex::new(costs) }
    }

    fn costs(&self) -> Costs {
        *self.costs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes what a call cost. The slowest counts, and is slowly forgotten.
    pub fn saw_call(&self, took: Duration) {
        let mut costs = self.costs.lock().unwrap_or_else(PoisonError::into_inner);
        costs.call = took.max(costs.call.mul_f64(0.98));
    }

    /// Notes what a commit cost.
    pub fn saw_commit(&self, took: Duration) {
        let mut costs = self.costs.lock().unwrap_or_else(PoisonError::into_inner);
        costs.commit = took.max(costs.commit.mul_f64(0.9));
    }

    /// The run must be over by then.
    #[must_use]
    pub const fn end(&self) -> Instant {
        self.end
    }

    /// How long the database may still be waited for. What is fetched is worth a third of the buffer; with the rest all is given
    /// back and the answer is sent.
    #[must_use]
    pub fn left_for_the_database(&self, now: Instant) -> Duration {
        self.commits_end.saturating_duration_since(now)
    }

    /// Calls must have ended by then, so that their answers can be committed.
    #[must_use]
    pub fn calls_end(&self) -> Instant {
        let reserve = self.costs().commit + MARGIN;
        self.end.checked_sub(reserve).unwrap_or(self.end)
    }

    /// From then on nothing new is leased: it could not be finished.
    #[must_use]
    pub fn leasing_ends(&self) -> Instant {
        let costs = self.costs();
        self.end.checked_sub(costs.call + costs.commit).unwrap_or(self.end)
    }

    /// Whether something leased now could still be finished.
    #[must_use]
    pub fn may_lease(&self, now: Instant) -> bool {
        now < self.leasing_ends()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUFFER: Duration = Duration::from_secs(5);

    fn deadline(time_left: u64, limits: &[Option<Duration>]) -> (Instant, Deadline) {
        let now = Instant::now();
        (now, Deadline::new(now, Some(Duration::from_secs(time_left)), BUFFER, limits))
    }

    #[test]
    fn the_budget_is_the_least_of_the_invocation_and_the_limits() {
        let (now, plain) = deadline(300, &[None]);
        assert_eq!(plain.end(), now + Duration::from_secs(295));
        let (now, limited) = deadline(300, &[Some(Duration::from_secs(230)), Some(Duration::from_secs(25))]);
        assert_eq!(limited.end(), now + Duration::from_secs(25));
    }

    #[test]
    fn with_less_time_than_the_buffer_nothing_is_leased() {
        for seconds in [0, 1, 5] {
            let (now, deadline) = deadline(seconds, &[]);
            assert!(!deadline.may_lease(now), "{seconds} s left");
        }
        let (now, deadline) = deadline(6, &[]);
        assert!(deadline.may_lease(now));
    }

    #[test]
    fn a_slow_call_or_commit_makes_leasing_end_earlier_and_is_forgotten_slowly() {
        let (_, deadline) = deadline(60, &[]);
        let before = deadline.leasing_ends();
        deadline.saw_call(Duration::from_secs(8));
        assert_eq!(before - deadline.leasing_ends(), Duration::from_millis(7500));
        for _ in 0..300 {
            deadline.saw_call(Duration::from_millis(100));
        }
        assert!(deadline.leasing_ends() > before - Duration::from_millis(100));
    }

    #[test]
    fn the_database_is_waited_for_a_third_of_the_buffer_beyond_the_end() {
        let (now, deadline) = deadline(20, &[]);
        assert_eq!(deadline.left_for_the_database(now), Duration::from_secs(15) + BUFFER / 3);
        assert_eq!(deadline.left_for_the_database(now + Duration::from_secs(19)), Duration::ZERO);
    }

    #[test]
    fn calls_end_before_the_run_does_so_that_their_answers_are_kept() {
        let (_, deadline) = deadline(60, &[]);
        deadline.saw_commit(Duration::from_secs(2));
        assert_eq!(deadline.end() - deadline.calls_end(), Duration::from_millis(2200));
    }
}
