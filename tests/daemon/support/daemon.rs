//! One daemon process, with everything it owns in a temporary folder.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use super::control::Caller;
use super::{Chat, Http, PATIENCE, Stream, until};

/// One plain listener on a free port.
pub const PLAIN: &str = "[[listen]]\naddress = \"127.0.0.1:0\"\ntls = false\n";
/// One listener with TLS on a free port.
pub const TLS: &str = "[[listen]]\naddress = \"127.0.0.1:0\"\n";

/// The folder and what the daemon is to be started with. It outlives the process, so that one can
/// follow another.
pub struct Setup {
    folder: TempDir,
    environment: Vec<(OsString, OsString)>,
    /// Handed over as descriptor 3, as a service manager does it.
    socket: Option<(OwnedFd, String)>,
    /// The most open files, where it is not this machine's limit.
    most_files: Option<usize>,
    config: bool,
}

/// What a program said, and how it ended.
#[derive(Debug)]
pub struct Ran {
    pub status: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    #[track_caller]
    pub fn of(command: &mut Command) -> Self {
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        Ran::of_child(child.expect("the program can be run"))
    }

    /// Of one that runs already, once it ends, which it must.
    #[track_caller]
    pub fn of_child(child: Child) -> Self {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).expect("a process id"));
        let (tell, told) = std::sync::mpsc::channel();
        std::thread::spawn(move || tell.send(child.wait_with_output()));
        let output = told.recv_timeout(PATIENCE).unwrap_or_else(|_| {
            // It has not been waited for, so the id is still its own; what it has said is worth reading.
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
            panic!("it does not end: {:?}", told.recv_timeout(PATIENCE));
        });
        Ran::from(output.expect("our own child"))
    }

    fn from(output: Output) -> Self {
        Ran {
            status: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8(output.stdout).expect("UTF-8"),
            stderr: String::from_utf8(output.stderr).expect("UTF-8"),
        }
    }

    /// Ended so, and said so in one line.
    #[track_caller]
    pub fn ends(&self, status: i32, words: &str) {
        assert_eq!(self.status, status, "{self:?}");
        assert!(self.stderr.contains(words), "{words:?} in {self:?}");
    }
}

impl Setup {
    pub fn new(config: &str) -> Self {
        let setup = Setup::without_config();
        setup.write_config(config);
        Setup { config: true, ..setup }
    }

    /// As somebody starts it who has just built it.
    pub fn without_config() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        // Others may look in, so that what keeps them out is the daemon's own doing.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("our own folder");
        fs::create_dir(folder.path().join("run")).expect("our own folder");
        Setup { folder, environment: Vec::new(), socket: None, most_files: None, config: false }
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn config_file(&self) -> PathBuf {
        self.folder().join("wschat.toml")
    }

    pub fn control_socket(&self) -> PathBuf {
        self.folder().join("run/wschat/control")
    }

