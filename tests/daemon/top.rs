//! `wschatctl top` in a real terminal, which is tmux's.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::support::daemon::Ran;
use crate::support::{Daemon, Setup, until};

const PROMPT: &str = "ready>";

/// A terminal with a shell in it, on a server of its own.
struct Tmux {
    socket: PathBuf,
    /// Its own: a daemon's may be gone before the server is asked to end, and would take the socket along.
    _own: TempDir,
    folder: PathBuf,
}

impl Tmux {
    fn start(setup: &Setup, wide: u16, high: u16) -> Self {
        let own = tempfile::tempdir().expect("a temporary folder");
        let tmux = Tmux { socket: own.path().join("tmux"), _own: own, folder: setup.folder().to_owned() };
        let mut command = setup.command("tmux");
        command.arg("-S").arg(&tmux.socket).args(["-f", "/dev/null", "new-session", "-d"]);
        command.args(["-x", &wide.to_string(), "-y", &high.to_string()]);
        // A shell that another one starts is given its prompt so.
        command.args(["env", &format!("PS1={PROMPT}"), "sh"]);
        command.env("WSCHAT_SOCKET", setup.control_socket()).env("LC_ALL", "C.UTF-8");
        let ran = Ran::of(&mut command);
        assert_eq!(ran.status, 0, "{ran:?}");
        tmux.waits_for(PROMPT);
        tmux
    }

    fn ask(&self, arguments: &[&str]) -> String {
        let ran = Ran::of(Command::new("tmux").arg("-S").arg(&self.socket).args(arguments));
        assert_eq!(ran.status, 0, "{arguments:?}: {ran:?}");
        ran.stdout
    }

    fn screen(&self) -> String {
        self.ask(&["capture-pane", "-p"])
    }

    /// One key of tmux's names.
    fn press(&self, key: &str) {
        self.ask(&["send-keys", key]);
    }

    fn types(&self, text: &str) {
        self.ask(&["send-keys", "-l", "--", text]);
    }

    #[track_caller]
    fn waits_for(&self, text: &str) -> String {
        self.until(text, |screen| screen.contains(text))
    }

    #[track_caller]
    fn until(&self, what: &str, is_there: impl Fn(&str) -> bool) -> String {
        let mut last = String::new();
        let seen = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            until(what, || {
                last = self.screen();
                is_there(&last).then(|| last.clone())
            })
        }));
        seen.unwrap_or_else(|_| panic!("never came: {what}; on the screen was\n{last}"))
    }

    /// Starts it from the shell, and waits for the first numbers; its process.
    #[track_caller]
    fn top(&self, arguments: &str) -> Pid {
        let program = env!("CARGO_BIN_EXE_wschatctl");
        self.types(&format!("rm -f pid; sh -c 'echo $$ >pid; exec {program} top {arguments}'"));
        self.press("Enter");
        self.waits_for("serving");
        let pid = fs::read_to_string(self.folder.join("pid")).expect("our own folder");
        Pid::from_raw(pid.trim().parse().expect("a process id"))
    }

    /// The shell is there again, on a terminal as it was: echo, lines, the cursor, the first screen.
    #[track_caller]
    fn is_clean(&self, status: &str) {
        self.until("the shell", |screen| screen.trim_end().ends_with(PROMPT) && !screen.contains("serving"));
        assert_eq!(self.ask(&["display", "-p", "#{alternate_on} #{cursor_flag}"]).trim(), "0 1");
        self.types("echo status $?; stty -a >stty; echo done >>stty");
        self.press("Enter");
        self.waits_for(&format!("status {status}"));
        let stty =
            until("stty", || fs::read_to_string(self.folder.join("stty")).ok().filter(|stty| stty.ends_with("done\n")));
        for setting in [" icanon ", " echo ", " isig ", " opost ", " icrnl "] {
            assert!(stty.replace(['\n', ';'], " ").contains(setting), "{setting} in {stty}");
        }
        self.types("clear");
        self.press("Enter");
        self.until("an empty screen", |screen| screen.trim() == PROMPT);
    }
}

impl Drop for Tmux {
    fn drop(&mut self) {
        let _ = Command::new("tmux").arg("-S").arg(&self.socket).arg("kill-server").output();
    }
}

