//! Both sockets: accepts, counts, reads calls in their order and writes the replies.
//!
//! Each connection has a task of its own, so a slow call holds up nobody but its own caller. What
//! a call means is in `calls`; nothing here knows a method except that watching and following end
//! when the caller hangs up.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{broadcast, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::calls::{self, Copying, Following, Outcome, Watching};
use super::places;
use super::protocol::{self, Refusal, Watched};
use super::wire::{Call, MAX_CALL, Reply, encode};
use crate::admin::{Admin, Event};

/// Connections of one socket. An operator has a handful open; a backend one for each of its workers.
pub const CONNECTIONS: usize = 64;
/// From the first byte of a call to its NUL.
pub const CALL_DEADLINE: Duration = Duration::from_secs(10);
/// How long the next piece of a backup may wait to be taken.
const COPY_STALL: Duration = Duration::from_secs(60);
/// How long calls under way may still take when the daemon stops.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(2);
/// After an accept that failed for want of something (descriptors, memory).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// What is read at a time.
const CHUNK: usize = 8 * 1024;

/// Which socket it is, and so what it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Everything.
    Control,
    /// `org.wschat.Push` alone.
    Push,
}

impl Access {
    /// The interface that the socket is there for.
    pub fn interface(self) -> &'static str {
        match self {
            Access::Control => protocol::CONTROL,
            Access::Push => protocol::PUSH,
        }
    }

    /// The socket's name in the runtime folder.
    pub fn file_name(self) -> &'static str {
        match self {
            Access::Control => places::CONTROL,
            Access::Push => places::PUSH,
        }
    }

    /// Whose members may open the socket, for [`super::bind::bind`].
    pub fn group(self) -> &'static str {
        match self {
            Access::Control => places::CONTROL_GROUP,
            Access::Push => places::PUSH_GROUP,
        }
    }
}

/// Who calls, as the kernel knew it when the connection was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    pub uid: u32,
    pub gid: u32,
    /// 0 where it is not known (another PID namespace).
    pub pid: i32,
}

impl Caller {
    /// For the audit: who it was, in words.
    pub fn named(&self, name: Option<&str>) -> String {
        match name {
            Some(name) => format!("{name} (uid {}, pid {})", self.uid, self.pid),
            None => format!("uid {} (pid {})", self.uid, self.pid),
        }
    }

    /// As what it has ordered names it for as long as that lasts.
    pub fn by(&self, name: Option<&str>) -> String {
        match name {
            Some(name) => format!("{name} (uid {})", self.uid),
            None => format!("uid {}", self.uid),
        }
    }
}

/// Serves until `shutdown` ends; calls under way then get a moment to be answered.
///
/// The connections do not read the caller's group: the socket's file mode is the gate.
pub async fn serve(listener: UnixListener, access: Access, admin: Admin, shutdown: impl Future<Output = ()>) {
    let (close, closing) = watch::channel(false);
    let mut connections = JoinSet::new();
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            () = &mut shutdown => break,
            // Finished tasks leave the set, so that its size is what is open.
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            accepted = listener.accept() => accepted,
        };
        while connections.try_join_next().is_some() {}
        match accepted {
            Ok((stream, _)) if connections.len() >= CONNECTIONS => turn_away(stream, access),
            Ok((stream, _)) => match credentials(&stream) {
                Ok(caller) => {
                    let connection = Connection::new(stream, access, admin.clone(), caller, closing.clone());
                    connections.spawn(connection.run());
                }
                Err(error) => tracing::debug!("a control caller without credentials: {error}"),
            },
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                tracing::warn!("a connection to the socket of {} cannot be accepted: {error}", access.interface());
                tokio::select! {
                    () = &mut shutdown => break,
                    () = sleep(ACCEPT_PAUSE) => {}
                }
            }
        }
    }
    drop(listener);
    // Nobody may be there to hear it.
    let _ = close.send(true);
    let ended = timeout(SHUTDOWN_GRACE, async { while connections.join_next().await.is_some() {} }).await;
    if ended.is_err() {
        tracing::debug!("{} control connections were cut", connections.len());
    }
}

