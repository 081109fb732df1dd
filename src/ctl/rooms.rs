//! Rooms and what has been said in them.

use std::io::{self, IsTerminal};

use serde_json::{Value, json};

use super::args;
use super::client::Daemon;
use super::columns::Cell;
use super::commands::{confirm, connections, control};
use super::failure::Failure;
use super::output::{Output, Table};
use super::text::harmless;
use crate::control::protocol as api;

/// Lists all of a large store in pages, as they come.
pub(super) fn list(stored: bool, daemon: &mut Daemon, out: &mut Output) -> Result<(), Failure> {
    let mut names = vec!["name", "users", "clients", "seq"];
    if stored {
        names.extend(["first", "kept"]);
    }
    let mut pages = daemon.stream(&control("ListRooms"), api::ListRooms { stored, ..api::ListRooms::default() })?;
    let mut table = Table::new(names);
    let mut begun = false;
    while let Some(page) = pages.next::<api::Rooms>()? {
        if out.json {
            for room in &page.rooms {
                out.raw(if begun { b"," } else { b"{\"rooms\":[" })?;
                begun = true;
                out.fragment(room)?;
            }
            continue;
        }
        let optional = |number: Option<u64>| number.map_or(Cell::Absent, Cell::Number);
        let row = |room: &api::Room| {
            let name = Cell::Text(room.name.clone());
            let mut row = vec![name, Cell::Number(room.users), Cell::Number(room.clients), Cell::Number(room.seq)];
            if stored {
                row.extend([optional(room.first), optional(room.kept)]);
            }
            row
        };
        let rows: Vec<Vec<Cell>> = page.rooms.iter().map(row).collect();
        table.rows(out, &rows)?;
    }
    if out.json {
        out.raw(if begun { b"]}\n" } else { b"{\"rooms\":[]}\n" })?;
    }
    out.flush()
}

pub(super) fn show(name: &str, daemon: &mut Daemon, out: &mut Output) -> Result<(), Failure> {
    let shown: api::OneRoom = daemon.call(&control("ShowRoom"), api::ShowRoom { room: name.into() })?;
    if out.json {
        return out.document(&shown);
    }
    let room = shown.room;
    out.pairs(&[
        ("name", harmless(&room.name)),
        ("users", room.users.to_string()),
        ("clients", room.clients.to_string()),
        ("seq", room.seq.to_string()),
        ("kept", room.kept.to_string()),
        ("epoch", harmless(&room.epoch)),
    ])?;
    out.line("")?;
    let row = |member: &api::Member| {
        let clients = member.clients.iter().map(u64::to_string).collect();
        vec![Cell::Text(member.user.clone()), Cell::Text(member.nick.clone()), Cell::List(clients)]
    };
    let rows: Vec<Vec<Cell>> = room.members.iter().map(row).collect();
    Table::new(["user", "nick", "clients"]).rows(out, &rows)
}

pub(super) fn close(room: &str, reason: Option<&str>, daemon: &mut Daemon, out: &mut Output) -> Result<(), Failure> {
    let request = api::CloseRoom { room: room.into(), reason: reason.map(str::to_owned) };
    let closed: api::RoomClosed = daemon.call(&control("CloseRoom"), request)?;
    if out.json {
        return out.document(&json!({"matched": closed.matched, "done": closed.done, "failed": []}));
    }
    out.line(&format!("put {} out of {}", connections(closed.done), harmless(room)))?;
    out.flush()
}

pub(super) fn purge(
    room: &str,
    yes: bool,
    connect: &dyn Fn() -> Result<Daemon, Failure>,
    out: &mut Output,
) -> Result<(), Failure> {
    let terminal = io::stdin().is_terminal() && io::stderr().is_terminal();
    if !yes && !terminal {
        return Err(Failure::Usage("a purge cannot be undone; it wants --yes where nobody can be asked".into()));
    }
    let mut daemon = connect()?;
    if !yes {
        let shown: api::OneRoom = daemon.call(&control("ShowRoom"), api::ShowRoom { room: room.into() })?;
        confirm(&format!("Remove the {} stored entries of room {} for ever?", shown.room.kept, harmless(room)))?;
    }
    let removed: api::Removed = daemon.call(&control("PurgeRoom"), api::PurgeRoom { room: room.into() })?;
    report(removed, &format!("removed {} entries of {}", removed.removed, harmless(room)), out)
}

pub(super) fn delete(room: &str, seq: u64, daemon: &mut Daemon, out: &mut Output) -> Result<(), Failure> {
    let request = api::DeleteMessage { room: room.into(), seq };
    let removed: api::Removed = daemon.call(&control("DeleteMessage"), request)?;
    report(removed, &format!("deleted message {seq} of {}", harmless(room)), out)
}

