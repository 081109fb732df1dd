//! The listening sockets in force, the browsers' and the metrics': opened, closed and changed while
//! everything runs.
//!
//! It owns which sockets there are and in which order they come and go; how one is bound belongs to
//! `net::listen`, what comes through one to `net` and `metrics`. A change has two steps: whatever can
//! fail is prepared while all stays as it is, and then applied, which cannot fail.

use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};

use super::DaemonError;
use crate::admin::Admin;
use crate::config::{Address, Config, Listen};
use crate::metrics;
use crate::net::Shared;
use crate::net::gate::Gate;
use crate::net::incoming::{Accepted, Door, Incoming};
use crate::net::listen::{self, Leaving, Listener};
use crate::state::{Phase, State};
use crate::stats::Stats;
use crate::systemd;

/// What listens.
pub(super) struct Listeners {
    open: Vec<Open>,
    /// Those of a socket unit that the configuration has no longer. They go on listening all the same,
    /// and nobody could bind them again; so they are there where they are wanted again.
    idle: Vec<Arc<Listener>>,
    metrics: Option<MetricsListener>,
    gate: Arc<Gate>,
    state: State,
    stats: Arc<Stats>,
    admin: Admin,
    /// Where accepted sockets go. The workers end once nobody has such an end any more.
    workers: Vec<mpsc::Sender<Incoming>>,
}

struct Open {
    listener: Arc<Listener>,
    /// Ends the accept loop, with those who are still to be let in.
    close: oneshot::Sender<Vec<Accepted>>,
}

struct MetricsListener {
    wanted: SocketAddr,
    socket: Arc<TcpListener>,
    close: oneshot::Sender<()>,
}

/// Everything that a change needs, bound and checked.
pub(super) struct Prepared {
    /// For each listener of the configuration: the one that stays, or a new one. One whose family
    /// this machine lacks is in neither.
    listeners: Vec<Next>,
    metrics: Option<NextMetrics>,
}

enum Next {
    /// The place of the open one, and what is wanted of it from now on.
    Stays(usize, Listen),
    /// One of those that are idle.
    Again(Arc<Listener>, Listen),
    New(Listener),
}

enum NextMetrics {
    Stays,
    New(SocketAddr, std::net::TcpListener),
}

impl Listeners {
    pub(super) fn new(shared: &Shared, workers: Vec<mpsc::Sender<Incoming>>, admin: Admin) -> Self {
        let (gate, state, stats) = (shared.gate.clone(), shared.state.clone(), shared.stats.clone());
        Listeners { open: Vec::new(), idle: Vec::new(), metrics: None, gate, state, stats, admin, workers }
    }

    /// Binds what `new` wants and what is not there yet. Nothing that is in force is touched.
    ///
    /// Must be called inside a tokio runtime.
    pub(super) fn prepare(&self, new: &Config) -> Result<Prepared, DaemonError> {
        let kept = places(&self.placed(), &new.listen);
        let mut leaving = Leaving::default();
        for (place, open) in self.open.iter().enumerate() {
            if !kept.contains(&Some(place)) {
                let of = if open.listener.of_unit { &mut leaving.units } else { &mut leaving.ours };
                of.push(open.listener.socket.as_fd());
            }
        }
        let metrics_stay = self.metrics.as_ref().map(|metrics| metrics.wanted) == new.metrics.listen;
        if let Some(metrics) = self.metrics.as_ref().filter(|_| !metrics_stay) {
            leaving.ours.push(metrics.socket.as_fd());
        }
        let mut listeners = Vec::new();
        let bound = new.listen.iter().zip(kept).try_for_each(|(wanted, place)| {
            let idle = || self.idle.iter().find(|idle| idle.wanted == wanted.address).cloned();
            match (place, idle()) {
                (Some(place), _) => listeners.push(Next::Stays(place, wanted.clone())),
                (None, Some(idle)) => listeners.push(Next::Again(idle, wanted.clone())),
                (None, None) => listeners.extend(Listener::bind(wanted, &leaving, &[])?.map(Next::New)),
            }
            Ok(())
        });
        let bound = bound.and_then(|()| match new.metrics.listen {
            _ if listeners.is_empty() => Err(DaemonError::NoListener),
            Some(_) if metrics_stay => Ok(Some(NextMetrics::Stays)),
            Some(address) => bind_metrics(address, &leaving.ours).map(|socket| Some(NextMetrics::New(address, socket))),
            None => Ok(None),
        });
        match bound {
            Ok(metrics) => Ok(Prepared { listeners, metrics }),
            Err(error) => {
                // Of a Unix socket that has just been made, the file would stay.
                for next in listeners {
                    if let Next::New(listener) = next {
                        listener.close();
                    }
                }
                Err(error)
            }
        }
    }

