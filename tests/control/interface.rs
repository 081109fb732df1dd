//! The `.varlink` files and what the daemon really says must not part.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use wschat::admin::order::{ClientKey, RoomKey};

use crate::fake::{Daemon, Raw, World, some};

/// Members and methods of an interface: each name with the names of its fields; a method's
/// replies are found as `Method()`.
fn parse(text: &str) -> BTreeMap<String, Vec<String>> {
    let text: String = text.lines().filter(|line| !line.starts_with('#')).flat_map(|line| [line, " "]).collect();
    let fields = |inside: &str| -> Vec<String> {
        let parts = inside.split(',').map(|part| part.split(':').next().unwrap().trim().to_owned());
        parts.filter(|name| !name.is_empty()).collect()
    };
    let mut found = BTreeMap::new();
    let mut rest = text.as_str();
    while let Some(at) = ["type ", "method ", "error "].iter().filter_map(|word| rest.find(word)).min() {
        rest = &rest[at..];
        let is_method = rest.starts_with("method ");
        rest = &rest[rest.find(' ').unwrap() + 1..];
        let open = rest.find('(').unwrap();
        let name = rest[..open].trim().to_owned();
        let close = rest.find(')').unwrap();
        found.insert(name.clone(), fields(&rest[open + 1..close]));
        rest = &rest[close + 1..];
        if is_method {
            let (open, close) = (rest.find('(').unwrap(), rest.find(')').unwrap());
            found.insert(format!("{name}()"), fields(&rest[open + 1..close]));
            rest = &rest[close + 1..];
        }
    }
    found
}

fn description(raw: &mut Raw, interface: &str) -> BTreeMap<String, Vec<String>> {
    let reply = raw.call("org.varlink.service.GetInterfaceDescription", json!({"interface": interface}));
    parse(reply["parameters"]["description"].as_str().unwrap())
}

#[track_caller]
fn same(declared: &BTreeMap<String, Vec<String>>, name: &str, value: &Value) {
    let mut declared = declared.get(name).unwrap_or_else(|| panic!("{name} is not declared")).clone();
    declared.sort();
    let mut said: Vec<String> =
        value.as_object().unwrap_or_else(|| panic!("{name}: {value}")).keys().cloned().collect();
    said.sort();
    assert_eq!(declared, said, "{name}");
}