fn report(removed: api::Removed, words: &str, out: &mut Output) -> Result<(), Failure> {
    let api::Removed { seq, removed } = removed;
    if out.json {
        let report = json!({"matched": removed, "done": removed, "failed": [], "seq": seq, "removed": removed});
        return out.document(&report);
    }
    out.line(&format!("{words}; the room sees it as {seq}"))?;
    out.flush()
}

pub(super) fn history(history: &args::History, daemon: &mut Daemon, out: &mut Output) -> Result<(), Failure> {
    let request = api::History {
        room: history.room.clone(),
        before: history.before,
        after: history.after,
        limit: history.limit,
        follow: history.follow,
    };
    if history.follow && history.after.is_some() && history.limit.is_some() {
        return Err(Failure::Usage("--follow tells everything after --after: leave out --limit".into()));
    }
    let mut pages = daemon.stream(&control("History"), request)?;
    if history.follow {
        let mut last: Option<(String, u64)> = None;
        let mut next = pages.next::<api::HistoryPage>()?;
        if out.terminal && !out.json {
            eprintln!("following; Ctrl-C ends it");
        }
        while let Some(page) = next {
            note_gap(last.as_ref(), &page);
            let seen = page.entries.last().map(|entry| entry.seq).or(last.as_ref().map(|(_, seq)| *seq));
            last = Some((page.epoch.clone(), seen.unwrap_or(page.first.saturating_sub(1))));
            for entry in &page.entries {
                show_entry(entry, out)?;
            }
            out.flush()?;
            next = match pages.wait() {
                Err(Failure::Broken) => return Err(Failure::Unfollowed),
                waited => waited?,
            };
        }
        return Err(Failure::Unfollowed);
    }
    let (mut begun, mut between, mut more) = (false, false, false);
    while let Some(page) = pages.next::<api::HistoryPage>()? {
        more = page.more;
        if out.json && !begun {
            begun = true;
            out.raw(b"{\"room\":")?;
            out.fragment(&page.room)?;
            out.raw(b",\"epoch\":")?;
            out.fragment(&page.epoch)?;
            out.raw(b",\"messages\":[")?;
        }
        for entry in &page.entries {
            match out.json {
                true => {
                    if between {
                        out.raw(b",")?;
                    }
                    between = true;
                    out.fragment(entry)?;
                }
                false => show_entry(entry, out)?,
            }
        }
    }
    if out.json {
        out.raw(b"],\"more\":")?;
        out.fragment(&more)?;
        out.raw(b"}\n")?;
    }
    out.flush()
}

/// Says what was taken away before it could be told.
fn note_gap(last: Option<&(String, u64)>, page: &api::HistoryPage) {
    match last {
        Some((epoch, _)) if *epoch != page.epoch => {
            eprintln!("wschatctl: the room's numbers start again: what it remembered is gone");
        }
        Some((_, seq)) if page.first > seq + 1 => {
            eprintln!("wschatctl: {} to {} were removed before they could be shown", seq + 1, page.first - 1);
        }
        _ => {}
    }
}

/// One entry on one line; `--json`: the frame.
fn show_entry(entry: &api::Entry, out: &mut Output) -> Result<(), Failure> {
    if out.json {
        out.fragment(entry)?;
        return out.raw(b"\n");
    }
    let text = |pointer: &str| entry.payload.pointer(pointer).and_then(Value::as_str).map(harmless).unwrap_or_default();
    let (time, user, nick) = (text("/time"), text("/from/user"), text("/from/nick"));
    let deleted = entry.payload["deleted"] == true;
    let (who, words) = match entry.kind.as_str() {
        "message" if deleted => (nick.clone(), "(deleted)".to_owned()),
        "message" => (nick.clone(), text("/text")),
        "event" if deleted => (text("/name"), "(deleted)".to_owned()),
        "event" => (text("/name"), harmless(&entry.payload["data"].to_string())),
        _ => {
            let target = entry.payload["target"].as_u64().unwrap_or_default();
            let all = entry.payload["all"] == true;
            (String::new(), if all { format!("everything up to {target}") } else { target.to_string() })
        }
    };
    if !out.terminal {
        let kind = harmless(&entry.kind);
        return out.line(&[time, entry.seq.to_string(), kind, user, who, words].join("\t"));
    }
    let time = if time.is_empty() { " ".repeat(TIME_WIDTH) } else { time };
    let line = match entry.kind.as_str() {
        "message" => format!("{time} {:>6} {who}: {words}", entry.seq),
        "event" => format!("{time} {:>6} event {who}: {words}", entry.seq),
        _ => format!("{time} {:>6} deleted: {words}", entry.seq),
    };
    out.line(&line)
}

/// Of RFC 3339 with milliseconds.
const TIME_WIDTH: usize = "2026-01-01T00:00:00.000Z".len();
