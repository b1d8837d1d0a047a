//! Predicates on what was written and what arrived. Pure.
//!
//! 1. Nothing is lost: every acknowledged write has a record.
//! 2. Nothing is invented or altered: every record is a write, byte for byte.
//! 3. Per key, first occurrences are in the order of the writes.
//! 4. Duplicates stay within a bound.
//!
//! Not here: which bound; the case knows what it did to the relay.

use super::collector::Record;
use super::say;
use std::collections::{BTreeMap, HashMap, HashSet};

/// An acknowledged write. Writes of one key stand in the order of their acknowledgements.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Written {
    pub(crate) id: String,
    pub(crate) topic: String,
    pub(crate) key: String,
    pub(crate) payload: Vec<u8>,
    /// All headers but `created-at`.
    pub(crate) headers: BTreeMap<String, Vec<u8>>,
    /// Whether the table has a creation time, which becomes the header `created-at`.
    pub(crate) timed: bool,
}

/// The ids of writes that never arrived.
pub(crate) fn lost(written: &[Written], records: &[Record]) -> Vec<String> {
    let arrived: HashSet<String> = records.iter().map(Record::id).collect();
    written
        .iter()
        .filter(|write| !arrived.contains(&write.id))
        .map(|write| write.id.clone())
        .collect()
}

/// What is wrong with records that no write explains.
pub(crate) fn invented_or_altered(written: &[Written], records: &[Record]) -> Vec<String> {
    let writes: HashMap<&str, &Written> = written
        .iter()
        .map(|write| (write.id.as_str(), write))
        .collect();
    records
        .iter()
        .filter_map(|record| match writes.get(record.id().as_str()) {
            None => Some(format!("{}: nobody wrote it", record.id())),
            Some(write) => alteration(write, record).map(|what| format!("{}: {what}", write.id)),
        })
        .collect()
}

fn alteration(write: &Written, record: &Record) -> Option<String> {
    if record.topic != write.topic {
        return Some(format!("topic {} instead of {}", record.topic, write.topic));
    }
    if record.key != write.key.as_bytes() {
        return Some("the key differs".to_owned());
    }
    if record.payload.as_deref() != Some(write.payload.as_slice()) {
        return Some("the payload differs".to_owned());
    }
    let mut headers: BTreeMap<String, Vec<u8>> = record.headers.iter().cloned().collect();
    if headers.len() != record.headers.len() {
        return Some("a header is there twice".to_owned());
    }
    let created_at = headers.remove("created-at");
    if created_at.is_some() != write.timed {
        return Some("the header created-at is missing or out of place".to_owned());
    }
    if created_at.is_some_and(|time| !is_time(&time)) {
        return Some("the header created-at is no time of RFC 3339".to_owned());
    }
    (headers != write.headers).then(|| {
        let names = |headers: &BTreeMap<String, Vec<u8>>| {
            headers
                .iter()
                .map(|(name, value)| format!("{name}={}", String::from_utf8_lossy(value)))
                .collect::<Vec<_>>()
                .join(", ")
        };
        format!(
            "headers [{}] instead of [{}]",
            names(&headers),
            names(&write.headers)
        )
    })
}

/// `2026-01-31T12:34:56.789Z`, with or without a fraction.
fn is_time(text: &[u8]) -> bool {
    const PATTERN: &[u8] = b"dddd-dd-ddTdd:dd:dd";
    text.len() > PATTERN.len()
        && text.ends_with(b"Z")
        && PATTERN
            .iter()
            .zip(text)
            .all(|(pattern, byte)| match pattern {
                b'd' => byte.is_ascii_digit(),
                exact => byte == exact,
            })
}

/// Keys whose first occurrences are not in the order of the writes, each with the first event that
/// is out of place.
pub(crate) fn reordered(written: &[Written], records: &[Record]) -> Vec<String> {
    let mut arrived: HashMap<Vec<u8>, Vec<String>> = HashMap::new();
    let mut seen = HashSet::new();
    for record in records {
        if seen.insert(record.id()) {
            arrived
                .entry(record.key.clone())
                .or_default()
                .push(record.id());
        }
    }
    let mut wanted: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for write in written.iter().filter(|write| seen.contains(&write.id)) {
        wanted.entry(&write.key).or_default().push(&write.id);
    }
    wanted
        .into_iter()
        .filter_map(|(key, wanted)| {
            let arrived = arrived.get(key.as_bytes())?;
            let (wanted, got) = wanted.iter().zip(arrived).find(|(a, b)| *a != b)?;
            Some(format!("key {key}: {got} came before {wanted}"))
        })
        .collect()
}

