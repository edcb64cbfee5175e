//! Time spans as people write them, in settings and in arguments.

use std::time::Duration;

/// A hundred years, so that a time minus a span stays a time.
const MAX_SPAN: Duration = Duration::from_secs(100 * 366 * 24 * 3600);

/// Reads `90s`, `30m`, `12h`, `2d` or `1w`.
#[must_use]
pub fn read_span(text: &str) -> Option<Duration> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit())?);
    let scale = match unit.trim() {
        "s" => 1,
        "m" | "min" => 60,
        "h" => 3600,
        "d" => 24 * 3600,
        "w" => 7 * 24 * 3600,
        _ => return None,
    };
    let seconds = number.parse::<u64>().ok()?.checked_mul(scale)?;
    Some(Duration::from_secs(seconds)).filter(|span| *span <= MAX_SPAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn span_is_number_and_unit() {
        assert_eq!(read_span("2d"), Some(Duration::from_secs(172_800)));
        assert_eq!(read_span("30 min"), Some(Duration::from_secs(1800)));
        for wrong in ["", "2", "d", "-2d", "2y", "1.5h", "99999999999999999999d", "2dä"] {
            assert_eq!(read_span(wrong), None, "{wrong}");
        }
    }
}
