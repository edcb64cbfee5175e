//! The reason for which a key, or the right to log in, is cooling down.

use std::fmt;

/// Marks the reason of a rejected key in the queue.
const REJECTED: &str = "rejected: ";

/// The reason of a cooldown, as runs hand it on to one another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CooldownReason {
    /// The API refuses the key: waiting does not help. With the API's words.
    Rejected(String),
    /// Anything that passes by itself, such as throttling or a failed login, in words.
    Temporary(String),
}

impl CooldownReason {
    /// The reason in words, without a mark.
    #[must_use]
    pub fn text(&self) -> &str {
        match self {
            Self::Rejected(text) | Self::Temporary(text) => text,
        }
    }
}

/// The form in which the queue keeps it.
impl fmt::Display for CooldownReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rejected(text) => write!(f, "{REJECTED}{text}"),
            Self::Temporary(text) => f.write_str(text),
        }
    }
}

/// Reads the form that [`Display`](fmt::Display) writes.
impl From<&str> for CooldownReason {
    fn from(text: &str) -> Self {
        match text.strip_prefix(REJECTED) {
            Some(text) => Self::Rejected(text.to_owned()),
            None => Self::Temporary(text.to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reason_survives_its_text_form() {
        for reason in
            [CooldownReason::Rejected("status 403".to_owned()), CooldownReason::Temporary("throttled".to_owned())]
        {
            assert_eq!(CooldownReason::from(reason.to_string().as_str()), reason);
        }
    }
}
