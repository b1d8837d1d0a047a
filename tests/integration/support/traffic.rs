//! Writes events, and remembers each that the database acknowledged.
//!
//! Two tables, one with the recommended columns and one with Debezium's. Each batch has a row of
//! the application's own and one to three events of one key. A key is written by one task, one
//! batch after the other, so that the order of its events is known.

use super::STALL;
use super::collector::Progress;
use super::database::Database;
use super::oracle::Written;
use anyhow::{Context, Result};
use outbox_writer::{DdlOptions, Event, Layout, Outbox, ddl};
use scylla::client::session::Session;
use scylla::statement::prepared::PreparedStatement;
use scylla::value::CqlTimeuuid;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use uuid::Uuid;

/// Tasks that write at a time.
const WORKERS: usize = 8;
/// How often a batch is written again whose outcome is open, and how long is waited before.
const AGAIN: u32 = 20;
const PAUSE: Duration = Duration::from_millis(100);

/// What is to be written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    /// How many events, over both tables, beyond those that were written before.
    pub(crate) events: usize,
    /// How many keys, over both tables.
    pub(crate) keys: usize,
    /// How many events may be written but not yet published; the writers wait at this number.
    pub(crate) ahead: usize,
}

/// An application with two outboxes.
#[derive(Clone)]
pub(crate) struct Traffic {
    inner: Arc<Inner>,
}

struct Inner {
    session: Arc<Session>,
    own_rows: PreparedStatement,
    /// Events of even keys go to the first, of odd keys to the second.
    outboxes: [Outbox; 2],
    topics: [String; 2],
    orders: String,
    billing: String,
    written: Mutex<Vec<Written>>,
    started: AtomicUsize,
}

impl Traffic {
    /// Creates the tables in `keyspace`, which must exist. The topics are those to which the
    /// events of the two tables will go.
    pub(crate) async fn new(
        database: &Database,
        keyspace: &str,
        topics: [String; 2],
    ) -> Result<Self> {
        let debezium = DdlOptions {
            layout: Layout::debezium(),
            ..DdlOptions::default()
        };
        let (orders, billing) = tables(keyspace);
        let statements = [
            format!("CREATE TABLE {keyspace}.things (id text PRIMARY KEY, changes bigint)"),
            ddl(&orders, &DdlOptions::default())?,
            ddl(&billing, &debezium)?,
        ];
        let session = Arc::clone(&database.session);
        for statement in statements {
            session
                .query_unpaged(statement.as_str(), ())
                .await
                .with_context(|| statement.clone())?;
        }
        let insert = format!("INSERT INTO {keyspace}.things (id, changes) VALUES (?, ?)");
        let outboxes = [
            Outbox::new(&session, &orders).await?,
            Outbox::builder()
                .layout(Layout::debezium())
                .build(&session, &billing)
                .await?,
        ];
        Ok(Self {
            inner: Arc::new(Inner {
                own_rows: session.prepare(insert).await?,
                session,
                outboxes,
                topics,
                orders,
                billing,
                written: Mutex::default(),
                started: AtomicUsize::new(0),
            }),
        })
    }

    /// Writes what `plan` says; `progress` is what has been published so far.
    pub(crate) async fn write(
        &self,
        plan: Plan,
        progress: watch::Receiver<Progress>,
    ) -> Result<()> {
        assert!(plan.keys >= WORKERS, "a writer without a key never ends");
        let before = self.inner.written().len();
        self.inner.started.store(before, Ordering::Relaxed);
        let end = before + plan.events;
        let mut workers = JoinSet::new();
        for worker in 0..WORKERS {
            let keys = (worker..plan.keys).step_by(WORKERS).collect();
            let inner = Arc::clone(&self.inner);
            workers.spawn(inner.work(end, plan.ahead, keys, progress.clone()));
        }
        while let Some(outcome) = workers.join_next().await {
            outcome??;
        }
        Ok(())
    }

    /// Writes one event of the first table by hand, with this write time in microseconds or the
    /// server's, and expects it to arrive.
    pub(crate) async fn write_at(&self, key: &str, micros: Option<i64>) -> Result<()> {
        self.write_row(key, micros, "").await
    }

    /// As [`Traffic::write_at`], the row's TTL or nothing as `and` says: ` AND TTL 5`.
    pub(crate) async fn write_row(&self, key: &str, micros: Option<i64>, and: &str) -> Result<()> {
        let id = time_uuid();
        let using = match micros {
            Some(micros) => format!("USING TIMESTAMP {micros}{and}"),
            None => and.replacen(" AND", "USING", 1),
        };
        let cql = format!(
            "INSERT INTO {} (aggregate_id, id, aggregate_type, event_type, payload) \
             VALUES (?, ?, 'order', 'Placed', ?) {using}",
            self.inner.orders
        );
        let payload = id.as_bytes().to_vec();
        self.inner
            .session
            .query_unpaged(cql, (key, CqlTimeuuid::from(id), &payload))
            .await?;
        let id = id.to_string();
        let headers = [("type", "Placed"), ("id", &id)];
        self.expect(Written {
            topic: self.inner.topics[0].clone(),
            key: key.to_owned(),
            payload,
            headers: headers
                .map(|(name, value)| (name.to_owned(), value.into()))
                .into(),
            timed: false,
            id,
        });
        Ok(())
    }

