//! What a client says. Nothing here trusts a byte of it, and nothing recurses: values that are not
//! looked into are skipped by an iterative scanner, however deep they are.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::chat::event::{ClientFrame, Cursor, ErrorCode, Hello, HistoryRange, Identity, MessageTo};
use crate::chat::id::{RoomName, UserId, breaks_a_line};
use crate::chat::sanction::REASON_MAX;

/// How many entries of history are sent to one who does not say.
const DEFAULT_LIMIT: u32 = 50;
/// The most characters of an error's message: what a stranger sent is quoted, but not at length.
const MAX_MESSAGE: usize = 240;

/// A client's message, read.
#[derive(Debug)]
pub struct Parsed {
    /// The client's number for it; 0 where it has none.
    pub seq: u64,
    pub said: Result<Said, Refusal>,
}

/// What a client may say.
#[derive(Debug)]
pub enum Said {
    /// Its credentials are still to be checked.
    Hello(Box<HelloFrame>),
    /// For the chat.
    Frame(ClientFrame),
    /// The payload is sent back as it is.
    Ping(Box<RawValue>),
    Pong,
    Bye,
}

/// A `hello` as it came.
#[derive(Debug, Default)]
pub struct HelloFrame {
    pub v: Option<u64>,
    pub token: Option<String>,
    /// The signed string that an earlier `welcome` gave.
    pub guest: Option<String>,
    /// What the client calls itself.
    pub agent: Option<String>,
    pub nick: Option<String>,
    pub rooms: Option<Vec<RoomName>>,
    pub resume: Vec<(RoomName, Cursor)>,
    pub history: u32,
}

impl HelloFrame {
    /// For the chat, once it is known who says it.
    pub fn with(self, identity: Identity) -> Hello {
        let HelloFrame { nick, rooms, resume, history, .. } = self;
        Hello { identity, nick, rooms, resume, history }
    }
}

/// Why a message is not understood, for an `error` frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub re: u64,
    pub code: ErrorCode,
    pub message: String,
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow, rename = "type")]
    kind: Option<&'a RawValue>,
    #[serde(borrow)]
    payload: Option<&'a RawValue>,
    #[serde(borrow)]
    seq: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct HelloIn<'a> {
    v: Option<u64>,
    token: Option<String>,
    guest: Option<String>,
    agent: Option<String>,
    nick: Option<String>,
    rooms: Option<Vec<RoomName>>,
    #[serde(borrow)]
    resume: Option<&'a RawValue>,
    history: Option<u32>,
}

#[derive(Deserialize)]
struct ResumeIn<'a> {
    #[serde(borrow)]
    rooms: Option<BTreeMap<Cow<'a, str>, &'a RawValue>>,
}

#[derive(Deserialize)]
struct CursorIn {
    epoch: String,
    seq: u64,
}

#[derive(Deserialize)]
struct JoinIn {
    room: RoomName,
    history: Option<u32>,
}

#[derive(Deserialize)]
struct RoomIn {
    room: RoomName,
}

#[derive(Deserialize)]
struct MessageIn {
    room: Option<RoomName>,
    to: Option<String>,
    text: String,
    cid: Option<String>,
}

#[derive(Deserialize)]
struct HistoryIn {
    room: RoomName,
    before: Option<u64>,
    after: Option<u64>,
    limit: Option<u64>,
}

#[derive(Deserialize)]
struct TypingIn {
    room: RoomName,
    on: bool,
}

#[derive(Deserialize)]
struct DeleteIn {
    room: RoomName,
    target: u64,
}

#[derive(Deserialize)]
struct MuteIn {
    room: RoomName,
    user: UserId,
    for_ms: Option<u64>,
    reason: Option<String>,
}

#[derive(Deserialize)]
struct UnmuteIn {
    room: RoomName,
    user: UserId,
}

#[derive(Deserialize)]
struct NickIn {
    nick: String,
}

