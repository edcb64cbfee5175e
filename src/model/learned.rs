//! What runs pass on to one another about the rate of a key.

use std::{fmt, num::ParseFloatError, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;

/// The rate that a key has come down to, in calls a second, and how it came to it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct AimdState {
    pub rate: f64,
    /// The rate that was too much the last time.
    #[serde(default)]
    pub ceiling: Option<f64>,
    /// How often the ceiling was tried again in vain.
    #[serde(default)]
    pub failed_probes: u32,
    /// Since when it has been at this rate.
    #[serde(default, rename = "changed_ms")]
    pub changed: Timestamp,
    /// When the rest after the last refusal was over.
    #[serde(default, rename = "refused_until_ms")]
    pub refused_until: Timestamp,
}

impl AimdState {
    /// A rate and nothing else.
    #[must_use]
    pub const fn plain(rate: f64) -> Self {
        Self { rate, ceiling: None, failed_probes: 0, changed: Timestamp::EPOCH, refused_until: Timestamp::EPOCH }
    }
}

/// One line of JSON, or the rate alone when there is nothing else to tell.
impl fmt::Display for AimdState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::plain(self.rate) {
            return write!(f, "{}", self.rate);
        }
        // Numbers only: it always becomes JSON.
        f.write_str(&serde_json::to_string(self).unwrap_or_default())
    }
}

impl FromStr for AimdState {
    type Err = ParseFloatError;

    /// What `Display` writes; a plain number is how earlier versions wrote a rate.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match serde_json::from_str(text) {
            Ok(learned) => Ok(learned),
            Err(_) => text.parse().map(Self::plain),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again_and_so_is_what_earlier_versions_wrote() {
        let learned = AimdState {
            rate: 17.0,
            ceiling: Some(18.0),
            failed_probes: 2,
            changed: Timestamp::from_millis(1_772_600_767_089),
            refused_until: Timestamp::from_millis(1_772_600_737_089),
        };
        assert_eq!(learned.to_string().parse(), Ok(learned));
        assert_eq!("14.775".parse(), Ok(AimdState::plain(14.775)));
        assert_eq!(AimdState::plain(14.775).to_string(), "14.775");
        assert!("fast".parse::<AimdState>().is_err());
    }
}
