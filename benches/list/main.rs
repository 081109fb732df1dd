//! How soon the list of all connections is there, and what it changes for those who talk meanwhile.

#[path = "../support/mod.rs"]
mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Value, json};
use support::histogram::Histogram;
use support::options::{Bench, Defaults, enter, transport};
use support::report::{
    STRETCH_HEADER, Table, Target, median, millis, print_disturbed, stretch_json, stretch_row, warn_of_faults,
};
use support::run::{Pace, Plan, Session, Stretch, TEXT};
use support::server::{Kind, Server};
use support::{BenchError, machine};

const DEFAULTS: Defaults =
    Defaults { clients: 9000, quick_clients: 2000, rounds: 1, seconds: 15, plain_too: false, gathering_too: false };
/// Lists of each kind that are timed by themselves.
const LISTS: usize = 9;
/// Messages a second to everybody, and pings besides.
const RATE: f64 = 2.0;
const PING_EVERY: Duration = Duration::from_millis(10);
/// Between two looks of `wschatctl top`.
const LOOK: Duration = Duration::from_secs(1);
/// Milliseconds until a list is whole.
const WHOLE: Target = Target::AtMost(1000.0);
/// The 99th percentile of pings while lists are made without a pause, in quiet ones.
const HICCUP: Target = Target::AtMost(2.0);

/// What is asked.
#[derive(Clone, Copy)]
enum Asked {
    /// The socket itself, everybody.
    Socket,
    /// `wschatctl list`.
    Ctl,
    /// What `wschatctl top` asks for: the first 200 in an order.
    First,
}

impl Asked {
    const ALL: [Asked; 3] = [Asked::Socket, Asked::Ctl, Asked::First];

    fn name(self) -> &'static str {
        match self {
            Asked::Socket => "over the socket",
            Asked::Ctl => "wschatctl list",
            Asked::First => "the first 200 by sendq",
        }
    }

    /// Until the first rows are there, and until all are.
    fn ask(self, server: &Server, clients: usize) -> Result<[Duration; 2], BenchError> {
        match self {
            Asked::Socket => socket(&server.control_socket(), json!({}), clients),
            Asked::First => {
                let order = json!({"sort": "sendq", "descending": true, "limit": 200});
                socket(&server.control_socket(), order, clients.min(200))
            }
            Asked::Ctl => ctl(&server.control_socket(), clients),
        }
    }
}

#[derive(Deserialize)]
struct Reply {
    parameters: Rows,
    #[serde(default)]
    continues: bool,
}

#[derive(Deserialize)]
struct Rows {
    clients: Vec<IgnoredAny>,
}

fn asking(error: std::io::Error) -> BenchError {
    BenchError::io("asking the daemon for a list")(error)
}

fn socket(path: &Path, parameters: Value, clients: usize) -> Result<[Duration; 2], BenchError> {
    let mut stream = BufReader::new(UnixStream::connect(path).map_err(asking)?);
    let call = json!({"method": "org.wschat.Control.ListClients", "parameters": parameters, "more": true});
    let begun = Instant::now();
    stream.get_mut().write_all(format!("{call}\0").as_bytes()).map_err(asking)?;
    let (mut first, mut rows) = (None, 0);
    loop {
        let mut reply = Vec::new();
        stream.read_until(0, &mut reply).map_err(asking)?;
        let reply: &[u8] = reply.strip_suffix(b"\0").unwrap_or_default();
        first.get_or_insert_with(|| begun.elapsed());
        // Only as much of it is read as has to be known.
        let reply: Reply = serde_json::from_slice(reply)?;
        rows += reply.parameters.clients.len();
        if !reply.continues {
            break;
        }
    }
    sound(rows, clients)?;
    Ok([first.unwrap_or_default(), begun.elapsed()])
}

fn ctl(path: &Path, clients: usize) -> Result<[Duration; 2], BenchError> {
    let begun = Instant::now();
    let mut child = list(path).stdout(Stdio::piped()).spawn().map_err(asking)?;
    let mut out = BufReader::new(child.stdout.take().expect("it was asked for"));
    let mut line = String::new();
    out.read_line(&mut line).map_err(asking)?;
    let first = begun.elapsed();
    let mut rest = String::new();
    out.read_to_string(&mut rest).map_err(asking)?;
    child.wait().map_err(asking)?;
    let whole = begun.elapsed();
    sound(1 + rest.lines().count(), clients)?;
    Ok([first, whole])
}

