//! What a token allows, names and ends; who is banned.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use super::super::event::*;
use super::super::id::{ConnId, Nick, UserId};
use super::super::sanction::BanTarget;
use super::world::{World, claims, globs, moderator, named, room};

const SECOND: Duration = Duration::from_secs(1);

fn world() -> World {
    World::new(Settings::default())
}

fn user(user: &str) -> UserId {
    UserId::parse(user).unwrap()
}

fn error_with(frames: &[ServerFrame], word: &str) -> bool {
    frames.iter().any(|frame| matches!(frame, ServerFrame::Error(error) if error.message.contains(word)))
}

fn bounded(who: &str, rooms: &[&str]) -> Claims {
    Claims { rooms: globs(rooms), ..claims(who, Some(who)) }
}

#[test]
fn a_token_lets_into_its_rooms_alone() {
    let mut w = world();
    let ann = w.bearer(bounded("ann", &["lob*", "team-?"]));
    assert_eq!(w.seen(ann), ["welcome ann", "joined lobby 0 of 1"]);
    w.join(ann, "team-1", 0);
    w.join(ann, "team-12", 0);
    let frames = w.take(ann);
    assert!(matches!(&frames[0], ServerFrame::Joined(_)));
    let ServerFrame::Error(error) = &frames[1] else { panic!("{frames:?}") };
    assert_eq!((error.code, error.is_temporary()), (ErrorCode::Forbidden, false));
    assert!(error.message.contains("team-12"), "{}", error.message);
    assert!(w.hub.room(&room("team-12")).is_none(), "it is not even opened");
}

#[test]
fn rooms_that_a_hello_names_are_refused_one_by_one_and_default_ones_silently() {
    let mut w = world();
    let rooms = Some(vec![room("a"), room("b")]);
    let ann = w.connect(Dialect::Json);
    let identity = Identity::User(Box::new(bounded("ann", &["b"])));
    w.hello(ann, Hello { identity: identity.clone(), rooms, ..Hello::default() });
    assert_eq!(w.seen(ann), ["welcome ann", "error forbidden", "joined b 0 of 1"]);
    let tab = w.connect(Dialect::Json);
    w.hello(tab, Hello { identity, ..Hello::default() });
    assert_eq!(w.seen(tab), ["welcome ann"], "the lobby is nobody's fault");
    w.say(tab, ClientFrame::Message { to: MessageTo::DefaultRoom, text: "x".into(), cid: None });
    assert_eq!(w.seen(tab), ["error not_joined"]);
}

#[test]
fn a_room_that_is_not_allowed_is_not_resumed() {
    let mut w = world();
    let bob = w.user("bob");
    for name in ["a", "b"] {
        w.join(bob, name, 0);
        w.message(bob, name, "x", None);
    }
    let cursor = |name: &str, epoch: &str| (room(name), Cursor { epoch: epoch.into(), seq: 0 });
    let ann = w.connect(Dialect::Json);
    let identity = Identity::User(Box::new(bounded("ann", &["b"])));
    let resume = vec![cursor("a", "e2"), cursor("b", "e3"), cursor("new", "e1")];
    w.hello(ann, Hello { identity, rooms: Some(vec![]), resume, ..Hello::default() });
    let expected = ["welcome ann", "error forbidden", "joined b 1 recovered of 2", "b 1 bob: x", "error forbidden"];
    let mut seen = w.seen(ann);
    seen[1..].sort();
    let mut sorted = expected;
    sorted[1..].sort_unstable();
    assert_eq!(seen, sorted, "and not all was resumed");
    assert!(w.hub.room(&room("new")).is_none());
    // All that it asks for could be recovered, were it allowed.
    let tab = w.connect(Dialect::Json);
    let identity = Identity::User(Box::new(bounded("ann", &["b"])));
    let resume = vec![cursor("a", "e2"), cursor("b", "e3")];
    w.hello(tab, Hello { identity, rooms: Some(vec![]), resume, ..Hello::default() });
    assert_eq!(w.seen(tab)[0], "welcome ann");
}

