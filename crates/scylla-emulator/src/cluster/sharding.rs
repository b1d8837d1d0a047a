//! How a node's tokens are spread over its shards: ScyllaDB's "biased-token-round-robin".

use super::token::Token;

/// Number of most significant token bits that do not take part in choosing a shard; ScyllaDB's default.
pub const IGNORE_MSB_BITS: u32 = 12;

/// The shard that owns a token on a node with `shards` shards.
pub fn shard_of(token: Token, shards: u16) -> u16 {
    let spread = u128::from(token.biased() << IGNORE_MSB_BITS);
    ((spread * u128::from(shards.max(1))) >> 64) as u16
}

/// The first token at or after `from` that `shard` owns, or `None` when the ring ends before one comes.
pub fn first_token_of_shard(from: Token, shard: u16, shards: u16) -> Option<Token> {
    if shard_of(from, shards) == shard {
        return Some(from);
    }
    let shards = u128::from(shards.max(1));
    let start = (u128::from(shard) << 64).div_ceil(shards);
    let offset = start.div_ceil(1 << IGNORE_MSB_BITS) as u64;
    let segment_bits = u64::BITS - IGNORE_MSB_BITS;
    let segment = from.biased() >> segment_bits;
    let here = (segment << segment_bits) | offset;
    if here >= from.biased() {
        return Some(Token::from_biased(here));
    }
    let next = segment + 1;
    (next < 1 << IGNORE_MSB_BITS).then(|| Token::from_biased((next << segment_bits) | offset))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn first_token_belongs_to_its_shard(from in any::<i64>(), shards in 1_u16..64, pick in any::<u16>()) {
            let shard = pick % shards;
            if let Some(token) = first_token_of_shard(Token(from), shard, shards) {
                prop_assert!(token >= Token(from));
                prop_assert_eq!(shard_of(token, shards), shard);
                if token > Token(from) {
                    prop_assert_ne!(shard_of(Token(token.0 - 1), shards), shard);
                }
            }
        }
    }
}
