//! The echo: every message comes back as it was, for those who check a path or a library.

use crate::support::frame::{BINARY, CONTINUE, PING, PONG, TEXT};
use crate::support::{Client, Daemon, Frame};

const ECHO: &str = "[paths]\necho = \"/echo\"\n";

#[track_caller]
fn echoes(client: &mut Client, opcode: u8, payload: Vec<u8>) {
    let sent = Frame::new(opcode, payload);
    client.send(&sent);
    let came = client.frame().unwrap();
    assert!(came == sent, "{} bytes sent, {} came, opcode {}", sent.payload.len(), came.payload.len(), came.opcode);
}

#[test]
fn it_is_there_only_where_it_was_asked_for() {
    let daemon = Daemon::start("");
    let refused = daemon.dial().try_open("/echo").err().expect("no echo");
    assert_eq!(refused.status, 404);
    daemon.stop();
}

#[test]
fn every_length_up_to_the_limit_of_a_frame() {
    let daemon = Daemon::start(ECHO);
    for dial in [daemon.dial(), daemon.dial_tls()] {
        let mut client = dial.open("/echo");
        for length in [0, 1, 2, 125, 126, 127, 128, 1023, 1024, 1025, 65_534, 65_535, 65_536] {
            let bytes = (0..length).map(|n| (n * 7 % 251) as u8);
            echoes(&mut client, BINARY, bytes.clone().collect());
            echoes(&mut client, TEXT, bytes.map(|byte| byte & 0x7f).collect());
        }
        client.send(&Frame::new(BINARY, vec![0; 65_537]));
        assert_eq!(client.end().code(), 1009);
    }
    daemon.stop();
}

#[test]
fn more_messages_than_a_chat_would_allow() {
    let daemon = Daemon::start(ECHO);
    let mut client = daemon.dial().open("/echo");
    for n in 0..500_u32 {
        client.send(&Frame::new(BINARY, n.to_be_bytes()));
    }
    for n in 0..500_u32 {
        assert_eq!(client.frame().unwrap().payload, n.to_be_bytes());
    }
    daemon.stop();
}

#[test]
fn fragments_come_back_as_one_message_whatever_stands_between() {
    let daemon = Daemon::start(ECHO);
    for dial in [daemon.dial(), daemon.dial_tls()] {
        let mut client = dial.open("/echo");
        // Cut inside of characters, and into nothing at all.
        let text = "fragmented: é界\u{1f600}";
        client.send(&Frame::new(TEXT, "").unfinished());
        for byte in text.as_bytes() {
            client.send(&Frame::new(CONTINUE, [*byte]).unfinished());
            client.send(&Frame::new(CONTINUE, "").unfinished());
            client.send(&Frame::new(PING, [*byte]));
            assert_eq!(client.frame().unwrap(), Frame::new(PONG, [*byte]));
            client.send(&Frame::new(PONG, "unasked"));
        }
        client.send(&Frame::new(CONTINUE, ""));
        assert_eq!(client.line(), text);

        // The limit is of the whole.
        let quarter = vec![1; 16 * 1024];
        client.send(&Frame::new(BINARY, quarter.clone()).unfinished());
        for _ in 0..2 {
            client.send(&Frame::new(CONTINUE, quarter.clone()).unfinished());
        }
        client.send(&Frame::new(CONTINUE, quarter.clone()));
        assert_eq!(client.frame().unwrap(), Frame::new(BINARY, quarter.repeat(4)));
        client.send(&Frame::new(BINARY, quarter.repeat(4)).unfinished());
        client.send(&Frame::new(CONTINUE, [1]));
        assert_eq!(client.end().code(), 1009);
    }
    daemon.stop();
}

#[test]
fn a_message_may_arrive_byte_by_byte_or_with_many_others() {
    let daemon = Daemon::start(ECHO);
    for dial in [daemon.dial(), daemon.dial_tls()] {
        let mut client = dial.open("/echo");
        for byte in Frame::text(&"slow".repeat(40)).masked() {
            client.raw(&[byte]);
        }
        assert_eq!(client.line(), "slow".repeat(40));
        let many: Vec<u8> = (0..40).flat_map(|n| Frame::text(&n.to_string()).masked()).collect();
        client.raw(&many);
        for n in 0..40 {
            assert_eq!(client.line(), n.to_string());
        }
    }
    daemon.stop();
}

#[test]
fn pings_come_back_as_pongs_with_what_they_carried() {
    let daemon = Daemon::start(ECHO);
    for path in ["/chat", "/wss", "/echo"] {
        let mut client = daemon.dial().open(path);
        for length in [0, 1, 125] {
            client.send(&Frame::new(PING, vec![0xfe; length]));
            assert_eq!(client.frame().unwrap(), Frame::new(PONG, vec![0xfe; length]), "{path}");
        }
    }
    daemon.stop();
}

#[test]
fn every_plane_of_unicode() {
    let daemon = Daemon::start(ECHO);
    let mut client = daemon.dial().open("/echo");
    for plane in 0..=16_u32 {
        let points = (plane << 16..(plane + 1) << 16).step_by(7).filter_map(char::from_u32);
        let text: String = points.take(15_000).collect();
        client.text(&text);
        assert!(client.line() == text, "plane {plane}");
    }
    daemon.stop();
}
