//! Columns of tables that other programs write too, read so that none of their values can end the process. A leaf.
//!
//! PostgreSQL's times reach from 4714 BC to the year 294276, and have two infinities. The calendar of this program ends with
//! the year 9999. An `integer` of ours may be a `smallint`, a `bigint` or a `numeric` in another deployment.

use sqlx::{
    Decode, Encode, Postgres, Type, TypeInfo as _, ValueRef as _,
    encode::IsNull,
    error::BoxDynError,
    postgres::{PgArgumentBuffer, PgHasArrayType, PgTypeInfo, PgValueFormat, PgValueRef},
};
use time::{OffsetDateTime, PrimitiveDateTime};

use crate::clock::Timestamp;

/// 1 January 2000: PostgreSQL counts microseconds from then.
const EPOCH_MILLIS: i64 = 946_684_800_000;

/// The first moment of the year 1.
const CALENDAR_BEGINS: TableTime = TableTime::at_millis(-62_135_596_800_000);

/// The last moment of the year 9999.
// 999 microseconds more, so that the last millisecond belongs to the calendar as a whole.
const CALENDAR_ENDS: TableTime = TableTime(TableTime::at_millis(253_402_300_799_999).0 + 999);

/// A time in a table, in UTC: microseconds as PostgreSQL counts them, so that it holds every time of PostgreSQL. It is read
/// from columns with and without a time zone. Written times are always within the calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TableTime(i64);

impl TableTime {
    /// `infinity`: as `left_at` it means "still open".
    pub const INFINITY: Self = Self(i64::MAX);

    /// `-infinity`: before all times.
    pub const MINUS_INFINITY: Self = Self(i64::MIN);

    const fn at_millis(millis: i64) -> Self {
        Self((millis - EPOCH_MILLIS) * 1000)
    }

    /// The nearest time of the calendar.
    #[must_use]
    pub fn of(at: Timestamp) -> Self {
        Self(at.as_millis().saturating_sub(EPOCH_MILLIS).saturating_mul(1000)).in_calendar()
    }

    /// The time to the millisecond. A time outside the calendar stays outside.
    #[must_use]
    pub const fn timestamp(self) -> Timestamp {
        // `div_euclid` rounds down before the epoch, too, which keeps the order of times.
        Timestamp::from_millis(self.0.div_euclid(1000) + EPOCH_MILLIS)
    }

    /// True for a time from the year 1 to the year 9999, which this worker or a reader could have written.
    #[must_use]
    pub fn is_in_calendar(self) -> bool {
        self == self.in_calendar()
    }

    fn in_calendar(self) -> Self {
        self.clamp(CALENDAR_BEGINS, CALENDAR_ENDS)
    }

    /// The next time that differs.
    #[must_use]
    pub const fn just_after(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl std::ops::Add<std::time::Duration> for TableTime {
    type Output = Self;

    fn add(self, duration: std::time::Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)))
    }
}

impl From<OffsetDateTime> for TableTime {
    fn from(at: OffsetDateTime) -> Self {
        let micros = at.unix_timestamp_nanos().div_euclid(1000) - i128::from(EPOCH_MILLIS) * 1000;
        Self(i64::try_from(micros).unwrap_or(i64::MAX))
    }
}

/// The nearest time of the calendar, to the microsecond.
impl From<TableTime> for OffsetDateTime {
    fn from(at: TableTime) -> Self {
        let nanos = (i128::from(at.in_calendar().0) + i128::from(EPOCH_MILLIS) * 1000) * 1000;
        Self::from_unix_timestamp_nanos(nanos).unwrap_or(Self::UNIX_EPOCH)
    }
}

impl From<TableTime> for PrimitiveDateTime {
    fn from(at: TableTime) -> Self {
        let at = OffsetDateTime::from(at);
        Self::new(at.date(), at.time())
    }
}

/// The form for operators.
impl std::fmt::Display for TableTime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match *self {
            Self::INFINITY => f.write_str("infinity"),
            Self::MINUS_INFINITY => f.write_str("-infinity"),
            at if at < CALENDAR_BEGINS => f.write_str("before the year 1"),
            at if at > CALENDAR_ENDS => f.write_str("after the year 9999"),
            at => write!(f, "{}", at.timestamp()),
        }
    }
}

impl Type<Postgres> for TableTime {
    fn type_info() -> PgTypeInfo {
        <PrimitiveDateTime as Type<Postgres>>::type_info()
    }

    fn compatible(ty: &PgTypeInfo) -> bool {
        matches!(ty.name(), "TIMESTAMP" | "TIMESTAMPTZ")
    }
}

