//! A worker: one thread with its own runtime, the connections that live on it, and the fan-out.
//!
//! A committed event comes once to each worker, already encoded. The worker joins what waits for a
//! room into one piece, appends it to each member's outbox and writes it there and then: no lock, no
//! wake-up of a task per client. It lets others work after every few members, so that a large room
//! holds up nobody's ping.

use std::cell::RefCell;
use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::{coop, spawn_local, yield_now};
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::Shared;
use super::conn::{CLOSE_WAIT, Conn, Step};
use super::incoming::{self, Incoming};
use super::session::{Heard, Kind};
use crate::admin::Closed;
use crate::chat::event::{Close, Dialect, Input};
use crate::chat::id::{ConnId, RoomId};
use crate::config::Config;
use crate::hub::link::{Encoded, ToHub, ToWorker};
use crate::receipt::Receipt;
use crate::wire::frame::text_frame;
use crate::wire::{close, json};

/// Members that are written to before others may work: 2.5–3.5 ms at the most, at no cost in
/// throughput (measured with 10,000 clients; without a pause a ping waits 90–130 ms).
const CHUNK: usize = 64;
/// Bytes that are joined into one write. Far below any outbox, so that a reader who keeps up never
/// passes its limit because much happened at once.
const JOIN_BYTES: usize = 64 * 1024;
/// Messages of one connection that are handled before others have their turn.
const TURN: u32 = 32;

pub struct Worker {
    pub index: usize,
    pub shared: Arc<Shared>,
    config: RefCell<Arc<Config>>,
    conns: RefCell<HashMap<ConnId, Rc<Conn>>>,
    rooms: RefCell<HashMap<RoomId, Rc<Members>>>,
    emptied: Notify,
    /// What everybody who is still here is told, once the daemon stops.
    stopping: RefCell<Option<(Close, Duration)>>,
}

/// A room's members on this worker, in slots that never move, so that a fan-out under way skips none.
#[derive(Default)]
struct Members {
    slots: RefCell<Vec<Option<Rc<Conn>>>>,
    free: RefCell<Vec<u32>>,
}

/// Events of one room that go out together.
#[derive(Default)]
struct Group {
    frames: Vec<Encoded>,
    /// Who gets something else in place of which frame.
    instead: Vec<(ConnId, usize, Option<Bytes>)>,
    bytes: usize,
}

/// Runs until the worker has been stopped. To be called on a thread of its own.
pub fn run(
    index: usize,
    shared: Arc<Shared>,
    inbox: mpsc::Receiver<Vec<ToWorker>>,
    sockets: mpsc::Receiver<Incoming>,
) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build_local(Default::default())?;
    runtime.block_on(async move {
        let worker = Rc::new(Worker {
            index,
            config: RefCell::new(shared.config.load_full()),
            shared,
            conns: RefCell::default(),
            rooms: RefCell::default(),
            emptied: Notify::new(),
            stopping: RefCell::default(),
        });
        spawn_local(incoming::take(worker.clone(), sockets));
        spawn_local(worker.clone().keep_time());
        // Deliveries do not take part in tokio's budget: `CHUNK` is theirs.
        coop::unconstrained(worker.deliver_all(inbox)).await;
    });
    Ok(())
}

impl Worker {
    pub fn config(&self) -> Arc<Config> {
        self.config.borrow().clone()
    }

    /// Time since the daemon started.
    pub fn now(&self) -> Duration {
        self.shared.started.elapsed()
    }

    /// Carries out what the hub says, in its order, until it says stop and everyone has gone.
    async fn deliver_all(self: Rc<Self>, mut inbox: mpsc::Receiver<Vec<ToWorker>>) {
        let mut batches = Vec::new();
        let mut groups = Groups::default();
        let (gone, mut all_gone) = oneshot::channel();
        let mut gone = Some(gone);
        loop {
            let received = tokio::select! {
                biased;
                received = inbox.recv_many(&mut batches, 16) => received,
                _ = &mut all_gone => return,
            };
            if received == 0 {
                return;
            }
            for order in batches.drain(..).flatten() {
                match order {
                    ToWorker::Publish { room, frame, instead, receipt: None } => {
                        if groups.add(room, frame, instead) {
                            self.publish_groups(&mut groups).await;
                        }
                    }
                    other => {
                        self.publish_groups(&mut groups).await;
                        self.carry_out(other, &mut gone).await;
                    }
                }
            }
            self.publish_groups(&mut groups).await;
        }
    }

