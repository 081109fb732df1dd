//! Opening a WebSocket: what is refused, by which status, and what a reload changes of it.

use serde_json::json;

use crate::support::client::{Answer, UPGRADE};
use crate::support::{Chat, Daemon};

const ORIGINS: &str = "[chat]\nallowed_origins = ";

/// The answer to a handshake that has `instead` in the place of the header of the same name (nothing
/// but its name: it is left out), and `more` besides.
fn answer(daemon: &Daemon, path: &str, instead: &str, more: &[&str]) -> Answer {
    let name = instead.split(':').next().unwrap();
    let mut headers: Vec<&str> = UPGRADE.into_iter().filter(|header| !header.starts_with(name)).collect();
    headers.extend(instead.contains(':').then_some(instead));
    headers.extend(more);
    daemon.http().ask(&format!("GET {path}"), &headers)
}

fn with_origin(daemon: &Daemon, origin: &str) -> u16 {
    answer(daemon, "/chat", "Origin", &[&format!("Origin: {origin}")]).status
}

#[test]
fn a_whole_handshake_is_accepted() {
    let daemon = Daemon::tls("[paths]\necho = \"/echo\"\n");
    for path in ["/chat", "/wss", "/echo", "/chat?token=x"] {
        let answer = answer(&daemon, path, "Nothing", &[]);
        assert_eq!(answer.status, 101, "{path}");
        // The example of RFC 6455, section 1.3.
        assert_eq!(answer.header("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
        assert_eq!(answer.header("upgrade"), Some("websocket"));
        assert_eq!(answer.header("connection"), Some("Upgrade"));
    }
    // Browsers write these in their own way.
    assert_eq!(answer(&daemon, "/chat", "Connection: keep-alive, upgrade", &[]).status, 101);
    assert_eq!(answer(&daemon, "/chat", "Upgrade: WebSocket", &[]).status, 101);
}

#[test]
fn half_a_handshake_is_refused_with_the_reason() {
    let daemon = Daemon::tls("");
    for (instead, why) in [
        ("Connection", "Connection"),
        ("Connection: keep-alive", "Connection"),
        ("Sec-WebSocket-Key", "Sec-WebSocket-Key"),
        ("Sec-WebSocket-Key: short==", "Sec-WebSocket-Key"),
        ("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==AAAA", "Sec-WebSocket-Key"),
    ] {
        let answer = answer(&daemon, "/chat", instead, &[]);
        assert_eq!(answer.status, 400, "{instead}");
        assert!(answer.text().contains(why), "{instead}: {}", answer.text());
    }
    for instead in ["Sec-WebSocket-Version", "Sec-WebSocket-Version: 8", "Upgrade", "Upgrade: h2c"] {
        let answer = answer(&daemon, "/chat", instead, &[]);
        assert_eq!((answer.status, answer.header("sec-websocket-version")), (426, Some("13")), "{instead}");
    }
    let bare = daemon.http().get("/wss");
    assert_eq!((bare.status, bare.header("upgrade")), (426, Some("websocket")));
    // RFC 9110, section 15.5.22: with 426 goes the protocol that is wanted.
    let old = answer(&daemon, "/chat", "Sec-WebSocket-Version: 8", &[]);
    assert_eq!(old.header("upgrade"), Some("websocket"));
    assert_eq!(daemon.clients(&[]).len(), 0);
}

#[test]
fn a_refused_connection_may_try_again() {
    let daemon = Daemon::plain("");
    let mut http = daemon.http();
    assert_eq!(http.get("/chat").status, 426);
    let mut chat = Chat::enter(http.stream, "second try");
    chat.say("here");
}

#[test]
fn pages_of_other_origins_are_refused_until_they_are_listed() {
    let daemon = Daemon::tls(&format!("{ORIGINS}[]\n"));
    for (origin, status) in [
        ("https://chat.example", 101),
        ("https://CHAT.example:443", 101),
        ("https://chat.example:9501", 403),
        ("https://evil.example", 403),
        ("https://chat.example.evil.example", 403),
        ("https://shop.example", 403),
        ("null", 403),
        ("nonsense", 403),
    ] {
        assert_eq!(with_origin(&daemon, origin), status, "{origin}");
    }
    let refused = answer(&daemon, "/wss", "Origin", &["Origin: https://evil.example"]);
    assert!(refused.status == 403 && refused.text().contains("chat.allowed_origins"), "{}", refused.text());
    assert_eq!(answer(&daemon, "/chat", "Origin", &[]).status, 101, "a program has no origin");

    daemon.write_config(&format!("{}{ORIGINS}[\"https://shop.example\"]\n", crate::support::daemon::TLS));
    assert_eq!(daemon.json(&["reload"])["changed"], json!(["chat.allowed_origins"]));
    assert_eq!(with_origin(&daemon, "https://shop.example"), 101);
    assert_eq!(with_origin(&daemon, "https://chat.example"), 101, "the own one need not be listed");
    assert_eq!(with_origin(&daemon, "https://evil.example"), 403);

    daemon.write_config(&format!("{}{ORIGINS}[\"*\"]\n", crate::support::daemon::TLS));
    daemon.json(&["reload"]);
    assert_eq!(with_origin(&daemon, "https://evil.example"), 101);
    assert_eq!(with_origin(&daemon, "null"), 101);
}

#[test]
fn the_subprotocol_is_agreed_on_only_where_it_is_offered() {
    let daemon = Daemon::plain("");
    let protocol = |path, offered: &[&str]| {
        let answer = answer(&daemon, path, "Nothing", offered);
        assert_eq!(answer.status, 101);
        answer.header("sec-websocket-protocol").map(str::to_owned)
    };
    assert_eq!(protocol("/chat", &[]), None);
    assert_eq!(protocol("/chat", &["Sec-WebSocket-Protocol: wschat.v1"]).as_deref(), Some("wschat.v1"));
    assert_eq!(protocol("/chat", &["Sec-WebSocket-Protocol: mqtt, wschat.v1"]).as_deref(), Some("wschat.v1"));
    assert_eq!(protocol("/chat", &["Sec-WebSocket-Protocol: mqtt"]), None);
    assert_eq!(protocol("/wss", &["Sec-WebSocket-Protocol: wschat.v1"]), None);
}

#[test]
fn every_path_is_a_setting_that_a_reload_changes() {
    let daemon = Daemon::plain("");
    let status = |path: &str| daemon.http().get(path).status;
    let paths = ["/", "/chat", "/wss", "/echo", "/healthz"];
    assert_eq!(paths.map(status), [200, 426, 426, 404, 200]);
    let mut old = daemon.chat("old");

    let listen = crate::support::daemon::PLAIN;
    let moved = "page = \"/talk/\"\njson = \"/talk/socket\"\ntext = \"\"\necho = \"/echo\"\nhealth = \"\"\n";
    daemon.write_config(&format!("{listen}[paths]\n{moved}"));
    let changed = daemon.json(&["reload"])["changed"].clone();
    assert_eq!(changed, json!(["paths.page", "paths.json", "paths.text", "paths.echo", "paths.health"]));
    assert_eq!(paths.map(status), [404, 404, 404, 426, 404]);
    assert_eq!(["/talk/", "/talk/assets/chat.js", "/talk/socket"].map(status), [200, 200, 426]);
    assert!(daemon.http().get("/talk/").text().contains("/talk/socket"), "the page is told");
    // Who is there stays, and meets those who come by the new path.
    let mut new = Chat::open(daemon.connect(), "/talk/socket", "");
    new.hello(json!({"v": 1, "nick": "new"}));
    new.say("found it");
    old.hears("found it");

    daemon.write_config(&format!("{listen}[paths]\npage = \"\"\njson = \"\"\necho = \"\"\n"));
    daemon.json(&["reload"]);
    assert_eq!(paths.map(status), [404, 404, 426, 404, 200]);
}
