//! A daemon that has no chat: it answers the control server's requests from a list of clients.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tracing::field::{Field, Visit};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use wschat::admin::order::{ClientKey, FirstPage, Place, Podium, Rank, Tie};
use wschat::admin::*;
use wschat::chat::event::{Action, Close, Dialect, Level, Target};
use wschat::chat::id::{ConnId, Nick, RoomName, UserId};
use wschat::chat::sanction::{SanctionKind, Sanctions};
use wschat::config::Level as LogLevel;
use wschat::control::bind;
use wschat::control::places::SOCKET_MODE;
use wschat::control::server::{Access, serve};
use wschat::log::{Health, LogCounts};
use wschat::peer::{Alpn, Counters, Peer, TlsVersion};
use wschat::state::{Phase, State};
use wschat::stats::Stats;

pub use crate::store::Stream;

/// The client whose page is kept back until somebody has pinged.
pub const HELD: u64 = 999;
/// The client whose socket stays open until somebody has pinged.
pub const STUBBORN: u64 = 8;
/// Events that wait for a watcher.
pub const EVENTS: usize = 4;

/// What the fake knows, and what it was asked to do.
#[derive(Default)]
pub struct World {
    pub clients: BTreeMap<ConnId, ClientView>,
    pub closed: Vec<(ConnId, Close)>,
    pub notices: Vec<(Target, String, Level)>,
    pub reload: Option<Result<Reloaded, String>>,
    pub log_level: LogLevel,
    pub reloads: Vec<bool>,
    pub certificate: Option<CertificateView>,
    pub sanctions: Sanctions,
    /// What was ordered, and by whom.
    pub actions: Vec<(String, Action)>,
    /// The stored rooms, and how often their entries were read.
    pub stored: BTreeMap<RoomName, Stream>,
    pub reads: u64,
    /// Why the log can neither read nor store.
    pub broken: Option<String>,
    /// Why bans and mutes cannot be saved.
    pub unsaved: Option<String>,
    /// No more bans and mutes than this.
    pub most: Option<usize>,
    /// There is no room for bans of networks.
    pub no_nets: bool,
    pub wishes: Vec<TokenWish>,
    pub no_secret: Option<String>,
    pub state: State,
    /// How far the drain is, while there is one, and what it was begun with.
    pub drain: Option<watch::Sender<DrainView>>,
    pub drains: Vec<(Duration, Option<String>)>,
    /// The hub answers nothing at all, and its queue holds two.
    pub hung: bool,
    /// Lines of the log at info and above, as "name field=value ...".
    pub log: Vec<String>,
}

pub struct Daemon {
    folder: TempDir,
    pub world: Arc<Mutex<World>>,
    pub events: broadcast::Sender<Arc<Event>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

pub fn client(id: u64, user: &str, nick: &str, address: &str, rooms: &[&str]) -> ClientView {
    let counters = Counters::default();
    counters.frames_in.store(3, Relaxed);
    counters.bytes_in.store(300, Relaxed);
    counters.sendq.store(usize::try_from(id).unwrap() * 1000, Relaxed);
    counters.rtt.store(12_500, Relaxed);
    let since = SystemTime::now() - Duration::from_secs(1000 * id);
    counters.heard.store(1000 * 1000 * id, Relaxed);
    ClientView {
        peer: Arc::new(Peer {
            id: ConnId(id),
            address: address.parse::<IpAddr>().unwrap(),
            port: 40_000,
            dialect: if id.is_multiple_of(2) { Dialect::Text } else { Dialect::Json },
            tls: Some(TlsVersion::V1_3),
            alpn: Some(Alpn::Http1),
            proxied: false,
            origin: Some("https://example.org".into()),
            agent: Some("Evil\u{1b}[31m\tAgent\u{9b}2J".into()),
            since,
            user: std::sync::OnceLock::new(),
            counters,
        }),
        user: Some(UserId::parse(user).unwrap()),
        nick: Some(Nick::parse(nick).unwrap()),
        rooms: rooms.iter().map(|room| RoomName::parse(room).unwrap()).collect(),
        resumed: false,
        token_exp: None,
        moderator: false,
    }
}

/// Three people.
pub fn some() -> World {
    let clients = [
        client(1, "u1", "Ann", "192.0.2.1", &["lobby"]),
        client(2, "u2", "大厅", "192.0.2.2", &["lobby", "tea"]),
        client(3, "u3", "Bob", "2001:db8::3", &[]),
    ];
    World { clients: clients.into_iter().map(|view| (view.peer.id, view)).collect(), ..World::default() }
}

impl Daemon {
    pub fn start(world: World) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let world = Arc::new(Mutex::new(world));
        let (events, _) = broadcast::channel(EVENTS);
        let (stop, stopped) = oneshot::channel();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let place = folder.path().to_owned();
        let thread = {
            let (world, events) = (world.clone(), events.clone());
            std::thread::spawn(move || {
                let subscriber = tracing_subscriber::registry().with(Journal(world.clone()));
                let _guard = tracing::subscriber::set_default(subscriber);
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(async {
                    let (hub, hub_inbox) = mpsc::channel(if world.lock().unwrap().hung { 2 } else { 256 });
                    let (daemon, daemon_inbox) = mpsc::channel(256);
                    let state = world.lock().unwrap().state.clone();
                    state.advance(Phase::Serving);
                    let admin = Admin::new(hub, daemon, events, state, Stats::new(2));
                    let (control, _control) =
                        bind::bind(&place.join(Access::Control.file_name()), SOCKET_MODE, None).unwrap();
                    let (push, _push) = bind::bind(&place.join(Access::Push.file_name()), SOCKET_MODE, None).unwrap();
                    tokio::spawn(hub_task(hub_inbox, world.clone()));
                    tokio::spawn(daemon_task(daemon_inbox, world));
                    let (end, ended) = tokio::sync::watch::channel(false);
                    let over = |mut ended: tokio::sync::watch::Receiver<bool>| async move {
                        let _ = ended.wait_for(|over| *over).await;
                    };
                    ready.send(()).unwrap();
                    tokio::join!(
                        serve(control, Access::Control, admin.clone(), over(ended.clone())),
                        serve(push, Access::Push, admin, over(ended)),
                        async {
                            let _ = stopped.await;
                            end.send(true).unwrap();
                        }
                    );
                });
            })
        };
        is_ready.recv().unwrap();
        Daemon { folder, world, events, stop: Some(stop), thread: Some(thread) }
    }

