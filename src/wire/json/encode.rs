//! What the daemon says, as PROTOCOL.md's tables have it: `type`, `payload`, `seq`, always.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;
use serde_json::value::RawValue;

use crate::chat::event::{
    Body, Direct, Entry, ErrorFrame, HistoryPage, Joined, Kept, Level, Limits, Member, PresenceState, ServerFrame,
    Welcome,
};
use crate::chat::id::{ConnId, Nick, RoomName, UserId};

use crate::wire::close::CloseCode;

/// The last moment that RFC 3339 can write.
const LAST_TIME: u64 = 253_402_300_799;
/// Why writing cannot fail.
const WRITABLE: &str = "strings, numbers and checked JSON can always be written";

/// What the chat does not know and a frame needs.
#[derive(Clone, Copy, Debug, Default)]
pub struct Extra<'a> {
    /// For `welcome`: the guest's signed string, where the client is a guest.
    pub guest: Option<&'a str>,
}

#[derive(Serialize)]
struct Out<P> {
    #[serde(rename = "type")]
    kind: &'static str,
    payload: P,
    seq: u64,
}

#[derive(Serialize)]
struct WelcomeOut<'a> {
    re: u64,
    client: ConnId,
    user: &'a UserId,
    nick: &'a Nick,
    #[serde(skip_serializing_if = "Option::is_none")]
    guest: Option<&'a str>,
    server: &'static str,
    ping_ms: u64,
    limits: LimitsOut,
    resumed: bool,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    roles: &'static [&'static str],
}

#[derive(Serialize)]
struct LimitsOut {
    text: usize,
    frame: usize,
    rate: f64,
    burst: u32,
}

#[derive(Serialize)]
struct JoinedOut<'a> {
    re: u64,
    room: &'a RoomName,
    epoch: &'a str,
    seq: u64,
    recovered: bool,
    online: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    members: Option<Vec<MemberOut<'a>>>,
}

#[derive(Serialize)]
struct MemberOut<'a> {
    user: &'a UserId,
    nick: &'a Nick,
}

#[derive(Serialize)]
struct LeftOut<'a> {
    re: u64,
    room: &'a RoomName,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
}

#[derive(Serialize)]
struct MutedOut<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    room: Option<&'a RoomName>,
    on: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    until: Option<String>,
    #[serde(skip_serializing_if = "str::is_empty")]
    reason: &'a str,
}

#[derive(Serialize)]
struct MessageOut<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    room: Option<&'a RoomName>,
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<&'a UserId>,
    id: &'a str,
    from: MemberOut<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
    time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    cid: Option<&'a str>,
    #[serde(skip_serializing_if = "is_false")]
    deleted: bool,
}

#[derive(Serialize)]
struct EventOut<'a> {
    room: &'a RoomName,
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a RawValue>,
    time: String,
    #[serde(skip_serializing_if = "is_false")]
    deleted: bool,
}

#[derive(Serialize)]
struct DeletedOut<'a> {
    room: &'a RoomName,
    target: u64,
    /// Everything up to the target, not it alone.
    #[serde(skip_serializing_if = "is_false")]
    all: bool,
}

#[derive(Serialize)]
struct PresenceOut<'a> {
    room: &'a RoomName,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'a UserId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    nick: Option<&'a Nick>,
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<&'static str>,
    online: usize,
}

#[derive(Serialize)]
struct TypingOut<'a> {
    room: &'a RoomName,
    user: &'a UserId,
    nick: &'a Nick,
    on: bool,
}

#[derive(Serialize)]
struct NoticeOut<'a> {
    text: &'a str,
    level: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    room: Option<&'a RoomName>,
}

#[derive(Serialize)]
struct HistoryOut<'a> {
    re: u64,
    room: &'a RoomName,
    epoch: &'a str,
    messages: Vec<Out<EntryOut<'a>>>,
    more: bool,
}

