//! One open WebSocket: its stream, its outbox, its stage, and the task that reads it.
//!
//! The worker writes into a connection at any time; the connection's own task reads, waits for the
//! socket, and ends it in order: outbox, close frame, close_notify, FIN, and then reading what still
//! comes, so that no reset eats the frame. What messages mean belongs to `session`.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Sink, Stream};
use tokio::io::ReadBuf;
use tokio::time::{Instant, Sleep, sleep_until, timeout_at};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::{Error, ProtocolError};
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Message};

use super::gate::Place;
use super::io::{Io, Mark};
use super::session::{Kind, Session};
use crate::chat::event::Close;
use crate::chat::id::{ConnId, RoomId};
use crate::hub::link::End;
use crate::peer::Peer;
use crate::receipt::Receipt;
use crate::stats::{Speaks, WorkerStats};
use crate::wire::close;

/// How long the other side has to answer our close frame, and then to close its end of TCP.
pub const CLOSE_WAIT: Duration = Duration::from_secs(2);
/// What stands for a close frame without a code, and for none at all; never sent (RFC 6455, 7.4.1).
pub const NO_STATUS: u16 = 1005;
pub const ABNORMAL: u16 = 1006;
/// What is read and thrown away after the end, at the most.
const LINGER_BYTES: usize = 1024 * 1024;

pub struct Conn {
    pub id: ConnId,
    pub peer: Arc<Peer>,
    pub inner: RefCell<Inner>,
    /// Has been welcomed: gets what is for everyone.
    pub welcomed: Cell<bool>,
    /// Bytes that may be read before a message is whole.
    most_read: usize,
    /// Gives its places back when the connection is gone.
    _place: Option<Place>,
    /// Of its worker.
    stats: Arc<WorkerStats>,
}

pub struct Inner {
    ws: WebSocketStream<Io>,
    waker: Option<Waker>,
    stage: Stage,
    /// The rooms it is a member of here, and its slot in each.
    pub rooms: Vec<(RoomId, u32)>,
    pub session: Session,
    ending: Option<Box<Ending>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Open,
    /// A close frame has been sent or received; only the handshake goes on.
    Closing,
    /// The socket is of no use any more.
    Dead,
}

/// What only a connection that ends needs.
struct Ending {
    end: End,
    deadline: Pin<Box<Sleep>>,
}

/// What the connection's task is to look at next.
pub enum Step {
    Message(Message),
    /// A page of history is in the socket.
    PageWritten,
    /// The stream is over; what it broke, where it was the other side's fault.
    Over(Option<Close>),
}

impl Conn {
    pub fn new(
        peer: Arc<Peer>,
        ws: WebSocketStream<Io>,
        session: Session,
        place: Option<Place>,
        stats: Arc<WorkerStats>,
    ) -> Rc<Self> {
        // A fragment of one byte takes seven; more than that per byte is no message.
        let frame = ws.get_config().max_message_size.unwrap_or_default();
        Rc::new(Conn {
            id: peer.id,
            most_read: frame.saturating_mul(8).saturating_add(64 * 1024),
            peer,
            inner: RefCell::new(Inner {
                ws,
                waker: None,
                stage: Stage::Open,
                rooms: Vec::new(),
                session,
                ending: None,
            }),
            welcomed: Cell::new(false),
            _place: place,
            stats,
        })
    }

    /// Does the hub know it? An echo concerns nobody else.
    pub fn is_known(&self) -> bool {
        self.inner.borrow().session.kind != Kind::Echo
    }

    pub fn speaks(&self) -> Speaks {
        match self.inner.borrow().session.kind {
            Kind::Json => Speaks::Json,
            Kind::Text => Speaks::Text,
            Kind::Echo => Speaks::Echo,
        }
    }

    pub fn is_open(&self) -> bool {
        self.inner.borrow().stage == Stage::Open
    }

