//! The log of the table as the relay's reads see it: pages that the simulated database makes.

use std::collections::BTreeMap;
use std::sync::Arc;

use outbox_relay::config::TableName;
use outbox_relay::event::{ChangeColumns, Position, RowKey};
use outbox_relay::source::changes::LogRow;
use outbox_relay::source::reader::{self, Log, Page, Range};
use scylla::response::PagingState;
use scylla::value::CqlTimeuuid;
use scylla_cdc::cdc_types::StreamID;

use crate::database::StreamKey;
use crate::wire::{Answer, Request, Wire};

/// The simulated log of the table.
#[derive(Debug)]
pub(super) struct SimulatedLog {
    pub(super) wire: Arc<Wire>,
    pub(super) columns: Arc<ChangeColumns>,
    pub(super) page_rows: usize,
    pub(super) streams: BTreeMap<StreamID, StreamKey>,
}

impl SimulatedLog {
    async fn page(
        &self,
        streams: &[StreamID],
        range: Range,
        from: PagingState,
        keys: bool,
    ) -> Answer {
        let request = Request::Page {
            streams: streams.iter().map(|stream| self.streams[stream]).collect(),
            range,
            after: read_paging(&from),
            keys,
        };
        self.wire.call(request).await
    }
}

fn failed() -> reader::Error {
    reader::Error::NoTable(TableName {
        keyspace: String::new(),
        table: String::new(),
    })
}

/// A place between two pages.
fn write_paging((stream, position): (u16, Position)) -> PagingState {
    let mut bytes = stream.to_be_bytes().to_vec();
    bytes.extend_from_slice(position.time.as_bytes());
    bytes.extend_from_slice(&position.seq.to_be_bytes());
    PagingState::new_from_raw_bytes(bytes)
}

fn read_paging(state: &PagingState) -> Option<(u16, Position)> {
    let bytes = state.as_bytes_slice()?;
    let (stream, rest) = bytes.split_first_chunk::<2>()?;
    let (time, rest) = rest.split_first_chunk::<16>()?;
    let seq = i32::from_be_bytes(rest.try_into().ok()?);
    let time = CqlTimeuuid::from_bytes(*time);
    Some((u16::from_be_bytes(*stream), Position { time, seq }))
}

impl Log for SimulatedLog {
    fn columns(&self) -> &Arc<ChangeColumns> {
        &self.columns
    }

    fn page_rows(&self) -> usize {
        self.page_rows
    }

    async fn keys(
        &self,
        streams: &[StreamID],
        range: Range,
        from: PagingState,
    ) -> Result<Page<RowKey>, reader::Error> {
        match self.page(streams, range, from, true).await {
            Answer::Keys(rows, next) => Ok(Page {
                rows,
                next: next.map(write_paging),
                bytes: 0,
            }),
            _ => Err(failed()),
        }
    }

    async fn rows(
        &self,
        streams: &[StreamID],
        range: Range,
        from: PagingState,
    ) -> Result<Page<LogRow>, reader::Error> {
        match self.page(streams, range, from, false).await {
            Answer::Rows(rows, next) => Ok(Page {
                rows,
                next: next.map(write_paging),
                bytes: 0,
            }),
            _ => Err(failed()),
        }
    }
}
