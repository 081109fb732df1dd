//! Clients of the daemon's own ports: bytes, HTTP, and a chat in the JSON or the text dialect.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, HandshakeKind, ProtocolVersion, SignatureScheme,
    StreamOwned, SupportedProtocolVersion,
};
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocket};
use tokio_tungstenite::tungstenite::{Error, Message};

use super::certificate::fingerprint;
use super::{PATIENCE, Wait};

/// A connection to one of the daemon's listeners. Nothing on it is waited for longer than [`PATIENCE`].
pub enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Stream {
    #[track_caller]
    pub fn tcp(to: SocketAddr) -> Self {
        Stream::Tcp(patient(TcpStream::connect(to).unwrap_or_else(|e| panic!("{to}: {e}"))))
    }

    /// From another of this machine's own addresses.
    #[track_caller]
    pub fn tcp_from(from: IpAddr, to: SocketAddr) -> Self {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).expect("a socket");
        socket.bind(&SocketAddr::new(from, 0).into()).expect("all of 127.0.0.0/8 is this machine");
        socket.connect(&to.into()).expect("the daemon listens");
        Stream::Tcp(patient(socket.into()))
    }

    #[track_caller]
    pub fn unix(path: &Path) -> Self {
        let stream = UnixStream::connect(path).expect("the daemon listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout above 0");
        stream.set_write_timeout(Some(PATIENCE)).expect("a timeout above 0");
        Stream::Unix(stream)
    }

    #[track_caller]
    pub fn tls(to: SocketAddr) -> Self {
        Stream::tls_as(to, &trusting(rustls::ALL_VERSIONS)).expect("TLS")
    }

    /// With TLS, from another of this machine's own addresses.
    #[track_caller]
    pub fn tls_from(from: IpAddr, to: SocketAddr) -> Self {
        let Stream::Tcp(socket) = Stream::tcp_from(from, to) else { unreachable!("it is TCP") };
        Stream::tls_over(socket, &trusting(rustls::ALL_VERSIONS)).expect("TLS")
    }

    /// The handshake is over when this returns.
    pub fn tls_as(to: SocketAddr, config: &Arc<ClientConfig>) -> io::Result<Self> {
        Stream::tls_over(patient(TcpStream::connect(to)?), config)
    }

    fn tls_over(mut socket: TcpStream, config: &Arc<ClientConfig>) -> io::Result<Self> {
        let name = ServerName::try_from("localhost").expect("a name");
        let mut connection = ClientConnection::new(config.clone(), name).map_err(io::Error::other)?;
        while connection.is_handshaking() {
            connection.complete_io(&mut socket)?;
        }
        Ok(Stream::Tls(Box::new(StreamOwned::new(connection, socket))))
    }

    fn connection(&self) -> &ClientConnection {
        match self {
            Stream::Tls(stream) => &stream.conn,
            _ => panic!("no TLS is spoken here"),
        }
    }

    /// Of the certificate that the daemon has shown.
    pub fn fingerprint(&self) -> String {
        fingerprint(&self.connection().peer_certificates().expect("the handshake is over")[0])
    }

    pub fn alpn(&self) -> Option<&[u8]> {
        self.connection().alpn_protocol()
    }

    pub fn version(&self) -> Option<ProtocolVersion> {
        self.connection().protocol_version()
    }

    pub fn resumed(&self) -> bool {
        self.connection().handshake_kind() == Some(HandshakeKind::Resumed)
    }

    /// Everything that still comes, until the daemon closes. A reset is a failure.
    #[track_caller]
    pub fn rest(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.read_to_end(&mut bytes).unwrap_or_else(|e| panic!("{e} after {:?}", String::from_utf8_lossy(&bytes)));
        bytes
    }
}

fn patient(stream: TcpStream) -> TcpStream {
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout above 0");
    stream.set_write_timeout(Some(PATIENCE)).expect("a timeout above 0");
    stream.set_nodelay(true).expect("TCP");
    stream
}

impl Read for Stream {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.read(into),
            Stream::Unix(stream) => stream.read(into),
            Stream::Tls(stream) => stream.read(into),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.write(bytes),
            Stream::Unix(stream) => stream.write(bytes),
            Stream::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Stream::Tcp(stream) => stream.flush(),
            Stream::Unix(stream) => stream.flush(),
            Stream::Tls(stream) => stream.flush(),
        }
    }
}

/// A TLS client of these versions that takes any certificate, as a person who clicks the browser's
/// warning away. It remembers sessions.
pub fn trusting(versions: &[&'static SupportedProtocolVersion]) -> Arc<ClientConfig> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(versions)
        .expect("versions that are there")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Trusting(provider)))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Arc::new(config)
}

#[derive(Debug)]
struct Trusting(Arc<CryptoProvider>);

impl ServerCertVerifier for Trusting {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// An answer of HTTP.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    /// By its lower-case name; where there are several, the first.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.body.clone()).expect("a text")
    }
}

/// HTTP/1.1 written by hand, so that it can be wrong in every way.
pub struct Http {
    pub stream: Stream,
    /// Read, and not yet part of an answer.
    ahead: Vec<u8>,
}