#[derive(Serialize)]
#[serde(untagged)]
enum EntryOut<'a> {
    Message(MessageOut<'a>),
    Event(EventOut<'a>),
    Deleted(DeletedOut<'a>),
}

#[derive(Serialize)]
struct WhoOut<'a> {
    re: u64,
    room: &'a RoomName,
    members: Vec<MemberOut<'a>>,
    online: usize,
}

#[derive(Serialize)]
struct AckOut<'a> {
    re: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seq: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    room: Option<&'a RoomName>,
    #[serde(skip_serializing_if = "Option::is_none")]
    delivered: Option<usize>,
}

#[derive(Serialize)]
struct ErrorOut<'a> {
    re: u64,
    code: &'static str,
    message: &'a str,
    temporary: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_ms: Option<u64>,
}

#[derive(Serialize)]
struct ByeOut<'a> {
    code: u16,
    reason: &'a str,
    reconnect: bool,
    after_ms: u64,
}

#[derive(Serialize)]
struct Nothing {}

/// A frame as the text of one WebSocket message.
pub fn encode(frame: &ServerFrame, extra: &Extra) -> String {
    match frame {
        ServerFrame::Welcome(welcome) => write("welcome", welcome_out(welcome, extra)),
        ServerFrame::Joined(joined) => write("joined", joined_out(joined)),
        ServerFrame::Left { re, room, reason } => {
            write("left", LeftOut { re: *re, room, reason: reason.as_deref().filter(|reason| !reason.is_empty()) })
        }
        ServerFrame::Entry { room, entry } => text(&entry_out(room, entry)),
        ServerFrame::Direct(direct) => write("message", direct_out(direct)),
        ServerFrame::Presence { room, change, online } => {
            let user = change.as_ref().map(|change| &change.user);
            let nick = change.as_ref().map(|change| &change.nick);
            let state = change.as_ref().map(|change| match change.state {
                PresenceState::Join => "join",
                PresenceState::Leave => "leave",
                PresenceState::Nick => "nick",
            });
            write("presence", PresenceOut { room, user, nick, state, online: *online })
        }
        ServerFrame::Typing { room, user, nick, on } => write("typing", TypingOut { room, user, nick, on: *on }),
        ServerFrame::Notice { text, level, room } => {
            let level = match level {
                Level::Info => "info",
                Level::Warn => "warn",
            };
            write("notice", NoticeOut { text, level, room: room.as_ref() })
        }
        ServerFrame::History(page) => write("history", history_out(page)),
        ServerFrame::Who { re, room, members, online } => {
            let members = members.iter().map(member_out).collect();
            write("who", WhoOut { re: *re, room, members, online: *online })
        }
        ServerFrame::Ack { re, kept, delivered } => write("ack", ack_out(*re, kept.as_ref(), *delivered)),
        ServerFrame::Muted { room, on, until, reason } => {
            write("muted", MutedOut { room: room.as_ref(), on: *on, until: until.map(time), reason })
        }
        ServerFrame::Error(error) => write("error", error_out(error)),
    }
}

/// A stored entry as the frame that the room's members have got, for whoever else reads the room.
pub fn entry(room: &RoomName, entry: &Entry) -> Box<RawValue> {
    serde_json::value::to_raw_value(&entry_out(room, entry)).expect(WRITABLE)
}

/// The answer to a client's `ping`, with its payload.
pub fn pong(payload: &RawValue) -> String {
    write("pong", payload)
}

/// The daemon's own `ping`.
pub fn ping() -> String {
    write("ping", Nothing {})
}

/// What is said right before a close frame. `after`: the time in which clients that reconnect
/// spread themselves; counts only for codes that say so.
pub fn bye(close: &CloseCode, reason: &str, after: Duration) -> String {
    let (code, reconnect, after_ms) = (close.code, close.reconnect.is_wanted(), ms(after));
    write("bye", ByeOut { code, reason, reconnect, after_ms })
}

