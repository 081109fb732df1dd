//! What a connection costs that says nothing: resident memory, and the CPU time of opening it.

#[path = "../support/mod.rs"]
mod support;

use std::process::ExitCode;
use std::time::Duration;

use serde_json::{Value, json};
use support::machine::Settled;
use support::options::{Bench, Defaults, enter, transport};
use support::report::{Table, Target, median, warn_of_faults};
use support::run::Session;
use support::server::{Kind, Server};
use support::{BenchError, machine};

const DEFAULTS: Defaults =
    Defaults { clients: 5000, quick_clients: 1000, rounds: 1, seconds: 1, plain_too: false, gathering_too: false };
/// KiB of resident memory for an idle TLS connection.
const TARGET: Target = Target::AtMost(11.0);
/// At most so long is waited for the memory to stop changing.
const SETTLE: Duration = Duration::from_secs(30);
const READING: Duration = Duration::from_millis(100);

/// One opening of all clients.
struct Opening {
    before: u64,
    after: Settled,
    /// CPU time of the server from the first connection until all was quiet.
    cpu: Duration,
    clients: usize,
}

impl Opening {
    fn kib_each(&self) -> f64 {
        (self.after.bytes as f64 - self.before as f64) / 1024.0 / self.clients as f64
    }

    fn cpu_micros_each(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.clients as f64
    }
}

fn main() -> ExitCode {
    enter(&DEFAULTS, measure)
}

fn measure(bench: &Bench) -> Result<(), BenchError> {
    let machine = machine::describe(bench.processors);
    let mut all = Vec::new();
    for &tls in &bench.transports {
        let mut measured: Vec<(&Kind, Vec<Opening>)> = bench.servers.iter().map(|kind| (kind, Vec::new())).collect();
        for round in 1..=bench.rounds {
            for (kind, openings) in &mut measured {
                bench.say(&format!("{}, round {round} of {}: {}", transport(tls), bench.rounds, kind.name()));
                let server = bench.start(kind, tls)?;
                openings.push(open(&server, bench.clients, kind)?);
            }
        }
        if bench.options.json {
            all.push(to_json(bench, tls, &measured));
        } else {
            println!("\n{} idle connections, {}, after hello\n{machine}\n", bench.clients, transport(tls));
            print(tls, &measured);
        }
    }
    if bench.options.json {
        println!("{}", serde_json::to_string_pretty(&json!({"bench": "idle", "machine": machine, "runs": all}))?);
    }
    Ok(())
}

fn open(server: &Server, clients: usize, kind: &Kind) -> Result<Opening, BenchError> {
    let pid = server.pid();
    let before = machine::settled_resident(pid, SETTLE, || {
        std::thread::sleep(READING);
        Ok(())
    })?;
    let cpu = machine::cpu_time(pid)?;
    let mut session = Session::open(server, clients)?;
    let cpu = machine::cpu_time(pid)?.saturating_sub(cpu);
    let after = machine::settled_resident(pid, SETTLE, || session.idle(READING))?;
    warn_of_faults(kind.name(), &session.load);
    let still_open = session.load.open_clients();
    if still_open < clients {
        return Err(BenchError::NotOpen { open: still_open, wanted: clients, faults: session.load.faults() });
    }
    Ok(Opening { before: before.bytes, after, cpu, clients })
}

/// Median KiB of each server, and how many times the floor's that is.
fn figures(measured: &[(&Kind, Vec<Opening>)], openings: &[Opening]) -> (f64, Option<f64>) {
    let each = |openings: &[Opening]| median(openings.iter().map(Opening::kib_each));
    let floor = measured.iter().find(|(kind, _)| **kind == Kind::Floor).map(|(_, openings)| each(openings));
    let kib = each(openings);
    (kib, floor.map(|floor| kib / floor))
}

fn print(tls: bool, measured: &[(&Kind, Vec<Opening>)]) {
    let mut table =
        Table::new(&["server", "KiB each", "times the floor", "MiB before", "MiB after", "CPU µs to open one"]);
    for (kind, openings) in measured {
        let (kib, ratio) = figures(measured, openings);
        let mib = |bytes: fn(&Opening) -> u64| median(openings.iter().map(|o| bytes(o) as f64)) / f64::from(1 << 20);
        table.row(vec![
            kind.name().to_owned(),
            format!("{kib:.2}"),
            ratio.map(|ratio| format!("{ratio:.2}")).unwrap_or_default(),
            format!("{:.1}", mib(|opening| opening.before)),
            format!("{:.1}", mib(|opening| opening.after.bytes)),
            format!("{:.0}", median(openings.iter().map(Opening::cpu_micros_each))),
        ]);
    }
    table.print();
    for (kind, openings) in measured {
        if tls && **kind == Kind::Daemon {
            let (kib, _) = figures(measured, openings);
            println!("  {}: {kib:.2} KiB  ({})", kind.name(), TARGET.describe(kib));
        }
        if openings.iter().any(|opening| !opening.after.settled) {
            println!("  {}: the memory was still changing after {} s", kind.name(), SETTLE.as_secs());
        }
    }
}

fn to_json(bench: &Bench, tls: bool, measured: &[(&Kind, Vec<Opening>)]) -> Value {
    let servers: Vec<Value> = measured
        .iter()
        .map(|(kind, openings)| {
            let (kib, ratio) = figures(measured, openings);
            let rounds: Vec<Value> = openings
                .iter()
                .map(|opening| {
                    json!({
                        "rss_before": opening.before,
                        "rss_after": opening.after.bytes,
                        "settled": opening.after.settled,
                        "kib_each": opening.kib_each(),
                        "cpu_us_to_open": opening.cpu_micros_each(),
                    })
                })
                .collect();
            let mut value = json!({"server": kind.name(), "kib_each": kib, "ratio_to_floor": ratio, "rounds": rounds});
            if tls && **kind == Kind::Daemon {
                value["target"] = TARGET.json(kib);
            }
            value
        })
        .collect();
    json!({"tls": tls, "clients": bench.clients, "servers": servers})
}
