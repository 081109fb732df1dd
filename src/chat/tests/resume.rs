//! Coming back: backlogs in pages, without hole or double, and what happens when they are lost.

use super::super::event::*;
use super::super::id::{ConnId, Seq};
use super::world::{World, named, room};

const LOBBY: &str = "lobby";

/// `count` messages in the lobby, said by Bob.
fn world(count: usize) -> (World, ConnId) {
    let mut w = World::new(Settings::default());
    let bob = w.client("Bob");
    for n in 1..=count {
        w.message(bob, LOBBY, &format!("m{n}"), None);
    }
    w.forget_inboxes();
    (w, bob)
}

fn resuming(w: &mut World, user: &str, epoch: &str, seq: Seq) -> ConnId {
    let conn = w.connect(Dialect::Json);
    let identity = named(user, None);
    let cursor = Cursor { epoch: epoch.to_owned(), seq };
    w.hello(conn, Hello { identity, nick: Some(user.into()), resume: vec![(room(LOBBY), cursor)], ..Hello::default() });
    conn
}

fn entries(from: Seq, to: Seq) -> Vec<String> {
    (from..=to).map(|seq| format!("lobby {seq} Bob: m{seq}")).collect()
}

#[test]
fn what_was_missed_comes_right_after_joined() {
    let (mut w, bob) = world(5);
    let ann = resuming(&mut w, "ann", "e1", 2);
    let seen = w.seen(ann);
    assert_eq!(seen[..2], ["welcome ann resumed", "joined lobby 5 recovered of 2"]);
    assert_eq!(seen[2..], entries(3, 5));
    w.message(bob, LOBBY, "live", None);
    assert_eq!(w.seen(ann), ["lobby 6 Bob: live"]);
}

#[test]
fn nothing_missed_needs_no_page() {
    let (mut w, _) = world(5);
    let ann = resuming(&mut w, "ann", "e1", 5);
    assert_eq!(w.seen(ann), ["welcome ann resumed", "joined lobby 5 recovered of 2"]);
}

#[test]
fn a_cursor_that_does_not_fit_is_not_recovered() {
    let (mut w, _) = world(5);
    w.log.streams.get_mut(&room(LOBBY)).unwrap().first = 4;
    for (epoch, seq) in [("other", 3), ("e1", 6)] {
        let ann = resuming(&mut w, "ann", epoch, seq);
        assert_eq!(w.seen(ann), ["welcome ann", "joined lobby 5 of 2"], "{epoch} {seq}");
        w.drop_conn(ann, true);
    }
}

#[test]
fn a_late_page_does_not_know_better_what_is_kept() {
    let (mut w, bob) = world(5);
    w.prompt = false;
    w.say(bob, ClientFrame::History { room: room(LOBBY), range: HistoryRange::Latest, limit: 9 });
    w.work_ahead(&room(LOBBY), true);
    w.log.streams.get_mut(&room(LOBBY)).unwrap().first = 4;
    w.message(bob, LOBBY, "m6", None);
    w.answer_log(&room(LOBBY), false);
    w.settle();
    assert_eq!(w.seen(bob), ["ack lobby 6", "history 1,2,3,4,5"]);
    assert_eq!(w.hub.room(&room(LOBBY)).unwrap().first, 4);
}

#[test]
fn the_backlog_is_paced_and_live_messages_wait_their_turn() {
    let (mut w, bob) = world(250);
    w.fast = false;
    let ann = resuming(&mut w, "ann", "e1", 0);
    assert_eq!(w.seen(ann)[2..], entries(1, 100));
    w.message(bob, LOBBY, "m251", None);
    assert!(w.seen(ann).is_empty(), "nothing until the socket has taken the page");
    w.drain(ann);
    assert_eq!(w.seen(ann), entries(101, 200));
    w.drain(ann);
    assert_eq!(w.seen(ann), entries(201, 251));
    w.message(bob, LOBBY, "m252", None);
    assert_eq!(w.seen(ann), entries(252, 252), "it is live before the last page is written");
}

#[test]
fn a_message_kept_while_the_log_reads_comes_once() {
    let (mut w, bob) = world(3);
    w.prompt = false;
    let ann = resuming(&mut w, "ann", "e1", 1);
    w.message(bob, LOBBY, "m4", None);
    w.settle();
    assert_eq!(w.seen(ann)[2..], entries(2, 4));
}

#[test]
fn its_own_messages_are_acknowledged_in_their_place() {
    let (mut w, _) = world(3);
    w.prompt = false;
    let ann = resuming(&mut w, "ann", "e1", 0);
    w.message(ann, LOBBY, "x", Some("c"));
    w.message(ann, LOBBY, "x", Some("c"));
    // The first page was read before the message was kept, so it is in the second.
    w.settle();
    let seen = w.seen(ann);
    assert_eq!(seen[2..5], entries(1, 3));
    assert_eq!(seen[5..], ["ack lobby 4", "ack lobby 4"]);
}

#[test]
fn resending_after_a_reconnect_is_acknowledged_in_the_backlog() {
    let (mut w, bob) = world(2);
    let ann = resuming(&mut w, "ann", "e1", 2);
    w.message(ann, LOBBY, "x", Some("c"));
    w.message(bob, LOBBY, "m4", None);
    w.drop_conn(ann, false);
    // The ack never reached it: it stopped at 2 and sends again.
    w.prompt = false;
    let ann = resuming(&mut w, "ann", "e1", 2);
    w.message(ann, LOBBY, "x", Some("c"));
    w.settle();
    assert_eq!(w.seen(ann)[2..], ["ack lobby 3", "lobby 4 Bob: m4"]);
}

