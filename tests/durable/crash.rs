//! The daemon is killed again and again while many chat.
//!
//! Its listening socket outlives it, as under a service manager: who connects while no daemon runs
//! waits for the next. What SIGKILL shows is that nothing acknowledged lives in the process alone.
//! It leaves the kernel's own memory be, so it says nothing about a failing power supply; what of a
//! torn file is kept is tested with the log alone.

use std::collections::{BTreeMap, HashSet};
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};

use crate::actor::{Actor, FIN, Kept, ROOMS, SAYS, kept};
use crate::line::{Door, End, Line};
use crate::progress::{Progress, Step};
use crate::support::client::trusting;
use crate::support::{Daemon, Setup};
use crate::{FAST, database, seed};

const SENDERS: u64 = 8;
const READERS: u64 = 8;
/// Nothing grows old here.
const HISTORY: &str = "[history]\nstore = \"sqlite\"\nkeep = 1000000\n";

/// When a life of the daemon ends, counted from its start.
#[derive(Debug)]
enum Moment {
    /// At the n-th of these.
    Step(Step, u64),
    /// After this time, which is mostly before it serves.
    Early(Duration),
    /// After this time from its first `joined`: somewhere in the midst.
    Within(Duration),
}

impl Moment {
    fn draw(rng: &mut StdRng) -> Self {
        // What is surely reached: no sender stays away, and each says so many on each of its connections.
        let says = SENDERS * SAYS;
        match rng.random_range(0..16) {
            0..=4 => Moment::Step(Step::Acked, rng.random_range(1..=says)),
            5..=7 => Moment::Step(Step::Sent, rng.random_range(1..=says)),
            8 => Moment::Step(Step::Heard, rng.random_range(1..=says)),
            9 => Moment::Step(Step::Hello, rng.random_range(1..=SENDERS)),
            10 => Moment::Step(Step::Welcome, rng.random_range(1..=SENDERS)),
            11 => Moment::Step(Step::Joined, rng.random_range(1..=SENDERS * ROOMS.len() as u64)),
            12..=13 => Moment::Early(Duration::from_micros(rng.random_range(0..60_000))),
            _ => Moment::Within(Duration::from_micros(rng.random_range(0..100_000))),
        }
    }

    fn wait(&self, progress: &Progress, before: impl Fn(Step) -> u64, daemon: &mut Daemon) {
        let mut runs = || assert_eq!(daemon.has_ended(), None, "the daemon ended by itself");
        match *self {
            Moment::Step(step, count) => progress.wait(step, before(step) + count, &mut runs),
            // Not waiting for anything: the moment itself is what was drawn.
            Moment::Early(delay) => std::thread::sleep(delay),
            Moment::Within(delay) => {
                progress.wait(Step::Joined, before(Step::Joined) + 1, &mut runs);
                std::thread::sleep(delay);
            }
        }
    }
}

fn kills(usual: u64) -> u64 {
    std::env::var("WSCHAT_KILLS").map_or(usual, |kills| kills.parse().expect("WSCHAT_KILLS is a number"))
}

fn launch(setup: Setup, listener: &TcpListener) -> Daemon {
    setup.hand_over(listener.try_clone().expect("a descriptor to spare").into(), "chat").launch()
}

/// Kills that often while everybody chats; then everything must be there, for everybody.
fn killed_again_and_again(kills: u64, tls: bool) {
    let seed = seed();
    let mut rng = StdRng::seed_from_u64(seed);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("a bound socket");
    let door = Door { address, tls: tls.then(|| trusting(rustls::ALL_VERSIONS)) };
    let progress = Arc::new(Progress::default());
    let actors: Vec<_> = (0..SENDERS + READERS)
        .map(|n| {
            let sends = n < SENDERS;
            let name = format!("{}{n}", if sends { "s" } else { "r" });
            let actor = Actor::new(name, sends, rng.random(), door.clone(), progress.clone());
            std::thread::spawn(move || actor.run())
        })
        .collect();

    let mut setup = Setup::new(&format!("[[listen]]\naddress = \"{address}\"\ntls = {tls}\n{FAST}{HISTORY}"));
    for life in 0..kills {
        let moment = Moment::draw(&mut rng);
        eprintln!("life {life} ends at {moment:?}");
        let steps = [Step::Hello, Step::Welcome, Step::Joined, Step::Sent, Step::Acked, Step::Heard];
        let before: Vec<u64> = steps.iter().map(|step| progress.counted(*step)).collect();
        let mut daemon = launch(setup, &listener);
        moment.wait(&progress, |step| before[step as usize], &mut daemon);
        setup = daemon.crash();
        if life % 10 == 9 {
            database::is_sound(&setup);
        }
    }

    progress.come_to_an_end();
    let mut daemon = launch(setup, &listener);
    daemon.serves();
    progress.wait(Step::Settled, SENDERS + READERS, || {});
    let heads = last_words(&door);
    let actors: Vec<Actor> = actors
        .into_iter()
        .filter_map(|actor| actor.join().expect("it says what is wrong and does not panic"))
        .collect();
    progress.wait(Step::Settled, SENDERS + READERS, || {});

    let (forwards, backwards) = (everything(&door, &heads, false, &mut rng), everything(&door, &heads, true, &mut rng));
    assert!(forwards == backwards, "paging in both directions finds the same");
    agree(&actors, &forwards);
    let setup = daemon.stop();
    database::is_sound(&setup);
    let total: usize = forwards.values().map(Vec::len).sum();
    eprintln!("{total} messages in {} rooms, heard {} times", forwards.len(), progress.counted(Step::Heard));
}

