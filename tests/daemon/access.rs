//! The access log: a line for each connection, that fail2ban reads and nobody can forge.

use std::net::IpAddr;
use std::path::Path;
use std::process::Command;

use serde_json::json;

use crate::support::client::UPGRADE;
use crate::support::daemon::{Ran, TLS};
use crate::support::site::{SECRET, Site, but, claims};
use crate::support::{Chat, Daemon, Http, Setup, Stream, until};

const PROXIED: &str = "[[listen]]\naddress = \"127.0.0.1:0\"\ntls = false\ntrusted_proxies = [\"127.0.0.2\"]\n";
const ACCESS: &str = "[log]\naccess = true\n";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// The lines, without time and level.
fn lines(daemon: &Daemon) -> Vec<String> {
    let log = daemon.log();
    log.lines().filter_map(|line| Some(line[line.find(" INFO access: ")? + 6..].to_owned())).collect()
}

/// The only line so far that begins so, once it is there.
#[track_caller]
fn line(daemon: &Daemon, begin: &str) -> String {
    let mut found: Vec<String> = until(&format!("a line {begin:?}"), || {
        let lines: Vec<String> = lines(daemon).into_iter().filter(|line| line.starts_with(begin)).collect();
        (!lines.is_empty()).then_some(lines)
    });
    assert_eq!(found.len(), 1, "{found:?}");
    found.remove(0)
}

fn proxy(daemon: &Daemon) -> Stream {
    Stream::tcp_from(ip("127.0.0.2"), daemon.address())
}

#[track_caller]
fn ask_as(daemon: &Daemon, address: &str, headers: &[&str]) -> u16 {
    let forwarded = format!("X-Forwarded-For: {address}");
    let headers: Vec<&str> = headers.iter().copied().chain([forwarded.as_str()]).collect();
    Http::new(proxy(daemon)).ask("GET /chat", &headers).status
}

#[test]
fn each_connection_has_a_line_where_one_is_wanted() {
    let daemon = Daemon::start(PROXIED);
    daemon.chat("before").leave();
    until("it is gone", || daemon.clients(&[]).is_empty().then_some(()));
    assert_eq!(lines(&daemon), [""; 0]);
    daemon.write_config(&format!("{PROXIED}{ACCESS}"));
    assert_eq!(daemon.json(&["reload"])["changed"], json!(["log.access"]));

    let mut ann = Chat::open(proxy(&daemon), "/chat", "X-Forwarded-For: ::ffff:203.0.113.9");
    ann.hello(json!({"v": 1, "nick": "ann"}));
    ann.frame("joined");
    let id = daemon.clients(&[])[0]["id"].clone();
    ann.say("one");
    let user = ann.user.clone();
    ann.leave();
    let ended = line(&daemon, "access: ended ");
    let begin = format!("access: ended 203.0.113.9 1005 client client={id} dialect=json user={user} seconds=");
    assert!(ended.starts_with(&begin), "{ended}");
    assert!(ended.contains(" in=2 in_bytes=") && ended.ends_with(" reason=\"\""), "{ended}");

    let bob = daemon.chat("bob");
    daemon.ctl(&["kick", "--nick", "bob", "--reason", "be \"nice\""]).ends(0, "");
    bob.closed();
    let kicked = line(&daemon, "access: ended 127.0.0.1 4003 server ");
    assert!(kicked.ends_with(" reason=\"be \\\"nice\\\"\""), "{kicked}");

    // One that is cut, and one that is not there any more.
    let lost = daemon.chat("lost");
    drop(lost);
    line(&daemon, "access: ended 127.0.0.1 1006 nobody ");
    daemon.write_config(&format!("{PROXIED}{ACCESS}[shutdown]\ngrace = \"100ms\"\n"));
    daemon.json(&["reload"]);
    let _stubborn = daemon.chat("stubborn");
    let setup = daemon.stop();
    assert!(setup.log().contains(" INFO access: ended 127.0.0.1 1001 server client="), "{}", setup.log());
}

