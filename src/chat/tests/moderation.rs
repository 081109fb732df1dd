//! Deleting, purging, closing rooms, muting: by operators, by moderators, and by nobody else.

use std::time::Duration;

use super::super::event::*;
use super::super::id::{ConnId, Seq, UserId};
use super::super::sanction::{Measure, SanctionKind};
use super::world::{World, claims, moderator, named, room};

const LOBBY: &str = "lobby";
const SECOND: Duration = Duration::from_secs(1);

/// Mod, a moderator; ann and bob.
fn world() -> (World, ConnId, ConnId, ConnId) {
    let mut w = World::new(Settings::default());
    let (boss, ann, bob) = (w.bearer(moderator("mod")), w.user("ann"), w.user("bob"));
    w.forget_inboxes();
    (w, boss, ann, bob)
}

fn user(name: &str) -> UserId {
    UserId::parse(name).unwrap()
}

fn delete(w: &mut World, conn: ConnId, target: Seq) -> u64 {
    w.say(conn, ClientFrame::Delete { room: room(LOBBY), target })
}

fn mute(w: &mut World, conn: ConnId, who: &str, lasts: Option<Duration>) -> u64 {
    let (room, reason) = (room(LOBBY), "spam".to_owned());
    w.say(conn, ClientFrame::Mute { room, user: user(who), lasts, reason })
}

fn unmute(w: &mut World, conn: ConnId, who: &str) -> u64 {
    w.say(conn, ClientFrame::Unmute { room: room(LOBBY), user: user(who) })
}

fn error(frame: &ServerFrame) -> &ErrorFrame {
    match frame {
        ServerFrame::Error(error) => error,
        other => panic!("{other:?}"),
    }
}

// Deleting.

#[test]
fn a_moderator_deletes_any_message_and_others_their_own() {
    let (mut w, boss, ann, bob) = world();
    w.message(ann, LOBBY, "one", None);
    w.message(bob, LOBBY, "two", None);
    w.forget_inboxes();
    delete(&mut w, ann, 2);
    assert_eq!(w.seen(ann), ["error forbidden"]);
    delete(&mut w, ann, 1);
    assert_eq!(w.seen(ann), ["ack lobby 3"], "in place of the entry");
    assert_eq!(w.seen(bob), ["lobby 3 deletes 1"]);
    delete(&mut w, boss, 2);
    assert_eq!(
        (w.seen(boss), w.seen(ann)),
        (vec!["lobby 3 deletes 1".into(), "ack lobby 4".into()], vec!["lobby 4 deletes 2".into()])
    );
    for target in [0, 1, 3, 99] {
        delete(&mut w, boss, target);
    }
    assert_eq!(w.seen(boss), ["error bad_request"; 4], "gone already, no message, never was");
    w.leave(ann, LOBBY);
    delete(&mut w, ann, 1);
    assert_eq!(w.seen(ann)[1..], ["error not_joined"]);
    let told: Vec<_> = w.happened.iter().filter(|what| matches!(what, Happening::Deleted { .. })).collect();
    assert!(
        matches!(told[1], Happening::Deleted { by: By::Client { conn, .. }, target: Some(2), seq: 4, .. } if *conn == boss),
        "{told:?}"
    );
}

#[test]
fn what_was_deleted_is_read_without_its_text() {
    let (mut w, boss, ann, bob) = world();
    w.message(ann, LOBBY, "one", None);
    w.message(ann, LOBBY, "two", None);
    delete(&mut w, boss, 1);
    w.forget_inboxes();
    w.say(bob, ClientFrame::History { room: room(LOBBY), range: HistoryRange::Latest, limit: 9 });
    let ServerFrame::History(page) = &w.take(bob)[0] else { panic!("no history") };
    let texts: Vec<bool> = page.entries.iter().map(hidden).collect();
    assert_eq!(texts, [true, false, false]);
    let back = resuming(&mut w, "cat", 0);
    assert_eq!(w.seen(back)[2..], ["lobby 1 ann: (deleted)", "lobby 2 ann: two", "lobby 3 deletes 1"]);
}

fn hidden(entry: &Entry) -> bool {
    matches!(entry.record.body, Body::Message { text: None, .. })
}

