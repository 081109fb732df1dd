//! TLS: versions, resumption, and certificates that change while people chat.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use nix::sys::signal::Signal;
use rustls::ClientConfig;
use rustls::version::{TLS12, TLS13};
use serde_json::json;

use crate::support::certificate::{Certificate, INSTALLED};
use crate::support::client::trusting;
use crate::support::daemon::TLS;
use crate::support::{Chat, Daemon, Http, Setup, Stream, until};

fn with_files(certificate: &Certificate) -> Daemon {
    let setup = Setup::new(&format!("{TLS}{INSTALLED}"));
    certificate.install(setup.folder());
    setup.start()
}

fn connect(daemon: &Daemon, config: &Arc<ClientConfig>) -> Stream {
    Stream::tls_as(daemon.address(), config).unwrap()
}

#[test]
fn both_versions_are_spoken_and_a_session_is_resumed() {
    let daemon = Daemon::tls("");
    for (version, name) in [(&TLS12, "TLSv1.2"), (&TLS13, "TLSv1.3")] {
        let config = trusting(&[version]);
        let stream = connect(&daemon, &config);
        assert_eq!(stream.version(), Some(version.version));
        assert_eq!(stream.alpn(), Some(&b"http/1.1"[..]));
        assert!(!stream.resumed());
        // The ticket of TLS 1.3 comes with the first answer.
        let mut chat = Chat::enter(stream, name);
        chat.say("here");
        let seen = daemon.clients(&["--nick", name]);
        assert_eq!((&seen[0]["tls"], &seen[0]["alpn"]), (&json!(name), &json!("http/1.1")));
        chat.leave();
        let again = connect(&daemon, &config);
        assert!(again.resumed(), "{name}");
        assert_eq!(Http::new(again).get("/healthz").status, 200);
    }
}

#[test]
fn a_ticket_outlives_what_the_daemon_remembers() {
    let daemon = Daemon::tls("");
    let clients = [trusting(&[&TLS12]), trusting(&[&TLS13])];
    for config in &clients {
        let stream = connect(&daemon, config);
        assert!(!stream.resumed());
        // The ticket of TLS 1.3 comes with the first answer.
        assert_eq!(Http::new(stream).get("/healthz").status, 200);
    }
    // rustls remembers the last 256 sessions of servers that give no tickets: these push all others out.
    for _ in 0..300 {
        connect(&daemon, &trusting(&[&TLS12]));
    }
    for config in &clients {
        let stream = connect(&daemon, config);
        assert!(stream.resumed(), "{:?}", stream.version());
        assert_eq!(Http::new(stream).get("/healthz").status, 200);
    }
}

#[test]
fn a_client_that_knows_no_alpn_is_served() {
    let daemon = Daemon::tls("");
    let mut config = ClientConfig::clone(&trusting(&[&TLS13]));
    config.alpn_protocols.clear();
    let mut chat = Chat::enter(connect(&daemon, &Arc::new(config)), "plain");
    chat.say("here");
    assert_eq!(daemon.clients(&[])[0]["alpn"], json!(null));
}

#[test]
fn older_versions_are_refused() {
    let daemon = Daemon::tls("");
    for version in [[3, 2], [3, 1], [3, 0]] {
        let mut stream = Stream::tcp(daemon.address());
        // A ClientHello with two cipher suites and no extensions (RFC 4346, section 7.4.1.2).
        let mut hello = vec![version[0], version[1]];
        hello.extend([7; 32]);
        hello.extend([0, 0, 4, 0xc0, 0x14, 0x00, 0x2f, 1, 0]);
        let length = u8::try_from(hello.len()).unwrap();
        let mut record = vec![22, 3, 1, 0, length + 4, 1, 0, 0, length];
        record.extend(hello);
        stream.write_all(&record).unwrap();
        let answer = stream.rest();
        // One fatal alert, and no ServerHello.
        assert_eq!((answer[0], answer[5], answer.len()), (21, 2, 7), "{answer:?}");
    }
}