#[test]
fn a_text_client_is_in_the_first_default_room_that_it_may_be_in() {
    let default_rooms = vec![room("a"), room("b")];
    let mut w = World::new(Settings { default_rooms, ..Settings::default() });
    let bob = w.user("bob");
    let addr = IpAddr::from([192, 0, 2, 1]);
    let admission = |rooms: &[&str]| Ok(Identity::User(Box::new(bounded("ann", rooms))));
    let ann = w.connect_as(Dialect::Text, addr, admission(&["b", "c"]));
    assert_eq!(w.seen(ann), ["welcome ann", "joined b 0 of 2"]);
    w.input(Input::Text { conn: ann, text: "hi".into() });
    assert_eq!(w.seen(bob).pop().unwrap(), "b 1 ann: hi");
    w.drop_conn(ann, true);
    let ann = w.connect_as(Dialect::Text, addr, admission(&["c"]));
    w.input(Input::Text { conn: ann, text: "hi".into() });
    assert_eq!(w.seen(ann), ["welcome ann", "error not_joined"]);
}

#[test]
fn the_welcome_and_operators_know_a_moderator() {
    let mut w = world();
    let (ann, bob) = (w.bearer(moderator("ann")), w.user("bob"));
    let moderates = |w: &mut World, conn| match &w.take(conn)[0] {
        ServerFrame::Welcome(welcome) => welcome.moderator,
        other => panic!("{other:?}"),
    };
    assert!(moderates(&mut w, ann) && !moderates(&mut w, bob));
    let row = w.hub.client(ann).unwrap();
    assert_eq!((row.moderator, row.token_exp), (true, Some(claims("x", None).expires)));
    let guest = w.client("Cat");
    let row = w.hub.client(guest).unwrap();
    assert_eq!((row.moderator, row.token_exp), (false, None));
}

// Names.

#[test]
fn the_site_names_its_user() {
    let mut w = world();
    let conn = w.connect(Dialect::Json);
    let identity = named("u", Some("Named"));
    w.hello(conn, Hello { identity: identity.clone(), ..Hello::default() });
    assert_eq!(w.seen(conn)[0], "welcome Named");
    let tab = w.connect(Dialect::Json);
    w.hello(tab, Hello { identity: identity.clone(), nick: Some("Chosen".into()), ..Hello::default() });
    assert_eq!(w.seen(tab)[..2], ["error forbidden", "welcome Named"]);
    w.say(tab, ClientFrame::Nick { nick: "Chosen".into() });
    w.say(tab, ClientFrame::Nick { nick: "Named".into() });
    assert_eq!(w.seen(tab), ["error forbidden", "ack"], "its own name it may say");
    let same = w.connect(Dialect::Json);
    w.hello(same, Hello { identity, nick: Some("Named".into()), ..Hello::default() });
    assert_eq!(w.seen(same)[0], "welcome Named");
    // A token without a name does not free the user of it while it is here.
    let other = w.connect(Dialect::Json);
    w.hello(other, Hello { identity: named("u", None), nick: Some("Chosen".into()), ..Hello::default() });
    assert_eq!(w.seen(other)[..2], ["error forbidden", "welcome Named"]);
}

#[test]
fn a_user_without_a_name_of_the_site_may_choose_and_is_called_by_its_id() {
    let mut w = world();
    let ann = w.bearer(claims("ann", None));
    assert_eq!(w.seen(ann)[0], "welcome ann");
    w.say(ann, ClientFrame::Nick { nick: "Chosen".into() });
    assert_eq!(w.seen(ann), ["ack"]);
    let (taken, long) = (w.bearer(claims("CHOSEN", None)), w.bearer(claims(&"x".repeat(100), None)));
    assert_eq!(w.seen(taken)[0], "welcome CHOSEN-2");
    assert!(w.seen(long)[0].starts_with("welcome guest-"));
}

