//! Times and spans as people write and read them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::config::parse_duration;

/// Microseconds since the Unix epoch, by the system's clock.
pub(super) fn now() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| now.as_micros() as i64)
}

/// A point of time on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Moment {
    /// As far back as the log goes.
    Earliest,
    /// Now.
    Latest,
    /// Microseconds since the Unix epoch.
    At(i64),
    /// So long ago.
    Ago(Duration),
}

impl Moment {
    /// `earliest`, `latest`, a time of RFC 3339, or a span such as `2h` or `2h ago`.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        match text {
            "earliest" => return Ok(Self::Earliest),
            "latest" => return Ok(Self::Latest),
            _ => {}
        }
        if let Ok(time) = OffsetDateTime::parse(text, &Rfc3339) {
            return Ok(Self::At((time.unix_timestamp_nanos() / 1_000) as i64));
        }
        let span = text.strip_suffix("ago").map_or(text, str::trim_end);
        parse_duration(span).map(Self::Ago).map_err(|_| {
            "is no time: write earliest, latest, a time such as 2026-01-31T12:00:00Z, or a time ago \
             such as 2h"
                .to_owned()
        })
    }
}

/// In UTC, with milliseconds: `2026-01-31T12:00:00.000Z`. What has no such form is the number itself.
pub(super) fn rfc3339(micros: i64) -> String {
    let time = OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros) * 1_000);
    let Ok(time) = time else {
        return micros.to_string();
    };
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
        time.year(),
        u8::from(time.month()),
        time.day(),
        time.hour(),
        time.minute(),
        time.second(),
        time.millisecond()
    )
}

/// A number of seconds with its two largest units: `3d 4h`, `2m 5s`, `1.3s`.
pub(super) fn span(seconds: f64) -> String {
    let sign = if seconds < 0.0 { "-" } else { "" };
    let seconds = seconds.abs();
    if seconds < 60.0 {
        return format!("{sign}{seconds:.1}s");
    }
    let whole = seconds.min(1e15) as u64;
    let (days, hours) = (whole / 86_400, whole / 3_600 % 24);
    let (minutes, rest) = (whole / 60 % 60, whole % 60);
    if days > 0 {
        format!("{sign}{days}d {hours}h")
    } else if hours > 0 {
        format!("{sign}{hours}h {minutes}m")
    } else {
        format!("{sign}{minutes}m {rest}s")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_named_absolute_or_ago() {
        let hours = Moment::Ago(Duration::from_hours(2));
        for (text, moment) in [
            ("earliest", Moment::Earliest),
            ("latest", Moment::Latest),
            ("1970-01-01T00:00:01.5Z", Moment::At(1_500_000)),
            ("1970-01-01T01:00:00+01:00", Moment::At(0)),
            ("2h", hours),
            ("2h ago", hours),
        ] {
            assert_eq!(Moment::parse(text), Ok(moment), "{text}");
        }
        for text in ["yesterday", "ago", "", "-2h", "2026-01-31"] {
            assert!(Moment::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn times_and_spans_are_short() {
        assert_eq!(rfc3339(1_500_000), "1970-01-01T00:00:01.500Z");
        assert_eq!(rfc3339(i64::MAX), i64::MAX.to_string());
        for (seconds, text) in [
            (0.04, "0.0s"),
            (-1.26, "-1.3s"),
            (61.0, "1m 1s"),
            (7_260.0, "2h 1m"),
            (90_000.0, "1d 1h"),
        ] {
            assert_eq!(span(seconds), text);
        }
    }
}
