//! Messages, acks, cids, direct messages, history, the text dialect.

use std::time::Duration;

use super::super::event::*;
use super::super::id::UserId;
use super::world::{World, room};

fn world() -> World {
    World::new(Settings::default())
}

fn direct(to: &str, text: &str) -> ClientFrame {
    let to = MessageTo::User(UserId::parse(to).unwrap());
    ClientFrame::Message { to, text: text.to_owned(), cid: None }
}

#[test]
fn a_message_is_kept_then_told_and_acknowledged() {
    let mut w = world();
    let (ann, bob) = (w.client("Ann"), w.client("Bob"));
    assert_eq!(w.seen(ann), ["welcome Ann", "joined lobby 0 of 1", "join lobby Bob of 2"]);
    assert_eq!(w.seen(bob), ["welcome Bob", "joined lobby 0 of 2"]);
    w.prompt = false;
    w.message(ann, "lobby", "hello", None);
    assert!(w.seen(ann).is_empty() && w.seen(bob).is_empty(), "nothing is told before it is kept");
    w.settle();
    assert_eq!(w.seen(ann), ["ack lobby 1"]);
    assert_eq!(w.seen(bob), ["lobby 1 Ann: hello"]);
}

#[test]
fn without_a_room_it_goes_to_the_first_default_room() {
    let mut w = world();
    let (ann, bob) = (w.client("Ann"), w.client("Bob"));
    w.forget_inboxes();
    w.say(ann, ClientFrame::Message { to: MessageTo::DefaultRoom, text: "x".into(), cid: None });
    assert_eq!(w.seen(bob), ["lobby 1 Ann: x"]);
}

#[test]
fn a_message_costs_one_publish_however_many_listen() {
    let mut w = world();
    let ann = w.client("Ann");
    for n in 0..100 {
        w.client(&format!("n{n}"));
    }
    w.publishes = 0;
    w.message(ann, "lobby", "x", None);
    assert_eq!(w.publishes, 1);
}

#[test]
fn refusals_name_their_reason() {
    let mut w = world();
    let ann = w.client("Ann");
    w.forget_inboxes();
    w.message(ann, "elsewhere", "x", None);
    w.message(ann, "lobby", &"x".repeat(4097), None);
    w.message(ann, "lobby", "x", Some(&"c".repeat(129)));
    w.say(ann, direct("nobody", "x"));
    w.say(ann, ClientFrame::Hello(Hello::default()));
    let expected = ["not_joined", "too_long", "bad_request", "not_online", "bad_request"];
    assert_eq!(w.seen(ann), expected.map(|code| format!("error {code}")));
    w.message(ann, "lobby", &"x".repeat(4096), Some(&"c".repeat(128)));
    assert_eq!(w.seen(ann), ["ack lobby 1"]);
    let new = w.connect(Dialect::Json);
    w.message(new, "lobby", "x", None);
    assert_eq!(w.seen(new), ["error bad_request"]);
}

#[test]
fn a_cid_is_stored_once_in_ten_minutes() {
    let mut w = world();
    let (ann, bob) = (w.user("ann"), w.user("bob"));
    w.forget_inboxes();
    w.message(ann, "lobby", "x", Some("c"));
    w.message(ann, "lobby", "x", Some("c"));
    w.message(bob, "lobby", "x", Some("c"));
    assert_eq!(w.seen(ann), ["ack lobby 1", "ack lobby 1", "lobby 2 bob: x"]);
    assert_eq!(w.seen(bob), ["lobby 1 ann: x", "ack lobby 2"]);
    w.drop_conn(ann, false);
    let ann = w.user("ann");
    w.forget_inboxes();
    w.message(ann, "lobby", "x", Some("c"));
    assert_eq!(w.seen(ann), ["ack lobby 1"], "also from a new connection");
    w.advance(Duration::from_secs(600));
    w.message(ann, "lobby", "x", Some("c"));
    assert_eq!(w.seen(ann), ["ack lobby 3"]);
}

