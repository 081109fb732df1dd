//! One connection's byte stream, plain or TLS, with its outbox.
//!
//! While HTTP is spoken, [`Io`] is an ordinary stream. After [`Io::become_outbox`] every write is
//! taken whole: what the socket does not take at once waits in the outbox, so that ready frames,
//! tungstenite's own pongs and the close frame keep one order. The worker writes without wakers;
//! only the connection's own task waits, in [`Io::poll_drain`].

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice, Write};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::server::TlsStream;

use super::socket::Socket;
use crate::peer::TlsVersion;
use crate::receipt::Receipt;

/// What goes into one write when many small pieces wait: a TLS record's worth.
const GATHER: usize = 16 * 1024;

thread_local! {
    /// Where waiting pieces are joined; one for all connections of a worker.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

pub struct Io {
    kind: Kind,
    outbox: bool,
    waiting: VecDeque<Waiting>,
    /// Bytes in `waiting`, and those of them that count against the outbox limit.
    bytes: usize,
    counted: usize,
    pages_written: bool,
    /// Bytes read since the last whole message.
    read: usize,
}

enum Kind {
    Plain(Socket),
    Tls(Box<TlsStream<Socket>>),
}

enum Waiting {
    Bytes { data: Bytes, counted: bool },
    Written(Mark),
}

/// What is to be noted once everything before it has gone to the socket.
#[derive(Clone, Debug)]
pub enum Mark {
    Receipt(Arc<Receipt>),
    Page,
}

struct TryWrite<'a>(&'a Socket);

impl Write for TryWrite<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match slices {
            [one] => self.0.try_write(one),
            many => self.0.try_write_vectored(many),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// `None` where the socket would block.
fn unless_blocked<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(e) if e.kind() == ErrorKind::WouldBlock => Ok(None),
        Err(e) => Err(e),
    }
}

impl Io {
    pub fn plain(socket: Socket) -> Self {
        Io::new(Kind::Plain(socket))
    }

    pub fn tls(stream: TlsStream<Socket>) -> Self {
        Io::new(Kind::Tls(Box::new(stream)))
    }

    fn new(kind: Kind) -> Self {
        Io { kind, outbox: false, waiting: VecDeque::new(), bytes: 0, counted: 0, pages_written: false, read: 0 }
    }

    /// The TLS version and what ALPN settled on.
    pub fn tls_facts(&self) -> Option<(TlsVersion, Option<&[u8]>)> {
        let Kind::Tls(stream) = &self.kind else { return None };
        let session = stream.get_ref().1;
        let version = match session.protocol_version() {
            Some(rustls::ProtocolVersion::TLSv1_2) => TlsVersion::V1_2,
            _ => TlsVersion::V1_3,
        };
        Some((version, session.alpn_protocol()))
    }

    /// From now on every write is taken whole.
    pub fn become_outbox(&mut self) {
        self.outbox = true;
    }

    /// Bytes that wait for the socket.
    pub fn waiting(&self) -> usize {
        self.bytes
    }

    /// Does nothing wait, neither here nor in TLS below?
    pub fn is_settled(&self) -> bool {
        let sealed = matches!(&self.kind, Kind::Tls(stream) if stream.get_ref().1.wants_write());
        self.waiting.is_empty() && !sealed
    }

    /// Bytes that wait and count against the outbox limit: all but pages of history.
    pub fn counted(&self) -> usize {
        self.counted
    }

    /// Bytes read so far without a whole message.
    pub fn unfinished(&self) -> usize {
        self.read
    }

    /// A message has been read whole.
    pub fn forget_read(&mut self) {
        self.read = 0;
    }

    /// See [`Socket::set_unsent_limit`].
    pub fn limit_unsent(&self, bytes: u32) {
        self.socket().set_unsent_limit(bytes);
    }

    /// Lets the kernel take whatever is left, so that an end reaches also one who reads late.
    pub fn lift_send_limit(&self) {
        self.socket().set_unsent_limit(u32::MAX);
    }

    /// True once after a [`Mark::Page`] has been passed.
    pub fn take_page_written(&mut self) -> bool {
        std::mem::take(&mut self.pages_written)
    }

    fn socket(&self) -> &Socket {
        match &self.kind {
            Kind::Plain(socket) => socket,
            Kind::Tls(stream) => stream.get_ref().0,
        }
    }

