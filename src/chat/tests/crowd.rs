//! Rooms: joining, limits, opening late or never, forgetting; and what operators see of it.

use std::time::Duration;

use proptest::prelude::*;

use super::super::event::*;
use super::super::id::{ConnId, RoomName};
use super::super::view::Counts;
use super::world::{World, room};

fn hello(rooms: &[&str]) -> Hello {
    Hello { rooms: Some(rooms.iter().map(|name| room(name)).collect()), ..Hello::default() }
}

#[test]
fn rooms_are_made_only_where_that_is_allowed() {
    let mut w = World::new(Settings { create_rooms: false, ..Settings::default() });
    let ann = w.client("Ann");
    w.join(ann, "new", 0);
    w.leave(ann, "lobby");
    w.join(ann, "lobby", 0);
    assert_eq!(w.seen(ann)[2..], ["error no_such_room", "left lobby", "joined lobby 0 of 1"]);
}

#[test]
fn joining_again_changes_nothing() {
    let mut w = World::new(Settings::default());
    let (ann, bob) = (w.client("Ann"), w.client("Bob"));
    w.forget_inboxes();
    w.join(ann, "lobby", 10);
    assert_eq!(w.seen(ann), ["joined lobby 0 recovered of 2"]);
    assert!(w.seen(bob).is_empty());
    w.leave(ann, "lobby");
    w.leave(ann, "lobby");
    assert_eq!(w.seen(ann), ["left lobby", "error not_joined"]);
    assert_eq!(w.seen(bob), ["leave lobby Ann of 1"]);
}

#[test]
fn a_client_is_in_so_many_rooms_at_most() {
    let mut w = World::new(Settings { rooms_per_client: 3, ..Settings::default() });
    let ann = w.connect(Dialect::Json);
    let names: Vec<String> = (0..500).map(|n| format!("r{n}")).collect();
    w.hello(ann, hello(&names.iter().map(String::as_str).collect::<Vec<_>>()));
    let mut seen = w.seen(ann);
    seen[1..].sort();
    let expected = ["error forbidden", "joined r0 0 of 1", "joined r1 0 of 1", "joined r2 0 of 1"];
    assert_eq!(seen[1..], expected, "one error for all that are too many");
    w.leave(ann, "r1");
    w.join(ann, "r9", 0);
    assert_eq!(w.seen(ann), ["left r1", "joined r9 0 of 1"]);
}

#[test]
fn what_is_said_to_a_room_that_is_being_opened_waits() {
    let mut w = World::new(Settings::default());
    w.prompt = false;
    let ann = w.client("Ann");
    w.message(ann, "lobby", "early", None);
    w.join(ann, "lobby", 0);
    w.message(ann, "lobby", &"x".repeat(5000), None);
    assert_eq!(w.seen(ann), ["welcome Ann", "error bad_request", "error too_long"]);
    for _ in 0..20 {
        w.say(ann, ClientFrame::Typing { room: room("lobby"), on: true });
    }
    assert_eq!(w.seen(ann), ["error rate_limited"; 5], "a few wait, not any number");
    w.settle();
    assert_eq!(w.seen(ann), ["joined lobby 0 of 1", "ack lobby 1"]);
}

#[test]
fn a_room_that_cannot_be_opened_is_tried_again_at_the_next_join() {
    let mut w = World::new(Settings::default());
    w.prompt = false;
    let (ann, bob) = (w.client("Ann"), w.client("Bob"));
    w.message(bob, "lobby", "x", None);
    w.answer_log(&room("lobby"), true);
    assert_eq!(w.seen(ann), ["welcome Ann", "error unavailable"]);
    assert_eq!(w.seen(bob), ["welcome Bob", "error unavailable", "error unavailable"]);
    assert_eq!(w.hub.counts().rooms, 0);
    w.join(ann, "lobby", 0);
    w.settle();
    assert_eq!(w.seen(ann), ["joined lobby 0 of 1"]);
}

#[test]
fn leaving_or_going_while_a_room_is_opened() {
    let mut w = World::new(Settings::default());
    w.prompt = false;
    let (ann, bob) = (w.client("Ann"), w.client("Bob"));
    w.message(ann, "lobby", "x", None);
    w.leave(ann, "lobby");
    assert_eq!(w.seen(ann), ["welcome Ann", "error not_joined", "error not_joined", "left lobby"]);
    w.drop_conn(bob, false);
    w.input(Input::Settings(Box::new(Settings { default_rooms: Vec::new(), ..Settings::default() })));
    w.settle();
    assert!(w.seen(ann).is_empty());
    assert_eq!(w.hub.counts().rooms, 0, "nobody wants it any more");
}

