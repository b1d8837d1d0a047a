//! Rows that are no ordinary events: changes of other kinds, and rows that cannot be published.

use crate::support::bench::Bench;
use crate::support::traffic::{Plan, tables, time_uuid};
use crate::support::{kafka, oracle};
use anyhow::Result;
use scylla::value::CqlTimeuuid;

const FEW: Plan = Plan {
    events: 60,
    keys: 30,
    ahead: 60,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn updates_deletes_ttls_and_collections_are_no_events_and_no_trouble() -> Result<()> {
    let case = "other changes";
    let Some(broker) = kafka::broker(case).await else {
        return Ok(());
    };
    let bench = Bench::new(&broker.bootstrap).await?;
    let (orders, billing) = tables(&bench.name);
    let session = &bench.database.session;
    let more = format!("ALTER TABLE {orders} ADD (tags map<text, text>, steps list<text>)");
    session.query_unpaged(more, ()).await?;
    let relay = bench.relay.start().await?;
    bench.write_and_arrive(FEW).await?;

    for number in 0..10 {
        let key = format!("key {number}");
        let mine = format!("aggregate_id = '{key}'");
        bench.traffic.write_row(&key, None, " AND TTL 3600").await?;
        let row = format!("{mine} AND id = {}", time_uuid());
        let two = (time_uuid(), time_uuid());
        let changes = [
            // Updates of some columns, of a row that is there and of one that is not.
            format!("UPDATE {orders} SET event_type = 'Seen', payload = null WHERE {row}"),
            format!("UPDATE {orders} USING TTL 60 SET content_type = 'text/plain' WHERE {row}"),
            // Collections: a whole one, an entry more, one less, none.
            format!("UPDATE {orders} SET headers = {{'a': 'b', 'c': 'd'}} WHERE {row}"),
            format!("UPDATE {orders} SET tags = {{'a': 'b'}}, steps = ['x'] WHERE {row}"),
            format!("UPDATE {orders} SET tags['e'] = 'f', steps = steps + ['y'] WHERE {row}"),
            format!("DELETE tags['a'] FROM {orders} WHERE {row}"),
            format!("DELETE tags, steps, headers FROM {orders} WHERE {row}"),
            // Deletes of a row, of ranges and of the partition.
            format!("DELETE FROM {orders} WHERE {row}"),
            format!(
                "DELETE FROM {orders} WHERE {mine} AND id > {} AND id < {}",
                two.0, two.1
            ),
            format!("DELETE FROM {orders} WHERE {mine} AND id >= {}", two.0),
            format!("DELETE FROM {orders} WHERE {mine}"),
            format!("DELETE FROM {billing} WHERE aggregateid = '{key}'"),
        ];
        for change in changes {
            session
                .query_unpaged(change.as_str(), ())
                .await
                .map_err(|error| anyhow::anyhow!("{change}: {error}"))?;
        }
        // The log has the event although its row is gone.
        bench.traffic.write_row(&key, None, "").await?;
    }
    bench.write_and_arrive(FEW).await?;
    relay.stop().await?;
    let records = bench.assert_delivered(case).await?;
    assert_eq!(oracle::duplicates(&records), 0);
    bench.relay.start().await?.stop().await?;
    let records = bench.assert_delivered(case).await?;
    assert_eq!(oracle::duplicates(&records), 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_cannot_be_published_stop_nobody_else() -> Result<()> {
    let case = "undecodable rows";
    let Some(broker) = kafka::broker(case).await else {
        return Ok(());
    };
    let bench = Bench::new(&broker.bootstrap).await?;
    let (orders, _) = tables(&bench.name);
    let relay = bench.relay.start().await?;
    bench.write_and_arrive(FEW).await?;
    // Nothing to make the topic of; a topic that Kafka does not allow; a key of no bytes.
    let bad = [
        ("'no type'", "null"),
        ("'bad type'", "'a topic/with?signs'"),
        ("''", "'order'"),
    ];
    for (key, aggregate_type) in bad {
        let cql = format!(
            "INSERT INTO {orders} (aggregate_id, id, aggregate_type, event_type, payload) \
             VALUES ({key}, ?, {aggregate_type}, 'Placed', 0x00)"
        );
        let id = CqlTimeuuid::from(time_uuid());
        // ScyllaDB refuses an empty partition key by itself.
        let written = bench.database.session.query_unpaged(cql, (id,)).await;
        assert!(written.is_ok() || key == "''", "{key}: {written:?}");
        bench.write_and_arrive(FEW).await?;
    }
    relay.kill().await?;
    let relay = bench.relay.start().await?;
    bench.write_and_arrive(FEW).await?;
    relay.stop().await?;
    let published = bench.assert_delivered(case).await?;
    let strange = published.iter().filter(|r| r.key.ends_with(b" type"));
    assert_eq!(strange.count(), 0, "a row without a topic was published");
    let list = ["dead-letters", "list", "--reason", "undecodable"];
    let letters = bench.relay.command(&list).await?;
    for reason in ["no type", "bad type"] {
        assert!(letters.contains(reason), "{reason} is among\n{letters}");
    }
    // What was published, or is a dead letter, is not read again.
    let repeated = oracle::duplicates(&published);
    let relay = bench.relay.start().await?;
    bench.write_and_arrive(FEW).await?;
    relay.stop().await?;
    let published = bench.assert_delivered(case).await?;
    assert_eq!(
        oracle::duplicates(&published),
        repeated,
        "a clean stop repeats nothing"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_is_in_the_log_twice_is_published_once() -> Result<()> {
    let case = "an event twice in the log";
    let Some(broker) = kafka::broker(case).await else {
        return Ok(());
    };
    let bench = Bench::new(&broker.bootstrap).await?;
    let (orders, _) = tables(&bench.name);
    let relay = bench.relay.start().await?;
    let (same, other) = (time_uuid(), time_uuid());
    for (id, payload) in [
        (same, "0x01"),
        (other, "0x02"),
        // As a driver repeats a statement: the same once more, with another time.
        (same, "0x01"),
        // One id by mistake for two events.
        (other, "0x03"),
        (other, "0x03"),
    ] {
        let insert = format!(
            "INSERT INTO {orders} (aggregate_id, id, aggregate_type, event_type, payload, created_at) \
             VALUES ('twice', {id}, 'order', 'Placed', {payload}, 0)"
        );
        bench.database.session.query_unpaged(insert, ()).await?;
    }
    // What is written now, to all stream groups, shows that the relay has read on.
    bench.write(FEW).await?;
    bench.arrived(FEW.events + 2).await?;
    relay.stop().await?;
    let records = bench.collector.all().await?;
    let payloads: Vec<_> = records
        .iter()
        .filter(|record| record.key == b"twice")
        .map(|record| record.payload.clone().unwrap_or_default())
        .collect();
    assert_eq!(payloads, [vec![1], vec![2], vec![3]]);
    Ok(())
}
