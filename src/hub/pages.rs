//! The pages of history that are under way, of all connections together.
//!
//! A page does not count against its reader's outbox, so a bound of its own holds for all of them: a
//! read is given to the log only while what is being read and written leaves room. Who waits goes on
//! when another page is in its socket; first those whose address has the least under way, and a part
//! of the room is only for addresses that have nothing, so that many readers at one address, who
//! take their time, are in nobody's way but their own. While anybody waits, a connection has so long
//! for its page, and is closed as slow then.
//!
//! What a page holds, and who is to have one, is the chat's affair.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::Duration;

use crate::chat::event::{LogRequest, Ticket};
use crate::chat::id::{ConnId, RoomName};

/// Bytes of pages, encoded, that may be under way; one read more is given to the log below it.
pub const MOST_BYTES: usize = 64 * 1024 * 1024;
/// Below this an address may have more than one page.
const SHARED_BYTES: usize = MOST_BYTES / 4 * 3;
/// What a page counts for until its length is known.
const READ_BYTES: usize = 128 * 1024;
/// Reads that the log may have at once, since in JSON a page may come to six times that.
pub const MOST_READS: usize = 32;
/// For one page, while others wait: 26 KiB/s at the least.
const PATIENCE: Duration = Duration::from_secs(5);

/// See the module's documentation. The chat asks for one page of a connection at a time.
#[derive(Debug, Default)]
pub struct Pages {
    reading: HashMap<Ticket, IpAddr>,
    writing: HashMap<ConnId, Writing>,
    /// The connections in `writing` that have not been given up, by when their page was sent.
    oldest: BTreeSet<(Duration, ConnId)>,
    /// Where those wait who wait.
    waiting: HashMap<ConnId, (IpAddr, u64)>,
    addresses: HashMap<IpAddr, Address>,
    /// The addresses of those who wait, by what they have under way and then by who waits longest.
    next: BTreeSet<(usize, u64, IpAddr)>,
    /// Of all addresses.
    bytes: usize,
    last_turn: u64,
}

#[derive(Debug, Default)]
struct Address {
    /// Bytes of pages under way.
    bytes: usize,
    /// In the order in which they asked.
    waiting: BTreeMap<u64, Wait>,
}

#[derive(Debug)]
struct Writing {
    address: IpAddr,
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
    /// `address`: what counts as one.
    pub fn want(&mut self, conn: ConnId, address: IpAddr, ticket: Ticket, request: LogRequest) {
        self.last_turn += 1;
        let turn = self.last_turn;
        self.waiting.insert(conn, (address, turn));
        self.change(address, |at| {
            at.waiting.insert(turn, Wait { conn, ticket, request });
        });
    }

    /// The next read for the log, where there is room for its page.
    pub fn next(&mut self) -> Option<LogRequest> {
        let (held, turn, address) = *self.next.first()?;
        let most = if held == 0 { MOST_BYTES } else { SHARED_BYTES };
        if self.reading.len() >= MOST_READS || self.bytes >= most {
            return None;
        }
        let Wait { conn, ticket, request } = self.change(address, |at| at.waiting.remove(&turn))?;
        self.waiting.remove(&conn);
        self.reading.insert(ticket, address);
        self.hold(address, READ_BYTES);
        Some(request)
    }

    /// The log has answered; of other tickets nothing is known here.
    pub fn read(&mut self, ticket: Ticket) {
        if let Some(address) = self.reading.remove(&ticket) {
            self.release(address, READ_BYTES);
        }
    }

    /// A page of so many bytes is on its way to the connection.
    pub fn sent(&mut self, conn: ConnId, address: IpAddr, bytes: usize, now: Duration) {
        self.written(conn);
        self.hold(address, bytes);
        self.oldest.insert((now, conn));
        self.writing.insert(conn, Writing { address, bytes, since: now });
    }

    /// Its socket has taken the page.
    pub fn written(&mut self, conn: ConnId) {
        if let Some(Writing { address, bytes, since }) = self.writing.remove(&conn) {
            self.release(address, bytes);
            self.oldest.remove(&(since, conn));
        }
    }