fn resuming(w: &mut World, who: &str, seq: Seq) -> ConnId {
    let conn = w.connect(Dialect::Json);
    let resume = vec![(room(LOBBY), Cursor { epoch: "e1".into(), seq })];
    w.hello(conn, Hello { identity: named(who, Some(who)), resume, ..Hello::default() });
    conn
}

#[test]
fn a_failing_log_refuses_to_delete_for_now() {
    let (mut w, _, ann, _) = world();
    w.message(ann, LOBBY, "one", None);
    w.forget_inboxes();
    w.prompt = false;
    delete(&mut w, ann, 1);
    w.answer_log(&room(LOBBY), true);
    let frames = w.take(ann);
    assert_eq!(error(&frames[0]).code, ErrorCode::Unavailable);
    assert!(error(&frames[0]).is_temporary() && error(&frames[0]).retry.is_some());
    for _ in 0..1025 {
        delete(&mut w, ann, 1);
    }
    assert_eq!(w.seen(ann), ["error unavailable"], "as many as of messages");
}

#[test]
fn deletes_and_messages_keep_the_order_of_the_room() {
    let (mut w, _, ann, bob) = world();
    w.prompt = false;
    w.message(ann, LOBBY, "one", None);
    delete(&mut w, ann, 1);
    w.message(ann, LOBBY, "two", None);
    w.settle();
    assert_eq!(w.seen(ann), ["ack lobby 1", "ack lobby 2", "ack lobby 3"]);
    assert_eq!(w.seen(bob), ["lobby 1 ann: one", "lobby 2 deletes 1", "lobby 3 ann: two"]);
}

#[test]
fn a_delete_is_acknowledged_in_its_place_in_a_backlog() {
    let (mut w, _, ann, _) = world();
    for _ in 0..150 {
        w.message(ann, LOBBY, "x", None);
    }
    w.fast = false;
    let tab = resuming(&mut w, "ann", 0);
    w.take(tab);
    delete(&mut w, tab, 150);
    assert!(w.seen(tab).is_empty());
    w.drain(tab);
    let seen = w.seen(tab);
    assert_eq!((seen.len(), &seen[49], &seen[50]), (51, &"lobby 150 ann: (deleted)".into(), &"ack lobby 151".into()));
}

#[test]
fn a_page_that_was_read_before_a_delete_does_not_bring_it_back() {
    for purge in [false, true] {
        let (mut w, boss, ann, bob) = world();
        w.message(ann, LOBBY, "one", None);
        w.message(ann, LOBBY, "two", None);
        w.forget_inboxes();
        w.prompt = false;
        w.say(bob, ClientFrame::History { room: room(LOBBY), range: HistoryRange::Latest, limit: 9 });
        w.log.read_ahead(&room(LOBBY));
        if purge {
            w.order(Action::Purge { room: room(LOBBY) });
        } else {
            delete(&mut w, boss, 1);
        }
        w.answer_log(&room(LOBBY), false);
        // The page that was read first arrives last; the client's own view would not stand it.
        w.settle();
        let seen = w.seen(bob);
        assert_eq!(seen[1], if purge { "history 3" } else { "history 1,2,3" }, "{seen:?}");
    }
}

#[test]
fn an_operator_deletes_in_rooms_open_or_not() {
    let (mut w, _, ann, bob) = world();
    w.join(ann, "b", 0);
    for name in [LOBBY, "b"] {
        w.message(ann, name, "one", None);
    }
    w.leave(ann, "b");
    w.advance(60 * SECOND);
    assert!(w.hub.room(&room("b")).is_none());
    w.forget_inboxes();
    let mut delete = |name: &str, target| w.ordered(Action::Delete { room: room(name), target });
    assert_eq!(delete(LOBBY, 1), Ok(Outcome::Removed { seq: 2, removed: 1 }));
    assert_eq!(delete("b", 1), Ok(Outcome::Removed { seq: 2, removed: 1 }));
    assert_eq!(delete("b", 7), Err(ActionError::NoSuchMessage { room: room("b"), target: 7 }));
    assert_eq!(delete("nowhere", 1), Err(ActionError::NoSuchRoom(room("nowhere"))));
    assert_eq!(w.seen(bob), ["lobby 2 deletes 1"]);
    w.join(ann, "b", 9);
    assert_eq!(w.seen(ann)[1..], ["joined b 2 of 1", "b 1 ann: (deleted)", "b 2 deletes 1"]);
    w.prompt = false;
    let id = w.order(Action::Delete { room: room("b"), target: 1 });
    w.answer_log(&room("b"), true);
    assert!(matches!(w.moderated[&id], Err(ActionError::Unavailable(_))));
}