fn credentials(stream: &UnixStream) -> io::Result<Caller> {
    let peer = stream.peer_cred()?;
    Ok(Caller { uid: peer.uid(), gid: peer.gid(), pid: peer.pid().unwrap_or(0) })
}

/// A fresh socket's buffer is empty: the answer fits, or nobody is there.
fn turn_away(stream: UnixStream, access: Access) {
    tracing::debug!("the socket of {} has too many connections: one more was turned away", access.interface());
    let answer = refusal(&Refusal::TooManyConnections { limit: CONNECTIONS as u64 }, access.interface());
    let _ = stream.try_write(&answer);
}

fn refusal(refusal: &Refusal, interface: &str) -> Vec<u8> {
    let (error, parameters) = refusal.to_wire(interface);
    encode(&Reply { parameters: Some(parameters), continues: None, error: Some(error) })
}

struct Connection {
    calls: Calls,
    replies: Replies,
    access: Access,
    admin: Admin,
    caller: Caller,
    closing: watch::Receiver<bool>,
}

impl Connection {
    fn new(stream: UnixStream, access: Access, admin: Admin, caller: Caller, closing: watch::Receiver<bool>) -> Self {
        let (read, write) = stream.into_split();
        let calls = Calls { half: read, buffer: Vec::new(), searched: 0, begun: None };
        Connection {
            calls,
            replies: Replies { half: write, more: false, oneway: false },
            access,
            admin,
            caller,
            closing,
        }
    }

    async fn run(mut self) {
        if let Err(error) = self.converse().await {
            tracing::debug!("the control connection of pid {} broke: {error}", self.caller.pid);
        }
    }

    async fn converse(&mut self) -> io::Result<()> {
        loop {
            let next = tokio::select! {
                next = self.calls.next() => next?,
                _ = self.closing.wait_for(|closing| *closing) => return Ok(()),
            };
            let refused = match next {
                Next::End => return Ok(()),
                Next::TooLarge => Refusal::CallTooLarge { limit: MAX_CALL as u64 },
                Next::Unfinished => {
                    Refusal::Malformed { reason: format!("not finished within {} s", CALL_DEADLINE.as_secs()) }
                }
                Next::Call(bytes) => match serde_json::from_slice::<Call>(&bytes) {
                    Ok(call) => {
                        self.answer(call).await?;
                        continue;
                    }
                    // The text may quote what was sent: cut it.
                    Err(e) => Refusal::Malformed { reason: e.to_string().chars().take(200).collect() },
                },
            };
            // After this nobody knows where the next call would begin.
            self.replies.oneway = false;
            return self.replies.refuse(&refused, self.access.interface()).await;
        }
    }

    async fn answer(&mut self, call: Call) -> io::Result<()> {
        self.replies.more = call.more == Some(true);
        self.replies.oneway = call.oneway == Some(true);
        let outcome = calls::answer(call, &self.admin, self.access, self.caller, &mut self.replies).await?;
        match outcome {
            Outcome::Answered => Ok(()),
            Outcome::Watch(watching) => self.watch(watching).await,
            Outcome::Follow(following) => self.follow(following).await,
            Outcome::Copy(copying) => self.copy(copying).await,
        }
    }

    /// Until the last byte is taken, the caller hangs up or the daemon stops. One who takes nothing for
    /// long is hung up on: nobody else gets a copy meanwhile.
    async fn copy(&mut self, mut copying: Copying) -> io::Result<()> {
        loop {
            let next = tokio::select! {
                next = copying.next() => next,
                () = self.calls.hangup() => return Ok(()),
                _ = self.closing.wait_for(|closing| *closing) => return Ok(()),
            };
            let interface = self.access.interface();
            let (write, last) = match next {
                calls::Next::Part(part) => (timeout(COPY_STALL, self.replies.part(&part)).await, false),
                calls::Next::Last(part) => (timeout(COPY_STALL, self.replies.last(&part)).await, true),
                calls::Next::Refused(why) => (timeout(COPY_STALL, self.replies.refuse(&why, interface)).await, true),
            };
            write.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
            if last {
                return Ok(());
            }
        }
    }

