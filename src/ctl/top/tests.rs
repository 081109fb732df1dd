//! The model and its screen together, on a terminal that is none.

use std::time::{Duration, SystemTime};

use proptest::prelude::*;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::style::{Color, Modifier};

use super::filter::Filter;
use super::model::{Focus, Key, Mode, Model, Sort, Wish};
use super::snapshot::{Snapshot, Totals};
use super::view::{self, LEAST, Look};
use crate::control::protocol as api;

const START: SystemTime = SystemTime::UNIX_EPOCH;

fn client(id: u64, nick: &str) -> api::Client {
    api::Client {
        id,
        user: Some(format!("user-{id}")),
        nick: Some(nick.into()),
        address: format!("192.0.2.{id}"),
        port: 4000,
        rooms: vec!["lobby".into()],
        since: "1970-01-01T00:00:00.000Z".into(),
        age: 90.0,
        idle: 3.0,
        sendq: 0,
        rtt: Some(0.012),
        tls: Some("TLSv1.3".into()),
        alpn: None,
        origin: Some("https://example.org".into()),
        agent: Some("Agent/1".into()),
        dialect: "json".into(),
        messages_in: 10,
        messages_out: 100,
        in_bytes: 1000,
        out_bytes: 20_000,
        resumed: false,
        token_exp: None,
        roles: vec![],
    }
}

fn room(name: &str, seq: u64) -> api::Room {
    api::Room { name: name.into(), users: 2, clients: 3, seq, first: None, kept: None }
}

fn snapshot(at: u64, clients: Vec<api::Client>) -> Snapshot {
    let history = api::HistoryStore {
        store: "sqlite".into(),
        path: Some("/var/lib/wschat/wschat.db".into()),
        state: "good".into(),
        why: None,
        since: None,
        commits: 10 * at,
        entries: 0,
        refused: 0,
        waiting: 4,
        bytes: 2048,
    };
    let status = api::Status {
        version: "1.2.3".into(),
        pid: 7,
        state: "serving".into(),
        since: "1970-01-01T00:00:00.000Z".into(),
        clients: 1203,
        clients_max: 19_000,
        users: 803,
        rooms: 12,
        messages: 25 * at,
        messages_per_second: 24.0,
        certificate_until: None,
        listen: vec![],
        config: None,
        bans: 0,
        mutes: 0,
        history,
        drain: None,
    };
    Snapshot {
        at: Duration::from_secs(at),
        status,
        totals: None,
        rooms: vec![room("lobby", 5 * at), room("tea", 1)],
        matched: clients.len() as u64,
        clients,
        watched: None,
    }
}

fn model() -> Model {
    Model::new("chat.example".into(), Duration::from_secs(1), Sort::Sendq, Filter::default())
}

/// Three clients, after two looks.
fn three() -> Model {
    let mut model = model();
    for at in [1, 3] {
        let mut clients = vec![client(1, "ann"), client(2, "大厅"), client(3, "bob")];
        clients[0].sendq = 70_000;
        clients[1].messages_out += 10 * at;
        model.take(snapshot(at, clients));
    }
    model
}

fn terminal(model: &mut Model, wide: u16, high: u16, colour: bool) -> Terminal<TestBackend> {
    let mut terminal = Terminal::new(TestBackend::new(wide, high)).unwrap();
    let look = Look { colour, now: START + Duration::from_secs(3720) };
    terminal.draw(|frame| view::draw(model, look, frame)).unwrap();
    terminal
}

/// The screen's lines, without the spaces at their ends.
fn screen(model: &mut Model, wide: u16, high: u16) -> Vec<String> {
    let terminal = terminal(model, wide, high, true);
    let buffer = terminal.backend().buffer();
    (0..high)
        .map(|y| {
            // The second cell of a wide character is empty space.
            let mut line = String::new();
            let mut x = 0;
            while x < wide {
                let symbol = buffer[(x, y)].symbol();
                line.push_str(symbol);
                x += (super::cells::width(symbol) as u16).max(1);
            }
            line.trim_end().to_owned()
        })
        .collect()
}

#[track_caller]
fn shows(model: &mut Model, text: &str) {
    let lines = screen(model, 80, 24);
    assert!(lines.iter().any(|line| line.contains(text)), "{text:?} in\n{}", lines.join("\n"));
}

fn press(model: &mut Model, keys: &str) -> Option<Wish> {
    let mut last = None;
    for key in keys.chars() {
        last = model.key(Key::Char(key));
    }
    last
}

