//! The book of calls: the time, token and status of each. Touches nothing but memory and the boot clock.
//!
//! A call counts from the moment at which it reached this machine. That may be earlier than the last call in the book. The
//! busiest sliding second of each token is exact all the same.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    time::Duration,
};

use parking_lot::{Mutex, MutexGuard};
use serde::Serialize;

use crate::{
    clock::{Clock, SystemClock},
    signal::Signal,
};

/// The most calls in memory. A simulator that runs for days forgets the oldest, never the totals.
const MAX_CALLS: usize = 1_000_000;

/// The window of a rate limit: `[t, t + 1 s)`.
const WINDOW: Duration = Duration::from_secs(1);

/// The longest time between the arrival of a call and its entry in the book.
const LATEST: Duration = Duration::from_secs(5);

/// A call as it arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// Real time since the simulator started. It never goes back, whatever the simulator's own clock shows.
    pub at: Duration,
    /// The bearer token; empty when there was none.
    pub token: String,
    /// Path and query as sent, `%23` included.
    pub path: String,
    /// `None` before the response begins, and for ever when the connection was cut instead.
    pub status: Option<u16>,
}

/// The number of a call in the book, for adding its status later.
#[derive(Clone, Copy, Debug)]
pub(super) struct CallNumber(u64);

/// The response to `GET /_sim/calls`.
#[derive(Clone, Debug, Serialize)]
pub struct CallSummary {
    pub total: u64,
    pub by_token: BTreeMap<String, TokenSummary>,
    /// By HTTP status; `none` counts calls without a response.
    pub by_status: BTreeMap<String, u64>,
}

#[derive(Clone, Debug, Default, Serialize)]
pub struct TokenSummary {
    pub total: u64,
    pub most_in_any_second: usize,
}

#[derive(Debug)]
pub(super) struct CallBook {
    started: Duration,
    pages: Mutex<Pages>,
    count: Signal<u64>,
}

#[derive(Debug, Default)]
struct Pages {
    calls: VecDeque<Call>,
    forgotten: u64,
    tokens: HashMap<String, TokenPage>,
}

#[derive(Debug, Default)]
struct TokenPage {
    total: u64,
    /// The last arrivals, in order.
    recent: VecDeque<Duration>,
    most: usize,
}

impl TokenPage {
    /// Returns the number of calls in the second up to this one, this one included.
    fn arrive(&mut self, at: Duration) -> usize {
        // Calls that may still share a second with a late entry are kept.
        while self.recent.front().is_some_and(|first| at.saturating_sub(*first) >= WINDOW + LATEST) {
            self.recent.pop_front();
        }
        // Entries may come late, so the list is kept in the order of arrival.
        let place = self.recent.partition_point(|other| *other <= at);
        self.recent.insert(place, at);
        self.total += 1;
        // Checks every second that contains this call and begins with a call.
        let first = self.recent.partition_point(|other| *other + WINDOW <= at);
        let busiest = (first..=place).map(|start| self.in_second_from(start)).max().unwrap_or_default();
        self.most = self.most.max(busiest);
        place - first + 1
    }

    fn in_second_from(&self, start: usize) -> usize {
        let end = self.recent[start] + WINDOW;
        self.recent.partition_point(|other| *other < end) - start
    }
}

