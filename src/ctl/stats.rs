//! `wschatctl stats`: the daemon's numbers, for people, for programs, and for Prometheus.

use super::args;
use super::client::Daemon;
use super::commands::control;
use super::failure::Failure;
use super::output::{HEADING, Output};
use super::text::{age, bytes, harmless};
use crate::control::protocol::{self as api, Metric, MetricType, Sample};
use crate::stats::table::{self, Group};

pub(super) fn stats(stats: &args::Stats, daemon: &mut Daemon, out: &mut Output) -> Result<(), Failure> {
    let request = api::AskStats { openmetrics: stats.prometheus };
    let answer: api::Stats = daemon.call(&control("Stats"), request)?;
    if stats.prometheus {
        out.raw(answer.openmetrics.unwrap_or_default().as_bytes())?;
        return out.flush();
    }
    let metrics: Vec<Metric> = answer.metrics.into_iter().filter(|metric| stats.wants(&metric.name)).collect();
    if metrics.is_empty() && !stats.names.is_empty() {
        return Err(Failure::Usage("there is no metric of that name; wschat-metrics(7) has them all".into()));
    }
    if out.json {
        return out.document(&api::Stats { metrics, openmetrics: None });
    }
    if !out.terminal {
        for sample in metrics.iter().flat_map(|metric| metric.samples.iter().map(move |sample| (metric, sample))) {
            for (name, value) in plain(sample.0, sample.1) {
                out.line(&format!("{name}\t{value}"))?;
            }
        }
        return out.flush();
    }
    screen(&metrics, out)
}

/// The series of a sample as Prometheus names them, and their values; of a histogram sum and count.
fn plain(metric: &Metric, sample: &Sample) -> Vec<(String, String)> {
    let name = harmless(&metric.name);
    let labels: Vec<String> =
        sample.labels.iter().map(|(name, value)| format!("{}=\"{}\"", harmless(name), harmless(value))).collect();
    let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
    match sample.value {
        Some(value) => vec![(format!("{name}{labels}"), value.to_string())],
        None => vec![
            (format!("{name}_sum{labels}"), sample.sum.unwrap_or_default().to_string()),
            (format!("{name}_count{labels}"), sample.count.unwrap_or_default().to_string()),
        ],
    }
}

/// Group by group, one line for each sample that has something to say.
fn screen(metrics: &[Metric], out: &mut Output) -> Result<(), Failure> {
    let mut group: Option<Group> = None;
    for metric in metrics {
        // One that a newer daemon has comes under the last heading.
        let own = table::find(&metric.name).map(|row| row.group);
        let lines = lines(metric);
        if lines.is_empty() {
            continue;
        }
        if own.is_some() && own != group {
            if group.is_some() {
                out.line("")?;
            }
            group = own;
            let heading = own.map_or("", Group::as_str).to_uppercase();
            let heading = out.styled(&heading, HEADING);
            out.line(&heading)?;
        }
        for (name, value) in lines {
            out.line(&format!("  {name:<NAME$}  {value}"))?;
        }
    }
    out.flush()
}

/// Wide enough for the longest names, and the values stay on an 80 column screen.
const NAME: usize = 46;

fn lines(metric: &Metric) -> Vec<(String, String)> {
    let name = short(&metric.name);
    let mut lines = Vec::new();
    for sample in &metric.samples {
        let labels: Vec<String> =
            sample.labels.iter().map(|(name, value)| format!("{}={}", harmless(name), harmless(value))).collect();
        let value = sample.value.unwrap_or_default();
        // Of a table of counters those that have counted; a metric of one number always.
        if value == 0.0 && sample.buckets.is_none() && !sample.labels.is_empty() {
            continue;
        }
        let named = if labels.is_empty() { name.clone() } else { format!("{name} {}", labels.join(" ")) };
        match metric.kind {
            MetricType::Info => lines.push((name.clone(), labels.join(" "))),
            MetricType::Histogram => lines.push((named, quantiles(sample))),
            _ => lines.push((named, number(metric, value))),
        }
    }
    if lines.is_empty() && !metric.samples.is_empty() {
        lines.push((name, "0".into()));
    }
    lines
}

/// The name without what the value shows.
fn short(name: &str) -> String {
    let name = name.strip_prefix("wschat_").unwrap_or(name);
    let name = name.strip_suffix("_total").unwrap_or(name);
    harmless(name.strip_suffix("_seconds").unwrap_or(name))
}

fn number(metric: &Metric, value: f64) -> String {
    match metric.unit.as_deref() {
        Some("bytes") => bytes(value as u64),
        Some("seconds") if metric.name.contains("time") && metric.kind == MetricType::Gauge => {
            let at =
                std::time::UNIX_EPOCH.checked_add(std::time::Duration::try_from_secs_f64(value).unwrap_or_default());
            at.map_or_else(String::new, |at| humantime::format_rfc3339_seconds(at).to_string())
        }
        Some("seconds") if value >= 60.0 => age(value),
        Some("seconds") => format!("{value:.3}s"),
        _ => value.to_string(),
    }
}

/// How many, on average, and below what half and nearly all of them were.
fn quantiles(sample: &Sample) -> String {
    let (count, sum) = (sample.count.unwrap_or_default(), sample.sum.unwrap_or_default());
    if count == 0 {
        return "none yet".into();
    }
    let within = |part: f64| {
        let buckets = sample.buckets.as_deref().unwrap_or_default();
        let wanted = (count as f64 * part).ceil() as u64;
        match buckets.iter().find(|bucket| bucket.count >= wanted) {
            Some(api::Bucket { le: Some(le), .. }) => format!("<= {}", brief(*le)),
            _ => buckets.iter().rev().find_map(|bucket| bucket.le).map_or("?".into(), |le| format!("> {}", brief(le))),
        }
    };
    format!("{count}, mean {}, half {}, 99% {}", brief(sum / count as f64), within(0.5), within(0.99))
}

fn brief(seconds: f64) -> String {
    match seconds {
        s if s >= 1.0 => format!("{s:.1}s"),
        s if s >= 0.01 => format!("{:.0}ms", s * 1e3),
        s => format!("{}ms", (s * 1e5).round() / 1e2),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_shown_in_the_unit_that_fits() {
        let metric = |name: &str| {
            let row = table::find(name).unwrap();
            Metric {
                name: name.into(),
                kind: row.kind,
                unit: row.unit().map(str::to_owned),
                help: String::new(),
                labels: Vec::new(),
                samples: Vec::new(),
            }
        };
        assert_eq!(number(&metric("wschat_start_time_seconds"), 1_700_000_000.25), "2023-11-14T22:13:20Z");
        assert_eq!(number(&metric("wschat_sent_bytes_total"), 4096.0), bytes(4096));
        assert_eq!(number(&metric("wschat_hub_busy_seconds_total"), 1.5), "1.500s");
        assert_eq!(number(&metric("wschat_messages_total"), 7.0), "7");
        assert_eq!(short("wschat_ack_latency_seconds"), "ack_latency");
    }

    #[test]
    fn a_histogram_is_told_in_one_line() {
        let bucket = |le, count| api::Bucket { le, count };
        let buckets = vec![bucket(Some(0.0005), 60), bucket(Some(0.5), 99), bucket(None, 100)];
        let sample = Sample { count: Some(100), sum: Some(2.0), buckets: Some(buckets), ..Sample::default() };
        assert_eq!(quantiles(&sample), "100, mean 20ms, half <= 0.5ms, 99% <= 500ms");
        assert_eq!(quantiles(&Sample { count: Some(0), ..Sample::default() }), "none yet");
    }
}
