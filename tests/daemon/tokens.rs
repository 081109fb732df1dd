//! Who comes in with a token, who does not, and what a token is worth afterwards.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};

use crate::support::client::Closed;
use crate::support::daemon::TLS;
use crate::support::site::{PUBLIC, SECRET, Site, but, claims, seconds};
use crate::support::{Chat, Daemon, Setup, left_out, until};

/// A daemon with TLS, this configuration, and what may be known of these sites' keys.
#[track_caller]
fn daemon(config: &str, sites: &[&Site]) -> Daemon {
    let setup = Setup::new(&format!("{TLS}{config}"));
    for site in sites {
        site.install(setup.folder());
    }
    setup.start()
}

/// A token's user who has been welcomed: the client and its `welcome`.
#[track_caller]
fn enter(daemon: &Daemon, token: &str) -> (Chat, Value) {
    let mut chat = Chat::open(daemon.connect(), "/chat", "");
    let welcome = chat.hello(json!({"v": 1, "token": token}));
    (chat, welcome)
}

/// How a hello with these members ends that is not welcome.
#[track_caller]
fn turned_away(daemon: &Daemon, hello: Value) -> Closed {
    let mut chat = Chat::open(daemon.connect(), "/chat", "");
    chat.send("hello", hello);
    let (bye, closed) = chat.closed();
    let bye = &bye.expect("a bye before the close")["payload"];
    assert_eq!((&bye["code"], &bye["reason"]), (&json!(closed.code), &json!(closed.reason)));
    // Whose token has expired comes back with another one.
    assert_eq!(bye["reconnect"], closed.code == 4202, "{bye}");
    closed
}

#[track_caller]
fn refused(daemon: &Daemon, token: &str, code: u16, words: &str) {
    let closed = turned_away(daemon, json!({"v": 1, "token": token}));
    assert!(closed.code == code && closed.reason.contains(words), "{code}, {words:?}: {closed:?}");
}

/// How a WebSocket ends that is closed without a word of its own; a daemon that lets it in fails the
/// test.
#[track_caller]
fn ends(daemon: &Daemon, path: &str, headers: &str) -> Closed {
    Chat::open(daemon.connect(), path, headers).turned_away()
}

fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}")
}

#[test]
fn every_algorithm_lets_its_users_in() {
    for site in [Site::hmac(), Site::rsa(), Site::ec(), Site::ed()] {
        let daemon = daemon(if site.known.contains("PUBLIC") { PUBLIC } else { SECRET }, &[&site]);
        let token = site.token(&but(claims("ann"), json!({"name": "Ann"})));
        let (mut ann, welcome) = enter(&daemon, &token);
        assert_eq!((&welcome["user"], &welcome["nick"]), (&json!("ann"), &json!("Ann")), "{:?}", site.algorithm);
        assert_eq!(welcome["guest"], Value::Null, "a user of the site is no guest");
        ann.say("hello");
        // Another tab is the same user.
        assert_eq!(enter(&daemon, &token).1["user"], "ann");
        refused(&daemon, &site.token(&but(claims("ann"), json!({"exp": seconds(-60)}))), 4202, "expired");
    }
}

#[test]
fn who_has_no_token_stays_out_where_one_is_demanded() {
    let site = Site::hmac();
    let daemon = daemon(&format!("{SECRET}[paths]\necho = \"/echo\"\n"), &[&site]);
    let wanted = Closed { code: 4001, reason: "this server wants a token".into() };
    assert_eq!(turned_away(&daemon, json!({"v": 1, "nick": "ann"})), wanted);
    assert_eq!(turned_away(&daemon, json!({"v": 1, "token": ""})), wanted);
    // A hello that is only implied is none either.
    for first in [
        r#"{"type":"ping"}"#,
        r#"{"type":"message","payload":{"text":"let me in"}}"#,
        r#"{"type":"join","payload":{"room":"a"}}"#,
    ] {
        let mut chat = Chat::open(daemon.connect(), "/chat", "");
        chat.send_text(first);
        assert_eq!(chat.closed().1, wanted, "{first}");
    }
    // A guest of yesterday, too.
    assert_eq!(turned_away(&daemon, json!({"v": 1, "guest": "x.y"})), wanted);
    for path in ["/wss", "/echo", "/wss?token=", "/wss?x=1"] {
        assert_eq!(ends(&daemon, path, ""), wanted, "{path}");
    }
    assert_eq!(ends(&daemon, "/wss", "Authorization: Basic YTpi"), wanted);
    until("nobody is left", || daemon.clients(&[]).is_empty().then_some(()));
    // The page itself is everybody's.
    assert_eq!(daemon.http().get("/").status, 200);
}

