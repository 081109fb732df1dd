//! What operators ask of the hub. Each answer is small, or a page: nobody's message waits for it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{mpsc, oneshot};

use super::HubTask;
use super::link::ToWorker;
use super::lists::room_view;
use crate::admin::{
    CloseError, Closed, Counts, Delivery, EventKind, HISTORY_PAGE, HistoryPage, HubRequest, RoomDetail, RoomMember,
    StoredRooms,
};
use crate::chat::event::{ActionError, Close, Input, Level, LogFailure, LogReply, LogRequest, Outcome, Target, Ticket};
use crate::chat::id::{ConnId, RoomName};
use crate::chat::sanction::SanctionKind;
use crate::receipt::Receipt;

/// How long a notice is waited for until it is written to everybody it is for.
const NOTICE_WAIT: Duration = Duration::from_secs(2);

/// About how many bytes of entries an operator gets in one page.
const HISTORY_BYTES: usize = 512 * 1024;
/// Tickets of operators' reads begin here; those of the chat never come so far.
const TICKETS: u64 = 1 << 63;

/// What operators have asked for and the chat or the log has still to answer.
#[derive(Default)]
pub(super) struct Asked {
    actions: HashMap<u64, oneshot::Sender<Result<Outcome, ActionError>>>,
    reads: HashMap<Ticket, Reader>,
    last: u64,
}

enum Reader {
    History(oneshot::Sender<Result<HistoryPage, LogFailure>>),
    Rooms(oneshot::Sender<Result<StoredRooms, LogFailure>>),
}

impl Asked {
    fn next(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    fn ticket(&mut self) -> Ticket {
        Ticket(TICKETS + self.next())
    }

    pub(super) fn moderated(&mut self, id: u64, result: Result<Outcome, ActionError>) {
        // Whoever asked may have gone.
        let _ = self.actions.remove(&id).map(|reply| reply.send(result));
    }

    /// Answers the operator who asked; what the chat asked for is given back.
    pub(super) fn log_answered(&mut self, reply: LogReply) -> Option<LogReply> {
        let ticket = match &reply {
            LogReply::Page { ticket, .. } | LogReply::Rooms { ticket, .. } => *ticket,
            LogReply::Failed { ticket: Some(ticket), .. } => *ticket,
            _ => return Some(reply),
        };
        let Some(reader) = self.reads.remove(&ticket) else { return Some(reply) };
        // Whoever asked may have gone.
        match (reader, reply) {
            (Reader::History(to), LogReply::Page { epoch, entries, more, first, head, .. }) => {
                drop(to.send(Ok(HistoryPage { epoch, entries, more, first, head })));
            }
            (Reader::Rooms(to), LogReply::Rooms { rooms, more, .. }) => drop(to.send(Ok(StoredRooms { rooms, more }))),
            (Reader::History(to), LogReply::Failed { failure, .. }) => drop(to.send(Err(failure))),
            (Reader::Rooms(to), LogReply::Failed { failure, .. }) => drop(to.send(Err(failure))),
            _ => {}
        }
        None
    }
}

impl HubTask {
    pub(super) fn operate(&mut self, request: HubRequest) {
        // Whoever asked may have gone; then the answer has no reader, and that is no error.
        match request {
            HubRequest::Ping(reply) => drop(reply.send(())),
            HubRequest::Counts(reply) => drop(reply.send(self.counts())),
            HubRequest::Clients { filter, after, scan, reply } => drop(reply.send(self.page(&filter, after, scan))),
            HubRequest::FirstClients { filter, order, bar, after, scan, reply } => {
                drop(reply.send(self.first_clients(&filter, order, bar, after, scan)));
            }
            HubRequest::FirstRooms { order, bar, after, scan, reply } => {
                drop(reply.send(self.first_rooms(order, bar, after.as_ref(), scan)));
            }
            HubRequest::Client { id, reply } => {
                drop(reply.send(self.chat.client(id).and_then(|row| self.view(&row))));
            }
            HubRequest::Rooms(reply) => drop(reply.send(self.chat.rooms().map(|row| room_view(&row)).collect())),
            HubRequest::Room { name, reply } => drop(reply.send(self.room_detail(&name))),
            HubRequest::Close { ids, close, reply, taken } => {
                self.close(&ids, &close, &reply);
                let _ = taken.send(());
            }
            HubRequest::Notice { target, text, level, reply } => self.notice(target, text, level, reply),
            HubRequest::Moderate { by, action, reply } => {
                let id = self.asked.next();
                self.asked.actions.insert(id, reply);
                self.chat_input(Input::Moderate { id, by, action }, None);
            }
            HubRequest::Sanctions { kind, reply } => {
                let all = self.chat.sanctions(SystemTime::now()).filter(|sanction| sanction.kind() == kind);
                drop(reply.send(all.cloned().collect()));
            }
            HubRequest::History { room, range, limit, reply } => {
                let ticket = self.asked.ticket();
                self.asked.reads.insert(ticket, Reader::History(reply));
                let (limit, max_bytes) = (limit.clamp(1, HISTORY_PAGE), HISTORY_BYTES);
                self.log.submit(LogRequest::Read { room, ticket, range, limit, max_bytes }, SystemTime::now());
                self.hear_log();
            }
            HubRequest::StoredRooms { after, limit, reply } => {
                let ticket = self.asked.ticket();
                self.asked.reads.insert(ticket, Reader::Rooms(reply));
                let limit = limit.clamp(1, HISTORY_PAGE);
                self.log.submit(LogRequest::List { ticket, after, limit }, SystemTime::now());
                self.hear_log();
            }
        }
    }