impl Http {
    pub fn new(stream: Stream) -> Self {
        Http { stream, ahead: Vec::new() }
    }

    #[track_caller]
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).and_then(|()| self.stream.flush()).expect("the daemon reads");
    }

    /// `METHOD PATH` with these lines of headers besides `Host`.
    #[track_caller]
    pub fn ask(&mut self, what: &str, headers: &[&str]) -> Answer {
        let mut head = format!("{what} HTTP/1.1\r\nHost: chat.example\r\n");
        for header in headers {
            head += &format!("{header}\r\n");
        }
        self.send(head + "\r\n");
        self.answer(what.starts_with("HEAD "))
    }

    #[track_caller]
    pub fn get(&mut self, path: &str) -> Answer {
        self.ask(&format!("GET {path}"), &[])
    }

    /// The next answer; `bare`: one that has no body whatever its headers say.
    #[track_caller]
    pub fn answer(&mut self, bare: bool) -> Answer {
        let end = loop {
            if let Some(at) = self.ahead.windows(4).position(|four| four == b"\r\n\r\n") {
                break at;
            }
            self.more();
        };
        let head = String::from_utf8(self.ahead[..end].to_vec()).expect("a head is ASCII");
        self.ahead.drain(..end + 4);
        let (first, lines) = head.split_once("\r\n").unwrap_or((&head, ""));
        let status = first.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or_else(|| panic!("{first}"));
        let headers: Vec<(String, String)> = lines
            .lines()
            .map(|line| line.split_once(':').unwrap_or_else(|| panic!("{line}")))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        let mut answer = Answer { status, headers, body: Vec::new() };
        let length = answer.header("content-length").map_or(0, |length| length.parse().expect("a number"));
        if !bare && status != 101 && status != 304 {
            while self.ahead.len() < length {
                self.more();
            }
            answer.body = self.ahead.drain(..length).collect();
        }
        answer
    }

    #[track_caller]
    fn more(&mut self) {
        let mut chunk = [0; 4096];
        let taken = self.stream.read(&mut chunk).unwrap_or_else(|e| panic!("no answer: {e}, {:?}", self.ahead));
        assert!(taken > 0, "the daemon closed before it had answered: {:?}", String::from_utf8_lossy(&self.ahead));
        self.ahead.extend_from_slice(&chunk[..taken]);
    }

    /// Nothing more comes: the daemon closes, in order.
    #[track_caller]
    pub fn ends(mut self) {
        self.ahead.extend(self.stream.rest());
        assert_eq!(String::from_utf8_lossy(&self.ahead), "");
    }
}

/// What makes a request one for a WebSocket.
pub const UPGRADE: [&str; 4] = [
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
];

/// A WebSocket, in either dialect.
pub struct Chat {
    ws: WebSocket<Stream>,
    seq: u64,
    pub id: u64,
    pub user: String,
    pub nick: String,
}

/// Why a WebSocket is over.
#[derive(Debug, PartialEq)]
pub struct Closed {
    pub code: u16,
    pub reason: String,
}

impl Chat {
    /// Opens the WebSocket at `path`; `headers` besides those that it needs, one a line.
    #[track_caller]
    pub fn open(stream: Stream, path: &str, headers: &str) -> Self {
        let mut http = Http::new(stream);
        let lines: Vec<&str> = UPGRADE.into_iter().chain(headers.lines()).collect();
        let answer = http.ask(&format!("GET {path}"), &lines);
        assert_eq!(answer.status, 101, "{answer:?}");
        Chat::over(http)
    }

    /// On a connection whose handshake is over.
    pub fn over(http: Http) -> Self {
        let ws = WebSocket::from_partially_read(http.stream, http.ahead, Role::Client, None);
        Chat { ws, seq: 0, id: 0, user: String::new(), nick: String::new() }
    }

    /// Says hello in the JSON dialect and is in the default rooms.
    #[track_caller]
    pub fn enter(stream: Stream, nick: &str) -> Self {
        let mut chat = Chat::open(stream, "/chat", "");
        chat.hello(json!({"v": 1, "nick": nick}));
        chat.frame("joined");
        chat
    }

    #[track_caller]
    pub fn hello(&mut self, hello: Value) -> Value {
        self.send("hello", hello);
        let welcome = self.frame("welcome")["payload"].take();
        self.id = welcome["client"].as_str().and_then(|id| id.parse().ok()).or(welcome["client"].as_u64()).unwrap_or(0);
        self.user = welcome["user"].as_str().expect("a user").to_owned();
        self.nick = welcome["nick"].as_str().expect("a nick").to_owned();
        welcome
    }

    #[track_caller]
    pub fn send(&mut self, kind: &str, payload: Value) -> u64 {
        self.seq += 1;
        self.send_text(&json!({"type": kind, "payload": payload, "seq": self.seq}).to_string());
        self.seq
    }

    #[track_caller]
    pub fn send_text(&mut self, text: &str) {
        self.ws.send(Message::text(text)).expect("the daemon reads");
    }

