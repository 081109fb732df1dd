//! How many messages a second go through the daemon into its database and are acknowledged, beside the same with the
//! history in memory, and beside plain group commits of the same rows.

mod plain;
mod senders;
#[path = "../support/mod.rs"]
mod support;

use std::process::ExitCode;

use plain::Commits;
use senders::Acks;
use serde_json::{Value, json};
use support::options::{Bench, Defaults, enter};
use support::report::{Table, median, millis, spread};
use support::run::TEXT;
use support::server::Kind;
use support::{BenchError, machine};

const DEFAULTS: Defaults =
    Defaults { clients: 100, quick_clients: 100, rounds: 1, seconds: 4, plain_too: false, gathering_too: false };
const SENDERS: [usize; 3] = [1, 10, 100];
const DAEMONS: [Kind; 3] = [
    Kind::Durable { name: "wschat, on disk", commit_every: "2ms" },
    Kind::Durable { name: "wschat, on disk, commit_every 0s", commit_every: "0s" },
    Kind::Daemon,
];

fn main() -> ExitCode {
    enter(&DEFAULTS, measure)
}

/// What was measured with one number of senders.
struct Row {
    senders: usize,
    /// By round.
    floor: Vec<Commits>,
    /// By daemon, by round.
    daemons: [Vec<Acks>; 3],
}

fn measure(bench: &Bench) -> Result<(), BenchError> {
    let machine = machine::describe(bench.processors);
    let text = "x".repeat(TEXT);
    let mut rows = Vec::new();
    for senders in SENDERS {
        let mut row = Row { senders, floor: Vec::new(), daemons: [const { Vec::new() }; 3] };
        for round in 1..=bench.rounds {
            bench.say(&format!("{senders} senders, round {round} of {}: the plain database", bench.rounds));
            row.floor.push(plain::run(senders, &text, bench.length)?);
            for (kind, rounds) in DAEMONS.iter().zip(&mut row.daemons) {
                bench.say(&format!("{senders} senders, round {round} of {}: {}", bench.rounds, kind.name()));
                let server = bench.start(kind, false)?;
                rounds.push(senders::run(kind, &server, senders, &text, bench.length)?);
            }
        }
        rows.push(row);
    }
    if bench.options.json {
        let rows: Vec<Value> = rows.iter().map(to_json).collect();
        println!("{}", serde_json::to_string_pretty(&json!({"bench": "durable", "machine": machine, "runs": rows}))?);
        return Ok(());
    }
    println!(
        "\nMessages acknowledged, plain TCP, text of {TEXT} bytes, each sender in its own room with one message under \
         way; {} × {} s\n{machine}\n",
        bench.rounds,
        bench.length.as_secs()
    );
    let mut table = Table::new(&["", "senders", "messages/s", "to the floor", "p50 ms", "p99 ms"]);
    for row in &rows {
        print(row, &mut table);
    }
    table.print();
    println!("  The floor's p50 and p99 are those of a commit of as many rows as there are senders.");
    Ok(())
}

fn print(row: &Row, table: &mut Table) {
    let rate = |rates: Vec<f64>| format!("{:.0}", median(rates));
    let quantile = |histograms: Vec<&support::histogram::Histogram>, share| {
        format!("{:.2}", median(histograms.into_iter().map(|latency| millis(latency.quantile(share)))))
    };
    let floor: Vec<f64> = row.floor.iter().map(Commits::rows_per_second).collect();
    table.row(vec![
        "floor: plain commits".to_owned(),
        row.senders.to_string(),
        rate(floor.clone()),
        String::new(),
        quantile(row.floor.iter().map(|round| &round.latency).collect(), 0.5),
        quantile(row.floor.iter().map(|round| &round.latency).collect(), 0.99),
    ]);
    for (kind, rounds) in DAEMONS.iter().zip(&row.daemons) {
        let rates: Vec<f64> = rounds.iter().map(Acks::per_second).collect();
        let ratios: Vec<f64> = rates.iter().zip(&floor).map(|(rate, floor)| rate / floor).collect();
        let name = if *kind == Kind::Daemon { "wschat, in memory" } else { kind.name() };
        table.row(vec![
            name.to_owned(),
            row.senders.to_string(),
            rate(rates),
            spread(&ratios),
            quantile(rounds.iter().map(|round| &round.latency).collect(), 0.5),
            quantile(rounds.iter().map(|round| &round.latency).collect(), 0.99),
        ]);
    }
}

fn to_json(row: &Row) -> Value {
    let floor: Vec<Value> = row
        .floor
        .iter()
        .map(|round| {
            json!({
                "rows_per_s": round.rows_per_second(),
                "commit_p50_ms": millis(round.latency.quantile(0.5)),
                "commit_p99_ms": millis(round.latency.quantile(0.99)),
            })
        })
        .collect();
    let daemon = |(kind, rounds): (&Kind, &Vec<Acks>)| {
        let rounds: Vec<Value> = rounds
            .iter()
            .zip(&row.floor)
            .map(|(round, floor)| {
                json!({
                    "messages_per_s": round.per_second(),
                    "ratio_to_floor": round.per_second() / floor.rows_per_second(),
                    "ack_p50_ms": millis(round.latency.quantile(0.5)),
                    "ack_p99_ms": millis(round.latency.quantile(0.99)),
                })
            })
            .collect();
        json!({"server": if *kind == Kind::Daemon { "wschat, in memory" } else { kind.name() }, "rounds": rounds})
    };
    let daemons: Vec<Value> = DAEMONS.iter().zip(&row.daemons).map(daemon).collect();
    json!({"senders": row.senders, "floor": floor, "daemons": daemons})
}