    async fn carry_out(self: &Rc<Self>, order: ToWorker, gone: &mut Option<oneshot::Sender<()>>) {
        match order {
            ToWorker::Publish { room, frame, instead, receipt } => {
                let mut group = Group::default();
                group.add(frame, instead);
                self.publish(room, group, receipt).await;
            }
            ToWorker::PublishAll { frame, receipt } => self.publish_all(frame, receipt).await,
            ToWorker::Send { id, bytes, welcome, receipt } => {
                if let Some(conn) = self.conn(id) {
                    if welcome {
                        conn.welcomed.set(true);
                    }
                    self.deliver(&conn, &bytes, 1, receipt.as_ref());
                }
            }
            ToWorker::SendPage { id, bytes } => {
                if let Some(conn) = self.conn(id) {
                    conn.deliver_page(&bytes);
                }
            }
            ToWorker::Enter { id, room } => self.enter(id, room),
            ToWorker::Exit { id, room } => {
                if let Some(conn) = self.conn(id) {
                    self.exit(&conn, room);
                }
            }
            ToWorker::Forget { room } => {
                self.rooms.borrow_mut().remove(&room);
            }
            ToWorker::Close { id, close, done } => match self.conn(id) {
                Some(conn) => self.close(&conn, &close, done),
                None => {
                    if let Some(done) = done {
                        // It went by itself a moment ago: its socket is closed.
                        let _ = done.try_send(Closed { id, result: Ok(()) });
                    }
                }
            },
            ToWorker::Alive(answer) => {
                // Who asked may have given up.
                let _ = answer.send(());
            }
            ToWorker::Reload => *self.config.borrow_mut() = self.shared.config.load_full(),
            ToWorker::Stop { close, grace, cut } => {
                if let Some(gone) = gone.take() {
                    *self.stopping.borrow_mut() = Some((close, grace));
                    spawn_local(self.clone().stop(grace, cut, gone));
                }
            }
        }
    }

    fn conn(&self, id: ConnId) -> Option<Rc<Conn>> {
        self.conns.borrow().get(&id).cloned()
    }

    /// Those of the connections, for work with pauses in it: one that ends meanwhile is gone, and
    /// its socket closed, before anybody is told so.
    fn everyone(&self, wanted: impl Fn(&Conn) -> bool) -> Vec<Weak<Conn>> {
        self.conns.borrow().values().filter(|conn| wanted(conn)).map(Rc::downgrade).collect()
    }

    // --- fan-out -------------------------------------------------------------------------------

    async fn publish_groups(&self, groups: &mut Groups) {
        groups.index.clear();
        for (room, group) in groups.list.drain(..) {
            self.publish(room, group, None).await;
        }
    }

    async fn publish(&self, room: RoomId, mut group: Group, receipt: Option<Arc<Receipt>>) {
        let Some(members) = self.rooms.borrow().get(&room).cloned() else { return };
        let ready = group.join();
        let mut at = 0;
        loop {
            {
                let slots = members.slots.borrow();
                let end = slots.len().min(at + CHUNK);
                for conn in slots[at..end].iter().flatten() {
                    if group.mentions(conn.id) {
                        let (own, frames) = group.own(conn);
                        if let Some(own) = own {
                            self.deliver(conn, &own, frames, receipt.as_ref());
                        }
                    } else if let Some(bytes) = ready.of(conn.peer.dialect) {
                        self.deliver(conn, bytes, ready.frames, receipt.as_ref());
                    }
                }
                at = end;
                if at == slots.len() {
                    return;
                }
            }
            yield_now().await;
        }
    }

