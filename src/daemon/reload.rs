//! Reading the configuration, the certificate and the keys of tokens again while everything runs.

use std::path::Path;
use std::time::SystemTime;

use super::Daemon;
use crate::admin::Reloaded;
use crate::config::{self, Config};
use crate::hub::Order;
use crate::net::gate::GateLimits;
use crate::net::page::Page;
use crate::tls::{self, Loaded, TlsError};
use crate::token::Tokens;
use crate::{cli, systemd};

impl Daemon {
    /// All or nothing: with any mistake everything stays as it was, and the error says what it is.
    pub(super) async fn reload(&mut self, tls_only: bool) -> Result<Reloaded, String> {
        systemd::reloading();
        let outcome = self.try_reload(tls_only).await;
        self.shared.stats.config.reloaded(outcome.is_ok(), SystemTime::now());
        systemd::ready(&super::status_line(self.counts().await.as_ref()));
        let reloaded = outcome?;
        let words = in_words(&reloaded);
        tracing::info!("reloaded: {words}");
        // Behind the new configuration, where there is one. The hub is gone only when we stop.
        let _ = self.hub.send(Order::Reloaded(words)).await;
        Ok(reloaded)
    }

    async fn try_reload(&mut self, tls_only: bool) -> Result<Reloaded, String> {
        let old = self.shared.config.load_full();
        let mut new =
            if tls_only { Config::clone(&old) } else { cli::load(self.file.as_deref()).map_err(|m| m.to_string())? };
        let certificate = match &self.certificates {
            Some(_) => Some(certificate(&new, &self.state_dir, true).map_err(|e| e.to_string())?),
            None => None,
        };
        let tokens = if tls_only { None } else { Some(Tokens::load(&new.auth).map_err(|e| e.to_string())?) };
        let (live, restart): (Vec<_>, Vec<_>) = config::diff(&old, &new).into_iter().partition(|change| change.reload);
        // What needs a restart keeps its old value until then.
        new.listen.clone_from(&old.listen);
        new.control.clone_from(&old.control);
        new.metrics.clone_from(&old.metrics);
        new.history.store = old.history.store;
        new.history.path.clone_from(&old.history.path);
        new.history.commit_every = old.history.commit_every;

        let replaced = match (&self.certificates, certificate) {
            (Some(certificates), Some(loaded)) => certificates.replace(loaded),
            _ => false,
        };
        let mut changed: Vec<String> = live.into_iter().map(|change| change.key).collect();
        if !changed.is_empty() {
            self.apply(new).await;
        }
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

    async fn apply(&mut self, new: Config) {
        self.shared.gate.set_limits(GateLimits::new(&new.limits, self.descriptors));
        self.shared.page.store(Page::new(new.paths.json.as_deref().unwrap_or_default()).into());
        self.log_level.set(new.log.level);
        self.shared.config.store(new.clone().into());
        // The hub tells the workers, in order with everything else. It is gone only when we stop.
        let _ = self.hub.send(Order::Reload(Box::new(new))).await;
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

/// The certificate that the configuration names, or the self-signed one.
pub(super) fn certificate(config: &Config, state_dir: &Path, refuse_ended: bool) -> Result<Loaded, TlsError> {
    match &config.tls.files {
        Some(files) => tls::load_files(files, refuse_ended),
        None => tls::load_self_signed(&state_dir.join("tls")),
    }
}