#[test]
fn forged_tokens_of_every_kind() {
    let (site, other) = (Site::hmac(), Site::hmac());
    let secret = daemon(&format!("{SECRET}audience = \"chat\"\n"), &[&site]);
    let good = but(claims("ann"), json!({"aud": ["shop", "chat"]}));
    let with = |other: Value| site.token(&but(good.clone(), other));
    assert_eq!(enter(&secret, &site.token(&good)).1["user"], "ann");

    refused(&secret, &other.token(&good), 4001, "signature");
    let whole = site.token(&good);
    for cut in [whole.len() - 1, whole.len() - 10, whole.rfind('.').unwrap() + 1] {
        refused(&secret, &whole[..cut], 4001, "signature");
    }
    refused(&secret, &whole[..whole.rfind('.').unwrap()], 4001, "no JWT");
    refused(&secret, "nonsense", 4001, "no JWT");
    for alg in ["none", "None", "NONE", "nOnE", "hs256", "HS384", "HS512"] {
        let header = json!({"alg": alg, "typ": "JWT"});
        let signed = site.token_under(&header, &good);
        refused(&secret, &signed, 4001, "(alg)");
        refused(&secret, &signed[..=signed.rfind('.').unwrap()], 4001, "(alg)");
    }
    refused(&secret, &site.token_under(&json!({"alg": "HS256", "crit": ["x"], "x": 1}), &good), 4001, "crit");
    refused(&secret, &with(json!({"x": "x".repeat(10_000)})), 4001, "8 KiB");
    refused(&secret, &with(json!({"rooms": vec!["a"; 101]})), 4001, "rooms");
    refused(&secret, &with(json!({"nbf": seconds(3600)})), 4001, "not valid yet");
    refused(&secret, &with(json!({"exp": seconds(-1)})), 4202, "expired");
    refused(&secret, &with(json!({"exp": null})), 4001, "no exp");
    refused(&secret, &with(json!({"exp": seconds(3600) * 1000})), 4001, "no time in seconds");
    refused(&secret, &with(json!({"sub": null})), 4001, "no sub");
    refused(&secret, &with(json!({"sub": 5})), 4001, "no text");
    refused(&secret, &with(json!({"sub": "guest-5mpkd3fk7h09s02g2wzyxvaqam"})), 4001, "guest-");
    refused(&secret, &with(json!({"aud": null})), 4001, "(aud)");
    refused(&secret, &with(json!({"aud": "shop"})), 4001, "(aud)");

    let (rsa, ec, ed) = (Site::rsa(), Site::ec(), Site::ed());
    for (site, others) in [(&rsa, [&ec, &ed]), (&ec, [&rsa, &ed]), (&ed, [&rsa, &ec])] {
        let daemon = daemon(PUBLIC, &[site]);
        assert_eq!(enter(&daemon, &site.token(&claims("ann"))).1["user"], "ann");
        for other in others {
            refused(&daemon, &other.token(&claims("ann")), 4001, "(alg)");
            let header = json!({"alg": site.algorithm});
            refused(&daemon, &other.token_under(&header, &claims("ann")), 4001, "signature");
        }
        // What everybody may know is no secret.
        for known in [site.known.as_str(), site.known.trim_end(), &format!("{}\n", site.known)] {
            refused(&daemon, &Site::with_secret(known).token(&claims("ann")), 4001, "(alg)");
        }
    }
}

#[test]
fn a_token_where_nobody_can_check_it_is_refused() {
    let daemon = Daemon::tls("[paths]\necho = \"/echo\"\n");
    let token = Site::hmac().token(&claims("ann"));
    refused(&daemon, &token, 4001, "takes no tokens");
    for path in ["/wss", "/echo"] {
        assert!(ends(&daemon, path, &bearer(&token)).reason.contains("takes no tokens"), "{path}");
    }
    assert!(daemon.chat("ann").user.starts_with("guest-"));
}