fn ok<T>(result: Result<T, End>) -> T {
    result.unwrap_or_else(|end| panic!("{end:?}"))
}

fn enter(door: &Door) -> Line {
    let mut line = ok(Line::open(door));
    ok(line.send("hello", &json!({"v": 1, "rooms": ROOMS})));
    for _ in ROOMS {
        ok(line.wait("joined"));
    }
    line
}

/// Says the last word in every room. Under which number it is kept.
fn last_words(door: &Door) -> BTreeMap<&'static str, u64> {
    let mut line = enter(door);
    let mut say = |room| {
        ok(line.send("message", &json!({"room": room, "text": FIN, "cid": "fin"})));
        (room, ok(line.wait("ack"))["seq"].as_u64().expect("a number"))
    };
    ROOMS.into_iter().map(&mut say).collect()
}

/// The whole history as somebody new reads it, in pages of any size.
fn everything(
    door: &Door,
    heads: &BTreeMap<&'static str, u64>,
    backwards: bool,
    rng: &mut StdRng,
) -> BTreeMap<&'static str, Vec<Kept>> {
    let mut line = enter(door);
    let mut found = BTreeMap::new();
    for (room, head) in heads {
        let mut all: Vec<(u64, Kept)> = Vec::new();
        loop {
            let limit = rng.random_range(1..=100);
            let mut ask = json!({"room": room, "limit": limit});
            match backwards {
                true => ask["before"] = json!(all.first().map_or(head + 1, |(seq, _)| *seq)),
                false => ask["after"] = json!(all.last().map_or(0, |(seq, _)| *seq)),
            }
            ok(line.send("history", &ask));
            let page = ok(line.wait("history"));
            let messages = page["messages"].as_array().expect("a list");
            let entry = |message: &Value| (message["seq"].as_u64().expect("a number"), kept(&message["payload"]));
            let page_of: Vec<_> = messages.iter().map(entry).collect();
            let at = if backwards { 0 } else { all.len() };
            all.splice(at..at, page_of);
            if page["more"] == false {
                break;
            }
            assert!(!messages.is_empty() && messages.len() <= limit, "{page}");
        }
        let numbers: Vec<u64> = all.iter().map(|(seq, _)| *seq).collect();
        assert_eq!(numbers, (1..=*head).collect::<Vec<_>>(), "{room}");
        found.insert(*room, all.into_iter().map(|(_, kept)| kept).collect());
    }
    found
}

/// What everybody has seen and was told is what is kept, and nothing else is.
fn agree(actors: &[Actor], history: &BTreeMap<&'static str, Vec<Kept>>) {
    for actor in actors {
        for (room, view) in &actor.views {
            let base = usize::try_from(view.base).expect("a few");
            assert!(history[room][base..] == view.seen, "{room} is what everybody saw");
        }
        for acked in &actor.acked {
            let at = usize::try_from(acked.seq - 1).expect("a few");
            assert_eq!(history[acked.room][at], acked.kept);
        }
        assert_eq!(actor.acked.len() as u64, actor.said);
    }
    let epochs: HashSet<(&str, &str)> =
        actors.iter().flat_map(|actor| &actor.views).map(|(room, view)| (*room, view.epoch.as_str())).collect();
    assert_eq!(epochs.len(), ROOMS.len(), "{epochs:?}");

    let all = || history.values().flatten().filter(|kept| kept.text != FIN);
    let said: u64 = actors.iter().map(|actor| actor.said).sum();
    assert_eq!(all().count() as u64, said, "nothing is kept twice, and nothing that was not said");
    assert_eq!(all().map(|kept| &kept.id).collect::<HashSet<_>>().len() as u64, said);
    assert_eq!(all().map(|kept| &kept.cid).collect::<HashSet<_>>().len() as u64, said);
    for (room, history) in history {
        let mut last: BTreeMap<&str, u64> = BTreeMap::new();
        for (sender, nth) in history.iter().filter_map(|kept| kept.cid.split_once('-')) {
            let nth = nth.parse().expect("counted");
            assert!(last.insert(sender, nth) < Some(nth), "{sender} said {nth} in {room} after a later one");
        }
    }
}

#[test]
fn fifty_kills_lose_nothing() {
    killed_again_and_again(kills(50), false);
}

#[test]
fn a_few_kills_behind_tls_lose_nothing() {
    killed_again_and_again(kills(8), true);
}
