//! Log rows of hand-made mutations.

use std::net::Ipv4Addr;

use bytes::Bytes;

use super::*;
use crate::cluster::Layout;
use crate::cluster::clock::ClockHandle;
use crate::mutation::{
    CellChange, Change, ClusteringBound, ClusteringRange, MultiCellChange, ReadCell, ReadRow,
    RowKey, Upsert,
};
use crate::schema::{
    CdcImage, CdcOptions, ClusteringOrder, ColumnId, ColumnKind, ColumnSchema, KeyspaceSchema,
    TableOptions,
};
use crate::types::{CqlType, Value, timeuuid_micros};

const V: ColumnId = ColumnId(2);
const LIST: ColumnId = ColumnId(3);
const FIXED: ColumnId = ColumnId(4);

struct Setup {
    cdc: CdcLog,
    base: Arc<TableSchema>,
    log: Arc<TableSchema>,
    catalog: Catalog,
    now: i64,
}

fn setup(change: impl FnOnce(&mut CdcOptions)) -> Setup {
    let column = |id, name: &str, ty, kind| ColumnSchema {
        id: ColumnId(id),
        name: name.to_owned(),
        ty,
        kind,
        position: 0,
        order: ClusteringOrder::Asc,
    };
    let columns = vec![
        column(0, "pk", CqlType::Int, ColumnKind::PartitionKey),
        column(1, "ck", CqlType::Int, ColumnKind::Clustering),
        column(2, "v", CqlType::Int, ColumnKind::Regular),
        column(
            3,
            "l",
            CqlType::List(Box::new(CqlType::Int)),
            ColumnKind::Regular,
        ),
        column(4, "st", CqlType::Int, ColumnKind::Static),
    ];
    let mut options = CdcOptions {
        enabled: true,
        ..CdcOptions::default()
    };
    change(&mut options);
    let options = TableOptions {
        cdc: Some(options),
        ..TableOptions::default()
    };
    let base = Arc::new(TableSchema::new(
        Uuid::from_u128(1),
        "ks",
        "t",
        columns,
        options,
    ));
    let clock = ClockHandle::new();
    let now = clock.now_micros();
    let topology = Topology::new(&Layout::default(), Ipv4Addr::LOCALHOST.into(), clock);
    let cdc = CdcLog::new(Arc::new(topology));
    let log = Arc::new(cdc.log_schema(&base, None).unwrap());
    let mut keyspace = KeyspaceSchema::new("ks");
    keyspace.tables.insert("t".to_owned(), Arc::clone(&base));
    keyspace.tables.insert(log.name.clone(), Arc::clone(&log));
    let mut catalog = Catalog::default();
    catalog
        .keyspaces
        .insert("ks".to_owned(), Arc::new(keyspace));
    Setup {
        cdc,
        base,
        log,
        catalog,
        now,
    }
}

fn row(key: i32) -> RowKey {
    RowKey::Clustering(vec![Value::Int(key)])
}

fn upsert(row: RowKey, insert: bool, ttl: Option<i32>, cells: &[(ColumnId, CellChange)]) -> Change {
    Change::Upsert(Upsert {
        row,
        row_marker: insert,
        ttl,
        cells: cells.to_vec(),
    })
}

fn int(column: ColumnId, value: i32) -> (ColumnId, CellChange) {
    (column, CellChange::Set(Value::Int(value)))
}

impl Setup {
    fn mutation(&self, timestamp_micros: i64, changes: Vec<Change>) -> Mutation {
        let key_bytes = Bytes::from_static(&[0, 0, 0, 1]);
        Mutation {
            table: Arc::clone(&self.base),
            partition_key: vec![Value::Int(1)],
            token: crate::cluster::token::Token::of_key(&key_bytes).0,
            key_bytes,
            timestamp_micros,
            changes,
        }
    }

