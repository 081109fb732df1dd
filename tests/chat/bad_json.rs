//! Messages that make no sense: each is answered by the right error, and the connection goes on.

use serde_json::{Value, json};

use crate::support::client::refused;
use crate::support::{Client, Daemon, NO_RATE};

/// Sends `text` and reads the error that answers it.
#[track_caller]
fn answered(client: &mut Client, text: &str, re: u64, code: &str) -> Value {
    client.text(text);
    let error = client.skip_to("error");
    let shown: String = text.chars().take(200).collect();
    assert_eq!((&error["re"], &error["code"]), (&json!(re), &json!(code)), "{shown}: {error}");
    assert_eq!(error["temporary"], false);
    let message = error["message"].as_str().unwrap();
    assert!(!message.is_empty() && message.chars().count() <= 241, "{message}");
    error
}

#[test]
fn what_is_no_message_at_all() {
    let daemon = Daemon::start(NO_RATE);
    let mut client = daemon.guest("Ann");
    for text in [
        "",
        " ",
        "hello",
        "{",
        "{}",
        "[]",
        "null",
        "1",
        "\"message\"",
        "{\"type\":\"ping\"",
        "{\"type\":\"ping\"}}",
        "{\"type\":\"ping\"} {\"type\":\"ping\"}",
        "{\"type\":\"ping\",}",
        "{'type':'ping'}",
        "{\"type\":\"ping\",\"type\":\"ping\"}",
        "[\"message\",{\"text\":\"x\"},1]",
        "\u{feff}{\"type\":\"ping\"}",
        "{\"payload\":{}}",
        "\0",
    ] {
        answered(&mut client, text, 0, "bad_request");
    }
    client.message("still here");
    daemon.stop();
}

