//! What one client, one address and all together may use, and what is said to who wants more.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::client::refused;
use crate::support::frame::{BINARY, PING, PONG, TEXT};
use crate::support::{Daemon, Frame, until};

#[test]
fn a_text_that_is_too_long_is_told_and_not_sent() {
    let daemon = Daemon::start("[limits]\ntext = \"100B\"\n");
    let (mut ann, mut bob) = (daemon.guest("Ann"), daemon.guest("Bob"));
    ann.message(&"x".repeat(100));
    assert_eq!(bob.skip_to("message")["text"], "x".repeat(100));
    let error = refused(&mut ann, "message", json!({"text": "x".repeat(101)}));
    assert_eq!((&error["code"], &error["temporary"]), (&json!("too_long"), &json!(false)));
    assert!(error.get("retry_ms").is_none(), "{error}");
    // Bytes of the text itself, not of how it was written.
    ann.text(&format!(r#"{{"type":"message","payload":{{"text":"{}"}}}}"#, "\\u0041".repeat(100)));
    assert_eq!(bob.skip_to("message")["text"], "A".repeat(100));
    assert_eq!(refused(&mut ann, "message", json!({"text": "界".repeat(34)}))["code"], "too_long");
    assert_eq!(bob.said(), [] as [Value; 0]);
    daemon.stop();
}

#[test]
fn too_many_messages_are_told_when_to_come_again() {
    let daemon = Daemon::start("[limits]\nrate = \"1/m\"\nburst = 3\n");
    // The hello is free.
    let mut ann = daemon.guest("Ann");
    for text in ["one", "two", "three"] {
        ann.message(text);
    }
    let error = refused(&mut ann, "message", json!({"text": "four"}));
    assert_eq!((&error["code"], &error["temporary"]), (&json!("rate_limited"), &json!(true)));
    let wait = error["retry_ms"].as_u64().unwrap();
    assert!((1..=60_000).contains(&wait), "{error}");
    // Pongs are free; a ping is not.
    ann.say("pong", json!({}));
    assert_eq!(refused(&mut ann, "ping", json!({}))["code"], "rate_limited");

    // Whoever waits as told is heard.
    let daemon = Daemon::start("[limits]\nrate = \"5/s\"\nburst = 1\n");
    let mut bob = daemon.json();
    bob.hello(json!({}));
    bob.message("first");
    let re = bob.say("message", json!({"text": "soon"}));
    let answer = bob.json();
    if answer["type"] == "error" {
        let wait = answer["payload"]["retry_ms"].as_u64().unwrap();
        // What the daemon has asked for, by the clock that it looks at as well.
        std::thread::sleep(Duration::from_millis(wait));
        bob.message("then");
    } else {
        // So slow a machine that the time had passed already.
        assert_eq!(answer["payload"]["re"], re);
    }
    daemon.stop();
}

#[test]
fn who_does_not_stop_is_flooding() {
    let daemon = Daemon::start("[limits]\nrate = \"1/m\"\nburst = 3\n");
    let mut ann = daemon.guest("Ann");
    let mut text = daemon.text();
    for _ in 0..3 + 3 * 5 + 1 {
        text.text("again");
        ann.text("{}");
    }
    let (end, said) = ann.end_and_said();
    assert_eq!(end.code(), 4101);
    let bye: Value = serde_json::from_str(said.last().unwrap()).unwrap();
    assert_eq!((&bye["type"], &bye["payload"]["code"]), (&json!("bye"), &json!(4101)));
    assert_eq!(bye["payload"]["reconnect"], true);
    let (end, said) = text.end_and_said();
    assert_eq!(end.code(), 4101);
    assert_eq!(said.iter().filter(|line| line.contains("not sent")).count(), 15, "{said:?}");
    daemon.serves();
    daemon.stop();
}

#[test]
fn a_flood_of_pings_is_flooding_too() {
    let daemon = Daemon::start("[paths]\necho = \"/echo\"\n");
    for (path, frame) in [("/chat", PING), ("/wss", PING), ("/echo", PING), ("/wss", PONG)] {
        let mut client = daemon.dial().open(path);
        let flood: Vec<u8> = (0..5000).flat_map(|_| Frame::new(frame, "x").masked()).collect();
        // It may be cut off before it has said all that.
        let _ = client.stream.put(&flood);
        assert_eq!(client.end().code(), 4101, "{path} {frame}");
    }
    daemon.serves();
    daemon.stop();
}

#[test]
fn a_client_may_be_in_so_many_rooms() {
    let daemon = Daemon::start("[limits]\nrooms_per_client = 3\n");
    let mut ann = daemon.guest("Ann");
    for room in ["a", "b"] {
        ann.say("join", json!({"room": room}));
        ann.expect("joined");
    }
    let error = refused(&mut ann, "join", json!({"room": "c"}));
    assert_eq!(error["code"], "forbidden");
    ann.say("leave", json!({"room": "a"}));
    ann.expect("left");
    ann.say("join", json!({"room": "c"}));
    ann.expect("joined");

    let mut bob = daemon.json();
    bob.say("hello", json!({"rooms": ["1", "2", "3", "4", "5"]}));
    bob.expect("welcome");
    let answers: Vec<Value> = (0..4).map(|_| bob.json()).collect();
    let (joined, errors): (Vec<&Value>, Vec<&Value>) = answers.iter().partition(|answer| answer["type"] == "joined");
    assert_eq!((joined.len(), errors.len()), (3, 1), "one error for all that are too many: {answers:?}");
    assert_eq!(errors[0]["payload"]["code"], "forbidden");
    bob.say("ping", json!({}));
    bob.expect("pong");
    daemon.stop();
}

#[test]
fn more_clients_than_allowed_are_asked_to_come_later() {
    let daemon = Daemon::start("[limits]\nclients = 2\n");
    let (first, mut second) = (daemon.guest("Ann"), daemon.dial_tls().open("/wss"));
    for dial in [daemon.dial(), daemon.dial_tls()] {
        let refused = dial.try_open("/chat").err().expect("no place");
        assert_eq!(refused.status, 503);
        let after: u64 = refused.header("retry-after").unwrap().parse().unwrap();
        assert!(after >= 1);
    }
    second.text("undisturbed");
    drop(first);
    // The place of one who left is free.
    let mut third = until("there is a place", || daemon.dial().try_open("/chat").ok());
    third.say("ping", json!({}));
    third.expect("pong");
    daemon.stop();
}

#[test]
fn one_address_has_so_many_clients() {
    let daemon = Daemon::start("[limits]\nclients_per_ip = 2\n");
    let from = |address: &str| daemon.dial().from(address);
    let first = from("192.0.2.1").open("/chat");
    let _second = from("192.0.2.1").open("/wss");
    let refused = from("192.0.2.1").try_open("/chat").err().expect("too many");
    assert_eq!(refused.status, 429);
    assert!(refused.header("retry-after").is_some(), "{refused:?}");
    // Others are not in its way: a /64 is one address, and so is one mapped into IPv6.
    let _third = from("192.0.2.2").open("/chat");
    let _six = (from("2001:db8::1").open("/chat"), from("2001:db8::2:2").open("/chat"));
    assert_eq!(from("2001:db8::3").try_open("/chat").err().expect("too many").status, 429);
    let _other = from("2001:db8:0:1::3").open("/chat");
    assert_eq!(from("::ffff:192.0.2.1").try_open("/chat").err().expect("too many").status, 429);
    // A proxy that speaks for nobody but itself, on this machine, is not counted.
    let _own: Vec<_> = (0..4).map(|_| daemon.json()).collect();
    drop(first);
    until("there is a place", || from("192.0.2.1").try_open("/chat").ok());
    daemon.stop();
}

#[test]
fn one_address_connects_so_often() {
    let daemon = Daemon::start("[limits]\nhandshakes_per_ip = \"2/m\"\n");
    let from = |address: &str| daemon.dial().from(address);
    // A bucket of one handshake: the next comes back in half a minute.
    from("192.0.2.1").open("/chat");
    let refused = from("192.0.2.1").try_open("/chat").err().expect("too fast");
    assert_eq!(refused.status, 429);
    let after: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=30).contains(&after), "{after}");
    from("192.0.2.2").open("/chat");
    daemon.stop();
}