#[test]
fn guests_and_users_meet_where_guests_may_come_in() {
    let site = Site::hmac();
    let daemon = daemon(&SECRET.replace("mode = \"token\"\n", ""), &[&site]);
    let mut guest = daemon.chat("guest");
    assert!(guest.user.starts_with("guest-"));
    let mut text = daemon.text();
    let (mut ann, welcome) = enter(&daemon, &site.token(&claims("ann")));
    assert_eq!(welcome["user"], "ann");
    ann.frame("joined");
    ann.say("hello");
    assert_eq!(guest.hears("hello")["payload"]["from"]["user"], "ann");
    until("the text client hears it", || text.text().ends_with(": hello").then_some(()));
    // A token wins over a guest's string, and a bad one is not forgiven because guests may come in.
    let mut again = Chat::open(daemon.connect(), "/chat", "");
    let guest = Chat::open(daemon.connect(), "/chat", "").hello(json!({"v": 1}))["guest"].clone();
    let welcome = again.hello(json!({"v": 1, "guest": guest, "token": site.token(&claims("bob"))}));
    assert_eq!(welcome["user"], "bob");
    let closed = turned_away(&daemon, json!({"v": 1, "guest": guest, "token": Site::hmac().token(&claims("bob"))}));
    assert_eq!(closed.code, 4001);
}