#[test]
fn a_join_refused_by_closing_its_room_takes_no_place() {
    let mut w = World::new(Settings { rooms_per_client: 2, ..Settings::default() });
    let ann = w.client("Ann");
    w.prompt = false;
    w.join(ann, "b", 0);
    w.order(Action::CloseRoom { room: room("b"), reason: String::new() });
    w.join(ann, "c", 0);
    w.settle();
    assert_eq!(w.seen(ann)[2..], ["error forbidden", "joined c 0 of 1"]);
}

#[test]
fn empty_rooms_are_forgotten_at_once_and_others_after_a_while() {
    let mut w = World::new(Settings::default());
    let ann = w.client("Ann");
    w.join(ann, "silent", 0);
    w.join(ann, "spoken", 0);
    w.message(ann, "spoken", "x", None);
    w.leave(ann, "silent");
    w.leave(ann, "spoken");
    let open = |w: &World| w.hub.rooms().map(|row| row.name.to_string()).collect::<Vec<_>>();
    assert_eq!(open(&w), ["lobby", "spoken"]);
    w.advance(Duration::from_secs(59));
    w.join(ann, "spoken", 0);
    w.advance(Duration::from_secs(100));
    assert_eq!(open(&w), ["lobby", "spoken"]);
    w.leave(ann, "spoken");
    w.advance(Duration::from_secs(60));
    assert_eq!(open(&w), ["lobby"]);
    w.forget_inboxes();
    w.join(ann, "spoken", 5);
    assert_eq!(w.seen(ann), ["joined spoken 1 of 1", "spoken 1 Ann: x"], "the log still has it");
}

#[test]
fn only_so_many_rooms_are_kept_open_for_nobody() {
    let mut w = World::new(Settings::default());
    w.watchful = false;
    let ann = w.client("Ann");
    for n in 0..1100 {
        let name = format!("r{n}");
        w.join(ann, &name, 0);
        w.message(ann, &name, "x", None);
        w.leave(ann, &name);
    }
    assert_eq!(w.hub.counts().rooms, 1 + 1024);
}

#[test]
fn default_rooms_stay_open_for_nobody() {
    let mut w = World::new(Settings::default());
    w.watchful = false;
    let ann = w.client("Ann");
    w.message(ann, "lobby", "x", None);
    w.leave(ann, "lobby");
    for n in 0..1100 {
        let name = format!("r{n}");
        w.join(ann, &name, 0);
        w.message(ann, &name, "x", None);
        w.leave(ann, &name);
    }
    assert_eq!(w.hub.counts().rooms, 1 + 1024);
    w.drop_conn(ann, true);
    w.advance(Duration::from_secs(100_000));
    let row = w.hub.room(&room("lobby")).expect("the lobby stays");
    assert_eq!((row.members, row.head), (0, 1));
    assert_eq!((w.hub.counts().rooms, w.hub.next_deadline()), (1, None));
    assert!(!w.log.queues.contains_key(&room("lobby")), "the log was not told to close it");
}

#[test]
fn only_the_default_rooms_of_now_stay() {
    let mut w = World::new(Settings::default());
    let open = |w: &World| w.hub.rooms().map(|row| row.name.to_string()).collect::<Vec<_>>();
    let set = |w: &mut World, names: &[&str]| {
        let default_rooms = names.iter().map(|name| room(name)).collect();
        w.input(Input::Settings(Box::new(Settings { default_rooms, ..Settings::default() })));
    };
    let ann = w.client("Ann");
    w.join(ann, "new", 0);
    for name in ["lobby", "new"] {
        w.message(ann, name, "x", None);
        w.leave(ann, name);
    }
    w.advance(Duration::from_secs(59));
    set(&mut w, &["new", "silent"]);
    w.join(ann, "silent", 0);
    w.leave(ann, "silent");
    w.advance(Duration::from_secs(59));
    assert_eq!(open(&w), ["lobby", "new", "silent"], "the lobby has its minute from now");
    w.advance(Duration::from_secs(1));
    assert_eq!(open(&w), ["new", "silent"]);
    set(&mut w, &["new"]);
    assert_eq!(open(&w), ["new"], "nothing was said in the other");
    set(&mut w, &[]);
    w.advance(Duration::from_secs(60));
    assert_eq!((open(&w), w.hub.next_deadline()), (vec![], None));
}

