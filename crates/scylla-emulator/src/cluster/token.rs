//! Tokens: the Murmur3 partitioner and the way a partition key becomes bytes.
//!
//! Invariants
//! 1. `Token::of_key` equals what ScyllaDB and Cassandra compute, including the sign extension of the tail bytes
//!    that sets their Murmur3 apart from the published one.
//! 2. `i64::MIN` is never the token of a key: it stands for "before every token" and is mapped to `i64::MAX`.

/// A position on the ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub i64);

impl Token {
    /// The token of a partition key in its serialised form (see [`composite_key`]).
    pub fn of_key(key: &[u8]) -> Self {
        if key.is_empty() {
            return Self(i64::MIN);
        }
        Self::normalised(murmur3_h1(key) as i64)
    }

    /// The token of a CDC log partition: the first eight bytes of the stream id, big-endian.
    pub fn of_stream(stream: &[u8]) -> Self {
        match stream.first_chunk::<8>() {
            Some(head) => Self::normalised(i64::from_be_bytes(*head)),
            None => Self(i64::MIN),
        }
    }

    fn normalised(raw: i64) -> Self {
        Self(if raw == i64::MIN { i64::MAX } else { raw })
    }

    /// The token shifted so that the ring starts at zero.
    pub fn biased(self) -> u64 {
        (self.0 as u64) ^ (1 << 63)
    }

    /// The inverse of [`Token::biased`].
    pub fn from_biased(biased: u64) -> Self {
        Self((biased ^ (1 << 63)) as i64)
    }
}

/// Serialises the values of a partition key: one value as it is, several each with a 16-bit length and a zero byte.
/// A value longer than 65,535 bytes cannot be a key; callers refuse it before.
pub fn composite_key<V: AsRef<[u8]>>(values: &[V]) -> Vec<u8> {
    if let [single] = values {
        return single.as_ref().to_vec();
    }
    let mut key = Vec::with_capacity(values.iter().map(|value| value.as_ref().len() + 3).sum());
    for value in values {
        let value = value.as_ref();
        key.extend_from_slice(&(value.len() as u16).to_be_bytes());
        key.extend_from_slice(value);
        key.push(0);
    }
    key
}

const C1: u64 = 0x87c3_7b91_1142_53d5;
const C2: u64 = 0x4cf5_ad43_2745_937f;

fn mix_k1(k: u64) -> u64 {
    k.wrapping_mul(C1).rotate_left(31).wrapping_mul(C2)
}

fn mix_k2(k: u64) -> u64 {
    k.wrapping_mul(C2).rotate_left(33).wrapping_mul(C1)
}

fn finalise(mut h: u64) -> u64 {
    h ^= h >> 33;
    h = h.wrapping_mul(0xff51_afd7_ed55_8ccd);
    h ^= h >> 33;
    h = h.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    h ^ (h >> 33)
}

/// A tail byte as Java reads it: sign-extended to 64 bits.
fn signed(byte: u8) -> u64 {
    i64::from(byte.cast_signed()) as u64
}

fn word(chunk: &[u8]) -> u64 {
    chunk
        .iter()
        .rev()
        .fold(0, |word, byte| (word << 8) | u64::from(*byte))
}

/// The first half of `MurmurHash3_x64_128` with seed 0 and signed tail bytes.
fn murmur3_h1(data: &[u8]) -> u64 {
    let (mut h1, mut h2) = (0_u64, 0_u64);
    let blocks = data.chunks_exact(16);
    let tail = blocks.remainder();
    for block in blocks {
        h1 ^= mix_k1(word(&block[..8]));
        h1 = h1
            .rotate_left(27)
            .wrapping_add(h2)
            .wrapping_mul(5)
            .wrapping_add(0x52dc_e729);
        h2 ^= mix_k2(word(&block[8..]));
        h2 = h2
            .rotate_left(31)
            .wrapping_add(h1)
            .wrapping_mul(5)
            .wrapping_add(0x3849_5ab5);
    }
    let fold = |bytes: &[u8]| {
        bytes
            .iter()
            .enumerate()
            .fold(0_u64, |k, (at, byte)| k ^ (signed(*byte) << (8 * at)))
    };
    if tail.len() > 8 {
        h2 ^= mix_k2(fold(&tail[8..]));
    }
    if !tail.is_empty() {
        h1 ^= mix_k1(fold(&tail[..tail.len().min(8)]));
    }
    h1 ^= data.len() as u64;
    h2 ^= data.len() as u64;
    h1 = h1.wrapping_add(h2);
    h2 = h2.wrapping_add(h1);
    h1 = finalise(h1);
    h2 = finalise(h2);
    h1.wrapping_add(h2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn composite_keys_have_length_and_end_byte() {
        assert_eq!(composite_key(&[b"ab"]), b"ab");
        assert_eq!(
            composite_key(&[&b"ab"[..], &b"c"[..]]),
            b"\x00\x02ab\x00\x00\x01c\x00"
        );
    }

    #[test]
    fn biased_keeps_order() {
        for (low, high) in [(i64::MIN, -1), (-1, 0), (0, i64::MAX)] {
            assert!(Token(low).biased() < Token(high).biased());
            assert_eq!(Token::from_biased(Token(low).biased()), Token(low));
        }
    }

    #[test]
    fn tokens_known_from_the_drivers() {
        assert_eq!(Token::of_key(b"test"), Token(-6_017_608_668_500_074_083));
        assert_eq!(Token::of_key(b"xd"), Token(4_507_812_186_440_344_727));
        assert_eq!(
            Token::of_key(b"primary_key"),
            Token(-1_632_642_444_691_073_360)
        );
        assert_eq!(
            Token::of_key("kremówki".as_bytes()),
            Token(4_354_931_215_268_080_151)
        );
    }
}
