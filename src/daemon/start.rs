//! From a configuration to a daemon that serves.

use std::fs;
use std::io::{IsTerminal, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::thread::JoinHandle;
use std::time::{Instant, SystemTime};

use arc_swap::{ArcSwap, ArcSwapOption};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::runtime::Builder;
use tokio::sync::{broadcast, mpsc, oneshot};

use super::listeners::{Listeners, bind_metrics};
use super::{Daemon, DaemonError, Signals, reload, status_line};
use crate::acme::Keeper;
use crate::admin::Admin;
use crate::cli::exit;
use crate::config::{Config, Store};
use crate::control::bind::{self, SocketFile};
use crate::control::places::{self, Environment};
use crate::control::server::{self, Access};
use crate::guest::GuestKey;
use crate::hub::link::ToWorker;
use crate::hub::{self, HubTask, Inboxes, Kept, Order, link};
use crate::log::{self, Backups, Log, MemoryLog, SqliteLog};
use crate::net::gate::{Gate, GateLimits};
use crate::net::listen::{self, Listener};
use crate::net::page::Page;
use crate::net::{AccessLog, Shared, worker};
use crate::sanctions::Saver;
use crate::state::{Phase, State};
use crate::stats::Stats;
use crate::tls::{self, Certificates};
use crate::token::Tokens;
use crate::{journal, sanctions, systemd};

/// Requests of operators that may wait; beyond, they are told that the daemon is busy.
const OPERATORS: usize = 256;
/// Orders of the daemon itself that may wait for the hub.
const ORDERS: usize = 64;
/// Events that may wait for one who watches; beyond, the oldest are missed and counted.
const EVENTS: usize = 1024;
/// Accepted sockets that may wait for one worker.
const SOCKETS: usize = 256;

/// Runs the daemon until it is told to stop. The exit status; what went wrong is the log's last line.
pub fn run(config: Config, file: Option<PathBuf>) -> u8 {
    // Before any thread: descriptors are taken over from the environment.
    let inherited = systemd::inherited();
    let log_level = journal::start(config.log.level);
    let outcome = inherited
        .map_err(|source| DaemonError::Io { what: "cannot take over systemd's sockets".into(), source })
        .and_then(|inherited| start(config, file, log_level, inherited));
    match outcome {
        Ok(status) => status,
        Err(error) => {
            tracing::error!("cannot start: {error}");
            match error {
                DaemonError::History(why) if why.stays() => exit::DATA,
                _ => exit::FAILED,
            }
        }
    }
}

fn start(
    config: Config,
    file: Option<PathBuf>,
    log_level: journal::LogLevel,
    mut inherited: Vec<(String, std::os::fd::OwnedFd)>,
) -> Result<u8, DaemonError> {
    let started = Instant::now();
    let since = SystemTime::now();
    let descriptors = raise_descriptors()?;
    let environment = Environment::of_process();
    let state_dir = environment.state_dir()?;
    let io = |what: String| move |source| DaemonError::Io { what, source };
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&state_dir)
        .map_err(io(format!("cannot make the state folder {}", state_dir.display())))?;

    let certificates = if config.listen.iter().any(|l| l.tls) {
        reload::certificate(&config, &state_dir, false)?.map(Certificates::new)
    } else {
        None
    };
    let tokens = Tokens::load(&config.auth)?;
    let runtime = Builder::new_current_thread().enable_all().build().map_err(io("cannot start tokio".into()))?;
    let _inside = runtime.enter();
    // Whoever asked us to stop while we start is heard.
    let signals = Signals::new().map_err(io("cannot listen for signals".into()))?;

    let listeners = listen::open(&config.listen, &mut inherited)?;
    if listeners.is_empty() {
        return Err(DaemonError::NoListener);
    }
    let control = control_sockets(&config, &environment)?;
    let metrics = match config.metrics.listen {
        Some(address) => Some((address, bind_metrics(address, &[])?)),
        None => None,
    };

    let state = State::default();
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let (hub_sender, from_workers) = mpsc::channel(link::TO_HUB);
    let guest_key = || GuestKey::load(&state_dir).map_err(io("guests cannot be told apart".into()));
    let stats = Stats::new(workers);
    let shared = Arc::new(Shared {
        stats: stats.clone(),
        page: ArcSwap::from_pointee(Page::new(config.paths.json.as_deref().unwrap_or_default())),
        gate: Gate::new(GateLimits::new(&config.limits, descriptors)),
        guests: guest_key()?,
        tokens: ArcSwap::from_pointee(tokens),
        state: state.clone(),
        access: AccessLog::default(),
        tls: ArcSwapOption::new(certificates.clone().map(tls::server_config).transpose()?),
        challenges: Arc::default(),
        hub: hub_sender,
        next_id: AtomicU64::new(1),
        started,
        config: ArcSwap::from_pointee(config.clone()),
    });

    let mut threads = Vec::new();
    let (mut inboxes, mut sockets) = (Vec::new(), Vec::new());
    for index in 0..workers {
        let (inbox, orders) = mpsc::channel(link::TO_WORKER);
        let (hand, handed) = mpsc::channel(SOCKETS);
        inboxes.push(inbox);
        sockets.push(hand);
        let shared = shared.clone();
        threads.push(thread(format!("wschat-worker{index}"), move || worker::run(index, shared, orders, handed))?);
    }
    let mut rng: StdRng = rand::make_rng();
    let (log, backups) = open_log(&config, &state_dir, &mut rng)?;
    let health = log.health();
    let (events, _) = broadcast::channel(EVENTS);
    let lost = |source| DaemonError::Io { what: "bans and mutes".into(), source };
    let kept = Kept {
        log,
        saver: Saver::start(&state_dir).map_err(lost)?,
        sanctions: sanctions::load(&state_dir).map_err(lost)?,
        guests: guest_key()?,
    };
    let hub_task = HubTask::new(&config, rng.random(), kept, inboxes, events.clone(), started, stats.clone());
    let (operators, from_operators) = mpsc::channel(OPERATORS);
    let (orders, from_daemon) = mpsc::channel(ORDERS);
    let inboxes = Inboxes { workers: from_workers, operators: from_operators, daemon: from_daemon };
    let counted = stats.clone();
    threads.push(thread("wschat-hub".into(), move || {
        counted.hub.thread.begin();
        let runtime = Builder::new_current_thread().enable_time().build()?;
        runtime.block_on(hub_task.run(inboxes));
        Ok(())
    })?);

    let (daemon_requests, requests) = mpsc::channel(OPERATORS);
    let admin = Admin::new(operators, daemon_requests, events, state.clone(), stats.clone());
    let mut files: Vec<SocketFile> = Vec::new();
    let mut servers = Vec::new();
    for (listener, socket_file, access) in control {
        files.push(socket_file);
        let stopped = state.clone();
        let serve =
            server::serve(listener, access, admin.clone(), async move { stopped.reached(Phase::Stopped).await });
        servers.push(runtime.spawn(serve));
    }

    for (name, _) in inherited {
        // Where it was kept for a listener that the configuration no longer has.
        systemd::forget(&name);
    }
    // Ready is who has heard from the hub and every worker; nobody is let in before.
    runtime.block_on(async {
        for index in 0..workers {
            let (answer, answered) = oneshot::channel();
            // A thread that cannot start ends the process, so there is always an answer.
            let _ = orders.send(Order::Worker(index, ToWorker::Alive(answer))).await;
            let _ = answered.await;
        }
    });
    let pages = pages(&listeners, &config);
    // From here on nobody else has an end, so that the workers know when nobody comes any more.
    let mut in_force = Listeners::new(&shared, sockets, admin.clone());
    in_force.begin_all(listeners);
    if let Some((wanted, socket)) = metrics {
        in_force.begin_metrics(wanted, socket);
    }
    reload::tell_unused_files(&config);
    if let Some(certificates) = &certificates {
        let view = certificates.view();
        let until = humantime::format_rfc3339_seconds(view.until);
        tracing::info!("the certificate in force is {}, until {until}", view.source);
        if view.until <= SystemTime::now() {
            tracing::warn!("the certificate has ended: browsers refuse it until it is renewed");
        }
    }
    state.advance(Phase::Serving);
    systemd::ready(&status_line(None, None));
    if !journal::in_use() {
        greet(&pages, files.first().map(SocketFile::path));
    }
    let mut acme = Keeper::new(state_dir.clone(), shared.challenges.clone());
    acme.follow(&config, certificates.as_ref());
    let daemon = Daemon {
        shared,
        certificates,
        acme,
        log_level,
        file,
        state_dir,
        descriptors,
        listeners: in_force,
        since,
        hub: orders,
        admin,
        workers,
        threads,
        requests,
        health,
        drain: None,
        servers,
        backups,
    };
    let status = runtime.block_on(daemon.serve(signals));
    drop(files);
    drop(_inside);
    // A look-up of a name that is still under way could take longer than systemd waits.
    runtime.shutdown_background();
    Ok(status)
}

