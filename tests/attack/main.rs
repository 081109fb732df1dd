//! The real daemon under attack. Three things hold in each: attackers get what the table of limits
//! says, a pair of bystanders goes on talking without a loss, and the daemon's memory stays within
//! the sum of its bounds, which each test works out from the configuration it gives (`bound`).
//!
//! Nothing here looks at how long anything takes; `benches/attack` does.

mod addresses;
mod bound;
mod bystanders;
mod floods;
mod readers;
#[path = "../daemon/support/mod.rs"]
#[allow(dead_code, unused_imports, reason = "written for the tests of the whole daemon, and used here in part")]
mod support;

use std::io::{Read, Write};
use std::net::SocketAddr;

use socket2::{Domain, Socket, Type};

use support::{Daemon, PATIENCE, Stream, Wait};

/// A listener that believes a proxy on this machine, so that one address can speak for thousands.
const PROXIED: &str = "[[listen]]\naddress = \"127.0.0.1:0\"\ntls = false\ntrusted_proxies = [\"127.0.0.2\"]\n";

/// A whole masked frame; the mask is zero, so the payload stands as it is (RFC 6455, section 5.3).
fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x80 | opcode];
    match payload.len() {
        short @ 0..=125 => frame.push(0x80 | short as u8),
        long => {
            frame.push(0x80 | 126);
            frame.extend(u16::try_from(long).expect("short enough").to_be_bytes());
        }
    }
    frame.extend([0; 4]);
    frame.extend(payload);
    frame
}

const TEXT: u8 = 1;
const PING: u8 = 9;

/// A WebSocket that is written to and read by hand.
struct Attacker {
    stream: Stream,
    heard: Vec<u8>,
    /// Where the first frame of `heard` begins that has not been looked at.
    at: usize,
}

impl Attacker {
    /// Has said this, before anything is read.
    #[track_caller]
    fn open(mut stream: Stream, path: &str, header: &str, first: &[u8]) -> Self {
        let lines = support::client::UPGRADE.join("\r\n");
        let head = format!("GET {path} HTTP/1.1\r\nHost: h\r\n{lines}\r\n{header}\r\n");
        stream.write_all(&[head.as_bytes(), first].concat()).expect("the daemon reads");
        let mut attacker = Attacker { stream, heard: Vec::new(), at: 0 };
        attacker.at = loop {
            match attacker.heard.windows(4).position(|four| four == b"\r\n\r\n") {
                Some(end) => break end + 4,
                None => attacker.more().expect("an answer"),
            }
        };
        attacker
    }

    /// In the room, and nothing of it has been read but that it is.
    #[track_caller]
    fn enter(stream: Stream, room: &str) -> Self {
        let hello = format!(r#"{{"type":"hello","payload":{{"v":1,"rooms":["{room}"]}},"seq":1}}"#);
        let mut attacker = Attacker::open(stream, "/chat", "", &frame(TEXT, hello.as_bytes()));
        attacker.until_heard(r#""type":"joined""#);
        attacker
    }

    fn status(&self) -> u16 {
        std::str::from_utf8(&self.heard[9..12]).ok().and_then(|code| code.parse().ok()).expect("a status")
    }

    /// Sends it, or as much of it as the daemon takes.
    fn send(&mut self, bytes: &[u8]) {
        // Who floods may be closed in the middle of it.
        let _ = self.stream.write_all(bytes);
    }

    fn more(&mut self) -> Option<()> {
        let mut chunk = [0; 16 * 1024];
        let taken = self.stream.read(&mut chunk).ok().filter(|taken| *taken > 0)?;
        self.heard.extend_from_slice(&chunk[..taken]);
        Some(())
    }

    #[track_caller]
    fn until_heard(&mut self, words: &str) {
        let wait = Wait::begin();
        while !self.has_heard(words) {
            wait.goes_on(words);
            self.more().unwrap_or_else(|| panic!("closed without {words}: {}", self.transcript()));
        }
    }

    fn has_heard(&self, words: &str) -> bool {
        self.heard.windows(words.len()).any(|window| window == words.as_bytes())
    }

    fn transcript(&self) -> String {
        String::from_utf8_lossy(&self.heard[self.heard.len().saturating_sub(500)..]).into_owned()
    }

    /// Reads on to the close frame; its code. `None`: it was cut off, as they are who do not read
    /// for as long as a close handshake may take.
    fn ended_with(&mut self) -> Option<u16> {
        let wait = Wait::begin();
        loop {
            wait.goes_on("a close frame");
            match self.next_frame() {
                Some((8, payload)) => return Some(u16::from_be_bytes([payload[0], payload[1]])),
                Some(_) => {}
                None => self.more()?,
            }
        }
    }

    /// The next whole frame that has come: its opcode and its payload (RFC 6455, section 5.2).
    fn next_frame(&mut self) -> Option<(u8, Vec<u8>)> {
        let bytes = &self.heard[self.at..];
        let (first, second) = (*bytes.first()?, *bytes.get(1)?);
        let (head, length) = match second {
            126 => (4, usize::from(u16::from_be_bytes(*bytes.get(2..)?.first_chunk()?))),
            127 => (10, u64::from_be_bytes(*bytes.get(2..)?.first_chunk()?) as usize),
            short => (2, usize::from(short)),
        };
        let payload = bytes.get(head..head + length)?.to_vec();
        self.at += head + length;
        Some((first & 15, payload))
    }
}

/// How many connections the daemon has closed with this code so far, by its log at level debug.
fn closed_with(daemon: &Daemon, code: u16) -> usize {
    daemon.log().matches(&format!("closed by the server: {code}")).count()
}

/// A connection whose side of the kernel holds as little as it may, so that what is not read waits
/// in the daemon.
fn narrow(to: SocketAddr) -> Stream {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).expect("a socket");
    socket.set_recv_buffer_size(2048).expect("a size");
    socket.connect(&to.into()).expect("the daemon listens");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout above 0");
    socket.set_write_timeout(Some(PATIENCE)).expect("a timeout above 0");
    Stream::Tcp(socket.into())
}

/// Both processes may open 20,000 files, and no more.
fn allow_descriptors() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    let most = hard.min(20_000);
    setrlimit(Resource::RLIMIT_NOFILE, most, hard).expect("below the hard limit");
}
