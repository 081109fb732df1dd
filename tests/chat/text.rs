//! The text dialect: a message is its text, and the tutorials' page works.

use serde_json::json;

use crate::support::{Client, Daemon, NO_RATE, until};

/// The first one there, and in its room before anybody else comes.
#[track_caller]
fn first(daemon: &Daemon) -> Client {
    let client = daemon.text();
    until("it is there", || (daemon.ctl_json(&["list", "--count", "--room", "lobby"])["count"] == 1).then_some(()));
    client
}

/// The line that answers a too long one shows that everything before it has been read.
#[track_caller]
fn nothing_more(client: &mut Client, locale: &str) {
    client.text(&"x".repeat(5000));
    let told = client.line();
    assert!(told.contains(if locale == "en" { "not sent" } else { "消息过长,未发送" }), "{told}");
}

#[test]
fn comings_goings_and_talk_in_both_languages() {
    for (locale, joined, left, notice) in [
        ("en", "System: a user has joined, 2 online", "System: a user has left, 1 online", "System: 维护"),
        ("zh-CN", "系统通知: 新用户加入,当前在线2人", "系统通知: 用户离开,当前在线1人", "系统通知: 维护"),
    ] {
        let daemon = Daemon::start(&format!("[chat]\nlocale = \"{locale}\"\n"));
        let mut ann = daemon.text();
        nothing_more(&mut ann, locale);
        let mut bob = daemon.dial_tls().open("/wss");
        assert_eq!(ann.line(), joined);
        bob.text("你好, everyone\n\u{1f600}");
        assert_eq!(ann.line(), "你好, everyone\n\u{1f600}", "its text alone");
        ann.text("");
        assert_eq!(bob.line(), "", "no text is a text");
        assert!(daemon.ctl(&["notice", "维护"]).status.success());
        assert_eq!(ann.line(), notice);
        assert_eq!(bob.line(), notice);
        bob.send(&crate::support::Frame::close(1000, b""));
        assert_eq!(bob.end().code(), 1000);
        assert_eq!(ann.line(), left);
        nothing_more(&mut ann, locale);
        daemon.stop();
    }
}

#[test]
fn both_dialects_meet_in_the_default_room() {
    let daemon = Daemon::start("[chat]\ndefault_rooms = [\"tea\", \"lobby\"]\n");
    let mut text = daemon.text();
    nothing_more(&mut text, "en");
    let mut json = daemon.json();
    json.say("hello", json!({"nick": "安"}));
    json.expect("welcome");
    let joined = &json.expect("joined")["payload"];
    assert_eq!((&joined["room"], &joined["online"]), (&json!("tea"), &json!(2)));
    json.expect("joined");
    assert_eq!(text.line(), "System: a user has joined, 2 online");

    json.say("message", json!({"text": "hello"}));
    assert_eq!(json.expect("ack")["payload"]["seq"], 1);
    assert_eq!(text.line(), "安: hello");
    text.text("and {\"type\":\"ping\"} to you");
    let message = json.expect("message");
    assert_eq!((&message["seq"], &message["payload"]["room"]), (&json!(2), &json!("tea")));
    assert_eq!(message["payload"]["text"], "and {\"type\":\"ping\"} to you");
    let from = &message["payload"]["from"];

    // What is said in the other room is not heard here; what is said to the user is.
    json.say("message", json!({"room": "lobby", "text": "not for you"}));
    json.expect("ack");
    json.say("message", json!({"to": from["user"], "text": "for you"}));
    assert_eq!(json.expect("ack")["payload"]["delivered"], 1);
    assert_eq!(text.line(), "安: for you");
    // Nicks, typing and the like are not for it.
    json.say("typing", json!({"room": "tea", "on": true}));
    json.say("nick", json!({"nick": "An"}));
    json.expect("ack");
    nothing_more(&mut text, "en");
    daemon.stop();
}

#[test]
fn texts_of_every_length_up_to_the_limit() {
    let daemon = Daemon::start(&NO_RATE.replace("[limits]\n", "[limits]\ntext = \"65535B\"\nframe = \"128KiB\"\n"));
    let (mut ann, mut bob) = (first(&daemon), daemon.text());
    // It has joined before it speaks: that is what the other hears first.
    assert!(ann.line().contains("joined"));
    for length in [0, 1, 125, 126, 127, 4096, 65_534, 65_535] {
        let text = "x".repeat(length);
        ann.text(&text);
        assert_eq!(bob.line(), text, "{length}");
    }
    // The limit counts bytes, not characters.
    ann.text(&format!("{}{}", "界".repeat(21_844), "xyz"));
    assert!(bob.line().ends_with("界xyz"));
    ann.text(&format!("{}{}", "界".repeat(21_844), "xyzz"));
    assert!(ann.line().contains("not sent"));
    ann.text(&"x".repeat(65_536));
    assert!(ann.line().contains("not sent"));
    ann.text("still here");
    assert_eq!(bob.line(), "still here");
    daemon.stop();
}

#[test]
fn every_plane_of_unicode_in_both_dialects() {
    let daemon = Daemon::start(NO_RATE);
    let mut text = first(&daemon);
    let mut json = daemon.guest("Ann");
    assert!(text.line().contains("joined"));
    for plane in 0..=16_u32 {
        let points = [0, 1, 0x20, 0x7f, 0x80, 0x7ff, 0x800, 0x2028, 0xd7ff, 0xe000, 0xfffd, 0xfffe, 0xffff];
        let sample: String = points.iter().filter_map(|point| char::from_u32(plane << 16 | point)).collect();
        text.text(&sample);
        assert_eq!(json.skip_to("message")["text"], sample, "plane {plane}");
        json.say("message", json!({"text": sample}));
        assert_eq!(text.line(), format!("Ann: {sample}"), "plane {plane}");
    }
    daemon.stop();
}