#[test]
fn a_message_over_the_limit_of_a_frame_is_too_big() {
    let daemon = Daemon::start("[limits]\nframe = \"1000B\"\ntext = \"900B\"\n");
    let envelope = |length: usize| {
        let empty = r#"{"type":"ping","payload":{"x":""}}"#.len();
        format!(r#"{{"type":"ping","payload":{{"x":"{}"}}}}"#, "x".repeat(length - empty))
    };
    for dial in [daemon.dial(), daemon.dial_tls()] {
        let mut exact = dial.open("/chat");
        exact.text(&envelope(1000));
        assert_eq!(exact.expect("pong")["payload"]["x"].as_str().unwrap().len(), 1000 - 34);
        let mut over = dial.open("/chat");
        over.text(&envelope(1001));
        assert_eq!(over.end().code(), 1009);
        // The head alone says enough: nobody waits for what must not come.
        for (opcode, head) in [(TEXT, vec![254, 0x03, 0xe9]), (BINARY, [&[255][..], &u64::MAX.to_be_bytes()].concat())]
        {
            let mut over = dial.open("/wss");
            over.raw(&[vec![0x80 | opcode], head, vec![1, 2, 3, 4]].concat());
            assert_eq!(over.end().code(), 1009, "{opcode}");
        }
    }
    daemon.stop();
}

#[test]
fn who_says_nothing_at_all_is_not_waited_for() {
    let daemon = Daemon::start("[timeouts]\nhello = \"300ms\"\n[paths]\necho = \"/echo\"\n");
    let mut text = daemon.text();
    let mut echo = daemon.dial().open("/echo");
    for dial in [daemon.dial(), daemon.dial_tls()] {
        let mut silent = dial.open("/chat");
        let (end, said) = silent.end_and_said();
        assert_eq!(end.code(), 4002);
        let bye: Value = serde_json::from_str(said.last().unwrap()).unwrap();
        assert_eq!((&bye["type"], &bye["payload"]["reconnect"]), (&json!("bye"), &json!(false)));
    }
    // Bytes of a frame that never ends are nothing said; pings of the protocol neither.
    let mut half = daemon.json();
    half.raw(&[0x81, 0x89]);
    assert_eq!(half.expect("bye")["payload"]["code"], 4002);
    // It comes with the request, so that it is there before the wait for a hello begins.
    let mut pings = daemon.dial().early(Frame::new(PING, "").masked()).open("/chat");
    assert_eq!(pings.frame().unwrap().opcode, PONG);
    assert_eq!(pings.end().code(), 4002);
    // Nobody waits for a hello in the other dialects.
    text.send(&Frame::new(PING, ""));
    assert_eq!(text.frame().unwrap().opcode, PONG);
    echo.text("x");
    assert_eq!(echo.line(), "x");
    daemon.stop();
}

#[test]
fn who_answers_no_ping_is_dropped() {
    let daemon = Daemon::start("[timeouts]\nping = \"1s\"\npresence = \"0s\"\n");
    let mut text = daemon.text();
    let mut silent = daemon.dial_tls().open("/chat");
    silent.hello(json!({"nick": "Silent"}));
    let mut lively = daemon.guest("Lively");
    let answering = std::thread::spawn(move || {
        // Pings, until the silent one is gone.
        let mut pings = 0;
        loop {
            let frame = lively.json();
            match frame["type"].as_str().unwrap() {
                "ping" => {
                    pings += 1;
                    lively.say("pong", json!({}));
                }
                "presence" if frame["payload"]["nick"] == "Silent" && frame["payload"]["state"] == "leave" => {
                    return (lively, pings);
                }
                _ => {}
            }
        }
    });
    let (end, said) = silent.end_and_said();
    assert_eq!(end.code(), 4201);
    let kinds = said.iter().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let kinds: Vec<Value> = kinds.map(|mut value| value["type"].take()).filter(|kind| kind != "presence").collect();
    assert_eq!(kinds, ["ping", "ping", "bye"], "two pings in its own dialect");
    let (mut lively, pings) = answering.join().unwrap();
    assert!(pings >= 1);
    lively.say("ping", json!({}));
    lively.skip_to("pong");

    // The text dialect sees pings of the protocol, and its pongs keep it.
    let mut pinged = 0;
    while pinged < 2 {
        let frame = text.frame().unwrap();
        if frame.opcode == PING {
            pinged += 1;
        }
        assert_ne!(frame.opcode, crate::support::frame::CLOSE, "it has had no time to answer");
    }
    assert_eq!(text.end().code(), 4201);
    daemon.stop();
}

#[test]
fn pongs_of_the_protocol_keep_a_client() {
    let daemon = Daemon::start("[timeouts]\nping = \"1s\"\n");
    let mut text = daemon.text();
    for _ in 0..4 {
        let ping = text.frame().unwrap();
        assert_eq!(ping.opcode, PING, "{ping:?}");
        text.send(&Frame::new(PONG, ping.payload));
    }
    daemon.stop();
}

#[test]
fn fragments_without_end_are_flooding_too() {
    let daemon = Daemon::start("[paths]\necho = \"/echo\"\n");
    for path in ["/chat", "/wss", "/echo"] {
        let mut client = daemon.dial().open(path);
        let mut flood = Frame::text("").unfinished().masked();
        flood.extend((0..200_000).flat_map(|_| Frame::new(0, "").unfinished().masked()));
        // It may be cut off before it has said all that.
        let _ = client.stream.put(&flood);
        assert_eq!(client.end().code(), 4101, "{path}");
    }
    // As many as a message of the limit can need are none.
    let mut honest = daemon.dial().open("/echo");
    let text = "x".repeat(4000);
    let mut parts = Frame::text("").unfinished().masked();
    parts.extend(text.bytes().flat_map(|b| Frame::new(0, vec![b]).unfinished().masked()));
    parts.extend(Frame::new(0, "").masked());
    honest.raw(&parts);
    assert_eq!(honest.line(), text);
    daemon.stop();
}
