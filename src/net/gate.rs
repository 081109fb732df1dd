//! Who may come in: how many connections in all, how many from one address, how fast.
//!
//! Shared by the accept loop and the workers. The lock is held for a few map operations, never
//! while anything waits, and never on the path of a message.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::chat::rate::TokenBucket;
use crate::config::Limits;

/// Addresses whose rate is remembered; beyond it, those that have recovered are forgotten.
const REMEMBERED: usize = 16_384;
/// Connections that are let in beyond the limit, only to be told so by HTTP.
const POLITE: usize = 64;

/// The counts and limits of the whole daemon.
#[derive(Debug)]
pub struct Gate {
    inner: Mutex<Inner>,
    started: Instant,
}

#[derive(Debug)]
struct Inner {
    limits: GateLimits,
    /// Sockets that have been accepted, whatever they speak.
    sockets: usize,
    clients: usize,
    addresses: HashMap<IpAddr, Address>,
}

#[derive(Debug)]
struct Address {
    clients: usize,
    handshakes: TokenBucket,
}

/// What the gate enforces.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GateLimits {
    /// Sockets that descriptors allow.
    pub sockets: usize,
    pub clients: usize,
    pub clients_per_ip: usize,
    pub handshakes_per_s: f64,
}

impl GateLimits {
    /// `descriptors`: the soft limit of open files. A part of them is kept for listeners, logs, the
    /// control sockets, and for answering those who are too many.
    pub fn new(limits: &Limits, descriptors: usize) -> Self {
        let sockets = descriptors - (descriptors / 4).min(100);
        let most = sockets - (sockets / 4).min(2 * POLITE);
        GateLimits {
            sockets,
            clients: if limits.clients == 0 { most } else { limits.clients.min(most) },
            clients_per_ip: limits.clients_per_ip,
            handshakes_per_s: limits.handshakes_per_ip.0,
        }
    }
}

/// Why somebody may not come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// This address comes too often: HTTP 429.
    TooFast { retry: Duration },
    /// This address has too many connections: HTTP 429.
    TooManyOfAddress,
    /// The daemon has too many connections: HTTP 503.
    TooMany,
}

/// Holds a place; gives it back when dropped.
#[derive(Debug)]
pub struct Place {
    gate: Arc<Gate>,
    of: PlaceOf,
}

#[derive(Debug)]
enum PlaceOf {
    Socket,
    Client(Option<IpAddr>),
}

impl Gate {
    pub fn new(limits: GateLimits) -> Arc<Self> {
        let inner = Inner { limits, sockets: 0, clients: 0, addresses: HashMap::new() };
        Arc::new(Gate { inner: Mutex::new(inner), started: Instant::now() })
    }

    /// New limits for those who come from now on.
    pub fn set_limits(&self, limits: GateLimits) {
        let mut inner = self.lock();
        if inner.limits.handshakes_per_s != limits.handshakes_per_s {
            for address in inner.addresses.values_mut() {
                address.handshakes = bucket(&limits);
            }
        }
        inner.limits = limits;
    }

    pub fn limits(&self) -> GateLimits {
        self.lock().limits
    }

    /// Open WebSockets.
    pub fn clients(&self) -> usize {
        self.lock().clients
    }

    /// A place for a socket that has just been accepted; `None`: there is no descriptor to spare,
    /// not even for an answer.
    pub fn socket(self: &Arc<Self>) -> Option<Place> {
        let mut inner = self.lock();
        if inner.sockets >= inner.limits.sockets {
            return None;
        }
        inner.sockets += 1;
        Some(Place { gate: self.clone(), of: PlaceOf::Socket })
    }

    /// One handshake of `address` more. `None` as an address is exempt.
    pub fn handshake(&self, address: Option<IpAddr>) -> Result<(), Refusal> {
        let Some(key) = address.map(key) else { return Ok(()) };
        let now = self.started.elapsed();
        let mut inner = self.lock();
        let limits = inner.limits;
        if inner.addresses.len() >= REMEMBERED && !inner.addresses.contains_key(&key) {
            inner.addresses.retain(|_, a| a.clients > 0 || !a.handshakes.is_full(now));
            if inner.addresses.len() >= REMEMBERED {
                // So many addresses at once are an attack from many; each alone is within its limit.
                return if inner.clients < limits.clients { Ok(()) } else { Err(Refusal::TooMany) };
            }
        }
        let entry = inner.addresses.entry(key).or_insert_with(|| Address { clients: 0, handshakes: bucket(&limits) });
        entry.handshakes.take(now).map_err(|retry| Refusal::TooFast { retry })
    }

