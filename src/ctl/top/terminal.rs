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
