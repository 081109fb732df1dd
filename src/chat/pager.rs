//! Stored frames for one connection, a page at a time: what it missed, and what it asks for.
//!
//! A page is read from the log, sent, and the next one read only when the socket has taken it, so
//! a slow reader holds one page and delays nobody. A connection that catches up hears no `Publish`
//! of the room; it begins to at the very moment when a page has reached the head, so nothing is
//! missed and nothing comes twice.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::event::{
    Body, Effect, Entry, ErrorCode, ErrorFrame, HistoryPage, HistoryRange, Kept, LogRequest, ServerFrame, Ticket,
};
use super::hub::{Hub, SOON, Turn};
use super::id::{ConnId, RoomId, RoomName, Seq};

/// The most entries of a page, also for `history`.
pub const PAGE_ENTRIES: u32 = 100;
/// About how many bytes of entries a page has at most.
const PAGE_BYTES: usize = 128 * 1024;

/// One connection's pages: at most one being read or written, the rest in a row.
#[derive(Default)]
pub struct Pager {
    busy: Busy,
    /// As many backlogs as it may be in rooms, and one request for history.
    jobs: VecDeque<Job>,
}

#[derive(Clone, Copy, Default, PartialEq)]
enum Busy {
    #[default]
    No,
    /// The log has been asked for a page of the first job.
    Reading(Ticket),
    /// It has been asked, and something was taken away meanwhile: it is to be asked again, or the
    /// page could bring back what its reader has been told is gone.
    Stale(Ticket),
    /// The log has been asked for a page that nobody wants any more.
    Discarding(Ticket),
    /// The socket is taking a page.
    Writing,
}

enum Job {
    CatchUp(CatchUp),
    History { room: RoomId, re: u64, range: HistoryRange, limit: u32 },
}

impl Job {
    fn room(&self) -> RoomId {
        match self {
            Job::CatchUp(job) => job.room,
            Job::History { room, .. } => *room,
        }
    }
}

/// A member that reads what it missed before it hears the room.
pub struct CatchUp {
    room: RoomId,
    re: u64,
    /// The last that it has been sent.
    cursor: Seq,
    /// Up to here it is no loss if something is no longer kept.
    may_skip_to: Seq,
    /// Acks of messages that are still ahead of the cursor; each goes in its message's place.
    acks: BTreeMap<Seq, Vec<(u64, Kept)>>,
}

impl CatchUp {
    pub fn new(room: RoomId, re: u64, cursor: Seq, may_skip_to: Seq) -> Self {
        CatchUp { room, re, cursor, may_skip_to, acks: BTreeMap::new() }
    }

    /// What of a page comes next, as frames; `None` where something is missing.
    fn frames(&mut self, room: &RoomName, entries: Vec<Entry>, head: Seq) -> Option<Vec<ServerFrame>> {
        let mut frames = Vec::with_capacity(entries.len());
        let before = self.cursor;
        for entry in entries {
            // The log may know more than it has told: that comes when it is told.
            if entry.seq <= self.cursor || entry.seq > head {
                continue;
            }
            // What was purged is not missing: this entry says that it is gone.
            let purged = matches!(entry.record.body, Body::Purged);
            if entry.seq > self.cursor + 1 && entry.seq > self.may_skip_to + 1 && !purged {
                return None;
            }
            self.cursor = entry.seq;
            // Once something has been sent, what is missing after it is a hole.
            self.may_skip_to = 0;
            let own = self.acks.contains_key(&entry.seq);
            if purged {
                // First, so that no ack has a number beyond a gap that is not explained yet.
                frames.push(ServerFrame::Entry { room: room.clone(), entry });
                self.acks_so_far(&mut frames);
            } else {
                self.acks_so_far(&mut frames);
                if !own {
                    frames.push(ServerFrame::Entry { room: room.clone(), entry });
                }
            }
        }
        if self.cursor == before && self.cursor < head {
            // Nothing where something should be: all of it may be skipped, or it is lost.
            if self.may_skip_to < head {
                return None;
            }
            self.cursor = head;
            self.acks_so_far(&mut frames);
        }
        Some(frames)
    }

    /// The acks whose place the cursor has reached.
    fn acks_so_far(&mut self, frames: &mut Vec<ServerFrame>) {
        while let Some(first) = self.acks.first_entry()
            && *first.key() <= self.cursor
        {
            frames.extend(first.remove().into_iter().map(ack));
        }
    }
}

fn ack((re, kept): (u64, Kept)) -> ServerFrame {
    ServerFrame::Ack { re, kept: Some(kept), delivered: None }
}

impl Hub {
    /// The connection for which the log was asked to read a page.
    pub fn reader(&self, ticket: Ticket) -> Option<ConnId> {
        self.reads.get(&ticket).copied()
    }