    fn log(&self, mutations: &[Mutation], before: Option<&ReadRow>) -> Vec<Mutation> {
        self.cdc
            .augment(&self.catalog, mutations, &|_, _| before.cloned())
            .unwrap()
    }

    /// One line for each log row: the columns that are set, without stream and time.
    fn lines(&self, changes: Vec<Change>, before: Option<&ReadRow>) -> Vec<String> {
        let log = self.log(&[self.mutation(self.now, changes)], before);
        log.iter()
            .flat_map(|mutation| mutation.changes.iter())
            .map(|row| self.line(row))
            .collect()
    }

    fn line(&self, change: &Change) -> String {
        let Change::Upsert(upsert) = change else {
            panic!("log rows are upserts")
        };
        let RowKey::Clustering(key) = &upsert.row else {
            panic!("log rows are not static")
        };
        let cells = upsert.cells.iter().map(|(id, change)| {
            let CellChange::Set(value) = change else {
                panic!("log cells are values")
            };
            let name = &self.log.column_by_id(*id).unwrap().name;
            let value = match value {
                Value::Int(number) => number.to_string(),
                Value::BigInt(number) => number.to_string(),
                Value::TinyInt(number) => number.to_string(),
                Value::Boolean(flag) => flag.to_string(),
                other => format!("{other:?}"),
            };
            format!("{}={value}", name.trim_start_matches("cdc$"))
        });
        let mut cells: Vec<_> = cells.collect();
        cells.sort();
        let Value::Int(sequence) = key[1] else {
            panic!("batch_seq_no is an int")
        };
        format!("{sequence}: {}", cells.join(" "))
    }
}

#[test]
fn a_ttl_and_a_null_are_two_rows() {
    let setup = setup(|_| {});
    let cells = [(V, CellChange::Delete)];
    assert_eq!(
        setup.lines(vec![upsert(row(2), true, Some(60), &cells)], None),
        [
            "0: ck=2 operation=2 pk=1 ttl=60",
            "1: ck=2 deleted_v=true end_of_batch=true operation=1 pk=1",
        ]
    );
}

#[test]
fn one_row_written_twice_is_one_log_row() {
    let setup = setup(|_| {});
    let changes = vec![
        upsert(row(2), true, None, &[int(V, 1)]),
        upsert(row(2), true, None, &[int(V, 9)]),
    ];
    assert_eq!(
        setup.lines(changes, None),
        ["0: ck=2 end_of_batch=true operation=2 pk=1 v=9"]
    );
}

#[test]
fn rows_come_in_clustering_order_and_kinds_in_theirs() {
    let setup = setup(|_| {});
    let changes = vec![
        Change::DeletePartition,
        Change::DeleteRow(vec![Value::Int(1)]),
        upsert(row(3), false, None, &[int(V, 3)]),
        upsert(row(2), true, None, &[int(V, 2)]),
        upsert(RowKey::Static, false, None, &[int(FIXED, 5)]),
    ];
    assert_eq!(
        setup.lines(changes, None),
        [
            "0: operation=1 pk=1 st=5",
            "1: ck=2 operation=2 pk=1 v=2",
            "2: ck=3 operation=1 pk=1 v=3",
            "3: ck=1 operation=3 pk=1",
            "4: end_of_batch=true operation=4 pk=1",
        ]
    );
}

#[test]
fn a_range_is_two_rows() {
    let setup = setup(|_| {});
    let range = ClusteringRange {
        start: ClusteringBound::Exclusive(vec![Value::Int(1)]),
        end: ClusteringBound::Open,
    };
    assert_eq!(
        setup.lines(vec![Change::DeleteRange(range)], None),
        [
            "0: ck=1 operation=6 pk=1",
            "1: end_of_batch=true operation=7 pk=1"
        ]
    );
}