#[test]
fn the_screen_at_80_by_24() {
    let mut model = three();
    model.key(Key::Down);
    let lines = screen(&mut model, 80, 24);
    let expected = [
        "chat.example  wschat 1.2.3  serving  up 1h02m  every 1s",
        "clients 1203/19000  users 803  rooms 12  messages 25/s",
        "history sqlite good  commits 10/s  waiting 4  size 2.0K",
        "",
        "Rooms, busiest first (12)",
        " ROOM                                        MSG/s  CLIENTS    USERS         SEQ",
        " lobby                                         5.0        3        2          15",
        " tea                                             0        3        2           1",
        "",
        "Clients by sendq, most first (3)",
        "      ID NICK        ADDRESS            AGE   IDLE   SENDQ    RTT   IN/s  OUT/s",
        ">      1 ann         192.0.2.1        1m30s     3s   68.4K   12ms      0      0",
        "       2 大厅        192.0.2.2        1m30s     3s       0   12ms      0     10",
        "       3 bob         192.0.2.3        1m30s     3s       0   12ms      0      0",
    ];
    assert_eq!(lines[..expected.len()], expected);
    assert_eq!(lines[23], super::text::KEYS);
    assert!(lines[expected.len()..23].iter().all(String::is_empty));
}

#[test]
fn wider_screens_show_more() {
    let mut model = three();
    let lines = screen(&mut model, 200, 50);
    let heading = lines.iter().find(|line| line.contains("NICK")).unwrap();
    for title in ["USER", "ROOMS", "DIALECT", "AGENT"] {
        assert!(heading.contains(title), "{heading}");
    }
    assert!(lines.iter().any(|line| line.contains("user-2") && line.contains("Agent/1")));
}

#[test]
fn numbers_of_the_whole_daemon_are_there_where_they_are_known() {
    let mut model = model();
    for at in [1, 3] {
        let totals = Totals {
            deliveries: Some(4000.0 * at as f64),
            received_bytes: Some(2048.0 * at as f64),
            sent_bytes: Some(0.0),
            workers: vec![("0".into(), 0.25 * at as f64), ("1".into(), 2.0)],
        };
        model.take(Snapshot { totals: Some(totals), ..snapshot(at, vec![]) });
    }
    shows(&mut model, "messages 25/s  deliveries 4.0K/s");
    shows(&mut model, "in 2.0K/s  out 0/s  load 25% 0%");
    shows(&mut model, "nobody is here");
    let many = (0..64).map(|n| (n.to_string(), 0.0)).collect();
    let totals = Totals { workers: many, ..Totals::default() };
    for at in [5, 6] {
        model.take(Snapshot { totals: Some(totals.clone()), ..snapshot(at, vec![]) });
    }
    shows(&mut model, "load 0% (64 workers, busiest 0%)");
}

#[test]
fn totals_are_found_by_their_names() {
    let metric = |name: &str, samples: &[(&str, f64)]| api::Metric {
        name: name.into(),
        kind: api::MetricType::Counter,
        unit: None,
        help: String::new(),
        labels: vec!["worker".into()],
        samples: (samples.iter())
            .map(|(worker, value)| api::Sample {
                labels: [("worker".to_owned(), worker.to_string())].into(),
                value: Some(*value),
                ..api::Sample::default()
            })
            .collect(),
    };
    let stats = api::Stats {
        metrics: vec![
            metric("wschat_sent_bytes_total", &[("", 5.0)]),
            metric("wschat_worker_busy_seconds_total", &[("10", 3.0), ("2", 1.5)]),
        ],
        openmetrics: None,
    };
    let totals = Totals::of(&stats);
    assert_eq!((totals.sent_bytes, totals.deliveries), (Some(5.0), None));
    assert_eq!(totals.workers, [("2".to_owned(), 1.5), ("10".to_owned(), 3.0)]);
}

#[test]
fn another_daemon_has_no_rates_yet() {
    let mut model = three();
    assert!(model.meter.rates.messages.is_some());
    let mut other = snapshot(9, vec![client(1, "ann")]);
    other.status.pid = 8;
    model.take(other);
    assert_eq!(model.meter.rates, Default::default());
    // Its own average is known at once.
    shows(&mut model, "messages 24/s");
}

