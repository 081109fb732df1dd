//! A WebSocket client that hides nothing: frames as they come, and the end as it is.

use std::net::SocketAddr;

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::Wait;
use super::frame::{self, Frame};
use super::stream::{Fin, Stream};

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

/// How a connection is to be opened.
#[derive(Clone)]
pub struct Dial {
    address: SocketAddr,
    tls: bool,
    receive: Option<usize>,
    headers: String,
    /// Sent along with the request, before its answer.
    early: Vec<u8>,
}

/// The answer to a request that did not open a WebSocket.
#[derive(Debug)]
pub struct Refused {
    pub status: u16,
    /// In lower case.
    pub head: String,
}

impl Refused {
    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

impl Dial {
    pub fn new(address: SocketAddr) -> Self {
        Dial { address, tls: false, receive: None, headers: String::new(), early: Vec::new() }
    }

    pub fn tls(self) -> Self {
        Dial { tls: true, ..self }
    }

    /// With a small receive buffer: what is not read soon waits in the daemon.
    pub fn narrow(self) -> Self {
        Dial { receive: Some(4096), ..self }
    }

    /// As a proxy asks that speaks for this address.
    pub fn from(self, address: &str) -> Self {
        Dial { headers: format!("{}X-Forwarded-For: {address}\r\n", self.headers), ..self }
    }

    /// Sends these bytes in one piece with the request.
    pub fn early(self, bytes: Vec<u8>) -> Self {
        Dial { early: bytes, ..self }
    }

    #[track_caller]
    pub fn open(&self, path: &str) -> Client {
        self.try_open(path).unwrap_or_else(|refused| panic!("{path}: {refused:?}"))
    }

    #[track_caller]
    pub fn try_open(&self, path: &str) -> Result<Client, Refused> {
        let mut stream = Stream::connect(self.address, self.tls, self.receive);
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n{}\r\n",
            self.address, self.headers
        );
        stream.put(&[request.as_bytes(), &self.early].concat()).expect("the request goes out");
        let mut buffer = Vec::new();
        let end = loop {
            if let Some(at) = buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            stream.take(&mut buffer).unwrap_or_else(|fin| panic!("{fin:?} instead of an answer"));
        };
        let head: Vec<u8> = buffer.drain(..end).collect();
        let head = String::from_utf8(head).expect("a head is text");
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        if status != 101 {
            return Err(Refused { status, head: head.to_ascii_lowercase().replace('\r', "") });
        }
        assert!(head.contains(&derive_accept_key(KEY.as_bytes())), "{head}");
        Ok(Client { stream, buffer, seq: 0 })
    }
}

/// An open WebSocket.
pub struct Client {
    pub stream: Stream,
    buffer: Vec<u8>,
    seq: u64,
}

/// How the daemon ended a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// The close frame's code and reason; `None` where there was no close frame. A close frame
    /// without a code is 1005.
    pub close: Option<(u16, String)>,
    pub fin: Fin,
}

impl End {
    /// The code of a close that was in order to the last byte.
    #[track_caller]
    pub fn code(&self) -> u16 {
        assert_eq!(self.fin, Fin::Orderly, "{self:?}");
        self.close.as_ref().unwrap_or_else(|| panic!("no close frame")).0
    }
}

impl Client {
    #[track_caller]
    pub fn raw(&mut self, bytes: &[u8]) {
        self.stream.put(bytes).expect("the daemon takes it");
    }

    #[track_caller]
    pub fn send(&mut self, frame: &Frame) {
        self.raw(&frame.masked());
    }

    /// Sends one text message.
    #[track_caller]
    pub fn text(&mut self, text: &str) {
        self.send(&Frame::text(text));
    }

    /// The next frame, whatever it is; or how the stream ended.
    #[track_caller]
    pub fn frame(&mut self) -> Result<Frame, Fin> {
        loop {
            if let Some((frame, len)) = Frame::parse(&self.buffer) {
                self.buffer.drain(..len);
                return Ok(frame);
            }
            self.stream.take(&mut self.buffer)?;
        }
    }

    /// The next message, which must be a text.
    #[track_caller]
    pub fn line(&mut self) -> String {
        let frame = self.frame().unwrap_or_else(|fin| panic!("{fin:?} instead of a text"));
        assert_eq!((frame.fin, frame.opcode), (true, frame::TEXT), "{frame:?}");
        String::from_utf8(frame.payload).expect("text is UTF-8")
    }

