//! Values as SQLite holds them: lists as JSON text, and times as UTC text of one length, so that comparing texts compares times.

use time::{PrimitiveDateTime, format_description::StaticFormatDescription, macros::format_description};

use crate::{
    clock::Timestamp,
    store::plan::times::{TableTime, utc},
};

const WRITTEN: StaticFormatDescription =
    format_description!("[year]-[month]-[day] [hour]:[minute]:[second].[subsecond digits:6]");
const READ: StaticFormatDescription =
    format_description!("[year]-[month]-[day] [hour]:[minute]:[second][optional [.[subsecond]]]");

/// A list as one parameter, for `json_each`.
pub(super) fn json(values: &(impl serde::Serialize + ?Sized)) -> String {
    serde_json::to_string(values).expect("texts and their arrays are JSON")
}

/// `2026-03-04 05:06:07.089000`.
pub(super) fn to_text(at: Timestamp) -> String {
    table_text(utc(at))
}

/// [`to_text`] to the microsecond.
pub(super) fn table_text(at: TableTime) -> String {
    PrimitiveDateTime::from(at).format(WRITTEN).expect("a calendar time has all parts of the format")
}

/// Reads a time, also one without a fraction, as a person may have typed it. `None`: not a time.
pub(super) fn from_text(text: &str) -> Option<Timestamp> {
    PrimitiveDateTime::parse(text, READ).ok().map(|at| Timestamp::from_utc(at.assume_utc()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_readable_and_come_back() {
        let at = Timestamp::from_millis(1_772_600_767_089);
        assert_eq!(to_text(at), "2026-03-04 05:06:07.089000");
        assert_eq!(from_text(&to_text(at)), Some(at));
        assert_eq!(from_text("2026-03-04 05:06:07"), Some(Timestamp::from_millis(1_772_600_767_000)));
        assert_eq!(from_text("yesterday"), None);
    }

    #[test]
    fn comparing_texts_compares_times() {
        let mut times: Vec<i64> = vec![1_772_600_767_089, 0, 999, 1_000, 253_402_300_799_999, 1_772_600_767_100];
        let mut texts: Vec<String> = times.iter().map(|&millis| to_text(Timestamp::from_millis(millis))).collect();
        times.sort_unstable();
        texts.sort_unstable();
        let read: Vec<i64> = texts.iter().filter_map(|text| from_text(text)).map(Timestamp::as_millis).collect();
        assert_eq!(read, times);
    }
}
