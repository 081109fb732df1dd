//! The daemon's numbers, typed: what `Stats` answers.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct AskStats {
    /// Ask for the text that Prometheus is given, instead of typed metrics.
    pub openmetrics: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Stats {
    /// By name; empty where the text was asked for.
    pub metrics: Vec<Metric>,
    pub openmetrics: Option<String>,
}

impl Stats {
    /// The metric of this name; it may have no samples.
    pub fn metric(&self, name: &str) -> Option<&Metric> {
        self.metrics.iter().find(|metric| metric.name == name)
    }
}

/// One metric with all that is known of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Metric {
    /// As Prometheus knows it, with its unit and, of a counter, `_total`.
    pub name: String,
    #[serde(rename = "type")]
    pub kind: MetricType,
    pub unit: Option<String>,
    pub help: String,
    /// The names of the labels that each sample has.
    pub labels: Vec<String>,
    pub samples: Vec<Sample>,
}

impl Metric {
    /// The sum of all samples' values; of a histogram 0.
    pub fn total(&self) -> f64 {
        self.samples.iter().filter_map(|sample| sample.value).sum()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MetricType {
    /// Only goes up, from 0 at the start of the daemon.
    Counter,
    Gauge,
    Histogram,
    /// Always 1; what it has to say is in its labels.
    Info,
}

impl MetricType {
    pub fn as_str(self) -> &'static str {
        match self {
            MetricType::Counter => "counter",
            MetricType::Gauge => "gauge",
            MetricType::Histogram => "histogram",
            MetricType::Info => "info",
        }
    }
}

/// One number (`value`), or one histogram (the other three).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    pub labels: BTreeMap<String, String>,
    pub value: Option<f64>,
    pub count: Option<u64>,
    pub sum: Option<f64>,
    pub buckets: Option<Vec<Bucket>>,
}

/// How many values were at most `le`; ascending, the last one without `le` has all.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bucket {
    pub le: Option<f64>,
    pub count: u64,
}
