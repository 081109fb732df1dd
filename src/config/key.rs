//! Every key of the configuration file, each defined once: its name, what may stand there, where
//! its value lives, what it means, and whether a reload takes it.
//!
//! The parser, what `--print-config` prints, the reload's comparison, the sample file and the
//! manual page all come from [`TABLES`] and [`LISTEN`]; a key's default is [`Config::default`]'s.

use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::Duration;

use super::acme::{Contacts, Directory, HostNames};
use super::form::{Choice, Count, Flag, Form, Item, Label, Rooms, Size, Speed, Time, Wrong};
use super::place::{File, ListenAddress, Networks, OriginList, Socket, TcpPlace, UrlPath};
use super::{AuthMode, Config, Level, Listen, Locale, Store, TlsFiles};

/// What a configuration is while it is read: states that [`Config`] cannot hold included.
#[derive(Clone)]
pub(super) struct Draft {
    pub(super) config: Config,
    pub(super) certificate: Option<PathBuf>,
    pub(super) key: Option<PathBuf>,
}

impl From<Config> for Draft {
    fn from(config: Config) -> Self {
        let files = config.tls.files.clone();
        let (certificate, key) = files.map(|TlsFiles { certificate, key }| (certificate, key)).unzip();
        Draft { config, certificate, key }
    }
}

/// When a changed value takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Takes {
    Reload,
    Restart,
}

/// One `[table]`.
pub(super) struct Table {
    pub(super) name: &'static str,
    pub(super) doc: &'static str,
    pub(super) keys: Vec<Key<Draft>>,
}

/// One key of a `T`.
pub(super) struct Key<T> {
    pub(super) name: &'static str,
    pub(super) takes: Takes,
    pub(super) doc: &'static str,
    slot: Box<dyn Slot<T>>,
}

impl<T> Key<T> {
    /// Puts the value into `into`, or tells what is wrong with it; then `into` stays as it was.
    pub(super) fn read(&self, item: &Item<'_>, into: &mut T, wrong: &mut Vec<Wrong>) {
        self.slot.read(item, into, wrong);
    }

    /// The value as TOML.
    pub(super) fn write(&self, from: &T) -> String {
        self.slot.write(from)
    }

    pub(super) fn expected(&self) -> String {
        self.slot.expected()
    }
}

/// A [`Lens`] whose form is forgotten.
trait Slot<T>: Send + Sync {
    fn read(&self, item: &Item<'_>, into: &mut T, wrong: &mut Vec<Wrong>);
    fn write(&self, from: &T) -> String;
    fn expected(&self) -> String;
}

/// A form, and where in a `T` its value lives.
struct Lens<T, F: Form> {
    form: F,
    get: fn(&T) -> F::Value,
    set: fn(&mut T, F::Value),
}

impl<T, F: Form> Slot<T> for Lens<T, F> {
    fn read(&self, item: &Item<'_>, into: &mut T, wrong: &mut Vec<Wrong>) {
        if let Some(value) = self.form.read(item, wrong) {
            (self.set)(into, value);
        }
    }

    fn write(&self, from: &T) -> String {
        self.form.write(&(self.get)(from))
    }