#[test]
fn what_is_wrong_is_said() {
    let mut model = three();
    let mut failing = snapshot(5, vec![]);
    failing.status.state = "draining".into();
    failing.status.history.state = "failing".into();
    failing.status.history.why = Some("no space left on device".into());
    failing.status.history.refused = 9;
    model.take(failing);
    shows(&mut model, "draining");
    shows(&mut model, "failing");
    shows(&mut model, "refused 9");
    shows(&mut model, "no space left on device");
    model.fail("daemon not reachable, trying again: no daemon listens".into());
    shows(&mut model, "daemon not reachable, trying again");
    // What was known stays.
    shows(&mut model, "clients 1203/19000");
    model.take(snapshot(7, vec![]));
    assert!(!screen(&mut model, 80, 24).iter().any(|line| line.contains("not reachable")));
}

#[test]
fn the_choice_follows_the_client() {
    let mut model = three();
    model.key(Key::Down);
    model.key(Key::Down);
    assert_eq!(model.chosen, Some(2));
    model.take(snapshot(5, vec![client(2, "大厅"), client(3, "bob"), client(1, "ann")]));
    assert_eq!(model.chosen, Some(2));
    // Further down than the list goes, but there.
    let watched = Some((2, Some(client(2, "大厅"))));
    model.take(Snapshot { watched, ..snapshot(6, vec![client(3, "bob"), client(1, "ann")]) });
    assert_eq!(model.clients.iter().map(|row| row.client.id).collect::<Vec<_>>(), [2, 3, 1]);
    assert!(!model.clients[0].gone);
    model.take(Snapshot { watched: Some((2, None)), ..snapshot(7, vec![client(3, "bob"), client(1, "ann")]) });
    shows(&mut model, "client 2 (大厅, 192.0.2.2) has gone");
    shows(&mut model, "gone");
    // Nobody else is met by mistake.
    assert_eq!(press(&mut model, "k"), None);
    assert_eq!(model.mode, Mode::Lists);
    model.key(Key::Down);
    assert_eq!(model.chosen, Some(3));
    assert_eq!(model.clients.len(), 2);
}

#[test]
fn a_kick_is_asked_about() {
    let mut model = three();
    assert_eq!(press(&mut model, "k"), None);
    shows(&mut model, "choose a client first");
    model.key(Key::Down);
    assert_eq!(press(&mut model, "k"), None);
    shows(&mut model, "Kick 1 (ann, 192.0.2.1)? y kicks, any other key does not");
    // Even if the order changes meanwhile.
    model.take(snapshot(5, vec![client(3, "bob"), client(1, "ann")]));
    assert_eq!(press(&mut model, "y"), Some(Wish::Kick(1)));
    model.kicked("kicked 1 (ann, 192.0.2.1): closed with 4003".into());
    shows(&mut model, "closed with 4003");
    for key in [Key::Char('n'), Key::Char('Y'), Key::Char('q'), Key::Escape, Key::Enter, Key::Down] {
        press(&mut model, "k");
        assert!(matches!(model.mode, Mode::Ask { id: 1, .. }));
        assert_eq!(model.key(key), None);
        assert_eq!(model.mode, Mode::Lists);
        shows(&mut model, "was not kicked");
    }
    // Pasted text answers nothing.
    press(&mut model, "k");
    model.paste("y");
    assert!(matches!(model.mode, Mode::Ask { .. }));
    assert_eq!(model.key(Key::Interrupt), Some(Wish::Quit));
    // Rooms cannot be kicked.
    model.key(Key::Escape);
    model.key(Key::Tab);
    press(&mut model, "k");
    shows(&mut model, "Tab goes to the clients");
}

#[test]
fn filters_are_typed() {
    let mut model = three();
    press(&mut model, "/--rom x");
    shows(&mut model, "filter: --rom x");
    assert_eq!(model.key(Key::Enter), None);
    shows(&mut model, "--rom");
    assert!(matches!(model.mode, Mode::Filter(_)));
    model.key(Key::ClearLine);
    press(&mut model, "--nick Q");
    model.key(Key::Backspace);
    model.paste("Ann\n");
    assert_eq!(model.key(Key::Enter), Some(Wish::Look));
    assert_eq!(model.question().filter.nick.as_deref(), Some("Ann"));
    shows(&mut model, "--nick Ann");
    // Escape leaves it as it was.
    press(&mut model, "/x");
    model.key(Key::Escape);
    assert_eq!(model.question().filter.nick.as_deref(), Some("Ann"));
    // From the lists it takes it away, before it quits.
    assert_eq!(model.key(Key::Escape), Some(Wish::Look));
    assert_eq!(model.question().filter.nick, None);
    // A room's clients.
    model.key(Key::Tab);
    assert_eq!(model.focus, Focus::Rooms);
    model.key(Key::Down);
    assert_eq!(model.key(Key::Enter), Some(Wish::Look));
    assert_eq!((model.focus, model.question().filter.room.as_deref()), (Focus::Clients, Some("lobby")));
    model.paste("not here");
    press(&mut model, "f");
    model.paste(&"x".repeat(100_000));
    model.key(Key::Char('x'));
    assert!(matches!(&model.mode, Mode::Filter(line) if line.chars().count() == super::filter::LONGEST));
    screen(&mut model, 80, 24);
}

