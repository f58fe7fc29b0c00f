//! Dates and durations as people read them. Programs read JSON, which has numbers.

use std::time::{SystemTime, UNIX_EPOCH};

use jiff::Timestamp;

/// A date in UTC, `2026-11-29 18:03:12 UTC`, of seconds since 1970-01-01 UTC.
#[must_use]
pub fn date(unix_seconds: u64) -> String {
    let timestamp = i64::try_from(unix_seconds).ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
    timestamp.map_or_else(
        || format!("{unix_seconds} s after 1970-01-01 UTC"),
        |timestamp| timestamp.strftime("%Y-%m-%d %H:%M:%S UTC").to_string(),
    )
}

/// A time of day in UTC, `18:03:12.000250`, of microseconds since 1970-01-01 UTC.
#[must_use]
pub fn time(unix_microseconds: u64) -> String {
    let timestamp = i64::try_from(unix_microseconds).ok().and_then(|micros| Timestamp::from_microsecond(micros).ok());
    timestamp.map_or_else(
        || format!("{unix_microseconds} us after 1970-01-01 UTC"),
        |timestamp| timestamp.strftime("%H:%M:%S%.6f").to_string(),
    )
}

/// A date in UTC, and how long ago that was: `2026-11-29 18:03:12 UTC (3 s ago)`.
#[must_use]
pub fn date_and_age(unix_seconds: u64) -> String {
    format!("{} ({} ago)", date(unix_seconds), age(unix_seconds))
}

/// How long ago that was.
#[must_use]
pub fn age(unix_seconds: u64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    duration(now.saturating_sub(unix_seconds))
}

/// A duration by its two largest units: `3 s`, `2 min 5 s`, `4 h 12 min`, `3 d 2 h`.
#[must_use]
pub fn duration(seconds: u64) -> String {
    const MINUTE: u64 = 60;
    const HOUR: u64 = 60 * MINUTE;
    const DAY: u64 = 24 * HOUR;
    let (large, unit, small, rest) = match seconds {
        DAY.. => (seconds / DAY, "d", seconds % DAY / HOUR, "h"),
        HOUR.. => (seconds / HOUR, "h", seconds % HOUR / MINUTE, "min"),
        MINUTE.. => (seconds / MINUTE, "min", seconds % MINUTE, "s"),
        _ => (seconds, "s", 0, ""),
    };
    if small == 0 { format!("{large} {unit}") } else { format!("{large} {unit} {small} {rest}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_is_in_utc_whatever_the_number() {
        assert_eq!(date(0), "1970-01-01 00:00:00 UTC");
        assert_eq!(date(1_795_975_392), "2026-11-29 18:03:12 UTC");
        assert_eq!(date(1_709_164_800), "2024-02-29 00:00:00 UTC");
        assert_eq!(date(u64::MAX), "18446744073709551615 s after 1970-01-01 UTC");
    }

    #[test]
    fn a_time_of_day_has_its_microseconds() {
        assert_eq!(time(0), "00:00:00.000000");
        assert_eq!(time(1_795_975_392_000_250), "18:03:12.000250");
        assert_eq!(time(86_399_999_999), "23:59:59.999999");
    }

    #[test]
    fn an_age_is_told_with_its_date() {
        let text = date_and_age(0);
        assert!(text.starts_with("1970-01-01 00:00:00 UTC (") && text.ends_with(" ago)"), "{text}");
        assert!(date_and_age(u64::from(u32::MAX) * 2).ends_with("(0 s ago)"), "a date ahead of the clock");
    }

    #[test]
    fn a_duration_has_at_most_two_units() {
        for (seconds, text) in [
            (0, "0 s"),
            (59, "59 s"),
            (60, "1 min"),
            (125, "2 min 5 s"),
            (3600, "1 h"),
            (15_125, "4 h 12 min"),
            (86_400, "1 d"),
            (266_400, "3 d 2 h"),
        ] {
            assert_eq!(duration(seconds), text);
        }
    }
}