/// The log that the configuration names, and by what it is copied.
fn open_log(
    config: &Config,
    state_dir: &Path,
    rng: &mut StdRng,
) -> Result<(Box<dyn Log>, Option<Backups>), DaemonError> {
    let retention = hub::retention(config);
    let Some(path) = config.history.database(state_dir) else {
        let kept = if config.history.store == Store::Memory { "in memory, until the daemon stops" } else { "nowhere" };
        tracing::info!("messages are kept {kept}");
        return Ok((Box::new(MemoryLog::new(retention, StdRng::from_rng(rng))), None));
    };
    let options = log::Options { path: path.clone(), retention, commit_every: config.history.commit_every };
    let log = SqliteLog::open(options)?;
    tracing::info!("messages are kept in {}", path.display());
    let backups = log.backups();
    Ok((Box::new(log), Some(backups)))
}

/// Starts a thread that ends the process where it cannot do its work.
fn thread(
    name: String,
    work: impl FnOnce() -> std::io::Result<()> + Send + 'static,
) -> Result<JoinHandle<()>, DaemonError> {
    let what = format!("cannot start the thread {name}");
    let run = move || {
        if let Err(error) = work() {
            tracing::error!("a thread could not start: {error}");
            std::process::exit(exit::FAILED.into());
        }
    };
    std::thread::Builder::new().name(name).spawn(run).map_err(|source| DaemonError::Io { what, source })
}

