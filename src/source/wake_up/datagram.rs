//! What a hint looks like on the wire: the decoder.
//!
//! The format is described where it is made, in `crates/outbox-writer/src/wake_up.rs`, and tested
//! with the same bytes. Whatever comes, nothing is allocated for it.

/// The longest datagram, as the writer makes them.
pub(super) const MAX_BYTES: usize = 1_200;

const MAGIC: &[u8] = b"OBWU";
const VERSION: u8 = 1;

/// Partitions of a table that were just written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Datagram<'d> {
    /// `keyspace.table`; any text, it is not checked.
    pub(super) table: &'d str,
    tokens: &'d [[u8; 8]],
}

impl<'d> Datagram<'d> {
    /// Decodes it; `None` for anything that is not a hint of this version.
    pub(super) fn decode(bytes: &'d [u8]) -> Option<Self> {
        if bytes.len() > MAX_BYTES {
            return None;
        }
        let (version, rest) = bytes.strip_prefix(MAGIC)?.split_first()?;
        if *version != VERSION {
            return None;
        }
        let (length, rest) = rest.split_first_chunk::<2>()?;
        let (table, rest) = rest.split_at_checked(u16::from_be_bytes(*length).into())?;
        let table = std::str::from_utf8(table).ok()?;
        let (tokens, rest) = rest.as_chunks::<8>();
        let whole = !table.is_empty() && !tokens.is_empty() && rest.is_empty();
        whole.then_some(Self { table, tokens })
    }

    /// The tokens of the partitions.
    pub(super) fn tokens(&self) -> impl ExactSizeIterator<Item = i64> {
        self.tokens.iter().copied().map(i64::from_be_bytes)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The writer's encoder is tested with the same bytes.
    const GOLDEN: &[u8] = b"OBWU\x01\x00\x0bshop.outbox\
        \x80\x00\x00\x00\x00\x00\x00\x00\
        \xff\xff\xff\xff\xff\xff\xff\xfe\
        \x01\x23\x45\x67\x89\xab\xcd\xef";

    #[test]
    fn these_bytes_are_a_datagram() {
        let datagram = Datagram::decode(GOLDEN).expect("a hint");
        assert_eq!(datagram.table, "shop.outbox");
        let tokens: Vec<i64> = datagram.tokens().collect();
        assert_eq!(tokens, [i64::MIN, -2, 0x0123_4567_89ab_cdef]);
    }

    #[test]
    fn others_are_none() {
        let with = |at: usize, byte: u8| {
            let mut bytes = GOLDEN.to_vec();
            bytes[at] = byte;
            bytes
        };
        let longest = |tokens: usize| [&GOLDEN[..18], &vec![0; 8 * tokens]].concat();
        assert!(Datagram::decode(&longest(147)).is_some());
        for garbage in [
            with(0, b'X'),
            with(4, 0),
            with(4, 2),
            // A name that is longer than what there is, not UTF-8, or nothing.
            with(5, 1),
            with(8, 0xff),
            b"OBWU\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00".to_vec(),
            longest(0),
            longest(148),
            [GOLDEN, b"x"].concat(),
        ] {
            assert_eq!(Datagram::decode(&garbage), None, "{garbage:?}");
        }
        for length in 0..GOLDEN.len() {
            let whole = length > 18 && (length - 18) % 8 == 0;
            assert_eq!(Datagram::decode(&GOLDEN[..length]).is_some(), whole);
        }
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(tail in prop::collection::vec(any::<u8>(), 0..1_300)) {
            let _ = Datagram::decode(&tail);
            let _ = Datagram::decode(&[b"OBWU\x01".as_slice(), &tail].concat());
        }
    }
}
