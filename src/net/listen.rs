//! Listening sockets: bound, or handed over by the service manager; and the loop that accepts.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener as StdUnixListener, UnixStream as StdUnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use thiserror::Error;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::mpsc;

use super::gate::{Entry, Gate};
use super::handed;
use super::incoming::{Accepted, Door, Incoming};
use crate::config::{Address, Listen};
use crate::state::{Phase, State};

/// Connections that the kernel holds until they are accepted; it cuts this at net.core.somaxconn.
const BACKLOG: i32 = 4096;
/// Who may connect to a listener that is a Unix socket: a proxy of any user on this machine. The
/// folder it lies in is the place to be stricter.
const UNIX_MODE: u32 = 0o666;
/// How long the loop rests when the system has no descriptor left.
const REST: Duration = Duration::from_millis(100);

#[derive(Debug, Error)]
pub enum ListenError {
    #[error("{address} is taken by another program{hint}; stop that one, or set another address in [[listen]]")]
    Taken { address: String, hint: String },
    #[error(
        "no permission to listen on {address}{hint}; a port below 1024 needs wschat.socket or the capability \
         CAP_NET_BIND_SERVICE"
    )]
    Denied { address: String, hint: String },
    #[error("{address} is not an address of this machine")]
    NotHere { address: String },
    #[error("{path} exists and is no socket; it is not touched: choose another path, or remove it")]
    NotASocket { path: PathBuf },
    #[error("cannot listen on {address}: {source}")]
    Other { address: String, source: io::Error },
}

/// A socket that listens.
#[derive(Debug)]
pub struct Listener {
    pub socket: Listening,
    pub door: Arc<Door>,
    /// Where it listens, as text; the port it really has.
    pub address: String,
    /// It belongs to a socket unit, which keeps it by itself while we restart.
    pub of_unit: bool,
}

#[derive(Debug)]
pub enum Listening {
    Tcp(std::net::TcpListener),
    Unix(StdUnixListener),
}

impl AsFd for Listening {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Listening::Tcp(l) => l.as_fd(),
            Listening::Unix(l) => l.as_fd(),
        }
    }
}

/// The sockets of the configuration. `inherited` are looked through first, by their address; what
/// none of the listeners wants stays in it.
pub fn open(listen: &[Listen], inherited: &mut Vec<(String, OwnedFd)>) -> Result<Vec<Listener>, ListenError> {
    let mut listeners = Vec::new();
    for wanted in listen {
        let door = Arc::new(Door {
            tls: wanted.tls,
            trusted_proxies: wanted.trusted_proxies.clone(),
            unix: matches!(wanted.address, Address::Unix(_)),
        });
        let (socket, of_unit) = match handed::take(&wanted.address, inherited) {
            Some(taken) => taken,
            None => match bind(&wanted.address) {
                Ok(socket) => (socket, false),
                Err(error) if wanted.optional && lacks_family(&error) => continue,
                Err(error) => return Err(explain(&wanted.address, error, handed::instead(inherited))),
            },
        };
        let address = match &socket {
            Listening::Tcp(l) => l.local_addr().map_or_else(|_| wanted.address.to_string(), |a| a.to_string()),
            Listening::Unix(_) => wanted.address.to_string(),
        };
        listeners.push(Listener { socket, door, address, of_unit });
    }
    Ok(listeners)
}

fn bind(address: &Address) -> io::Result<Listening> {
    match address {
        Address::Tcp(address) => {
            let socket = Socket::new(Domain::for_address(*address), Type::STREAM, Some(Protocol::TCP))?;
            if address.is_ipv6() {
                // "[::]" is every address of the machine, IPv4 too.
                socket.set_only_v6(!address.ip().is_unspecified())?;
            }
            // A restart must not wait for old connections' TIME_WAIT.
            socket.set_reuse_address(true)?;
            socket.set_nonblocking(true)?;
            socket.bind(&(*address).into())?;
            socket.listen(BACKLOG)?;
            Ok(Listening::Tcp(socket.into()))
        }
        Address::Unix(path) => {
            clear_stale(path)?;
            let listener = StdUnixListener::bind(path)?;
            fs::set_permissions(path, fs::Permissions::from_mode(UNIX_MODE))?;
            listener.set_nonblocking(true)?;
            Ok(Listening::Unix(listener))
        }
    }
}

