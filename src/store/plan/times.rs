//! Times as the shared tables hold them: UTC, in microseconds.

use crate::clock::Timestamp;
pub use crate::columns::TableTime;

/// This time as the shared tables hold it.
pub fn utc(at: Timestamp) -> TableTime {
    TableTime::of(at)
}

pub const fn from_utc(at: TableTime) -> Timestamp {
    at.timestamp()
}

/// The next time that differs.
pub const fn just_after(at: TableTime) -> TableTime {
    at.just_after()
}