#[test]
fn a_token_may_come_with_the_upgrade() {
    let site = Site::ec();
    let daemon = daemon(&format!("{PUBLIC}[paths]\necho = \"/echo\"\n"), &[&site]);
    let token = site.token(&but(claims("ann"), json!({"name": "Ann"})));
    let expired = site.token(&but(claims("ann"), json!({"exp": seconds(-60)})));
    let forged = Site::ec().token(&claims("ann"));

    // The text dialect, by header and by query.
    let mut one = Chat::open(daemon.connect(), "/wss", &bearer(&token));
    let mut two = Chat::open(daemon.connect(), &format!("/wss?x=1&token={}", token.replace('.', "%2E")), "");
    until("both are in the room", || {
        (daemon.clients(&["--user", "ann", "--room", "lobby", "--dialect", "text"]).len() == 2).then_some(())
    });
    one.send_text("hello");
    assert_eq!(two.text(), "hello");
    assert_eq!(daemon.clients(&["--user", "ann"])[0]["nick"], "Ann");
    for (path, headers) in [("/wss", bearer(&forged)), (&format!("/wss?token={forged}"), String::new())] {
        let closed = ends(&daemon, path, &headers);
        assert_eq!((closed.code, closed.reason.as_str()), (4001, "the token's signature is wrong"), "{path}");
    }
    assert_eq!(ends(&daemon, "/wss", &bearer(&expired)).code, 4202);
    // A header goes before the query.
    assert_eq!(ends(&daemon, &format!("/wss?token={token}"), &bearer(&forged)).code, 4001);

    // An echo.
    let mut echo = Chat::open(daemon.connect(), "/echo", &bearer(&token));
    echo.send_text("back");
    assert_eq!(echo.text(), "back");
    assert_eq!(ends(&daemon, "/echo", &bearer(&expired)).code, 4202);

    // The JSON dialect: where hello brings none, the one of the upgrade counts, be it good or bad.
    for (path, headers) in [("/chat", bearer(&token)), (&format!("/chat?token={token}"), String::new())] {
        let mut chat = Chat::open(daemon.connect(), path, &headers);
        assert_eq!(chat.hello(json!({"v": 1}))["user"], "ann", "{path}");
        let mut implied = Chat::open(daemon.connect(), path, &headers);
        implied.send_text(r#"{"type":"ping"}"#);
        assert_eq!(implied.frame("welcome")["payload"]["user"], "ann", "{path}");
    }
    let mut other = Chat::open(daemon.connect(), "/chat", &bearer(&token));
    assert_eq!(other.hello(json!({"v": 1, "token": site.token(&claims("bob"))}))["user"], "bob");
    let mut mended = Chat::open(daemon.connect(), "/chat", &bearer(&forged));
    assert_eq!(mended.hello(json!({"v": 1, "token": token}))["user"], "ann");
    for (bad, code) in [(&forged, 4001), (&expired, 4202)] {
        for first in [r#"{"type":"hello","payload":{"v":1}}"#, r#"{"type":"ping"}"#] {
            let mut chat = Chat::open(daemon.connect(), "/chat", &bearer(bad));
            chat.send_text(first);
            assert_eq!(chat.closed().1.code, code, "{first}");
        }
    }
    // One that was good then, and is not any more.
    let soon = seconds(2);
    let mut late =
        Chat::open(daemon.connect(), "/chat", &bearer(&site.token(&but(claims("ann"), json!({"exp": soon})))));
    until("the token has expired", || (seconds(0) >= soon).then_some(()));
    late.send("hello", json!({"v": 1}));
    assert_eq!(late.closed().1.code, 4202);
    // Another hello changes nobody.
    mended.send("hello", json!({"v": 1, "token": forged}));
    assert_eq!(mended.any(&["error"])["payload"]["code"], "bad_request");
    mended.say("still here");
}

#[test]
fn a_token_is_not_written_down() {
    let site = Site::hmac();
    let daemon = daemon(&format!("{SECRET}[log]\nlevel = \"trace\"\n"), &[&site]);
    let (good, bad) = (site.token(&claims("ann")), Site::hmac().token(&claims("ann")));
    let mut text = Chat::open(daemon.connect(), &format!("/wss?token={good}"), "");
    let (mut ann, _) = enter(&daemon, &good);
    ends(&daemon, &format!("/wss?token={bad}"), "");
    ends(&daemon, "/wss", &bearer(&bad));
    refused(&daemon, &bad, 4001, "");
    ann.frame("joined");
    ann.say("hello");
    until("it is heard", || text.text().ends_with("hello").then_some(()));
    let seen =
        [daemon.json(&["list"]).to_string(), daemon.json(&["show", &ann.id.to_string()]).to_string(), daemon.log()];
    for seen in seen {
        for token in [&good, &bad] {
            for part in token.split('.').skip(1) {
                assert!(!seen.contains(part), "{seen}");
            }
        }
        assert!(!seen.contains(&site.known), "{seen}");
    }
    assert!(daemon.log().contains("ann"), "what is looked through is the right log");
}

/// Tells the daemon to reload; what it says has changed.
#[track_caller]
fn reload(daemon: &Daemon) -> Value {
    daemon.json(&["reload"])["changed"].clone()
}

#[test]
fn keys_are_changed_while_clients_are_connected() {
    let (old, new) = (Site::hmac(), Site::hmac());
    let daemon = daemon(SECRET, &[&old]);
    let (mut ann, _) = enter(&daemon, &old.token(&claims("ann")));
    assert_eq!(reload(&daemon), json!([]));

    new.install(daemon.folder());
    refused(&daemon, &new.token(&claims("bob")), 4001, "signature");
    assert_eq!(reload(&daemon), json!(["auth.secret_file"]), "the name is the same, the secret is not");
    ann.say("who is in stays in");
    refused(&daemon, &old.token(&claims("ann")), 4001, "signature");
    assert_eq!(enter(&daemon, &new.token(&claims("bob"))).1["user"], "bob");

    // The other kind of key besides, then alone.
    let ed = Site::ed();
    ed.install(daemon.folder());
    let public = "public_key_file = \"FOLDER/public.pem\"\n";
    daemon.write_config(&format!("{TLS}{SECRET}{public}"));
    assert_eq!(reload(&daemon), json!(["auth.public_key_file"]));
    for site in [&new, &ed] {
        assert_eq!(enter(&daemon, &site.token(&claims("bob"))).1["user"], "bob");
    }
    daemon.write_config(&format!("{TLS}{PUBLIC}"));
    assert_eq!(reload(&daemon), json!(["auth.secret_file"]));
    refused(&daemon, &new.token(&claims("bob")), 4001, "(alg)");
    ann.say("still here");
}

#[test]
fn a_key_that_cannot_be_used_refuses_the_whole_reload() {
    let site = Site::hmac();
    let daemon = daemon(SECRET, &[&site]);
    let (mut ann, _) = enter(&daemon, &site.token(&claims("ann")));
    let changed = format!("{TLS}{SECRET}public_key_file = \"FOLDER/public.pem\"\n[limits]\ntext = \"10B\"\n");
    daemon.write_config(&changed);
    let write = |name: &str, content: &str| fs::write(daemon.folder().join(name), content).unwrap();
    let refused_for = |words: &str| {
        let ran = daemon.ctl(&["reload"]);
        assert!(ran.status != 0 && ran.stderr.contains(words), "{words:?} in {ran:?}");
        assert!(ran.stderr.contains(daemon.folder().to_str().unwrap()), "the file is named: {ran:?}");
    };
    refused_for("No such file");
    write("public.pem", "nothing");
    refused_for("no public key in PEM");
    let certificate = rcgen::KeyPair::generate().unwrap();
    write("public.pem", &certificate.serialize_pem());
    refused_for("holds a private key");
    Site::ec().install(daemon.folder());
    write("secret", "too short\n");
    refused_for("openssl rand -hex 32");
    fs::remove_file(daemon.folder().join("secret")).unwrap();
    refused_for("cannot read auth.secret_file");

    // Nothing has changed: neither the keys nor anything else.
    ann.say("more than ten bytes");
    assert_eq!(enter(&daemon, &site.token(&claims("ann"))).1["user"], "ann");
    // The certificate alone can be read again meanwhile.
    assert_eq!(daemon.ctl(&["reload", "--tls"]).status, 0);
    assert_eq!(enter(&daemon, &site.token(&claims("ann"))).1["user"], "ann");
    site.install(daemon.folder());
    assert_eq!(reload(&daemon), json!(["auth.public_key_file", "limits.text"]));
    ann.say("short");
}

#[test]
fn a_daemon_does_not_start_with_a_key_that_cannot_be_used() {
    let setup = Setup::new(&format!("{TLS}{SECRET}"));
    setup.fails().ends(1, "cannot read auth.secret_file");
    fs::write(setup.folder().join("secret"), "0123456789abcdef0123456789abcde\n").unwrap();
    setup.fails().ends(1, "openssl rand -hex 32");
    setup.write_config(&format!("{TLS}[auth]\nmode = \"token\"\n"));
    setup.fails().ends(78, "auth.mode");
}

#[test]
fn a_secret_that_everybody_can_read_is_worth_a_warning() {
    let site = Site::hmac();
    let setup = Setup::new(&format!("{TLS}{SECRET}"));
    site.install(setup.folder());
    let rights = |setup: &Setup, mode| {
        fs::set_permissions(setup.folder().join("secret"), fs::Permissions::from_mode(mode)).unwrap();
    };
    rights(&setup, 0o640);
    let daemon = setup.start();
    assert!(!daemon.log().contains("every user of this machine"), "{}", daemon.log());
    rights(&daemon, 0o644);
    assert_eq!(reload(&daemon), json!([]));
    let log = daemon.log();
    assert!(log.contains("every user of this machine can read the secret in") && log.contains("chmod o="), "{log}");
    assert!(!log.contains(&site.known));
}

#[test]
fn the_mode_is_changed_by_a_reload() {
    let site = Site::hmac();
    let open = SECRET.replace("mode = \"token\"\n", "");
    let daemon = daemon(&open, &[&site]);
    let (mut guest, mut text) = (daemon.chat("guest"), daemon.text());
    daemon.write_config(&format!("{TLS}{SECRET}"));
    assert_eq!(reload(&daemon), json!(["auth.mode"]));
    guest.say("who is in stays in");
    until("the text client is still there", || text.text().ends_with("who is in stays in").then_some(()));
    assert_eq!(turned_away(&daemon, json!({"v": 1})).code, 4001);
    assert_eq!(ends(&daemon, "/wss", "").code, 4001);
    let (_ann, welcome) = enter(&daemon, &site.token(&claims("ann")));
    assert_eq!(welcome["user"], "ann");
    daemon.write_config(&format!("{TLS}{open}"));
    assert_eq!(reload(&daemon), json!(["auth.mode"]));
    assert!(daemon.chat("another").user.starts_with("guest-"));
}

#[test]
fn a_session_ends_with_its_token() {
    let site = Site::hmac();
    let daemon = daemon(SECRET, &[&site]);
    let short = site.token(&but(claims("ann"), json!({"exp": seconds(5)})));
    let (chat, _) = enter(&daemon, &short);
    let text = Chat::open(daemon.connect(), "/wss", &bearer(&short));
    let (mut bob, _) = enter(&daemon, &site.token(&claims("bob")));
    let (text, json) = (text.closing(), chat.closing());
    let (bye, closed) = json.join().unwrap();
    assert_eq!((closed.code, closed.reason.as_str()), (4202, "the token has expired"));
    assert_eq!(bye.expect("a bye")["payload"]["reconnect"], true);
    assert_eq!(text.join().unwrap().1.code, 4202);
    bob.say("my token still holds");
    refused(&daemon, &short, 4202, "expired");
}

#[test]
fn a_token_names_the_rooms_that_may_be_joined() {
    let site = Site::hmac();
    let daemon = daemon(SECRET, &[&site]);
    let join = |chat: &mut Chat, room: &str| {
        let re = chat.send("join", json!({"room": room}));
        loop {
            let frame = chat.any(&["joined", "error"]);
            if frame["payload"]["re"] == re {
                return frame["payload"]["code"].clone();
            }
        }
    };
    let token = site.token(&but(claims("ann"), json!({"rooms": ["team-*", "大厅"]})));
    let mut ann = Chat::open(daemon.connect(), "/chat", "");
    ann.hello(json!({"v": 1, "token": token, "rooms": ["secret", "team-0"]}));
    assert_eq!(ann.any(&["joined", "error"])["payload"]["code"], "forbidden");
    assert_eq!(ann.any(&["joined", "error"])["payload"]["room"], "team-0");
    for (room, code) in [
        ("team-1", Value::Null),
        ("大厅", Value::Null),
        ("team", json!("forbidden")),
        ("lobby", json!("forbidden")),
        ("my-team-1", json!("forbidden")),
    ] {
        assert_eq!(join(&mut ann, room), code, "{room}");
    }
    let (mut none, _) = enter(&daemon, &site.token(&but(claims("bob"), json!({"rooms": []}))));
    assert_eq!(join(&mut none, "team-1"), "forbidden");
    assert!(daemon.clients(&["--room", "lobby"]).is_empty(), "the default room is not theirs");
    let (mut all, _) = enter(&daemon, &site.token(&claims("eve")));
    all.frame("joined");
    assert_eq!(join(&mut all, "team-1"), Value::Null);
}

#[test]
fn welcome_tells_the_roles() {
    let site = Site::hmac();
    let daemon = daemon(SECRET, &[&site]);
    let roles =
        |roles: Value| enter(&daemon, &site.token(&but(claims("ann"), json!({"roles": roles})))).1["roles"].clone();
    assert_eq!(roles(json!(["poet", "moderator"])), json!(["moderator"]));
    assert_eq!(roles(json!(["poet"])), Value::Null);
    assert_eq!(roles(Value::Null), Value::Null);
}

/// The site of docs/OPERATING.md, as it stands there.
#[test]
fn what_wschatctl_mints_lets_in_and_a_kick_with_a_ban_keeps_out() {
    let daemon = daemon(SECRET, &[&Site::hmac()]);
    let minted = daemon.ctl(&["token", "ann", "--name", "Ann", "--room", "lobby", "--moderator", "--for", "10m"]);
    minted.ends(0, "");
    let token = minted.stdout.trim().to_owned();
    let (chat, welcome) = enter(&daemon, &token);
    assert_eq!((&welcome["user"], &welcome["nick"]), (&json!("ann"), &json!("Ann")));
    assert_eq!(welcome["roles"], json!(["moderator"]));
    let row = &daemon.clients(&["--user", "ann"])[0];
    assert!(row["token_exp"].as_str().is_some_and(|end| end.ends_with('Z')), "{row}");

    // Who has a name of the site's is banned by it, and its address is left alone.
    let id = welcome["client"].to_string();
    let closing = chat.closing();
    let kicked = daemon.json(&["kick", &id, "--ban", "10m", "--reason", "enough", "--yes"]);
    assert_eq!((&kicked["matched"], &kicked["done"]), (&json!(1), &json!(1)), "{kicked}");
    assert_eq!(closing.join().expect("it is closed").1.code, 4004);
    let bans = daemon.json(&["ban", "list"])["bans"].take();
    let bans = bans.as_array().expect("a list of bans");
    assert_eq!((bans.len(), &bans[0]["user"]), (1, &json!("ann")), "{bans:?}");
    refused(&daemon, &token, 4004, "enough");
    let other = daemon.ctl(&["token", "bob"]).stdout;
    enter(&daemon, other.trim()).0.leave();
}

#[test]
fn the_documented_site_makes_good_tokens() {
    let document = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/OPERATING.md")).unwrap();
    let (_, rest) = document.split_once("```php\n").expect("the document has PHP in it");
    let (php, _) = rest.split_once("```").expect("it ends");
    let site = Site::hmac();
    let daemon = daemon(SECRET, &[&site]);
    let secret = daemon.folder().join("secret");
    let script = daemon.folder().join("site.php");
    assert!(php.contains("/etc/php/chat.secret"), "{php}");
    let php = php.replace("/etc/php/chat.secret", secret.to_str().unwrap());
    fs::write(&script, format!("{php}\necho chat_token('42', 'Änn 安');\n")).unwrap();
    let ran = match std::process::Command::new("php").arg(&script).output() {
        Ok(ran) => ran,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return left_out("php is not installed: the documented site is not tried out");
        }
        Err(error) => panic!("{error}"),
    };
    assert!(ran.status.success() && ran.stderr.is_empty(), "{ran:?}");
    let welcome = enter(&daemon, &String::from_utf8(ran.stdout).unwrap()).1;
    assert_eq!((&welcome["user"], &welcome["nick"]), (&json!("42"), &json!("Änn 安")));
}
