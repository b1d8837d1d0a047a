//! Text into dates and times.

use crate::error::Error;

/// Days since the epoch of a date of the proleptic Gregorian calendar.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

fn number(text: &str, range: std::ops::RangeInclusive<i64>) -> Option<i64> {
    if text.is_empty() || text.len() > 9 || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse().ok().filter(|n| range.contains(n))
}

/// `yyyy-mm-dd` as days since the epoch.
fn civil_date(text: &str) -> Option<i64> {
    let mut parts = text.splitn(3, '-');
    let year = number(parts.next()?, 0..=9_999_999)?;
    let month = number(parts.next()?, 1..=12)?;
    let day = number(parts.next()?, 1..=31)?;
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let last = match month {
        2 if leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    };
    (day <= last).then(|| days_from_civil(year, month, day))
}

/// `hh:mm[:ss[.fraction]]` as nanoseconds.
fn clock(text: &str) -> Option<i64> {
    let mut parts = text.splitn(3, ':');
    let hours = number(parts.next()?, 0..=23)?;
    let minutes = number(parts.next()?, 0..=59)?;
    let (seconds, nanos) = match parts.next() {
        None => (0, 0),
        Some(rest) => {
            let (seconds, fraction) = rest.split_once('.').unwrap_or((rest, "0"));
            if fraction.len() > 9 {
                return None;
            }
            let nanos = number(&format!("{fraction:0<9}"), 0..=999_999_999)?;
            (number(seconds, 0..=59)?, nanos)
        }
    };
    Some(((hours * 60 + minutes) * 60 + seconds) * 1_000_000_000 + nanos)
}

/// `Z`, `+hh`, `+hhmm`, `+hh:mm` as seconds.
fn zone(text: &str) -> Option<i64> {
    if text.is_empty() || text.eq_ignore_ascii_case("z") || text == "UTC" || text == "GMT" {
        return Some(0);
    }
    let sign = match text.as_bytes()[0] {
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    let digits: String = text[1..].chars().filter(|c| *c != ':').collect();
    let (hours, minutes) = match digits.len() {
        2 => (digits.as_str(), "0"),
        4 => digits.split_at_checked(2)?,
        _ => return None,
    };
    Some(sign * (number(hours, 0..=14)? * 3600 + number(minutes, 0..=59)? * 60))
}

/// Milliseconds since the epoch: a number, or a date with or without time and zone (UTC).
pub(super) fn timestamp(text: &str) -> Result<i64, Error> {
    let invalid = || Error::invalid(format!("marshaling error: unable to parse date '{text}'"));
    if let Ok(millis) = text.parse::<i64>() {
        return Ok(millis);
    }
    let trimmed = text.trim();
    let (date, rest) = match trimmed.find(['T', 't', ' ']) {
        Some(at) => (&trimmed[..at], trimmed[at + 1..].trim()),
        None => (trimmed, ""),
    };
    // A date alone may carry a zone: `2020-01-01+0100`.
    let (date, rest) = match date.find('+').or_else(|| date.find(['Z', 'z'])) {
        Some(at) if rest.is_empty() => (&date[..at], &date[at..]),
        _ => (date, rest),
    };
    let split = rest
        .find(['+', '-', 'Z', 'z', 'U', 'G'])
        .unwrap_or(rest.len());
    let days = civil_date(date).ok_or_else(invalid)?;
    let time = rest[..split].trim();
    let nanos = if time.is_empty() {
        Some(0)
    } else {
        clock(time)
    }
    .ok_or_else(invalid)?;
    let offset = zone(rest[split..].trim()).ok_or_else(invalid)?;
    Ok((days * 86_400 - offset) * 1000 + nanos / 1_000_000)
}

/// Days with 2^31 at the epoch: `yyyy-mm-dd` or that number.
pub(super) fn date(text: &str) -> Result<u32, Error> {
    if let Ok(raw) = text.parse::<u32>() {
        return Ok(raw);
    }
    civil_date(text)
        .and_then(|days| u32::try_from(days + (1 << 31)).ok())
        .ok_or_else(|| {
            Error::invalid(format!(
                "marshaling error: Unable to coerce '{text}' to a formatted date (long)"
            ))
        })
}

/// Nanoseconds since midnight: `hh:mm:ss[.fraction]`.
pub(super) fn time(text: &str) -> Result<i64, Error> {
    clock(text).ok_or_else(|| {
        Error::invalid(format!(
            "marshaling error: Timestamp format must be hh:mm:ss[.fffffffff]: '{text}'"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_in_the_usual_forms() {
        for (text, millis) in [
            ("0", 0),
            ("-5", -5),
            ("1970-01-01", 0),
            ("2020-02-29", 1_582_934_400_000),
            ("2020-02-29T12:34:56Z", 1_582_979_696_000),
            ("2020-02-29 12:34:56.789", 1_582_979_696_789),
            ("2020-02-29 12:34:56.789+0200", 1_582_972_496_789),
            ("2020-02-29T12:34+02:00", 1_582_972_440_000),
            ("1969-12-31 23:59:59", -1000),
        ] {
            assert_eq!(timestamp(text), Ok(millis), "{text}");
        }
        for text in [
            "",
            "yesterday",
            "2021-02-29",
            "2020-13-01",
            "2020-01-01 25:00",
        ] {
            assert!(timestamp(text).is_err(), "{text}");
        }
    }

    #[test]
    fn dates_and_times() {
        assert_eq!(date("1970-01-01"), Ok(1 << 31));
        assert_eq!(date("1969-12-31"), Ok((1 << 31) - 1));
        assert!(date("1970-1-32").is_err());
        assert_eq!(time("00:00:01.5"), Ok(1_500_000_000));
        assert!(time("24:00:00").is_err());
    }
}