#[test]
fn a_new_certificate_is_for_new_handshakes_and_disturbs_nobody() {
    let (first, second, third) = (
        Certificate::for_name("one.example"),
        Certificate::for_name("two.example"),
        Certificate::for_name("three.example"),
    );
    let daemon = with_files(&first);
    let early = daemon.connect();
    assert_eq!(early.fingerprint(), first.fingerprint);
    let mut early = Chat::enter(early, "early");
    let tls = daemon.json(&["tls"])["certificate"].clone();
    assert_eq!(
        tls,
        json!({
            "names": ["one.example", "192.0.2.7"],
            "issuer": "CN=issuer of one.example",
            "from": "2001-01-01T00:00:00.000Z",
            "until": "2200-01-01T00:00:00.000Z",
            "fingerprint": first.fingerprint,
            "source": daemon.folder().join("crt.pem"),
            "renewal": null,
        })
    );
    assert_eq!(daemon.json(&["status"])["certificate_until"], "2200-01-01T00:00:00.000Z");
    // Nobody has asked for it to be read again: the files alone change nothing.
    second.install(daemon.folder());
    assert_eq!(daemon.connect().fingerprint(), first.fingerprint);

    let reloaded = daemon.json(&["reload", "--tls"]);
    assert_eq!(reloaded, json!({"changed": [], "needs_restart": [], "certificate": true}));
    let late = daemon.connect();
    assert_eq!(late.fingerprint(), second.fingerprint);
    let mut late = Chat::enter(late, "late");
    late.say("do you hear me?");
    early.hears("do you hear me?");
    early.say("as before");
    late.hears("as before");
    assert_eq!(daemon.json(&["tls"])["certificate"]["fingerprint"], json!(second.fingerprint));
    assert_eq!(daemon.json(&["reload", "--tls"])["certificate"], false, "the same once more");

    // The signal does the same.
    third.install(daemon.folder());
    daemon.signal(Signal::SIGHUP);
    until("the third", || (daemon.connect().fingerprint() == third.fingerprint).then_some(()));
    early.say("still here");
    late.hears("still here");
    assert_eq!(daemon.clients(&[]).len(), 2);
}

#[test]
fn a_session_from_before_is_resumed_or_begun_anew_but_never_broken() {
    let daemon = with_files(&Certificate::for_name("one.example"));
    let config = trusting(&[&TLS13]);
    let mut http = Http::new(connect(&daemon, &config));
    assert_eq!(http.get("/healthz").status, 200);
    Certificate::for_name("two.example").install(daemon.folder());
    assert_eq!(daemon.json(&["reload", "--tls"])["certificate"], true);
    let mut http = Http::new(connect(&daemon, &config));
    assert_eq!(http.get("/healthz").status, 200);
}

#[test]
fn bad_files_are_refused_with_the_reason_and_the_old_ones_stay() {
    let good = Certificate::for_name("good.example");
    let other = Certificate::for_name("other.example");
    let ended = Certificate::until("ended.example", 2002);
    let daemon = with_files(&good);
    let mut early = daemon.chat("early");
    let (crt, key) = (daemon.folder().join("crt.pem"), daemon.folder().join("key.pem"));
    let put = |at: &std::path::Path, text: Option<&str>| match text {
        Some(text) => fs::write(at, text).unwrap(),
        None => fs::remove_file(at).unwrap(),
    };
    let truncated = &good.pem[..good.pem.len() / 2];
    for (certificate, private, why) in [
        (None, Some(good.key.as_str()), "cannot read the certificate"),
        (Some(good.pem.as_str()), None, "cannot read the key"),
        (Some(""), Some(&good.key), "holds no PEM certificate"),
        (Some("garbage"), Some(&good.key), "holds no PEM certificate"),
        (Some(&good.key), Some(&good.key), "holds no PEM certificate"),
        (Some(truncated), Some(&good.key), "crt.pem"),
        (Some("-----BEGIN CERTIFICATE-----\nZ2FyYmFnZQ==\n-----END CERTIFICATE-----\n"), Some(&good.key), "is damaged"),
        (Some(&good.pem), Some("garbage"), "no usable private key"),
        (Some(&good.pem), Some(&other.key), "does not belong to the certificate"),
        (Some(&ended.pem), Some(&ended.key), "has ended on 2002-01-01"),
    ] {
        good.install(daemon.folder());
        put(&crt, certificate);
        put(&key, private);
        for command in [&["reload", "--tls"][..], &["reload"]] {
            let ran = daemon.ctl(command);
            ran.ends(78, why);
            assert_eq!(ran.stdout, "");
        }
        let before = daemon.log().matches("nothing was reloaded").count();
        daemon.signal(Signal::SIGHUP);
        until("the log tells it", || {
            let log = daemon.log();
            let told: Vec<&str> = log.lines().filter(|line| line.contains("nothing was reloaded")).collect();
            (told.len() > before).then(|| assert!(told[before].contains(why), "{why}: {}", told[before]))
        });
        assert_eq!(daemon.connect().fingerprint(), good.fingerprint, "{why}");
        assert_eq!(daemon.json(&["tls"])["certificate"]["fingerprint"], json!(good.fingerprint));
    }
    early.say("nobody noticed");
    // And then it is put right.
    other.install(daemon.folder());
    assert_eq!(daemon.json(&["reload"])["certificate"], true);
    assert_eq!(daemon.connect().fingerprint(), other.fingerprint);
}

