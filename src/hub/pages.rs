//! The pages of history that are under way, of all connections together.
//!
//! A page does not count against its reader's outbox, so a bound of its own holds for all of them: a
//! read is given to the log only while what is being read and written leaves room. Who waits goes on
//! when another page is in its socket. Those who do not read could keep the others waiting for ever;
//! so while anybody waits, a connection has so long for its page, and is closed as slow then.
//!
//! What a page holds, and who is to have one, is the chat's affair.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use crate::chat::event::{LogRequest, Ticket};
use crate::chat::id::{ConnId, RoomName};

/// Bytes of pages, encoded, that may wait for sockets; one read more is given to the log below it.
pub const MOST_BYTES: usize = 64 * 1024 * 1024;
/// Reads that the log may have at once: what they bring comes on top of the pages being written.
pub const MOST_READS: usize = 32;
/// For one page, while others wait: 13 KiB/s at the least.
const PATIENCE: Duration = Duration::from_secs(10);

/// See the module's documentation. The chat asks for one page of a connection at a time.
#[derive(Debug, Default)]
pub struct Pages {
    reading: HashMap<Ticket, ConnId>,
    writing: HashMap<ConnId, Writing>,
    /// Bytes in `writing`.
    bytes: usize,
    /// The connections in `writing` that have not been given up, by when their page was sent.
    oldest: BTreeSet<(Duration, ConnId)>,
    /// In the order in which they asked.
    waiting: BTreeMap<u64, Wait>,
    turns: HashMap<ConnId, u64>,
    last_turn: u64,
}

#[derive(Debug)]
struct Writing {
    bytes: usize,
    since: Duration,
}

#[derive(Debug)]
struct Wait {
    conn: ConnId,
    ticket: Ticket,
    request: LogRequest,
}

/// A read that nobody waits for any more.
#[derive(Debug, PartialEq)]
pub struct Abandoned {
    pub room: RoomName,
    pub ticket: Ticket,
}

impl Pages {
    /// The connection wants a page; [`Pages::next`] gives the request back when it is its turn.
    pub fn want(&mut self, conn: ConnId, ticket: Ticket, request: LogRequest) {
        self.last_turn += 1;
        self.turns.insert(conn, self.last_turn);
        self.waiting.insert(self.last_turn, Wait { conn, ticket, request });
    }

    /// The next read for the log, where there is room for its page.
    pub fn next(&mut self) -> Option<LogRequest> {
        if self.reading.len() >= MOST_READS || self.bytes >= MOST_BYTES {
            return None;
        }
        let (_, Wait { conn, ticket, request }) = self.waiting.pop_first()?;
        self.turns.remove(&conn);
        self.reading.insert(ticket, conn);
        Some(request)
    }

    /// The log has answered; of other tickets nothing is known here.
    pub fn read(&mut self, ticket: Ticket) {
        self.reading.remove(&ticket);
    }

    /// A page of so many bytes is on its way to the connection.
    pub fn sent(&mut self, conn: ConnId, bytes: usize, now: Duration) {
        self.written(conn);
        self.bytes += bytes;
        self.oldest.insert((now, conn));
        self.writing.insert(conn, Writing { bytes, since: now });
    }

    /// Its socket has taken the page.
    pub fn written(&mut self, conn: ConnId) {
        if let Some(Writing { bytes, since }) = self.writing.remove(&conn) {
            self.bytes -= bytes;
            self.oldest.remove(&(since, conn));
        }
    }

    /// The connection is gone. The read that waited for its turn has to be told to the chat.
    pub fn gone(&mut self, conn: ConnId) -> Option<Abandoned> {
        self.written(conn);
        let Wait { ticket, request, .. } = self.waiting.remove(&self.turns.remove(&conn)?)?;
        match request {
            LogRequest::Read { room, .. } => Some(Abandoned { room, ticket }),
            _ => None,
        }
    }

