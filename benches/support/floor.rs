//! The floor: the least that a single thread needs to pass messages on. Each text frame is put together once and
//! written to every other member with one write each; through TLS it is encrypted for each member in between.
//!
//! The gathering floor writes once to each member for all messages that one look at the sockets has brought.
//!
//! It knows no rooms, no limits and no queues: who does not take all of a write is cut off. It answers pings, because
//! the time that takes is measured. It shares the load's way to read and write (`wire`), and nothing with the daemon.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use rustls::ServerConfig;
use rustls::server::UnbufferedServerConnection;
use socket2::{Domain, Socket, Type};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::wire::{self, Received, Scratch, ServerWire, WireError};
use super::{BenchError, frame, machine};

/// Events taken from the kernel at once.
const EVENTS: usize = 512;
/// Names the listening socket among the events; connections are named by their slots.
const LISTENER: u64 = u64::MAX;
/// Sockets waiting to be accepted.
const BACKLOG: i32 = 4096;

#[derive(Clone, Debug, clap::Args)]
pub struct FloorOptions {
    /// One write to each member for all messages read together.
    #[arg(long)]
    pub gather: bool,
    /// PEM file; with a key, TLS 1.3 is spoken.
    #[arg(long, requires = "key")]
    pub certificate: Option<PathBuf>,
    #[arg(long, requires = "certificate")]
    pub key: Option<PathBuf>,
}

struct Member {
    wire: ServerWire,
    open: bool,
}

/// A frame of the batch: who sent it, and where it ends.
struct Piece {
    from: usize,
    end: usize,
}

struct Floor {
    epoll: Epoll,
    tls: Option<Arc<ServerConfig>>,
    /// By slot; a slot of one who left is used again.
    members: Vec<Option<Member>>,
    free: Vec<usize>,
    /// Slots of those whose WebSocket is open.
    open: Vec<usize>,
    scratch: Scratch,
    /// Ready frames, one after the other.
    batch: Vec<u8>,
    pieces: Vec<Piece>,
    /// Frames that differ for a sender, which does not get its own.
    own: Vec<u8>,
    gone: Vec<usize>,
}

/// Serves until it is killed. Prints its port as the first line of stdout.
pub fn serve(options: &FloorOptions) -> Result<(), BenchError> {
    machine::raise_descriptor_limit()?;
    let tls = match (&options.certificate, &options.key) {
        (Some(certificate), Some(key)) => {
            let read =
                |path: &PathBuf| std::fs::read(path).map_err(BenchError::io(format!("reading {}", path.display())));
            Some(wire::server_config(&read(certificate)?, &read(key)?)?)
        }
        _ => None,
    };
    let listener = listen().map_err(BenchError::io("listening on 127.0.0.1"))?;
    let port = listener.local_addr().map_err(BenchError::io("asking for the port"))?.port();
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(BenchError::system("making an epoll"))?;
    epoll
        .add(&listener, EpollEvent::new(EpollFlags::EPOLLIN, LISTENER))
        .map_err(BenchError::system("watching the listener"))?;
    let mut stdout = std::io::stdout();
    writeln!(stdout, "{port}").and_then(|()| stdout.flush()).map_err(BenchError::io("printing the port"))?;
    let mut floor = Floor {
        epoll,
        tls,
        members: Vec::new(),
        free: Vec::new(),
        open: Vec::new(),
        scratch: Scratch::new(),
        batch: Vec::new(),
        pieces: Vec::new(),
        own: Vec::new(),
        gone: Vec::new(),
    };
    let mut events = vec![EpollEvent::empty(); EVENTS];
    loop {
        let count = match floor.epoll.wait(&mut events, EpollTimeout::NONE) {
            Ok(count) => count,
            Err(Errno::EINTR) => continue,
            Err(error) => return Err(BenchError::system("waiting for sockets")(error)),
        };
        for event in &events[..count] {
            if event.data() == LISTENER {
                floor.accept_all(&listener);
                continue;
            }
            floor.read(event.data() as usize);
            if !options.gather {
                floor.pass_on_singly();
            }
        }
        floor.pass_on_together();
    }
}

fn listen() -> std::io::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM.nonblocking().cloexec(), None)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

impl Floor {
    fn accept_all(&mut self, listener: &TcpListener) {
        // Any error ends this turn: mostly there is nobody left to accept, and who broke off early is not missed.
        while let Ok((stream, _)) = listener.accept() {
            if let Err(error) = self.add(stream) {
                eprintln!("floor: a connection was dropped: {error}");
            }
        }
    }

