//! Listening sockets: bound, or handed over by the service manager; and the loop that accepts.

use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener as StdUnixListener, UnixStream as StdUnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use socket2::{Domain, Protocol, SockFilter, SockRef, Socket, Type};
use thiserror::Error;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{mpsc, oneshot};

use super::gate::{Entry, Gate};
use super::handed;
use super::incoming::{Accepted, Door, Incoming};
use crate::config::{Address, Listen};
use crate::state::{Phase, State};
use crate::stats::Stats;

/// Connections that the kernel holds until they are accepted; it cuts this at net.core.somaxconn.
const BACKLOG: i32 = 4096;
/// Who may connect to a listener that is a Unix socket: a proxy of any user on this machine. The
/// folder it lies in is the place to be stricter.
const UNIX_MODE: u32 = 0o666;
/// How long a listener that is to be closed waits for those of this machine whom the kernel lets in just
/// then. Nothing but accepting and reloading waits with it.
const UNDER_WAY: Duration = Duration::from_millis(1);
/// How long the loop rests when the system has no descriptor left.
const REST: Duration = Duration::from_millis(100);

/// Drops the packets that begin a connection: SYN without ACK (socket(7), SO_ATTACH_FILTER; RFC 9293,
/// section 3.1). What belongs to connections passes.
const NO_SYN: [SockFilter; 5] = {
    use nix::libc::{BPF_ABS, BPF_ALU, BPF_AND, BPF_B, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET};
    const FLAGS_AT: u32 = 13;
    const SYN: u32 = 0x02;
    const ACK: u32 = 0x10;
    [
        SockFilter::new((BPF_LD | BPF_B | BPF_ABS) as u16, 0, 0, FLAGS_AT),
        SockFilter::new((BPF_ALU | BPF_AND | BPF_K) as u16, 0, 0, SYN | ACK),
        SockFilter::new((BPF_JMP | BPF_JEQ | BPF_K) as u16, 0, 1, SYN),
        SockFilter::new((BPF_RET | BPF_K) as u16, 0, 0, 0),
        SockFilter::new((BPF_RET | BPF_K) as u16, 0, 0, u32::MAX),
    ]
};

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
    pub socket: Arc<Source>,
    /// What the connections inherit that are accepted from now on.
    pub door: ArcSwap<Door>,
    /// Where the configuration wants it.
    pub wanted: Address,
    /// Where it listens, as text; the port it really has.
    pub address: String,
    /// Of a Unix socket's file, so that another's is never removed.
    file: Option<(u64, u64)>,
    /// It belongs to a socket unit, which keeps it by itself while we restart.
    pub of_unit: bool,
}

/// What is accepted from.
#[derive(Debug)]
pub enum Source {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// Sockets that a change lets go of.
#[derive(Default)]
pub struct Leaving<'a> {
    /// Closed in the end, so that another may share their address until then.
    pub ours: Vec<BorrowedFd<'a>>,
    /// They go on listening for their unit: whoever shared an address with one would leave those waiting
    /// for ever whom the kernel gives to the unit.
    pub units: Vec<BorrowedFd<'a>>,
}

impl AsFd for Source {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Source::Tcp(l) => l.as_fd(),
            Source::Unix(l) => l.as_fd(),
        }
    }
}

impl Door {
    pub fn new(listen: &Listen) -> Self {
        let unix = matches!(listen.address, Address::Unix(_));
        Door { tls: listen.tls, trusted_proxies: listen.trusted_proxies.clone(), unix }
    }
}

/// The sockets of the configuration. `inherited` are looked through first, by their address; what
/// none of the listeners wants stays in it, and is closed where it is in the way of one.
///
/// Must be called inside a tokio runtime.
pub fn open(listen: &[Listen], inherited: &mut Vec<(String, OwnedFd)>) -> Result<Vec<Listener>, ListenError> {
    let mut sockets: Vec<Option<(Source, bool)>> = Vec::new();
    for wanted in listen {
        let taken = handed::take(&wanted.address, inherited);
        sockets.push(taken.map(|(socket, of_unit)| Ok((registered(wanted, socket)?, of_unit))).transpose()?);
    }
    for (name, fd) in inherited.iter() {
        match handed::left_over(name, fd) {
            Some(why) => tracing::warn!("{why}"),
            // One that was kept over a restart and that nobody wants any more: the service manager
            // holds another end of it, so it would be in the way until that is let go, too.
            None => stop_listening(fd),
        }
    }
    let mut listeners = Vec::new();
    for (wanted, socket) in listen.iter().zip(sockets) {
        match socket {
            Some((socket, of_unit)) => listeners.push(Listener::new(wanted, socket, of_unit)),
            None => listeners.extend(Listener::bind(wanted, &Leaving::default(), inherited)?),
        }
    }
    Ok(listeners)
}

