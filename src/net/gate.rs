//! Who may come in: how many connections in all, how many from one address, how fast.
//!
//! Every accepted socket is counted, whatever it speaks, and of those the WebSockets once more. One
//! address is told by HTTP that it is over its limits for as long as that costs little; what it sends
//! beyond is closed before a byte of it is read.
//!
//! Shared by the accept loop and the workers. The lock is held for a few map operations, never
//! while anything waits, and never on the path of a message.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::chat::rate::TokenBucket;
use crate::config::Limits;
use crate::peer::network;

/// Addresses that are remembered; beyond it, those that have nothing open and have recovered are
/// forgotten. About 2 MiB.
const REMEMBERED: usize = 16_384;
/// Between two searches for addresses to forget: each looks at all of them.
const SWEEP: Duration = Duration::from_secs(1);
/// Sockets of one address that are not, or not yet, WebSockets, beyond `clients_per_ip` in all: a
/// browser opens six for a page, and there are answers on their way.
const BESIDES: usize = 16;
/// Refusals by HTTP that one address gets at once, and at least each second: behind one of them is a
/// TLS handshake.
const REFUSALS: u32 = 16;
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
    swept: Option<Duration>,
}

#[derive(Debug)]
struct Address {
    /// Accepted from it directly, WebSockets included.
    sockets: usize,
    /// WebSockets, also those that a proxy forwards for it.
    clients: usize,
    handshakes: TokenBucket,
    refusals: TokenBucket,
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

/// What becomes of a socket that has just been accepted.
#[derive(Debug)]
pub enum Entry {
    /// It has a place; with a refusal only for as long as it takes to be told.
    Place(Place, Option<Refusal>),
    /// It is closed at once: there is no descriptor to spare, or its address has all it may have.
    Close,
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
    /// Of a socket, and of which address where that is counted.
    socket: Option<Option<IpAddr>>,
    /// The same of a WebSocket.
    client: Option<Option<IpAddr>>,
}

impl Gate {
    pub fn new(limits: GateLimits) -> Arc<Self> {
        let inner = Inner { limits, sockets: 0, clients: 0, addresses: HashMap::new(), swept: None };
        Arc::new(Gate { inner: Mutex::new(inner), started: Instant::now() })
    }

