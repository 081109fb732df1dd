//! Names and numbers of the chat: connections, rooms, users, nicks.
//!
//! Each type can only hold what PROTOCOL.md allows; text becomes one of them by parsing, once.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use unicode_normalization::UnicodeNormalization;
use wildmatch::WildMatch;

/// One WebSocket connection. Numbers start at 1 and are never used twice while the daemon runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ConnId(pub u64);

impl fmt::Display for ConnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A room's short number inside this process, for the workers' member lists. Never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RoomId(pub u32);

/// The place of a stored event in its room's stream: from 1, without holes. 0 means "none".
pub type Seq = u64;

/// Why a name cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NameError {
    #[error("a room's name has 1 to 64 letters, digits, '.', '_' or '-', not {0:?}")]
    Room(String),
    #[error("a nick has 1 to 32 characters, not {0:?}")]
    Nick(String),
    #[error("a nick may not have the character U+{:04X}, which cannot be seen or deceives", u32::from(*.0))]
    NickChar(char),
    #[error("a nick may not begin with the mark U+{:04X}, which belongs onto a letter", u32::from(*.0))]
    NickMark(char),
    #[error("the nick {0:?} is the server's own: it speaks by that name")]
    NickReserved(String),
    #[error("a glob of rooms has 1 to 1024 bytes")]
    Glob,
    #[error("a user's id has 1 to 128 bytes without control characters")]
    User,
}

/// A room's name: 1–64 letters, digits, `.`, `_`, `-`, of any script, in NFC.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct RoomName(Arc<str>);

impl RoomName {
    /// The most characters a name may have.
    pub const MAX_CHARS: usize = 64;

    pub fn parse(text: &str) -> Result<Self, NameError> {
        // Four bytes a character at the most, and a little for what NFC composes.
        let refuse = || NameError::Room(text.chars().take(Self::MAX_CHARS + 1).collect());
        if text.len() > Self::MAX_CHARS * 16 {
            return Err(refuse());
        }
        let name: String = text.nfc().collect();
        let mut count = 0;
        for c in name.chars() {
            count += 1;
            let joins = unicode_normalization::char::is_combining_mark(c) && count > 1;
            if !(c.is_alphanumeric() || joins || matches!(c, '.' | '_' | '-')) {
                return Err(refuse());
            }
        }
        if count == 0 || count > Self::MAX_CHARS {
            return Err(refuse());
        }
        Ok(RoomName(name.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RoomName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<'de> Deserialize<'de> for RoomName {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        RoomName::parse(&text).map_err(serde::de::Error::custom)
    }
}

/// Which rooms: `*` stands for any characters, `?` for one; all else for itself, in NFC.
#[derive(Clone, Debug, PartialEq)]
pub struct RoomGlob(WildMatch);

impl RoomGlob {
    /// More bytes than any name has are refused.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        if text.is_empty() || text.len() > RoomName::MAX_CHARS * 16 {
            return Err(NameError::Glob);
        }
        Ok(RoomGlob(WildMatch::new(&text.nfc().collect::<String>())))
    }

    pub fn matches(&self, room: &RoomName) -> bool {
        self.0.matches(room.as_str())
    }

    /// Can there be a room that this text, as a glob, matches? What a room's name cannot have, or too
    /// much of it, is a mistake of whoever wrote it.
    pub fn is_possible(text: &str) -> bool {
        // Each `?` is one character, each `*` none: the shortest name it matches, or one more.
        let name = |star: &str| text.replace('*', star).replace('?', "x");
        RoomName::parse(&name("")).is_ok() || RoomName::parse(&name("x")).is_ok()
    }
}

/// Who a person is across connections: 1–128 bytes. Guests are `guest-<id>`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct UserId(Arc<str>);

impl UserId {
    pub const MAX_BYTES: usize = 128;

    pub fn parse(text: &str) -> Result<Self, NameError> {
        if text.is_empty() || text.len() > Self::MAX_BYTES || text.chars().any(char::is_control) {
            return Err(NameError::User);
        }
        Ok(UserId(text.into()))
    }

    /// The user of a guest's id.
    pub fn guest(id: &str) -> Self {
        UserId(format!("{GUEST}{id}").into())
    }

    /// Is it named as guests are? No token may name such a one.
    pub fn is_guest(&self) -> bool {
        self.0.starts_with(GUEST)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<'de> Deserialize<'de> for UserId {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        UserId::parse(&text).map_err(serde::de::Error::custom)
    }
}

impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The name a user is seen by: 1–32 characters after NFC and trimming. None that cannot be seen or
/// deceives (zero width joiners and variation selector 16 belong to emoji, and pass only behind a
/// symbol), and not the daemon's own name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub struct Nick(Arc<str>);

impl Nick {
    pub const MAX_CHARS: usize = 32;

