//! Certificates from a CA by ACME (RFC 8555): when one is asked for, how often after a failure, and
//! what is kept in the state folder. Names are proved by TLS-ALPN-01 (RFC 8737).
//!
//! One task on the main runtime does all of it and owns nothing else: handshakes take what
//! [`Challenges`] and [`Certificates`] hold, and connections never wait for a CA.

mod challenge;
mod failure;
mod http;
mod order;
mod pace;
mod store;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use humantime::format_rfc3339_seconds;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::timeout;

pub use challenge::Challenges;
use failure::AcmeError;
use pace::Due;
use store::Store;

use crate::config::{Acme, Address, Config};
use crate::tls::{CertificateView, Certificates, Loaded, Renewal};

/// Everything that one attempt may take, the CA's own waiting included.
const ATTEMPT: Duration = Duration::from_secs(10 * 60);
/// Where the CA looks (RFC 8737, section 3).
const CA_PORT: u16 = 443;

/// The certificate that an earlier run got for just these names from this directory, if it lasts still.
/// One that is damaged is set aside, with a warning.
pub fn kept(state_dir: &Path, settings: &Acme) -> Option<Loaded> {
    Store::new(state_dir, settings).certificate()
}

/// What in the configuration cannot work: a file of roots that is missing or damaged. Reads it.
///
/// # Errors
///
/// Which file, and what is wrong with it.
pub fn check(settings: &Acme) -> Result<(), String> {
    if settings.names.is_empty() {
        return Ok(());
    }
    http::check_roots(settings.ca_file.as_deref()).map_err(|error| error.to_string())
}

/// What [`CertificateView::source`] says of a certificate that was got for these names.
fn source(settings: &Acme) -> String {
    format!("ACME: {} of {}", settings.names.join(", "), settings.directory)
}

/// Keeps a CA's certificate in force for as long as the configuration asks for one.
#[derive(Debug)]
pub struct Keeper {
    state_dir: PathBuf,
    challenges: Arc<Challenges>,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    settings: Acme,
    certificates: Arc<Certificates>,
    status: Arc<Status>,
    /// An operator has mended something: what failed is tried again.
    again: Arc<Notify>,
    task: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        // The challenges that it had begun end with it.
        self.task.abort();
    }
}

impl Keeper {
    /// Asks nobody yet.
    pub fn new(state_dir: PathBuf, challenges: Arc<Challenges>) -> Self {
        Keeper { state_dir, challenges, running: None }
    }

    /// Does what the configuration says from now on. With the same settings as before, an attempt that
    /// has failed is made again at once, unless the CA has asked for more time. `certificates`: where
    /// the certificate goes; absent where no listener uses TLS. Must be called inside a runtime.
    pub fn follow(&mut self, config: &Config, certificates: Option<&Arc<Certificates>>) {
        let settings = &config.tls.acme;
        let Some(certificates) = certificates.filter(|_| !settings.names.is_empty()) else {
            self.running = None;
            return;
        };
        if let Some(running) = &self.running
            && running.settings == *settings
            && Arc::ptr_eq(&running.certificates, certificates)
        {
            running.again.notify_one();
            return;
        }
        let at_443 = |address: &Address| matches!(address, Address::Tcp(at) if at.port() == CA_PORT);
        if !config.listen.iter().any(|listen| listen.tls && at_443(&listen.address)) {
            tracing::warn!(
                "tls.acme: no listener with TLS is at port {CA_PORT}, where the CA looks; what reaches port {CA_PORT} of \
                 {} must be forwarded to one",
                settings.names.join(", ")
            );
        }
        let status = Arc::new(Status(Mutex::new(Renewal {
            names: settings.names.clone(),
            directory: settings.directory.clone(),
            next: None,
            error: None,
            failures: 0,
        })));
        let again = Arc::new(Notify::new());
        let task = Task {
            store: Store::new(&self.state_dir, settings),
            settings: settings.clone(),
            challenges: self.challenges.clone(),
            certificates: certificates.clone(),
            status: status.clone(),
            again: again.clone(),
        };
        let task = tokio::spawn(task.run());
        let (settings, certificates) = (settings.clone(), certificates.clone());
        self.running = Some(Running { settings, certificates, status, again, task });
    }

    /// How it stands; `None` where no CA is asked.
    pub fn view(&self) -> Option<Renewal> {
        self.running.as_ref().map(|running| running.status.lock().clone())
    }
}

/// What operators are told; held for a few assignments only.
#[derive(Debug)]
struct Status(Mutex<Renewal>);

