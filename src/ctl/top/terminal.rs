//! The terminal while the screen is up, and as it was before, however that ends.

use std::io::{self, IsTerminal, Stdout, Write, stdout};
use std::panic;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::event::{DisableBracketedPaste, EnableBracketedPaste};
use ratatui::crossterm::style::{Attribute, ResetColor, SetAttribute};
use ratatui::crossterm::terminal::{
    Clear, ClearType, EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use ratatui::crossterm::{cursor, execute};

use crate::ctl::failure::Failure;

/// Whoever is first to put the terminal back does it: the end, a panic, or a signal.
static UP: AtomicBool = AtomicBool::new(false);

/// The screen; dropping it puts the terminal back.
pub struct Screen {
    pub terminal: Terminal<CrosstermBackend<Stdout>>,
}

/// Says why there can be no screen, before anything of it is touched.
pub fn check() -> Result<(), Failure> {
    let instead = "`wschatctl status` and `wschatctl list` show the same once";
    if !stdout().is_terminal() || !io::stdin().is_terminal() {
        return Err(Failure::Usage(format!("top is a screen, and standard input or output is no terminal; {instead}")));
    }
    let kind = std::env::var("TERM").unwrap_or_default();
    match kind.as_str() {
        "" => Err(Failure::Usage(format!("TERM is not set, so nobody knows what this terminal can do; {instead}"))),
        "dumb" | "unknown" => {
            Err(Failure::Usage(format!("a terminal of the kind {kind} (TERM) cannot be drawn on; {instead}")))
        }
        _ => Ok(()),
    }
}

impl Screen {
    pub fn open() -> io::Result<Self> {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            restore();
            before(panic);
            // On whichever thread: as in a release build, where a panic ends the process.
            std::process::abort();
        }));
        UP.store(true, SeqCst);
        let opened = || {
            enable_raw_mode()?;
            execute!(stdout(), EnterAlternateScreen, EnableBracketedPaste, cursor::Hide)?;
            Terminal::new(CrosstermBackend::new(stdout()))
        };
        match opened() {
            Ok(terminal) => Ok(Screen { terminal }),
            Err(error) => {
                restore();
                Err(error)
            }
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        restore();
    }
}

/// Puts the terminal back, once. One that cannot be written to any more is gone.
pub fn restore() {
    if !UP.swap(false, SeqCst) {
        return;
    }
    let mut out = stdout();
    // The console of Linux has no second screen to leave.
    if std::env::var("TERM").is_ok_and(|kind| kind.starts_with("linux")) {
        let _ = execute!(out, Clear(ClearType::All), cursor::MoveTo(0, 0));
    }
    let _ = execute!(
        out,
        ResetColor,
        SetAttribute(Attribute::Reset),
        DisableBracketedPaste,
        LeaveAlternateScreen,
        cursor::Show
    );
    let _ = out.flush();
    let _ = disable_raw_mode();
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    const CHILD: &str = "WSCHAT_TEST_PANICS";

    /// Run by the test below, on a terminal of its own.
    #[test]
    fn on_its_terminal_it_panics() {
        if std::env::var_os(CHILD).is_some() {
            let _screen = Screen::open().expect("a terminal");
            panic!("something that nobody thought of");
        }
    }

    #[test]
    fn a_panic_leaves_the_terminal_as_it_was_and_can_be_read() {
        let own = std::env::current_exe().expect("our own program");
        let test = format!("{}::on_its_terminal_it_panics", module_path!().split_once("::").expect("a path").1);
        let child = format!("{} --exact {test} --nocapture; echo status $?; stty -a", own.display());
        let mut command = Command::new("script");
        command.args(["-qec", &child, "/dev/null"]).env(CHILD, "1").env("TERM", "xterm").env("SHELL", "/bin/sh");
        let ran = command.output().expect("script is there, as for the other tests of terminals");
        let shown = String::from_utf8_lossy(&ran.stdout).into_owned();
        let at = |what: &str| shown.rfind(what).unwrap_or_else(|| panic!("no {what:?} in {shown:?}"));
        // In this order: the screen, back to the first one with its cursor, the reason, the end.
        let order = ["\u{1b}[?1049h", "\u{1b}[?1049l", "\u{1b}[?25h", "something that nobody thought of", "status 134"];
        assert!(order.map(at).is_sorted(), "{shown:?}");
        let settings: Vec<&str> = shown[at("status 134")..].split_whitespace().collect();
        for setting in ["icanon", "echo", "isig", "opost", "icrnl"] {
            assert!(settings.contains(&setting), "{setting} in {shown:?}");
        }
    }
}
