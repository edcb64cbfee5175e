//! The state that overlapping runs share beside the requests: key slots, learned rates, the calls of a day, open circuits.
//!
//! The port, and the values that cross it; no I/O.

use std::{fmt, future::Future, time::Duration};

use super::{Fingerprint, QueueError, record::clip};
use crate::{
    clock::Timestamp,
    model::{AimdState, EndpointKind, Kind},
};

/// A learned rate is kept for an hour.
pub const RATE_LIFETIME: Duration = Duration::from_secs(60 * 60);

/// A circuit stays open for an hour when nobody opens it anew.
pub const CIRCUIT_LIFETIME: Duration = Duration::from_secs(60 * 60);

/// The count of a day's calls is kept past the day's end, whatever the clocks say.
pub const CALLS_LIFETIME: Duration = Duration::from_secs(48 * 60 * 60);

/// The result of taking a key slot.
#[derive(Clone, Debug, PartialEq)]
pub enum Slot {
    /// The slot is ours. With the rate that earlier runs learned, if they did.
    Taken { aimd_state: Option<AimdState> },
    /// Another run uses the key, or only just stopped.
    Held { for_another: Duration },
    /// The key cools down.
    CoolingDown { reason: String, for_another: Duration },
}

/// A key slot, read without taking it.
#[derive(Clone, Debug, PartialEq)]
pub struct SlotView {
    pub holder: Holder,
    /// The time until this ends by itself; zero for a free slot.
    pub for_another: Duration,
    pub aimd_state: Option<AimdState>,
}

/// The holder of a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
    Nobody,
    /// This run uses the key.
    Run(String),
    /// A run has just released it; nobody may take it for a moment.
    Released,
    /// The key cools down, for this reason.
    CoolingDown(String),
}

/// The result of taking calls of a day's quota.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallsGranted {
    pub granted: u64,
    /// Calls taken by all runs so far, this grant included.
    pub taken: u64,
}

/// The scope of a circuit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CircuitScope {
    Api,
    Endpoint(EndpointKind),
}

impl CircuitScope {
    pub const ALL: [Self; 6] = [
        Self::Api,
        Self::Endpoint(EndpointKind::Clan),
        Self::Endpoint(EndpointKind::Player),
        Self::Endpoint(EndpointKind::CurrentWar),
        Self::Endpoint(EndpointKind::LeagueGroup),
        Self::Endpoint(EndpointKind::LeagueWar),
    ];

    /// Its name in Redis keys and reports.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Api => "api",
            Self::Endpoint(kind) => kind.as_str(),
        }
    }

    /// True when calls for an object of that kind fall under it.
    #[must_use]
    pub const fn covers(self, kind: Kind) -> bool {
        match self {
            Self::Api => true,
            Self::Endpoint(EndpointKind::Clan) => matches!(kind, Kind::Clan),
            Self::Endpoint(EndpointKind::Player) => matches!(kind, Kind::Player),
            Self::Endpoint(EndpointKind::CurrentWar | EndpointKind::LeagueGroup | EndpointKind::LeagueWar) => {
                // Three endpoints serve a war; each may fail alone.
                matches!(kind, Kind::War)
            }
        }
    }

    /// The scope of that name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scope| scope.as_str() == name)
    }
}

impl fmt::Display for CircuitScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The reason why a circuit was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CircuitReason {
    pub code: String,
    pub detail: String,
}

impl CircuitReason {
    /// The API reports maintenance.
    pub const MAINTENANCE: &'static str = "maintenance";

    /// No call gets a good response.
    pub const UNREACHABLE: &'static str = "api_unreachable";

    #[must_use]
    pub fn new(code: &str, detail: &str) -> Self {
        // Clipped, because Redis keeps the detail and every run reads it.
        Self { code: code.to_owned(), detail: clip(detail).to_owned() }
    }
}

/// A circuit that is open: nothing of its scope is called but one probe at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Circuit {
    pub scope: CircuitScope,
    pub since: Timestamp,
    pub next_probe: Timestamp,
    pub reason: CircuitReason,
}

