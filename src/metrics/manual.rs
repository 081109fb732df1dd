//! The manual page wschat-metrics(7), from the table. A test holds the committed page to it.

use clap_mangen::roff::{Roff, bold, italic, roman};

use crate::control::protocol::MetricType;
use crate::stats::cell::BOUNDS;
use crate::stats::table::{ALL, Definition};

/// The page as roff.
pub fn page() -> String {
    let mut page = Roff::new();
    page.control("TH", ["wschat-metrics", "7", "\"\"", "wschat", "Miscellaneous"]);
    page.control("SH", ["NAME"]);
    page.text([roman("wschat-metrics - the numbers that the wschat daemon keeps of itself")]);
    page.control("SH", ["DESCRIPTION"]);
    page.text([
        bold("wschatctl stats"),
        roman(" shows them. Prometheus reads them at "),
        italic("/metrics"),
        roman(" of the listener that "),
        bold("metrics.listen"),
        roman(
            " in wschat.toml(5) names, as OpenMetrics 1.0, or in the older text format 0.0.4 where it asks for that alone; ",
        ),
        bold("wschatctl stats --prometheus"),
        roman(" prints the same text without a listener. The method "),
        bold("org.wschat.Control.Stats"),
        roman(" has them as typed data."),
    ]);
    page.control("PP", []);
    page.text([roman(
        "Names, units and types follow Prometheus' conventions: counters begin at 0 with the daemon and only go up, \
         units are seconds and bytes. No label holds what a client chose: users, rooms and addresses are in \
         wschatctl list, not here. A metric whose value is not known is left out.",
    )]);
    page.control("PP", []);
    let bounds = BOUNDS.map(|bound| format!("{bound:?}")).join(", ");
    page.text([roman(format!("All histograms have buckets up to {bounds} seconds, and one for the rest."))]);
    let mut group = None;
    page.control("SH", ["METRICS"]);
    for row in ALL {
        if group.replace(row.group) != Some(row.group) {
            let name = row.group.as_str();
            let capital = name[..1].to_uppercase() + &name[1..];
            page.control("SS", [&capital[..]]);
        }
        describe(&mut page, row);
    }
    page.control("SH", ["FILES"]);
    for (file, what) in FILES {
        page.control("TP", []);
        page.text([italic(*file)]);
        page.text([roman(*what)]);
    }
    page.control("SH", ["SEE ALSO"]);
    page.text([
        bold("wschat"),
        roman("(8), "),
        bold("wschatctl"),
        roman("(1), "),
        bold("wschat.toml"),
        roman("(5), "),
        bold("promtool"),
        roman("(1)"),
    ]);
    page.render()
}

const FILES: &[(&str, &str)] = &[
    ("/usr/share/doc/wschat/examples/wschat.rules.yml", "Alert rules for Prometheus."),
    ("/usr/share/doc/wschat/examples/wschat.json", "A dashboard for Grafana."),
];

fn describe(page: &mut Roff, row: &Definition) {
    let labels = if row.labels.is_empty() { String::new() } else { format!("{{{}}}", row.labels.join(",")) };
    page.control("TP", []);
    page.text([bold(row.name), roman(labels)]);
    let kind = match row.kind {
        MetricType::Counter => "Counter.",
        MetricType::Gauge => "Gauge.",
        MetricType::Histogram => "Histogram: _bucket, _sum and _count.",
        MetricType::Info => "Always 1; its labels are what it says.",
    };
    page.text([roman(format!("{} {kind}", row.help))]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::testing::committed;

    #[test]
    fn the_manual_page_is_this_one_and_has_every_metric() {
        committed("packaging/man/wschat-metrics.7", &page());
        let page = page().replace("\\*(Aq", "'").replace('\\', "");
        for row in ALL {
            assert!(page.contains(&format!("fB{}fR", row.name)), "{}", row.name);
            assert!(page.contains(row.help), "{}", row.name);
        }
    }
}
