//! Both directions, against PROTOCOL.md's tables.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use proptest::prelude::*;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::*;
use crate::chat::event::*;
use crate::chat::id::{ConnId, Nick, RoomName, UserId};
use crate::wire::close;

fn room(name: &str) -> RoomName {
    RoomName::parse(name).unwrap()
}

fn frame(value: Value) -> ClientFrame {
    match parse(&value.to_string()).said {
        Ok(Said::Frame(frame)) => frame,
        other => panic!("{value} is {other:?}"),
    }
}

fn refused(text: &str) -> (u64, ErrorCode, String) {
    match parse(text).said {
        Err(Refusal { re, code, message }) => (re, code, message),
        Ok(said) => panic!("{text} is {said:?}"),
    }
}

#[test]
fn every_type_is_read() {
    let f = |kind: &str, payload: Value| frame(json!({"type": kind, "payload": payload, "seq": 7, "more": [1]}));
    let r = || room("大厅");
    assert_eq!(f("join", json!({"room": "大厅", "x": {}})), ClientFrame::Join { room: r(), history: 0 });
    assert_eq!(f("join", json!({"room": "大厅", "history": 9})), ClientFrame::Join { room: r(), history: 9 });
    assert_eq!(f("leave", json!({"room": "大厅"})), ClientFrame::Leave { room: r() });
    assert_eq!(f("who", json!({"room": "大厅"})), ClientFrame::Who { room: r() });
    assert_eq!(f("typing", json!({"room": "大厅", "on": true})), ClientFrame::Typing { room: r(), on: true });
    assert_eq!(f("nick", json!({"nick": "a"})), ClientFrame::Nick { nick: "a".into() });
    let message = |to, cid: Option<&str>| ClientFrame::Message { to, text: "t".into(), cid: cid.map(str::to_owned) };
    assert_eq!(f("message", json!({"text": "t", "cid": ""})), message(MessageTo::DefaultRoom, None));
    let to = MessageTo::User(UserId::parse("u").unwrap());
    assert_eq!(f("message", json!({"text": "t", "to": "u", "room": null})), message(to, None));
    assert_eq!(
        f("message", json!({"text": "t", "room": "大厅", "cid": "c"})),
        message(MessageTo::Room(r()), Some("c"))
    );
    let history = |range, limit| ClientFrame::History { room: r(), range, limit };
    assert_eq!(f("history", json!({"room": "大厅"})), history(HistoryRange::Latest, 50));
    assert_eq!(f("history", json!({"room": "大厅", "before": 3, "limit": 5})), history(HistoryRange::Before(3), 5));
    let far = json!({"room": "大厅", "after": u64::MAX, "limit": u64::MAX});
    assert_eq!(f("history", far), history(HistoryRange::After(u64::MAX), u32::MAX));
}

#[test]
fn what_is_no_number_of_messages_and_no_reason_is_said() {
    let wrong = |kind: &str, payload| {
        let text = json!({"type": kind, "seq": 3, "payload": payload}).to_string();
        parse(&text).said.unwrap_err()
    };
    let why = wrong("history", json!({"room": "lobby", "limit": 0}));
    assert_eq!((why.re, why.code, why.message.as_str()), (3, ErrorCode::BadRequest, "limit must be at least 1"));
    for odd in ["a\u{1b}[2J", "a\nb", "a\u{202e}b", "a\u{2066}b", "a\u{2028}b"] {
        let why = wrong("mute", json!({"room": "lobby", "user": "u", "reason": odd}));
        assert!(why.code == ErrorCode::BadRequest && why.message.contains("one line of plain text"), "{why:?}");
    }
}