    pub fn state_folder(&self) -> PathBuf {
        self.folder().join("state/wschat")
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.folder().join("log")).unwrap_or_default()
    }

    /// Replaces the file; FOLDER in it stands for the folder.
    pub fn write_config(&self, config: &str) {
        let config = config.replace("FOLDER", self.folder().to_str().expect("a plain path"));
        fs::write(self.config_file(), config).expect("our own folder");
    }

    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.environment.push((name.into(), value.as_ref().into()));
        self
    }

    pub fn most_files(mut self, most: usize) -> Self {
        self.most_files = Some(most);
        self
    }

    pub fn hand_over(mut self, socket: OwnedFd, name: &str) -> Self {
        self.socket = Some((socket, name.to_owned()));
        self
    }

    /// An environment without anything of ours, but with this setup's places.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.folder())
            .env("XDG_RUNTIME_DIR", self.folder().join("run"))
            .env("XDG_STATE_HOME", self.folder().join("state"))
            .current_dir(self.folder());
        command
    }

    pub fn ctl_command(&self, arguments: &[&str]) -> Command {
        let mut command = self.command(env!("CARGO_BIN_EXE_wschatctl"));
        command.args(arguments).env("WSCHAT_SOCKET", self.control_socket()).stdin(Stdio::null());
        command
    }

    pub fn ctl(&self, arguments: &[&str]) -> Ran {
        Ran::of(&mut self.ctl_command(arguments))
    }

    fn daemon_command(&self) -> Command {
        // The service manager's variables name the process that they are for; a shell that becomes
        // the daemon knows its own number.
        let takes_over = if self.socket.is_some() { "exec 3<&0 </dev/null; export LISTEN_PID=$$;" } else { "" };
        let limits = self.most_files.map_or_else(String::new, |most| format!("ulimit -n {most};"));
        let script = format!("{takes_over} {limits} export WATCHDOG_PID=$$; exec \"$0\" \"$@\"");
        let mut command = self.command("sh");
        command.args(["-c", &script, env!("CARGO_BIN_EXE_wschat")]);
        if self.config {
            command.arg("--config").arg(self.config_file());
        }
        command.stdin(Stdio::null());
        if let Some((socket, name)) = &self.socket {
            let socket = socket.try_clone().expect("a descriptor to spare");
            command.stdin(socket).env("LISTEN_FDS", "1").env("LISTEN_FDNAMES", name);
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Starts the daemon and waits until it serves.
    #[track_caller]
    pub fn start(self) -> Daemon {
        let mut daemon = self.launch();
        daemon.serves();
        daemon
    }

    /// Starts the daemon and waits for nothing.
    #[track_caller]
    pub fn launch(self) -> Daemon {
        let log = OpenOptions::new().create(true).append(true).open(self.folder().join("log")).expect("our own folder");
        let out = File::create(self.folder().join("stdout")).expect("our own folder");
        let child = self.daemon_command().stdout(out).stderr(log).spawn().expect("the daemon can be run");
        Daemon { setup: Some(self), child: Some(child), listen: Vec::new() }
    }

    /// Starts a daemon that is not to come up. What it said, and its status.
    #[track_caller]
    pub fn fails(&self) -> Ran {
        let child = self.daemon_command().stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        Ran::of_child(child.expect("the daemon can be run"))
    }
}

/// A daemon that serves. At the end of the test it is told to stop, and must do so in good order.
pub struct Daemon {
    setup: Option<Setup>,
    child: Option<Child>,
    listen: Vec<String>,
}

impl std::ops::Deref for Daemon {
    type Target = Setup;

    fn deref(&self) -> &Setup {
        self.setup.as_ref().expect("taken only when the daemon is")
    }
}

impl Daemon {
    /// With this configuration.
    #[track_caller]
    pub fn start(config: &str) -> Self {
        Setup::new(config).start()
    }

    /// With one plain listener, and what else is set.
    #[track_caller]
    pub fn plain(config: &str) -> Self {
        Daemon::start(&format!("{PLAIN}{config}"))
    }

    /// With one TLS listener, and what else is set.
    #[track_caller]
    pub fn tls(config: &str) -> Self {
        Daemon::start(&format!("{TLS}{config}"))
    }

    /// Waits until it serves, and learns where it listens.
    #[track_caller]
    pub fn serves(&mut self) {
        assert!(self.comes_up(), "the daemon ended: {}", self.log());
    }

    /// As [`Daemon::serves`]; `false` where it ends instead.
    #[track_caller]
    pub fn comes_up(&mut self) -> bool {
        until("the daemon serves", || {
            if self.has_ended().is_some() {
                return Some(false);
            }
            let status = Caller::connect(&self.control_socket())?.ask("Status", Value::Null).ok()?;
            // A socket of the daemon before it may still answer.
            (status["pid"] == self.pid() && status["state"] == "serving").then_some(())?;
            let listen = status["listen"].as_array()?.iter().filter_map(Value::as_str);
            self.listen = listen.map(str::to_owned).collect();
            Some(true)
        })
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    /// What it listens on, as it says itself.
    pub fn listen(&self) -> &[String] {
        &self.listen
    }

    /// Where its `nth` listener really listens.
    pub fn address_of(&self, nth: usize) -> SocketAddr {
        let (address, _) = self.listen[nth].rsplit_once(' ').expect("an address and how it speaks");
        address.parse().expect("an address")
    }

    pub fn address(&self) -> SocketAddr {
        self.address_of(0)
    }

    /// A connection to the first listener, in the way that it speaks.
    #[track_caller]
    pub fn connect(&self) -> Stream {
        match self.listen[0].ends_with(" tls") {
            true => Stream::tls(self.address()),
            false => Stream::tcp(self.address()),
        }
    }

    #[track_caller]
    pub fn http(&self) -> Http {
        Http::new(self.connect())
    }

    /// Somebody who has said hello and is in the default rooms.
    #[track_caller]
    pub fn chat(&self, nick: &str) -> Chat {
        Chat::enter(self.connect(), nick)
    }

    /// Somebody who speaks the text dialect.
    #[track_caller]
    pub fn text(&self) -> Chat {
        Chat::open(self.connect(), "/wss", "")
    }

    /// The one document that the command prints.
    #[track_caller]
    pub fn json(&self, arguments: &[&str]) -> Value {
        let ran = self.ctl(&[arguments, &["--json"]].concat());
        assert_eq!((ran.status, ran.stderr.as_str()), (0, ""), "{arguments:?}: {ran:?}");
        serde_json::from_str(&ran.stdout).unwrap_or_else(|e| panic!("{arguments:?}: {e}: {}", ran.stdout))
    }

    /// The connections that the daemon knows, as `list` has them.
    #[track_caller]
    pub fn clients(&self, filter: &[&str]) -> Vec<Value> {
        let list = self.json(&[&["list"], filter].concat());
        list["clients"].as_array().expect("a list").clone()
    }

    #[track_caller]
    pub fn caller(&self) -> Caller {
        Caller::connect(&self.control_socket()).expect("the control socket takes callers")
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid().cast_signed()), signal).expect("our own child");
    }

    /// Open files of the process, without Unix sockets: callers of the control socket come and go.
    pub fn descriptors(&self) -> usize {
        let proc = PathBuf::from(format!("/proc/{}", self.pid()));
        let unix = fs::read_to_string(proc.join("net/unix")).expect("the daemon runs");
        let unix: Vec<String> = unix
            .lines()
            .filter_map(|line| line.split_whitespace().nth(6))
            .map(|inode| format!("socket:[{inode}]"))
            .collect();
        fs::read_dir(proc.join("fd"))
            .expect("the daemon runs")
            // One that has been closed meanwhile is no more.
            .filter_map(|file| fs::read_link(file.ok()?.path()).ok())
            .filter(|file| !unix.iter().any(|socket| file == Path::new(socket)))
            .count()
    }

    pub fn has_ended(&mut self) -> Option<ExitStatus> {
        self.child.as_mut().and_then(|child| child.try_wait().expect("our own child"))
    }

    #[track_caller]
    fn wait(&mut self) -> ExitStatus {
        until("the daemon ends", || self.has_ended())
    }

    /// Told to stop by SIGTERM: ends with 0. The setup may be started again.
    #[track_caller]
    pub fn stop(self) -> Setup {
        self.signal(Signal::SIGTERM);
        self.stop_again()
    }

    /// As [`Daemon::stop`], where it has been told already.
    #[track_caller]
    pub fn stop_again(mut self) -> Setup {
        let status = self.wait();
        self.child = None;
        let log = self.log();
        assert!(status.success(), "the daemon ended with {status}: {log}");
        assert!(!log.contains("panicked"), "{log}");
        self.setup.take().expect("not yet taken")
    }

    /// Killed as by a crash, where it has not ended by itself.
    pub fn crash(mut self) -> Setup {
        if self.has_ended().is_none() {
            self.signal(Signal::SIGKILL);
            self.wait();
        }
        self.child = None;
        self.setup.take().expect("not yet taken")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let Some(setup) = &self.setup else { return };
        if std::thread::panicking() {
            let _ = writeln!(std::io::stderr(), "--- the daemon's log:\n{}---", setup.log());
            if let Some(mut child) = self.child.take() {
                let _ = child.kill();
                let _ = child.wait();
            }
            return;
        }
        if self.child.is_some() {
            let whole = Daemon { setup: self.setup.take(), child: self.child.take(), listen: Vec::new() };
            whole.stop();
        }
    }
}
