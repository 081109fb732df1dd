//! The server over a bare socket: order, streams, bounds, garbage.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::sync::Arc;
use std::time::SystemTime;

use serde_json::{Value, json};
use wschat::admin::{Event, EventKind};
use wschat::chat::event::Dialect;
use wschat::chat::id::{ConnId, Nick, RoomName, UserId};
use wschat::control::server::CONNECTIONS;

use crate::fake::{Daemon, EVENTS, HELD, Raw, STUBBORN, World, client, some, until};

pub fn event(kind: EventKind) -> Arc<Event> {
    Arc::new(Event {
        time: SystemTime::now(),
        kind,
        client: Some(ConnId(1)),
        user: Some(UserId::parse("u1").unwrap()),
        nick: Some(Nick::parse("Ann").unwrap()),
        address: Some("192.0.2.1".parse().unwrap()),
        room: Some(RoomName::parse("lobby").unwrap()),
        dialect: Some(Dialect::Json),
        detail: "some\u{1b}[2Jwords".into(),
    })
}

fn error_of(reply: &Value) -> &str {
    reply["error"].as_str().unwrap_or_else(|| panic!("no error: {reply}"))
}

#[test]
fn a_slow_call_holds_up_its_own_caller_alone() {
    let daemon = Daemon::start(some());
    let mut slow = daemon.raw();
    slow.send(json!({"method": "org.wschat.Control.ShowClient", "parameters": {"id": HELD}}));
    slow.send(json!({"method": "org.wschat.Control.ListRooms"}));
    // The first of those is answered only after this one has been.
    let pong = daemon.raw().call("org.wschat.Control.Ping", json!({}));
    assert_eq!(pong, json!({"parameters": {}}));
    // And in their order.
    assert_eq!(error_of(&slow.reply().unwrap()), "org.wschat.Control.NoSuchClient");
    assert!(slow.reply().unwrap()["parameters"]["rooms"].is_array());
}

