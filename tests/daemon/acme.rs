//! Certificates from a real CA that speaks ACME, Debian's pebble: the first one, renewals, failures.

use std::fs;
use std::io::Read;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use serde_json::{Value, json};

use crate::support::ca::{Ca, Leads, kept, shake_hands};
use crate::support::certificate::{Certificate, INSTALLED};
use crate::support::client::trusting;
use crate::support::{Daemon, Http, Setup, Stream, until};

const NAME: &str = "chat.example";

/// What `wschatctl tls` tells.
#[track_caller]
fn tls(daemon: &Daemon) -> Value {
    daemon.json(&["tls"])["certificate"].clone()
}

/// Waits until a browser that trusts the CA takes the daemon for `name`.
#[track_caller]
fn trusted(ca: &Ca, name: &str) -> String {
    until("a certificate of the CA", || ca.browser(name).ok())
}

/// Waits until an attempt has failed, and tells why.
#[track_caller]
fn failure(daemon: &Daemon) -> String {
    until("a failure", || tls(daemon)["renewal"]["error"].as_str().map(str::to_owned))
}

#[test]
fn the_first_certificate_comes_by_itself_and_outlasts_a_restart() {
    let mut ca = Ca::started();
    let daemon = Daemon::start(&ca.config(&[NAME]));
    let fingerprint = trusted(&ca, NAME);
    assert!(ca.browser("other.example").unwrap_err().contains("not valid for name"));

    let shown = tls(&daemon);
    assert_eq!(shown["fingerprint"], json!(fingerprint));
    assert_eq!(shown["names"], json!([NAME]));
    assert_eq!(shown["source"], json!(format!("ACME: {NAME} of {}", ca.directory())));
    assert_eq!(daemon.json(&["status"])["certificate_until"], shown["until"]);
    let renewal = until("the next renewal is known", || {
        Some(tls(&daemon)["renewal"].clone()).filter(|r| r["next"] != json!(null))
    });
    assert_eq!(renewal["names"], json!([NAME]));
    assert_eq!((&renewal["directory"], &renewal["error"]), (&json!(ca.directory()), &json!(null)));
    let (next, until_then) = (renewal["next"].as_str().unwrap(), shown["until"].as_str().unwrap());
    assert!(next < until_then && next > shown["from"].as_str().unwrap(), "{renewal}");
    let told = daemon.ctl(&["tls"]).stdout;
    assert!(told.contains(&format!("renewed_at\t{next}\n")) && !told.contains("error"), "{told}");
    let log = daemon.log();
    assert!(log.contains("no listener with TLS is at port 443"), "{log}");
    assert!(log.contains("an account was made"), "{log}");

    let folder = kept(&daemon.state_folder());
    for folder in [folder.parent().unwrap(), &folder] {
        assert_eq!(fs::metadata(folder).unwrap().permissions().mode() & 0o777, 0o700);
    }
    let mut files: Vec<String> = Vec::new();
    for file in fs::read_dir(&folder).unwrap() {
        let file = file.unwrap();
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{file:?}");
        files.push(file.file_name().into_string().unwrap());
    }
    files.sort();
    assert_eq!(files, ["account.json", "certificate.pem"]);

    // The CA is not needed for what is kept, and is not even asked.
    ca.stop();
    let setup = daemon.stop();
    let asked = setup.log().matches("asking ").count();
    let daemon = setup.start();
    assert_eq!(daemon.connect().fingerprint(), fingerprint);
    assert_eq!(tls(&daemon)["renewal"]["next"].as_str().map(|at| at > "2"), Some(true));
    assert_eq!(daemon.log().matches("asking ").count(), asked);
}

#[test]
fn without_a_file_of_its_own_the_systems_roots_count() {
    let ca = Ca::started();
    let root = ca.root_file();
    let config = ca.config(&[NAME]).replace(root.to_str().unwrap(), "");
    // Where OpenSSL, too, lets a user put others in the place of the system's.
    let setup = Setup::new(&config).env("SSL_CERT_FILE", &root);
    let daemon = setup.start();
    trusted(&ca, NAME);
    assert_eq!(tls(&daemon)["renewal"]["failures"], json!(0));
}

#[test]
fn one_certificate_is_for_all_names() {
    let ca = Ca::started();
    let daemon = Daemon::start(&ca.config(&[NAME, "Talk.Example"]));
    let fingerprint = trusted(&ca, NAME);
    assert_eq!(ca.browser("talk.example"), Ok(fingerprint));
    let mut names = tls(&daemon)["names"].as_array().unwrap().clone();
    names.sort_by_key(ToString::to_string);
    assert_eq!(names, [NAME, "talk.example"]);
}