impl PgHasArrayType for TableTime {
    fn array_type_info() -> PgTypeInfo {
        <PrimitiveDateTime as PgHasArrayType>::array_type_info()
    }
}

impl Encode<'_, Postgres> for TableTime {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        <i64 as Encode<'_, Postgres>>::encode_by_ref(&self.in_calendar().0, buffer)
    }
}

impl<'r> Decode<'r, Postgres> for TableTime {
    fn decode(value: PgValueRef<'r>) -> Result<Self, BoxDynError> {
        match value.format() {
            PgValueFormat::Binary => Ok(Self(i64::from_be_bytes(value.as_bytes()?.try_into()?))),
            PgValueFormat::Text => match value.as_str()? {
                "infinity" => Ok(Self::INFINITY),
                "-infinity" => Ok(Self::MINUS_INFINITY),
                // The calendar library cannot read such years; any time outside the calendar does.
                text if text.ends_with(" BC") => Ok(Self(CALENDAR_BEGINS.0 - 1)),
                // A year of more than four digits.
                text if text.find('-').is_some_and(|year| year > 4) => Ok(CALENDAR_ENDS.just_after()),
                _ => Ok(<OffsetDateTime as Decode<'r, Postgres>>::decode(value)?.into()),
            },
        }
    }
}

/// A whole number from a column of any numeric type: the nearest that 64 bits hold. `None`: not a number (NaN).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Number(Option<i64>);

impl Number {
    #[must_use]
    pub const fn get(self) -> Option<i64> {
        self.0
    }
}

impl From<i64> for Number {
    fn from(number: i64) -> Self {
        Self(Some(number))
    }
}

/// NaN becomes zero.
impl From<Number> for i64 {
    fn from(number: Number) -> Self {
        number.0.unwrap_or_default()
    }
}

/// The nearest value that it holds. NaN becomes zero.
impl From<Number> for i32 {
    fn from(number: Number) -> Self {
        let number = i64::from(number);
        Self::try_from(number).unwrap_or(if number < 0 { Self::MIN } else { Self::MAX })
    }
}

impl Type<Postgres> for Number {
    fn type_info() -> PgTypeInfo {
        <i64 as Type<Postgres>>::type_info()
    }

    fn compatible(ty: &PgTypeInfo) -> bool {
        matches!(ty.name(), "INT2" | "INT4" | "INT8" | "NUMERIC" | "FLOAT4" | "FLOAT8")
    }
}

impl<'r> Decode<'r, Postgres> for Number {
    fn decode(value: PgValueRef<'r>) -> Result<Self, BoxDynError> {
        if value.format() == PgValueFormat::Text {
            return Ok(Self(value.as_str()?.parse().ok().and_then(of_float)));
        }
        let bytes = value.as_bytes()?;
        Ok(Self(match value.type_info().name() {
            "NUMERIC" => of_numeric(bytes)?,
            "FLOAT4" => of_float(f32::from_be_bytes(bytes.try_into()?).into()),
            "FLOAT8" => of_float(f64::from_be_bytes(bytes.try_into()?)),
            _ => Some(<i64 as Decode<'r, Postgres>>::decode(value)?),
        }))
    }
}

fn of_float(number: f64) -> Option<i64> {
    #[expect(clippy::cast_possible_truncation, reason = "the nearest number is asked for, and a cast gives it")]
    (!number.is_nan()).then_some(number as i64)
}

/// Reads a `numeric` as PostgreSQL sends it: the number of digits, the weight of the first, sign and scale, then the digits to
/// the base 10,000.
fn of_numeric(bytes: &[u8]) -> Result<Option<i64>, BoxDynError> {
    const NEGATIVE: u16 = 0x4000;
    const NOT_A_NUMBER: u16 = 0xc000;
    const INFINITY: u16 = 0xd000;
    const MINUS_INFINITY: u16 = 0xf000;
    let mut parts = bytes.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
    let mut next = || parts.next().ok_or("a numeric without its head");
    let (_, weight, sign, _) = (next()?, next()?.cast_signed(), next()?, next()?);
    match sign {
        NOT_A_NUMBER => return Ok(None),
        INFINITY => return Ok(Some(i64::MAX)),
        MINUS_INFINITY => return Ok(Some(i64::MIN)),
        _ => {}
    }
    // Missing digits at the end are zeros. Digits after the point are dropped.
    // A negative weight means a number between -1 and 1, which has no whole digits.
    let digits = parts.chain(std::iter::repeat(0)).take(usize::try_from(i32::from(weight) + 1).unwrap_or(0));
    let whole = digits.fold(0_i128, |whole, digit| whole.saturating_mul(10_000).saturating_add(digit.into()));
    let whole = if sign == NEGATIVE { -whole } else { whole };
    Ok(Some(i64::try_from(whole).unwrap_or(if whole < 0 { i64::MIN } else { i64::MAX })))
}

/// Reads each field of a struct from the column of its name; `field: Type` reads the column as another type and converts.
///
/// sqlx's own derive would do the same. Its macros compile every database driver a second time, for the build machine.
macro_rules! from_row {
    (both: $struct:ident $fields:tt) => {
        $crate::columns::from_row!(postgres: $struct $fields);
        #[cfg(feature = "embedded")]
        $crate::columns::from_row!(sqlite: $struct $fields);
    };
    (postgres: $struct:ident $fields:tt) => {
        $crate::columns::from_row!(@row sqlx::postgres::PgRow, $struct $fields);
    };
    (sqlite: $struct:ident $fields:tt) => {
        $crate::columns::from_row!(@row sqlx::sqlite::SqliteRow, $struct $fields);
    };
    (@row $row:ty, $struct:ident { $($field:ident $(: $read_as:ty)?),* $(,)? }) => {
        impl sqlx::FromRow<'_, $row> for $struct {
            fn from_row(row: &$row) -> Result<Self, sqlx::Error> {
                use sqlx::Row as _;
                Ok(Self { $($field: $crate::columns::from_row!(@column row, $field $($read_as)?)),* })
            }
        }
    };
    (@column $row:ident, $field:ident) => { $row.try_get(stringify!($field))? };
    (@column $row:ident, $field:ident $read_as:ty) => { $row.try_get::<$read_as, _>(stringify!($field))?.into() };
}

pub(crate) use from_row;

#[cfg(feature = "embedded")]
mod sqlite {
    use sqlx::{
        Decode, Sqlite, Type,
        error::BoxDynError,
        sqlite::{SqliteTypeInfo, SqliteValueRef},
    };
    use time::OffsetDateTime;

