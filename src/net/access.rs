//! The access log: a line for each connection as it ends, and for each that was refused.
//!
//! It owns the form of the lines, which other programs read (fail2ban does), and how many of those
//! that anybody can cause are written. Whether they are wanted at all is the configuration's.
//!
//! ```text
//! access: ended ADDRESS CODE BY client=… dialect=… user=… seconds=… in=… in_bytes=… out=… out_bytes=… reason="…"
//! access: refused ADDRESS CODE BY client=… …
//! access: refused ADDRESS STATUS WHY
//! access: refused ADDRESS tls WHY
//! ```
//!
//! What a stranger chooses stands behind everything that is ours, and has no space and no line's end.

use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use super::conn::ABNORMAL;
use crate::hub::link::End;
use crate::peer::Peer;

/// Lines a second about those who were never let in. journald takes about three times as many from
/// one service before it drops lines of any kind.
const REFUSED_PER_SECOND: u32 = 100;

/// Where a connection comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    Client(IpAddr),
    /// A trusted proxy that has not said for whom it speaks: nobody to be blamed.
    Proxy(IpAddr),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Client(address) => address.fmt(f),
            Origin::Proxy(address) => write!(f, "proxy:{address}"),
        }
    }
}

/// How many lines have been written in this second.
#[derive(Debug, Default)]
pub struct AccessLog(Mutex<Second>);

#[derive(Debug, Default)]
struct Second {
    /// Since the daemon started.
    number: u64,
    written: u32,
    left_out: u64,
}

impl AccessLog {
    /// One that was answered by an HTTP status instead of a WebSocket, or that spoke no TLS.
    pub fn refused(&self, from: Origin, status: impl fmt::Display, why: &'static str, now: Duration) {
        if self.may_write(now) {
            let (address, code) = (from.to_string(), status.to_string());
            tracing::info!(access = "refused", address, code, why, "access: refused {address} {code} {why}");
        }
    }

    /// A WebSocket that is gone. `welcomed`: it was let into the chat, or was an echo.
    pub fn ended(&self, peer: &Peer, end: &End, welcomed: bool, now: Duration) {
        if !welcomed && !self.may_write(now) {
            return;
        }
        let access = if end.ours && !welcomed { "refused" } else { "ended" };
        let closed_by = match end {
            End { ours: true, .. } => "server",
            End { code: ABNORMAL, .. } => "nobody",
            _ => "client",
        };
        let (client, code, dialect) = (peer.id.0, end.code, peer.dialect.as_str());
        let user = peer.user.get().map_or_else(|| "-".to_owned(), |user| word(user.as_str()));
        let from = if peer.proxied { Origin::Proxy(peer.address) } else { Origin::Client(peer.address) };
        let address = from.to_string();
        let reason = quoted(&end.reason);
        let seconds = peer.age(SystemTime::now()).as_secs_f64();
        let counters = &peer.counters;
        let (frames_in, bytes_in) = (counters.frames_in.load(Relaxed), counters.bytes_in.load(Relaxed));
        let (frames_out, bytes_out) = (counters.frames_out.load(Relaxed), counters.bytes_out.load(Relaxed));
        tracing::info!(
            access,
            address,
            code,
            closed_by,
            client,
            dialect,
            user,
            seconds,
            frames_in,
            bytes_in,
            frames_out,
            bytes_out,
            // A field of the journal may hold anything; in the line it is quoted.
            reason = &*end.reason,
            "access: {access} {address} {code} {closed_by} client={client} dialect={dialect} user={user} \
             seconds={seconds:.3} in={frames_in} in_bytes={bytes_in} out={frames_out} out_bytes={bytes_out} \
             reason={reason}"
        );
    }

    /// Tells what an earlier second has left out, once it is over.
    pub fn tell_left_out(&self, now: Duration) {
        let left_out = {
            let mut second = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if second.number == now.as_secs() {
                return;
            }
            std::mem::replace(&mut *second, Second { number: now.as_secs(), ..Second::default() }).left_out
        };
        if left_out > 0 {
            tracing::info!(
                access = "left_out",
                count = left_out,
                "access: {left_out} more were refused within a second and have no line"
            );
        }
    }

    /// Whether one more line about somebody who was not let in may be written, and counts it.
    fn may_write(&self, now: Duration) -> bool {
        self.tell_left_out(now);
        let mut second = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if second.written >= REFUSED_PER_SECOND {
            second.left_out += 1;
            return false;
        }
        second.written += 1;
        true
    }
}

/// A stranger's text in quotes, on one line.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '\'' => quoted.push(c),
            c => quoted.extend(c.escape_debug()),
        }
    }
    quoted.push('"');
    quoted
}

/// A stranger's name as one word that cannot be taken for anything else.
fn word(text: &str) -> String {
    let mut word = String::new();
    for c in text.chars() {
        match c {
            c if c.is_whitespace() || c == '=' => word.extend(c.escape_unicode()),
            c => word.extend(c.escape_debug()),
        }
    }
    if word.is_empty() { "-".into() } else { word }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_flood_has_its_lines_each_second_and_no_more() {
        let access = AccessLog::default();
        let at = Duration::from_millis;
        let written = |from: u64| (0..1000).filter(|n| access.may_write(at(from + n / 2))).count();
        assert_eq!(written(0), REFUSED_PER_SECOND as usize);
        assert_eq!(access.0.lock().unwrap().left_out, 1000 - u64::from(REFUSED_PER_SECOND));
        assert_eq!(written(1000), REFUSED_PER_SECOND as usize);
        access.tell_left_out(at(2000));
        assert_eq!(access.0.lock().unwrap().left_out, 0);
    }

    #[test]
    fn a_proxy_is_no_address() {
        let address: IpAddr = "192.0.2.7".parse().unwrap();
        assert_eq!(Origin::Client(address).to_string(), "192.0.2.7");
        assert_eq!(Origin::Proxy(address).to_string(), "proxy:192.0.2.7");
    }

    proptest! {
        #[test]
        fn a_reason_ends_with_its_quote_and_with_its_line(reason in any::<String>()) {
            let quoted = quoted(&reason);
            let inner = quoted.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap();
            prop_assert!(!inner.chars().any(|c| c.is_control() || c == '\u{2028}'), "{quoted:?}");
            let mut escaped = false;
            for c in inner.chars() {
                prop_assert!(c != '"' || escaped, "{quoted:?}");
                escaped = c == '\\' && !escaped;
            }
        }

        #[test]
        fn a_name_is_one_word(name in any::<String>()) {
            let word = word(&name);
            prop_assert!(!word.is_empty());
            prop_assert!(!word.chars().any(|c| c.is_whitespace() || c.is_control() || c == '=' || c == '\u{202e}'), "{word:?}");
            if name.chars().all(|c| c.is_ascii_alphanumeric()) && !name.is_empty() {
                prop_assert_eq!(word, name);
            }
        }
    }
}