    /// Puts ready frames into the outbox and as much of it as possible into the socket. Past
    /// `limit` waiting bytes the connection is closed as a slow reader; true tells that it was.
    #[inline]
    pub fn deliver(&self, bytes: &Bytes, frames: u64, limit: usize, receipt: Option<&Arc<Receipt>>) -> bool {
        let inner = &mut *self.inner.borrow_mut();
        if inner.stage != Stage::Open {
            return false;
        }
        if let Some(receipt) = receipt {
            receipt.matched();
        }
        let io = inner.ws.get_mut();
        let waited = !io.is_settled();
        let Ok(settled) = io.send(bytes, true) else {
            inner.die();
            return false;
        };
        if let Some(receipt) = receipt {
            io.mark(Mark::Receipt(receipt.clone()), settled);
        }
        self.count_out(frames, bytes.len());
        if settled {
            return false;
        }
        let over = io.counted() > limit;
        if over {
            io.drop_waiting();
        }
        self.note_waiting(io.waiting());
        if over {
            return true;
        }
        if !waited {
            // Its task waits for the socket from now on; it needs no more telling.
            inner.wake();
        }
        false
    }

    /// Frames that do not count against the outbox limit; [`Step::PageWritten`] follows.
    pub fn deliver_page(&self, bytes: &Bytes) {
        let inner = &mut *self.inner.borrow_mut();
        if inner.stage != Stage::Open {
            return;
        }
        let io = inner.ws.get_mut();
        let Ok(settled) = io.send(bytes, false) else { return inner.die() };
        io.mark(Mark::Page, settled);
        self.note_waiting(io.waiting());
        self.count_out(1, bytes.len());
        inner.wake();
    }

    /// An echoed message.
    pub fn echo(&self, message: Message) {
        let inner = &mut *self.inner.borrow_mut();
        if inner.stage == Stage::Open {
            self.count_out(1, message.len());
            if Pin::new(&mut inner.ws).start_send(message).is_err() {
                inner.die();
            }
            inner.flush();
        }
    }

    fn count_out(&self, frames: u64, bytes: usize) {
        let counters = &self.peer.counters;
        counters.frames_out.store(counters.frames_out.load(Relaxed) + frames, Relaxed);
        counters.bytes_out.store(counters.bytes_out.load(Relaxed) + bytes as u64, Relaxed);
        self.stats.deliveries.count(frames);
        self.stats.sent_bytes.count(bytes as u64);
    }

    /// Bytes that wait for the socket, of this connection and so of all of the worker's.
    fn note_waiting(&self, now: usize) {
        let before = self.peer.counters.sendq.load(Relaxed);
        self.peer.counters.sendq.store(now, Relaxed);
        self.stats.outbox_bytes.change(before as u64, now as u64);
    }

    /// Begins the close handshake: `last` (a `bye`), then the close frame, behind what waits. Does
    /// nothing where one is under way already.
    pub fn begin_close(&self, close: &Close, last: Option<&Bytes>, wait: Duration) {
        let inner = &mut *self.inner.borrow_mut();
        if inner.stage == Stage::Open {
            if let Some(last) = last
                && inner.ws.get_mut().send(last, true).is_err()
            {
                inner.die();
            }
            inner.send_close(close);
            inner.end_with(End { clean: false, code: close.code, reason: close.reason.clone(), ours: true }, wait);
        }
        inner.wake();
    }

    /// Ends without a handshake.
    pub fn cut(&self) {
        self.inner.borrow_mut().die();
    }

