//! The simulated database: the log, the dead letters, the checkpoints.

use std::collections::BTreeMap;

use bytes::Bytes;
use outbox_relay::checkpoint::GroupKey;
use outbox_relay::dead_letters::{DeadLetter, Place, Reason};
use outbox_relay::event::{Position, RowKey};
use outbox_relay::source::changes::LogRow;
use outbox_relay::source::reader::Range;
use scylla::value::CqlValue;
use scylla_cdc::cdc_types::StreamID;
use scylla_cdc::consumer::OperationType;

use crate::random::Random;
use crate::source_side::Form;
use crate::wire::Answer;

/// A stream: generation, group and stream by their indexes.
pub(crate) type StreamKey = [u8; 3];

/// The id of a stream.
pub(crate) fn stream_id(key: StreamKey) -> StreamID {
    StreamID::new(key.to_vec())
}

/// One row of the log.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    /// The event that it says.
    pub(crate) event: usize,
    /// Its stream.
    pub(crate) stream: StreamKey,
    /// Its place there.
    pub(crate) position: Position,
    /// Not seen by reads that end before.
    pub(crate) begun: i64,
    /// Seen by all reads that begin at this time or later.
    pub(crate) visible: i64,
    /// Not seen from then on.
    pub(crate) gone: i64,
    /// Number of the write; rows of one write are seen together.
    pub(crate) write: usize,
    /// Whether it is the last one of its write.
    pub(crate) last: bool,
    /// What it holds: id (none if it is broken), key, payload.
    pub(crate) values: [Option<String>; 3],
}

/// A checkpoint on its way to the table.
#[derive(Debug, Clone)]
pub(crate) struct Save {
    /// The group.
    pub(crate) key: GroupKey,
    /// What is stored.
    pub(crate) form: Form,
    /// Its timestamp.
    pub(crate) timestamp: i64,
    /// For the oracles: rows above W that the source knew to be settled.
    pub(crate) settled: Vec<(StreamKey, Position)>,
}

/// A dead letter in the table.
#[derive(Debug, Clone)]
pub(crate) struct Kept {
    /// What it says.
    pub(crate) letter: DeadLetter,
    stamp: i64,
}

/// All tables.
#[derive(Debug, Default)]
pub(crate) struct Database {
    /// All rows that were ever written.
    pub(crate) rows: Vec<Row>,
    /// Rows by stream and place.
    pub(crate) log: BTreeMap<(StreamKey, Position), usize>,
    /// Stored checkpoints.
    pub(crate) checkpoints: BTreeMap<GroupKey, Save>,
    /// Dead letters by key and place.
    pub(crate) letters: BTreeMap<(Bytes, Place), Kept>,
    removed: BTreeMap<(Bytes, Place), i64>,
    streams: BTreeMap<StreamID, StreamKey>,
}

impl Database {
    /// Empty tables, whose log has these streams.
    pub(crate) fn new(streams: impl Iterator<Item = StreamKey>) -> Self {
        Self {
            streams: streams.map(|stream| (stream_id(stream), stream)).collect(),
            ..Self::default()
        }
    }

    /// Adds a row.
    pub(crate) fn insert(&mut self, row: Row) -> usize {
        let number = self.rows.len();
        self.log.insert((row.stream, row.position), number);
        self.rows.push(row);
        number
    }