#[test]
fn a_name_given_by_the_site_is_taken_from_who_merely_chose_it() {
    let mut w = world();
    let (guest, bob, gone) = (w.client("Ann"), w.client("Bob"), w.client("Cat"));
    w.drop_conn(gone, false);
    w.forget_inboxes();
    let ann = w.bearer(claims("u1", Some("ANN")));
    assert_eq!(w.seen(ann)[0], "welcome ANN");
    assert_eq!(w.seen(guest), ["nick lobby ANN-2 of 3", "join lobby ANN of 4"], "the guest itself is told");
    assert_eq!(w.seen(bob), ["nick lobby ANN-2 of 3", "join lobby ANN of 4"]);
    let cat = w.bearer(claims("u2", Some("Cat")));
    assert_eq!(w.seen(cat)[0], "welcome Cat", "also from one who is only waited for");
    assert_eq!(w.hub.client(guest).unwrap().nick.unwrap().as_str(), "ANN-2");
}

#[test]
fn a_guest_in_a_large_room_is_told_of_its_new_name_as_well() {
    let mut w = World::new(Settings { presence_limit: 1, ..Settings::default() });
    let (guest, bob) = (w.client("Ann"), w.client("Bob"));
    w.forget_inboxes();
    w.bearer(claims("u1", Some("Ann")));
    assert_eq!(w.seen(guest)[0], "nick lobby Ann-2 of 2");
    assert!(w.seen(bob).iter().all(|line| !line.starts_with("nick")));
}

#[test]
fn two_users_with_one_name_of_the_site_are_told_apart() {
    let mut w = world();
    let (one, two) = (w.bearer(claims("u1", Some("Ann"))), w.bearer(claims("u2", Some("Ann"))));
    assert_eq!((w.seen(one)[0].as_str(), w.seen(two)[0].as_str()), ("welcome Ann", "welcome Ann-2"));
    let tab = w.bearer(claims("u2", Some("Ann")));
    assert_eq!(w.seen(tab)[0], "welcome Ann-2", "and stay so");
    w.drop_conn(one, true);
    w.forget_inboxes();
    let tab = w.bearer(claims("u2", Some("Ann")));
    assert_eq!(w.seen(tab)[0], "welcome Ann", "until the name is free");
    assert_eq!(w.seen(two), ["nick lobby Ann of 1"]);
    let renamed = w.bearer(claims("u2", Some("Bea")));
    assert_eq!(w.seen(renamed)[0], "welcome Bea", "the site may think of another");
}

// The end of a token.

fn ending(who: &str, expires: SystemTime) -> Claims {
    Claims { expires, ..claims(who, Some(who)) }
}

fn closed(w: &World, conn: ConnId) -> Option<u16> {
    w.peers[&conn].closed.as_ref().map(|close| close.code)
}

#[test]
fn a_connection_ends_with_its_token() {
    let mut w = world();
    let bob = w.user("bob");
    let ann = w.bearer(ending("ann", w.wall() + 90 * 60 * SECOND));
    w.advance(90 * 60 * SECOND - Duration::from_millis(1));
    w.message(ann, "lobby", "x", None);
    assert_eq!(closed(&w, ann), None);
    w.forget_inboxes();
    w.advance(Duration::from_millis(1));
    assert_eq!(closed(&w, ann), Some(Close::TOKEN_EXPIRED));
    w.message(ann, "lobby", "too late", None);
    assert!(w.seen(ann).is_empty() && w.seen(bob).is_empty());
    assert_eq!(w.hub.client(ann).unwrap().user.unwrap().as_str(), "ann", "operators still see whose it was");
    w.drop_conn(ann, true);
    let back = w.user("ann");
    assert!(w.seen(bob).is_empty(), "with a new token in time, nobody has noticed");
    assert_eq!(w.seen(back), ["welcome ann", "joined lobby 1 of 2"]);
}

#[test]
fn a_token_that_has_ended_or_has_no_end_in_sight() {
    let mut w = world();
    let far = SystemTime::UNIX_EPOCH + Duration::from_secs(i64::MAX as u64);
    for (expires, open) in [(w.wall(), false), (SystemTime::UNIX_EPOCH, false), (w.wall() + SECOND, true), (far, true)]
    {
        for dialect in [Dialect::Json, Dialect::Text] {
            let identity = Identity::User(Box::new(ending("ann", expires)));
            let conn = w.connect_as(dialect, IpAddr::from([192, 0, 2, 1]), Ok(identity.clone()));
            if dialect == Dialect::Json {
                w.hello(conn, Hello { identity, ..Hello::default() });
            }
            assert_eq!(closed(&w, conn).is_none(), open, "{expires:?}");
            assert_eq!(w.seen(conn).is_empty(), !open);
            w.drop_conn(conn, true);
        }
    }
    assert_eq!(w.hub.next_deadline(), None);
}