    /// The connection is gone. The read that waited for its turn has to be told to the chat.
    pub fn gone(&mut self, conn: ConnId) -> Option<Abandoned> {
        self.written(conn);
        let (address, turn) = self.waiting.remove(&conn)?;
        let Wait { ticket, request, .. } = self.change(address, |at| at.waiting.remove(&turn))?;
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

    fn hold(&mut self, address: IpAddr, bytes: usize) {
        self.bytes += bytes;
        self.change(address, |at| at.bytes += bytes);
    }

    fn release(&mut self, address: IpAddr, bytes: usize) {
        self.bytes -= bytes;
        self.change(address, |at| at.bytes -= bytes);
    }

    /// Changes what is known of an address, keeps its place in `next` true, and forgets it where
    /// nothing of it is under way or waits.
    fn change<T>(&mut self, address: IpAddr, change: impl FnOnce(&mut Address) -> T) -> T {
        let at = self.addresses.entry(address).or_default();
        if let Some(turn) = at.waiting.first_key_value().map(|(turn, _)| *turn) {
            self.next.remove(&(at.bytes, turn, address));
        }
        let result = change(at);
        match at.waiting.first_key_value() {
            Some((turn, _)) => {
                self.next.insert((at.bytes, *turn, address));
            }
            None if at.bytes == 0 => {
                self.addresses.remove(&address);
            }
            None => {}
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::event::HistoryRange;

    const PAGE: usize = 128 * 1024;
    const MOST: u64 = (MOST_BYTES / PAGE) as u64;
    const SHARED: u64 = (SHARED_BYTES / PAGE) as u64;

    fn address(n: u32) -> IpAddr {
        IpAddr::V4(n.into())
    }

    fn want(pages: &mut Pages, n: u64, from: IpAddr) {
        let (room, ticket) = (RoomName::parse("lobby").unwrap(), Ticket(n));
        let request = LogRequest::Read { room, ticket, range: HistoryRange::Latest, limit: 1, max_bytes: PAGE };
        pages.want(ConnId(n), from, ticket, request);
    }

    /// Lets the log answer whatever it is asked, at `now`; who got a page.
    fn answer(pages: &mut Pages, now: Duration) -> Vec<u64> {
        let mut served = Vec::new();
        while let Some(LogRequest::Read { ticket, .. }) = pages.next() {
            let from = pages.reading[&ticket];
            pages.read(ticket);
            pages.sent(ConnId(ticket.0), from, PAGE, now);
            served.push(ticket.0);
        }
        served
    }

    fn is_empty(pages: &Pages) -> bool {
        let maps = [pages.reading.len(), pages.writing.len(), pages.waiting.len(), pages.addresses.len()];
        maps == [0; 4] && pages.oldest.is_empty() && pages.next.is_empty() && pages.bytes == 0
    }

    #[test]
    fn so_many_bytes_are_under_way_and_the_next_goes_when_one_is_written() {
        let mut pages = Pages::default();
        (1..=MOST + 2).for_each(|n| want(&mut pages, n, address(n as u32)));
        assert_eq!(answer(&mut pages, Duration::ZERO).len() as u64, MOST);
        assert_eq!(pages.bytes, MOST_BYTES);
        pages.written(ConnId(7));
        assert_eq!(answer(&mut pages, Duration::ZERO), [MOST + 1]);
        assert!(pages.gone(ConnId(8)).is_none());
        assert_eq!(answer(&mut pages, Duration::ZERO), [MOST + 2]);
        (1..=MOST + 2).for_each(|n| pages.written(ConnId(n)));
        assert!(is_empty(&pages));
    }

    #[test]
    fn one_address_leaves_room_for_the_others() {
        let mut pages = Pages::default();
        (1..=1000).for_each(|n| want(&mut pages, n, address(1)));
        assert_eq!(answer(&mut pages, Duration::ZERO).len() as u64, SHARED);
        want(&mut pages, 2001, address(2));
        want(&mut pages, 2002, address(2));
        want(&mut pages, 2003, address(3));
        assert_eq!(answer(&mut pages, Duration::ZERO), [2001, 2003]);
        pages.written(ConnId(2001));
        assert_eq!(answer(&mut pages, Duration::ZERO), [2002]);
        // It gets room again when its own pages are written, and after those who have less.
        want(&mut pages, 2004, address(3));
        (1..=3).for_each(|n| pages.written(ConnId(n)));
        assert_eq!(answer(&mut pages, Duration::ZERO), [2004]);
        (1..=2004).for_each(|n| drop(pages.gone(ConnId(n))));
        assert!(is_empty(&pages));
    }

    #[test]
    fn the_log_has_so_many_reads_at_once() {
        let mut pages = Pages::default();
        (0..100).for_each(|n| want(&mut pages, n, address(1)));
        assert_eq!(std::iter::from_fn(|| pages.next()).count(), MOST_READS);
        pages.read(Ticket(3));
        assert!(pages.next().is_some() && pages.next().is_none());
    }

    #[test]
    fn who_does_not_read_is_given_up_only_while_others_wait() {
        let mut pages = Pages::default();
        (1..=SHARED).for_each(|n| want(&mut pages, n, address(1)));
        answer(&mut pages, Duration::from_secs(1));
        let late = Duration::from_secs(3600);
        assert_eq!((pages.deadline(), pages.stuck(late)), (None, None));
        want(&mut pages, SHARED + 1, address(1));
        assert_eq!(pages.deadline(), Some(Duration::from_secs(1) + PATIENCE));
        assert_eq!(pages.stuck(Duration::from_secs(2)), None);
        let given_up: Vec<_> = std::iter::from_fn(|| pages.stuck(late)).collect();
        assert_eq!(given_up.len() as u64, SHARED);
        // What it has still counts until its connection is gone.
        assert!(pages.next().is_none());
        assert!(pages.gone(ConnId(1)).is_none());
        assert_eq!(answer(&mut pages, late), [SHARED + 1]);
    }

    #[test]
    fn a_read_whose_reader_has_gone_is_not_done() {
        let mut pages = Pages::default();
        want(&mut pages, 1, address(1));
        let room = RoomName::parse("lobby").unwrap();
        assert_eq!(pages.gone(ConnId(1)), Some(Abandoned { room, ticket: Ticket(1) }));
        assert!(pages.next().is_none());
        assert!(pages.gone(ConnId(1)).is_none());
        assert!(is_empty(&pages));
    }
}
