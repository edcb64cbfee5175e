//! What overlapping runs agree on beside the requests: key slots, learned rates, the calls of a day, maintenance. The port,
//! and the values that cross it; touches nothing.

use std::{future::Future, time::Duration};

use super::{Fingerprint, QueueError};
use crate::{clock::Timestamp, model::LearnedRate};

/// How long a learned rate is kept.
pub const RATE_LIFETIME: Duration = Duration::from_secs(60 * 60);

/// How long a note of upstream maintenance lives when nobody renews it.
pub const PAUSE_LIFETIME: Duration = Duration::from_secs(60 * 60);

/// How long the count of a day's calls is kept: past its end, whatever the clocks say.
pub const CALLS_LIFETIME: Duration = Duration::from_secs(48 * 60 * 60);

/// The answer to asking for a key slot.
#[derive(Clone, Debug, PartialEq)]
pub enum Slot {
    /// Ours. With the rate that earlier runs learned, if they did.
    Taken { learned_rate: Option<LearnedRate> },
    /// Another run uses the key, or only just stopped.
    Held { for_another: Duration },
    /// The key rests.
    Paused { reason: String, for_another: Duration },
}

/// A key slot as somebody sees it who does not want it.
#[derive(Clone, Debug, PartialEq)]
pub struct SlotView {
    pub holder: Holder,
    /// How long this stays so unless somebody does something; zero for a free slot.
    pub for_another: Duration,
    pub learned_rate: Option<LearnedRate>,
}

/// Who has a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
    Nobody,
    /// This run uses the key.
    Run(String),
    /// A run has just left it; nobody may have it for a moment.
    Left,
    /// The key rests.
    Paused(String),
}

/// The answer to asking for calls of a day's limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallsGranted {
    pub granted: u64,
    /// By all runs so far, this grant included.
    pub taken: u64,
}

/// The upstream is in maintenance: one probe at a time, no drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Maintenance {
    pub since: Timestamp,
    pub next_probe: Timestamp,
}

/// What overlapping runs agree on. **Invariant: a key is used by one run at a time.**
pub trait Slots: Send + Sync + 'static {
    /// Takes the key's slot when it is free.
    fn take_key(
        &self,
        key: &Fingerprint,
        run: &str,
        lifetime: Duration,
    ) -> impl Future<Output = Result<Slot, QueueError>> + Send;

    /// Extends the slots that are still ours. Answers in order.
    fn renew_keys(
        &self,
        keys: &[Fingerprint],
        run: &str,
        lifetime: Duration,
    ) -> impl Future<Output = Result<Vec<bool>, QueueError>> + Send;

    /// Lets the key rest. Only its holder may, and a later refusal may only lengthen the rest.
    fn pause_key(
        &self,
        key: &Fingerprint,
        run: &str,
        reason: &str,
        rest: Duration,
    ) -> impl Future<Output = Result<(), QueueError>> + Send;

    /// Gives the slot back after the last call ended: it lives on for `linger`, so that the next holder's fresh limiter
    /// cannot add a burst.
    fn give_back_key(
        &self,
        key: &Fingerprint,
        run: &str,
        linger: Duration,
    ) -> impl Future<Output = Result<(), QueueError>> + Send;

    /// Remembers what was learned about the rate for the next run; kept for one hour.
    fn remember_rate(
        &self,
        key: &Fingerprint,
        learned: LearnedRate,
    ) -> impl Future<Output = Result<(), QueueError>> + Send;

    /// Looks at a slot and changes nothing.
    fn look_at_key(&self, key: &Fingerprint) -> impl Future<Output = Result<SlotView, QueueError>> + Send;

    /// Ends a rest before its time, as an operator may. Answers whether there was one.
    fn end_rest(&self, key: &Fingerprint) -> impl Future<Output = Result<bool, QueueError>> + Send;

    /// Takes at most `wanted` calls of the limit of a day, which is named by its midnight; as many as are left. What was
    /// taken counts, whether or not the call is made.
    fn take_calls(
        &self,
        day: Timestamp,
        wanted: u64,
        per_day: u64,
    ) -> impl Future<Output = Result<CallsGranted, QueueError>> + Send;

    /// Gives calls back that were taken of that day and not made.
    fn give_back_calls(&self, day: Timestamp, calls: u64) -> impl Future<Output = Result<(), QueueError>> + Send;

    /// How many calls of that day were taken.
    fn calls_taken(&self, day: Timestamp) -> impl Future<Output = Result<u64, QueueError>> + Send;

    fn maintenance(&self) -> impl Future<Output = Result<Option<Maintenance>, QueueError>> + Send;

    /// Notes that the API is in maintenance. An earlier note keeps its `since`.
    fn begin_maintenance(&self, maintenance: Maintenance) -> impl Future<Output = Result<(), QueueError>> + Send;

    /// Moves the next probe from `seen` to `next`; true for the one caller that may probe.
    fn claim_probe(&self, seen: Timestamp, next: Timestamp) -> impl Future<Output = Result<bool, QueueError>> + Send;

    fn end_maintenance(&self) -> impl Future<Output = Result<(), QueueError>> + Send;
}
