//! A connection in the JSON dialect that may break at any moment.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use rustls::ClientConfig;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::{self, Error, Message, WebSocket};

use crate::support::{PATIENCE, Stream};

/// Where the daemon listens, over all its lives.
#[derive(Clone)]
pub struct Door {
    pub address: SocketAddr,
    pub tls: Option<Arc<ClientConfig>>,
}

/// Why a connection is no more use.
#[derive(Debug)]
pub enum End {
    /// It broke, as it does when the daemon dies.
    Gone,
    /// The daemon did what it must not do.
    Wrong(String),
}

pub struct Line {
    ws: WebSocket<Stream>,
    seq: u64,
}

impl Line {
    pub fn open(door: &Door) -> Result<Self, End> {
        let stream = match &door.tls {
            Some(config) => Stream::tls_as(door.address, config).map_err(|_| End::Gone)?,
            None => {
                let stream = TcpStream::connect(door.address).map_err(|_| End::Gone)?;
                stream.set_read_timeout(Some(PATIENCE)).map_err(|_| End::Gone)?;
                stream.set_nodelay(true).map_err(|_| End::Gone)?;
                Stream::Tcp(stream)
            }
        };
        let (ws, _) = tungstenite::client("ws://localhost/chat", stream).map_err(|_| End::Gone)?;
        Ok(Line { ws, seq: 0 })
    }

    /// Its number on this connection, once it is written.
    pub fn send(&mut self, kind: &str, payload: &Value) -> Result<u64, End> {
        self.seq += 1;
        let frame = json!({"type": kind, "payload": payload, "seq": self.seq}).to_string();
        self.ws.send(Message::text(frame)).map_err(|_| End::Gone)?;
        Ok(self.seq)
    }

    /// The next frame; the daemon's pings are answered and passed over.
    pub fn next(&mut self) -> Result<Value, End> {
        loop {
            match self.ws.read() {
                Ok(Message::Text(text)) => {
                    let frame: Value =
                        serde_json::from_str(&text).map_err(|e| End::Wrong(format!("no JSON: {e}: {text}")))?;
                    if frame["type"] != "ping" {
                        return Ok(frame);
                    }
                    self.send("pong", &json!({}))?;
                }
                Ok(Message::Ping(_) | Message::Pong(_)) => {}
                Err(Error::Io(e)) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    return Err(End::Wrong(format!("not even a ping in {PATIENCE:?}")));
                }
                Ok(_) | Err(_) => return Err(End::Gone),
            }
        }
    }

    /// The payload of the next frame of this type; others are passed over.
    pub fn wait(&mut self, kind: &str) -> Result<Value, End> {
        loop {
            let mut frame = self.next()?;
            if frame["type"] == kind {
                return Ok(frame["payload"].take());
            }
            if frame["type"] == "error" {
                return Err(End::Wrong(frame.to_string()));
            }
        }
    }
}
