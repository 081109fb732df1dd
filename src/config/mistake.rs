//! Mistakes in the configuration file, and how they are shown to the person who made them.

use std::fmt::{self, Write as _};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use thiserror::Error;
use unicode_width::UnicodeWidthChar;

/// The most mistakes that are told at once; a file of noise has no more to say.
pub const MOST_TOLD: usize = 100;

/// Columns of the offending line that are shown, and how many of them before the mistake.
const SHOWN: usize = 100;
const SHOWN_BEFORE: usize = 60;

/// Why a file is no configuration.
#[derive(Debug, Error)]
pub enum Mistakes {
    #[error("cannot read the configuration file {}: {cause}{}", file.display(), advice(cause))]
    Unreadable { file: PathBuf, cause: io::Error },
    #[error("{} is no configuration file: it is longer than {most} bytes", file.display())]
    TooLong { file: PathBuf, most: u64 },
    /// At least one mistake, in the order of the text.
    #[error("{}", told(file, list, *more))]
    Found {
        file: PathBuf,
        /// At most [`MOST_TOLD`].
        list: Vec<Mistake>,
        /// How many there are besides.
        more: usize,
    },
}

impl Mistakes {
    /// `list` has at least one.
    pub(super) fn found(file: &Path, mut list: Vec<Mistake>) -> Self {
        let more = list.len().saturating_sub(MOST_TOLD);
        list.truncate(MOST_TOLD);
        Mistakes::Found { file: file.to_owned(), list, more }
    }
}

/// What to do about a file that cannot be read.
fn advice(cause: &io::Error) -> &'static str {
    match cause.kind() {
        io::ErrorKind::NotFound => "; name another with --config, or write it: an empty file is right",
        io::ErrorKind::PermissionDenied => "; let the user that wschat runs as read it, and its folder",
        _ => "",
    }
}

fn told(file: &Path, list: &[Mistake], more: usize) -> String {
    let mut text = String::new();
    for mistake in list {
        // Writing into a String cannot fail.
        let _ = write!(text, "{}:{mistake}\n\n", file.display());
    }
    let count = list.len() + more;
    let noun = if count == 1 { "mistake" } else { "mistakes" };
    let _ = write!(text, "{}: {count} {noun}", file.display());
    if more > 0 {
        let _ = write!(text, ", of which the first {} are shown", list.len());
    }
    text
}

/// One mistake, with its place. `Display` gives `LINE:COLUMN: what`, the line, a caret and what was
/// expected; the file's name is for the caller to put before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
    /// What is wrong, beginning with the key's full name where there is one.
    pub what: String,
    /// What would be right.
    pub expected: Option<String>,
    /// A nearer guess at what was meant, or what to do.
    pub hint: Option<String>,
    /// The line, or as much of it as can be shown on a terminal, without control characters.
    pub excerpt: String,
    /// Columns of `excerpt` that lie before the offending text, and that it takes (at least 1).
    caret: (usize, usize),
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = self.line.to_string();
        let (before, width) = self.caret;
        writeln!(f, "{}:{}: {}", self.line, self.column, self.what)?;
        writeln!(f, "  {number} | {}", self.excerpt)?;
        write!(f, "  {:1$} | {2:3$}{4}", "", number.len(), "", before, "^".repeat(width))?;
        for (word, text) in [("expected", &self.expected), ("hint:", &self.hint)] {
            if let Some(text) = text {
                write!(f, "\n  {:1$} = {word} {text}", "", number.len())?;
            }
        }
        Ok(())
    }
}

/// A text whose places can be named.
pub(super) struct Source<'t> {
    text: &'t str,
    /// Where each line starts, in bytes; the first at 0.
    starts: Vec<usize>,
}

impl<'t> Source<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        let starts = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Source { text, starts }
    }

    /// The number of lines, and the line (from 0) that holds the byte `at`.
    pub(super) fn lines(&self) -> usize {
        self.starts.len()
    }

    pub(super) fn line_of(&self, at: usize) -> usize {
        // The first line starts at 0, so at least one start is not behind `at`.
        self.starts.partition_point(|start| *start <= at).saturating_sub(1)
    }

    /// A line (from 0) without its end.
    pub(super) fn line(&self, number: usize) -> &'t str {
        let start = self.starts.get(number).copied().unwrap_or(self.text.len());
        let end = self.starts.get(number + 1).map_or(self.text.len(), |next| next - 1);
        self.text.get(start..end).unwrap_or_default().trim_end_matches('\r')
    }

    /// A mistake about the bytes `span`, which may lie anywhere.
    pub(super) fn mistake(&self, span: Range<usize>, what: String) -> Mistake {
        let number = self.line_of(span.start.min(self.text.len()));
        let line = self.line(number);
        let start = span.start.saturating_sub(self.starts[number]).min(line.len());
        let end = span.end.saturating_sub(self.starts[number]).clamp(start, line.len());
        let column = line.char_indices().take_while(|(at, _)| *at < start).count();
        let (excerpt, caret) = excerpt(line, start..end, column);
        Mistake { line: number + 1, column: column + 1, what, expected: None, hint: None, excerpt, caret }
    }
}

/// What of `line` is shown, and where in it the bytes `span` (whose first is character `column`) lie.
fn excerpt(line: &str, span: Range<usize>, column: usize) -> (String, (usize, usize)) {
    let skipped = if column > SHOWN_BEFORE { column - SHOWN_BEFORE / 2 } else { 0 };
    let mut shown = String::new();
    let (mut width, mut before, mut marked) = (0, 0, 0);
    if skipped > 0 {
        shown.push('…');
        (width, before) = (1, 1);
    }
    for (at, c) in line.char_indices().skip(skipped) {
        if width >= SHOWN {
            shown.push('…');
            break;
        }
        let c = match c {
            '\t' => ' ',
            c if c.width().is_none() => char::REPLACEMENT_CHARACTER,
            c => c,
        };
        let columns = c.width().unwrap_or(1);
        width += columns;
        if at < span.start {
            before += columns;
        } else if at < span.end {
            marked += columns;
        }
        shown.push(c);
    }
    (shown.trim_end().to_owned(), (before, marked.max(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_counted_in_characters_and_drawn_in_columns() {
        let text = "a = 1\r\n大厅 = \t\"x\u{1b}y\" # 9\nlast";
        let source = Source::new(text);
        let start = text.find('"').unwrap();
        let mistake = source.mistake(start..start + 5, "wrong".into());
        assert_eq!((mistake.line, mistake.column), (2, 7));
        assert_eq!(mistake.excerpt, "大厅 =  \"x\u{fffd}y\" # 9");
        assert_eq!(mistake.caret, (8, 5));
        assert_eq!(source.mistake(0..1, String::new()).excerpt, "a = 1");
        let end = source.mistake(text.len()..text.len(), String::new());
        assert_eq!((end.line, end.column, end.caret), (3, 5, (4, 1)));
    }

    #[test]
    fn long_lines_are_cut_around_the_mistake() {
        let text = format!("{}?{}", "x".repeat(5000), "y".repeat(5000));
        let mistake = Source::new(&text).mistake(5000..5001, String::new());
        assert_eq!(mistake.column, 5001);
        assert!(mistake.excerpt.chars().count() < 110, "{}", mistake.excerpt);
        assert_eq!(mistake.excerpt.chars().nth(mistake.caret.0), Some('?'));
    }
}