impl Circuit {
    /// The circuit of the whole API, when it is among these.
    #[must_use]
    pub fn of_api(circuits: &[Self]) -> Option<&Self> {
        circuits.iter().find(|circuit| circuit.scope == CircuitScope::Api)
    }

    /// A clause that says what is not called, and why.
    #[must_use]
    pub fn what_is_wrong(&self) -> String {
        let CircuitReason { code, detail } = &self.reason;
        match self.scope {
            CircuitScope::Api if code == CircuitReason::MAINTENANCE => "the API is in maintenance".to_owned(),
            CircuitScope::Api => format!("no calls are made to the API ({code}: {detail})"),
            CircuitScope::Endpoint(kind) => format!("no {kind} calls are made ({code}: {detail})"),
        }
    }
}

/// The state that overlapping runs share. **Invariant: a key is used by one run at a time.**
pub trait SharedState: Send + Sync + 'static {
    /// Takes the key's slot when it is free, or already ours: the reply to an earlier try may have been lost.
    fn take_key(
        &self,
        key: &Fingerprint,
        run: &str,
        lifetime: Duration,
    ) -> impl Future<Output = Result<Slot, QueueError>> + Send;

    /// Extends the slots that are still ours. Returns, in order, which ones were.
    fn renew_keys(
        &self,
        keys: &[Fingerprint],
        run: &str,
        lifetime: Duration,
    ) -> impl Future<Output = Result<Vec<bool>, QueueError>> + Send;

    /// Starts the cooldown of a key. Only its holder may, and a later refusal may only lengthen the cooldown.
    fn cool_down_key(
        &self,
        key: &Fingerprint,
        run: &str,
        reason: &str,
        cooldown: Duration,
    ) -> impl Future<Output = Result<(), QueueError>> + Send;

    /// Releases the slot after the last call ended. Nobody can take it for `after_use`, so that the next holder's fresh limiter
    /// cannot add a burst.
    fn release_key(
        &self,
        key: &Fingerprint,
        run: &str,
        after_use: Duration,
    ) -> impl Future<Output = Result<(), QueueError>> + Send;

    /// Keeps a learned rate for the next run, for [`RATE_LIFETIME`].
    fn remember_rate(
        &self,
        key: &Fingerprint,
        learned: AimdState,
    ) -> impl Future<Output = Result<(), QueueError>> + Send;

    /// Reads a slot without taking it.
    fn look_at_key(&self, key: &Fingerprint) -> impl Future<Output = Result<SlotView, QueueError>> + Send;

    /// Ends a cooldown before its time, for an operator. Returns whether there was one.
    fn end_cooldown(&self, key: &Fingerprint) -> impl Future<Output = Result<bool, QueueError>> + Send;

    /// Takes up to `wanted` calls of the quota of a day, which is named by its midnight. Taken calls count, whether or not they
    /// are made.
    fn take_calls(
        &self,
        day: Timestamp,
        wanted: u64,
        per_day: u64,
    ) -> impl Future<Output = Result<CallsGranted, QueueError>> + Send;

    /// Returns calls of that day that were taken and not made.
    fn return_calls(&self, day: Timestamp, calls: u64) -> impl Future<Output = Result<(), QueueError>> + Send;

    /// Returns the number of calls that were taken of that day.
    fn calls_taken(&self, day: Timestamp) -> impl Future<Output = Result<u64, QueueError>> + Send;

    /// Returns all open circuits, in the order of [`CircuitScope::ALL`], in one round trip.
    fn circuits(&self) -> impl Future<Output = Result<Vec<Circuit>, QueueError>> + Send;

    /// Opens a circuit for [`CIRCUIT_LIFETIME`] from now. One that is open keeps its `since` and the later probe, and takes
    /// the new reason.
    fn open_circuit(&self, circuit: &Circuit) -> impl Future<Output = Result<(), QueueError>> + Send;

    /// Moves the next probe of a circuit from `seen` to `next`; true for the one caller that may probe.
    fn claim_probe(
        &self,
        scope: CircuitScope,
        seen: Timestamp,
        next: Timestamp,
    ) -> impl Future<Output = Result<bool, QueueError>> + Send;

    fn close_circuit(&self, scope: CircuitScope) -> impl Future<Output = Result<(), QueueError>> + Send;
}