    /// A place for a WebSocket.
    pub fn client(self: &Arc<Self>, address: Option<IpAddr>) -> Result<Place, Refusal> {
        let key = address.map(key);
        let mut inner = self.lock();
        let limits = inner.limits;
        if inner.clients >= limits.clients {
            return Err(Refusal::TooMany);
        }
        if let Some(key) = key {
            let entry =
                inner.addresses.entry(key).or_insert_with(|| Address { clients: 0, handshakes: bucket(&limits) });
            if entry.clients >= limits.clients_per_ip {
                return Err(Refusal::TooManyOfAddress);
            }
            entry.clients += 1;
        }
        inner.clients += 1;
        Ok(Place { gate: self.clone(), of: PlaceOf::Client(key) })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic ends the process, so a poisoned lock is never met; either way the counts are whole.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut inner = self.gate.lock();
        match self.of {
            PlaceOf::Socket => inner.sockets -= 1,
            PlaceOf::Client(key) => {
                inner.clients -= 1;
                if let Some(entry) = key.and_then(|key| inner.addresses.get_mut(&key)) {
                    entry.clients -= 1;
                }
            }
        }
    }
}

fn bucket(limits: &GateLimits) -> TokenBucket {
    // A second's worth at once: a page opens several connections.
    TokenBucket::new(limits.handshakes_per_s, limits.handshakes_per_s.ceil().max(1.0) as u32)
}

/// What counts as one address: IPv4 whole, IPv6 by its /64, since one host has all of those.
fn key(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate(clients: usize, per_ip: usize, rate: f64) -> Arc<Gate> {
        Gate::new(GateLimits { sockets: 100, clients, clients_per_ip: per_ip, handshakes_per_s: rate })
    }

    fn ip(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn places_come_back() {
        let gate = gate(2, 10, 1000.0);
        let first = gate.client(ip("192.0.2.1")).unwrap();
        let _second = gate.client(ip("192.0.2.2")).unwrap();
        assert_eq!(gate.client(ip("192.0.2.3")).unwrap_err(), Refusal::TooMany);
        drop(first);
        assert!(gate.client(ip("192.0.2.3")).is_ok());
    }

    #[test]
    fn one_address_is_an_ipv4_or_a_64_network() {
        let gate = gate(100, 1, 1000.0);
        let _a = gate.client(ip("2001:db8::1")).unwrap();
        assert_eq!(gate.client(ip("2001:db8::2")).unwrap_err(), Refusal::TooManyOfAddress);
        let _b = gate.client(ip("2001:db8:0:1::1")).unwrap();
        let _c = gate.client(ip("192.0.2.1")).unwrap();
        let _d = gate.client(ip("192.0.2.2")).unwrap();
        let _exempt = (gate.client(None).unwrap(), gate.client(None).unwrap());
    }

    #[test]
    fn an_address_that_comes_too_often_is_told_when_to_return() {
        let gate = gate(100, 100, 2.0);
        assert!(gate.handshake(ip("192.0.2.1")).is_ok());
        assert!(gate.handshake(ip("192.0.2.1")).is_ok());
        let Err(Refusal::TooFast { retry }) = gate.handshake(ip("192.0.2.1")) else { panic!("let in") };
        assert!(retry <= Duration::from_millis(500));
        assert!(gate.handshake(ip("192.0.2.2")).is_ok());
        assert!(gate.handshake(None).is_ok());
    }

    #[test]
    fn remembered_addresses_are_bounded() {
        let gate = gate(usize::MAX, 1, 1.0);
        for n in 0..(REMEMBERED as u32 + 1000) {
            let _ = gate.handshake(Some(IpAddr::V4(n.into())));
        }
        assert!(gate.lock().addresses.len() <= REMEMBERED);
    }

    #[test]
    fn descriptors_bound_the_clients() {
        let limits = crate::config::Config::default().limits;
        assert!(GateLimits::new(&limits, 20_000).clients >= 19_700);
        assert!(GateLimits::new(&limits, 64).clients > 0);
        let few = Limits { clients: 10, ..limits };
        assert_eq!(GateLimits::new(&few, 20_000).clients, 10);
    }
}
