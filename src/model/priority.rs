//! The priorities of requests.

use std::{fmt, str::FromStr, time::Duration};

/// The four priorities, most urgent first. The number is the score in the mailbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    Critical,
    High,
    Medium,
    Low,
}

impl Priority {
    pub const ALL: [Self; 4] = [Self::Critical, Self::High, Self::Medium, Self::Low];

    /// The score in `refresh_queue`, and the number in our own keys.
    #[must_use]
    pub const fn as_number(self) -> u8 {
        self as u8
    }

    /// The priority nearest to a number. Producers should write only 0 to 3.
    #[must_use]
    pub const fn nearest(number: i64) -> Self {
        match number {
            // A wrong score must not lose the request.
            i64::MIN..=0 => Self::Critical,
            1 => Self::High,
            2 => Self::Medium,
            _ => Self::Low,
        }
    }

    /// The age at which data is outdated for this priority.
    #[must_use]
    pub const fn staleness(self) -> Duration {
        Duration::from_secs(match self {
            // The ages that producers and reports rely on.
            Self::Critical => 5 * 60,
            Self::High => 30 * 60,
            Self::Medium => 2 * 60 * 60,
            Self::Low => 8 * 60 * 60,
        })
    }

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Critical => "critical",
            Self::High => "high",
            Self::Medium => "medium",
            Self::Low => "low",
        }
    }
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A word or number that is not a priority.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("priority `{0}` is unknown: expected critical, high, medium or low (or 0 to 3)")]
pub struct UnknownPriority(String);

impl FromStr for Priority {
    type Err = UnknownPriority;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wanted = text.trim().to_ascii_lowercase();
        Self::ALL
            .into_iter()
            .find(|priority| priority.as_str() == wanted || priority.as_number().to_string() == wanted)
            .ok_or_else(|| UnknownPriority(text.chars().take(40).collect()))
    }
}