#[test]
fn who_is_refused_has_one_too() {
    let setup = Setup::new(&format!("{PROXIED}{SECRET}[limits]\nclients_per_ip = 1\n{ACCESS}"));
    let site = Site::hmac();
    site.install(setup.folder());
    let daemon = setup.start();
    assert_eq!(ask_as(&daemon, "203.0.113.1", &[&UPGRADE[..], &["Origin: https://evil.example"]].concat()), 403);
    assert_eq!(line(&daemon, "access: refused 203.0.113.1 "), "access: refused 203.0.113.1 403 origin");
    assert_eq!(ask_as(&daemon, "203.0.113.2", &UPGRADE[..3]), 400);
    assert_eq!(line(&daemon, "access: refused 203.0.113.2 "), "access: refused 203.0.113.2 400 bad_request");
    let token = format!("/chat?token={}", site.token(&claims("ann")));
    let _held = Chat::open(proxy(&daemon), &token, "X-Forwarded-For: 2001:db8::1");
    assert_eq!(ask_as(&daemon, "2001:db8::2", &UPGRADE), 429);
    assert_eq!(line(&daemon, "access: refused 2001:db8::2 "), "access: refused 2001:db8::2 429 address");
    let mut guest = Chat::open(proxy(&daemon), "/chat", "X-Forwarded-For: 203.0.113.4");
    guest.send("hello", json!({"v": 1}));
    assert_eq!(guest.closed().1.code, 4001);
    let refused = line(&daemon, "access: refused 203.0.113.4 4001 server client=");
    assert!(refused.contains(" user=- "), "{refused}");
    // Nobody is to be blamed for what a proxy does not say.
    assert_eq!(Http::new(proxy(&daemon)).ask("GET /chat", &UPGRADE[..3]).status, 400);
    line(&daemon, "access: refused proxy:127.0.0.2 400 bad_request");
    assert_eq!(ask_as(&daemon, "nonsense", &UPGRADE), 400);
    line(&daemon, "access: refused proxy:127.0.0.2 400 forwarded");
}

#[test]
fn failed_tls_and_silence_have_one() {
    let daemon = Daemon::start(&format!("{TLS}[timeouts]\nrequest = \"200ms\"\ntls = \"200ms\"\n{ACCESS}"));
    let mut garbage = Stream::tcp(daemon.address());
    std::io::Write::write_all(&mut garbage, &[0x16, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]).unwrap();
    line(&daemon, "access: refused 127.0.0.1 tls handshake");
    let _silent = Stream::tcp(daemon.address());
    line(&daemon, "access: refused 127.0.0.1 tls timeout");
    let _shy = daemon.connect();
    line(&daemon, "access: refused 127.0.0.1 408 request_timeout");
}

#[test]
fn what_is_no_http_has_one() {
    let daemon = Daemon::start(&format!("{PROXIED}{ACCESS}"));
    for (said, status) in
        [("NONSENSE\r\n\r\n".to_owned(), 400), (format!("GET / HTTP/1.1\r\nA: {}", "x".repeat(20_000)), 431)]
    {
        let mut stranger = Stream::tcp(daemon.address());
        std::io::Write::write_all(&mut stranger, said.as_bytes()).unwrap();
        line(&daemon, &format!("access: refused 127.0.0.1 {status} bad_request"));
    }
}

#[test]
fn a_flood_of_the_refused_is_counted_instead() {
    let daemon = Daemon::start(&format!("{PROXIED}{ACCESS}"));
    // Faster than the bound: one connection asks a hundred times.
    let refused = 1500;
    for _ in 0..refused / 100 {
        let mut http = Http::new(proxy(&daemon));
        let mut request = String::new();
        for _ in 0..100 {
            request +=
                "GET /chat HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: 203.0.113.1\r\nOrigin: https://evil.example\r\n";
            for header in UPGRADE {
                request += &format!("{header}\r\n");
            }
            request += "\r\n";
        }
        http.send(request);
        for _ in 0..100 {
            assert_eq!(http.answer(false).status, 403);
        }
    }
    // Every one is either told or counted, and those that are counted are told of without a further one.
    until("all are told of", || {
        let lines = lines(&daemon);
        let counted =
            |line: &String| line.strip_prefix("access: ")?.split_once(" more were refused")?.0.parse::<usize>().ok();
        let left_out: usize = lines.iter().filter_map(counted).sum();
        let told = lines.iter().filter(|line| line.starts_with("access: refused 203.0.113.1 403 origin")).count();
        assert!(told + left_out <= refused);
        (told + left_out == refused && left_out > 0).then_some(())
    });
}

/// The addresses that fail2ban takes from these lines, with the filter of the package.
#[track_caller]
fn found_by_fail2ban(log: &Path) -> Vec<String> {
    let filter = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/fail2ban/filter.conf");
    let mut command = Command::new("fail2ban-regex");
    // Its own files are Python's: it finds those by the usual environment.
    command.args(["--out", "ip"]).arg(log).arg(filter);
    let ran = Ran::of(&mut command);
    assert_eq!(ran.status, 0, "{ran:?}");
    ran.stdout.lines().map(str::to_owned).collect()
}

