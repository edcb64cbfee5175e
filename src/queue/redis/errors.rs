//! The errors of Redis: which pass by themselves, which end a connection, and how a person reads them.

use ::redis::{ErrorKind, RedisError, ServerErrorKind};

use crate::certificates;

/// Codes of a server that is busy for a moment and did nothing.
const BUSY_CODES: [&str; 4] = ["BUSY", "NOREPLICAS", "ASK", "TRYAGAIN"];

/// Codes of a server that did nothing and will not do anything soon, as after a failover: a replica, a server that loads its data
/// or lost its replicas or its cluster, one without our user. Each script refuses before its first write, or with it.
const WRONG_SERVER_CODES: [&str; 10] = [
    "READONLY",
    "MASTERDOWN",
    "LOADING",
    "CLUSTERDOWN",
    "MOVED",
    "NOREPLICAS",
    "MISCONF",
    "UNKILLABLE",
    "NOAUTH",
    "WRONGPASS",
];

/// The longest text of an error, in bytes.
const MAX_ERROR_BYTES: usize = 300;

pub(super) fn is_busy(error: &RedisError) -> bool {
    code(error).is_some_and(|code| BUSY_CODES.contains(&code))
}

pub(super) fn is_wrong_server(error: &RedisError) -> bool {
    code(error).is_some_and(|code| WRONG_SERVER_CODES.contains(&code))
}

/// True when the connection is of no more use.
pub(super) fn is_broken(error: &RedisError) -> bool {
    error.is_io_error() || matches!(error.kind(), ErrorKind::Parse | ErrorKind::ClusterConnectionNotFound)
}

/// The fix, where the server and `REDIS_CLUSTER` or `REDIS_URL` do not belong together.
pub(super) fn hint(error: &RedisError, is_cluster: bool) -> Option<&'static str> {
    match (is_cluster, error.kind()) {
        (false, ErrorKind::Server(ServerErrorKind::Moved | ServerErrorKind::CrossSlot | ServerErrorKind::Ask)) => {
            Some("this server belongs to a cluster: set REDIS_CLUSTER=true")
        }
        (true, _) if error.to_string().contains("cluster support disabled") => {
            Some("this server belongs to no cluster: take REDIS_CLUSTER=true away")
        }
        _ if code(error) == Some("READONLY") => {
            Some("this server is a read-only replica: REDIS_URL has to lead to the primary")
        }
        _ => None,
    }
}

/// The code of a refusal; for an error within a script the code of the command in it, which servers before version 7 put behind
/// words of their own.
fn code(error: &RedisError) -> Option<&str> {
    // Errors of the connection have no code.
    let code = error.code()?;
    Some(refusal_in_script(code, error.detail().unwrap_or_default()).map_or(code, first_word))
}

/// `READONLY You can't write …` of `ERR Error running script (call to f_…): @user_script:12: -READONLY You can't write …`.
fn refusal_in_script<'a>(code: &str, detail: &'a str) -> Option<&'a str> {
    let (_, refusal) =
        detail.rsplit_once(": -").filter(|_| code == "ERR" && detail.starts_with("Error running script"))?;
    first_word(refusal).chars().all(|letter| letter.is_ascii_uppercase()).then_some(refusal)
}

fn first_word(text: &str) -> &str {
    text.split(' ').next().unwrap_or_default()
}

/// The error in one line.
pub(super) fn describe(error: &RedisError) -> String {
    // The library's text names an internal operation.
    if error.is_timeout() {
        return "no answer in time".to_owned();
    }
    // The words of Redis: `READONLY You can't write against a read only replica.`
    let mut text = match (error.kind(), error.code(), error.detail()) {
        (ErrorKind::Server(_) | ErrorKind::Extension, Some(code), Some(detail)) => {
            refusal_in_script(code, detail).map_or_else(|| format!("{code} {detail}"), str::to_owned)
        }
        _ => error.to_string(),
    };
    text.truncate(text.floor_char_boundary(MAX_ERROR_BYTES));
    match certificates::advice(&text) {
        Some(advice) => format!("{text}; {advice}"),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_reads_refusals_in_scripts_of_old_servers() {
        let old =
            "Error running script (call to f_0a1b): @user_script:12: @user_script: 12: -READONLY You can't write.";
        assert_eq!(refusal_in_script("ERR", old), Some("READONLY You can't write."));
        for (code, detail) in [
            ("READONLY", "You can't write against a read only replica. script: 0a1b, on @user_script:12."),
            ("ERR", "Error running script (call to f_0a1b): @user_script:12: attempt to index a nil value"),
            ("ERR", "wrong number of arguments: -READONLY"),
        ] {
            assert_eq!(refusal_in_script(code, detail), None, "{code} {detail}");
        }
    }
}
