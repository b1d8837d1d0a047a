//! Random numbers that can be had again.

use super::say;

/// Takes a seed for the random numbers of all cases.
const VARIABLE: &str = "OUTBOX_RELAY_TEST_SEED";

/// Random numbers that a seed determines (`SplitMix64`).
pub(crate) struct Seed(u64);

impl Seed {
    /// A seed from the environment, or a new one; prints it.
    pub(crate) fn of(case: &str) -> Self {
        let given = std::env::var(VARIABLE).ok();
        let seed = given.and_then(|seed| seed.parse().ok());
        let seed = seed.unwrap_or_else(|| uuid::Uuid::new_v4().as_u128() as u64);
        say(&format!("{case}: {VARIABLE}={seed}"));
        Self(seed)
    }

    /// A number below `bound`, which is not zero.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % bound as u64) as usize
    }
}
