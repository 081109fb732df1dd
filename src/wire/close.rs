//! Every close code of the protocol, in one table: what it is called, what a client does about it,
//! and what is said when there is nothing better to say.

use crate::chat::event::Close;

/// A close frame has 125 bytes of payload, two of them the code (RFC 6455, section 5.5.1).
pub const MAX_REASON: usize = 123;

/// What a client does after a close.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reconnect {
    /// It stays away.
    Stop,
    /// After a random part of `after_ms` from the `bye`, then backing off.
    Spread,
    /// After 1, 2, 4 … 30 s, each times a random number in (0, 1].
    BackOff,
    /// At once.
    Now,
    /// At once, with a new token.
    NewToken,
}

impl Reconnect {
    /// The `reconnect` of `bye`.
    pub fn is_wanted(self) -> bool {
        self != Reconnect::Stop
    }
}

/// One row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CloseCode {
    pub code: u16,
    /// For logs, metrics and operators.
    pub name: &'static str,
    pub reconnect: Reconnect,
    /// What is said when there is nothing better to say.
    pub reason: &'static str,
}

macro_rules! table {
    ($($(#[$doc:meta])* $constant:ident = $code:literal $name:literal $reconnect:ident $reason:literal;)*) => {
        $($(#[$doc])* pub const $constant: CloseCode =
            CloseCode { code: $code, name: $name, reconnect: Reconnect::$reconnect, reason: $reason };)*
        /// The whole table, ascending.
        pub const ALL: &[CloseCode] = &[$($constant),*];
    };
}

table! {
    /// The client asked for it, or answered our close.
    NORMAL = 1000 "normal" Stop "goodbye";
    /// The daemon stops.
    STOPPING = 1001 "stopping" Spread "the server is stopping";
    /// Broken framing, or a frame that is not masked.
    PROTOCOL = 1002 "protocol" Stop "this is not the WebSocket protocol";
    /// A binary message in a chat dialect.
    BINARY = 1003 "binary" Stop "only text messages are understood here";
    /// Text that is not UTF-8.
    NOT_UTF8 = 1007 "not-utf8" Stop "text must be UTF-8";
    /// A message over the limit.
    TOO_BIG = 1009 "too-big" Stop "the message is over the limit";
    /// Our fault.
    INTERNAL = 1011 "internal" BackOff "something went wrong in the server";
    /// An operator drains the daemon.
    DRAINING = 1012 "draining" Spread "the server is being drained";
    OVERLOADED = 1013 "overloaded" BackOff "the server is overloaded";
    /// Token missing or wrong.
    UNAUTHORIZED = 4001 "unauthorized" Stop "a valid token is needed";
    NO_HELLO = 4002 "no-hello" Stop "no hello in time";
    KICKED = 4003 "kicked" Stop "an operator ended this connection";
    BANNED = 4004 "banned" Stop "you are banned";
    /// The user has as many connections as it may, and a newer one.
    REPLACED = 4005 "replaced" Stop "replaced by a newer connection";
    FLOODING = 4101 "flooding" BackOff "too many messages";
    SLOW = 4102 "slow" BackOff "reading too slowly";
    RECONNECT = 4200 "reconnect" Now "please reconnect";
    NO_PONG = 4201 "no-pong" Now "no answer to pings";
    TOKEN_EXPIRED = 4202 "token-expired" NewToken "the token has expired";
}

impl CloseCode {
    /// This close, with the table's own words.
    pub fn close(self) -> Close {
        Close { code: self.code, reason: self.reason.to_owned() }
    }
}

/// The row of a code; for one that an operator has made up, a row that stops the client.
pub fn row(code: u16) -> CloseCode {
    let own = CloseCode { code, name: "custom", reconnect: Reconnect::Stop, reason: "" };
    find(code).copied().unwrap_or(own)
}

/// The row of a code, if it is one of ours.
pub fn find(code: u16) -> Option<&'static CloseCode> {
    ALL.iter().find(|row| row.code == code)
}

/// `text` as a close reason: cut to [`MAX_REASON`] bytes between two characters.
pub fn reason(text: &str) -> String {
    text[..text.floor_char_boundary(MAX_REASON)].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_table_is_in_order_and_every_reason_fits() {
        assert!(ALL.is_sorted_by(|a, b| a.code < b.code));
        assert_eq!(ALL.len(), 19);
        for row in ALL {
            assert!(row.reason.len() <= MAX_REASON && !row.reason.is_empty(), "{row:?}");
            assert_eq!(find(row.code), Some(row));
        }
        assert_eq!(find(1005), None);
        assert_eq!((Close::BANNED, Close::TOKEN_EXPIRED), (BANNED.code, TOKEN_EXPIRED.code), "the chat's own");
    }

    #[test]
    fn only_what_cannot_get_better_stops_a_client() {
        let stop: Vec<u16> = ALL.iter().filter(|row| !row.reconnect.is_wanted()).map(|row| row.code).collect();
        assert_eq!(stop, [1000, 1002, 1003, 1007, 1009, 4001, 4002, 4003, 4004, 4005]);
    }

    proptest! {
        #[test]
        fn a_reason_is_a_prefix_that_fits(text in "\\PC{0,200}") {
            let cut = reason(&text);
            prop_assert!(cut.len() <= MAX_REASON && text.starts_with(&cut));
            prop_assert!(text.len() <= MAX_REASON || cut.len() > MAX_REASON - 4);
        }
    }
}
