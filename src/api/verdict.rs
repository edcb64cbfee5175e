//! The outcome of a fetch. Values only.

use std::time::Duration;

use super::judge::Accusation;
use crate::model::{EndpointKind, Fetched, Fingerprint, Reason};

/// The outcome of a fetch, all quick tries included.
#[derive(Clone, Debug)]
pub enum Verdict {
    /// The API's response is final for now: store it.
    Answered(Box<Fetched>),
    /// The API itself says that the request is wrong, and would say so again: make it a dead letter, with the first 500
    /// bytes of the response.
    DeadLetter { reason: Reason, body: Option<String> },
    /// A call that was needed had a bad response. The judge finds out whose fault that is. `ending` applies when it is the
    /// object's own.
    Bad { accusation: Accusation, ending: Ending },
    /// 429: the key is over its rate and cools down. The keys of this run know it already.
    Throttled { key: Fingerprint, cooldown: Duration },
    /// No call could begin, or end in time: release the request.
    Prevented(Obstacle),
}

/// The end of an object that is at fault itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// A failed attempt: the next one may go better.
    Attempt,
    /// A dead letter, with the first 500 bytes of the response: the next attempt would end the same.
    DeadLetter { body: Option<String> },
}

/// The obstacle that kept a call from being made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// All keys are cooling down, or their slots are not certainly ours.
    NoUsableKey,
    /// The calls of this day are used up.
    DailyQuotaExhausted,
    /// No time is left for a call.
    Deadline,
    /// The circuit of this endpoint is open.
    CircuitOpen(EndpointKind),
}
