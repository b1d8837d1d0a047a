//! Log rows in, changes out.
//!
//! Owns the merge of the log rows that ScyllaDB writes for one statement. Invariants:
//!
//! 1. The rows of one stream and one `cdc$time` are one batch; a page may end inside it, so rows
//!    are held until `cdc$end_of_batch`, the next batch, or the end of the read.
//! 2. In a batch, the inserts and updates of one base row are one change, and the change is an
//!    insert if one of them is: a write with a TTL and a null column is logged as an insert and
//!    an update. A deletion never erases an insert: an outbox may delete its row in the batch that
//!    inserts it, to store nothing.
//! 3. Every row of a batch is named in [`LogBatch::rows`], images and deletions too, so that a
//!    later read of the keys alone knows them all.
//!
//! What a change means is `decode`'s business.

use std::mem;
use std::sync::Arc;

use scylla::value::{CqlTimeuuid, CqlValue};
use scylla_cdc::consumer::OperationType;
use tokio::time::Instant;

use crate::event::{Change, ChangeColumns, Position};

/// One row of the log, with the columns that the relay reads.
#[derive(Debug, Clone)]
pub struct LogRow {
    /// Index of the row's stream inside its group.
    pub stream: u16,
    /// Place inside the stream.
    pub position: Position,
    /// What was done.
    pub operation: OperationType,
    /// Whether it is the last row of its `cdc$time`.
    pub end_of_batch: bool,
    /// Values in the order of the columns; null or not written is `None`.
    pub values: Vec<Option<CqlValue>>,
}

/// All log rows of one stream and one `cdc$time`.
#[derive(Debug, Clone)]
pub struct LogBatch {
    /// Index of the stream inside its group.
    pub stream: u16,
    /// Positions of all rows, in order.
    pub rows: Vec<Position>,
    /// What they say, in the order of their first rows. Images are left out.
    pub changes: Vec<Change>,
}

/// Puts the rows of one read together again.
#[derive(Debug)]
pub struct Assembler {
    columns: Arc<ChangeColumns>,
    held: Vec<LogRow>,
    /// When the present page was asked for.
    read_at: Instant,
}

impl Assembler {
    /// An assembler of rows with these columns.
    pub fn new(columns: Arc<ChangeColumns>) -> Self {
        Self {
            columns,
            held: Vec::new(),
            read_at: Instant::now(),
        }
    }

    /// Another page is about to be asked for.
    pub fn next_page(&mut self) {
        self.read_at = Instant::now();
    }

    /// Takes the next row of a read; gives the batch that it ends, if it ends one. A row of
    /// another batch ends the held one even without `cdc$end_of_batch`, so one call can end two.
    pub fn push(&mut self, row: LogRow) -> Vec<LogBatch> {
        let mut ended = Vec::new();
        let same =
            |held: &LogRow| held.stream == row.stream && held.position.time == row.position.time;
        if !self.held.first().is_none_or(same) {
            ended.extend(self.finish());
        }
        let last = row.end_of_batch;
        self.held.push(row);
        if last {
            ended.extend(self.finish());
        }
        ended
    }

    /// Ends the read: gives what is held although its end was not seen.
    pub fn finish(&mut self) -> Option<LogBatch> {
        let rows = mem::take(&mut self.held);
        let stream = rows.first()?.stream;
        let positions = rows.iter().map(|row| row.position).collect();
        Some(LogBatch {
            stream,
            rows: positions,
            changes: self.merge(rows),
        })
    }

    /// Stream and time of the batch whose end has not been seen.
    pub fn pending(&self) -> Option<(u16, CqlTimeuuid)> {
        self.held.first().map(|row| (row.stream, row.position.time))
    }

    fn merge(&self, rows: Vec<LogRow>) -> Vec<Change> {
        let mut changes: Vec<Change> = Vec::with_capacity(rows.len());
        for row in rows {
            match row.operation {
                OperationType::PreImage | OperationType::PostImage => {}
                OperationType::RowInsert | OperationType::RowUpdate => {
                    let known = changes
                        .iter_mut()
                        .find(|change| self.same_row(change, &row));
                    match known {
                        Some(change) => add(change, row),
                        None => changes.push(self.change(row)),
                    }
                }
                OperationType::RowDelete
                | OperationType::PartitionDelete
                | OperationType::RowRangeDelInclLeft
                | OperationType::RowRangeDelExclLeft
                | OperationType::RowRangeDelInclRight
                | OperationType::RowRangeDelExclRight => changes.push(self.change(row)),
            }
        }
        changes
    }

    fn change(&self, row: LogRow) -> Change {
        Change {
            position: row.position,
            operation: row.operation,
            columns: Arc::clone(&self.columns),
            values: row.values,
            read_at: self.read_at,
        }
    }

    /// Whether the change is an upsert of the row's base row.
    fn same_row(&self, change: &Change, row: &LogRow) -> bool {
        let upsert = matches!(
            change.operation,
            OperationType::RowInsert | OperationType::RowUpdate
        );
        let keys = self
            .columns
            .primary_key
            .iter()
            .zip(change.values.iter().zip(&row.values));
        upsert && keys.filter(|(key, _)| **key).all(|(_, (a, b))| a == b)
    }
}

