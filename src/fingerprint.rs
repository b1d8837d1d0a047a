//! Hashes of 128 bits that stand for what is too large to keep.
//!
//! Two values with one hash are not brought about by chance, and not by intent either: the keys of
//! the hash are drawn anew in each process.

use std::hash::{BuildHasher, Hash, RandomState};

/// Makes fingerprints that can be compared with each other, in this process only.
#[derive(Debug, Clone, Default)]
pub struct Fingerprints([RandomState; 2]);

impl Fingerprints {
    /// The fingerprint of a value.
    pub fn of(&self, value: impl Hash) -> u128 {
        let [high, low] = self.0.each_ref().map(|hasher| hasher.hash_one(&value));
        (u128::from(high) << 64) | u128::from(low)
    }
}
