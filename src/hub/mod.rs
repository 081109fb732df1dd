//! The task that owns the chat: it feeds [`chat::hub::Hub`] and performs its effects.
//!
//! One task decides everything about rooms and users. It owns the room log, knows which worker
//! holds which connection, encodes each event once, and sends it once to each worker that has
//! members. It opens no socket and reads no configuration file.

mod acks;
mod encode;
pub mod link;
mod lists;
mod operators;
mod pages;
mod samples;
mod tell;

use std::collections::{BTreeMap, HashMap};
use std::future::poll_fn;
use std::net::IpAddr;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Instant, SystemTime};

use tokio::sync::{broadcast, mpsc, watch};

use crate::admin::{Closed, Event, EventKind, HubRequest};
use crate::chat::event::{Dialect, Effect, Input, LogFailure, LogReply, LogRequest, Now, Settings, Ticket};
use crate::chat::hub::Hub;
use crate::chat::id::{ConnId, RoomId};
use crate::chat::sanction::Sanction;
use crate::config::Config;
use crate::guest::GuestKey;
use crate::log::{Health, Log, Retention};
use crate::peer::{Peer, network};
use crate::receipt::Receipt;
use crate::sanctions::{Saved, Saver};
use crate::stats::Stats;
use crate::wire::close;
use acks::Acks;
use encode::Encoder;
use link::{BATCH_BYTES, BATCH_INPUTS, End, ToHub, ToWorker};
use pages::{Abandoned, Pages};
use tell::Rate;

/// What the hub is told by the daemon itself.
#[derive(Debug)]
pub enum Order {
    /// To every worker, in order with everything else: a reload.
    Reload(Box<Config>),
    /// To those who watch: something about the daemon as a whole, such as a reload or a drain, and what
    /// came of it.
    Happened(EventKind, String),
    /// To one worker: a stop, a part of a drain, or a question whether it is alive.
    Worker(usize, ToWorker),
}

/// The hub's task. `run` it on a thread of its own.
pub struct HubTask {
    chat: Hub,
    log: Box<dyn Log>,
    started: Instant,
    encoder: Encoder,
    clients: BTreeMap<ConnId, Client>,
    /// How many members of each room each worker has, and how many of them speak text.
    spread: HashMap<RoomId, Spread>,
    workers: Vec<WorkerLink>,
    events: broadcast::Sender<Arc<Event>>,
    rate: Rate,
    effects: Vec<Effect>,
    /// Who waits to hear that a connection is closed.
    closing: HashMap<ConnId, Vec<mpsc::Sender<Closed>>>,
    saver: Saver,
    health: watch::Receiver<Health>,
    asked: operators::Asked,
    looks: lists::Looks,
    pages: Pages,
    stats: Arc<Stats>,
    acks: Acks,
}

/// What outlasts a restart, and what it was before this one.
pub struct Kept {
    pub log: Box<dyn Log>,
    pub saver: Saver,
    pub sanctions: Vec<Sanction>,
    pub guests: GuestKey,
}

/// Where the hub's task hears from.
pub struct Inboxes {
    pub workers: mpsc::Receiver<ToHub>,
    pub operators: mpsc::Receiver<HubRequest>,
    pub daemon: mpsc::Receiver<Order>,
}

struct Client {
    peer: Arc<Peer>,
    worker: usize,
}

#[derive(Default)]
struct Spread {
    members: Vec<u32>,
    text: u32,
}

struct WorkerLink {
    inbox: mpsc::Sender<Vec<ToWorker>>,
    batch: Vec<ToWorker>,
    bytes: usize,
}

/// What is heard next.
enum Heard {
    Operator(HubRequest),
    Daemon(Order),
    Workers(usize),
    Log(LogReply),
    Saved(Saved),
    Time,
    Over,
}

impl HubTask {
    pub fn new(
        config: &Config,
        seed: u64,
        kept: Kept,
        workers: Vec<mpsc::Sender<Vec<ToWorker>>>,
        events: broadcast::Sender<Arc<Event>>,
        started: Instant,
        stats: Arc<Stats>,
    ) -> Self {
        let Kept { log, saver, sanctions, guests } = kept;
        HubTask {
            chat: Hub::new(settings(config), seed, sanctions),
            health: log.health(),
            log,
            saver,
            asked: operators::Asked::default(),
            looks: lists::Looks::default(),
            pages: Pages::default(),
            started,
            encoder: Encoder::new(guests, config.chat.locale),
            clients: BTreeMap::new(),
            spread: HashMap::new(),
            workers: workers.into_iter().map(|inbox| WorkerLink { inbox, batch: Vec::new(), bytes: 0 }).collect(),
            events,
            rate: Rate::default(),
            effects: Vec::new(),
            closing: HashMap::new(),
            stats,
            acks: Acks::default(),
        }
    }