#[test]
fn an_order_for_a_room_that_is_being_opened_is_told_once() {
    for first in ["order", "join"] {
        let mut w = World::new(Settings::default());
        let ann = w.user("ann");
        w.join(ann, "b", 0);
        w.message(ann, "b", "one", None);
        w.leave(ann, "b");
        w.advance(60 * SECOND);
        w.forget_inboxes();
        w.prompt = false;
        if first == "order" {
            w.order(Action::Delete { room: room("b"), target: 1 });
            w.join(ann, "b", 0);
        } else {
            w.join(ann, "b", 0);
            w.order(Action::Delete { room: room("b"), target: 1 });
        }
        w.settle();
        let expected = if first == "order" { &["joined b 2 of 1"][..] } else { &["joined b 1 of 1", "b 2 deletes 1"] };
        assert_eq!(w.seen(ann), expected);
        assert_eq!(w.hub.room(&room("b")).unwrap().head, 2);
    }
}

// Purging.

#[test]
fn a_purge_is_one_entry_and_nothing_before_it_comes_back() {
    let (mut w, _, ann, bob) = world();
    for n in 0..5 {
        w.message(ann, LOBBY, &n.to_string(), None);
    }
    w.forget_inboxes();
    assert_eq!(w.ordered(Action::Purge { room: room(LOBBY) }), Ok(Outcome::Removed { seq: 6, removed: 5 }));
    assert_eq!((w.seen(ann), w.seen(bob)), (vec!["lobby 6 purges".into()], vec!["lobby 6 purges".to_owned()]));
    assert_eq!(w.hub.room(&room(LOBBY)).unwrap().first, 6);
    w.say(bob, ClientFrame::History { room: room(LOBBY), range: HistoryRange::Latest, limit: 9 });
    assert_eq!(w.seen(bob), ["history 6"]);
    for (seq, recovered) in [(0, false), (4, false), (5, true), (6, true)] {
        let back = resuming(&mut w, "cat", seq);
        let seen = w.seen(back);
        assert_eq!(seen[0], if recovered { "welcome cat resumed" } else { "welcome cat" }, "from {seq}");
        assert_eq!(seen[2..], if seq == 5 { vec!["lobby 6 purges"] } else { vec![] }, "from {seq}");
        w.drop_conn(back, true);
    }
    let new = w.user("new");
    w.leave(new, LOBBY);
    w.forget_inboxes();
    w.join(new, LOBBY, 9);
    assert_eq!(w.seen(new), ["joined lobby 6 of 4", "lobby 6 purges"]);
    assert!(matches!(w.happened.iter().rev().find(|what| matches!(what, Happening::Deleted { .. })),
        Some(Happening::Deleted { by: By::Operator(by), target: None, seq: 6, .. }) if by == "operator"));
}

#[test]
fn one_that_is_catching_up_is_told_of_a_purge_by_its_entry() {
    let (mut w, _, ann, _) = world();
    for n in 1..=250 {
        w.message(ann, LOBBY, &n.to_string(), None);
    }
    w.fast = false;
    let cat = resuming(&mut w, "cat", 0);
    assert_eq!(w.seen(cat).len(), 102);
    w.ordered(Action::Purge { room: room(LOBBY) }).unwrap();
    w.message(ann, LOBBY, "after", None);
    assert!(w.seen(cat).is_empty());
    w.drain(cat);
    assert_eq!(w.seen(cat), ["lobby 251 purges", "lobby 252 ann: after"]);
    w.message(ann, LOBBY, "live", None);
    assert_eq!(w.seen(cat), ["lobby 253 ann: live"]);
}