    /// One that has had its page for too long while others wait; each is named once.
    pub fn stuck(&mut self, now: Duration) -> Option<ConnId> {
        if self.deadline()? > now {
            return None;
        }
        self.oldest.pop_first().map(|(_, conn)| conn)
    }

    /// When [`Pages::stuck`] may name one.
    pub fn deadline(&self) -> Option<Duration> {
        let waits = !self.waiting.is_empty();
        self.oldest.first().filter(|_| waits).map(|(since, _)| *since + PATIENCE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::event::HistoryRange;

    const PAGE: usize = 128 * 1024;

    fn want(pages: &mut Pages, n: u64) {
        let (room, ticket) = (RoomName::parse("lobby").unwrap(), Ticket(n));
        let request = LogRequest::Read { room, ticket, range: HistoryRange::Latest, limit: 1, max_bytes: PAGE };
        pages.want(ConnId(n), ticket, request);
    }

    /// Lets the log answer whatever it is asked, at `now`; who got a page.
    fn answer(pages: &mut Pages, now: Duration) -> Vec<u64> {
        let mut served = Vec::new();
        while let Some(LogRequest::Read { ticket, .. }) = pages.next() {
            pages.read(ticket);
            pages.sent(ConnId(ticket.0), PAGE, now);
            served.push(ticket.0);
        }
        served
    }

    #[test]
    fn so_many_bytes_are_under_way_and_the_next_goes_when_one_is_written() {
        let mut pages = Pages::default();
        let most = (MOST_BYTES / PAGE) as u64;
        (1..=most + 2).for_each(|n| want(&mut pages, n));
        assert_eq!(answer(&mut pages, Duration::ZERO).len() as u64, most);
        assert_eq!(pages.bytes, MOST_BYTES);
        pages.written(ConnId(7));
        assert_eq!(answer(&mut pages, Duration::ZERO), [most + 1]);
        assert!(pages.gone(ConnId(8)).is_none());
        assert_eq!(answer(&mut pages, Duration::ZERO), [most + 2]);
        (1..=most + 2).for_each(|n| pages.written(ConnId(n)));
        assert_eq!((pages.bytes, pages.oldest.len(), pages.turns.len()), (0, 0, 0));
    }

    #[test]
    fn the_log_has_so_many_reads_at_once() {
        let mut pages = Pages::default();
        (0..100).for_each(|n| want(&mut pages, n));
        assert_eq!(std::iter::from_fn(|| pages.next()).count(), MOST_READS);
        pages.read(Ticket(3));
        assert!(pages.next().is_some() && pages.next().is_none());
    }

    #[test]
    fn who_does_not_read_is_given_up_only_while_others_wait() {
        let mut pages = Pages::default();
        let most = (MOST_BYTES / PAGE) as u64;
        (1..=most).for_each(|n| want(&mut pages, n));
        answer(&mut pages, Duration::from_secs(1));
        let late = Duration::from_secs(3600);
        assert_eq!((pages.deadline(), pages.stuck(late)), (None, None));
        want(&mut pages, most + 1);
        assert_eq!(pages.deadline(), Some(Duration::from_secs(1) + PATIENCE));
        assert_eq!(pages.stuck(Duration::from_secs(2)), None);
        let given_up: Vec<_> = std::iter::from_fn(|| pages.stuck(late)).collect();
        assert_eq!(given_up.len() as u64, most);
        // What it has still counts until its connection is gone.
        assert!(pages.next().is_none());
        assert!(pages.gone(ConnId(1)).is_none());
        assert_eq!(answer(&mut pages, late), [most + 1]);
    }

    #[test]
    fn a_read_whose_reader_has_gone_is_not_done() {
        let mut pages = Pages::default();
        want(&mut pages, 1);
        let room = RoomName::parse("lobby").unwrap();
        assert_eq!(pages.gone(ConnId(1)), Some(Abandoned { room, ticket: Ticket(1) }));
        assert!(pages.next().is_none());
        assert!(pages.gone(ConnId(1)).is_none());
    }
}
