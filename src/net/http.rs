//! HTTP/1.1 in front of the upgrade: the page, health, the handshake and every refusal.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::future::{Future, poll_fn, ready};
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming as Body;
use hyper::header::{self, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, sleep, timeout};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::access::Origin;
use super::conn::CLOSE_WAIT;
use super::gate::{Place, Refusal};
use super::headers::{self, HandshakeError};
use super::incoming::Door;
use super::io::Io;
use super::page::Asset;
use super::session::{Kind, Offered};
use super::worker::Worker;
use crate::config::Config;
use crate::state::Phase;
use crate::stats::Failure;
use crate::token::TokenError;

/// A request's head may have this many bytes and this many lines.
const HEAD_BYTES: usize = 16 * 1024;
const HEAD_LINES: usize = 100;
/// After so many requests a connection is closed, so that handshakes are what an address is limited by.
const REQUESTS: u32 = 100;
/// What is read and thrown away of a body or of whatever comes after a refusal.
const LINGER_BYTES: usize = 256 * 1024;
/// Told to those who are refused for lack of room.
const RETRY: Duration = Duration::from_secs(5);

/// The subprotocol of the JSON dialect.
const SUBPROTOCOL: &str = "wschat.v1";

/// A stream that speaks WebSocket from here on.
pub struct Upgrade {
    pub io: Io,
    /// What was read beyond the request's head.
    pub read: Bytes,
    pub kind: Kind,
    pub address: IpAddr,
    pub port: u16,
    /// The address is of a proxy that has not said for whom it speaks.
    pub proxied: bool,
    pub origin: Option<Box<str>>,
    pub agent: Option<Box<str>>,
    pub place: Place,
    pub offered: Offered,
}

/// What the request said of an upgrade that has been granted.
struct Granted {
    kind: Kind,
    address: IpAddr,
    port: u16,
    proxied: bool,
    origin: Option<Box<str>>,
    agent: Option<Box<str>>,
    place: Place,
    offered: Offered,
}

type Answer = Response<Full<Bytes>>;

/// Answers requests until one opens a WebSocket, or the connection is over.
pub async fn serve(
    worker: &Worker,
    io: Io,
    door: &Door,
    peer: SocketAddr,
    refusal: Option<Refusal>,
) -> Option<Upgrade> {
    let granted = RefCell::new(None);
    let answered = Cell::new(0u32);
    let config = worker.config();
    let room = Room { worker, config: &config, door, peer, refusal };
    let service = service_fn(|request: Request<Body>| {
        answered.set(answered.get() + 1);
        let mut answer = room.answer(&request, &granted);
        worker.stats.answered(answer.status().as_u16());
        let upgraded = answer.status() == StatusCode::SWITCHING_PROTOCOLS;
        if !upgraded && (answered.get() >= REQUESTS || worker.shared.state.phase() >= Phase::Stopping) {
            answer = close_after(answer);
        }
        ready(Ok::<_, Infallible>(answer))
    });
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(config.timeouts.request)
        .max_headers(HEAD_LINES)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(io), service);
    let mut stopping = pin!(worker.shared.state.reached(Phase::Stopping));
    let mut told = false;
    // hyper has a deadline for a request's head, and none for those who ask and never read. Where
    // nothing has moved for longer than a head may take, it is them.
    let patience = 2 * config.timeouts.request;
    let mut stalled = pin!(sleep(patience));
    let result = poll_fn(|cx| {
        if !told && stopping.as_mut().poll(cx).is_ready() {
            told = true;
            // Only one that waits for a further request: who has not been answered yet will be,
            // and told then that the connection ends.
            if answered.get() > 0 {
                Pin::new(&mut connection).graceful_shutdown();
            }
        }
        if let Poll::Ready(result) = connection.poll_without_shutdown(cx) {
            return Poll::Ready(Some(result));
        }
        if stalled.as_mut().poll(cx).is_ready() {
            return Poll::Ready(None);
        }
        stalled.as_mut().reset(Instant::now() + patience);
        Poll::Pending
    })
    .await;
    let parts = connection.into_parts();
    let mut io = parts.io.into_inner();
    let granted = granted.take();
    match (result, granted) {
        (Some(Ok(())), Some(Granted { kind, address, port, proxied, origin, agent, place, offered })) => {
            let read = parts.read_buf;
            return Some(Upgrade { io, read, kind, address, port, proxied, origin, agent, place, offered });
        }
        (Some(Err(error)), _) if error.is_timeout() && answered.get() == 0 => {
            worker.stats.answered(408);
            worker.stats.failed(Failure::RequestTimeout);
            worker.note_refused(door.origin(peer.ip()), 408, Failure::RequestTimeout.as_str());
            let late = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
            // The answer is a courtesy; the connection ends either way.
            let _ = timeout(CLOSE_WAIT, io.write_all(late)).await;
        }
        (Some(Err(error)), _) => {
            if error.is_parse() {
                // hyper has answered it by itself.
                let status = if error.is_parse_too_large() { 431 } else { 400 };
                worker.stats.answered(status);
                worker.stats.failed(Failure::BadRequest);
                worker.note_refused(door.origin(peer.ip()), status, Failure::BadRequest.as_str());
            }
            tracing::debug!(address = %peer.ip(), "no HTTP with {peer}: {error}");
        }
        (Some(Ok(())), None) => {}
        (None, _) => {
            worker.stats.failed(Failure::Stalled);
            // It would not read an end in good order, either.
            tracing::debug!(address = %peer.ip(), "{peer} reads no answers");
            return None;
        }
    }
    close(io).await;
    None
}