    /// For the connection's own task alone.
    pub fn poll_step(&self, cx: &mut Context<'_>) -> Poll<Step> {
        let inner = &mut *self.inner.borrow_mut();
        if !inner.waker.as_ref().is_some_and(|w| w.will_wake(cx.waker())) {
            inner.waker = Some(cx.waker().clone());
        }
        if inner.stage == Stage::Dead {
            return Poll::Ready(Step::Over(None));
        }
        if let Some(ending) = &mut inner.ending
            && ending.deadline.as_mut().poll(cx).is_ready()
        {
            inner.part();
            inner.die();
            return Poll::Ready(Step::Over(None));
        }
        if self.poll_outbox(inner, cx).is_err() {
            inner.die();
            return Poll::Ready(Step::Over(None));
        }
        if inner.ws.get_mut().take_page_written() {
            return Poll::Ready(Step::PageWritten);
        }
        if inner.stage == Stage::Open && inner.session.is_closing() {
            // The hub sends the close, which wakes this task.
            return Poll::Pending;
        }
        if inner.session.waits_for_outbox() && !inner.ws.get_ref().is_settled() {
            // An echo is read no faster than it is taken back.
            return Poll::Pending;
        }
        match Pin::new(&mut inner.ws).poll_next(cx) {
            Poll::Pending if inner.ws.get_ref().unfinished() > self.most_read => {
                // Frames upon frames and never a message: each costs work and none is counted.
                Poll::Ready(Step::Over(Some(close::FLOODING.close())))
            }
            Poll::Pending => {
                // Before it read, tungstenite has written the pong it owed; the socket may not have
                // taken it, and nobody else would wait for that.
                if self.poll_outbox(inner, cx).is_err() {
                    inner.die();
                    return Poll::Ready(Step::Over(None));
                }
                if inner.ws.get_mut().take_page_written() { Poll::Ready(Step::PageWritten) } else { Poll::Pending }
            }
            Poll::Ready(None) => {
                inner.finish_handshake();
                Poll::Ready(Step::Over(None))
            }
            Poll::Ready(Some(Ok(message))) => {
                inner.ws.get_mut().forget_read();
                if let Message::Close(frame) = &message {
                    inner.heard_close(frame.as_ref());
                }
                Poll::Ready(Step::Message(message))
            }
            Poll::Ready(Some(Err(e))) => {
                let fault = fault(&e);
                // One who ends its side instead of answering our close frame still reads, perhaps:
                // it gets what waits for it, and the end in order.
                if fault.is_none() && !(inner.stage == Stage::Closing && is_end(&e)) {
                    inner.die();
                }
                Poll::Ready(Step::Over(fault))
            }
        }
    }

    /// Registers the waker where something waits for the socket.
    fn poll_outbox(&self, inner: &mut Inner, cx: &mut Context<'_>) -> std::io::Result<()> {
        let io = inner.ws.get_mut();
        if io.is_settled() {
            return Ok(());
        }
        let outcome = match io.poll_drain(cx) {
            Poll::Ready(result) => result,
            Poll::Pending => Ok(()),
        };
        self.note_waiting(io.waiting());
        outcome
    }

    /// Waits until `ready` is, and goes on emptying the outbox meanwhile. Nothing is read.
    pub fn poll_meanwhile(&self, cx: &mut Context<'_>) {
        let inner = &mut *self.inner.borrow_mut();
        inner.waker = Some(cx.waker().clone());
        if inner.stage != Stage::Dead && self.poll_outbox(inner, cx).is_err() {
            inner.die();
        }
    }

    /// The end of the connection's task: whatever is still owed is sent, and TLS and TCP are closed
    /// in order. `fault`: what the other side broke.
    pub async fn farewell(&self, fault: Option<Box<Close>>) {
        if let Some(close) = fault {
            let inner = &mut *self.inner.borrow_mut();
            if inner.stage == Stage::Open {
                inner.send_close(&close);
            }
            let Close { code, reason } = *close;
            inner.end_with(End { clean: false, code, reason, ours: true }, CLOSE_WAIT);
        }
        if self.inner.borrow().stage != Stage::Dead {
            // Whoever does not take its end in time has no claim to an orderly one.
            let _ = timeout_at(Instant::now() + CLOSE_WAIT, self.close_stream()).await;
        }
    }