fn add(change: &mut Change, row: LogRow) {
    if row.operation == OperationType::RowInsert {
        change.operation = OperationType::RowInsert;
    }
    for (known, value) in change.values.iter_mut().zip(row.values) {
        if value.is_some() {
            *known = value;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::bounds::first_timeuuid;

    fn assembler() -> Assembler {
        Assembler::new(Arc::new(ChangeColumns {
            names: ["pk", "ck", "v", "w"].map(String::from).into(),
            primary_key: vec![true, true, false, false],
        }))
    }

    fn row(micros: i64, seq: i32, operation: OperationType, values: [Option<i32>; 4]) -> LogRow {
        LogRow {
            stream: 0,
            position: Position {
                time: first_timeuuid(micros),
                seq,
            },
            operation,
            end_of_batch: false,
            values: values.map(|value| value.map(CqlValue::Int)).into(),
        }
    }

    fn last(mut row: LogRow) -> LogRow {
        row.end_of_batch = true;
        row
    }

    fn brief(change: &Change) -> (i32, OperationType, Vec<Option<i32>>) {
        let values = change
            .values
            .iter()
            .map(|v| v.as_ref().and_then(CqlValue::as_int));
        (
            change.position.seq,
            change.operation.clone(),
            values.collect(),
        )
    }

    use OperationType::{
        PostImage, PreImage, RowDelete, RowInsert, RowRangeDelExclRight, RowRangeDelInclLeft,
        RowUpdate,
    };

    #[test]
    fn an_insert_with_a_ttl_and_a_null_column_is_one_insert() {
        let mut assembler = assembler();
        assert!(
            assembler
                .push(row(1, 0, RowInsert, [Some(1), Some(2), Some(3), None]))
                .is_empty()
        );
        assert!(assembler.pending().is_some());
        let batches = assembler.push(last(row(1, 1, RowUpdate, [Some(1), Some(2), None, None])));
        assert_eq!(batches.len(), 1);
        assert_eq!(batches[0].rows.len(), 2);
        let changes: Vec<_> = batches[0].changes.iter().map(brief).collect();
        assert_eq!(
            changes,
            [(0, RowInsert, vec![Some(1), Some(2), Some(3), None])]
        );
        assert!(assembler.pending().is_none() && assembler.finish().is_none());
    }

    #[test]
    fn values_of_all_upserts_of_a_row_are_merged() {
        let mut assembler = assembler();
        assembler.push(row(1, 0, RowUpdate, [Some(1), Some(2), Some(3), None]));
        let batches = assembler.push(last(row(
            1,
            1,
            RowInsert,
            [Some(1), Some(2), None, Some(4)],
        )));
        let changes: Vec<_> = batches[0].changes.iter().map(brief).collect();
        assert_eq!(
            changes,
            [(0, RowInsert, vec![Some(1), Some(2), Some(3), Some(4)])]
        );
    }

    #[test]
    fn a_delete_in_the_same_batch_does_not_erase_the_insert() {
        let mut assembler = assembler();
        assembler.push(row(1, 0, RowInsert, [Some(1), Some(2), Some(3), Some(4)]));
        let batches = assembler.push(last(row(1, 1, RowDelete, [Some(1), Some(2), None, None])));
        let changes: Vec<_> = batches[0].changes.iter().map(brief).collect();
        assert_eq!(
            changes[0],
            (0, RowInsert, vec![Some(1), Some(2), Some(3), Some(4)])
        );
        assert_eq!((changes.len(), changes[1].1.clone()), (2, RowDelete));
    }

    #[test]
    fn several_rows_of_a_batch_stay_several_changes_in_order() {
        let mut assembler = assembler();
        assembler.push(row(1, 0, RowInsert, [Some(1), Some(1), Some(5), None]));
        assembler.push(row(1, 1, RowInsert, [Some(1), Some(2), Some(6), None]));
        let batches = assembler.push(last(row(
            1,
            2,
            RowUpdate,
            [Some(1), Some(1), None, Some(7)],
        )));
        let changes: Vec<_> = batches[0].changes.iter().map(brief).collect();
        assert_eq!(
            changes,
            [
                (0, RowInsert, vec![Some(1), Some(1), Some(5), Some(7)]),
                (1, RowInsert, vec![Some(1), Some(2), Some(6), None]),
            ]
        );
    }

    #[test]
    fn images_are_rows_but_no_changes() {
        let mut assembler = assembler();
        assembler.push(row(1, 0, PreImage, [Some(1), Some(1), Some(5), None]));
        assembler.push(row(1, 1, RowInsert, [Some(1), Some(1), Some(6), None]));
        let batches = assembler.push(last(row(
            1,
            2,
            PostImage,
            [Some(1), Some(1), Some(6), None],
        )));
        assert_eq!(batches[0].rows.len(), 3);
        assert_eq!(
            batches[0]
                .changes
                .iter()
                .map(brief)
                .collect::<Vec<_>>()
                .len(),
            1
        );
        assert_eq!(batches[0].changes[0].position.seq, 1);
    }

    #[test]
    fn range_deletions_are_changes_of_their_own() {
        let mut assembler = assembler();
        assembler.push(row(1, 0, RowRangeDelInclLeft, [Some(1), None, None, None]));
        let ended = assembler.push(last(row(
            1,
            1,
            RowRangeDelExclRight,
            [Some(1), Some(5), None, None],
        )));
        assert_eq!(ended[0].changes.len(), 2);
    }

    #[test]
    fn another_time_or_stream_ends_a_batch_without_an_end() {
        let mut assembler = assembler();
        let insert = |micros| row(micros, 0, RowInsert, [Some(1), Some(2), None, None]);
        assert!(assembler.push(insert(1)).is_empty());
        assert_eq!(assembler.push(insert(2)).len(), 1);
        let mut other = last(insert(2));
        other.stream = 1;
        let ended = assembler.push(other);
        assert_eq!(
            ended.iter().map(|batch| batch.stream).collect::<Vec<_>>(),
            [0, 1]
        );
    }
}
