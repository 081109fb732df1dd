//! From an accepted socket to an open WebSocket: TLS, HTTP, the upgrade, each under its deadline.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use ipnet::IpNet;
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::mpsc;
use tokio::task::spawn_local;
use tokio::time::timeout;
use tokio_rustls::{LazyConfigAcceptor, TlsAcceptor};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

use super::access::Origin;
use super::conn::Conn;
use super::gate::{Place, Refusal};
use super::http::{self, Upgrade};
use super::io::Io;
use super::session::Session;
use super::socket::Socket;
use super::worker::Worker;
use crate::acme::Challenges;
use crate::chat::id::ConnId;
use crate::peer::{Alpn, Counters, Peer};
use crate::stats::Failure;

/// Held for each connection while it lives, so it is small; larger messages grow their own buffer.
const READ_BUFFER: usize = 512;
/// Bytes that the kernel takes for a client before it has sent them; the outbox is behind them.
const UNSENT: u32 = 64 * 1024;
/// The first byte of a TLS handshake record (RFC 8446, section 5.1).
const TLS_HANDSHAKE: u8 = 22;

/// A socket that has just been accepted.
#[derive(Debug)]
pub struct Incoming {
    pub socket: Accepted,
    pub door: Arc<Door>,
    pub place: Place,
    /// It is let in only to be told this.
    pub refusal: Option<Refusal>,
}

#[derive(Debug)]
pub enum Accepted {
    Tcp(std::net::TcpStream, SocketAddr),
    Unix(std::os::unix::net::UnixStream),
}

/// What a connection inherits from the listener it came through.
#[derive(Debug)]
pub struct Door {
    pub tls: bool,
    pub trusted_proxies: Vec<IpNet>,
    pub unix: bool,
}

impl Door {
    /// Are this peer's headers about other addresses believed?
    pub fn trusts(&self, peer: IpAddr) -> bool {
        self.unix || self.trusted_proxies.iter().any(|net| net.contains(&peer))
    }

    /// Where this peer comes from, who has not said that it is for another.
    pub fn origin(&self, peer: IpAddr) -> Origin {
        if self.trusts(peer) { Origin::Proxy(peer) } else { Origin::Client(peer) }
    }
}

/// Takes what the accept loop hands over, for as long as there is one.
pub async fn take(worker: Rc<Worker>, mut sockets: mpsc::Receiver<Incoming>) {
    while let Some(incoming) = sockets.recv().await {
        worker.arrives();
        let worker = worker.clone();
        // Boxed and short-lived: what it needs is freed once the WebSocket has its own small task.
        spawn_local(Box::pin(async move {
            welcome(&worker, incoming).await;
            worker.arrived();
        }));
    }
    worker.arrived();
}

async fn welcome(worker: &Rc<Worker>, incoming: Incoming) {
    let Incoming { socket, door, place, refusal } = incoming;
    let (socket, peer) = match socket {
        Accepted::Tcp(stream, peer) => match register(stream) {
            Ok(stream) => (Socket::Tcp(stream), SocketAddr::new(peer.ip().to_canonical(), peer.port())),
            Err(error) => return tracing::debug!("a connection was lost before it began: {error}"),
        },
        Accepted::Unix(stream) => match UnixStream::from_std(stream) {
            Ok(stream) => (Socket::Unix(stream), SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0)),
            Err(error) => return tracing::debug!("a connection was lost before it began: {error}"),
        },
    };
    let io = match secure(worker, &door, socket).await {
        Ok(Secured::Stream(io)) => io,
        Ok(Secured::PlainHttp(io)) => return http::redirect_to_tls(worker, io).await,
        Ok(Secured::Challenge(io)) => {
            tracing::debug!(address = %peer.ip(), "a CA has checked a name from {peer}");
            return http::close(io).await;
        }
        Ok(Secured::Broken(io, error)) => {
            tracing::debug!(address = %peer.ip(), "no TLS with {peer}: {error}");
            worker.stats.failed(Failure::Tls);
            worker.note_refused(door.origin(peer.ip()), "tls", "handshake");
            // The alert has been written; what the other side still says must not turn it into a reset.
            if let Some(io) = io {
                http::close(io).await;
            }
            return;
        }
        Err(error) => {
            let late = error.kind() == io::ErrorKind::TimedOut;
            worker.stats.failed(if late { Failure::TlsTimeout } else { Failure::Tls });
            if late {
                worker.note_refused(door.origin(peer.ip()), "tls", "timeout");
            }
            return tracing::debug!(address = %peer.ip(), "no TLS with {peer}: {error}");
        }
    };
    let Some(upgraded) = Box::pin(http::serve(worker, io, &door, peer, refusal)).await else { return };
    open(worker, upgraded, place).await;
}