/// The log has purged and read a page of what is left, but has not told of the purge.
#[test]
fn a_page_that_knows_of_a_purge_too_early_breaks_the_backlog_off() {
    let (mut w, _, ann, _) = world();
    for n in 1..=150 {
        w.message(ann, LOBBY, &n.to_string(), None);
    }
    w.fast = false;
    let cat = resuming(&mut w, "cat", 0);
    w.take(cat);
    w.prompt = false;
    w.drain(cat);
    w.order(Action::Purge { room: room(LOBBY) });
    let read = w.log.queues.get_mut(&room(LOBBY)).unwrap().pop_front().unwrap();
    w.log.work_ahead(&room(LOBBY));
    w.log.ask(read);
    w.log.read_ahead(&room(LOBBY));
    let page = w.log.pages.pop_front().unwrap();
    w.input(Input::Log(page));
    assert_eq!(w.seen(cat), ["error unrecoverable", "joined lobby 150 of 4"]);
    w.settle();
    assert_eq!(w.seen(cat), ["lobby 151 purges"]);
}

#[test]
fn acks_that_wait_in_a_backlog_are_not_lost_with_a_purge() {
    let (mut w, _, ann, _) = world();
    for n in 1..=150 {
        w.message(ann, LOBBY, &n.to_string(), None);
    }
    w.fast = false;
    let tab = resuming(&mut w, "ann", 0);
    w.message(tab, LOBBY, "mine", None);
    w.take(tab);
    w.ordered(Action::Purge { room: room(LOBBY) }).unwrap();
    w.drain(tab);
    assert_eq!(w.seen(tab), ["lobby 152 purges", "ack lobby 151"], "no number comes before what explains it");
}

// Closing a room.

#[test]
fn closing_a_room_puts_everybody_out() {
    let (mut w, boss, ann, bob) = world();
    let gone = w.user("gone");
    w.join(ann, "b", 0);
    w.join(boss, "b", 0);
    w.join(gone, "b", 0);
    w.drop_conn(gone, false);
    w.message(ann, "b", "x", None);
    w.forget_inboxes();
    let close = Action::CloseRoom { room: room("b"), reason: "over".into() };
    assert_eq!(w.ordered(close.clone()), Ok(Outcome::Emptied { conns: 2 }));
    let [frame] = &w.take(ann)[..] else { panic!("more than one frame") };
    assert!(matches!(frame, ServerFrame::Left { re: 0, reason: Some(reason), .. } if reason == "over"), "{frame:?}");
    assert_eq!((w.seen(boss), w.seen(bob)), (vec!["left b".to_owned()], vec![]), "and no word of who went");
    w.message(ann, "b", "y", None);
    assert_eq!(w.seen(ann), ["error not_joined"]);
    let row = w.hub.room(&room("b")).unwrap();
    assert_eq!((row.members, row.online), (0, 0), "also one who was waited for");
    w.advance(60 * SECOND);
    assert!(w.hub.room(&room("b")).is_none());
    assert_eq!(w.ordered(close), Err(ActionError::NoSuchRoom(room("b"))));
    w.forget_inboxes();
    w.join(ann, "b", 9);
    assert_eq!(w.seen(ann), ["joined b 1 of 1", "b 1 ann: x"], "its history stays");
}

#[test]
fn closing_a_default_room_keeps_it_open() {
    let (mut w, _, ann, _) = world();
    let text = w.connect(Dialect::Text);
    w.message(ann, LOBBY, "x", None);
    let close = Action::CloseRoom { room: room(LOBBY), reason: String::new() };
    assert_eq!(w.ordered(close), Ok(Outcome::Emptied { conns: 4 }));
    w.advance(1000 * SECOND);
    assert_eq!(w.hub.room(&room(LOBBY)).unwrap().members, 0);
    w.input(Input::Text { conn: text, text: "hello?".into() });
    assert_eq!(w.hub.room(&room(LOBBY)).unwrap().members, 1, "one who knows only text comes back by speaking");
}

#[test]
fn closing_a_room_ends_what_is_under_way_in_it() {
    let (mut w, boss, ann, bob) = world();
    w.message(ann, LOBBY, "x", None);
    w.prompt = false;
    w.join(bob, "b", 0);
    w.message(bob, "b", "early", None);
    w.say(ann, ClientFrame::History { room: room(LOBBY), range: HistoryRange::Latest, limit: 9 });
    w.message(boss, LOBBY, "y", None);
    w.forget_inboxes();
    for name in [LOBBY, "b"] {
        w.order(Action::CloseRoom { room: room(name), reason: "over".into() });
    }
    assert_eq!(w.seen(ann), ["left lobby", "error not_joined"]);
    assert_eq!(w.seen(bob), ["left lobby", "error forbidden", "error forbidden"]);
    w.settle();
    assert_eq!(w.seen(boss), ["left lobby", "ack lobby 2"], "what is on its way is kept");
    assert!(w.hub.room(&room("b")).is_none());
}

