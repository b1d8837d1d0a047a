//! Which streams there are: the generations of a keyspace with vnodes, of a table with tablets.
//!
//! Owns the reads of ScyllaDB's own tables about streams. Invariants:
//!
//! 1. Timestamps are read before streams: ScyllaDB writes the streams of a generation first, so a
//!    listed generation is complete.
//! 2. The id of a group and the order of its streams depend on nothing but the generation, so that
//!    checkpoints of earlier runs name the same streams.
//! 3. With vnodes, both tables are read at QUORUM: a generation that has been published is seen.
//! 4. With tablets, what is listed is each node's own view: several are asked, and what one of them lists
//!    counts.
//!
//! It does not decide when a generation is read or finished.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::TryStreamExt;
use scylla::client::session::Session;
use scylla::errors::{DbError, PagerExecutionError, PrepareError, RequestAttemptError};
use scylla::policies::load_balancing::{NodeIdentifier, SingleTargetLoadBalancingPolicy};
use scylla::serialize::row::SerializeRow;
use scylla::statement::{Consistency, Statement};
use scylla::value::CqlTimestamp;
use scylla_cdc::cdc_types::StreamID;

use crate::config::TableName;
use crate::scylla::ReadError;

/// Nodes whose views are asked for, at most.
const VIEWS: usize = 3;
/// Rows of one page.
const PAGE_ROWS: i32 = 1_000;
/// `stream_state` of the streams that a tablets generation consists of (others tell which streams
/// were opened or closed at its beginning).
const CURRENT: i8 = 0;

/// Why the generations could not be read.
#[derive(Debug, thiserror::Error)]
#[error("read {what}")]
pub struct Error {
    what: &'static str,
    #[source]
    source: Box<ReadError>,
}

/// How the keyspace spreads its data, which decides where its streams are listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Distribution {
    /// Vnodes: one set of streams for the whole cluster.
    Vnodes,
    /// Tablets: each table has its own streams, one per tablet.
    Tablets,
}

/// Streams that are read together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamGroup {
    /// Names the group in its generation: the vnode's last token as eight big-endian bytes
    /// (shifted by 2^63, so that their order is that of the tokens), or the id of a tablet's one stream.
    pub id: Vec<u8>,
    /// The last token of its vnode or tablet.
    pub range_end: i64,
    /// The streams, in the order of their bytes.
    pub streams: Vec<StreamID>,
}

/// Reads the generations of one table.
#[derive(Debug, Clone)]
pub struct Generations {
    session: Arc<Session>,
    table: TableName,
    distribution: Distribution,
    consistency: Consistency,
    /// Counts looks, so that other nodes are asked every time.
    asked: Arc<AtomicUsize>,
}

impl Generations {
    /// Finds out how the table's keyspace spreads its data.
    pub async fn of(session: Arc<Session>, table: TableName) -> Result<Self, Error> {
        let (distribution, consistency) =
            describe(&session, &table.keyspace)
                .await
                .map_err(|source| Error {
                    what: "how the keyspace spreads its data",
                    source: Box::new(source),
                })?;
        Ok(Self {
            session,
            table,
            distribution,
            consistency,
            asked: Arc::default(),
        })
    }

    /// How the keyspace spreads its data.
    pub fn distribution(&self) -> Distribution {
        self.distribution
    }

    /// The timestamps of all generations that ScyllaDB still lists, oldest first, in milliseconds
    /// since the Unix epoch. A generation that begins in the future may be among them.
    pub async fn timestamps(&self) -> Result<Vec<i64>, Error> {
        let read = match self.distribution {
            Distribution::Vnodes => {
                let cql = "SELECT time FROM system_distributed.cdc_generation_timestamps \
                           WHERE key = 'timestamps'";
                self.read::<(CqlTimestamp,)>(cql, ()).await
            }
            Distribution::Tablets => {
                let cql = "SELECT timestamp FROM system.cdc_timestamps \
                           WHERE keyspace_name = ? AND table_name = ?";
                let views = self.views::<(CqlTimestamp,)>(cql, self.names()).await;
                views.map(|views| views.into_iter().flatten().collect())
            }
        };
        let mut timestamps: Vec<i64> = read
            .map_err(|source| Error {
                what: "the timestamps of the CDC generations",
                source,
            })?
            .into_iter()
            .map(|(timestamp,)| timestamp.0)
            .collect();
        timestamps.sort_unstable();
        timestamps.dedup();
        Ok(timestamps)
    }

