//! Hello, nicks, presence.

use std::time::Duration;

use super::super::event::*;
use super::super::id::ConnId;
use super::world::{World, claims, named, room};

fn world() -> World {
    World::new(Settings::default())
}

#[test]
fn a_taken_or_bad_nick_is_told_and_replaced() {
    let mut w = world();
    w.client("Ann");
    let second = w.client("ANN");
    assert_eq!(w.seen(second)[..2], ["error nick_taken", "welcome ANN-2"]);
    let third = w.client("a\u{202e}b");
    let seen = w.seen(third);
    assert_eq!(seen[0], "error nick_invalid");
    assert!(seen[1].starts_with("welcome guest-"), "{seen:?}");
}

#[test]
fn nicks_can_be_changed_and_the_rooms_hear_of_it() {
    let mut w = world();
    let (ann, bob) = (w.client("Ann"), w.client("Bob"));
    w.join(ann, "b", 0);
    w.join(bob, "b", 0);
    w.forget_inboxes();
    let nick = |w: &mut World, conn, nick: &str| w.say(conn, ClientFrame::Nick { nick: nick.to_owned() });
    nick(&mut w, ann, "BOB");
    nick(&mut w, ann, "");
    nick(&mut w, ann, "ann");
    nick(&mut w, ann, "Eve");
    assert_eq!(w.seen(ann), ["error nick_taken", "error nick_invalid", "ack", "ack"]);
    let heard = ["nick lobby ann of 2", "nick b ann of 2", "nick lobby Eve of 2", "nick b Eve of 2"];
    assert_eq!(w.seen(bob), heard);
    nick(&mut w, bob, "Ann");
    assert_eq!(w.seen(bob), ["ack"], "what was given up is free");
}

#[test]
fn many_tabs_are_one_presence() {
    let mut w = world();
    let (bob, ann) = (w.client("Bob"), w.user("ann"));
    w.forget_inboxes();
    let tab = w.user("ann");
    assert_eq!(w.seen(tab), ["welcome ann", "joined lobby 0 of 2"]);
    w.drop_conn(ann, true);
    assert!(w.seen(bob).is_empty());
    w.drop_conn(tab, true);
    assert_eq!(w.seen(bob), ["leave lobby ann of 1"]);
}

#[test]
fn a_guest_with_its_string_is_the_same_user() {
    let mut w = world();
    let ann = w.client("Ann");
    let guest = match &w.take(ann)[0] {
        ServerFrame::Welcome(welcome) => welcome.guest.clone().unwrap(),
        other => panic!("{other:?}"),
    };
    let user = w.hub.client(ann).unwrap().user.unwrap().clone();
    assert_eq!(user.as_str(), format!("guest-{guest}"));
    w.drop_conn(ann, false);
    let back = w.connect(Dialect::Json);
    w.hello(back, Hello { identity: Identity::Guest(guest), ..Hello::default() });
    assert_eq!(w.hub.client(back).unwrap().user, Some(&user));
    assert_eq!(w.seen(back)[0], "welcome Ann", "and keeps the nick");
}

#[test]
fn a_drop_is_not_noticed_when_the_user_returns_in_time() {
    let mut w = world();
    let (bob, ann) = (w.client("Bob"), w.user("ann"));
    w.forget_inboxes();
    w.drop_conn(ann, false);
    w.advance(Duration::from_secs(14));
    let back = w.user("ann");
    w.advance(Duration::from_secs(100));
    assert!(w.seen(bob).is_empty());
    assert_eq!(w.seen(back), ["welcome ann", "joined lobby 0 of 2"]);
    w.drop_conn(back, false);
    w.advance(Duration::from_millis(14_999));
    assert!(w.seen(bob).is_empty());
    w.advance(Duration::from_millis(1));
    assert_eq!(w.seen(bob), ["leave lobby ann of 1"]);
    let other = w.client("Ann");
    assert_eq!(w.seen(other)[0], "welcome Ann", "the nick is free again");
}

#[test]
fn a_new_nick_is_heard_also_where_the_user_is_only_waited_for() {
    let mut w = world();
    let (bob, ann) = (w.client("Bob"), w.bearer(claims("ann", None)));
    w.join(ann, "b", 0);
    w.join(bob, "b", 0);
    w.drop_conn(ann, false);
    w.forget_inboxes();
    let back = w.connect(Dialect::Json);
    let identity = named("ann", None);
    w.hello(back, Hello { identity, nick: Some("Eve".into()), rooms: Some(vec![]), ..Hello::default() });
    assert_eq!(w.seen(bob), ["nick lobby Eve of 2", "nick b Eve of 2"]);
    w.advance(Duration::from_secs(15));
    assert_eq!(w.seen(bob), ["leave lobby Eve of 1", "leave b Eve of 1"]);
}

#[test]
fn large_rooms_are_told_the_number_once_a_second() {
    let mut w = World::new(Settings { presence_limit: 3, ..Settings::default() });
    let first = w.client("n0");
    let others: Vec<ConnId> = (1..30).map(|n| w.client(&format!("n{n}"))).collect();
    let seen = w.seen(first);
    assert_eq!(seen[2..], ["join lobby n1 of 2", "join lobby n2 of 3", "online lobby 4"]);
    assert_eq!(w.seen(others[28]), ["welcome n29", "joined lobby 0 of 30"]);
    w.advance(Duration::from_secs(1));
    assert_eq!(w.seen(first), ["online lobby 30"]);
    w.advance(Duration::from_secs(60));
    assert!(w.seen(first).is_empty(), "nothing has changed");
    w.say(first, ClientFrame::Nick { nick: "new".into() });
    w.say(first, ClientFrame::Who { room: room("lobby") });
    let seen = w.seen(first);
    assert!(seen[1].starts_with("who ") && seen[1].ends_with(" of 30"), "{seen:?}");
    assert!(w.seen(others[0]).iter().all(|line| line.starts_with("welcome") || !line.contains("new")));
}

#[test]
fn who_names_them_all() {
    let mut w = world();
    let ann = w.user("ann");
    w.user("bob");
    w.forget_inboxes();
    w.say(ann, ClientFrame::Who { room: room("lobby") });
    w.say(ann, ClientFrame::Who { room: room("other") });
    assert_eq!(w.seen(ann), ["who ann,bob of 2", "error not_joined"]);
}

#[test]
fn ids_come_from_the_seed_alone() {
    let guest = |seed| {
        let mut w = World::seeded(Settings::default(), seed);
        let conn = w.client("a");
        w.hub.client(conn).unwrap().user.unwrap().clone()
    };
    assert_eq!(guest(7), guest(7));
    assert_ne!(guest(7), guest(8));
    assert_eq!(guest(7).as_str().len(), "guest-".len() + 26);
}