#[test]
fn orders_go_round_and_can_be_turned() {
    let mut model = three();
    for sort in Sort::ALL {
        let question = model.question();
        assert_eq!(question.sort, sort);
        assert_eq!(question.descending, !matches!(sort, Sort::Nick | Sort::Address));
        shows(&mut model, &format!("Clients by {},", sort.name()));
        assert_eq!(press(&mut model, "r"), Some(Wish::Look));
        assert_ne!(model.question().descending, question.descending);
        assert_eq!(press(&mut model, "s"), Some(Wish::Look));
    }
    assert_eq!(model.sort, Sort::Sendq);
    press(&mut model, "S");
    assert_eq!(model.sort, Sort::Address);
    // The daemon knows all of them.
    for sort in Sort::ALL {
        assert!(crate::admin::order::ClientKey::ALL.iter().any(|key| key.as_str() == sort.key()));
    }
}

#[test]
fn details_help_pause_and_quit() {
    let mut model = three();
    model.key(Key::Down);
    model.key(Key::Enter);
    for text in ["Client 1", "Agent/1", "https://example.org", "10 messages, 1000, now 0/s", "TLSv1.3"] {
        shows(&mut model, text);
    }
    press(&mut model, "k");
    shows(&mut model, "Kick 1");
    shows(&mut model, "Agent/1");
    press(&mut model, "n");
    assert_eq!(model.mode, Mode::Details);
    let watched = Some((1, None));
    model.take(Snapshot { watched, ..snapshot(5, vec![]) });
    shows(&mut model, "Client 1, which has gone");
    assert_eq!(model.key(Key::Escape), None);
    press(&mut model, "?");
    shows(&mut model, "kick the chosen client, after asking");
    model.key(Key::End);
    screen(&mut model, 60, 12);
    shows(&mut model, "Esc back");
    assert_eq!(press(&mut model, "q"), None);
    assert_eq!(press(&mut model, " "), None);
    shows(&mut model, "paused");
    assert_eq!(press(&mut model, " "), Some(Wish::Look));
    assert_eq!(press(&mut model, "q"), Some(Wish::Quit));
    assert_eq!(model.key(Key::Escape), Some(Wish::Quit));
}

#[test]
fn far_down_the_chosen_one_is_on_the_screen() {
    let mut model = model();
    let all: Vec<api::Client> = (1..=200).map(|id| client(id, &format!("n{id}"))).collect();
    model.take(Snapshot { matched: 19_000, ..snapshot(1, all) });
    shows(&mut model, "the first 200 of 19000");
    for _ in 0..150 {
        model.key(Key::Down);
    }
    shows(&mut model, ">    150 n150");
    model.key(Key::End);
    shows(&mut model, ">    200 n200");
    model.key(Key::PageUp);
    assert!(model.chosen < Some(200));
    model.key(Key::Home);
    shows(&mut model, ">      1 n1");
}

#[test]
fn without_colours_nothing_is_lost() {
    let mut model = three();
    let mut failing = snapshot(5, vec![client(1, "ann")]);
    failing.status.history.state = "failing".into();
    model.take(failing);
    model.key(Key::Down);
    let plain = terminal(&mut model, 80, 24, false);
    let buffer = plain.backend().buffer();
    assert!(buffer.content.iter().all(|cell| cell.fg == Color::Reset && cell.bg == Color::Reset));
    assert!(buffer.content.iter().any(|cell| cell.modifier.contains(Modifier::REVERSED)));
    let coloured = terminal(&mut model, 80, 24, true);
    assert!(coloured.backend().buffer().content.iter().any(|cell| cell.fg == Color::Yellow));
}

