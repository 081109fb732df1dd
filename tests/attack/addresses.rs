//! Thousands of connections, from one address and from many.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};

use crate::bound::{Bound, KIB, Memory};
use crate::bystanders::Bystanders;
use crate::support::daemon::{PLAIN, TLS};
use crate::support::{Daemon, Http, PATIENCE, Stream, left_out, until};
use crate::{Attacker, PROXIED, allow_descriptors};

const MANY: usize = 2500;

/// An address of this machine that is not loopback, which would be exempt.
fn own_address() -> Option<IpAddr> {
    // Nothing is sent: a route is looked up (RFC 5737 keeps this address free).
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("198.51.100.1:9").ok()?;
    let own = socket.local_addr().ok()?.ip();
    (!own.is_loopback() && !own.is_unspecified()).then_some(own)
}

/// A daemon whose second listener is at an address that counts.
fn listening_at(own: IpAddr, tls: bool, config: &str) -> Daemon {
    let counted = format!("[[listen]]\naddress = \"{own}:0\"\ntls = {tls}\n");
    Daemon::start(&format!("{}{counted}{config}", if tls { TLS } else { PLAIN }))
}

/// A connection that has said this; `None`: the daemon has reset it before.
fn say(to: SocketAddr, first: &[u8]) -> Option<Stream> {
    let mut stream = TcpStream::connect(to).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout above 0");
    stream.write_all(first).ok()?;
    Some(Stream::Tcp(stream))
}

/// Has the daemon closed it, or does it wait for us?
fn is_closed(stream: &mut Stream) -> bool {
    let Stream::Tcp(stream) = stream else { panic!("TCP") };
    stream.set_nonblocking(true).expect("a socket");
    let answer = stream.read(&mut [0]);
    stream.set_nonblocking(false).expect("a socket");
    !matches!(answer, Err(error) if error.kind() == ErrorKind::WouldBlock)
}

/// One address opens thousands of sockets and says `first` on each: no more than its share stays
/// open, whether it speaks no TLS, half of it, or no HTTP.
fn holds_its_share(tls: bool, first: &[u8]) {
    let Some(own) = own_address() else { return left_out("no address but loopback") };
    allow_descriptors();
    let share = 50 + 16;
    let limits = "[limits]\nclients_per_ip = 50\nhandshakes_per_ip = \"1000000/s\"\nrate = \"200/s\"\nburst = 200\n\
                  [timeouts]\ntls = \"1m\"\nrequest = \"1m\"\n";
    let daemon = listening_at(own, tls, limits);
    let bystanders = Bystanders::meet(&daemon, "corner");
    let (memory, files) = (Memory::before(&daemon), daemon.descriptors());
    let mut sockets = Vec::new();
    for _ in 0..MANY {
        sockets.extend(say(daemon.address_of(1), first));
    }
    let open = until("all but its share are closed", || {
        let open = sockets.iter_mut().filter_map(|stream| (!is_closed(stream)).then_some(())).count();
        (open <= share).then_some(open)
    });
    assert_eq!(open, share, "and its share is its own");
    assert!(daemon.descriptors() <= files + share);
    bystanders.go_on(10);
    memory.stayed_within(&daemon, &Bound { sockets: share as u64, ..Bound::default() });
    // It gets them back.
    drop(sockets);
    until("its sockets are closed", || (daemon.descriptors() <= files).then_some(()));
    if !tls {
        assert_eq!(Http::new(Stream::tcp(daemon.address_of(1))).get("/healthz").status, 200);
    }
    bystanders.part();
}

#[test]
fn sockets_of_one_address_that_say_nothing() {
    holds_its_share(false, b"");
}

#[test]
fn sockets_of_one_address_that_never_finish_a_request() {
    holds_its_share(false, b"GET / HTTP/1.1\r\nHost: ");
}

#[test]
fn sockets_of_one_address_that_never_finish_a_handshake() {
    // The head of a TLS record that is announced and never comes (RFC 8446, section 5.1).
    holds_its_share(true, &[22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3]);
}