    /// Gets rid of TLS records that wait below the outbox; true when none are left.
    fn settle(&mut self) -> io::Result<bool> {
        let Kind::Tls(stream) = &mut self.kind else { return Ok(true) };
        let (socket, session) = stream.get_mut();
        while session.wants_write() {
            if unless_blocked(session.write_tls(&mut TryWrite(socket)))?.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Writes settled bytes: how many were taken, and whether all of those are in the socket.
    fn put(&mut self, data: &[u8]) -> io::Result<(usize, bool)> {
        let mut at = 0;
        match &mut self.kind {
            Kind::Plain(socket) => {
                while at < data.len() {
                    match unless_blocked(socket.try_write(&data[at..]))? {
                        Some(n) => at += n,
                        None => return Ok((at, false)),
                    }
                }
            }
            Kind::Tls(stream) => {
                let (socket, session) = stream.get_mut();
                while at < data.len() {
                    // rustls takes at most what fits into its own bounded buffer.
                    at += session.writer().write(&data[at..])?;
                    while session.wants_write() {
                        if unless_blocked(session.write_tls(&mut TryWrite(socket)))?.is_none() {
                            return Ok((at, false));
                        }
                    }
                }
            }
        }
        Ok((at, true))
    }

    /// Sends `data`, or queues what the socket does not take; true when nothing waits.
    pub fn send(&mut self, data: &Bytes, counted: bool) -> io::Result<bool> {
        if self.waiting.is_empty() && self.settle()? {
            let (taken, all) = self.put(data)?;
            if taken < data.len() {
                self.queue(data.slice(taken..), counted);
            }
            Ok(all && taken == data.len())
        } else {
            self.queue(data.clone(), counted);
            Ok(false)
        }
    }

    fn queue(&mut self, data: Bytes, counted: bool) {
        self.bytes += data.len();
        if counted {
            self.counted += data.len();
        }
        self.waiting.push_back(Waiting::Bytes { data, counted });
    }

    /// Has `mark` noted when everything sent before is in the socket. `settled`: it is already.
    pub fn mark(&mut self, mark: Mark, settled: bool) {
        if settled {
            self.note(mark);
        } else {
            self.waiting.push_back(Waiting::Written(mark));
        }
    }

    fn note(&mut self, mark: Mark) {
        match mark {
            Mark::Receipt(receipt) => receipt.delivered(),
            Mark::Page => self.pages_written = true,
        }
    }

    /// Drops what waits, but for the rest of the piece that has begun: only whole frames go.
    pub fn drop_waiting(&mut self) {
        self.waiting.truncate(1);
        if matches!(self.waiting.front(), Some(Waiting::Written(_))) {
            self.waiting.clear();
        }
        self.bytes = 0;
        self.counted = 0;
        if let Some(Waiting::Bytes { data, counted }) = self.waiting.front() {
            self.bytes = data.len();
            self.counted = if *counted { data.len() } else { 0 };
        }
    }

    /// Writes what waits; true when nothing is left.
    pub fn drain(&mut self) -> io::Result<bool> {
        loop {
            if !self.settle()? {
                return Ok(false);
            }
            while matches!(self.waiting.front(), Some(Waiting::Written(_))) {
                if let Some(Waiting::Written(mark)) = self.waiting.pop_front() {
                    self.note(mark);
                }
            }
            let Some(Waiting::Bytes { data, .. }) = self.waiting.front() else {
                // A queue that was long once keeps no memory.
                self.waiting = VecDeque::new();
                return Ok(true);
            };
            let (taken, all) = if data.len() >= GATHER || self.waiting.len() == 1 {
                let data = data.clone();
                self.put(&data)?
            } else {
                SCRATCH.with_borrow_mut(|scratch| {
                    scratch.clear();
                    for piece in &self.waiting {
                        match piece {
                            Waiting::Bytes { data, .. } if scratch.len() + data.len() <= GATHER => {
                                scratch.extend_from_slice(data);
                            }
                            _ => break,
                        }
                    }
                    self.put(scratch)
                })?
            };
            self.taken(taken);
            if !all {
                return Ok(false);
            }
        }
    }

    /// Takes `count` bytes off the front.
    fn taken(&mut self, mut count: usize) {
        self.bytes -= count;
        while count > 0 {
            let Some(Waiting::Bytes { data, counted }) = self.waiting.front_mut() else { return };
            let part = count.min(data.len());
            if *counted {
                self.counted -= part;
            }
            count -= part;
            if part == data.len() {
                self.waiting.pop_front();
            } else {
                *data = data.slice(part..);
            }
        }
    }

    /// As [`Io::drain`], waiting for the socket. For the connection's own task alone.
    pub fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if self.drain()? {
                return Poll::Ready(Ok(()));
            }
            ready!(self.socket().poll_write_ready(cx))?;
        }
    }

    /// Queues TLS' close_notify behind everything that was sent.
    pub fn send_close_notify(&mut self) {
        if let Kind::Tls(stream) = &mut self.kind {
            stream.get_mut().1.send_close_notify();
        }
    }

    /// Tells the other side that nothing more comes (FIN).
    pub fn poll_shutdown_socket(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.kind {
            Kind::Plain(socket) => Pin::new(socket).poll_shutdown(cx),
            Kind::Tls(stream) => Pin::new(stream.get_mut().0).poll_shutdown(cx),
        }
    }

    /// Reads from the socket below TLS, for what still comes after the end.
    pub fn poll_read_socket(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.kind {
            Kind::Plain(socket) => Pin::new(socket).poll_read(cx, buf),
            Kind::Tls(stream) => Pin::new(stream.get_mut().0).poll_read(cx, buf),
        }
    }
}

impl AsyncRead for Io {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let result = match &mut self.kind {
            Kind::Plain(socket) => Pin::new(socket).poll_read(cx, buf),
            Kind::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        };
        self.read = self.read.saturating_add(buf.filled().len() - before);
        result
    }
}

impl AsyncWrite for Io {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.outbox {
            self.send(&Bytes::copy_from_slice(buf), true)?;
            return Poll::Ready(Ok(buf.len()));
        }
        match &mut self.kind {
            Kind::Plain(socket) => Pin::new(socket).poll_write(cx, buf),
            Kind::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.outbox {
            // The outbox is drained by the connection's task; nobody waits for it here.
            return Poll::Ready(Ok(()));
        }
        match &mut self.kind {
            Kind::Plain(socket) => Pin::new(socket).poll_flush(cx),
            Kind::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.kind {
            Kind::Plain(socket) => Pin::new(socket).poll_shutdown(cx),
            Kind::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