type ControlSocket = (tokio::net::UnixListener, SocketFile, Access);

fn control_sockets(config: &Config, environment: &Environment) -> Result<Vec<ControlSocket>, DaemonError> {
    let mut sockets = Vec::new();
    let wanted = [
        (&config.control.socket, places::CONTROL, Access::Control),
        (&config.control.push_socket, places::PUSH, Access::Push),
    ];
    for (path, name, access) in wanted {
        let path = match path {
            Some(path) => path.clone(),
            None => {
                let folder = environment.runtime_dir();
                bind::runtime_dir(&folder)?;
                folder.join(name)
            }
        };
        let (listener, file) = bind::bind(&path, places::SOCKET_MODE, Some(access.group()))?;
        sockets.push((listener, file, access));
    }
    Ok(sockets)
}

/// Every connection is a descriptor: the soft limit is raised to the hard one. The limit in force.
fn raise_descriptors() -> Result<usize, DaemonError> {
    let failed = |errno: nix::Error| DaemonError::Io { what: "the limit of open files".into(), source: errno.into() };
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(failed)?;
    if soft < hard && setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_err() {
        return Ok(soft as usize);
    }
    Ok(hard as usize)
}

/// Addresses at which a browser finds the page.
fn pages(listeners: &[Listener], config: &Config) -> Vec<String> {
    let Some(path) = &config.paths.page else { return Vec::new() };
    let mut pages = Vec::new();
    for listener in listeners {
        let Ok(address) = listener.address.parse::<std::net::SocketAddr>() else { continue };
        let scheme = if listener.door.load().tls { "https" } else { "http" };
        let host = match address.ip() {
            ip if ip.is_loopback() || ip.is_unspecified() => "localhost".to_owned(),
            ip if ip.is_ipv6() => format!("[{ip}]"),
            ip => ip.to_string(),
        };
        let page = format!("{scheme}://{host}:{}{path}", address.port());
        if !pages.contains(&page) {
            pages.push(page);
        }
    }
    pages
}

/// For the person who started us by hand.
fn greet(pages: &[String], control: Option<&Path>) {
    let mut out = std::io::stdout();
    let mut text = String::new();
    for page in pages {
        text += &format!("{page}\n");
    }
    if out.is_terminal() {
        text = pages.iter().map(|page| format!("\n  Open      {page}\n")).collect();
        text += "            (the browser warns once about a self-signed certificate: go on)\n";
        if let Some(control) = control {
            text += &format!("  Operate   wschatctl --socket {} list\n", control.display());
        }
        text += "  Stop      Ctrl-C\n\n";
    }
    // Nobody has to read it.
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}