/// Answers plain HTTP that came to a TLS port by the way to where it should have gone.
pub async fn redirect_to_tls(worker: &Worker, io: Io) {
    let service = service_fn(|request: Request<Body>| {
        let host = request.headers().get(header::HOST).and_then(|h| h.to_str().ok()).filter(|h| is_authority(h));
        let path = request.uri().path_and_query().map_or("/", |p| p.as_str());
        let target = host.and_then(|host| HeaderValue::from_str(&format!("https://{host}{path}")).ok());
        let mut answer = match target {
            Some(target) => {
                let mut answer =
                    text(StatusCode::PERMANENT_REDIRECT, "This port speaks TLS: use https:// or wss://.\n");
                answer.headers_mut().insert(header::LOCATION, target);
                answer
            }
            None => text(StatusCode::BAD_REQUEST, "This port speaks TLS: use https:// or wss://.\n"),
        };
        answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        worker.stats.answered(answer.status().as_u16());
        worker.stats.failed(Failure::PlainHttp);
        ready(Ok::<_, Infallible>(answer))
    });
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(worker.config().timeouts.request)
        .max_headers(HEAD_LINES)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(io), service);
    if poll_fn(|cx| connection.poll_without_shutdown(cx)).await.is_ok() {
        close(connection.into_parts().io.into_inner()).await;
    }
}

/// TLS and TCP in order; then what still comes is read, so that no reset eats the last answer.
pub(super) async fn close(mut io: Io) {
    let orderly = async {
        io.shutdown().await?;
        let mut scratch = [0; 1024];
        let mut left = LINGER_BYTES;
        loop {
            let taken = io.read(&mut scratch).await?;
            left = left.saturating_sub(taken);
            if taken == 0 || left == 0 {
                return std::io::Result::Ok(());
            }
        }
    };
    // Both a deadline and an error mean that the other side has gone already.
    let _ = timeout(CLOSE_WAIT, orderly).await;
}

/// What an answer depends on, besides the request.
struct Room<'a> {
    worker: &'a Worker,
    config: &'a Config,
    door: &'a Door,
    peer: SocketAddr,
    refusal: Option<Refusal>,
}

