//! A small seeded generator (SplitMix64), shared by threads without a lock.
//!
//! The same seed gives the same cluster: tokens, host ids, stream ids. It is not for secrets.

use std::sync::atomic::{AtomicU64, Ordering};

/// A seeded source of well-mixed 64-bit numbers.
#[derive(Debug)]
pub struct Random(AtomicU64);

impl Random {
    /// A generator whose sequence depends on `seed` alone.
    pub fn new(seed: u64) -> Self {
        Self(AtomicU64::new(seed))
    }

    /// The next number.
    pub fn next(&self) -> u64 {
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut z = self.0.fetch_add(STEP, Ordering::Relaxed).wrapping_add(STEP);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A version 4 UUID.
    pub fn uuid(&self) -> uuid::Uuid {
        let bits = (u128::from(self.next()) << 64) | u128::from(self.next());
        uuid::Builder::from_random_bytes(bits.to_be_bytes()).into_uuid()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_fixes_the_sequence() {
        let (one, two) = (Random::new(7), Random::new(7));
        let first: Vec<u64> = (0..8).map(|_| one.next()).collect();
        let second: Vec<u64> = (0..8).map(|_| two.next()).collect();
        assert_eq!(first, second);
        assert_ne!(first[0], Random::new(8).next());
    }
}