impl Status {
    fn lock(&self) -> MutexGuard<'_, Renewal> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Task {
    settings: Acme,
    store: Store,
    challenges: Arc<Challenges>,
    certificates: Arc<Certificates>,
    status: Arc<Status>,
    again: Arc<Notify>,
}

impl Task {
    async fn run(self) {
        let mut due = match self.in_force() {
            Some(view) => Due::at(pace::renew_at(view.from, view.until)),
            None => Due::after(Duration::ZERO),
        };
        let mut failures = 0;
        // Sooner than this the CA does not want to be asked.
        let mut closed_until = None;
        loop {
            self.status.lock().next = Some(due.wall());
            self.wait(&due, failures > 0, closed_until).await;
            self.status.lock().next = None;
            let names = self.settings.names.join(", ");
            if failures == 0 {
                tracing::info!("asking {} for a certificate for {names}", self.settings.directory);
            }
            let (outcome, retry_after) = self.attempt().await;
            let now = SystemTime::now();
            closed_until = retry_after.filter(|time| *time > now);
            due = match outcome {
                Ok(loaded) => {
                    let view = loaded.view.clone();
                    self.certificates.replace(loaded);
                    let next = pace::renew_at(view.from, view.until);
                    let until = format_rfc3339_seconds(view.until);
                    if next > now {
                        failures = 0;
                        self.status.lock().error = None;
                        tracing::info!(
                            "a certificate for {names} from {} is in force until {until}; it is renewed at {}",
                            self.settings.directory,
                            format_rfc3339_seconds(next)
                        );
                        Due::at(next)
                    } else {
                        // It would be asked for again and again.
                        failures += 1;
                        tracing::warn!(
                            "a certificate for {names} is in force, but by this machine's clock it is to be renewed \
                             already, for it ends at {until}: is the clock right?"
                        );
                        Due::after(pace::backoff(failures, true, None))
                    }
                }
                Err(error) => {
                    failures = failures.saturating_add(1);
                    self.failed(&error, failures, closed_until)
                }
            };
            self.status.lock().failures = failures;
        }
    }

    /// One attempt, and until when the CA wants to be left alone.
    async fn attempt(&self) -> (Result<Loaded, AcmeError>, Option<SystemTime>) {
        let manners = http::Manners::default();
        let obtain = order::obtain(&self.settings, &self.store, &self.challenges, &manners);
        let outcome = timeout(ATTEMPT, obtain).await.unwrap_or(Err(AcmeError::TooSlow));
        (outcome, manners.retry_after())
    }

    /// Tells it, and when to try again.
    fn failed(&self, error: &AcmeError, failures: u32, closed_until: Option<SystemTime>) -> Due {
        let now = SystemTime::now();
        let in_force = self.in_force();
        let left = in_force.as_ref().and_then(|view| view.until.duration_since(now).ok());
        let delay = pace::backoff(failures, error.reached(), left);
        let closed = closed_until.and_then(|time| time.duration_since(now).ok());
        let delay = closed.map_or(delay, |closed| delay.max(closed));
        let due = Due::after(delay);
        let next = format_rfc3339_seconds(due.wall());
        let (names, directory) = (self.settings.names.join(", "), &self.settings.directory);
        let told = format!("no certificate for {names} from {directory}: {error} (tried again at {next}");
        let lasting = in_force.as_ref().map(|view| (view.from, view.until));
        let alarm = pace::is_alarm(lasting, now, error.reached(), failures);
        let meanwhile = match &in_force {
            Some(view) => format!("the one in force ends at {}", format_rfc3339_seconds(view.until)),
            None => format!("meanwhile this serves: {}", self.certificates.view().source),
        };
        if alarm {
            tracing::error!(failures, "{told}; {meanwhile})");
        } else {
            tracing::warn!(failures, "{told}; {meanwhile})");
        }
        self.status.lock().error = Some((now, error.to_string()));
        due
    }

    /// The certificate in force, where it is one of these settings.
    fn in_force(&self) -> Option<CertificateView> {
        Some(self.certificates.view()).filter(|view| view.source == source(&self.settings))
    }

    /// Until it is due, or an operator asks for what has failed before.
    async fn wait(&self, due: &Due, failed: bool, closed_until: Option<SystemTime>) {
        loop {
            tokio::select! {
                () = due.reached() => return,
                () = self.again.notified() => {
                    if failed && closed_until.is_none_or(|time| time <= SystemTime::now()) {
                        return;
                    }
                }
            }
        }
    }
}
