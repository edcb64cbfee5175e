//! How much time is left, and what still fits into it. Looks at the runtime's clock only.

use std::{collections::VecDeque, fmt, time::Duration};

use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;

use crate::model::Kind;

/// The longest a single call may take.
pub const LONGEST_CALL: Duration = Duration::from_secs(10);

/// Kept free between the expected end of the last fetch and the commit of its answer: a machine that is busy for a moment
/// must not cost a call.
const MARGIN: Duration = Duration::from_millis(150);

/// What a fetch and a commit are taken to cost before the first one was seen.
const FIRST_FETCH_GUESS: Duration = Duration::from_millis(300);
const FIRST_COMMIT_GUESS: Duration = Duration::from_millis(300);

/// With less time than this a run begins nothing.
pub const MIN_RUN_TIME: Duration = FIRST_FETCH_GUESS.saturating_add(MARGIN).saturating_add(FIRST_COMMIT_GUESS);

/// The fetches of a kind that are remembered.
const REMEMBERED: usize = 60;

/// One in so many of the remembered fetches may be slower than what is expected. One answer that hung for ten seconds would
/// else end a run ten seconds early.
const ONE_IN: usize = 20;

/// Without any limit a run may go on for this long.
const WITHOUT_LIMIT: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// The end of a run, and the recent costs that decide what may still be begun before it.
#[derive(Debug)]
pub struct Deadline {
    end: Instant,
    commits_end: Instant,
    too_short: Option<TooShort>,
    costs: Mutex<Costs>,
}

/// An invocation whose time is over before a first request could be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooShort {
    time_left: Duration,
    buffer: Duration,
}

impl fmt::Display for TooShort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { time_left, buffer } = self;
        write!(
            f,
            "this invocation began with {:.1} s left, and DEADLINE_BUFFER_MS={} keeps {:.1} s of them free: with this \
             timeout no run can ever do anything. Raise the timeout of the Lambda function (its preset is 3 s; 300 s is \
             usual), or lower DEADLINE_BUFFER_MS",
            time_left.as_secs_f64(),
            buffer.as_millis(),
            buffer.as_secs_f64()
        )
    }
}

#[derive(Debug)]
struct Costs {
    commit: Duration,
    /// How long the last fetches took, in the order of [`Kind::ALL`]. A war may take several calls.
    fetches: [VecDeque<Duration>; Kind::ALL.len()],
}

impl Costs {
    /// The recent slow fetch of a kind; without any, that of the slowest kind there was, and before the first a guess.
    fn fetch(&self, kind: Kind) -> Duration {
        slow(&self.fetches[kind as usize]).unwrap_or_else(|| self.slowest_fetch())
    }

    fn slowest_fetch(&self) -> Duration {
        self.fetches.iter().filter_map(slow).max().unwrap_or(FIRST_FETCH_GUESS)
    }
}

/// The time that all took but one in [`ONE_IN`].
fn slow(took: &VecDeque<Duration>) -> Option<Duration> {
    let mut sorted: Vec<Duration> = took.iter().copied().collect();
    sorted.sort_unstable();
    sorted.iter().rev().nth(sorted.len() / ONE_IN).copied()
}

impl Deadline {
    /// `time_left` is the invocation's, the buffer not yet taken off; `limits` are budgets of their own
    /// (`MAX_RUNTIME_SECONDS`, the event's `max_runtime`).
    #[must_use]
    pub fn new(now: Instant, time_left: Option<Duration>, buffer: Duration, limits: &[Option<Duration>]) -> Self {
        let invocation = time_left.map_or(WITHOUT_LIMIT, |left| left.saturating_sub(buffer));
        let budget = limits.iter().flatten().copied().fold(invocation, Duration::min);
        let costs = Costs { commit: FIRST_COMMIT_GUESS, fetches: Default::default() };
        let end = now + budget.min(WITHOUT_LIMIT);
        let too_short = time_left.filter(|_| invocation <= MIN_RUN_TIME).map(|time_left| TooShort { time_left, buffer });
        Self { end, commits_end: end + buffer / 3, too_short, costs: Mutex::new(costs) }
    }

