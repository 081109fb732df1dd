//! Starting a server for a measurement and ending it: the floor, the daemon, or a rival named on the command line.
//!
//! Each runs pinned to the server's processor, in a private folder, and is ended by its process id.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustls::ClientConfig;
use tempfile::TempDir;

use super::{BenchError, machine::Processors, wire};

/// How long a server may take to listen, and to end after SIGTERM.
const PATIENCE: Duration = Duration::from_secs(20);
/// Between two looks at a server that is starting or ending.
const LOOK: Duration = Duration::from_millis(20);

/// What the clients say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Dialect {
    /// A text frame is passed on as it is; nothing else is ever said.
    Raw,
    /// The daemon's JSON dialect on `/chat`.
    Json,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Kind {
    Floor,
    Gathering,
    Daemon,
    /// The daemon with its own limits, and doors for those who attack it.
    Guarded,
    /// The daemon with its history on disk.
    Durable {
        name: &'static str,
        commit_every: &'static str,
    },
    /// A program that passes raw text frames on, given as a command line.
    Rival(String),
}

impl Kind {
    pub fn name(&self) -> &str {
        match self {
            Kind::Floor => "floor",
            Kind::Gathering => "floor, gathering",
            Kind::Daemon | Kind::Guarded => "wschat",
            Kind::Durable { name, .. } => name,
            Kind::Rival(_) => "rival",
        }
    }
}

/// A certificate made for this run, and the folder that holds it.
pub struct Identity {
    folder: TempDir,
    client: Arc<ClientConfig>,
}

impl Identity {
    pub fn new() -> Result<Self, BenchError> {
        let folder = TempDir::with_prefix("wschat-bench-").map_err(BenchError::io("making a temporary folder"))?;
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
        let write = |path: PathBuf, text: String| fs::write(&path, text).map_err(BenchError::io(path.display()));
        write(folder.path().join("certificate.pem"), made.cert.pem())?;
        write(folder.path().join("key.pem"), made.signing_key.serialize_pem())?;
        Ok(Identity { client: wire::client_config(made.cert.der().clone())?, folder })
    }

    fn certificate(&self) -> PathBuf {
        self.folder.path().join("certificate.pem")
    }

    fn key(&self) -> PathBuf {
        self.folder.path().join("key.pem")
    }
}

pub struct Server {
    child: Child,
    folder: TempDir,
    pub address: SocketAddrV4,
    pub dialect: Dialect,
    pub tls: Option<Arc<ClientConfig>>,
    /// Of [`Kind::Guarded`].
    pub doors: Option<Doors>,
}

/// Where a daemon is attacked.
pub struct Doors {
    /// Plain, and behind a proxy whose headers are believed.
    pub proxied: SocketAddr,
    /// With TLS, at an address that counts, for loopback does not; absent where this machine has no other.
    pub counted: Option<SocketAddr>,
}

impl Doors {
    fn listeners(&self) -> String {
        let proxied =
            format!("[[listen]]\naddress = \"{}\"\ntls = false\ntrusted_proxies = [\"127.0.0.2\"]\n", self.proxied);
        let counted = self.counted.map(|address| format!("[[listen]]\naddress = \"{address}\"\n"));
        proxied + &counted.unwrap_or_default()
    }
}