    pub fn parse(text: &str) -> Result<Self, NameError> {
        let refuse = || NameError::Nick(text.chars().take(Self::MAX_CHARS + 1).collect());
        // Long before NFC costs anything: no 32 characters need this many bytes.
        if text.len() > Self::MAX_CHARS * 16 {
            return Err(refuse());
        }
        let nick: String = text.trim().nfc().collect();
        let nick = nick.trim();
        let mut before = None;
        if let Some(mark) = nick.chars().next().filter(|c| unicode_normalization::char::is_combining_mark(*c)) {
            return Err(NameError::NickMark(mark));
        }
        for c in nick.chars() {
            // Inside emoji they join and colour, anywhere else they only hide.
            let part_of_emoji =
                matches!(c, ZWJ | VS16) && before.is_some_and(|c| matches!(c, ZWJ | VS16) || is_symbol(c));
            if is_deceptive(c) && !part_of_emoji {
                return Err(NameError::NickChar(c));
            }
            before = Some(c);
        }
        if nick.is_empty() || nick.chars().count() > Self::MAX_CHARS {
            return Err(refuse());
        }
        let nick = Nick(nick.into());
        let key = nick.key();
        // Where a line begins with its speaker and a colon, what comes before one must not be ours.
        if RESERVED.contains(&key.split(':').next().unwrap_or_default().trim_end()) {
            return Err(NameError::NickReserved(nick.as_str().to_owned()));
        }
        Ok(nick)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What two nicks must not share: NFKC of the full case folding, as for a compatibility caseless
    /// match (Unicode, section 3.13, D146), so that neither case nor width tells two apart. Spaces count
    /// as one, and what only joins emoji not at all.
    pub fn key(&self) -> String {
        let seen: String = self.0.nfd().filter(|c| !matches!(*c, ZWJ | VS16)).collect();
        let once: String = caseless::default_case_fold_str(&seen).nfkd().collect();
        let twice: String = caseless::default_case_fold_str(&once).nfkc().collect();
        twice.split_whitespace().collect::<Vec<_>>().join(" ")
    }
}

impl fmt::Display for Nick {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What guests' ids begin with.
const GUEST: &str = "guest-";
/// Keys of the names by which the daemon itself speaks in the text dialect.
const RESERVED: [&str; 3] = ["system", "系统", "系统通知"];
/// The zero width joiner: makes one picture of several.
const ZWJ: char = '\u{200d}';
/// Variation selector 16: what stands before it is to be shown as a picture.
const VS16: char = '\u{fe0f}';

/// Control characters, separators of lines, what changes the direction of text, and what cannot be
/// seen or means nothing: all of Default_Ignorable_Code_Point (Unicode, section 5.21), the annotations
/// between lines, the empty Braille pattern, private use, and what is no character.
fn is_deceptive(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{00ad}' | '\u{034f}' | '\u{061c}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}'
            | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{2800}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}'
            // Private use: looks as somebody's font has it.
            | '\u{e000}'..='\u{f8ff}' | '\u{f0000}'..='\u{10ffff}'
            | '\u{fdd0}'..='\u{fdef}'
            | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
        // The last two of each plane are no characters (Unicode, section 23.7), as U+FDD0 to U+FDEF.
        || u32::from(c) & 0xfffe == 0xfffe
}

/// What a reason may not have: it is shown to people on one line, behind words of the daemon's own and
/// in operators' terminals. Control characters, separators of lines, and what turns the direction of
/// text until it is turned back.
pub fn breaks_a_line(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Can it be a part of an emoji? No letter, digit or mark of any script, and nothing of ASCII.
fn is_symbol(c: char) -> bool {
    !c.is_ascii()
        && !c.is_alphanumeric()
        && !c.is_whitespace()
        && !unicode_normalization::char::is_combining_mark(c)
        && !is_deceptive(c)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn rooms_take_any_script_and_no_spaces() {
        for good in ["lobby", "大厅", "a.b_c-9", "हिन्दी", &"x".repeat(64)] {
            assert!(RoomName::parse(good).is_ok(), "{good}");
        }
        for bad in ["", "a b", "a/b", "#a", "\u{301}a", &"x".repeat(65), "a\0"] {
            assert!(RoomName::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_glob_that_no_room_can_match_is_known() {
        for good in ["*", "?", "team-*", "大?", "a", "*\u{301}", &format!("{}*", "x".repeat(64))] {
            assert!(RoomGlob::is_possible(good), "{good:?}");
        }
        for bad in ["", "a b", "team/*", "\u{301}a", &"?".repeat(65), &format!("{}*", "x".repeat(65))] {
            assert!(!RoomGlob::is_possible(bad), "{bad:?}");
        }
    }

    #[test]
    fn nicks_are_trimmed_and_not_deceptive() {
        assert_eq!(Nick::parse("  Ann ").unwrap().as_str(), "Ann");
        for bad in ["", "   ", "a\nb", "a\u{202e}b", "\u{200b}", &"n".repeat(33)] {
            assert!(Nick::parse(bad).is_err(), "{bad:?}");
        }
        assert_eq!(Nick::parse("e\u{301}").unwrap(), Nick::parse("é").unwrap());
    }

    #[test]
    fn what_looks_the_same_has_one_key() {
        let key = |text: &str| Nick::parse(text).unwrap().key();
        let same = [
            ("STRASSE", "straße"),
            ("Ann", "Ａｎｎ"),
            ("ΣΑΣ", "σας"),
            ("ﬁn", "FIN"),
            ("Ann  B", "ann\u{3000}b"),
            ("ｶﾞ", "ガ"),
            ("❤", "❤\u{fe0f}"),
            ("👩💻", "👩\u{200d}💻"),
        ];
        for (one, other) in same {
            assert_eq!(key(one), key(other), "{one} {other}");
        }
        assert_ne!(key("Ann"), key("Änn"));
        assert_ne!(key("か"), key("カ"), "two scripts of one sound are two names");
    }

    #[test]
    fn emoji_are_nicks_and_what_hides_is_not() {
        for good in ["👩\u{200d}💻", "❤\u{fe0f}", "🏳\u{fe0f}\u{200d}🌈", "👍🏽 ok", "Ann\u{a0}B"] {
            assert!(Nick::parse(good).is_ok(), "{good}");
        }
        let hidden = "\u{ad}\u{34f}\u{115f}\u{1160}\u{17b4}\u{180e}\u{200b}\u{200c}\u{200d}\u{202e}\u{2060}\u{2800}\u{3164}\u{fe00}\u{fe0f}\u{feff}\u{ffa0}\u{fff9}\u{e0041}\u{e0100}";
        for c in hidden.chars() {
            let why = Nick::parse(&format!("A{c}nn")).unwrap_err();
            assert_eq!(why, NameError::NickChar(c));
            assert!(why.to_string().contains(&format!("U+{:04X}", u32::from(c))), "{why}");
            assert!(Nick::parse(&format!("Ann{c}")).is_err() && Nick::parse(&c.to_string()).is_err());
        }
        assert!(Nick::parse("1\u{fe0f}").is_err(), "only after what is a picture");
    }

    #[test]
    fn a_nick_is_made_of_characters_and_begins_with_one() {
        for bad in ["\u{301}", " \u{301}ann", "\u{20dd}", "\u{93f}a", "\u{20e3}1"] {
            let why = Nick::parse(bad).unwrap_err();
            assert!(matches!(why, NameError::NickMark(_)), "{bad:?}: {why}");
        }
        for c in "\u{e000}\u{f8ff}\u{f0000}\u{10fffd}\u{fdd0}\u{fdef}\u{fffe}\u{ffff}\u{1fffe}\u{10ffff}".chars() {
            assert_eq!(Nick::parse(&format!("A{c}")), Err(NameError::NickChar(c)));
            assert!(Nick::parse(&c.to_string()).is_err());
        }
        for good in ["q\u{301}", "कि", "ﷺ", "\u{fffd}", "1\u{20e3}"] {
            assert!(Nick::parse(good).is_ok(), "{good:?}");
        }
    }

    #[test]
    fn nobody_takes_the_name_of_the_daemon() {
        for bad in [
            "System",
            "SYSTEM",
            "Ｓｙｓｔｅｍ",
            "系统",
            "系统通知",
            "System: Bob",
            "系统通知：x",
            "system :",
            "System:",
        ] {
            assert!(matches!(Nick::parse(bad), Err(NameError::NickReserved(_))), "{bad}");
        }
        for good in ["Systema", "My System", "系统员"] {
            assert!(Nick::parse(good).is_ok(), "{good}");
        }
    }

    proptest! {
        #[test]
        fn parsing_twice_changes_nothing(text in "\\PC{0,40}") {
            if let Ok(nick) = Nick::parse(&text) {
                prop_assert_eq!(Nick::parse(nick.as_str()).unwrap(), nick.clone());
                // A key is a fixed point: a nick that is somebody's key clashes with theirs.
                if let Ok(again) = Nick::parse(&nick.key()) {
                    prop_assert_eq!(again.key(), nick.key());
                }
            }
            if let Ok(room) = RoomName::parse(&text) {
                prop_assert_eq!(RoomName::parse(room.as_str()).unwrap(), room);
            }
        }
    }
}
