//! Standard output: JSON, aligned columns on a terminal, tabs when piped.

use std::io::{self, BufWriter, IsTerminal, StdoutLock, Write};

use anstream::{AutoStream, ColorChoice};
use clap::builder::styling::{AnsiColor, Style};
use serde::Serialize;

use super::columns::Cell;
use super::failure::Failure;
use super::text::{harmless, harmless_json, width};

pub const HEADING: Style = Style::new().bold();
pub const GOOD: Style = AnsiColor::Green.on_default();
pub const DOUBTFUL: Style = AnsiColor::Yellow.on_default();

/// Where the answer goes.
pub struct Output<W: Write = BufWriter<StdoutLock<'static>>> {
    to: W,
    /// One JSON document instead of text.
    pub json: bool,
    /// A person reads it.
    pub terminal: bool,
    colour: bool,
}

impl Output {
    pub fn standard(json: bool) -> Self {
        let to = io::stdout().lock();
        let terminal = to.is_terminal();
        let colour = terminal && AutoStream::choice(&io::stdout()) != ColorChoice::Never;
        Output { to: BufWriter::new(to), json, terminal, colour }
    }
}

impl<W: Write> Output<W> {
    pub fn raw(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.to.write_all(bytes).map_err(Failure::Output)
    }

    pub fn line(&mut self, text: &str) -> Result<(), Failure> {
        writeln!(self.to, "{text}").map_err(Failure::Output)
    }

    pub fn flush(&mut self) -> Result<(), Failure> {
        self.to.flush().map_err(Failure::Output)
    }

    /// A whole document on one line.
    pub fn document<T: Serialize>(&mut self, value: &T) -> Result<(), Failure> {
        self.fragment(value)?;
        self.raw(b"\n")?;
        self.flush()
    }

    /// A part of a document.
    pub fn fragment<T: Serialize>(&mut self, value: &T) -> Result<(), Failure> {
        let json = serde_json::to_string(value).map_err(|e| Failure::Garbled(e.to_string()))?;
        self.raw(harmless_json(&json).as_bytes())
    }

    pub fn styled(&self, text: &str, style: Style) -> String {
        match self.colour {
            true => format!("{style}{text}{style:#}"),
            false => text.to_owned(),
        }
    }

    /// Names and values, one pair a line. The values are harmless already.
    pub fn pairs(&mut self, pairs: &[(&str, String)]) -> Result<(), Failure> {
        let widest = pairs.iter().map(|(name, _)| width(name)).max().unwrap_or(0);
        for (name, value) in pairs {
            match self.terminal {
                true => {
                    let heading = self.styled(&pad(name, widest, false), HEADING);
                    self.line(&format!("{heading}  {value}"))?;
                }
                false => self.line(&format!("{name}\t{value}"))?,
            }
        }
        self.flush()
    }
}

fn pad(text: &str, to: usize, right: bool) -> String {
    let space = " ".repeat(to.saturating_sub(width(text)));
    if right { space + text } else { text.to_owned() + &space }
}

/// Rows as they come in: on a terminal the first batch decides the widths, and a later, wider row
/// widens those after it, so that the first rows need not wait for the last.
pub struct Table {
    headings: Vec<String>,
    widths: Vec<usize>,
    begun: bool,
}

impl Table {
    pub fn new(headings: impl IntoIterator<Item = &'static str>) -> Self {
        let headings: Vec<String> = headings.into_iter().map(str::to_uppercase).collect();
        let widths = headings.iter().map(|heading| width(heading)).collect();
        Table { headings, widths, begun: false }
    }

    pub fn rows<W: Write>(&mut self, out: &mut Output<W>, rows: &[Vec<Cell>]) -> Result<(), Failure> {
        if !out.terminal {
            for row in rows {
                let cells: Vec<String> = row.iter().map(Cell::for_programs).collect();
                out.line(&cells.join("\t"))?;
            }
            return out.flush();
        }
        let shown: Vec<Vec<String>> = rows.iter().map(|row| row.iter().map(Cell::for_people).collect()).collect();
        for row in &shown {
            for (widest, cell) in self.widths.iter_mut().zip(row) {
                *widest = (*widest).max(width(cell));
            }
        }
        if !self.begun && !rows.is_empty() {
            self.begun = true;
            // A heading stands where its column's values stand.
            let headings = self.row(&self.headings, &rows[0]);
            let headings = out.styled(&headings, HEADING);
            out.line(&headings)?;
        }
        for (cells, row) in shown.iter().zip(rows) {
            out.line(&self.row(cells, row))?;
        }
        out.flush()
    }

    fn row(&self, cells: &[String], kinds: &[Cell]) -> String {
        let mut line = String::new();
        for (n, (cell, kind)) in cells.iter().zip(kinds).enumerate() {
            if n > 0 {
                line.push_str("  ");
            }
            let right = matches!(kind, Cell::Number(_) | Cell::Bytes(_));
            match n + 1 == cells.len() && !right {
                true => line.push_str(cell),
                false => line.push_str(&pad(cell, self.widths[n], right)),
            }
        }
        line
    }
}

/// An optional text for a pair's value.
pub fn or_dash(text: Option<&str>) -> String {
    text.map_or_else(|| "-".to_owned(), harmless)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(terminal: bool, colour: bool, batches: &[&[Vec<Cell>]]) -> String {
        let mut out = Output { to: Vec::new(), json: false, terminal, colour };
        let mut table = Table::new(["id", "nick", "age"]);
        for batch in batches {
            table.rows(&mut out, batch).unwrap();
        }
        String::from_utf8(out.to).unwrap()
    }

    fn row(id: u64, nick: &str, age: f64) -> Vec<Cell> {
        vec![Cell::Number(id), Cell::Text(nick.into()), Cell::Seconds(age)]
    }

    #[test]
    fn columns_line_up_by_what_a_terminal_shows() {
        let text = shown(true, false, &[&[row(7, "大厅", 5.0), row(12, "ann\u{1b}", 90.0)], &[row(123, "b", 1.0)]]);
        assert_eq!(text, "ID  NICK       AGE\n 7  大厅       5s\n12  ann\\u{1b}  1m30s\n123  b          1s\n");
    }

    #[test]
    fn piped_rows_have_tabs_and_bare_numbers_and_no_headings() {
        assert_eq!(shown(false, false, &[&[row(7, "a\tb", 90.5)]]), "7\ta\\tb\t90.5\n");
        assert_eq!(shown(true, true, &[]), "");
        assert!(shown(true, true, &[&[row(1, "x", 1.0)]]).starts_with("\u{1b}[1mID"));
    }
}
