//! What became of a request.

use std::fmt;

/// How a request of this run ended, from the asker's point of view. The labels are part of logs and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    /// New content was stored.
    Stored,
    /// The content was the same; its freshness moved.
    Unchanged,
    /// Fresh enough already: answered without a call.
    Fresh,
    /// The API says there is no such object (404).
    Gone,
    /// The clan keeps its war log private (403 without a message).
    PrivateWarLog,
    /// A failed attempt was counted; the request waits for its next one.
    Delayed,
    /// Given back without counting an attempt: the API, a key, the database or the deadline stood in the way.
    Released,
    /// Set aside with a reason.
    DeadLetter,
    /// The lease had run out: another run has the object now, and our result was stored only if it was the newest.
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

    /// Whether the request is finished and done well.
    #[must_use]
    pub const fn is_processed(self) -> bool {
        matches!(self, Self::Stored | Self::Unchanged | Self::Fresh | Self::Gone | Self::PrivateWarLog)
    }

    /// Whether the attempt failed.
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

/// Why something failed or was set aside: a short stable code for searching, and a sentence for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// Such as `bad_request`, `wrong_tag`, `lapsed`, `not_json`, `impossible_tag`.
    pub code: &'static str,
    /// What happened, bounded in length, without control characters, never with a secret.
    pub detail: String,
}

impl Reason {
    /// The longest detail that is kept, in characters.
    pub const MAX_DETAIL: usize = 300;

    #[must_use]
    pub fn new(code: &'static str, detail: impl Into<String>) -> Self {
        let mut detail = super::text::clean(detail.into());
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