/// Removes the socket file of a daemon that is no more. A live one's, and anything else, stays.
fn clear_stale(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
        Ok(found) if !found.file_type().is_socket() => Err(io::ErrorKind::AlreadyExists.into()),
        Ok(_) => match StdUnixStream::connect(path) {
            Ok(_) => Err(io::ErrorKind::AddrInUse.into()),
            Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
            Err(e) => Err(e),
        },
    }
}

fn lacks_family(error: &io::Error) -> bool {
    use nix::libc::{EADDRNOTAVAIL, EAFNOSUPPORT};
    matches!(error.raw_os_error(), Some(EAFNOSUPPORT | EADDRNOTAVAIL))
}

/// `instead`: what else there is to say, beginning with a semicolon.
fn explain(address: &Address, source: io::Error, instead: String) -> ListenError {
    let text = address.to_string();
    match (source.kind(), address) {
        (io::ErrorKind::AlreadyExists, Address::Unix(path)) => ListenError::NotASocket { path: path.clone() },
        (io::ErrorKind::AddrInUse, _) => {
            let hint = if instead.is_empty() { " (is wschat running already?)".into() } else { instead };
            ListenError::Taken { address: text, hint }
        }
        (io::ErrorKind::PermissionDenied, Address::Tcp(_)) => ListenError::Denied { address: text, hint: instead },
        (io::ErrorKind::AddrNotAvailable, _) => ListenError::NotHere { address: text },
        _ => ListenError::Other { address: text, source },
    }
}

/// Accepts until the daemon stops, and hands the sockets to the workers in turn.
pub async fn accept(listener: Listener, gate: Arc<Gate>, workers: Vec<mpsc::Sender<Incoming>>, state: State) {
    let Listener { socket, door, address, .. } = listener;
    let source = match socket {
        Listening::Tcp(l) => TcpListener::from_std(l).map(Source::Tcp),
        Listening::Unix(l) => UnixListener::from_std(l).map(Source::Unix),
    };
    let source = match source {
        Ok(source) => source,
        Err(error) => {
            return tracing::error!("cannot accept on {address}: {error}; restart the daemon");
        }
    };
    let mut turn = 0;
    let mut resting = false;
    loop {
        let accepted = tokio::select! {
            biased;
            () = state.reached(Phase::Stopping) => return,
            accepted = source.accept() => accepted,
        };
        let socket = match accepted {
            Ok(socket) => socket,
            Err(error) if is_of_peer(&error) => continue,
            Err(error) => {
                if !std::mem::replace(&mut resting, true) {
                    tracing::error!("cannot accept connections on {address} for the moment: {error}");
                }
                tokio::time::sleep(REST).await;
                continue;
            }
        };
        resting = false;
        let Entry::Place(place, refusal) = gate.socket(limited(&door, &socket)) else {
            close_at_once(socket);
            continue;
        };
        turn = (turn + 1) % workers.len();
        let incoming = Incoming { socket, door: door.clone(), place, refusal };
        // A worker that is behind makes new connections wait, in the kernel's queue.
        if workers[turn].send(incoming).await.is_err() {
            return;
        }
    }
}

/// The address that the limits per address hold for. For one behind a proxy it is not known yet.
fn limited(door: &Door, socket: &Accepted) -> Option<IpAddr> {
    let Accepted::Tcp(_, peer) = socket else { return None };
    let address = peer.ip().to_canonical();
    (!address.is_loopback() && !door.trusts(address)).then_some(address)
}

/// Closes a socket for which there is no place. By a reset: thousands that are closed in order would
/// stay in the kernel for a minute each (TIME_WAIT).
fn close_at_once(socket: Accepted) {
    if let Accepted::Tcp(stream, _) = socket {
        // Where it cannot be set, the peer has gone already.
        let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
    }
}

enum Source {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Source {
    async fn accept(&self) -> io::Result<Accepted> {
        match self {
            Source::Tcp(l) => {
                let (stream, peer) = l.accept().await?;
                Ok(Accepted::Tcp(stream.into_std()?, peer))
            }
            Source::Unix(l) => Ok(Accepted::Unix(l.accept().await?.0.into_std()?)),
        }
    }
}

/// Errors of the connection that was to be accepted, not of the listener (accept(2)).
fn is_of_peer(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    )
}