#[test]
fn every_size_is_survived_in_every_mode() {
    let mut model = three();
    model.key(Key::Down);
    for mode in [
        Mode::Lists,
        Mode::Help,
        Mode::Details,
        Mode::Filter("--nick 大厅大厅大厅".repeat(9)),
        Mode::Ask { id: 1, who: "大".repeat(300), back: false },
        Mode::Ask { id: 1, who: "x".into(), back: true },
    ] {
        model.mode = mode;
        for focus in [Focus::Clients, Focus::Rooms] {
            model.focus = focus;
            for wide in [1, 2, 3, 9, 10, 33, 59, 60, 61, 79, 80, 81, 120, 200] {
                for high in (1..26).chain([50, 60]) {
                    let lines = screen(&mut model, wide, high);
                    let small = wide < LEAST.0 || high < LEAST.1;
                    assert_eq!(
                        lines[0]
                            .starts_with("wschatctl top wants 60x12; this is"[..usize::from(wide.min(34))].trim_end()),
                        small
                    );
                }
            }
        }
    }
}

/// The chosen row is on the screen wherever it stands, and whatever the size.
#[test]
fn whatever_the_size_the_choice_can_be_seen() {
    let mut model = model();
    model.take(snapshot(1, (1..=40).map(|id| client(id, "n")).collect()));
    model.key(Key::End);
    for high in LEAST.1..60 {
        let lines = screen(&mut model, 80, high);
        assert!(lines.iter().any(|line| line.starts_with(">     40")), "{high}:\n{}", lines.join("\n"));
    }
}

/// What a terminal would obey, or what would hide.
fn obeyed(c: char) -> bool {
    let hidden = ['\u{200b}'..='\u{200f}', '\u{2028}'..='\u{202e}', '\u{2060}'..='\u{206f}'];
    c.is_control() || hidden.iter().any(|range| range.contains(&c))
}

fn hostile() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<String>(),
        Just("\u{1b}[2J\u{1b}]0;owned\u{7}".to_owned()),
        Just("\u{202e}\u{2066}right to left".to_owned()),
        Just(format!("z{}", "\u{301}\u{35c}".repeat(200))),
        Just("\u{1f468}\u{200d}\u{1f469}\u{200d}\u{1f467}\u{fe0f}\u{1f44d}\u{1f3fd}\u{1f1e9}\u{1f1ea}".to_owned()),
        Just("大".repeat(500)),
        Just("line\r\nline\tx\u{2028}".to_owned()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Strangers' words stay in their cells: nothing that a terminal obeys, and the columns behind
    /// them stand where they stand.
    #[test]
    fn strangers_cannot_break_the_screen(
        text in hostile(),
        wide in 60u16..200,
        high in 12u16..60,
        details: bool,
    ) {
        let mut bad = client(2, &text);
        bad.user = Some(text.clone());
        bad.address = text.clone();
        bad.agent = Some(text.clone());
        bad.origin = Some(text.clone());
        bad.rooms = vec![text.clone(), text.clone()];
        let mut model = model();
        let mut one = snapshot(1, vec![bad, client(3, "bob")]);
        one.rooms.push(room(&text, 1));
        one.status.version = text.clone();
        one.status.history.why = Some(text.clone());
        model.take(one);
        model.key(Key::Down);
        model.fail(text);
        if details {
            model.key(Key::Enter);
        }
        let terminal = terminal(&mut model, wide, high, true);
        let buffer = terminal.backend().buffer();
        for cell in &buffer.content {
            prop_assert!(!cell.symbol().chars().any(obeyed), "{:?}", cell.symbol());
            prop_assert!(cell.symbol().chars().count() <= 8, "{:?}", cell.symbol());
        }
        if !details {
            let column = |y: u16, title: &str| {
                let line: String = (0..wide).map(|x| buffer[(x, y)].symbol().chars().next().unwrap_or(' ')).collect();
                line.find(title)
            };
            let heading = (0..high).find(|y| column(*y, "SENDQ").is_some());
            if let Some(heading) = heading
                && heading + 4 < high
            {
                // The last columns of both rows end at the same cell.
                let end = |y: u16| (0..wide).rev().find(|x| buffer[(*x, y)].symbol() != " ");
                if wide < 100 {
                    prop_assert_eq!(end(heading + 1), end(heading + 2));
                }
            }
        }
    }
}
