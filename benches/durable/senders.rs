//! Senders who each say their next message when the last is acknowledged, each in a room of its own:
//! what is measured is the way into the log and back, and no fan-out.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::support::BenchError;
use super::support::frame;
use super::support::histogram::Histogram;
use super::support::server::{Kind, Server};

/// Before it counts, everybody has sent for this long.
const WARM_UP: Duration = Duration::from_millis(500);
/// No answer at all for so long: something is broken.
const STALL: Duration = Duration::from_secs(10);
const KEY: &str = "d3NjaGF0IG1lYXN1cmVzIQ==";

struct Sender {
    stream: TcpStream,
    /// Received, not yet a whole frame.
    received: Vec<u8>,
    upgraded: bool,
    sent: Instant,
}

/// From when a message is sent until its ack is read.
pub struct Acks {
    pub latency: Histogram,
    pub elapsed: Duration,
}

impl Acks {
    pub fn per_second(&self) -> f64 {
        self.latency.count() as f64 / self.elapsed.as_secs_f64()
    }
}

/// `text` is what each message says.
pub fn run(kind: &Kind, server: &Server, senders: usize, text: &str, length: Duration) -> Result<Acks, BenchError> {
    let fault = |fault: String| BenchError::Sender { server: kind.name().to_owned(), fault };
    let system = BenchError::system("waiting for acks");
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(system)?;
    let mut all = Vec::new();
    for index in 0..senders {
        let stream = TcpStream::connect(server.address).map_err(BenchError::io("connecting"))?;
        stream.set_nodelay(true).map_err(BenchError::io("connecting"))?;
        epoll.add(stream.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, index as u64)).map_err(system)?;
        let mut sender = Sender { stream, received: Vec::new(), upgraded: false, sent: Instant::now() };
        let request = format!(
            "GET /chat HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\r\n"
        );
        sender.stream.write_all(request.as_bytes()).map_err(BenchError::io("upgrading"))?;
        let mut hello = Vec::new();
        let words = format!(r#"{{"type":"hello","payload":{{"v":1,"rooms":["room-{index}"]}},"seq":1}}"#);
        frame::put_masked(&mut hello, frame::TEXT, words.as_bytes());
        sender.stream.write_all(&hello).map_err(BenchError::io("saying hello"))?;
        sender.stream.set_nonblocking(true).map_err(BenchError::io("connecting"))?;
        all.push(sender);
    }
    let mut messages = Vec::new();
    for index in 0..senders {
        let words = format!(r#"{{"type":"message","payload":{{"room":"room-{index}","text":"{text}"}},"seq":2}}"#);
        let mut bytes = Vec::new();
        frame::put_masked(&mut bytes, frame::TEXT, words.as_bytes());
        messages.push(bytes);
    }
    let begin = Instant::now();
    let (from, to) = (begin + WARM_UP, begin + WARM_UP + length);
    let mut latency = Histogram::new();
    let mut events = vec![EpollEvent::empty(); 64];
    let mut last = begin;
    loop {
        let now = Instant::now();
        if now >= to {
            return Ok(Acks { latency, elapsed: length });
        }
        if now > last + STALL {
            return Err(fault("no ack any more".into()));
        }
        let count = epoll.wait(&mut events, EpollTimeout::from(100u16)).map_err(system)?;
        for event in &events[..count] {
            let index = event.data() as usize;
            let sender = &mut all[index];
            sender.read().map_err(&fault)?;
            while let Some(words) = sender.next().map_err(&fault)? {
                let read = Instant::now();
                match words {
                    Words::Ready => {}
                    Words::Ack => {
                        let waited = read - sender.sent;
                        if read >= from && read < to {
                            latency.record(waited.as_nanos() as u64);
                        }
                    }
                    Words::Other => continue,
                }
                last = read;
                sender.sent = read;
                // A message is shorter than what any socket takes at once.
                sender.stream.write_all(&messages[index]).map_err(BenchError::io("sending"))?;
            }
        }
    }
}

enum Words {
    /// It is in its room.
    Ready,
    Ack,
    Other,
}

impl Sender {
    fn read(&mut self) -> Result<(), String> {
        let mut buffer = [0; 4096];
        match self.stream.read(&mut buffer) {
            Ok(0) => Err("the connection was closed".into()),
            Ok(count) => {
                self.received.extend_from_slice(&buffer[..count]);
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    }

    fn next(&mut self) -> Result<Option<Words>, String> {
        if !self.upgraded {
            let Some(end) = self.received.windows(4).position(|window| window == b"\r\n\r\n") else { return Ok(None) };
            if !self.received.starts_with(b"HTTP/1.1 101 ") {
                return Err(String::from_utf8_lossy(&self.received[..end]).into_owned());
            }
            self.received.drain(..end + 4);
            self.upgraded = true;
        }
        let Some(found) = frame::first(&self.received).map_err(|error| error.to_string())? else { return Ok(None) };
        let (opcode, taken) = (found.opcode, found.taken);
        let starts = |words: &str| found.payload.starts_with(format!(r#"{{"type":"{words}""#).as_bytes());
        let words = match opcode {
            frame::TEXT if starts("ack") => Words::Ack,
            frame::TEXT if starts("joined") => Words::Ready,
            frame::TEXT if starts("error") || starts("bye") => {
                return Err(String::from_utf8_lossy(found.payload).into_owned());
            }
            frame::CLOSE => return Err("a close frame".into()),
            _ => Words::Other,
        };
        self.received.drain(..taken);
        Ok(Some(words))
    }
}
