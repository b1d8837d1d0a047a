//! Spans of a relay that runs, as an OTLP receiver gets them.

use crate::support::bench::Bench;
use crate::support::certificates::{Authority, Issued};
use crate::support::kafka;
use crate::support::relay::READY;
use crate::support::traffic::{Plan, tables};
use crate::support::{free_port, oracle, until};
use anyhow::{Context, Result};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use outbox_writer::{Event, Outbox};
use prost::Message;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

const TRACE: u128 = 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736;
const WRITE: u64 = 0x00f0_67aa_0ba9_02b7;

/// Takes exports, one connection after the other, until it is dropped.
struct Receiver {
    address: String,
    exports: Arc<Mutex<Vec<ExportTraceServiceRequest>>>,
    _task: JoinSet<Result<()>>,
}

impl Receiver {
    async fn start() -> Result<Self> {
        Self::over(None).await
    }

    /// With this certificate, by TLS.
    async fn with(own: &Issued) -> Result<Self> {
        let certificate = CertificateDer::from_pem_slice(own.certificate.as_bytes())?;
        let key = PrivateKeyDer::from_pem_slice(own.key.as_bytes())?;
        let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)?;
        Self::over(Some(TlsAcceptor::from(Arc::new(config)))).await
    }

    async fn over(tls: Option<TlsAcceptor>) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?.to_string();
        let exports = Arc::new(Mutex::new(Vec::new()));
        let mut task = JoinSet::new();
        let kept = Arc::clone(&exports);
        task.spawn(async move {
            loop {
                let (stream, _) = listener.accept().await?;
                let mut stream: Box<dyn Stream> = match &tls {
                    None => Box::new(stream),
                    Some(tls) => match tls.accept(stream).await {
                        Ok(stream) => Box::new(stream),
                        // The client does not trust us.
                        Err(_) => continue,
                    },
                };
                // A client that goes away is none that exports.
                while let Ok(Some(export)) = request(&mut stream).await {
                    kept.lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push(export);
                }
            }
        });
        Ok(Self {
            address,
            exports,
            _task: task,
        })
    }

    fn exports(&self) -> Vec<ExportTraceServiceRequest> {
        let exports = self.exports.lock();
        exports.unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn spans(&self) -> Vec<Span> {
        let resources = self.exports().into_iter().flat_map(|e| e.resource_spans);
        let scopes = resources.flat_map(|resource| resource.scope_spans);
        scopes.flat_map(|scope| scope.spans).collect()
    }
}