    /// Puts it into force: newcomers are let in at the new places before they are refused at the old
    /// ones. Connections that stand stay.
    pub(super) fn apply(&mut self, prepared: Prepared) {
        let mut old: Vec<Option<Open>> = std::mem::take(&mut self.open).into_iter().map(Some).collect();
        for next in prepared.listeners {
            match next {
                Next::Stays(place, wanted) => {
                    let Some(open) = old[place].take() else { continue };
                    open.listener.door.store(Door::new(&wanted).into());
                    self.open.push(open);
                }
                Next::Again(listener, wanted) => {
                    listener.door.store(Door::new(&wanted).into());
                    self.idle.retain(|idle| !Arc::ptr_eq(idle, &listener));
                    self.begin(listener);
                }
                Next::New(listener) => self.begin(listener.into()),
            }
        }
        for open in old.into_iter().flatten() {
            tracing::info!(listen = open.listener.address, "no longer listening on {}", open.listener.address);
            if !open.listener.of_unit {
                systemd::forget(&systemd::listener_name(&open.listener.address));
            }
            // Where the accept loop has ended, the daemon is stopping.
            let _ = open.close.send(open.listener.close());
            if open.listener.of_unit {
                self.idle.push(open.listener);
            }
        }
        match prepared.metrics {
            Some(NextMetrics::Stays) => {}
            Some(NextMetrics::New(wanted, socket)) => {
                self.end_metrics();
                self.begin_metrics(wanted, socket);
            }
            None => self.end_metrics(),
        }
    }

    /// Accepts on these from now on.
    pub(super) fn begin_all(&mut self, listeners: Vec<Listener>) {
        for listener in listeners {
            self.begin(listener.into());
        }
    }

    fn begin(&mut self, listener: Arc<Listener>) {
        if !listener.of_unit {
            systemd::keep(&systemd::listener_name(&listener.address), &listener.socket);
        }
        tracing::info!(listen = listener.address, "listening on {}", describe(&listener));
        let (close, closed) = oneshot::channel();
        let (gate, workers) = (self.gate.clone(), self.workers.clone());
        let (state, stats) = (self.state.clone(), self.stats.clone());
        tokio::spawn(listen::accept(listener.clone(), gate, workers, state, stats, closed));
        self.open.push(Open { listener, close });
    }

    pub(super) fn begin_metrics(&mut self, wanted: SocketAddr, socket: std::net::TcpListener) {
        // Only a runtime that ends takes no socket.
        let Ok(socket) = TcpListener::from_std(socket).map(Arc::new) else { return };
        let (close, closed) = oneshot::channel();
        let state = self.state.clone();
        let stop = async move {
            tokio::select! {
                () = state.reached(Phase::Stopped) => {}
                _ = closed => {}
            }
        };
        tokio::spawn(metrics::serve(socket.clone(), self.admin.clone(), stop));
        self.metrics = Some(MetricsListener { wanted, socket, close });
    }

    fn end_metrics(&mut self) {
        if let Some(metrics) = self.metrics.take() {
            tracing::info!("metrics are no longer at http://{}", address_of(&metrics.socket, metrics.wanted));
            listen::stop_listening(&metrics.socket);
            // Where it has ended already, so has the daemon.
            let _ = metrics.close.send(());
        }
    }

    /// Nobody is accepted from now on: the accept loops have the only other ends of the workers'
    /// queues, and end by themselves.
    pub(super) fn stop(&mut self) {
        self.workers.clear();
    }

    /// Those in force, as text: the address, and "tls" or "plain".
    pub(super) fn in_words(&self) -> Vec<String> {
        self.open.iter().map(|open| describe(&open.listener)).collect()
    }

    fn placed(&self) -> Vec<Placed<'_>> {
        self.open.iter().map(|open| Placed { wanted: &open.listener.wanted, real: &open.listener.address }).collect()
    }
}