#[test]
fn without_its_ca_the_daemon_serves_and_gets_the_certificate_once_it_is_there() {
    let mut ca = Ca::new();
    let daemon = Daemon::start(&ca.config(&[NAME]));
    assert!(tls(&daemon)["source"].as_str().unwrap().starts_with("self-signed"), "{}", tls(&daemon));
    let own = daemon.connect().fingerprint();
    let mut early = daemon.chat("early");
    let why = failure(&daemon);
    assert!(why.contains("the CA cannot be reached") && why.contains("Connection refused"), "{why}");
    let told = daemon.ctl(&["tls"]).stdout;
    assert!(told.contains(&format!("error\t{why}\n")) && told.contains("failures\t"), "{told}");
    assert!(daemon.log().contains("meanwhile this serves: self-signed"), "{}", daemon.log());

    ca.start(3600);
    assert_ne!(trusted(&ca, NAME), own);
    until("nothing is wrong", || (tls(&daemon)["renewal"]["failures"] == json!(0)).then_some(()));
    assert_eq!(tls(&daemon)["renewal"]["error"], json!(null));
    let mut late = daemon.chat("late");
    late.say("who was here before?");
    early.hears("who was here before?");
}

#[test]
fn a_certificate_is_renewed_without_dropping_anybody_even_if_the_ca_was_away() {
    let mut ca = Ca::new();
    ca.start(9);
    let daemon = Daemon::start(&ca.config(&[NAME]));
    let first = trusted(&ca, NAME);
    let mut early = daemon.chat("early");
    let second = until("the second certificate", || ca.browser(NAME).ok().filter(|found| *found != first));

    ca.stop();
    let why = failure(&daemon);
    assert!(why.contains("the CA cannot be reached"), "{why}");
    assert!(daemon.log().contains("the one in force ends at"), "{}", daemon.log());
    assert_eq!(daemon.connect().fingerprint(), second, "what there is serves on");
    // It has forgotten the account, and another is made.
    ca.start(3600);
    let third = trusted(&ca, NAME);
    assert!(third != first && third != second);
    assert_eq!(daemon.log().matches("an account was made").count(), 2, "{}", daemon.log());

    let mut late = daemon.chat("late");
    late.say("who was here before?");
    early.hears("who was here before?");
    early.say("me");
    late.hears("me");
}

#[test]
fn what_the_ca_refuses_is_told_with_its_reason() {
    let ca = Ca::started();
    let daemon = Daemon::start(&ca.config(&["a.blocked.example"]));
    let why = failure(&daemon);
    assert!(why.contains("rejectedIdentifier") && why.contains("take the name out of tls.acme"), "{why}");
    assert!(daemon.log().contains(&why), "{}", daemon.log());
    assert!(tls(&daemon)["source"].as_str().unwrap().starts_with("self-signed"));
}

#[test]
fn a_name_that_leads_elsewhere_is_told_and_tried_again_once_it_is_mended() {
    let ca = Ca::started();
    // Nobody listens there.
    ca.leads(NAME, Leads::To(Ipv4Addr::new(127, 9, 9, 9)));
    let daemon = Daemon::start(&ca.config(&["fine.example", NAME]));
    let why = failure(&daemon);
    assert!(why.starts_with(&format!("{NAME} was not proved: ")), "{why}");
    assert!(why.contains("Failed to connect to 127.9.9.9"), "the CA's own words: {why}");
    assert!(why.contains(&format!("at port 443 of {NAME}")) && why.contains("firewall"), "{why}");
    assert!(daemon.log().contains(&why), "{}", daemon.log());

    ca.leads(NAME, Leads::Nowhere);
    daemon.json(&["reload"]);
    until("it is tried again", || (tls(&daemon)["renewal"]["failures"] == json!(2)).then_some(()));
    let why = failure(&daemon);
    assert!(why.contains("Could not resolve"), "the CA's own words: {why}");

    ca.leads(NAME, Leads::To(Ipv4Addr::LOCALHOST));
    daemon.json(&["reload", "--tls"]);
    trusted(&ca, NAME);
}

