//! The clients: one thread, one epoll, every delivery counted and timed.
//!
//! A message's text holds a mark, `@@`, sixteen hexadecimal digits of the time it was due and eight of its number.
//! When messages are sent is the business of `run`.

use std::collections::BTreeMap;
use std::mem;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use rustls::ClientConfig;
use serde::Deserialize;
use socket2::{Domain, Socket, Type};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::histogram::Histogram;
use super::server::{Dialect, Server};
use super::wire::{self, ClientWire, Received, Scratch, WireError};
use super::{BenchError, frame};

/// Events taken from the kernel at once; few, so that a ping between them need not wait long.
const EVENTS: usize = 64;
/// Handshakes under way at once.
const OPENING: usize = 64;
/// Opening is given up after this long without a step forward.
const OPENING_STALL: Duration = Duration::from_secs(20);
/// The clients count as settled when no frame has come for this long; presence is told at most once a second.
const QUIET: Duration = Duration::from_millis(1200);
const QUIET_AT_MOST: Duration = Duration::from_secs(15);
/// Polls are at least this far apart while deliveries come in. Without it a reader that keeps up would fall asleep
/// between any two deliveries, and the server's CPU would pay for waking it each time.
const GAP: Duration = Duration::from_micros(50);
/// Sources are used in turn, 127.0.0.1 and on, so that no address runs out of ports.
const CLIENTS_PER_SOURCE: usize = 5000;
const KEY: &str = "d3NjaGF0IG1lYXN1cmVzIQ==";
const MARK: &[u8] = b"@@";
const MARK_LEN: usize = 26;

#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error(transparent)]
    Frame(#[from] frame::BadFrame),
    #[error("the upgrade was answered by: {0}")]
    NotUpgraded(String),
    #[error("close frame {0}")]
    Close(u16),
    #[error("the daemon said: {0}")]
    Said(String),
    #[error("neither the dialect's JSON nor a message of the load: {0}")]
    Strange(String),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Connecting,
    Securing,
    Upgrading,
    /// After the hello: has `welcome` come.
    Greeting(bool),
    Open,
    Closed,
}

struct Client {
    wire: Option<ClientWire>,
    phase: Phase,
    received: u64,
}

/// What the deliveries of one stretch come to.
pub struct Tally {
    pub latency: Histogram,
    pub received: u64,
    /// Bytes of payload in those.
    pub bytes: u64,
    /// Reads that brought a delivery: how far the server gathers is `received / reads`.
    pub reads: u64,
    /// By message, less `first`.
    pub of_message: Vec<u32>,
    pub first: u32,
    /// Deliveries of messages that this stretch has not sent.
    pub stray: u64,
    /// Frames other than messages, in all.
    pub others: u64,
    pub last: u64,
    pub pings: Pings,
    /// When each message was due, and how long after that its ack came.
    pub due: Vec<u64>,
    pub acks: Histogram,
}

/// Round trips of pings, from when they were due.
#[derive(Clone)]
pub struct Pings {
    pub sent: u64,
    /// Sent while deliveries were under way.
    pub during: Histogram,
    pub otherwise: Histogram,
}

/// The few words of the daemon that a client has to understand.
#[derive(Deserialize)]
struct Said<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(default)]
    payload: Words,
}

#[derive(Default, Deserialize)]
struct Words {
    code: Option<serde_json::Value>,
    message: Option<String>,
    due: Option<u64>,
    during: Option<bool>,
    re: Option<u64>,
}

pub struct Load {
    epoll: Epoll,
    clients: Vec<Client>,
    address: SocketAddr,
    dialect: Dialect,
    tls: Option<Arc<ClientConfig>>,
    scratch: Scratch,
    outgoing: Vec<u8>,
    accept: String,
    begin: Instant,
    /// Where the mark was in the last delivery: mostly it is there again.
    mark_at: usize,
    open: usize,
    opening: usize,
    steps: u64,
    faults: BTreeMap<String, usize>,
    polled: Option<Instant>,
    /// Time spent between polls doing nothing.
    idle: Duration,
    /// Read first and at every poll: the client whose pings are timed.
    pinger: Option<usize>,
    pub tally: Tally,
}

