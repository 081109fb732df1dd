//! An operator ends connections, with the real wschatctl.

use std::io::ErrorKind;
use std::io::Read;

use serde_json::{Value, json};

use crate::support::frame::CLOSE;
use crate::support::{Daemon, Fin, until};

#[test]
fn a_kick_says_why_and_that_the_client_shall_stay_away() {
    let daemon = Daemon::start("");
    let mut watch = daemon.guest("Watch");
    for tls in [false, true] {
        let mut ann = if tls { daemon.dial_tls().open("/chat") } else { daemon.json() };
        let (is, _) = ann.hello(json!({"nick": "Ann"}));
        watch.expect("presence");
        let id = is["client"].to_string();
        let kick = daemon.ctl_command(&["kick", &id, "--reason", "spam 垃圾"]).spawn().unwrap();
        let (end, said) = ann.end_and_said();
        assert_eq!((end.code(), end.close), (4003, Some((4003, "spam 垃圾".to_owned()))));
        let bye: Value = serde_json::from_str(said.last().unwrap()).unwrap();
        let expected = json!({"code": 4003, "reason": "spam 垃圾", "reconnect": false, "after_ms": 0});
        assert_eq!((&bye["type"], &bye["payload"]), (&json!("bye"), &expected));
        drop(ann);
        assert!(kick.wait_with_output().unwrap().status.success());
        assert_eq!(watch.expect("presence")["payload"]["state"], "leave");
    }
    daemon.stop();
}

#[test]
fn a_kick_may_ask_to_come_back_or_say_any_code() {
    let daemon = Daemon::start("");
    for (option, code, reconnect) in [(&["--reconnect"][..], 4200, true), (&["--code", "4321"][..], 4321, false)] {
        let mut ann = daemon.json();
        ann.hello(json!({"nick": "Ann"}));
        let kick = daemon.ctl_command(&[&["kick", "--nick", "ann"], option].concat()).spawn().unwrap();
        let (end, said) = ann.end_and_said();
        assert_eq!(end.code(), code);
        let bye: Value = serde_json::from_str(said.last().unwrap()).unwrap();
        assert_eq!((&bye["payload"]["code"], &bye["payload"]["reconnect"]), (&json!(code), &json!(reconnect)));
        drop(ann);
        assert!(kick.wait_with_output().unwrap().status.success());
    }
    daemon.stop();
}

#[test]
fn the_text_dialect_gets_its_close_frame_and_no_bye() {
    let daemon = Daemon::start("");
    let mut text = daemon.text();
    until("it is there", || (daemon.ctl_json(&["list", "--count", "--dialect", "text"])["count"] == 1).then_some(()));
    let kick = daemon.ctl_command(&["kick", "--dialect", "text"]).spawn().unwrap();
    let (end, said) = text.end_and_said();
    assert_eq!((end.code(), said), (4003, vec![]));
    drop(text);
    assert!(kick.wait_with_output().unwrap().status.success());
    daemon.stop();
}

#[test]
fn the_answer_comes_when_the_sockets_are_closed() {
    let daemon = Daemon::start("");
    let mut stubborn = daemon.json();
    let (is, _) = stubborn.hello(json!({}));
    let mut polite = daemon.json();
    let (other, _) = polite.hello(json!({}));
    let polite = std::thread::spawn(move || polite.end().code());
    // Says nothing, closes nothing: its socket is closed all the same before the answer comes.
    let ids = [is["client"].to_string(), other["client"].to_string()];
    let said = daemon.ctl_json(&["kick", &ids[0], &ids[1]]);
    assert_eq!((&said["matched"], &said["done"], &said["failed"]), (&json!(2), &json!(2), &json!([])));
    assert_eq!(polite.join().unwrap(), 4003);
    stubborn.stream.tcp().set_nonblocking(true).unwrap();
    let mut all = Vec::new();
    match stubborn.stream.tcp().read_to_end(&mut all) {
        Ok(_) => {}
        Err(e) if e.kind() == ErrorKind::ConnectionReset => {}
        Err(e) => panic!("its socket is open: {e}"),
    }
    assert!(all.windows(2).any(|two| two == 4003_u16.to_be_bytes()), "it was told: {all:?}");
    assert!(all.contains(&(0x80 | CLOSE)));
    daemon.stop();
}

#[test]
fn one_that_has_been_kicked_comes_in_no_more() {
    let daemon = Daemon::start("");
    let mut watch = daemon.guest("Watch");
    let mut client = daemon.json();
    let list = until("both are there", || {
        let list = daemon.ctl_json(&["list"])["clients"].take();
        (list.as_array()?.len() == 2).then_some(list)
    });
    let silent = list.as_array().unwrap().iter().find(|row| row["nick"].is_null()).expect("one has said nothing");
    let kick = daemon.ctl_command(&["kick", &silent["id"].to_string()]).spawn().unwrap();
    client.skip_to("bye");
    // Its first words, which would count as a hello.
    client.text(r#"{"type":"ping"}"#);
    client.text(r#"{"type":"message","payload":{"text":"too late"}}"#);
    assert_eq!(client.end().code(), 4003);
    assert!(kick.wait_with_output().unwrap().status.success());
    assert_eq!(watch.said(), [] as [Value; 0]);
    daemon.stop();
}

#[test]
fn everyone_at_once() {
    let daemon = Daemon::start("");
    let clients: Vec<_> = (0..50)
        .map(|n| {
            let mut client = if n % 2 == 0 { daemon.json() } else { daemon.dial_tls().open("/chat") };
            client.hello(json!({}));
            std::thread::spawn(move || client.end())
        })
        .collect();
    let said = daemon.ctl_json(&["kick", "--all", "--yes", "--reason", "night"]);
    assert_eq!((&said["matched"], &said["done"]), (&json!(50), &json!(50)));
    for client in clients {
        let end = client.join().unwrap();
        assert_eq!((end.fin, end.close), (Fin::Orderly, Some((4003, "night".to_owned()))));
    }
    assert_eq!(daemon.clients(), 0);
    daemon.stop();
}
