//! Metrics as text for Prometheus: OpenMetrics 1.0, or the format that was before it.

use std::fmt::Write;

use crate::control::protocol::{Metric, MetricType, Sample};
use crate::stats::table;

/// How metrics are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    OpenMetrics,
    /// Prometheus' text format 0.0.4: no units, counters under their full name, no end.
    Classic,
}

impl Format {
    /// What a scraper's `Accept` headers ask for. The old format is for those that take nothing else
    /// that we have, or prefer it.
    pub fn accepted<'a>(headers: impl Iterator<Item = &'a str>) -> Self {
        let (mut open, mut classic) = (0.0_f64, 0.0_f64);
        for range in headers.flat_map(|header| header.split(',')) {
            let mut parts = range.split(';').map(str::trim);
            let media = parts.next().unwrap_or_default().to_ascii_lowercase();
            let (mut quality, mut known) = (1.0, true);
            for part in parts {
                match part.split_once('=') {
                    Some(("q", value)) => quality = value.parse().unwrap_or(0.0),
                    Some(("version", value)) if media == "text/plain" => known = value == "0.0.4",
                    _ => {}
                }
            }
            match media.as_str() {
                "application/openmetrics-text" | "application/*" => open = open.max(quality),
                "text/plain" | "text/*" if known => classic = classic.max(quality),
                "*/*" => (open, classic) = (open.max(quality), classic.max(quality)),
                _ => {}
            }
        }
        if classic > open { Format::Classic } else { Format::OpenMetrics }
    }

    pub fn media_type(self) -> &'static str {
        match self {
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Format::Classic => "text/plain; version=0.0.4; charset=utf-8",
        }
    }

    pub fn write(self, metrics: &[Metric]) -> String {
        let mut out = String::new();
        for metric in metrics {
            // Writing into a string cannot fail.
            let _ = self.metric(&mut out, metric);
        }
        if self == Format::OpenMetrics {
            out.push_str("# EOF\n");
        }
        out
    }

    fn metric(self, out: &mut String, metric: &Metric) -> std::fmt::Result {
        let family = match self {
            Format::OpenMetrics => table::find(&metric.name).map_or(&*metric.name, |row| row.family()),
            Format::Classic => &metric.name,
        };
        let kind = match (self, metric.kind) {
            (Format::Classic, MetricType::Info) => "gauge",
            (_, kind) => kind.as_str(),
        };
        writeln!(out, "# HELP {family} {}", escaped(&metric.help, self == Format::OpenMetrics))?;
        writeln!(out, "# TYPE {family} {kind}")?;
        if let (Format::OpenMetrics, Some(unit)) = (self, &metric.unit) {
            writeln!(out, "# UNIT {family} {unit}")?;
        }
        for sample in &metric.samples {
            match (&sample.buckets, sample.value) {
                (Some(buckets), _) => {
                    for bucket in buckets {
                        let le = bucket.le.map_or("+Inf".to_owned(), |le| format!("{le:?}"));
                        line(out, &metric.name, "_bucket", sample, Some(&le), bucket.count)?;
                    }
                    line(out, &metric.name, "_sum", sample, None, sample.sum.unwrap_or_default())?;
                    line(out, &metric.name, "_count", sample, None, sample.count.unwrap_or_default())?;
                }
                (None, value) => line(out, &metric.name, "", sample, None, value.unwrap_or_default())?,
            }
        }
        Ok(())
    }
}

fn line(
    out: &mut String,
    name: &str,
    suffix: &str,
    sample: &Sample,
    le: Option<&str>,
    value: impl std::fmt::Display,
) -> std::fmt::Result {
    write!(out, "{name}{suffix}")?;
    let labels = sample.labels.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    for (n, (label, text)) in labels.chain(le.map(|le| ("le", le))).enumerate() {
        write!(out, "{}{label}=\"{}\"", if n == 0 { '{' } else { ',' }, escaped(text, true))?;
    }
    let end = if sample.labels.is_empty() && le.is_none() { "" } else { "}" };
    writeln!(out, "{end} {value}")
}

fn escaped(text: &str, quotes: bool) -> String {
    let text = text.replace('\\', "\\\\").replace('\n', "\\n");
    if quotes { text.replace('"', "\\\"") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::protocol::Bucket;

    #[test]
    fn each_format_is_written_as_its_readers_expect_it() {
        let sample = |labels: &[(&str, &str)], value: f64| Sample {
            labels: labels.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect(),
            value: Some(value),
            ..Sample::default()
        };
        let metric = |name: &str, kind, unit: Option<&str>, samples| Metric {
            name: name.into(),
            kind,
            unit: unit.map(str::to_owned),
            help: "A \"word\".".into(),
            labels: Vec::new(),
            samples,
        };
        let buckets = vec![Bucket { le: Some(1.0), count: 2 }, Bucket { le: None, count: 3 }];
        let histogram = Sample { count: Some(3), sum: Some(2.5), buckets: Some(buckets), ..Sample::default() };
        let metrics = [
            metric("wschat_info", MetricType::Info, None, vec![sample(&[("version", "a\\\"\nb")], 1.0)]),
            metric("wschat_messages_total", MetricType::Counter, None, vec![sample(&[], 1e15)]),
            metric("wschat_ack_latency_seconds", MetricType::Histogram, Some("seconds"), vec![histogram]),
        ];
        let open = "# HELP wschat A \\\"word\\\".\n# TYPE wschat info\nwschat_info{version=\"a\\\\\\\"\\nb\"} 1\n\
            # HELP wschat_messages A \\\"word\\\".\n# TYPE wschat_messages counter\n\
            wschat_messages_total 1000000000000000\n\
            # HELP wschat_ack_latency_seconds A \\\"word\\\".\n# TYPE wschat_ack_latency_seconds histogram\n\
            # UNIT wschat_ack_latency_seconds seconds\n\
            wschat_ack_latency_seconds_bucket{le=\"1.0\"} 2\nwschat_ack_latency_seconds_bucket{le=\"+Inf\"} 3\n\
            wschat_ack_latency_seconds_sum 2.5\nwschat_ack_latency_seconds_count 3\n# EOF\n";
        assert_eq!(Format::OpenMetrics.write(&metrics), open);
        let classic = Format::Classic.write(&metrics);
        assert!(classic.starts_with("# HELP wschat_info A \"word\".\n# TYPE wschat_info gauge\nwschat_info{"));
        assert!(classic.contains("# TYPE wschat_messages_total counter\n"));
        assert!(!classic.contains("# UNIT") && !classic.contains("# EOF"));
    }

    #[test]
    fn the_old_format_is_for_those_that_ask_for_it() {
        let asked = |accept: &str| Format::accepted([accept].into_iter().filter(|accept| !accept.is_empty()));
        let both = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        for accept in ["", "*/*", both, "text/html", "nonsense;;=,", "text/plain;version=9"] {
            assert_eq!(asked(accept), Format::OpenMetrics, "{accept}");
        }
        for accept in ["text/plain", "text/plain; version=0.0.4", "text/html, text/*;q=0.5, */*;q=0.1"] {
            assert_eq!(asked(accept), Format::Classic, "{accept}");
        }
    }
}