#[test]
fn hello_is_read_with_its_credentials() {
    let text = json!({"type": "hello", "seq": 1, "payload": {
        "v": 1, "token": "t", "guest": "g", "nick": "n", "rooms": ["a", "b"], "agent": "x/1",
        "resume": {"rooms": {"b": {"epoch": "e", "seq": 4}}}, "history": 20,
    }});
    let Ok(Said::Hello(hello)) = parse(&text.to_string()).said else { panic!("not a hello") };
    assert_eq!((hello.v, hello.token.as_deref(), hello.guest.as_deref()), (Some(1), Some("t"), Some("g")));
    assert_eq!(hello.agent.as_deref(), Some("x/1"));
    let expected = Hello {
        identity: Identity::NewGuest,
        nick: Some("n".into()),
        rooms: Some(vec![room("a"), room("b")]),
        resume: vec![(room("b"), Cursor { epoch: "e".into(), seq: 4 })],
        history: 20,
    };
    assert_eq!(hello.with(Identity::NewGuest), expected);
    let Ok(Said::Hello(hello)) = parse(r#"{"type":"hello"}"#).said else { panic!("not a hello") };
    assert_eq!(hello.with(Identity::NewGuest), Hello::default());
}

#[test]
fn the_tutorials_bare_frames_are_read() {
    let Parsed { seq, said } = parse(r#"{"type":"ping"}"#);
    assert!(seq == 0 && matches!(said, Ok(Said::Ping(payload)) if payload.get() == "{}"));
    assert!(matches!(parse(r#" {"type":"pong","payload":null} "#).said, Ok(Said::Pong)));
    assert!(matches!(parse(r#"{"type":"bye","seq":3}"#).said, Ok(Said::Bye)));
}

#[test]
fn a_ping_comes_back_byte_for_byte() {
    let payload = r#"{ "t" : 1.50, "é": [1,{"a":null}] }"#;
    let Ok(Said::Ping(raw)) = parse(&format!(r#"{{"payload":{payload},"type":"ping"}}"#)).said else { panic!() };
    assert_eq!(pong(&raw), format!(r#"{{"type":"pong","payload":{payload},"seq":0}}"#));
    assert_eq!(ping(), r#"{"type":"ping","payload":{},"seq":0}"#);
}

#[test]
fn mistakes_are_named() {
    let bad = [
        ("", "must be an object"),
        ("hello", "must be an object"),
        ("[1]", "not an array"),
        ("{", "EOF"),
        (r#"{"type":"who","payload":{"room":"a"}} x"#, "trailing"),
        ("{}", "type is missing"),
        (r#"{"type":7}"#, "type must be a string"),
        (r#"{"type":"who","type":"who"}"#, "duplicate field `type`"),
        (r#"{"type":"who","seq":-1}"#, "seq must be"),
        (r#"{"type":"who","seq":"1"}"#, "seq must be"),
        (r#"{"type":"ping","payload":[]}"#, "not an array"),
        (r#"{"type":"ping","payload":3}"#, "must be an object"),
    ];
    for (text, why) in bad {
        let (re, code, message) = refused(text);
        assert_eq!((re, code), (0, ErrorCode::BadRequest), "{text}");
        assert!(message.contains(why), "{text}: {message}");
    }
    let bad = [
        (r#""who""#, "{}", "missing field `room`"),
        (r#""who""#, r#"{"room":5}"#, "integer `5`"),
        (r#""join""#, r#"{"room":"a b"}"#, "1 to 64 letters"),
        (r#""join""#, r#"{"room":"a","history":-1}"#, "payload of join"),
        (r#""join""#, r#"["a",1]"#, "not an array"),
        (r#""message""#, r#"{"room":"a"}"#, "missing field `text`"),
        (r#""message""#, r#"{"room":"a","to":"b","text":""}"#, "not both"),
        (r#""message""#, r#"{"to":"","text":""}"#, "1 to 128 bytes"),
        (r#""history""#, r#"{"room":"a","before":1,"after":2}"#, "not both"),
        (r#""hello""#, r#"{"resume":{"rooms":{"a":["e",1]}}}"#, "resume of room a"),
        (r#""hello""#, r#"{"resume":{"rooms":{" ":{"epoch":"e","seq":1}}}}"#, "1 to 64 letters"),
    ];
    for (kind, payload, why) in bad {
        let (re, code, message) = refused(&format!(r#"{{"type":{kind},"payload":{payload},"seq":9}}"#));
        assert_eq!((re, code), (9, ErrorCode::BadRequest), "{kind} {payload}");
        assert!(message.contains(why) && !message.contains("line"), "{payload}: {message}");
    }
    let (re, code, message) = refused(r#"{"type":"shout","seq":4}"#);
    assert_eq!((re, code), (4, ErrorCode::UnknownType));
    assert!(message.contains("\"shout\"") && message.contains("typing"), "{message}");
}

#[test]
fn long_mistakes_get_short_answers_and_deep_ones_none_of_the_stack() {
    let long = "é".repeat(30_000);
    for text in [
        format!(r#"{{"type":"{long}"}}"#),
        format!(r#"{{"type":"who","payload":{{"room":"{long}"}}}}"#),
        format!(r#"{{"type":"typing","payload":{{"room":"a","on":"{long}"}}}}"#),
    ] {
        assert!(refused(&text).2.chars().count() < 300);
    }
    let deep = "[".repeat(1_000_000);
    for text in [
        deep.clone(),
        format!(r#"{{"a":{deep}"#),
        format!(r#"{{"type":"who","payload":{{"room":{deep}"#),
        format!(r#"{{"type":"who","payload":{{"room":{deep}{}}}}}"#, "]".repeat(1_000_000)),
    ] {
        assert_eq!(refused(&text).1, ErrorCode::BadRequest);
    }
}

fn sent(frame: ServerFrame) -> Value {
    serde_json::from_str(&encode(&frame, &Extra { guest: Some("signed") })).unwrap()
}

fn ann() -> Member {
    Member { user: UserId::parse("u").unwrap(), nick: Nick::parse("Ann").unwrap() }
}

fn entry(seq: u64, body: Body) -> Entry {
    let time = UNIX_EPOCH + Duration::from_micros(1_700_000_000_123_999);
    Entry { seq, record: Arc::new(Record { id: "i".into(), time, body }) }
}

fn message(cid: Option<&str>) -> Body {
    Body::Message {
        from: ann(), text: Some("a\"\n\u{1}𝄞".into()), cid: cid.map(str::to_owned), dialect: Dialect::Text
    }
}

#[test]
fn every_frame_is_written_as_the_protocol_says() {
    let Member { user, nick } = ann();
    let limits = Limits { text: 1, frame: 2, rate: 0.5, burst: 3 };
    let welcome = Welcome {
        re: 1,
        client: ConnId(5),
        user: user.clone(),
        nick: nick.clone(),
        guest: Some("bare".into()),
        moderator: false,
        resumed: true,
        limits,
        ping: Duration::from_secs(25),
    };
    assert_eq!(
        sent(ServerFrame::Welcome(Box::new(welcome))),
        json!({"type": "welcome", "seq": 0, "payload": {
            "re": 1, "client": 5, "user": "u", "nick": "Ann", "guest": "signed",
            "server": concat!("wschat/", env!("CARGO_PKG_VERSION")), "ping_ms": 25000,
            "limits": {"text": 1, "frame": 2, "rate": 0.5, "burst": 3}, "resumed": true,
        }})
    );
    let r = || room("r");
    let mut joined =
        Joined { re: 2, room: r(), epoch: "e".into(), seq: 9, recovered: false, online: 1, members: Some(vec![ann()]) };
    let payload = json!({"re": 2, "room": "r", "epoch": "e", "seq": 9, "recovered": false, "online": 1,
        "members": [{"user": "u", "nick": "Ann"}]});
    assert_eq!(
        sent(ServerFrame::Joined(Box::new(joined.clone()))),
        json!({"type": "joined", "seq": 0, "payload": payload})
    );
    joined.members = None;
    assert!(sent(ServerFrame::Joined(Box::new(joined)))["payload"].get("members").is_none());
    let stored = json!({"type": "message", "seq": 3, "payload": {"room": "r", "id": "i", "text": "a\"\n\u{1}𝄞",
        "from": {"user": "u", "nick": "Ann"}, "time": "2023-11-14T22:13:20.123Z", "cid": "c"}});
    assert_eq!(sent(ServerFrame::Entry { room: r(), entry: entry(3, message(Some("c"))) }), stored);
    let data: Arc<RawValue> = RawValue::from_string("[1.0]".into()).unwrap().into();
    let event = entry(4, Body::Event { name: "paid".into(), data: Some(data) });
    let deleted = entry(5, Body::Deleted { target: 3 });
    let page = HistoryPage {
        re: 6,
        room: r(),
        epoch: "e".into(),
        entries: vec![entry(3, message(Some("c"))), event, deleted],
        more: true,
    };
    let event = json!({"type": "event", "seq": 4,
        "payload": {"room": "r", "name": "paid", "data": [1.0], "time": "2023-11-14T22:13:20.123Z"}});
    let deleted = json!({"type": "deleted", "seq": 5, "payload": {"room": "r", "target": 3}});
    assert_eq!(
        sent(ServerFrame::History(Box::new(page))),
        json!({"type": "history", "seq": 0, "payload":
            {"re": 6, "room": "r", "epoch": "e", "messages": [stored, event, deleted], "more": true}})
    );
    let rows = [
        (
            ServerFrame::Left { re: 1, room: r(), reason: None },
            json!({"type": "left", "payload": {"re": 1, "room": "r"}}),
        ),
        (
            ServerFrame::Presence { room: r(), change: None, online: 300 },
            json!({"type": "presence", "payload": {"room": "r", "online": 300}}),
        ),
        (
            ServerFrame::Presence {
                room: r(),
                change: Some(PresenceChange { user: user.clone(), nick: nick.clone(), state: PresenceState::Leave }),
                online: 2,
            },
            json!({"type": "presence",
                "payload": {"room": "r", "user": "u", "nick": "Ann", "state": "leave", "online": 2}}),
        ),
        (
            ServerFrame::Typing { room: r(), user, nick, on: false },
            json!({"type": "typing", "payload": {"room": "r", "user": "u", "nick": "Ann", "on": false}}),
        ),
        (
            ServerFrame::Notice { text: "t".into(), level: Level::Warn, room: None },
            json!({"type": "notice", "payload": {"text": "t", "level": "warn"}}),
        ),
        (
            ServerFrame::Who { re: 8, room: r(), members: vec![], online: 0 },
            json!({"type": "who", "payload": {"re": 8, "room": "r", "members": [], "online": 0}}),
        ),
        (
            ServerFrame::Ack { re: 0, kept: Some(Kept { id: "i".into(), seq: 4, room: r() }), delivered: None },
            json!({"type": "ack", "payload": {"re": 0, "id": "i", "seq": 4, "room": "r"}}),
        ),
        (
            ServerFrame::Ack { re: 1, kept: None, delivered: Some(2) },
            json!({"type": "ack", "payload": {"re": 1, "delivered": 2}}),
        ),
        (
            ServerFrame::Error(ErrorFrame {
                re: 1,
                code: ErrorCode::RateLimited,
                message: "m".into(),
                retry: Some(Duration::from_micros(1)),
            }),
            json!({"type": "error",
                "payload": {"re": 1, "code": "rate_limited", "message": "m", "temporary": true, "retry_ms": 1}}),
        ),
    ];
    for (frame, mut expected) in rows {
        expected["seq"] = json!(0);
        assert_eq!(sent(frame), expected);
    }
    let direct = Direct {
        to: UserId::parse("v").unwrap(),
        id: "i".into(),
        from: ann(),
        text: "t".into(),
        time: UNIX_EPOCH,
        cid: None,
    };
    assert_eq!(
        sent(ServerFrame::Direct(Box::new(direct))),
        json!({"type": "message", "seq": 0, "payload": {"to": "v", "id": "i", "text": "t",
            "from": {"user": "u", "nick": "Ann"}, "time": "1970-01-01T00:00:00.000Z"}})
    );
    let bye: Value = serde_json::from_str(&bye(&close::DRAINING, "r", Duration::from_secs(10))).unwrap();
    assert_eq!(
        bye,
        json!({"type": "bye", "seq": 0,
            "payload": {"code": 1012, "reason": "r", "reconnect": true, "after_ms": 10000}})
    );
}

#[test]
fn no_clock_is_too_wrong_to_be_written() {
    let centuries = Duration::from_secs(86_400 * 365 * 9000);
    for time in [UNIX_EPOCH - Duration::from_secs(1), UNIX_EPOCH + centuries] {
        let record = Arc::new(Record { id: "i".into(), time, body: message(None) });
        let value = sent(ServerFrame::Entry { room: room("r"), entry: Entry { seq: 1, record } });
        assert!(value["payload"]["time"].as_str().is_some_and(|time| time.ends_with('Z')));
    }
}

proptest! {
    /// Whatever comes, an answer goes back that is no longer than it need be.
    #[test]
    fn any_text_is_read_or_refused(text in ".{0,400}") {
        if let Err(refusal) = parse(&text).said {
            prop_assert!(refusal.message.chars().count() < 300);
        }
    }

    /// The same for what nearly is a frame.
    #[test]
    fn any_payload_is_read_or_refused(
        kind in "hello|join|leave|message|history|typing|nick|who|ping|pong|bye|x",
        key in "room|text|to|cid|nick|on|limit|before|after|rooms|resume|v|token",
        value in "null|-?(0|[1-9][0-9]{0,24})|\"[a-zé ]{0,20}\"|\\[\\]|\\{\\}|true|\\{\"rooms\":\\{\"a\":\\{\\}\\}\\}",
        seq in any::<u64>(),
    ) {
        let parsed = parse(&format!(r#"{{"type":"{kind}","payload":{{"room":"r","{key}":{value}}},"seq":{seq}}}"#));
        prop_assert_eq!(parsed.seq, seq);
        if let Err(refusal) = parsed.said {
            prop_assert_eq!(refusal.re, seq);
            prop_assert!(refusal.message.chars().count() < 300);
        }
    }

    /// What a client says in a message is what the others read.
    #[test]
    fn text_survives_both_ways(text in any::<String>(), cid in "[^\\x00]{1,20}", seq in 1..u64::MAX, ms in 0u64..4e12 as u64) {
        let said = json!({"type": "message", "payload": {"room": "r", "text": text, "cid": cid}, "seq": seq});
        let ClientFrame::Message { to, text: read, cid: read_cid } = frame(said) else { panic!("not a message") };
        prop_assert_eq!(to, MessageTo::Room(room("r")));
        let time = SystemTime::UNIX_EPOCH + Duration::from_millis(ms);
        let body = Body::Message { from: ann(), text: Some(read), cid: read_cid, dialect: Dialect::Json };
        let record = Arc::new(Record { id: "i".into(), time, body });
        let value = sent(ServerFrame::Entry { room: room("r"), entry: Entry { seq, record } });
        prop_assert_eq!(value["payload"]["text"].as_str(), Some(text.as_str()));
        prop_assert_eq!(value["payload"]["cid"].as_str(), Some(cid.as_str()));
        prop_assert_eq!(value["seq"].as_u64(), Some(seq));
        let back = humantime::parse_rfc3339(value["payload"]["time"].as_str().unwrap()).unwrap();
        prop_assert_eq!(back, time);
    }
}
