//! The mailbox: the wire format that the producers write (values only; who reads and writes it is the queue).

use crate::clock::Timestamp;

/// The producers' index: a sorted set, request id by priority.
pub const INDEX: &str = "refresh_queue";

/// The producers' data: a hash, request id to a JSON text.
pub const DATA: &str = "refresh_requests";

/// A slice of the mailbox as it was read, not yet decoded.
#[derive(Clone, Debug, Default)]
pub struct Mail {
    pub read_at: Timestamp,
    pub entries: Vec<Entry>,
    pub more: bool,
}

/// One entry of the mailbox.
#[derive(Clone, Debug)]
pub struct Entry {
    pub id: String,
}
