//! A caller of the control socket that speaks Varlink by itself.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use serde_json::{Value, json};

use super::PATIENCE;

pub struct Caller {
    stream: BufReader<UnixStream>,
}

impl Caller {
    /// `None`: nobody listens there.
    pub fn connect(path: &Path) -> Option<Self> {
        let stream = UnixStream::connect(path).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout above 0");
        stream.set_write_timeout(Some(PATIENCE)).expect("a timeout above 0");
        Some(Caller { stream: BufReader::new(stream) })
    }

    pub fn send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    pub fn call(&mut self, method: &str, parameters: Value, more: bool) -> std::io::Result<()> {
        let method = format!("org.wschat.Control.{method}");
        let parameters = if parameters.is_null() { json!({}) } else { parameters };
        let mut bytes = json!({"method": method, "parameters": parameters, "more": more}).to_string().into_bytes();
        bytes.push(0);
        self.send(&bytes)
    }

    /// The next reply as it came; an error where the daemon has hung up.
    pub fn reply(&mut self) -> std::io::Result<Value> {
        let mut bytes = Vec::new();
        self.stream.read_until(0, &mut bytes)?;
        match bytes.pop() {
            Some(0) => serde_json::from_slice(&bytes).map_err(std::io::Error::other),
            _ => Err(std::io::ErrorKind::UnexpectedEof.into()),
        }
    }

    /// One call and the parameters of its one reply.
    pub fn ask(&mut self, method: &str, parameters: Value) -> std::io::Result<Value> {
        self.call(method, parameters, false)?;
        let mut reply = self.reply()?;
        match reply.get("error") {
            Some(error) => Err(std::io::Error::other(error.to_string())),
            None => Ok(reply["parameters"].take()),
        }
    }

    /// Watches events; returns once the watch has begun.
    #[track_caller]
    pub fn watch(mut self, types: &[&str]) -> Events {
        self.call("Events", json!({"types": types}), true).expect("the daemon listens");
        assert_eq!(self.reply().expect("a first reply")["parameters"]["ready"], true);
        Events(self)
    }
}

pub struct Events(Caller);

impl Events {
    #[track_caller]
    pub fn next(&mut self) -> Value {
        self.0.reply().expect("an event")["parameters"]["event"].take()
    }

    /// What comes next, be it an event or how many were missed.
    #[track_caller]
    pub fn reply(&mut self) -> Value {
        self.0.reply().expect("the watch goes on")["parameters"].take()
    }

    /// The next event of this type; others are passed over.
    #[track_caller]
    pub fn of(&mut self, kind: &str) -> Value {
        loop {
            let event = self.next();
            if event["type"] == kind {
                return event;
            }
        }
    }
}
