//! What a service manager is told and gives, with one that is none. The same in a real systemd is
//! tested with the package.

use std::collections::BTreeSet;
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;

use nix::sys::signal::Signal;
use nix::sys::socket::{SockaddrIn, getsockname};

use crate::support::daemon::PLAIN;
use crate::support::manager::Manager;
use crate::support::{Chat, Daemon, Http, Setup, Stream};

fn managed(manager: &Manager, config: &str) -> Daemon {
    Setup::new(config).env("NOTIFY_SOCKET", manager.path()).start()
}

#[test]
fn a_life_is_told_from_ready_to_stopping() {
    let manager = Manager::new();
    let daemon = managed(&manager, PLAIN);
    let ready = manager.with("READY");
    assert_eq!(ready.variables["READY"], "1");
    let status = |said: &str| {
        let (clients, rooms) = said.strip_prefix("serving ").unwrap().split_once(" in ").unwrap();
        (clients.to_owned(), rooms.to_owned())
    };
    assert_eq!(status(&ready.variables["STATUS"]), ("0 clients".into(), "0 rooms".into()));

    let mut chat = daemon.chat("ann");
    chat.say("here");
    // Told every few seconds.
    manager.until("STATUS", |text| status(text) == ("1 client".into(), "1 room".into()));

    for reload in [|daemon: &Daemon| drop(daemon.json(&["reload"])), |daemon: &Daemon| daemon.signal(Signal::SIGHUP)] {
        reload(&daemon);
        let reloading = manager.with("RELOADING");
        assert_eq!(reloading.variables["RELOADING"], "1");
        let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).unwrap();
        let told = reloading.number("MONOTONIC_USEC");
        let micros = u64::try_from(now.tv_sec()).unwrap() * 1_000_000 + u64::try_from(now.tv_nsec()).unwrap() / 1000;
        assert!(told > 0 && told <= micros, "{told} of {micros}");
        let next = manager.with("READY");
        assert!(!next.has("RELOADING"));
    }
    // A refused one ends, too.
    daemon.write_config("nonsense");
    daemon.ctl(&["reload"]).ends(78, "nonsense");
    manager.with("RELOADING");
    manager.with("READY");

    chat.leave();
    daemon.stop();
    let stopping = manager.with("STOPPING");
    assert_eq!(stopping.variables["STOPPING"], "1");
    assert_eq!(stopping.variables["STATUS"], "stopping");
    // The grace of five seconds, and some more.
    assert!(stopping.number("EXTEND_TIMEOUT_USEC") > 5_000_000, "{stopping:?}");
}

#[test]
fn the_watchdog_is_fed_and_only_where_there_is_one() {
    let manager = Manager::new();
    let patient = format!("{PLAIN}[shutdown]\ngrace = \"5m\"\n");
    let daemon = Setup::new(&patient).env("NOTIFY_SOCKET", manager.path()).env("WATCHDOG_USEC", "200000");
    let daemon = daemon.start();
    for _ in 0..5 {
        assert_eq!(manager.with("WATCHDOG").variables["WATCHDOG"], "1");
    }
    // Still while it drains, for as long as that takes; the workers that have nobody have ended.
    let _stubborn = daemon.chat("stubborn");
    daemon.signal(Signal::SIGTERM);
    manager.with("STOPPING");
    for _ in 0..5 {
        manager.with("WATCHDOG");
    }
    drop(daemon);

    let manager = Manager::new();
    let daemon = managed(&manager, PLAIN);
    manager.with("READY");
    let _ann = daemon.chat("ann");
    assert!(!manager.with("STATUS").has("WATCHDOG"));
    drop(daemon);
}

#[test]
fn listening_sockets_are_kept_over_a_restart() {
    let manager = Manager::new();
    let setup = Setup::new(&format!("{PLAIN}[[listen]]\naddress = \"FOLDER/proxy.sock\"\n"));
    let daemon = setup.env("NOTIFY_SOCKET", manager.path()).start();
    let mut names = BTreeSet::new();
    let mut tcp = None;
    for _ in 0..2 {
        let mut stored = manager.with("FDSTORE");
        assert_eq!((stored.variables["FDSTORE"].as_str(), stored.descriptors.len()), ("1", 1));
        let name = stored.variables["FDNAME"].clone();
        if name.starts_with("127.0.0.1") {
            tcp = Some((stored.descriptors.remove(0), name.clone()));
        }
        names.insert(name);
    }
    let port = daemon.address().port();
    let path = daemon.folder().join("proxy.sock");
    assert_eq!(names, BTreeSet::from([format!("127.0.0.1_{port}"), path.display().to_string()]));
    let (tcp, name) = tcp.unwrap();
    let bound: SockaddrIn = getsockname(std::os::fd::AsRawFd::as_raw_fd(&tcp.as_fd())).unwrap();
    assert_eq!(bound.port(), port, "it is the listener itself");

    let address = daemon.address();
    let setup = daemon.stop();
    // Nobody accepts, yet nobody is refused.
    let mut early = Http::new(Stream::tcp(address));
    early.send("GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n");

    setup.write_config(&format!("[[listen]]\naddress = \"{address}\"\ntls = false\n"));
    let daemon = setup.hand_over(tcp, &name).start();
    assert_eq!(early.answer(false).status, 200);
    let mut chat = Chat::enter(early.stream, "early");
    chat.say("waited");
    assert_eq!(daemon.address(), address);
    // Given back to be kept for the next time.
    assert_eq!(manager.with("FDSTORE").variables["FDNAME"], name);
}

