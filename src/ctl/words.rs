//! The words of the command line, each as a type that can only hold what makes sense, or a sentence
//! that says what was expected. Which words belong together is for `args`.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;

use super::args::{BanTarget, FOREVER, Lasts};
use crate::admin::{DRAIN_MOST, TOKEN_LASTS_MOST};
use crate::chat::id::{Nick, RoomGlob, RoomName, UserId, breaks_a_line};
use crate::control::protocol;

pub(super) fn client(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| "expected a connection's number, the first column of wschatctl list".into())
}

pub(super) fn user(text: &str) -> Result<String, String> {
    UserId::parse(text).map(|user| user.to_string()).map_err(|e| e.to_string())
}

pub(super) fn nick(text: &str) -> Result<String, String> {
    Nick::parse(text).map(|nick| nick.to_string()).map_err(|e| e.to_string())
}

pub(super) fn room(text: &str) -> Result<String, String> {
    RoomName::parse(text).map(|room| room.to_string()).map_err(|e| e.to_string())
}

pub(super) fn network(text: &str) -> Result<String, String> {
    match text.parse::<IpNet>().is_ok() || text.parse::<IpAddr>().is_ok() {
        true => Ok(text.to_owned()),
        false => Err("expected an address, or a network such as 192.0.2.0/24".into()),
    }
}

/// As in the configuration a number wants its unit: `1` may have been meant as an hour or a day.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    if text.chars().all(|c| c.is_ascii_digit()) {
        return Err("a duration wants a unit: expected one such as 90s, 10m or \"1h 30m\"".into());
    }
    humantime::parse_duration(text).map_err(|e| format!("{e}: expected a duration such as 90s, 10m or \"1h 30m\""))
}

/// Nothing at all is a time as well.
pub(super) fn drain_over(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        over if over <= DRAIN_MOST => Ok(over),
        _ => Err(format!("expected {} at the most", humantime::format_duration(DRAIN_MOST))),
    }
}

/// `50`, or `50/s`.
pub(super) fn rate(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix("/s").unwrap_or(text).parse::<f64>().ok();
    let expected = || format!("expected how many each second: more than 0, and {} at the most", protocol::RATE_MAX);
    number.filter(|rate| *rate > 0.0 && *rate <= protocol::RATE_MAX).ok_or_else(expected)
}

pub(super) fn notice_text(text: &str) -> Result<String, String> {
    match text.trim().is_empty() || text.len() > protocol::NOTICE_MAX {
        true => Err(format!("a notice has 1 to {} bytes of text", protocol::NOTICE_MAX)),
        false => Ok(text.to_owned()),
    }
}

pub(super) fn some_time(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err("expected more than no time at all".into()),
        some => Ok(some),
    }
}

pub(super) fn lasts(text: &str) -> Result<Lasts, String> {
    match text {
        FOREVER => Ok(Lasts::Forever),
        text => some_time(text).map(Lasts::For).map_err(|e| format!("{e} or \"{FOREVER}\"")),
    }
}

pub(super) fn banned(text: &str) -> Result<BanTarget, String> {
    match text.split_once(':') {
        Some(("ip", net)) => network(net).map(BanTarget::Ip),
        Some(("user", name)) => user(name).map(BanTarget::User),
        _ => Err("expected ip:ADDRESS, ip:NETWORK or user:USER".into()),
    }
}

pub(super) fn muted(text: &str) -> Result<String, String> {
    match text.split_once(':') {
        Some(("user", name)) => user(name),
        _ => Err("expected user:USER".into()),
    }
}

pub(super) fn glob(text: &str) -> Result<String, String> {
    RoomGlob::parse(text).map_err(|e| e.to_string())?;
    match RoomGlob::is_possible(text) {
        true => Ok(text.to_owned()),
        false => Err("no room's name can match it: it has 1 to 64 letters, digits, '.', '_' or '-'".into()),
    }
}

pub(super) fn no_guest(text: &str) -> Result<String, String> {
    let user = UserId::parse(text).map_err(|e| e.to_string())?;
    match user.is_guest() {
        true => Err("only guests' names begin with guest-, and no token may name one".into()),
        false => Ok(user.to_string()),
    }
}

pub(super) fn token_lasts(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        lasts if (Duration::from_secs(1)..=TOKEN_LASTS_MOST).contains(&lasts) => Ok(lasts),
        _ => Err(format!("expected a duration from 1s to {}d", TOKEN_LASTS_MOST.as_secs() / (24 * 3600))),
    }
}

pub(super) fn timeout(text: &str) -> Result<Duration, String> {
    // A clock can be set so far ahead, and no further.
    match duration(text)? {
        limit if (Duration::from_millis(1)..=Duration::from_secs(24 * 3600)).contains(&limit) => Ok(limit),
        _ => Err("expected a duration from 1ms to 24h".into()),
    }
}

pub(super) fn interval(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        interval if (Duration::from_millis(100)..=Duration::from_secs(3600)).contains(&interval) => Ok(interval),
        _ => Err("expected a duration from 100ms to 1h".into()),
    }
}

pub(super) fn size(text: &str) -> Result<u64, String> {
    text.parse::<bytesize::ByteSize>()
        .map(|size| size.as_u64())
        .map_err(|_| "expected a size such as 4096, 64K or 1MiB".into())
}

pub(super) fn reason(text: &str) -> Result<String, String> {
    if let Some(c) = text.chars().find(|c| breaks_a_line(*c)) {
        return Err(format!("expected one line of plain text, without U+{:04X}", u32::from(c)));
    }
    match text.len() {
        0..=protocol::REASON_MAX => Ok(text.to_owned()),
        long => Err(format!("a close frame takes at most {} bytes, this has {long}", protocol::REASON_MAX)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_durations() {
        assert_eq!(size("64K"), Ok(64_000));
        assert_eq!(size("64KiB"), Ok(65_536));
        assert_eq!(size("4096"), Ok(4096));
        assert!(size("lots").is_err());
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        for bare in ["90", "0", "", "99999999999999999999"] {
            assert!(duration(bare).unwrap_err().contains("wants a unit"), "{bare}");
        }
        assert_eq!(duration("1h 30m"), Ok(Duration::from_secs(5400)));
        assert!(duration("soon").is_err() && timeout("0s").is_err());
    }
}
