//! What is made for Prometheus and Grafana, held to the metrics that there are, and to the tools that
//! will read it.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;
use wschat::control::protocol::MetricType;
use wschat::stats::table::{self, ALL};

use crate::support::left_out;

const RULES: &str = "packaging/prometheus/wschat.rules.yml";
const DASHBOARD: &str = "packaging/grafana/wschat.json";

/// The reference parser of OpenMetrics, which takes nothing that its specification forbids.
pub const PARSER: &str = "import sys\n\
    from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse\n\
    print('families:', len(list(parse(sys.stdin.read()))))\n";

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn read(name: &str) -> String {
    fs::read_to_string(path(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// What the program says of this input; `None` where it is not there.
#[track_caller]
fn told(command: &mut Command, input: &str) -> Option<(bool, String)> {
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = match child {
        Ok(child) => child,
        Err(error) => {
            left_out(&format!("{:?} is not there: {error}", command.get_program()));
            return None;
        }
    };
    // Whoever ends without reading says why.
    let _ = child.stdin.take().expect("it is a pipe").write_all(input.as_bytes());
    let ran = child.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&[ran.stdout, ran.stderr].concat()).into_owned();
    Some((ran.status.success(), said))
}

/// Prometheus' own tool finds nothing wrong.
#[track_caller]
pub fn promtool(arguments: &[&str], input: &str) {
    let folder = path("packaging/prometheus");
    if let Some((good, said)) = told(Command::new("promtool").args(arguments).current_dir(folder), input) {
        assert!(good && !said.contains("lint"), "{arguments:?}: {said}");
    }
}

/// What a Python program prints of this input.
#[track_caller]
pub fn python(program: &str, input: &str) -> Option<String> {
    // Debian's, which finds the package, whatever other one comes first in PATH.
    let (good, said) = told(Command::new("/usr/bin/python3").args(["-c", program]), input)?;
    if said.contains("No module named 'prometheus_client'") {
        left_out("python3-prometheus-client is not there");
        return None;
    }
    assert!(good, "{said}\nof\n{input}");
    Some(said)
}

/// The names of metrics in a text, as the table has them.
fn named(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let is_metric = |word: &&str| {
        let rest = word.strip_prefix("wschat_").or_else(|| word.strip_prefix("process_"));
        // Of a package's name the version follows.
        rest.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase()))
    };
    words.filter(is_metric).map(row).collect()
}

/// Of a histogram's series the histogram.
fn row(series: &str) -> &str {
    let of = |suffix| {
        series
            .strip_suffix(suffix)
            .filter(|name| table::find(name).is_some_and(|row| row.kind == MetricType::Histogram))
    };
    ["_bucket", "_sum", "_count"].into_iter().find_map(of).unwrap_or(series)
}

#[track_caller]
fn all_there(named: &BTreeSet<&str>, place: &str) {
    for name in named {
        assert!(table::find(name).is_some(), "{place} has {name}, which is no metric");
    }
}

/// The expressions of all panels.
fn expressions(dashboard: &Value) -> Vec<&str> {
    let panels = dashboard["panels"].as_array().expect("panels");
    let targets = panels.iter().filter_map(|panel| panel["targets"].as_array()).flatten();
    targets.map(|target| target["expr"].as_str().expect("an expression")).collect()
}

#[test]
fn rules_and_documents_name_only_metrics_that_are() {
    all_there(&named(&read(RULES)), RULES);
    for document in ["docs/OPERATING.md", "docs/CONTROL.md"] {
        all_there(&named(&read(document)), document);
    }
}

#[test]
fn the_dashboard_shows_every_metric_and_no_other() {
    let dashboard: Value = serde_json::from_str(&read(DASHBOARD)).expect("JSON");
    let expressions = expressions(&dashboard).join("\n");
    let shown = named(&expressions);
    all_there(&shown, DASHBOARD);
    let left: Vec<&str> = ALL.iter().map(|row| row.name).filter(|name| !shown.contains(name)).collect();
    assert!(left.is_empty(), "no panel shows {left:?}");
    // Importable: it asks for the data source instead of naming one.
    for panel in dashboard["panels"].as_array().unwrap().iter().filter(|panel| panel["type"] != "row") {
        assert_eq!(panel["datasource"]["uid"], "${datasource}", "{}", panel["title"]);
    }
    assert_eq!(dashboard["templating"]["list"][0]["type"], "datasource");
}

#[test]
fn promtool_understands_every_expression_of_the_dashboard() {
    let dashboard: Value = serde_json::from_str(&read(DASHBOARD)).expect("JSON");
    // As Grafana fills them in; each becomes a rule, which promtool parses.
    let rules: Vec<Value> = expressions(&dashboard)
        .into_iter()
        .enumerate()
        .map(|(n, expression)| {
            let filled =
                expression.replace("$__rate_interval", "2m").replace("$job", "wschat").replace("$instance", ".+");
            serde_json::json!({"record": format!("panel:{n}"), "expr": filled})
        })
        .collect();
    let file = tempfile::NamedTempFile::with_suffix(".yml").unwrap();
    // JSON is YAML.
    let groups = serde_json::json!({"groups": [{"name": "dashboard", "rules": rules}]});
    fs::write(file.path(), groups.to_string()).unwrap();
    promtool(&["check", "rules", file.path().to_str().unwrap()], "");
}

#[test]
fn alerts_come_when_they_should_and_stay_away_otherwise() {
    promtool(&["check", "rules", "wschat.rules.yml"], "");
    promtool(&["test", "rules", "wschat.rules.test.yml"], "");
}

#[test]
fn every_alert_is_tested_and_says_what_to_do() {
    let rules = read(RULES);
    let tests = read("packaging/prometheus/wschat.rules.test.yml");
    let operating = read("docs/OPERATING.md");
    let section = operating.split_once("\n## Alerts\n").expect("a section about alerts").1;
    let section = section.split("\n## ").next().unwrap();
    let alerts: Vec<&str> = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(alerts.len() > 15);
    let mut each = rules.split("- alert: ").skip(1);
    for alert in &alerts {
        let rule = each.next().unwrap();
        for needed in ["summary: ", "description: ", "severity: "] {
            assert!(rule.contains(needed), "{alert} has no {needed}");
        }
        assert!(rule.contains(&format!("runbook: \"/usr/share/doc/wschat/OPERATING.md, Alerts: {alert}\"")), "{alert}");
        assert!(section.contains(&format!("**{alert}**")), "docs/OPERATING.md says nothing of {alert}");
        assert!(tests.contains(&format!("alertname=\"{alert}\"")), "{alert} is not tested");
    }
    for told in section.split("**").filter(|word| word.starts_with("Wschat")) {
        assert!(alerts.contains(&told), "docs/OPERATING.md tells of {told}, which is no alert");
    }
}