#[test]
fn a_crash_loses_no_listener() {
    let manager = Manager::new();
    let daemon = managed(&manager, PLAIN);
    let mut stored = manager.with("FDSTORE");
    let address = daemon.address();
    let setup = daemon.crash();
    let mut early = Http::new(Stream::tcp(address));
    early.send("GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n");
    setup.write_config(&format!("[[listen]]\naddress = \"{address}\"\ntls = false\n"));
    let _daemon = setup.hand_over(stored.descriptors.remove(0), &stored.variables["FDNAME"]).start();
    assert_eq!(early.answer(false).status, 200);
}

#[test]
fn a_proxys_socket_is_kept_as_well() {
    let manager = Manager::new();
    let setup = Setup::new("[[listen]]\naddress = \"FOLDER/proxy.sock\"\n");
    let path = setup.folder().join("proxy.sock");
    let daemon = setup.env("NOTIFY_SOCKET", manager.path()).start();
    let mut stored = manager.with("FDSTORE");
    let setup = daemon.stop();
    let mut early = Http::new(Stream::unix(&path));
    early.send("GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n");
    let _daemon = setup.hand_over(stored.descriptors.remove(0), &stored.variables["FDNAME"]).start();
    assert_eq!(early.answer(false).status, 200);
}

#[test]
fn a_socket_units_socket_is_taken_by_its_address_and_stays_the_units() {
    let manager = Manager::new();
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let setup = Setup::new(&format!("[[listen]]\naddress = \"{address}\"\ntls = false\n{PLAIN}"));
    let setup = setup.env("NOTIFY_SOCKET", manager.path()).hand_over(socket.into(), "wschat.socket");
    let daemon = setup.start();
    assert_eq!(daemon.address_of(0), address);
    daemon.chat("ann").say("hello");
    // Of the two listeners only our own is kept: that is told before the daemon is ready.
    let mut kept = Vec::new();
    loop {
        let said = manager.next();
        if said.has("FDSTORE") {
            kept.push(said.variables["FDNAME"].clone());
        }
        if said.has("READY") {
            break;
        }
    }
    assert_eq!(kept, [daemon.address_of(1).to_string().replace(':', "_")]);
    assert!(!daemon.log().contains("WARN"), "{}", daemon.log());
}

#[test]
fn a_reload_gives_a_units_socket_up_and_takes_nothing_from_the_unit() {
    let manager = Manager::new();
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, units) = (socket.local_addr().unwrap(), socket.try_clone().unwrap());
    let at = |address: &str| format!("[[listen]]\naddress = \"{address}\"\ntls = false\n{PLAIN}");
    let setup = Setup::new(&at(&address.to_string())).env("NOTIFY_SOCKET", manager.path());
    let daemon = setup.hand_over(socket.into(), "wschat.socket").start();
    let mut ann = daemon.chat("ann");
    // Another address of the same port is in the way of the unit's, which we cannot share out.
    daemon.write_config(&at(&format!("0.0.0.0:{}", address.port())));
    daemon.ctl(&["reload"]).ends(78, "of a socket unit's: for that restart the daemon");
    ann.say("nothing has changed");
    assert_eq!(daemon.json(&["status"])["listen"][0], format!("{address} plain"));

    daemon.write_config(PLAIN);
    assert_eq!(daemon.json(&["reload"])["changed"], serde_json::json!(["listen"]));
    assert!(daemon.log().contains(&format!("nobody accepts on {address} any more")), "{}", daemon.log());
    ann.say("still here");
    // Who connects now waits for the unit's next daemon, as if there were none.
    let _waiting = TcpStream::connect(address).expect("the unit goes on listening");
    assert!(units.accept().is_ok());
    ann.leave();
    daemon.signal(Signal::SIGTERM);
    loop {
        let said = manager.next();
        assert!(!said.has("FDSTOREREMOVE"), "it was never ours to keep: {said:?}");
        if said.has("STOPPING") {
            break;
        }
    }
    daemon.stop_again();
}

#[test]
fn a_socket_units_socket_that_nobody_wants_is_warned_of() {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let daemon = Setup::new(PLAIN).hand_over(socket.into(), "wschat.socket").start();
    let wanted = format!(
        "no [[listen]] has that address: whoever connects there waits for nobody; add [[listen]] with address = \"{address}\""
    );
    assert!(daemon.log().contains(&wanted), "{}", daemon.log());
    daemon.chat("ann").say("hello");
}

#[test]
fn a_socket_that_the_configuration_no_longer_has_is_let_go() {
    let manager = Manager::new();
    let kept = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = kept.local_addr().unwrap();
    let name = address.to_string().replace(':', "_");
    let setup = Setup::new(PLAIN).env("NOTIFY_SOCKET", manager.path()).hand_over(kept.into(), &name);
    let daemon = setup.start();
    assert_eq!(manager.with("FDSTOREREMOVE").variables["FDNAME"], name);
    assert!(!daemon.log().contains("WARN"), "{}", daemon.log());
    assert_ne!(daemon.address(), address);
    let setup = daemon.stop();
    drop(setup);
    assert!(TcpStream::connect(address).is_err(), "nobody has it any more");
}

#[test]
fn descriptors_for_another_process_are_left_alone() {
    let daemon = Setup::new(PLAIN).env("LISTEN_PID", "1").env("LISTEN_FDS", "1").start();
    assert_eq!(daemon.http().get("/healthz").status, 200);
}

#[test]
fn a_manager_that_is_not_there_stops_nothing() {
    let daemon = Setup::new(PLAIN).env("NOTIFY_SOCKET", "/nowhere/notify").start();
    assert_eq!(daemon.http().get("/healthz").status, 200);
    assert!(daemon.log().contains("systemd cannot be told"), "{}", daemon.log());
}
