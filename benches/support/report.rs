//! Tables for people, figures for programs, and the targets beside them. A bench reports; it does not fail.

use serde_json::{Value, json};

use super::load::Load;
use super::run::Stretch;

/// Right-aligned columns after a left-aligned first one.
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub fn new(header: &[&str]) -> Self {
        Table { rows: vec![header.iter().map(|&cell| cell.to_owned()).collect()] }
    }

    pub fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    pub fn print(&self) {
        let widths: Vec<usize> = (0..self.rows[0].len())
            .map(|column| self.rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0))
            .collect();
        for row in &self.rows {
            let mut line = format!("  {:<width$}", row[0], width = widths[0]);
            for (cell, width) in row.iter().zip(&widths).skip(1) {
                line += &format!("  {cell:>width$}");
            }
            println!("{}", line.trim_end());
        }
    }
}

/// A figure to reach.
#[derive(Clone, Copy)]
pub enum Target {
    AtMost(f64),
    AtLeast(f64),
}

impl Target {
    pub fn describe(self, figure: f64) -> String {
        let (word, limit, reached) = match self {
            Target::AtMost(limit) => ("at most", limit, figure <= limit),
            Target::AtLeast(limit) => ("at least", limit, figure >= limit),
        };
        format!("target: {word} {limit}, {}", if reached { "reached" } else { "missed" })
    }

    pub fn json(self, figure: f64) -> Value {
        match self {
            Target::AtMost(limit) => json!({"at_most": limit, "reached": figure <= limit}),
            Target::AtLeast(limit) => json!({"at_least": limit, "reached": figure >= limit}),
        }
    }
}

/// The middle one; the mean of the two in the middle where there are two. 0 of nothing.
pub fn median(figures: impl IntoIterator<Item = f64>) -> f64 {
    let mut figures: Vec<f64> = figures.into_iter().collect();
    figures.sort_by(f64::total_cmp);
    let half = figures.len() / 2;
    match figures.len() {
        0 => 0.0,
        odd if odd % 2 == 1 => figures[half],
        _ => (figures[half - 1] + figures[half]) / 2.0,
    }
}

/// `1.19` of one round, `1.19 (1.15 to 1.22)` of several.
pub fn spread(figures: &[f64]) -> String {
    let least = figures.iter().copied().fold(f64::INFINITY, f64::min);
    let most = figures.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let median = median(figures.iter().copied());
    if figures.len() > 1 { format!("{median:.2} ({least:.2} to {most:.2})") } else { format!("{median:.2}") }
}

pub const STRETCH_HEADER: [&str; 11] = [
    "server",
    "CPU s/million",
    "deliveries/s",
    "p50 ms",
    "p99 ms",
    "per read",
    "bytes",
    "load busy",
    "disturbed",
    "lost",
    "extra",
];

/// Medians of a server's rounds as a row under `STRETCH_HEADER`; lost and extra are sums.
pub fn stretch_row(name: &str, rounds: &[Stretch]) -> Vec<String> {
    let of = |figure: fn(&Stretch) -> f64| median(rounds.iter().map(figure));
    let lost: u64 = rounds.iter().map(|round| round.lost).sum();
    let extra: u64 = rounds.iter().map(|round| round.extra).sum();
    vec![
        name.to_owned(),
        format!("{:.2}", of(Stretch::cpu_per_million)),
        thousands(of(Stretch::deliveries_per_second)),
        format!("{:.2}", of(|round| millis(round.latency.quantile(0.5)))),
        format!("{:.2}", of(|round| millis(round.latency.quantile(0.99)))),
        format!("{:.1}", of(|round| round.per_read)),
        format!("{:.0}", of(|round| round.payload)),
        format!("{:.0} %", of(|round| round.load_busy) * 100.0),
        format!("{:.0} %", of(|round| round.server_waited) * 100.0),
        lost.to_string(),
        extra.to_string(),
    ]
}

pub fn stretch_json(round: &Stretch) -> Value {
    json!({
        "cpu_s_per_million": round.cpu_per_million(),
        "cpu_s": round.cpu.as_secs_f64(),
        "deliveries_per_s": round.deliveries_per_second(),
        "p50_ms": millis(round.latency.quantile(0.5)),
        "p99_ms": millis(round.latency.quantile(0.99)),
        "max_ms": millis(round.latency.max()),
        "messages": round.sent,
        "expected": round.expected,
        "received": round.received,
        "lost": round.lost,
        "extra": round.extra,
        "payload_bytes": round.payload,
        "deliveries_per_read": round.per_read,
        "elapsed_s": round.elapsed.as_secs_f64(),
        "load_busy": round.load_busy,
        "server_waited": round.server_waited,
        "disturbed": round.is_disturbed(),
    })
}

pub fn millis(duration: std::time::Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// Says below a table that its figures are not worth keeping, if so.
pub fn print_disturbed<'a>(stretches: impl IntoIterator<Item = &'a Stretch>) {
    if stretches.into_iter().any(Stretch::is_disturbed) {
        println!("  Something else ran on the server's processor: repeat this when the machine is quiet.");
    }
}

fn thousands(figure: f64) -> String {
    let digits = format!("{figure:.0}");
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

/// Says what went wrong for clients: figures with faults under them are worth nothing.
pub fn warn_of_faults(name: &str, load: &Load) {
    for (what, count) in load.faults() {
        eprintln!("warning: {name}: {count} × {what}");
    }
}
