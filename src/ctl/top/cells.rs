//! Text as cells of a terminal: strangers' words tamed, cut and filled up to a width.

use unicode_width::UnicodeWidthChar;

use crate::ctl::text::harmless;

/// Marks that stand above and below one letter. Languages need two; more only paint over other lines.
const MARKS: usize = 2;

/// A stranger's text that keeps to its cells: as [`harmless`], and no heaps of marks, nothing that
/// joins characters into one of another width, flags as their two letters.
pub fn tame(text: &str) -> String {
    let mut tamed = String::with_capacity(text.len());
    let mut marks = MARKS;
    for c in harmless(text).chars() {
        match c {
            // Joiners, variation selectors, skin tones, the enclosing key and circles, tags.
            '\u{200c}' | '\u{200d}' | '\u{fe00}'..='\u{fe0f}' | '\u{1f3fb}'..='\u{1f3ff}' => {}
            '\u{20dd}'..='\u{20e4}' | '\u{e0000}'..='\u{e0fff}' => {}
            '\u{1f1e6}'..='\u{1f1ff}' => {
                let letter = u32::from(c) - 0x1f1e6;
                tamed.extend(char::from_u32(u32::from('A') + letter));
                marks = 0;
            }
            c if cells(c) > 0 => {
                tamed.push(c);
                marks = 0;
            }
            c if marks < MARKS => {
                tamed.push(c);
                marks += 1;
            }
            _ => {}
        }
    }
    tamed
}

fn cells(c: char) -> usize {
    c.width().unwrap_or(0)
}

/// How many cells a tamed text fills.
pub fn width(text: &str) -> usize {
    text.chars().map(cells).sum()
}

/// The text in exactly so many cells; what is cut off is told by `~`.
pub fn fit(text: &str, to: usize, right: bool) -> String {
    let wide = width(text);
    if wide <= to {
        let space = " ".repeat(to - wide);
        return if right { space + text } else { text.to_owned() + &space };
    }
    let mut cut = String::new();
    let mut left = to.saturating_sub(1);
    for c in text.chars() {
        match left.checked_sub(cells(c)) {
            Some(rest) => left = rest,
            None => break,
        }
        cut.push(c);
    }
    if to > 0 {
        cut.push('~');
    }
    // Where a wide character did not fit whole.
    cut + &" ".repeat(left)
}

/// A rate or another number in at most five cells.
pub fn number(value: f64) -> String {
    match value {
        v if !v.is_finite() || v < 0.05 => "0".into(),
        v if v < 9.95 => format!("{v:.1}"),
        v if v < 999.5 => format!("{v:.0}"),
        v if v < 9_950.0 => format!("{:.1}K", v / 1e3),
        v if v < 999_500.0 => format!("{:.0}K", v / 1e3),
        v if v < 9_950_000.0 => format!("{:.1}M", v / 1e6),
        v if v < 999_500_000.0 => format!("{:.0}M", v / 1e6),
        v => format!("{:.0}G", v / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_would_break_out_of_its_cells_does_not() {
        assert_eq!(tame("a\u{301}\u{302}\u{303}\u{304}b"), "a\u{301}\u{302}b");
        assert_eq!(tame("\u{301}x"), "x");
        assert_eq!(tame("\u{1f469}\u{200d}\u{1f4bb}\u{1f44d}\u{1f3fd}"), "\u{1f469}\u{1f4bb}\u{1f44d}");
        assert_eq!(tame("\u{1f1e9}\u{1f1ea}"), "DE");
        assert_eq!(tame("a\u{1b}[2Jb\u{202e}c\r\n"), "a\\u{1b}[2Jb\\u{202e}c\\r\\n");
    }

    #[test]
    fn texts_fill_their_cells() {
        assert_eq!(fit("ann", 5, false), "ann  ");
        assert_eq!(fit("7", 3, true), "  7");
        assert_eq!(fit("大厅大厅", 5, false), "大厅~");
        assert_eq!(fit("大厅大厅", 4, false), "大~ ");
        assert_eq!((fit("ann", 1, false).as_str(), fit("ann", 0, false).as_str()), ("~", ""));
    }

    #[test]
    fn numbers_are_short() {
        for (value, text) in [
            (0.0, "0"),
            (0.5, "0.5"),
            (9.97, "10"),
            (12.4, "12"),
            (999.7, "1.0K"),
            (12_345.0, "12K"),
            (2_500_000.0, "2.5M"),
            (4e10, "40G"),
            (f64::NAN, "0"),
        ] {
            assert_eq!(number(value), text);
        }
    }

    proptest! {
        #[test]
        fn a_cell_is_as_wide_as_it_was_meant(text in any::<String>(), to in 0usize..40, right: bool) {
            let fitted = fit(&tame(&text), to, right);
            prop_assert_eq!(width(&fitted), to);
            prop_assert!(!fitted.chars().any(char::is_control));
        }
    }
}
