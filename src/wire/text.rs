//! The text dialect: which frames a client sees that knows nothing but text, and as what line.

use crate::chat::event::{Body, Dialect, ErrorCode, Member, PresenceState, ServerFrame};

/// The language of the daemon's own lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Locale {
    #[default]
    En,
    ZhCn,
}

/// The line for a frame; `None` where a text client sees nothing of it.
pub fn line(frame: &ServerFrame, locale: Locale) -> Option<String> {
    match frame {
        ServerFrame::Entry { entry, .. } => match &entry.record.body {
            Body::Message { text: Some(text), dialect: Dialect::Text, .. } => Some(text.clone()),
            Body::Message { from, text: Some(text), dialect: Dialect::Json, .. } => Some(spoken(from, text)),
            Body::Message { text: None, .. } | Body::Event { .. } | Body::Deleted { .. } | Body::Purged => None,
        },
        ServerFrame::Direct(direct) => Some(spoken(&direct.from, &direct.text)),
        ServerFrame::Presence { change, online, .. } => {
            let line = match (change.as_ref().map(|change| change.state), locale) {
                (Some(PresenceState::Join), Locale::En) => format!("a user has joined, {online} online"),
                (Some(PresenceState::Join), Locale::ZhCn) => format!("新用户加入,当前在线{online}人"),
                (Some(PresenceState::Leave), Locale::En) => format!("a user has left, {online} online"),
                (Some(PresenceState::Leave), Locale::ZhCn) => format!("用户离开,当前在线{online}人"),
                (Some(PresenceState::Nick), _) => return None,
                (None, Locale::En) => format!("{online} online"),
                (None, Locale::ZhCn) => format!("当前在线{online}人"),
            };
            Some(system(&line, locale))
        }
        ServerFrame::Notice { text, .. } => Some(system(text, locale)),
        // A person who has typed a line wants to know that nobody will read it.
        ServerFrame::Error(error) => Some(system(&not_sent(error.code, &error.message, locale), locale)),
        // Nobody asked for it: an operator has closed the room.
        ServerFrame::Left { re: 0, room, reason: Some(_) } => {
            let line = match locale {
                Locale::En => format!("room {room} has been closed"),
                Locale::ZhCn => format!("房间 {room} 已关闭"),
            };
            Some(system(&line, locale))
        }
        ServerFrame::Muted { on, .. } => {
            let line = match (locale, on) {
                (Locale::En, true) => "you have been muted: you may read, but not write",
                (Locale::En, false) => "you may write again",
                (Locale::ZhCn, true) => "你已被禁言",
                (Locale::ZhCn, false) => "你可以重新发言了",
            };
            Some(system(line, locale))
        }
        ServerFrame::Welcome(_)
        | ServerFrame::Joined(_)
        | ServerFrame::Left { .. }
        | ServerFrame::Typing { .. }
        | ServerFrame::History(_)
        | ServerFrame::Who { .. }
        | ServerFrame::Ack { .. } => None,
    }
}

fn spoken(from: &Member, text: &str) -> String {
    format!("{}: {text}", from.nick)
}

fn system(line: &str, locale: Locale) -> String {
    match locale {
        Locale::En => format!("System: {line}"),
        Locale::ZhCn => format!("系统通知: {line}"),
    }
}