#[test]
fn a_clock_that_is_set_back_gives_a_token_its_time() {
    let mut w = world();
    let ann = w.bearer(ending("ann", w.wall() + 60 * SECOND));
    w.born = Duration::ZERO;
    w.mono += 59 * SECOND;
    // The day's clock now goes ten seconds after the other.
    w.mono += SECOND;
    let now = Now { mono: w.mono, wall: w.wall() - 10 * SECOND };
    let mut out = Vec::new();
    w.hub.handle(Input::Timer, now, &mut out);
    assert!(out.is_empty(), "{out:?}");
    assert_eq!(w.hub.next_deadline(), Some(w.mono + 10 * SECOND));
    assert_eq!(closed(&w, ann), None);
}

// Bans.

fn ban(w: &mut World, target: BanTarget, until: Option<SystemTime>, reason: &str) -> Vec<ConnId> {
    match w.ordered(Action::Ban { target, until, reason: reason.to_owned() }) {
        Ok(Outcome::Sanctioned { conns, .. }) => conns,
        other => panic!("{other:?}"),
    }
}

fn net(text: &str) -> BanTarget {
    BanTarget::Net(text.parse().unwrap())
}

#[test]
fn a_banned_address_is_closed_and_told_why() {
    let mut w = world();
    let at = |last| IpAddr::from([192, 0, 2, last]);
    let [inside, new] = [1, 2].map(|n| w.connect_as(Dialect::Json, at(n), Ok(Identity::NewGuest)));
    w.hello(inside, Hello::default());
    let outside = w.client("Ann");
    let until = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_255_200);
    assert_eq!(ban(&mut w, net("192.0.2.0/24"), Some(until), "spam"), [inside, new]);
    assert_eq!((closed(&w, inside), closed(&w, outside)), (None, None), "that is for who asked");
    w.happened.clear();
    for dialect in [Dialect::Json, Dialect::Text] {
        let conn = w.connect_as(dialect, at(9), Ok(Identity::NewGuest));
        let close = w.peers[&conn].closed.clone().unwrap();
        assert_eq!((close.code, close.reason.as_str()), (4004, "banned until 2026-11-21T10:00:00Z: spam"));
        assert!(matches!(w.happened.pop(), Some(Happening::Refused { .. })));
        w.hello(conn, Hello::default());
        w.input(Input::Text { conn, text: "x".into() });
        assert!(w.seen(conn).is_empty());
    }
    w.hello(new, Hello::default());
    assert_eq!(closed(&w, new), Some(4004), "one that was connected before and says hello now");
    // The same address as a listener for both protocols tells it.
    let mapped = w.connect_as(Dialect::Json, "::ffff:192.0.2.7".parse().unwrap(), Ok(Identity::NewGuest));
    assert_eq!(closed(&w, mapped), Some(4004));
}

#[test]
fn a_banned_user_is_closed_at_hello_and_its_connections_are_named() {
    let mut w = world();
    let (ann, tab, bob) = (w.user("ann"), w.user("ann"), w.user("bob"));
    assert_eq!(ban(&mut w, BanTarget::User(user("ann")), None, &"é".repeat(100)), [ann, tab]);
    let back = w.user("ann");
    let close = w.peers[&back].closed.clone().unwrap();
    assert!(close.reason.starts_with("banned: é") && close.reason.len() == 123 - 1, "{}", close.reason.len());
    assert_eq!(closed(&w, bob), None);
    let guest = w.client("Guest");
    let id = w.hub.client(guest).unwrap().user.unwrap().as_str().strip_prefix("guest-").unwrap().to_owned();
    let until = w.wall() + SECOND;
    ban(&mut w, BanTarget::User(UserId::guest(&id)), Some(until), "");
    let hello = || Hello { identity: Identity::Guest(id.clone()), ..Hello::default() };
    let again = w.connect(Dialect::Json);
    w.hello(again, hello());
    assert_eq!(closed(&w, again), Some(4004));
    w.advance(SECOND);
    let again = w.connect(Dialect::Json);
    w.hello(again, hello());
    assert_eq!(closed(&w, again), None, "until it ends");
}

