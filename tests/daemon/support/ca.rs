//! A CA of one's own: Debian's pebble, with the names that it believes in.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Mutex};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned};
use serde_json::json;
use socket2::{Domain, Socket, Type};
use tempfile::TempDir;

use super::certificate::fingerprint;
use super::client::trusting;
use super::{Http, Stream, until};

/// A port of 127.0.0.1 that is somebody's before they come, and while they are away: who connects is
/// refused, and nobody else is given it.
pub struct Port(Socket);

impl Port {
    pub fn reserve() -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        // So that the one it is for may listen on it beside this.
        socket.set_reuse_address(true).expect("a socket");
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a free port");
        Port(socket)
    }

    pub fn address(&self) -> SocketAddr {
        self.0.local_addr().expect("it is bound").as_socket().expect("an address of IPv4")
    }

    pub fn number(&self) -> u16 {
        self.address().port()
    }
}

/// What a name is answered with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Leads {
    To(Ipv4Addr),
    /// There is no such name.
    Nowhere,
    /// No answer comes.
    Silence,
}

#[derive(Default)]
struct Names {
    leads: HashMap<String, Leads>,
    asked: Vec<String>,
}

/// A DNS server that knows every name; those it was not told of are this machine.
struct Dns {
    address: SocketAddr,
    names: Arc<Mutex<Names>>,
}

impl Dns {
    fn start() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        let address = socket.local_addr().expect("it is bound");
        let names = Arc::new(Mutex::new(Names::default()));
        let known = names.clone();
        // Ends with the test's process.
        std::thread::spawn(move || {
            let mut query = [0; 512];
            while let Ok((length, from)) = socket.recv_from(&mut query) {
                if let Some(answer) = answer(&query[..length], &mut known.lock().expect("nobody panics in it")) {
                    let _ = socket.send_to(&answer, from);
                }
            }
        });
        Dns { address, names }
    }
}

/// RFC 1035, section 4: a question has a head of 12 bytes, labels, their end, a type and a class.
fn answer(query: &[u8], names: &mut Names) -> Option<Vec<u8>> {
    let mut labels = Vec::new();
    let mut at = 12;
    while *query.get(at)? != 0 {
        let end = at + 1 + usize::from(query[at]);
        labels.push(String::from_utf8_lossy(query.get(at + 1..end)?).to_ascii_lowercase());
        at = end;
    }
    let question = query.get(12..at + 5)?;
    let name = labels.join(".");
    let leads = names.leads.get(&name).copied().unwrap_or(Leads::To(Ipv4Addr::LOCALHOST));
    names.asked.push(name);
    let is_for_ipv4 = question[question.len() - 4..] == [0, 1, 0, 1];
    let (failure, found) = match leads {
        Leads::Silence => return None,
        Leads::Nowhere => (3, None),
        Leads::To(address) => (0, Some(address).filter(|_| is_for_ipv4)),
    };
    let mut answer = vec![query[0], query[1], 0x81, 0x80 | failure, 0, 1, 0, u8::from(found.is_some()), 0, 0, 0, 0];
    answer.extend(question);
    if let Some(address) = found {
        // The name of the question, A, IN, no time to live.
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]);
        answer.extend(address.octets());
    }
    Some(answer)
}

/// The CA, which can be switched on and off. Each time it has forgotten everybody and has a new root.
pub struct Ca {
    folder: TempDir,
    directory: Port,
    management: Port,
    /// Where the daemon is to listen, and where the CA looks.
    pub daemon: Port,
    dns: Dns,
    process: Option<Child>,
    asked: Arc<AtomicUsize>,
}

impl Ca {
    /// One that is off.
    pub fn new() -> Self {
        let ca = Ca {
            folder: tempfile::tempdir().expect("a temporary folder"),
            directory: Port::reserve(),
            management: Port::reserve(),
            daemon: Port::reserve(),
            dns: Dns::start(),
            process: None,
            asked: Arc::default(),
        };
        let mut root = CertificateParams::default();
        root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        root.distinguished_name.push(DnType::CommonName, "the root of the CA's own door");
        let root_key = KeyPair::generate().expect("a key");
        let root_pem = root.self_signed(&root_key).expect("a certificate").pem();
        let key = KeyPair::generate().expect("a key");
        let door = CertificateParams::new(["localhost".to_owned()]).expect("a plain name");
        let door = door.signed_by(&key, &Issuer::new(root, root_key)).expect("a certificate");
        for (name, text) in [("root.pem", root_pem), ("door.pem", door.pem()), ("door.key", key.serialize_pem())] {
            fs::write(ca.folder.path().join(name), text).expect("our own folder");
        }
        ca
    }

    /// One that is on.
    #[track_caller]
    pub fn started() -> Self {
        let mut ca = Ca::new();
        ca.start(90 * 24 * 3600);
        ca
    }