#[test]
fn websockets_of_one_address_and_requests_besides() {
    let Some(own) = own_address() else { return left_out("no address but loopback") };
    let limits = "[limits]\nclients_per_ip = 50\nhandshakes_per_ip = \"1000000/s\"\nrate = \"200/s\"\nburst = 200\n";
    for tls in [false, true] {
        let daemon = listening_at(own, tls, limits);
        let bystanders = Bystanders::meet(&daemon, "corner");
        let connect = || match tls {
            true => Stream::tls(daemon.address_of(1)),
            false => Stream::tcp(daemon.address_of(1)),
        };
        let inside: Vec<Attacker> = (0..50).map(|_| Attacker::open(connect(), "/wss", "", b"")).collect();
        assert!(inside.iter().all(|attacker| attacker.status() == 101));
        for _ in 0..200 {
            let mut refused = Attacker::open(connect(), "/wss", "", b"");
            assert_eq!(refused.status(), 429);
            // Its place is free when the daemon is done with it.
            while refused.more().is_some() {}
        }
        // Its people still get the page.
        let mut http = Http::new(connect());
        assert_eq!(http.get("/").status, 200);
        bystanders.go_on(10);
        drop((inside, http));
        bystanders.part();
    }
}

#[test]
fn one_address_that_comes_too_often() {
    let Some(own) = own_address() else { return left_out("no address but loopback") };
    let limits = "[limits]\nhandshakes_per_ip = \"1/m\"\nrate = \"200/s\"\nburst = 200\n";
    let daemon = listening_at(own, false, limits);
    let bystanders = Bystanders::meet(&daemon, "corner");
    let memory = Memory::before(&daemon);
    let (mut served, mut refused, mut closed) = (0, 0, 0);
    for _ in 0..MANY {
        let asked = say(daemon.address_of(1), b"GET /healthz HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
        let mut answer = Vec::new();
        let _ = asked.map(|mut stream| stream.read_to_end(&mut answer));
        match answer.get(9..12) {
            Some(b"200") => served += 1,
            Some(b"429") => refused += 1,
            None => closed += 1,
            Some(other) => panic!("{}", String::from_utf8_lossy(other)),
        }
    }
    assert_eq!(served + refused + closed, MANY);
    assert!(served >= 1 && refused >= 16 && closed > served + refused, "{served} {refused} {closed}");
    bystanders.go_on(10);
    memory.stayed_within(&daemon, &Bound { sockets: 16, ..Bound::default() });
    bystanders.part();
}

#[test]
fn requests_of_one_connection_come_to_an_end() {
    let daemon = Daemon::plain("");
    let mut http = daemon.http();
    for n in 1..=100 {
        let answer = http.get("/healthz");
        assert_eq!((answer.status, answer.header("connection").is_some()), (200, n == 100), "{n}");
    }
    http.ends();
}

#[test]
fn who_asks_no_more_is_closed() {
    let daemon = Daemon::plain("[timeouts]\nrequest = \"1s\"\n");
    let mut http = daemon.http();
    assert_eq!(http.get("/healthz").status, 200);
    http.ends();
}

/// Thousands of addresses: as many as there is room for come in, and leave messages half said; the
/// others are told 503, and those who were there before notice nothing.
#[test]
fn websockets_of_thousands_of_addresses() {
    allow_descriptors();
    let limits = "[limits]\nclients = 1500\nframe = \"16KiB\"\ntext = \"4KiB\"\nrate = \"200/s\"\nburst = 200\n";
    let daemon = Daemon::start(&format!("{PROXIED}{limits}"));
    let bystanders = Bystanders::meet(&daemon, "corner");
    let memory = Memory::before(&daemon);
    // The head of a frame as large as may be (RFC 6455, section 5.2), and the beginning of it.
    let half = [&[0x81, 0xfe, 0x40, 0x00, 0, 0, 0, 0][..], &[b'x'; 8000]].concat();
    let mut inside = Vec::new();
    let mut refused = 0;
    for n in 0..MANY {
        let [high, low] = (n as u16).to_be_bytes();
        let header = format!("X-Forwarded-For: 198.18.{high}.{low}\r\n");
        let stream = Stream::tcp_from(IpAddr::from([127, 0, 0, 2]), daemon.address());
        let attacker = Attacker::open(stream, "/chat", &header, &half);
        match attacker.status() {
            101 => inside.push(attacker),
            503 => refused += 1,
            status => panic!("{status}"),
        }
    }
    assert_eq!((inside.len(), refused), (1498, MANY - 1498));
    assert_eq!(daemon.json(&["status"])["clients"], 1500);
    bystanders.go_on(10);
    let bound = Bound { clients: 1500, unfinished: 1500, frame: 16 * KIB, sockets: 64, ..Bound::default() };
    memory.stayed_within(&daemon, &bound);
    drop(inside);
    until("they are gone", || (daemon.json(&["status"])["clients"] == 2).then_some(()));
    bystanders.part();
}
