//! The reason for which a key cools down, as it is kept beside the key's slot.

use std::fmt;

// Redis keeps a reason as text. This prefix tells other runs that the key was rejected.
const REJECTED: &str = "rejected: ";

/// The reason of a cooldown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CooldownReason {
    /// The API rejects the key: it recovers only when it is replaced, or when the API was wrong.
    Rejected(String),
    /// The key met its rate limit, or whatever else passes.
    Other(String),
}

impl CooldownReason {
    /// Reads a reason as [`fmt::Display`] wrote it.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        match text.strip_prefix(REJECTED) {
            Some(detail) => Self::Rejected(detail.to_owned()),
            None => Self::Other(text.to_owned()),
        }
    }
}

impl fmt::Display for CooldownReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rejected(detail) => write!(f, "{REJECTED}{detail}"),
            Self::Other(text) => f.write_str(text),
        }
    }
}