#[test]
fn acks_are_not_lost_with_the_backlog() {
    for leave in [true, false] {
        let (mut w, _) = world(150);
        w.fast = false;
        let ann = resuming(&mut w, "ann", "e1", 0);
        w.message(ann, LOBBY, "x", None);
        w.take(ann);
        if leave {
            w.leave(ann, LOBBY);
            assert_eq!(w.seen(ann), ["left lobby", "ack lobby 151"]);
        } else {
            w.prompt = false;
            w.drain(ann);
            w.answer_log(&room(LOBBY), true);
            assert_eq!(w.seen(ann), ["error unavailable", "joined lobby 151 of 2", "ack lobby 151"]);
        }
    }
}

#[test]
fn what_is_no_longer_kept_is_told_even_in_the_middle() {
    let (mut w, bob) = world(250);
    w.fast = false;
    let ann = resuming(&mut w, "ann", "e1", 0);
    w.take(ann);
    w.log.streams.get_mut(&room(LOBBY)).unwrap().first = 150;
    w.drain(ann);
    assert_eq!(w.seen(ann), ["error unrecoverable", "joined lobby 250 of 2"]);
    w.message(bob, LOBBY, "live", None);
    assert_eq!(w.seen(ann), ["lobby 251 Bob: live"]);
}

#[test]
fn presence_is_heard_while_catching_up() {
    let (mut w, _) = world(150);
    w.fast = false;
    let ann = resuming(&mut w, "ann", "e1", 0);
    w.take(ann);
    let cat = w.client("Cat");
    w.drop_conn(cat, true);
    w.input(Input::Notice { target: Target::Room(room(LOBBY)), text: "n".into(), level: Level::Info });
    assert_eq!(w.seen(ann), ["join lobby Cat of 3", "leave lobby Cat of 2", "notice lobby n"]);
}

#[test]
fn the_last_few_messages_come_with_a_join() {
    let (mut w, _) = world(150);
    let cat = w.client("Cat");
    w.leave(cat, LOBBY);
    w.forget_inboxes();
    w.join(cat, LOBBY, 2);
    assert_eq!(w.seen(cat)[1..], entries(149, 150));
    w.leave(cat, LOBBY);
    w.log.streams.get_mut(&room(LOBBY)).unwrap().first = 150;
    w.forget_inboxes();
    w.join(cat, LOBBY, 1000);
    assert_eq!(w.seen(cat), ["joined lobby 150 of 2", "lobby 150 Bob: m150"], "fewer where fewer are kept");
}

#[test]
fn the_welcome_waits_until_it_is_known_what_is_recovered() {
    let mut w = World::new(Settings::default());
    w.prompt = false;
    let ann = w.connect(Dialect::Json);
    let cursor = |seq| Cursor { epoch: "e1".into(), seq };
    let resume = vec![(room("a"), cursor(0)), (room("b"), cursor(9))];
    w.hello(ann, Hello { resume, rooms: Some(vec![]), nick: Some("Ann".into()), ..Hello::default() });
    w.message(ann, "a", "early", None);
    w.answer_log(&room("a"), false);
    assert!(w.seen(ann).is_empty());
    w.answer_log(&room("b"), false);
    w.settle();
    assert_eq!(w.seen(ann), ["welcome Ann", "joined a 0 recovered of 1", "joined b 0 of 1", "ack a 1"]);
}

#[test]
fn going_while_the_welcome_waits_leaves_nothing() {
    let mut w = World::new(Settings::default());
    w.prompt = false;
    let ann = resuming(&mut w, "ann", "e1", 3);
    w.drop_conn(ann, false);
    w.settle();
    assert!(w.hub.is_empty());
}

#[test]
fn resending_while_catching_up_does_not_pile_up() {
    let (mut w, _) = world(150);
    w.fast = false;
    let ann = resuming(&mut w, "ann", "e1", 0);
    w.take(ann);
    for _ in 0..100 {
        w.message(ann, LOBBY, "x", Some("c"));
    }
    assert_eq!(w.seen(ann), ["error rate_limited"; 36]);
    w.drain(ann);
    assert_eq!(w.seen(ann)[50..], ["ack lobby 151"; 64]);
}

#[test]
fn it_is_live_only_when_a_page_has_reached_the_head() {
    for count in [99, 100, 101, 200, 201] {
        let (mut w, _) = world(count);
        let ann = resuming(&mut w, "ann", "e1", 0);
        assert_eq!(w.seen(ann)[2..], entries(1, count as Seq));
    }
}

/// A log that knows of a message already which it has not yet told to be kept, and repeats old ones.
#[test]
fn a_page_that_says_too_much_does_no_harm() {
    let (mut w, bob) = world(3);
    w.prompt = false;
    let ann = resuming(&mut w, "ann", "e1", 1);
    w.message(bob, LOBBY, "m4", None);
    let Some(LogRequest::Read { ticket, .. }) = w.log.queues.get_mut(&room(LOBBY)).unwrap().pop_front() else {
        panic!("no page is asked for")
    };
    let committed = w.log.answer(&room(LOBBY), false).unwrap();
    let records = w.log.streams[&room(LOBBY)].records.iter().cloned();
    let entries_of: Vec<Entry> = records.zip(1..).map(|(record, seq)| Entry { seq, record }).collect();
    assert_eq!(entries_of.len(), 4);
    let name = room(LOBBY);
    w.input(Input::Log(LogReply::Page {
        room: name,
        ticket,
        epoch: "e1".into(),
        entries: entries_of,
        more: false,
        first: 1,
        head: 4,
    }));
    assert_eq!(w.seen(ann)[2..], entries(2, 3));
    w.input(Input::Log(committed));
    assert_eq!(w.seen(ann), entries(4, 4));
}
