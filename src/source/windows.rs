//! What was published of one stream group below W, window by window, until that is saved.
//!
//! Pure. Invariants:
//!
//! 1. Windows follow each other without a gap but where nothing was published, and end between two times:
//!    rows of one microsecond are in one window.
//! 2. A window is closed when it is long or has [`ROWS`] rows; at most [`UNSAVED`] closed ones are kept.
//!    While so many cannot be saved, the open one grows, and tells fewer late rows apart.

use crate::ack::Mark;
use crate::ack::summary::Summary;
use crate::checkpoint::{OpenWindow, Window};

/// A window with so many rows is closed.
pub const ROWS: u64 = 4_096;
/// Closed windows that may wait to be saved.
pub const UNSAVED: usize = 64;

/// The windows of one group.
#[derive(Debug, Clone)]
pub struct Windows {
    open: OpenWindow,
    closed: Vec<Window>,
}

impl Windows {
    /// Goes on with an open window; those before it are saved.
    pub fn new(open: OpenWindow) -> Self {
        Self {
            open,
            closed: Vec::new(),
        }
    }

    /// W has moved to `watermark` over these rows, which are in order. A window as long as `length`
    /// microseconds is closed.
    pub fn passed(&mut self, rows: &[Mark], watermark: i64, length: i64) {
        // W may move over very many rows at once.
        for rows in rows.chunk_by(|a, b| a.micros == b.micros) {
            for mark in rows {
                self.open.summary.add(mark.hash);
            }
            if self.open.summary.count() >= ROWS {
                self.close(rows[0].micros);
            }
        }
        let long = watermark.saturating_sub(self.open.begin) >= length;
        if long || self.open.summary.is_empty() {
            self.close(watermark);
        }
    }

    fn close(&mut self, upto: i64) {
        let OpenWindow { begin, summary } = self.open;
        if !summary.is_empty() {
            if self.closed.len() >= UNSAVED {
                return;
            }
            self.closed.push(Window {
                begin,
                upto,
                summary,
            });
        }
        self.open = OpenWindow {
            begin: upto,
            summary: Summary::default(),
        };
    }

    /// The window that ends at W.
    pub fn open(&self) -> OpenWindow {
        self.open
    }

    /// Those that are to be saved, oldest first.
    pub fn unsaved(&self) -> &[Window] {
        &self.closed
    }

    /// So many of the oldest ones are saved.
    pub fn saved(&mut self, windows: usize) {
        self.closed.drain(..windows.min(self.closed.len()));
    }

    /// Up to where the windows are saved: microseconds since the Unix epoch.
    pub fn saved_upto(&self) -> i64 {
        let unsaved = self.closed.first();
        unsaved.map_or(self.open.begin, |window| window.begin)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTH: i64 = 1_000_000_000;

    fn marks(from: i64, upto: i64, per_micro: u64) -> Vec<Mark> {
        let times = from + 1..=upto;
        let of = |micros: i64| {
            (0..per_micro).map(move |n| Mark {
                micros,
                hash: (micros as u64) << 8 | n,
            })
        };
        times.flat_map(of).collect()
    }

    fn windows() -> Windows {
        Windows::new(OpenWindow {
            begin: 0,
            summary: Summary::default(),
        })
    }

    #[test]
    fn very_many_rows_at_once_are_several_windows() {
        let mut windows = windows();
        windows.passed(&marks(0, 10_000, 3), 10_000, LENGTH);
        let mut begin = 0;
        let mut rows = 0;
        for window in windows.unsaved() {
            assert_eq!(window.begin, begin, "without a gap");
            let count = window.summary.count();
            assert_eq!(count, 3 * (window.upto - begin) as u64, "whole times");
            assert!((ROWS..ROWS + 3).contains(&count), "{count}");
            begin = window.upto;
            rows += count;
        }
        assert_eq!(windows.unsaved().len(), 7);
        assert_eq!(windows.open().begin, begin);
        assert_eq!(rows + windows.open().summary.count(), 30_000);
        assert_eq!(windows.saved_upto(), 0);
        windows.saved(7);
        assert_eq!(windows.saved_upto(), begin);
    }

    #[test]
    fn a_long_window_is_closed_and_an_empty_one_is_none() {
        let mut windows = windows();
        windows.passed(&[], 500, 100);
        assert_eq!((windows.unsaved(), windows.saved_upto()), (&[][..], 500));
        windows.passed(&marks(500, 501, 1), 550, 100);
        assert!(windows.unsaved().is_empty());
        windows.passed(&[], 600, 100);
        let of = |window: &Window| (window.begin, window.upto, window.summary.count());
        let closed: Vec<_> = windows.unsaved().iter().map(of).collect();
        assert_eq!(closed, [(500, 600, 1)]);
    }

    #[test]
    fn while_nothing_can_be_saved_few_windows_wait() {
        let mut windows = windows();
        for n in 0..1_000 {
            windows.passed(&marks(n, n + 1, 1), n + 1, 1);
        }
        assert_eq!(windows.unsaved().len(), UNSAVED);
        assert_eq!(windows.open().summary.count(), 1_000 - UNSAVED as u64);
        windows.saved(UNSAVED);
        windows.passed(&[], 1_001, 1);
        assert_eq!(windows.unsaved().len(), 1, "then it goes on");
    }
}
