//! The configuration as a whole: what is told of mistakes, what is printed reads back, and the
//! committed files are those of the code.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use super::key::{LISTEN, TABLES};
use super::testing::committed;
use super::*;

fn parse(text: &str) -> Result<Config, Mistakes> {
    Config::parse(text, Path::new("/etc/wschat/test.toml"))
}

/// The mistakes as `LINE:COLUMN: what`.
fn mistakes(text: &str) -> Vec<String> {
    match parse(text) {
        Err(Mistakes::Found { list, .. }) => {
            list.iter().map(|m| format!("{}:{}: {}", m.line, m.column, m.what)).collect()
        }
        other => panic!("{text:?} gave {other:?}"),
    }
}

/// That `text` has one mistake, and that it says all of `words`.
#[track_caller]
fn refused(text: &str, words: &[&str]) {
    match parse(text) {
        Err(error @ Mistakes::Found { .. }) => {
            let told = error.to_string();
            assert!(told.contains(": 1 mistake"), "{told}");
            for word in words {
                assert!(told.contains(word), "no {word:?} in: {told}");
            }
        }
        other => panic!("{text:?} gave {other:?}"),
    }
}

#[test]
fn nothing_means_the_defaults() {
    for text in
        ["", "\n", "# nothing\n", "\u{feff}", "listen = []", "[limits]\n[tls]\ncertificate = \"\"\nkey = \"\"\n"]
    {
        assert_eq!(parse(text).unwrap(), Config::default(), "{text:?}");
    }
}

