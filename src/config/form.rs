//! How each kind of value is written in the file: read, written and described in one place.
//!
//! A [`Form`] knows nothing of keys. What it writes it also reads, to the same value. Here are
//! numbers, sizes, durations, rates, words and names; `place` has what names a place.

use std::collections::HashSet;
use std::ops::Range;
use std::time::Duration;

use bytesize::ByteSize;
use toml::Spanned;
use toml::de::DeValue;

use super::Rate;
use crate::chat::id::RoomName;

/// A value as the file has it.
pub(super) type Item<'i> = Spanned<DeValue<'i>>;

/// Why a value, or an element of it, cannot be.
pub(super) struct Wrong {
    pub(super) span: Range<usize>,
    pub(super) what: String,
}

pub(super) trait Form: Send + Sync + 'static {
    type Value: 'static;
    /// The value, or everything that is wrong with it (then `wrong` has grown).
    fn read(&self, item: &Item<'_>, wrong: &mut Vec<Wrong>) -> Option<Self::Value>;
    /// A TOML value.
    fn write(&self, value: &Self::Value) -> String;
    /// What may stand here, as in "expected …".
    fn expected(&self) -> String;
}

/// `text` as a TOML basic string.
pub(super) fn quote(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => quoted.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// `text` quoted for a message, cut where it is long.
pub(super) fn cited(text: &str) -> String {
    let mut short: String = text.chars().take(60).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    quote(&short)
}

/// What a value is, in words: "a text", "an integer".
pub(super) fn sort_of(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

fn wrong_sort(item: &Item<'_>, wanted: &str, wrong: &mut Vec<Wrong>) {
    wrong.push(Wrong { span: item.span(), what: format!("this is {}, not {wanted}", sort_of(item.get_ref())) });
}

/// Reads a text; `read` says why another text cannot be.
pub(super) fn text<T>(
    item: &Item<'_>,
    wrong: &mut Vec<Wrong>,
    read: impl FnOnce(&str) -> Result<T, String>,
) -> Option<T> {
    let Some(text) = item.get_ref().as_str() else {
        wrong_sort(item, "a text in quotes", wrong);
        return None;
    };
    read(text).map_err(|what| wrong.push(Wrong { span: item.span(), what })).ok()
}

/// Reads a list of texts, to the end even where some are wrong.
pub(super) fn texts<T>(
    item: &Item<'_>,
    wrong: &mut Vec<Wrong>,
    mut read: impl FnMut(&str) -> Result<T, String>,
) -> Option<Vec<T>> {
    let DeValue::Array(items) = item.get_ref() else {
        wrong_sort(item, "a list", wrong);
        return None;
    };
    let before = wrong.len();
    let values = items.iter().filter_map(|item| text(item, wrong, &mut read)).collect();
    (wrong.len() == before).then_some(values)
}

pub(super) fn list<T>(values: &[T], write: impl Fn(&T) -> String) -> String {
    format!("[{}]", values.iter().map(write).collect::<Vec<_>>().join(", "))
}

/// `true` or `false`.
pub(super) struct Flag;

impl Form for Flag {
    type Value = bool;

    fn read(&self, item: &Item<'_>, wrong: &mut Vec<Wrong>) -> Option<bool> {
        let flag = item.get_ref().as_bool();
        if flag.is_none() {
            wrong_sort(item, "true or false", wrong);
        }
        flag
    }

    fn write(&self, value: &bool) -> String {
        value.to_string()
    }

    fn expected(&self) -> String {
        "true or false".into()
    }
}

/// Any short text; empty for none.
pub(super) struct Label;

impl Label {
    const MOST: usize = 255;
}

impl Form for Label {
    type Value = Option<String>;

    fn read(&self, item: &Item<'_>, wrong: &mut Vec<Wrong>) -> Option<Option<String>> {
        text(item, wrong, |text| {
            if text.len() > Label::MOST || text.chars().any(char::is_control) {
                return Err(format!("{} is longer than {} bytes or has control characters", cited(text), Label::MOST));
            }
            Ok((!text.is_empty()).then(|| text.to_owned()))
        })
    }

    fn write(&self, value: &Option<String>) -> String {
        quote(value.as_deref().unwrap_or_default())
    }

    fn expected(&self) -> String {
        format!(r#"a text of at most {} bytes, or "" for none"#, Label::MOST)
    }
}

/// A whole number, both ends included.
pub(super) struct Count<N> {
    pub(super) least: N,
    pub(super) most: N,
}

impl<N> Form for Count<N>
where
    N: Copy + Ord + std::fmt::Display + TryFrom<i128> + Send + Sync + 'static,
{
    type Value = N;

    fn read(&self, item: &Item<'_>, wrong: &mut Vec<Wrong>) -> Option<N> {
        let DeValue::Integer(integer) = item.get_ref() else {
            wrong_sort(item, "a whole number", wrong);
            return None;
        };
        // What does not even fit into 128 bits is out of range as well.
        let number = i128::from_str_radix(integer.as_str(), integer.radix()).ok().and_then(|n| N::try_from(n).ok());
        let number = number.filter(|n| (self.least..=self.most).contains(n));
        if number.is_none() {
            wrong.push(Wrong { span: item.span(), what: "this number is out of range".into() });
        }
        number
    }

    fn write(&self, value: &N) -> String {
        value.to_string()
    }

    fn expected(&self) -> String {
        format!("a whole number from {} to {}", self.least, self.most)
    }
}

/// Bytes, such as "64KiB"; both ends included.
pub(super) struct Size {
    pub(super) least: usize,
    pub(super) most: usize,
}

fn write_size(bytes: usize) -> String {
    let units = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    match units.iter().find(|(_, unit)| bytes > 0 && bytes.is_multiple_of(*unit)) {
        Some((name, unit)) => format!("\"{}{name}\"", bytes / unit),
        None => format!("\"{bytes}B\""),
    }
}

impl Form for Size {
    type Value = usize;

    fn read(&self, item: &Item<'_>, wrong: &mut Vec<Wrong>) -> Option<usize> {
        text(item, wrong, |text| {
            // Without its unit a number says too little to a reader.
            let size: ByteSize = match text.parse() {
                Ok(size) if !text.ends_with(|c: char| c.is_ascii_digit()) => size,
                Ok(_) => return Err(format!("{} has no unit (B, KiB, MiB …)", cited(text))),
                Err(_) => return Err(format!("{} is no size", cited(text))),
            };
            usize::try_from(size.as_u64())
                .ok()
                .filter(|size| (self.least..=self.most).contains(size))
                .ok_or_else(|| format!("{} is out of range", cited(text)))
        })
    }

    fn write(&self, value: &usize) -> String {
        write_size(*value)
    }

    fn expected(&self) -> String {
        format!("a size from {} to {}", write_size(self.least), write_size(self.most))
    }
}

/// A duration, such as "25s"; both ends included.
pub(super) struct Time {
    pub(super) least: Duration,
    pub(super) most: Duration,
}

fn write_time(time: Duration) -> String {
    let nanos = time.as_nanos();
    let units = [
        ("d", 86_400_000_000_000),
        ("h", 3_600_000_000_000),
        ("m", 60_000_000_000),
        ("s", 1_000_000_000),
        ("ms", 1_000_000),
        ("us", 1_000),
        ("ns", 1),
    ];
    match units.iter().find(|(_, unit)| nanos > 0 && nanos.is_multiple_of(*unit)) {
        Some((name, unit)) => format!("\"{}{name}\"", nanos / unit),
        None => "\"0s\"".into(),
    }
}

impl Form for Time {
    type Value = Duration;

    fn read(&self, item: &Item<'_>, wrong: &mut Vec<Wrong>) -> Option<Duration> {
        text(item, wrong, |text| {
            let time =
                humantime::parse_duration(text).map_err(|cause| format!("{} is no duration: {cause}", cited(text)))?;
            if (self.least..=self.most).contains(&time) {
                Ok(time)
            } else {
                Err(format!("{} is out of range", cited(text)))
            }
        })
    }

    fn write(&self, value: &Duration) -> String {
        write_time(*value)
    }

    fn expected(&self) -> String {
        format!("a duration from {} to {}", write_time(self.least), write_time(self.most))
    }
}

/// So many a second, minute or hour, such as "10/s", from one an hour to a million a second.
pub(super) struct Speed;

impl Speed {
    const UNITS: [(&str, f64); 3] = [("s", 1.0), ("m", 60.0), ("h", 3600.0)];
    pub(super) const LEAST: f64 = 1.0 / 3600.0;
    pub(super) const MOST: f64 = 1_000_000.0;
}

impl Form for Speed {
    type Value = Rate;

    fn read(&self, item: &Item<'_>, wrong: &mut Vec<Wrong>) -> Option<Rate> {
        text(item, wrong, |text| {
            let refuse = || format!("{} is no rate", cited(text));
            let (number, unit) = text.split_once('/').ok_or_else(refuse)?;
            let (number, unit) = (number.trim(), unit.trim());
            let (_, seconds) = Self::UNITS.into_iter().find(|(name, _)| *name == unit).ok_or_else(refuse)?;
            // Digits and a point alone: no "inf", no "1e9".
            if !number.chars().all(|c| c.is_ascii_digit() || c == '.') {
                return Err(refuse());
            }
            let rate = number.parse::<f64>().map_err(|_| refuse())? / seconds;
            if (Self::LEAST..=Self::MOST).contains(&rate) {
                Ok(Rate(rate))
            } else {
                Err(format!("{} is out of range", cited(text)))
            }
        })
    }

    fn write(&self, value: &Rate) -> String {
        let Rate(rate) = *value;
        for (name, seconds) in Self::UNITS {
            let number = (rate * seconds).round();
            if number >= 1.0 && number / seconds == rate {
                return format!("\"{number}/{name}\"");
            }
        }
        // The shortest digits that read as the same number.
        format!("\"{rate}/s\"")
    }

    fn expected(&self) -> String {
        r#"a rate from "1/h" to "1000000/s": a number, "/" and s, m or h"#.into()
    }
}

/// One of a few words.
pub(super) struct Choice<T: 'static>(pub(super) &'static [(&'static str, T)]);

impl<T: Copy + PartialEq + Send + Sync + 'static> Form for Choice<T> {
    type Value = T;

    fn read(&self, item: &Item<'_>, wrong: &mut Vec<Wrong>) -> Option<T> {
        text(item, wrong, |text| {
            let found = self.0.iter().find(|(word, _)| *word == text);
            found.map(|(_, value)| *value).ok_or_else(|| format!("{} is none of the choices", cited(text)))
        })
    }

    fn write(&self, value: &T) -> String {
        // Each value of such a type has its word; a test over generated configurations holds that.
        quote(self.0.iter().find(|(_, known)| known == value).map_or("", |(word, _)| word))
    }

    fn expected(&self) -> String {
        let words: Vec<String> = self.0.iter().map(|(word, _)| quote(word)).collect();
        match words.split_last() {
            Some((last, others)) if !others.is_empty() => format!("{} or {last}", others.join(", ")),
            _ => words.concat(),
        }
    }
}

/// Rooms' names, at least one, none twice.
pub(super) struct Rooms;

impl Form for Rooms {
    type Value = Vec<RoomName>;

    fn read(&self, item: &Item<'_>, wrong: &mut Vec<Wrong>) -> Option<Vec<RoomName>> {
        let mut seen = HashSet::new();
        let rooms = texts(item, wrong, |text| {
            let room = RoomName::parse(text).map_err(|cause| cause.to_string())?;
            if seen.insert(room.clone()) { Ok(room) } else { Err(format!("{} stands here twice", cited(text))) }
        })?;
        if rooms.is_empty() {
            wrong.push(Wrong { span: item.span(), what: "at least one room is needed".into() });
            return None;
        }
        Some(rooms)
    }

    fn write(&self, value: &Vec<RoomName>) -> String {
        list(value, |room| quote(room.as_str()))
    }

    fn expected(&self) -> String {
        r#"a list of at least one room, such as ["lobby"]; none twice"#.into()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::config) fn read<F: Form>(form: &F, toml: &str) -> Result<F::Value, String> {
        let mut wrong = Vec::new();
        let item = DeValue::parse(toml).unwrap();
        let value = form.read(&item, &mut wrong);
        assert_eq!(value.is_none(), !wrong.is_empty(), "{toml}");
        value.ok_or_else(|| wrong.into_iter().map(|wrong| wrong.what).collect::<Vec<_>>().join("; "))
    }

    #[test]
    fn sizes() {
        let form = Size { least: 1, most: 1 << 30 };
        for (text, bytes) in [
            ("64KiB", 65536),
            ("64KB", 64000),
            ("1.5MiB", 1_572_864),
            ("1 GiB", 1 << 30),
            ("7B", 7),
            ("2MB", 2_000_000),
        ] {
            assert_eq!(read(&form, &quote(text)), Ok(bytes), "{text}");
        }
        for bad in ["0B", "65536", "2GiB", "999999999999999999999EiB", "-1B", "KiB", "", "64 apples", "1e3B"] {
            assert!(read(&form, &quote(bad)).is_err(), "{bad}");
        }
        assert!(read(&form, "65536").unwrap_err().contains("an integer"));
        assert_eq!([write_size(1 << 20), write_size(1000), write_size(0)], ["\"1MiB\"", "\"1000B\"", "\"0B\""]);
    }

    #[test]
    fn times() {
        let form = Time { least: Duration::from_millis(1), most: Duration::from_secs(86400) };
        for (text, millis) in [("5s", 5000), ("2m", 120_000), ("1m 30s", 90_000), ("250ms", 250), ("1d", 86_400_000)] {
            assert_eq!(read(&form, &quote(text)), Ok(Duration::from_millis(millis)), "{text}");
        }
        for bad in ["", "5", "0s", "-5s", "25h", "99999999999999999999y", "18446744073709551615s 1s", "s"] {
            assert!(read(&form, &quote(bad)).is_err(), "{bad}");
        }
        assert_eq!(write_time(Duration::from_secs(90)), "\"90s\"");
        assert_eq!(write_time(Duration::from_secs(2_592_000)), "\"30d\"");
        assert_eq!(write_time(Duration::ZERO), "\"0s\"");
    }

    #[test]
    fn rates() {
        for (text, rate) in [("10/s", 10.0), ("20/m", 20.0 / 60.0), ("0.5/s", 0.5), ("1/h", Speed::LEAST)] {
            assert_eq!(read(&Speed, &quote(text)), Ok(Rate(rate)), "{text}");
            assert_eq!(Speed.write(&Rate(rate)), quote(if text == "0.5/s" { "30/m" } else { text }));
        }
        for bad in ["10", "/s", "0/s", "-1/s", "inf/s", "NaN/s", "1e3/s", "10/d", "1.2.3/s", "1000001/s", "0.5/h"] {
            assert!(read(&Speed, &quote(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn counts_and_rooms() {
        let form = Count { least: 1u32, most: 10 };
        assert_eq!(read(&form, "0x0a"), Ok(10));
        for bad in ["0", "11", "-1", "99999999999999999999999999999999999999999999", "\"5\"", "5.0", "true"] {
            assert!(read(&form, bad).is_err(), "{bad}");
        }
        assert!(read(&Rooms, r#"["lobby", "大厅"]"#).is_ok());
        for bad in ["[]", r#"["a", "a"]"#, r#"["é", "e\u0301"]"#, r#"["a b"]"#, "[5]", "\"lobby\""] {
            assert!(read(&Rooms, bad).is_err(), "{bad}");
        }
    }
}
