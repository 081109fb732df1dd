//! Reading pages and lists, on threads of their own that never write.
//!
//! Each answer is one snapshot, begun after it was asked for: what a page says of its room's ends is
//! true of its entries.

use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::{Connection, OptionalExtension, params};
use tokio::sync::mpsc;

use super::schema::{entry, entry_columns};
use super::{Shared, failure};
use crate::chat::event::{Entry, HistoryRange, LogFailure, LogReply, StoredRoom, Ticket};
use crate::chat::id::{RoomName, Seq};
use crate::log::wire_size;

pub(super) const ROOM: &str = "SELECT number, epoch, head, count FROM room WHERE name = ?1";
pub(super) const AFTER: &str =
    concat!("SELECT ", entry_columns!(), " FROM entry WHERE room = ?1 AND seq > ?2 ORDER BY seq");
pub(super) const BEFORE: &str =
    concat!("SELECT ", entry_columns!(), " FROM entry WHERE room = ?1 AND seq < ?2 ORDER BY seq DESC");
pub(super) const LIST: &str = "SELECT name, head, count FROM room WHERE name > ?1 ORDER BY name LIMIT ?2";

/// What a reader is asked.
pub(super) enum Ask {
    Page { room: RoomName, ticket: Ticket, range: HistoryRange, limit: u32, max_bytes: usize },
    List { ticket: Ticket, after: Option<RoomName>, limit: u32 },
}

/// Answers until nobody asks any more, or nobody takes the answers.
pub(super) fn run(db: &Connection, shared: &Shared, asked: &Mutex<Receiver<Ask>>, pages: &mpsc::Sender<LogReply>) {
    loop {
        // The lock is held while waiting: whoever holds it takes the next, the others stand behind.
        let next = asked.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(ask) = next else { return };
        let (room, ticket) = match &ask {
            Ask::Page { room, ticket, .. } => (Some(room.clone()), *ticket),
            Ask::List { ticket, .. } => (None, *ticket),
        };
        let answer = answer(db, shared, ask).unwrap_or_else(|error| {
            if failure::is_damage(&error) {
                shared.damaged(&error);
            }
            Err(LogFailure::Unavailable(failure::in_words(&error, &shared.path)))
        });
        let reply = answer.unwrap_or_else(|failure| LogReply::Failed { room, ticket: Some(ticket), failure });
        if pages.blocking_send(reply).is_err() {
            return;
        }
    }
}

type Answer = Result<LogReply, LogFailure>;

fn answer(db: &Connection, shared: &Shared, ask: Ask) -> rusqlite::Result<Answer> {
    let snapshot = db.unchecked_transaction()?;
    match ask {
        Ask::List { ticket, after, limit } => {
            let mut statement = snapshot.prepare_cached(LIST)?;
            let after = after.as_ref().map_or("", RoomName::as_str);
            let mut rows = statement.query(params![after, i64::from(limit) + 1])?;
            let (mut rooms, mut seen) = (Vec::new(), 0);
            while let Some(row) = rows.next()? {
                seen += 1;
                if seen > limit {
                    break;
                }
                let (head, count): (i64, i64) = (row.get(1)?, row.get(2)?);
                // A name that is none was not written by us; its room cannot be asked for.
                if let Ok(name) = RoomName::parse(row.get_ref(0)?.as_str()?) {
                    rooms.push(StoredRoom { name, head: head as Seq, first: (head - count + 1) as Seq });
                }
            }
            Ok(Ok(LogReply::Rooms { ticket, rooms, more: seen > limit }))
        }
        Ask::Page { room, ticket, range, limit, max_bytes } => {
            let ends = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get::<_, String>(1)?, row.get(2)?, row.get(3)?));
            let found: Option<(i64, String, i64, i64)> =
                snapshot.prepare_cached(ROOM)?.query_row([room.as_str()], ends).optional()?;
            let Some((number, epoch, head, count)) = found else {
                // Open, and nothing has been said in it yet.
                let Some(epoch) = shared.open_rooms().get(&room).cloned() else {
                    return Ok(Err(LogFailure::NoSuchRoom));
                };
                let (entries, more) = (Vec::new(), false);
                return Ok(Ok(LogReply::Page { room, ticket, epoch, entries, more, first: 1, head: 0 }));
            };
            let (first, head) = ((head - count + 1) as Seq, head as Seq);
            match page(&snapshot, number, (first, head), range, limit, max_bytes)? {
                Some((entries, more)) => {
                    let epoch = Arc::from(epoch);
                    Ok(Ok(LogReply::Page { room, ticket, epoch, entries, more, first, head }))
                }
                None => {
                    let why = format!("what {} holds of room {room} does not fit together", shared.path.display());
                    Ok(Err(LogFailure::Unavailable(why)))
                }
            }
        }
    }
}

/// The entries, ascending, and whether more of the range is kept. `None`: one of them is no entry.
fn page(
    db: &Connection,
    room: i64,
    (first, head): (Seq, Seq),
    range: HistoryRange,
    limit: u32,
    max_bytes: usize,
) -> rusqlite::Result<Option<(Vec<Entry>, bool)>> {
    let (statement, end) = match range {
        HistoryRange::After(seq) => (AFTER, seq),
        HistoryRange::Before(seq) => (BEFORE, seq),
        HistoryRange::Latest => (BEFORE, Seq::MAX),
    };
    let mut statement = db.prepare_cached(statement)?;
    let mut rows = statement.query(params![room, i64::try_from(end).unwrap_or(i64::MAX)])?;
    let (mut entries, mut bytes, mut more) = (Vec::new(), 0, false);
    while let Some(row) = rows.next()? {
        let Some(entry) = entry(row)? else { return Ok(None) };
        bytes += wire_size(&entry.record);
        if entries.len() >= limit as usize || (!entries.is_empty() && bytes > max_bytes) {
            more = true;
            break;
        }
        entries.push(entry);
    }
    if !matches!(range, HistoryRange::After(_)) {
        entries.reverse();
    }
    // They must be where the room's row says, without a hole.
    let whole = entries.windows(2).all(|pair| pair[0].seq + 1 == pair[1].seq);
    let inside = entries.first().is_none_or(|e| e.seq >= first) && entries.last().is_none_or(|e| e.seq <= head);
    Ok((whole && inside).then_some((entries, more)))
}