#[test]
fn a_reload_takes_names_files_and_neither() {
    let ca = Ca::started();
    let daemon = Daemon::start(&ca.config(&[NAME]));
    let first = trusted(&ca, NAME);
    let mut early = daemon.chat("early");

    // The old one serves until the new one is there.
    ca.leads("talk.example", Leads::Silence);
    daemon.write_config(&ca.config(&[NAME, "talk.example"]));
    assert_eq!(daemon.json(&["reload"]), json!({"changed": ["tls.acme"], "needs_restart": [], "certificate": false}));
    until("the CA looks for the new name", || ca.has_looked_up("talk.example").then_some(()));
    assert_eq!(ca.browser(NAME), Ok(first.clone()));
    ca.leads("talk.example", Leads::To(Ipv4Addr::LOCALHOST));
    daemon.json(&["reload"]);
    let both = trusted(&ca, "talk.example");
    assert_eq!(ca.browser(NAME), Ok(both.clone()));

    let files = Certificate::for_name("files.example");
    files.install(daemon.folder());
    let listen = format!("[[listen]]\naddress = \"{}\"\n", ca.daemon.address());
    daemon.write_config(&format!("{listen}{INSTALLED}"));
    assert_eq!(daemon.json(&["reload"])["certificate"], true);
    assert_eq!(daemon.connect().fingerprint(), files.fingerprint);
    assert_eq!(tls(&daemon)["renewal"], json!(null));

    daemon.write_config(&listen);
    assert_eq!(daemon.json(&["reload"])["certificate"], true);
    assert!(tls(&daemon)["source"].as_str().unwrap().starts_with("self-signed"));

    // What is kept for these names is used at once, and the CA is not asked.
    let asked = daemon.log().matches("asking ").count();
    daemon.write_config(&ca.config(&[NAME, "talk.example"]));
    assert_eq!(daemon.json(&["reload"])["certificate"], true);
    assert_eq!(ca.browser(NAME), Ok(both.clone()));
    assert_eq!(daemon.log().matches("asking ").count(), asked);

    // A name that nobody wants any more is gone from the next certificate.
    daemon.write_config(&ca.config(&["talk.example"]));
    daemon.json(&["reload"]);
    until("the other name is gone", || ca.browser("talk.example").ok().filter(|found| *found != both));
    assert!(ca.browser(NAME).is_err());
    early.say("nobody noticed");

    // A mistake changes nothing.
    daemon.write_config(&ca.config(&["*.example"]));
    daemon.ctl(&["reload"]).ends(78, "a wildcard needs proof in the DNS");
    assert_eq!(tls(&daemon)["renewal"]["names"], json!(["talk.example"]));
}

/// A CA looks at a challenge's certificate with eyes of its own; for others its critical extension
/// makes it useless.
#[derive(Debug)]
struct Unseen;