    /// Until the follower hangs up or the daemon stops. Nothing is read for one that does not take
    /// what it has been given.
    async fn follow(&mut self, mut following: Following) -> io::Result<()> {
        loop {
            let page = tokio::select! {
                page = following.next() => page,
                () = self.calls.hangup() => return Ok(()),
                _ = self.closing.wait_for(|closing| *closing) => return Ok(()),
            };
            let Some(page) = page else { return Ok(()) };
            tokio::select! {
                written = self.replies.part(&page) => written?,
                () = self.calls.hangup() => return Ok(()),
                _ = self.closing.wait_for(|closing| *closing) => return Ok(()),
            }
        }
    }

    /// Until the watcher hangs up or the daemon stops. Only this task waits for a slow reader; what
    /// happens meanwhile is kept for it as far as the channel goes, and then counted.
    async fn watch(&mut self, mut watching: Watching) -> io::Result<()> {
        self.replies.part(&Watched { ready: Some(true), ..Watched::default() }).await?;
        loop {
            let received = tokio::select! {
                received = watching.events.recv() => received,
                () = self.calls.hangup() => return Ok(()),
                _ = self.closing.wait_for(|closing| *closing) => return Ok(()),
            };
            let part = match received {
                Ok(event) => match watching.wants(&event) {
                    true => Watched { event: Some(calls::event(&event)), ..Watched::default() },
                    false => continue,
                },
                Err(broadcast::error::RecvError::Lagged(missed)) => {
                    self.admin.stats().events_missed.add(missed);
                    Watched { missed: Some(missed), ..Watched::default() }
                }
                Err(broadcast::error::RecvError::Closed) => return Ok(()),
            };
            tokio::select! {
                written = self.replies.part(&part) => written?,
                () = self.calls.hangup() => return Ok(()),
                _ = self.closing.wait_for(|closing| *closing) => return Ok(()),
            }
        }
    }
}

impl Watching {
    fn wants(&self, event: &Arc<Event>) -> bool {
        (self.types.is_empty() || self.types.contains(&event.kind)) && self.filter.matches(event)
    }
}

enum Next {
    Call(Vec<u8>),
    End,
    TooLarge,
    Unfinished,
}

/// The caller's bytes, cut at the NULs. Holds at most [`MAX_CALL`] and a chunk.
struct Calls {
    half: OwnedReadHalf,
    buffer: Vec<u8>,
    /// Up to here there is no NUL.
    searched: usize,
    /// When the first byte of the unfinished call came.
    begun: Option<Instant>,
}

impl Calls {
    /// Nothing is lost when this is dropped half-way.
    async fn next(&mut self) -> io::Result<Next> {
        loop {
            if let Some(end) = self.buffer[self.searched..].iter().position(|byte| *byte == 0) {
                let rest = self.buffer.split_off(self.searched + end + 1);
                let mut call = std::mem::replace(&mut self.buffer, rest);
                call.pop();
                self.searched = 0;
                self.begun = None;
                // The rest has been here since now at the latest.
                return Ok(if call.len() > MAX_CALL { Next::TooLarge } else { Next::Call(call) });
            }
            self.searched = self.buffer.len();
            if self.buffer.len() > MAX_CALL {
                return Ok(Next::TooLarge);
            }
            self.buffer.reserve(CHUNK);
            let read = if self.buffer.is_empty() {
                self.half.read_buf(&mut self.buffer).await
            } else {
                let deadline = *self.begun.get_or_insert_with(Instant::now) + CALL_DEADLINE;
                match timeout_at(deadline, self.half.read_buf(&mut self.buffer)).await {
                    Ok(read) => read,
                    Err(_) => return Ok(Next::Unfinished),
                }
            };
            if read? == 0 {
                return Ok(Next::End);
            }
        }
    }