#[test]
fn replies_have_the_declared_fields() {
    let world = World {
        certificate: Some(wschat::admin::CertificateView {
            names: vec!["localhost".into()],
            issuer: "i".into(),
            from: std::time::SystemTime::now(),
            until: std::time::SystemTime::now(),
            fingerprint: "f".into(),
            source: "s".into(),
            renewal: Some(wschat::tls::Renewal {
                names: vec!["localhost".into()],
                directory: "d".into(),
                next: Some(std::time::SystemTime::now()),
                error: Some((std::time::SystemTime::now(), "e".into())),
                failures: 1,
            }),
        }),
        ..some()
    };
    let daemon = Daemon::start(world);
    daemon.world.lock().unwrap().room("lobby").say("hello");
    let mut raw = daemon.raw();
    let control = description(&mut raw, "org.wschat.Control");
    let push = description(&mut raw, "org.wschat.Push");
    let service = description(&mut raw, "org.varlink.service");

    let mut ask = |interface: &str, declared: &BTreeMap<String, Vec<String>>, method: &str, parameters: Value| {
        for name in parameters.as_object().unwrap().keys() {
            assert!(declared[method].contains(name), "{method} takes {name}");
        }
        let full = format!("{interface}.{method}");
        raw.send(json!({"method": full, "parameters": parameters, "more": true}));
        let reply = raw.reply().unwrap();
        assert_eq!(reply.get("error"), None, "{full}: {reply}");
        same(declared, &format!("{method}()"), &reply["parameters"]);
        reply["parameters"].clone()
    };
    let control_interface = "org.wschat.Control";
    ask("org.varlink.service", &service, "GetInfo", json!({}));
    let status = ask(control_interface, &control, "Status", json!({}));
    same(&control, "HistoryStore", &status["history"]);
    let filter = json!({"user": null, "nick": null, "ip": null, "room": null, "dialect": null, "older": null,
        "idle": null, "sendq_over": null});
    same(&control, "Filter", &filter);
    let list = ask(control_interface, &control, "ListClients", json!({"filter": filter, "limit": 2, "count": false}));
    same(&control, "Client", &list["clients"][0]);
    let sorted = json!({"filter": filter, "limit": 2, "sort": "sendq", "descending": true});
    ask(control_interface, &control, "ListClients", sorted);
    let one = ask(control_interface, &control, "ShowClient", json!({"id": 1}));
    same(&control, "Client", &one["client"]);
    let target = json!({"everyone": true, "room": null, "user": null, "client": null});
    same(&control, "Target", &target);
    same(&push, "Target", &target);
    let notice = json!({"target": target, "text": "x", "level": "info"});
    ask(control_interface, &control, "Notice", notice.clone());
    ask("org.wschat.Push", &push, "Notice", notice);
    ask("org.wschat.Push", &push, "Online", json!({"user": "u1", "room": null}));
    let rooms = ask(control_interface, &control, "ListRooms", json!({"stored": true}));
    same(&control, "Room", &rooms["rooms"][0]);
    let sorted = json!({"limit": 1, "sort": "clients", "descending": true});
    let rooms = ask(control_interface, &control, "ListRooms", sorted);
    assert_eq!(rooms["rooms"][0]["name"], "lobby");
    assert_eq!(rooms["rooms"].as_array().unwrap().len(), 1);
    let keys = |known: &[&str]| known.iter().map(|key| key.to_string()).collect::<Vec<_>>();
    assert_eq!(control["ClientKey"], keys(&ClientKey::ALL.map(ClientKey::as_str)));
    assert_eq!(control["RoomKey"], keys(&RoomKey::ALL.map(RoomKey::as_str)));
    let rooms = ask(control_interface, &control, "ListRooms", json!({}));
    same(&control, "Room", &rooms["rooms"][0]);
    let room = ask(control_interface, &control, "ShowRoom", json!({"room": "lobby"}));
    same(&control, "RoomDetail", &room["room"]);
    same(&control, "Member", &room["room"]["members"][0]);
    ask(control_interface, &control, "Reload", json!({"tls_only": true}));
    ask(control_interface, &control, "LogLevel", json!({"level": "debug"}));
    let tls = ask(control_interface, &control, "Tls", json!({}));
    same(&control, "Certificate", &tls["certificate"]);
    ask(control_interface, &control, "Ping", json!({}));
    let kick = json!({"ids": [1, 4], "filter": null, "all": null, "code": 4003, "reason": "r", "reconnect": false,
        "dry_run": false, "ban": false, "seconds": null, "rate": null});
    let kicked = ask(control_interface, &control, "Kick", kick);
    same(&control, "Failure", &kicked["failed"][0]);

    let pages = ask(control_interface, &control, "History", json!({"room": "lobby", "limit": 1}));
    same(&control, "Entry", &pages["entries"][0]);
    ask(control_interface, &control, "CloseRoom", json!({"room": "lobby", "reason": "r"}));
    ask(control_interface, &control, "DeleteMessage", json!({"room": "lobby", "seq": 1}));
    ask(control_interface, &control, "PurgeRoom", json!({"room": "lobby"}));
    ask(control_interface, &control, "AddBan", json!({"ip": "192.0.2.9", "user": null, "seconds": 1e6, "reason": "r"}));
    ask(control_interface, &control, "AddMute", json!({"user": "u1", "room": null, "seconds": 1e6, "reason": "r"}));
    let bans = ask(control_interface, &control, "ListBans", json!({}));
    same(&control, "Ban", &bans["bans"][0]);
    let mutes = ask(control_interface, &control, "ListMutes", json!({}));
    same(&control, "Mute", &mutes["mutes"][0]);
    let edit = json!({"id": 1, "seconds": 1e6, "forever": false, "reason": "r"});
    let ban = ask(control_interface, &control, "EditBan", edit);
    same(&control, "Ban", &ban["ban"]);
    let mute = ask(control_interface, &control, "EditMute", json!({"id": 2, "forever": true}));
    same(&control, "Mute", &mute["mute"]);
    let ban = ask(control_interface, &control, "DeleteBan", json!({"id": 1}));
    same(&control, "Ban", &ban["ban"]);
    let mute = ask(control_interface, &control, "DeleteMute", json!({"id": 2}));
    same(&control, "Mute", &mute["mute"]);
    let wish = json!({"user": "u1", "name": "N", "rooms": ["lobby"], "roles": ["moderator"], "seconds": 60.0});
    ask(control_interface, &control, "MintToken", wish);
    let stats = ask(control_interface, &control, "Stats", json!({"openmetrics": false}));
    let histogram = stats["metrics"].as_array().unwrap().iter().find(|metric| metric["type"] == "histogram").unwrap();
    same(&control, "Metric", histogram);
    same(&control, "Sample", &histogram["samples"][0]);
    same(&control, "Bucket", &histogram["samples"][0]["buckets"][0]);
    let stats = ask(control_interface, &control, "Stats", json!({"openmetrics": true}));
    assert_eq!((&stats["metrics"], stats["openmetrics"].is_string()), (&json!([]), true));

    daemon.world.lock().unwrap().clients.clear();
    ask(control_interface, &control, "Drain", json!({"over": 60.0, "notice": "n"}));
    let status = ask(control_interface, &control, "Status", json!({}));
    same(&control, "DrainState", &status["drain"]);
    ask(control_interface, &control, "Resume", json!({}));

    // What is left is answered elsewhere in these tests, and nothing else is declared.
    let methods: Vec<&str> = control.keys().filter_map(|name| name.strip_suffix("()")).collect();
    assert_eq!(
        methods,
        [
            "AddBan",
            "AddMute",
            "Backup",
            "CloseRoom",
            "DeleteBan",
            "DeleteMessage",
            "DeleteMute",
            "Drain",
            "EditBan",
            "EditMute",
            "Events",
            "History",
            "Kick",
            "ListBans",
            "ListClients",
            "ListMutes",
            "ListRooms",
            "LogLevel",
            "MintToken",
            "Notice",
            "Ping",
            "PurgeRoom",
            "Reload",
            "Resume",
            "ShowClient",
            "ShowRoom",
            "Stats",
            "Status",
            "Tls",
        ]
    );
    let methods: Vec<&str> = push.keys().filter_map(|name| name.strip_suffix("()")).collect();
    assert_eq!(methods, ["Notice", "Online"]);
}

