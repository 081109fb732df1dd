//! The daemon: the one place that knows everyone. It starts, serves, reloads, drains and stops.

mod drain;
mod listeners;
mod reload;
mod start;
mod watchdog;

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use humantime::{format_duration, format_rfc3339_seconds};
use thiserror::Error;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::acme::Keeper;
use crate::admin::{Admin, BackupError, CertificateView, Counts, DaemonRequest, DrainView, EventKind, Info, LogLevels};
use crate::cli::exit;
use crate::config::Level;
use crate::hub::Order;
use crate::hub::link::ToWorker;
use crate::journal::LogLevel;
use crate::log::{Backups, Health};
use crate::net::Shared;
use crate::state::Phase;
use crate::systemd;
use crate::tls::Certificates;
use crate::wire::close;
use drain::{Drain, Means};

use listeners::Listeners;
pub use start::run;

/// How often systemd's status line and the like are brought up to date.
const HOUSEKEEPING: Duration = Duration::from_secs(2);
/// Connections come or gone since memory was last given back that make it worth a try.
const TRIM_AFTER: usize = 1000;
/// How long the hub has to say how many are here.
const COUNT_WAIT: Duration = Duration::from_millis(500);
/// How often the certificate's age is looked at.
const CERTIFICATE_CHECK: Duration = Duration::from_secs(6 * 3600);