// Muting.

#[test]
fn a_muted_user_is_told_and_cannot_speak_in_the_room() {
    let (mut w, boss, ann, bob) = world();
    let elsewhere = w.user("ann");
    w.leave(elsewhere, LOBBY);
    w.join(ann, "b", 0);
    w.forget_inboxes();
    mute(&mut w, boss, "ann", Some(60 * SECOND));
    assert_eq!((w.seen(boss), w.seen(ann)), (vec!["ack".to_owned()], vec!["muted lobby".to_owned()]));
    assert_eq!(w.seen(elsewhere), ["muted lobby"], "all of its connections");
    w.advance(20 * SECOND);
    w.message(ann, LOBBY, "x", None);
    let frames = w.take(ann);
    let told = error(&frames[0]);
    assert_eq!((told.code, told.retry, told.is_temporary()), (ErrorCode::Muted, Some(40 * SECOND), true));
    assert_eq!(told.message, "you are muted in room lobby until 1970-01-01T00:17:40Z: spam");
    w.say(ann, ClientFrame::Typing { room: room(LOBBY), on: true });
    w.message(ann, "b", "elsewhere", None);
    let to = MessageTo::User(user("bob"));
    w.say(ann, ClientFrame::Message { to, text: "psst".into(), cid: None });
    assert_eq!(w.seen(ann), ["ack b 1", "ack delivered 1"]);
    assert_eq!(w.seen(bob), ["direct ann: psst"]);
    w.advance(40 * SECOND);
    w.message(ann, LOBBY, "y", None);
    assert_eq!(w.seen(ann), ["ack lobby 1"]);
}

#[test]
fn who_comes_in_muted_is_told_and_says_nothing_by_its_nick_either() {
    let (mut w, boss, ann, bob) = world();
    mute(&mut w, boss, "bob", Some(60 * SECOND));
    w.drop_conn(bob, true);
    w.forget_inboxes();
    let bob = w.connect(Dialect::Json);
    w.hello(bob, Hello { identity: named("bob", None), nick: Some("bob".into()), ..Hello::default() });
    assert_eq!(w.seen(bob), ["welcome bob", "joined lobby 0 of 3", "muted lobby"]);
    w.forget_inboxes();
    w.say(bob, ClientFrame::Nick { nick: "buy at example".into() });
    assert_eq!((w.seen(bob), w.seen(ann)), (vec!["error muted".to_owned()], vec![]));
    w.advance(60 * SECOND);
    w.say(bob, ClientFrame::Nick { nick: "Bobby".into() });
    assert_eq!((w.seen(bob), w.seen(ann)), (vec!["ack".to_owned()], vec!["nick lobby Bobby of 3".to_owned()]));
}

#[test]
fn a_mute_without_end_is_no_temporary_matter_and_is_ended_by_a_moderator() {
    let (mut w, boss, ann, _) = world();
    mute(&mut w, boss, "ann", None);
    w.forget_inboxes();
    w.message(ann, LOBBY, "x", None);
    let frames = w.take(ann);
    assert_eq!((error(&frames[0]).retry, error(&frames[0]).is_temporary()), (None, false));
    unmute(&mut w, boss, "ann");
    assert_eq!((w.seen(boss), w.seen(ann)), (vec!["ack".to_owned()], vec!["unmuted lobby".to_owned()]));
    w.message(ann, LOBBY, "x", None);
    assert_eq!(w.seen(ann), ["ack lobby 1"]);
    unmute(&mut w, boss, "ann");
    assert_eq!(w.seen(boss)[1..], ["error bad_request"]);
    mute(&mut w, boss, "nobody", Some(Duration::MAX));
    assert_eq!(w.seen(boss), ["ack"], "one who is not here, for longer than there are dates");
    assert_eq!(w.hub.sanctions(w.wall()).next().unwrap().until, None);
}

