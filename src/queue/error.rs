//! The errors of the queue's server.

/// The first word of a refusal by a server that starts, fails over, is busy or moves a slot: each passes by itself.
const TRANSIENT_CODES: [&str; 9] =
    ["LOADING", "READONLY", "MASTERDOWN", "CLUSTERDOWN", "MOVED", "TRYAGAIN", "BUSY", "NOREPLICAS", "ASK"];

#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// Redis did not answer, or not in time.
    #[error("cannot reach Redis at {server}: {detail}")]
    Unreachable { server: String, detail: String },
    /// Redis returned an error: full, read-only, loading, a key of the wrong type, no permission.
    #[error("Redis at {server} refused {action}: {detail}")]
    Refused { server: String, action: &'static str, detail: String },
    /// Redis returned something this worker cannot understand.
    #[error("Redis at {server} gave an unexpected reply when {action}: {detail}")]
    Unexpected { server: String, action: &'static str, detail: String },
}

impl QueueError {
    /// True when another try soon may help.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Refused { detail, .. } => {
                detail.split(' ').next().is_some_and(|code| TRANSIENT_CODES.contains(&code))
            }
            // The same reply would come again.
            Self::Unexpected { .. } => false,
        }
    }

    /// True when the server refused because it is a replica.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        matches!(self, Self::Refused { detail, .. } if detail.starts_with("READONLY"))
    }
}
