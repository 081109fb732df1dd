//! The configuration: what the file may say becomes what the program holds, once.
//!
//! [`Config`] has only states the daemon can run with; every mistake ends in the conversion from
//! the file. Nothing here opens a socket or reads a certificate.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;

use crate::chat::id::RoomName;
pub use crate::wire::text::Locale;

mod acme;
mod form;
mod key;
mod manual;
mod mistake;
mod parse;
mod place;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod write;

pub use manual::man_page;
pub use mistake::{MOST_TOLD, Mistake, Mistakes};
pub use write::{Change, diff, print, sample};

/// The longest configuration file, in bytes. One with every key explained has a hundredth of it.
pub const MOST_BYTES: u64 = 1 << 20;

/// Everything that can be set. `Default` is what an empty file means.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    pub listen: Vec<Listen>,
    pub tls: Tls,
    pub paths: Paths,
    pub chat: Chat,
    pub auth: Auth,
    pub history: History,
    pub limits: Limits,
    pub timeouts: Timeouts,
    pub shutdown: Shutdown,
    pub control: Control,
    pub metrics: Metrics,
    pub log: Log,
}

/// One `[[listen]]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Listen {
    pub address: Address,
    pub tls: bool,
    /// Whose `X-Forwarded-For` and `X-Real-IP` are believed. A peer on a Unix socket has no
    /// address: on such a listener the headers are always believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Not from the file: skipped without an error where the machine lacks the address' family.
    pub optional: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// Where the certificate comes from: files, or a CA if [`Acme::names`] has any, never both; without
/// either it is self-signed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tls {
    pub files: Option<TlsFiles>,
    pub acme: Acme,
}

/// A CA that speaks ACME (RFC 8555), and what it is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acme {
    /// DNS names in lower case, each once; empty: no CA is asked.
    pub names: Vec<String>,
    /// URLs with the scheme mailto.
    pub contact: Vec<String>,
    /// The URL of the CA's directory, with the scheme https.
    pub directory: String,
    /// PEM of the roots that the directory's own certificate is checked against; `None`: the system's.
    pub ca_file: Option<PathBuf>,
}

