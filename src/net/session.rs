//! What one client's messages mean: its rate, its dialect, its hello, its pings.
//!
//! The session checks and translates; it decides nothing about rooms or users, and it does no I/O.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use tokio_tungstenite::tungstenite::protocol::Message;

use super::Shared;
use crate::chat::event::{
    Claims, ClientFrame, Close, Dialect, ErrorCode, ErrorFrame, Hello, Identity, Input, ServerFrame,
};
use crate::chat::rate::TokenBucket;
use crate::config::{Config, Limits, Timeouts};
use crate::peer::Peer;
use crate::token::TokenError;
use crate::wire::close;
use crate::wire::frame::text_frame;
use crate::wire::json::{self, Extra, HelloFrame, Said};
use crate::wire::text;

/// The version of the JSON dialect.
const VERSION: u64 = 1;
/// Pings and pongs of the WebSocket protocol that one connection may send: a second, and at once.
const CONTROL_RATE: f64 = 10.0;
const CONTROL_BURST: u32 = 100;
/// Refused messages, in bursts, after which a client is flooding and is closed.
const STRIKES: u32 = 5;
/// A WebSocket ping without payload (RFC 6455, section 5.5.2).
const PING: [u8; 2] = [0x89, 0];
/// Pings without any answer after which a connection counts as dead.
const PINGS: u8 = 2;

/// What a connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Json,
    Text,
    Echo,
}

impl Kind {
    pub fn dialect(self) -> Dialect {
        match self {
            Kind::Json => Dialect::Json,
            Kind::Text | Kind::Echo => Dialect::Text,
        }
    }
}

/// What came of a token in the request of the upgrade, or of there being none where it takes one:
/// `None` is nothing to tell. Boxed, as hardly a connection has it for long.
pub type Offered = Option<Box<Result<Claims, Close>>>;

/// What a message, or the passing of time, leads to.
#[derive(Debug)]
pub enum Heard {
    Nothing,
    /// To be sent back.
    Reply(Bytes),
    /// For the hub, in this order.
    Hub(Input, Option<Input>),
    ReplyAndHub(Bytes, Input),
    Close(Close),
    Echo(Message),
}

#[derive(Debug)]
pub struct Session {
    pub kind: Kind,
    /// It has said something that counts as hello.
    greeted: bool,
    /// It said `hello` itself, so it answers pings of the JSON dialect.
    knows_ping: bool,
    messages: TokenBucket,
    strikes: TokenBucket,
    control: TokenBucket,
    since: Duration,
    heard_at: Duration,
    pinged_at: Duration,
    /// Pings since it was last heard.
    unanswered: u8,
    /// A close is on its way through the hub, behind the answers that are owed.
    closing: bool,
    /// Of the upgrade, for as long as it has said no hello.
    offered: Offered,
    /// The last ping has not been answered by a pong yet.
    measuring: bool,
}

impl Session {
    pub fn new(kind: Kind, offered: Offered, now: Duration, config: &Config) -> Self {
        let (messages, strikes) = buckets(&config.limits);
        Session {
            kind,
            greeted: kind != Kind::Json,
            knows_ping: false,
            messages,
            strikes,
            control: TokenBucket::new(CONTROL_RATE, CONTROL_BURST),
            since: now,
            heard_at: now,
            pinged_at: now,
            unanswered: 0,
            closing: false,
            offered,
            measuring: false,
        }
    }

    /// Whom the credentials of the upgrade name, where no hello will be said.
    pub fn admission(&mut self) -> Result<Identity, Close> {
        if self.kind == Kind::Json {
            // Its hello may have others, and settles it.
            return Ok(Identity::NewGuest);
        }
        match self.offered.take().map(|offered| *offered) {
            Some(Ok(claims)) => Ok(Identity::User(Box::new(claims))),
            Some(Err(close)) => Err(close),
            None => Ok(Identity::NewGuest),
        }
    }

    /// New limits, where they have changed; what was taken of the old ones is forgotten.
    pub fn set_limits(&mut self, limits: &Limits) {
        (self.messages, self.strikes) = buckets(limits);
    }

    /// A close is on its way: nothing more is read.
    pub fn is_closing(&self) -> bool {
        self.closing
    }

    /// An echo is read no faster than it is taken back.
    pub fn waits_for_outbox(&self) -> bool {
        self.kind == Kind::Echo
    }

