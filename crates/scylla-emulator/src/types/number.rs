//! Numbers of any size: `varint` and `decimal`.

use std::cmp::Ordering;
use std::fmt;

use num_bigint::{BigInt, Sign};

/// Digits beyond which two decimals are no longer brought to one scale to compare them.
const MAX_ALIGN: u64 = 4096;

/// `unscaled × 10^-scale`. Compared as numbers: 1.1 and 1.10 are equal.
#[derive(Debug, Clone)]
pub struct Decimal {
    /// The digits.
    pub unscaled: BigInt,
    /// How many of them are behind the point; may be negative.
    pub scale: i32,
}

impl Decimal {
    /// Parses `12`, `-1.50`, `1e-3`.
    pub fn parse(text: &str) -> Option<Self> {
        let (mantissa, exponent) = match text.find(['e', 'E']) {
            Some(at) => (&text[..at], text[at + 1..].parse::<i32>().ok()?),
            None => (text, 0),
        };
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        if fraction.contains(['+', '-', '_']) || whole.contains('_') {
            return None;
        }
        let digits = format!("{whole}{fraction}");
        let unscaled = BigInt::parse_bytes(digits.as_bytes(), 10)?;
        let scale = i32::try_from(fraction.len()).ok()?.checked_sub(exponent)?;
        Some(Self { unscaled, scale })
    }

    /// Decimal digits left of the point (may be negative), to order numbers far apart.
    fn magnitude(&self) -> i64 {
        let digits = self.unscaled.magnitude().to_string().len() as i64;
        digits - i64::from(self.scale)
    }
}

impl Ord for Decimal {
    fn cmp(&self, other: &Self) -> Ordering {
        let signs = (self.unscaled.sign(), other.unscaled.sign());
        if signs.0 != signs.1 || signs.0 == Sign::NoSign {
            return signs.0.cmp(&signs.1);
        }
        let by_size = self.magnitude().cmp(&other.magnitude());
        let by_size = if signs.0 == Sign::Minus {
            by_size.reverse()
        } else {
            by_size
        };
        if by_size != Ordering::Equal {
            return by_size;
        }
        let gap = i64::from(self.scale).abs_diff(i64::from(other.scale));
        if gap > MAX_ALIGN {
            return self.scale.cmp(&other.scale);
        }
        let factor = BigInt::from(10).pow(gap as u32);
        if self.scale < other.scale {
            (&self.unscaled * factor).cmp(&other.unscaled)
        } else {
            self.unscaled.cmp(&(&other.unscaled * factor))
        }
    }
}

impl PartialEq for Decimal {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Decimal {}

impl PartialOrd for Decimal {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = self.unscaled.magnitude().to_string();
        if self.unscaled.sign() == Sign::Minus {
            f.write_str("-")?;
        }
        if self.scale == 0 {
            f.write_str(&digits)
        } else if self.scale > 0 && (self.scale as usize) <= digits.len() + 6 {
            let scale = self.scale as usize;
            let padded = format!("{digits:0>width$}", width = scale + 1);
            let (whole, fraction) = padded.split_at(padded.len() - scale);
            write!(f, "{whole}.{fraction}")
        } else {
            write!(f, "{digits}E{}", -i64::from(self.scale))
        }
    }
}

/// Two's complement, big-endian, as short as possible.
pub fn encode_varint(value: &BigInt) -> Vec<u8> {
    value.to_signed_bytes_be()
}

/// The reverse of [`encode_varint`].
pub fn decode_varint(bytes: &[u8]) -> BigInt {
    BigInt::from_signed_bytes_be(bytes)
}
