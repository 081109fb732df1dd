//! What an attack changes for those who just talk, and what it makes the daemon hold.

#[path = "../support/mod.rs"]
mod support;

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use support::attacker::{Attack, Done};
use support::options::{Bench, Defaults, enter, transport};
use support::report::{Table, Target, median, millis, print_disturbed, spread, warn_of_faults};
use support::run::{Pace, Plan, Session, Stretch, TEXT};
use support::server::Kind;
use support::{BenchError, machine};

const DEFAULTS: Defaults =
    Defaults { clients: 50, quick_clients: 20, rounds: 3, seconds: 10, plain_too: false, gathering_too: false };
/// Messages a second of all bystanders, and how many of them speak: each half as often as it may.
const RATE: f64 = 50.0;
const SENDERS: usize = 10;
/// An attack is under way for so long before anything is measured.
const WARM_UP: Duration = Duration::from_secs(3);
/// Afterwards, for what has been closed to be gone.
const COOL_DOWN: Duration = Duration::from_secs(4);
/// A bystander's 99th percentile under attack, in quiet ones; below `FLOOR_MS` it is as good as the same.
const TARGET: Target = Target::AtMost(2.0);
const FLOOR_MS: f64 = 2.0;

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

/// One round of one attack.
struct Round {
    quiet: Stretch,
    attacked: Stretch,
    /// Resident before, at the most, and after.
    before: u64,
    peak: u64,
    after: u64,
    done: Done,
}

fn main() -> ExitCode {
    enter(&DEFAULTS, measure)
}

fn measure(bench: &Bench) -> Result<(), BenchError> {
    let machine = machine::describe(bench.processors);
    let mut all = Vec::new();
    for &tls in &bench.transports {
        let floor = quiet_floor(bench, tls)?;
        let mut measured = Vec::new();
        for attack in Attack::ALL {
            let mut rounds = Vec::new();
            for round in 1..=bench.rounds {
                bench.say(&format!("{}, round {round} of {}: {}", transport(tls), bench.rounds, attack.name()));
                rounds.extend(measure_one(bench, tls, attack)?);
            }
            if rounds.is_empty() {
                eprintln!("warning: {} needs an address of this machine that is not loopback", attack.name());
            } else {
                measured.push((attack, rounds));
            }
        }
        if bench.options.json {
            let attacks: Vec<Value> = measured.iter().map(|(attack, rounds)| to_json(*attack, rounds)).collect();
            all.push(json!({"tls": tls, "clients": bench.clients, "floor_p99_ms": floor, "attacks": attacks}));
        } else {
            println!(
                "\n{} bystanders, {}, {RATE} messages/s to all, text of {TEXT} bytes; {} × {} s quiet and as long under \
                 each attack\n{machine}\nfloor: p99 {floor:.2} ms\n",
                bench.clients,
                transport(tls),
                bench.rounds,
                bench.length.as_secs()
            );
            print(&measured);
        }
    }
    if bench.options.json {
        println!("{}", serde_json::to_string_pretty(&json!({"bench": "attack", "machine": machine, "runs": all}))?);
    }
    Ok(())
}

fn plan(bench: &Bench) -> Plan {
    Plan { pace: Pace::Rate(RATE), senders: SENDERS, text: TEXT, length: bench.length, ping_every: None }
}

/// The 99th percentile, in milliseconds, of the same messages through the floor, which nobody attacks.
fn quiet_floor(bench: &Bench, tls: bool) -> Result<f64, BenchError> {
    bench.say(&format!("{}: floor", transport(tls)));
    let server = bench.start(&Kind::Floor, tls)?;
    let mut session = Session::open(&server, bench.clients)?;
    let stretch = session.run(&server, &plan(bench))?;
    warn_of_faults("floor", &session.load);
    Ok(millis(stretch.latency.quantile(0.99)))
}

/// `None`: this machine has no place from which to attack so.
fn measure_one(bench: &Bench, tls: bool, attack: Attack) -> Result<Option<Round>, BenchError> {
    let server = bench.start(&Kind::Guarded, tls)?;
    let doors = server.doors.as_ref();
    let Some(door) = doors.and_then(|doors| if attack.is_direct() { doors.counted } else { Some(doors.proxied) })
    else {
        return Ok(None);
    };
    let mut session = Session::open(&server, bench.clients)?;
    let quiet = session.run(&server, &plan(bench))?;
    let before = machine::resident(server.pid())?;
    machine::forget_peak(server.pid())?;
    let attackers = Attackers::start(attack, door)?;
    session.idle(WARM_UP)?;
    let attacked = session.run(&server, &plan(bench))?;
    let peak = machine::peak(server.pid())?;
    let done = attackers.stop();
    session.idle(COOL_DOWN)?;
    let after = machine::resident(server.pid())?;
    warn_of_faults(attack.name(), &session.load);
    Ok(Some(Round { quiet, attacked, before, peak, after, done }))
}