fn not_sent(code: ErrorCode, message: &str, locale: Locale) -> String {
    match (locale, code) {
        (Locale::En, _) => format!("not sent: {message}"),
        (Locale::ZhCn, ErrorCode::TooLong) => "消息过长,未发送".to_owned(),
        (Locale::ZhCn, ErrorCode::RateLimited) => "发送过于频繁,消息未发送".to_owned(),
        (Locale::ZhCn, ErrorCode::Muted) => "您已被禁言,消息未发送".to_owned(),
        (Locale::ZhCn, _) => "暂时无法发送消息,请稍后重试".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::event::{Entry, ErrorFrame, Level, PresenceChange, Record};
    use crate::chat::id::{Nick, RoomName, UserId};
    use std::sync::Arc;
    use std::time::SystemTime;

    fn lines(frame: ServerFrame) -> [Option<String>; 2] {
        [line(&frame, Locale::En), line(&frame, Locale::ZhCn)]
    }

    fn both(en: &str, zh: &str) -> [Option<String>; 2] {
        [Some(en.to_owned()), Some(zh.to_owned())]
    }

    #[test]
    fn messages_by_the_dialect_of_their_sender() {
        let entry = |dialect| {
            let from = Member { user: UserId::guest("1"), nick: Nick::parse("安").unwrap() };
            let body = Body::Message { from, text: Some("你好\n!".into()), cid: None, dialect };
            let record = Arc::new(Record { id: "i".into(), time: SystemTime::UNIX_EPOCH, body });
            ServerFrame::Entry { room: RoomName::parse("r").unwrap(), entry: Entry { seq: 1, record } }
        };
        assert_eq!(lines(entry(Dialect::Text)), both("你好\n!", "你好\n!"));
        assert_eq!(lines(entry(Dialect::Json)), both("安: 你好\n!", "安: 你好\n!"));
    }

    #[test]
    fn what_was_deleted_is_no_line() {
        let from = Member { user: UserId::guest("1"), nick: Nick::parse("a").unwrap() };
        let gone = |dialect| Body::Message { from: from.clone(), text: None, cid: None, dialect };
        for body in [gone(Dialect::Text), gone(Dialect::Json), Body::Deleted { target: 1 }, Body::Purged] {
            let record = Arc::new(Record { id: "i".into(), time: SystemTime::UNIX_EPOCH, body });
            let frame = ServerFrame::Entry { room: RoomName::parse("r").unwrap(), entry: Entry { seq: 2, record } };
            assert_eq!(lines(frame), [None, None]);
        }
    }

    #[test]
    fn comings_goings_and_notices() {
        let presence = |state: Option<PresenceState>| {
            let (user, nick) = (UserId::guest("1"), Nick::parse("a").unwrap());
            let change = state.map(|state| PresenceChange { user, nick, state });
            ServerFrame::Presence { room: RoomName::parse("r").unwrap(), change, online: 3 }
        };
        let join = both("System: a user has joined, 3 online", "系统通知: 新用户加入,当前在线3人");
        let leave = both("System: a user has left, 3 online", "系统通知: 用户离开,当前在线3人");
        assert_eq!(lines(presence(Some(PresenceState::Join))), join);
        assert_eq!(lines(presence(Some(PresenceState::Leave))), leave);
        assert_eq!(lines(presence(Some(PresenceState::Nick))), [None, None]);
        assert_eq!(lines(presence(None)), both("System: 3 online", "系统通知: 当前在线3人"));
        let notice = ServerFrame::Notice { text: "x".into(), level: Level::Warn, room: None };
        assert_eq!(lines(notice), both("System: x", "系统通知: x"));
    }

    #[test]
    fn moderation_is_told_to_whom_it_concerns() {
        let room = RoomName::parse("r").unwrap();
        let closed = ServerFrame::Left { re: 0, room: room.clone(), reason: Some(String::new()) };
        assert_eq!(lines(closed), both("System: room r has been closed", "系统通知: 房间 r 已关闭"));
        assert_eq!(lines(ServerFrame::Left { re: 3, room, reason: None }), [None, None], "it asked for that");
        let muted = |on| ServerFrame::Muted { room: None, on, until: None, reason: String::new() };
        let told = both("System: you have been muted: you may read, but not write", "系统通知: 你已被禁言");
        assert_eq!(lines(muted(true)), told);
        assert_eq!(lines(muted(false)), both("System: you may write again", "系统通知: 你可以重新发言了"));
    }

    #[test]
    fn a_lost_line_is_told() {
        let error = ErrorFrame { re: 0, code: ErrorCode::TooLong, message: "too long".into(), retry: None };
        let told = both("System: not sent: too long", "系统通知: 消息过长,未发送");
        assert_eq!(lines(ServerFrame::Error(error)), told);
        assert_eq!(lines(ServerFrame::Ack { re: 0, kept: None, delivered: None }), [None, None]);
    }
}
