//! What is told of an item when it is done with: see [`crate::telemetry::journey`].

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

use super::permits::{Admitted, Owner};
use super::publisher::Pipeline;
use crate::event::Record;
use crate::telemetry::journey::{End, Journey, Read};

/// The header that a replayed record's trace context is in, by default.
const TRACEPARENT: &str = "traceparent";

impl Pipeline {
    /// Tells that the item is done with, if anybody listens.
    pub(super) fn tell(&self, item: &Admitted, end: End<'_>) {
        let Some(journal) = &self.journal else {
            return;
        };
        let table = self.tables.get(usize::from(item.table.0));
        let table = table.map_or("", String::as_str);
        journal.ended(&journey(
            item,
            table,
            (Instant::now(), SystemTime::now()),
            end,
        ));
    }
}

/// The item's way; `now` and `wall` are the same moment.
pub(super) fn journey<'a>(
    item: &'a Admitted,
    table: &'a str,
    (now, wall): (Instant, SystemTime),
    end: End<'a>,
) -> Journey<'a> {
    let at = |moment: Instant| wall - now.saturating_duration_since(moment);
    let read = match (&item.owner, &item.origin) {
        (Owner::Row(ack), Some(origin)) => {
            let micros = u64::try_from(ack.row().row.position.micros()).unwrap_or(0);
            Some(Read {
                written: UNIX_EPOCH + Duration::from_micros(micros),
                asked: at(origin.read_at),
            })
        }
        _ => None,
    };
    let origin = item.origin.as_ref();
    let traceparent = match origin {
        Some(origin) => origin.traceparent.as_deref(),
        None => item.record().and_then(traceparent),
    };
    Journey {
        table,
        topic: item.record().map(|record| &*record.topic),
        event_id: &item.label.event_id,
        event_type: item.label.event_type.as_deref(),
        traceparent,
        read,
        submitted: at(item.times.submitted),
        sent: item.times.sent.get().map(at),
        ended: wall,
        attempts: item.times.attempts.get(),
        end,
    }
}

/// Of a record that was kept: the row is not looked at again.
fn traceparent(record: &Record) -> Option<&str> {
    let mut headers = record.headers.iter();
    let header = headers.find(|header| &*header.name == TRACEPARENT)?;
    std::str::from_utf8(header.value.as_ref()?).ok()
}