    /// Returns when the caller has gone. What it says meanwhile waits in the buffer; where that is
    /// full this never returns, and the next write finds out.
    async fn hangup(&mut self) {
        while self.buffer.len() <= MAX_CALL {
            self.buffer.reserve(CHUNK);
            if !matches!(self.half.read_buf(&mut self.buffer).await, Ok(read) if read > 0) {
                return;
            }
        }
        std::future::pending().await
    }
}

/// The way back to the caller, for the call that is being answered. A caller that does not read
/// waits for itself: it holds one of the socket's places and at most one reply.
pub(super) struct Replies {
    half: OwnedWriteHalf,
    more: bool,
    oneway: bool,
}

impl Replies {
    pub(super) fn more(&self) -> bool {
        self.more
    }

    pub(super) fn oneway(&self) -> bool {
        self.oneway
    }

    /// One of several.
    pub(super) async fn part<T: Serialize>(&mut self, parameters: &T) -> io::Result<()> {
        self.send(encode(&Reply { parameters: Some(parameters), continues: Some(true), error: None })).await
    }

    /// The only one, or the last.
    pub(super) async fn last<T: Serialize>(&mut self, parameters: &T) -> io::Result<()> {
        self.send(encode(&Reply { parameters: Some(parameters), continues: None, error: None })).await
    }

    pub(super) async fn refuse(&mut self, why: &Refusal, interface: &str) -> io::Result<()> {
        tracing::debug!("a control call was refused: {why}");
        self.send(refusal(why, interface)).await
    }

    async fn send(&mut self, bytes: Vec<u8>) -> io::Result<()> {
        match self.oneway {
            true => Ok(()),
            false => self.half.write_all(&bytes).await,
        }
    }
}

#[cfg(test)]
mod tests {
    //! What only shows after a long wait, under a clock that does not wait.

    use super::*;
    use crate::admin::{ClientPage, ClientView, Closed, DaemonRequest, HubRequest};
    use crate::chat::event::Dialect;
    use crate::chat::id::ConnId;
    use crate::peer::{Counters, Peer};
    use crate::state::State;
    use crate::stats::Stats;
    use std::time::SystemTime;
    use tokio::sync::mpsc;

    struct Table {
        caller: UnixStream,
        hub: mpsc::Receiver<HubRequest>,
        _daemon: mpsc::Receiver<DaemonRequest>,
        _close: watch::Sender<bool>,
    }

    fn connected() -> Table {
        let (hub_queue, hub) = mpsc::channel(4);
        let (daemon_queue, _daemon) = mpsc::channel(4);
        let admin = Admin::new(hub_queue, daemon_queue, broadcast::channel(4).0, State::default(), Stats::new(1));
        let (caller, stream) = UnixStream::pair().unwrap();
        let (_close, closing) = watch::channel(false);
        let who = Caller { uid: 0, gid: 0, pid: 0 };
        tokio::spawn(Connection::new(stream, Access::Control, admin, who, closing).run());
        Table { caller, hub, _daemon, _close }
    }