impl Load {
    pub fn new(server: &Server) -> Result<Self, BenchError> {
        Ok(Load {
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(BenchError::system("making an epoll"))?,
            clients: Vec::new(),
            address: server.address.into(),
            dialect: server.dialect,
            tls: server.tls.clone(),
            scratch: Scratch::new(),
            outgoing: Vec::new(),
            accept: derive_accept_key(KEY.as_bytes()),
            begin: Instant::now(),
            mark_at: 0,
            open: 0,
            opening: 0,
            steps: 0,
            faults: BTreeMap::new(),
            polled: None,
            idle: Duration::ZERO,
            pinger: None,
            tally: Tally::new(),
        })
    }

    /// Nanoseconds since the load began.
    pub fn now(&self) -> u64 {
        self.begin.elapsed().as_nanos() as u64
    }

    pub fn open_clients(&self) -> usize {
        self.open
    }

    /// Time spent waiting in turns between polls; it is CPU time, but not work.
    pub fn idle_time(&self) -> Duration {
        self.idle
    }

    /// What went wrong for clients, and how often.
    pub fn faults(&self) -> Vec<(String, usize)> {
        self.faults.iter().map(|(what, count)| (what.clone(), *count)).collect()
    }

    /// Opens `wanted` clients and waits until each is in the room and all is quiet.
    pub fn open(&mut self, wanted: usize) -> Result<(), BenchError> {
        let mut started = 0;
        let mut progress = (self.steps, Instant::now());
        while self.open < wanted && self.faults.is_empty() && progress.1.elapsed() < OPENING_STALL {
            while started < wanted && self.opening < OPENING {
                if let Err(error) = self.connect(started) {
                    self.fault(&Fault::Wire(WireError::Io(error)));
                    break;
                }
                started += 1;
            }
            self.poll(Duration::from_millis(100))?;
            if self.steps != progress.0 {
                progress = (self.steps, Instant::now());
            }
        }
        if self.open < wanted {
            return Err(BenchError::NotOpen { open: self.open, wanted, faults: self.faults() });
        }
        let begin = Instant::now();
        let mut quiet = (self.tally.others, begin);
        while quiet.1.elapsed() < QUIET && begin.elapsed() < QUIET_AT_MOST {
            self.poll(Duration::from_millis(50))?;
            if self.tally.others != quiet.0 {
                quiet = (self.tally.others, Instant::now());
            }
        }
        if self.open < wanted {
            return Err(BenchError::NotOpen { open: self.open, wanted, faults: self.faults() });
        }
        Ok(())
    }

