//! Somebody who chats through all the daemon's lives and believes nothing: every frame is held
//! against what it has seen before.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};

use crate::line::{Door, End, Line};
use crate::progress::{Progress, Step};

pub const ROOMS: [&str; 4] = ["lobby", "tea", "coffee", "茶馆"];
/// The last word in every room: who has heard it goes.
pub const FIN: &str = "fin";
/// New messages that a sender says on one connection; what comes after them is only read.
pub const SAYS: u64 = 150;
/// The most messages under way of one sender; they and one more fit into what the daemon holds
/// back for one who has not been welcomed yet.
const WINDOW: usize = 8;

/// A stored message as anyone sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Kept {
    pub id: String,
    pub user: String,
    pub cid: String,
    pub text: String,
}

/// What one client has seen of one room.
pub struct View {
    pub epoch: String,
    /// The room's head when it was first joined.
    pub base: u64,
    /// Everything since, without a hole.
    pub seen: Vec<Kept>,
}

impl View {
    pub fn cursor(&self) -> u64 {
        self.base + self.seen.len() as u64
    }

    /// What was seen under that number, where it was.
    fn at(&self, seq: u64) -> Option<&Kept> {
        self.seen.get(usize::try_from(seq.checked_sub(self.base + 1)?).ok()?)
    }
}

/// A message that is being said.
#[derive(Clone)]
struct Said {
    room: &'static str,
    cid: String,
    text: String,
    /// Its number on the present connection, once it has been sent there.
    re: Option<u64>,
}

/// What a message was acknowledged as, first and ever after.
#[derive(Clone)]
pub struct Acked {
    pub room: &'static str,
    pub seq: u64,
    pub kept: Kept,
    /// Its number on the present connection, where it was said again although it was acknowledged.
    re: Option<u64>,
}

pub struct Actor {
    name: String,
    sends: bool,
    rng: StdRng,
    door: Door,
    progress: Arc<Progress>,
    guest: Option<String>,
    user: String,
    pub views: BTreeMap<&'static str, View>,
    /// In the order in which it was first said.
    under_way: VecDeque<Said>,
    pub acked: Vec<Acked>,
    /// How many different messages it has said.
    pub said: u64,
    settled: bool,
}

/// One connection's own state.
struct Connection {
    line: Line,
    joined: usize,
    welcomed: bool,
    /// It speaks before it has been answered.
    eager: bool,
    /// New messages that it may still say.
    says: u64,
}

fn wrong<T>(what: impl Into<String>) -> Result<T, End> {
    Err(End::Wrong(what.into()))
}

impl Actor {
    pub fn new(name: String, sends: bool, seed: u64, door: Door, progress: Arc<Progress>) -> Self {
        Actor {
            name,
            sends,
            rng: StdRng::seed_from_u64(seed),
            door,
            progress,
            guest: None,
            user: String::new(),
            views: BTreeMap::new(),
            under_way: VecDeque::new(),
            acked: Vec::new(),
            said: 0,
            settled: false,
        }
    }

    /// Chats until the last word has been heard in every room; `None` once something is wrong, which
    /// the progress is told.
    pub fn run(mut self) -> Option<Self> {
        loop {
            match self.connection() {
                Ok(()) => return Some(self),
                Err(End::Gone) => {
                    // A reader may be away for long, so that it has many pages to catch up with.
                    if !self.sends && self.rng.random_ratio(1, 6) {
                        let back = self.progress.counted(Step::Acked) + self.rng.random_range(0..2500);
                        self.progress.sit_out(Step::Acked, back);
                    }
                }
                Err(End::Wrong(what)) => {
                    self.progress.wrong(format!("{}: {what}", self.name));
                    return None;
                }
            }
        }
    }