    /// The next frame of the JSON dialect.
    #[track_caller]
    pub fn json(&mut self) -> Value {
        let line = self.line();
        let value: Value = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}"));
        let members: Vec<&str> = value.as_object().expect("an object").keys().map(String::as_str).collect();
        assert_eq!(members, ["payload", "seq", "type"], "always all three, and nothing else: {line}");
        value
    }

    /// The next frame of the JSON dialect, which must be of this type.
    #[track_caller]
    pub fn expect(&mut self, kind: &str) -> Value {
        let value = self.json();
        assert_eq!(value["type"], kind, "{value}");
        value
    }

    /// The payload of the next frame of this type; what comes before is passed over.
    #[track_caller]
    pub fn skip_to(&mut self, kind: &str) -> Value {
        let wait = Wait::begin();
        loop {
            wait.goes_on(kind);
            let mut value = self.json();
            if value["type"] == kind {
                return value["payload"].take();
            }
        }
    }

    /// Says something in the JSON dialect; the number it was given.
    #[track_caller]
    pub fn say(&mut self, kind: &str, payload: Value) -> u64 {
        self.seq += 1;
        self.text(&json!({"type": kind, "payload": payload, "seq": self.seq}).to_string());
        self.seq
    }

    /// Says hello, and is welcomed into the default room: the payloads of `welcome` and `joined`.
    #[track_caller]
    pub fn hello(&mut self, payload: Value) -> (Value, Value) {
        self.say("hello", payload);
        (self.expect("welcome")["payload"].take(), self.expect("joined")["payload"].take())
    }

    /// Says a message to the default room and waits for its ack: the payload.
    #[track_caller]
    pub fn message(&mut self, text: &str) -> Value {
        let re = self.say("message", json!({"text": text}));
        let ack = self.skip_to("ack");
        assert_eq!(ack["re"], re, "{ack}");
        ack
    }

    /// Everything that was said to this client before now has been read, and was this; but for a
    /// backlog or a page of history, which come when they have been read.
    #[track_caller]
    pub fn said(&mut self) -> Vec<Value> {
        // This goes through the hub and back, behind all that was there before; `ping` would
        // overtake it.
        let re = self.say("who", json!({"room": "lobby"}));
        let (mut said, wait) = (Vec::new(), Wait::begin());
        loop {
            wait.goes_on("the answer to who");
            let value = self.json();
            if value["type"] == "who" && value["payload"]["re"] == re {
                return said;
            }
            said.push(value);
        }
    }

    /// Reads to the close frame, answers it as a client must, and reads to the end of the stream.
    #[track_caller]
    pub fn end(mut self) -> End {
        self.end_and_said().0
    }

    /// As [`Client::end`], with the messages that came before the close frame.
    #[track_caller]
    pub fn end_and_said(&mut self) -> (End, Vec<String>) {
        let (mut said, wait) = (Vec::new(), Wait::begin());
        let close = loop {
            wait.goes_on("a close frame");
            match self.frame() {
                Ok(frame) if frame.opcode == frame::CLOSE => break frame,
                Ok(frame) if frame.opcode == frame::TEXT => {
                    said.push(String::from_utf8(frame.payload).expect("text is UTF-8"));
                }
                Ok(_) => {}
                Err(fin) => return (End { close: None, fin }, said),
            }
        };
        // The daemon may have closed its end already: then the answer finds nobody.
        let _ = self.stream.put(&Frame::new(frame::CLOSE, close.payload.clone()).masked());
        let close = match close.payload.split_at_checked(2) {
            Some((code, reason)) => {
                let code = u16::from_be_bytes([code[0], code[1]]);
                (code, String::from_utf8(reason.to_vec()).expect("a reason is UTF-8"))
            }
            None => (1005, String::new()),
        };
        let fin = match self.frame() {
            Ok(frame) => panic!("{frame:?} after the close frame"),
            Err(fin) => fin,
        };
        assert!(self.buffer.is_empty(), "half a frame at the end");
        (End { close: Some(close), fin }, said)
    }
}

/// Says `kind` and reads the error that answers it: its payload.
#[track_caller]
pub fn refused(client: &mut Client, kind: &str, payload: Value) -> Value {
    let re = client.say(kind, payload);
    let error = client.skip_to("error");
    assert_eq!(error["re"], re, "{error}");
    error
}
