//! Which stream group of a generation has a partition: by the partition's token.
//!
//! A group has the tokens above the last one of the group before, up to and with its own last one;
//! the first group also has what is above the last group's, as the ring closes there.

/// The index of the group that has `token`, by the last token of each group, in ascending order;
/// `None` if there is no group.
pub fn group_of(token: i64, last_tokens: &[i64]) -> Option<usize> {
    let index = last_tokens.partition_point(|last| *last < token);
    let index = if index == last_tokens.len() { 0 } else { index };
    (!last_tokens.is_empty()).then_some(index)
}

/// The groups of one generation on the ring of tokens, each with what it is known by.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ring<T> {
    last_tokens: Vec<i64>,
    groups: Vec<T>,
}

impl<T> FromIterator<(i64, T)> for Ring<T> {
    /// All groups of a generation with their last tokens, in any order. One that is left out would
    /// leave its tokens to another.
    fn from_iter<I: IntoIterator<Item = (i64, T)>>(groups: I) -> Self {
        let mut groups: Vec<(i64, T)> = groups.into_iter().collect();
        groups.sort_by_key(|(last_token, _)| *last_token);
        let (last_tokens, groups) = groups.into_iter().unzip();
        Self {
            last_tokens,
            groups,
        }
    }
}

impl<T> Ring<T> {
    /// The group that has `token`.
    pub fn get(&self, token: i64) -> Option<&T> {
        self.groups.get(group_of(token, &self.last_tokens)?)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_group_ends_with_its_last_token_and_the_first_one_wraps() {
        let ends = [-100, 0, 100];
        for (token, group) in [
            (i64::MIN, 0),
            (-101, 0),
            (-100, 0),
            (-99, 1),
            (0, 1),
            (1, 2),
            (100, 2),
            (101, 0),
            (i64::MAX, 0),
        ] {
            assert_eq!(group_of(token, &ends), Some(group), "{token}");
        }
        assert_eq!(group_of(5, &[7]), Some(0));
        assert_eq!(group_of(9, &[7]), Some(0));
        assert_eq!(group_of(0, &[]), None);
    }

    #[test]
    fn a_ring_takes_groups_in_any_order() {
        let ring: Ring<_> = [(100, 'c'), (-100, 'a'), (0, 'b')].into_iter().collect();
        let found = [-100, -1, 1, 101].map(|token| ring.get(token).copied());
        assert_eq!(found, ['a', 'b', 'c', 'a'].map(Some));
        assert_eq!(Ring::<()>::default().get(0), None);
    }

    proptest! {
        #[test]
        fn it_is_the_nearest_end_upwards(
            mut ends in prop::collection::vec(any::<i64>(), 1..50),
            token: i64,
        ) {
            ends.sort_unstable();
            ends.dedup();
            let distance = |end: i64| (end as u64).wrapping_sub(token as u64);
            let nearest = (0..ends.len()).min_by_key(|index| distance(ends[*index]));
            prop_assert_eq!(group_of(token, &ends), nearest);
        }
    }
}