    async fn publish_all(&self, frame: Encoded, receipt: Option<Arc<Receipt>>) {
        for chunk in self.everyone(|conn| conn.welcomed.get()).chunks(CHUNK) {
            for conn in chunk.iter().filter_map(Weak::upgrade) {
                if let Some(bytes) = frame.of(conn.peer.dialect) {
                    self.deliver(&conn, bytes, 1, receipt.as_ref());
                }
            }
            yield_now().await;
        }
    }

    fn deliver(&self, conn: &Conn, bytes: &Bytes, frames: u64, receipt: Option<&Arc<Receipt>>) {
        let limit = self.config.borrow().limits.outbox;
        if conn.deliver(bytes, frames, limit, receipt) {
            self.close(conn, &close::SLOW.close(), None);
        }
    }

    /// Begins to close one of our connections, with a `bye` where its dialect has one.
    pub fn close(&self, conn: &Conn, close: &Close, done: Option<mpsc::Sender<Closed>>) {
        self.close_within(conn, close, CLOSE_WAIT, done);
    }

    fn close_within(&self, conn: &Conn, close: &Close, wait: Duration, done: Option<mpsc::Sender<Closed>>) {
        let bye = (conn.inner.borrow().session.kind == Kind::Json).then(|| {
            let row = close::row(close.code);
            let spread = row.reconnect == close::Reconnect::Spread;
            let after = if spread { self.config.borrow().shutdown.spread } else { Duration::ZERO };
            text_frame(&json::bye(&row, &close.reason, after))
        });
        conn.begin_close(close, bye.as_ref(), wait, done);
    }

    // --- membership ----------------------------------------------------------------------------

    fn enter(&self, id: ConnId, room: RoomId) {
        let Some(conn) = self.conn(id) else { return };
        let members = self.rooms.borrow_mut().entry(room).or_default().clone();
        let mut slots = members.slots.borrow_mut();
        let slot = members.free.borrow_mut().pop().unwrap_or(slots.len() as u32);
        if slot as usize == slots.len() {
            slots.push(None);
        }
        slots[slot as usize] = Some(conn.clone());
        conn.welcomed.set(true);
        conn.inner.borrow_mut().rooms.push((room, slot));
    }

    fn exit(&self, conn: &Conn, room: RoomId) {
        let mut inner = conn.inner.borrow_mut();
        let Some(at) = inner.rooms.iter().position(|(r, _)| *r == room) else { return };
        let (_, slot) = inner.rooms.swap_remove(at);
        drop(inner);
        self.vacate(room, slot);
    }

    fn vacate(&self, room: RoomId, slot: u32) {
        if let Some(members) = self.rooms.borrow().get(&room) {
            members.slots.borrow_mut()[slot as usize] = None;
            members.free.borrow_mut().push(slot);
        }
    }

    // --- a connection's life -------------------------------------------------------------------

    /// Takes a connection in whose WebSocket is open, and starts the small task that reads it.
    pub fn adopt(self: &Rc<Self>, conn: Rc<Conn>) {
        self.conns.borrow_mut().insert(conn.id, conn.clone());
        spawn_local(self.clone().run_connection(conn));
    }

    async fn run_connection(self: Rc<Self>, conn: Rc<Conn>) {
        let known = conn.inner.borrow().session.kind != Kind::Echo;
        if known {
            self.tell_hub(&conn, ToHub::Open { peer: conn.peer.clone(), worker: self.index }).await;
        }
        self.close_if_stopping(&conn);
        let mut turn = 0;
        let fault = loop {
            match poll_fn(|cx| conn.poll_step(cx)).await {
                Step::Message(message) => {
                    let heard = conn.inner.borrow_mut().session.hear(message, &self.shared, &self.config, &conn.peer);
                    match heard {
                        Heard::Nothing => {}
                        Heard::Reply(bytes) => self.deliver(&conn, &bytes, 1, None),
                        Heard::Hub(first, second) => {
                            if conn.is_open() {
                                for input in [first].into_iter().chain(second) {
                                    self.tell_hub(&conn, ToHub::Input(input)).await;
                                }
                            }
                        }
                        Heard::ReplyAndHub(bytes, input) => {
                            if conn.is_open() {
                                self.deliver(&conn, &bytes, 1, None);
                                self.tell_hub(&conn, ToHub::Input(input)).await;
                            }
                        }
                        Heard::Close(close) => self.close(&conn, &close, None),
                        Heard::Echo(message) => conn.echo(message),
                    }
                }
                Step::PageWritten => self.tell_hub(&conn, ToHub::Input(Input::Drained { conn: conn.id })).await,
                Step::Over(fault) => break fault,
            }
            turn += 1;
            if turn % TURN == 0 {
                yield_now().await;
            }
        };
        // Boxed: this is the rare part, and an idle connection's task shall be small.
        Box::pin(self.end_connection(conn, fault, known)).await;
    }

