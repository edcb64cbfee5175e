//! The deadline of a run, and what still fits before it. Looks at the runtime's clock only.

use std::{collections::VecDeque, fmt, time::Duration};

use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;

use crate::model::Kind;

/// The limit of a single call.
pub const MAX_CALL_DURATION: Duration = Duration::from_secs(10);

// Kept free between the expected end of the last fetch and its commit: a machine that is busy for a moment must not cost a call.
const COMMIT_MARGIN: Duration = Duration::from_millis(150);

// Assumed until a fetch and a commit were measured. If too long, a short run would begin nothing.
const FIRST_FETCH_GUESS: Duration = Duration::from_millis(300);
const FIRST_COMMIT_GUESS: Duration = Duration::from_millis(300);

/// With less time than this a run begins nothing.
pub const MIN_RUN_TIME: Duration = FIRST_FETCH_GUESS.saturating_add(COMMIT_MARGIN).saturating_add(FIRST_COMMIT_GUESS);

// Enough to tell a slow API from a single slow response, and few enough that the estimate follows an API that recovers.
const MAX_REMEMBERED_FETCHES: usize = 60;

// One fetch of this many is ignored as an exception. Else a single response that hung for ten seconds would end the run ten
// seconds early.
const SLOW_SHARE: usize = 20;

// Stands for "no limit". An `Instant` cannot hold an arbitrarily late time, so it is not `Duration::MAX`.
const NO_LIMIT: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// The end of a run, and the recent durations that decide what may still begin before it.
#[derive(Debug)]
pub struct Deadline {
    end: Instant,
    commits_end: Instant,
    too_short: Option<TooShort>,
    durations: Mutex<Durations>,
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
            "this invocation began with {:.1} s left, and DEADLINE_BUFFER_MS={} keeps {:.1} s of them free: with \
             this timeout no run can ever do anything. Raise the timeout of the Lambda function (its preset is 3 s; 300 s is \
             usual), or lower DEADLINE_BUFFER_MS",
            time_left.as_secs_f64(),
            buffer.as_millis(),
            buffer.as_secs_f64()
        )
    }
}

#[derive(Debug)]
struct Durations {
    commit: Duration,
    /// The last fetches, in the order of [`Kind::ALL`]. A war may take several calls.
    fetches: [VecDeque<Duration>; Kind::ALL.len()],
}

impl Durations {
    /// The recent slow fetch of a kind; without any, that of the slowest kind there was, and before the first a guess.
    fn fetch(&self, kind: Kind) -> Duration {
        slow(&self.fetches[kind as usize]).unwrap_or_else(|| self.slowest_fetch())
    }

    fn slowest_fetch(&self) -> Duration {
        self.fetches.iter().filter_map(slow).max().unwrap_or(FIRST_FETCH_GUESS)
    }
}

/// The duration that all but one fetch in [`SLOW_SHARE`] kept to.
fn slow(took: &VecDeque<Duration>) -> Option<Duration> {
    let mut sorted: Vec<Duration> = took.iter().copied().collect();
    sorted.sort_unstable();
    sorted.iter().rev().nth(sorted.len() / SLOW_SHARE).copied()
}

impl Deadline {
    /// `time_left` is the invocation's, with the buffer; `limits` are budgets of their own
    /// (`MAX_RUNTIME_SECONDS`, the event's `max_runtime`).
    #[must_use]
    pub fn new(now: Instant, time_left: Option<Duration>, buffer: Duration, limits: &[Option<Duration>]) -> Self {
        let invocation = time_left.map_or(NO_LIMIT, |left| left.saturating_sub(buffer));
        let budget = limits.iter().flatten().copied().fold(invocation, Duration::min);
        let durations = Durations { commit: FIRST_COMMIT_GUESS, fetches: Default::default() };
        let end = now + budget.min(NO_LIMIT);
        let too_short =
            time_left.filter(|_| invocation <= MIN_RUN_TIME).map(|time_left| TooShort { time_left, buffer });
        Self { end, commits_end: end + buffer / 3, too_short, durations: Mutex::new(durations) }
    }

