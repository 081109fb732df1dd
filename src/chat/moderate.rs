//! Moderation: deleting, muting and banning, by moderators in their rooms and by operators anywhere.

use std::time::Duration;

use super::event::Action;
use super::hub::{Hub, Turn};
use super::id::{ConnId, RoomName, Seq, UserId};

impl Hub {
    pub(super) fn moderate(&mut self, _id: u64, _by: String, _action: Action, _turn: &mut Turn) {}

    pub(super) fn sanctions_saved(&mut self, _version: u64, _result: Result<(), String>, _turn: &mut Turn) {}

    pub(super) fn delete(&mut self, _conn: ConnId, _re: u64, _room: &RoomName, _target: Seq, _turn: &mut Turn) {}

    #[expect(clippy::too_many_arguments)]
    pub(super) fn mute(
        &mut self,
        _conn: ConnId,
        _re: u64,
        _room: &RoomName,
        _user: UserId,
        _lasts: Option<Duration>,
        _reason: String,
        _turn: &mut Turn,
    ) {
    }

    pub(super) fn unmute(&mut self, _conn: ConnId, _re: u64, _room: &RoomName, _user: &UserId, _turn: &mut Turn) {}
}