/// Reads one message of a client. Never allocates more than a few times its length.
pub fn parse(text: &str) -> Parsed {
    let envelope: Envelope = match object(text, "the message") {
        Ok(envelope) => envelope,
        Err(message) => return Parsed { seq: 0, said: Err(refusal(0, ErrorCode::BadRequest, message)) },
    };
    let (seq, wrong_seq) = match envelope.seq.map(|raw| serde_json::from_str::<u64>(raw.get())) {
        None => (0, false),
        Some(Ok(seq)) => (seq, false),
        Some(Err(_)) => (0, true),
    };
    let bad = |message| refusal(seq, ErrorCode::BadRequest, message);
    let said = if wrong_seq {
        Err(bad("seq must be a whole number from 0".to_owned()))
    } else {
        kind(envelope.kind).map_err(bad).and_then(|kind| payload(&kind, envelope.payload, seq))
    };
    Parsed { seq, said }
}

fn kind(raw: Option<&RawValue>) -> Result<Cow<'_, str>, String> {
    let raw = raw.ok_or("type is missing: say {\"type\": \"message\", \"payload\": {…}, \"seq\": 1}")?;
    serde_json::from_str::<String>(raw.get()).map(Cow::Owned).map_err(|_| "type must be a string".to_owned())
}

fn payload(kind: &str, raw: Option<&RawValue>, seq: u64) -> Result<Said, Refusal> {
    let json = raw.map_or("{}", RawValue::get);
    let said = match kind {
        "hello" => hello(json),
        "join" => read(kind, json, |JoinIn { room, history }| {
            Ok(Said::Frame(ClientFrame::Join { room, history: history.unwrap_or(0) }))
        }),
        "leave" => read(kind, json, |RoomIn { room }| Ok(Said::Frame(ClientFrame::Leave { room }))),
        "message" => read(kind, json, message),
        "history" => read(kind, json, history),
        "typing" => read(kind, json, |TypingIn { room, on }| Ok(Said::Frame(ClientFrame::Typing { room, on }))),
        "nick" => read(kind, json, |NickIn { nick }| Ok(Said::Frame(ClientFrame::Nick { nick }))),
        "who" => read(kind, json, |RoomIn { room }| Ok(Said::Frame(ClientFrame::Who { room }))),
        "delete" => read(kind, json, |DeleteIn { room, target }| Ok(Said::Frame(ClientFrame::Delete { room, target }))),
        "mute" => read(kind, json, mute),
        "unmute" => read(kind, json, |UnmuteIn { room, user }| Ok(Said::Frame(ClientFrame::Unmute { room, user }))),
        "ping" => is_object(json, "the payload of ping").map(|()| match raw {
            Some(raw) => Said::Ping(raw.to_owned()),
            None => Said::Ping(no_payload()),
        }),
        "pong" => is_object(json, "the payload of pong").map(|()| Said::Pong),
        "bye" => is_object(json, "the payload of bye").map(|()| Said::Bye),
        _ => {
            let kind: String = kind.chars().take(32).collect();
            let known =
                "hello, join, leave, message, history, typing, nick, who, delete, mute, unmute, ping, pong and bye";
            let message = format!("there is no type {kind:?}; there are {known}");
            return Err(refusal(seq, ErrorCode::UnknownType, message));
        }
    };
    said.map_err(|message| refusal(seq, ErrorCode::BadRequest, message))
}

fn no_payload() -> Box<RawValue> {
    RawValue::from_string("{}".to_owned()).expect("an empty object is JSON")
}

fn hello(json: &str) -> Result<Said, String> {
    let hello: HelloIn = object(json, "the payload of hello")?;
    let resume = match hello.resume {
        Some(raw) => object::<ResumeIn>(raw.get(), "resume in hello")?.rooms.unwrap_or_default(),
        None => BTreeMap::new(),
    };
    let cursor = |(room, raw): (Cow<str>, &RawValue)| {
        let room = RoomName::parse(&room).map_err(|e| e.to_string())?;
        let CursorIn { epoch, seq } = object(raw.get(), &format!("resume of room {room}"))?;
        Ok((room, Cursor { epoch, seq }))
    };
    Ok(Said::Hello(Box::new(HelloFrame {
        v: hello.v,
        token: hello.token,
        guest: hello.guest,
        agent: hello.agent,
        nick: hello.nick,
        rooms: hello.rooms,
        resume: resume.into_iter().map(cursor).collect::<Result<_, String>>()?,
        history: hello.history.unwrap_or(0),
    })))
}

