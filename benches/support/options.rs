//! A bench's command line and its lives: measuring, being the floor, attacking, and launching a server pinned.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};

use super::attacker::{self, AttackOptions};
use super::floor::{self, FloorOptions};
use super::machine::{self, Processors};
use super::run::{Pace, Plan, Session, TEXT};
use super::server::{Identity, Kind, Server};
use super::{BenchError, report};

/// Descriptors that a process needs besides its connections.
const OTHER_DESCRIPTORS: u64 = 100;

#[derive(Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    life: Option<Life>,
    #[command(flatten)]
    options: Options,
    /// cargo bench says so; without it nothing is measured.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Subcommand)]
enum Life {
    /// Serve as the floor; the bench starts this itself
    #[command(hide = true)]
    Floor(FloorOptions),
    /// Attack a daemon; the bench starts this itself
    #[command(hide = true)]
    Attack(AttackOptions),
    /// Become a program pinned to a processor; the bench starts this itself
    #[command(hide = true)]
    Launch {
        cpu: usize,
        #[arg(last = true, required = true)]
        command: Vec<OsString>,
    },
}

#[derive(clap::Args, Clone)]
pub struct Options {
    /// A short run, to see that all works; its figures are rough
    #[arg(long)]
    pub quick: bool,
    /// Print JSON instead of tables
    #[arg(long)]
    pub json: bool,
    /// How often each server is measured; medians are reported
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: Option<u32>,
    /// Clients that are open at once
    #[arg(long, value_parser = clap::value_parser!(u32).range(20..=19_000))]
    clients: Option<u32>,
    /// Seconds of each measured stretch
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: Option<u32>,
    /// Encryption between clients and servers
    #[arg(long, value_enum)]
    transport: Option<Transport>,
    /// Servers to measure
    #[arg(long, value_enum, value_delimiter = ',')]
    servers: Option<Vec<Name>>,
    /// A command line that passes raw text frames on, to be measured as well; {port}, {key} and {cert} are filled in
    #[arg(long)]
    rival: Option<String>,
    /// Bytes of payload that floor and rival pass on; as many as the daemon's frames have where it is measured, else 100
    #[arg(long, value_parser = clap::value_parser!(u16).range(40..=32_768))]
    frame: Option<u16>,
    /// The daemon to measure
    #[arg(long, default_value = env!("CARGO_BIN_EXE_wschat"), hide_default_value = true)]
    pub daemon: PathBuf,
}

#[derive(Clone, Copy, ValueEnum)]
enum Transport {
    Tls,
    Plain,
    Both,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Name {
    Wschat,
    Floor,
    Gathering,
}

/// What a bench measures where the command line does not say.
pub struct Defaults {
    pub clients: u32,
    pub quick_clients: u32,
    pub rounds: u32,
    pub seconds: u32,
    pub plain_too: bool,
    pub gathering_too: bool,
}

/// A run of a bench.
pub struct Bench {
    pub options: Options,
    pub clients: usize,
    pub rounds: u32,
    /// Of each stretch.
    pub length: Duration,
    pub processors: Processors,
    pub identity: Identity,
    pub servers: Vec<Kind>,
    /// Is TLS spoken, in turn.
    pub transports: Vec<bool>,
}

/// The whole of a bench's `main`.
pub fn enter(defaults: &Defaults, measure: fn(&Bench) -> Result<(), BenchError>) -> ExitCode {
    let first = std::env::args_os().nth(1);
    let re_executed =
        first.as_ref().is_some_and(|first| ["floor", "attack", "launch"].iter().any(|life| first == life));
    let asked = std::env::args_os().any(|argument| argument == "--bench" || argument == "--help");
    if !re_executed && !asked {
        // A test runner runs or lists this program too. There is nothing to test in it.
        eprintln!("This program measures; run it with `cargo bench`, or with --bench.");
        return ExitCode::SUCCESS;
    }
    let arguments = Arguments::parse();
    let result = match arguments.life {
        Some(Life::Floor(options)) => floor::serve(&options),
        Some(Life::Attack(options)) => attacker::attack(options),
        Some(Life::Launch { cpu, command }) => {
            let mut program = Command::new(&command[0]);
            program.args(&command[1..]);
            Err(machine::launch(cpu, program))
        }
        None => Bench::new(arguments.options, defaults).and_then(|bench| measure(&bench)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

impl Bench {
    fn new(options: Options, defaults: &Defaults) -> Result<Self, BenchError> {
        let quick = options.quick;
        let clients = options.clients.unwrap_or(if quick { defaults.quick_clients } else { defaults.clients });
        let allowed = machine::raise_descriptor_limit()?;
        let needed = u64::from(clients) + OTHER_DESCRIPTORS;
        if needed > allowed {
            return Err(BenchError::Descriptors { needed, allowed });
        }
        let processors = Processors::choose()?;
        machine::pin_to(processors.load)?;
        let names = options.servers.clone().unwrap_or_else(|| match defaults.gathering_too {
            true => vec![Name::Wschat, Name::Floor, Name::Gathering],
            false => vec![Name::Wschat, Name::Floor],
        });
        let mut servers: Vec<Kind> = names
            .into_iter()
            .map(|name| match name {
                Name::Wschat => Kind::Daemon,
                Name::Floor => Kind::Floor,
                Name::Gathering => Kind::Gathering,
            })
            .collect();
        servers.extend(options.rival.clone().map(Kind::Rival));
        let transport = options.transport.unwrap_or(match defaults.plain_too {
            true => Transport::Both,
            false => Transport::Tls,
        });
        Ok(Bench {
            clients: clients as usize,
            rounds: options.rounds.unwrap_or(if quick { 1 } else { defaults.rounds }),
            length: Duration::from_secs(options.seconds.unwrap_or(if quick { 1 } else { defaults.seconds }).into()),
            processors,
            identity: Identity::new()?,
            servers,
            transports: match transport {
                Transport::Tls => vec![true],
                Transport::Plain => vec![false],
                Transport::Both => vec![true, false],
            },
            options,
        })
    }

    pub fn start(&self, kind: &Kind, tls: bool) -> Result<Server, BenchError> {
        Server::start(kind, tls, &self.identity, self.processors, &self.options.daemon)
    }

    /// Length of what is sent to `kind` as text, so that all servers write frames of the same length.
    pub fn text_for(&self, kind: &Kind, frame: usize) -> usize {
        if *kind == Kind::Daemon { TEXT } else { frame }
    }

    /// The payload that the daemon makes of a text of 100 bytes, found out by letting it make some.
    pub fn frame(&self) -> Result<usize, BenchError> {
        if let Some(frame) = self.options.frame {
            return Ok(frame.into());
        }
        if !self.servers.contains(&Kind::Daemon) {
            return Ok(TEXT);
        }
        let server = self.start(&Kind::Daemon, false)?;
        let mut session = Session::open(&server, 20)?;
        let plan = Plan {
            pace: Pace::Rate(100.0),
            senders: 10,
            text: TEXT,
            length: Duration::from_millis(500),
            ping_every: None,
        };
        let stretch = session.run(&server, &plan)?;
        report::warn_of_faults("wschat", &session.load);
        if !stretch.is_sound() {
            return Err(BenchError::NoSample { delivered: stretch.received, expected: stretch.expected });
        }
        Ok(stretch.payload.round() as usize)
    }

    /// Says on stderr what is being done: a run takes minutes.
    pub fn say(&self, what: &str) {
        eprintln!("… {what}");
    }
}

/// The name of a transport in tables.
pub fn transport(tls: bool) -> &'static str {
    if tls { "TLS 1.3" } else { "plain TCP" }
}
