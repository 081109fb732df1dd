//! Rooms: which there are, open or stored, and closing and emptying them.

use std::collections::BTreeMap;

use super::{Desk, Trouble};
use crate::admin::order::{First, Merged, RoomKey};
use crate::admin::{HISTORY_PAGE, RoomView};
use crate::chat::event::{Action, HistoryRange, Outcome, StoredRoom};
use crate::chat::id::RoomName;
use crate::control::protocol::{self as api, Refusal};
use crate::control::server::Replies;
use crate::control::values::{bad, order, reason, room_name};
use crate::control::wire::Parameters;

/// Rooms that the hub looks at for one page.
const PAGE: usize = 512;
/// The most that one answer holds in order.
const SORTED_MOST: u64 = 1000;

impl Desk<'_> {
    pub(super) async fn rooms(&self, mut with: Parameters, replies: &mut Replies) -> Result<(), Trouble> {
        let stored: bool = with.take("stored")?.unwrap_or(false);
        let limit: Option<u64> = with.take("limit")?;
        let order = order("sort", &mut with, &RoomKey::ALL, RoomKey::as_str, limit, SORTED_MOST)?;
        with.end()?;
        match (limit, order) {
            (_, Some(_)) if stored => return Err(bad("stored", stored, "false together with sort").into()),
            (_, Some(order)) => return self.first_rooms(order, replies).await,
            (Some(limit), None) => return Err(bad("limit", limit, "none without sort").into()),
            (None, None) => {}
        }
        if stored {
            return self.stored_rooms(replies).await;
        }
        let mut rooms: Vec<api::Room> = self.admin.rooms().await?.into_iter().map(room).collect();
        rooms.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(replies.last(&api::Rooms { rooms }).await?)
    }

    /// The first of the open rooms in an order, looked at page by page.
    async fn first_rooms(&self, order: First<RoomKey>, replies: &mut Replies) -> Result<(), Trouble> {
        let mut merged = Merged::new(order.most);
        let mut after = None;
        loop {
            let page = self.admin.first_rooms(order, merged.bar(), after, PAGE).await?;
            after = merged.take(page);
            if after.is_none() {
                let rooms = merged.all().map(room).collect();
                return Ok(replies.last(&api::Rooms { rooms }).await?);
            }
        }
    }

    /// The open rooms and those of the history, which both come in the order of their names.
    async fn stored_rooms(&self, replies: &mut Replies) -> Result<(), Trouble> {
        if !replies.more() {
            return Err(Refusal::ExpectedMore {}.into());
        }
        if replies.oneway() {
            return Ok(());
        }
        let live = self.admin.rooms().await?;
        let mut live: BTreeMap<RoomName, RoomView> = live.into_iter().map(|view| (view.name.clone(), view)).collect();
        let mut after = None;
        loop {
            let page = self.admin.stored_rooms(after, HISTORY_PAGE).await?;
            let page = page.map_err(|failure| Refusal::HistoryUnavailable { reason: failure.to_string() })?;
            let mut rooms: BTreeMap<RoomName, api::Room> = page.rooms.into_iter().map(stored).collect();
            let last = rooms.keys().next_back().cloned().filter(|_| page.more);
            // Of those that are open, the ones that come before the next page.
            let later = last.as_ref().map_or_else(BTreeMap::new, |last| {
                let mut later = live.split_off(last);
                live.extend(later.remove_entry(last));
                later
            });
            for (name, view) in std::mem::replace(&mut live, later) {
                let known = rooms.get(&name).map(|known| (known.first, known.kept));
                let open = room(view);
                let (first, kept) = known.unwrap_or_default();
                rooms.insert(name, api::Room { first, kept, ..open });
            }
            let part = api::Rooms { rooms: rooms.into_values().collect() };
            if last.is_none() {
                return Ok(replies.last(&part).await?);
            }
            after = last;
            replies.part(&part).await?;
        }
    }

    pub(super) async fn room(&self, mut with: Parameters) -> Result<api::OneRoom, Trouble> {
        let name = room_name("room", &with.need::<String>("room")?)?;
        with.end()?;
        let Some(detail) = self.admin.room(name.clone()).await? else {
            // Nobody is in it; perhaps something is stored.
            let page = self.read(&name, HistoryRange::Latest, 1).await?;
            return Ok(api::OneRoom {
                room: api::RoomDetail {
                    name: name.to_string(),
                    users: 0,
                    clients: 0,
                    seq: page.head,
                    epoch: page.epoch.to_string(),
                    kept: (page.head + 1).saturating_sub(page.first),
                    members: Vec::new(),
                },
            });
        };
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

    pub(super) async fn close_room(&self, mut with: Parameters) -> Result<api::RoomClosed, Trouble> {
        let room = room_name("room", &with.need::<String>("room")?)?;
        let reason = reason(with.take("reason")?)?;
        with.end()?;
        let what = format!("close of room {room}");
        let operator = self.operator().await;
        match self.act(&operator, &what, Action::CloseRoom { room: room.clone(), reason }).await? {
            Ok(Outcome::Emptied { conns }) => {
                operator.did(&what, conns, conns, 0, format_args!("closed room {room}: {conns} connections put out"));
                Ok(api::RoomClosed { matched: conns, done: conns })
            }
            Ok(other) => unreachable!("a room that is closed has been emptied, not {other:?}"),
            Err(error) => Err(Refusal::from(error).into()),
        }
    }

    pub(super) async fn purge_room(&self, mut with: Parameters) -> Result<api::Removed, Trouble> {
        let room = room_name("room", &with.need::<String>("room")?)?;
        with.end()?;
        self.remove(format!("purge of room {room}"), Action::Purge { room }).await
    }

    pub(super) async fn delete_message(&self, mut with: Parameters) -> Result<api::Removed, Trouble> {
        let room = room_name("room", &with.need::<String>("room")?)?;
        let target: u64 = with.need("seq")?;
        with.end()?;
        self.remove(format!("deletion of message {target} in room {room}"), Action::Delete { room, target }).await
    }

    async fn remove(&self, what: String, action: Action) -> Result<api::Removed, Trouble> {
        let operator = self.operator().await;
        match self.act(&operator, &what, action).await? {
            Ok(Outcome::Removed { seq, removed }) => {
                operator.did(
                    &what,
                    removed,
                    removed,
                    0,
                    format_args!("ordered the {what}: {removed} removed, as seq {seq}"),
                );
                Ok(api::Removed { seq, removed })
            }
            Ok(other) => unreachable!("what removes is answered by what was removed, not by {other:?}"),
            Err(error) => Err(Refusal::from(error).into()),
        }
    }
}

fn room(view: RoomView) -> api::Room {
    api::Room {
        name: view.name.to_string(),
        users: view.users as u64,
        clients: view.clients as u64,
        seq: view.seq,
        first: None,
        kept: None,
    }
}

/// A room in which nobody is.
fn stored(room: StoredRoom) -> (RoomName, api::Room) {
    let StoredRoom { name, head, first } = room;
    let kept = Some((head + 1).saturating_sub(first));
    let shown = api::Room { name: name.to_string(), users: 0, clients: 0, seq: head, first: Some(first), kept };
    (name, shown)
}