    async fn end_connection(self: Rc<Self>, conn: Rc<Conn>, fault: Option<Close>, known: bool) {
        conn.farewell(fault).await;
        let id = conn.id;
        let rooms = std::mem::take(&mut conn.inner.borrow_mut().rooms);
        for (room, slot) in rooms {
            self.vacate(room, slot);
        }
        self.conns.borrow_mut().remove(&id);
        let (end, done) = conn.take_ending();
        // The last reference: the socket closes here.
        drop(conn);
        if known {
            // The hub may be gone when the daemon ends.
            let _ = self.shared.hub.send(ToHub::Gone { id, end }).await;
        }
        for asker in done {
            let _ = asker.send(Closed { id, result: Ok(()) }).await;
        }
        if self.conns.borrow().is_empty() {
            self.emptied.notify_waiters();
        }
    }

    /// Gives the hub a message. Where it has no room, this connection is not read until it has.
    async fn tell_hub(&self, conn: &Conn, message: ToHub) {
        let Err(mpsc::error::TrySendError::Full(message)) = self.shared.hub.try_send(message) else { return };
        let hub = &self.shared.hub;
        let mut permit = Box::pin(hub.reserve());
        let permit = poll_fn(|cx| {
            conn.poll_meanwhile(cx);
            permit.as_mut().poll(cx)
        })
        .await;
        if let Ok(permit) = permit {
            permit.send(message);
        }
    }

    // --- time ----------------------------------------------------------------------------------

    /// Looks at every connection now and then: who has not said hello, whom to ping, who is silent.
    async fn keep_time(self: Rc<Self>) {
        let mut every = self.tick();
        let mut ticks = interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if self.tick() != every {
                every = self.tick();
                ticks = interval(every);
                ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
                ticks.tick().await;
            }
            let config = self.config();
            let now = self.now();
            for chunk in self.everyone(|_| true).chunks(CHUNK) {
                for conn in chunk.iter().filter_map(Weak::upgrade).filter(|conn| conn.is_open()) {
                    let heard = conn.inner.borrow_mut().session.check(now, &config.timeouts);
                    match heard {
                        Heard::Reply(bytes) => self.deliver(&conn, &bytes, 1, None),
                        Heard::Close(close) => self.close(&conn, &close, None),
                        _ => {}
                    }
                }
                yield_now().await;
            }
        }
    }

    /// A few looks within the shortest timeout; once a second is enough for the usual ones.
    fn tick(&self) -> Duration {
        let timeouts = &self.config.borrow().timeouts;
        let shortest = timeouts.hello.min(timeouts.ping);
        (shortest / 8).clamp(Duration::from_millis(20), Duration::from_secs(1))
    }

    // --- the end -------------------------------------------------------------------------------

    async fn stop(self: Rc<Self>, grace: Duration, cut: oneshot::Sender<usize>, gone: oneshot::Sender<()>) {
        for chunk in self.everyone(|_| true).chunks(CHUNK) {
            for conn in chunk.iter().filter_map(Weak::upgrade) {
                self.close_if_stopping(&conn);
            }
            yield_now().await;
        }
        // What is still there at the deadline is cut: that is what the deadline is for.
        let _ = timeout(grace, self.until_empty()).await;
        let left = self.conns.borrow().len();
        // Who asked may have been told to cut at once.
        let _ = cut.send(left);
        let _ = gone.send(());
    }

    fn close_if_stopping(&self, conn: &Conn) {
        if let Some((close, grace)) = &*self.stopping.borrow() {
            // The end of the grace period is for `stop` to see, which counts whom it cuts.
            self.close_within(conn, close, *grace + CLOSE_WAIT, None);
        }
    }

    async fn until_empty(&self) {
        loop {
            let emptied = self.emptied.notified();
            if self.conns.borrow().is_empty() {
                return;
            }
            emptied.await;
        }
    }
}