    pub fn control(&self) -> PathBuf {
        self.folder.path().join("control")
    }

    pub fn push(&self) -> PathBuf {
        self.folder.path().join("push")
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// `wschatctl` with these arguments, its output piped.
    pub fn ctl(&self, arguments: &[&str]) -> Ran {
        run(self.command(arguments), b"")
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = ctl_command(arguments);
        command.env("WSCHAT_SOCKET", self.control());
        command
    }

    pub fn json(&self, arguments: &[&str]) -> Value {
        let mut all = vec!["--json"];
        all.extend(arguments);
        let ran = self.ctl(&all);
        assert_eq!(ran.stdout.matches('\n').count(), 1, "one document on one line: {ran:?}");
        serde_json::from_str(&ran.stdout).unwrap_or_else(|e| panic!("{e}: {ran:?}"))
    }

    pub fn raw(&self) -> Raw {
        Raw::connect(&self.control())
    }

    pub fn stop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.stop();
    }
}

pub fn ctl_command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wschatctl"));
    command.args(arguments).env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command
}

#[derive(Debug)]
pub struct Ran {
    pub status: i32,
    pub stdout: String,
    pub stderr: String,
}

pub fn run(mut command: Command, input: &[u8]) -> Ran {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("wschatctl starts");
    // It may be gone before it has read.
    let _ = child.stdin.take().unwrap().write_all(input);
    let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
    Ran {
        status: status.code().unwrap_or(-1),
        stdout: String::from_utf8(stdout).unwrap(),
        stderr: String::from_utf8(stderr).unwrap(),
    }
}

/// Waits for a state. A minute is far more than any of them takes: whoever waits so long has failed.
#[track_caller]
pub fn until(what: &str, mut reached: impl FnMut() -> bool) {
    let begun = std::time::Instant::now();
    while !reached() {
        assert!(begun.elapsed() < Duration::from_secs(60), "never came: {what}");
        std::thread::yield_now();
    }
}

/// A client of ten lines, independent of the one under test.
pub struct Raw(pub UnixStream, Vec<u8>);

impl Raw {
    pub fn connect(path: &Path) -> Self {
        let stream = UnixStream::connect(path).unwrap();
        // A test that waits for ever tells nothing.
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        Raw(stream, Vec::new())
    }

    pub fn send(&mut self, call: Value) {
        self.0.write_all(call.to_string().as_bytes()).unwrap();
        self.0.write_all(b"\0").unwrap();
    }

    /// `None` where the daemon has closed.
    pub fn reply(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.1.iter().position(|byte| *byte == 0) {
                let rest = self.1.split_off(end + 1);
                let message = std::mem::replace(&mut self.1, rest);
                return Some(serde_json::from_slice(&message[..end]).unwrap());
            }
            let mut chunk = [0; 4096];
            match self.0.read(&mut chunk) {
                Ok(0) => return None,
                // Closed with bytes of ours unread.
                Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => return None,
                Ok(read) => self.1.extend_from_slice(&chunk[..read]),
                Err(e) => panic!("{e}"),
            }
        }
    }

    pub fn call(&mut self, method: &str, parameters: Value) -> Value {
        self.send(json!({"method": method, "parameters": parameters}));
        self.reply().expect("an answer")
    }
}