    /// New limits for those who come from now on.
    pub fn set_limits(&self, limits: GateLimits) {
        let mut inner = self.lock();
        if inner.limits.handshakes_per_s != limits.handshakes_per_s {
            for address in inner.addresses.values_mut() {
                *address = Address { sockets: address.sockets, clients: address.clients, ..Address::new(&limits) };
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

    /// A place for a socket that has just been accepted, and its handshake counted. `address`: of the
    /// peer, or `None` where it is exempt, or a proxy that will tell for whom it speaks.
    pub fn socket(self: &Arc<Self>, address: Option<IpAddr>) -> Entry {
        let now = self.started.elapsed();
        let mut inner = self.lock();
        if inner.sockets >= inner.limits.sockets {
            return Entry::Close;
        }
        let most = inner.limits.clients_per_ip.saturating_add(BESIDES);
        let mut refusal = None;
        let mut key = address.map(network);
        if let Some(known) = key.map(|key| inner.address(key, now)) {
            match known {
                Some(entry) if entry.sockets >= most => return Entry::Close,
                Some(entry) => {
                    if let Err(retry) = entry.handshakes.take(now) {
                        if entry.refusals.take(now).is_err() {
                            return Entry::Close;
                        }
                        refusal = Some(Refusal::TooFast { retry });
                    }
                    entry.sockets += 1;
                }
                None => {
                    // So many addresses at once are an attack from many; each is within its limit.
                    key = None;
                    refusal = (inner.clients >= inner.limits.clients).then_some(Refusal::TooMany);
                }
            }
        }
        inner.sockets += 1;
        Entry::Place(Place { gate: self.clone(), socket: Some(key), client: None }, refusal)
    }

    /// A place for a WebSocket. `forwarded`: a proxy says that it is for this address, so its
    /// handshake has not been counted yet.
    pub fn client(self: &Arc<Self>, address: Option<IpAddr>, forwarded: bool) -> Result<Place, Refusal> {
        let now = self.started.elapsed();
        let mut inner = self.lock();
        let limits = inner.limits;
        if inner.clients >= limits.clients {
            return Err(Refusal::TooMany);
        }
        let mut key = address.map(network);
        if let Some(known) = key.map(|key| inner.address(key, now)) {
            match known {
                Some(entry) => {
                    if forwarded {
                        entry.handshakes.take(now).map_err(|retry| Refusal::TooFast { retry })?;
                    }
                    if entry.clients >= limits.clients_per_ip {
                        return Err(Refusal::TooManyOfAddress);
                    }
                    entry.clients += 1;
                }
                None => key = None,
            }
        }
        inner.clients += 1;
        Ok(Place { gate: self.clone(), socket: None, client: Some(key) })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic ends the process, so a poisoned lock is never met; either way the counts are whole.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// A WebSocket's place together with that of the socket below it.
    pub fn with_socket(mut self, mut socket: Place) -> Self {
        self.socket = socket.socket.take();
        self
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut inner = self.gate.lock();
        if let Some(key) = self.socket {
            inner.sockets -= 1;
            if let Some(entry) = key.and_then(|key| inner.addresses.get_mut(&key)) {
                entry.sockets -= 1;
            }
        }
        if let Some(key) = self.client {
            inner.clients -= 1;
            if let Some(entry) = key.and_then(|key| inner.addresses.get_mut(&key)) {
                entry.clients -= 1;
            }
        }
    }
}

impl Inner {
    /// What is known of an address, from now on at least; `None` where too many are known already.
    fn address(&mut self, key: IpAddr, now: Duration) -> Option<&mut Address> {
        if self.addresses.len() >= REMEMBERED && !self.addresses.contains_key(&key) {
            if self.swept.is_some_and(|at| now < at + SWEEP) {
                return None;
            }
            self.swept = Some(now);
            self.addresses.retain(|_, address| !address.is_forgettable(now));
            if self.addresses.len() >= REMEMBERED {
                return None;
            }
        }
        let limits = &self.limits;
        Some(self.addresses.entry(key).or_insert_with(|| Address::new(limits)))
    }
}

impl Address {
    fn new(limits: &GateLimits) -> Self {
        // A second's worth at once: a page opens several connections.
        let (rate, burst) = (limits.handshakes_per_s, limits.handshakes_per_s.ceil().max(1.0) as u32);
        Address {
            sockets: 0,
            clients: 0,
            handshakes: TokenBucket::new(rate, burst),
            refusals: TokenBucket::new(rate.max(1.0), burst.max(REFUSALS)),
        }
    }

    fn is_forgettable(&self, now: Duration) -> bool {
        self.sockets == 0 && self.clients == 0 && self.handshakes.is_full(now) && self.refusals.is_full(now)
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

    fn open(gate: &Arc<Gate>, address: &str) -> Result<Place, Refusal> {
        gate.client(ip(address), false)
    }

    #[test]
    fn places_come_back() {
        let gate = gate(2, 10, 1000.0);
        let first = open(&gate, "192.0.2.1").unwrap();
        let _second = open(&gate, "192.0.2.2").unwrap();
        assert_eq!(open(&gate, "192.0.2.3").unwrap_err(), Refusal::TooMany);
        drop(first);
        assert!(open(&gate, "192.0.2.3").is_ok());
    }

    #[test]
    fn one_address_is_an_ipv4_or_a_64_network() {
        let gate = gate(100, 1, 1000.0);
        let _a = open(&gate, "2001:db8::1").unwrap();
        assert_eq!(open(&gate, "2001:db8::2").unwrap_err(), Refusal::TooManyOfAddress);
        let _b = open(&gate, "2001:db8:0:1::1").unwrap();
        let _c = open(&gate, "192.0.2.1").unwrap();
        let _d = open(&gate, "192.0.2.2").unwrap();
        let _exempt = (gate.client(None, false).unwrap(), gate.client(None, false).unwrap());
    }

    #[test]
    fn an_address_that_comes_too_often_is_told_when_to_return_and_then_not_even_that() {
        let gate = gate(100, 100, 2.0);
        let refusal = |address| match gate.socket(address) {
            Entry::Place(_, refusal) => Some(refusal),
            Entry::Close => None,
        };
        assert_eq!([refusal(ip("192.0.2.1")), refusal(ip("192.0.2.1"))], [Some(None), Some(None)]);
        for _ in 0..REFUSALS {
            let Some(Some(Refusal::TooFast { retry })) = refusal(ip("192.0.2.1")) else { panic!("let in") };
            assert!(retry <= Duration::from_millis(500));
        }
        assert_eq!(refusal(ip("192.0.2.1")), None);
        assert_eq!(refusal(ip("192.0.2.2")), Some(None));
        assert_eq!(refusal(None), Some(None));
    }

    #[test]
    fn a_forwarded_address_is_counted_where_it_becomes_known() {
        let gate = gate(100, 100, 2.0);
        let _open = (gate.client(ip("192.0.2.1"), true).unwrap(), gate.client(ip("192.0.2.1"), true).unwrap());
        assert!(matches!(gate.client(ip("192.0.2.1"), true), Err(Refusal::TooFast { .. })));
    }

    #[test]
    fn an_address_has_a_few_sockets_besides_its_websockets() {
        let gate = gate(100, 2, 1000.0);
        let mut held = Vec::new();
        while let Entry::Place(place, None) = gate.socket(ip("192.0.2.1")) {
            held.push(place);
        }
        assert_eq!(held.len(), 2 + BESIDES);
        let Entry::Place(other, None) = gate.socket(ip("192.0.2.2")) else { panic!("not let in") };
        let Entry::Place(exempt, None) = gate.socket(None) else { panic!("not let in") };
        held.pop();
        assert!(matches!(gate.socket(ip("192.0.2.1")), Entry::Place(_, None)), "a place has come back");
        drop((held, other, exempt));
        assert_eq!(gate.lock().sockets, 0);
        assert!(gate.lock().addresses.values().all(|address| address.sockets == 0));
    }

    #[test]
    fn remembered_addresses_are_bounded() {
        let gate = Gate::new(GateLimits {
            sockets: usize::MAX,
            clients: usize::MAX,
            clients_per_ip: 1,
            handshakes_per_s: 1.0,
        });
        let mut held = Vec::new();
        for n in 0..(REMEMBERED as u32 + 1000) {
            let address = Some(IpAddr::V4(n.into()));
            let Entry::Place(place, None) = gate.socket(address) else { panic!("not let in") };
            held.push((place, gate.client(address, false).unwrap()));
        }
        assert_eq!(gate.lock().addresses.len(), REMEMBERED);
        drop(held);
        let inner = gate.lock();
        assert_eq!((inner.sockets, inner.clients), (0, 0));
        assert!(inner.addresses.values().all(|address| address.sockets == 0 && address.clients == 0));
    }

    /// What is said to this address; its socket is closed again.
    fn refusal(gate: &Arc<Gate>, address: IpAddr) -> Option<Refusal> {
        match gate.socket(Some(address)) {
            Entry::Place(_, refusal) => refusal,
            Entry::Close => panic!("closed at once"),
        }
    }

    /// As many addresses as are remembered have come once, and none will recover in this test.
    fn full(clients: usize) -> Arc<Gate> {
        let limits = GateLimits { sockets: 100, clients, clients_per_ip: 1, handshakes_per_s: 0.000_01 };
        let gate = Gate::new(limits);
        for n in 0..REMEMBERED as u32 {
            assert_eq!(refusal(&gate, IpAddr::V4(n.into())), None);
        }
        gate
    }

    #[test]
    fn an_address_is_limited_still_when_as_many_others_have_come() {
        let gate = full(100);
        let (first, stranger) = (IpAddr::V4(0.into()), IpAddr::V4(u32::MAX.into()));
        assert_eq!(refusal(&gate, stranger), None);
        assert!(matches!(refusal(&gate, first), Some(Refusal::TooFast { .. })));
        assert!(!gate.lock().addresses.contains_key(&stranger));
    }

    #[test]
    fn an_address_is_forgotten_once_nothing_of_it_is_left() {
        let limits = GateLimits { sockets: 100, clients: 100, clients_per_ip: 1, handshakes_per_s: 1.0 };
        let at = Duration::from_secs;
        let mut address = Address::new(&limits);
        assert!(address.is_forgettable(at(0)));
        address.handshakes.take(at(0)).unwrap();
        assert!(!address.is_forgettable(at(0)) && address.is_forgettable(at(1)));
        (0..REFUSALS).for_each(|_| address.refusals.take(at(1)).unwrap());
        assert!(!address.is_forgettable(at(2)) && address.is_forgettable(at(17)));
        address.sockets = 1;
        assert!(!address.is_forgettable(at(17)));
        (address.sockets, address.clients) = (0, 1);
        assert!(!address.is_forgettable(at(17)));
    }

    #[test]
    fn an_address_too_many_to_remember_is_told_where_no_place_is_left() {
        let gate = full(1);
        let stranger = IpAddr::V4(u32::MAX.into());
        assert_eq!(refusal(&gate, stranger), None);
        let last = gate.client(None, false).unwrap();
        assert_eq!(refusal(&gate, stranger), Some(Refusal::TooMany));
        drop(last);
        assert_eq!(refusal(&gate, stranger), None);
    }

    #[test]
    fn a_new_rate_holds_for_addresses_that_are_known() {
        let gate = gate(100, 100, 0.000_01);
        let address = ip("192.0.2.1").unwrap();
        let Entry::Place(held, None) = gate.socket(Some(address)) else { panic!("not let in") };
        assert!(matches!(refusal(&gate, address), Some(Refusal::TooFast { .. })));
        // Other limits leave it what it has left, which is nothing.
        let limits = GateLimits { clients: 50, ..gate.limits() };
        gate.set_limits(limits);
        assert!(matches!(refusal(&gate, address), Some(Refusal::TooFast { .. })));
        gate.set_limits(GateLimits { handshakes_per_s: 1000.0, ..limits });
        assert_eq!([refusal(&gate, address), refusal(&gate, address)], [None, None]);
        gate.set_limits(limits);
        assert_eq!(refusal(&gate, address), None);
        assert!(matches!(refusal(&gate, address), Some(Refusal::TooFast { .. })));
        // Its socket has been counted all the while.
        assert_eq!(gate.lock().addresses[&address].sockets, 1);
        drop(held);
        assert_eq!(gate.lock().addresses[&address].sockets, 0);
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