    /// Runs until the daemon lets go of its end.
    pub async fn run(mut self, mut inboxes: Inboxes) {
        let mut heard = Vec::with_capacity(BATCH_INPUTS);
        loop {
            match self.next(&mut inboxes, &mut heard).await {
                Heard::Operator(request) => {
                    self.stats.hub.inbox.set(inboxes.workers.len(), inboxes.workers.max_capacity());
                    self.operate(request);
                    // However many operators ask, the chat has its turn after each of them.
                    while heard.len() < BATCH_INPUTS
                        && let Ok(message) = inboxes.workers.try_recv()
                    {
                        heard.push(message);
                    }
                    self.hear_all(&mut heard).await;
                }
                Heard::Daemon(order) => self.obey(order),
                Heard::Workers(0) | Heard::Over => return,
                Heard::Workers(_) => self.hear_all(&mut heard).await,
                Heard::Log(reply) => {
                    self.log_answered(reply);
                    self.hear_log();
                }
                Heard::Saved((version, result)) => self.chat_input(Input::SanctionsSaved { version, result }, None),
                Heard::Time => {
                    self.close_stuck();
                    self.chat_input(Input::Timer, None);
                }
            }
            self.send_batches().await;
        }
    }

    async fn next(&mut self, inboxes: &mut Inboxes, heard: &mut Vec<ToHub>) -> Heard {
        let deadline = self.chat.next_deadline().into_iter().chain(self.pages.deadline()).min();
        let deadline = deadline.map(|at| tokio::time::Instant::from_std(self.started + at));
        let log = &mut self.log;
        tokio::select! {
            // Operators first, one request at a time: `run` gives the chat its turn after each.
            biased;
            order = inboxes.daemon.recv() => order.map_or(Heard::Over, Heard::Daemon),
            Some(request) = inboxes.operators.recv() => Heard::Operator(request),
            reply = poll_fn(|cx| log.poll_reply(cx)) => Heard::Log(reply),
            saved = self.saver.saved() => Heard::Saved(saved),
            () = async { tokio::time::sleep_until(deadline.unwrap_or_else(tokio::time::Instant::now)).await }, if deadline.is_some() => Heard::Time,
            count = inboxes.workers.recv_many(heard, BATCH_INPUTS) => Heard::Workers(count),
        }
    }

    async fn hear_all(&mut self, heard: &mut Vec<ToHub>) {
        for message in heard.drain(..) {
            self.hear(message);
            self.hear_log();
            if self.workers.iter().any(|w| w.bytes >= BATCH_BYTES) {
                self.send_batches().await;
            }
        }
    }

    /// Takes what the log has answered already, so that it goes to the workers in the same batch.
    fn hear_log(&mut self) {
        // `next` waits with a real waker before the task sleeps.
        let mut cx = Context::from_waker(Waker::noop());
        for _ in 0..BATCH_INPUTS {
            let Poll::Ready(reply) = self.log.poll_reply(&mut cx) else { return };
            self.log_answered(reply);
        }
    }

    /// To whoever asked: an operator, or the chat.
    fn log_answered(&mut self, reply: LogReply) {
        if let Some(reply) = self.asked.log_answered(reply) {
            self.acks.answered(&reply);
            self.chat_input(Input::Log(reply), None);
        }
    }

    fn now(&self) -> Now {
        Now { mono: self.started.elapsed(), wall: SystemTime::now() }
    }

    fn hear(&mut self, message: ToHub) {
        match message {
            ToHub::Open { peer, worker, admission } => {
                let (conn, dialect, addr) = (peer.id, peer.dialect, peer.address);
                let input = Input::Connected { conn, dialect, addr, admission };
                self.tell(EventKind::Connect, &peer, String::new);
                self.clients.insert(peer.id, Client { peer, worker });
                self.chat_input(input, None);
            }
            ToHub::Input(input) => self.chat_input(input, None),
            ToHub::Pass { id, order } => {
                if let Some(client) = self.clients.get(&id) {
                    self.workers[client.worker].push(order);
                }
            }
            ToHub::Gone { id, end } => self.gone(id, &end),
        }
    }

