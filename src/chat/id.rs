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
    #[error("a nick has 1 to 32 characters without control or text-direction characters, not {0:?}")]
    Nick(String),
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
        UserId(format!("guest-{id}").into())
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

/// The name a user is seen by: 1–32 characters after NFC and trimming.
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
        if nick.is_empty() || nick.chars().count() > Self::MAX_CHARS || nick.chars().any(is_deceptive) {
            return Err(refuse());
        }
        Ok(Nick(nick.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What two nicks must not share: NFC of the full case folding (Unicode, section 3.13).
    pub fn key(&self) -> String {
        caseless::default_case_fold_str(&self.0).nfc().collect()
    }
}

impl fmt::Display for Nick {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Control characters, line separators, and what changes the direction of text or cannot be seen.
fn is_deceptive(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{061c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
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
    fn nicks_are_trimmed_and_not_deceptive() {
        assert_eq!(Nick::parse("  Ann ").unwrap().as_str(), "Ann");
        for bad in ["", "   ", "a\nb", "a\u{202e}b", "\u{200b}", &"n".repeat(33)] {
            assert!(Nick::parse(bad).is_err(), "{bad:?}");
        }
        assert_eq!(Nick::parse("STRASSE").unwrap().key(), Nick::parse("straße").unwrap().key());
        assert_eq!(Nick::parse("e\u{301}").unwrap(), Nick::parse("é").unwrap());
    }

    proptest! {
        #[test]
        fn parsing_twice_changes_nothing(text in "\\PC{0,40}") {
            if let Ok(nick) = Nick::parse(&text) {
                prop_assert_eq!(Nick::parse(nick.as_str()).unwrap(), nick);
            }
            if let Ok(room) = RoomName::parse(&text) {
                prop_assert_eq!(RoomName::parse(room.as_str()).unwrap(), room);
            }
        }
    }
}
