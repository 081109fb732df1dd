//! The types that the daemon and `wschatctl` share: what the `.varlink` files beside this one
//! define, as Rust. A test holds the two to each other.
//!
//! Nothing here reads a socket or asks the daemon.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use thiserror::Error;

/// The operators' interface.
pub const CONTROL: &str = "org.wschat.Control";
/// The backends' interface.
pub const PUSH: &str = "org.wschat.Push";
/// What every Varlink service answers.
pub const SERVICE: &str = "org.varlink.service";

pub const CONTROL_TEXT: &str = include_str!("org.wschat.Control.varlink");
pub const PUSH_TEXT: &str = include_str!("org.wschat.Push.varlink");
pub const SERVICE_TEXT: &str = include_str!("org.varlink.service.varlink");

/// The most bytes of a close frame's reason (RFC 6455, section 5.5: 125 with the code).
pub const REASON_MAX: usize = 123;
/// The most bytes of a notice's text.
pub const NOTICE_MAX: usize = 4096;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Filter {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nick: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub room: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dialect: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub older: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sendq_over: Option<u64>,
}

impl Filter {
    pub fn is_empty(&self) -> bool {
        *self == Filter::default()
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EventFilter {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nick: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub room: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dialect: Option<String>,
}

/// Exactly one is set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Target {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub everyone: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub room: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Client {
    pub id: u64,
    pub user: Option<String>,
    pub nick: Option<String>,
    pub address: String,
    /// 0 where a proxy or a Unix socket hides it.
    pub port: u16,
    pub rooms: Vec<String>,
    pub since: String,
    /// Seconds since it connected.
    pub age: f64,
    /// Seconds since its last frame.
    pub idle: f64,
    /// Bytes that wait for its socket.
    pub sendq: u64,
    /// Seconds of a ping's way there and back.
    pub rtt: Option<f64>,
    pub tls: Option<String>,
    pub alpn: Option<String>,
    pub origin: Option<String>,
    pub agent: Option<String>,
    pub dialect: String,
    #[serde(rename = "in")]
    pub messages_in: u64,
    #[serde(rename = "out")]
    pub messages_out: u64,
    pub in_bytes: u64,
    pub out_bytes: u64,
    pub resumed: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Room {
    pub name: String,
    pub users: u64,
    pub clients: u64,
    pub seq: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Member {
    pub user: String,
    pub nick: String,
    pub clients: Vec<u64>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RoomDetail {
    pub name: String,
    pub users: u64,
    pub clients: u64,
    pub seq: u64,
    pub epoch: String,
    pub kept: u64,
    pub members: Vec<Member>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Certificate {
    pub names: Vec<String>,
    pub issuer: String,
    pub from: String,
    pub until: String,
    pub fingerprint: String,
    pub source: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    pub time: String,
    #[serde(rename = "type")]
    pub kind: String,
    pub client: Option<u64>,
    pub user: Option<String>,
    pub nick: Option<String>,
    pub address: Option<String>,
    pub room: Option<String>,
    pub dialect: Option<String>,
    pub detail: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Failure {
    pub id: u64,
    pub error: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    pub version: String,
    pub pid: u32,
    pub state: String,
    pub since: String,
    pub clients: u64,
    pub clients_max: u64,
    pub users: u64,
    pub rooms: u64,
    pub messages: u64,
    pub messages_per_second: f64,
    pub certificate_until: Option<String>,
    pub listen: Vec<String>,
    pub config: Option<String>,
}

/// A call without parameters, and a reply without any.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Nothing {}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ListClients {
    #[serde(skip_serializing_if = "Filter::is_empty")]
    pub filter: Filter,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
    pub count: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Clients {
    pub clients: Vec<Client>,
    pub matched: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct ShowClient {
    pub id: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OneClient {
    pub client: Client,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Kick {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ids: Vec<u64>,
    #[serde(skip_serializing_if = "Filter::is_empty")]
    pub filter: Filter,
    pub all: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    pub reconnect: bool,
    pub dry_run: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Kicked {
    pub matched: u64,
    pub done: u64,
    pub failed: Vec<Failure>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Notice {
    pub target: Target,
    pub text: String,
    pub level: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Noticed {
    pub matched: u64,
    pub delivered: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rooms {
    pub rooms: Vec<Room>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ShowRoom {
    pub room: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OneRoom {
    pub room: RoomDetail,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Watch {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub types: Vec<String>,
    pub filter: EventFilter,
}

/// One of the three is set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Watched {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event: Option<Event>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub missed: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Reload {
    pub tls_only: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reloaded {
    pub changed: Vec<String>,
    pub needs_restart: Vec<String>,
    pub certificate: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tls {
    pub certificate: Option<Certificate>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Online {
    pub users: u64,
    pub clients: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServiceInfo {
    pub vendor: String,
    pub product: String,
    pub version: String,
    pub url: String,
    pub interfaces: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Description {
    pub description: String,
}

/// Every declared error. The text of each is for people; programs have name and parameters.
#[derive(Clone, Debug, PartialEq, Error, Serialize, Deserialize)]
#[serde(tag = "error", content = "parameters")]
pub enum Refusal {
    #[error(
        "this socket does not take {interface}; is it the right socket, and the daemon not older than this command?"
    )]
    InterfaceNotFound { interface: String },
    #[error("the daemon has no method {method}; is it older than this command?")]
    MethodNotFound { method: String },
    #[error("the daemon has method {method} only by name")]
    MethodNotImplemented { method: String },
    #[error("parameter {parameter} is missing, unknown or of the wrong type")]
    InvalidParameter { parameter: String },
    #[error("the call answers many times: call it with \"more\"")]
    ExpectedMore {},
    #[error("{parameter} cannot be {value:?}: expected {expected}")]
    BadValue { parameter: String, value: String, expected: String },
    #[error("that would be everyone: say {expected}")]
    EmptyFilter { expected: String },
    #[error("there is no connection {id} (any more); `wschatctl list` shows those that are there")]
    NoSuchClient { id: u64 },
    #[error("there is no room {room:?}; `wschatctl rooms` shows those that are there")]
    NoSuchRoom { room: String },
    #[error("nothing has changed: {reason}")]
    ReloadRefused { reason: String },
    #[error("the daemon's operators' queue is full; try again in a moment")]
    Busy {},
    #[error("the daemon did not answer within {seconds} s; `journalctl -u wschat` may say why")]
    TimedOut { seconds: u64 },
    #[error("the daemon is stopping; try again when it has started")]
    Stopping {},
    #[error("{limit} others hold this socket open already; end one of them and try again")]
    TooManyConnections { limit: u64 },
    #[error("the call has more than {limit} bytes; name fewer connections in one call")]
    CallTooLarge { limit: u64 },
    #[error("these bytes are no Varlink call: {reason}")]
    Malformed { reason: String },
}

impl Refusal {
    fn is_standard(&self) -> bool {
        matches!(
            self,
            Refusal::InterfaceNotFound { .. }
                | Refusal::MethodNotFound { .. }
                | Refusal::MethodNotImplemented { .. }
                | Refusal::InvalidParameter { .. }
                | Refusal::ExpectedMore { .. }
        )
    }

    /// The full name and the parameters, where `interface` is the one that was called.
    pub fn to_wire(&self, interface: &str) -> (String, Value) {
        let mut tagged = serde_json::to_value(self).expect("errors have string keys and finite numbers only");
        let name = tagged["error"].as_str().unwrap_or_default();
        let interface = if self.is_standard() { SERVICE } else { interface };
        (format!("{interface}.{name}"), tagged["parameters"].take())
    }

    /// What a daemon answered; `None` for an error that is not known here.
    pub fn from_wire(name: &str, parameters: Option<Value>) -> Option<Self> {
        let (_, short) = name.rsplit_once('.')?;
        let parameters = parameters.unwrap_or_else(|| serde_json::json!({}));
        serde_json::from_value(serde_json::json!({"error": short, "parameters": parameters})).ok()
    }
}

/// RFC 3339 in UTC with milliseconds.
pub fn time(at: SystemTime) -> String {
    humantime::format_rfc3339_millis(at).to_string()
}

/// Seconds, to the microsecond.
pub fn seconds(duration: Duration) -> f64 {
    // Whole microseconds stay exact in an f64 for 285 years.
    duration.as_micros() as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_travel_both_ways() {
        let refusal = Refusal::NoSuchClient { id: 7 };
        let (name, parameters) = refusal.to_wire(CONTROL);
        assert_eq!(name, "org.wschat.Control.NoSuchClient");
        assert_eq!(parameters, serde_json::json!({"id": 7}));
        assert_eq!(Refusal::from_wire(&name, Some(parameters)), Some(refusal));
        let (name, parameters) = Refusal::ExpectedMore {}.to_wire(PUSH);
        assert_eq!((name.as_str(), parameters), ("org.varlink.service.ExpectedMore", serde_json::json!({})));
        assert_eq!(Refusal::from_wire("org.varlink.service.ExpectedMore", None), Some(Refusal::ExpectedMore {}));
        assert_eq!(Refusal::from_wire("org.example.Odd", None), None);
    }
}