#[test]
fn every_mistake_is_told_at_once_with_its_place() {
    let text = r#"[[listen]]
address = "localhost"
tsl = true

[limits]
frame = "64 apples"
clients = "many"
brst = 5
burst = 0

[redis]
url = "redis://localhost"

[chat]
default_rooms = ["lobby", "a b", 5]
"#;
    let told = mistakes(text);
    let places: Vec<String> = told.iter().map(|line| line.split(": ").take(2).collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(
        places,
        [
            "2:11 listen.address",
            "3:1 listen has no key \"tsl\"",
            "6:9 limits.frame",
            "7:11 limits.clients",
            "8:1 limits has no key \"brst\"",
            "9:9 limits.burst",
            "11:2 there is no \"redis\" here",
            "15:27 chat.default_rooms",
            "15:34 chat.default_rooms",
        ],
        "{told:#?}"
    );
}

#[test]
fn a_mistake_is_drawn() {
    let told = parse("[limits]\nframe = \"64 apples\"  # much\n").unwrap_err().to_string();
    let drawn = r#"/etc/wschat/test.toml:2:9: limits.frame: "64 apples" is no size
  2 | frame = "64 apples"  # much
    |         ^^^^^^^^^^^
    = expected a size from "128B" to "16MiB"

/etc/wschat/test.toml: 1 mistake"#;
    assert_eq!(told, drawn);
}

#[test]
fn unknown_names_get_a_suggestion_and_the_known_ones() {
    refused("[limits]\nclients-per-ip = 5", &["did you mean clients_per_ip?", "expected one of clients, "]);
    refused("[limts]\nframe = 5", &["did you mean [limits]?", "one of the tables listen, tls, paths"]);
    refused("frame = \"1KiB\"", &["frame belongs into [limits]"]);
    refused("[timeouts]\nlocale = \"en\"", &["locale belongs into [chat]"]);
    refused("[chat]\nzzz = 1", &["chat has no key \"zzz\""]);
    assert!(!parse("[chat]\nzzz = 1").unwrap_err().to_string().contains("hint"));
}

#[test]
fn what_comes_later_is_unknown_now() {
    for text in [
        "[push]\nkeys = []",
        "[redis]\nurl = \"\"",
        "[webhooks]\nurl = \"\"",
        "[tls]\nredirect_from = \"\"",
        "[[listen]]\naddress = \"[::]:1\"\nproxy_protocol = false",
    ] {
        refused(text, &[]);
    }
}

#[test]
fn tables_and_lists_are_told_apart() {
    refused("[listen]\naddress = \"[::]:1\"", &["[[listen]], in double brackets"]);
    refused("[[limits]]\nburst = 1", &["limits: this is a list, not a table"]);
    refused("limits = 5", &["expected [limits]"]);
    refused("listen = [5]", &["listen: this is an integer, not a table"]);
    refused("[[listen]]\ntls = true", &["listen.address is missing"]);
}

#[test]
fn mistakes_in_syntax_hide_none_elsewhere() {
    let told = mistakes("[limits]\nframe = \nburst = 0\n[chat\ncreate_rooms = 5\n[log]\nlevel = 5\nlevel = \"info\"\n");
    let lines: Vec<&str> = told.iter().filter_map(|line| line.split(':').next()).collect();
    // Line 5 may belong to any table, so nothing is said of it.
    assert_eq!(lines, ["2", "3", "4", "7", "8"], "{told:#?}");
    refused("[limits]\nburst = 1\nburst = 2", &["3:1: this is no TOML: duplicate key"]);
}

#[test]
fn what_must_hold_between_values() {
    refused("[tls]\ncertificate = \"a.pem\"", &["tls.certificate is given without tls.key"]);
    refused("[tls]\nkey = \"a.pem\"", &["tls.key is given without tls.certificate"]);
    refused("[tls]\ncertificate = \"\"\nkey = \"a.pem\"", &[":3:7: tls.key is given without"]);
    refused("[paths]\ntext = \"/chat\"", &[":2:8: paths.text and paths.json are both \"/chat\""]);
    refused("[paths]\njson = \"/wss\"", &[":2:8: paths.text and paths.json are both"]);
    refused("[limits]\ntext = \"64KiB\"", &[":2:8: limits.text: 65536 bytes do not fit"]);
    refused("[limits]\nframe = \"4KiB\"", &[":2:9: limits.text"]);
    refused("[limits]\noutbox = \"32KiB\"", &[":2:10: limits.outbox"]);
    refused("[limits]\nrooms_per_client = 1\n[chat]\ndefault_rooms = [\"a\", \"b\"]", &[":2:20: limits.rooms"]);
    refused("[control]\nsocket = \"/run/a\"\npush_socket = \"/run/a\"", &[":3:15: control.push_socket"]);
    refused("[auth]\nmode = \"token\"", &[":2:8: auth.mode: tokens are demanded", "auth.secret_file or auth.public"]);
    refused("[auth]\nsecret_file = \"\"\nmode = \"token\"", &[":3:8: auth.mode"]);
    refused("[auth]\nmode = \"tokens\"", &["auth.mode", "\"open\"", "\"token\""]);
    // The other side of each.
    parse("[auth]\nmode = \"token\"\npublic_key_file = \"k.pem\"").unwrap();
    parse("[limits]\ntext = \"65472B\"\noutbox = \"64KiB\"\n[paths]\nheath = 1").unwrap_err();
    parse("[limits]\ntext = \"65472B\"\noutbox = \"64KiB\"\n[paths]\njson = \"/wss\"\ntext = \"/chat\"").unwrap();
    // What is wrong by itself is not told twice.
    refused("[limits]\nframe = \"1TiB\"\ntext = \"100KiB\"", &["limits.frame"]);
    refused("[auth]\nmode = \"token\"\nsecret_file = 5", &["auth.secret_file: this is an integer"]);
    refused("[tls]\ncertificate = 5\nkey = \"a.pem\"", &["tls.certificate: this is an integer"]);
    let acme = "[tls]\nacme = [\"a.example\"]\n";
    refused(
        &format!("{acme}certificate = \"a.pem\"\nkey = \"b.pem\""),
        &["tls.acme: the certificate is to come from a CA"],
    );
    refused(&format!("[[listen]]\naddress = \"/run/x\"\n{acme}"), &["tls.acme: no listener uses TLS"]);
    assert_eq!(parse(acme).unwrap().tls.acme.names, ["a.example"]);
    refused("[paths]\njson = 5\ntext = \"/chat\"", &["paths.json"]);
}

#[test]
fn listeners() {
    let listen = |address: &str| format!("[[listen]]\naddress = \"{address}\"\n");
    let two = |one: &str, other: &str| listen(one) + &listen(other);
    for (one, other) in [
        ("[::]:9501", "[::]:9501"),
        ("127.0.0.1:9501", "[::ffff:127.0.0.1]:9501"),
        ("0.0.0.0:9501", "127.0.0.1:9501"),
        ("[::]:9501", "127.0.0.1:9501"),
        ("/run/x", "/run//x"),
    ] {
        refused(&two(one, other), &[":4:11: listen.address: ", "is listened on already"]);
    }
    let metrics = |address: &str| format!("[metrics]\nlisten = \"{address}\"\n");
    refused(&metrics("127.0.0.1:9501"), &[":2:10: metrics.listen: ", "is listened on already"]);
    refused(&(listen("[::]:9502") + &metrics("127.0.0.1:9502")), &[":4:10: metrics.listen: "]);
    parse(&(listen("[::]:9501") + &metrics("127.0.0.1:9502"))).unwrap();
    for (one, other) in
        [("127.0.0.1:0", "127.0.0.1:0"), ("127.0.0.1:1", "[::1]:1"), ("0.0.0.0:1", "127.0.0.1:2"), ("/a", "/b")]
    {
        assert_eq!(parse(&two(one, other)).unwrap().listen.len(), 2);
    }
    let given = parse(&listen("[::]:9501")).unwrap();
    assert!(given.listen[0].tls && !given.listen[0].optional && given.listen.len() == 1);
    assert!(!parse(&listen("/run/x")).unwrap().listen[0].tls);
    refused(&(listen("/run/x") + "tls = true"), &[":3:7: listen.tls: a Unix socket is always plain"]);
    refused(&(listen("/run/x") + "trusted_proxies = [\"::1\"]"), &["listen.trusted_proxies"]);
    refused(&(listen("/run/x") + "[control]\nsocket = \"/run/x\""), &["is one of [control]"]);
}

#[test]
fn relative_files_lie_beside_the_file_that_names_them() {
    let text = "[tls]\ncertificate = \"tls/a.pem\"\nkey = \"/k/b.pem\"";
    let files = parse(text).unwrap().tls.files.unwrap();
    assert_eq!(files.certificate, Path::new("/etc/wschat/tls/a.pem"));
    assert_eq!(files.key, Path::new("/k/b.pem"));
    let auth = parse("[auth]\nsecret_file = \"tokens.secret\"\npublic_key_file = \"/k/p.pem\"").unwrap().auth;
    assert_eq!(auth.secret_file.unwrap(), Path::new("/etc/wschat/tokens.secret"));
    assert_eq!(auth.public_key_file.unwrap(), Path::new("/k/p.pem"));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.toml");
    std::fs::write(&file, text).unwrap();
    assert_eq!(Config::load(&file).unwrap().tls.files.unwrap().certificate, folder.path().join("tls/a.pem"));
}

#[test]
fn files_that_cannot_be_read() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.toml");
    let told = |file: &Path| Config::load(file).unwrap_err().to_string();
    assert!(told(&file).contains("No such file"), "{}", told(&file));
    assert!(told(folder.path()).contains("Is a directory"), "{}", told(folder.path()));
    std::fs::write(&file, b"[limits]\nframe = \"\xff\"\n").unwrap();
    assert!(told(&file).contains("x.toml:2:10: this is not UTF-8"), "{}", told(&file));
    std::fs::write(&file, vec![b'\n'; MOST_BYTES as usize + 1]).unwrap();
    assert!(told(&file).contains("longer than"), "{}", told(&file));
    std::fs::write(&file, vec![b'\n'; MOST_BYTES as usize]).unwrap();
    Config::load(&file).unwrap();
}

