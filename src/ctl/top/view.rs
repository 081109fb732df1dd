//! The screen of a model: pure, so that tests look at the same cells as a terminal.

use std::time::SystemTime;

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};

use super::cells::{fit, number, tame, width};
use super::columns::{self, Column, Field};
use super::model::{Focus, Mode, Model, Sort};
use super::text;
use crate::control::protocol as api;
use crate::ctl::text::{age, bytes};

/// On less nothing useful can be shown.
pub const LEAST: (u16, u16) = (60, 12);
/// Lines that the numbers at the top may take.
const HEADER: usize = 6;
/// Rows of the list that is not in focus.
const ASIDE: usize = 5;
/// Workers whose load is shown one by one.
const WORKERS: usize = 8;

const BOLD: Style = Style::new().add_modifier(Modifier::BOLD);
const DIM: Style = Style::new().add_modifier(Modifier::DIM);
const REVERSED: Style = Style::new().add_modifier(Modifier::REVERSED);

/// How things are pointed at; without colours by being bold.
#[derive(Clone, Copy)]
pub struct Look {
    pub colour: bool,
    pub now: SystemTime,
}

impl Look {
    fn good(self) -> Style {
        if self.colour { Style::new().fg(Color::Green) } else { Style::new() }
    }

    fn doubtful(self) -> Style {
        if self.colour { Style::new().fg(Color::Yellow) } else { BOLD }
    }
}

/// Lines from the top of an area down, none outside it.
struct Page<'a, 'f> {
    frame: &'a mut Frame<'f>,
    area: Rect,
    next: u16,
}

impl Page<'_, '_> {
    fn line(&mut self, line: Line<'_>) {
        if self.next < self.area.height {
            let (x, y) = (self.area.x, self.area.y + self.next);
            self.frame.buffer_mut().set_line(x, y, &line, self.area.width);
            self.next += 1;
        }
    }

    fn left(&self) -> usize {
        usize::from(self.area.height.saturating_sub(self.next))
    }
}

/// Draws the model. It learns how many rows its list in focus has got.
pub fn draw(model: &mut Model, look: Look, frame: &mut Frame<'_>) {
    let area = frame.area();
    if area.width < LEAST.0 || area.height < LEAST.1 {
        let words = format!("wschatctl top wants {}x{}; this is {}x{}", LEAST.0, LEAST.1, area.width, area.height);
        let mut page = Page { frame, area, next: 0 };
        return page.line(Line::raw(words));
    }
    let wide = usize::from(area.width);
    let body = Rect { height: area.height - 2, ..area };
    let mut page = Page { frame, area: body, next: 0 };
    match &model.mode {
        Mode::Help => paragraph(&mut page, "Keys", text::help(), &mut model.scroll),
        Mode::Details => details(&mut page, model, wide),
        Mode::Ask { back: true, .. } => details(&mut page, model, wide),
        Mode::Lists | Mode::Filter(_) | Mode::Ask { .. } => {
            header(&mut page, model, look, wide);
            lists(&mut page, model, look, wide);
        }
    }
    let bottom = Rect { y: area.y + area.height - 2, height: 2, ..area };
    let mut page = Page { frame, area: bottom, next: 0 };
    page.line(told(model, look, wide));
    page.line(footer(model, wide));
    if let Mode::Filter(line) = &model.mode {
        let shown = width(&typed(line, wide));
        frame.set_cursor_position((area.x + shown.min(wide - 1) as u16, bottom.y + 1));
    }
}

/// Pieces, two spaces apart, on as many lines as they need.
fn flow(page: &mut Page<'_, '_>, wide: usize, most: usize, pieces: Vec<Vec<Span<'static>>>) -> usize {
    let mut lines: Vec<(usize, Vec<Span<'static>>)> = Vec::new();
    for piece in pieces {
        let cells: usize = piece.iter().map(|span| width(&span.content)).sum();
        match lines.last_mut() {
            Some((taken, line)) if *taken + 2 + cells <= wide => {
                line.push(Span::raw("  "));
                line.extend(piece);
                *taken += 2 + cells;
            }
            _ => lines.push((cells, piece)),
        }
    }
    lines.truncate(most);
    let count = lines.len();
    lines.into_iter().for_each(|(_, line)| page.line(Line::from(line)));
    count
}

fn value(label: &str, value: impl Into<String>) -> Vec<Span<'static>> {
    vec![Span::raw(format!("{label} ")), Span::styled(value.into(), BOLD)]
}

