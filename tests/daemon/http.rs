//! What the port answers to HTTP.

use std::fs;
use std::path::Path;

use nix::sys::signal::Signal;

use crate::support::{Chat, Daemon, until};

#[test]
fn health_is_told_while_serving_and_while_stopping() {
    let mut daemon = Daemon::plain("[shutdown]\ngrace = \"5m\"\n");
    let mut http = daemon.http();
    let answer = http.get("/healthz");
    assert_eq!((answer.status, answer.text().as_str()), (200, "ok\n"));
    assert_eq!(answer.header("content-type"), Some("text/plain; charset=utf-8"));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    let head = daemon.http().ask("HEAD /healthz", &[]);
    assert_eq!((head.status, head.header("content-length"), head.body.len()), (200, Some("3"), 0));

    // A request under way when the daemon begins to drain is still answered, and truly.
    let mut early = daemon.http();
    early.send("GET /healthz HTTP/1.1\r\nHost: h\r\n");
    assert_eq!(daemon.http().get("/healthz").status, 200, "the request before is under way");
    // Somebody who does not answer the close frame keeps it draining.
    let _stubborn = daemon.chat("stubborn");
    daemon.signal(Signal::SIGTERM);
    until("stopping", || (daemon.json(&["status"])["state"] == "stopping").then_some(()));
    early.send("\r\n");
    let answer = early.answer(false);
    assert_eq!((answer.status, answer.text().as_str()), (503, "stopping\n"));
    early.ends();
    assert!(daemon.has_ended().is_none());
    // The second signal cuts at once; `daemon` sends it.
}

#[test]
fn the_page_comes_with_everything_that_it_needs() {
    let daemon = Daemon::tls("");
    let mut http = daemon.http();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files: Vec<_> = fs::read_dir(root.join("page")).unwrap().map(|file| file.unwrap().path()).collect();
    files.push(root.join("clients/js/wschat.js"));
    let mut kinds = std::collections::BTreeSet::new();
    for file in files {
        let name = file.file_name().unwrap().to_str().unwrap();
        let (path, kind) = match file.extension().unwrap().to_str().unwrap() {
            "html" => ("/".to_owned(), "text/html; charset=utf-8"),
            "css" => (format!("/assets/{name}"), "text/css; charset=utf-8"),
            "js" => (format!("/assets/{name}"), "text/javascript; charset=utf-8"),
            "svg" => (format!("/assets/{name}"), "image/svg+xml"),
            other => panic!("how is {other} to be served?"),
        };
        kinds.insert(kind);
        let answer = http.get(&path);
        assert_eq!((answer.status, answer.header("content-type")), (200, Some(kind)), "{path}");
        if name == "index.html" {
            assert!(answer.text().contains("/chat"), "it is told where the WebSocket is");
            assert!(!answer.text().contains("{{"));
        } else {
            assert_eq!(answer.body, fs::read(&file).unwrap(), "{path}");
        }
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
        let policy = answer.header("content-security-policy").unwrap();
        for part in
            ["default-src 'none'", "script-src 'self'", "style-src 'self'", "wss://chat.example", "base-uri 'none'"]
        {
            assert!(policy.contains(part), "{part} in {policy}");
        }
        assert!(!policy.contains("unsafe"), "{policy}");

        let tag = answer.header("etag").unwrap().to_owned();
        for known in [tag.clone(), format!("\"other\", {tag}")] {
            let again = http.ask(&format!("GET {path}"), &[&format!("If-None-Match: {known}")]);
            assert_eq!((again.status, again.header("etag"), again.body.len()), (304, Some(tag.as_str()), 0));
        }
        assert_eq!(http.ask(&format!("GET {path}"), &["If-None-Match: \"other\""]).status, 200);
        let head = http.ask(&format!("HEAD {path}"), &[]);
        let length = answer.body.len().to_string();
        assert_eq!((head.status, head.header("content-length")), (200, Some(length.as_str())));
        assert_eq!(head.header("etag"), Some(tag.as_str()));
    }
    assert_eq!(kinds.len(), 4);
}

#[test]
fn whatever_is_not_there_is_not_found() {
    let daemon = Daemon::plain("");
    let mut http = daemon.http();
    for path in
        ["/nothing", "/assets/", "/assets/nothing.js", "/assets/../chat.css", "/index.html", "/echo", "/api/v1/push"]
    {
        assert_eq!(http.get(path).status, 404, "{path}");
    }
    // What comes after the question mark is the page's own business.
    assert_eq!(http.get("/?room=tea").status, 200);
}