#[test]
fn a_file_of_noise_is_told_briefly() {
    let told = parse(&"x\n".repeat(100_000)).unwrap_err().to_string();
    assert!(told.ends_with("100000 mistakes, of which the first 100 are shown"), "{}", &told[told.len() - 200..]);
    assert!(told.len() < 100 * 400);
    let mut long = String::from("[limits]\n");
    (0..20_000).for_each(|n| long.push_str(&format!("key{n} = {n}\n")));
    assert!(parse(&long).is_err());
    assert!(parse(&"[".repeat(100_000)).is_err());
    assert!(parse(&format!("a = {}", "[".repeat(100_000))).is_err());
    assert!(parse(&format!("a = {}", "{a=".repeat(100_000))).is_err());
    assert!(parse(&vec!["a"; 100_000].join(".")).is_err());
    assert!(parse(&format!("[limits]\nburst = {}", "9".repeat(500_000))).is_err());
}

#[test]
fn the_documented_envelope_is_the_one_that_is_checked() {
    let limits = TABLES.iter().find(|table| table.name == "limits").unwrap();
    let text = limits.keys.iter().find(|key| key.name == "text").unwrap();
    assert!(text.doc.contains(&format!("the {} bytes", parse::ENVELOPE)));
}

#[test]
fn a_reload_tells_what_it_takes() {
    let old = Config::default();
    assert_eq!(diff(&old, &old), []);
    let new = parse(
        r#"[[listen]]
address = "[::]:9501"
[tls]
certificate = "/a"
key = "/b"
[chat]
locale = "zh-CN"
[history]
store = "none"
keep = 5
[limits]
rate = "5/s"
[control]
socket = "/run/x"
[log]
level = "debug"
"#,
    )
    .unwrap();
    let changes: Vec<(String, bool)> = diff(&old, &new).into_iter().map(|change| (change.key, change.reload)).collect();
    let expected = [
        ("listen", true),
        ("tls.certificate", true),
        ("tls.key", true),
        ("chat.locale", true),
        ("history.store", false),
        ("history.keep", true),
        ("limits.rate", true),
        ("control.socket", false),
        ("log.level", true),
    ];
    assert_eq!(changes, expected.map(|(key, reload)| (key.to_owned(), reload)));
    for table in TABLES.iter() {
        let restart: Vec<&str> =
            table.keys.iter().filter(|key| key.takes == key::Takes::Restart).map(|key| key.name).collect();
        let expected: &[&str] = match table.name {
            "history" => &["store", "path"],
            "control" => &["socket", "push_socket"],
            _ => &[],
        };
        assert_eq!(restart, expected, "{}", table.name);
    }
}