impl Server {
    /// Starts a server and waits until it accepts connections.
    pub fn start(
        kind: &Kind,
        tls: bool,
        identity: &Identity,
        processors: Processors,
        daemon: &Path,
    ) -> Result<Self, BenchError> {
        let folder = TempDir::with_prefix("wschat-bench-").map_err(BenchError::io("making a temporary folder"))?;
        let own = std::env::current_exe().map_err(BenchError::io("finding the bench's own program"))?;
        let mut command = Command::new(&own);
        command.args(["launch", &processors.server.to_string(), "--"]);
        let mut dialect = Dialect::Raw;
        let mut port = 0;
        let mut doors = None;
        match kind {
            Kind::Floor | Kind::Gathering => {
                command.arg(&own).arg("floor");
                if tls {
                    command.arg("--certificate").arg(identity.certificate()).arg("--key").arg(identity.key());
                }
                command.args((*kind == Kind::Gathering).then_some("--gather"));
                command.stdout(Stdio::piped());
            }
            Kind::Daemon | Kind::Durable { .. } | Kind::Guarded => {
                dialect = Dialect::Json;
                port = free_port()?;
                let config = folder.path().join("wschat.toml");
                let mut text = daemon_config(kind, port, tls, identity, folder.path());
                if *kind == Kind::Guarded {
                    let at = |host: IpAddr| Ok::<_, BenchError>(SocketAddr::new(host, free_port()?));
                    let opened =
                        Doors { proxied: at(Ipv4Addr::LOCALHOST.into())?, counted: own_address().map(at).transpose()? };
                    text += GUARDED;
                    text = opened.listeners() + &text;
                    doors = Some(opened);
                } else {
                    text += UNLIMITED;
                }
                fs::write(&config, text).map_err(BenchError::io(config.display()))?;
                command.arg(daemon).arg("--config").arg(config);
                command.env("XDG_STATE_HOME", folder.path()).env("XDG_RUNTIME_DIR", folder.path());
                // A readiness socket of whoever runs the bench is not the daemon's.
                command.env_remove("NOTIFY_SOCKET").stdout(Stdio::null());
            }
            Kind::Rival(line) => {
                port = free_port()?;
                let (key, certificate) = (identity.key(), identity.certificate());
                for word in line.split_whitespace() {
                    match word {
                        "{port}" => command.arg(port.to_string()),
                        "{key}" if tls => command.arg(&key),
                        "{cert}" if tls => command.arg(&certificate),
                        "{key}" | "{cert}" => continue,
                        other => command.arg(other),
                    };
                }
                command.stdout(Stdio::null());
            }
        }
        let log = folder.path().join("stderr");
        let stderr = File::create(&log).map_err(BenchError::io(log.display()))?;
        let mut child = command
            .stdin(Stdio::null())
            .stderr(stderr)
            .spawn()
            .map_err(BenchError::io(format!("starting {}", kind.name())))?;
        let stdout = child.stdout.take();
        let mut server = Server {
            child,
            folder,
            address: SocketAddrV4::new(Ipv4Addr::LOCALHOST, port),
            dialect,
            tls: tls.then(|| identity.client.clone()),
            doors,
        };
        if let Some(stdout) = stdout {
            let mut line = String::new();
            BufReader::new(stdout).read_line(&mut line).map_err(BenchError::io("reading the floor's port"))?;
            server.address.set_port(line.trim().parse().map_err(|_| server.not_serving(kind, "printed no port"))?);
        }
        server.wait_until_it_listens(kind)?;
        Ok(server)
    }

    /// The daemon's, for operators.
    pub fn control_socket(&self) -> PathBuf {
        self.folder.path().join("control")
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    fn wait_until_it_listens(&mut self, kind: &Kind) -> Result<(), BenchError> {
        let begin = Instant::now();
        while TcpStream::connect(self.address).is_err() {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(self.not_serving(kind, &format!("ended by itself ({status})")));
            }
            if begin.elapsed() > PATIENCE {
                return Err(self.not_serving(kind, "does not listen on its port"));
            }
            thread::sleep(LOOK);
        }
        Ok(())
    }

    fn not_serving(&self, kind: &Kind, how: &str) -> BenchError {
        let log = fs::read_to_string(self.folder.path().join("stderr")).unwrap_or_default();
        BenchError::Server { name: kind.name().to_owned(), how: how.to_owned(), log }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already; then there is nobody to tell.
        let _ = kill(Pid::from_raw(self.child.id() as i32), Signal::SIGTERM);
        let begin = Instant::now();
        while let Ok(None) = self.child.try_wait() {
            if begin.elapsed() > PATIENCE {
                // As above.
                let _ = self.child.kill();
                let _ = self.child.wait();
                return;
            }
            thread::sleep(LOOK);
        }
    }
}

/// A port that was free a moment ago. The daemon is told its port in its file, so it cannot choose one itself.
fn free_port() -> Result<u16, BenchError> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(BenchError::io("looking for a free port"))?;
    Ok(listener.local_addr().map_err(BenchError::io("looking for a free port"))?.port())
}

/// An address of this machine that is not loopback.
fn own_address() -> Option<IpAddr> {
    // Nothing is sent: a route is looked up (RFC 5737 keeps this address free).
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect("198.51.100.1:9").ok()?;
    let own = socket.local_addr().ok()?.ip();
    (!own.is_loopback() && !own.is_unspecified()).then_some(own)
}

/// A rate that no honest load could keep to is lifted.
const UNLIMITED: &str = "[limits]\nrate = \"1000000/s\"\nburst = 1000000\n";
/// Fewer than there are attackers.
const GUARDED: &str = "[limits]\nclients = 1500\n";

/// The daemon as it comes, but for the history, which stays in memory unless it is what is measured, because a floor
/// has none.
fn daemon_config(kind: &Kind, port: u16, tls: bool, identity: &Identity, folder: &Path) -> String {
    let mut text = format!("[[listen]]\naddress = \"127.0.0.1:{port}\"\ntls = {tls}\n");
    if tls {
        text += &format!("[tls]\ncertificate = {:?}\nkey = {:?}\n", identity.certificate(), identity.key());
    }
    text += &match kind {
        Kind::Durable { commit_every, .. } => {
            format!("[history]\nstore = \"sqlite\"\ncommit_every = \"{commit_every}\"\n")
        }
        _ => "[history]\nstore = \"memory\"\n".to_owned(),
    };
    text += &format!("[control]\nsocket = {:?}\n[log]\nlevel = \"warn\"\n", folder.join("control"));
    text
}
