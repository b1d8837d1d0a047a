//! What happened, a line each.

use crate::scenario::{SECOND, START};

/// Lines, if they are wanted.
#[derive(Debug, Default)]
pub(crate) struct Trace {
    lines: Option<Vec<String>>,
}

impl Trace {
    /// A trace, or none.
    pub(crate) fn new(wanted: bool) -> Self {
        Self {
            lines: wanted.then(Vec::new),
        }
    }

    /// Whether lines are wanted.
    pub(crate) fn is_wanted(&self) -> bool {
        self.lines.is_some()
    }

    /// Adds a line; it is made only if it is wanted.
    pub(crate) fn say(&mut self, now: i64, line: impl FnOnce() -> String) {
        if let Some(lines) = &mut self.lines {
            lines.push(format!("{} {}", time(now), line()));
        }
    }

    /// The lines.
    pub(crate) fn into_lines(self) -> Vec<String> {
        self.lines.unwrap_or_default()
    }
}

/// A time as seconds since the begin of the run.
pub(crate) fn time(micros: i64) -> String {
    let since = micros.saturating_sub(START);
    if since.abs() > 1_000_000 * SECOND {
        return "-".to_owned();
    }
    let sign = if since < 0 { "-" } else { "" };
    let since = since.abs();
    format!("{sign}{}.{:06}", since / SECOND, since % SECOND)
}