#[test]
fn the_defaults_are_printed_and_read_back() {
    let text = print(&Config::default());
    assert!(text.starts_with("# No [[listen]]: 127.0.0.1:9501 [::1]:9501, with TLS.\n"), "{text}");
    assert!(text.contains("\n[limits]\nclients = 0\nclients_per_ip = 100\nhandshakes_per_ip = \"20/s\"\n"), "{text}");
    assert!(text.contains("\nkeep_for = \"30d\"\n") && text.contains("\noutbox = \"256KiB\"\n"), "{text}");
    assert_eq!(parse(&text).unwrap(), Config::default());
}

fn sample_file() -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("etc/wschat/wschat.toml");
    std::fs::read_to_string(file).unwrap()
}

#[test]
fn the_sample_is_the_codes() {
    committed("etc/wschat/wschat.toml", &sample());
}

#[test]
fn the_sample_listens_on_every_address_and_is_the_default_otherwise() {
    let packaged = Config { listen: vec![key::new_listen()], ..Config::default() };
    let text = sample_file();
    assert_eq!(parse(&text).unwrap(), packaged);
    // A key is commented out without a space after its "#", and prose has one.
    let commented = |line: &str| line.strip_prefix('#').is_some_and(|rest| rest.starts_with(char::is_alphabetic));
    let all: String =
        text.lines().map(|line| if commented(line) { &line[1..] } else { line }).map(|l| format!("{l}\n")).collect();
    assert_eq!(parse(&all).unwrap(), packaged);
    // Each key once, each in its table, and nothing besides.
    let root: toml::Table = all.parse().unwrap();
    let mut names: Vec<String> = Vec::new();
    for (table, value) in &root {
        let entries = value.as_table().or_else(|| value[0].as_table()).unwrap();
        names.extend(entries.keys().map(|key| format!("{table}.{key}")));
    }
    let mut known: Vec<String> = LISTEN.iter().map(|key| format!("listen.{}", key.name)).collect();
    known.extend(TABLES.iter().flat_map(|t| t.keys.iter().map(|key| format!("{}.{}", t.name, key.name))));
    names.sort();
    known.sort();
    assert_eq!(names, known);
    assert_eq!(text.lines().filter(|line| commented(line)).count(), known.len() - 1, "one key alone is live");
    assert!(text.lines().all(|line| line.chars().count() <= 100), "a line is too long");
}

#[test]
fn the_manual_page_is_the_codes() {
    committed("packaging/man/wschat.toml.5", &man_page());
    assert_eq!(parse(manual::EXAMPLE).unwrap().listen.len(), 2);
}