fn header(page: &mut Page<'_, '_>, model: &Model, look: Look, wide: usize) {
    let host = Span::styled(fit(&tame(&model.host), width(&tame(&model.host)).min(30), false), BOLD);
    let paused = if model.paused { "paused".to_owned() } else { format!("every {}", text::interval(model.interval)) };
    let paused = Span::styled(paused, if model.paused { look.doubtful() } else { Style::new() });
    let Some(snapshot) = &model.snapshot else {
        flow(page, wide, 1, vec![vec![host], vec![paused], vec![Span::raw("asking the daemon ...")]]);
        return;
    };
    let status = &snapshot.status;
    let rates = &model.meter.rates;
    // Where the daemon cannot be reached, what it said last is no news.
    let state = if model.trouble.is_some() { "unreachable" } else { &status.state };
    let style = if state == "serving" { look.good() } else { look.doubtful() };
    let up = humantime::parse_rfc3339(&status.since).ok().and_then(|since| look.now.duration_since(since).ok());
    let mut pieces = vec![
        vec![host],
        vec![Span::raw(format!("wschat {}", tame(&status.version)))],
        vec![Span::styled(tame(state), style.patch(BOLD))],
    ];
    pieces.extend(up.map(|up| vec![Span::raw(format!("up {}", age(up.as_secs_f64())))]));
    pieces.push(vec![paused]);
    let taken = flow(page, wide, 2, pieces);

    let per_second = |rate: Option<f64>| rate.map(|rate| format!("{}/s", number(rate)));
    let bytes_per_second = |rate: Option<f64>| rate.map(|rate| format!("{}/s", bytes(rate.max(0.0) as u64)));
    let messages = rates.messages.unwrap_or(status.messages_per_second);
    let mut pieces = vec![
        value("clients", format!("{}/{}", status.clients, status.clients_max)),
        value("users", status.users.to_string()),
        value("rooms", status.rooms.to_string()),
        value("messages", format!("{}/s", number(messages))),
    ];
    pieces.extend(per_second(rates.deliveries).map(|rate| value("deliveries", rate)));
    pieces.extend(bytes_per_second(rates.received_bytes).map(|rate| value("in", rate)));
    pieces.extend(bytes_per_second(rates.sent_bytes).map(|rate| value("out", rate)));
    pieces.extend((!rates.workers.is_empty()).then(|| workers(&rates.workers)));
    let taken = taken + flow(page, wide, HEADER - 1 - taken, pieces);
    flow(page, wide, HEADER - taken, history(&status.history, rates.commits, look, wide));
    page.line(Line::raw(""));
}

fn workers(loads: &[f64]) -> Vec<Span<'static>> {
    let percent = |load: f64| format!("{:.0}%", load * 100.0);
    match loads.len() {
        0..=WORKERS => value("load", loads.iter().map(|load| percent(*load)).collect::<Vec<_>>().join(" ")),
        many => {
            let most = loads.iter().copied().fold(0.0, f64::max);
            let mean = loads.iter().sum::<f64>() / many as f64;
            value("load", format!("{} ({many} workers, busiest {})", percent(mean), percent(most)))
        }
    }
}

fn history(log: &api::HistoryStore, commits: Option<f64>, look: Look, wide: usize) -> Vec<Vec<Span<'static>>> {
    if log.store == "none" {
        return vec![value("history", "nothing is kept")];
    }
    let style = if log.state == "good" { look.good() } else { look.doubtful() };
    let state = Span::styled(tame(&log.state), style.patch(BOLD));
    let mut pieces = vec![vec![Span::raw(format!("history {} ", tame(&log.store))), state]];
    pieces.extend(commits.map(|rate| value("commits", format!("{}/s", number(rate)))));
    pieces.push(value("waiting", log.waiting.to_string()));
    if log.refused > 0 {
        pieces.push(value("refused", log.refused.to_string()));
    }
    if log.path.is_some() {
        pieces.push(value("size", bytes(log.bytes)));
    }
    if let Some(why) = &log.why {
        let why = tame(why);
        let cells = width(&why).min(wide);
        pieces.push(vec![Span::styled(fit(&why, cells, false), look.doubtful())]);
    }
    pieces
}

