//! The filter as it is typed: the options of `wschatctl list`, read by the same definition.

use clap::Parser;

use crate::control::protocol as api;
use crate::ctl::args;

/// Characters of a filter that is typed: all options with the longest names there are.
pub const LONGEST: usize = 512;

/// A filter, and how it is written.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Filter {
    pub text: String,
    pub wire: api::Filter,
}

#[derive(Parser)]
#[command(no_binary_name = true, disable_help_flag = true)]
struct Line {
    #[command(flatten)]
    filter: args::Filter,
}

impl Filter {
    /// Of a command line that has been parsed.
    pub fn of(options: &args::Filter) -> Self {
        let wire = options.to_wire();
        let duration = |d: Option<std::time::Duration>| d.map(|d| humantime::format_duration(d).to_string());
        let parts = [
            ("user", wire.user.clone()),
            ("nick", wire.nick.clone()),
            ("ip", wire.ip.clone()),
            ("room", wire.room.clone()),
            ("dialect", wire.dialect.clone()),
            ("older", duration(options.older)),
            ("idle", duration(options.idle)),
            ("sendq-over", wire.sendq_over.map(|bytes| bytes.to_string())),
        ];
        let words = parts.into_iter().filter_map(|(name, value)| Some(format!("--{name} {}", quoted(&value?))));
        Filter { text: words.collect::<Vec<_>>().join(" "), wire }
    }

    pub fn of_room(room: &str) -> Self {
        Filter::of(&args::Filter { room: Some(room.to_owned()), ..args::Filter::default() })
    }

    /// The error is one line that says what was expected.
    pub fn parse(text: &str) -> Result<Self, String> {
        let line = Line::try_parse_from(words(text)?).map_err(|error| {
            let text = error.to_string();
            let first = text.lines().next().unwrap_or_default();
            first.strip_prefix("error: ").unwrap_or(first).to_owned()
        })?;
        Ok(Filter::of(&line.filter))
    }

    pub fn is_empty(&self) -> bool {
        self.wire.is_empty()
    }
}

fn quoted(value: &str) -> String {
    match value.contains([' ', '\'', '"']) {
        true if value.contains('\'') => format!("\"{value}\""),
        true => format!("'{value}'"),
        false => value.to_owned(),
    }
}

/// Split at spaces outside quotes.
fn words(text: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut open = None;
    for c in text.chars() {
        match (open, c) {
            (Some(quote), c) if c == quote => open = None,
            (None, '"' | '\'') => {
                open = Some(c);
                word.get_or_insert_default();
            }
            (None, ' ') => words.extend(word.take()),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    match open {
        Some(quote) => Err(format!("a quote is not closed: {quote}")),
        None => Ok(words),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_typed_is_what_list_takes() {
        let filter = Filter::parse("  --nick 'Ann B' --idle \"1h 30m\" --sendq-over 64K ").unwrap();
        assert_eq!(filter.wire.nick.as_deref(), Some("Ann B"));
        assert_eq!((filter.wire.idle, filter.wire.sendq_over), (Some(5400.0), Some(64_000)));
        assert_eq!(filter.text, "--nick 'Ann B' --idle '1h 30m' --sendq-over 64000");
        assert_eq!(Filter::parse(&filter.text).unwrap(), filter);
        assert_eq!(Filter::parse("").unwrap(), Filter::default());
        assert_eq!(Filter::of_room("tea").text, "--room tea");
    }

    #[test]
    fn a_mistake_is_one_line() {
        for (text, part) in [
            ("--rom x", "--rom"),
            ("ann", "unexpected argument 'ann'"),
            ("--ip nowhere", "expected an address"),
            ("--idle 10", "wants a unit"),
            ("--nick 'x", "not closed"),
            ("--nick", "a value is required"),
        ] {
            let why = Filter::parse(text).unwrap_err();
            assert!(why.contains(part) && !why.contains('\n'), "{text}: {why}");
        }
    }
}