pub(super) fn bind_metrics(
    address: SocketAddr,
    leaving: &[BorrowedFd<'_>],
) -> Result<std::net::TcpListener, DaemonError> {
    listen::bind_tcp(address, leaving)
        .map_err(|source| DaemonError::Io { what: format!("metrics.listen: cannot listen on {address}"), source })
}

fn address_of(socket: &TcpListener, wanted: SocketAddr) -> SocketAddr {
    socket.local_addr().unwrap_or(wanted)
}

pub(super) fn describe(listener: &Listener) -> String {
    format!("{} {}", listener.address, if listener.door.load().tls { "tls" } else { "plain" })
}

/// Where an open listener is: as the configuration says it, and really.
struct Placed<'a> {
    wanted: &'a Address,
    real: &'a str,
}

/// For each of the `wanted`: the open one that is at its address and stays. Each open one is given
/// once; those that are given to none are to go.
fn places(open: &[Placed<'_>], wanted: &[Listen]) -> Vec<Option<usize>> {
    let mut free: Vec<bool> = vec![true; open.len()];
    let mut take = |at: &mut dyn FnMut(&Placed<'_>) -> bool| {
        let place = open.iter().enumerate().position(|(place, placed)| free[place] && at(placed))?;
        free[place] = false;
        Some(place)
    };
    let mut places: Vec<Option<usize>> =
        wanted.iter().map(|listen| take(&mut |placed| *placed.wanted == listen.address)).collect();
    // One that was bound to port 0 may have got the very port that is wanted now.
    for (listen, place) in wanted.iter().zip(&mut places).filter(|(_, place)| place.is_none()) {
        let real = listen.address.to_string();
        *place = take(&mut |placed| placed.real == real);
    }
    places
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn listen(address: &Address) -> Listen {
        Listen { address: address.clone(), tls: false, trusted_proxies: Vec::new(), optional: false }
    }

    fn addresses() -> impl Strategy<Value = Vec<Address>> {
        let tcp = (0..3u8, 0..3u16).prop_map(|(host, port)| Address::Tcp(([127, 0, 0, host], port).into()));
        let unix = "/[ab]".prop_map(|path| Address::Unix(path.into()));
        vec(prop_oneof![3 => tcp, 1 => unix], 0..8)
    }

    /// With ports of their own where any would do.
    fn real(addresses: &[Address]) -> Vec<String> {
        let mut next = 0;
        let real = addresses.iter().map(|address| match address {
            Address::Tcp(tcp) if tcp.port() == 0 => {
                next += 1;
                SocketAddr::new(tcp.ip(), next).to_string()
            }
            other => other.to_string(),
        });
        real.collect()
    }

    proptest! {
        #[test]
        fn what_stays_is_where_it_is_wanted_and_nothing_is_kept_twice(old in addresses(), new in addresses()) {
            let real = real(&old);
            let open: Vec<Placed<'_>> =
                old.iter().zip(&real).map(|(wanted, real)| Placed { wanted, real }).collect();
            let wanted: Vec<Listen> = new.iter().map(listen).collect();
            let places = places(&open, &wanted);
            prop_assert_eq!(places.len(), new.len());
            let mut kept: Vec<usize> = places.iter().flatten().copied().collect();
            for (address, place) in new.iter().zip(&places) {
                match place {
                    Some(place) => prop_assert!(
                        old[*place] == *address || real[*place] == address.to_string()
                    ),
                    // Only where every one at that address is taken.
                    None => for (place, placed) in open.iter().enumerate() {
                        let here = placed.wanted == address || placed.real == address.to_string();
                        prop_assert!(!here || kept.contains(&place));
                    },
                }
            }
            kept.sort_unstable();
            let all = kept.len();
            kept.dedup();
            prop_assert_eq!(kept.len(), all);
        }

        #[test]
        fn the_same_again_changes_nothing(old in addresses()) {
            let real = real(&old);
            let open: Vec<Placed<'_>> =
                old.iter().zip(&real).map(|(wanted, real)| Placed { wanted, real }).collect();
            let wanted: Vec<Listen> = old.iter().map(listen).collect();
            let mut places = places(&open, &wanted);
            // Of two alike either may be meant.
            places.sort_unstable();
            prop_assert_eq!(places, (0..old.len()).map(Some).collect::<Vec<_>>());
        }
    }
}
