//! Where the daemon listens, and whose word about addresses it takes.

use std::net::IpAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};

use serde_json::{Value, json};

use crate::support::daemon::PLAIN;
use crate::support::{Chat, Daemon, Setup, Stream, left_out};

const PROXIED: &str =
    "[[listen]]\naddress = \"127.0.0.1:0\"\ntls = false\ntrusted_proxies = [\"127.0.0.2\", \"10.0.0.0/8\"]\n";

/// Enters with these headers; the address that the daemon takes it for.
fn taken_for(daemon: &Daemon, stream: Stream, headers: &str) -> Value {
    let mut chat = Chat::open(stream, "/wss", headers);
    // Somebody is known once the hub has heard of it.
    chat.send_text("here");
    let seen = crate::support::until("it is listed", || daemon.clients(&[]).pop());
    chat.leave();
    crate::support::until("it is gone", || daemon.clients(&[]).is_empty().then_some(()));
    seen["address"].clone()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn a_trusted_proxy_tells_the_address_and_a_stranger_does_not() {
    let daemon = Daemon::start(PROXIED);
    let proxy = || Stream::tcp_from(ip("127.0.0.2"), daemon.address());
    let stranger = || Stream::tcp_from(ip("127.0.0.3"), daemon.address());
    assert_eq!(taken_for(&daemon, proxy(), "X-Forwarded-For: 203.0.113.9"), "203.0.113.9");
    assert_eq!(taken_for(&daemon, proxy(), "X-Forwarded-For: 198.51.100.1, 203.0.113.9, 10.1.2.3"), "203.0.113.9");
    assert_eq!(taken_for(&daemon, proxy(), "X-Forwarded-For: ::ffff:203.0.113.9"), "203.0.113.9");
    assert_eq!(taken_for(&daemon, proxy(), "X-Forwarded-For: 2001:db8::7"), "2001:db8::7");
    assert_eq!(taken_for(&daemon, proxy(), "X-Real-IP: 203.0.113.8"), "203.0.113.8");
    // Never the proxy itself, which no limit would hold.
    let mut http = crate::support::Http::new(proxy());
    http.send("GET /wss HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nX-Forwarded-For: nonsense\r\n\r\n");
    assert_eq!(http.answer(false).status, 400);
    assert_eq!(taken_for(&daemon, proxy(), ""), "127.0.0.2");
    for spoofed in ["X-Forwarded-For: 203.0.113.9", "X-Real-IP: 203.0.113.9", "Forwarded: for=203.0.113.9"] {
        assert_eq!(taken_for(&daemon, stranger(), spoofed), "127.0.0.3", "{spoofed}");
    }
}

#[test]
fn an_address_behind_a_proxy_has_its_own_limits() {
    let daemon = Daemon::start(&format!("{PROXIED}[limits]\nclients_per_ip = 2\n"));
    let from = |address: &str| {
        let mut http = crate::support::Http::new(Stream::tcp_from(ip("127.0.0.2"), daemon.address()));
        let header = format!("X-Forwarded-For: {address}");
        let headers: Vec<&str> = crate::support::client::UPGRADE.into_iter().chain([header.as_str()]).collect();
        let answer = http.ask("GET /chat", &headers);
        (answer.status, answer.header("retry-after").is_some(), http)
    };
    let (one, two) = (from("203.0.113.9"), from("203.0.113.9"));
    assert_eq!((one.0, two.0), (101, 101));
    let (status, retry, _) = from("203.0.113.9");
    assert_eq!((status, retry), (429, true));
    assert_eq!(from("203.0.113.10").0, 101, "another address has its own");
    // Of IPv6 one host has a whole /64.
    let (one, two) = (from("2001:db8::1"), from("2001:db8::2"));
    assert_eq!((one.0, two.0, from("2001:db8::3").0, from("2001:db8:0:1::3").0), (101, 101, 429, 101));
}

#[test]
fn a_unix_socket_is_for_a_proxy() {
    let setup = Setup::new("[[listen]]\naddress = \"FOLDER/proxy.sock\"\n");
    let path = setup.folder().join("proxy.sock");
    let daemon = setup.start();
    assert_eq!(daemon.listen(), [format!("{} plain", path.display())]);
    let found = std::fs::metadata(&path).unwrap();
    assert!(found.file_type().is_socket());
    assert_eq!(found.permissions().mode() & 0o777, 0o666, "a proxy of any user may connect");
    assert_eq!(taken_for(&daemon, Stream::unix(&path), "X-Forwarded-For: 203.0.113.9"), "203.0.113.9");
    assert_eq!(taken_for(&daemon, Stream::unix(&path), "X-Real-IP: 2001:db8::7"), "2001:db8::7");
    let bare = taken_for(&daemon, Stream::unix(&path), "");
    assert_eq!(bare, "127.0.0.1");
    // Whoever comes after a crash takes the file over.
    let daemon = daemon.crash().start();
    let mut chat = Chat::enter(Stream::unix(&path), "back");
    chat.say("here");
    drop(chat);
    let again = Setup::new(&format!("[[listen]]\naddress = \"{}\"\n", path.display()));
    again.fails().ends(1, "is taken by another program (is wschat running already?)");
    assert_eq!(crate::support::Http::new(Stream::unix(&path)).get("/healthz").status, 200);
    drop(daemon);
}

#[test]
fn what_is_no_socket_is_not_removed() {
    let setup = Setup::new("[[listen]]\naddress = \"FOLDER/precious\"\n");
    let path = setup.folder().join("precious");
    std::fs::write(&path, "data").unwrap();
    setup.fails().ends(1, "exists and is no socket");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "data");
}