#[test]
fn one_who_is_banned_opens_no_rooms() {
    let mut w = world();
    ban(&mut w, BanTarget::User(user("ann")), None, "");
    w.prompt = false;
    let ann = w.connect(Dialect::Json);
    let resume = vec![(room("a"), Cursor { epoch: "e1".into(), seq: 3 })];
    w.hello(ann, Hello { identity: named("ann", None), resume, ..Hello::default() });
    assert_eq!(closed(&w, ann), Some(4004), "at once, not when the log has answered");
    assert_eq!(w.hub.rooms().count(), 0);
}

#[test]
fn a_ban_while_hello_is_being_answered_counts() {
    let mut w = world();
    w.prompt = false;
    let ann = w.connect(Dialect::Json);
    let resume = vec![(room("a"), Cursor { epoch: "e1".into(), seq: 3 })];
    w.hello(ann, Hello { identity: named("ann", None), resume, ..Hello::default() });
    w.order(Action::Ban { target: BanTarget::User(user("ann")), until: None, reason: String::new() });
    w.settle();
    assert_eq!(closed(&w, ann), Some(4004));
    assert!(w.seen(ann).is_empty());
    w.drop_conn(ann, true);
    w.save(false);
    w.settle();
    assert!(w.hub.is_empty());
}

#[test]
fn who_was_refused_before_hears_nothing_more() {
    let mut w = world();
    let close = Close { code: 4001, reason: "a valid token is needed".into() };
    for dialect in [Dialect::Json, Dialect::Text] {
        let conn = w.connect_as(dialect, IpAddr::from([192, 0, 2, 1]), Err(close.clone()));
        assert_eq!(w.peers[&conn].closed, Some(close.clone()));
        w.hello(conn, Hello::default());
        w.input(Input::Text { conn, text: "x".into() });
        assert!(w.seen(conn).is_empty());
    }
    assert!(w.hub.rooms().next().is_none());
}

#[test]
fn nicks_that_deceive_are_refused_by_name() {
    let mut w = world();
    let ann = w.client("Ann");
    w.forget_inboxes();
    w.say(ann, ClientFrame::Nick { nick: "B\u{3164}b".into() });
    w.say(ann, ClientFrame::Nick { nick: "系统通知".into() });
    let frames = w.take(ann);
    assert!(error_with(&frames[..1], "U+3164") && error_with(&frames[1..], "系统通知"), "{frames:?}");
    let other = w.client("ａｎｎ");
    assert_eq!(w.seen(other)[0], "error nick_taken");
    assert!(Nick::parse("System").is_err());
}

#[test]
fn a_hello_opens_no_more_rooms_than_it_may_be_in_and_none_that_are_forbidden() {
    let mut w = World::new(Settings { rooms_per_client: 3, ..Settings::default() });
    w.prompt = false;
    let conn = w.connect(Dialect::Json);
    let resume = |name: String| (room(&name), Cursor { epoch: "e1".into(), seq: 0 });
    let many = (0..10).map(|n| resume(format!("a{n}"))).chain([resume("forbidden".into())]).collect();
    let identity = Identity::User(Box::new(bounded("ann", &["a*"])));
    w.hello(conn, Hello { identity, rooms: Some(vec![]), resume: many, ..Hello::default() });
    let asked: Vec<String> = w.log.queues.keys().map(ToString::to_string).collect();
    assert_eq!(asked, ["a0", "a1", "a2"], "each is a question to the log, and may cost it a row");
    // The forbidden one stands first now, and takes nobody's place.
    let conn = w.connect(Dialect::Json);
    let two = ["b", "a9"].map(|name| resume(name.to_owned())).to_vec();
    let identity = Identity::User(Box::new(bounded("bob", &["a*"])));
    w.hello(conn, Hello { identity, rooms: Some(vec![]), resume: two, ..Hello::default() });
    assert!(w.log.queues.contains_key(&room("a9")) && !w.log.queues.contains_key(&room("b")));
}
