//! The state of the screen: what is chosen, ordered and asked. Keys and snapshots go in, wishes come
//! out; nothing here draws, reads a clock or talks to the daemon.

use std::time::Duration;

use super::filter::Filter;
use super::snapshot::{Meter, Snapshot};
use crate::control::protocol as api;

/// How many clients and rooms are asked for: more than any screen shows, far fewer than there are.
pub const LISTED: u64 = 200;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    Char(char),
    Up,
    Down,
    PageUp,
    PageDown,
    Home,
    End,
    Enter,
    Escape,
    Tab,
    Backspace,
    /// Ctrl-U.
    ClearLine,
    /// Ctrl-C.
    Interrupt,
}

/// What clients are ordered by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Sort {
    Sendq,
    Idle,
    Age,
    Rtt,
    In,
    Out,
    Nick,
    Address,
}

impl Sort {
    pub const ALL: [Sort; 8] =
        [Sort::Sendq, Sort::Idle, Sort::Age, Sort::Rtt, Sort::In, Sort::Out, Sort::Nick, Sort::Address];

    pub fn name(self) -> &'static str {
        match self {
            Sort::Sendq => "sendq",
            Sort::Idle => "idle",
            Sort::Age => "age",
            Sort::Rtt => "rtt",
            Sort::In => "in",
            Sort::Out => "out",
            Sort::Nick => "nick",
            Sort::Address => "address",
        }
    }

    /// As the daemon calls it: what comes in and goes out is ordered by how fast it does.
    pub fn key(self) -> &'static str {
        match self {
            Sort::In => "in_rate",
            Sort::Out => "out_rate",
            other => other.name(),
        }
    }

    /// Texts begin with A, numbers with the largest.
    fn descends(self) -> bool {
        !matches!(self, Sort::Nick | Sort::Address)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Focus {
    Rooms,
    Clients,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Mode {
    Lists,
    /// The filter as it is being typed.
    Filter(String),
    /// Is this one to be kicked? `back`: to its details, not to the lists.
    Ask {
        id: u64,
        who: String,
        back: bool,
    },
    Details,
    Help,
}

/// A client that is listed, or was until it went.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    pub client: api::Client,
    pub gone: bool,
    /// It is kept in its place because it is chosen; by the order it would not be here.
    pub kept: bool,
}

/// What is to be done now.
#[derive(Clone, Debug, PartialEq)]
pub enum Wish {
    Quit,
    /// Another question: do not wait for the interval.
    Look,
    Kick(u64),
}

/// What to ask the daemon.
#[derive(Clone, Debug, PartialEq)]
pub struct Question {
    pub filter: api::Filter,
    pub sort: Sort,
    pub descending: bool,
    pub watch: Option<u64>,
}

pub struct Model {
    /// The machine's name.
    pub host: String,
    pub interval: Duration,
    pub sort: Sort,
    pub reversed: bool,
    pub filter: Filter,
    pub focus: Focus,
    pub mode: Mode,
    pub paused: bool,
    pub snapshot: Option<Snapshot>,
    pub meter: Meter,
    pub clients: Vec<Row>,
    pub rooms: Vec<api::Room>,
    pub chosen: Option<u64>,
    pub chosen_room: Option<String>,
    /// Why there is nothing newer.
    pub trouble: Option<String>,
    /// What came of the last key.
    pub message: Option<String>,
    /// Who was kicked last.
    pub kicking: Option<u64>,
    /// How far details or help are scrolled; the view cuts what is too much.
    pub scroll: usize,
    /// Rows of the list in focus on the screen, as the view last had them: a page.
    pub page: usize,
}

impl Model {
    pub fn new(host: String, interval: Duration, sort: Sort, filter: Filter) -> Self {
        Model {
            host,
            interval,
            sort,
            reversed: false,
            filter,
            focus: Focus::Clients,
            mode: Mode::Lists,
            paused: false,
            snapshot: None,
            meter: Meter::default(),
            clients: Vec::new(),
            rooms: Vec::new(),
            chosen: None,
            chosen_room: None,
            trouble: None,
            message: None,
            kicking: None,
            scroll: 0,
            page: 1,
        }
    }

    pub fn descending(&self) -> bool {
        self.sort.descends() != self.reversed
    }

    pub fn question(&self) -> Question {
        Question {
            filter: self.filter.wire.clone(),
            sort: self.sort,
            descending: self.descending(),
            watch: self.chosen,
        }
    }

    pub fn chosen_row(&self) -> Option<&Row> {
        self.clients.iter().find(|row| Some(row.client.id) == self.chosen)
    }

    pub fn take(&mut self, snapshot: Snapshot) {
        self.trouble = None;
        self.meter.take(&snapshot);
        let place = self.clients.iter().position(|row| Some(row.client.id) == self.chosen);
        let before = place.map(|place| self.clients[place].clone());
        self.clients = snapshot.clients.iter().map(|client| Row::new(client.clone())).collect();
        self.rooms = snapshot.rooms.clone();
        // The choice follows the client, wherever that is now.
        if let (Some(place), Some(before)) = (place, before)
            && self.chosen_row().is_none()
        {
            let watched = snapshot.watched.as_ref().filter(|(id, _)| *id == before.client.id);
            let row = match watched {
                Some((_, Some(client))) => Row { kept: true, ..Row::new(client.clone()) },
                Some((_, None)) => Row { gone: true, kept: true, ..before.clone() },
                // It was chosen after the daemon had been asked.
                None => Row { kept: true, ..before.clone() },
            };
            // Of one that was kicked the outcome is told.
            if row.gone && !before.gone && self.kicking != Some(row.client.id) {
                self.message = Some(format!("client {} has gone", who(&row.client)));
            }
            self.clients.insert(place.min(self.clients.len()), row);
        }
        self.snapshot = Some(snapshot);
    }

    /// The daemon could not be asked; what is known stays on the screen.
    pub fn fail(&mut self, why: String) {
        self.trouble = Some(why);
    }

    pub fn kicked(&mut self, outcome: String) {
        self.message = Some(outcome);
    }

    /// Text that was pasted: never taken for keys.
    pub fn paste(&mut self, text: &str) {
        if let Mode::Filter(line) = &mut self.mode {
            line.extend(text.chars().filter(|c| !c.is_control()).take(super::filter::LONGEST - line.chars().count()));
        }
    }

    pub fn key(&mut self, key: Key) -> Option<Wish> {
        if key == Key::Interrupt {
            return Some(Wish::Quit);
        }
        match self.mode.clone() {
            Mode::Lists => self.list_key(key),
            Mode::Filter(line) => self.filter_key(line, key),
            Mode::Ask { id, who, back } => self.ask_key(id, &who, back, key),
            Mode::Details | Mode::Help => self.text_key(key),
        }
    }

    fn list_key(&mut self, key: Key) -> Option<Wish> {
        self.message = None;
        match key {
            Key::Escape if !self.filter.text.is_empty() => return self.filter_by(Filter::default()),
            Key::Char('q') | Key::Escape => return Some(Wish::Quit),
            Key::Up | Key::Char('p') => self.choose(-1),
            Key::Down | Key::Char('n' | 'j') => self.choose(1),
            Key::PageUp => self.choose(-self.page_step()),
            Key::PageDown => self.choose(self.page_step()),
            Key::Home | Key::Char('g') => self.choose(isize::MIN),
            Key::End | Key::Char('G') => self.choose(isize::MAX),
            Key::Tab => self.focus = if self.focus == Focus::Rooms { Focus::Clients } else { Focus::Rooms },
            Key::Enter => return self.open(),
            Key::Char('/' | 'f') => self.mode = Mode::Filter(self.filter.text.clone()),
            Key::Char(c @ ('s' | 'S')) => {
                let at = Sort::ALL.iter().position(|sort| *sort == self.sort).unwrap_or(0);
                let step = if c == 's' { 1 } else { Sort::ALL.len() - 1 };
                (self.sort, self.reversed) = (Sort::ALL[(at + step) % Sort::ALL.len()], false);
                return Some(Wish::Look);
            }
            Key::Char('r') => {
                self.reversed = !self.reversed;
                return Some(Wish::Look);
            }
            Key::Char('k') => self.ask(false),
            Key::Char(' ') => return self.pause(),
            Key::Char('?' | 'h') => (self.mode, self.scroll) = (Mode::Help, 0),
            _ => {}
        }
        None
    }

    fn page_step(&self) -> isize {
        isize::try_from(self.page.max(1)).unwrap_or(isize::MAX)
    }

    fn pause(&mut self) -> Option<Wish> {
        self.paused = !self.paused;
        if self.paused { None } else { Some(Wish::Look) }
    }

    fn choose(&mut self, by: isize) {
        // What was kept for its being chosen alone stays until then.
        match self.focus {
            Focus::Rooms => {
                let at = self.rooms.iter().position(|room| Some(&room.name) == self.chosen_room.as_ref());
                self.chosen_room = moved(at, by, self.rooms.len()).map(|at| self.rooms[at].name.clone());
            }
            Focus::Clients => {
                let at = self.clients.iter().position(|row| Some(row.client.id) == self.chosen);
                self.chosen = moved(at, by, self.clients.len()).map(|at| self.clients[at].client.id);
                let chosen = self.chosen;
                self.clients.retain(|row| !row.gone || Some(row.client.id) == chosen);
            }
        }
    }

    /// A client's details, or the clients of a room.
    fn open(&mut self) -> Option<Wish> {
        match self.focus {
            Focus::Clients if self.chosen_row().is_some() => (self.mode, self.scroll) = (Mode::Details, 0),
            Focus::Clients => self.message = Some("choose a client first, with the arrows".into()),
            Focus::Rooms => match &self.chosen_room {
                Some(room) => {
                    let filter = Filter::of_room(room);
                    self.focus = Focus::Clients;
                    return self.filter_by(filter);
                }
                None => self.message = Some("choose a room first, with the arrows".into()),
            },
        }
        None
    }

    fn filter_by(&mut self, filter: Filter) -> Option<Wish> {
        if filter != self.filter {
            self.filter = filter;
            self.chosen = None;
            self.clients.clear();
        }
        Some(Wish::Look)
    }

    fn ask(&mut self, back: bool) {
        let asked = match (self.focus, self.chosen_row()) {
            (Focus::Clients, Some(row)) if row.gone => Err(format!("client {} has gone", who(&row.client))),
            (Focus::Clients, Some(row)) => Ok(Mode::Ask { id: row.client.id, who: who(&row.client), back }),
            (Focus::Clients, None) => Err("choose a client first, with the arrows".into()),
            (Focus::Rooms, _) => Err("k kicks a client: Tab goes to the clients".into()),
        };
        match asked {
            Ok(mode) => self.mode = mode,
            Err(why) => self.message = Some(why),
        }
    }

    fn ask_key(&mut self, id: u64, who: &str, back: bool, key: Key) -> Option<Wish> {
        self.mode = if back { Mode::Details } else { Mode::Lists };
        if key == Key::Char('y') {
            self.message = Some(format!("kicking {who} ..."));
            self.kicking = Some(id);
            return Some(Wish::Kick(id));
        }
        self.message = Some(format!("{who} was not kicked"));
        None
    }

    fn filter_key(&mut self, mut line: String, key: Key) -> Option<Wish> {
        self.message = None;
        match key {
            Key::Escape => {
                self.mode = Mode::Lists;
                return None;
            }
            Key::Enter => match Filter::parse(&line) {
                Ok(filter) => {
                    self.mode = Mode::Lists;
                    return self.filter_by(filter);
                }
                Err(why) => self.message = Some(why),
            },
            Key::Backspace => drop(line.pop()),
            Key::ClearLine => line.clear(),
            Key::Char(c) if line.chars().count() < super::filter::LONGEST => line.push(c),
            _ => {}
        }
        self.mode = Mode::Filter(line);
        None
    }

    fn text_key(&mut self, key: Key) -> Option<Wish> {
        let details = self.mode == Mode::Details;
        self.message = None;
        match key {
            Key::Up | Key::Char('p') => self.scroll = self.scroll.saturating_sub(1),
            Key::Down | Key::Char('n' | 'j') => self.scroll = self.scroll.saturating_add(1),
            Key::PageUp | Key::Home => self.scroll = 0,
            Key::PageDown | Key::End => self.scroll = usize::MAX,
            Key::Char('k') if details => self.ask(true),
            Key::Char(' ') if details => return self.pause(),
            Key::Escape | Key::Enter | Key::Char('q' | '?' | 'h') => self.mode = Mode::Lists,
            _ => {}
        }
        None
    }
}

impl Row {
    pub fn new(client: api::Client) -> Self {
        Row { client, gone: false, kept: false }
    }
}

/// From nowhere the first or the last is reached.
fn moved(at: Option<usize>, by: isize, many: usize) -> Option<usize> {
    let last = many.checked_sub(1)?;
    Some(match at {
        None if by == isize::MAX => last,
        None => 0,
        Some(at) => at.saturating_add_signed(by).min(last),
    })
}

/// A client in words; the view tames them.
pub fn who(client: &api::Client) -> String {
    let nick = client.nick.as_deref().map_or_else(String::new, |nick| format!("{nick}, "));
    format!("{} ({nick}{})", client.id, client.address)
}