fn register(stream: std::net::TcpStream) -> io::Result<TcpStream> {
    let stream = TcpStream::from_std(stream)?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

enum Secured {
    Stream(Io),
    /// Plain HTTP on a TLS port.
    PlainHttp(Io),
    /// A CA's, which the handshake alone has answered (RFC 8737, section 3).
    Challenge(Io),
    /// What came was no TLS, or none that we speak.
    Broken(Option<Io>, io::Error),
}

async fn secure(worker: &Worker, door: &Door, socket: Socket) -> io::Result<Secured> {
    if !door.tls {
        return Ok(Secured::Stream(Io::plain(socket)));
    }
    // It is there before the first listener that speaks it.
    let tls = worker.shared.tls.load_full().ok_or(io::ErrorKind::NotConnected)?;
    let limit = worker.config().timeouts.tls;
    let accept = async {
        if socket.peek_byte().await?.is_some_and(|first| first != TLS_HANDSHAKE && first.is_ascii_uppercase()) {
            return Ok(Secured::PlainHttp(Io::plain(socket)));
        }
        if worker.shared.challenges.under_way() {
            return Ok(Box::pin(challenged(&worker.shared.challenges, &tls, socket)).await);
        }
        Ok(match TlsAcceptor::from(tls).accept(socket).into_fallible().await {
            Ok(stream) => Secured::Stream(Io::tls(stream)),
            Err((error, socket)) => Secured::Broken(Some(Io::plain(socket)), error),
        })
    };
    timeout(limit, accept).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// As any other handshake, for the minute in which one may be a CA's: what a client offers is looked at
/// before it is answered. The ordinary configuration knows nothing of the CA's protocol and refuses it.
async fn challenged(challenges: &Challenges, tls: &Arc<rustls::ServerConfig>, socket: Socket) -> Secured {
    let mut acceptor = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), socket);
    let start = match Pin::new(&mut acceptor).await {
        Ok(start) => start,
        Err(error) => return Secured::Broken(acceptor.take_io().map(Io::plain), error),
    };
    let answer = challenges.answer(&start.client_hello());
    let proves = answer.is_some();
    let config = answer.unwrap_or_else(|| tls.clone());
    match start.into_stream(config).into_fallible().await {
        Ok(stream) if proves => Secured::Challenge(Io::tls(stream)),
        Ok(stream) => Secured::Stream(Io::tls(stream)),
        Err((error, socket)) => Secured::Broken(Some(Io::plain(socket)), error),
    }
}

async fn open(worker: &Rc<Worker>, upgrade: Upgrade, socket_place: Place) {
    let Upgrade { mut io, read, kind, address, port, proxied, origin, agent, place, offered } = upgrade;
    let config = worker.config();
    let limits = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        // The outbox of `Io` takes whatever is written, so tungstenite buffers nothing.
        .write_buffer_size(0)
        .max_message_size(Some(config.limits.frame))
        .max_frame_size(Some(config.limits.frame));
    io.become_outbox();
    io.limit_unsent(UNSENT);
    let (tls, alpn) = match io.tls_facts() {
        // The only protocol that is offered.
        Some((version, alpn)) => (Some(version), alpn.map(|_| Alpn::Http1)),
        None => (None, None),
    };
    let id = ConnId(worker.shared.next_id.fetch_add(1, Relaxed));
    let peer = Arc::new(Peer {
        id,
        address,
        port,
        dialect: kind.dialect(),
        tls,
        alpn,
        proxied,
        origin,
        agent,
        since: SystemTime::now(),
        user: OnceLock::new(),
        counters: Counters::default(),
    });
    let ws = WebSocketStream::from_partially_read(io, read.to_vec(), Role::Server, Some(limits)).await;
    let session = Session::new(kind, offered, worker.now(), &config);
    tracing::debug!(client = id.0, address = %peer.address, "client {id} has connected from {}", peer.address);
    let place = place.with_socket(socket_place);
    worker.adopt(Conn::new(peer, ws, session, Some(place), worker.stats.clone()));
}