#[test]
fn files_can_be_named_by_a_reload() {
    let daemon = Daemon::tls("");
    let own = daemon.connect().fingerprint();
    let certificate = Certificate::for_name("site.example");
    certificate.install(daemon.folder());
    daemon.write_config(&format!("{TLS}{INSTALLED}"));
    assert_eq!(
        daemon.json(&["reload"]),
        json!({"changed": ["tls.certificate", "tls.key"], "needs_restart": [], "certificate": true})
    );
    assert_eq!(daemon.connect().fingerprint(), certificate.fingerprint);
    daemon.write_config(TLS);
    daemon.json(&["reload"]);
    assert_eq!(daemon.connect().fingerprint(), own, "the self-signed one was kept");
}

#[test]
fn an_ended_certificate_is_served_by_a_daemon_that_starts() {
    let ended = Certificate::until("ended.example", 2002);
    let daemon = with_files(&ended);
    assert_eq!(daemon.connect().fingerprint(), ended.fingerprint);
    assert!(daemon.log().contains("the certificate has ended"), "{}", daemon.log());
}

#[test]
fn a_daemon_without_its_files_does_not_start() {
    let setup = Setup::new(&format!("{TLS}{INSTALLED}"));
    setup.fails().ends(1, "cannot read the certificate");
    let certificate = Certificate::for_name("one.example");
    certificate.install(setup.folder());
    fs::write(setup.folder().join("key.pem"), Certificate::for_name("one.example").key).unwrap();
    setup.fails().ends(1, "does not belong to the certificate");
    certificate.install(setup.folder());
    drop(setup.start());
}

#[test]
fn the_self_signed_certificate_is_kept_and_its_key_is_private() {
    let daemon = Daemon::tls("");
    let fingerprint = daemon.connect().fingerprint();
    let folder = daemon.state_folder().join("tls");
    assert_eq!(fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);
    for file in fs::read_dir(&folder).unwrap() {
        assert_eq!(file.unwrap().metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }
    let tls = daemon.json(&["tls"])["certificate"].clone();
    assert_eq!(tls["fingerprint"], json!(fingerprint));
    for name in ["localhost", "127.0.0.1", "::1"] {
        assert!(tls["names"].as_array().unwrap().contains(&json!(name)), "{tls}");
    }
    assert!(tls["source"].as_str().unwrap().starts_with("self-signed"), "{tls}");
    let daemon = daemon.stop().start();
    assert_eq!(daemon.connect().fingerprint(), fingerprint);
}

#[test]
fn what_the_command_tells_is_what_openssl_tells() {
    let certificate = Certificate::for_name("one.example");
    let daemon = with_files(&certificate);
    let mut openssl = daemon.command("openssl");
    openssl.args(["x509", "-noout", "-fingerprint", "-sha256", "-enddate", "-in", "crt.pem"]);
    let told = crate::support::daemon::Ran::of(&mut openssl);
    assert_eq!(told.status, 0, "openssl is needed: {told:?}");
    let hex = told.stdout.lines().next().unwrap().rsplit('=').next().unwrap().replace(':', "").to_lowercase();
    let ran = daemon.ctl(&["tls"]);
    assert!(ran.stdout.contains(&format!("fingerprint\t{hex}\n")), "{ran:?}, {told:?}");
    assert!(told.stdout.contains("notAfter=Jan  1 00:00:00 2200 GMT"), "{told:?}");
    assert!(ran.stdout.contains("until\t2200-01-01T00:00:00.000Z\n"), "{ran:?}");
    assert!(ran.stdout.contains("names\tone.example,192.0.2.7\n"), "{ran:?}");
}

#[test]
fn without_a_tls_listener_there_is_no_certificate() {
    let daemon = Daemon::plain("");
    assert_eq!(daemon.json(&["tls"]), json!({"certificate": null}));
    let ran = daemon.ctl(&["tls"]);
    assert_eq!((ran.status, ran.stdout.as_str()), (0, ""), "{ran:?}");
    assert!(!daemon.state_folder().join("tls").exists());
}

#[test]
fn both_sides_close_tls_before_tcp() {
    let daemon = Daemon::tls("");
    for version in [&TLS12, &TLS13] {
        let Stream::Tls(mut stream) = connect(&daemon, &trusting(&[version])) else { unreachable!() };
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").unwrap();
        // Without close_notify this is an error: the answer could have been cut by anybody.
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.ends_with("ok\n"), "{answer}");
        assert_eq!(stream.conn.protocol_version(), Some(version.version));
    }
}
