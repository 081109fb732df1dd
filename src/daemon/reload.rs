//! Reading the configuration, the certificate and the keys of tokens again while everything runs.

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use super::Daemon;
use crate::admin::{EventKind, Reloaded};
use crate::config::{self, Config};
use crate::hub::Order;
use crate::net::gate::GateLimits;
use crate::net::page::Page;
use crate::tls::{self, Certificates, Loaded, TlsError};
use crate::token::Tokens;
use crate::{acme, cli, systemd};

impl Daemon {
    /// All or nothing: with any mistake everything stays as it was, and the error says what it is.
    pub(super) async fn reload(&mut self, tls_only: bool) -> Result<Reloaded, String> {
        systemd::reloading();
        let outcome = self.try_reload(tls_only).await;
        self.shared.stats.config.reloaded(outcome.is_ok(), SystemTime::now());
        systemd::ready(&super::status_line(self.counts().await.as_ref(), self.drain_view().as_ref()));
        let reloaded = outcome?;
        let words = in_words(&reloaded);
        tracing::info!("reloaded: {words}");
        // Behind the new configuration, where there is one. The hub is gone only when we stop.
        let _ = self.hub.send(Order::Happened(EventKind::Reload, words)).await;
        Ok(reloaded)
    }

    /// Everything that can fail comes first, binding last of it, so that nothing has to be taken back.
    async fn try_reload(&mut self, tls_only: bool) -> Result<Reloaded, String> {
        let old = self.shared.config.load_full();
        let mut new =
            if tls_only { Config::clone(&old) } else { cli::load(self.file.as_deref()).map_err(|m| m.to_string())? };
        let certificates = self.certificates_for(&new).map_err(|e| e.to_string())?;
        acme::check(&new.tls.acme)?;
        let tokens = if tls_only { None } else { Some(Tokens::load(&new.auth).map_err(|e| e.to_string())?) };
        let (live, restart): (Vec<_>, Vec<_>) = config::diff(&old, &new).into_iter().partition(|change| change.reload);
        // What needs a restart keeps its old value until then.
        new.control.clone_from(&old.control);
        new.history.store = old.history.store;
        new.history.path.clone_from(&old.history.path);
        let listeners = if tls_only { None } else { Some(self.listeners.prepare(&new).map_err(|e| e.to_string())?) };

        let replaced = self.take_over(certificates);
        // Behind the certificate, which a new listener may need.
        if let Some(listeners) = listeners {
            self.listeners.apply(listeners);
        }
        tell_unused_files(&new);
        let mut changed: Vec<String> = live.into_iter().map(|change| change.key).collect();
        if !changed.is_empty() {
            self.apply(new).await;
        }
        self.acme.follow(&self.shared.config.load(), self.certificates.as_ref());
        if let Some(tokens) = tokens {
            // Under the same name there may be another key.
            for key in tokens.changed(&self.shared.tokens.load()) {
                if !changed.iter().any(|known| known == key) {
                    changed.push(key.to_owned());
                }
            }
            self.shared.tokens.store(tokens.into());
        }
        Ok(Reloaded { changed, needs_restart: restart.into_iter().map(|c| c.key).collect(), certificate: replaced })
    }

    /// The certificate that the listeners of `new` need; where there was none before, with what
    /// handshakes need besides.
    fn certificates_for(&self, new: &Config) -> Result<NewCertificate, TlsError> {
        if !new.listen.iter().any(|listen| listen.tls) {
            return Ok(NewCertificate::Unused);
        }
        let in_force = self.certificates.is_some();
        let Some(loaded) = certificate(new, &self.state_dir, in_force)? else { return Ok(NewCertificate::Same) };
        if in_force {
            return Ok(NewCertificate::Next(Box::new(loaded)));
        }
        let certificates = Certificates::new(loaded);
        let config = tls::server_config(certificates.clone())?;
        Ok(NewCertificate::First(certificates, config))
    }

    /// Whether another certificate is in force than before.
    fn take_over(&mut self, new: NewCertificate) -> bool {
        match (new, &self.certificates) {
            (NewCertificate::Next(loaded), Some(certificates)) => certificates.replace(*loaded),
            (NewCertificate::First(certificates, config), _) => {
                self.shared.tls.store(Some(config));
                self.certificates = Some(certificates);
                true
            }
            // What handshakes need stays for those that are under way.
            (NewCertificate::Unused, _) => {
                self.certificates = None;
                false
            }
            (NewCertificate::Same, _) | (NewCertificate::Next(_), None) => false,
        }
    }

    async fn apply(&mut self, new: Config) {
        self.shared.gate.set_limits(GateLimits::new(&new.limits, self.descriptors));
        self.shared.page.store(Page::new(new.paths.json.as_deref().unwrap_or_default()).into());
        // A level that an operator has set holds until the file says another than it did.
        if new.log.level != self.shared.config.load().log.level {
            self.log_level.set(new.log.level);
        }
        self.shared.config.store(new.clone().into());
        // The hub tells the workers, in order with everything else. It is gone only when we stop.
        let _ = self.hub.send(Order::Reload(Box::new(new))).await;
    }
}

/// What a reload found of certificates.
enum NewCertificate {
    /// No listener speaks TLS: nothing was read.
    Unused,
    /// The one in force stays, until a CA has given another.
    Same,
    /// There was one before.
    Next(Box<Loaded>),
    First(Arc<Certificates>, Arc<rustls::ServerConfig>),
}

/// Files of a certificate that nobody is shown are no mistake, but hardly what was meant.
pub(super) fn tell_unused_files(config: &Config) {
    if let (Some(files), false) = (&config.tls.files, config.listen.iter().any(|listen| listen.tls)) {
        let path = files.certificate.display();
        tracing::info!("no listener speaks TLS, so the certificate {path} is neither read nor used");
    }
}

fn in_words(reloaded: &Reloaded) -> String {
    let mut parts = Vec::new();
    if !reloaded.changed.is_empty() {
        parts.push(format!("changed {}", reloaded.changed.join(", ")));
    }
    if reloaded.certificate {
        parts.push("a new certificate is in force".into());
    }
    if !reloaded.needs_restart.is_empty() {
        parts.push(format!("{} wait for a restart", reloaded.needs_restart.join(", ")));
    }
    if parts.is_empty() { "nothing has changed".into() } else { parts.join("; ") }
}

/// The certificate that the configuration names, or the self-signed one. `in_force`: there is another
/// that serves; then one that has ended is refused, and `None` means that the other stays until a CA has
/// given one.
pub(super) fn certificate(config: &Config, state_dir: &Path, in_force: bool) -> Result<Option<Loaded>, TlsError> {
    if let Some(files) = &config.tls.files {
        return tls::load_files(files, in_force).map(Some);
    }
    let asks_a_ca = !config.tls.acme.names.is_empty();
    if asks_a_ca && let Some(kept) = acme::kept(state_dir, &config.tls.acme) {
        return Ok(Some(kept));
    }
    if asks_a_ca && in_force {
        return Ok(None);
    }
    tls::load_self_signed(&state_dir.join("tls")).map(Some)
}