    pub(super) fn history(
        &mut self,
        conn: ConnId,
        re: u64,
        name: &RoomName,
        range: HistoryRange,
        limit: u32,
        turn: &mut Turn,
    ) {
        let Some(room) = self.room_joined(conn, re, name, turn) else { return };
        let Some(client) = self.clients.get_mut(&conn) else { return };
        let pager = client.pager.get_or_insert_default();
        if pager.jobs.iter().any(|job| matches!(job, Job::History { .. })) {
            turn.retry(conn, re, ErrorCode::RateLimited, "your last request for history is still being answered");
            return;
        }
        let limit = limit.clamp(1, PAGE_ENTRIES);
        pager.jobs.push_back(Job::History { room, re, range, limit });
        self.next_page(conn, turn);
    }

    pub(super) fn catch_up(&mut self, conn: ConnId, job: CatchUp, turn: &mut Turn) {
        if let Some(client) = self.clients.get_mut(&conn) {
            client.pager.get_or_insert_default().jobs.push_back(Job::CatchUp(job));
            self.next_page(conn, turn);
        }
    }

    pub(super) fn drained(&mut self, conn: ConnId, turn: &mut Turn) {
        if let Some(pager) = self.clients.get_mut(&conn).and_then(|client| client.pager.as_deref_mut())
            && pager.busy == Busy::Writing
        {
            pager.busy = Busy::No;
            self.next_page(conn, turn);
        }
    }

    /// How many acks wait for their place in the backlog of that room.
    pub(super) fn waiting_acks(&self, conn: ConnId, room: RoomId) -> usize {
        let pager = self.clients.get(&conn).and_then(|client| client.pager.as_deref());
        let jobs = pager.into_iter().flat_map(|pager| &pager.jobs);
        jobs.map(|job| match job {
            Job::CatchUp(job) if job.room == room => job.acks.values().map(Vec::len).sum(),
            _ => 0,
        })
        .sum()
    }

    /// Keeps an ack for its place in a backlog that has not come so far; otherwise gives it back.
    pub(super) fn ack_in_backlog(&mut self, conn: ConnId, room: RoomId, re: u64, kept: Kept) -> Option<Kept> {
        let pager = self.clients.get_mut(&conn).and_then(|client| client.pager.as_deref_mut());
        for job in pager.into_iter().flat_map(|pager| &mut pager.jobs) {
            if let Job::CatchUp(job) = job
                && job.room == room
                && kept.seq > job.cursor
            {
                job.acks.entry(kept.seq).or_default().push((re, kept));
                return None;
            }
        }
        Some(kept)
    }

    /// The connection leaves the room: nothing of it is wanted any more. Acks are not lost.
    pub(super) fn cancel_pages(&mut self, conn: ConnId, room: RoomId, turn: &mut Turn) {
        let Some(pager) = self.clients.get_mut(&conn).and_then(|client| client.pager.as_deref_mut()) else { return };
        let concerns = |job: &Job| job.room() == room;
        if let Busy::Reading(ticket) | Busy::Stale(ticket) = pager.busy
            && pager.jobs.front().is_some_and(concerns)
        {
            pager.busy = Busy::Discarding(ticket);
        }
        let (cancelled, rest) = std::mem::take(&mut pager.jobs).into_iter().partition(concerns);
        pager.jobs = rest;
        let cancelled: VecDeque<Job> = cancelled;
        for job in cancelled {
            match job {
                Job::CatchUp(job) => {
                    for frame in job.acks.into_values().flatten().map(ack) {
                        turn.send(conn, frame);
                    }
                }
                Job::History { re, .. } => {
                    turn.error(conn, re, ErrorCode::NotJoined, "you left the room before its history was read");
                }
            }
        }
        self.next_page(conn, turn);
    }

    /// Asks the log for the next page, where nothing is under way and something is wanted.
    fn next_page(&mut self, conn: ConnId, turn: &mut Turn) {
        loop {
            let ticket = self.new_ticket();
            let Some(client) = self.clients.get_mut(&conn) else { return };
            let Some(pager) = client.pager.as_deref_mut() else { return };
            if pager.busy != Busy::No {
                return;
            }
            let (id, range, limit) = match pager.jobs.front() {
                None => {
                    client.pager = None;
                    return;
                }
                Some(Job::History { room, range, limit, .. }) => (*room, *range, *limit),
                Some(Job::CatchUp(job)) => (job.room, HistoryRange::After(job.cursor), PAGE_ENTRIES),
            };
            let Some(room) = self.rooms.get(&id) else {
                // A member's room is never dropped; if it were, its job would have no end.
                pager.jobs.pop_front();
                continue;
            };
            pager.busy = Busy::Reading(ticket);
            self.reads.insert(ticket, conn);
            let room = room.name.clone();
            turn.log(LogRequest::Read { room, ticket, range, limit, max_bytes: PAGE_BYTES });
            return;
        }
    }

