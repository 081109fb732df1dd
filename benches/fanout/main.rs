//! What it costs to pass a message on to everybody, beside the least that it can cost.

#[path = "../support/mod.rs"]
mod support;

use std::process::ExitCode;
use std::time::Duration;

use serde_json::{Value, json};
use support::options::{Bench, Defaults, enter, transport};
use support::report::{
    STRETCH_HEADER, Table, Target, median, print_disturbed, spread, stretch_json, stretch_row, warn_of_faults,
};
use support::run::{Pace, Plan, Session, Stretch, TEXT};
use support::server::Kind;
use support::{BenchError, machine};

const DEFAULTS: Defaults =
    Defaults { clients: 1000, quick_clients: 1000, rounds: 3, seconds: 5, plain_too: true, gathering_too: true };
const WARM_UP: Duration = Duration::from_millis(500);

struct Scenario {
    name: &'static str,
    key: &'static str,
    pace: Pace,
    senders: usize,
    /// What the daemon is compared with, in what, and what is to be reached.
    rival: Kind,
    figure: fn(&Stretch) -> f64,
    unit: &'static str,
    target: Target,
}

const SCENARIOS: [Scenario; 3] = [
    Scenario {
        name: "one message under way",
        key: "window_1",
        pace: Pace::Window(1),
        senders: 1,
        rival: Kind::Floor,
        figure: Stretch::cpu_per_million,
        unit: "CPU",
        target: Target::AtMost(1.25),
    },
    Scenario {
        name: "16 messages under way, from 16 senders",
        key: "window_16",
        pace: Pace::Window(16),
        senders: 16,
        rival: Kind::Gathering,
        figure: Stretch::deliveries_per_second,
        unit: "deliveries/s",
        target: Target::AtLeast(0.7),
    },
    Scenario {
        name: "20 messages a second, latency from when each was due",
        key: "rate_20",
        pace: Pace::Rate(20.0),
        senders: 1,
        rival: Kind::Floor,
        figure: Stretch::cpu_per_million,
        unit: "CPU",
        target: Target::AtMost(1.25),
    },
];

/// One server's stretches, by scenario.
struct Measured {
    kind: Kind,
    scenarios: [Vec<Stretch>; SCENARIOS.len()],
}

fn main() -> ExitCode {
    enter(&DEFAULTS, measure)
}

fn measure(bench: &Bench) -> Result<(), BenchError> {
    let frame = bench.frame()?;
    let machine = machine::describe(bench.processors);
    let mut all = Vec::new();
    for &tls in &bench.transports {
        let measured = measure_all(bench, tls, frame)?;
        if bench.options.json {
            all.push(to_json(bench, tls, frame, &measured));
        } else {
            println!(
                "\nFan-out to {} clients, {}: text of {TEXT} bytes, frames of {frame}; {} × {} s, medians\n{machine}",
                bench.clients,
                transport(tls),
                bench.rounds,
                bench.length.as_secs()
            );
            print(&measured);
        }
    }
    if bench.options.json {
        println!("{}", serde_json::to_string_pretty(&json!({"bench": "fanout", "machine": machine, "runs": all}))?);
    }
    Ok(())
}

/// Servers take turns within a round, so that a machine that changes its pace changes it for all of them.
fn measure_all(bench: &Bench, tls: bool, frame: usize) -> Result<Vec<Measured>, BenchError> {
    let new = |kind: &Kind| Measured { kind: kind.clone(), scenarios: Default::default() };
    let mut measured: Vec<Measured> = bench.servers.iter().map(new).collect();
    for round in 1..=bench.rounds {
        for Measured { kind, scenarios } in &mut measured {
            bench.say(&format!("{}, round {round} of {}: {}", transport(tls), bench.rounds, kind.name()));
            let server = bench.start(kind, tls)?;
            let mut session = Session::open(&server, bench.clients)?;
            let text = bench.text_for(kind, frame);
            let warm_up = Plan { pace: Pace::Window(4), senders: 4, text, length: WARM_UP, ping_every: None };
            session.run(&server, &warm_up)?;
            for (scenario, stretches) in SCENARIOS.iter().zip(scenarios) {
                let plan = Plan {
                    pace: scenario.pace,
                    senders: scenario.senders,
                    text,
                    length: bench.length,
                    ping_every: None,
                };
                stretches.push(session.run(&server, &plan)?);
            }
            warn_of_faults(kind.name(), &session.load);
        }
    }
    Ok(measured)
}

/// `kind`'s figure over its rival's, round by round; none where one of them was not measured, or lost deliveries.
fn ratios(measured: &[Measured], kind: &Kind, index: usize) -> Option<Vec<f64>> {
    let scenario = &SCENARIOS[index];
    let of = |kind: &Kind| Some(&measured.iter().find(|measured| measured.kind == *kind)?.scenarios[index]);
    let pairs: Vec<_> = of(kind)?.iter().zip(of(&scenario.rival)?).collect();
    if !pairs.iter().all(|(mine, rival)| mine.is_sound() && rival.is_sound()) {
        return None;
    }
    Some(pairs.into_iter().map(|(mine, rival)| (scenario.figure)(mine) / (scenario.figure)(rival)).collect())
}

fn print(measured: &[Measured]) {
    for (index, scenario) in SCENARIOS.iter().enumerate() {
        println!("\n {}", scenario.name);
        let mut table = Table::new(&STRETCH_HEADER);
        for server in measured {
            table.row(stretch_row(server.kind.name(), &server.scenarios[index]));
        }
        table.print();
        print_disturbed(measured.iter().flat_map(|server| &server.scenarios[index]));
        for Measured { kind, .. } in measured.iter().filter(|server| !is_floor(&server.kind)) {
            if server_failed(measured, kind, index) {
                println!("  {}: lost or doubled deliveries, so its figures count for nothing", kind.name());
            }
            if let Some(ratios) = ratios(measured, kind, index) {
                println!(
                    "  {} / {} in {}: {}  ({})",
                    kind.name(),
                    scenario.rival.name(),
                    scenario.unit,
                    spread(&ratios),
                    scenario.target.describe(median(ratios.iter().copied()))
                );
            }
        }
    }
}

fn server_failed(measured: &[Measured], kind: &Kind, index: usize) -> bool {
    let stretches = measured.iter().filter(|server| server.kind == *kind).flat_map(|server| &server.scenarios[index]);
    stretches.into_iter().any(|stretch| !stretch.is_sound())
}

fn is_floor(kind: &Kind) -> bool {
    matches!(kind, Kind::Floor | Kind::Gathering)
}

fn to_json(bench: &Bench, tls: bool, frame: usize, measured: &[Measured]) -> Value {
    let servers: Vec<Value> = measured
        .iter()
        .map(|server| {
            let scenarios: serde_json::Map<String, Value> = SCENARIOS
                .iter()
                .enumerate()
                .map(|(index, scenario)| {
                    let rounds: Vec<Value> = server.scenarios[index].iter().map(stretch_json).collect();
                    let mut value = json!({"rounds": rounds});
                    if let Some(ratios) = ratios(measured, &server.kind, index).filter(|_| !is_floor(&server.kind)) {
                        let ratio = median(ratios);
                        value["ratio"] = json!(ratio);
                        value["ratio_to"] = json!(scenario.rival.name());
                        value["target"] = scenario.target.json(ratio);
                    }
                    (scenario.key.to_owned(), value)
                })
                .collect();
            json!({"server": server.kind.name(), "scenarios": scenarios})
        })
        .collect();
    json!({"tls": tls, "clients": bench.clients, "frame_bytes": frame, "servers": servers})
}