fn lists(page: &mut Page<'_, '_>, model: &mut Model, look: Look, wide: usize) {
    let room_lines = model.rooms.len().max(1) + 2;
    let both = page.left() >= 2 * (ASIDE + 2) || model.focus == Focus::Clients && page.left() >= 10;
    match model.focus {
        Focus::Clients => {
            if both {
                let most = if page.left() >= 14 { ASIDE } else { 1 };
                rooms(page, model, wide, room_lines.min(most + 2));
                page.line(Line::raw(""));
            }
            clients(page, model, look, wide, usize::MAX);
        }
        Focus::Rooms => {
            let lines = if both { page.left() - ASIDE - 3 } else { page.left() };
            rooms(page, model, wide, lines.min(room_lines.max(lines)));
            if both {
                page.line(Line::raw(""));
                clients(page, model, look, wide, ASIDE + 2);
            }
        }
    }
}

/// The first row to show, so that the chosen one is among those that fit.
fn first(chosen: Option<usize>, rows: usize) -> usize {
    chosen.map_or(0, |at| (at + 1).saturating_sub(rows))
}

fn title(words: &str, in_focus: bool) -> Line<'static> {
    Line::styled(words.to_owned(), if in_focus { BOLD } else { Style::new() })
}

fn rooms(page: &mut Page<'_, '_>, model: &mut Model, wide: usize, lines: usize) {
    let in_focus = model.focus == Focus::Rooms;
    let open = model.snapshot.as_ref().map_or(0, |snapshot| snapshot.status.rooms);
    page.line(title(&format!("Rooms, busiest first ({open})"), in_focus));
    page.line(Line::styled(format!(" {}", columns::room_heading(wide - 1)), DIM));
    let rows = lines.saturating_sub(2).min(page.left());
    let chosen = model.rooms.iter().position(|room| in_focus && Some(&room.name) == model.chosen_room.as_ref());
    let skip = first(chosen, rows);
    for (at, room) in model.rooms.iter().enumerate().skip(skip).take(rows) {
        let line = columns::room(room, &model.meter.rates, wide - 1);
        page.line(marked(line, chosen == Some(at), Style::new(), wide));
    }
    if in_focus {
        model.page = rows;
        // The other list keeps its place.
        let shown = model.rooms.len().saturating_sub(skip).min(rows);
        (shown..rows).for_each(|_| page.line(Line::raw("")));
    }
}

/// A row with a sign that does not need colours.
fn marked(line: String, chosen: bool, style: Style, wide: usize) -> Line<'static> {
    let (sign, style) = if chosen { (">", style.patch(REVERSED)) } else { (" ", style) };
    Line::styled(fit(&format!("{sign}{line}"), wide, false), style)
}

fn order(sort: Sort, descending: bool) -> &'static str {
    match (sort, descending) {
        (Sort::Nick | Sort::Address, false) => "from A to Z",
        (Sort::Nick | Sort::Address, true) => "from Z to A",
        (Sort::Idle | Sort::Age, true) => "longest first",
        (Sort::Idle | Sort::Age, false) => "shortest first",
        (_, true) => "most first",
        (_, false) => "least first",
    }
}