    pub fn hear(&mut self, message: Message, shared: &Shared, config: &RefCell<Arc<Config>>, peer: &Peer) -> Heard {
        let now = shared.started.elapsed();
        self.note(&message, now, peer);
        let heard = self.understand(message, now, shared, config, peer);
        self.closing = matches!(heard, Heard::Close(_));
        heard
    }

    fn understand(
        &mut self,
        message: Message,
        now: Duration,
        shared: &Shared,
        config: &RefCell<Arc<Config>>,
        peer: &Peer,
    ) -> Heard {
        match message {
            Message::Close(_) | Message::Frame(_) => Heard::Nothing,
            Message::Ping(_) | Message::Pong(_) => {
                if matches!(message, Message::Pong(_)) {
                    self.measure(now, peer);
                }
                // tungstenite answers each ping: they are not free.
                if self.control.take(now).is_err() { flooding() } else { Heard::Nothing }
            }
            message if self.kind == Kind::Echo => Heard::Echo(message),
            Message::Binary(_) => Heard::Close(close::BINARY.close()),
            Message::Text(text) if self.kind == Kind::Json => {
                self.hear_json(text.as_str(), now, shared, &config.borrow(), peer)
            }
            Message::Text(text) => match self.messages.take(now) {
                // Copied: what tungstenite hands out keeps its whole read buffer alive.
                Ok(()) => Heard::Hub(Input::Text { conn: peer.id, text: text.as_str().to_owned() }, None),
                Err(retry) => self.too_fast(0, retry, now, shared, &config.borrow()),
            },
        }
    }

    fn note(&mut self, message: &Message, now: Duration, peer: &Peer) {
        self.heard_at = now;
        self.unanswered = 0;
        let counters = &peer.counters;
        counters.heard.store((now - self.since).as_millis() as u64, Relaxed);
        if matches!(message, Message::Text(_) | Message::Binary(_)) {
            counters.frames_in.store(counters.frames_in.load(Relaxed) + 1, Relaxed);
            counters.bytes_in.store(counters.bytes_in.load(Relaxed) + message.len() as u64, Relaxed);
        }
    }

    fn hear_json(&mut self, text: &str, now: Duration, shared: &Shared, config: &Config, peer: &Peer) -> Heard {
        let parsed = json::parse(text);
        if matches!(parsed.said, Ok(Said::Pong)) {
            self.measure(now, peer);
            return if self.control.take(now).is_err() { flooding() } else { Heard::Nothing };
        }
        // The hello that everybody has to say first is free.
        let free = !self.greeted && matches!(parsed.said, Ok(Said::Hello(_)));
        if !free && let Err(retry) = self.messages.take(now) {
            return self.too_fast(parsed.seq, retry, now, shared, config);
        }
        let said = match parsed.said {
            Ok(said) => said,
            Err(refusal) => return error(refusal.re, refusal.code, refusal.message),
        };
        let frame = |frame| Input::Frame { conn: peer.id, seq: parsed.seq, frame };
        match said {
            Said::Hello(hello) => match self.hello(*hello, parsed.seq, shared) {
                Ok(hello) => {
                    (self.greeted, self.knows_ping) = (true, true);
                    Heard::Hub(frame(ClientFrame::Hello(hello)), None)
                }
                Err(heard) => *heard,
            },
            Said::Frame(said) => match self.implied_hello(shared, peer) {
                Ok(Some(hello)) => Heard::Hub(hello, Some(frame(said))),
                Ok(None) => Heard::Hub(frame(said), None),
                Err(close) => Heard::Close(close),
            },
            Said::Ping(payload) => {
                let pong = text_frame(&json::pong(&payload));
                match self.implied_hello(shared, peer) {
                    // At once, as every ping.
                    Ok(Some(hello)) => Heard::ReplyAndHub(pong, hello),
                    Ok(None) => Heard::Reply(pong),
                    Err(close) => Heard::Close(close),
                }
            }
            Said::Pong => Heard::Nothing,
            Said::Bye => Heard::Close(close::NORMAL.close()),
        }
    }

    /// A first frame that is no hello counts as said after an empty one.
    fn implied_hello(&mut self, shared: &Shared, peer: &Peer) -> Result<Option<Input>, Close> {
        if self.greeted {
            return Ok(None);
        }
        let identity = self.identify(None, None, shared)?;
        self.greeted = true;
        let hello = Hello { identity, ..Hello::default() };
        Ok(Some(Input::Frame { conn: peer.id, seq: 0, frame: ClientFrame::Hello(hello) }))
    }