/// A configuration that any file could hold.
fn any_config() -> impl Strategy<Value = Config> {
    let time = |least: u64, most: u64| {
        prop_oneof![
            (least * 1000..=most * 1000).prop_map(Duration::from_millis),
            (least..=most).prop_map(Duration::from_secs),
        ]
    };
    let rate = || {
        prop_oneof![
            (1u32..1000).prop_map(|n| Rate(f64::from(n))),
            (1u32..1000).prop_map(|n| Rate(f64::from(n) / 60.0)),
            (form::Speed::LEAST..=form::Speed::MOST).prop_map(Rate),
        ]
    };
    let file = || "/[a-z \"\\\\'#äé大.]{1,30}/x".prop_map(PathBuf::from);
    let proxies = vec(
        prop_oneof![
            (any::<[u8; 4]>(), 0u8..=32).prop_map(|(ip, bits)| IpNet::new(ip.into(), bits).unwrap().trunc()),
            (any::<[u8; 16]>(), 0u8..=128).prop_map(|(ip, bits)| IpNet::new(ip.into(), bits).unwrap().trunc()),
        ],
        0..3,
    );
    let listen = vec((any::<bool>(), any::<bool>(), proxies), 0..4).prop_map(|listens| {
        let listen = |(number, (unix, tls, trusted_proxies)): (usize, (bool, bool, Vec<IpNet>))| match unix {
            true => Listen {
                address: Address::Unix(format!("/run/listen {number}").into()),
                tls: false,
                trusted_proxies: vec![],
                optional: false,
            },
            false => Listen {
                address: Address::Tcp(([127, 0, 0, 1], number as u16 + 1).into()),
                tls,
                trusted_proxies,
                optional: false,
            },
        };
        if listens.is_empty() {
            Config::default().listen
        } else {
            listens.into_iter().enumerate().map(listen).collect()
        }
    });
    let acme = (vec("[a-z]{1,9}[.][a-z]{2}", 0..2), vec("mailto:[a-z]{1,9}@[a-z]{1,9}", 0..3), option::of(file()));
    let tls = (option::of((file(), file())), acme).prop_map(|(files, (names, contact, ca_file))| {
        let files = files.filter(|_| names.is_empty()).map(|(certificate, key)| TlsFiles { certificate, key });
        Tls { files, acme: Acme { names, contact, ca_file, ..Acme::default() } }
    });
    let paths = vec(any::<bool>(), 5).prop_map(|on| {
        let path = |number: usize| on[number].then(|| format!("/p{number}/%41~"));
        Paths { page: path(0), json: path(1), text: path(2), echo: path(3), health: path(4) }
    });
    let origins =
        prop_oneof![Just(Origins::Any), vec("https?://[a-z]{1,9}(:8[0-9]{3})?", 0..3).prop_map(Origins::These),];
    let chat = (1usize..4, any::<bool>(), 0usize..=100_000, select(vec![Locale::En, Locale::ZhCn]), origins).prop_map(
        |(rooms, create_rooms, presence_limit, locale, allowed_origins)| Chat {
            default_rooms: (0..rooms).map(|n| RoomName::parse(&format!("大厅-{n}")).unwrap()).collect(),
            create_rooms,
            presence_limit,
            locale,
            allowed_origins,
        },
    );
    let stores = select(vec![Store::Sqlite, Store::Memory, Store::None]);
    let commit_every = (0u64..=1000).prop_map(Duration::from_millis);
    let history =
        (stores, option::of(file()), 1u64..=100_000_000, time(1, 36_500 * 86_400), 0usize..=1 << 50, commit_every)
            .prop_map(|(store, path, keep, keep_for, max_size, commit_every)| History {
                store,
                path,
                keep,
                keep_for,
                max_size,
                commit_every,
            });
    let audience = option::of("[a-z:/. é\"\\\\]{1,30}");
    let auth = (any::<bool>(), option::of(file()), option::of(file()), audience).prop_map(
        |(demanded, secret_file, public_key_file, audience)| {
            let has_key = secret_file.is_some() || public_key_file.is_some();
            let mode = if demanded && has_key { AuthMode::Token } else { AuthMode::Open };
            Auth { mode, secret_file, public_key_file, audience }
        },
    );
    let limits = (
        (0usize..=10_000_000, 1usize..=10_000_000, rate(), rate(), 1u32..=1_000_000),
        (128usize..=16 << 20, 0.0..=1.0, 0.0..=1.0, 3usize..=10_000),
    )
        .prop_map(|((clients, clients_per_ip, handshakes_per_ip, rate, burst), (frame, text, outbox, rooms))| {
            let part = |whole: usize, part: f64| (whole as f64 * part) as usize;
            let least = frame.max(4096);
            Limits {
                clients,
                clients_per_ip,
                handshakes_per_ip,
                frame,
                text: 1 + part(frame - 65, text),
                rate,
                burst,
                outbox: least + part((1 << 30) - least, outbox),
                rooms_per_client: rooms,
            }
        });
    let timeouts = (time(1, 600), time(1, 600), time(1, 600), time(1, 3600), time(0, 3600))
        .prop_map(|(tls, request, hello, ping, presence)| Timeouts { tls, request, hello, ping, presence });
    let rest = (
        time(0, 600),
        time(0, 3600),
        option::of(Just("/run/c".into())),
        option::of(Just("/run/p".into())),
        option::of(select(vec!["127.0.0.1:9502".parse().unwrap(), "[::1]:0".parse().unwrap()])),
        (select(Level::ALL.to_vec()), any::<bool>()),
    );
    (listen, tls, paths, chat, auth, history, limits, timeouts, rest).prop_map(
        |(
            listen,
            mut tls,
            paths,
            chat,
            auth,
            history,
            limits,
            timeouts,
            (grace, spread, socket, push_socket, metrics, (level, access)),
        )| {
            if !listen.iter().any(|listen| listen.tls) {
                tls.acme.names.clear();
            }
            Config {
                listen,
                tls,
                paths,
                chat,
                auth,
                history,
                limits,
                timeouts,
                shutdown: Shutdown { grace, spread },
                control: Control { socket, push_socket },
                metrics: Metrics { listen: metrics },
                log: Log { level, access },
            }
        },
    )
}