#[test]
fn a_kick_answers_when_the_last_socket_is_closed() {
    let mut world = some();
    world.clients.insert(ConnId(STUBBORN), client(STUBBORN, "u8", "Mule", "192.0.2.8", &["lobby"]));
    let daemon = Daemon::start(world);
    let mut kicker = daemon.raw();
    kicker.send(json!({"method": "org.wschat.Control.Kick", "parameters": {"filter": {"room": "lobby"}}}));
    // It is under way, and not answered: two are gone, one is waited for.
    until("three are closed", || daemon.world.lock().unwrap().closed.len() == 3);
    kicker.0.set_nonblocking(true).unwrap();
    assert_eq!(kicker.0.read(&mut [0; 1]).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    kicker.0.set_nonblocking(false).unwrap();
    daemon.raw().call("org.wschat.Control.Ping", json!({}));
    assert_eq!(kicker.reply().unwrap()["parameters"], json!({"matched": 3, "done": 3, "failed": [], "bans": []}));
}

#[test]
fn streams_want_more_and_everything_else_is_told_apart() {
    let daemon = Daemon::start(some());
    let mut raw = daemon.raw();
    for (method, parameters, error) in [
        ("org.wschat.Control.ListClients", json!({}), "org.varlink.service.ExpectedMore"),
        ("org.wschat.Control.Events", json!({}), "org.varlink.service.ExpectedMore"),
        ("org.wschat.Control.Nothing", json!({}), "org.varlink.service.MethodNotFound"),
        ("org.wschat.Control.Push", json!({}), "org.varlink.service.MethodNotFound"),
        ("org.wschat.Push.Push", json!({}), "org.varlink.service.MethodNotFound"),
        ("org.example.Nothing", json!({}), "org.varlink.service.InterfaceNotFound"),
        ("nothing", json!({}), "org.varlink.service.InterfaceNotFound"),
        ("", json!({}), "org.varlink.service.InterfaceNotFound"),
        ("org.wschat.Control.ShowClient", json!({}), "org.varlink.service.InvalidParameter"),
        ("org.wschat.Control.ShowClient", json!({"id": "1"}), "org.varlink.service.InvalidParameter"),
        ("org.wschat.Control.ShowClient", json!({"id": -1}), "org.varlink.service.InvalidParameter"),
        ("org.wschat.Control.ShowClient", json!([1]), "org.varlink.service.InvalidParameter"),
        ("org.wschat.Control.Ping", json!({"x": 1}), "org.varlink.service.InvalidParameter"),
        ("org.wschat.Control.Kick", json!({}), "org.wschat.Control.EmptyFilter"),
        ("org.wschat.Control.Kick", json!({"filter": {}}), "org.wschat.Control.EmptyFilter"),
        ("org.wschat.Control.Kick", json!({"filter": {"usr": "u1"}}), "org.varlink.service.InvalidParameter"),
        ("org.wschat.Control.Kick", json!({"filter": {"ip": "1.2.3"}}), "org.wschat.Control.BadValue"),
        ("org.wschat.Control.Kick", json!({"filter": {"older": -1.0}}), "org.wschat.Control.BadValue"),
        ("org.wschat.Control.Kick", json!({"filter": {"older": 1e300}}), "org.wschat.Control.BadValue"),
        ("org.wschat.Control.Kick", json!({"all": true, "filter": {"user": "u1"}}), "org.wschat.Control.BadValue"),
        ("org.wschat.Control.Kick", json!({"all": true, "ids": [1]}), "org.wschat.Control.BadValue"),
        ("org.wschat.Control.Kick", json!({"ids": [1], "code": 1005}), "org.wschat.Control.BadValue"),
        (
            "org.wschat.Control.Kick",
            json!({"ids": [1], "code": 4000, "reconnect": true}),
            "org.wschat.Control.BadValue",
        ),
        ("org.wschat.Control.Kick", json!({"ids": [1], "reason": "x".repeat(124)}), "org.wschat.Control.BadValue"),
        ("org.wschat.Control.Notice", json!({"target": {}, "text": "x"}), "org.wschat.Control.BadValue"),
        (
            "org.wschat.Control.Notice",
            json!({"target": {"everyone": true, "user": "u1"}, "text": "x"}),
            "org.wschat.Control.BadValue",
        ),
        (
            "org.wschat.Control.Notice",
            json!({"target": {"everyone": true}, "text": " "}),
            "org.wschat.Control.BadValue",
        ),
        ("org.wschat.Control.ShowRoom", json!({"room": "a b"}), "org.wschat.Control.BadValue"),
        ("org.wschat.Control.ShowRoom", json!({"room": "attic"}), "org.wschat.Control.NoSuchRoom"),
        (
            "org.varlink.service.GetInterfaceDescription",
            json!({"interface": "x"}),
            "org.varlink.service.InterfaceNotFound",
        ),
    ] {
        let reply = raw.call(method, parameters.clone());
        assert_eq!(error_of(&reply), error, "{method} {parameters}");
        assert!(reply["parameters"].is_object(), "{reply}");
    }
    raw.send(json!({"method": "org.wschat.Control.Ping", "upgrade": true}));
    assert_eq!(error_of(&raw.reply().unwrap()), "org.varlink.service.InvalidParameter");
    let world = daemon.world.lock().unwrap();
    assert!(world.closed.is_empty() && world.notices.is_empty());
}

#[test]
fn the_push_socket_takes_push_alone() {
    let daemon = Daemon::start(some());
    let mut push = Raw::connect(&daemon.push());
    let info = push.call("org.varlink.service.GetInfo", json!({}));
    assert_eq!(info["parameters"]["interfaces"], json!(["org.varlink.service", "org.wschat.Push"]));
    let refused = push.call("org.wschat.Control.Kick", json!({"all": true}));
    assert_eq!(refused["error"], "org.varlink.service.InterfaceNotFound");
    assert_eq!(refused["parameters"]["interface"], "org.wschat.Control");
    for (who, users, clients) in [
        (json!({"user": "u1"}), 1, 1),
        (json!({"user": "nobody"}), 0, 0),
        (json!({"room": "lobby"}), 2, 2),
        (json!({"room": "attic"}), 0, 0),
        (json!({"user": "u2", "room": "tea"}), 1, 1),
        (json!({"user": "u1", "room": "tea"}), 0, 0),
    ] {
        let online = push.call("org.wschat.Push.Online", who.clone());
        assert_eq!(online["parameters"], json!({"users": users, "clients": clients}), "{who}");
    }
    let noticed = push.call("org.wschat.Push.Notice", json!({"target": {"room": "tea"}, "text": "ready"}));
    assert_eq!(noticed["parameters"], json!({"matched": 1, "delivered": 1}));
    let bad = push.call("org.wschat.Push.Notice", json!({"target": {"room": "t t"}, "text": "ready"}));
    assert_eq!(bad["error"], "org.wschat.Push.BadValue");
}

#[test]
fn oneway_calls_are_done_and_not_answered() {
    let daemon = Daemon::start(some());
    let mut raw = daemon.raw();
    let notice = json!({"target": {"everyone": true}, "text": "hush"});
    raw.send(json!({"method": "org.wschat.Control.Notice", "parameters": notice, "oneway": true}));
    raw.send(json!({"method": "org.wschat.Control.Nonsense", "oneway": true}));
    raw.send(json!({"method": "org.wschat.Control.ListClients", "oneway": true, "more": true}));
    assert_eq!(raw.call("org.wschat.Control.Ping", json!({})), json!({"parameters": {}}));
    assert_eq!(daemon.world.lock().unwrap().notices.len(), 1);
}

#[test]
fn garbage_is_answered_or_closed_and_never_the_end() {
    let daemon = Daemon::start(some());
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    let mut noise = Vec::new();
    for _ in 0..50_000 {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        noise.push(random as u8);
    }
    let deep = [vec![b'['; 100_000], vec![0]].concat();
    for garbage in [
        &b"\0"[..],
        b"\0\0\0\0",
        b"hello\0",
        b"[]\0",
        b"{}\0",
        b"null\0",
        b"{\"method\": 7}\0",
        b"{\"method\": \"\xff\xfe\"}\0",
        b"{\"method\": \"org.wschat.Control.Ping\"",
        b"GET / HTTP/1.1\r\n\r\n",
        &deep,
        &noise,
    ] {
        let mut raw = daemon.raw();
        // It may be closed before all is written.
        let _ = raw.0.write_all(garbage);
        let _ = raw.0.shutdown(Shutdown::Write);
        if let Some(reply) = raw.reply() {
            assert_eq!(error_of(&reply), "org.wschat.Control.Malformed");
            assert_eq!(raw.reply(), None);
        }
    }
    assert_eq!(daemon.raw().call("org.wschat.Control.Ping", json!({})), json!({"parameters": {}}));
    assert!(daemon.world.lock().unwrap().log.is_empty(), "nothing above debug");
}

#[test]
fn calls_that_are_too_long_are_refused() {
    let daemon = Daemon::start(some());
    for ended in [true, false] {
        let mut raw = daemon.raw();
        let mut long = b"{\"method\": \"".to_vec();
        long.resize(1024 * 1024 + 1, b'x');
        if ended {
            long.push(0);
        }
        let _ = raw.0.write_all(&long);
        let reply = raw.reply().unwrap();
        assert_eq!(error_of(&reply), "org.wschat.Control.CallTooLarge");
        assert_eq!(reply["parameters"]["limit"], 1024 * 1024);
        assert_eq!(raw.reply(), None);
    }
    // Just short enough.
    let mut raw = daemon.raw();
    let mut call = json!({"method": "org.wschat.Control.Ping", "x": ""}).to_string();
    call.insert_str(call.len() - 2, &"y".repeat(1024 * 1024 - call.len()));
    raw.0.write_all(call.as_bytes()).unwrap();
    raw.0.write_all(b"\0").unwrap();
    assert_eq!(raw.reply().unwrap(), json!({"parameters": {}}));
}

#[test]
fn calls_in_pieces_and_calls_together_are_all_answered() {
    let daemon = Daemon::start(some());
    let mut raw = daemon.raw();
    for byte in b"{\"method\":\"org.wschat.Control.Ping\"}\0" {
        raw.0.write_all(&[*byte]).unwrap();
    }
    assert_eq!(raw.reply().unwrap(), json!({"parameters": {}}));
    let mut together = Vec::new();
    for id in 1..=3 {
        let call = json!({"method": "org.wschat.Control.ShowClient", "parameters": {"id": id}});
        together.extend(call.to_string().into_bytes());
        together.push(0);
    }
    raw.0.write_all(&together).unwrap();
    // Whoever has said everything still gets its answers.
    raw.0.shutdown(Shutdown::Write).unwrap();
    for id in 1..=3 {
        assert_eq!(raw.reply().unwrap()["parameters"]["client"]["id"], id);
    }
    assert_eq!(raw.reply(), None);
}

#[test]
fn one_caller_too_many_is_told_so() {
    let daemon = Daemon::start(some());
    let mut open: Vec<Raw> = (0..CONNECTIONS).map(|_| daemon.raw()).collect();
    // All of them are in.
    for raw in &mut open {
        raw.call("org.wschat.Control.Ping", json!({}));
    }
    let mut late = daemon.raw();
    let reply = late.reply().unwrap();
    assert_eq!(error_of(&reply), "org.wschat.Control.TooManyConnections");
    assert_eq!(reply["parameters"]["limit"], CONNECTIONS);
    assert_eq!(late.reply(), None);
    let ran = daemon.ctl(&["ping"]);
    assert_eq!(ran.status, 75, "{ran:?}");
    assert!(ran.stderr.contains("64 others"), "{ran:?}");
    // The other socket has places of its own, and a place that is free again is free.
    Raw::connect(&daemon.push()).call("org.varlink.service.GetInfo", json!({}));
    open.pop();
    until("a free place", || daemon.ctl(&["ping"]).status == 0);
}

#[test]
fn a_watcher_that_does_not_read_is_told_how_many_it_missed() {
    let daemon = Daemon::start(some());
    let mut slow = daemon.raw();
    slow.send(json!({"method": "org.wschat.Control.Events", "more": true}));
    assert_eq!(slow.reply().unwrap()["parameters"], json!({"ready": true}));
    let mut quick = daemon.raw();
    quick.send(json!({"method": "org.wschat.Control.Events", "more": true, "parameters": {"types": ["slow"]}}));
    quick.reply().unwrap();
    // Far more than a socket's buffer holds; others are answered all the while.
    let total = 5000;
    let mut other = daemon.raw();
    for n in 0..total {
        daemon.events.send(event(EventKind::Message)).unwrap();
        if n % EVENTS == 0 {
            other.call("org.wschat.Control.Ping", json!({}));
        }
    }
    daemon.events.send(event(EventKind::Slow)).unwrap();
    let (mut got, mut missed) = (0, 0);
    loop {
        let reply = slow.reply().unwrap();
        assert_eq!(reply["continues"], true);
        missed += reply["parameters"]["missed"].as_u64().unwrap_or(0);
        match reply["parameters"]["event"]["type"].as_str() {
            Some("message") => got += 1,
            Some("slow") => break,
            _ => {}
        }
    }
    assert!(missed > 0, "it was never slow");
    assert_eq!(got + missed, total as u64);
    let mut told = quick.reply().unwrap();
    while told["parameters"]["event"].is_null() {
        told = quick.reply().unwrap();
    }
    assert_eq!(told["parameters"]["event"]["type"], "slow");
}

#[test]
fn a_watcher_that_leaves_gives_its_place_back() {
    let daemon = Daemon::start(some());
    let mut raw = daemon.raw();
    raw.send(json!({"method": "org.wschat.Control.Events", "more": true}));
    raw.reply().unwrap();
    assert_eq!(daemon.events.receiver_count(), 1);
    drop(raw);
    until("no watcher", || daemon.events.receiver_count() == 0);
}

#[test]
fn the_daemons_end_ends_the_watch_and_idle_connections() {
    let mut daemon = Daemon::start(some());
    let mut watcher = daemon.raw();
    watcher.send(json!({"method": "org.wschat.Control.Events", "more": true}));
    watcher.reply().unwrap();
    let mut idle = daemon.raw();
    idle.call("org.wschat.Control.Ping", json!({}));
    daemon.stop();
    assert_eq!((watcher.reply(), idle.reply()), (None, None));
}

#[test]
fn a_full_queue_is_busy() {
    let daemon = Daemon::start(World { hung: true, ..some() });
    // Two calls fill it; whichever comes third is the first to have an answer.
    let (say, said) = std::sync::mpsc::channel();
    for _ in 0..3 {
        let (mut raw, say) = (daemon.raw(), say.clone());
        std::thread::spawn(move || {
            raw.send(json!({"method": "org.wschat.Control.Ping"}));
            // The others hear nothing before the daemon ends, and the test with it.
            let _ = say.send(raw.reply());
        });
    }
    assert_eq!(error_of(&said.recv().unwrap().unwrap()), "org.wschat.Control.Busy");
    // Nothing was lost: the daemon still says who it is, without the hub.
    let info = daemon.raw().call("org.varlink.service.GetInfo", json!({}));
    assert_eq!(info["parameters"]["product"], "wschat");
}

#[test]
fn pages_stream_and_end() {
    let mut world = World::default();
    for id in 1..=1500 {
        let view = client(id, &format!("u{id}"), &format!("n{id}"), "192.0.2.1", &[]);
        world.clients.insert(ConnId(id), view);
    }
    let daemon = Daemon::start(world);
    let mut raw = daemon.raw();
    let mut list = |parameters: Value| -> (usize, usize, u64) {
        raw.send(json!({"method": "org.wschat.Control.ListClients", "more": true, "parameters": parameters}));
        let (mut replies, mut rows) = (0, 0);
        loop {
            let reply = raw.reply().unwrap();
            replies += 1;
            rows += reply["parameters"]["clients"].as_array().unwrap().len();
            if reply.get("continues").is_none() {
                return (replies, rows, reply["parameters"]["matched"].as_u64().unwrap());
            }
        }
    };
    let (replies, rows, matched) = list(json!({}));
    assert!(replies > 1);
    assert_eq!((rows, matched), (1500, 1500));
    assert_eq!(list(json!({"limit": 3})), (1, 3, 3));
    assert_eq!(list(json!({"limit": 0})), (1, 0, 0));
    assert_eq!(list(json!({"limit": 512})), (1, 512, 512));
    assert_eq!(list(json!({"count": true})), (1, 0, 1500));
    assert_eq!(list(json!({"filter": {"user": "u1400"}})), (1, 1, 1));
    assert_eq!(list(json!({"filter": {"user": "nobody"}})), (1, 0, 0));
    let kicked = raw.call("org.wschat.Control.Kick", json!({"all": true, "dry_run": true}));
    assert_eq!(kicked["parameters"], json!({"matched": 1500, "done": 0, "failed": [], "bans": []}));
}

#[test]
fn the_first_in_an_order_come_without_the_others() {
    let mut world = World::default();
    for id in 1..=1500 {
        let view = client(id, &format!("u{id}"), &format!("n{id}"), "192.0.2.1", &[]);
        view.peer.counters.sendq.store((id * 7919 % 1500) as usize, std::sync::atomic::Ordering::Relaxed);
        world.clients.insert(ConnId(id), view);
    }
    let daemon = Daemon::start(world);
    let mut raw = daemon.raw();
    let mut first = |parameters: Value| {
        raw.send(json!({"method": "org.wschat.Control.ListClients", "more": true, "parameters": parameters}));
        let mut reply = raw.reply().unwrap();
        assert_eq!(reply.get("continues"), None);
        reply["parameters"].take()
    };
    let reply = first(json!({"sort": "sendq", "descending": true, "limit": 3}));
    let waiting: Vec<u64> =
        reply["clients"].as_array().unwrap().iter().map(|row| row["sendq"].as_u64().unwrap()).collect();
    assert_eq!((waiting, reply["matched"].as_u64()), (vec![1499, 1498, 1497], Some(1500)));
    let reply = first(json!({"sort": "sendq", "limit": 1000}));
    let waiting: Vec<u64> =
        reply["clients"].as_array().unwrap().iter().map(|row| row["sendq"].as_u64().unwrap()).collect();
    assert_eq!(waiting, (0..1000).collect::<Vec<u64>>());
    let reply = first(json!({"sort": "id", "limit": 2, "filter": {"user": "u700"}}));
    assert_eq!((&reply["matched"], &reply["clients"][0]["id"]), (&json!(1), &json!(700)));
    for (parameters, wrong) in [
        (json!({"sort": "size", "limit": 3}), "sort"),
        (json!({"sort": "sendq"}), "limit"),
        (json!({"sort": "sendq", "limit": 0}), "limit"),
        (json!({"sort": "sendq", "limit": 1001}), "limit"),
        (json!({"sort": "sendq", "limit": 3, "count": true}), "count"),
        (json!({"descending": true}), "descending"),
    ] {
        raw.send(json!({"method": "org.wschat.Control.ListClients", "more": true, "parameters": parameters}));
        let reply = raw.reply().unwrap();
        assert_eq!(error_of(&reply), "org.wschat.Control.BadValue", "{reply}");
        assert_eq!(reply["parameters"]["parameter"], wrong);
    }
    for (parameters, wrong) in
        [(json!({"sort": "rate", "limit": 3, "stored": true}), "stored"), (json!({"limit": 3}), "limit")]
    {
        let reply = raw.call("org.wschat.Control.ListRooms", parameters);
        assert_eq!(reply["parameters"]["parameter"], wrong, "{reply}");
    }
    // wschatctl leaves the choice to the daemon, and shows the same as if it had sorted itself.
    let ran = daemon.ctl(&["list", "-o", "id,sendq", "--sort=-sendq", "--limit", "2"]);
    let all = daemon.ctl(&["list", "-o", "id,sendq", "--sort=-sendq"]);
    assert_eq!(ran.stdout.lines().collect::<Vec<_>>(), all.stdout.lines().take(2).collect::<Vec<_>>());
}

#[test]
fn what_changes_something_is_written_down() {
    let daemon = Daemon::start(some());
    let mut raw = daemon.raw();
    raw.call("org.wschat.Control.Status", json!({}));
    raw.call("org.wschat.Control.Kick", json!({"ids": [1, 77], "reason": "enough"}));
    raw.call("org.wschat.Control.Notice", json!({"target": {"user": "u2"}, "text": "psst"}));
    raw.call("org.wschat.Control.Reload", json!({}));
    daemon.world.lock().unwrap().reload = Some(Err("wschat.toml:3:1: bad".into()));
    raw.call("org.wschat.Control.Reload", json!({"tls_only": true}));
    let log = daemon.world.lock().unwrap().log.clone();
    assert_eq!(log.len(), 4, "{log:#?}");
    let uid = nix::unistd::geteuid();
    let name = nix::unistd::User::from_uid(uid).unwrap().unwrap().name;
    for line in &log {
        assert!(line.contains(&format!(" uid={uid} pid={} user_name=\"{name}\"", std::process::id())), "{line}");
    }
    for (line, parts) in log.iter().zip([
        &[
            " kicked ids [1, 77]: 1 of 1 connections closed with 4003 enough",
            "code=4003",
            "reason=\"enough\"",
            "matched=1",
            "done=1",
            "failed=1",
        ][..],
        &[" sent a notice to user u2: \"psst\"", "matched=1", "done=1"],
        &[" reloaded the configuration and certificate", "changed=0"],
        &[" could not reload the certificate: wschat.toml:3:1: bad"],
    ]) {
        for part in parts {
            assert!(line.contains(part), "{part} in {line}");
        }
    }
}
