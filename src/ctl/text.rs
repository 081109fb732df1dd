//! Text for a terminal: strangers' words made harmless, columns that line up, readable units.

use unicode_width::UnicodeWidthStr;

/// A stranger's text without anything that a terminal would obey or that would hide: control
/// characters, line ends and what turns the direction of text appear as escapes.
pub fn harmless(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    for c in text.chars() {
        if is_harmful(c) { clean.extend(c.escape_default()) } else { clean.push(c) }
    }
    clean
}

/// JSON that says the same and holds no such character raw. `serde_json` escapes those below
/// U+0020 only, and outside strings JSON has none of the others.
pub fn harmless_json(json: &str) -> String {
    let mut clean = String::with_capacity(json.len());
    for c in json.chars() {
        if is_harmful(c) { clean.push_str(&format!("\\u{:04x}", u32::from(c))) } else { clean.push(c) }
    }
    clean
}

/// All of them lie in the Basic Multilingual Plane, so that one JSON escape says each.
fn is_harmful(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{061c}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// How many cells of a terminal the text fills.
pub fn width(text: &str) -> usize {
    UnicodeWidthStr::width(text)
}

/// Seconds as people read them, in two units at the most: `480µs`, `12ms`, `7s`, `4m12s`, `3h05m`, `12d03h`.
pub fn age(seconds: f64) -> String {
    if seconds < 0.001 {
        return format!("{:.0}µs", seconds.max(0.0) * 1e6);
    }
    if seconds < 1.0 {
        return format!("{:.0}ms", seconds * 1e3);
    }
    // Saturates: nobody is older than 584 thousand million years.
    let whole = seconds as u64;
    let (minutes, hours, days) = (whole / 60, whole / 3600, whole / 86400);
    match whole {
        0..60 => format!("{whole}s"),
        60..3600 => format!("{minutes}m{:02}s", whole % 60),
        3600..86400 => format!("{hours}h{:02}m", minutes % 60),
        _ => format!("{days}d{:02}h", hours % 24),
    }
}

/// Bytes as people read them.
pub fn bytes(count: u64) -> String {
    match count {
        0..1024 => count.to_string(),
        _ => bytesize::ByteSize::b(count).display().iec_short().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn units_that_fit() {
        for (seconds, text) in [
            (0.00048, "480µs"),
            (0.012, "12ms"),
            (7.9, "7s"),
            (252.0, "4m12s"),
            (11100.0, "3h05m"),
            (1_047_600.0, "12d03h"),
        ] {
            assert_eq!(age(seconds), text);
        }
        assert_eq!((bytes(512).as_str(), bytes(65536).as_str()), ("512", "64.0K"));
    }

    #[test]
    fn a_nick_cannot_paint_the_terminal() {
        assert_eq!(harmless("a\u{1b}[31mb\u{9b}2J\t\n大\u{202e}"), "a\\u{1b}[31mb\\u{9b}2J\\t\\n大\\u{202e}");
        assert_eq!(width(&harmless("大厅")), 4);
    }

    proptest! {
        #[test]
        fn nothing_harmful_is_left(text in any::<String>()) {
            prop_assert!(!harmless(&text).chars().any(is_harmful));
            let json = serde_json::to_string(&text).unwrap();
            let clean = harmless_json(&json);
            prop_assert!(!clean.chars().any(is_harmful));
            prop_assert_eq!(serde_json::from_str::<String>(&clean).unwrap(), text);
        }
    }
}