#[test]
fn only_moderators_moderate_and_not_each_other() {
    let (mut w, boss, ann, bob) = world();
    let other = w.bearer(moderator("other"));
    w.forget_inboxes();
    mute(&mut w, ann, "bob", None);
    unmute(&mut w, ann, "bob");
    assert_eq!(w.seen(ann), ["error forbidden", "error forbidden"]);
    mute(&mut w, boss, "other", None);
    mute(&mut w, boss, "mod", None);
    w.leave(boss, LOBBY);
    mute(&mut w, boss, "ann", None);
    unmute(&mut w, boss, "ann");
    assert_eq!(
        w.seen(boss),
        ["error forbidden", "error forbidden", "left lobby", "error not_joined", "error not_joined"]
    );
    assert!(w.seen(other).iter().chain(&w.seen(bob)).all(|line| !line.starts_with("muted")));
    assert_eq!(w.hub.sanctions(w.wall()).count(), 0);
    // A moderator by another token of the same user is none on this connection.
    let plain = w.bearer(claims("mod", Some("mod")));
    w.forget_inboxes();
    mute(&mut w, plain, "ann", None);
    assert_eq!(w.seen(plain), ["error forbidden"]);
}

#[test]
fn an_operators_mute_holds_everywhere_and_no_moderator_ends_it() {
    let (mut w, boss, ann, _) = world();
    let action = Action::Mute { user: user("ann"), room: None, until: None, reason: "spam".into() };
    let Ok(Outcome::Sanctioned { sanction, conns }) = w.ordered(action) else { panic!("not muted") };
    assert_eq!((conns, sanction.by.as_str()), (vec![ann], "operator"));
    assert_eq!(w.seen(ann), ["muted everywhere"]);
    let to = MessageTo::User(user("bob"));
    w.say(ann, ClientFrame::Message { to, text: "psst".into(), cid: None });
    w.message(ann, LOBBY, "x", None);
    assert_eq!(w.seen(ann), ["error muted", "error muted"]);
    unmute(&mut w, boss, "ann");
    assert_eq!(w.seen(boss), ["error forbidden"]);
    let change = |kind| Action::Amend { kind, id: sanction.id, until: None, reason: Some("still spam".into()) };
    let no_ban = ActionError::NoSuchSanction { kind: SanctionKind::Ban, id: sanction.id };
    assert_eq!(w.ordered(change(SanctionKind::Ban)), Err(no_ban), "a mute's number is no ban's");
    let Ok(Outcome::Amended { sanction }) = w.ordered(change(SanctionKind::Mute)) else { panic!("not changed") };
    assert_eq!((sanction.reason.as_str(), sanction.until, sanction.by.as_str()), ("still spam", None, "operator"));
    assert_eq!(w.seen(ann), ["muted everywhere"], "who is muted is told of the change");
    let lift = Action::Lift { kind: SanctionKind::Mute, id: sanction.id };
    assert_eq!(w.ordered(lift.clone()), Ok(Outcome::Lifted { sanction: sanction.clone() }));
    assert_eq!(w.seen(ann), ["unmuted everywhere"]);
    assert_eq!(w.ordered(lift), Err(ActionError::NoSuchSanction { kind: SanctionKind::Mute, id: sanction.id }));
    w.message(ann, LOBBY, "x", None);
    assert_eq!(w.seen(ann), ["ack lobby 1"]);
}

#[test]
fn what_was_kept_before_a_mute_is_acknowledged_again_and_may_be_deleted() {
    let (mut w, boss, ann, _) = world();
    w.message(ann, LOBBY, "x", Some("c"));
    mute(&mut w, boss, "ann", None);
    w.forget_inboxes();
    w.message(ann, LOBBY, "x", Some("c"));
    w.message(ann, LOBBY, "x", Some("d"));
    delete(&mut w, ann, 1);
    assert_eq!(w.seen(ann), ["ack lobby 1", "error muted", "ack lobby 2"]);
}

// The book is saved.

#[test]
fn a_mute_is_in_force_at_once_and_acknowledged_when_it_is_saved() {
    let (mut w, boss, ann, _) = world();
    w.prompt = false;
    let first = mute(&mut w, boss, "ann", None);
    let id = w.order(Action::Mute { user: user("bob"), room: None, until: None, reason: String::new() });
    w.message(ann, LOBBY, "x", None);
    assert_eq!(w.seen(ann), ["muted lobby", "error muted"]);
    assert!(w.seen(boss).is_empty() && w.moderated.is_empty());
    w.input(Input::SanctionsSaved { version: 1, result: Ok(()) });
    assert!(matches!(&w.take(boss)[..], [ServerFrame::Ack { re, .. }] if *re == first));
    assert!(w.moderated.is_empty());
    w.save(false);
    assert!(matches!(&w.moderated[&id], Ok(Outcome::Sanctioned { .. })));
    assert_eq!(w.saved.len(), 2);
}

