//! A database for one case.
//!
//! Every case has keyspaces of its own, so that one server can serve several.

use super::until;
use anyhow::{Context, Result};
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla_emulator::{Builder, Emulator};
use std::sync::Arc;
use testcontainers::core::{IntoContainerPort, WaitFor};
use testcontainers::runners::AsyncRunner;
use testcontainers::{ContainerAsync, GenericImage, ImageExt};

/// A server with a session.
pub(crate) struct Database {
    /// `host:port` of a node.
    pub(crate) node: String,
    pub(crate) session: Arc<Session>,
    source: Source,
    tablets: bool,
}

enum Source {
    Given,
    Container {
        _running: Box<ContainerAsync<GenericImage>>,
    },
    Emulator(Box<Emulator>),
}

impl Database {
    /// The server of `SCYLLA_URI`, else one in a container, else the emulator.
    pub(crate) async fn start() -> Result<Self> {
        if let Ok(node) = std::env::var("SCYLLA_URI") {
            return Self::connect(node, Source::Given).await;
        }
        if let Ok((node, container)) = container().await {
            let source = Source::Container {
                _running: Box::new(container),
            };
            return Self::connect(node, source).await;
        }
        Self::emulator_only().await
    }

    /// The emulator, whatever else there is: it fails on purpose.
    pub(crate) async fn emulator_only() -> Result<Self> {
        Self::emulated(Emulator::builder().vnodes(4).shards(2)).await
    }

    /// An emulator with a layout of its own.
    pub(crate) async fn emulated(builder: Builder) -> Result<Self> {
        let emulator = builder.start().await.context("start the emulator")?;
        let node = emulator.address().to_string();
        Self::connect(node, Source::Emulator(Box::new(emulator))).await
    }

    /// An emulator that lets in nobody without what `more` says, a configuration of the relay
    /// without the nodes.
    #[cfg(feature = "tls")]
    pub(crate) async fn guarded(builder: Builder, more: &str) -> Result<Self> {
        let emulator = builder.start().await.context("start the emulator")?;
        let node = emulator.address().to_string();
        let directory = tempfile::tempdir()?;
        let file = directory.path().join("more.yaml");
        std::fs::write(&file, more)?;
        let sources = outbox_relay::config::Sources {
            files: vec![file],
            set: vec![
                format!("scylla.nodes={node}"),
                "outboxes=[{\"table\":\"a.b\"}]".to_owned(),
            ],
            ..Default::default()
        };
        let config = sources.load()?.config;
        let session = outbox_relay::scylla::connect(&config.scylla).await?;
        let source = Source::Emulator(Box::new(emulator));
        Ok(Self::of(node, session, source))
    }

    async fn connect(node: String, source: Source) -> Result<Self> {
        let session = SessionBuilder::new()
            .known_node(&node)
            .build()
            .await
            .with_context(|| format!("connect to {node}"))?;
        Ok(Self::of(node, session, source))
    }

    fn of(node: String, session: Session, source: Source) -> Self {
        Self {
            node,
            session: Arc::new(session),
            source,
            tablets: false,
        }
    }

    /// The same, with tablets in the keyspaces that are created from now on.
    pub(crate) fn with_tablets(mut self) -> Self {
        self.tablets = true;
        self
    }

    /// The emulator, if it is the database.
    pub(crate) fn emulator(&self) -> Option<&Emulator> {
        match &self.source {
            Source::Emulator(emulator) => Some(emulator),
            Source::Given | Source::Container { .. } => None,
        }
    }

    /// Waits until the session gets answers again.
    pub(crate) async fn answers(&self) -> Result<()> {
        let look = "SELECT key FROM system.local";
        until("the database answers", async || {
            Ok(self.session.query_unpaged(look, ()).await.is_ok())
        })
        .await
    }

    /// Creates a keyspace with vnode streams, also where tablets are the default, or with tablets.
    pub(crate) async fn create_keyspace(&self, keyspace: &str) -> Result<()> {
        let cql = format!(
            "CREATE KEYSPACE {keyspace} WITH replication = \
             {{'class': 'NetworkTopologyStrategy', 'replication_factor': 1}}"
        );
        if self.tablets {
            let tablets = format!("{cql} AND tablets = {{'initial': 4}}");
            self.session.query_unpaged(tablets, ()).await?;
            return Ok(());
        }
        let vnodes = format!("{cql} AND tablets = {{'enabled': false}}");
        if self.emulator().is_some() || self.session.query_unpaged(vnodes, ()).await.is_err() {
            self.session
                .query_unpaged(cql, ())
                .await
                .with_context(|| format!("create keyspace {keyspace}"))?;
        }
        Ok(())
    }
}

async fn container() -> Result<(String, ContainerAsync<GenericImage>)> {
    let container = GenericImage::new("scylladb/scylla", "2025.4")
        .with_exposed_port(9042.tcp())
        .with_wait_for(WaitFor::message_on_stderr("initialization completed"))
        .with_cmd([
            "--smp",
            "1",
            "--memory",
            "1G",
            "--overprovisioned",
            "1",
            "--developer-mode",
            "1",
        ])
        .start()
        .await?;
    let port = container.get_host_port_ipv4(9042).await?;
    Ok((format!("127.0.0.1:{port}"), container))
}