    fn costs(&self) -> MutexGuard<'_, Costs> {
        self.costs.lock()
    }

    /// Notes how long it took to fetch an object, from the first call to the answer.
    pub fn saw_fetch(&self, kind: Kind, took: Duration) {
        let mut costs = self.costs();
        let fetches = &mut costs.fetches[kind as usize];
        if fetches.len() == REMEMBERED {
            fetches.pop_front();
        }
        fetches.push_back(took);
    }

    /// Notes what a commit cost. The slowest counts, and is slowly forgotten.
    pub fn saw_commit(&self, took: Duration) {
        let mut costs = self.costs();
        costs.commit = took.max(costs.commit.mul_f64(0.9));
    }

    /// The run must be over by then.
    #[must_use]
    pub const fn end(&self) -> Instant {
        self.end
    }

    /// Set when no run of an invocation with so little time can do anything.
    #[must_use]
    pub const fn too_short(&self) -> Option<TooShort> {
        self.too_short
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
        self.before_end(self.costs().commit)
    }

    /// From then on no fetch of this kind begins: as such fetches go at the moment, it could not end and be stored.
    #[must_use]
    pub fn fetches_end(&self, kind: Kind) -> Instant {
        let costs = self.costs();
        self.before_end(costs.commit + costs.fetch(kind) + MARGIN)
    }

    /// From then on nothing new is leased: it could not be finished, were it of the kind that takes longest.
    #[must_use]
    pub fn leasing_ends(&self) -> Instant {
        let costs = self.costs();
        self.before_end(costs.commit + costs.slowest_fetch() + MARGIN)
    }

    fn before_end(&self, reserve: Duration) -> Instant {
        self.end.checked_sub(reserve).unwrap_or(self.end)
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

    const fn millis(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    fn deadline(time_left: u64, limits: &[Option<Duration>]) -> (Instant, Deadline) {
        let now = Instant::now();
        (now, Deadline::new(now, Some(Duration::from_secs(time_left)), BUFFER, limits))
    }

    /// Between the end and the last moment at which a fetch of this kind begins.
    fn reserve(deadline: &Deadline, kind: Kind) -> Duration {
        deadline.end() - deadline.fetches_end(kind)
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
    fn a_timeout_is_too_short_when_nothing_fits_before_the_buffer() {
        for (seconds, too_short) in [(0, true), (3, true), (5, true), (6, false), (300, false)] {
            let (now, deadline) = deadline(seconds, &[Some(millis(100))]);
            assert_eq!(deadline.too_short().is_some(), too_short, "{seconds} s left");
            assert!(!deadline.may_lease(now), "a limit of its own is no fault of the timeout");
        }
        let without = Deadline::new(Instant::now(), None, BUFFER, &[Some(Duration::ZERO)]);
        assert_eq!(without.too_short(), None);
        let told = deadline(3, &[]).1.too_short().unwrap().to_string();
        for part in ["3.0 s", "DEADLINE_BUFFER_MS=5000", "Raise the timeout of the Lambda function"] {
            assert!(told.contains(part), "{told}");
        }
    }

    #[test]
    fn no_fetch_begins_that_takes_longer_than_is_left() {
        let (_, deadline) = deadline(60, &[]);
        let before = FIRST_COMMIT_GUESS + MARGIN;
        assert_eq!(reserve(&deadline, Kind::Clan), before + FIRST_FETCH_GUESS);
        deadline.saw_fetch(Kind::War, millis(900));
        assert_eq!(reserve(&deadline, Kind::War), before + millis(900));
        assert_eq!(
            reserve(&deadline, Kind::Clan),
            before + millis(900),
            "of a kind without fetches: the slowest there was"
        );
        deadline.saw_fetch(Kind::Clan, millis(40));
        assert_eq!(reserve(&deadline, Kind::Clan), before + millis(40));
        assert_eq!(deadline.end() - deadline.leasing_ends(), before + millis(900), "what is leased may be of any kind");
    }

    #[test]
    fn one_fetch_in_twenty_may_be_slower_and_the_oldest_are_forgotten() {
        let (_, deadline) = deadline(60, &[]);
        let reserve = || reserve(&deadline, Kind::Player).saturating_sub(FIRST_COMMIT_GUESS + MARGIN);
        for _ in 0..57 {
            deadline.saw_fetch(Kind::Player, millis(100));
        }
        for _ in 0..3 {
            deadline.saw_fetch(Kind::Player, LONGEST_CALL);
        }
        assert_eq!(reserve(), millis(100));
        deadline.saw_fetch(Kind::Player, millis(8000));
        assert_eq!(reserve(), millis(8000));
        for _ in 0..REMEMBERED {
            deadline.saw_fetch(Kind::Player, millis(50));
        }
        assert_eq!(reserve(), millis(50));
    }

    #[test]
    fn leasing_never_outlives_calling() {
        for fetch in [1, 150, 2000, 90_000].map(millis) {
            for commit in [1, 300, 4000, 90_000].map(millis) {
                let (_, deadline) = deadline(60, &[]);
                deadline.saw_fetch(Kind::Player, fetch);
                deadline.saw_commit(commit);
                let ends =
                    [deadline.leasing_ends(), deadline.fetches_end(Kind::Player), deadline.calls_end(), deadline.end()];
                assert!(ends.is_sorted(), "{fetch:?}, {commit:?}: {ends:?}");
            }
        }
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
        assert_eq!(deadline.end() - deadline.calls_end(), Duration::from_secs(2));
    }
}
