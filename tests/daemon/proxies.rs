//! Behind nginx and HAProxy, with the very configurations of docs/OPERATING.md: people chat through them, the
//! daemon knows their addresses where the proxy tells them, and who is silent for longer than the proxy's
//! timeouts stays, because of the pings.

use std::fs;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::json;

use crate::documents::operating;
use crate::support::certificate::Certificate;
use crate::support::daemon::TLS;
use crate::support::{Chat, Daemon, Setup, Stream, left_out, until};

/// Where somebody comes from who is not the proxy.
const CLIENT: &str = "127.0.0.7";
/// The proxies' timeouts, in place of the documented ones.
const TIMEOUT: &str = "3s";
/// Pings that come in more than twice that time, at one a second.
const PINGS: usize = 8;

fn daemon() -> Daemon {
    let listener = operating("### The listener for HTTP", "toml").remove(0).replace("127.0.0.1:9503", "127.0.0.1:0");
    assert!(listener.contains(":0\""), "the listener is on a free port");
    Setup::new(&format!("{listener}{TLS}[timeouts]\nping = \"1s\"\n")).start()
}

/// A proxy on a free port. It ends with the test.
struct Proxy {
    child: Child,
    address: SocketAddr,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // nginx's workers end with their master only if it is told in order.
        let pid = nix::unistd::Pid::from_raw(self.child.id().cast_signed());
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let _ = self.child.wait();
    }
}

impl Proxy {
    /// Starts it with the configuration that `write` makes for a port, and waits until it listens. Another
    /// port is tried where somebody has taken that one meanwhile.
    fn start(mut write: impl FnMut(u16) -> Command) -> Self {
        until("the proxy listens", || {
            let port = TcpListener::bind("127.0.0.1:0").ok()?.local_addr().ok()?.port();
            let address = SocketAddr::from(([127, 0, 0, 1], port));
            let mut child = write(port).stdin(Stdio::null()).spawn().expect("it was found");
            let up = until("the proxy listens or ends", || {
                if child.try_wait().expect("our own child").is_some() {
                    return Some(false);
                }
                TcpStream::connect(address).is_ok().then_some(true)
            });
            up.then_some(Proxy { child, address })
        })
    }
}

/// The program's path. Without it the test is counted as left out.
fn installed(program: &str) -> Option<PathBuf> {
    let folders = ["/usr/sbin", "/usr/bin", "/usr/local/sbin", "/usr/local/bin"];
    let found = folders.iter().map(|folder| Path::new(folder).join(program)).find(|path| path.is_file());
    if found.is_none() {
        left_out(&format!("{program} is not installed"));
    }
    found
}

/// The documented configuration with this machine's ports, files and, so that the test ends, shorter timeouts.
fn adapted(daemon: &Daemon, heading: &str, language: &str, port: u16) -> String {
    let folder = daemon.folder().display();
    let text = operating(heading, language).remove(0);
    let mut text = text
        .replace("listen 443", &format!("listen 127.0.0.1:{port}"))
        .replace("bind :443", &format!("bind 127.0.0.1:{port}"))
        .replace("127.0.0.1:9503", &daemon.address_of(0).to_string())
        .replace("127.0.0.1:9501", &daemon.address_of(1).to_string())
        .replace("/etc/nginx/tls/fullchain.pem", &format!("{folder}/crt.pem"))
        .replace("/etc/nginx/tls/privkey.pem", &format!("{folder}/key.pem"))
        .replace("/etc/haproxy/chat.pem", &format!("{folder}/chat.pem"));
    for documented in ["90s", "30s"] {
        text = text.replace(documented, TIMEOUT);
    }
    assert!(text.contains(&port.to_string()) && text.contains(TIMEOUT), "{text}");
    text
}

fn nginx(daemon: &Daemon, heading: &str) -> Option<Proxy> {
    let program = installed("nginx")?;
    let module = Path::new("/usr/lib/nginx/modules/ngx_stream_module.so");
    let folder = daemon.folder().join("nginx");
    fs::create_dir_all(&folder).expect("our own folder");
    let here = folder.display();
    let user = if nix::unistd::geteuid().is_root() { "user root;\n" } else { "" };
    let paths: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {here}/{kind};\n"))
        .concat();
    let unread = heading.contains("unread");
    if unread && !module.exists() {
        left_out("nginx has no module for streams");
        return None;
    }
    Some(Proxy::start(|port| {
        let documented = adapted(daemon, heading, "nginx", port);
        let body = match unread {
            true => documented,
            false => format!("http {{\naccess_log off;\n{paths}{documented}}}\n"),
        };
        let load = if unread { format!("load_module {};\n", module.display()) } else { String::new() };
        let file = folder.join("nginx.conf");
        let log = format!("error_log {here}/error.log;\npid {here}/pid;\n");
        let whole = format!("{load}{user}daemon off;\nworker_processes 1;\n{log}events {{}}\n{body}");
        fs::write(&file, whole).expect("our own folder");
        let mut command = Command::new(&program);
        command.arg("-p").arg(&folder).arg("-e").arg(folder.join("error.log")).arg("-c").arg(file);
        command
    }))
}

fn haproxy(daemon: &Daemon, heading: &str) -> Option<Proxy> {
    let program = installed("haproxy")?;
    Some(Proxy::start(|port| {
        let file = daemon.folder().join("haproxy.cfg");
        fs::write(&file, adapted(daemon, heading, "haproxy", port)).expect("our own folder");
        let mut command = Command::new(&program);
        command.args(["-db", "-f"]).arg(file);
        command
    }))
}

/// Two people chat through the proxy, and one is silent for longer than its timeouts.
fn people_chat(daemon: &Daemon, proxy: &Proxy, address: &str) {
    let from = |client: &str| Stream::tls_from(client.parse::<IpAddr>().expect("an address"), proxy.address);
    let mut ann = Chat::enter(from(CLIENT), "ann");
    let known = daemon.clients(&["--nick", "ann"]);
    assert_eq!(known[0]["address"], address, "{known:?}");
    let mut bob = Chat::enter(from("127.0.0.1"), "bob");
    bob.say("hello");
    ann.hears("hello");
    for _ in 0..PINGS {
        ann.frame("ping");
        ann.send("pong", json!({}));
    }
    ann.say("still here");
    drop(bob);
}

fn with_certificate() -> Daemon {
    let daemon = daemon();
    let certificate = Certificate::for_name("localhost");
    certificate.install(daemon.folder());
    fs::write(daemon.folder().join("chat.pem"), format!("{}{}", certificate.pem, certificate.key)).expect("our own");
    daemon
}

#[test]
fn nginx_passes_http_on_as_documented() {
    let daemon = with_certificate();
    let Some(proxy) = nginx(&daemon, "### nginx, for HTTP") else { return };
    people_chat(&daemon, &proxy, CLIENT);
}

#[test]
fn nginx_passes_tls_on_unread_as_documented() {
    let daemon = with_certificate();
    let Some(proxy) = nginx(&daemon, "### nginx, for TLS connections unread") else { return };
    people_chat(&daemon, &proxy, "127.0.0.1");
}

#[test]
fn haproxy_passes_http_on_as_documented() {
    let daemon = with_certificate();
    let Some(proxy) = haproxy(&daemon, "### HAProxy, for HTTP") else { return };
    people_chat(&daemon, &proxy, CLIENT);
}

#[test]
fn haproxy_passes_tls_on_unread_as_documented() {
    let daemon = with_certificate();
    let Some(proxy) = haproxy(&daemon, "### HAProxy, for TLS connections unread") else { return };
    people_chat(&daemon, &proxy, "127.0.0.1");
}
