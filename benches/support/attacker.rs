//! Those who attack: a program of its own, since what it costs must not be the load's.
//!
//! One thread, sockets that do not block, so many deeds a second and no more. It runs until it is ended, and prints
//! what it has done so far twice a second.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use nix::errno::Errno;
use rustls::ClientConnection;
use rustls::pki_types::ServerName;
use serde::{Deserialize, Serialize};
use socket2::{Domain, Socket, Type};

use super::{BenchError, frame, machine, wire};

/// Deeds are done in portions of this length.
const TICK: Duration = Duration::from_millis(10);
/// How often each connection is looked after: has it been answered, or closed?
const ROUND: Duration = Duration::from_millis(500);
const TELL: Duration = Duration::from_millis(500);
/// The proxy that the daemon is told to believe.
const PROXY: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Attack {
    /// One address opens sockets and says nothing
    Sockets,
    /// One address opens sockets, begins TLS and leaves it at that
    Hellos,
    /// Thousands of addresses open WebSockets, and messages that they never end
    Addresses,
    /// Fifty clients in one room send messages
    Frames,
    /// Fifty clients send WebSocket pings
    Pings,
    /// Fifty clients join ever new rooms and leave them
    Joins,
    /// Three hundred members of the bystanders' room ask who is there and read nothing
    Readers,
    /// Three hundred ask for history and read nothing
    Pages,
}