#[test]
fn operators_see_it_all() {
    let mut w = World::new(Settings::default());
    let (ann, bob, new) = (w.user("ann"), w.user("bob"), w.connect(Dialect::Json));
    let tab = w.user("ann");
    w.join(ann, "b", 0);
    w.message(ann, "b", "x", None);
    w.drop_conn(bob, false);
    let counts = Counts { clients: 3, users: 2, rooms: 2, committed: 1 };
    assert_eq!(w.hub.counts(), counts, "a user who is waited for is here");
    let conns = |after| w.hub.clients(ConnId(after)).map(|row| row.conn).collect::<Vec<_>>();
    assert_eq!(conns(0), [ann, new, tab]);
    assert_eq!(conns(ann.0), [new, tab]);
    let row = w.hub.client(ann).unwrap();
    assert_eq!((row.user.unwrap().as_str(), row.nick.unwrap().as_str(), row.rooms), ("ann", "ann", 2));
    assert!(w.hub.client(new).unwrap().user.is_none() && w.hub.client(bob).is_none());
    let names: Vec<&RoomName> = w.hub.rooms_of(ann).collect();
    assert_eq!(names, [&room("lobby"), &room("b")]);
    let row = w.hub.room(&room("lobby")).unwrap();
    assert_eq!((row.members, row.online, row.head, row.first), (2, 2, 0, 1));
    assert_eq!(w.hub.members(&room("lobby")).collect::<Vec<_>>(), [ann, tab]);
    let users: Vec<_> = w.hub.users_in(&room("lobby")).map(|row| (row.user.to_string(), row.conns)).collect();
    assert_eq!(users, [("ann".into(), vec![ann, tab]), ("bob".into(), vec![])]);
    assert_eq!(w.hub.room(&room("b")).unwrap().head, 1);
    assert!(w.hub.room(&room("c")).is_none());
}

#[test]
fn operators_are_told_what_happens() {
    let mut w = World::new(Settings::default());
    let ann = w.client("Ann");
    w.message(ann, "lobby", "four", None);
    w.say(ann, ClientFrame::Nick { nick: "Eve".into() });
    w.leave(ann, "lobby");
    let told: Vec<String> = w.happened.iter().map(|what| format!("{what:?}")).collect();
    let kinds: Vec<&str> = told.iter().map(|what| what.split(' ').next().unwrap()).collect();
    assert_eq!(kinds, ["Welcomed", "Joined", "Message", "NickChanged", "Left"]);
    assert!(told[2].contains("seq: 1, bytes: 4"), "{}", told[2]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// A list that is read page by page while people come and go has everybody exactly once who was
    /// there all the time, and nobody twice.
    #[test]
    fn who_stays_is_listed_once(
        people in 1usize..60,
        page in 1usize..10,
        steps in prop::collection::vec((any::<bool>(), any::<prop::sample::Index>()), 0..60),
    ) {
        let mut w = World::new(Settings::default());
        let mut here: Vec<ConnId> = (0..people).map(|_| w.connect(Dialect::Json)).collect();
        let mut stayed = here.clone();
        let mut listed: Vec<ConnId> = Vec::new();
        let mut steps = steps.into_iter();
        loop {
            let after = listed.last().copied().unwrap_or(ConnId(0));
            let found: Vec<ConnId> = w.hub.clients(after).take(page).map(|row| row.conn).collect();
            prop_assert!(found.is_sorted());
            if found.is_empty() {
                break;
            }
            listed.extend(found);
            for (comes, which) in steps.by_ref().take(4) {
                if comes {
                    here.push(w.connect(Dialect::Json));
                } else if !here.is_empty() {
                    let gone = here.remove(which.index(here.len()));
                    stayed.retain(|id| *id != gone);
                    w.drop_conn(gone, true);
                }
            }
        }
        let mut once = listed.clone();
        once.dedup();
        prop_assert_eq!(&once, &listed);
        prop_assert!(listed.is_sorted());
        prop_assert!(stayed.iter().all(|id| listed.contains(id)));
    }
}
