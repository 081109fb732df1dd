//! What each method means: parameters become [`Admin`] calls, their answers become replies.
//!
//! Decides nothing about clients or rooms. Every call that changes something leaves a line in the
//! journal that says who, what and how many.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, SystemTime};

use tokio::sync::broadcast;
use tokio::time::timeout;

use super::protocol::{self as api, Refusal, seconds, time};
use super::server::{Access, Caller, Replies};
use super::values::{EventFilter, bad, close, cut, event_filter, filter, kind, level, room_name, target, user_id};
use super::wire::{Call, Parameters};
use crate::admin::{Admin, AdminError, ClientView, CloseError, DEADLINE, Event, EventKind, Filter, RoomView};
use crate::chat::event::Close;
use crate::chat::id::{ConnId, Nick, RoomName, UserId};

/// Connections that the hub looks at for one page: the first rows are there at once, and nobody's
/// message waits long.
const PAGE: usize = 512;
/// The longest that the name service is waited for; the journal has the number in any case.
const NAME_DEADLINE: Duration = Duration::from_secs(1);

/// What is left to do after a call.
pub(super) enum Outcome {
    Answered,
    Watch(Watching),
}

/// A watcher's wishes.
pub(super) struct Watching {
    pub(super) events: broadcast::Receiver<Arc<Event>>,
    /// Empty: all.
    pub(super) types: Vec<EventKind>,
    pub(super) filter: EventFilter,
}

/// Answers one call, except for watching. An `Err` is the caller's socket.
pub(super) async fn answer(
    call: Call,
    admin: &Admin,
    access: Access,
    caller: Caller,
    replies: &mut Replies,
) -> io::Result<Outcome> {
    let method = call.method;
    let (interface, name) = method.rsplit_once('.').unwrap_or(("", &method));
    let interface = match (interface, access) {
        (api::SERVICE, _) => api::SERVICE,
        (api::PUSH, _) => api::PUSH,
        (api::CONTROL, Access::Control) => api::CONTROL,
        _ => {
            let unknown = Refusal::InterfaceNotFound { interface: cut(interface) };
            replies.refuse(&unknown, access.interface()).await?;
            return Ok(Outcome::Answered);
        }
    };
    let desk = Desk { admin, access, caller, interface };
    let answered = match call.upgrade {
        Some(true) => Err(Refusal::InvalidParameter { parameter: "upgrade".into() }.into()),
        _ => match Parameters::new(call.parameters) {
            Ok(parameters) => desk.dispatch(name, parameters, replies).await,
            Err(refusal) => Err(refusal.into()),
        },
    };
    match answered {
        Ok(outcome) => Ok(outcome),
        Err(Trouble::Caller(error)) => Err(error),
        Err(Trouble::Refused(refusal)) => {
            replies.refuse(&refusal, interface).await?;
            Ok(Outcome::Answered)
        }
    }
}

enum Trouble {
    Refused(Refusal),
    Caller(io::Error),
}

impl From<Refusal> for Trouble {
    fn from(refusal: Refusal) -> Self {
        Trouble::Refused(refusal)
    }
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Trouble::Caller(error)
    }
}

impl From<AdminError> for Trouble {
    fn from(error: AdminError) -> Self {
        Trouble::Refused(error.into())
    }
}

impl From<AdminError> for Refusal {
    fn from(error: AdminError) -> Self {
        match error {
            AdminError::Busy => Refusal::Busy {},
            AdminError::TimedOut => Refusal::TimedOut { seconds: DEADLINE.as_secs() },
            AdminError::Stopping => Refusal::Stopping {},
        }
    }
}

/// One call's surroundings.
struct Desk<'a> {
    admin: &'a Admin,
    access: Access,
    caller: Caller,
    interface: &'static str,
}

