//! A worker's rooms: who of its connections is in them, and what is given to all of those.

use std::cell::RefCell;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use bytes::Bytes;
use tokio::task::yield_now;

use super::super::conn::Conn;
use super::super::gather::{Group, Groups};
use super::{CHUNK, Worker};
use crate::chat::id::{ConnId, RoomId};
use crate::hub::link::Encoded;
use crate::receipt::Receipt;
use crate::wire::close;

/// A room's members on this worker, in slots that never move, so that a fan-out under way skips none.
#[derive(Default)]
pub(super) struct Members {
    slots: RefCell<Vec<Option<Rc<Conn>>>>,
    free: RefCell<Vec<u32>>,
}

impl Worker {
    pub(super) async fn publish_groups(&self, groups: &mut Groups) {
        for (room, group) in groups.take() {
            self.publish(room, group, None).await;
        }
    }

    pub(super) async fn publish(&self, room: RoomId, mut group: Group, receipt: Option<Arc<Receipt>>) {
        let Some(members) = self.rooms.borrow().get(&room).cloned() else { return };
        self.offer(&members, &mut group, receipt).await;
        for age in group.ages(self.now()) {
            self.stats.fanout.observe(age);
        }
    }

    /// Gives a group to every member in turn.
    async fn offer(&self, members: &Members, group: &mut Group, receipt: Option<Arc<Receipt>>) {
        let ready = group.join();
        let mut at = 0;
        loop {
            {
                let slots = members.slots.borrow();
                // Empty slots, left by a crowd that has gone, cost no pause.
                let mut served = 0;
                while served < CHUNK {
                    let Some(slot) = slots.get(at) else { return };
                    at += 1;
                    let Some(conn) = slot else { continue };
                    served += 1;
                    if group.mentions(conn.id) {
                        let (own, frames) = group.own(conn.id, conn.peer.dialect);
                        if let Some(own) = own {
                            self.deliver(conn, &own, frames, receipt.as_ref());
                        }
                    } else if let Some(bytes) = ready.of(conn.peer.dialect) {
                        self.deliver(conn, bytes, ready.frames, receipt.as_ref());
                    }
                }
            }
            yield_now().await;
        }
    }

    pub(super) async fn publish_all(&self, frame: Encoded, receipt: Option<Arc<Receipt>>) {
        for chunk in self.everyone(|conn| conn.welcomed.get()).chunks(CHUNK) {
            for conn in chunk.iter().filter_map(Weak::upgrade) {
                if let Some(bytes) = frame.of(conn.peer.dialect) {
                    self.deliver(&conn, bytes, 1, receipt.as_ref());
                }
            }
            yield_now().await;
        }
    }

    pub(super) fn deliver(&self, conn: &Conn, bytes: &Bytes, frames: u64, receipt: Option<&Arc<Receipt>>) {
        let limit = self.config.borrow().limits.outbox;
        if conn.deliver(bytes, frames, limit, receipt) {
            self.close(conn, &close::SLOW.close());
        }
    }

    pub(super) fn enter(&self, id: ConnId, room: RoomId) {
        let Some(conn) = self.conn(id) else { return };
        let members = self.rooms.borrow_mut().entry(room).or_default().clone();
        let mut slots = members.slots.borrow_mut();
        let slot = members.free.borrow_mut().pop().unwrap_or(slots.len() as u32);
        if slot as usize == slots.len() {
            slots.push(None);
        }
        slots[slot as usize] = Some(conn.clone());
        conn.welcomed.set(true);
        conn.inner.borrow_mut().rooms.push((room, slot));
    }

    pub(super) fn exit(&self, conn: &Conn, room: RoomId) {
        let mut inner = conn.inner.borrow_mut();
        let Some(at) = inner.rooms.iter().position(|(r, _)| *r == room) else { return };
        let (_, slot) = inner.rooms.swap_remove(at);
        drop(inner);
        self.vacate(room, slot);
    }

    pub(super) fn vacate(&self, room: RoomId, slot: u32) {
        if let Some(members) = self.rooms.borrow().get(&room) {
            members.slots.borrow_mut()[slot as usize] = None;
            members.free.borrow_mut().push(slot);
        }
    }
}