impl ServerCertVerifier for Unseen {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

/// A client that offers these protocols, and takes any certificate.
fn offering(protocols: &[&str]) -> ClientConfig {
    let mut config = ClientConfig::clone(&trusting(rustls::ALL_VERSIONS));
    config.dangerous().set_certificate_verifier(Arc::new(Unseen));
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    config
}

#[test]
fn only_a_name_that_is_checked_just_now_answers_to_the_protocol_of_a_ca() {
    let ca = Ca::started();
    ca.leads(NAME, Leads::Silence);
    let daemon = Daemon::start(&ca.config(&["fine.example"]));
    trusted(&ca, "fine.example");
    let refused = |name: &str| {
        let why = shake_hands(daemon.address(), name, offering(&["acme-tls/1"])).unwrap_err();
        assert!(why.contains("NoApplicationProtocol"), "{name}: {why}");
    };
    let served = || {
        let stream = Stream::tls_as(daemon.address(), &offering(&["acme-tls/1", "http/1.1"]).into()).unwrap();
        assert_eq!(stream.alpn(), Some(&b"http/1.1"[..]));
        assert_eq!(Http::new(stream).get("/healthz").status, 200);
    };
    // Nothing is under way.
    for name in ["fine.example", NAME, "localhost"] {
        for _ in 0..20 {
            refused(name);
        }
    }
    served();

    // While the CA waits for the DNS, its challenge is under way.
    daemon.write_config(&ca.config(&[NAME]));
    daemon.json(&["reload"]);
    until("the CA looks for the name", || ca.has_looked_up(NAME).then_some(()));
    let ordinary = daemon.connect().fingerprint();
    let shown = shake_hands(daemon.address(), &NAME.to_uppercase(), offering(&["acme-tls/1"])).unwrap();
    assert_ne!(shown, ordinary);
    // The handshake is all there is.
    let name = ServerName::try_from(NAME).unwrap();
    let client = rustls::ClientConnection::new(offering(&["acme-tls/1"]).into(), name).unwrap();
    let socket = std::net::TcpStream::connect(daemon.address()).unwrap();
    let mut stream = rustls::StreamOwned::new(client, socket);
    let mut said = Vec::new();
    stream.read_to_end(&mut said).unwrap();
    assert_eq!((said, stream.conn.alpn_protocol()), (Vec::new(), Some(&b"acme-tls/1"[..])));
    for name in ["fine.example", "localhost"] {
        refused(name);
    }
    served();
    let mut chat = daemon.chat("meanwhile");
    chat.say("all as ever");
    // What is no TLS is told so at the most.
    let mut garbage = Stream::tcp(daemon.address());
    std::io::Write::write_all(&mut garbage, &[22, 3, 1, 0, 4, 9, 9, 9, 9]).unwrap();
    let told = garbage.rest();
    assert!(told.is_empty() || told[0] == 21, "nothing but an alert: {told:?}");
    let mut plain = Http::new(Stream::tcp(daemon.address()));
    assert_eq!(plain.get("/").status, 308);
}

#[test]
fn damaged_state_is_set_aside_and_replaced() {
    let ca = Ca::started();
    let daemon = Daemon::start(&ca.config(&[NAME]));
    let first = trusted(&ca, NAME);
    let mut setup = daemon.stop();
    let folder = kept(&setup.state_folder());
    let (certificate, account) = (folder.join("certificate.pem"), folder.join("account.json"));
    let whole = fs::read_to_string(&certificate).unwrap();
    let key_alone = &whole[..whole.find("-----BEGIN CERTIFICATE-----").unwrap()];
    let other_key = Certificate::for_name(NAME).key + &whole[key_alone.len()..];
    let mut last = first;
    for damage in ["", "garbage", &whole[..whole.len() / 3], key_alone, &other_key] {
        fs::write(&certificate, damage).unwrap();
        let daemon = setup.start();
        let next = trusted(&ca, NAME);
        assert_ne!(next, last);
        last = next;
        assert_eq!(fs::read_to_string(folder.join("certificate.pem.bad")).unwrap(), damage);
        setup = daemon.stop();
        assert!(setup.log().contains("certificate.pem is of no use"), "{}", setup.log());
    }
    for damage in ["", "{}", "\u{0}\u{1}", r#"{"directory":"https://other.example/","contact":[],"credentials":5}"#] {
        fs::write(&account, damage).unwrap();
        fs::remove_file(&certificate).unwrap();
        let daemon = setup.start();
        trusted(&ca, NAME);
        assert_eq!(fs::read_to_string(folder.join("account.json.bad")).unwrap(), damage);
        setup = daemon.stop();
    }
    // A certificate for other names, or one that has ended, is no damage.
    for old in [Certificate::for_name("other.example"), Certificate::until(NAME, 2002)] {
        fs::write(&certificate, old.key + &old.pem).unwrap();
        let daemon = setup.start();
        trusted(&ca, NAME);
        setup = daemon.stop();
    }
    assert_eq!(setup.log().matches("certificate.pem is of no use").count(), 5);
}

#[test]
fn a_change_of_contacts_is_told_to_the_ca() {
    let ca = Ca::started();
    let config = |contact: &str| format!("{}acme_contact = \"{contact}\"\n", ca.config(&[NAME]));
    let daemon = Daemon::start(&config("first@example.org"));
    trusted(&ca, NAME);
    let account = kept(&daemon.state_folder()).join("account.json");
    assert!(fs::read_to_string(&account).unwrap().contains("mailto:first@example.org"));
    // It is told with the next order.
    let second = config("second@example.org");
    fs::remove_file(account.with_file_name("certificate.pem")).unwrap();
    let setup = daemon.stop();
    setup.write_config(&second);
    let daemon = setup.start();
    trusted(&ca, NAME);
    assert!(fs::read_to_string(&account).unwrap().contains("mailto:second@example.org"));
    assert_eq!(daemon.log().matches("an account was made").count(), 1);
}

#[test]
fn a_ca_that_wants_to_be_left_alone_is_left_alone() {
    let mut ca = Ca::new();
    let problem = r#"{"type":"urn:ietf:params:acme:error:rateLimited","detail":"too many\u001b[31m\nalready"}"#;
    let kind = "Content-Type: application/problem+json";
    ca.pretend(format!("HTTP/1.1 429 Slow Down\r\n{kind}\r\nRetry-After: 86400\r\nConnection: close\r\n\r\n{problem}"));
    let daemon = Daemon::start(&ca.config(&[NAME]));
    let why = failure(&daemon);
    assert!(why.contains("too many [31m already") && why.contains("wants to be left alone"), "{why}");
    let line = daemon.log().lines().find(|line| line.contains("no certificate for")).unwrap().to_owned();
    assert!(line.contains(" ERROR "), "a refusal does not go away by itself: {line}");
    let asked = ca.asked();
    let renewal = tls(&daemon)["renewal"].clone();
    let (failed, next) = (renewal["failed"].as_str().unwrap(), renewal["next"].as_str().unwrap());
    let time = |text: &str| humantime::parse_rfc3339(text).unwrap();
    assert!(time(next) >= time(failed) + std::time::Duration::from_secs(86_000), "{renewal}");
    for _ in 0..3 {
        daemon.json(&["reload"]);
    }
    // Another configuration is another matter, and shows that a reload would have been seen.
    assert_eq!(ca.asked(), asked);
    daemon.write_config(&ca.config(&["other.example"]));
    daemon.json(&["reload"]);
    until("it is asked for the other name", || (ca.asked() > asked).then_some(()));
}

#[test]
fn whatever_a_ca_answers_is_one_line_and_the_daemon_serves_on() {
    let long = format!("HTTP/1.1 200 OK\r\n\r\n{}", "x".repeat(2 << 20));
    let deep = format!("HTTP/1.1 200 OK\r\n\r\n{}", "[".repeat(100_000));
    let strange = r#"{"newNonce":"x","newAccount":"http://localhost/","newOrder":5}"#;
    for (answer, words) in [
        (String::new(), "the CA cannot be reached"),
        ("garbage\r\n\r\n".into(), "the CA cannot be reached"),
        ("HTTP/1.1 503 Gone Fishing\r\nContent-Length: 0\r\n\r\n".into(), "HTTP status 503"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n<htm>".into(), "does not answer as RFC 8555 says"),
        (format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{strange}", strange.len()), "RFC 8555"),
        (long, "more than 1048576 bytes"),
        (deep, "RFC 8555"),
    ] {
        let mut ca = Ca::new();
        ca.pretend(answer);
        let daemon = Daemon::start(&ca.config(&[NAME]));
        let why = failure(&daemon);
        assert!(why.contains(words), "{words}: {why}");
        assert!(why.len() < 1000 && !why.contains(char::is_control), "{why}");
        daemon.chat("as ever").say("it serves");
    }
}

#[test]
fn a_ca_that_cannot_be_trusted_is_not_asked() {
    let ca = Ca::started();
    let setup = Setup::new("");
    let stranger = Certificate::for_name("stranger.example");
    stranger.install(setup.folder());
    let config = ca.config(&[NAME]);
    let root = ca.root_file().display().to_string();
    setup.write_config(&config.replace(&root, "FOLDER/crt.pem"));
    let daemon = setup.start();
    let why = failure(&daemon);
    assert!(why.contains("UnknownIssuer") && why.contains("set tls.acme_ca_file"), "{why}");
    daemon.write_config(&config);
    daemon.json(&["reload"]);
    trusted(&ca, NAME);
}

/// What a CA knows somebody by, and what a certificate is worth, is nobody's to read in a journal.
#[test]
fn neither_keys_nor_accounts_are_in_the_log() {
    let ca = Ca::started();
    let daemon = Daemon::start(&(ca.config(&[NAME]) + "[log]\nlevel = \"trace\"\n"));
    trusted(&ca, NAME);
    daemon.ctl(&["tls"]).ends(0, "");
    let folder = kept(&daemon.state_folder());
    let account: Value = serde_json::from_slice(&fs::read(folder.join("account.json")).unwrap()).unwrap();
    let key = account["credentials"]["key_pkcs8"].as_str().expect("the account's key");
    assert!(key.len() > 100, "it is one");
    let pem = fs::read_to_string(folder.join("certificate.pem")).unwrap();
    let secret = pem.lines().nth(1).expect("the key comes first");
    let log = daemon.log();
    assert!(log.contains(" DEBUG "), "it says all: {log}");
    for hidden in [&key[20..60], &secret[..40], "PRIVATE KEY", "key_pkcs8"] {
        assert!(!log.contains(hidden), "{hidden}");
    }
}

#[test]
fn a_ca_that_stays_away_is_an_alarm_after_a_while() {
    let ca = Ca::new();
    let daemon = Daemon::start(&ca.config(&[NAME]));
    // A machine that starts may have no network yet: the first failures are no alarm, later ones are.
    let told = until("an alarm", || {
        // It is tried again at once.
        daemon.json(&["reload"]);
        let log = daemon.log();
        let told = |line: &&str| line.contains("no certificate for") && line.contains("cannot be reached");
        let told: Vec<bool> = log.lines().filter(told).map(|line| line.contains(" ERROR ")).collect();
        told.contains(&true).then_some(told)
    });
    assert_eq!(told[..6], [false, false, false, false, false, true], "{}", daemon.log());
}