fn list(path: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wschatctl"));
    command.arg("--socket").arg(path).arg("list").stdin(Stdio::null());
    command
}

fn sound(rows: usize, clients: usize) -> Result<(), BenchError> {
    match rows == clients {
        true => Ok(()),
        false => Err(BenchError::NotOpen { open: rows, wanted: clients, faults: Vec::new() }),
    }
}

/// One round.
struct Round {
    /// First and whole of each [`Asked`].
    alone: Vec<[f64; 2]>,
    quiet: Stretch,
    /// While `wschatctl list` is run again and again, how often that was; while `top` looks.
    listed: Stretch,
    lists: u64,
    watched: Stretch,
}

fn main() -> ExitCode {
    enter(&DEFAULTS, measure)
}

fn measure(bench: &Bench) -> Result<(), BenchError> {
    let machine = machine::describe(bench.processors);
    let mut all = Vec::new();
    for &tls in &bench.transports {
        let mut rounds = Vec::new();
        for round in 1..=bench.rounds {
            bench.say(&format!("{}, round {round} of {}", transport(tls), bench.rounds));
            rounds.push(measure_one(bench, tls)?);
        }
        if bench.options.json {
            all.push(to_json(bench, tls, &rounds));
        } else {
            println!(
                "\nLists of {} connections, {}; deliveries and pings with {RATE} messages/s to all, text of {TEXT} \
                 bytes, {} × {} s each\n{machine}\n",
                bench.clients,
                transport(tls),
                bench.rounds,
                bench.length.as_secs()
            );
            print(&rounds);
        }
    }
    if bench.options.json {
        println!("{}", serde_json::to_string_pretty(&json!({"bench": "list", "machine": machine, "runs": all}))?);
    }
    Ok(())
}

fn measure_one(bench: &Bench, tls: bool) -> Result<Round, BenchError> {
    let server = bench.start(&Kind::Daemon, tls)?;
    let mut session = Session::open(&server, bench.clients)?;
    session.load.ping_from(bench.clients - 1);
    session.idle(Duration::from_secs(1))?;
    let mut alone = Vec::new();
    for asked in Asked::ALL {
        let mut times = Vec::new();
        for _ in 0..LISTS {
            times.push(asked.ask(&server, bench.clients)?);
            session.idle(Duration::from_millis(50))?;
        }
        alone.push([0, 1].map(|which| median(times.iter().map(|times| millis(times[which])))));
    }
    let plan =
        Plan { pace: Pace::Rate(RATE), senders: 4, text: TEXT, length: bench.length, ping_every: Some(PING_EVERY) };
    let quiet = session.run(&server, &plan)?;
    let path = server.control_socket();
    let (listed, lists) = meanwhile(&mut session, &server, &plan, || {
        // It gets what the load leaves of its processor, so that the load's own figures stay good.
        let mut nice = Command::new("nice");
        nice.args(["-n", "19", env!("CARGO_BIN_EXE_wschatctl"), "--socket"]).arg(&path).arg("list");
        nice.stdin(Stdio::null()).stdout(Stdio::null()).status().is_ok_and(|status| status.success())
    })?;
    let (watched, _) = meanwhile(&mut session, &server, &plan, || {
        let order = json!({"sort": "sendq", "descending": true, "limit": 200});
        let asked = socket(&path, order, bench.clients.min(200));
        thread::sleep(LOOK);
        asked.is_ok()
    })?;
    warn_of_faults("wschat", &session.load);
    Ok(Round { alone, quiet, listed, lists, watched })
}

/// A stretch during which something else is done over and over; how often it was.
fn meanwhile(
    session: &mut Session,
    server: &Server,
    plan: &Plan,
    again: impl Fn() -> bool + Sync,
) -> Result<(Stretch, u64), BenchError> {
    let (over, times) = (AtomicBool::new(false), AtomicU64::new(0));
    let stretch = thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Relaxed) && again() {
                times.fetch_add(1, Relaxed);
            }
        });
        let stretch = session.run(server, plan);
        over.store(true, Relaxed);
        stretch
    })?;
    Ok((stretch, times.into_inner()))
}

fn pings<'a>(stretches: impl IntoIterator<Item = &'a Stretch>) -> Histogram {
    let mut all = Histogram::new();
    for stretch in stretches {
        all.merge(&stretch.pings.during);
        all.merge(&stretch.pings.otherwise);
    }
    all
}