fn message(MessageIn { room, to, text, cid }: MessageIn) -> Result<Said, String> {
    let to = match (room, to) {
        (Some(_), Some(_)) => return Err("a message goes to a room or to a user, not both".to_owned()),
        (Some(room), None) => MessageTo::Room(room),
        (None, Some(user)) => MessageTo::User(UserId::parse(&user).map_err(|e| e.to_string())?),
        (None, None) => MessageTo::DefaultRoom,
    };
    // An empty one names nothing; taken as a name it would make all messages the same.
    let cid = cid.filter(|cid| !cid.is_empty());
    Ok(Said::Frame(ClientFrame::Message { to, text, cid }))
}

fn history(HistoryIn { room, before, after, limit }: HistoryIn) -> Result<Said, String> {
    let range = match (before, after) {
        (Some(_), Some(_)) => return Err("history goes before a seq or after one, not both".to_owned()),
        (Some(seq), None) => HistoryRange::Before(seq),
        (None, Some(seq)) => HistoryRange::After(seq),
        (None, None) => HistoryRange::Latest,
    };
    if limit == Some(0) {
        return Err("limit must be at least 1".to_owned());
    }
    let limit = limit.map_or(DEFAULT_LIMIT, |limit| u32::try_from(limit).unwrap_or(u32::MAX));
    Ok(Said::Frame(ClientFrame::History { room, range, limit }))
}

fn mute(MuteIn { room, user, for_ms, reason }: MuteIn) -> Result<Said, String> {
    let reason = reason.unwrap_or_default();
    if reason.len() > REASON_MAX {
        return Err(format!("a reason has at most {REASON_MAX} bytes"));
    }
    if let Some(c) = reason.chars().find(|c| breaks_a_line(*c)) {
        return Err(format!("a reason is one line of plain text, without U+{:04X}", u32::from(c)));
    }
    if for_ms == Some(0) {
        return Err("for_ms must be at least 1; leave it out to mute until unmuted".to_owned());
    }
    Ok(Said::Frame(ClientFrame::Mute { room, user, lasts: for_ms.map(Duration::from_millis), reason }))
}

fn read<'a, T: Deserialize<'a>>(
    kind: &str,
    json: &'a str,
    then: impl FnOnce(T) -> Result<Said, String>,
) -> Result<Said, String> {
    then(object(json, &format!("the payload of {kind}"))?)
}

/// `json` as a `T`. Only an object counts: serde would take the members from an array as well.
fn object<'a, T: Deserialize<'a>>(json: &'a str, what: &str) -> Result<T, String> {
    is_object(json, what)?;
    serde_json::from_str(json).map_err(|e| {
        let text = e.to_string();
        // The place counts from the start of this value, which a person does not see.
        let text = text.rsplit_once(" at line ").map_or(text.as_str(), |(text, _)| text);
        format!("{what}: {text}")
    })
}

fn is_object(json: &str, what: &str) -> Result<(), String> {
    match json.trim_start_matches([' ', '\t', '\n', '\r']).chars().next() {
        Some('{') => Ok(()),
        Some('[') => Err(format!("{what} must be an object such as {{}}, not an array")),
        _ => Err(format!("{what} must be an object in JSON, such as {{}}")),
    }
}

fn refusal(re: u64, code: ErrorCode, message: String) -> Refusal {
    let message = match message.char_indices().nth(MAX_MESSAGE) {
        Some((at, _)) => format!("{}…", &message[..at]),
        None => message,
    };
    Refusal { re, code, message }
}