    fn hello(&mut self, hello: HelloFrame, re: u64, shared: &Shared) -> Result<Hello, Box<Heard>> {
        if let Some(v) = hello.v.filter(|v| *v != VERSION) {
            let message = format!("this server speaks version {VERSION} of the dialect, not {v}");
            return Err(Box::new(error(re, ErrorCode::BadRequest, message)));
        }
        if self.greeted {
            // Refused by the chat, whoever it names.
            return Ok(Hello::default());
        }
        match self.identify(hello.token.as_deref(), hello.guest.as_deref(), shared) {
            Ok(identity) => Ok(hello.with(identity)),
            Err(close) => Err(Box::new(Heard::Close(close))),
        }
    }

    /// Who says hello: whom its token names, else that of the upgrade, else a guest where guests may
    /// come in.
    fn identify(&mut self, token: Option<&str>, guest: Option<&str>, shared: &Shared) -> Result<Identity, Close> {
        let now = SystemTime::now();
        let offered = self.offered.take();
        let claims = match (token.filter(|token| !token.is_empty()), offered.map(|offered| *offered)) {
            (None, Some(Ok(claims))) if claims.expires <= now => return Err(TokenError::Expired.close()),
            (None, Some(Ok(claims))) => Some(claims),
            (None, Some(Err(close))) => return Err(close),
            (token, _) => shared.tokens.load().admit(token, now).map_err(TokenError::close)?,
        };
        if let Some(claims) = claims {
            return Ok(Identity::User(Box::new(claims)));
        }
        Ok(match guest.and_then(|signed| shared.guests.check(signed)) {
            Some(id) => Identity::Guest(id.to_owned()),
            // Not ours (a lost key, another site's): a new guest, as on the first visit.
            None => Identity::NewGuest,
        })
    }

    fn too_fast(&mut self, re: u64, retry: Duration, now: Duration, shared: &Shared, config: &Config) -> Heard {
        shared.stats.rate_limited.add(1);
        if self.strikes.take(now).is_err() {
            return flooding();
        }
        let message = "too many messages; wait a moment".into();
        let frame = ServerFrame::Error(ErrorFrame { re, code: ErrorCode::RateLimited, message, retry: Some(retry) });
        match self.kind {
            Kind::Json => Heard::Reply(text_frame(&json::encode(&frame, &Extra::default()))),
            Kind::Text | Kind::Echo => match text::line(&frame, config.chat.locale) {
                Some(line) => Heard::Reply(text_frame(&line)),
                None => Heard::Nothing,
            },
        }
    }

    /// What the passing of time leads to: no hello, a ping that is due, silence.
    pub fn check(&mut self, now: Duration, timeouts: &Timeouts) -> Heard {
        if !self.greeted && now.saturating_sub(self.since) >= timeouts.hello {
            return Heard::Close(close::NO_HELLO.close());
        }
        let last = if self.unanswered == 0 { self.heard_at } else { self.pinged_at };
        if now.saturating_sub(last) < timeouts.ping {
            return Heard::Nothing;
        }
        if self.unanswered >= PINGS {
            return Heard::Close(close::NO_PONG.close());
        }
        self.unanswered += 1;
        self.pinged_at = now;
        self.measuring = true;
        if self.knows_ping { Heard::Reply(text_frame(&json::ping())) } else { Heard::Reply(Bytes::from_static(&PING)) }
    }

    fn measure(&mut self, now: Duration, peer: &Peer) {
        if std::mem::take(&mut self.measuring) {
            let micros = now.saturating_sub(self.pinged_at).as_micros().clamp(1, u128::from(u32::MAX));
            peer.counters.rtt.store(micros as u32, Relaxed);
        }
    }
}

fn buckets(limits: &Limits) -> (TokenBucket, TokenBucket) {
    let (rate, burst) = (limits.rate.0, limits.burst);
    (TokenBucket::new(rate, burst), TokenBucket::new(rate, burst.saturating_mul(STRIKES)))
}

fn flooding() -> Heard {
    Heard::Close(close::FLOODING.close())
}

fn error(re: u64, code: ErrorCode, message: String) -> Heard {
    let frame = ServerFrame::Error(ErrorFrame { re, code, message, retry: None });
    Heard::Reply(text_frame(&json::encode(&frame, &Extra::default())))
}
