//! What can go wrong between us and the queue's server.

/// The first word of a refusal by a server that starts, fails over, is busy or moves a slot: each passes by itself.
const TRANSIENT_CODES: [&str; 9] =
    ["LOADING", "READONLY", "MASTERDOWN", "CLUSTERDOWN", "MOVED", "TRYAGAIN", "BUSY", "NOREPLICAS", "ASK"];

/// A failure of the queue. Each variant is a whole sentence.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// The address cannot be used, so nothing was connected.
    #[error("REDIS_URL cannot be used: {detail}")]
    Url { detail: String },
    /// Redis did not answer, or not in time.
    #[error("cannot reach Redis at {server}: {detail}")]
    Unreachable { server: String, detail: String },
    /// Redis returned an error: full, read-only, loading, a key of the wrong type, no permission.
    #[error("Redis at {server} refused{}", refusal(action, detail))]
    Refused { server: String, action: &'static str, detail: String },
    /// Redis returned something this worker cannot understand.
    #[error("Redis at {server} gave an unexpected reply when {action}: {detail}")]
    Unexpected { server: String, action: &'static str, detail: String },
}

/// The refused action and the reason. The action is left out where Redis would refuse any.
fn refusal(action: &str, detail: &str) -> String {
    let (code, rest) = detail.split_once(' ').unwrap_or((detail, ""));
    let reason = match code {
        "NOAUTH" => "it requires a password",
        "WRONGPASS" => "wrong user name or password",
        "LOADING" => "it is still loading its data",
        "OOM" => return format!(" {action}: it has no memory left (OOM)"),
        _ => return format!(" {action}: {detail}"),
    };
    let advice = rest.find("; ").map_or("", |at| &rest[at..]);
    format!(": {reason} ({code}){advice}")
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
            Self::Unexpected { .. } | Self::Url { .. } => false,
        }
    }

    /// True when the server refused because it is a replica.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        matches!(self, Self::Refused { detail, .. } if detail.starts_with("READONLY"))
    }
}