impl Room<'_> {
    fn answer(&self, request: &Request<Body>, granted: &RefCell<Option<Granted>>) -> Answer {
        if let Some(refusal) = self.refusal {
            return self.refused(request, refuse(refusal));
        }
        let path = request.uri().path();
        let paths = &self.config.paths;
        let is = |setting: &Option<String>| setting.as_deref() == Some(path);
        let socket = if is(&paths.json) {
            Some(Kind::Json)
        } else if is(&paths.text) {
            Some(Kind::Text)
        } else if is(&paths.echo) {
            Some(Kind::Echo)
        } else {
            None
        };
        if let Some(kind) = socket {
            return match self.upgrade(request, kind) {
                Ok((answer, grant)) => {
                    granted.replace(Some(grant));
                    answer
                }
                Err(refused) => self.refused(request, *refused),
            };
        }
        if request.method() != Method::GET && request.method() != Method::HEAD {
            let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, "Only GET and HEAD are answered here.\n");
            answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
            return close_after(answer);
        }
        if is(&paths.health) {
            return match self.worker.shared.state.phase() {
                Phase::Serving => uncached(text(StatusCode::OK, "ok\n")),
                phase => uncached(text(StatusCode::SERVICE_UNAVAILABLE, &format!("{}\n", phase.as_str()))),
            };
        }
        if let Some(asset) = self.page_file(path) {
            return self.send(request, &asset);
        }
        text(StatusCode::NOT_FOUND, "There is nothing at this address.\n")
    }

    /// The answer, noted in the access log.
    fn refused(&self, request: &Request<Body>, refused: Refused) -> Answer {
        let peer = self.peer.ip();
        let forwarded = || headers::forwarded(request.headers(), &self.door.trusted_proxies);
        let from = match self.door.trusts(peer).then(forwarded).flatten() {
            Some(address) => Origin::Client(address),
            None => self.door.origin(peer),
        };
        self.worker.stats.failed(refused.why);
        self.worker.note_refused(from, refused.answer.status().as_u16(), refused.why.as_str());
        refused.answer
    }

    /// The page, or one of its assets beside it in `assets/`.
    fn page_file(&self, path: &str) -> Option<Asset> {
        let page = self.config.paths.page.as_deref()?;
        let files = self.worker.shared.page.load();
        if path == page {
            return Some(files.index.clone());
        }
        let folder = &page[..=page.rfind('/')?];
        let name = path.strip_prefix(folder)?.strip_prefix("assets/")?;
        files.asset(name).cloned()
    }

    fn send(&self, request: &Request<Body>, asset: &Asset) -> Answer {
        let known = request.headers().get(header::IF_NONE_MATCH).and_then(|v| v.to_str().ok());
        let mut answer = if known.is_some_and(|tags| tags.split(',').any(|t| t.trim() == asset.etag)) {
            let mut answer = Response::new(Full::default());
            *answer.status_mut() = StatusCode::NOT_MODIFIED;
            answer
        } else {
            Response::new(Full::new(asset.body.clone()))
        };
        let headers = answer.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(asset.content_type));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
        if let Ok(etag) = HeaderValue::from_str(&asset.etag) {
            headers.insert(header::ETAG, etag);
        }
        let host = request.headers().get(header::HOST).and_then(|h| h.to_str().ok()).filter(|h| is_authority(h));
        if let Ok(policy) = HeaderValue::from_str(&content_security_policy(host)) {
            headers.insert(header::CONTENT_SECURITY_POLICY, policy);
        }
        answer
    }

    fn upgrade(&self, request: &Request<Body>, kind: Kind) -> Result<(Answer, Granted), Box<Refused>> {
        let all = request.headers();
        if request.method() != Method::GET {
            let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, "A WebSocket is opened by GET.\n");
            answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET"));
            return Err(Refused::boxed(Failure::BadRequest, close_after(answer)));
        }
        let key = headers::websocket_key(request.version(), all).map_err(|e| Box::new(bad_handshake(e)))?;
        if !headers::origin_allowed(all, &self.config.chat.allowed_origins) {
            let why = "Pages of this origin may not connect; the operator can list it in chat.allowed_origins.\n";
            return Err(Refused::boxed(Failure::Origin, text(StatusCode::FORBIDDEN, why)));
        }
        self.while_serving()?;
        let forwarded =
            if self.door.trusts(self.peer.ip()) { headers::forwarded(all, &self.door.trusted_proxies) } else { None };
        if forwarded.is_none() && self.door.trusts(self.peer.ip()) && headers::is_forwarded(all) {
            // Never taken for the proxy itself, which no limit holds.
            let why = "The forwarded address (X-Forwarded-For, X-Real-IP) cannot be read; mend the proxy.\n";
            return Err(Refused::boxed(Failure::Forwarded, text(StatusCode::BAD_REQUEST, why)));
        }
        let limited = match forwarded {
            Some(address) => Some(address),
            None => Some(self.peer.ip()).filter(|ip| !ip.is_loopback()),
        };
        let gate = &self.worker.shared.gate;
        let place = gate.client(limited, forwarded.is_some()).map_err(|r| Box::new(refuse(r)))?;
        // Again, now that it is counted, so that a drain which finds nobody counted knows that nobody comes.
        self.while_serving()?;

        let mut answer = Response::new(Full::default());
        *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = answer.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        if let Ok(accept) = HeaderValue::from_str(&derive_accept_key(key.as_bytes())) {
            headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
        }
        if kind == Kind::Json && headers::has_token(all, header::SEC_WEBSOCKET_PROTOCOL, SUBPROTOCOL) {
            headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL));
        }
        let granted = Granted {
            kind,
            address: forwarded.unwrap_or(self.peer.ip()),
            proxied: forwarded.is_none() && self.door.trusts(self.peer.ip()),
            port: if forwarded.is_some() { 0 } else { self.peer.port() },
            origin: headers::short(all, header::ORIGIN),
            agent: headers::short(all, header::USER_AGENT),
            place,
            offered: self.offered(request, kind),
        };
        Ok((answer, granted))
    }
}

