//! Several nodes, one of which goes down.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla_emulator::Emulator;

const SETUP: [&str; 2] = [
    "CREATE KEYSPACE ks WITH replication = {'class': 'NetworkTopologyStrategy', 'replication_factor': 3}",
    "CREATE TABLE ks.t (pk int PRIMARY KEY)",
];

async fn connect(node: SocketAddr) -> Result<Session, scylla::errors::NewSessionError> {
    SessionBuilder::new().known_node_addr(node).build().await
}

/// Waits until the driver has this opinion of a node.
async fn seen_as(session: &Session, node: SocketAddr, up: bool) {
    let seen = async {
        loop {
            let state = session.get_cluster_state();
            let known = state.get_nodes_info().iter();
            let connected = |known: &&std::sync::Arc<scylla::cluster::Node>| {
                known.address.ip() == node.ip() && known.is_connected() == up
            };
            if known.clone().any(|known| connected(&known)) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), seen)
        .await
        .expect("in time");
}

#[tokio::test]
async fn the_others_serve_what_a_node_held_that_is_down() {
    let address = SocketAddr::from((Ipv4Addr::new(127, 0, 8, 1), 0));
    let emulator = Emulator::builder()
        .nodes(3)
        .listen(address)
        .start()
        .await
        .expect("start");
    let third = emulator.node_address(2).expect("three nodes");
    let session = connect(emulator.address()).await.expect("connect");
    for statement in SETUP {
        session.query_unpaged(statement, ()).await.expect(statement);
    }
    for pk in 0..30 {
        let insert = "INSERT INTO ks.t (pk) VALUES (?)";
        session.query_unpaged(insert, (pk,)).await.expect("insert");
    }
    emulator.stop_node(2).await.expect("stop");
    emulator.stop_node(2).await.expect("stopped already");
    assert_eq!(emulator.nodes_up().await, [true, true, false]);
    seen_as(&session, third, false).await;
    assert!(connect(third).await.is_err());
    let select = session
        .prepare("SELECT pk FROM ks.t WHERE pk = ?")
        .await
        .expect("prepare");
    for pk in 0..30 {
        let found = session.execute_unpaged(&select, (pk,)).await.expect("read");
        assert_eq!(found.into_rows_result().expect("rows").rows_num(), 1);
    }
    let peers = session
        .query_unpaged("SELECT peer FROM system.peers", ())
        .await
        .expect("read");
    assert_eq!(
        peers.into_rows_result().expect("rows").rows_num(),
        2,
        "it is still a peer"
    );
    emulator.start_node(2).await.expect("start");
    assert_eq!(emulator.nodes_up().await, [true; 3]);
    seen_as(&session, third, true).await;
    connect(third).await.expect("connect");
    assert!(emulator.stop_node(3).await.is_err());
}

#[tokio::test]
async fn all_nodes_listen_again_after_a_restart() {
    let address = SocketAddr::from((Ipv4Addr::new(127, 0, 9, 1), 0));
    let emulator = Emulator::builder()
        .nodes(2)
        .listen(address)
        .start()
        .await
        .expect("start");
    emulator.stop_node(0).await.expect("stop");
    let second = emulator.node_address(1).expect("two nodes");
    connect(second).await.expect("by the second node");
    emulator.stop_listening().await;
    assert_eq!(emulator.nodes_up().await, [false; 2]);
    emulator.start_listening().await.expect("listen");
    assert_eq!(emulator.nodes_up().await, [true; 2]);
    connect(emulator.address())
        .await
        .expect("by the first node");
}
