//! `wschatctl top`: a live screen of the daemon.
//!
//! [`model`] holds what is shown and chosen, [`view`] draws it; both are pure. Here is the loop
//! between keyboard, daemon and terminal. What is asked costs the daemon little: it answers with the
//! first few of each list, however many there are.

mod cells;
mod columns;
mod fetch;
mod filter;
pub mod model;
mod snapshot;
mod terminal;
#[cfg(test)]
mod tests;
mod text;
mod view;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anstream::{AutoStream, ColorChoice};
use nix::sys::signal::{SigSet, Signal, raise};
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::args;
use super::client::{self, Daemon};
use super::failure::Failure;
use crate::control::places::Environment;
use fetch::Connect;
use filter::Filter;
use model::{Key, Model, Question, Wish};
use snapshot::Snapshot;
use terminal::Screen;
use view::Look;

/// Keys and answers that wait for the screen.
const WAITING: usize = 64;
/// An answer that takes longer is told of.
const SLOW: Duration = Duration::from_secs(3);
/// How long a signal waits for the screen, which may be stuck writing to a terminal that takes nothing.
const PATIENCE: Duration = Duration::from_secs(2);
const SIGNALS: [Signal; 4] = [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM];

/// What happens to the screen.
enum Heard {
    Key(Key),
    Paste(String),
    /// Another size: draw.
    Resized,
    Answer(Result<Box<Snapshot>, String>),
    Kicked(String),
    Signal(Signal),
    /// There is no keyboard any more.
    NoInput(io::Error),
}

pub fn run(options: &args::Top, global: &args::Global) -> Result<(), Failure> {
    if global.json {
        return Err(Failure::Usage("top is a screen and no document; `wschatctl status --json` prints one".into()));
    }
    terminal::check()?;
    let (socket, timeout): (Option<PathBuf>, Duration) = (global.socket.clone(), global.timeout);
    let connect: Arc<Connect> = Arc::new(move || {
        let path = client::find(&Environment::of_process(), socket.as_deref())?;
        Daemon::connect(&path, timeout)
    });
    // Whoever may not ask, or asks at the wrong place, is told so where it can be read afterwards.
    let daemon = connect()?;
    let host = nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let model = Model::new(host, options.interval, options.sort, Filter::of(&options.filter));

    let signals = SigSet::from_iter(SIGNALS);
    // Before the first thread, so that only the one that waits for them gets them.
    signals.thread_block().map_err(|error| Failure::Output(error.into()))?;
    let (tell, heard) = mpsc::sync_channel(WAITING);
    let (ask, questions) = mpsc::sync_channel(1);
    let begun = Instant::now();
    fetch::spawn(daemon, connect.clone(), begun, questions, tell.clone());
    let screen = Screen::open().map_err(Failure::Output)?;
    read_signals(signals, tell.clone());
    read_keys(tell.clone());
    let ended = Live { model, screen, begun, asked: None, due: Duration::ZERO, ask, connect, tell }.run(&heard);
    match ended {
        Ok(Some(signal)) => {
            // The screen is gone; whoever sent it sees that it was obeyed.
            SigSet::from_iter([signal]).thread_unblock().map_err(|error| Failure::Output(error.into()))?;
            raise(signal).map_err(|error| Failure::Output(error.into()))
        }
        Ok(None) => Ok(()),
        Err(error) => Err(error),
    }
}

struct Live {
    model: Model,
    screen: Screen,
    begun: Instant,
    /// When the daemon was asked what it has not answered yet.
    asked: Option<Duration>,
    /// When it is to be asked next.
    due: Duration,
    ask: SyncSender<Question>,
    connect: Arc<Connect>,
    tell: SyncSender<Heard>,
}

