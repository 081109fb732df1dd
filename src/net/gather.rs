//! Joins the events that wait for a room into one piece for each dialect.
//!
//! What a member gets is always the room's events in their order, each once; only that several of
//! them may arrive in one write.

use std::collections::HashMap;
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use crate::chat::event::Dialect;
use crate::chat::id::{ConnId, RoomId};
use crate::hub::link::Encoded;

/// Bytes that are joined into one write. Far below any outbox, so that a reader who keeps up never
/// passes its limit because much happened at once.
const JOIN_BYTES: usize = 64 * 1024;
/// Events of one room that go out together.
#[derive(Default)]
pub struct Group {
    frames: Vec<Encoded>,
    /// When the hub decided each of them.
    decided: Vec<Duration>,
    /// Who gets something else in place of which frame.
    instead: Vec<(ConnId, usize, Option<Bytes>)>,
    bytes: usize,
}

/// What waits for rooms while the inbox is read, in the order of the rooms' first event.
#[derive(Default)]
pub struct Groups {
    list: Vec<(RoomId, Group)>,
    index: HashMap<RoomId, usize>,
}

impl Groups {
    /// True: so much waits for this room that it must go out now.
    pub fn add(
        &mut self,
        room: RoomId,
        frame: Encoded,
        instead: Option<(ConnId, Option<Bytes>)>,
        at: Duration,
    ) -> bool {
        let place = *self.index.entry(room).or_insert_with(|| {
            self.list.push((room, Group::default()));
            self.list.len() - 1
        });
        let group = &mut self.list[place].1;
        group.add(frame, instead, at);
        group.bytes >= JOIN_BYTES
    }

    /// Everything that waits, room by room.
    pub fn take(&mut self) -> impl Iterator<Item = (RoomId, Group)> + use<> {
        self.index.clear();
        std::mem::take(&mut self.list).into_iter()
    }
}

/// A group's bytes for those who get all of it.
pub struct Ready {
    json: Bytes,
    text: Option<Bytes>,
    pub frames: u64,
}

impl Ready {
    pub fn of(&self, dialect: Dialect) -> Option<&Bytes> {
        match dialect {
            Dialect::Json => Some(&self.json),
            Dialect::Text => self.text.as_ref(),
        }
    }
}

impl Encoded {
    pub fn of(&self, dialect: Dialect) -> Option<&Bytes> {
        match dialect {
            Dialect::Json => Some(&self.json),
            Dialect::Text => self.text.as_ref(),
        }
    }
}

impl Group {
    /// `at`: when the hub decided it, since the start of the daemon.
    pub fn add(&mut self, frame: Encoded, instead: Option<(ConnId, Option<Bytes>)>, at: Duration) {
        self.bytes += frame.json.len();
        self.decided.push(at);
        if let Some((id, own)) = instead {
            self.instead.push((id, self.frames.len(), own));
        }
        self.frames.push(frame);
    }

    /// Ends the gathering: one piece for everybody, and the exceptions sorted for look-ups.
    pub fn join(&mut self) -> Ready {
        self.instead.sort_by_key(|(id, at, _)| (*id, *at));
        let frames = self.frames.len() as u64;
        if let [only] = &self.frames[..] {
            return Ready { json: only.json.clone(), text: only.text.clone(), frames };
        }
        let mut json = BytesMut::with_capacity(self.bytes);
        let mut text = BytesMut::new();
        for frame in &self.frames {
            json.extend_from_slice(&frame.json);
            text.extend_from_slice(frame.text.as_deref().unwrap_or_default());
        }
        Ready { json: json.freeze(), text: (!text.is_empty()).then(|| text.freeze()), frames }
    }

    /// How long ago the hub decided each event.
    pub fn ages(&self, now: Duration) -> impl Iterator<Item = Duration> + '_ {
        self.decided.iter().map(move |at| now.saturating_sub(*at))
    }

    pub fn mentions(&self, id: ConnId) -> bool {
        !self.instead.is_empty() && self.instead.binary_search_by_key(&id, |(id, _, _)| *id).is_ok()
    }

    /// The group for one who gets something else in place of one frame or several.
    pub fn own(&self, id: ConnId, dialect: Dialect) -> (Option<Bytes>, u64) {
        let mut bytes = BytesMut::new();
        let mut count = 0;
        let first = self.instead.partition_point(|(other, _, _)| *other < id);
        let mut mine = self.instead[first..].iter().take_while(|(other, _, _)| *other == id).peekable();
        for (at, frame) in self.frames.iter().enumerate() {
            let piece = match mine.next_if(|(_, place, _)| *place == at) {
                Some((_, _, own)) => own.as_ref(),
                None => frame.of(dialect),
            };
            if let Some(piece) = piece {
                bytes.extend_from_slice(piece);
                count += 1;
            }
        }
        ((!bytes.is_empty()).then(|| bytes.freeze()), count)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Joined or alone, everybody gets every frame once, in order, except where they get
        /// something else in its place.
        #[test]
        fn nothing_is_lost_doubled_or_moved(
            frames in prop::collection::vec((0u64..4, any::<bool>(), any::<bool>()), 1..12),
        ) {
            let mut group = Group::default();
            for (at, (sender, has_own, has_text)) in frames.iter().enumerate() {
                let text = has_text.then(|| Bytes::from(format!("t{at} ")));
                let own = has_own.then(|| Bytes::from(format!("own{at} ")));
                let instead = (*sender > 0).then_some((ConnId(*sender), own));
                group.add(Encoded { json: Bytes::from(format!("j{at} ")), text }, instead, Duration::ZERO);
            }
            let ready = group.join();
            for id in 0..5 {
                for dialect in [Dialect::Json, Dialect::Text] {
                    let expected: String = frames.iter().enumerate().filter_map(|(at, (sender, has_own, has_text))| {
                        if *sender > 0 && *sender == id {
                            return has_own.then(|| format!("own{at} "));
                        }
                        match dialect {
                            Dialect::Json => Some(format!("j{at} ")),
                            Dialect::Text => has_text.then(|| format!("t{at} ")),
                        }
                    }).collect();
                    let got = if group.mentions(ConnId(id)) {
                        group.own(ConnId(id), dialect).0
                    } else {
                        ready.of(dialect).cloned()
                    };
                    prop_assert_eq!(got.unwrap_or_default(), expected.as_bytes());
                }
            }
        }

        #[test]
        fn rooms_keep_their_order_and_do_not_mix(rooms in prop::collection::vec(0u32..4, 0..40)) {
            let mut groups = Groups::default();
            for (at, room) in rooms.iter().enumerate() {
                let json = Bytes::from(format!("{room}:{at} "));
                groups.add(RoomId(*room), Encoded { json, text: None }, None, Duration::ZERO);
            }
            for (room, mut group) in groups.take() {
                let expected: String = rooms.iter().enumerate()
                    .filter(|(_, r)| RoomId(**r) == room).map(|(at, r)| format!("{r}:{at} ")).collect();
                let joined = group.join();
                prop_assert_eq!(joined.of(Dialect::Json).unwrap(), expected.as_bytes());
            }
            prop_assert_eq!(groups.take().count(), 0);
        }
    }
}