fn clients(page: &mut Page<'_, '_>, model: &mut Model, look: Look, wide: usize, lines: usize) {
    let in_focus = model.focus == Focus::Clients;
    let matched = model.snapshot.as_ref().map_or(0, |snapshot| snapshot.matched);
    let listed = model.clients.iter().filter(|row| !row.kept).count() as u64;
    let count = if listed < matched { format!("the first {listed} of {matched}") } else { matched.to_string() };
    let mut words = format!("Clients by {}, {} ({count})", model.sort.name(), order(model.sort, model.descending()));
    if !model.filter.is_empty() {
        words.push_str(&format!(" {}", tame(&model.filter.text)));
    }
    let words = fit(&words, width(&words).min(wide), false);
    page.line(title(&words, in_focus));
    let columns = columns::columns(wide - 1);
    page.line(headings(&columns, model.sort));
    let rows = lines.saturating_sub(2).min(page.left());
    let chosen = model.clients.iter().position(|row| Some(row.client.id) == model.chosen);
    for (at, row) in model.clients.iter().enumerate().skip(first(chosen, rows)).take(rows) {
        let cells: Vec<String> = columns
            .iter()
            .map(|column| fit(&column.field.of(row, &model.meter.rates), column.width, column.field.right()))
            .collect();
        let style = match (row.gone || row.kept, row.client.sendq > 0) {
            (true, _) => DIM,
            (false, true) => look.doubtful(),
            (false, false) => Style::new(),
        };
        page.line(marked(cells.join(" "), chosen == Some(at), style, wide));
    }
    if in_focus {
        model.page = rows;
        if model.clients.is_empty() && model.snapshot.is_some() {
            page.line(Line::raw(if model.filter.is_empty() { " nobody is here" } else { " nobody matches" }));
        }
    }
}

fn headings(columns: &[Column], sort: Sort) -> Line<'static> {
    let mut spans = vec![Span::raw(" ")];
    for (n, Column { field, width }) in columns.iter().enumerate() {
        if n > 0 {
            spans.push(Span::raw(" "));
        }
        let style = if Field::is_of(*field, sort) { REVERSED } else { DIM };
        spans.push(Span::styled(fit(field.title(), *width, field.right()), style));
    }
    Line::from(spans)
}

/// Lines that are scrolled where there are too many.
fn paragraph(page: &mut Page<'_, '_>, heading: &str, lines: Vec<String>, scroll: &mut usize) {
    page.line(Line::styled(heading.to_owned(), BOLD));
    *scroll = (*scroll).min(lines.len().saturating_sub(page.left()));
    let rows = page.left();
    for line in lines.into_iter().skip(*scroll).take(rows) {
        page.line(Line::raw(line));
    }
}

fn details(page: &mut Page<'_, '_>, model: &mut Model, wide: usize) {
    let (heading, lines) = match model.chosen_row() {
        Some(row) => {
            let gone = if row.gone { ", which has gone: what it was" } else { "" };
            (format!("Client {}{gone}", row.client.id), text::details(&row.client, &model.meter.rates, wide))
        }
        None => ("No client is chosen".to_owned(), Vec::new()),
    };
    paragraph(page, &heading, lines, &mut model.scroll);
}

/// The line above the keys: a question, what came of the last key, or what is wrong.
fn told(model: &Model, look: Look, wide: usize) -> Line<'static> {
    let (words, style) = match (&model.mode, &model.message, &model.trouble) {
        (Mode::Ask { who, .. }, ..) => {
            let question = "? y kicks, any other key does not";
            let who = tame(who);
            let cells = width(&who).min(wide.saturating_sub(question.len() + 5));
            (format!("Kick {}{question}", fit(&who, cells, false)), REVERSED.patch(BOLD))
        }
        (_, Some(message), _) => (tame(message), BOLD),
        (_, None, Some(trouble)) => (tame(trouble), look.doubtful()),
        (_, None, None) => (String::new(), Style::new()),
    };
    Line::styled(fit(&words, width(&words).min(wide), false), style)
}

/// The end of what is typed, so that it fits.
fn typed(line: &str, wide: usize) -> String {
    let mut words = format!("filter: {}", tame(line));
    while width(&words) >= wide {
        let Some(first) = words.chars().nth(8) else { break };
        words.replace_range(8..8 + first.len_utf8(), "");
    }
    words
}

fn footer(model: &Model, wide: usize) -> Line<'static> {
    let words = match &model.mode {
        Mode::Filter(line) => return Line::raw(typed(line, wide)),
        Mode::Ask { .. } => "y kick  any other key: no",
        Mode::Help => "Esc back  arrows scroll",
        Mode::Details => "Esc back  k kick  arrows scroll  space pause",
        Mode::Lists if model.focus == Focus::Rooms => {
            "q quit  arrows j p choose  Enter its clients  Tab clients  space pause  ? help"
        }
        Mode::Lists => text::KEYS,
    };
    Line::styled(fit(words, wide, false), DIM)
}