async fn hub_task(mut inbox: mpsc::Receiver<HubRequest>, world: Arc<Mutex<World>>) {
    let mut held = Vec::new();
    let mut stubborn: Vec<mpsc::Sender<Closed>> = Vec::new();
    if world.lock().unwrap().hung {
        // The queue stays, and nobody takes anything out of it.
        return std::future::pending().await;
    }
    while let Some(request) = inbox.recv().await {
        let mut world = world.lock().unwrap();
        match request {
            HubRequest::Counts(reply) => {
                let clients = world.clients.len();
                let _ = reply.send(Counts {
                    clients,
                    users: clients,
                    rooms: 2,
                    messages: 42,
                    rate: 1.5,
                    bans: world.count(SanctionKind::Ban),
                    mutes: world.count(SanctionKind::Mute),
                    health: match &world.broken {
                        None => Health::Good,
                        Some(why) => Health::Failing { why: why.clone(), since: SystemTime::now() },
                    },
                    log: LogCounts {
                        commits: 3,
                        entries: 5,
                        refused: 1,
                        waiting: 2,
                        bytes: 4096,
                        ..LogCounts::default()
                    },
                });
            }
            HubRequest::Clients { filter, after, scan, reply } => {
                let now = SystemTime::now();
                let seen: Vec<&ClientView> = world.clients.values().filter(|v| v.peer.id > after).take(scan).collect();
                let next = (seen.len() == scan).then(|| seen.last().unwrap().peer.id);
                let clients = seen.into_iter().filter(|view| filter.matches(view, now)).cloned().collect();
                let _ = reply.send(ClientPage { clients, next });
            }
            HubRequest::FirstClients { filter, order, bar, after, scan, reply } => {
                let now = SystemTime::now();
                let seen: Vec<&ClientView> = world.clients.values().filter(|v| v.peer.id > after).take(scan).collect();
                let next = (seen.len() == scan).then(|| seen.last().unwrap().peer.id);
                let mut podium = Podium::new(order.most, bar);
                let mut matched = 0;
                for view in seen.into_iter().filter(|view| filter.matches(view, now)) {
                    matched += 1;
                    let rank = match order.key {
                        ClientKey::Sendq => Rank::Number(view.peer.counters.sendq.load(Relaxed) as u64),
                        _ => Rank::Number(view.peer.id.0),
                    };
                    podium.show(Place { rank, descending: order.descending, tie: Tie::Client(view.peer.id) });
                }
                let first = podium.places().into_iter().map(|place| {
                    let Tie::Client(id) = place.tie else { unreachable!("only clients were shown") };
                    (place, world.clients[&id].clone())
                });
                let _ = reply.send(FirstPage { first: first.collect(), next, matched });
            }
            HubRequest::FirstRooms { order, reply, .. } => {
                let mut podium = Podium::new(order.most, None);
                for (name, count) in [("tea", 1), ("lobby", 2)] {
                    let tie = Tie::Room(RoomName::parse(name).unwrap());
                    podium.show(Place { rank: Rank::Number(count), descending: order.descending, tie });
                }
                let first = podium.places().into_iter().map(|place| {
                    let (Tie::Room(name), Rank::Number(count)) = (&place.tie, &place.rank) else {
                        unreachable!("only rooms were shown")
                    };
                    let view = room(name.as_str(), *count as usize);
                    (place, view)
                });
                let _ = reply.send(FirstPage { first: first.collect(), next: None, matched: 2 });
            }
            HubRequest::Client { id: ConnId(HELD), reply } => held.push(reply),
            HubRequest::Client { id, reply } => drop(reply.send(world.clients.get(&id).cloned())),
            HubRequest::Close { ids, close, reply, taken } => {
                let _ = taken.send(());
                for id in ids {
                    let result = match world.clients.remove(&id) {
                        Some(_) => Ok(()),
                        None => Err(CloseError::NotFound),
                    };
                    if result.is_ok() {
                        world.closed.push((id, close.clone()));
                    }
                    if id == ConnId(STUBBORN) {
                        stubborn.push(reply.clone());
                    } else {
                        let _ = reply.try_send(Closed { id, result });
                    }
                }
            }
            HubRequest::Notice { target, text, level, reply } => {
                let matched = match &target {
                    Target::Everyone => world.clients.len() as u64,
                    Target::User(user) => {
                        world.clients.values().filter(|view| view.user.as_ref() == Some(user)).count() as u64
                    }
                    Target::Room(room) => {
                        world.clients.values().filter(|view| view.rooms.contains(room)).count() as u64
                    }
                    Target::Conn(id) => world.clients.contains_key(id).into(),
                };
                // A text that everybody but one hears.
                let delivered = if text == "mumble" { matched.saturating_sub(1) } else { matched };
                world.notices.push((target, text, level));
                let _ = reply.send(Delivery { matched, delivered });
            }
            HubRequest::Rooms(reply) => {
                let _ = reply.send(vec![room("tea", 1), room("lobby", 2)]);
            }
            HubRequest::Room { name, reply } => {
                let members = vec![RoomMember {
                    user: UserId::parse("u1").unwrap(),
                    nick: Nick::parse("Ann").unwrap(),
                    clients: vec![ConnId(1)],
                }];
                let detail = RoomDetail { view: room("lobby", 2), epoch: "e1".into(), kept: 5, members };
                let _ = reply.send((name.as_str() == "lobby").then_some(detail));
            }
            HubRequest::Moderate { by, action, reply } => drop(reply.send(world.moderate(by, action))),
            HubRequest::Sanctions { kind, reply } => {
                let now = SystemTime::now();
                let list = world.sanctions.list(now).filter(|sanction| sanction.kind() == kind);
                drop(reply.send(list.cloned().collect()));
            }
            HubRequest::History { room, range, limit, reply } => {
                world.reads += 1;
                drop(reply.send(world.history(&room, range, limit)));
            }
            HubRequest::StoredRooms { after, limit, reply } => drop(reply.send(world.stored_rooms(after, limit))),
            HubRequest::Ping(reply) => {
                let _ = reply.send(());
                for reply in held.drain(..) {
                    let _ = reply.send(None);
                }
                for reply in stubborn.drain(..) {
                    let _ = reply.try_send(Closed { id: ConnId(STUBBORN), result: Ok(()) });
                }
            }
        }
    }
}

