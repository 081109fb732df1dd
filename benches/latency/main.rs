//! How long one client's ping waits while everybody else is being written to.

#[path = "../support/mod.rs"]
mod support;

use std::process::ExitCode;
use std::time::Duration;

use serde_json::{Value, json};
use support::histogram::Histogram;
use support::options::{Bench, Defaults, enter, transport};
use support::report::{
    STRETCH_HEADER, Table, Target, median, millis, print_disturbed, stretch_json, stretch_row, warn_of_faults,
};
use support::run::{Pace, Plan, Session, Stretch, TEXT};
use support::server::Kind;
use support::{BenchError, machine};

const DEFAULTS: Defaults =
    Defaults { clients: 10_000, quick_clients: 2000, rounds: 1, seconds: 20, plain_too: false, gathering_too: false };
/// Messages a second. Three fan-outs to 10,000 keep a server busy for a fifth of the time or so.
const RATE: f64 = 3.0;
const PING_EVERY: Duration = Duration::from_millis(10);
/// Milliseconds within which 99 of 100 pings are answered that are sent during a fan-out.
const TARGET: Target = Target::AtMost(10.0);

fn main() -> ExitCode {
    enter(&DEFAULTS, measure)
}

fn measure(bench: &Bench) -> Result<(), BenchError> {
    let frame = bench.frame()?;
    let machine = machine::describe(bench.processors);
    let mut all = Vec::new();
    for &tls in &bench.transports {
        let mut measured: Vec<(&Kind, Vec<Stretch>)> = bench.servers.iter().map(|kind| (kind, Vec::new())).collect();
        for round in 1..=bench.rounds {
            for (kind, stretches) in &mut measured {
                bench.say(&format!("{}, round {round} of {}: {}", transport(tls), bench.rounds, kind.name()));
                stretches.push(ping(bench, kind, tls, frame)?);
            }
        }
        if bench.options.json {
            all.push(to_json(bench, tls, frame, &measured));
        } else {
            println!(
                "\nPings of one client among {}, {}, with {RATE} messages/s to all: text of {TEXT} bytes, frames of \
                 {frame}; {} × {} s\n{machine}\n",
                bench.clients,
                transport(tls),
                bench.rounds,
                bench.length.as_secs()
            );
            print(&measured);
        }
    }
    if bench.options.json {
        println!("{}", serde_json::to_string_pretty(&json!({"bench": "latency", "machine": machine, "runs": all}))?);
    }
    Ok(())
}

fn ping(bench: &Bench, kind: &Kind, tls: bool, frame: usize) -> Result<Stretch, BenchError> {
    let server = bench.start(kind, tls)?;
    let mut session = Session::open(&server, bench.clients)?;
    // The last to come neither sends nor is it the first to be written to.
    session.load.ping_from(bench.clients - 1);
    let plan = Plan {
        pace: Pace::Rate(RATE),
        senders: 4,
        text: bench.text_for(kind, frame),
        length: bench.length,
        ping_every: Some(PING_EVERY),
    };
    let stretch = session.run(&server, &plan)?;
    warn_of_faults(kind.name(), &session.load);
    Ok(stretch)
}

/// The pings of all rounds together: during fan-outs, and otherwise.
fn pings(stretches: &[Stretch]) -> (Histogram, Histogram) {
    let (mut during, mut otherwise) = (Histogram::new(), Histogram::new());
    for stretch in stretches {
        during.merge(&stretch.pings.during);
        otherwise.merge(&stretch.pings.otherwise);
    }
    (during, otherwise)
}

fn print(measured: &[(&Kind, Vec<Stretch>)]) {
    let mut table =
        Table::new(&["server", "pings", "during fan-out", "p50 ms", "p99 ms", "max ms", "otherwise p99 ms", "lost"]);
    for (kind, stretches) in measured {
        let (during, otherwise) = pings(stretches);
        let lost: u64 = stretches.iter().map(|stretch| stretch.pings_lost).sum();
        table.row(vec![
            kind.name().to_owned(),
            (during.count() + otherwise.count()).to_string(),
            during.count().to_string(),
            format!("{:.2}", millis(during.quantile(0.5))),
            format!("{:.2}", millis(during.quantile(0.99))),
            format!("{:.2}", millis(during.max())),
            format!("{:.2}", millis(otherwise.quantile(0.99))),
            lost.to_string(),
        ]);
    }
    table.print();
    for (kind, stretches) in measured.iter().filter(|(kind, _)| **kind == Kind::Daemon) {
        let p99 = millis(pings(stretches).0.quantile(0.99));
        if stretches.iter().all(Stretch::is_sound) {
            println!("  {}: p99 {p99:.2} ms during a fan-out  ({})", kind.name(), TARGET.describe(p99));
        } else {
            println!("  {}: lost or doubled deliveries or pings, so its figures count for nothing", kind.name());
        }
    }
    println!("\n the messages meanwhile");
    let mut table = Table::new(&STRETCH_HEADER);
    for (kind, stretches) in measured {
        table.row(stretch_row(kind.name(), stretches));
    }
    table.print();
    print_disturbed(measured.iter().flat_map(|(_, stretches)| stretches));
}

fn to_json(bench: &Bench, tls: bool, frame: usize, measured: &[(&Kind, Vec<Stretch>)]) -> Value {
    let floor = measured.iter().find(|(kind, _)| **kind == Kind::Floor);
    let cpu = |stretches: &[Stretch]| median(stretches.iter().map(Stretch::cpu_per_million));
    let servers: Vec<Value> = measured
        .iter()
        .map(|(kind, stretches)| {
            let (during, otherwise) = pings(stretches);
            let of = |pings: &Histogram| {
                json!({
                    "count": pings.count(),
                    "p50_ms": millis(pings.quantile(0.5)),
                    "p99_ms": millis(pings.quantile(0.99)),
                    "max_ms": millis(pings.max()),
                })
            };
            let mut value = json!({
                "server": kind.name(),
                "pings_during_fanout": of(&during),
                "pings_otherwise": of(&otherwise),
                "pings_lost": stretches.iter().map(|stretch| stretch.pings_lost).sum::<u64>(),
                "cpu_ratio_to_floor": floor.map(|(_, floor)| cpu(stretches) / cpu(floor)),
                "rounds": stretches.iter().map(stretch_json).collect::<Vec<_>>(),
            });
            if **kind == Kind::Daemon && stretches.iter().all(Stretch::is_sound) {
                value["target"] = TARGET.json(millis(during.quantile(0.99)));
            }
            value
        })
        .collect();
    json!({"tls": tls, "clients": bench.clients, "frame_bytes": frame, "rate": RATE, "servers": servers})
}