    fn add(&mut self, stream: TcpStream) -> Result<(), WireError> {
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        let tls = self.tls.clone().map(UnbufferedServerConnection::new).transpose()?;
        let slot = self.free.pop().unwrap_or(self.members.len());
        // Level-triggered: what one read leaves in a socket is reported again.
        let event = EpollEvent::new(EpollFlags::EPOLLIN, slot as u64);
        if let Err(errno) = self.epoll.add(&stream, event) {
            self.free.extend((slot < self.members.len()).then_some(slot));
            return Err(WireError::Io(errno.into()));
        }
        let member = Some(Member { wire: ServerWire::new(stream, tls), open: false });
        match self.members.get_mut(slot) {
            Some(place) => *place = member,
            None => self.members.push(member),
        }
        Ok(())
    }

    /// Reads a socket once; its frames join the batch.
    fn read(&mut self, slot: usize) {
        let Some(Some(member)) = self.members.get_mut(slot) else { return };
        let (batch, pieces) = (&mut self.batch, &mut self.pieces);
        let (mut open, mut answers) = (member.open, Vec::new());
        let result = member.wire.receive(&mut self.scratch, |mut bytes| {
            let all = bytes.len();
            if !open {
                let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else { return Ok(0) };
                answers.extend_from_slice(&upgrade(&bytes[..end])?);
                bytes = &bytes[end + 4..];
                open = true;
            }
            while let Some(frame) = frame::first(bytes).map_err(|_| WireError::Closed)? {
                match frame.opcode {
                    frame::TEXT => {
                        frame::put_header(batch, frame::TEXT, frame.payload.len(), false);
                        frame.unmask_into(batch);
                        pieces.push(Piece { from: slot, end: batch.len() });
                    }
                    frame::PING => {
                        frame::put_header(&mut answers, frame::PONG, frame.payload.len(), false);
                        frame.unmask_into(&mut answers);
                    }
                    frame::CLOSE => return Err(WireError::Closed),
                    _ => {}
                }
                bytes = &bytes[frame.taken..];
            }
            Ok(all - bytes.len())
        });
        let result: Result<Received, WireError> = result;
        let sent = match (&result, answers.is_empty()) {
            (Ok(_), false) => member.wire.send(&mut self.scratch, &answers),
            _ => Ok(()),
        };
        if result.is_err() || sent.is_err() || member.wire.is_behind() {
            self.gone.push(slot);
        } else if open && !member.open {
            member.open = true;
            self.open.push(slot);
        }
    }

    /// One write to each member for each frame of the batch.
    fn pass_on_singly(&mut self) {
        let mut start = 0;
        for piece in &self.pieces {
            let frame = &self.batch[start..piece.end];
            for &slot in self.open.iter().filter(|&&slot| slot != piece.from) {
                write(&mut self.members, &mut self.scratch, &mut self.gone, slot, frame);
            }
            start = piece.end;
        }
        self.finish();
    }

    /// One write to each member for all frames of the batch, but those that it sent itself.
    fn pass_on_together(&mut self) {
        if !self.pieces.is_empty() {
            let mut senders: Vec<usize> = self.pieces.iter().map(|piece| piece.from).collect();
            senders.sort_unstable();
            senders.dedup();
            for &slot in &self.open {
                let mut bytes = &self.batch;
                if senders.binary_search(&slot).is_ok() {
                    self.own.clear();
                    let mut start = 0;
                    for piece in &self.pieces {
                        if piece.from != slot {
                            self.own.extend_from_slice(&self.batch[start..piece.end]);
                        }
                        start = piece.end;
                    }
                    bytes = &self.own;
                }
                if !bytes.is_empty() {
                    write(&mut self.members, &mut self.scratch, &mut self.gone, slot, bytes);
                }
            }
        }
        self.finish();
    }

    /// Forgets the batch and who has gone.
    fn finish(&mut self) {
        self.batch.clear();
        self.pieces.clear();
        for slot in self.gone.drain(..) {
            // Dropping the socket closes it, and so ends its place in the epoll.
            if let Some(member) = self.members[slot].take() {
                self.free.push(slot);
                if member.open {
                    self.open.retain(|&open| open != slot);
                }
            }
        }
    }
}

#[inline]
fn write(members: &mut [Option<Member>], scratch: &mut Scratch, gone: &mut Vec<usize>, slot: usize, bytes: &[u8]) {
    let Some(member) = &mut members[slot] else { return };
    if member.wire.send(scratch, bytes).is_err() || member.wire.is_behind() {
        gone.push(slot);
    }
}

/// The answer to a request for an upgrade; who asks without a key is not a client of this bench.
fn upgrade(head: &[u8]) -> Result<Vec<u8>, WireError> {
    let key = head
        .split(|&byte| byte == b'\n')
        .find_map(|line| line.strip_prefix(b"Sec-WebSocket-Key: "))
        .ok_or(WireError::Closed)?;
    let accept = derive_accept_key(key.trim_ascii());
    Ok(format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\n\r\n"
    )
    .into_bytes())
}