impl Attack {
    pub const ALL: [Attack; 8] = [
        Attack::Sockets,
        Attack::Hellos,
        Attack::Addresses,
        Attack::Frames,
        Attack::Pings,
        Attack::Joins,
        Attack::Readers,
        Attack::Pages,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Attack::Sockets => "sockets",
            Attack::Hellos => "hellos",
            Attack::Addresses => "addresses",
            Attack::Frames => "frames",
            Attack::Pings => "pings",
            Attack::Joins => "joins",
            Attack::Readers => "readers",
            Attack::Pages => "pages",
        }
    }

    /// Does it come from an address that is counted when it connects?
    pub fn is_direct(self) -> bool {
        matches!(self, Attack::Sockets | Attack::Hellos)
    }

    /// Connections that are kept open where the daemon lets them.
    pub fn connections(self) -> usize {
        match self {
            Attack::Sockets | Attack::Hellos => 2000,
            Attack::Addresses => 5000,
            Attack::Frames | Attack::Pings | Attack::Joins => 50,
            Attack::Readers | Attack::Pages => 300,
        }
    }

    /// Deeds a second: connections for those that do nothing but connect, frames for the others.
    pub fn rate(self) -> f64 {
        match self {
            Attack::Sockets | Attack::Hellos => 1000.0,
            Attack::Addresses => 500.0,
            Attack::Frames | Attack::Pings => 5000.0,
            Attack::Joins | Attack::Readers => 2000.0,
            Attack::Pages => 300.0,
        }
    }

    /// The most connections that are opened a second, by those who do more than that.
    const RECONNECTS: f64 = 100.0;

    fn only_connects(self) -> bool {
        matches!(self, Attack::Sockets | Attack::Hellos | Attack::Addresses)
    }

    fn reads(self) -> bool {
        !matches!(self, Attack::Readers | Attack::Pages)
    }

    fn room(self) -> &'static str {
        match self {
            Attack::Readers => "lobby",
            Attack::Pages => "archive",
            _ => "arena",
        }
    }

    /// The `n`th thing that a client says.
    fn say(self, n: u64, out: &mut Vec<u8>) {
        let text = match self {
            Attack::Sockets | Attack::Hellos | Attack::Addresses => return,
            Attack::Pings => return frame::put_masked(out, frame::PING, &[b'x'; 100]),
            Attack::Frames => {
                format!(r#"{{"type":"message","payload":{{"room":"arena","text":"{}"}},"seq":{n}}}"#, "x".repeat(100))
            }
            Attack::Joins => {
                let kind = if n.is_multiple_of(2) { "join" } else { "leave" };
                format!(r#"{{"type":"{kind}","payload":{{"room":"room-{}"}},"seq":{n}}}"#, n / 2)
            }
            Attack::Readers => format!(r#"{{"type":"who","payload":{{"room":"lobby"}},"seq":{n}}}"#),
            Attack::Pages => {
                format!(r#"{{"type":"history","payload":{{"room":"archive","limit":100}},"seq":{n}}}"#)
            }
        };
        frame::put_masked(out, frame::TEXT, text.as_bytes());
    }
}

#[derive(clap::Args)]
pub struct AttackOptions {
    #[arg(value_enum)]
    kind: Attack,
    /// Where to connect
    address: SocketAddr,
    /// Share of the usual number of deeds a second
    #[arg(long, default_value_t = 1.0)]
    pace: f64,
}

/// What has been done, and what came of it.
#[derive(Clone, Copy, Default, Serialize, Deserialize)]
pub struct Done {
    pub connected: u64,
    /// Open at this moment.
    pub open: u64,
    /// Closed by the daemon.
    pub closed: u64,
    /// Answered by HTTP 429 or 503.
    pub refused: u64,
    pub frames: u64,
}

struct Conn {
    stream: TcpStream,
    /// HTTP has answered.
    answered: bool,
    said: u64,
    /// What the socket has not taken.
    unsent: Vec<u8>,
}

struct Attackers {
    options: AttackOptions,
    hello: Vec<u8>,
    conns: Vec<Conn>,
    next: u32,
    done: Done,
}

/// Runs until the process is ended.
pub fn attack(options: AttackOptions) -> Result<(), BenchError> {
    machine::raise_descriptor_limit()?;
    let hello = client_hello()?;
    let (deeds, kind) = (options.kind.rate() * options.pace * TICK.as_secs_f64(), options.kind);
    let connects = if kind.only_connects() { deeds } else { Attack::RECONNECTS * TICK.as_secs_f64() };
    let mut attackers = Attackers { options, hello, conns: Vec::new(), next: 0, done: Done::default() };
    let (mut owed_connects, mut owed_deeds, mut turn) = (0.0, 0.0, 0);
    let begin = Instant::now();
    let (mut tick, mut told) = (0u32, Instant::now());
    loop {
        tick += 1;
        // Who is behind does not catch up: the pace is an upper limit.
        owed_connects = f64::min(owed_connects + connects, 2.0 * connects.max(1.0));
        owed_deeds = f64::min(owed_deeds + deeds, 2.0 * deeds.max(1.0));
        while owed_connects >= 1.0 && attackers.conns.len() < kind.connections() {
            owed_connects -= 1.0;
            attackers.connect();
        }
        attackers.look_after(tick);
        while owed_deeds >= 1.0 && !attackers.conns.is_empty() && !kind.only_connects() {
            owed_deeds -= 1.0;
            turn = (turn + 1) % attackers.conns.len();
            attackers.speak(turn);
        }
        if told.elapsed() >= TELL {
            told = Instant::now();
            attackers.done.open = attackers.conns.len() as u64;
            let mut out = io::stdout().lock();
            serde_json::to_writer(&mut out, &attackers.done)?;
            // Nobody reads any more: the bench is over.
            if writeln!(out).and_then(|()| out.flush()).is_err() {
                return Ok(());
            }
        }
        thread::sleep((begin + TICK * tick).saturating_duration_since(Instant::now()));
    }
}

impl Attackers {
    fn connect(&mut self) {
        self.next += 1;
        // One that cannot be opened, or is reset at once, is one that the daemon has turned away.
        self.done.connected += 1;
        match self.try_connect() {
            Ok(conn) => self.conns.push(conn),
            Err(_) => self.done.closed += 1,
        }
    }

    fn try_connect(&mut self) -> io::Result<Conn> {
        let kind = self.options.kind;
        let socket = Socket::new(Domain::for_address(self.options.address), Type::STREAM.cloexec(), None)?;
        // Nothing is left in TIME_WAIT, of which there would soon be too many.
        socket.set_linger(Some(Duration::ZERO))?;
        if !kind.reads() {
            socket.set_recv_buffer_size(2048)?;
        }
        if !kind.is_direct() {
            socket.bind(&SocketAddr::from((PROXY, 0)).into())?;
        }
        socket.set_nonblocking(true)?;
        match socket.connect(&self.options.address.into()) {
            Err(error) if error.raw_os_error() != Some(Errno::EINPROGRESS as i32) => return Err(error),
            _ => {}
        }
        let mut unsent = Vec::new();
        match kind {
            Attack::Sockets => {}
            Attack::Hellos => unsent.extend_from_slice(&self.hello),
            kind => {
                let [_, a, b, c] = self.next.to_be_bytes();
                unsent.extend_from_slice(
                    format!(
                        "GET /chat HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: d3NjaGF0IG1lYXN1cmVzIQ==\r\n\
                         X-Forwarded-For: 10.{a}.{b}.{c}\r\n\r\n"
                    )
                    .as_bytes(),
                );
                if kind == Attack::Addresses {
                    // The head of a message of 32 KiB, and a quarter of it (RFC 6455, section 5.2).
                    unsent.extend_from_slice(&[0x01, 0xfe, 0x80, 0x00, 0, 0, 0, 0]);
                    unsent.extend_from_slice(&[b'x'; 8192]);
                } else {
                    let room = kind.room();
                    let hello = format!(r#"{{"type":"hello","payload":{{"v":1,"rooms":["{room}"]}},"seq":1}}"#);
                    frame::put_masked(&mut unsent, frame::TEXT, hello.as_bytes());
                    if kind == Attack::Pages {
                        // So that there is history to ask for.
                        let text = "x".repeat(3000);
                        let said =
                            format!(r#"{{"type":"message","payload":{{"room":"{room}","text":"{text}"}},"seq":2}}"#);
                        frame::put_masked(&mut unsent, frame::TEXT, said.as_bytes());
                    }
                }
            }
        }
        let mut conn = Conn { stream: socket.into(), answered: false, said: 0, unsent };
        conn.flush()?;
        Ok(conn)
    }

    /// A part of the connections at each tick, so that all have been looked at after a round.
    fn look_after(&mut self, tick: u32) {
        let parts = (ROUND.as_millis() / TICK.as_millis()) as usize;
        let mut at = self.conns.len();
        while at > 0 {
            at -= 1;
            if at % parts == tick as usize % parts && !self.conns[at].is_alive(self.options.kind, &mut self.done) {
                self.conns.swap_remove(at);
                self.done.closed += 1;
            }
        }
    }

    fn speak(&mut self, at: usize) {
        let conn = &mut self.conns[at];
        if !conn.answered || conn.unsent.len() > 64 * 1024 {
            return;
        }
        conn.said += 1;
        // Rooms of one are not those of another.
        let number = conn.said + u64::from(self.next) * 1_000_000;
        self.options.kind.say(number, &mut conn.unsent);
        self.done.frames += 1;
        if conn.flush().is_err() {
            self.conns.swap_remove(at);
            self.done.closed += 1;
        }
    }
}

impl Conn {
    fn flush(&mut self) -> io::Result<()> {
        if !self.unsent.is_empty() {
            match self.stream.write(&self.unsent) {
                Ok(taken) => drop(self.unsent.drain(..taken)),
                Err(error) if is_patient(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn is_alive(&mut self, kind: Attack, done: &mut Done) -> bool {
        if self.flush().is_err() {
            return false;
        }
        // Who does not read must still see that it has been let in, and whether it has been closed.
        if self.answered && !kind.reads() {
            return !matches!(self.stream.take_error(), Ok(Some(_)) | Err(_)) && self.stream.peer_addr().is_ok();
        }
        let mut chunk = [0; 16 * 1024];
        let room = if kind.reads() { chunk.len() } else { 160 };
        loop {
            match self.stream.read(&mut chunk[..room]) {
                Ok(0) => return false,
                Ok(taken) => {
                    if !std::mem::replace(&mut self.answered, true) && !kind.is_direct() {
                        let refused = !chunk[..taken].starts_with(b"HTTP/1.1 101 ");
                        done.refused += u64::from(refused);
                        if refused {
                            return false;
                        }
                    }
                    if !kind.reads() {
                        return true;
                    }
                }
                Err(error) => return is_patient(&error),
            }
        }
    }
}

fn is_patient(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted | io::ErrorKind::NotConnected)
}

/// What a TLS client says first. Whoever hears it has to agree on a key and to sign.
fn client_hello() -> Result<Vec<u8>, BenchError> {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
    let config = wire::client_config(made.cert.der().clone())?;
    let name = ServerName::try_from("localhost").expect("localhost is a valid name");
    let mut client = ClientConnection::new(Arc::clone(&config), name)?;
    let mut hello = Vec::new();
    client.write_tls(&mut hello).map_err(BenchError::io("making a TLS hello"))?;
    Ok(hello)
}