fn room(name: &str, count: usize) -> RoomView {
    RoomView { name: RoomName::parse(name).unwrap(), users: count, clients: count, seq: 7 }
}

async fn daemon_task(mut inbox: mpsc::Receiver<DaemonRequest>, world: Arc<Mutex<World>>) {
    if world.lock().unwrap().hung {
        // The queue stays, and nobody takes anything out of it.
        return std::future::pending().await;
    }
    while let Some(request) = inbox.recv().await {
        let mut world = world.lock().unwrap();
        match request {
            DaemonRequest::Info(reply) => {
                let _ = reply.send(Info {
                    version: "9.9.9",
                    pid: 77,
                    since: SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000),
                    listen: vec!["https://127.0.0.1:9501".into()],
                    config: None,
                    certificate_until: world.certificate.as_ref().map(|certificate| certificate.until),
                    clients_max: 100,
                    store: "sqlite",
                    store_path: Some("/var/lib/wschat/history.db".into()),
                    drain: world.drain.as_ref().map(|drain| drain.borrow().clone()),
                    store_max: Some(8 << 30),
                });
            }
            DaemonRequest::Reload { tls_only, reply } => {
                world.reloads.push(tls_only);
                let _ = reply.send(world.reload.clone().unwrap_or_else(|| Ok(Reloaded::default())));
            }
            DaemonRequest::Drain { over, reason, reply } => {
                world.state.advance(Phase::Draining);
                let left = world.clients.len() as u64;
                let until = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_060);
                let drain = watch::Sender::new(DrainView { matched: left, left, until });
                let _ = reply.send(drain.subscribe());
                world.drain = Some(drain);
                world.drains.push((over, reason));
            }
            DaemonRequest::Resume(reply) => {
                world.state.resume();
                let _ = reply.send(world.drain.take().map(|drain| drain.borrow().clone()));
            }
            DaemonRequest::LogLevel { set, reply } => {
                world.log_level = set.unwrap_or(world.log_level);
                let _ = reply.send(LogLevels { level: world.log_level, configured: LogLevel::Info });
            }
            DaemonRequest::Certificate(reply) => {
                let _ = reply.send(world.certificate.clone());
            }
            // A backup is of a real database: tests/daemon and tests/durable have one.
            DaemonRequest::Backup(reply) => drop(reply.send(Err(wschat::admin::BackupError::NotKept("memory")))),
            DaemonRequest::Token { wish, reply } => {
                let made = format!("token.of.{}", wish.user);
                world.wishes.push(*wish);
                let refused = world.no_secret.clone();
                drop(reply.send(refused.map_or(Ok(made), Err)));
            }
        }
    }
}

/// Keeps what would go to the journal.
struct Journal(Arc<Mutex<World>>);

impl<S: tracing::Subscriber> Layer<S> for Journal {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        if *event.metadata().level() > tracing::Level::INFO {
            return;
        }
        struct Line(String);
        impl Visit for Line {
            fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
                let _ = write!(self.0, " {}={value:?}", field.name());
            }
        }
        let mut line = Line(String::new());
        event.record(&mut line);
        self.0.lock().unwrap().log.push(line.0);
    }
}
