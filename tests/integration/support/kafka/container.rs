//! Apache Kafka in a container.

use crate::support::free_port;
use anyhow::{Context, Result};
use testcontainers::core::{IntoContainerPort, WaitFor};
use testcontainers::runners::AsyncRunner;
use testcontainers::{ContainerAsync, GenericImage, ImageExt};

/// A container; dropping it removes it.
pub(crate) type Running = ContainerAsync<GenericImage>;

const INSIDE: u16 = 9092;

/// Starts a single node, and gives its bootstrap address.
pub(super) async fn kafka() -> Result<(String, Running)> {
    let port = free_port()?;
    let settings = [
        ("KAFKA_NODE_ID", "1".to_owned()),
        ("KAFKA_PROCESS_ROLES", "broker,controller".to_owned()),
        (
            "KAFKA_LISTENERS",
            format!("PLAINTEXT://:{INSIDE},CONTROLLER://:9093"),
        ),
        (
            "KAFKA_ADVERTISED_LISTENERS",
            format!("PLAINTEXT://127.0.0.1:{port}"),
        ),
        ("KAFKA_CONTROLLER_LISTENER_NAMES", "CONTROLLER".to_owned()),
        (
            "KAFKA_LISTENER_SECURITY_PROTOCOL_MAP",
            "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT".to_owned(),
        ),
        (
            "KAFKA_CONTROLLER_QUORUM_VOTERS",
            "1@localhost:9093".to_owned(),
        ),
        ("KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR", "1".to_owned()),
        (
            "KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR",
            "1".to_owned(),
        ),
        ("KAFKA_TRANSACTION_STATE_LOG_MIN_ISR", "1".to_owned()),
        ("KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS", "0".to_owned()),
    ];
    let image = GenericImage::new("apache/kafka", "4.1.0")
        .with_wait_for(WaitFor::message_on_stdout("Kafka Server started"));
    let request = settings.into_iter().fold(
        image.with_mapped_port(port, INSIDE.tcp()),
        |image, (name, value)| image.with_env_var(name, value),
    );
    let container = request.start().await.context("start a container")?;
    Ok((format!("127.0.0.1:{port}"), container))
}