    fn expected(&self) -> String {
        self.form.expected()
    }
}

/// `key!(TYPE, "name" = field.of.it, Takes, form, "doc")`: a key whose value is that field of a TYPE.
macro_rules! key {
    ($of:ty, $name:literal = $($field:ident).+, $takes:ident, $form:expr, $doc:literal) => {
        Key::<$of> {
            name: $name,
            takes: Takes::$takes,
            doc: $doc,
            slot: Box::new(Lens {
                form: $form,
                get: |from: &$of| Clone::clone(&from.$($field).+),
                set: |into: &mut $of, value| into.$($field).+ = value,
            }),
        }
    };
}

const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;
const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

pub(super) const LISTEN_DOC: &str = "One [[listen]] for each address that is listened on, as many as are needed. \
    Without any the daemon listens on 127.0.0.1:9501 and [::1]:9501, with TLS.";

/// What a `[[listen]]` starts from; `address` must be given, so its default is only an example.
pub(super) fn new_listen() -> Listen {
    Listen {
        address: super::Address::Tcp((std::net::Ipv6Addr::UNSPECIFIED, 9501).into()),
        tls: true,
        trusted_proxies: Vec::new(),
        optional: false,
    }
}

/// The keys of a `[[listen]]`.
pub(super) static LISTEN: LazyLock<Vec<Key<Listen>>> = LazyLock::new(|| {
    vec![
        key!(
            Listen,
            "address" = address,
            Reload,
            ListenAddress,
            "Where: an address and a port, or the path of a Unix socket for a proxy on this machine. Must be given. \
             \"[::]\" means every address, of IPv4 too. A reload begins to listen at new addresses before it ends at \
             those that are gone; connections that stand stay."
        ),
        key!(
            Listen,
            "tls" = tls,
            Reload,
            Flag,
            "Whether TLS is spoken here, with connections that come from now on. A Unix socket is always plain, and \
             there the default is false."
        ),
        key!(
            Listen,
            "trusted_proxies" = trusted_proxies,
            Reload,
            Networks,
            "The proxies whose X-Forwarded-For and X-Real-IP headers are believed. On a Unix socket they always are, \
             and this must stay empty."
        ),
    ]
});

/// All other tables, in the order in which they are shown.
pub(super) static TABLES: LazyLock<Vec<Table>> = LazyLock::new(|| {
    vec![
        Table { name: "tls", doc: "The certificate.", keys: tls() },
        Table { name: "paths", doc: "Which path answers what; \"\" turns it off. No two are alike.", keys: paths() },
        Table { name: "chat", doc: "The chat itself.", keys: chat() },
        Table {
            name: "auth",
            doc: "Who may come in: tokens (JWT, RFC 7519) that the site makes for its users.",
            keys: auth(),
        },
        Table { name: "history", doc: "What rooms remember.", keys: history() },
        Table { name: "limits", doc: "What one client, one address and all together may use.", keys: limits() },
        Table { name: "timeouts", doc: "How long is waited, and for what.", keys: timeouts() },
        Table { name: "shutdown", doc: "How the daemon stops (SIGTERM).", keys: shutdown() },
        Table { name: "control", doc: "The operators' and the backends' Unix sockets.", keys: control() },
        Table { name: "metrics", doc: "Numbers for Prometheus.", keys: metrics() },
        Table { name: "log", doc: "What is written to the journal, or to the terminal.", keys: log() },
    ]
});

fn tls() -> Vec<Key<Draft>> {
    vec![
        key!(
            Draft,
            "certificate" = certificate,
            Reload,
            File,
            "The certificate and what is between it and its root, in PEM; only together with key. Without both, a \
             self-signed certificate is made once and kept in the state folder. A reload reads both files again, \
             whether or not their names changed."
        ),
        key!(
            Draft,
            "key" = key,
            Reload,
            File,
            "The certificate's private key, in PEM. The user wschat must be able to read it."
        ),
        key!(
            Draft,
            "acme" = config.tls.acme.names,
            Reload,
            HostNames,
            "DNS names for which the daemon gets a certificate from a CA by itself, and renews it (ACME, RFC 8555, by \
             TLS-ALPN-01, RFC 8737); not together with certificate and key. To name one here is to agree to the CA's \
             terms. The CA connects to port 443 of each name, which must lead to one of the listeners with TLS. Until \
             the first certificate is there, a self-signed one serves."
        ),
        key!(
            Draft,
            "acme_contact" = config.tls.acme.contact,
            Reload,
            Contacts,
            "Whom the CA may write to about the account."
        ),
        key!(
            Draft,
            "acme_directory" = config.tls.acme.directory,
            Reload,
            Directory,
            "The CA: the address of its ACME directory. The default is Let's Encrypt; to try things out use its staging \
             directory, https://acme-staging-v02.api.letsencrypt.org/directory, whose certificates no browser trusts."
        ),
        key!(
            Draft,
            "acme_ca_file" = config.tls.acme.ca_file,
            Reload,
            File,
            "The root certificates, in PEM, that the directory's own certificate is checked against: for a private CA. \
             Where it is \"\", they are the system's (Debian: the package ca-certificates)."
        ),
    ]
}

fn paths() -> Vec<Key<Draft>> {
    vec![
        key!(Draft, "page" = config.paths.page, Reload, UrlPath, "The chat page."),
        key!(Draft, "json" = config.paths.json, Reload, UrlPath, "The WebSocket of the JSON dialect."),
        key!(
            Draft,
            "text" = config.paths.text,
            Reload,
            UrlPath,
            "The WebSocket of the text dialect, where a message is its text and nothing else."
        ),
        key!(
            Draft,
            "echo" = config.paths.echo,
            Reload,
            UrlPath,
            "A WebSocket that sends every message back unchanged, for checking a path through proxies."
        ),
        key!(
            Draft,
            "health" = config.paths.health,
            Reload,
            UrlPath,
            "Answers 200 while the daemon serves and 503 while it drains."
        ),
    ]
}

fn chat() -> Vec<Key<Draft>> {
    vec![
        key!(
            Draft,
            "default_rooms" = config.chat.default_rooms,
            Reload,
            Rooms,
            "The rooms of a client that names none. The text dialect speaks in the first."
        ),
        key!(
            Draft,
            "create_rooms" = config.chat.create_rooms,
            Reload,
            Flag,
            "Whether a client may make a room by joining it."
        ),
        key!(
            Draft,
            "presence_limit" = config.chat.presence_limit,
            Reload,
            Count { least: 0, most: 100_000 },
            "Users in a room up to which each join and leave is told; above it only their number is, at most once a \
             second."
        ),
        key!(
            Draft,
            "locale" = config.chat.locale,
            Reload,
            Choice(&[("en", Locale::En), ("zh-CN", Locale::ZhCn)]),
            "The language of the text dialect's own lines."
        ),
        key!(
            Draft,
            "allowed_origins" = config.chat.allowed_origins,
            Reload,
            OriginList,
            "Pages that may connect, besides those that come from the daemon's own origin. [\"*\"] allows any."
        ),
    ]
}

fn auth() -> Vec<Key<Draft>> {
    vec![
        key!(
            Draft,
            "mode" = config.auth.mode,
            Reload,
            Choice(&[("open", AuthMode::Open), ("token", AuthMode::Token)]),
            "\"open\" lets guests in and honours a token where one is given; \"token\" demands one of everybody, and \
             needs a key. Who is connected stays."
        ),
        key!(
            Draft,
            "secret_file" = config.auth.secret_file,
            Reload,
            File,
            "The file whose content is the secret that the site and the daemon share, for tokens signed with HS256: at \
             least 32 bytes, such as \"openssl rand -hex 32\" prints them; line ends after it do not count. The user \
             wschat must be able to read it, and others should not. A reload reads it again, whether or not its name \
             changed."
        ),
        key!(
            Draft,
            "public_key_file" = config.auth.public_key_file,
            Reload,
            File,
            "The public key, in PEM, of a site that signs with a private one: an RSA key of at least 2048 bits takes \
             RS256, an EC key on P-256 takes ES256, an Ed25519 key takes EdDSA, and none takes anything else. A reload \
             reads it again, whether or not its name changed."
        ),
        key!(
            Draft,
            "audience" = config.auth.audience,
            Reload,
            Label,
            "What a token's aud must be or hold. Where it is \"\", aud is not looked at."
        ),
    ]
}

fn history() -> Vec<Key<Draft>> {
    vec![
        key!(
            Draft,
            "store" = config.history.store,
            Restart,
            Choice(&[("sqlite", Store::Sqlite), ("memory", Store::Memory), ("none", Store::None)]),
            "Where messages are kept: \"sqlite\" in a database on disk, and a message is acknowledged once it is there; \
             \"memory\" until the daemon stops; \"none\" not at all. In memory, all rooms together keep at most \
             256 MiB: beyond that, rooms that nobody uses lose their messages, then the largest room its oldest ones. \
             Rooms that nobody uses, other than the default ones, may be forgotten there."
        ),
        key!(
            Draft,
            "path" = config.history.path,
            Restart,
            File,
            "The database of \"sqlite\"; \"\" is wschat.db in the state folder. Its folder must be there, and the user \
             wschat must be able to make files in it."
        ),
        key!(
            Draft,
            "keep" = config.history.keep,
            Reload,
            Count { least: 1, most: 100_000_000 },
            "Messages that a room keeps at the most; fewer where all rooms would pass max_size, or in memory 256 MiB."
        ),
        key!(
            Draft,
            "keep_for" = config.history.keep_for,
            Reload,
            Time { least: secs(1), most: secs(36_500 * DAY) },
            "How long a message is kept at the most, give or take a minute; less where all rooms would pass max_size, \
             or in memory 256 MiB."
        ),
        key!(
            Draft,
            "max_size" = config.history.max_size,
            Reload,
            Size { least: 0, most: 1 << 50 },
            "The size up to which the database of \"sqlite\" may fill; \"0B\" for any. Beyond it the rooms that take \
             the most lose their oldest messages. The file does not shrink: the space in it is used again. Beside it \
             lies a journal of up to 32 MiB."
        ),
        key!(
            Draft,
            "commit_every" = config.history.commit_every,
            Reload,
            Time { least: Duration::ZERO, most: secs(1) },
            "The least time between two commits of \"sqlite\": what is said meanwhile is committed, delivered and \
             acknowledged together. After a silence the first message is committed at once."
        ),
    ]
}

fn limits() -> Vec<Key<Draft>> {
    vec![
        key!(
            Draft,
            "clients" = config.limits.clients,
            Reload,
            Count { least: 0, most: 10_000_000 },
            "Connections in all; 0 for as many as the limit of open files allows. More get 503."
        ),
        key!(
            Draft,
            "clients_per_ip" = config.limits.clients_per_ip,
            Reload,
            Count { least: 1, most: 10_000_000 },
            "WebSockets from one address (IPv6: from one /64). More get 429. Besides them an address may have 16 \
             connections more in all, for pages and requests under way; what it opens beyond is closed unread. \
             Connections from this machine itself do not count, unless a proxy forwards them for another address."
        ),
        key!(
            Draft,
            "handshakes_per_ip" = config.limits.handshakes_per_ip,
            Reload,
            Speed,
            "New connections from one address (IPv6: from one /64). More get 429; where those are many as well, they \
             are closed unread."
        ),
        key!(
            Draft,
            "frame" = config.limits.frame,
            Reload,
            Size { least: 128, most: 16 * MIB },
            "The longest WebSocket message that a client may send, in all its fragments. A longer one closes the \
             connection (1009). Connections that stand keep the limit they were opened with."
        ),
        key!(
            Draft,
            "text" = config.limits.text,
            Reload,
            Size { least: 1, most: 16 * MIB },
            "The longest text of a chat message, in bytes of UTF-8. A longer one is answered by an error. Must fit into \
             frame with the 64 bytes that stand around it."
        ),
        key!(Draft, "rate" = config.limits.rate, Reload, Speed, "Messages that one connection may send on average."),
        key!(
            Draft,
            "burst" = config.limits.burst,
            Reload,
            Count { least: 1, most: 1_000_000 },
            "Messages that one connection may send at once before rate holds it back."
        ),
        key!(
            Draft,
            "outbox" = config.limits.outbox,
            Reload,
            Size { least: 4 * KIB, most: 1024 * MIB },
            "Bytes that wait for one reader before it is closed as too slow (4102). At least frame."
        ),
        key!(
            Draft,
            "rooms_per_client" = config.limits.rooms_per_client,
            Reload,
            Count { least: 1, most: 10_000 },
            "Rooms that one connection may be in. At least as many as chat.default_rooms has."
        ),
    ]
}

fn timeouts() -> Vec<Key<Draft>> {
    let opening = || Time { least: millis(100), most: secs(10 * MINUTE) };
    vec![
        key!(Draft, "tls" = config.timeouts.tls, Reload, opening(), "For the TLS handshake."),
        key!(Draft, "request" = config.timeouts.request, Reload, opening(), "For the head of an HTTP request."),
        key!(
            Draft,
            "hello" = config.timeouts.hello,
            Reload,
            opening(),
            "For the first frame of a client of the JSON dialect; then it is closed (4002)."
        ),
        key!(
            Draft,
            "ping" = config.timeouts.ping,
            Reload,
            Time { least: secs(1), most: secs(HOUR) },
            "Silence of a client after which it is pinged. One that stays silent for two pings is dropped (4201)."
        ),
        key!(
            Draft,
            "presence" = config.timeouts.presence,
            Reload,
            Time { least: Duration::ZERO, most: secs(HOUR) },
            "How long a user whose connection broke still counts as here, so that a reconnect makes no noise."
        ),
    ]
}

fn shutdown() -> Vec<Key<Draft>> {
    vec![
        key!(
            Draft,
            "grace" = config.shutdown.grace,
            Reload,
            Time { least: Duration::ZERO, most: secs(10 * MINUTE) },
            "How long clients have to answer the close frame before they are cut. Must be shorter than the unit's \
             TimeoutStopSec."
        ),
        key!(
            Draft,
            "spread" = config.shutdown.spread,
            Reload,
            Time { least: Duration::ZERO, most: secs(HOUR) },
            "Over how long the clients' reconnecting is spread: each is told so, and draws its own moment in it."
        ),
    ]
}

fn control() -> Vec<Key<Draft>> {
    vec![
        key!(
            Draft,
            "socket" = config.control.socket,
            Restart,
            Socket,
            "The operators' socket, which wschatctl opens. \"\" is /run/wschat/control under systemd, otherwise control \
             in the user's runtime folder. Elsewhere it must lie in a folder that the daemon's user may write to."
        ),
        key!(
            Draft,
            "push_socket" = config.control.push_socket,
            Restart,
            Socket,
            "The socket through which a site's backend pushes, and can do nothing else. \"\" is push, beside the \
             operators' socket."
        ),
    ]
}

fn metrics() -> Vec<Key<Draft>> {
    vec![key!(
        Draft,
        "listen" = config.metrics.listen,
        Reload,
        TcpPlace,
        "An address and a port at which /metrics answers in OpenMetrics text, over plain HTTP and without asking who \
         reads: keep it on 127.0.0.1 or in a network of your own. \"\" turns it off."
    )]
}

fn log() -> Vec<Key<Draft>> {
    vec![
        key!(
            Draft,
            "level" = config.log.level,
            Reload,
            Choice(&[
                ("error", Level::Error),
                ("warn", Level::Warn),
                ("info", Level::Info),
                ("debug", Level::Debug),
                ("trace", Level::Trace),
            ]),
            "How much: \"error\" what an operator must act on, \"warn\" what works only in part, \"info\" the daemon's \
             life and what operators change, \"debug\" each connection, \"trace\" each frame. \"wschatctl log-level\" \
             sets another one, which holds until this value changes or the daemon starts again."
        ),
        key!(
            Draft,
            "access" = config.log.access,
            Reload,
            Flag,
            "Whether each connection has a line at level info when it ends, or when it is refused; of those who are \
             refused at most 100 a second. A filter for fail2ban comes with the package."
        ),
    ]
}