/// Why the daemon cannot run.
#[derive(Debug, Error)]
pub enum DaemonError {
    #[error(transparent)]
    Listen(#[from] crate::net::listen::ListenError),
    #[error(transparent)]
    Tls(#[from] crate::tls::TlsError),
    #[error(transparent)]
    Key(#[from] crate::token::KeyError),
    #[error(transparent)]
    Control(#[from] crate::control::bind::BindError),
    #[error(transparent)]
    Place(#[from] crate::control::places::PlaceError),
    #[error(transparent)]
    History(#[from] crate::log::OpenError),
    #[error("{what}: {source}")]
    Io { what: String, source: std::io::Error },
    #[error("none of the addresses to listen on exists on this machine; set one in [[listen]]")]
    NoListener,
}

/// What runs.
struct Daemon {
    shared: Arc<Shared>,
    certificates: Option<Arc<Certificates>>,
    acme: Keeper,
    log_level: LogLevel,
    file: Option<std::path::PathBuf>,
    state_dir: std::path::PathBuf,
    descriptors: usize,
    listeners: Listeners,
    since: SystemTime,
    hub: mpsc::Sender<Order>,
    admin: Admin,
    workers: usize,
    threads: Vec<JoinHandle<()>>,
    requests: mpsc::Receiver<DaemonRequest>,
    health: watch::Receiver<Health>,
    /// Present while the state is draining.
    drain: Option<Drain>,
    /// The control sockets' tasks.
    servers: Vec<tokio::task::JoinHandle<()>>,
    /// Absent where nothing is kept on disk.
    backups: Option<Backups>,
}

/// What the daemon turns to next.
enum Turn {
    Stop,
    Reload,
    Request(DaemonRequest),
    Housekeeping,
    /// Whether messages can be stored has changed, or why not.
    Health,
    Certificate,
}

impl Daemon {
    /// Serves until a signal says stop, then stops. The exit status.
    async fn serve(mut self, mut signals: Signals) -> u8 {
        let mut housekeeping = interval(HOUSEKEEPING);
        housekeeping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut certificate = interval(CERTIFICATE_CHECK);
        certificate.tick().await;
        let watchdog = systemd::watchdog().map(|every| {
            let (hub, state) = (self.hub.clone(), self.shared.state.clone());
            tokio::spawn(watchdog::watch(every / 2, hub, self.workers, state, systemd::feed_watchdog))
        });
        let mut trimmed = 0;
        let mut told = String::new();
        let mut failing = None;
        loop {
            let turn = tokio::select! {
                () = signals.stop.recv() => Turn::Stop,
                _ = signals.hangup.recv() => Turn::Reload,
                Some(request) = self.requests.recv() => Turn::Request(request),
                Ok(()) = self.health.changed() => Turn::Health,
                _ = housekeeping.tick() => Turn::Housekeeping,
                _ = certificate.tick() => Turn::Certificate,
            };
            match turn {
                Turn::Stop => break,
                Turn::Reload => {
                    if let Err(why) = self.reload(false).await {
                        tracing::error!("nothing was reloaded: {why}");
                    }
                }
                Turn::Request(request) => {
                    if self.answer(request).await {
                        // systemd's status line says it, too.
                        housekeeping.reset_immediately();
                    }
                }
                Turn::Health => {
                    self.tell_health(&mut failing);
                    // systemd's status line says it, too.
                    housekeeping.reset_immediately();
                }
                Turn::Housekeeping => {
                    // Where the hub does not answer there is nothing new to tell.
                    let Some(counts) = self.counts().await else { continue };
                    if counts.clients.abs_diff(trimmed) > TRIM_AFTER {
                        give_memory_back();
                        trimmed = counts.clients;
                    }
                    let status = status_line(Some(&counts), self.drain_view().as_ref());
                    if status != told {
                        systemd::status(&status);
                        told = status;
                    }
                }
                Turn::Certificate => self.renew_self_signed(),
            }
        }
        self.stop(&mut signals.stop, watchdog).await
    }

    /// Says once that messages are refused, and once that they no longer are. `failing`: since when.
    fn tell_health(&mut self, failing: &mut Option<SystemTime>) {
        let health = self.health.borrow_and_update().clone();
        match (health, &*failing) {
            (Health::Failing { why, since }, None) => {
                tracing::error!("messages are refused until they can be stored again: {why}");
                *failing = Some(since);
            }
            (Health::Good, Some(since)) => {
                let lasted = since.elapsed().unwrap_or_default().as_secs();
                tracing::info!("messages are stored again, after {}", format_duration(Duration::from_secs(lasted)));
                *failing = None;
            }
            (Health::Good, None) | (Health::Failing { .. }, Some(_)) => {}
        }
    }

    /// `None`: the hub has more to do than to be counted. A signal must not wait for it.
    async fn counts(&self) -> Option<Counts> {
        timeout(COUNT_WAIT, self.admin.counts()).await.ok()?.ok()
    }

    /// True: the daemon's state is another one now.
    async fn answer(&mut self, request: DaemonRequest) -> bool {
        match request {
            // Whoever asked may have gone.
            DaemonRequest::Reload { tls_only, reply } => drop(reply.send(self.reload(tls_only).await)),
            DaemonRequest::Drain { over, reason, reply } => {
                drop(reply.send(self.begin_drain(over, reason).await));
                return true;
            }
            DaemonRequest::Resume(reply) => {
                drop(reply.send(self.resume().await));
                return true;
            }
            look => self.show(look),
        }
        false
    }

    /// Newcomers are refused from now on, and everybody who is here is asked to go. What is left of a
    /// drain under way goes by the new time.
    async fn begin_drain(&mut self, over: Duration, reason: Option<String>) -> watch::Receiver<DrainView> {
        self.shared.state.advance(Phase::Draining);
        let means = Means { gate: self.shared.gate.clone(), hub: self.hub.clone(), workers: self.workers };
        let mut close = close::DRAINING.close();
        if let Some(reason) = reason {
            close.reason = reason;
        }
        let drain = Drain::begin(means, over, close, self.drain.take());
        let view = drain.view();
        let detail = format!("{} over {}", some(view.left as usize, "connection"), format_duration(over));
        let watched = drain.watch();
        self.drain = Some(drain);
        // The hub is gone only when we stop.
        let _ = self.hub.send(Order::Happened(EventKind::Drain, detail)).await;
        watched
    }

    /// Nobody else is asked to go, and newcomers are let in again. `None`: there was no drain.
    async fn resume(&mut self) -> Option<DrainView> {
        let drain = self.drain.take()?;
        drain.halt();
        // Before those who wait for the drain learn that it is no more, so that they see why.
        self.shared.state.resume();
        let view = drain.stop().await;
        let detail = format!("{} of {} had gone", view.done(), some(view.matched as usize, "connection"));
        // The hub is gone only when we stop.
        let _ = self.hub.send(Order::Happened(EventKind::Resume, detail)).await;
        Some(view)
    }

    fn drain_view(&self) -> Option<DrainView> {
        self.drain.as_ref().map(Drain::view)
    }

    /// Answers what changes nothing, which may be asked for until the end.
    fn show(&self, request: DaemonRequest) {
        // Whoever asked may have gone.
        match request {
            DaemonRequest::Info(reply) => drop(reply.send(self.info())),
            DaemonRequest::Certificate(reply) => drop(reply.send(self.certificate())),
            DaemonRequest::LogLevel { set, reply } => drop(reply.send(self.log_levels(set))),
            DaemonRequest::Backup(reply) => {
                let nothing = || BackupError::NotKept(self.shared.config.load().history.store.as_str());
                drop(reply.send(self.backups.as_ref().ok_or_else(nothing).and_then(Backups::begin)));
            }
            DaemonRequest::Token { wish, reply } => {
                let token = self.shared.tokens.load().mint(&wish, SystemTime::now());
                drop(reply.send(token.map_err(|why| why.to_string())));
            }
            DaemonRequest::Reload { reply, .. } => drop(reply.send(Err("the daemon is stopping".into()))),
            // Without an answer they are told that the daemon is stopping.
            DaemonRequest::Drain { .. } | DaemonRequest::Resume(_) => {}
        }
    }

    fn info(&self) -> Info {
        let history = &self.shared.config.load().history;
        Info {
            version: env!("CARGO_PKG_VERSION"),
            pid: std::process::id(),
            since: self.since,
            listen: self.listeners.in_words(),
            config: self.file.as_ref().map(|f| f.display().to_string()),
            certificate_until: self.certificate().map(|view| view.until),
            clients_max: self.shared.gate.limits().clients,
            store: history.store.as_str(),
            store_path: history.database(&self.state_dir).map(|path| path.display().to_string()),
            drain: self.drain_view(),
            store_max: history.database(&self.state_dir).map(|_| history.max_size as u64).filter(|most| *most > 0),
        }
    }

    fn log_levels(&self, set: Option<Level>) -> LogLevels {
        if let Some(level) = set {
            self.log_level.set(level);
        }
        LogLevels { level: self.log_level.get(), configured: self.shared.config.load().log.level }
    }

    fn certificate(&self) -> Option<CertificateView> {
        self.certificates.as_ref().map(|c| CertificateView { renewal: self.acme.view(), ..c.view() })
    }

    /// Everybody is told and closed in order; who is still there after the grace period is cut. A
    /// second signal cuts at once.
    async fn stop(mut self, stop: &mut StopSignals, watchdog: Option<tokio::task::JoinHandle<()>>) -> u8 {
        let config = self.shared.config.load_full();
        let grace = config.shutdown.grace;
        let clients = self.shared.gate.clients();
        tracing::info!(clients, "stopping: closing {} within {}", some(clients, "connection"), format_duration(grace));
        self.shared.state.advance(Phase::Stopping);
        self.listeners.stop();
        systemd::stopping(grace);
        if let Some(drain) = self.drain.take() {
            drain.stop().await;
        }
        let mut cuts = Vec::new();
        for index in 0..self.workers {
            let (cut, was_cut) = oneshot::channel();
            let order = ToWorker::Stop { close: close::STOPPING.close(), grace, cut };
            if self.hub.send(Order::Worker(index, order)).await.is_ok() {
                cuts.push(was_cut);
            }
        }
        let all_gone = async {
            let mut total = 0;
            for cut in &mut cuts {
                total += cut.await.unwrap_or(0);
            }
            total
        };
        // Operators may still look while it stops.
        let mut requests = std::mem::replace(&mut self.requests, mpsc::channel(1).1);
        let answering = async {
            while let Some(request) = requests.recv().await {
                self.show(request);
            }
            std::future::pending::<()>().await;
        };
        let cut = tokio::select! {
            total = all_gone => total,
            () = answering => unreachable!("pending never ends"),
            () = stop.recv() => {
                let left = self.shared.gate.clients();
                tracing::warn!(cut = left, "stopped at once by a second signal: {} cut", some(left, "connection"));
                return exit::OK;
            }
        };
        self.shared.state.advance(Phase::Stopped);
        if let Some(watchdog) = watchdog {
            // It holds an end of the hub's queue, which must be gone for the hub to end.
            watchdog.abort();
            let _ = watchdog.await;
        }
        drop(self.hub);
        for thread in self.threads {
            // A panic ends the process (see Cargo.toml), so there is nothing to learn here.
            let _ = thread.join();
        }
        // Now nothing answers any more: each call under way is told so, within the servers' own grace.
        for server in self.servers {
            let _ = server.await;
        }
        let closed = clients.saturating_sub(cut);
        tracing::info!(closed, cut, "stopped: {} closed in order, {cut} cut", some(closed, "connection"));
        exit::OK
    }

    fn renew_self_signed(&self) {
        // It serves also while a CA has given none yet.
        if let Some(certificates) = self.certificates.as_ref().filter(|certificates| certificates.is_self_signed()) {
            match crate::tls::load_self_signed(&self.state_dir.join("tls")) {
                Ok(loaded) => {
                    if certificates.replace(loaded) {
                        tracing::info!("a new self-signed certificate is in force");
                    }
                }
                Err(error) => tracing::error!("the self-signed certificate was not renewed: {error}"),
            }
        }
    }
}

/// What `systemctl status` shows; no `counts`: nobody has been counted yet.
fn status_line(counts: Option<&Counts>, drain: Option<&DrainView>) -> String {
    let (clients, rooms) = counts.map_or((0, 0), |counts| (counts.clients, counts.rooms));
    let line = match drain {
        None => format!("serving {} in {}", some(clients, "client"), some(rooms, "room")),
        Some(DrainView { matched, left: 0, .. }) => format!("drained: all {matched} have gone, newcomers are refused"),
        Some(DrainView { matched, left, until }) => {
            format!("draining: {left} of {matched} left, until {}", format_rfc3339_seconds(*until))
        }
    };
    match counts.map(|counts| &counts.health) {
        Some(Health::Failing { why, .. }) => format!("{line}; messages are refused: {why}"),
        _ => line,
    }
}

fn some(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// Gives back to the system what the handshakes of thousands, or those who have gone, leave in the
/// allocator's pools.
fn give_memory_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim(3) may be called at any time, from any thread; it takes no pointers.
    unsafe {
        nix::libc::malloc_trim(0);
    }
}

/// The signals that mean something to us.
struct Signals {
    stop: StopSignals,
    hangup: Signal,
}

struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Signals {
            stop: StopSignals {
                terminate: signal(SignalKind::terminate())?,
                interrupt: signal(SignalKind::interrupt())?,
            },
            hangup: signal(SignalKind::hangup())?,
        })
    }
}

impl StopSignals {
    async fn recv(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