impl Room<'_> {
    fn while_serving(&self) -> Result<(), Box<Refused>> {
        let (why, words) = match self.worker.shared.state.phase() {
            Phase::Serving => return Ok(()),
            Phase::Draining => (Failure::Draining, "Nobody is let in for now; try again later.\n"),
            Phase::Starting | Phase::Stopping | Phase::Stopped => {
                (Failure::Stopping, "The server is going down; try again in a moment.\n")
            }
        };
        Err(Refused::boxed(why, unavailable(words, RETRY)))
    }

    /// What comes of the request's token. A browser cannot see an HTTP status here, so a refusal goes
    /// with the connection, which is closed by it. Who speaks JSON may bring a token with its hello.
    fn offered(&self, request: &Request<Body>, kind: Kind) -> Offered {
        let token = headers::token(request.headers(), request.uri().query());
        if token.is_none() && kind == Kind::Json {
            return None;
        }
        let admitted = self.worker.shared.tokens.load().admit(token.as_deref(), SystemTime::now());
        admitted.map_err(TokenError::close).transpose().map(Box::new)
    }
}

/// An answer to one who wanted a WebSocket and gets none.
struct Refused {
    /// For the numbers and the access log; it is not sent.
    why: Failure,
    answer: Answer,
}

impl Refused {
    fn boxed(why: Failure, answer: Answer) -> Box<Self> {
        Box::new(Refused { why, answer })
    }
}

fn text(status: StatusCode, body: &str) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::copy_from_slice(body.as_bytes())));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    answer
}

fn uncached(mut answer: Answer) -> Answer {
    answer.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

/// For requests that may have a body: it is not read.
fn close_after(mut answer: Answer) -> Answer {
    answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    answer
}

fn bad_handshake(error: HandshakeError) -> Refused {
    let answer = match error {
        HandshakeError::NoUpgrade => upgrade_required("Here is a WebSocket (RFC 6455): ask for an upgrade.\n"),
        HandshakeError::Version => upgrade_required("Only WebSocket version 13 (RFC 6455) is spoken.\n"),
        HandshakeError::Bad(why) => text(StatusCode::BAD_REQUEST, &format!("Bad WebSocket handshake: {why}.\n")),
    };
    Refused { why: Failure::BadRequest, answer }
}

/// With it goes what to upgrade to (RFC 9110, section 15.5.22; RFC 6455, section 4.4).
fn upgrade_required(why: &str) -> Answer {
    let mut answer = text(StatusCode::UPGRADE_REQUIRED, why);
    answer.headers_mut().insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    answer.headers_mut().insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    answer
}

fn refuse(refusal: Refusal) -> Refused {
    let (why, answer) = match refusal {
        Refusal::TooFast { retry } => {
            (Failure::Rate, too_many("This address connects too often; wait a little.\n", retry))
        }
        Refusal::TooManyOfAddress => {
            (Failure::Address, too_many("This address has too many connections open.\n", RETRY))
        }
        Refusal::TooMany => {
            let why = "The server has as many connections as it can hold; try again.\n";
            (Failure::Full, unavailable(why, RETRY))
        }
    };
    Refused { why, answer }
}

fn too_many(why: &str, retry: Duration) -> Answer {
    retry_after(text(StatusCode::TOO_MANY_REQUESTS, why), retry)
}

fn unavailable(why: &str, retry: Duration) -> Answer {
    retry_after(text(StatusCode::SERVICE_UNAVAILABLE, why), retry)
}

fn retry_after(mut answer: Answer, retry: Duration) -> Answer {
    // Whole seconds (RFC 9110, section 10.2.3), never "now".
    let seconds = retry.as_secs() + u64::from(retry.subsec_nanos() > 0);
    answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds.max(1)));
    close_after(answer)
}

/// A `Host` that may stand in a header of ours.
fn is_authority(host: &str) -> bool {
    !host.is_empty() && host.len() < 256 && host.bytes().all(|b| b.is_ascii_alphanumeric() || b".-:[]_".contains(&b))
}

fn content_security_policy(host: Option<&str>) -> String {
    // Some browsers do not take 'self' to mean the socket of the page's own host.
    let sockets = host.map(|h| format!(" wss://{h} ws://{h}")).unwrap_or_default();
    format!(
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'{sockets}; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
    )
}