#[test]
fn what_could_not_be_saved_is_in_force_and_said_to_be_so() {
    let (mut w, boss, ann, _) = world();
    w.prompt = false;
    mute(&mut w, boss, "ann", None);
    let id = w.order(Action::Mute { user: user("bob"), room: None, until: None, reason: String::new() });
    w.save(true);
    let frames = w.take(boss);
    let told = error(&frames[0]);
    assert!(told.code == ErrorCode::Internal && told.message.contains("in force"), "{told:?}");
    assert!(!told.message.contains("disk"), "what is wrong inside is not for clients");
    assert_eq!(w.moderated[&id], Err(ActionError::NotSaved("the disk is full".into())));
    w.message(ann, LOBBY, "x", None);
    assert_eq!(w.seen(ann), ["muted lobby", "error muted"]);
    mute(&mut w, boss, "ann", None);
    w.drop_conn(boss, true);
    w.save(false);
    assert_eq!(w.saved.len(), 2, "the next time all are saved");
    assert!(w.hub.sanctions(w.wall()).all(|sanction| matches!(sanction.measure, Measure::Mute { .. })));
}

#[test]
fn who_muted_is_written_down() {
    let (mut w, boss, _, _) = world();
    mute(&mut w, boss, "ann", None);
    assert_eq!(w.saved[0].by, "mod (mod)");
    assert!(matches!(w.happened.last(), Some(Happening::Sanctioned { by: By::Client { .. }, .. })));
}

#[test]
fn moderators_leave_room_for_operators() {
    let (mut w, boss, _, _) = world();
    w.watchful = false;
    for n in 0..5001 {
        let reason = String::new();
        w.say(boss, ClientFrame::Mute { room: room(LOBBY), user: user(&format!("u{n}")), lasts: None, reason });
        w.peers.get_mut(&boss).unwrap().inbox.retain(|frame| matches!(frame, ServerFrame::Error(_)));
    }
    assert_eq!(w.seen(boss), ["error unavailable"]);
    mute(&mut w, boss, "u7", None);
    assert_eq!(w.seen(boss), ["ack"], "one that is there already may be changed");
    let action = Action::Mute { user: user("x"), room: None, until: None, reason: String::new() };
    assert!(w.ordered(action).is_ok());
}

#[test]
fn mutes_wait_for_the_disk_in_bounded_number() {
    let (mut w, boss, _, _) = world();
    w.prompt = false;
    for _ in 0..1025 {
        mute(&mut w, boss, "ann", None);
    }
    assert_eq!(w.seen(boss), ["error unavailable"]);
    w.save(false);
    assert_eq!(w.seen(boss).len(), 1024);
}

// After the daemon has been started anew.

#[test]
fn a_cid_and_a_mute_survive_a_restart() {
    let (mut w, boss, ann, _) = world();
    w.message(ann, LOBBY, "x", Some("c"));
    mute(&mut w, boss, "bob", Some(3600 * SECOND));
    w.restart(3 * SECOND, 7);
    let (ann, bob) = (w.user("ann"), w.user("bob"));
    w.forget_inboxes();
    w.message(ann, LOBBY, "x", Some("c"));
    w.message(ann, LOBBY, "x", Some("d"));
    assert_eq!(w.seen(ann), ["ack lobby 1", "ack lobby 2"]);
    w.message(bob, LOBBY, "x", None);
    assert_eq!(w.seen(bob).pop().unwrap(), "error muted");
    w.advance(597 * SECOND - Duration::from_millis(1));
    w.message(ann, LOBBY, "x", Some("c"));
    w.advance(Duration::from_millis(1));
    w.message(ann, LOBBY, "x", Some("c"));
    assert_eq!(w.seen(ann), ["ack lobby 1", "ack lobby 3"], "ten minutes by the day's clock, the pause with them");
}