/// What waits for rooms while the inbox is read, in the order of the rooms' first event.
#[derive(Default)]
struct Groups {
    list: Vec<(RoomId, Group)>,
    index: HashMap<RoomId, usize>,
}

impl Groups {
    /// True: so much waits for this room that it must go out now.
    fn add(&mut self, room: RoomId, frame: Encoded, instead: Option<(ConnId, Option<Bytes>)>) -> bool {
        let at = *self.index.entry(room).or_insert_with(|| {
            self.list.push((room, Group::default()));
            self.list.len() - 1
        });
        let group = &mut self.list[at].1;
        group.add(frame, instead);
        group.bytes >= JOIN_BYTES
    }
}

/// A group's bytes for those who get all of it.
struct Ready {
    json: Bytes,
    text: Option<Bytes>,
    frames: u64,
}

impl Ready {
    fn of(&self, dialect: Dialect) -> Option<&Bytes> {
        match dialect {
            Dialect::Json => Some(&self.json),
            Dialect::Text => self.text.as_ref(),
        }
    }
}

impl Encoded {
    fn of(&self, dialect: Dialect) -> Option<&Bytes> {
        match dialect {
            Dialect::Json => Some(&self.json),
            Dialect::Text => self.text.as_ref(),
        }
    }
}

impl Group {
    fn add(&mut self, frame: Encoded, instead: Option<(ConnId, Option<Bytes>)>) {
        self.bytes += frame.json.len();
        if let Some((id, own)) = instead {
            self.instead.push((id, self.frames.len(), own));
        }
        self.frames.push(frame);
    }

    /// Ends the gathering: one piece for everybody, and the exceptions sorted for look-ups.
    fn join(&mut self) -> Ready {
        self.instead.sort_by_key(|(id, at, _)| (*id, *at));
        let frames = self.frames.len() as u64;
        if let [only] = &self.frames[..] {
            return Ready { json: only.json.clone(), text: only.text.clone(), frames };
        }
        let mut json = BytesMut::with_capacity(self.bytes);
        let mut text = BytesMut::new();
        for frame in &self.frames {
            json.extend_from_slice(&frame.json);
            text.extend_from_slice(frame.text.as_deref().unwrap_or_default());
        }
        Ready { json: json.freeze(), text: (!text.is_empty()).then(|| text.freeze()), frames }
    }

    fn mentions(&self, id: ConnId) -> bool {
        !self.instead.is_empty() && self.instead.binary_search_by_key(&id, |(id, _, _)| *id).is_ok()
    }

    /// The group for one who gets something else in place of one frame or several.
    fn own(&self, conn: &Conn) -> (Option<Bytes>, u64) {
        let mut bytes = BytesMut::new();
        let mut count = 0;
        let first = self.instead.partition_point(|(id, _, _)| *id < conn.id);
        let mut mine = self.instead[first..].iter().take_while(|(id, _, _)| *id == conn.id).peekable();
        for (at, frame) in self.frames.iter().enumerate() {
            let piece = match mine.next_if(|(_, place, _)| *place == at) {
                Some((_, _, own)) => own.as_ref(),
                None => frame.of(conn.peer.dialect),
            };
            if let Some(piece) = piece {
                bytes.extend_from_slice(piece);
                count += 1;
            }
        }
        ((!bytes.is_empty()).then(|| bytes.freeze()), count)
    }
}
