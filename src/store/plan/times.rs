//! Times as the shared tables hold them: UTC without a zone.

use std::time::Duration;

use time::{OffsetDateTime, PrimitiveDateTime};

use crate::clock::Timestamp;

/// A time in a shared table: UTC wall clock, in microseconds.
pub type TableTime = PrimitiveDateTime;

/// What the shared tables hold for this moment.
pub fn utc(at: Timestamp) -> TableTime {
    let at = at.to_utc();
    PrimitiveDateTime::new(at.date(), at.time())
}

pub fn from_utc(at: TableTime) -> Timestamp {
    Timestamp::from_utc(at.assume_utc())
}

pub fn from_zoned(at: OffsetDateTime) -> Timestamp {
    Timestamp::from_utc(at)
}

/// The next time that differs.
pub fn just_after(at: TableTime) -> TableTime {
    at + Duration::from_micros(1)
}