/// Lines that look like a configuration, with all sorts of values.
fn like_a_file() -> impl Strategy<Value = String> {
    let mut names: Vec<String> = TABLES.iter().map(|table| format!("[{}]", table.name)).collect();
    names.extend(["[[listen]]", "[listen]", "[[x", "[a.b.c]", "[\"\"]", "]", "["].map(String::from));
    let keys: Vec<&str> = TABLES.iter().flat_map(|table| table.keys.iter().map(|key| key.name)).collect();
    let keys: Vec<&str> = keys.into_iter().chain(["address", "trusted_proxies", "x.y", "\"\"", "大", ""]).collect();
    let value = prop_oneof![
        "\\PC{0,20}",
        "[0-9]{1,50}",
        "-?[0-9.e+xob_]{1,30}",
        "\"[0-9]{1,30} ?(s|ms|d|y|KiB|EiB|/s|/h)\"".prop_map(String::from),
        "\"(https?|wss?)?(://)?[\\[\\]a-zé:0-9/%.*]{0,20}\"".prop_map(String::from),
        "\"\\PC{0,200}\"".prop_map(String::from),
        Just("[[[[1]]]]".into()),
        Just("{a = {b = {c = 1}}}".into()),
        Just("\"\"\"x\ny\"\"\"".into()),
        Just("\"\\u0000\\u001b\"".into()),
        (1usize..200).prop_map(|depth| "[".repeat(depth)),
    ];
    let line = prop_oneof![
        1 => select(names),
        4 => (select(keys), value).prop_map(|(key, value)| format!("{key} = {value}")),
    ];
    vec(line, 0..20).prop_map(|lines| lines.join("\n"))
}

/// Whatever the text, an answer that can be shown.
fn survives(text: &str) {
    match parse(text) {
        Ok(config) => assert_eq!(parse(&print(&config)).unwrap(), config),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

proptest! {
    #[test]
    fn what_is_printed_reads_back(config in any_config()) {
        let text = print(&config);
        let read = parse(&text);
        prop_assert!(read.is_ok(), "{}\n{}", text, read.unwrap_err());
        prop_assert_eq!(read.unwrap(), config);
    }

    #[test]
    fn no_difference_goes_unnoticed(old in any_config(), new in any_config()) {
        prop_assert_eq!(diff(&old, &new).is_empty(), old == new);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn hostile_lines_never_panic(text in like_a_file()) {
        survives(&text);
    }

    #[test]
    fn hostile_bytes_never_panic(bytes in vec(any::<u8>(), 0..300)) {
        survives(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn hostile_text_never_panics(text in "[\\[\\]{}=\"'.,#\\\\a-c0-9\\n\\r\\t \u{feff}大]{0,200}") {
        survives(&text);
    }
}