fn deliveries<'a>(stretches: impl IntoIterator<Item = &'a Stretch>) -> Histogram {
    let mut all = Histogram::new();
    stretches.into_iter().for_each(|stretch| all.merge(&stretch.latency));
    all
}

fn p99(histogram: &Histogram) -> f64 {
    millis(histogram.quantile(0.99))
}

/// The median of all rounds.
fn alone(rounds: &[Round], asked: usize, which: usize) -> f64 {
    median(rounds.iter().map(|round| round.alone[asked][which]))
}

fn stretches(rounds: &[Round]) -> [(&'static str, Vec<&Stretch>); 3] {
    [
        ("quiet", rounds.iter().map(|round| &round.quiet).collect()),
        ("lists without a pause", rounds.iter().map(|round| &round.listed).collect()),
        ("top, once a second", rounds.iter().map(|round| &round.watched).collect()),
    ]
}

fn print(rounds: &[Round]) {
    let mut table = Table::new(&["list", "first rows ms", "whole ms"]);
    for (n, asked) in Asked::ALL.iter().enumerate() {
        let [first, whole] = [0, 1].map(|which| format!("{:.1}", alone(rounds, n, which)));
        table.row(vec![asked.name().to_owned(), first, whole]);
    }
    table.print();
    let whole = alone(rounds, 1, 1);
    println!("  wschatctl list: {whole:.0} ms  ({})\n", WHOLE.describe(whole));

    let mut table =
        Table::new(&["meanwhile", "pings", "p99 ms", "of quiet", "max ms", "deliveries p99 ms", "of quiet"]);
    let all = stretches(rounds);
    let quiet = [p99(&pings(all[0].1.iter().copied())), p99(&deliveries(all[0].1.iter().copied()))];
    for (name, some) in &all {
        let (pings, deliveries) = (pings(some.iter().copied()), deliveries(some.iter().copied()));
        table.row(vec![
            name.to_string(),
            pings.count().to_string(),
            format!("{:.2}", p99(&pings)),
            format!("{:.2}", p99(&pings) / quiet[0]),
            format!("{:.2}", millis(pings.max())),
            format!("{:.2}", p99(&deliveries)),
            format!("{:.2}", p99(&deliveries) / quiet[1]),
        ]);
    }
    table.print();
    let lists: u64 = rounds.iter().map(|round| round.lists).sum();
    println!("  {lists} lists were made without a pause");
    if all.iter().flat_map(|(_, some)| some).all(|stretch| stretch.is_sound()) {
        let ratio = p99(&pings(all[1].1.iter().copied())) / quiet[0];
        println!("  pings: p99 {ratio:.2} times the quiet one  ({})", HICCUP.describe(ratio));
    } else {
        println!("  lost or doubled deliveries or pings, so these figures count for nothing");
    }
    println!("\n the messages meanwhile");
    let mut table = Table::new(&STRETCH_HEADER);
    for round in rounds {
        for (name, stretch) in [("quiet", &round.quiet), ("lists", &round.listed), ("top", &round.watched)] {
            table.row(stretch_row(name, std::slice::from_ref(stretch)));
        }
    }
    table.print();
    print_disturbed(all.iter().flat_map(|(_, some)| some.iter().copied()));
}

fn to_json(bench: &Bench, tls: bool, rounds: &[Round]) -> Value {
    let lists: Vec<Value> = (Asked::ALL.iter().enumerate())
        .map(|(n, asked)| {
            json!({"list": asked.name(), "first_ms": alone(rounds, n, 0), "whole_ms": alone(rounds, n, 1)})
        })
        .collect();
    let meanwhile: Vec<Value> = stretches(rounds)
        .iter()
        .map(|(name, some)| {
            let pings = pings(some.iter().copied());
            json!({
                "meanwhile": name,
                "ping_p99_ms": p99(&pings),
                "ping_max_ms": millis(pings.max()),
                "rounds": some.iter().map(|stretch| stretch_json(stretch)).collect::<Vec<_>>(),
            })
        })
        .collect();
    let whole = alone(rounds, 1, 1);
    json!({"tls": tls, "clients": bench.clients, "lists": lists, "target": WHOLE.json(whole), "meanwhile": meanwhile})
}