    /// One connection from its hello to its end.
    fn connection(&mut self) -> Result<(), End> {
        let mut line = Line::open(&self.door)?;
        let new: Vec<&str> = ROOMS.into_iter().filter(|room| !self.views.contains_key(room)).collect();
        let known = self.views.iter().map(|(room, view)| {
            let cursor = json!({"epoch": view.epoch, "seq": view.cursor()});
            ((*room).to_owned(), cursor)
        });
        let known: serde_json::Map<String, Value> = known.collect();
        let mut hello = json!({"v": 1, "nick": self.name, "rooms": new, "resume": {"rooms": known}});
        if let Some(guest) = &self.guest {
            hello["guest"] = json!(guest);
        }
        line.send("hello", &hello)?;
        self.progress.count(Step::Hello);

        for said in &mut self.under_way {
            said.re = None;
        }
        for acked in &mut self.acked {
            acked.re = None;
        }
        // Who does not know yet who it is could not say the same thing again as the same user.
        let eager = self.guest.is_some() && self.rng.random_bool(0.5);
        let mut connection = Connection { line, joined: 0, welcomed: false, eager, says: SAYS };
        let mut again = self.rng.random_bool(0.5);
        loop {
            if connection.eager || connection.joined == ROOMS.len() {
                if std::mem::take(&mut again) {
                    self.say_an_old_one(&mut connection)?;
                }
                self.speak(&mut connection)?;
            }
            if self.is_over(&connection) {
                return Ok(());
            }
            let frame = connection.line.next()?;
            self.take(&mut connection, frame)?;
            // Connections also break where no daemon dies.
            if self.rng.random_ratio(1, 3000) && !self.progress.ends() {
                return Err(End::Gone);
            }
        }
    }

    /// Everything is acknowledged, and the last word heard.
    fn is_over(&mut self, connection: &Connection) -> bool {
        if connection.joined < ROOMS.len() || !self.under_way.is_empty() || !self.progress.ends() {
            return false;
        }
        if !std::mem::replace(&mut self.settled, true) {
            self.progress.count(Step::Settled);
        }
        self.views.values().all(|view| view.seen.last().is_some_and(|kept| kept.text == FIN))
    }

    /// What is under way and has not been said on this connection, and then new ones.
    fn speak(&mut self, connection: &mut Connection) -> Result<(), End> {
        if !self.sends {
            return Ok(());
        }
        while self.under_way.len() < WINDOW && connection.says > 0 && !self.progress.ends() {
            connection.says -= 1;
            self.said += 1;
            let cid = format!("{}-{}", self.name, self.said);
            let text = format!("{cid} {}", "é".repeat(self.rng.random_range(0..200)));
            let room = ROOMS[self.rng.random_range(0..ROOMS.len())];
            self.under_way.push_back(Said { room, cid, text, re: None });
        }
        for said in self.under_way.iter_mut().filter(|said| said.re.is_none()) {
            let message = json!({"room": said.room, "text": said.text, "cid": said.cid});
            said.re = Some(connection.line.send("message", &message)?);
            self.progress.count(Step::Sent);
        }
        Ok(())
    }

    /// One that has been acknowledged: it must be acknowledged again as what it is.
    fn say_an_old_one(&mut self, connection: &mut Connection) -> Result<(), End> {
        let recent = self.acked.len().saturating_sub(100)..self.acked.len();
        if recent.is_empty() {
            return Ok(());
        }
        let old = &mut self.acked[self.rng.random_range(recent)];
        let message = json!({"room": old.room, "text": old.kept.text, "cid": old.kept.cid});
        old.re = Some(connection.line.send("message", &message)?);
        Ok(())
    }

    fn take(&mut self, connection: &mut Connection, frame: Value) -> Result<(), End> {
        let payload = &frame["payload"];
        match frame["type"].as_str() {
            Some("welcome") => {
                connection.welcomed = true;
                self.welcome(payload)
            }
            Some("joined") => {
                connection.joined += 1;
                self.joined(payload)
            }
            Some("message") => {
                let (room, seq) = (self.room_of(payload)?, frame["seq"].as_u64().unwrap_or(0));
                self.progress.count(Step::Heard);
                self.next(room, seq, kept(payload))
            }
            Some("ack") => {
                self.progress.count(Step::Acked);
                self.ack(payload)
            }
            Some("presence" | "bye") => Ok(()),
            _ => wrong(format!("unexpected {frame}")),
        }
    }

