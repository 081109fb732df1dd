//! A worker: one thread with its own runtime, the connections that live on it, and the fan-out.
//!
//! A committed event comes once to each worker, already encoded. The worker joins what waits for a
//! room into one piece, appends it to each member's outbox and writes it there and then: no lock, no
//! wake-up of a task per client. It lets others work after every few members, so that a large room
//! holds up nobody's ping.

mod fanout;

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::fmt::Display;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::{coop, spawn_local, yield_now};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_tungstenite::tungstenite::protocol::Message;

use super::Shared;
use super::access::Origin;
use super::conn::{ABNORMAL, CLOSE_WAIT, Conn, Step};
use super::gather::{Group, Groups};
use super::incoming::{self, Incoming};
use super::session::{Heard, Kind};
use crate::chat::event::{Close, Input};
use crate::chat::id::{ConnId, RoomId};
use crate::config::Config;
use crate::hub::link::{End, ToHub, ToWorker};
use crate::state::Phase;
use crate::stats::{Closer, WorkerStats};
use crate::wire::frame::text_frame;
use crate::wire::{close, json};
use fanout::Members;

/// Members that are written to before others may work: 2.5–3.5 ms at the most, at no cost in
/// throughput (measured with 10,000 clients; without a pause a ping waits 90–130 ms).
const CHUNK: usize = 64;
/// Messages of one connection that are handled before others have their turn.
const TURN: u32 = 32;

