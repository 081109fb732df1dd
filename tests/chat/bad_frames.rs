//! Broken framing, bad UTF-8 and binary messages: the right close code reaches whoever sent them.

use crate::support::frame::{BINARY, CLOSE, CONTINUE, PING, TEXT};
use crate::support::{Daemon, Frame};

const ECHO: &str = "[paths]\necho = \"/echo\"\n";

/// Whoever sends `bytes` to one of `paths` is closed with `code`, in order, with what it still sends
/// under way.
#[track_caller]
fn closes(daemon: &Daemon, paths: &[&str], what: &str, bytes: &[u8], code: u16) {
    for path in paths {
        for dial in [daemon.dial(), daemon.dial_tls()] {
            let mut client = dial.open(path);
            client.raw(bytes);
            // Unread bytes would turn the daemon's FIN into a reset.
            client.raw(&[0xff; 3000]);
            assert_eq!(client.end().code(), code, "{what} at {path}");
        }
    }
}

const ALL: &[&str] = &["/chat", "/wss", "/echo"];

#[test]
fn broken_framing_is_1002() {
    let daemon = Daemon::start(ECHO);
    let frame = |opcode, payload: &str| Frame::new(opcode, payload);
    for rsv in 1..=7 {
        closes(&daemon, ALL, "reserved bits", &frame(TEXT, "x").rsv(rsv).masked(), 1002);
        closes(&daemon, &["/chat"], "reserved bits of a ping", &frame(PING, "x").rsv(rsv).masked(), 1002);
    }
    for opcode in [3, 4, 5, 6, 7, 11, 12, 13, 14, 15] {
        closes(&daemon, ALL, "a reserved opcode", &frame(opcode, "x").masked(), 1002);
    }
    for opcode in [PING, 10, CLOSE] {
        closes(&daemon, ALL, "a fragmented control frame", &frame(opcode, "").unfinished().masked(), 1002);
        closes(&daemon, ALL, "a control frame too long", &frame(opcode, &"x".repeat(126)).masked(), 1002);
        closes(&daemon, ALL, "a control frame much too long", &frame(opcode, &"x".repeat(5000)).masked(), 1002);
    }
    closes(&daemon, ALL, "a continuation of nothing", &frame(CONTINUE, "x").masked(), 1002);
    closes(&daemon, ALL, "a continuation of nothing, unfinished", &frame(CONTINUE, "").unfinished().masked(), 1002);
    let interrupted = [frame(TEXT, "x").unfinished().masked(), frame(TEXT, "y").masked()].concat();
    closes(&daemon, ALL, "a message inside a message", &interrupted, 1002);
    let ended_twice = [frame(TEXT, "{}").unfinished(), frame(CONTINUE, ""), frame(CONTINUE, "")];
    let ended_twice: Vec<u8> = ended_twice.iter().flat_map(Frame::masked).collect();
    closes(&daemon, ALL, "an end after the end", &ended_twice, 1002);
    daemon.serves();
    daemon.stop();
}

#[test]
fn frames_without_a_mask_are_1002() {
    let daemon = Daemon::start(ECHO);
    closes(&daemon, ALL, "an unmasked close", &[0x88, 0x02, 0x03, 0xe8], 1002);
    closes(&daemon, ALL, "an unmasked text", &Frame::text("x").unmasked(), 1002);
    closes(&daemon, ALL, "an unmasked nothing", &Frame::text("").unmasked(), 1002);
    closes(&daemon, ALL, "an unmasked ping", &Frame::new(PING, "").unmasked(), 1002);
    let later = [Frame::new(PING, "x").masked(), Frame::text("x").unmasked()].concat();
    closes(&daemon, ALL, "an unmasked second frame", &later, 1002);
    daemon.stop();
}

#[test]
fn text_that_is_not_utf_8_is_1007() {
    let daemon = Daemon::start(ECHO);
    for bad in [
        &b"\xff"[..],
        b"ok\x80",
        b"\xc0\xaf",
        b"\xc3",
        b"\xe7\x95",
        b"\xed\xa0\x80",
        b"\xf4\x90\x80\x80",
        b"\xf0\x9f\x98",
        b"{\"type\":\"ping\",\"payload\":{\"x\":\"\xff\"}}",
    ] {
        closes(&daemon, ALL, "bad UTF-8", &Frame::new(TEXT, bad).masked(), 1007);
        let (first, second) = bad.split_at(bad.len() / 2);
        let split = [Frame::new(TEXT, first).unfinished().masked(), Frame::new(CONTINUE, second).masked()].concat();
        closes(&daemon, ALL, "bad UTF-8 in fragments", &split, 1007);
    }
    // A character may be split; an end in the middle of one is no end.
    let half = [Frame::new(TEXT, b"\xe7\x95").unfinished().masked(), Frame::new(CONTINUE, "").masked()].concat();
    closes(&daemon, ALL, "half a character", &half, 1007);
    daemon.stop();
}

#[test]
fn binary_in_a_chat_is_1003() {
    let daemon = Daemon::start("");
    let chats = &["/chat", "/wss"];
    closes(&daemon, chats, "binary", &Frame::new(BINARY, "{\"type\":\"ping\"}").masked(), 1003);
    closes(&daemon, chats, "nothing binary", &Frame::new(BINARY, "").masked(), 1003);
    let split = [Frame::new(BINARY, "x").unfinished().masked(), Frame::new(CONTINUE, "y").masked()].concat();
    closes(&daemon, chats, "binary in fragments", &split, 1003);
    daemon.stop();
}

#[test]
fn who_breaks_it_after_a_hello_is_told_and_others_go_on() {
    let daemon = Daemon::start("");
    let mut watch = daemon.guest("Watch");
    for (bytes, code) in [
        (Frame::new(11, "").masked(), 1002),
        (Frame::new(TEXT, b"\xff").masked(), 1007),
        (Frame::new(BINARY, "").masked(), 1003),
        (Frame::new(TEXT, vec![b'x'; 65_537]).masked(), 1009),
    ] {
        let mut ann = daemon.dial_tls().open("/chat");
        ann.hello(serde_json::json!({}));
        watch.skip_to("presence");
        ann.raw(&bytes);
        let (end, _) = ann.end_and_said();
        assert_eq!(end.code(), code);
        watch.message("undisturbed");
    }
    daemon.stop();
}