    fn connect(&mut self, number: usize) -> std::io::Result<()> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM.nonblocking().cloexec(), None)?;
        socket.set_tcp_nodelay(true)?;
        // A reset at the end leaves nothing in TIME_WAIT for the next server.
        socket.set_linger(Some(Duration::ZERO))?;
        let host = 1 + (number / CLIENTS_PER_SOURCE) as u8;
        socket.bind(&SocketAddr::from((Ipv4Addr::new(127, 0, 0, host), 0)).into())?;
        match socket.connect(&self.address.into()) {
            Err(error) if error.raw_os_error() != Some(Errno::EINPROGRESS as i32) => return Err(error),
            _ => {}
        }
        let stream = TcpStream::from(socket);
        let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET;
        self.epoll.add(stream.as_fd(), EpollEvent::new(flags, self.clients.len() as u64))?;
        let tls = self.tls.as_ref().map(wire::client).transpose().map_err(std::io::Error::other)?;
        self.clients.push(Client { wire: Some(ClientWire::new(stream, tls)), phase: Phase::Connecting, received: 0 });
        self.opening += 1;
        Ok(())
    }

    /// Waits up to `wait` (below a millisecond: not at all) and handles what has happened, at most 64 sockets' worth.
    pub fn poll(&mut self, wait: Duration) -> Result<usize, BenchError> {
        if let Some(polled) = self.polled {
            let from = Instant::now();
            let until = polled + GAP;
            while Instant::now() < until {
                std::hint::spin_loop();
            }
            self.idle += from.elapsed();
        }
        if let Some(pinger) = self.pinger {
            self.handle(pinger, EpollFlags::EPOLLIN);
        }
        let mut events = [EpollEvent::empty(); EVENTS];
        let count = match self.epoll.wait(&mut events, wait.as_millis().min(1000) as u16) {
            Ok(count) => count,
            Err(Errno::EINTR) => 0,
            Err(errno) => return Err(BenchError::system("waiting for sockets")(errno)),
        };
        for event in &events[..count] {
            self.handle(event.data() as usize, event.events());
        }
        self.polled = (count > 0 && self.opening == 0).then(Instant::now);
        Ok(count)
    }

    fn handle(&mut self, index: usize, events: EpollFlags) {
        if self.clients[index].phase == Phase::Closed {
            return;
        }
        if let Err(fault) = self.try_handle(index, events) {
            self.close(index);
            self.fault(&fault);
        }
    }

    fn fault(&mut self, fault: &Fault) {
        *self.faults.entry(fault.to_string()).or_default() += 1;
    }

    fn close(&mut self, index: usize) {
        let client = &mut self.clients[index];
        client.wire = None;
        match mem::replace(&mut client.phase, Phase::Closed) {
            Phase::Open => self.open -= 1,
            _ => self.opening -= 1,
        }
    }

    fn try_handle(&mut self, index: usize, events: EpollFlags) -> Result<(), Fault> {
        let client = &mut self.clients[index];
        let Some(wire) = &mut client.wire else { return Ok(()) };
        if client.phase == Phase::Connecting {
            if let Some(error) = wire.stream().take_error().map_err(WireError::Io)? {
                return Err(WireError::Io(error).into());
            }
            if !events.contains(EpollFlags::EPOLLOUT) {
                return Ok(());
            }
            client.phase = Phase::Securing;
            wire.start()?;
            self.request_upgrade(index)?;
        } else if events.contains(EpollFlags::EPOLLOUT) && wire.is_behind() {
            wire.flush()?;
        }
        if events.intersects(!EpollFlags::EPOLLOUT) {
            while self.receive(index)? == Received::More {}
        }
        Ok(())
    }

    /// Asks for the upgrade as soon as TLS allows.
    fn request_upgrade(&mut self, index: usize) -> Result<(), Fault> {
        let client = &mut self.clients[index];
        let Some(wire) = &mut client.wire else { return Ok(()) };
        if client.phase == Phase::Securing && wire.is_ready() {
            let path = match self.dialect {
                Dialect::Raw => "/",
                Dialect::Json => "/chat",
            };
            let request = format!(
                "GET {path} HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                 Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\r\n",
                self.address
            );
            client.phase = Phase::Upgrading;
            wire.send(&mut self.scratch, request.as_bytes())?;
        }
        Ok(())
    }

    fn receive(&mut self, index: usize) -> Result<Received, Fault> {
        let at = self.begin.elapsed().as_nanos() as u64;
        let client = &mut self.clients[index];
        let (before, was) = (self.tally.received, client.phase);
        let Some(wire) = &mut client.wire else { return Ok(Received::Drained) };
        let mut answers = Vec::new();
        let mut reader = Reader {
            tally: &mut self.tally,
            mark_at: &mut self.mark_at,
            phase: &mut client.phase,
            dialect: self.dialect,
            accept: &self.accept,
            at,
        };
        let received = wire.receive(&mut self.scratch, |bytes| reader.take(bytes, &mut answers))?;
        if !answers.is_empty() {
            wire.send(&mut self.scratch, &answers)?;
        }
        let now = client.phase;
        let deliveries = self.tally.received - before;
        client.received += deliveries;
        self.tally.reads += u64::from(deliveries > 0);
        if now == Phase::Open && was != Phase::Open {
            self.opening -= 1;
            self.open += 1;
        }
        if now != Phase::Open || was != now {
            self.steps += 1;
        }
        self.request_upgrade(index)?;
        Ok(received)
    }

    /// Sends `text` as a chat message of client `index`; false when that client is gone.
    pub fn say(&mut self, index: usize, number: u32, text: &str) -> bool {
        let mut payload = mem::take(&mut self.outgoing);
        payload.clear();
        match self.dialect {
            Dialect::Raw => payload.extend_from_slice(text.as_bytes()),
            Dialect::Json => payload.extend_from_slice(
                format!(r#"{{"type":"message","payload":{{"text":"{text}"}},"seq":{number}}}"#).as_bytes(),
            ),
        }
        let sent = self.send(index, frame::TEXT, &payload);
        self.outgoing = payload;
        sent
    }

    /// Times `index`'s pings from now on.
    pub fn ping_from(&mut self, index: usize) {
        self.pinger = Some(index);
    }

    /// Sends a ping that was due at `due`: the dialect's own, or one of the WebSocket's.
    pub fn ping(&mut self, due: u64, during: bool) -> bool {
        let Some(index) = self.pinger else { return false };
        self.tally.pings.sent += 1;
        match self.dialect {
            Dialect::Raw => {
                let mut payload = due.to_be_bytes().to_vec();
                payload.push(u8::from(during));
                self.send(index, frame::PING, &payload)
            }
            Dialect::Json => {
                let text = format!(r#"{{"type":"ping","payload":{{"due":{due},"during":{during}}},"seq":0}}"#);
                self.send(index, frame::TEXT, text.as_bytes())
            }
        }
    }

    fn send(&mut self, index: usize, opcode: u8, payload: &[u8]) -> bool {
        let client = &mut self.clients[index];
        let Some(wire) = client.wire.as_mut().filter(|_| client.phase == Phase::Open) else { return false };
        let mut bytes = Vec::with_capacity(payload.len() + 8);
        frame::put_masked(&mut bytes, opcode, payload);
        match wire.send(&mut self.scratch, &bytes) {
            Ok(()) => true,
            Err(error) => {
                self.close(index);
                self.fault(&error.into());
                false
            }
        }
    }

    /// Forgets what was counted; messages are counted from number `first` on.
    pub fn restart(&mut self, first: u32) {
        self.tally = Tally { first, others: self.tally.others, last: self.now(), ..Tally::new() };
        self.clients.iter_mut().for_each(|client| client.received = 0);
    }

    /// Deliveries to client `index` since the restart.
    pub fn received_by(&self, index: usize) -> u64 {
        self.clients[index].received
    }
}

impl Tally {
    fn new() -> Self {
        Tally {
            latency: Histogram::new(),
            received: 0,
            bytes: 0,
            reads: 0,
            of_message: Vec::new(),
            first: 0,
            stray: 0,
            others: 0,
            last: 0,
            pings: Pings { sent: 0, during: Histogram::new(), otherwise: Histogram::new() },
            due: Vec::new(),
            acks: Histogram::new(),
        }
    }
}

impl Pings {
    fn answered(&mut self, due: u64, during: bool, at: u64) {
        let kind = if during { &mut self.during } else { &mut self.otherwise };
        kind.record(at.saturating_sub(due));
    }
}

/// The text of a message that was due at `due`, padded to `len` bytes.
pub fn text(due: u64, number: u32, len: usize) -> String {
    let mut text = format!("@@{due:016x}{number:08x} ");
    let missing = len.saturating_sub(text.len());
    text.extend(std::iter::repeat_n('x', missing));
    text
}

/// One client's reading, borrowed from the load for one read.
struct Reader<'a> {
    tally: &'a mut Tally,
    mark_at: &'a mut usize,
    phase: &'a mut Phase,
    dialect: Dialect,
    accept: &'a str,
    at: u64,
}