#[test]
fn the_number_is_told_wherever_it_can_be_read() {
    let daemon = Daemon::start(NO_RATE);
    let mut client = daemon.guest("Ann");
    for (text, code) in [
        (r#"{"seq":7}"#, "bad_request"),
        (r#"{"seq":7,"type":1}"#, "bad_request"),
        (r#"{"seq":7,"type":null}"#, "bad_request"),
        (r#"{"seq":7,"type":["message"]}"#, "bad_request"),
        (r#"{"seq":7,"type":"message"}"#, "bad_request"),
        (r#"{"seq":7,"type":"message","payload":null}"#, "bad_request"),
        (r#"{"seq":7,"type":"message","payload":[]}"#, "bad_request"),
        (r#"{"seq":7,"type":"message","payload":"x"}"#, "bad_request"),
        (r#"{"seq":7,"type":"message","payload":{}}"#, "bad_request"),
        (r#"{"seq":7,"type":"message","payload":{"text":1}}"#, "bad_request"),
        (r#"{"seq":7,"type":"message","payload":{"text":null}}"#, "bad_request"),
        (r#"{"seq":7,"type":"message","payload":{"text":["x"]}}"#, "bad_request"),
        (r#"{"seq":7,"type":"message","payload":{"text":"\ud800"}}"#, "bad_request"),
        (r#"{"seq":7,"type":"message","payload":{"text":"x","room":1}}"#, "bad_request"),
        (r#"{"seq":7,"type":"message","payload":{"text":"x","room":""}}"#, "bad_request"),
        (r#"{"seq":7,"type":"message","payload":{"text":"x","room":"a b"}}"#, "bad_request"),
        (r#"{"seq":7,"type":"message","payload":{"text":"x","to":""}}"#, "bad_request"),
        (r#"{"seq":7,"type":"message","payload":{"text":"x","cid":1}}"#, "bad_request"),
        (r#"{"seq":7,"type":"join","payload":{}}"#, "bad_request"),
        (r#"{"seq":7,"type":"join","payload":{"room":"x","history":-1}}"#, "bad_request"),
        (r#"{"seq":7,"type":"join","payload":{"room":"x","history":"all"}}"#, "bad_request"),
        (r#"{"seq":7,"type":"leave"}"#, "bad_request"),
        (r#"{"seq":7,"type":"who","payload":{"room":{}}}"#, "bad_request"),
        (r#"{"seq":7,"type":"typing","payload":{"room":"lobby"}}"#, "bad_request"),
        (r#"{"seq":7,"type":"typing","payload":{"room":"lobby","on":1}}"#, "bad_request"),
        (r#"{"seq":7,"type":"nick","payload":{}}"#, "bad_request"),
        (r#"{"seq":7,"type":"nick","payload":{"nick":["x"]}}"#, "bad_request"),
        (r#"{"seq":7,"type":"history","payload":{"room":"lobby","before":"1"}}"#, "bad_request"),
        (r#"{"seq":7,"type":"history","payload":{"room":"lobby","limit":-1}}"#, "bad_request"),
        (r#"{"seq":7,"type":"history","payload":{"room":"lobby","limit":0}}"#, "bad_request"),
        (r#"{"seq":7,"type":"ping","payload":[]}"#, "bad_request"),
        (r#"{"seq":7,"type":"bye","payload":1}"#, "bad_request"),
        (r#"{"seq":7,"type":""}"#, "unknown_type"),
        (r#"{"seq":7,"type":"Message"}"#, "unknown_type"),
        (r#"{"seq":7,"type":"welcome"}"#, "unknown_type"),
        (r#"{"seq":7,"type":"drop table","payload":1}"#, "unknown_type"),
    ] {
        answered(&mut client, text, 7, code);
    }
    for seq in ["-1", "1.5", "1e3", "18446744073709551616", "\"7\"", "[]", "{}", "true"] {
        answered(&mut client, &format!(r#"{{"type":"ping","seq":{seq}}}"#), 0, "bad_request");
    }
    client.message("still here");
    daemon.stop();
}

#[test]
fn numbers_at_the_edge() {
    let daemon = Daemon::start(NO_RATE);
    let mut client = daemon.guest("Ann");
    let most = u64::MAX;
    client.text(&format!(r#"{{"type":"who","payload":{{"room":"lobby"}},"seq":{most}}}"#));
    assert_eq!(client.skip_to("who")["re"], most);
    client.message("m1");
    for payload in [
        json!({"room": "lobby", "limit": most}),
        json!({"room": "lobby", "before": most}),
        json!({"room": "lobby", "after": 0, "limit": most}),
    ] {
        client.say("history", payload.clone());
        assert_eq!(client.skip_to("history")["messages"].as_array().unwrap().len(), 1, "{payload}");
    }
    for payload in [json!({"room": "lobby", "after": most}), json!({"room": "lobby", "before": 0})] {
        client.say("history", payload.clone());
        assert_eq!(client.skip_to("history")["messages"], json!([]), "{payload}");
    }
    client.say("join", json!({"room": "tea", "history": u32::MAX}));
    client.skip_to("joined");
    let resume = json!({"rooms": {"lobby": {"epoch": "", "seq": most}}});
    let mut other = daemon.json();
    other.say("hello", json!({"resume": resume}));
    assert_eq!(other.skip_to("joined")["recovered"], false);
    // Larger than any number there is: skipped where nobody wants it, refused where somebody does.
    let huge = "9".repeat(5000);
    client.text(&format!(r#"{{"type":"who","payload":{{"room":"lobby","x":{huge}}},"seq":1,"y":{huge}}}"#));
    client.skip_to("who");
    answered(
        &mut client,
        &format!(r#"{{"type":"history","payload":{{"room":"lobby","limit":{huge}}}}}"#),
        0,
        "bad_request",
    );
    daemon.stop();
}

#[test]
fn however_deep_it_is_nested() {
    let daemon = Daemon::start(NO_RATE);
    let mut client = daemon.guest("Ann");
    let depth = 30_000;
    for (open, close) in [("[", "]"), ("{\"x\":", "}")] {
        let depth = depth / open.len();
        let deep = format!("{}1{}", open.repeat(depth), close.repeat(depth));
        // Where nobody looks it does no harm.
        client.text(&format!(r#"{{"type":"who","payload":{{"room":"lobby","x":{deep}}},"seq":3}}"#));
        assert_eq!(client.skip_to("who")["re"], 3);
        client.text(&format!(r#"{{"type":"who","payload":{{"room":"lobby"}},"seq":4,"x":{deep}}}"#));
        assert_eq!(client.skip_to("who")["re"], 4);
        client.text(&format!(r#"{{"type":"ping","payload":{{"x":{deep}}}}}"#));
        assert_eq!(client.line(), format!(r#"{{"type":"pong","payload":{{"x":{deep}}},"seq":0}}"#));
        for text in [
            format!(r#"{{"type":{deep}}}"#),
            format!(r#"{{"type":"ping","seq":{deep}}}"#),
            format!(r#"{{"type":"message","payload":{{"text":{deep}}}}}"#),
            format!(r#"{{"type":"join","payload":{{"room":{deep}}}}}"#),
            format!(r#"{{"type":"hello","payload":{{"resume":{{"rooms":{{"x":{deep}}}}}}}}}"#),
            open.repeat(depth),
        ] {
            answered(&mut client, &text, 0, "bad_request");
        }
        // Refused for having been said, not for what is in it.
        let error = refused(&mut client, "hello", json!({"x": 1}));
        assert_eq!(error["code"], "bad_request");
    }
    client.message("still here");
    daemon.stop();
}

#[test]
fn a_bad_hello_is_answered_and_a_good_one_may_follow() {
    let daemon = Daemon::start(NO_RATE);
    let mut client = daemon.json();
    for payload in [
        json!({"v": "1"}),
        json!({"v": 99}),
        json!({"nick": 1}),
        json!({"rooms": "lobby"}),
        json!({"rooms": [1]}),
        json!({"rooms": ["a b"]}),
        json!({"resume": []}),
        json!({"resume": {"rooms": []}}),
        json!({"resume": {"rooms": {"lobby": {}}}}),
        json!({"resume": {"rooms": {"lobby": {"epoch": 1, "seq": 1}}}}),
        json!({"resume": {"rooms": {"a b": {"epoch": "", "seq": 1}}}}),
        json!({"guest": 1}),
    ] {
        let error = refused(&mut client, "hello", payload.clone());
        assert_eq!(error["code"], "bad_request", "{payload}");
    }
    answered(&mut client, "nonsense", 0, "bad_request");
    client.hello(json!({"guest": "nobody.knows.me", "nick": "Ann", "agent": "x"}));
    client.message("here at last");
    daemon.stop();
}

#[test]
fn one_that_goes_wrong_disturbs_nobody() {
    let daemon = Daemon::start(NO_RATE);
    let mut watch = daemon.guest("Watch");
    let mut client = daemon.guest("Ann");
    watch.expect("presence");
    for _ in 0..200 {
        client.text("{\"type\":\"message\",\"payload\":{\"text\":7}}");
    }
    for _ in 0..200 {
        client.expect("error");
    }
    assert_eq!(watch.said(), [] as [Value; 0]);
    daemon.stop();
}