    /// The stream groups of the generation with this timestamp, in the order of their ids; empty
    /// if ScyllaDB does not list it any more.
    pub async fn groups(&self, timestamp_millis: i64) -> Result<Vec<StreamGroup>, Error> {
        let time = CqlTimestamp(timestamp_millis);
        let fail = |source| Error {
            what: "the streams of a CDC generation",
            source,
        };
        let groups = match self.distribution {
            Distribution::Vnodes => {
                let cql = "SELECT range_end, streams \
                           FROM system_distributed.cdc_streams_descriptions_v2 WHERE time = ?";
                self.read::<(i64, Vec<Vec<u8>>)>(cql, (time,))
                    .await
                    .map_err(fail)?
                    .into_iter()
                    .map(|(range_end, streams)| (vnode_id(range_end), (range_end, streams)))
                    .collect::<BTreeMap<_, _>>()
            }
            Distribution::Tablets => {
                let cql = "SELECT stream_id FROM system.cdc_streams WHERE keyspace_name = ? \
                           AND table_name = ? AND timestamp = ? AND stream_state = ?";
                let (keyspace, table) = self.names();
                // Each view has all streams of a set, or none.
                let views = self.views::<(Vec<u8>,)>(cql, (keyspace, table, time, CURRENT));
                let views = views.await.map_err(fail)?.into_iter();
                views
                    .max_by_key(Vec::len)
                    .unwrap_or_default()
                    .into_iter()
                    .map(|(stream,)| (stream.clone(), (token_of(&stream), vec![stream])))
                    .collect()
            }
        };
        Ok(groups
            .into_iter()
            .map(|(id, (range_end, streams))| group(id, range_end, streams))
            .collect())
    }

    fn names(&self) -> (&str, &str) {
        (&self.table.keyspace, &self.table.table)
    }

    async fn read<R>(
        &self,
        cql: &'static str,
        values: impl SerializeRow,
    ) -> Result<Vec<R>, Box<ReadError>>
    where
        R: for<'f, 'm> scylla::deserialize::row::DeserializeRow<'f, 'm> + 'static,
    {
        read(&self.session, cql, values, self.consistency)
            .await
            .map_err(Box::new)
    }

    /// What some nodes see, each by itself. Those that do not answer are left out, unless none does.
    async fn views<R>(
        &self,
        cql: &'static str,
        values: impl SerializeRow + Clone,
    ) -> Result<Vec<Vec<R>>, Box<ReadError>>
    where
        R: for<'f, 'm> scylla::deserialize::row::DeserializeRow<'f, 'm> + 'static,
    {
        let state = self.session.get_cluster_state();
        let nodes = state.get_nodes_info().iter();
        let connected: Vec<_> = nodes.filter(|node| node.is_connected()).collect();
        if connected.len() < 2 {
            return Ok(vec![self.read(cql, values).await?]);
        }
        // Other ones every time: one that lags is not asked for ever.
        let first = self.asked.fetch_add(1, Ordering::Relaxed) % connected.len();
        let asked = connected.iter().cycle().skip(first);
        let asked = asked.take(connected.len().min(VIEWS)).map(|node| {
            let mut statement = Statement::new(cql);
            let identifier = NodeIdentifier::Node(Arc::clone(node));
            let only = SingleTargetLoadBalancingPolicy::new(identifier, None);
            statement.set_load_balancing_policy(Some(only));
            statement.set_consistency(self.consistency);
            let values = values.clone();
            async move { read_statement(&self.session, statement, values).await }
        });
        let (mut views, mut failed) = (Vec::new(), None);
        for view in futures::future::join_all(asked).await {
            match view {
                Ok(view) => views.push(view),
                Err(error) => failed = Some(error),
            }
        }
        match failed {
            Some(error) if views.is_empty() => Err(Box::new(error)),
            _ => Ok(views),
        }
    }
}

