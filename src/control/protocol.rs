//! The types that the daemon and `wschatctl` share: what the `.varlink` files beside this one
//! define, as Rust. A test holds the two to each other.
//!
//! Nothing here reads a socket or asks the daemon.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

mod backup;
mod drain;
mod moderation;
mod refusal;
mod stats;

pub use backup::*;
pub use drain::*;
pub use moderation::*;
pub use refusal::Refusal;
pub use stats::*;

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
/// The role of those who may delete messages and mute users in the rooms they are in.
pub const MODERATOR: &str = "moderator";
/// The most connections that a kick closes each second.
pub const RATE_MAX: f64 = 100_000.0;
/// Over how many seconds a drain asks people away, where nothing is said.
pub const DRAIN_OVER: f64 = 60.0;
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
    /// When its token ends.
    pub token_exp: Option<String>,
    /// What its token lets it do: `moderator`.
    pub roles: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Room {
    pub name: String,
    pub users: u64,
    pub clients: u64,
    pub seq: u64,
    /// The oldest stored event that is kept (`seq + 1`: none is); only where stored rooms were
    /// asked for.
    pub first: Option<u64>,
    pub kept: Option<u64>,
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
    pub renewal: Option<Renewal>,
}

/// Absent fields: see the interface's description.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Renewal {
    pub names: Vec<String>,
    pub directory: String,
    pub next: Option<String>,
    pub failed: Option<String>,
    pub error: Option<String>,
    pub failures: u32,
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
    pub bans: u64,
    pub mutes: u64,
    pub history: HistoryStore,
    /// Present while draining.
    #[serde(default)]
    pub drain: Option<DrainState>,
}

/// Where rooms are kept, whether that works, and what has been done since the start.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HistoryStore {
    pub store: String,
    pub path: Option<String>,
    /// `good`, or `failing`: then `why` and `since` are there, and messages are refused.
    pub state: String,
    pub why: Option<String>,
    pub since: Option<String>,
    pub commits: u64,
    pub entries: u64,
    pub refused: u64,
    pub waiting: u64,
    /// On disk.
    pub bytes: u64,
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
    /// With `limit`: the first so many by this (a `ClientKey` of the interface).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sort: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub descending: Option<bool>,
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
    pub ban: bool,
    /// How long the ban lasts; absent: until it is ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
    /// So many each second; absent: as fast as it can be done without disturbing others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<f64>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Kicked {
    pub matched: u64,
    pub done: u64,
    pub failed: Vec<Failure>,
    /// Numbers of the bans that the call has put in force.
    pub bans: Vec<u64>,
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

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ListRooms {
    pub stored: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
    /// With `limit`: the first so many by this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sort: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub descending: Option<bool>,
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

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LogLevel {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub level: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LogLevels {
    pub level: String,
    pub configured: String,
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

/// RFC 3339 in UTC with milliseconds.
pub fn time(at: SystemTime) -> String {
    humantime::format_rfc3339_millis(at).to_string()
}

/// Seconds, to the microsecond.
pub fn seconds(duration: Duration) -> f64 {
    // Whole microseconds stay exact in an f64 for 285 years.
    duration.as_micros() as f64 / 1e6
}
