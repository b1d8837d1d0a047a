//! Checkpoints of a relay that may have lost its name.

use std::sync::Arc;
use std::time::Duration;

use scylla::client::session_builder::SessionBuilder;
use scylla_emulator::Emulator;
use tokio::sync::watch;
use tokio::time::Instant;

use super::*;
use crate::config::TableName;

const KEYSPACE: &str = "outbox_relay";

#[tokio::test]
async fn a_checkpoint_after_the_limit_is_refused_and_what_is_stored_stays() {
    let emulator = Emulator::start().await.expect("the emulator starts");
    let create = format!(
        "CREATE KEYSPACE {KEYSPACE} WITH replication = \
         {{'class': 'NetworkTopologyStrategy', 'replication_factor': 1}}"
    );
    emulator.execute(&create).expect("a keyspace");
    for (_, create) in ddl(KEYSPACE) {
        emulator.execute(&create).expect("a table");
    }
    let builder = SessionBuilder::new().known_node(emulator.address().to_string());
    let session = Arc::new(builder.build().await.expect("a session"));
    let table = TableName {
        keyspace: "shop".into(),
        table: "outbox".into(),
    };
    let checkpoint = |watermark| GroupCheckpoint {
        key: GroupKey {
            generation: 1,
            group: vec![1],
        },
        watermark,
        published: Published::nothing(0),
        closed: false,
    };
    let open = async || {
        let store = Store::new(Arc::clone(&session), KEYSPACE, "test").await;
        store.expect("its tables are there")
    };
    let stored = async || {
        let loaded = open().await.load(&table).await.expect("it is read");
        loaded.groups[0].watermark
    };
    let (extend, until) = watch::channel(Instant::now() + Duration::from_hours(1));
    let store = open().await.with_limit(until);
    let save = async |watermark| store.save(&table, &[checkpoint(watermark)]).await;
    save(10).await.expect("the name is ours");
    extend.send_replace(Instant::now());
    // Meanwhile another process has the name, and comes further.
    let successor = open().await;
    let further = successor.save(&table, &[checkpoint(30)]).await;
    further.expect("it is saved");
    let refused = save(20).await;
    assert!(matches!(refused, Err(Error::NotOwner)), "{refused:?}");
    assert_eq!(stored().await, 30);
    extend.send_replace(Instant::now() + Duration::from_hours(1));
    save(40).await.expect("the name is ours again");
    assert_eq!(stored().await, 40);
}