impl Default for Acme {
    fn default() -> Self {
        Acme {
            names: Vec::new(),
            contact: Vec::new(),
            directory: "https://acme-v02.api.letsencrypt.org/directory".into(),
            ca_file: None,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// Which path answers what; `None` turns it off. No two are alike.
#[derive(Clone, Debug, PartialEq)]
pub struct Paths {
    pub page: Option<String>,
    pub json: Option<String>,
    pub text: Option<String>,
    pub echo: Option<String>,
    pub health: Option<String>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Chat {
    /// At least one.
    pub default_rooms: Vec<RoomName>,
    pub create_rooms: bool,
    pub presence_limit: usize,
    pub locale: Locale,
    pub allowed_origins: Origins,
}

/// Pages that may connect, besides the one whose origin equals `Host`.
#[derive(Clone, Debug, PartialEq)]
pub enum Origins {
    Any,
    /// Each `scheme://host[:port]` in lower case.
    These(Vec<String>),
}

/// Who may come in. With [`AuthMode::Token`] there is at least one key.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Auth {
    pub mode: AuthMode,
    /// Whose content is the secret of HS256.
    pub secret_file: Option<PathBuf>,
    /// A public key in PEM.
    pub public_key_file: Option<PathBuf>,
    /// What `aud` must name.
    pub audience: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AuthMode {
    /// Guests may come in, and a token is honoured.
    #[default]
    Open,
    /// Nobody comes in without a token.
    Token,
}

#[derive(Clone, Debug, PartialEq)]
pub struct History {
    pub store: Store,
    /// The database; `None`: [`History::FILE`] in the state folder.
    pub path: Option<PathBuf>,
    /// Messages a room keeps.
    pub keep: u64,
    /// How long a message is kept.
    pub keep_for: Duration,
    /// Bytes of the database, for all rooms; 0: any number.
    pub max_size: usize,
    /// The least time between two commits to the database.
    pub commit_every: Duration,
}

impl History {
    /// The database's name where none is configured.
    pub const FILE: &str = "wschat.db";

    /// Where the database is, of a daemon with this state folder; `None` where there is none.
    pub fn database(&self, state_dir: &Path) -> Option<PathBuf> {
        let path = || self.path.clone().unwrap_or_else(|| state_dir.join(Self::FILE));
        (self.store == Store::Sqlite).then(path)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Store {
    /// Kept in a database on disk.
    Sqlite,
    /// Kept until the daemon stops.
    Memory,
    /// Nothing is kept.
    None,
}

impl Store {
    pub fn as_str(self) -> &'static str {
        match self {
            Store::Sqlite => "sqlite",
            Store::Memory => "memory",
            Store::None => "none",
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// Connections in all; 0: as many as descriptors allow.
    pub clients: usize,
    /// Connections of one address (IPv6: of one /64).
    pub clients_per_ip: usize,
    pub handshakes_per_ip: Rate,
    /// Bytes of a WebSocket message.
    pub frame: usize,
    /// Bytes of a chat message's text.
    pub text: usize,
    /// Messages of one connection.
    pub rate: Rate,
    pub burst: u32,
    /// Bytes queued for one reader.
    pub outbox: usize,
    pub rooms_per_client: usize,
}

/// So many a second, on average; always positive.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate(pub f64);

#[derive(Clone, Debug, PartialEq)]
pub struct Timeouts {
    pub tls: Duration,
    pub request: Duration,
    pub hello: Duration,
    pub ping: Duration,
    pub presence: Duration,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Shutdown {
    pub grace: Duration,
    pub spread: Duration,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Control {
    /// `None`: `control` in the runtime folder.
    pub socket: Option<PathBuf>,
    /// `None`: `push` in the runtime folder.
    pub push_socket: Option<PathBuf>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metrics {
    /// `None`: no metrics are served.
    pub listen: Option<SocketAddr>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Log {
    pub level: Level,
    /// A line for each connection.
    pub access: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Error,
    Warn,
    #[default]
    Info,
    Debug,
    Trace,
}

impl Level {
    pub const ALL: [Level; 5] = [Level::Error, Level::Warn, Level::Info, Level::Debug, Level::Trace];

    /// As in the file.
    pub fn as_str(self) -> &'static str {
        match self {
            Level::Error => "error",
            Level::Warn => "warn",
            Level::Info => "info",
            Level::Debug => "debug",
            Level::Trace => "trace",
        }
    }
}

impl fmt::Display for Address {
    /// As in the file: `IP:PORT`, or a path.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(address) => address.fmt(f),
            Address::Unix(path) => path.display().fmt(f),
        }
    }
}

impl Config {
    /// Reads the file at `path`. Files that it names relatively lie in its own folder.
    pub fn load(path: &Path) -> Result<Config, Mistakes> {
        let unreadable = |cause| Mistakes::Unreadable { file: path.to_owned(), cause };
        let whole = std::path::absolute(path).map_err(unreadable)?;
        let mut bytes = Vec::new();
        File::open(path).and_then(|file| file.take(MOST_BYTES + 1).read_to_end(&mut bytes)).map_err(unreadable)?;
        if bytes.len() as u64 > MOST_BYTES {
            return Err(Mistakes::TooLong { file: path.to_owned(), most: MOST_BYTES });
        }
        let base = whole.parent().unwrap_or(Path::new("/"));
        let read = match std::str::from_utf8(&bytes) {
            Ok(text) => parse::read(text, base),
            Err(cause) => {
                let text = String::from_utf8_lossy(&bytes);
                let at = cause.valid_up_to();
                let what = "this is not UTF-8, which TOML is written in".to_owned();
                Err(vec![mistake::Source::new(&text).mistake(at..at + char::REPLACEMENT_CHARACTER.len_utf8(), what)])
            }
        };
        read.map_err(|list| Mistakes::found(path, list))
    }

    /// Reads `text` as if it stood in the file `name`, which need not exist. Files that it names
    /// relatively lie in the folder of `name`.
    pub fn parse(text: &str, name: &Path) -> Result<Config, Mistakes> {
        let base = name.parent().unwrap_or(Path::new(""));
        parse::read(text, base).map_err(|list| Mistakes::found(name, list))
    }
}

impl Default for Config {
    fn default() -> Self {
        let loopback = |address: &str| Listen {
            address: Address::Tcp(address.parse().expect("a literal address")),
            tls: true,
            trusted_proxies: Vec::new(),
            optional: true,
        };
        Config {
            listen: vec![loopback("127.0.0.1:9501"), loopback("[::1]:9501")],
            tls: Tls::default(),
            paths: Paths {
                page: Some("/".into()),
                json: Some("/chat".into()),
                text: Some("/wss".into()),
                echo: None,
                health: Some("/healthz".into()),
            },
            chat: Chat {
                default_rooms: vec![RoomName::parse("lobby").expect("a literal that fits the rule")],
                create_rooms: true,
                presence_limit: 200,
                locale: Locale::En,
                allowed_origins: Origins::These(Vec::new()),
            },
            auth: Auth::default(),
            history: History {
                store: Store::Sqlite,
                path: None,
                keep: 10_000,
                keep_for: Duration::from_secs(30 * 24 * 3600),
                max_size: 4 << 30,
                commit_every: Duration::from_millis(2),
            },
            limits: Limits {
                clients: 0,
                clients_per_ip: 100,
                handshakes_per_ip: Rate(20.0),
                frame: 64 * 1024,
                text: 4 * 1024,
                rate: Rate(10.0),
                burst: 20,
                outbox: 256 * 1024,
                rooms_per_client: 50,
            },
            timeouts: Timeouts {
                tls: Duration::from_secs(10),
                request: Duration::from_secs(10),
                hello: Duration::from_secs(10),
                ping: Duration::from_secs(25),
                presence: Duration::from_secs(15),
            },
            shutdown: Shutdown { grace: Duration::from_secs(5), spread: Duration::from_secs(10) },
            control: Control::default(),
            metrics: Metrics::default(),
            log: Log { level: Level::Info, access: false },
        }
    }
}