#[test]
fn every_own_error_is_declared_with_its_parameters() {
    use wschat::control::protocol::{CONTROL, CONTROL_TEXT, PUSH_TEXT, Refusal, SERVICE_TEXT};
    let text = String::new;
    let all = [
        Refusal::InterfaceNotFound { interface: text() },
        Refusal::MethodNotFound { method: text() },
        Refusal::MethodNotImplemented { method: text() },
        Refusal::InvalidParameter { parameter: text() },
        Refusal::ExpectedMore {},
        Refusal::BadValue { parameter: text(), value: text(), expected: text() },
        Refusal::EmptyFilter { expected: text() },
        Refusal::NoSuchClient { id: 1 },
        Refusal::NoSuchRoom { room: text() },
        Refusal::NoSuchMessage { room: text(), seq: 1 },
        Refusal::NoSuchBan { id: 1 },
        Refusal::NoSuchMute { id: 1 },
        Refusal::TooManySanctions { limit: 1 },
        Refusal::NotSaved { ids: vec![], reason: text() },
        Refusal::HistoryUnavailable { reason: text() },
        Refusal::NotDraining {},
        Refusal::BackupUnderWay {},
        Refusal::NothingToBackUp { store: text() },
        Refusal::BackupFailed { reason: text() },
        Refusal::NoSecret { reason: text() },
        Refusal::ReloadRefused { reason: text() },
        Refusal::Busy {},
        Refusal::TimedOut { seconds: 1 },
        Refusal::Stopping {},
        Refusal::TooManyConnections { limit: 1 },
        Refusal::CallTooLarge { limit: 1 },
        Refusal::Malformed { reason: text() },
    ];
    for refusal in all {
        let (name, parameters) = refusal.to_wire(CONTROL);
        let (interface, short) = name.rsplit_once('.').unwrap();
        let declared = if interface == CONTROL { CONTROL_TEXT } else { SERVICE_TEXT };
        same(&parse(declared), short, &parameters);
    }
    for name in ["BadValue", "Busy", "TimedOut", "Stopping", "TooManyConnections", "CallTooLarge", "Malformed"] {
        assert_eq!(parse(PUSH_TEXT)[name], parse(CONTROL_TEXT)[name]);
    }
}

/// What a real backup sends is read by `wschatctl` into these types (tests/durable).
#[test]
fn the_parts_of_a_backup_have_the_declared_fields() {
    use wschat::control::protocol::{BackupPart, BackupProgress, BackupWhole, CONTROL_TEXT};
    let part = BackupPart {
        progress: Some(BackupProgress { bytes: 1, of: 2 }),
        chunk: Some(String::new()),
        whole: Some(BackupWhole { bytes: 1, sha256: String::new(), rooms: 1, entries: 1 }),
    };
    let (declared, part) = (parse(CONTROL_TEXT), serde_json::to_value(part).unwrap());
    same(&declared, "Backup()", &part);
    same(&declared, "BackupProgress", &part["progress"]);
    same(&declared, "BackupWhole", &part["whole"]);
}

#[test]
fn an_event_has_the_declared_fields() {
    let daemon = Daemon::start(some());
    let mut raw = daemon.raw();
    let control = description(&mut raw, "org.wschat.Control");
    raw.send(json!({"method": "org.wschat.Control.Events", "more": true}));
    assert_eq!(raw.reply().unwrap(), json!({"parameters": {"ready": true}, "continues": true}));
    daemon.events.send(crate::socket::event(wschat::admin::EventKind::Connect)).unwrap();
    let reply = raw.reply().unwrap();
    same(&control, "Event", &reply["parameters"]["event"]);
    assert_eq!(control["Events()"], ["ready", "event", "missed"]);
    let kinds: Vec<&str> = wschat::admin::EventKind::ALL.iter().map(|kind| kind.as_str()).collect();
    assert!(kinds.iter().all(|kind| control["EventType"].iter().any(|name| name == kind)));
}