#[test]
fn an_overwritten_list_with_ttl_is_three_rows() {
    let setup = setup(|_| {});
    let cell = (Value::TimeUuid(Uuid::nil()), Some(Value::Int(7)));
    let list = CellChange::Multi(MultiCellChange {
        overwrite: true,
        cells: vec![cell],
    });
    let lines = setup.lines(vec![upsert(row(2), true, Some(5), &[(LIST, list)])], None);
    assert_eq!(lines[0], "0: ck=2 operation=2 pk=1 ttl=5");
    assert_eq!(lines[1], "1: ck=2 deleted_l=true operation=1 pk=1");
    assert!(
        lines[2].starts_with("2: ck=2 end_of_batch=true l=Map("),
        "{lines:?}"
    );
    assert!(lines[2].ends_with("operation=1 pk=1 ttl=5"), "{lines:?}");
}

#[test]
fn images_show_the_row_before_and_after() {
    let setup = setup(|options| {
        options.preimage = CdcImage::Full;
        options.postimage = true;
    });
    let before = ReadRow {
        cells: vec![(V, ReadCell::Value(Value::Int(1)))],
    };
    assert_eq!(
        setup.lines(
            vec![upsert(row(2), false, None, &[int(V, 2)])],
            Some(&before)
        ),
        [
            "0: ck=2 deleted_l=true operation=0 pk=1 v=1",
            "1: ck=2 operation=1 pk=1 v=2",
            "2: ck=2 end_of_batch=true operation=9 pk=1 v=2",
        ]
    );
}

#[test]
fn the_pre_image_of_a_later_timestamp_shows_the_earlier_write() {
    let setup = setup(|options| options.preimage = CdcImage::On);
    let write = |at, value| {
        setup.mutation(
            setup.now + at,
            vec![upsert(row(2), false, None, &[int(V, value)])],
        )
    };
    let log = setup.log(&[write(1, 11), write(0, 10)], None);
    let lines: Vec<_> = log.iter().map(|m| setup.line(&m.changes[0])).collect();
    assert_eq!(
        lines,
        [
            "0: ck=2 end_of_batch=true operation=1 pk=1 v=10",
            "0: ck=2 operation=0 pk=1 v=10"
        ]
    );
    for (mutation, timestamp) in log.iter().zip([setup.now, setup.now + 1]) {
        let Change::Upsert(Upsert {
            row: RowKey::Clustering(key),
            ..
        }) = &mutation.changes[0]
        else {
            panic!("an upsert")
        };
        let Value::TimeUuid(time) = &key[0] else {
            panic!("a timeuuid")
        };
        assert_eq!(timeuuid_micros(time), timestamp);
        assert_eq!(mutation.timestamp_micros, timestamp);
    }
}

#[test]
fn a_write_without_a_stream_is_refused() {
    let setup = setup(|_| {});
    let changes = vec![upsert(row(2), false, None, &[int(V, 1)])];
    for (offset, text) in [
        (60_000_000, "from the future"),
        (-3_600_000_000, "earlier generation"),
    ] {
        let mutation = setup.mutation(setup.now + offset, changes.clone());
        let error = setup
            .cdc
            .augment(&setup.catalog, &[mutation], &|_, _| None)
            .unwrap_err();
        assert!(error.message.contains(text), "{error}");
    }
}

#[test]
fn columns_that_stay_keep_their_ids_in_the_log() {
    let setup = setup(|_| {});
    let mut base = (*setup.base).clone();
    base.columns.retain(|column| column.id != V);
    let altered = setup.cdc.log_schema(&base, Some(&setup.log)).unwrap();
    assert!(altered.column("v").is_none() && altered.column("cdc$deleted_v").is_none());
    assert_eq!(altered.id, setup.log.id);
    for column in &altered.columns {
        assert_eq!(setup.log.column(&column.name).unwrap().id, column.id);
    }
    let again = setup.cdc.log_schema(&setup.base, Some(&altered)).unwrap();
    assert!(
        setup
            .log
            .column_by_id(again.column("v").unwrap().id)
            .is_none()
    );
}
