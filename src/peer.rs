//! One connection as operators see it: where it comes from, how it speaks, what it has done.
//!
//! The session fills a [`Peer`] in when the WebSocket opens; its worker keeps the counters up to
//! date; the hub and the control plane read it. Nothing here decides anything.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, SystemTime};

use crate::chat::event::Dialect;
use crate::chat::id::{ConnId, UserId};

/// What is known of one connection, shared by its worker, the hub and operators.
#[derive(Debug)]
pub struct Peer {
    pub id: ConnId,
    /// The client's address: the forwarded one behind a trusted proxy, mapped IPv4 as IPv4.
    pub address: IpAddr,
    /// Its port; 0 where a proxy or a Unix socket hides it.
    pub port: u16,
    pub dialect: Dialect,
    /// Absent on plain listeners.
    pub tls: Option<TlsVersion>,
    /// The protocol that ALPN settled on.
    pub alpn: Option<Alpn>,
    /// The address is a trusted proxy's, which has not said for whom it speaks.
    pub proxied: bool,
    /// The `Origin` header, cut at 256 bytes.
    pub origin: Option<Box<str>>,
    /// The `User-Agent` header, cut at 256 bytes.
    pub agent: Option<Box<str>>,
    pub since: SystemTime,
    /// Once it has been welcomed.
    pub user: OnceLock<UserId>,
    pub counters: Counters,
}

/// What TLS a connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsVersion {
    V1_2,
    V1_3,
}

impl TlsVersion {
    pub fn as_str(self) -> &'static str {
        match self {
            TlsVersion::V1_2 => "TLSv1.2",
            TlsVersion::V1_3 => "TLSv1.3",
        }
    }
}

/// The one protocol that is offered by ALPN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alpn {
    Http1,
}

impl Alpn {
    pub fn as_str(self) -> &'static str {
        match self {
            Alpn::Http1 => "http/1.1",
        }
    }
}

/// Written by the connection's worker alone (so a load and a store need no read-modify-write), read
/// by anyone. `heard` counts milliseconds since `Peer::since`.
#[derive(Debug, Default)]
pub struct Counters {
    /// WebSocket messages in and out, and their bytes.
    pub frames_in: AtomicU64,
    pub bytes_in: AtomicU64,
    pub frames_out: AtomicU64,
    pub bytes_out: AtomicU64,
    /// When the last frame came in.
    pub heard: AtomicU64,
    /// Bytes that wait for the socket.
    pub sendq: AtomicUsize,
    /// Microseconds of the last ping's way there and back; 0: not measured yet.
    pub rtt: AtomicU32,
}

impl Counters {
    pub fn rtt(&self) -> Option<Duration> {
        match self.rtt.load(Relaxed) {
            0 => None,
            micros => Some(Duration::from_micros(micros.into())),
        }
    }
}

impl Peer {
    pub fn age(&self, now: SystemTime) -> Duration {
        now.duration_since(self.since).unwrap_or_default()
    }

    /// Time since the last frame came in.
    pub fn idle(&self, now: SystemTime) -> Duration {
        self.age(now).saturating_sub(Duration::from_millis(self.counters.heard.load(Relaxed)))
    }
}

/// What counts as one address: IPv4 whole, IPv6 by its /64, since one host has all of those.
pub fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
    }
}
