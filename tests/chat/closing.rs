//! The close handshake begun by the client, right and wrong, and how the sockets end after it.

use std::io::Read;
use std::net::Shutdown;

use serde_json::{Value, json};

use crate::support::frame::{CLOSE, PING};
use crate::support::{Client, Daemon, Fin, Frame};

/// The answer to a close frame, and then the end of the stream, which the daemon comes first to:
/// nothing of ours is closed yet.
#[track_caller]
fn answer(client: &mut Client) -> Frame {
    let frame = loop {
        let frame = client.frame().unwrap();
        if frame.opcode == CLOSE {
            break frame;
        }
    };
    assert_eq!(client.frame(), Err(Fin::Orderly), "close_notify where there is TLS, and FIN");
    frame
}

#[test]
fn the_code_is_echoed_and_the_daemon_closes_tcp_first() {
    let daemon = Daemon::start("[paths]\necho = \"/echo\"\n");
    for path in ["/chat", "/wss", "/echo"] {
        for dial in [daemon.dial(), daemon.dial_tls()] {
            for code in [1000, 1001, 1003, 1007, 1011, 1013, 3000, 3999, 4000, 4999] {
                let mut client = dial.open(path);
                client.send(&Frame::close(code, "so long 再见".as_bytes()));
                let echoed = answer(&mut client);
                assert_eq!(echoed.payload[..2], code.to_be_bytes(), "{path}");
            }
            let mut client = dial.open(path);
            client.send(&Frame::new(CLOSE, ""));
            assert_eq!(answer(&mut client), Frame::new(CLOSE, ""), "{path}: no code, no code");
            let mut client = dial.open(path);
            client.send(&Frame::close(1000, &[b'x'; 123]));
            assert_eq!(answer(&mut client).payload[..2], 1000_u16.to_be_bytes());
        }
    }
    daemon.stop();
}

#[test]
fn a_welcomed_client_closes_the_same_way() {
    let daemon = Daemon::start("");
    let mut watch = daemon.guest("Watch");
    for tls in [false, true] {
        let mut ann = if tls { daemon.dial_tls().open("/chat") } else { daemon.json() };
        ann.hello(json!({"nick": "Ann"}));
        watch.expect("presence");
        ann.send(&Frame::close(4999, b""));
        assert_eq!(answer(&mut ann).payload, 4999_u16.to_be_bytes());
        // In order is in order: nobody is waited for.
        assert_eq!(watch.expect("presence")["payload"]["state"], "leave");
    }
    daemon.stop();
}

#[test]
fn codes_that_nobody_may_send_are_a_breach_of_protocol() {
    let daemon = Daemon::start("");
    for dial in [daemon.dial(), daemon.dial_tls()] {
        for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535] {
            let mut client = dial.open("/chat");
            client.send(&Frame::close(code, b""));
            assert_eq!(answer(&mut client).payload[..2], 1002_u16.to_be_bytes(), "{code}");
        }
        let mut client = dial.open("/chat");
        client.send(&Frame::new(CLOSE, [3]));
        assert_eq!(answer(&mut client).payload[..2], 1002_u16.to_be_bytes(), "half a code");
        for reason in [&[0xff][..], b"ok\xc3", b"\xed\xa0\x80"] {
            let mut client = dial.open("/chat");
            client.send(&Frame::close(1000, reason));
            assert_eq!(answer(&mut client).payload[..2], 1007_u16.to_be_bytes(), "{reason:?}");
        }
    }
    daemon.stop();
}

#[test]
fn nothing_after_the_close_frame_counts() {
    let daemon = Daemon::start("");
    let mut watch = daemon.guest("Watch");
    let mut ann = daemon.guest("Ann");
    watch.expect("presence");
    let late = Frame::text(r#"{"type":"message","payload":{"text":"too late"}}"#).masked();
    ann.raw(&[Frame::close(1000, b"").masked(), late, Frame::new(PING, "x").masked(), vec![0xff; 5000]].concat());
    assert_eq!(answer(&mut ann), Frame::close(1000, b""));
    assert_eq!(watch.expect("presence")["payload"]["state"], "leave");
    assert_eq!(watch.said(), [] as [Value; 0]);
    daemon.stop();
}

#[test]
fn what_was_said_before_the_close_frame_counts() {
    let daemon = Daemon::start("");
    let mut watch = daemon.guest("Watch");
    let mut ann = daemon.guest("Ann");
    watch.expect("presence");
    let last = Frame::text(r#"{"type":"message","payload":{"text":"last words"}}"#).masked();
    ann.raw(&[last, Frame::close(1000, b"").masked()].concat());
    answer(&mut ann);
    assert_eq!(watch.expect("message")["payload"]["text"], "last words");
    assert_eq!(watch.expect("presence")["payload"]["state"], "leave");
    daemon.stop();
}

#[test]
fn a_bye_is_answered_by_a_close_and_its_answer_waited_for() {
    let daemon = Daemon::start("");
    for dial in [daemon.dial(), daemon.dial_tls()] {
        let mut client = dial.open("/chat");
        client.hello(json!({}));
        client.say("bye", json!({}));
        let bye = client.skip_to("bye");
        assert_eq!((&bye["code"], &bye["reconnect"], &bye["after_ms"]), (&json!(1000), &json!(false), &json!(0)));
        let close = client.frame().unwrap();
        assert_eq!((close.opcode, &close.payload[..2]), (CLOSE, &1000_u16.to_be_bytes()[..]));
        client.send(&close);
        assert_eq!(client.frame(), Err(Fin::Orderly));
    }
    daemon.stop();
}

#[test]
fn one_who_never_answers_a_close_is_not_waited_for_long() {
    let daemon = Daemon::start("");
    let mut watch = daemon.guest("Watch");
    let mut client = daemon.guest("Ann");
    watch.expect("presence");
    client.say("bye", json!({}));
    client.skip_to("bye");
    assert_eq!(client.frame().unwrap().opcode, CLOSE);
    // It hears no answer, and closes all the same.
    assert!(client.frame().is_err());
    daemon.serves();
    daemon.stop();
}

#[test]
fn half_closed_sockets_get_their_answers() {
    let daemon = Daemon::start("[paths]\necho = \"/echo\"\n");
    let mut client = daemon.dial().open("/echo");
    client.raw(&[Frame::text("last").masked(), Frame::close(1000, b"").masked()].concat());
    client.stream.tcp().shutdown(Shutdown::Write).unwrap();
    assert_eq!(client.line(), "last");
    assert_eq!(answer(&mut client), Frame::close(1000, b""));
    // FIN where a close frame would be the answer: the rest is in order all the same.
    for dial in [daemon.dial(), daemon.dial_tls()] {
        let mut client = dial.open("/chat");
        client.say("bye", json!({}));
        client.stream.tcp().shutdown(Shutdown::Write).unwrap();
        client.skip_to("bye");
        assert_eq!(answer(&mut client).payload[..2], 1000_u16.to_be_bytes());
    }
    // FIN without a close frame: the connection is lost, and ends.
    let client = daemon.dial().open("/echo");
    client.stream.tcp().shutdown(Shutdown::Write).unwrap();
    assert_eq!(client.stream.tcp().read(&mut [0; 10]).unwrap(), 0);
    daemon.stop();
}