#[test]
fn a_cid_counts_also_before_it_is_kept_and_not_when_it_failed() {
    let mut w = world();
    let ann = w.user("ann");
    w.forget_inboxes();
    w.prompt = false;
    w.message(ann, "lobby", "x", Some("c"));
    w.message(ann, "lobby", "x", Some("c"));
    w.answer_log(&room("lobby"), true);
    assert_eq!(w.seen(ann), ["error unavailable", "error unavailable"]);
    w.message(ann, "lobby", "x", Some("c"));
    w.message(ann, "lobby", "x", Some("c"));
    w.settle();
    assert_eq!(w.seen(ann), ["ack lobby 1", "ack lobby 1"]);
}

#[test]
fn a_log_too_far_behind_is_told_about() {
    let mut w = world();
    let ann = w.client("Ann");
    w.forget_inboxes();
    w.prompt = false;
    for _ in 0..1025 {
        w.message(ann, "lobby", "x", None);
    }
    assert_eq!(w.seen(ann), ["error unavailable"]);
    w.settle();
    assert_eq!(w.seen(ann).len(), 1024);
}

#[test]
fn a_sender_that_leaves_before_its_message_is_kept_still_gets_the_ack() {
    let mut w = world();
    let (ann, bob) = (w.client("Ann"), w.client("Bob"));
    w.forget_inboxes();
    w.prompt = false;
    w.message(ann, "lobby", "x", None);
    w.leave(ann, "lobby");
    w.settle();
    assert_eq!(w.seen(ann), ["left lobby", "ack lobby 1"]);
    w.message(bob, "lobby", "y", None);
    w.drop_conn(bob, true);
    w.settle();
    assert_eq!(w.hub.counts().committed, 2);
}

#[test]
fn a_direct_message_reaches_all_connections_but_the_sender() {
    let mut w = world();
    let (ann, ann2, bob, bob2) = (w.user("ann"), w.user("ann"), w.user("bob"), w.user("bob"));
    w.forget_inboxes();
    w.say(ann, direct("bob", "psst"));
    assert_eq!(w.seen(ann), ["ack delivered 2"]);
    for conn in [ann2, bob, bob2] {
        assert_eq!(w.seen(conn), ["direct ann: psst"]);
    }
    w.say(ann, direct("ann", "note"));
    assert_eq!(w.seen(ann), ["ack delivered 1"]);
    assert_eq!(w.seen(ann2), ["direct ann: note"]);
}

#[test]
fn typing_goes_to_the_others() {
    let mut w = world();
    let (ann, bob) = (w.client("Ann"), w.client("Bob"));
    w.forget_inboxes();
    w.say(ann, ClientFrame::Typing { room: room("lobby"), on: true });
    assert_eq!(w.seen(bob), ["typing lobby Ann true"]);
    assert!(w.seen(ann).is_empty());
}

#[test]
fn history_in_pages() {
    let mut w = world();
    let ann = w.client("Ann");
    for n in 0..150 {
        w.message(ann, "lobby", &n.to_string(), None);
    }
    w.forget_inboxes();
    let mut ask = |range, limit| {
        w.say(ann, ClientFrame::History { room: room("lobby"), range, limit });
        w.seen(ann).join(" ")
    };
    assert_eq!(ask(HistoryRange::Latest, 3), "history 148,149,150 more");
    assert_eq!(ask(HistoryRange::Before(3), 9), "history 1,2");
    assert_eq!(ask(HistoryRange::After(148), 2), "history 149,150");
    assert_eq!(ask(HistoryRange::After(10), 0), "history 11 more", "a limit is at least 1");
    assert_eq!(ask(HistoryRange::Latest, 5000).split(',').count(), 100, "and at most 100");
    assert_eq!(ask(HistoryRange::Before(0), 9), "history ");
}