fn welcome_out<'a>(welcome: &'a Welcome, extra: &Extra<'a>) -> WelcomeOut<'a> {
    let Limits { text, frame, rate, burst } = welcome.limits;
    WelcomeOut {
        re: welcome.re,
        client: welcome.client,
        user: &welcome.user,
        nick: &welcome.nick,
        guest: extra.guest,
        server: concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION")),
        ping_ms: ms(welcome.ping),
        limits: LimitsOut { text, frame, rate, burst },
        resumed: welcome.resumed,
        roles: if welcome.moderator { &["moderator"] } else { &[] },
    }
}

fn joined_out(joined: &Joined) -> JoinedOut<'_> {
    let Joined { re, room, epoch, seq, recovered, online, members } = joined;
    let members = members.as_ref().map(|members| members.iter().map(member_out).collect());
    JoinedOut { re: *re, room, epoch, seq: *seq, recovered: *recovered, online: *online, members }
}

fn member_out(member: &Member) -> MemberOut<'_> {
    MemberOut { user: &member.user, nick: &member.nick }
}

fn entry_out<'a>(room: &'a RoomName, entry: &'a Entry) -> Out<EntryOut<'a>> {
    let record = &*entry.record;
    let (kind, payload) = match &record.body {
        Body::Message { from, text, cid, .. } => {
            let (room, from, time) = (Some(room), member_out(from), time(record.time));
            let (text, deleted) = (text.as_deref(), text.is_none());
            let message = MessageOut { room, to: None, id: &record.id, from, text, time, cid: cid.as_deref(), deleted };
            ("message", EntryOut::Message(message))
        }
        Body::Event { name, data } => {
            let (data, deleted) = (data.as_deref(), data.is_none());
            ("event", EntryOut::Event(EventOut { room, name, data, time: time(record.time), deleted }))
        }
        Body::Deleted { target } => ("deleted", EntryOut::Deleted(DeletedOut { room, target: *target, all: false })),
        Body::Purged => {
            ("deleted", EntryOut::Deleted(DeletedOut { room, target: entry.seq.saturating_sub(1), all: true }))
        }
    };
    Out { kind, payload, seq: entry.seq }
}

fn direct_out(direct: &Direct) -> MessageOut<'_> {
    let Direct { to, id, from, text, time: at, cid } = direct;
    let (from, time) = (member_out(from), time(*at));
    MessageOut { room: None, to: Some(to), id, from, text: Some(text), time, cid: cid.as_deref(), deleted: false }
}

fn history_out(page: &HistoryPage) -> HistoryOut<'_> {
    let HistoryPage { re, room, epoch, entries, more } = page;
    let messages = entries.iter().map(|entry| entry_out(room, entry)).collect();
    HistoryOut { re: *re, room, epoch, messages, more: *more }
}

fn ack_out(re: u64, kept: Option<&Kept>, delivered: Option<usize>) -> AckOut<'_> {
    let id = kept.map(|kept| kept.id.as_str());
    AckOut { re, id, seq: kept.map(|kept| kept.seq), room: kept.map(|kept| &kept.room), delivered }
}

fn error_out(error: &ErrorFrame) -> ErrorOut<'_> {
    let ErrorFrame { re, code, message, retry } = error;
    let temporary = error.is_temporary();
    ErrorOut { re: *re, code: code.as_str(), message, temporary, retry_ms: retry.map(ms_up) }
}

fn write<P: Serialize>(kind: &'static str, payload: P) -> String {
    text(&Out { kind, payload, seq: 0 })
}

fn text<P: Serialize>(out: &Out<P>) -> String {
    serde_json::to_string(out).expect(WRITABLE)
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference in")]
fn is_false(value: &bool) -> bool {
    !value
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Rounded up, so that one who waits as told has waited long enough.
fn ms_up(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

/// RFC 3339 in UTC with milliseconds. A clock before 1970 or after 9999 is written as that.
fn time(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default().min(Duration::from_secs(LAST_TIME));
    humantime::format_rfc3339_millis(UNIX_EPOCH + since).to_string()
}
