//! A daemon in a folder of its own, with a plain and a TLS listener on ports that nobody else has.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::thread;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::{Client, Dial, PATIENCE, until};

/// Ends with the value; where the test has failed, its log is shown.
pub struct Daemon {
    pub plain: SocketAddr,
    pub tls: SocketAddr,
    folder: tempfile::TempDir,
    child: Child,
}

impl Daemon {
    /// With `tables` as its configuration, besides `[[listen]]`, and ready.
    pub fn start(tables: &str) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let config = folder.path().join("wschat.toml");
        // The kernel picks the ports: nobody can take them between a look and the bind.
        let listen = "[[listen]]\naddress = \"127.0.0.1:0\"\ntls = false\ntrusted_proxies = [\"127.0.0.0/8\"]\n\
                      [[listen]]\naddress = \"127.0.0.1:0\"\n";
        let log = if tables.contains("[log]") { "" } else { "[log]\nlevel = \"debug\"\n" };
        // Most tests end with clients that are there and answer nothing any more.
        let shutdown = if tables.contains("[shutdown]") { "" } else { "[shutdown]\ngrace = \"0s\"\n" };
        fs::write(&config, format!("{listen}{tables}\n{log}{shutdown}")).expect("the configuration is written");
        let mut child = Command::new(env!("CARGO_BIN_EXE_wschat"))
            .arg("--config")
            .arg(&config)
            .env_clear()
            .env("XDG_STATE_HOME", folder.path())
            .env("XDG_RUNTIME_DIR", folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(folder.path().join("log")).expect("a log"))
            .spawn()
            .expect("the daemon starts");
        // It prints where its pages are once it serves, a line for each listener.
        let stdout = BufReader::new(child.stdout.take().expect("it is piped"));
        let (tell, told) = mpsc::channel();
        thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| tell.send(line)));
        let (mut plain, mut tls) = (None, None);
        while plain.is_none() || tls.is_none() {
            let Ok(line) = told.recv_timeout(PATIENCE) else { break };
            let port = line.rsplit(':').next().and_then(|rest| rest.trim_end_matches('/').parse::<u16>().ok());
            let address = port.map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
            *(if line.starts_with("https:") { &mut tls } else { &mut plain }) = address;
        }
        let (Some(plain), Some(tls)) = (plain, tls) else {
            let log = fs::read_to_string(folder.path().join("log")).unwrap_or_default();
            // It may hang instead of having ended.
            let _ = child.kill();
            panic!("no daemon: {:?}\n{log}", child.wait());
        };
        Daemon { plain, tls, folder, child }
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// The line of the log that has `words`; waits for it.
    #[track_caller]
    pub fn logged(&self, words: &str) -> String {
        until(&format!("the log says {words:?}"), || {
            self.log().lines().find(|line| line.contains(words)).map(str::to_owned)
        })
    }

    pub fn control(&self) -> PathBuf {
        self.folder.path().join("wschat/control")
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).expect("it runs");
    }

    /// Waits for its end, which is no failure.
    #[track_caller]
    pub fn ends(mut self) -> String {
        let status = until("the daemon has ended", || self.child.try_wait().expect("it is ours"));
        assert!(status.success(), "{status}");
        self.log()
    }

    /// SIGTERM, and everything in order. To be called at the end of a test.
    #[track_caller]
    pub fn stop(self) -> String {
        self.signal(Signal::SIGTERM);
        self.ends()
    }

    pub fn ctl_command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_wschatctl"));
        command.arg("--socket").arg(self.control()).args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs `wschatctl`, whatever it exits with.
    pub fn ctl(&self, arguments: &[&str]) -> Output {
        self.ctl_command(arguments).output().expect("wschatctl runs")
    }

    /// What `wschatctl --json` says, which must be a success.
    #[track_caller]
    pub fn ctl_json(&self, arguments: &[&str]) -> Value {
        let out = self.ctl(&[&["--json"], arguments].concat());
        assert!(out.status.success(), "{arguments:?}: {out:?}");
        serde_json::from_slice(&out.stdout).unwrap_or_else(|e| panic!("{e}: {out:?}"))
    }

    /// Connections that the daemon has.
    pub fn clients(&self) -> u64 {
        self.ctl_json(&["status"])["clients"].as_u64().expect("a number")
    }

    pub fn dial(&self) -> Dial {
        Dial::new(self.plain)
    }

    pub fn dial_tls(&self) -> Dial {
        Dial::new(self.tls).tls()
    }

    /// A client of the JSON dialect that has said nothing yet.
    #[track_caller]
    pub fn json(&self) -> Client {
        self.dial().open("/chat")
    }

    #[track_caller]
    pub fn text(&self) -> Client {
        self.dial().open("/wss")
    }

    /// A client of the JSON dialect in the default rooms, under this nick, that has read everything
    /// said to it so far.
    #[track_caller]
    pub fn guest(&self, nick: &str) -> Client {
        let mut client = self.json();
        client.hello(serde_json::json!({"nick": nick}));
        client
    }

    /// One more thing that shows that it lives: a newcomer is served.
    #[track_caller]
    pub fn serves(&self) {
        let mut client = self.json();
        let payload = serde_json::json!({"n": 1});
        client.say("ping", payload.clone());
        assert_eq!(client.expect("pong")["payload"], payload);
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Stopped already where the test has come to its end; both calls then only say so.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let mut log = String::new();
            let read = File::open(self.folder.path().join("log")).and_then(|mut file| file.read_to_string(&mut log));
            eprintln!("--- the daemon's log ({read:?})\n{log}---");
        }
    }
}
