//! Spans of journeys, exported by the OpenTelemetry protocol over HTTP.
//!
//! Spans are made when a journey has ended, with the times that it had: the pipeline carries nothing
//! for them. They form one tree under the span of the write, if the row came with its context:
//!
//! ```text
//! outbox app.orders_outbox           written … acknowledged
//! ├── wait                           written … the page that shows the row is asked for
//! ├── read                           … the event is handed over
//! ├── queue                          … it is handed to the producer, the last time
//! └── send orders.events (producer)  … Kafka acknowledges it
//! ```
//!
//! Names and attributes follow OpenTelemetry's conventions for messaging. The record's own
//! `traceparent` stays that of the write, which created the message.
//!
//! An exporter that cannot reach its receiver loses spans and nothing else: what waits is bounded,
//! and exports run on a thread of their own.

use std::time::{Duration, SystemTime};

use opentelemetry::trace::{
    Span, SpanContext, SpanId, SpanKind, Status, TraceContextExt, TraceFlags, TraceId, TraceState,
    Tracer, TracerProvider,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::{ExporterBuildError, Protocol, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracer, SdkTracerProvider, SpanExporter,
};

use super::journey::{End, Journal, Journey};
use crate::config::Otlp;
use crate::sink::Appended;

/// Spans that wait for their export; more are dropped.
const MOST_WAITING: usize = 16_384;
/// Spans of one export.
const MOST_AT_ONCE: usize = 2048;
/// Longest wait of a span for its export.
const EVERY: Duration = Duration::from_secs(1);
/// What the last export may take.
const LAST_EXPORT: Duration = Duration::from_secs(2);

/// Why no spans can be exported.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The HTTP client cannot be made.
    #[error("make the HTTP client")]
    Client(#[from] reqwest::Error),
    /// Making it has panicked.
    #[error("make the HTTP client: it panicked")]
    Panicked,
    /// The exporter cannot be made.
    #[error("make the exporter")]
    Exporter(#[from] ExporterBuildError),
}

/// Exports spans until it is closed.
#[derive(Debug)]
pub struct Spans {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
}

impl Spans {
    /// Begins to export. Nothing is sent before the first journey has ended.
    ///
    /// # Errors
    ///
    /// When the client or the exporter cannot be made, such as with a malformed header in
    /// `OTEL_EXPORTER_OTLP_HEADERS`. A receiver that cannot be reached is no error.
    pub fn start(otlp: &Otlp, relay: &str) -> Result<Self, Error> {
        let timeout = otlp.timeout;
        // A blocking client cannot be made on a thread of an asynchronous runtime.
        let client = std::thread::spawn(move || {
            let client = reqwest::blocking::Client::builder();
            client.timeout(timeout).build()
        });
        let client = client.join().map_err(|_| Error::Panicked)??;
        let exporter = opentelemetry_otlp::SpanExporter::builder()
            .with_http()
            .with_http_client(client)
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(format!("{}/v1/traces", otlp.endpoint))
            .with_timeout(otlp.timeout)
            .build()?;
        Ok(Self::with(exporter, otlp.sample_one_in, relay))
    }

    fn with(exporter: impl SpanExporter + 'static, sample_one_in: usize, relay: &str) -> Self {
        let batches = BatchConfigBuilder::default()
            .with_max_queue_size(MOST_WAITING)
            .with_max_export_batch_size(MOST_AT_ONCE)
            .with_scheduled_delay(EVERY);
        let processor = BatchSpanProcessor::builder(exporter)
            .with_batch_config(batches.build())
            .build();
        let roots = match sample_one_in {
            0 => Sampler::AlwaysOff,
            many => Sampler::TraceIdRatioBased(1.0 / many as f64),
        };
        // OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES come first.
        let mut resource = Resource::builder();
        if std::env::var_os("OTEL_SERVICE_NAME").is_none() {
            resource = resource.with_service_name("outbox-relay");
        }
        let resource = resource.with_attributes([
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
            KeyValue::new("service.instance.id", relay.to_owned()),
        ]);
        let provider = SdkTracerProvider::builder()
            .with_span_processor(processor)
            .with_sampler(Sampler::ParentBased(Box::new(roots)))
            .with_resource(resource.build())
            .build();
        let tracer = provider.tracer("outbox-relay");
        Self { provider, tracer }
    }

    /// A span from `start` to `end`.
    fn span(
        &self,
        parent: &Context,
        name: String,
        kind: SpanKind,
        (start, end): (SystemTime, SystemTime),
        attributes: Vec<KeyValue>,
    ) {
        let builder = self.tracer.span_builder(name).with_kind(kind);
        let builder = builder.with_start_time(start).with_attributes(attributes);
        builder
            .start_with_context(&self.tracer, parent)
            .end_with_timestamp(end);
    }
}

impl Journal for Spans {
    fn ended(&self, journey: &Journey<'_>) {
        let written = journey.traceparent.and_then(context);
        let parent = written.map_or_else(Context::new, |written| {
            Context::new().with_remote_span_context(written)
        });
        let start = (journey.read).map_or(journey.submitted, |read| read.written);
        // Clocks of writers may run ahead.
        let ended = journey.ended.max(start);
        let builder = self
            .tracer
            .span_builder(format!("outbox {}", journey.table))
            .with_start_time(start)
            .with_attributes(described(journey));
        let mut whole = builder.start_with_context(&self.tracer, &parent);
        if whole.is_recording() {
            let inside = Context::new().with_remote_span_context(whole.span_context().clone());
            let inner = |name: &str, start, end| {
                self.span(
                    &inside,
                    name.to_owned(),
                    SpanKind::Internal,
                    (start, end),
                    Vec::new(),
                );
            };
            if let Some(read) = journey.read {
                let asked = read.asked.max(start);
                inner("wait", start, asked);
                inner("read", asked, journey.submitted.max(asked));
            }
            let sent = journey.sent.unwrap_or(ended);
            inner("queue", journey.submitted, sent);
            if let (Some(sent), Some(topic), End::Published) =
                (journey.sent, journey.topic, journey.end)
            {
                let mut attributes = vec![
                    KeyValue::new("messaging.system", "kafka"),
                    KeyValue::new("messaging.operation.name", "send"),
                    KeyValue::new("messaging.operation.type", "send"),
                    KeyValue::new("messaging.destination.name", topic.to_owned()),
                    KeyValue::new("messaging.message.id", journey.event_id.to_owned()),
                ];
                if let Some(Appended { partition, offset }) = journey.appended {
                    let partition = partition.to_string();
                    attributes.push(KeyValue::new(
                        "messaging.destination.partition.id",
                        partition,
                    ));
                    attributes.push(KeyValue::new("messaging.kafka.offset", offset));
                }
                let name = format!("send {topic}");
                self.span(&inside, name, SpanKind::Producer, (sent, ended), attributes);
            }
        }
        if let End::DeadLetter(reason) = journey.end {
            whole.set_attribute(KeyValue::new("error.type", reason.to_owned()));
            whole.set_status(Status::error("the event is a dead letter"));
        }
        whole.end_with_timestamp(ended);
    }

    fn close(&self) {
        if let Err(error) = self.provider.shutdown_with_timeout(LAST_EXPORT) {
            tracing::warn!(%error, "the last spans were not exported");
        }
    }
}

/// What the span of the whole way says.
fn described(journey: &Journey<'_>) -> Vec<KeyValue> {
    let mut attributes = vec![
        KeyValue::new("outbox_relay.table", journey.table.to_owned()),
        KeyValue::new("outbox_relay.attempts", i64::from(journey.attempts)),
        KeyValue::new("outbox_relay.replay", journey.read.is_none()),
        KeyValue::new("messaging.message.id", journey.event_id.to_owned()),
    ];
    if let Some(event_type) = journey.event_type {
        let event_type = KeyValue::new("outbox_relay.event_type", event_type.to_owned());
        attributes.push(event_type);
    }
    attributes
}

/// A W3C `traceparent` of version 00, or what a later version has of it; `None` if it is none.
fn context(traceparent: &str) -> Option<SpanContext> {
    let mut parts = traceparent.split('-');
    let (version, trace, span, flags) =
        (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let hex = |text: &str, length: usize| {
        text.len() == length && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    };
    let whole = hex(version, 2) && hex(trace, 32) && hex(span, 16) && hex(flags, 2);
    let ends = version != "00" || parts.next().is_none();
    if !whole || !ends || version == "ff" {
        return None;
    }
    let context = SpanContext::new(
        TraceId::from_hex(trace).ok()?,
        SpanId::from_hex(span).ok()?,
        TraceFlags::new(u8::from_str_radix(flags, 16).ok()?) & TraceFlags::SAMPLED,
        true,
        TraceState::NONE,
    );
    context.is_valid().then_some(context)
}

#[cfg(test)]
mod tests;