    /// Says it in the lobby, and waits until it is kept.
    #[track_caller]
    pub fn say(&mut self, text: &str) -> Value {
        let seq = self.send("message", json!({"room": "lobby", "text": text}));
        let wait = Wait::begin();
        loop {
            wait.goes_on("the ack");
            let mut ack = self.frame("ack");
            if ack["payload"]["re"] == seq {
                return ack["payload"].take();
            }
        }
    }

    #[track_caller]
    pub fn text(&mut self) -> String {
        let wait = Wait::begin();
        loop {
            wait.goes_on("a text");
            match self.ws.read() {
                Ok(Message::Text(text)) => return text.to_string(),
                Ok(Message::Ping(_) | Message::Pong(_)) => {}
                other => panic!("no text: {other:?}"),
            }
        }
    }

    /// The next frame of this type; others are passed over.
    #[track_caller]
    pub fn frame(&mut self, kind: &str) -> Value {
        let wait = Wait::begin();
        loop {
            wait.goes_on(kind);
            let text = self.text();
            let frame: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
            if frame["type"] == kind {
                return frame;
            }
            assert_ne!(frame["type"], "error", "{text}");
        }
    }

    /// The next frame of one of these types, of which `error` may be one.
    #[track_caller]
    pub fn any(&mut self, kinds: &[&str]) -> Value {
        let wait = Wait::begin();
        loop {
            wait.goes_on(kinds.join(" or "));
            let frame: Value = serde_json::from_str(&self.text()).expect("JSON");
            if kinds.iter().any(|kind| frame["type"] == *kind) {
                return frame;
            }
        }
    }

    /// Waits until it is told this.
    #[track_caller]
    pub fn hears(&mut self, text: &str) -> Value {
        let wait = Wait::begin();
        loop {
            wait.goes_on(text);
            let frame = self.frame("message");
            if frame["payload"]["text"] == text {
                return frame;
            }
        }
    }

    /// Reads until the daemon closes, and lets it close in order.
    #[track_caller]
    pub fn closed(self) -> (Option<Value>, Closed) {
        self.closed_within(Some(Wait::begin()))
    }

    #[track_caller]
    fn closed_within(mut self, wait: Option<Wait>) -> (Option<Value>, Closed) {
        let mut bye = None;
        let mut closed = None;
        loop {
            if let Some(wait) = &wait {
                wait.goes_on("the close");
            }
            match self.ws.read() {
                Ok(Message::Close(Some(frame))) => {
                    closed = Some(Closed { code: frame.code.into(), reason: frame.reason.to_string() });
                }
                Ok(Message::Text(text)) => {
                    bye = serde_json::from_str(&text).ok().filter(|frame: &Value| frame["type"] == "bye").or(bye);
                }
                Ok(_) => {}
                Err(Error::ConnectionClosed) => return (bye, closed.expect("a code")),
                Err(error) => panic!("not closed in order: {error}, {closed:?}"),
            }
        }
    }

    /// As [`Chat::closed`], of one that is not let in: the close is the first that comes. A ping would
    /// mean that it is waited for in vain.
    #[track_caller]
    pub fn turned_away(mut self) -> Closed {
        match self.ws.read() {
            Ok(Message::Close(Some(frame))) => {
                let closed = Closed { code: frame.code.into(), reason: frame.reason.to_string() };
                assert!(matches!(self.ws.read(), Err(Error::ConnectionClosed)), "not closed in order: {closed:?}");
                closed
            }
            other => panic!("it is let in: {other:?}"),
        }
    }

    /// What a client reads in the end that did not read while it was closed. Its own close frame
    /// finds nobody; what was sent to it must be whole, though.
    #[track_caller]
    pub fn last_words(mut self) -> Closed {
        let wait = Wait::begin();
        loop {
            wait.goes_on("the close");
            match self.ws.read() {
                Ok(Message::Close(Some(frame))) => {
                    return Closed { code: frame.code.into(), reason: frame.reason.to_string() };
                }
                Ok(_) => {}
                Err(error) => panic!("closed without a word: {error}"),
            }
        }
    }

    /// As [`Chat::closed`], from now on and beside the test, for as long as that takes: somebody who
    /// reads.
    pub fn closing(self) -> JoinHandle<(Option<Value>, Closed)> {
        std::thread::spawn(|| self.closed_within(None))
    }

    /// Begins to close with a code of its own.
    pub fn send_close(&mut self, code: u16) {
        self.ws.close(Some(CloseFrame { code: code.into(), reason: "".into() })).expect("it is open");
    }

    /// Asks to go, and waits until both sides have closed.
    #[track_caller]
    pub fn leave(self) {
        self.go(None);
    }

    /// As [`Chat::leave`], by a close frame that says this.
    #[track_caller]
    pub fn leave_with(self, code: u16, reason: &str) {
        self.go(Some(CloseFrame { code: code.into(), reason: reason.into() }));
    }

    #[track_caller]
    fn go(mut self, frame: Option<CloseFrame>) {
        self.ws.close(frame).expect("it is open");
        let wait = Wait::begin();
        loop {
            wait.goes_on("the end");
            match self.ws.read() {
                Ok(_) => {}
                Err(Error::ConnectionClosed) => return,
                Err(error) => panic!("not closed in order: {error}"),
            }
        }
    }
}