/// A connection, encrypted or not.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// Reads a request and answers it; `None` at the end of the connection.
async fn request(stream: &mut Box<dyn Stream>) -> Result<Option<ExportTraceServiceRequest>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return Ok(None),
        }
    }
    let head = String::from_utf8(head)?;
    let mut lines = head.lines();
    assert_eq!(lines.next(), Some("POST /v1/traces HTTP/1.1"), "{head}");
    let header = |name: &str| {
        let mut headers = head.lines().filter_map(|line| line.split_once(": "));
        headers
            .find(|(found, _)| found.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    };
    assert_eq!(header("content-type"), Some("application/x-protobuf"));
    let length: usize = header("content-length").context("a length")?.parse()?;
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    let answer =
        b"HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\nContent-Length: 0\r\n\r\n";
    stream.write_all(answer).await?;
    Ok(Some(ExportTraceServiceRequest::decode(&*body)?))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_gets_the_way_of_a_traced_event() -> Result<()> {
    let case = "spans";
    let Some(broker) = kafka::broker(case).await else {
        return Ok(());
    };
    let receiver = Receiver::start().await?;
    let more = format!("otlp: {{ endpoint: \"http://{}/\" }}\n", receiver.address);
    let bench = Bench::configured(&broker.bootstrap, &more).await?;
    let relay = bench.relay.start().await?;
    // Not traced: they have no context.
    let plan = Plan {
        events: 20,
        keys: 10,
        ahead: 20,
    };
    bench.write_and_arrive(plan).await?;
    let (orders, _) = tables(&bench.name);
    let outbox = Outbox::new(&bench.database.session, &orders).await?;
    let traceparent = format!("00-{TRACE:032x}-{WRITE:016x}-01");
    let event = Event::new("order", "traced", "Placed")
        .text("a payload that no span shows")
        .header("traceparent", &traceparent);
    let receipt = outbox
        .batch()
        .event(event)
        .execute(&bench.database.session)
        .await?;
    bench.arrived(21).await?;
    until("all spans are exported", async || {
        Ok(receiver.spans().len() >= 5)
    })
    .await?;
    relay.stop().await?;

    let spans = receiver.spans();
    assert_eq!(spans.len(), 5, "{spans:#?}");
    let topic = &bench.topics[0];
    let named = |name: &str| {
        let found = spans.iter().find(|span| span.name == name);
        found.with_context(|| format!("{name} in {spans:#?}"))
    };
    let whole = named(&format!("outbox {orders}"))?;
    assert_eq!(whole.parent_span_id, WRITE.to_be_bytes());
    assert!(spans.iter().all(|s| s.trace_id == TRACE.to_be_bytes()));
    let in_order = ["wait", "read", "queue", &format!("send {topic}")];
    let mut before = whole.start_time_unix_nano;
    for name in in_order {
        let span = named(name)?;
        assert_eq!(span.parent_span_id, whole.span_id, "{name}");
        assert_eq!(span.start_time_unix_nano / 1000, before / 1000, "{name}");
        assert!(span.end_time_unix_nano >= span.start_time_unix_nano);
        before = span.end_time_unix_nano;
    }
    assert_eq!(before / 1000, whole.end_time_unix_nano / 1000);
    let written = receipt.timestamp_micros * 1000;
    assert_eq!(whole.start_time_unix_nano, u64::try_from(written)?);
    let resource = receiver.exports()[0].resource_spans[0].resource.clone();
    let attributes = resource.context("a resource")?.attributes;
    let named = |key: &str| {
        let found = attributes.iter().find(|attribute| attribute.key == key);
        found.and_then(|attribute| attribute.value.clone()?.value)
    };
    let service = Value::StringValue("outbox-relay".to_owned());
    assert_eq!(named("service.name"), Some(service));
    let instance = Value::StringValue(bench.name.clone());
    assert_eq!(named("service.instance.id"), Some(instance));
    let shown = format!("{spans:?}");
    assert!(!shown.contains("no span shows"), "{shown}");

    // The record says what the row said: consumers stand beside the relay, under the write.
    let records = bench.collector.all().await?;
    let id = receipt.event_ids[0].to_string();
    let record = records.iter().find(|record| record.id() == id);
    let headers = &record.context("the traced event")?.headers;
    let header = headers.iter().find(|(name, _)| name == "traceparent");
    assert_eq!(
        header.map(|(_, value)| &**value),
        Some(traceparent.as_bytes())
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_that_is_not_there_holds_up_nothing() -> Result<()> {
    let case = "no receiver of spans";
    let Some(broker) = kafka::broker(case).await else {
        return Ok(());
    };
    let more = format!(
        "otlp: {{ endpoint: \"http://127.0.0.1:{}\", sample_one_in: 1, timeout: 200ms }}\n",
        free_port()?
    );
    let bench = Bench::configured(&broker.bootstrap, &more).await?;
    let relay = bench.relay.start().await?;
    // Five spans an event: more than may wait.
    let plan = Plan {
        events: 5000,
        keys: 200,
        ahead: 5000,
    };
    bench.write_and_arrive(plan).await?;
    relay.said("BatchSpanProcessor").await?;
    relay.stop().await?;
    let records = bench.assert_delivered(case).await?;
    assert_eq!(oracle::duplicates(&records), 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_with_tls_must_be_one_that_the_relay_trusts() -> Result<()> {
    let case = "spans over TLS";
    let Some(broker) = kafka::broker(case).await else {
        return Ok(());
    };
    let authority = Authority::new("authority of receivers")?;
    let receiver = Receiver::with(&authority.issue("receiver", &["127.0.0.1"])?).await?;
    let more = format!(
        "otlp: {{ endpoint: \"https://{}\", sample_one_in: 1, timeout: 2s }}\n",
        receiver.address
    );
    let bench = Bench::configured(&broker.bootstrap, &more).await?;
    let plan = Plan {
        events: 20,
        keys: 10,
        ahead: 20,
    };
    // An authority that nobody has named is not trusted; the events do not mind.
    let stranger = bench.relay.start().await?;
    bench.write_and_arrive(plan).await?;
    stranger.said("BatchSpanProcessor").await?;
    stranger.stop().await?;
    assert_eq!(receiver.spans().len(), 0);

    let file = bench.relay.file("authorities.pem");
    std::fs::write(&file, authority.pem())?;
    let file = file.display().to_string();
    let relay = bench.relay.launch_in(&[("SSL_CERT_FILE", &file)])?;
    relay.said(READY).await?;
    bench.write(plan).await?;
    until("the spans are exported", async || {
        Ok(receiver.spans().len() >= 5 * 20)
    })
    .await?;
    relay.stop().await?;
    bench.assert_delivered(case).await.map(drop)
}
