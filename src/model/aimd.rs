//! The state of a key's rate (AIMD) that runs hand on to one another.

use std::{fmt, num::ParseFloatError, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;

/// The rate of a key, in calls a second, and the memory that goes with it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct AimdState {
    pub rate: f64,
    /// The rate that was too much the last time.
    #[serde(default)]
    pub ceiling: Option<f64>,
    /// The probes of the ceiling that failed.
    #[serde(default)]
    pub failed_probes: u32,
    /// The moment since which the key has been at this rate.
    #[serde(default, rename = "changed_ms")]
    pub changed: Timestamp,
    /// The end of the cooldown after the last refusal.
    #[serde(default, rename = "refused_until_ms")]
    pub refused_until: Timestamp,
}

impl AimdState {
    /// A rate without a memory.
    #[must_use]
    pub const fn plain(rate: f64) -> Self {
        Self { rate, ceiling: None, failed_probes: 0, changed: Timestamp::EPOCH, refused_until: Timestamp::EPOCH }
    }
}

/// Writes a line of JSON, or the rate alone when there is nothing else.
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

    /// Reads the text that `Display` writes: JSON, or a plain rate.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match serde_json::from_str(text) {
            Ok(state) => Ok(state),
            Err(_) => text.parse().map(Self::plain),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_survives_its_text_form() {
        let state = AimdState {
            rate: 17.0,
            ceiling: Some(18.0),
            failed_probes: 2,
            changed: Timestamp::from_millis(1_772_600_767_089),
            refused_until: Timestamp::from_millis(1_772_600_737_089),
        };
        assert_eq!(state.to_string().parse(), Ok(state));
        assert_eq!("14.775".parse(), Ok(AimdState::plain(14.775)));
        assert_eq!(AimdState::plain(14.775).to_string(), "14.775");
        assert!("fast".parse::<AimdState>().is_err());
    }
}