#[test]
fn one_request_for_history_at_a_time() {
    let mut w = world();
    let ann = w.client("Ann");
    w.message(ann, "lobby", "x", None);
    w.forget_inboxes();
    (w.prompt, w.fast) = (false, false);
    let ask = |w: &mut World| {
        let frame = ClientFrame::History { room: room("lobby"), range: HistoryRange::Latest, limit: 5 };
        w.say(ann, frame);
    };
    ask(&mut w);
    ask(&mut w);
    assert_eq!(w.seen(ann), ["error rate_limited"]);
    w.settle();
    assert_eq!(w.seen(ann), ["history 1"]);
    ask(&mut w);
    w.settle();
    assert!(w.seen(ann).is_empty(), "the next page waits for the socket");
    w.drain(ann);
    w.answer_log(&room("lobby"), true);
    assert_eq!(w.seen(ann), ["error unavailable"]);
    ask(&mut w);
    w.leave(ann, "lobby");
    w.settle();
    assert_eq!(w.seen(ann), ["left lobby", "error not_joined"]);
}

#[test]
fn text_clients_are_guests_in_the_first_default_room() {
    let mut w = world();
    let ann = w.client("Ann");
    let text = w.connect(Dialect::Text);
    assert_eq!(w.seen(ann).pop().unwrap().split(' ').next(), Some("join"));
    assert!(w.hub.client(text).unwrap().user.unwrap().as_str().starts_with("guest-"));
    w.forget_inboxes();
    w.input(Input::Text { conn: text, text: "hi".into() });
    w.message(ann, "lobby", "ho", None);
    let nick = w.hub.client(text).unwrap().nick.unwrap().clone();
    assert_eq!(w.seen(ann), [format!("lobby 1 {nick}: hi"), "ack lobby 2".into()]);
    assert_eq!(w.seen(text), ["lobby 2 Ann: ho"], "neither its own message nor an ack");
    w.input(Input::Text { conn: text, text: "x".repeat(4097) });
    assert_eq!(w.seen(text), ["error too_long"]);
}

#[test]
fn a_text_client_whose_room_could_not_be_opened_tries_again_when_it_speaks() {
    let mut w = world();
    w.prompt = false;
    let text = w.connect(Dialect::Text);
    w.input(Input::Text { conn: text, text: "early".into() });
    w.answer_log(&room("lobby"), true);
    assert_eq!(w.seen(text)[1..], ["error unavailable", "error unavailable"]);
    w.input(Input::Text { conn: text, text: "hi".into() });
    w.settle();
    assert_eq!(w.seen(text), ["joined lobby 0 of 1"]);
    assert_eq!(w.hub.room(&room("lobby")).unwrap().head, 1);
}

#[test]
fn notices_reach_whom_they_are_for() {
    let mut w = world();
    let (ann, bob, cat) = (w.user("ann"), w.user("bob"), w.user("cat"));
    w.leave(cat, "lobby");
    w.connect(Dialect::Json);
    w.forget_inboxes();
    let mut notice = |target, text: &str| {
        w.input(Input::Notice { target, text: text.to_owned(), level: Level::Info });
    };
    notice(Target::Everyone, "all");
    notice(Target::Room(room("lobby")), "room");
    notice(Target::Room(room("nowhere")), "no room");
    notice(Target::User(UserId::parse("bob").unwrap()), "bob");
    notice(Target::Conn(cat), "cat");
    assert_eq!(w.seen(ann), ["notice all", "notice lobby room"]);
    assert_eq!(w.seen(bob), ["notice all", "notice lobby room", "notice bob"]);
    assert_eq!(w.seen(cat), ["notice all", "notice cat"]);
}

#[test]
fn what_was_kept_in_a_stream_that_is_lost_is_said_anew() {
    let mut w = World::new(Settings::default());
    let ann = w.client("Ann");
    w.join(ann, "b", 0);
    w.message(ann, "b", "x", Some("c"));
    w.leave(ann, "b");
    // Nobody uses the room any more, and its log forgets it.
    w.advance(Duration::from_secs(61));
    w.log.forget(&room("b"));
    w.join(ann, "b", 0);
    w.message(ann, "b", "x", Some("c"));
    assert_eq!(w.log.streams[&room("b")].records.len(), 1, "an ack of the old stream keeps nothing");
}