/// Who connects from now on is refused, whoever else holds an end of this socket.
pub fn stop_listening(socket: &impl AsFd) {
    if let Err(error) = SockRef::from(socket).shutdown(std::net::Shutdown::Both) {
        tracing::debug!("a socket that listens could not be shut down: {error}");
    }
}

fn registered(wanted: &Listen, socket: Listening) -> Result<Source, ListenError> {
    let source = match socket {
        Listening::Tcp(l) => TcpListener::from_std(l).map(Source::Tcp),
        Listening::Unix(l) => UnixListener::from_std(l).map(Source::Unix),
    };
    source.map_err(|source| ListenError::Other { address: wanted.address.to_string(), source })
}

impl Listener {
    fn new(wanted: &Listen, socket: Source, of_unit: bool) -> Self {
        let given = wanted.address.to_string();
        let (address, file) = match (&socket, &wanted.address) {
            (Source::Tcp(l), _) => (l.local_addr().map_or(given, |real| real.to_string()), None),
            (Source::Unix(_), Address::Unix(path)) => (given, identity(path)),
            (Source::Unix(_), Address::Tcp(_)) => (given, None),
        };
        let door = ArcSwap::from_pointee(Door::new(wanted));
        Listener { socket: Arc::new(socket), door, wanted: wanted.address.clone(), address, file, of_unit }
    }

    /// Listens there. `leaving`: sockets that will be let go of once everything has succeeded, and that
    /// may be in the way until then; `handed`: what systemd has handed over for other addresses. `None`
    /// where an optional one's family is lacking here.
    ///
    /// Must be called inside a tokio runtime.
    pub fn bind(
        wanted: &Listen,
        leaving: &Leaving<'_>,
        handed: &[(String, OwnedFd)],
    ) -> Result<Option<Self>, ListenError> {
        match bind(&wanted.address, &leaving.ours) {
            Ok(socket) => Ok(Some(Listener::new(wanted, registered(wanted, socket)?, false))),
            Err(error) if wanted.optional && lacks_family(&error) => Ok(None),
            Err(error) => Err(match explain(&wanted.address, error, handed::instead(handed)) {
                ListenError::Taken { address, .. }
                    if leaving.units.iter().any(|other| has_port(other, &wanted.address)) =>
                {
                    let hint = " or by a listener that this would end, of a socket unit's: for that restart the daemon";
                    ListenError::Taken { address, hint: hint.into() }
                }
                error => error,
            }),
        }
    }

    /// Who connects from now on is refused, and a Unix socket's file goes. Connections stay; those
    /// that nobody has accepted yet are given back.
    pub fn close(&self) -> Vec<Accepted> {
        if self.of_unit {
            // Whatever ended it for us would end it for the unit.
            tracing::warn!(
                listen = self.address,
                "nobody accepts on {} any more, and its socket unit goes on listening: stop and disable that unit",
                self.address
            );
            return Vec::new();
        }
        self.socket.turn_away();
        let waiting = self.socket.waiting();
        stop_listening(&self.socket);
        if let Address::Unix(path) = &self.wanted
            && self.file.is_some()
            && identity(path) == self.file
            && let Err(error) = fs::remove_file(path)
        {
            tracing::warn!("{} listens no more, and stays in the folder: {error}", path.display());
        }
        waiting
    }
}

/// Of the file at `path`, where there is one.
fn identity(path: &Path) -> Option<(u64, u64)> {
    fs::symlink_metadata(path).ok().map(|found| (found.dev(), found.ino()))
}

/// A TCP socket that listens at this address; see [`Listener::bind`] for `leaving`.
pub fn bind_tcp(address: SocketAddr, leaving: &[BorrowedFd<'_>]) -> io::Result<std::net::TcpListener> {
    match listen_at(address, &[]) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && !leaving.is_empty() => listen_at(address, leaving),
        bound => bound,
    }
}