    /// Its certificates last so many seconds.
    #[track_caller]
    pub fn start(&mut self, lasting: u64) {
        let file = |name: &str| self.folder.path().join(name);
        let config = json!({"pebble": {
            "listenAddress": self.directory.address(),
            "managementListenAddress": self.management.address(),
            "certificate": file("door.pem"),
            "privateKey": file("door.key"),
            "httpPort": 9,
            "tlsPort": self.daemon.number(),
            "certificateValidityPeriod": lasting,
            "domainBlocklist": ["blocked.example"],
        }});
        fs::write(file("pebble.json"), config.to_string()).expect("our own folder");
        let log = File::options().create(true).append(true).open(file("log")).expect("our own folder");
        let child = Command::new("pebble")
            .arg("-config")
            .arg(file("pebble.json"))
            .args(["-strict", "-dnsserver", &self.dns.address.to_string()])
            .env_clear()
            .env("PEBBLE_VA_NOSLEEP", "1")
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a descriptor to spare"))
            .stderr(log)
            .spawn()
            .expect("pebble is needed (tests/install-packages)");
        self.process = Some(child);
        until("the CA is on", || {
            let ended = self.process.as_mut().and_then(|child| child.try_wait().expect("our own child"));
            assert_eq!(ended, None, "{}", self.log());
            let on = |port: &Port| std::net::TcpStream::connect(port.address()).is_ok();
            (on(&self.directory) && on(&self.management)).then_some(())
        });
    }

    pub fn stop(&mut self) {
        if let Some(mut child) = self.process.take() {
            child.kill().expect("our own child");
            child.wait().expect("our own child");
        }
    }

    /// Instead of being on: answers every request with these bytes, and closes.
    pub fn pretend(&mut self, answer: String) {
        let pem = |name: &str| fs::read(self.folder.path().join(name)).expect("our own folder");
        let chain = vec![CertificateDer::from_pem_slice(&pem("door.pem")).expect("our own certificate")];
        let key = PrivateKeyDer::from_pem_slice(&pem("door.key")).expect("our own key");
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("the provider has them")
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .expect("they belong together");
        let (config, asked) = (Arc::new(config), self.asked.clone());
        let listener = TcpListener::bind(self.directory.address()).expect("a reserved port");
        // Ends with the test's process.
        std::thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                let connection = ServerConnection::new(config.clone()).expect("a good configuration");
                let mut stream = StreamOwned::new(connection, socket);
                let mut head = Vec::new();
                let mut byte = [0];
                while !head.ends_with(b"\r\n\r\n") && stream.read_exact(&mut byte).is_ok() {
                    head.push(byte[0]);
                }
                asked.fetch_add(1, SeqCst);
                // The other side may have heard enough.
                let _ = stream.write_all(answer.as_bytes());
                stream.conn.send_close_notify();
                let _ = stream.flush();
            }
        });
    }

    /// How often it was asked while it pretended.
    pub fn asked(&self) -> usize {
        self.asked.load(SeqCst)
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    pub fn directory(&self) -> String {
        format!("https://localhost:{}/dir", self.directory.number())
    }

    pub fn root_file(&self) -> PathBuf {
        self.folder.path().join("root.pem")
    }

    pub fn leads(&self, name: &str, leads: Leads) {
        self.dns.names.lock().expect("nobody panics in it").leads.insert(name.to_owned(), leads);
    }

    /// Whether the CA has looked this name up.
    pub fn has_looked_up(&self, name: &str) -> bool {
        self.dns.names.lock().expect("nobody panics in it").asked.iter().any(|asked| asked == name)
    }

    /// The configuration of a daemon that asks this CA for these names.
    pub fn config(&self, names: &[&str]) -> String {
        format!(
            "[[listen]]\naddress = \"{}\"\n[tls]\nacme = {}\nacme_directory = \"{}\"\nacme_ca_file = \"{}\"\n",
            self.daemon.address(),
            json!(names),
            self.directory(),
            self.root_file().display()
        )
    }

    /// The root under which it gives certificates, of this time that it is on.
    #[track_caller]
    pub fn root(&self) -> RootCertStore {
        let mut config = ClientConfig::clone(&trusting(rustls::ALL_VERSIONS));
        // Otherwise it would take HTTP/2.
        config.alpn_protocols.clear();
        let stream = Stream::tls_as(self.management.address(), &config.into()).expect("TLS");
        let answer = Http::new(stream).get("/roots/0");
        assert_eq!(answer.status, 200);
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(&answer.body).expect("a certificate in PEM")).expect("a root");
        roots
    }

    /// A browser that trusts this CA alone and goes to `name` on the daemon: the certificate's
    /// fingerprint, or why it is refused.
    #[track_caller]
    pub fn browser(&self, name: &str) -> Result<String, String> {
        let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("the provider has them")
            .with_root_certificates(self.root())
            .with_no_client_auth();
        shake_hands(self.daemon.address(), name, config)
    }
}

/// The fingerprint of what `to` shows to a client that asks for `name`.
pub fn shake_hands(to: SocketAddr, name: &str, config: ClientConfig) -> Result<String, String> {
    let name = ServerName::try_from(name.to_owned()).expect("a name");
    let mut connection = ClientConnection::new(Arc::new(config), name).expect("a good configuration");
    let Stream::Tcp(mut socket) = Stream::tcp(to) else { unreachable!("it is made of TCP") };
    while connection.is_handshaking() {
        connection.complete_io(&mut socket).map_err(|e| e.to_string())?;
    }
    Ok(fingerprint(&connection.peer_certificates().expect("the handshake is over")[0]))
}

impl Drop for Ca {
    fn drop(&mut self) {
        self.stop();
        if std::thread::panicking() {
            let _ = writeln!(std::io::stderr(), "--- the CA's log:\n{}---", self.log());
        }
    }
}

/// The folder that the daemon keeps a CA's things in.
#[track_caller]
pub fn kept(state_folder: &Path) -> PathBuf {
    let mut folders =
        fs::read_dir(state_folder.join("acme")).expect("something is kept").map(|entry| entry.unwrap().path());
    let folder = folders.next().expect("a folder for the CA");
    assert_eq!(folders.next(), None);
    folder
}
