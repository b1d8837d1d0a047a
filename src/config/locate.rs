//! Finds the line of a key in a YAML text.
//!
//! The text is read once more, along the key's path, and the reading made to fail right there:
//! the YAML reader's error then carries the place. This is done only for messages.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::path::{Path, Segment};

/// The line, from 1, of the key or the list item at `path`.
pub(super) fn line_of(text: &str, path: &Path) -> Option<usize> {
    let yaml = serde_yaml::Deserializer::from_str(text);
    let error = Seek(path.segments()).deserialize(yaml).err()?;
    let found = error.to_string().contains(FOUND);
    found.then_some(error.location()?.line())
}

const FOUND: &str = "the place that was looked for";

struct Seek<'a>(&'a [Segment]);

impl<'de> DeserializeSeed<'de> for Seek<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seek<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A list item is found by asking for something that it cannot be.
        f.write_str(if self.0.is_empty() { FOUND } else { "a way on" })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Some((Segment::Key(key), rest)) = self.0.split_first() else {
            return Err(A::Error::custom(if self.0.is_empty() { FOUND } else { "" }));
        };
        let last = rest.is_empty();
        while let Some(here) = map.next_key_seed(Key { key, last })? {
            if here {
                map.next_value_seed(Seek(rest))?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let Some((Segment::Index(index), rest)) = self.0.split_first() else {
            return Err(A::Error::custom(if self.0.is_empty() { FOUND } else { "" }));
        };
        for _ in 0..*index {
            list.next_element::<IgnoredAny>()?;
        }
        list.next_element_seed(Seek(rest))?;
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(())
    }
}

struct Key<'a> {
    key: &'a str,
    last: bool,
}

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Key<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<bool, E> {
        if text == self.key && self.last {
            return Err(E::custom(FOUND));
        }
        Ok(text == self.key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_items_are_found() {
        let text = "# comment\nkafka:\n  brokers:\n    - a:1\n    - b:2\n\noutboxes:\n  - table: x.y\n    \
                    columns: { id: a,\n      key: b }\n  - table: z\n";
        let root = Path::root();
        let outboxes = root.key("outboxes");
        let line = |path: &Path| line_of(text, path);
        assert_eq!(line(&root.key("kafka")), Some(2));
        assert_eq!(line(&root.key("kafka").key("brokers")), Some(3));
        assert_eq!(line(&root.key("kafka").key("brokers").index(1)), Some(5));
        let columns = outboxes.index(0).key("columns");
        assert_eq!(line(&columns.key("key")), Some(10));
        assert_eq!(line(&outboxes.index(1)), Some(11));
        assert_eq!(line(&outboxes.index(1).key("table")), Some(11));
        assert_eq!(line(&outboxes.index(1).key("topic")), None);
        assert_eq!(line(&root.key("nothing")), None);
    }
}