/// The id of the group of a vnode that ends with this token.
fn vnode_id(range_end: i64) -> Vec<u8> {
    (range_end ^ i64::MIN).to_be_bytes().to_vec()
}

/// The token in a stream's id: with tablets, the last one of its tablet.
fn token_of(stream: &[u8]) -> i64 {
    let token = stream.get(..8).and_then(|bytes| bytes.try_into().ok());
    token.map_or(0, i64::from_be_bytes)
}

fn group(id: Vec<u8>, range_end: i64, mut streams: Vec<Vec<u8>>) -> StreamGroup {
    streams.sort_unstable();
    streams.dedup();
    StreamGroup {
        id,
        range_end,
        streams: streams.into_iter().map(StreamID::new).collect(),
    }
}

async fn describe(
    session: &Session,
    keyspace: &str,
) -> Result<(Distribution, Consistency), ReadError> {
    // Only keyspaces with tablets (or with a storage of their own) have a row here.
    let tablets = read::<(Option<i32>,)>(
        session,
        "SELECT initial_tablets FROM system_schema.scylla_keyspaces WHERE keyspace_name = ?",
        (keyspace,),
        Consistency::One,
    );
    let distribution = match tablets.await {
        Ok(rows) if rows.iter().any(|(tablets,)| tablets.is_some()) => Distribution::Tablets,
        Ok(_) => Distribution::Vnodes,
        // Servers from before tablets do not have the column.
        Err(ReadError::Execute(error)) if is_invalid(&error) => Distribution::Vnodes,
        Err(error) => return Err(error),
    };
    let peers = read::<(std::net::IpAddr,)>(
        session,
        "SELECT peer FROM system.peers",
        (),
        Consistency::One,
    );
    // `system_distributed` has up to three replicas; a single node is its own quorum.
    let consistency = if peers.await?.is_empty() {
        Consistency::One
    } else {
        Consistency::Quorum
    };
    Ok((distribution, consistency))
}

/// Whether the server says that the statement itself is wrong.
fn is_invalid(error: &PagerExecutionError) -> bool {
    let PagerExecutionError::PrepareError(PrepareError::AllAttemptsFailed { first_attempt }) =
        error
    else {
        return false;
    };
    matches!(
        first_attempt,
        RequestAttemptError::DbError(DbError::Invalid, _)
    )
}

async fn read<R>(
    session: &Session,
    cql: &str,
    values: impl SerializeRow,
    consistency: Consistency,
) -> Result<Vec<R>, ReadError>
where
    R: for<'f, 'm> scylla::deserialize::row::DeserializeRow<'f, 'm> + 'static,
{
    let mut statement = Statement::new(cql);
    statement.set_consistency(consistency);
    read_statement(session, statement, values).await
}

async fn read_statement<R>(
    session: &Session,
    mut statement: Statement,
    values: impl SerializeRow,
) -> Result<Vec<R>, ReadError>
where
    R: for<'f, 'm> scylla::deserialize::row::DeserializeRow<'f, 'm> + 'static,
{
    statement.set_is_idempotent(true);
    statement.set_page_size(PAGE_ROWS);
    let rows = session.query_iter(statement, values).await?;
    Ok(rows.rows_stream::<R>()?.try_collect().await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ids_of_vnodes_are_in_the_order_of_their_tokens_and_streams_begin_with_theirs() {
        let ids = [i64::MIN, -1, 0, i64::MAX].map(vnode_id);
        assert!(ids.is_sorted());
        assert_eq!(token_of(&(-7_i64).to_be_bytes()), -7);
    }

    #[test]
    fn a_group_does_not_depend_on_the_order_it_is_read_in() {
        let streams = vec![vec![3], vec![1], vec![2], vec![1]];
        let group = group(vec![9], 0, streams);
        let expected: Vec<_> = [1, 2, 3].map(|byte| StreamID::new(vec![byte])).into();
        assert_eq!(group.streams, expected);
    }
}