#[test]
fn fail2ban_finds_whom_it_should_and_nobody_whom_a_stranger_names() {
    let setup = Setup::new(&format!(
        "{PROXIED}[auth]\nsecret_file = \"FOLDER/secret\"\n[limits]\nclients_per_ip = 2\nframe = \"8KiB\"\n\
         [log]\naccess = true\nlevel = \"debug\"\n"
    ));
    let site = Site::hmac();
    site.install(setup.folder());
    let daemon = setup.start();
    let from = |address: &str, path: &str| Chat::open(proxy(&daemon), path, &format!("X-Forwarded-For: {address}"));

    // Who is meant.
    assert_eq!(ask_as(&daemon, "203.0.113.1", &UPGRADE[..3]), 400);
    let _held = [from("203.0.113.2", "/chat"), from("203.0.113.2", "/chat")];
    assert_eq!(ask_as(&daemon, "203.0.113.2", &UPGRADE), 429);
    assert_eq!(from("203.0.113.3", "/wss?token=x").turned_away().code, 4001);
    let mut long = from("2001:db8::4", "/wss");
    long.send_text(&"x".repeat(9000));
    assert_eq!(long.closed().1.code, 1009);
    daemon.ctl(&["ban", "add", "ip:203.0.113.5"]).ends(0, "");
    assert_eq!(from("203.0.113.5", "/wss").turned_away().code, 4004);

    // Who is not: by what it says, by its name, by what it asks for, and by how it goes.
    assert_eq!(ask_as(&daemon, "192.0.2.1", &[&UPGRADE[..], &["Origin: https://evil.example"]].concat()), 403);
    let forged = [
        "access: refused 8.8.8.8 429 rate",
        "\nINFO access: refused 8.8.8.8 429 rate",
        "\r\n2026-01-01T00:00:00.000000Z  INFO access: refused 8.8.8.8 429 rate\n",
        "host wschat[1]: access: refused 8.8.8.8 429 rate",
        "\u{2028}access:\u{a0}refused 8.8.8.8 429 rate",
        "x 4101 server client=1 8.8.8.8",
        "\u{1b}[2K\rINFO access: refused 8.8.8.8 429 rate",
    ];
    for text in forged {
        let mut named = from("192.0.2.2", "/chat");
        // What has control characters is no user's name.
        let user = text.replace(char::is_control, "\u{3000}");
        let token = site.token(&but(claims("u"), json!({"sub": user})));
        named.send("hello", json!({"v": 1, "nick": text, "token": token}));
        named.any(&["welcome", "error", "bye"]);
        drop(named);
        let mut going = from("192.0.2.3", "/wss");
        going.send_text(text);
        going.leave_with(4101, text);
        let agent =
            format!("X-Forwarded-For: 192.0.2.4\r\nUser-Agent: {}\r\nOrigin: {0}", text.replace(['\r', '\n'], " "));
        let agent = agent.replace(['\u{2028}', '\u{a0}', '\u{1b}'], "?");
        let headers: Vec<&str> = UPGRADE.into_iter().chain([agent.as_str()]).collect();
        Http::new(proxy(&daemon))
            .ask(&format!("GET /chat?{}", text.replace(|c: char| !c.is_ascii_graphic(), "+")), &headers);
        until("all have gone", || (daemon.clients(&[]).len() <= 2).then_some(()));
    }
    assert_eq!(Http::new(proxy(&daemon)).ask("GET /chat", &UPGRADE[..3]).status, 400);

    let expected = ["203.0.113.1", "203.0.113.2", "203.0.113.3", "2001:db8::4", "203.0.113.5"];
    let logged = || lines(&daemon).iter().filter(|line| line.contains(" 192.0.2.3 4101 client ")).count();
    until("the last is told of", || (logged() == forged.len()).then_some(()));
    let log = daemon.folder().join("log");
    assert_eq!(found_by_fail2ban(&log), expected, "{}", daemon.log());

    // The same as fail2ban has it from the journal.
    let journal = daemon.folder().join("journal");
    let text: String = daemon
        .log()
        .lines()
        .filter_map(|line| Some((line.split_once(' ')?.0, line.split_once(" INFO ")?.1)))
        .map(|(time, message)| format!("{time} chat.example wschat[4711]: {message}\n"))
        .collect();
    std::fs::write(&journal, text).unwrap();
    assert_eq!(found_by_fail2ban(&journal), expected);
}
