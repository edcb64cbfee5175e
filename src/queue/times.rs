//! Times as the producers write them: ISO 8601, UTC unless an offset says otherwise, with or without a fraction.

use time::{Date, Month, OffsetDateTime, PrimitiveDateTime, Time, UtcOffset};

use crate::clock::Timestamp;

/// Reads `2026-03-04T05:06:07`, with up to nine digits of fraction, and `Z` or an offset. `None` when it is no time.
#[must_use]
pub fn parse(text: &str) -> Option<Timestamp> {
    let text = text.trim();
    let (date, clock) = (text.get(..10)?, text.get(11..)?);
    // Python writes T, some tools a space.
    if !matches!(text.as_bytes()[10], b'T' | b't' | b' ') {
        return None;
    }
    let (clock, offset) = split_offset(clock)?;
    let local = PrimitiveDateTime::new(parse_date(date)?, parse_clock(clock)?);
    Some(Timestamp::from_utc(local.assume_offset(offset)))
}

fn parse_date(text: &str) -> Option<Date> {
    let mut parts = text.split('-');
    let (year, month, day) = (digits(parts.next()?, 4)?, digits(parts.next()?, 2)?, digits(parts.next()?, 2)?);
    let month = Month::try_from(u8::try_from(month).ok()?).ok()?;
    Date::from_calendar_date(i32::try_from(year).ok()?, month, u8::try_from(day).ok()?).ok()
}

fn parse_clock(text: &str) -> Option<Time> {
    // ISO 8601 allows a comma, too.
    let (whole, fraction) = text.split_once(['.', ',']).unwrap_or((text, "0"));
    let mut parts = whole.split(':');
    let (hour, minute) = (digits(parts.next()?, 2)?, digits(parts.next()?, 2)?);
    let second = parts.next().map_or(Some(0), |text| digits(text, 2))?;
    if parts.next().is_some() || fraction.is_empty() || fraction.len() > 9 {
        return None;
    }
    let nanos = digits(fraction, fraction.len())? * 10u32.pow(9 - u32::try_from(fraction.len()).ok()?);
    let byte = |number: u32| u8::try_from(number).ok();
    Time::from_hms_nano(byte(hour)?, byte(minute)?, byte(second)?, nanos).ok()
}

fn split_offset(clock: &str) -> Option<(&str, UtcOffset)> {
    if let Some(clock) = clock.strip_suffix(['Z', 'z']) {
        return Some((clock, UtcOffset::UTC));
    }
    // Python's naive times are UTC.
    let Some(at) = clock.rfind(['+', '-']) else { return Some((clock, UtcOffset::UTC)) };
    let (clock, offset) = clock.split_at(at);
    let (sign, numbers) = offset.split_at(1);
    let numbers = numbers.replace(':', "");
    let (hours, minutes) = match numbers.len() {
        2 => (digits(&numbers, 2)?, 0),
        4 => (digits(numbers.get(..2)?, 2)?, digits(numbers.get(2..)?, 2)?),
        _ => return None,
    };
    let seconds = i32::try_from(hours * 3600 + minutes * 60).ok()?;
    UtcOffset::from_whole_seconds(if sign == "-" { -seconds } else { seconds }).ok().map(|offset| (clock, offset))
}

/// Exactly this many ASCII digits.
fn digits(text: &str, count: usize) -> Option<u32> {
    (text.len() == count && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok())?
}

/// `2026-03-04T05:06:07.089000`: naive UTC with six digits.
#[must_use]
pub fn naive(time: Timestamp) -> String {
    let utc: OffsetDateTime = time.to_utc();
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:06}",
        utc.year(),
        u8::from(utc.month()),
        utc.day(),
        utc.hour(),
        utc.minute(),
        utc.second(),
        utc.microsecond()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parse_reads_every_form_in_use() {
        for text in [
            "2026-03-04T05:06:07.089000",
            "2026-03-04T05:06:07.089",
            "2026-03-04 05:06:07.089999999",
            "2026-03-04T05:06:07.089Z",
            "2026-03-04T05:06:07.089+00:00",
            "2026-03-04T06:36:07.089000+01:30",
            "2026-03-03T23:06:07.089-0600",
            "2026-03-04T07:06:07.089+02",
        ] {
            assert_eq!(parse(text), Some(Timestamp::from_millis(1_772_600_767_089)), "{text}");
        }
        assert_eq!(parse("2026-03-04T05:06:07"), Some(Timestamp::from_millis(1_772_600_767_000)));
    }

    #[test]
    fn parse_refuses_other_texts() {
        for text in [
            "",
            "2026-03-04",
            "2026-13-04T05:06:07",
            "2026-03-04T25:06:07",
            "2026-03-04T05:06:07.",
            "ä2026-03-04T05:06:07",
            "2026-03-04T05:06:07+aäb",
            "2026-03-04T+1:06:07",
            "1772600767",
        ] {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn naive_time_reads_back() {
        let time = Timestamp::from_millis(1_772_600_767_089);
        assert_eq!(naive(time), "2026-03-04T05:06:07.089000");
        assert_eq!(parse(&naive(time)), Some(time));
    }
}