impl Reader<'_> {
    fn take(&mut self, mut bytes: &[u8], answers: &mut Vec<u8>) -> Result<usize, Fault> {
        let all = bytes.len();
        if *self.phase == Phase::Upgrading {
            let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else { return Ok(0) };
            let head = String::from_utf8_lossy(&bytes[..end]);
            if !head.starts_with("HTTP/1.1 101 ") || !head.contains(self.accept) {
                return Err(Fault::NotUpgraded(head.lines().next().unwrap_or_default().to_owned()));
            }
            bytes = &bytes[end + 4..];
            match self.dialect {
                Dialect::Raw => *self.phase = Phase::Open,
                Dialect::Json => {
                    *self.phase = Phase::Greeting(false);
                    frame::put_masked(answers, frame::TEXT, br#"{"type":"hello","payload":{"v":1},"seq":1}"#);
                }
            }
        }
        while let Some(frame) = frame::first(bytes)? {
            match frame.opcode {
                frame::TEXT => self.text(frame.payload, answers)?,
                frame::PING => frame::put_masked(answers, frame::PONG, frame.payload),
                frame::PONG => {
                    if let Some((due, [during])) = frame.payload.split_first_chunk::<8>() {
                        self.tally.pings.answered(u64::from_be_bytes(*due), *during == 1, self.at);
                    }
                }
                frame::CLOSE => {
                    let code = frame.payload.first_chunk::<2>().map_or(1005, |code| u16::from_be_bytes(*code));
                    return Err(Fault::Close(code));
                }
                other => return Err(Fault::Strange(format!("a frame with opcode {other}"))),
            }
            bytes = &bytes[frame.taken..];
        }
        Ok(all - bytes.len())
    }

    #[inline]
    fn text(&mut self, payload: &[u8], answers: &mut Vec<u8>) -> Result<(), Fault> {
        let hint = *self.mark_at;
        let found = match payload.get(hint..hint + MARK.len()) {
            Some(MARK) => Some(hint),
            _ => payload.windows(MARK.len()).position(|window| window == MARK),
        };
        let Some((at, mark)) = found.and_then(|at| Some((at, payload.get(at..at + MARK_LEN)?))) else {
            self.tally.others += 1;
            return self.words(payload, answers);
        };
        *self.mark_at = at;
        let (Some(due), Some(number)) = (hexadecimal(&mark[2..18]), hexadecimal(&mark[18..])) else {
            return Err(Fault::Strange(String::from_utf8_lossy(payload).into_owned()));
        };
        let count = (number as u32)
            .checked_sub(self.tally.first)
            .and_then(|message| self.tally.of_message.get_mut(message as usize));
        let Some(count) = count else {
            self.tally.stray += 1;
            return Ok(());
        };
        *count += 1;
        self.tally.received += 1;
        self.tally.bytes += payload.len() as u64;
        self.tally.last = self.at;
        self.tally.latency.record(self.at.saturating_sub(due));
        Ok(())
    }

    /// A frame that is no message of the load: part of the greeting, an answer, or a question.
    fn words(&mut self, payload: &[u8], answers: &mut Vec<u8>) -> Result<(), Fault> {
        if self.dialect == Dialect::Raw {
            return Ok(());
        }
        let strange = || Fault::Strange(String::from_utf8_lossy(payload).into_owned());
        let said: Said<'_> = serde_json::from_slice(payload).map_err(|_| strange())?;
        match (said.kind, *self.phase) {
            ("welcome", Phase::Greeting(_)) => *self.phase = Phase::Greeting(true),
            ("joined", Phase::Greeting(true)) => *self.phase = Phase::Open,
            ("ack", _) => {
                let message = said.payload.re.and_then(|re| re.checked_sub(self.tally.first.into()));
                if let Some(due) = message.and_then(|message| self.tally.due.get(message as usize)) {
                    self.tally.acks.record(self.at.saturating_sub(*due));
                }
            }
            ("ping", _) => frame::put_masked(answers, frame::TEXT, br#"{"type":"pong","payload":{},"seq":0}"#),
            ("pong", _) => {
                let (Some(due), Some(during)) = (said.payload.due, said.payload.during) else { return Err(strange()) };
                self.tally.pings.answered(due, during, self.at);
            }
            ("error" | "bye", _) => {
                let code = said.payload.code.map(|code| code.to_string()).unwrap_or_default();
                return Err(Fault::Said(format!("{} {code} {}", said.kind, said.payload.message.unwrap_or_default())));
            }
            _ => {}
        }
        Ok(())
    }
}

fn hexadecimal(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0, |value, &digit| Some(value << 4 | u64::from((digit as char).to_digit(16)?)))
}