impl CallBook {
    pub(super) fn open() -> Self {
        Self { started: SystemClock.boot(), pages: Mutex::default(), count: Signal::default() }
    }

    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock()
    }

    /// Records a call that came at `boot` time. Returns the number of calls of this token in the second up to it, too, this one
    /// included.
    pub(super) fn arrive(&self, boot: Duration, token: &str, path: &str) -> (CallNumber, usize) {
        let mut pages = self.pages();
        let at = boot.saturating_sub(self.started);
        let in_last_second = match pages.tokens.get_mut(token) {
            Some(page) => page.arrive(at),
            None => pages.tokens.entry(token.to_owned()).or_default().arrive(at),
        };
        // Numbers go on counting, so an old entry is still found by its number.
        if pages.calls.len() == MAX_CALLS {
            pages.calls.pop_front();
            pages.forgotten += 1;
        }
        let number = pages.forgotten + pages.calls.len() as u64;
        pages.calls.push_back(Call { at, token: token.to_owned(), path: path.to_owned(), status: None });
        // Waiters look into the book, so its lock is free before they wake.
        drop(pages);
        self.count.update(|count| *count = number + 1);
        (CallNumber(number), in_last_second)
    }

    pub(super) fn answer(&self, number: CallNumber, status: u16) {
        let mut pages = self.pages();
        let place = number.0.checked_sub(pages.forgotten).and_then(|place| usize::try_from(place).ok());
        if let Some(call) = place.and_then(|place| pages.calls.get_mut(place)) {
            call.status = Some(status);
        }
    }

    pub(super) fn all(&self) -> Vec<Call> {
        self.pages().calls.iter().cloned().collect()
    }

    pub(super) fn to(&self, path_part: &str) -> Vec<Call> {
        self.pages().calls.iter().filter(|call| call.path.contains(path_part)).cloned().collect()
    }

    pub(super) fn total(&self) -> u64 {
        self.count.get()
    }

    pub(super) fn most_in_any_second(&self, token: &str) -> usize {
        self.pages().tokens.get(token).map_or(0, |page| page.most)
    }

    /// Waits until `count` calls have arrived since the start.
    pub(super) async fn wait_for(&self, count: u64) {
        self.count.wait_for(|seen| *seen >= count).await;
    }

    pub(super) fn summary(&self) -> CallSummary {
        let pages = self.pages();
        let mut by_status = BTreeMap::<String, u64>::new();
        for call in &pages.calls {
            *by_status.entry(call.status.map_or("none".to_owned(), |status| status.to_string())).or_default() += 1;
        }
        let by_token = pages.tokens.iter();
        let by_token = by_token
            .map(|(token, page)| (token.clone(), TokenSummary { total: page.total, most_in_any_second: page.most }))
            .collect();
        CallSummary { total: pages.forgotten + pages.calls.len() as u64, by_token, by_status }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at_millis(page: &mut TokenPage, millis: &[u64]) -> Vec<usize> {
        millis.iter().map(|at| page.arrive(Duration::from_millis(*at))).collect()
    }

    #[test]
    fn sliding_second_is_half_open() {
        let mut page = TokenPage::default();
        assert_eq!(at_millis(&mut page, &[0, 500, 999, 1000, 1499, 1500]), [1, 2, 3, 3, 4, 4]);
        assert_eq!(page.most, 4);
    }

    #[test]
    fn late_entry_counts_in_its_own_second() {
        let mut page = TokenPage::default();
        assert_eq!(at_millis(&mut page, &[0, 900, 1700, 400, 1100, 950]), [1, 2, 2, 2, 3, 4]);
        assert_eq!(page.most, 4, "from 400, 900, or 0: 0, 400, 900, 950");
        at_millis(&mut page, &[1000]);
        assert_eq!(page.most, 5, "900, 950, 1000, 1100, 1700");
    }

    #[test]
    fn busiest_second_is_remembered() {
        let mut page = TokenPage::default();
        at_millis(&mut page, &[0, 900, 1100, 1200, 1300, 9000]);
        assert_eq!(page.most, 4, "900 to 1300 lie within one second that no whole second contains");
    }

    #[test]
    fn tokens_are_counted_separately() {
        let book = CallBook::open();
        book.arrive(SystemClock.boot(), "one", "/v1/players/%232PP");
        let (number, in_last_second) = book.arrive(SystemClock.boot(), "two", "/v1/clans/%232PP");
        assert_eq!(in_last_second, 1);
        book.answer(number, 200);
        assert_eq!(book.to("clans").iter().map(|call| call.status).collect::<Vec<_>>(), [Some(200)]);
        assert_eq!((book.total(), book.most_in_any_second("one"), book.most_in_any_second("nobody")), (2, 1, 0));
        assert_eq!(book.summary().by_status.get("none"), Some(&1));
    }
}