impl Live {
    /// Until somebody quits, or a signal says so. The terminal is as it was when this returns.
    fn run(mut self, heard: &Receiver<Heard>) -> Result<Option<Signal>, Failure> {
        loop {
            let now = self.begun.elapsed();
            if self.asked.is_none() && !self.model.paused && now >= self.due {
                self.look(now);
            }
            if let Some(asked) = self.asked.filter(|asked| now.saturating_sub(*asked) >= SLOW) {
                let seconds = now.saturating_sub(asked).as_secs();
                self.model.fail(format!("the daemon has not answered for {seconds} s"));
            }
            self.draw()?;
            let wait = match self.asked {
                None if !self.model.paused => self.due.saturating_sub(now),
                // The time that runs on the screen is of seconds.
                _ => Duration::from_secs(1),
            };
            let next = match heard.recv_timeout(wait.max(Duration::from_millis(1))) {
                Ok(next) => next,
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => return Ok(None),
            };
            let wish = match next {
                Heard::Key(key) => self.model.key(key),
                Heard::Paste(text) => {
                    self.model.paste(&text);
                    None
                }
                Heard::Resized => None,
                Heard::Answer(answer) => {
                    self.asked = None;
                    self.due = self.due.max(now + self.model.interval.min(Duration::from_millis(100)));
                    match answer {
                        // What is asked before a pause and answered in it is not to change anything.
                        Ok(_) if self.model.paused => {}
                        Ok(snapshot) => self.model.take(*snapshot),
                        Err(why) => self.model.fail(format!("daemon not reachable, trying again: {why}")),
                    }
                    None
                }
                Heard::Kicked(outcome) => {
                    self.model.kicked(outcome);
                    self.due = Duration::ZERO;
                    None
                }
                Heard::Signal(signal) => return Ok(Some(signal)),
                Heard::NoInput(error) => return Err(Failure::Input(error)),
            };
            match wish {
                None => {}
                Some(Wish::Quit) => return Ok(None),
                Some(Wish::Look) => self.due = Duration::ZERO,
                Some(Wish::Kick(id)) => {
                    let who = self.model.chosen_row().map_or_else(|| id.to_string(), |row| model::who(&row.client));
                    fetch::kick(id, who, self.connect.clone(), self.tell.clone());
                }
            }
        }
    }

    fn look(&mut self, now: Duration) {
        self.due = now + self.model.interval;
        // One question at a time is under way, so there is room for it.
        if self.ask.try_send(self.model.question()).is_ok() {
            self.asked = Some(now);
        }
    }

    fn draw(&mut self) -> Result<(), Failure> {
        let colour = AutoStream::choice(&io::stdout()) != ColorChoice::Never;
        let look = Look { colour, now: SystemTime::now() };
        let model = &mut self.model;
        self.screen.terminal.draw(|frame| view::draw(model, look, frame)).map_err(Failure::Output)?;
        Ok(())
    }
}

fn read_signals(signals: SigSet, tell: SyncSender<Heard>) {
    thread::spawn(move || {
        let Ok(signal) = signals.wait() else { return };
        // A full queue is emptied by the loop, unless that is stuck.
        let _ = tell.try_send(Heard::Signal(signal));
        thread::sleep(PATIENCE);
        terminal::restore();
        std::process::exit(128 + signal as i32);
    });
}

fn read_keys(tell: SyncSender<Heard>) {
    thread::spawn(move || {
        loop {
            let heard = match event::read() {
                Ok(Event::Key(key)) if key.kind != KeyEventKind::Release => match translated(key) {
                    Some(key) => Heard::Key(key),
                    None => continue,
                },
                Ok(Event::Paste(text)) => Heard::Paste(text),
                Ok(Event::Resize(..)) => Heard::Resized,
                Ok(_) => continue,
                Err(error) => {
                    // Whoever would hear it may be gone already.
                    let _ = tell.send(Heard::NoInput(error));
                    return;
                }
            };
            if tell.send(heard).is_err() {
                return;
            }
        }
    });
}

fn translated(key: KeyEvent) -> Option<Key> {
    let control = key.modifiers.contains(KeyModifiers::CONTROL);
    if key.modifiers.contains(KeyModifiers::ALT) {
        return None;
    }
    Some(match key.code {
        KeyCode::Char('c') if control => Key::Interrupt,
        KeyCode::Char('u') if control => Key::ClearLine,
        KeyCode::Char('n') if control => Key::Down,
        KeyCode::Char('p') if control => Key::Up,
        KeyCode::Char(_) if control => return None,
        KeyCode::Char(c) => Key::Char(c),
        KeyCode::Up => Key::Up,
        KeyCode::Down => Key::Down,
        KeyCode::PageUp => Key::PageUp,
        KeyCode::PageDown => Key::PageDown,
        KeyCode::Home => Key::Home,
        KeyCode::End => Key::End,
        KeyCode::Enter => Key::Enter,
        KeyCode::Esc => Key::Escape,
        KeyCode::Tab | KeyCode::BackTab => Key::Tab,
        KeyCode::Backspace => Key::Backspace,
        _ => return None,
    })
}