    use super::{Number, TableTime};

    impl Type<Sqlite> for TableTime {
        fn type_info() -> SqliteTypeInfo {
            <OffsetDateTime as Type<Sqlite>>::type_info()
        }

        fn compatible(ty: &SqliteTypeInfo) -> bool {
            <OffsetDateTime as Type<Sqlite>>::compatible(ty)
        }
    }

    impl<'r> Decode<'r, Sqlite> for TableTime {
        fn decode(value: SqliteValueRef<'r>) -> Result<Self, BoxDynError> {
            Ok(<OffsetDateTime as Decode<'r, Sqlite>>::decode(value)?.into())
        }
    }

    impl Type<Sqlite> for Number {
        fn type_info() -> SqliteTypeInfo {
            <i64 as Type<Sqlite>>::type_info()
        }

        fn compatible(ty: &SqliteTypeInfo) -> bool {
            <i64 as Type<Sqlite>>::compatible(ty)
        }
    }

    impl<'r> Decode<'r, Sqlite> for Number {
        fn decode(value: SqliteValueRef<'r>) -> Result<Self, BoxDynError> {
            Ok(Self(Some(<i64 as Decode<'r, Sqlite>>::decode(value)?)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_outside_calendar_are_never_written() {
        for far in [TableTime::INFINITY, TableTime::MINUS_INFINITY, CALENDAR_ENDS.just_after()] {
            assert!(!far.is_in_calendar(), "{far}");
            let _ = (OffsetDateTime::from(far), far.timestamp(), far.to_string(), far.just_after());
            assert!(TableTime::of(far.timestamp()).is_in_calendar(), "{far}");
        }
        assert!(CALENDAR_BEGINS.is_in_calendar() && CALENDAR_ENDS.is_in_calendar());
        assert_eq!(TableTime::of(Timestamp::from_millis(i64::MAX)), CALENDAR_ENDS);
        assert_eq!(OffsetDateTime::from(TableTime::INFINITY).year(), 9999);
        assert_eq!(OffsetDateTime::from(TableTime::MINUS_INFINITY).year(), 1);
    }

    #[test]
    fn times_of_the_calendar_come_back() {
        for millis in [0, -1, 1_772_600_767_089, 253_402_300_799_999, -62_135_596_800_000] {
            let at = Timestamp::from_millis(millis);
            assert_eq!(TableTime::of(at).timestamp(), at);
            assert_eq!(TableTime::from(OffsetDateTime::from(TableTime::of(at))), TableTime::of(at));
        }
        let odd = TableTime::of(Timestamp::from_millis(7)).just_after();
        assert_eq!(TableTime::from(OffsetDateTime::from(odd)), odd, "to the microsecond");
    }
}
