//! What is told of an item when it is done with: see [`crate::telemetry::journey`].

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

use super::permits::{Admitted, Owner};
use super::publisher::Pipeline;
use crate::event::Record;
use crate::telemetry::journey::{End, Journal, Journey, Read};

/// Who is told of what is done with, and where the trace context of an event is.
pub(super) struct Told {
    pub(super) journal: Arc<dyn Journal>,
    /// Names of the header, in the order of the tables' ids; `None` where it is left out.
    pub(super) headers: Vec<Option<String>>,
}

impl Pipeline {
    /// Tells that the item is done with, if anybody listens.
    pub(super) fn tell(&self, item: &Admitted, end: End<'_>) {
        let Some(Told { journal, headers }) = &self.told else {
            return;
        };
        let index = usize::from(item.table.0);
        let table = self.tables.get(index).map_or("", String::as_str);
        let name = headers.get(index).and_then(Option::as_deref);
        let traceparent = name.zip(item.record()).and_then(traceparent);
        let now = (Instant::now(), SystemTime::now());
        let journey = Journey {
            traceparent,
            ..journey(item, table, now, end)
        };
        journal.ended(&journey);
    }
}

/// The item's way, without its trace context; `now` and `wall` are the same moment.
fn journey<'a>(
    item: &'a Admitted,
    table: &'a str,
    (now, wall): (Instant, SystemTime),
    end: End<'a>,
) -> Journey<'a> {
    let at = |moment: Instant| wall - now.saturating_duration_since(moment);
    let read = match (&item.owner, item.times.read) {
        (Owner::Row(ack), Some(read)) => {
            let micros = u64::try_from(ack.row().row.position.micros()).unwrap_or(0);
            Some(Read {
                written: UNIX_EPOCH + Duration::from_micros(micros),
                asked: at(read),
            })
        }
        _ => None,
    };
    Journey {
        table,
        topic: item.record().map(|record| &*record.topic),
        event_id: &item.label.event_id,
        event_type: item.label.event_type.as_deref(),
        traceparent: None,
        read,
        submitted: at(item.times.submitted),
        sent: item.times.sent.get().map(at),
        appended: item.times.appended.get(),
        ended: wall,
        attempts: item.times.attempts.get(),
        end,
    }
}

/// The value of the header, if it is text.
fn traceparent<'r>((name, record): (&str, &'r Record)) -> Option<&'r str> {
    let mut headers = record.headers.iter();
    let header = headers.find(|header| &*header.name == name)?;
    std::str::from_utf8(header.value.as_ref()?).ok()
}