    /// The pager for whose first job the log has answered; a page that nobody wants is dropped.
    fn answered(&mut self, ticket: Ticket, turn: &mut Turn) -> Option<ConnId> {
        let conn = self.reads.remove(&ticket)?;
        let pager = self.clients.get_mut(&conn)?.pager.as_deref_mut()?;
        if pager.busy == Busy::Reading(ticket) {
            pager.busy = Busy::No;
            return Some(conn);
        }
        if matches!(pager.busy, Busy::Discarding(known) | Busy::Stale(known) if known == ticket) {
            pager.busy = Busy::No;
            self.next_page(conn, turn);
        }
        None
    }

    /// Something of the room was taken away: pages that are being read now may still have it.
    pub(super) fn read_again(&mut self, room: RoomId) {
        for conn in self.reads.values() {
            let pager = self.clients.get_mut(conn).and_then(|client| client.pager.as_deref_mut());
            if let Some(pager) = pager
                && let Busy::Reading(ticket) = pager.busy
                && pager.jobs.front().is_some_and(|job| job.room() == room)
            {
                pager.busy = Busy::Stale(ticket);
            }
        }
    }

    #[expect(clippy::too_many_arguments)]
    pub(super) fn page(
        &mut self,
        name: &RoomName,
        ticket: Ticket,
        epoch: &Arc<str>,
        entries: Vec<Entry>,
        more: bool,
        first: Seq,
        turn: &mut Turn,
    ) {
        if let Some(stream) = self.names.get(name).and_then(|id| self.rooms.get_mut(id)?.stream.as_mut())
            && stream.epoch == *epoch
        {
            // A page may come later than a commit that knows better.
            stream.first = stream.first.max(first);
        }
        let Some(conn) = self.answered(ticket, turn) else { return };
        let Some(pager) = self.clients.get_mut(&conn).and_then(|client| client.pager.as_deref_mut()) else { return };
        match pager.jobs.pop_front() {
            Some(Job::History { room, re, .. }) => {
                let stream = self.rooms.get(&room).and_then(|room| room.stream.as_ref());
                if let Some(stream) = stream {
                    // What is kept but not yet told comes as it is told.
                    let (epoch, head) = (stream.epoch.clone(), stream.head);
                    let entries = entries.into_iter().filter(|entry| entry.seq <= head).collect();
                    let page = HistoryPage { re, room: name.clone(), epoch, entries, more };
                    pager.busy = Busy::Writing;
                    turn.push(Effect::SendPage { conn, frames: vec![ServerFrame::History(Box::new(page))] });
                }
            }
            Some(Job::CatchUp(mut job)) => {
                let id = job.room;
                let Some(room) = self.rooms.get_mut(&id) else { return };
                let head = room.head();
                let Some(frames) = job.frames(name, entries, head) else {
                    let why = format!("some of what you missed in room {name} is no longer kept");
                    return self.lose_cursor(conn, job, ErrorCode::Unrecoverable, why, turn);
                };
                if !frames.is_empty() {
                    pager.busy = Busy::Writing;
                    turn.push(Effect::SendPage { conn, frames });
                }
                if job.cursor == head {
                    room.catching_up.remove(&conn);
                    turn.push(Effect::Enter { conn, room: id });
                } else {
                    pager.jobs.push_front(Job::CatchUp(job));
                }
            }
            None => {}
        }
        self.next_page(conn, turn);
    }

    /// The log could not read a page.
    pub(super) fn no_page(&mut self, ticket: Ticket, why: &str, turn: &mut Turn) {
        let Some(conn) = self.answered(ticket, turn) else { return };
        let Some(pager) = self.clients.get_mut(&conn).and_then(|client| client.pager.as_deref_mut()) else { return };
        match pager.jobs.pop_front() {
            Some(Job::History { re, .. }) => {
                turn.retry(conn, re, ErrorCode::Unavailable, format!("history cannot be read now: {why}"));
            }
            Some(Job::CatchUp(job)) => {
                let why = format!("what you missed cannot be read now: {why}");
                return self.lose_cursor(conn, job, ErrorCode::Unavailable, why, turn);
            }
            None => {}
        }
        self.next_page(conn, turn);
    }

    /// A backlog cannot be had to its end: the client is told so, and told anew where the room
    /// stands, from where on it hears everything.
    fn lose_cursor(&mut self, conn: ConnId, job: CatchUp, code: ErrorCode, message: String, turn: &mut Turn) {
        let retry = code.is_temporary().then_some(SOON);
        turn.send(conn, ServerFrame::Error(ErrorFrame { re: job.re, code, message, retry }));
        if let Some(room) = self.rooms.get_mut(&job.room) {
            room.catching_up.remove(&conn);
        }
        if let Some(room) = self.rooms.get(&job.room) {
            let joined = self.joined_frame(room, job.re, false);
            turn.send(conn, joined);
        }
        for frame in job.acks.into_values().flatten().map(ack) {
            turn.send(conn, frame);
        }
        turn.push(Effect::Enter { conn, room: job.room });
        self.next_page(conn, turn);
    }
}
