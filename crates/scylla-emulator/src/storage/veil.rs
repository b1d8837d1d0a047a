//! What hides a row that has been written.
//!
//! Invariants
//! 1. A row that was hidden and is shown once is not hidden again, unless the clock is set back.
//! 2. The rows that share a veil are hidden from one read all or none.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Hides the log rows of one write, for a time or from some reads.
#[derive(Debug)]
pub struct Veil {
    until_micros: i64,
    reads: Option<Mutex<Reads>>,
}

#[derive(Debug)]
struct Reads {
    left: u32,
    /// Reads that the rows were hidden from.
    hid_from: Vec<u64>,
}

impl Veil {
    /// Hides until the server's clock shows this time, in microseconds since the epoch.
    pub fn until(micros: i64) -> Self {
        Self {
            until_micros: micros,
            reads: None,
        }
    }

    /// Hides from the next `reads` reads that would return the rows.
    pub fn from_reads(reads: u32) -> Self {
        let reads = Reads {
            left: reads,
            hid_from: Vec::new(),
        };
        Self {
            until_micros: i64::MIN,
            reads: Some(Mutex::new(reads)),
        }
    }

    /// Whether no read may see the rows at this time.
    pub fn hides_at(&self, now_micros: i64) -> bool {
        now_micros < self.until_micros
    }

    /// Whether this read, which would return the rows, may not see them; counts the read.
    pub fn hides_from(&self, read: &mut ReadId) -> bool {
        let Some(reads) = &self.reads else {
            return false;
        };
        let read = read.get();
        let mut reads = reads.lock().unwrap_or_else(PoisonError::into_inner);
        if reads.hid_from.contains(&read) {
            return true;
        }
        if reads.left == 0 {
            return false;
        }
        reads.left -= 1;
        reads.hid_from.push(read);
        true
    }
}

/// Tells one read (one page) from another; made only for reads that meet a veil.
#[derive(Debug, Default)]
pub struct ReadId(Option<u64>);

impl ReadId {
    fn get(&mut self) -> u64 {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        *self
            .0
            .get_or_insert_with(|| NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_hides_from_every_read_until_then() {
        let veil = Veil::until(10);
        assert!(veil.hides_at(9));
        assert!(!veil.hides_at(10));
        assert!(!veil.hides_from(&mut ReadId::default()));
    }

    #[test]
    fn a_read_sees_all_rows_of_a_write_or_none() {
        let veil = Veil::from_reads(2);
        let [mut first, mut second, mut third] = [(); 3].map(|()| ReadId::default());
        assert!(!veil.hides_at(i64::MIN));
        assert!(veil.hides_from(&mut first));
        assert!(veil.hides_from(&mut second));
        assert!(!veil.hides_from(&mut third));
        assert!(veil.hides_from(&mut first), "its other rows too");
    }
}