impl Desk<'_> {
    async fn dispatch(&self, name: &str, with: Parameters, replies: &mut Replies) -> Result<Outcome, Trouble> {
        match (self.interface, name) {
            (api::SERVICE, "GetInfo") => replies.last(&self.info(with)?).await?,
            (api::SERVICE, "GetInterfaceDescription") => replies.last(&self.description(with)?).await?,
            (api::CONTROL, "Status") => replies.last(&self.status(with).await?).await?,
            (api::CONTROL, "ListClients") => self.list(with, replies).await?,
            (api::CONTROL, "ShowClient") => replies.last(&self.client(with).await?).await?,
            (api::CONTROL, "Kick") => replies.last(&self.kick(with).await?).await?,
            (api::CONTROL | api::PUSH, "Notice") => replies.last(&self.notice(with).await?).await?,
            (api::CONTROL, "ListRooms") => replies.last(&self.rooms(with).await?).await?,
            (api::CONTROL, "ShowRoom") => replies.last(&self.room(with).await?).await?,
            (api::CONTROL, "Events") => return self.events(with, replies),
            (api::CONTROL, "Reload") => replies.last(&self.reload(with).await?).await?,
            (api::CONTROL, "Tls") => replies.last(&self.tls(with).await?).await?,
            (api::CONTROL, "Ping") => {
                with.end()?;
                self.admin.ping().await?;
                replies.last(&api::Nothing {}).await?;
            }
            (api::PUSH, "Online") => replies.last(&self.online(with).await?).await?,
            _ => return Err(Refusal::MethodNotFound { method: format!("{}.{}", self.interface, cut(name)) }.into()),
        }
        Ok(Outcome::Answered)
    }

    fn info(&self, with: Parameters) -> Result<api::ServiceInfo, Refusal> {
        with.end()?;
        let ours: &[&str] = match self.access {
            Access::Control => &[api::SERVICE, api::CONTROL, api::PUSH],
            Access::Push => &[api::SERVICE, api::PUSH],
        };
        Ok(api::ServiceInfo {
            vendor: "wschat".into(),
            product: "wschat".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            url: env!("CARGO_PKG_HOMEPAGE").into(),
            interfaces: ours.iter().map(|name| name.to_string()).collect(),
        })
    }

    fn description(&self, mut with: Parameters) -> Result<api::Description, Refusal> {
        let interface: String = with.need("interface")?;
        with.end()?;
        let description = match (interface.as_str(), self.access) {
            (api::SERVICE, _) => api::SERVICE_TEXT,
            (api::PUSH, _) => api::PUSH_TEXT,
            (api::CONTROL, Access::Control) => api::CONTROL_TEXT,
            _ => return Err(Refusal::InterfaceNotFound { interface: cut(&interface) }),
        };
        Ok(api::Description { description: description.into() })
    }

    async fn status(&self, with: Parameters) -> Result<api::Status, Trouble> {
        with.end()?;
        let (counts, info) = tokio::join!(self.admin.counts(), self.admin.info());
        let (counts, info) = (counts?, info?);
        Ok(api::Status {
            version: info.version.into(),
            pid: info.pid,
            state: self.admin.phase().as_str().into(),
            since: time(info.since),
            clients: counts.clients as u64,
            clients_max: info.clients_max as u64,
            users: counts.users as u64,
            rooms: counts.rooms as u64,
            messages: counts.messages,
            messages_per_second: counts.rate,
            certificate_until: info.certificate_until.map(time),
            listen: info.listen,
            config: info.config,
        })
    }

    async fn list(&self, mut with: Parameters, replies: &mut Replies) -> Result<(), Trouble> {
        let filter = filter(with.take("filter")?)?;
        let limit: Option<u64> = with.take("limit")?;
        let count: bool = with.take("count")?.unwrap_or(false);
        with.end()?;
        if !replies.more() {
            return Err(Refusal::ExpectedMore {}.into());
        }
        if replies.oneway() {
            return Ok(());
        }
        let limit = limit.unwrap_or(u64::MAX);
        let mut matched = 0;
        let mut after = Some(ConnId(0));
        while let Some(begin) = after.take_if(|_| matched < limit) {
            let page = self.admin.clients(filter.clone(), begin, PAGE).await?;
            let mut found = page.clients;
            found.truncate(usize::try_from(limit - matched).unwrap_or(usize::MAX));
            matched += found.len() as u64;
            after = page.next.filter(|next| *next > begin && matched < limit);
            if count && after.is_some() || found.is_empty() && after.is_some() {
                continue;
            }
            let now = SystemTime::now();
            let clients = if count { Vec::new() } else { found.iter().map(|view| client(view, now)).collect() };
            let part = api::Clients { clients, matched };
            match after {
                Some(_) => replies.part(&part).await?,
                None => return Ok(replies.last(&part).await?),
            }
        }
        // Only a limit of 0 comes here.
        Ok(replies.last(&api::Clients { clients: Vec::new(), matched }).await?)
    }

    async fn client(&self, mut with: Parameters) -> Result<api::OneClient, Trouble> {
        let id: u64 = with.need("id")?;
        with.end()?;
        let view = self.admin.client(ConnId(id)).await?.ok_or(Refusal::NoSuchClient { id })?;
        Ok(api::OneClient { client: client(&view, SystemTime::now()) })
    }

    async fn kick(&self, mut with: Parameters) -> Result<api::Kicked, Trouble> {
        let ids: Option<Vec<u64>> = with.take("ids")?;
        let filter = filter(with.take("filter")?)?;
        let all: bool = with.take("all")?.unwrap_or(false);
        let code: Option<u16> = with.take("code")?;
        let reason: Option<String> = with.take("reason")?;
        let reconnect: bool = with.take("reconnect")?.unwrap_or(false);
        let dry_run: bool = with.take("dry_run")?.unwrap_or(false);
        with.end()?;
        let close = close(code, reason, reconnect)?;
        let what = match (&ids, filter.is_empty(), all) {
            (Some(ids), true, false) => format!("ids {}", cut(&format!("{ids:?}"))),
            (None, false, false) => filter.to_string(),
            (None, true, true) => "everyone".to_owned(),
            (None, true, false) => {
                return Err(Refusal::EmptyFilter { expected: "ids, a filter, or all: true".into() }.into());
            }
            _ => return Err(bad("all", all, "exactly one of ids, filter and all").into()),
        };

        let named = ids.is_some();
        let ids: BTreeSet<ConnId> = match ids {
            Some(ids) => ids.into_iter().map(ConnId).collect(),
            None => self.matching(filter).await?,
        };
        if dry_run {
            return self.only_count(ids, named).await;
        }
        let code = close.code;
        let reason = close.reason.escape_debug().to_string();
        let kicked = self.close(ids, close, named).await?;
        let who = user_name(self.caller.uid).await;
        tracing::info!(
            uid = self.caller.uid,
            pid = self.caller.pid,
            user_name = who.as_deref().unwrap_or(""),
            what,
            code,
            reason,
            matched = kicked.matched,
            done = kicked.done,
            failed = kicked.failed.len(),
            "{} kicked {what}: {} of {} connections closed with {code} {reason}",
            self.caller.named(who.as_deref()),
            kicked.done,
            kicked.matched,
        );
        Ok(kicked)
    }

    async fn matching(&self, filter: Filter) -> Result<BTreeSet<ConnId>, AdminError> {
        let mut ids = BTreeSet::new();
        let mut after = Some(ConnId(0));
        while let Some(begin) = after {
            let page = self.admin.clients(filter.clone(), begin, PAGE).await?;
            ids.extend(page.clients.iter().map(|view| view.peer.id));
            after = page.next.filter(|next| *next > begin);
        }
        Ok(ids)
    }

    async fn only_count(&self, ids: BTreeSet<ConnId>, named: bool) -> Result<api::Kicked, Trouble> {
        let mut kicked = api::Kicked { matched: 0, done: 0, failed: Vec::new() };
        for id in ids {
            // What a filter has found was there a moment ago.
            match named && self.admin.client(id).await?.is_none() {
                true => kicked.failed.push(failure(id, CloseError::NotFound)),
                false => kicked.matched += 1,
            }
        }
        Ok(kicked)
    }

    /// Returns when every socket is closed, or has kept us waiting for too long.
    async fn close(&self, ids: BTreeSet<ConnId>, close: Close, named: bool) -> Result<api::Kicked, Trouble> {
        let mut kicked = api::Kicked { matched: ids.len() as u64, done: 0, failed: Vec::new() };
        if ids.is_empty() {
            return Ok(kicked);
        }
        let mut answers = self.admin.close(ids.iter().copied().collect(), close).await?;
        let mut waiting = ids;
        while !waiting.is_empty() {
            let why = match timeout(DEADLINE, answers.recv()).await {
                Ok(Some(closed)) => {
                    if !waiting.remove(&closed.id) {
                        continue;
                    }
                    match closed.result {
                        Ok(()) => kicked.done += 1,
                        Err(error @ CloseError::NotFound) => {
                            kicked.matched -= 1;
                            // Whoever a filter found and who has gone since need not be told of.
                            if named {
                                kicked.failed.push(failure(closed.id, error));
                            }
                        }
                    }
                    continue;
                }
                Ok(None) => "the daemon is stopping".to_owned(),
                Err(_) => format!("not closed within {} s", DEADLINE.as_secs()),
            };
            kicked.failed.extend(std::mem::take(&mut waiting).into_iter().map(|id| failure(id, &why)));
        }
        Ok(kicked)
    }

    async fn notice(&self, mut with: Parameters) -> Result<api::Noticed, Trouble> {
        let target = target(with.need("target")?)?;
        let text: String = with.need("text")?;
        let level = level(with.take::<String>("level")?.as_deref())?;
        with.end()?;
        if text.trim().is_empty() || text.len() > api::NOTICE_MAX {
            let expected = format!("1 to {} bytes of text", api::NOTICE_MAX);
            return Err(bad("text", format_args!("{} bytes", text.len()), &expected).into());
        }
        let what = target.to_string();
        let told = cut(&text);
        let delivery = self.admin.notice(target, text, level).await;
        let who = user_name(self.caller.uid).await;
        let delivery = match delivery {
            Ok(delivery) => delivery,
            Err(error) => {
                let (uid, pid, name) = (self.caller.uid, self.caller.pid, self.caller.named(who.as_deref()));
                tracing::info!(
                    uid,
                    pid,
                    what,
                    "{name} sent a notice to {what}: {told:?}; what became of it is unknown: {error}"
                );
                return Err(error.into());
            }
        };
        tracing::info!(
            uid = self.caller.uid,
            pid = self.caller.pid,
            user_name = who.as_deref().unwrap_or(""),
            what,
            text = ?told,
            matched = delivery.matched,
            done = delivery.delivered,
            "{} sent a notice to {what}: {told:?}, written to {} of {} connections",
            self.caller.named(who.as_deref()),
            delivery.delivered,
            delivery.matched,
        );
        Ok(api::Noticed { matched: delivery.matched, delivered: delivery.delivered })
    }

    async fn rooms(&self, with: Parameters) -> Result<api::Rooms, Trouble> {
        with.end()?;
        let mut rooms: Vec<api::Room> = self.admin.rooms().await?.into_iter().map(room).collect();
        rooms.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(api::Rooms { rooms })
    }

    async fn room(&self, mut with: Parameters) -> Result<api::OneRoom, Trouble> {
        let name = room_name("room", &with.need::<String>("room")?)?;
        with.end()?;
        let missing = || Refusal::NoSuchRoom { room: name.to_string() };
        let detail = self.admin.room(name.clone()).await?.ok_or_else(missing)?;
        let view = room(detail.view);
        let members = detail.members.into_iter().map(|member| api::Member {
            user: member.user.to_string(),
            nick: member.nick.to_string(),
            clients: member.clients.iter().map(|id| id.0).collect(),
        });
        Ok(api::OneRoom {
            room: api::RoomDetail {
                name: view.name,
                users: view.users,
                clients: view.clients,
                seq: view.seq,
                epoch: detail.epoch,
                kept: detail.kept,
                members: members.collect(),
            },
        })
    }

    fn events(&self, mut with: Parameters, replies: &mut Replies) -> Result<Outcome, Trouble> {
        let names: Vec<String> = with.take("types")?.unwrap_or_default();
        let types = names.iter().map(|name| kind(name)).collect::<Result<_, _>>()?;
        let filter = event_filter(with.take("filter")?)?;
        with.end()?;
        if !replies.more() {
            return Err(Refusal::ExpectedMore {}.into());
        }
        match replies.oneway() {
            true => Ok(Outcome::Answered),
            false => Ok(Outcome::Watch(Watching { events: self.admin.events(), types, filter })),
        }
    }

    async fn reload(&self, mut with: Parameters) -> Result<api::Reloaded, Trouble> {
        let tls_only: bool = with.take("tls_only")?.unwrap_or(false);
        with.end()?;
        let reloaded = self.admin.reload(tls_only).await?;
        let who = user_name(self.caller.uid).await;
        let (uid, pid, user_name) = (self.caller.uid, self.caller.pid, who.as_deref().unwrap_or(""));
        let what = if tls_only { "certificate" } else { "configuration and certificate" };
        match reloaded {
            Ok(done) => {
                let (changed, waiting) = (done.changed.len(), done.needs_restart.len());
                tracing::info!(
                    uid,
                    pid,
                    user_name,
                    what,
                    changed,
                    waiting,
                    certificate = done.certificate,
                    "{} reloaded the {what}",
                    self.caller.named(who.as_deref())
                );
                let api = api::Reloaded {
                    changed: done.changed,
                    needs_restart: done.needs_restart,
                    certificate: done.certificate,
                };
                Ok(api)
            }
            Err(reason) => {
                tracing::info!(
                    uid,
                    pid,
                    user_name,
                    what,
                    reason,
                    "{} could not reload the {what}: {reason}",
                    self.caller.named(who.as_deref())
                );
                Err(Refusal::ReloadRefused { reason }.into())
            }
        }
    }

    async fn tls(&self, with: Parameters) -> Result<api::Tls, Trouble> {
        with.end()?;
        let certificate = self.admin.certificate().await?.map(|found| api::Certificate {
            names: found.names,
            issuer: found.issuer,
            from: time(found.from),
            until: time(found.until),
            fingerprint: found.fingerprint,
            source: found.source,
        });
        Ok(api::Tls { certificate })
    }

    async fn online(&self, mut with: Parameters) -> Result<api::Online, Trouble> {
        let user = with.take::<String>("user")?.map(|name| user_id("user", &name)).transpose()?;
        let room = with.take::<String>("room")?.map(|name| room_name("room", &name)).transpose()?;
        with.end()?;
        match (user, room) {
            (None, None) => Err(Refusal::InvalidParameter { parameter: "user".into() }.into()),
            (None, Some(name)) => {
                let found = self.admin.room(name).await?;
                let (users, clients) = found.map_or((0, 0), |room| (room.view.users as u64, room.view.clients as u64));
                Ok(api::Online { users, clients })
            }
            (user, room) => {
                let clients = self.matching(Filter { user, room, ..Filter::default() }).await?.len() as u64;
                Ok(api::Online { users: clients.min(1), clients })
            }
        }
    }
}