/// Records beyond the first of each event.
pub(crate) fn duplicates(records: &[Record]) -> usize {
    let distinct: HashSet<String> = records.iter().map(Record::id).collect();
    records.len() - distinct.len()
}

/// Keys that lie in more than one partition.
pub(crate) fn scattered(records: &[Record]) -> Vec<String> {
    let mut home = HashMap::new();
    records
        .iter()
        .filter(|record| {
            let partition = *home
                .entry((&record.topic, &record.key))
                .or_insert(record.partition);
            partition != record.partition
        })
        .map(|record| String::from_utf8_lossy(&record.key).into_owned())
        .collect()
}

/// Asserts 1 to 3, and prints what was found.
pub(crate) fn assert_delivered(case: &str, written: &[Written], records: &[Record]) {
    let lost = lost(written, records);
    let wrong = invented_or_altered(written, records);
    let reordered = reordered(written, records);
    let scattered = scattered(records);
    say(&format!(
        "{case}: {} written, {} records, {} duplicates, {} lost, {} wrong, {} keys out of order",
        written.len(),
        records.len(),
        duplicates(records),
        lost.len(),
        wrong.len(),
        reordered.len()
    ));
    let show = |list: &[String]| list[..list.len().min(5)].join("\n  ");
    assert!(lost.is_empty(), "{case}: lost\n  {}", show(&lost));
    assert!(wrong.is_empty(), "{case}: wrong\n  {}", show(&wrong));
    assert!(
        reordered.is_empty(),
        "{case}: reordered\n  {}",
        show(&reordered)
    );
    assert!(
        scattered.is_empty(),
        "{case}: keys in two partitions\n  {}",
        show(&scattered)
    );
}

mod tests {
    use super::*;
    use std::time::Instant;

    fn written(id: &str, key: &str) -> Written {
        Written {
            id: id.to_owned(),
            topic: "t".to_owned(),
            key: key.to_owned(),
            payload: b"p".to_vec(),
            headers: BTreeMap::from([("id".to_owned(), id.as_bytes().to_vec())]),
            timed: false,
        }
    }

    fn record(id: &str, key: &str) -> Record {
        Record {
            topic: "t".to_owned(),
            partition: 0,
            arrived: Instant::now(),
            key: key.as_bytes().to_vec(),
            payload: Some(b"p".to_vec()),
            headers: vec![("id".to_owned(), id.as_bytes().to_vec())],
        }
    }

    #[test]
    fn a_faithful_copy_passes() {
        let writes = [written("1", "a"), written("2", "b"), written("3", "a")];
        let records = [
            record("2", "b"),
            record("1", "a"),
            record("1", "a"),
            record("3", "a"),
        ];
        assert_delivered("a faithful copy", &writes, &records);
        assert_eq!(duplicates(&records), 1);
    }

    #[test]
    fn losses_and_inventions_are_found() {
        assert_eq!(lost(&[written("1", "a")], &[]), ["1"]);
        assert_eq!(invented_or_altered(&[], &[record("9", "a")]).len(), 1);
        let mut altered = record("1", "a");
        altered.payload = None;
        assert_eq!(
            invented_or_altered(&[written("1", "a")], &[altered]).len(),
            1
        );
        let mut extra = record("1", "a");
        extra.headers.push(("x".to_owned(), Vec::new()));
        assert_eq!(invented_or_altered(&[written("1", "a")], &[extra]).len(), 1);
    }

    #[test]
    fn order_is_that_of_first_occurrences() {
        let writes = [written("1", "a"), written("2", "a")];
        let repeated = [record("1", "a"), record("2", "a"), record("1", "a")];
        assert!(reordered(&writes, &repeated).is_empty());
        let swapped = [record("2", "a"), record("1", "a"), record("2", "a")];
        assert_eq!(reordered(&writes, &swapped).len(), 1);
    }

    #[test]
    fn a_key_has_one_partition() {
        let mut elsewhere = record("2", "a");
        elsewhere.partition = 1;
        assert_eq!(scattered(&[record("1", "a"), elsewhere]), ["a"]);
    }

    #[test]
    fn times_are_recognized() {
        assert!(is_time(b"2026-01-31T12:34:56.789Z"));
        assert!(is_time(b"2026-01-31T12:34:56Z"));
        assert!(!is_time(b"2026-01-31 12:34:56Z"));
        assert!(!is_time(b"1769862896789"));
    }
}