#[test]
fn both_families_come_through_one_listener_and_ipv4_stays_ipv4() {
    let Ok(_) = std::net::TcpListener::bind("[::1]:0") else {
        return left_out("both families through one listener: this machine has no IPv6");
    };
    let daemon = Daemon::start("[[listen]]\naddress = \"[::]:0\"\ntls = false\ntrusted_proxies = [\"127.0.0.2\"]\n");
    let port = daemon.address().port();
    let to = |host: &str| (ip(host), port).into();
    assert_eq!(taken_for(&daemon, Stream::tcp(to("127.0.0.1")), ""), "127.0.0.1");
    assert_eq!(taken_for(&daemon, Stream::tcp(to("::1")), ""), "::1");
    let proxy = Stream::tcp_from(ip("127.0.0.2"), to("127.0.0.1"));
    assert_eq!(taken_for(&daemon, proxy, "X-Forwarded-For: 203.0.113.9"), "203.0.113.9");
    let stranger = Stream::tcp_from(ip("127.0.0.3"), to("127.0.0.1"));
    assert_eq!(taken_for(&daemon, stranger, "X-Forwarded-For: 203.0.113.9"), "127.0.0.3");
    // A filter for IPv4 finds whom it means.
    let mut chat = Chat::enter(Stream::tcp(to("127.0.0.1")), "four");
    assert_eq!(daemon.clients(&["--ip", "127.0.0.0/8"]).len(), 1);
    assert_eq!(daemon.clients(&["--ip", "::/0"]).len(), 0);
    chat.say("here");
}

#[test]
fn several_listeners_lead_into_the_same_rooms() {
    let setup = Setup::new(&format!(
        "{PLAIN}[[listen]]\naddress = \"127.0.0.1:0\"\n[[listen]]\naddress = \"FOLDER/proxy.sock\"\n"
    ));
    let daemon = setup.start();
    assert_eq!(
        daemon.listen().iter().map(|l| l.rsplit(' ').next().unwrap()).collect::<Vec<_>>(),
        ["plain", "tls", "plain"]
    );
    let mut plain = Chat::enter(Stream::tcp(daemon.address_of(0)), "plain");
    let mut tls = Chat::enter(Stream::tls(daemon.address_of(1)), "tls");
    let mut unix = Chat::enter(Stream::unix(&daemon.folder().join("proxy.sock")), "unix");
    plain.say("hello from everywhere");
    tls.hears("hello from everywhere");
    unix.hears("hello from everywhere");
    let seen: Vec<Value> = daemon.clients(&["--sort", "id"]).iter().map(|client| client["tls"].clone()).collect();
    assert_eq!(seen, [json!(null), json!("TLSv1.3"), json!(null)]);
}

#[test]
fn a_taken_port_is_named() {
    let first = Daemon::plain("");
    let address = first.address();
    let second = Setup::new(&format!("[[listen]]\naddress = \"{address}\"\ntls = false\n"));
    let ran = second.fails();
    ran.ends(1, &format!("{address} is taken by another program (is wschat running already?)"));
    assert!(!second.control_socket().exists(), "nothing is left behind");
    assert_eq!(first.http().get("/healthz").status, 200);
}

#[test]
fn an_address_of_another_machine_is_named() {
    Setup::new("[[listen]]\naddress = \"192.0.2.1:9501\"\n")
        .fails()
        .ends(1, "192.0.2.1:9501 is not an address of this machine");
}

#[test]
fn a_live_control_socket_is_never_taken_and_a_dead_one_is_replaced() {
    let first = Daemon::plain("");
    // Another port, the same runtime folder.
    let second = Setup::new(PLAIN).env("XDG_RUNTIME_DIR", first.folder().join("run"));
    let ran = second.fails();
    ran.ends(1, &format!("a daemon listens there already (pid {})", first.pid()));
    assert!(ran.stderr.contains(first.control_socket().to_str().unwrap()), "{ran:?}");
    assert_eq!(first.json(&["status"])["pid"], first.pid());

    let old = first.pid();
    let setup = first.crash();
    assert!(setup.control_socket().exists(), "a crash leaves the file");
    setup.ctl(&["ping"]).ends(69, "no daemon listens at");
    let daemon = setup.start();
    assert_ne!(daemon.json(&["status"])["pid"], old);
    let setup = daemon.stop();
    assert!(!setup.control_socket().exists(), "one that stops takes it away");
}