    /// The page that a read which began at `began` and ends at `now` gets.
    #[expect(clippy::too_many_arguments, reason = "a read is what it is")]
    pub(crate) fn page(
        &mut self,
        streams: &[StreamKey],
        range: Range,
        after: Option<(u16, Position)>,
        keys: bool,
        (began, now): (i64, i64),
        most: usize,
        torn: bool,
        random: &mut Random,
    ) -> Answer {
        let moment = random.range(began, now);
        let mut seen: Vec<(usize, bool)> = Vec::new();
        let mut rows: Vec<(u16, &Row)> = Vec::new();
        let first = after.map_or(0, |(stream, _)| stream);
        'streams: for (index, stream) in (0_u16..).zip(streams).skip(usize::from(first)) {
            let from = Position {
                time: outbox_relay::source::bounds::first_timeuuid(range.after.saturating_add(1)),
                seq: i32::MIN,
            };
            for ((of, position), number) in self.log.range((*stream, from)..) {
                if of != stream || range.upto.is_some_and(|upto| position.micros() > upto) {
                    break;
                }
                if after.is_some_and(|after| (index, *position) <= after) {
                    continue;
                }
                let row = &self.rows[*number];
                let is_seen = if row.visible <= began {
                    true
                } else if row.begun > now {
                    false
                } else if !torn {
                    row.visible <= moment
                } else if let Some((_, known)) = seen.iter().find(|(write, _)| *write == row.write)
                {
                    *known
                } else {
                    let lucky = random.chance(500);
                    seen.push((row.write, lucky));
                    lucky
                };
                if is_seen && row.gone > now {
                    rows.push((index, row));
                    if rows.len() >= most {
                        break 'streams;
                    }
                }
            }
        }
        let full = rows.len() >= most;
        // What a quorum has answered once it answers always: a read that finds a difference mends it.
        let shown: Vec<usize> = rows.iter().map(|(_, row)| row.write).collect();
        let last = rows.last().map(|(stream, row)| (*stream, row.position));
        let next = last.filter(|_| full);
        if keys {
            let key = |(stream, row): (u16, &Row)| RowKey {
                stream,
                position: row.position,
            };
            let answer = Answer::Keys(rows.into_iter().map(key).collect(), next);
            self.show(&shown, now);
            return answer;
        }
        let row = |(stream, row): (u16, &Row)| LogRow {
            stream,
            position: row.position,
            operation: OperationType::RowInsert,
            end_of_batch: row.last,
            values: std::iter::once(Some(CqlValue::Int(row.position.seq)))
                .chain(
                    row.values
                        .iter()
                        .map(|value| value.clone().map(CqlValue::Text)),
                )
                .collect(),
        };
        let answer = Answer::Rows(rows.into_iter().map(row).collect(), next);
        self.show(&shown, now);
        answer
    }

    /// These writes are seen from now on.
    fn show(&mut self, writes: &[usize], now: i64) {
        for write in writes {
            let rows = self.rows[*write..].iter_mut();
            for row in rows.take_while(|row| row.write == *write) {
                row.visible = row.visible.min(now);
            }
        }
    }

    /// Stores a checkpoint, unless a later one is stored; says whether it did.
    pub(crate) fn save(&mut self, save: Save) -> bool {
        let stored = self.checkpoints.get(&save.key);
        if stored.is_some_and(|stored| stored.timestamp > save.timestamp) {
            return false;
        }
        self.checkpoints.insert(save.key.clone(), save);
        true
    }

    /// Writes a dead letter, as the relay's statement does: why an event is here is never
    /// overwritten by one that is only parked.
    pub(crate) fn put(&mut self, letter: &DeadLetter) {
        let at = (letter.key.clone(), letter.place.clone());
        if self
            .removed
            .get(&at)
            .is_some_and(|stamp| *stamp >= letter.stamp)
        {
            return;
        }
        let kept = self.letters.entry(at).or_insert_with(|| Kept {
            letter: letter.clone(),
            stamp: letter.stamp,
        });
        let says_why = letter.reason != Reason::Parked;
        if says_why && (letter.stamp >= kept.stamp || kept.letter.reason == Reason::Parked) {
            kept.letter.reason = letter.reason;
            kept.letter.failure.clone_from(&letter.failure);
        }
        kept.stamp = kept.stamp.max(letter.stamp);
        kept.letter.stamp = kept.stamp;
    }

    /// Removes a dead letter.
    pub(crate) fn remove(&mut self, letter: &DeadLetter, stamp: i64) {
        let at = (letter.key.clone(), letter.place.clone());
        if self.letters.get(&at).is_some_and(|kept| kept.stamp < stamp) {
            self.letters.remove(&at);
        }
        let removed = self.removed.entry(at).or_insert(stamp);
        *removed = stamp.max(*removed);
    }

    /// Changes why a dead letter is here.
    pub(crate) fn failed_again(&mut self, changed: &DeadLetter, stamp: i64) {
        let at = (changed.key.clone(), changed.place.clone());
        if let Some(kept) = self.letters.get_mut(&at)
            && kept.stamp < stamp
        {
            kept.letter.reason = changed.reason;
            kept.letter.failure.clone_from(&changed.failure);
            kept.letter.stamp = stamp;
            kept.stamp = stamp;
        }
    }

    /// The dead letters of a key, in their order.
    pub(crate) fn letters_of(&self, key: &Bytes) -> Vec<DeadLetter> {
        let of = self.letters.iter().filter(|((of, _), _)| of == key);
        of.map(|(_, kept)| kept.letter.clone()).collect()
    }

    /// The row of a place.
    pub(crate) fn row_at(&self, place: &Place) -> Option<usize> {
        let stream = self.streams.get(&place.stream)?;
        self.log.get(&(*stream, place.position)).copied()
    }
}
