//! A metric's values and how the library encodes them.

use std::fmt::Error;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;

use crate::telemetry::histogram::Counts;

const PREFIX: &str = "outbox_relay_";

/// What a metric counts or measures.
pub(super) trait Value {
    /// The metric's type.
    const KIND: MetricType;

    fn encode(&self, encoder: &mut MetricEncoder<'_>) -> Result<(), Error>;
}

/// A counter.
impl Value for u64 {
    const KIND: MetricType = MetricType::Counter;

    fn encode(&self, encoder: &mut MetricEncoder<'_>) -> Result<(), Error> {
        encoder.encode_counter::<NoLabelSet, _, u64>(self, None)
    }
}

/// A gauge.
impl Value for f64 {
    const KIND: MetricType = MetricType::Gauge;

    fn encode(&self, encoder: &mut MetricEncoder<'_>) -> Result<(), Error> {
        encoder.encode_gauge(self)
    }
}

/// A counter of time.
#[derive(Debug)]
pub(super) struct Spent(pub(super) f64);

impl Value for Spent {
    const KIND: MetricType = MetricType::Counter;

    fn encode(&self, encoder: &mut MetricEncoder<'_>) -> Result<(), Error> {
        encoder.encode_counter::<NoLabelSet, _, u64>(&self.0, None)
    }
}

/// A histogram of times, in seconds.
impl Value for Counts {
    const KIND: MetricType = MetricType::Histogram;

    fn encode(&self, encoder: &mut MetricEncoder<'_>) -> Result<(), Error> {
        let bounds = self.bounds.iter().map(|bound| *bound as f64 / 1e6);
        let bounds = bounds.chain([f64::INFINITY]);
        let buckets: Vec<(f64, u64)> = bounds.zip(self.buckets.iter().copied()).collect();
        let sum = self.sum_micros as f64 / 1e6;
        encoder.encode_histogram::<NoLabelSet>(sum, self.count(), &buckets, None)
    }
}

/// Values of one name, apart by a label.
pub(super) struct Family {
    /// Without unit and `_total`.
    name: String,
    unit: Option<Unit>,
    pub(super) help: &'static str,
    pub(super) kind: MetricType,
    /// The label by which they differ.
    pub(super) label: Option<&'static str>,
    samples: Vec<(String, Box<dyn Sample>)>,
}

/// A [`Value`] of a type that does not matter any more.
trait Sample: Send + Sync {
    fn encode(&self, encoder: &mut MetricEncoder<'_>) -> Result<(), Error>;
}

impl<V: Value + Send + Sync> Sample for V {
    fn encode(&self, encoder: &mut MetricEncoder<'_>) -> Result<(), Error> {
        Value::encode(self, encoder)
    }
}

impl Family {
    fn new<V: Value + Send + Sync + 'static>(
        name: &str,
        help: &'static str,
        label: Option<&'static str>,
        samples: impl Iterator<Item = (String, V)>,
    ) -> Self {
        Self {
            name: format!("{PREFIX}{name}"),
            unit: None,
            help,
            kind: V::KIND,
            label,
            samples: samples
                .map(|(of, value)| (of, Box::new(value) as Box<dyn Sample>))
                .collect(),
        }
    }

    /// One value.
    pub(super) fn one<V: Value + Send + Sync + 'static>(
        name: &str,
        help: &'static str,
        value: V,
    ) -> Self {
        Self::new(name, help, None, std::iter::once((String::new(), value)))
    }

    /// Values that differ by `label`.
    pub(super) fn by<L: Into<String>, V: Value + Send + Sync + 'static>(
        name: &str,
        help: &'static str,
        label: &'static str,
        samples: impl IntoIterator<Item = (L, V)>,
    ) -> Self {
        let samples = samples.into_iter();
        let samples = samples.map(|(of, value)| (of.into(), value));
        Self::new(name, help, Some(label), samples)
    }

    pub(super) fn in_unit(mut self, unit: Unit) -> Self {
        self.unit = Some(unit);
        self
    }

    /// A name that others give to every process.
    pub(super) fn of_the_process(mut self) -> Self {
        self.name = self.name.trim_start_matches(PREFIX).to_owned();
        self
    }

    /// The name under which it is found.
    pub(super) fn full_name(&self) -> String {
        let unit = self.unit.as_ref();
        let unit = unit.map_or(String::new(), |unit| format!("_{}", unit.as_str()));
        let total = match self.kind {
            MetricType::Counter => "_total",
            _ => "",
        };
        format!("{}{unit}{total}", self.name)
    }

    /// The words that the label has now.
    pub(super) fn words(&self) -> impl Iterator<Item = &str> {
        self.samples.iter().map(|(of, _)| &**of)
    }

    fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), Error> {
        let unit = self.unit.as_ref();
        let mut encoder = encoder.encode_descriptor(&self.name, self.help, unit, self.kind)?;
        for (of, sample) in &self.samples {
            match self.label {
                None => sample.encode(&mut encoder)?,
                Some(label) => sample.encode(&mut encoder.encode_family(&[(label, &**of)])?)?,
            }
        }
        Ok(())
    }
}

/// Families as the library collects them.
pub(super) struct Families(pub(super) Vec<Family>);

impl std::fmt::Debug for Families {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list()
            .entries(self.0.iter().map(Family::full_name))
            .finish()
    }
}

impl Collector for Families {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let mut families = self.0.iter();
        families.try_for_each(|family| family.encode(&mut encoder))
    }
}
