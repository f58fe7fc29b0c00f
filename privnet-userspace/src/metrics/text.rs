//! The Prometheus text format, version 0.0.4
//! (<https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format>).

use std::collections::BTreeMap;

/// The prefix of every name.
const PREFIX: &str = "privnet";

/// Label names and values, in the order they are written. A name is `[a-zA-Z_][a-zA-Z0-9_]*`; a value is any text.
pub(super) type Labels = Vec<(&'static str, String)>;

/// One metric with all its samples. Samples with the same labels are added up: a scrape with duplicates is refused whole.
#[derive(Debug)]
pub(super) struct Family {
    name: &'static str,
    help: &'static str,
    kind: &'static str,
    samples: BTreeMap<Labels, u64>,
}

impl Family {
    /// One that only grows; its name ends with `_total`.
    pub(super) fn counter(name: &'static str, help: &'static str) -> Self {
        Self { name, help, kind: "counter", samples: BTreeMap::new() }
    }

    /// One that may grow and shrink.
    pub(super) fn gauge(name: &'static str, help: &'static str) -> Self {
        Self { name, help, kind: "gauge", samples: BTreeMap::new() }
    }

    /// A gauge of one sample without labels.
    pub(super) fn single(name: &'static str, help: &'static str, value: u64) -> Self {
        let mut family = Self::gauge(name, help);
        family.add(Labels::new(), value);
        family
    }

    /// Adds a sample.
    pub(super) fn add(&mut self, labels: Labels, value: u64) {
        let sum = self.samples.entry(labels).or_default();
        *sum = sum.saturating_add(value);
    }
}

/// Writes the families that have samples, in their order.
pub(super) fn write(families: &[Family]) -> String {
    let with_samples = families.iter().filter(|family| !family.samples.is_empty());
    with_samples.map(Family::text).collect()
}

impl Family {
    fn text(&self) -> String {
        let Self { name, help, kind, samples } = self;
        let sample = |(labels, value): (&Labels, &u64)| format!("{PREFIX}_{name}{} {value}\n", label_set(labels));
        let samples: String = samples.iter().map(sample).collect();
        format!("# HELP {PREFIX}_{name} {help}\n# TYPE {PREFIX}_{name} {kind}\n{samples}")
    }
}

fn label_set(labels: &Labels) -> String {
    if labels.is_empty() {
        return String::new();
    }
    let pairs: Vec<String> = labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escape(value))).collect();
    format!("{{{}}}", pairs.join(","))
}

/// A label's value as it stands between its quotes: a backslash, a quote and a line feed are written with a backslash.
fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