    fn room_of(&self, payload: &Value) -> Result<&'static str, End> {
        ROOMS.into_iter().find(|room| payload["room"] == **room).ok_or_else(|| End::Wrong(format!("room? {payload}")))
    }

    fn welcome(&mut self, welcome: &Value) -> Result<(), End> {
        self.progress.count(Step::Welcome);
        let user = welcome["user"].as_str().unwrap_or_default().to_owned();
        if self.guest.is_some() && user != self.user {
            return wrong(format!("it was {}, and now it is {user}", self.user));
        }
        self.user = user;
        self.guest = welcome["guest"].as_str().map(str::to_owned).or(self.guest.take());
        if welcome["resumed"] == self.views.is_empty() {
            return wrong(format!("{} rooms known, and {welcome}", self.views.len()));
        }
        Ok(())
    }

    fn joined(&mut self, joined: &Value) -> Result<(), End> {
        self.progress.count(Step::Joined);
        let room = self.room_of(joined)?;
        let (epoch, head) = (joined["epoch"].as_str().unwrap_or_default(), joined["seq"].as_u64().unwrap_or(0));
        match self.views.get(room) {
            None => {
                self.views.insert(room, View { epoch: epoch.to_owned(), base: head, seen: Vec::new() });
            }
            Some(view) => {
                if view.epoch != epoch || joined["recovered"] != true || head < view.cursor() {
                    return wrong(format!("of epoch {} {} were seen, and {joined}", view.epoch, view.cursor()));
                }
            }
        }
        Ok(())
    }

    /// The next of a room's stream, and no other.
    fn next(&mut self, room: &'static str, seq: u64, kept: Kept) -> Result<(), End> {
        let Some(view) = self.views.get_mut(room) else { return wrong(format!("not in {room}: {kept:?}")) };
        if seq != view.cursor() + 1 {
            return wrong(format!("after {room} {} came {seq}: {kept:?}", view.cursor()));
        }
        view.seen.push(kept);
        Ok(())
    }

    /// An ack stands in its message's place in the stream, unless the message has come already.
    fn ack(&mut self, ack: &Value) -> Result<(), End> {
        let (re, seq) = (ack["re"].as_u64(), ack["seq"].as_u64().unwrap_or(0));
        let id = ack["id"].as_str().unwrap_or_default().to_owned();
        if let Some(old) = self.acked.iter_mut().find(|acked| acked.re == re) {
            if old.seq != seq || old.kept.id != id || ack["room"] != old.room {
                return wrong(format!("{} was {} {}, and now {ack}", old.kept.cid, old.seq, old.kept.id));
            }
            return Ok(());
        }
        let Some(at) = self.under_way.iter().position(|said| said.re == re) else {
            return wrong(format!("nothing was said that {ack} could mean"));
        };
        let Said { room, cid, text, .. } = self.under_way.remove(at).expect("it was found there");
        if ack["room"] != room {
            return wrong(format!("{cid} was said in {room}: {ack}"));
        }
        let kept = Kept { id, user: self.user.clone(), cid, text };
        self.acked.push(Acked { room, seq, kept: kept.clone(), re: None });
        match self.views.get(room) {
            Some(view) if seq <= view.cursor() => match view.at(seq) {
                Some(seen) if *seen != kept => wrong(format!("{ack} is of {kept:?}, but there is {seen:?}")),
                _ => Ok(()),
            },
            _ => self.next(room, seq, kept),
        }
    }
}

/// A `message` of a room.
pub fn kept(payload: &Value) -> Kept {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    Kept {
        id: text(&payload["id"]),
        user: text(&payload["from"]["user"]),
        cid: text(&payload["cid"]),
        text: text(&payload["text"]),
    }
}