#[test]
fn other_methods_are_told_which_ones_there_are() {
    let daemon = Daemon::plain("");
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "BREW"] {
        for (path, allowed) in [("/", "GET, HEAD"), ("/healthz", "GET, HEAD"), ("/chat", "GET"), ("/wss", "GET")] {
            let mut http = daemon.http();
            let answer = http.ask(&format!("{method} {path}"), &["Content-Length: 0"]);
            assert_eq!((answer.status, answer.header("allow")), (405, Some(allowed)), "{method} {path}");
        }
    }
}

#[test]
fn a_body_that_nobody_wants_does_not_eat_the_answer() {
    let daemon = Daemon::tls("");
    // Whole, more than is ever read of it, and announced but never sent.
    for sent in [10, 200 * 1024, 0] {
        let mut http = daemon.http();
        let length = sent.max(10);
        http.send(format!("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n\r\n"));
        http.send(vec![b'x'; sent]);
        let answer = http.answer(false);
        assert_eq!((answer.status, answer.header("connection")), (405, Some("close")));
        http.ends();
    }
}

#[test]
fn heads_are_bounded() {
    let daemon = Daemon::plain("");
    let long = format!("X-Long: {}", "x".repeat(20 * 1024));
    let many: Vec<String> = (0..150).map(|n| format!("X-{n}: y")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    for headers in [&[long.as_str()][..], &many] {
        let mut http = daemon.http();
        let answer = http.ask("GET /", headers);
        assert_eq!(answer.status, 431);
        http.ends();
    }
    let mut http = daemon.http();
    let answer = http.get(&format!("/{}", "x".repeat(70 * 1024)));
    assert!(matches!(answer.status, 414 | 431), "{answer:?}");
    // A large head that is within the bounds is none of this.
    let large = format!("Cookie: {}", "x".repeat(8 * 1024));
    assert_eq!(daemon.http().ask("GET /healthz", &[&large]).status, 200);
}

#[test]
fn requests_follow_each_other_on_one_connection() {
    let daemon = Daemon::tls("");
    let mut http = daemon.http();
    for _ in 0..20 {
        assert_eq!(http.get("/healthz").status, 200);
        assert_eq!(http.get("/nothing").status, 404);
    }
    // All at once, and answered in their order.
    let one = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n");
    http.send([one("/healthz"), one("/nothing"), one("/"), one("/healthz")].concat());
    let statuses: Vec<u16> = (0..4).map(|_| http.answer(false).status).collect();
    assert_eq!(statuses, [200, 404, 200, 200]);
    // A WebSocket may be opened by a connection that has asked for the page.
    let mut chat = Chat::enter(http.stream, "late");
    chat.say("here");
}

#[test]
fn a_frame_that_comes_with_the_handshake_is_not_lost() {
    let daemon = Daemon::plain("[paths]\necho = \"/echo\"\n");
    let mut http = daemon.http();
    let head = crate::support::client::UPGRADE.join("\r\n");
    // "hi", masked with zeroes (RFC 6455, section 5.2).
    let frame = [0x81, 0x82, 0, 0, 0, 0, b'h', b'i'];
    http.send([format!("GET /echo HTTP/1.1\r\nHost: h\r\n{head}\r\n\r\n").as_bytes(), &frame].concat());
    assert_eq!(http.answer(false).status, 101);
    let mut chat = Chat::over(http);
    assert_eq!(chat.text(), "hi");
}

#[test]
fn http_1_0_is_answered_and_closed() {
    let daemon = Daemon::plain("");
    let mut http = daemon.http();
    http.send("GET /healthz HTTP/1.0\r\n\r\n");
    assert_eq!(http.answer(false).text(), "ok\n");
    http.ends();
    let mut http = daemon.http();
    http.send("GET /chat HTTP/1.0\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n");
    assert_eq!(http.answer(false).status, 400);
}

#[test]
fn closing_is_asked_for_by_a_header() {
    let daemon = Daemon::tls("");
    let mut http = daemon.http();
    assert_eq!(http.ask("GET /healthz", &["Connection: close"]).status, 200);
    http.ends();
}

#[test]
fn another_protocol_is_a_bad_request() {
    let daemon = Daemon::plain("");
    for request in ["GET / HTTP/2.0\r\n\r\n", "GET\r\n\r\n", "\0\0\0\0\r\n\r\n", "get / http/1.1\r\n\r\n"] {
        let mut http = daemon.http();
        http.send(request);
        let answer = http.answer(false);
        assert!(matches!(answer.status, 400 | 505), "{request:?}: {answer:?}");
        http.ends();
    }
    // Who begins with HTTP/2 would not understand an answer in HTTP/1.1.
    let mut http = daemon.http();
    http.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    http.ends();
}
