//! What overlapping runs agree on beside the requests: key slots, learned rates, the calls of a day, open circuits. The port,
//! and the values that cross it; touches nothing.

use std::{fmt, future::Future, time::Duration};

use super::{Fingerprint, QueueError, record::clip};
use crate::{
    clock::Timestamp,
    model::{AimdState, EndpointKind, Kind},
};

/// How long a learned rate is kept.
pub const RATE_LIFETIME: Duration = Duration::from_secs(60 * 60);

/// How long a circuit stays open when nobody opens it anew.
pub const PAUSE_LIFETIME: Duration = Duration::from_secs(60 * 60);

/// How long the count of a day's calls is kept: past its end, whatever the clocks say.
pub const CALLS_LIFETIME: Duration = Duration::from_secs(48 * 60 * 60);

/// The answer to asking for a key slot.
#[derive(Clone, Debug, PartialEq)]
pub enum Slot {
    /// Ours. With the rate that earlier runs learned, if they did.
    Taken { aimd_state: Option<AimdState> },
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
    pub aimd_state: Option<AimdState>,
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

/// What a circuit covers.
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

    /// As written in Redis keys and answers.
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

/// Why a circuit was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CircuitReason {
    pub code: String,
    pub detail: String,
}

impl CircuitReason {
    /// The API says that it is in maintenance.
    pub const MAINTENANCE: &'static str = "maintenance";

    /// No call is answered well.
    pub const UNREACHABLE: &'static str = "api_unreachable";

    #[must_use]
    pub fn new(code: &str, detail: &str) -> Self {
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

    /// What is not called and why, for a sentence.
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

/// What overlapping runs agree on. **Invariant: a key is used by one run at a time.**
pub trait Slots: Send + Sync + 'static {
    /// Takes the key's slot when it is free, or ours already: an answer may be lost on its way.
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
        learned: AimdState,
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

    /// All open circuits, in the order of [`CircuitScope::ALL`]; one round trip.
    fn circuits(&self) -> impl Future<Output = Result<Vec<Circuit>, QueueError>> + Send;

    /// Opens a circuit for [`PAUSE_LIFETIME`] from now. One that is open keeps its `since` and the later probe, and takes
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
