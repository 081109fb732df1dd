//! What we say to systemd and get from it: readiness, status, watchdog, and the descriptor store.
//!
//! Without systemd everything here does nothing. See sd_notify(3), sd_listen_fds(3).

use std::io;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::time::Duration;

use sd_notify::NotifyState;

/// The longest name that a stored descriptor may have.
const NAME: usize = 255;

/// Descriptors handed to us, with their names: from a socket unit, or kept over a restart. To be
/// called once, before any thread runs.
pub fn inherited() -> io::Result<Vec<(String, OwnedFd)>> {
    let handed = sd_notify::listen_fds_with_names()?;
    Ok(handed
        .map(|(fd, name)| {
            // SAFETY: systemd gives us these descriptors (LISTEN_PID is ours), nothing else in this
            // process has touched them yet, and each is taken once.
            (name, unsafe { OwnedFd::from_raw_fd(fd) })
        })
        .collect())
}

/// The name under which the listener at `address` is kept.
pub fn listener_name(address: &str) -> String {
    let name: String = address.chars().map(|c| if c.is_ascii_graphic() && c != ':' { c } else { '_' }).collect();
    name[..name.len().min(NAME)].to_owned()
}

/// Has systemd keep a listening socket while we restart, so that who connects meanwhile waits.
pub fn keep(name: &str, socket: &impl AsFd) {
    let state = [NotifyState::FdStore, NotifyState::FdName(name)];
    said(sd_notify::notify_with_fds(&state, &[socket.as_fd()]));
}

/// Lets go of a socket that is kept and no longer wanted.
pub fn forget(name: &str) {
    said(sd_notify::notify(&[NotifyState::FdStoreRemove, NotifyState::FdName(name)]));
}

pub fn ready(status: &str) {
    said(sd_notify::notify(&[NotifyState::Ready, NotifyState::Status(status)]));
}

pub fn status(status: &str) {
    said(sd_notify::notify(&[NotifyState::Status(status)]));
}

pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => said(sd_notify::notify(&[NotifyState::Reloading, now])),
        Err(error) => tracing::warn!("systemd is not told of the reload: {error}"),
    }
}

/// We stop, and it may take `grace`.
pub fn stopping(grace: Duration) {
    let extra = grace + Duration::from_secs(5);
    let micros = u32::try_from(extra.as_micros()).unwrap_or(u32::MAX);
    said(sd_notify::notify(&[
        NotifyState::Stopping,
        NotifyState::Status("stopping"),
        NotifyState::ExtendTimeoutUsec(micros),
    ]));
}

pub fn watchdog() -> Option<Duration> {
    sd_notify::watchdog_enabled()
}

pub fn feed_watchdog() {
    said(sd_notify::notify(&[NotifyState::Watchdog]));
}

fn said(result: io::Result<()>) {
    if let Err(error) = result {
        tracing::warn!("systemd cannot be told anything: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_hold_nothing_that_systemd_refuses() {
        assert_eq!(listener_name("[::]:9501"), "[__]_9501");
        assert_eq!(listener_name("/run/a b.sock"), "/run/a_b.sock");
        assert_eq!(listener_name(&"x".repeat(300)).len(), 255);
    }
}