    async fn reply(caller: &mut UnixStream) -> serde_json::Value {
        let mut bytes = Vec::new();
        loop {
            match caller.read_u8().await.unwrap() {
                0 => return serde_json::from_slice(&bytes).unwrap(),
                byte => bytes.push(byte),
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn half_a_call_is_not_waited_for_and_an_idle_caller_is() {
        let mut table = connected();
        sleep(Duration::from_secs(3600)).await;
        table.caller.write_all(b"{\"method\":\"org.varlink.service.GetInfo\"}\0{\"method\"").await.unwrap();
        assert_eq!(reply(&mut table.caller).await["parameters"]["product"], "wschat");
        // A byte now and then buys no time.
        for _ in 0..9 {
            sleep(Duration::from_secs(1)).await;
            table.caller.write_all(b" ").await.unwrap();
        }
        let begun = Instant::now();
        assert_eq!(reply(&mut table.caller).await["error"], "org.wschat.Control.Malformed");
        assert!(begun.elapsed() <= Duration::from_secs(2));
        assert_eq!(table.caller.read(&mut [0]).await.unwrap(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_hub_that_hangs_is_told_of() {
        let mut table = connected();
        table.caller.write_all(b"{\"method\":\"org.wschat.Control.Ping\"}\0").await.unwrap();
        let told = reply(&mut table.caller).await;
        assert_eq!(
            (&told["error"], &told["parameters"]["seconds"]),
            (&"org.wschat.Control.TimedOut".into(), &30.into())
        );
        drop(table.hub);
        table.caller.write_all(b"{\"method\":\"org.wschat.Control.Ping\"}\0").await.unwrap();
        assert_eq!(reply(&mut table.caller).await["error"], "org.wschat.Control.Stopping");
    }

    #[tokio::test(start_paused = true)]
    async fn a_socket_that_will_not_close_is_a_failure_of_its_own() {
        let mut table = connected();
        let call = b"{\"method\":\"org.wschat.Control.Kick\",\"parameters\":{\"ids\":[1,2]}}\0";
        table.caller.write_all(call).await.unwrap();
        let Some(HubRequest::Close { ids, reply: answer, taken, .. }) = table.hub.recv().await else {
            panic!("no kick")
        };
        taken.send(()).unwrap();
        assert_eq!(ids, [ConnId(1), ConnId(2)]);
        answer.send(Closed { id: ConnId(2), result: Ok(()) }).await.unwrap();
        let told = reply(&mut table.caller).await;
        let failed = serde_json::json!([{"id": 1, "error": "not closed within 30 s"}]);
        assert_eq!(told["parameters"], serde_json::json!({"matched": 2, "done": 1, "failed": failed, "bans": []}));
    }

    fn page(ids: std::ops::Range<u64>, next: Option<u64>) -> ClientPage {
        let view = |id| ClientView {
            peer: Arc::new(Peer {
                id: ConnId(id),
                address: [192, 0, 2, 1].into(),
                port: 1,
                dialect: Dialect::Json,
                tls: None,
                alpn: None,
                proxied: false,
                origin: None,
                agent: Some("x".repeat(256).into()),
                since: SystemTime::now(),
                user: Default::default(),
                counters: Counters::default(),
            }),
            user: None,
            nick: None,
            rooms: Vec::new(),
            resumed: false,
            token_exp: None,
            moderator: false,
        };
        ClientPage { clients: ids.map(view).collect(), next: next.map(ConnId) }
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_rows_are_there_before_the_rest_is_asked_for() {
        let mut table = connected();
        table.caller.write_all(b"{\"method\":\"org.wschat.Control.ListClients\",\"more\":true}\0").await.unwrap();
        let Some(HubRequest::Clients { after: ConnId(0), reply: answer, .. }) = table.hub.recv().await else {
            panic!("no list")
        };
        answer.send(page(1..4, Some(3))).unwrap();
        // The hub keeps the second page back.
        assert_eq!(reply(&mut table.caller).await["parameters"]["clients"].as_array().unwrap().len(), 3);
        let Some(HubRequest::Clients { after: ConnId(3), reply: answer, .. }) = table.hub.recv().await else {
            panic!("no second page")
        };
        answer.send(page(4..5, None)).unwrap();
        assert_eq!(reply(&mut table.caller).await["parameters"]["matched"], 4);
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_more_is_asked_for_a_caller_that_does_not_read() {
        let mut table = connected();
        table.caller.write_all(b"{\"method\":\"org.wschat.Control.ListClients\",\"more\":true}\0").await.unwrap();
        let Some(HubRequest::Clients { reply: answer, .. }) = table.hub.recv().await else { panic!("no list") };
        // More than a socket holds.
        answer.send(page(1..5001, Some(5000))).unwrap();
        // The clock goes on once everybody waits.
        sleep(Duration::from_secs(3600)).await;
        assert!(table.hub.try_recv().is_err(), "one page is held, and no more");
        assert_eq!(reply(&mut table.caller).await["parameters"]["matched"], 5000);
        assert!(matches!(table.hub.recv().await, Some(HubRequest::Clients { after: ConnId(5000), .. })));
    }
}
