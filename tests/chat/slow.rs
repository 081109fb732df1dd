//! One who reads too slowly is closed, and nobody waits for it.

use serde_json::{Value, json};

use crate::support::{Client, Daemon, NO_RATE};

const OUTBOX: u64 = 256 * 1024;

/// Talks until so much waits for `id` that it is given up; how many messages that took.
fn fill(daemon: &Daemon, speaker: &mut Client, listener: &mut Client, id: u64) -> usize {
    let waiting = || daemon.ctl_json(&["show", &id.to_string()])["client"]["sendq"].as_u64().expect("a number");
    let (mut said, mut before) = (0, 0);
    loop {
        for _ in 0..10 {
            let text = format!("{said} {}", "x".repeat(3900));
            speaker.message(&text);
            assert_eq!(listener.skip_to("message")["text"], text, "nobody else waits");
            said += 1;
        }
        let now = waiting();
        assert!(now <= OUTBOX + 64 * 1024, "bounded: {now}");
        if now < before {
            return said;
        }
        before = now;
        assert!(said < 20_000, "it is never given up; {now} bytes wait");
    }
}

#[test]
fn a_slow_reader_is_told_and_closed_and_nobody_else_waits() {
    let daemon = Daemon::start(NO_RATE);
    let mut speaker = daemon.guest("Speaker");
    let mut listener = daemon.dial_tls().open("/chat");
    listener.hello(json!({}));
    for dial in [daemon.dial(), daemon.dial_tls()] {
        let mut slow = dial.narrow().open("/chat");
        let (is, _) = slow.hello(json!({}));
        let said = fill(&daemon, &mut speaker, &mut listener, is["client"].as_u64().unwrap());
        // It wakes up: what had gone out before is whole, and then it is told.
        let (end, heard) = slow.end_and_said();
        assert_eq!(end.code(), 4102);
        let bye: Value = serde_json::from_str(heard.last().unwrap()).unwrap();
        assert_eq!((&bye["type"], &bye["payload"]["code"]), (&json!("bye"), &json!(4102)));
        assert_eq!(bye["payload"]["reconnect"], true);
        let mut last = 0;
        let messages = heard.iter().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let messages: Vec<Value> = messages.filter(|value| value["type"] == "message").collect();
        for message in &messages {
            let seq = message["seq"].as_u64().unwrap();
            assert!(last == 0 || seq == last + 1, "no hole: {last}, {seq}");
            last = seq;
        }
        assert!(messages.len() < said, "what waited is gone");
        drop(slow);
        speaker.message("on it goes");
        assert_eq!(listener.skip_to("message")["text"], "on it goes");
    }
    daemon.stop();
}

#[test]
fn an_echo_is_read_no_faster_than_it_is_taken_back() {
    let daemon = Daemon::start("[paths]\necho = \"/echo\"\n");
    let mut echo = daemon.dial().narrow().open("/echo");
    let mut writer = Writer::new(&echo);
    let frame = crate::support::Frame::text(&"x".repeat(60_000)).masked();
    // Until the sockets are full in both directions.
    let sent = writer.fill(&frame);
    let list = daemon.ctl_json(&["status"]);
    assert_eq!(list["state"], "serving");
    let finishing = std::thread::spawn(move || writer.finish(&frame));
    let total = sent + 1;
    for _ in 0..total {
        assert_eq!(echo.line().len(), 60_000);
    }
    finishing.join().unwrap();
    daemon.stop();
}

/// Writes frames one after the other into a socket that somebody else reads.
struct Writer {
    tcp: std::net::TcpStream,
    /// Of the frame that is under way.
    written: usize,
}

impl Writer {
    fn new(client: &Client) -> Self {
        Writer { tcp: client.stream.tcp().try_clone().expect("a descriptor"), written: 0 }
    }

    /// Writes whole frames until the socket takes nothing for a while; how many were begun and done.
    fn fill(&mut self, frame: &[u8]) -> usize {
        use std::io::Write;
        self.tcp.set_write_timeout(Some(std::time::Duration::from_millis(500))).expect("a timeout");
        let mut done = 0;
        loop {
            match self.tcp.write(&frame[self.written..]) {
                Ok(n) => self.written += n,
                Err(_) => return done,
            }
            if self.written == frame.len() {
                (self.written, done) = (0, done + 1);
            }
            assert!(done < 2000, "120 MB were taken, and nothing read");
        }
    }

    /// Writes the rest of the frame that is under way.
    fn finish(mut self, frame: &[u8]) {
        use std::io::Write;
        self.tcp.set_write_timeout(Some(crate::support::PATIENCE)).expect("a timeout");
        self.tcp.write_all(&frame[self.written..]).expect("it is read again");
    }
}

#[test]
fn a_notice_does_not_wait_for_one_who_does_not_read() {
    let daemon = Daemon::start(NO_RATE);
    let mut speaker = daemon.guest("Speaker");
    let mut slow = daemon.dial().narrow().open("/chat");
    let (is, _) = slow.hello(json!({}));
    let id = is["client"].as_u64().unwrap().to_string();
    while daemon.ctl_json(&["show", &id])["client"]["sendq"].as_u64().unwrap() == 0 {
        for _ in 0..10 {
            speaker.message(&"x".repeat(3900));
        }
    }
    let told = daemon.ctl(&["--json", "notice", "tea"]);
    let told: Value = serde_json::from_slice(&told.stdout).expect("one document");
    assert_eq!((&told["matched"], &told["done"]), (&json!(2), &json!(1)), "{told}");
    assert_eq!(speaker.skip_to("notice")["text"], "tea");
    daemon.logged("written to 1 of 2 connections");
    daemon.stop();
}