/// The program that attacks. It gets what the load leaves of its processor.
struct Attackers {
    child: Child,
    latest: mpsc::Receiver<Done>,
}

impl Attackers {
    fn start(attack: Attack, door: SocketAddr) -> Result<Self, BenchError> {
        let own = std::env::current_exe().map_err(BenchError::io("finding the bench's own program"))?;
        let mut child = Command::new("nice")
            .args(["-n", "19"])
            .arg(own)
            .args(["attack", attack.name(), &door.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(BenchError::io("starting those who attack"))?;
        let (tell, latest) = mpsc::channel();
        let out = child.stdout.take();
        // Ends with the program.
        thread::spawn(move || {
            for line in out.into_iter().flat_map(|out| BufReader::new(out).lines()).map_while(Result::ok) {
                if let Ok(done) = serde_json::from_str(&line)
                    && tell.send(done).is_err()
                {
                    return;
                }
            }
        });
        Ok(Attackers { child, latest })
    }

    /// What they had done when they were stopped.
    fn stop(self) -> Done {
        self.latest.try_iter().last().unwrap_or_default()
    }
}

impl Drop for Attackers {
    fn drop(&mut self) {
        // It may have ended already; then there is nobody to end.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the attack may bring the daemon to hold by its configuration, in bytes, beyond what it had: the defaults and
/// `limits.clients = 1500`.
fn bound(attack: Attack) -> u64 {
    let (frame, outbox, idle, other) = (64 * KIB, 256 * KIB, 16 * KIB, 48 * KIB);
    // One worker's sixteen batches and one in the making; 16,384 addresses; 4096 messages to the hub, few of them long.
    let queues = 17 * (MIB + 128 * KIB) + 4 * MIB + 4096 * KIB;
    let held = match attack {
        // clients_per_ip and sixteen, of which none is a WebSocket.
        Attack::Sockets | Attack::Hellos => 116 * other,
        // Each with a message under way, in a buffer that grows by doubling.
        Attack::Addresses => 1500 * (idle + 2 * frame),
        // Fifty that read, whose outbox fills nevertheless, and rooms that keep `history.keep` messages each.
        Attack::Frames | Attack::Pings | Attack::Joins => 50 * (idle + frame + outbox) + 16 * MIB,
        Attack::Readers => 300 * (idle + frame + outbox),
        // 64 MiB of pages, and 32 reads of 128 KiB that may become six times as long in JSON.
        Attack::Pages => 300 * (idle + frame) + 64 * MIB + 32 * 6 * 128 * KIB + 16 * MIB,
    };
    // What the allocator keeps in pieces that nobody can use: a fifth.
    (held + queues) * 6 / 5
}

/// How much later a bystander's messages come: the quiet percentile counts for at least `FLOOR_MS`, below which the
/// clock of one processor, shared with the load's own work, says nothing.
fn ratio(round: &Round) -> f64 {
    let p99 = |stretch: &Stretch| millis(stretch.latency.quantile(0.99));
    p99(&round.attacked) / p99(&round.quiet).max(FLOOR_MS)
}

fn is_sound(rounds: &[Round]) -> bool {
    rounds.iter().all(|round| round.quiet.is_sound() && round.attacked.is_sound())
}

fn print(measured: &[(Attack, Vec<Round>)]) {
    let mib = |bytes: u64| format!("{:.1}", bytes as f64 / MIB as f64);
    let mut times = Table::new(&[
        "attack",
        "quiet p50 ms",
        "p99",
        "max",
        "ack p99",
        "attacked p50 ms",
        "p99",
        "max",
        "ack p99",
        "server busy",
        "load busy",
        "lost",
        "extra",
    ]);
    let mut memory = Table::new(&[
        "attack",
        "before MiB",
        "grown to",
        "after",
        "bound on growth",
        "connected",
        "refused",
        "closed",
        "open",
        "frames",
    ]);
    for (attack, rounds) in measured {
        let of = |figure: &dyn Fn(&Round) -> f64| median(rounds.iter().map(figure));
        let quantile = |attacked: bool, share: f64| {
            let stretch = |round: &Round| {
                let stretch = if attacked { &round.attacked } else { &round.quiet };
                millis(if share < 1.0 { stretch.latency.quantile(share) } else { stretch.latency.max() })
            };
            format!("{:.2}", of(&stretch))
        };
        let ack = |attacked: bool| {
            let stretch =
                |round: &Round| millis(if attacked { &round.attacked } else { &round.quiet }.acks.quantile(0.99));
            format!("{:.2}", of(&stretch))
        };
        let lost: u64 = rounds.iter().map(|round| round.quiet.lost + round.attacked.lost).sum();
        let extra: u64 = rounds.iter().map(|round| round.quiet.extra + round.attacked.extra).sum();
        times.row(vec![
            attack.name().to_owned(),
            quantile(false, 0.5),
            quantile(false, 0.99),
            quantile(false, 1.0),
            ack(false),
            quantile(true, 0.5),
            quantile(true, 0.99),
            quantile(true, 1.0),
            ack(true),
            format!("{:.0} %", of(&|round| server_busy(&round.attacked)) * 100.0),
            format!("{:.0} %", of(&|round| round.attacked.load_busy) * 100.0),
            lost.to_string(),
            extra.to_string(),
        ]);
        let most = |figure: &dyn Fn(&Round) -> u64| rounds.iter().map(figure).max().unwrap_or(0);
        memory.row(vec![
            attack.name().to_owned(),
            mib(most(&|round| round.before)),
            mib(most(&|round| round.peak)),
            mib(most(&|round| round.after)),
            mib(bound(*attack)),
            most(&|round| round.done.connected).to_string(),
            most(&|round| round.done.refused).to_string(),
            most(&|round| round.done.closed).to_string(),
            most(&|round| round.done.open).to_string(),
            most(&|round| round.done.frames).to_string(),
        ]);
    }
    times.print();
    println!("\n memory, the most of all rounds, and what those who attacked came to");
    memory.print();
    println!();
    for (attack, rounds) in measured {
        let ratios: Vec<f64> = rounds.iter().map(ratio).collect();
        let within = rounds.iter().all(|round| round.peak.saturating_sub(round.before) <= bound(*attack));
        let memory = if within { "memory within its bound" } else { "MEMORY BEYOND ITS BOUND" };
        if is_sound(rounds) {
            let target = TARGET.describe(median(ratios.iter().copied()));
            println!("  {}: p99 {} × the quiet one  ({target}); {memory}", attack.name(), spread(&ratios));
        } else {
            println!("  {}: lost or doubled deliveries, so its figures count for nothing; {memory}", attack.name());
        }
    }
    print_disturbed(measured.iter().flat_map(|(_, rounds)| rounds).flat_map(|round| [&round.quiet, &round.attacked]));
}

fn server_busy(stretch: &Stretch) -> f64 {
    stretch.cpu.as_secs_f64() / stretch.elapsed.as_secs_f64()
}

fn to_json(attack: Attack, rounds: &[Round]) -> Value {
    let stretch = |stretch: &Stretch| {
        json!({
            "p50_ms": millis(stretch.latency.quantile(0.5)),
            "p99_ms": millis(stretch.latency.quantile(0.99)),
            "max_ms": millis(stretch.latency.max()),
            "ack_p50_ms": millis(stretch.acks.quantile(0.5)),
            "ack_p99_ms": millis(stretch.acks.quantile(0.99)),
            "messages": stretch.sent,
            "lost": stretch.lost,
            "extra": stretch.extra,
            "server_busy": server_busy(stretch),
            "load_busy": stretch.load_busy,
            "disturbed": stretch.is_disturbed(),
        })
    };
    let rounds_json: Vec<Value> = rounds
        .iter()
        .map(|round| {
            json!({
                "quiet": stretch(&round.quiet),
                "attacked": stretch(&round.attacked),
                "p99_ratio": ratio(round),
                "resident_before": round.before,
                "resident_peak": round.peak,
                "resident_after": round.after,
                "attackers": round.done,
            })
        })
        .collect();
    let mut value = json!({"attack": attack.name(), "bound_on_growth": bound(attack), "rounds": rounds_json});
    if is_sound(rounds) {
        value["target"] = TARGET.json(median(rounds.iter().map(ratio)));
    }
    value
}