    async fn close_stream(&self) -> std::io::Result<()> {
        std::future::poll_fn(|cx| self.inner.borrow_mut().ws.get_mut().poll_drain(cx)).await?;
        self.inner.borrow_mut().ws.get_mut().send_close_notify();
        std::future::poll_fn(|cx| self.inner.borrow_mut().ws.get_mut().poll_drain(cx)).await?;
        std::future::poll_fn(|cx| self.inner.borrow_mut().ws.get_mut().poll_shutdown_socket(cx)).await?;
        let mut left = LINGER_BYTES;
        while left > 0 {
            let taken = std::future::poll_fn(|cx| {
                let mut scratch = [0; 2048];
                let mut buf = ReadBuf::new(&mut scratch);
                let io = &mut self.inner.borrow_mut();
                io.ws.get_mut().poll_read_socket(cx, &mut buf).map_ok(|()| buf.filled().len())
            })
            .await?;
            if taken == 0 {
                break;
            }
            left = left.saturating_sub(taken);
        }
        Ok(())
    }

    /// How it ended.
    pub fn take_end(&self) -> End {
        self.inner.borrow_mut().ending.take().map_or_else(lost, |ending| ending.end)
    }
}

impl Drop for Conn {
    fn drop(&mut self) {
        self.note_waiting(0);
    }
}

/// The end of a connection that broke (RFC 6455, 7.1.5).
fn lost() -> End {
    End { clean: false, code: ABNORMAL, reason: String::new(), ours: false }
}

impl Inner {
    fn wake(&self) {
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }

    fn die(&mut self) {
        self.stage = Stage::Dead;
        self.wake();
    }

    /// The other side has not answered in time, but it may be only slow, and read the close frame
    /// yet: its stream ends in as much order as can be had without waiting any more.
    fn part(&mut self) {
        let io = self.ws.get_mut();
        if io.waiting() > 0 {
            return;
        }
        let cx = &mut Context::from_waker(Waker::noop());
        io.send_close_notify();
        // A socket that takes no more than it has is left as it is.
        let _ = io.poll_drain(cx);
        let _ = io.poll_shutdown_socket(cx);
        let mut left = LINGER_BYTES;
        while left > 0 {
            let mut scratch = [0; 2048];
            let mut buf = ReadBuf::new(&mut scratch);
            match io.poll_read_socket(cx, &mut buf) {
                Poll::Ready(Ok(())) if !buf.filled().is_empty() => left = left.saturating_sub(buf.filled().len()),
                _ => return,
            }
        }
    }

    fn flush(&mut self) {
        // The outbox takes everything at once, so there is nothing to wait for.
        let _ = Pin::new(&mut self.ws).poll_flush(&mut Context::from_waker(Waker::noop()));
    }

    fn send_close(&mut self, close: &Close) {
        self.ws.get_ref().lift_send_limit();
        // A pong that tungstenite still owes goes first: nothing may follow the close frame.
        self.flush();
        let frame = CloseFrame { code: close.code.into(), reason: close::reason(&close.reason).into() };
        if Pin::new(&mut self.ws).start_send(Message::Close(Some(frame))).is_err() {
            return self.die();
        }
        self.flush();
        self.stage = Stage::Closing;
    }

    /// The first end counts.
    fn end_with(&mut self, end: End, wait: Duration) {
        if self.ending.is_none() {
            let deadline = Box::pin(sleep_until(Instant::now() + wait));
            self.ending = Some(Box::new(Ending { end, deadline }));
        }
    }

    /// The other side's close frame; tungstenite answers it.
    fn heard_close(&mut self, frame: Option<&CloseFrame>) {
        self.flush();
        let (code, reason) = frame.map_or((NO_STATUS, ""), |f| (u16::from(f.code), f.reason.as_str()));
        self.end_with(End { clean: true, code, reason: reason.to_string(), ours: false }, CLOSE_WAIT);
        if let Some(ending) = &mut self.ending {
            ending.end.clean = true;
        }
        if self.stage == Stage::Open {
            self.stage = Stage::Closing;
        }
    }

