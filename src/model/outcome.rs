//! Outcomes of requests, and reasons of failures.

use std::fmt;

/// The outcome of a request in a run. The names are part of logs, reports and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    /// New content was stored.
    Stored,
    /// The content was the same; only its time was updated.
    Unchanged,
    /// The stored copy was fresh enough, so no call was made.
    Fresh,
    /// The API says there is no such object (404).
    Gone,
    /// The clan keeps its war log private (403 without a message).
    PrivateWarLog,
    /// A failed attempt was counted; the request waits for its next one.
    Delayed,
    /// Returned to the queue without counting an attempt, because the API, a key, the database or the deadline prevented it.
    Released,
    /// Moved to the dead letters, with a reason.
    DeadLetter,
    /// The lease had run out and another run has the request. Our result was stored only if it was the newest.
    LeaseLost,
}

impl Outcome {
    pub const ALL: [Self; 9] = [
        Self::Stored,
        Self::Unchanged,
        Self::Fresh,
        Self::Gone,
        Self::PrivateWarLog,
        Self::Delayed,
        Self::Released,
        Self::DeadLetter,
        Self::LeaseLost,
    ];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stored => "stored",
            Self::Unchanged => "unchanged",
            Self::Fresh => "fresh",
            Self::Gone => "gone",
            Self::PrivateWarLog => "private_war_log",
            Self::Delayed => "delayed",
            Self::Released => "released",
            Self::DeadLetter => "dead_letter",
            Self::LeaseLost => "lease_lost",
        }
    }

    /// True when the request is finished successfully.
    #[must_use]
    pub const fn is_processed(self) -> bool {
        matches!(self, Self::Stored | Self::Unchanged | Self::Fresh | Self::Gone | Self::PrivateWarLog)
    }

    /// True when the attempt failed.
    #[must_use]
    pub const fn is_failure(self) -> bool {
        matches!(self, Self::Delayed | Self::DeadLetter)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The reason of a failure: a short stable code for searching, and a sentence for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// Such as `bad_request`, `wrong_tag`, `lapsed`, `not_json`, `impossible_tag`.
    pub code: &'static str,
    /// The sentence, at most [`Self::MAX_DETAIL`] characters, without control characters or secrets.
    pub detail: String,
}

impl Reason {
    /// Enough for the message of a server.
    pub const MAX_DETAIL: usize = 300;

    #[must_use]
    pub fn new(code: &'static str, detail: impl Into<String>) -> Self {
        let mut detail = super::text::clean(detail.into());
        // At a character boundary: a message may be in any language.
        if let Some((end, _)) = detail.char_indices().nth(Self::MAX_DETAIL) {
            detail.truncate(end);
        }
        Self { code, detail }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.detail)
    }
}
