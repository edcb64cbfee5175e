//! The table from an answer to what to do about it.

use std::time::Duration;

use crate::model::{Fetched, Fingerprint, Reason};

/// What a fetch came to, all quick tries included.
#[derive(Clone, Debug)]
pub enum Verdict {
    /// The API's word is final for now: store it.
    Answered(Fetched),
    /// It would be the same again: set the request aside, with the first 500 bytes of what came.
    DeadLetter { reason: Reason, body: Option<String> },
    /// It may go better later: a failed attempt.
    Transient { reason: Reason },
    /// Something other than the object stood in the way: give it back, nothing counted.
    GivenBack(Obstacle),
}

/// What stood in the way. The keys of this run know already; their slots do not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// 429: the key is over its rate.
    Throttled { key: Fingerprint, rest: Duration },
    /// 503: every call would meet it.
    Maintenance { detail: String },
    /// The token is unknown, revoked, or bound to another address.
    KeyRejected { key: Fingerprint, detail: String },
    /// Any other 403: our address is banned, or something between us and the API refuses.
    KeyForbidden { key: Fingerprint, detail: String },
    /// All keys rest, or their slots are not certainly ours.
    NoUsableKey,
    /// No time is left for a call.
    Deadline,
}