/// With `beside`, these sockets may already listen at an address that is this one, or that overlaps
/// with it: the kernel then takes both if they say SO_REUSEPORT and are of the same user, so that at
/// no moment nobody listens. The option is taken back at once; a second daemon, which does not say
/// it, is refused the address before and after. What the kernel remembers of the port may let one
/// in that does say it and runs as our user, who could as well stop us.
fn listen_at(address: SocketAddr, beside: &[BorrowedFd<'_>]) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        // "[::]" is every address of the machine, IPv4 too.
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    // A restart must not wait for old connections' TIME_WAIT.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    let share = |on: bool| {
        for other in beside {
            // A Unix socket has no such option, and is in nobody's way.
            let _ = SockRef::from(other).set_reuse_port(on);
        }
        if beside.is_empty() { Ok(()) } else { socket.set_reuse_port(on) }
    };
    let listening = share(true).and_then(|()| socket.bind(&address.into())).and_then(|()| socket.listen(BACKLOG));
    share(false)?;
    listening.map(|()| socket.into())
}

/// What is handed over or bound, before the runtime has it.
pub(super) enum Listening {
    Tcp(std::net::TcpListener),
    Unix(StdUnixListener),
}

fn bind(address: &Address, leaving: &[BorrowedFd<'_>]) -> io::Result<Listening> {
    match address {
        Address::Tcp(address) => bind_tcp(*address, leaving).map(Listening::Tcp),
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

/// Does this socket listen at the port of that address?
fn has_port(socket: &impl AsFd, address: &Address) -> bool {
    let bound = SockRef::from(socket).local_addr().ok().and_then(|bound| bound.as_socket());
    matches!((bound, address), (Some(bound), Address::Tcp(wanted)) if bound.port() == wanted.port())
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

/// Accepts until the daemon stops or the listener is closed, and hands the sockets to the workers in
/// turn. `closed` brings those who had connected by then.
pub async fn accept(
    listener: Arc<Listener>,
    gate: Arc<Gate>,
    workers: Vec<mpsc::Sender<Incoming>>,
    state: State,
    stats: Arc<Stats>,
    mut closed: oneshot::Receiver<Vec<Accepted>>,
) {
    let mut turn = 0;
    let mut resting = false;
    let mut admit = async |socket: Accepted| -> bool {
        let door = listener.door.load_full();
        let Entry::Place(place, refusal) = gate.socket(limited(&door, &socket)) else {
            stats.door.reset.add(1);
            close_at_once(socket);
            return true;
        };
        stats.door.accepted.add(1);
        turn = (turn + 1) % workers.len();
        let incoming = Incoming { socket, door, place, refusal };
        // A worker that is behind makes new connections wait, in the kernel's queue.
        workers[turn].send(incoming).await.is_ok()
    };
    loop {
        let accepted = tokio::select! {
            biased;
            () = state.reached(Phase::Stopping) => return,
            waiting = &mut closed => {
                for socket in waiting.unwrap_or_default() {
                    if !admit(socket).await {
                        return;
                    }
                }
                return;
            }
            accepted = listener.socket.accept() => accepted,
        };
        let socket = match accepted {
            Ok(socket) => socket,
            Err(error) if is_of_peer(&error) => continue,
            Err(error) => {
                if !std::mem::replace(&mut resting, true) {
                    tracing::error!("cannot accept connections on {} for the moment: {error}", listener.address);
                }
                tokio::time::sleep(REST).await;
                continue;
            }
        };
        resting = false;
        if !admit(socket).await {
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

    /// Nobody new gets as far as the queue from now on, without being refused: whoever connects hears
    /// nothing, asks again in a second, and finds the listener that takes the place of this one, or none.
    /// Else those who come while the queue is emptied would be reset.
    fn turn_away(&self) {
        if let Source::Tcp(_) = self {
            if let Err(error) = SockRef::from(self).attach_filter(&NO_SYN) {
                tracing::debug!("a socket that is to be closed lets in until then: {error}");
            }
            std::thread::sleep(UNDER_WAY);
        }
    }

    /// Those who wait in the kernel's queue, as many as it holds at the most.
    fn waiting(&self) -> Vec<Accepted> {
        let socket = SockRef::from(self);
        let mut waiting = Vec::new();
        for _ in 0..BACKLOG {
            let (stream, peer) = match socket.accept() {
                Ok(accepted) => accepted,
                Err(error) if is_of_peer(&error) => continue,
                // Nobody is left, or no descriptor is.
                Err(_) => break,
            };
            if stream.set_nonblocking(true).is_err() {
                continue;
            }
            match (self, peer.as_socket()) {
                (Source::Tcp(_), Some(peer)) => waiting.push(Accepted::Tcp(stream.into(), peer)),
                (Source::Tcp(_), None) => {}
                (Source::Unix(_), _) => waiting.push(Accepted::Unix(stream.into())),
            }
        }
        waiting
    }
}

/// Errors of the connection that was to be accepted, not of the listener (accept(2)).
fn is_of_peer(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    )
}