    fn counts(&mut self) -> Counts {
        for (worker, counted) in self.workers.iter().zip(&self.stats.workers) {
            let most = worker.inbox.max_capacity();
            counted.inbox.set(most - worker.inbox.capacity(), most);
        }
        let counts = self.chat.counts();
        let (mut bans, mut mutes) = (0, 0);
        for sanction in self.chat.sanctions(SystemTime::now()) {
            match sanction.kind() {
                SanctionKind::Ban => bans += 1,
                SanctionKind::Mute => mutes += 1,
            }
        }
        Counts {
            clients: counts.clients,
            users: counts.users,
            rooms: counts.rooms,
            messages: counts.committed,
            rate: self.rate.per_second(self.started.elapsed()),
            bans,
            mutes,
            health: self.health.borrow().clone(),
            log: self.log.counts(),
        }
    }

    fn room_detail(&self, name: &RoomName) -> Option<RoomDetail> {
        let row = self.chat.room(name)?;
        let members = self.chat.users_in(name).map(|member| RoomMember {
            user: member.user.clone(),
            nick: member.nick.clone(),
            clients: member.conns,
        });
        Some(RoomDetail {
            view: room_view(&row),
            epoch: row.epoch.map(|e| e.to_string()).unwrap_or_default(),
            kept: (row.head + 1).saturating_sub(row.first.max(1)),
            members: members.collect(),
        })
    }

    fn close(&mut self, ids: &[ConnId], close: &Close, reply: &mpsc::Sender<Closed>) {
        for &id in ids {
            let Some(client) = self.clients.get(&id) else {
                // There is room for as many answers as there are ids; the asker may have gone.
                let _ = reply.try_send(Closed { id, result: Err(CloseError::NotFound) });
                continue;
            };
            let peer = client.peer.clone();
            self.stats.hub.kicks.count(1);
            self.workers[client.worker].push(ToWorker::Close { id, close: close.clone() });
            // Answered when the connection is gone from our books, too.
            self.closing.entry(id).or_default().push(reply.clone());
            let row = self.chat.client(id);
            let user = row.and_then(|r| r.user).map(ToString::to_string).unwrap_or_default();
            let nick = row.and_then(|r| r.nick).map(ToString::to_string).unwrap_or_default();
            let address = peer.address;
            let reason = close.reason.escape_debug();
            tracing::info!(client = id.0, user, %address, "kicked client {id} ({nick}, {address}): {} {reason}", close.code);
            self.tell(EventKind::Kick, &peer, || format!("{} {}", close.code, close.reason).trim_end().to_owned());
        }
    }

    fn notice(&mut self, target: Target, text: String, level: Level, reply: oneshot::Sender<Delivery>) {
        let room = match &target {
            Target::Room(room) => Some(room.clone()),
            _ => None,
        };
        let detail = text.clone();
        self.stats.hub.notices.count(1);
        let receipt = Arc::new(Receipt::new(reply));
        self.chat_input(Input::Notice { target, text, level }, Some(&receipt));
        // One who reads slowly does not keep the operator waiting: it is told as not delivered.
        let slowest = Arc::downgrade(&receipt);
        tokio::spawn(async move {
            tokio::time::sleep(NOTICE_WAIT).await;
            if let Some(receipt) = slowest.upgrade() {
                receipt.report();
            }
        });
        self.tell_event(crate::admin::Event {
            time: SystemTime::now(),
            kind: EventKind::Notice,
            client: None,
            user: None,
            nick: None,
            address: None,
            room,
            dialect: None,
            detail,
        });
    }
}