    /// Writes events of the second table by hand.
    pub(crate) async fn write_second(&self, events: usize) -> Result<()> {
        for number in 0..events {
            let id = time_uuid();
            let key = format!("by hand {}", number % 10);
            let cql = format!(
                "INSERT INTO {} (aggregateid, id, aggregatetype, type, payload) \
                 VALUES (?, ?, 'invoice', 'Placed', ?)",
                self.inner.billing
            );
            let payload = id.as_bytes().to_vec();
            let values = (&key, CqlTimeuuid::from(id), &payload);
            self.inner.session.query_unpaged(cql, values).await?;
            let id = id.to_string();
            self.expect(Written {
                topic: self.inner.topics[1].clone(),
                key,
                payload,
                headers: [("id".to_owned(), id.clone().into())].into(),
                timed: false,
                id,
            });
        }
        Ok(())
    }

    /// Something that was written by other means is to arrive too.
    pub(crate) fn expect(&self, written: Written) {
        self.inner.written().push(written);
    }

    /// Everything that was acknowledged, per key in order.
    pub(crate) fn written(&self) -> Vec<Written> {
        self.inner.written().clone()
    }
}

/// The two outbox tables of a keyspace.
pub(crate) fn tables(keyspace: &str) -> (String, String) {
    (
        format!("{keyspace}.orders_outbox"),
        format!("{keyspace}.billing_outbox"),
    )
}

/// A timeuuid of no particular time.
pub(crate) fn time_uuid() -> Uuid {
    let mut bytes = *Uuid::new_v4().as_bytes();
    bytes[6] = bytes[6] & 0x0f | 0x10;
    Uuid::from_bytes(bytes)
}

impl Inner {
    fn written(&self) -> MutexGuard<'_, Vec<Written>> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn work(
        self: Arc<Self>,
        end: usize,
        ahead: usize,
        keys: Vec<usize>,
        mut progress: watch::Receiver<Progress>,
    ) -> Result<()> {
        for round in 0.. {
            for key in &keys {
                let wanted = 1 + (key + round) % 3;
                let first = self.started.fetch_add(wanted, Ordering::Relaxed);
                let count = wanted.min(end.saturating_sub(first));
                if count == 0 {
                    return Ok(());
                }
                let published = |now: &Progress| first < now.events + ahead;
                tokio::time::timeout(STALL, progress.wait_for(published))
                    .await
                    .context("the writers wait for the relay")??;
                self.batch(*key, first, count).await?;
            }
        }
        Ok(())
    }

    async fn batch(&self, key: usize, first: usize, count: usize) -> Result<()> {
        let table = key % 2;
        let name = format!("{}-{key}", ["order", "invoice"][table]);
        let described: Vec<(Event, Written)> = (first..first + count)
            .map(|number| self.event(table, &name, number))
            .collect::<Result<_>>()?;
        let (events, mut written): (Vec<_>, Vec<_>) = described.into_iter().unzip();
        let mut batch = self.outboxes[table]
            .batch()
            .statement(&self.own_rows, (&name, first as i64))
            .events(events)
            .prepare()?;
        // A node that stops leaves the outcome open; as an application would, write the same again.
        let mut again = AGAIN;
        let receipt = loop {
            match batch.execute(&self.session).await {
                Err(error) if error.may_have_been_written() && again > 0 => again -= 1,
                outcome => break outcome?,
            }
            tokio::time::sleep(PAUSE).await;
        };
        for (written, id) in written.iter_mut().zip(receipt.event_ids) {
            written.id = id.to_string();
            let header = written.id.clone().into_bytes();
            written.headers.insert("id".to_owned(), header);
        }
        self.written().extend(written);
        Ok(())
    }

    /// Event `number`, and what is expected of its record, except for the id.
    fn event(&self, table: usize, key: &str, number: usize) -> Result<(Event, Written)> {
        let aggregate_type = ["order", "invoice"][table];
        let event_type = ["Placed", "Changed", "Closed"][number % 3];
        let event = Event::new(aggregate_type, key, event_type);
        let (event, payload, content_type) = match number % 4 {
            0 => {
                let bytes: Vec<u8> = (0..=255).cycle().take(number % 700 + 1).collect();
                let event = event.bytes(bytes.clone());
                (event, bytes, "application/octet-stream")
            }
            1 => {
                let text = format!("Ereignis № {number}: \"größer\"\n");
                let event = event.text(text.clone());
                (event, text.into_bytes(), "text/plain; charset=utf-8")
            }
            _ => {
                let json = serde_json::json!({ "number": number, "key": key, "ok": true });
                let bytes = serde_json::to_vec(&json)?;
                (event.json(&json)?, bytes, "application/json")
            }
        };
        let text = |text: &str| text.as_bytes().to_vec();
        // The id is added when it is known; Debezium's preset sets no other header.
        let mut headers = BTreeMap::new();
        let recommended = table == 0;
        let event = if recommended {
            headers.insert("type".to_owned(), text(event_type));
            headers.insert("content-type".to_owned(), text(content_type));
            headers.insert("number".to_owned(), text(&number.to_string()));
            headers.insert("tenant".to_owned(), text("Müller & Söhne"));
            event
                .header("number", number.to_string())
                .header("tenant", "Müller & Söhne")
        } else {
            event
        };
        let written = Written {
            id: String::new(),
            topic: self.topics[table].clone(),
            key: key.to_owned(),
            payload,
            headers,
            timed: recommended,
        };
        Ok((event, written))
    }
}