pub struct Worker {
    pub index: usize,
    pub shared: Arc<Shared>,
    /// What this worker counts; nobody else writes it.
    pub stats: Arc<WorkerStats>,
    config: RefCell<Arc<Config>>,
    conns: RefCell<HashMap<ConnId, Rc<Conn>>>,
    rooms: RefCell<HashMap<RoomId, Rc<Members>>>,
    /// Sockets on their way to a WebSocket, and one for as long as more may come.
    arriving: Cell<usize>,
    emptied: Notify,
    /// What everybody who is still here is told, once the daemon stops.
    stopping: RefCell<Option<(Close, Duration)>>,
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
            stats: shared.stats.workers[index].clone(),
            shared,
            conns: RefCell::default(),
            rooms: RefCell::default(),
            arriving: Cell::new(1),
            emptied: Notify::new(),
            stopping: RefCell::default(),
        });
        worker.stats.thread.begin();
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
                    ToWorker::Publish { room, frame, instead, at, receipt: None } => {
                        if groups.add(room, frame, instead, at) {
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
            ToWorker::Publish { room, frame, instead, at, receipt } => {
                let mut group = Group::default();
                group.add(frame, instead, at);
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
            ToWorker::Close { id, close } => {
                if let Some(conn) = self.conn(id) {
                    self.close(&conn, &close);
                }
            }
            ToWorker::WhoIsHere(answer) => {
                let open = self.conns.borrow().values().filter(|conn| conn.is_open()).map(|conn| conn.id).collect();
                // Who asked may have given up.
                let _ = answer.send(open);
            }
            ToWorker::Dismiss { ids, close } => {
                for conn in ids.into_iter().filter_map(|id| self.conn(id)) {
                    self.dismiss(&conn, &close);
                }
            }
            ToWorker::Alive(answer) => {
                // Who asked may have given up.
                let _ = answer.send(());
            }
            ToWorker::Reload => self.reload(),
            ToWorker::Stop { close, grace, cut } => {
                if let Some(gone) = gone.take() {
                    *self.stopping.borrow_mut() = Some((close, grace));
                    spawn_local(self.clone().stop(grace, cut, gone));
                }
            }
        }
    }

    fn reload(&self) {
        let new = self.shared.config.load_full();
        let old = self.config.replace(new.clone());
        if (old.limits.rate, old.limits.burst) != (new.limits.rate, new.limits.burst) {
            for conn in self.conns.borrow().values() {
                conn.inner.borrow_mut().session.set_limits(&new.limits);
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

    // --- closing ---------------------------------------------------------------------------------

    /// Begins to close one of our connections, with a `bye` where its dialect has one.
    pub fn close(&self, conn: &Conn, close: &Close) {
        let spread = close::row(close.code).reconnect == close::Reconnect::Spread;
        let after = if spread { self.config.borrow().shutdown.spread } else { Duration::ZERO };
        self.close_within(conn, close, after, CLOSE_WAIT);
    }

    /// Begins to close one in a drain. Each is told a time of its own, so that even clients which wait
    /// exactly so long do not come back together.
    fn dismiss(&self, conn: &Conn, close: &Close) {
        let spread = self.config.borrow().shutdown.spread;
        let after = spread.mul_f64(rand::random_range(0.0..=1.0));
        self.close_within(conn, close, after, CLOSE_WAIT);
    }

    /// `after`: when clients that are to come back do so at the latest.
    fn close_within(&self, conn: &Conn, close: &Close, after: Duration, wait: Duration) {
        let bye = (conn.inner.borrow().session.kind == Kind::Json)
            .then(|| text_frame(&json::bye(&close::row(close.code), &close.reason, after)));
        conn.begin_close(close, bye.as_ref(), wait);
    }

    // --- a connection's life -------------------------------------------------------------------

    /// Takes a connection in whose WebSocket is open, and starts the small task that reads it.
    pub fn adopt(self: &Rc<Self>, conn: Rc<Conn>) {
        self.stats.opened(conn.speaks());
        self.conns.borrow_mut().insert(conn.id, conn.clone());
        spawn_local(self.clone().run_connection(conn));
    }

    /// An idle connection holds nothing but this future, so it is kept small: what is long or rare
    /// is boxed when it happens.
    async fn run_connection(self: Rc<Self>, conn: Rc<Conn>) {
        if let Some(waiting) = self.announce(&conn) {
            waiting.await;
        }
        let mut turn = 0;
        let fault = loop {
            match poll_fn(|cx| conn.poll_step(cx).map(|step| self.take_step(&conn, step))).await {
                Taken::Done => {}
                Taken::Wait(waiting) => waiting.await,
                Taken::Over(fault) => break fault,
            }
            turn += 1;
            if turn % TURN == 0 {
                yield_now().await;
            }
        };
        Box::pin(self.end_connection(conn, fault)).await;
    }

    fn announce(self: &Rc<Self>, conn: &Rc<Conn>) -> Option<Waiting> {
        let admission = conn.inner.borrow_mut().session.admission();
        let waiting = match admission {
            admission if conn.is_known() => {
                self.tell_hub(conn, ToHub::Open { peer: conn.peer.clone(), worker: self.index, admission }, None)
            }
            Ok(_) => None,
            Err(close) => {
                // The hub knows nothing of an echo, so nobody else closes it.
                self.close(conn, &close);
                None
            }
        };
        self.close_if_leaving(conn);
        waiting
    }

    fn take_step(self: &Rc<Self>, conn: &Rc<Conn>, step: Step) -> Taken {
        let message = match step {
            Step::Message(message) => message,
            Step::PageWritten => {
                return Taken::after(self.tell_hub(conn, ToHub::Input(Input::Drained { conn: conn.id }), None));
            }
            Step::Over(fault) => return Taken::Over(fault.map(Box::new)),
        };
        if matches!(message, Message::Text(_) | Message::Binary(_)) {
            self.stats.received.count(1);
            self.stats.received_bytes.count(message.len() as u64);
        }
        let heard = conn.inner.borrow_mut().session.hear(message, &self.shared, &self.config, &conn.peer);
        match heard {
            Heard::Nothing => {}
            Heard::Reply(bytes) => self.deliver(conn, &bytes, 1, None),
            Heard::Close(close) if !conn.is_known() => self.close(conn, &close),
            Heard::Close(close) if conn.is_open() => {
                // What was said before is still answered before.
                let order = ToWorker::Close { id: conn.id, close };
                return Taken::after(self.tell_hub(conn, ToHub::Pass { id: conn.id, order }, None));
            }
            Heard::Close(_) => {}
            Heard::Echo(message) => conn.echo(message),
            // What comes after a close has begun is not heard any more.
            Heard::Hub(..) | Heard::ReplyAndHub(..) if !conn.is_open() => {}
            Heard::Hub(first, second) => {
                return Taken::after(self.tell_hub(conn, ToHub::Input(first), second.map(ToHub::Input)));
            }
            Heard::ReplyAndHub(bytes, input) => {
                self.deliver(conn, &bytes, 1, None);
                return Taken::after(self.tell_hub(conn, ToHub::Input(input), None));
            }
        }
        Taken::Done
    }

    async fn end_connection(self: Rc<Self>, conn: Rc<Conn>, fault: Option<Box<Close>>) {
        conn.farewell(fault).await;
        let (id, known) = (conn.id, conn.is_known());
        let rooms = std::mem::take(&mut conn.inner.borrow_mut().rooms);
        for (room, slot) in rooms {
            self.vacate(room, slot);
        }
        self.conns.borrow_mut().remove(&id);
        let end = conn.take_end();
        self.note_ended(&conn, &end);
        let closer = match &end {
            End { ours: true, .. } => Closer::Server,
            End { code: ABNORMAL, .. } => Closer::Nobody,
            End { .. } => Closer::Client,
        };
        self.stats.closed(conn.speaks(), end.code, closer);
        // The last reference: the socket closes here.
        drop(conn);
        if known {
            // The hub may be gone when the daemon ends.
            let _ = self.shared.hub.send(ToHub::Gone { id, end }).await;
        }
        self.emptied.notify_waiters();
    }

    /// Leaves a line in the access log, where one is kept.
    fn note_ended(&self, conn: &Conn, end: &End) {
        if self.config.borrow().log.access {
            let welcomed = conn.welcomed.get() || !conn.is_known();
            self.shared.access.ended(&conn.peer, end, welcomed, self.now());
        }
    }

    /// As `note_ended`, of one that got no WebSocket.
    pub fn note_refused(&self, from: Origin, status: impl Display, why: &'static str) {
        if self.config.borrow().log.access {
            self.shared.access.refused(from, status, why, self.now());
        }
    }

    /// Gives the hub one message or two. Where it has no room, the connection is to wait for what
    /// comes back, and is not read meanwhile.
    fn tell_hub(&self, conn: &Rc<Conn>, first: ToHub, second: Option<ToHub>) -> Option<Waiting> {
        let mut left = [Some(first), second].into_iter().flatten().collect::<VecDeque<_>>();
        while let Some(message) = left.pop_front() {
            match self.shared.hub.try_send(message) {
                Ok(()) => {}
                Err(mpsc::error::TrySendError::Full(message)) => {
                    left.push_front(message);
                    return Some(Box::pin(wait_for_hub(conn.clone(), self.shared.clone(), left)));
                }
                // The daemon ends.
                Err(mpsc::error::TrySendError::Closed(_)) => return None,
            }
        }
        None
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
            self.shared.access.tell_left_out(now);
            for chunk in self.everyone(|_| true).chunks(CHUNK) {
                for conn in chunk.iter().filter_map(Weak::upgrade).filter(|conn| conn.is_open()) {
                    let heard = conn.inner.borrow_mut().session.check(now, &config.timeouts);
                    match heard {
                        Heard::Reply(bytes) => self.deliver(&conn, &bytes, 1, None),
                        Heard::Close(close) => self.close(&conn, &close),
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
                self.close_if_leaving(&conn);
            }
            yield_now().await;
        }
        // What is still there at the deadline is cut: that is what the deadline is for. Who has just
        // been accepted gets an answer, but holds us up no longer than a close may: it could be a
        // browser's connection in reserve, on which nothing will ever be said.
        let both = async {
            let _ = timeout(CLOSE_WAIT, self.until(|| self.arriving.get() == 0)).await;
            self.until(|| self.conns.borrow().is_empty()).await;
        };
        let _ = timeout(grace, both).await;
        let left = self.conns.borrow().len();
        for conn in self.conns.borrow().values() {
            self.note_ended(conn, &conn.take_end());
        }
        // Who asked may have been told to cut at once.
        let _ = cut.send(left);
        let _ = gone.send(());
    }

    /// Closes one that has no business here any more: the daemon stops, or is being drained and had
    /// counted everybody when this one came in.
    fn close_if_leaving(&self, conn: &Conn) {
        if let Some((close, grace)) = &*self.stopping.borrow() {
            let spread = self.config.borrow().shutdown.spread;
            // The end of the grace period is for `stop` to see, which counts whom it cuts.
            self.close_within(conn, close, spread, *grace + CLOSE_WAIT);
        } else if self.shared.state.phase() == Phase::Draining {
            self.dismiss(conn, &close::DRAINING.close());
        }
    }

    /// Waits for something that changes when a connection ends or arrives.
    async fn until(&self, holds: impl Fn() -> bool) {
        loop {
            let changed = self.emptied.notified();
            if holds() {
                return;
            }
            changed.await;
        }
    }

    /// One more socket is on its way; to be answered by `arrived`.
    pub fn arrives(&self) {
        self.arriving.set(self.arriving.get() + 1);
    }

    pub fn arrived(&self) {
        self.arriving.set(self.arriving.get() - 1);
        self.emptied.notify_waiters();
    }
}

/// Something that a connection waits for before it is read again.
type Waiting = Pin<Box<dyn Future<Output = ()>>>;

/// What came of one step of a connection.
enum Taken {
    Done,
    Wait(Waiting),
    Over(Option<Box<Close>>),
}

impl Taken {
    fn after(waiting: Option<Waiting>) -> Self {
        waiting.map_or(Taken::Done, Taken::Wait)
    }
}

async fn wait_for_hub(conn: Rc<Conn>, shared: Arc<Shared>, messages: VecDeque<ToHub>) {
    for message in messages {
        let mut permit = Box::pin(shared.hub.reserve());
        let permit = poll_fn(|cx| {
            conn.poll_meanwhile(cx);
            permit.as_mut().poll(cx)
        })
        .await;
        let Ok(permit) = permit else { return };
        permit.send(message);
    }
}