    /// The stream ended: in order after a close frame, else the connection is lost.
    fn finish_handshake(&mut self) {
        if self.ending.as_ref().is_none_or(|e| !e.end.clean) {
            self.die();
        }
    }
}

/// Has the other side only closed its end, with close_notify or without?
fn is_end(error: &Error) -> bool {
    match error {
        Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => true,
        Error::Io(e) => e.kind() == std::io::ErrorKind::UnexpectedEof,
        _ => false,
    }
}

/// The close that a broken stream is answered with; `None`: it is lost, there is nobody to answer.
fn fault(error: &Error) -> Option<Close> {
    let (code, reason) = match error {
        Error::Capacity(_) => (close::TOO_BIG.code, "the message is over the limit"),
        Error::Utf8(_) => (close::NOT_UTF8.code, "the text is not UTF-8"),
        Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => return None,
        Error::Protocol(ProtocolError::UnmaskedFrameFromClient) => {
            (close::PROTOCOL.code, "a client's frame must be masked")
        }
        Error::Protocol(_) => (close::PROTOCOL.code, "the framing is broken"),
        _ => return None,
    };
    Some(Close { code, reason: reason.into() })
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;
    use std::sync::OnceLock;
    use std::time::SystemTime;

    use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

    use super::super::socket::Socket;
    use super::*;
    use crate::config::Config;
    use crate::peer::Counters;

    #[test]
    fn a_pong_that_the_socket_does_not_take_goes_when_it_does() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build_local(Default::default());
        runtime.unwrap().block_on(async {
            let (mut client, ours) = UnixStream::pair().unwrap();
            ours.set_nonblocking(true).unwrap();
            let mut filler = ours.try_clone().unwrap();
            let mut io = Io::plain(Socket::Unix(tokio::net::UnixStream::from_std(ours).unwrap()));
            io.become_outbox();
            let ws = WebSocketStream::from_raw_socket(
                io,
                Role::Server,
                Some(WebSocketConfig::default().write_buffer_size(0)),
            );
            let peer = Arc::new(Peer {
                id: ConnId(1),
                address: [127, 0, 0, 1].into(),
                port: 0,
                dialect: Kind::Json.dialect(),
                tls: None,
                alpn: None,
                proxied: false,
                origin: None,
                agent: None,
                since: SystemTime::now(),
                user: OnceLock::new(),
                counters: Counters::default(),
            });
            let session = Session::new(Kind::Json, None, Duration::ZERO, &Config::default());
            let conn = Conn::new(peer, ws.await, session, None, Arc::default());

            // Full to the last byte, with nothing waiting here; then a ping comes.
            let mut full = 0;
            for piece in [4096, 1] {
                while let Ok(taken) = filler.write(&vec![0; piece]) {
                    full += taken;
                }
            }
            client.write_all(&[0x89, 0x80, 0, 0, 0, 0]).unwrap();
            let task = {
                let conn = conn.clone();
                tokio::task::spawn_local(async move {
                    while let Step::Message(_) = std::future::poll_fn(|cx| conn.poll_step(cx)).await {}
                })
            };
            while conn.inner.borrow().ws.get_ref().is_settled() {
                tokio::task::yield_now().await;
            }
            client.read_exact(&mut vec![0; full]).unwrap();
            client.set_nonblocking(true).unwrap();
            let pong = async {
                let client = tokio::net::UnixStream::from_std(client).unwrap();
                let mut pong = [0; 2];
                while let Err(e) = client.try_read(&mut pong) {
                    assert_eq!(e.kind(), std::io::ErrorKind::WouldBlock);
                    client.readable().await.unwrap();
                }
                pong
            };
            assert_eq!(tokio::time::timeout(Duration::from_secs(10), pong).await.expect("it is sent"), [0x8a, 0]);
            task.abort();
        });
    }
}