/// The caller's name for the journal. The name service may ask a network: never on our thread.
async fn user_name(uid: u32) -> Option<String> {
    let look_up = tokio::task::spawn_blocking(move || nix::unistd::User::from_uid(uid.into()));
    let found = timeout(NAME_DEADLINE, look_up).await.ok()?.ok()?;
    Some(found.ok()??.name)
}

fn failure(id: ConnId, error: impl ToString) -> api::Failure {
    api::Failure { id: id.0, error: error.to_string() }
}

fn client(view: &ClientView, now: SystemTime) -> api::Client {
    let peer = &*view.peer;
    let text = |text: &Option<Box<str>>| text.as_deref().map(str::to_owned);
    api::Client {
        id: peer.id.0,
        user: view.user.as_ref().map(UserId::to_string),
        nick: view.nick.as_ref().map(Nick::to_string),
        address: peer.address.to_string(),
        port: peer.port,
        rooms: view.rooms.iter().map(RoomName::to_string).collect(),
        since: time(peer.since),
        age: seconds(peer.age(now)),
        idle: seconds(peer.idle(now)),
        sendq: peer.counters.sendq.load(Relaxed) as u64,
        rtt: peer.counters.rtt().map(seconds),
        tls: peer.tls.map(str::to_owned),
        alpn: peer.alpn.map(str::to_owned),
        origin: text(&peer.origin),
        agent: text(&peer.agent),
        dialect: peer.dialect.as_str().into(),
        messages_in: peer.counters.frames_in.load(Relaxed),
        messages_out: peer.counters.frames_out.load(Relaxed),
        in_bytes: peer.counters.bytes_in.load(Relaxed),
        out_bytes: peer.counters.bytes_out.load(Relaxed),
        resumed: view.resumed,
    }
}

fn room(view: RoomView) -> api::Room {
    api::Room { name: view.name.to_string(), users: view.users as u64, clients: view.clients as u64, seq: view.seq }
}

pub(super) fn event(event: &Event) -> api::Event {
    api::Event {
        time: time(event.time),
        kind: event.kind.as_str().into(),
        client: event.client.map(|id| id.0),
        user: event.user.as_ref().map(UserId::to_string),
        nick: event.nick.as_ref().map(Nick::to_string),
        address: event.address.map(|address| address.to_string()),
        room: event.room.as_ref().map(RoomName::to_string),
        dialect: event.dialect.map(|dialect| dialect.as_str().into()),
        detail: event.detail.clone(),
    }
}