    fn gone(&mut self, id: ConnId, end: &End) {
        let Some(client) = self.clients.get(&id) else { return };
        let peer = client.peer.clone();
        let row = self.chat.client(id);
        let user = row.and_then(|r| r.user).map(ToString::to_string).unwrap_or_default();
        let who = if end.ours { "server" } else { "client" };
        tracing::debug!(client = id.0, user, address = %peer.address, "client {id} has gone, closed by the {who}: {} {}", end.code, end.reason.escape_debug());
        if end.ours && end.code == close::SLOW.code {
            self.tell(EventKind::Slow, &peer, || "its outbox passed the limit".into());
        }
        self.tell(EventKind::Disconnect, &peer, || format!("{} {}", end.code, end.reason).trim_end().to_owned());
        // Nobody needs to wait for those who were told to stay away, whether or not they heard it.
        let sent_away = end.ours && close::find(end.code).is_some_and(|row| !row.reconnect.is_wanted());
        self.chat_input(Input::Disconnected { conn: id, clean: end.clean || sent_away }, None);
        self.clients.remove(&id);
        self.looks.gone(id);
        for asker in self.closing.remove(&id).into_iter().flatten() {
            // There is room for every answer; whoever asked may have gone.
            let _ = asker.try_send(Closed { id, result: Ok(()) });
        }
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Reload(config) => {
                self.encoder.locale = config.chat.locale;
                self.log.retain(retention(&config));
                self.log.pace(config.history.commit_every);
                self.chat_input(Input::Settings(Box::new(settings(&config))), None);
                for worker in &mut self.workers {
                    worker.batch.push(ToWorker::Reload);
                }
            }
            Order::Happened(kind, detail) => self.tell_of_daemon(kind, detail),
            Order::Worker(index, order) => {
                if let Some(worker) = self.workers.get_mut(index) {
                    worker.batch.push(order);
                }
            }
        }
    }

    /// Handles one input of the chat, and whatever the log answers at once.
    fn chat_input(&mut self, input: Input, receipt: Option<&Arc<Receipt>>) {
        let now = self.now();
        let abandoned = self.count_pages(&input);
        let mut effects = std::mem::take(&mut self.effects);
        self.chat.handle(input, now, &mut effects);
        if let Some(Abandoned { room, ticket }) = abandoned {
            let failure = LogFailure::Unavailable("the connection is gone".into());
            let reply = LogReply::Failed { room: Some(room), ticket: Some(ticket), failure };
            self.chat.handle(Input::Log(reply), now, &mut effects);
        }
        for effect in effects.drain(..) {
            self.perform(effect, now, receipt);
        }
        self.effects = effects;
        while let Some(read) = self.pages.next() {
            self.log.submit(read, now.wall);
        }
    }

    /// What an input says of pages that are under way; a read that is not to be done any more.
    fn count_pages(&mut self, input: &Input) -> Option<Abandoned> {
        match input {
            Input::Log(LogReply::Page { ticket, .. } | LogReply::Failed { ticket: Some(ticket), .. }) => {
                self.pages.read(*ticket);
            }
            Input::Drained { conn } => self.pages.written(*conn),
            Input::Disconnected { conn, .. } => return self.pages.gone(*conn),
            _ => {}
        }
        None
    }

    /// For whom a page is to be read: the connection and what counts as its address.
    fn reader_of(&self, request: &LogRequest) -> Option<(ConnId, IpAddr, Ticket)> {
        let LogRequest::Read { ticket, .. } = request else { return None };
        let conn = self.chat.reader(*ticket)?;
        Some((conn, network(self.clients.get(&conn)?.peer.address), *ticket))
    }

    /// Those who keep their page too long while others wait for theirs.
    fn close_stuck(&mut self) {
        while let Some(conn) = self.pages.stuck(self.started.elapsed()) {
            if let Some(client) = self.clients.get(&conn) {
                self.workers[client.worker].push(ToWorker::Close { id: conn, close: close::SLOW.close() });
            }
        }
    }

    fn perform(&mut self, effect: Effect, now: Now, receipt: Option<&Arc<Receipt>>) {
        match effect {
            Effect::Send { conn, frame } => {
                let Some(client) = self.clients.get(&conn) else { return };
                let welcome = self.encoder.is_welcome(&frame);
                if let Some(bytes) = self.encoder.frame_for(&frame, client.peer.dialect) {
                    let order = ToWorker::Send { id: conn, bytes, welcome, receipt: receipt.cloned() };
                    self.workers[client.worker].push(order);
                }
            }
            Effect::SendPage { conn, frames } => {
                let Some(client) = self.clients.get(&conn) else { return };
                let bytes = self.encoder.page_for(&frames, client.peer.dialect);
                self.pages.sent(conn, network(client.peer.address), bytes.len(), now.mono);
                self.workers[client.worker].push(ToWorker::SendPage { id: conn, bytes });
            }
            Effect::Publish { room, frame, instead } => {
                let Some(spread) = self.spread.get(&room) else { return };
                let frame = self.encoder.encode(&frame, spread.text > 0);
                let instead = instead.and_then(|(conn, own)| {
                    let client = self.clients.get(&conn)?;
                    let own = own.and_then(|own| self.encoder.frame_for(&own, client.peer.dialect));
                    Some((client.worker, conn, own))
                });
                for (index, _) in spread.members.iter().enumerate().filter(|(_, count)| **count > 0) {
                    let instead = instead.as_ref().filter(|(w, ..)| *w == index).map(|(_, c, own)| (*c, own.clone()));
                    let (frame, receipt) = (frame.clone(), receipt.cloned());
                    let order = ToWorker::Publish { room, frame, instead, at: now.mono, receipt };
                    self.workers[index].push(order);
                }
            }
            Effect::SendAll { frame } => {
                let frame = self.encoder.encode(&frame, true);
                for worker in &mut self.workers {
                    worker.push(ToWorker::PublishAll { frame: frame.clone(), receipt: receipt.cloned() });
                }
            }
            Effect::Enter { conn, room } => self.count_member(conn, room, true),
            Effect::Exit { conn, room } => self.count_member(conn, room, false),
            Effect::Forget { room } => {
                self.spread.remove(&room);
                for worker in &mut self.workers {
                    worker.push(ToWorker::Forget { room });
                }
            }
            Effect::Close { conn, close } => {
                if let Some(client) = self.clients.get(&conn) {
                    self.workers[client.worker].push(ToWorker::Close { id: conn, close });
                }
            }
            Effect::Log(request) => match self.reader_of(&request) {
                Some((conn, address, ticket)) => self.pages.want(conn, address, ticket, request),
                None => {
                    self.acks.appended(&request, now.mono);
                    self.log.submit(request, now.wall);
                }
            },
            Effect::Moderated { id, result } => self.asked.moderated(id, result),
            Effect::SaveSanctions { version, sanctions } => self.saver.save(version, sanctions),
            Effect::Happened(happening) => self.happened(happening),
        }
    }

    fn count_member(&mut self, conn: ConnId, room: RoomId, enters: bool) {
        let Some(client) = self.clients.get(&conn) else { return };
        let workers = self.workers.len();
        let spread = self.spread.entry(room).or_insert_with(|| Spread { members: vec![0; workers], text: 0 });
        let text = u32::from(client.peer.dialect == Dialect::Text);
        let count = &mut spread.members[client.worker];
        let order = if enters {
            (*count, spread.text) = (*count + 1, spread.text + text);
            ToWorker::Enter { id: conn, room }
        } else {
            (*count, spread.text) = (count.saturating_sub(1), spread.text.saturating_sub(text));
            ToWorker::Exit { id: conn, room }
        };
        self.workers[client.worker].push(order);
    }

    /// Workers always take what they are sent, so waiting for one is short and never in a circle.
    async fn send_batches(&mut self) {
        for worker in &mut self.workers {
            if !worker.batch.is_empty() {
                worker.bytes = 0;
                // A worker that has ended has no connections left to tell anything.
                let _ = worker.inbox.send(std::mem::take(&mut worker.batch)).await;
            }
        }
        self.acks.gone(self.started, &self.stats.hub.ack);
    }
}

impl WorkerLink {
    fn push(&mut self, order: ToWorker) {
        self.bytes += order.bytes();
        self.batch.push(order);
    }
}

/// What the chat needs of the configuration.
fn settings(config: &Config) -> Settings {
    Settings {
        default_rooms: config.chat.default_rooms.clone(),
        create_rooms: config.chat.create_rooms,
        presence_limit: config.chat.presence_limit,
        rooms_per_client: config.limits.rooms_per_client,
        presence_grace: config.timeouts.presence,
        limits: crate::chat::event::Limits {
            text: config.limits.text,
            frame: config.limits.frame,
            rate: config.limits.rate.0,
            burst: config.limits.burst,
        },
        ping: config.timeouts.ping,
    }
}

/// How much the log keeps.
pub fn retention(config: &Config) -> Retention {
    let keep = if config.history.store == crate::config::Store::None { 0 } else { config.history.keep };
    Retention { keep, keep_for: config.history.keep_for, max_bytes: config.history.max_size as u64 }
}