    fn durations(&self) -> MutexGuard<'_, Durations> {
        self.durations.lock()
    }

    /// Records the duration of a fetch, from the first call to the last response.
    pub fn saw_fetch(&self, kind: Kind, took: Duration) {
        let mut durations = self.durations();
        let fetches = &mut durations.fetches[kind as usize];
        if fetches.len() == MAX_REMEMBERED_FETCHES {
            fetches.pop_front();
        }
        fetches.push_back(took);
    }

    /// Records the duration of a commit. The slowest counts, and is slowly forgotten.
    pub fn saw_commit(&self, took: Duration) {
        let mut durations = self.durations();
        durations.commit = took.max(durations.commit.mul_f64(0.9));
    }

    /// The end of the run.
    #[must_use]
    pub const fn end(&self) -> Instant {
        self.end
    }

    /// Set when no run of an invocation with so little time can do anything.
    #[must_use]
    pub const fn too_short(&self) -> Option<TooShort> {
        self.too_short
    }

    /// The time that a statement may still take. A third of the buffer is spent on what is fetched already; in the rest of it
    /// everything is released and the response is sent.
    #[must_use]
    pub fn left_for_the_database(&self, now: Instant) -> Duration {
        self.commits_end.saturating_duration_since(now)
    }

    /// The end of all calls, so that their responses can be committed.
    #[must_use]
    pub fn calls_end(&self) -> Instant {
        self.before_end(self.durations().commit)
    }

    /// The last moment at which a fetch of this kind begins: a later one, if slow, could not end and be stored.
    #[must_use]
    pub fn fetches_end(&self, kind: Kind) -> Instant {
        let durations = self.durations();
        self.before_end(durations.commit + durations.fetch(kind) + COMMIT_MARGIN)
    }

    /// The last moment at which anything is leased: a later lease, of the slowest kind, could not be finished.
    #[must_use]
    pub fn leasing_ends(&self) -> Instant {
        let durations = self.durations();
        self.before_end(durations.commit + durations.slowest_fetch() + COMMIT_MARGIN)
    }

    fn before_end(&self, reserve: Duration) -> Instant {
        self.end.checked_sub(reserve).unwrap_or(self.end)
    }

    /// True when something that is leased now can still be finished.
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
    fn budget_is_the_least_limit() {
        let (now, plain) = deadline(300, &[None]);
        assert_eq!(plain.end(), now + Duration::from_secs(295));
        let (now, limited) = deadline(300, &[Some(Duration::from_secs(230)), Some(Duration::from_secs(25))]);
        assert_eq!(limited.end(), now + Duration::from_secs(25));
    }

    #[test]
    fn nothing_is_leased_within_the_buffer() {
        for seconds in [0, 1, 5] {
            let (now, deadline) = deadline(seconds, &[]);
            assert!(!deadline.may_lease(now), "{seconds} s left");
        }
        let (now, deadline) = deadline(6, &[]);
        assert!(deadline.may_lease(now));
    }

    #[test]
    fn timeout_is_too_short_without_time_before_buffer() {
        for (seconds, too_short) in [(0, true), (3, true), (5, true), (6, false), (300, false)] {
            let (now, deadline) = deadline(seconds, &[Some(millis(100))]);
            assert_eq!(deadline.too_short().is_some(), too_short, "{seconds} s left");
            assert!(!deadline.may_lease(now), "a limit of its own is no fault of the timeout");
        }
        let without = Deadline::new(Instant::now(), None, BUFFER, &[Some(Duration::ZERO)]);
        assert_eq!(without.too_short(), None);
        let text = deadline(3, &[]).1.too_short().unwrap().to_string();
        for part in ["3.0 s", "DEADLINE_BUFFER_MS=5000", "Raise the timeout of the Lambda function"] {
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn fetch_begins_only_with_time_for_its_kind() {
        let (_, deadline) = deadline(60, &[]);
        let before = FIRST_COMMIT_GUESS + COMMIT_MARGIN;
        assert_eq!(reserve(&deadline, Kind::Clan), before + FIRST_FETCH_GUESS);
        deadline.saw_fetch(Kind::War, millis(900));
        assert_eq!(reserve(&deadline, Kind::War), before + millis(900));
        assert_eq!(
            reserve(&deadline, Kind::Clan),
            before + millis(900),
            "a kind without fetches is taken to be as slow as the slowest"
        );
        deadline.saw_fetch(Kind::Clan, millis(40));
        assert_eq!(reserve(&deadline, Kind::Clan), before + millis(40));
        assert_eq!(deadline.end() - deadline.leasing_ends(), before + millis(900), "what is leased may be of any kind");
    }

    #[test]
    fn one_slow_fetch_in_twenty_is_ignored() {
        let (_, deadline) = deadline(60, &[]);
        let reserve = || reserve(&deadline, Kind::Player).saturating_sub(FIRST_COMMIT_GUESS + COMMIT_MARGIN);
        for _ in 0..57 {
            deadline.saw_fetch(Kind::Player, millis(100));
        }
        for _ in 0..3 {
            deadline.saw_fetch(Kind::Player, MAX_CALL_DURATION);
        }
        assert_eq!(reserve(), millis(100));
        deadline.saw_fetch(Kind::Player, millis(8000));
        assert_eq!(reserve(), millis(8000));
        for _ in 0..MAX_REMEMBERED_FETCHES {
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
    fn database_gets_a_third_of_the_buffer() {
        let (now, deadline) = deadline(20, &[]);
        assert_eq!(deadline.left_for_the_database(now), Duration::from_secs(15) + BUFFER / 3);
        assert_eq!(deadline.left_for_the_database(now + Duration::from_secs(19)), Duration::ZERO);
    }

    #[test]
    fn calls_end_a_commit_before_the_run() {
        let (_, deadline) = deadline(60, &[]);
        deadline.saw_commit(Duration::from_secs(2));
        assert_eq!(deadline.end() - deadline.calls_end(), Duration::from_secs(2));
    }
}