#[test]
fn an_operator_looks_and_kicks() {
    let daemon = Daemon::plain("");
    let (mut ann, bob) = (daemon.chat("ann"), daemon.chat("bob"));
    let eve = daemon.chat("eve").closing();
    let tmux = Tmux::start(&daemon, 80, 24);
    tmux.top("--interval 200ms");
    let screen = tmux.waits_for("eve");
    for text in ["clients 3/", "users 3", "rooms 1", "history sqlite good", "lobby", "Clients by sendq", "? help"] {
        assert!(screen.contains(text), "{text} in\n{screen}");
    }
    ann.say("hello");
    tmux.press("s");
    tmux.waits_for("Clients by idle, longest first");
    tmux.press("?");
    tmux.waits_for("kick the chosen client");
    tmux.press("Escape");
    tmux.waits_for("Clients by idle");

    tmux.press("/");
    tmux.types("--nick nobody");
    tmux.press("Enter");
    tmux.waits_for("nobody matches");
    tmux.press("/");
    tmux.press("C-u");
    tmux.types("--nick EVE");
    tmux.press("Enter");
    tmux.until("eve alone", |screen| screen.contains(" eve ") && !screen.contains(" bob "));
    tmux.press("Down");
    tmux.until("eve chosen", |screen| screen.lines().any(|line| line.starts_with('>') && line.contains("eve")));
    tmux.press("Enter");
    tmux.waits_for("dialect      json");
    tmux.press("k");
    tmux.waits_for("? y kicks, any other key does not");
    tmux.press("n");
    tmux.waits_for("was not kicked");
    tmux.press("k");
    tmux.waits_for("? y kicks, any other key does not");
    tmux.press("y");
    assert_eq!(eve.join().unwrap().1.code, 4003);
    tmux.until("the outcome", |screen| screen.contains("closed with 4003") && screen.contains("which has gone"));
    tmux.press("Escape");
    tmux.until("the lists", |screen| screen.contains("clients 2/") && screen.contains("gone"));

    tmux.ask(&["resize-window", "-x", "40", "-y", "10"]);
    tmux.waits_for("wschatctl top wants 60x12; this is 40x10");
    tmux.ask(&["resize-window", "-x", "200", "-y", "50"]);
    tmux.waits_for("DIALECT");
    tmux.press("q");
    tmux.is_clean("0");
    assert_eq!(daemon.clients(&[]).len(), 2);
    drop(bob);
}

#[test]
fn however_it_ends_the_terminal_is_clean() {
    let daemon = Daemon::plain("");
    let tmux = Tmux::start(&daemon, 80, 24);
    for (signal, status) in [(Signal::SIGTERM, "143"), (Signal::SIGHUP, "129"), (Signal::SIGINT, "130")] {
        let pid = tmux.top("");
        kill(pid, signal).expect("it runs");
        // What a shell says of a signal comes before its prompt.
        tmux.is_clean(status);
    }
    for key in ["C-c", "Escape"] {
        tmux.top("");
        tmux.press(key);
        tmux.is_clean("0");
    }
    // Killed with no chance to clean up, and the next one does.
    let pid = tmux.top("");
    tmux.ask(&["kill-session"]);
    until("it has ended with its terminal", || kill(pid, None).err());
}

#[test]
fn a_daemon_that_goes_and_comes_back() {
    let daemon = Daemon::plain("");
    let tmux = Tmux::start(&daemon, 80, 24);
    let ann = daemon.chat("ann").closing();
    tmux.top("--interval 200ms");
    tmux.waits_for("clients 1/");
    let setup = daemon.stop();
    ann.join().unwrap();
    let screen = tmux.waits_for("daemon not reachable, trying again");
    assert!(screen.contains("clients "), "what was known stays:\n{screen}");
    let daemon = setup.start();
    tmux.until("it goes on", |screen| screen.contains("clients 0/") && !screen.contains("not reachable"));
    let _bob = daemon.chat("bob");
    tmux.waits_for("bob");
    tmux.press("q");
    tmux.is_clean("0");
}

#[test]
fn where_there_can_be_no_screen_it_says_so() {
    let daemon = Daemon::plain("");
    daemon.ctl(&["top"]).ends(64, "no terminal");
    daemon.ctl(&["top", "--json"]).ends(64, "no document");
    daemon.ctl(&["top", "--interval", "5ms"]).ends(64, "from 100ms to 1h");
    daemon.ctl(&["top", "--sort", "size"]).ends(64, "sendq");
    let tmux = Tmux::start(&daemon, 100, 24);
    let program = env!("CARGO_BIN_EXE_wschatctl");
    for (n, (line, words, status)) in [
        (format!("TERM=dumb {program} top"), "of the kind dumb (TERM) cannot be drawn on", 64),
        (format!("TERM= {program} top"), "TERM is not set", 64),
        (format!("{program} top | cat"), "no terminal", 0),
        (format!("{program} top --socket /nowhere"), "no daemon has a socket at /nowhere", 69),
    ]
    .into_iter()
    .enumerate()
    {
        tmux.types(&format!("clear; {line}; echo $? of {n}"));
        tmux.press("Enter");
        let screen = tmux.waits_for(&format!("{status} of {n}"));
        assert!(screen.replace('\n', "").contains(words), "{words} in\n{screen}");
        assert_eq!(tmux.ask(&["display", "-p", "#{alternate_on} #{cursor_flag}"]).trim(), "0 1");
    }
    // A terminal by another name is one.
    for kind in ["xterm", "xterm-256color", "screen", "linux", "vt100"] {
        tmux.types(&format!("clear; TERM={kind} NO_COLOR=1 {program} top"));
        tmux.press("Enter");
        tmux.waits_for("serving");
        let coloured = tmux.ask(&["capture-pane", "-p", "-e"]);
        assert!(!["[32m", "[33m", "38;5;"].iter().any(|colour| coloured.contains(colour)), "{coloured:?}");
        tmux.press("q");
        tmux.is_clean("0");
    }
    tmux.types(&format!("clear; {program} top"));
    tmux.press("Enter");
    tmux.waits_for("serving");
    assert!(tmux.ask(&["capture-pane", "-p", "-e"]).contains("38;5;2m"), "serving is green");
    tmux.press("q");
    tmux.is_clean("0");
}
