//! A call's parameters as the daemon's own types. What cannot be used is refused with its name, its
//! value and what would be right.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use serde_json::Value;

use super::protocol::{self as api, Refusal};
use super::wire::Parameters;
use crate::admin::order::First;
use crate::admin::{DRAIN_MOST, Event, EventKind, Filter, TOKEN_LASTS_MOST};
use crate::chat::event::{Close, Dialect, Level, Target};
use crate::chat::id::{ConnId, Nick, RoomName, UserId, breaks_a_line};
use crate::chat::sanction::BanTarget;
use crate::wire::close::BANNED;

/// Nobody plans further ahead; and a clock can show it.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
/// The length of the prefix in front of addresses of IPv4 inside IPv6 (RFC 4291, section 2.5.5.2).
const MAPPED: u8 = 96;
/// The close code of a kick (PROTOCOL.md, "Closing").
const KICKED: u16 = 4003;
/// The close code that asks a client to come back at once.
const RECONNECT: u16 = 4200;

/// What a kicked client is told.
pub(super) fn close(code: Option<u16>, reason: Option<String>, reconnect: bool, ban: bool) -> Result<Close, Refusal> {
    let code = match (code, reconnect) {
        (None, false) if ban => BANNED.code,
        (Some(code), true) if code != RECONNECT => return Err(bad("code", code, "none: reconnect sends 4200")),
        (_, true) => RECONNECT,
        (None, false) => KICKED,
        // What may stand in a close frame (RFC 6455, section 7.4, and its registry).
        (Some(code @ (1000..=1003 | 1007..=1014 | 3000..=4999)), false) => code,
        (Some(code), false) => return Err(bad("code", code, "1000 to 1003, 1007 to 1014, or 3000 to 4999")),
    };
    let reason = reason.unwrap_or_else(|| match reconnect {
        true => "an operator asks you to reconnect".to_owned(),
        false if ban => BANNED.close().reason,
        false => "kicked by an operator".to_owned(),
    });
    Ok(Close { code, reason: self::reason(Some(reason))? })
}

/// What the people concerned are told; absent is nothing.
pub(super) fn reason(reason: Option<String>) -> Result<String, Refusal> {
    match reason.unwrap_or_default() {
        long if long.len() > api::REASON_MAX => {
            Err(bad("reason", &long, &format!("at most {} bytes, not {}", api::REASON_MAX, long.len())))
        }
        reason => match reason.chars().find(|c| breaks_a_line(*c)) {
            Some(c) => {
                let expected = format!("one line of plain text, without U+{:04X}", u32::from(c));
                Err(bad("reason", reason.escape_debug(), &expected))
            }
            None => Ok(reason),
        },
    }
}

/// How long a ban or a mute lasts.
pub(super) fn lasts(seconds: f64) -> Result<Duration, Refusal> {
    let refused = || bad("seconds", seconds, "more than 0, and no more than 100 years");
    match Duration::try_from_secs_f64(seconds) {
        Ok(lasts) if !lasts.is_zero() && lasts <= LONGEST => Ok(lasts),
        _ => Err(refused()),
    }
}

/// How long a token lasts. Its end is told in whole seconds.
pub(super) fn token_lasts(seconds: f64) -> Result<Duration, Refusal> {
    let refused = || {
        let days = TOKEN_LASTS_MOST.as_secs() / (24 * 3600);
        bad("seconds", seconds, &format!("from 1 second to {days} days"))
    };
    let lasts = Duration::try_from_secs_f64(seconds).map_err(|_| refused())?;
    if (Duration::from_secs(1)..=TOKEN_LASTS_MOST).contains(&lasts) { Ok(lasts) } else { Err(refused()) }
}

/// How many connections are closed each second.
pub(super) fn rate(each_second: f64) -> Result<f64, Refusal> {
    match each_second > 0.0 && each_second <= api::RATE_MAX {
        true => Ok(each_second),
        false => Err(bad("rate", each_second, &format!("more than 0, and no more than {} a second", api::RATE_MAX))),
    }
}

/// Over how long a drain asks people away.
pub(super) fn drain_over(seconds: f64) -> Result<Duration, Refusal> {
    let over = Duration::try_from_secs_f64(seconds).ok().filter(|over| *over <= DRAIN_MOST);
    over.ok_or_else(|| bad("over", seconds, &format!("seconds, from 0 to {}", DRAIN_MOST.as_secs())))
}

/// Whom a ban is for.
pub(super) fn ban_target(ip: Option<String>, user: Option<String>) -> Result<BanTarget, Refusal> {
    match (ip, user) {
        (Some(ip), None) => ban_network("ip", network("ip", &ip)?).map(BanTarget::Net),
        (None, Some(user)) => Ok(BanTarget::User(user_id("user", &user)?)),
        _ => Err(bad("ip", "none or both", "exactly one of ip and user")),
    }
}

/// The network as those who come from it are compared with it; never everybody's.
pub(super) fn ban_network(parameter: &str, net: IpNet) -> Result<IpNet, Refusal> {
    let plain = match net {
        // Addresses of IPv4 as a socket of IPv6 sees them are compared as those of IPv4.
        IpNet::V6(v6) if v6.prefix_len() >= MAPPED => {
            v6.addr().to_ipv4_mapped().map(|v4| (v4, v6.prefix_len() - MAPPED))
        }
        _ => None,
    };
    let plain = plain.and_then(|(v4, prefix)| IpNet::new(v4.into(), prefix).ok()).unwrap_or(net).trunc();
    match plain.prefix_len() {
        0 => Err(bad(parameter, net, "a network that is not the whole internet")),
        _ => Ok(plain),
    }
}

/// The order that `sort` names, of the first `limit`; absent where none is asked for.
pub(super) fn order<K: Copy>(
    name: &str,
    with: &mut Parameters,
    known: &[K],
    as_str: impl Fn(K) -> &'static str,
    limit: Option<u64>,
    most: u64,
) -> Result<Option<First<K>>, Refusal> {
    let descending: Option<bool> = with.take("descending")?;
    let Some(asked) = with.take::<String>(name)? else {
        return match descending {
            Some(descending) => Err(bad("descending", descending, "none without sort")),
            None => Ok(None),
        };
    };
    let Some(key) = known.iter().find(|key| as_str(**key) == asked) else {
        let names: Vec<&str> = known.iter().map(|key| as_str(*key)).collect();
        return Err(bad(name, asked, &names.join(", ")));
    };
    let expected = || format!("1 to {most} together with sort");
    match limit {
        Some(limit) if (1..=most).contains(&limit) => {
            Ok(Some(First { key: *key, descending: descending.unwrap_or(false), most: limit as usize }))
        }
        Some(limit) => Err(bad("limit", limit, &expected())),
        None => Err(bad("limit", "none", &expected())),
    }
}

/// Which connections; absent is all of them.
pub(super) fn filter(value: Option<Value>) -> Result<Filter, Refusal> {
    let mut with = Parameters::inside(value.unwrap_or(Value::Null), "filter", "filter.")?;
    let filter = Filter {
        user: with.take::<String>("user")?.map(|name| user_id("filter.user", &name)).transpose()?,
        nick: with.take::<String>("nick")?.map(|name| nick("filter.nick", &name)).transpose()?,
        ip: with.take::<String>("ip")?.map(|text| network("filter.ip", &text)).transpose()?,
        room: with.take::<String>("room")?.map(|name| room_name("filter.room", &name)).transpose()?,
        dialect: with.take::<String>("dialect")?.map(|name| dialect(&name)).transpose()?,
        older: with.take::<f64>("older")?.map(|limit| duration("filter.older", limit)).transpose()?,
        idle: with.take::<f64>("idle")?.map(|limit| duration("filter.idle", limit)).transpose()?,
        sendq_over: with.take("sendq_over")?,
    };
    with.end()?;
    Ok(filter)
}

/// Which events; all that is set must hold, and an event that lacks it does not match.
#[derive(Debug, Default)]
pub(super) struct EventFilter {
    user: Option<UserId>,
    nick: Option<String>,
    ip: Option<IpNet>,
    room: Option<RoomName>,
    dialect: Option<Dialect>,
}

impl EventFilter {
    pub(super) fn matches(&self, event: &Event) -> bool {
        self.user.as_ref().is_none_or(|user| event.user.as_ref() == Some(user))
            && self.nick.as_ref().is_none_or(|key| event.nick.as_ref().is_some_and(|nick| nick.key() == *key))
            && self.ip.is_none_or(|net| event.address.is_some_and(|address| net.contains(&address)))
            && self.room.as_ref().is_none_or(|room| event.room.as_ref() == Some(room))
            && self.dialect.is_none_or(|dialect| event.dialect == Some(dialect))
    }
}

pub(super) fn event_filter(value: Option<Value>) -> Result<EventFilter, Refusal> {
    let mut with = Parameters::inside(value.unwrap_or(Value::Null), "filter", "filter.")?;
    let filter = EventFilter {
        user: with.take::<String>("user")?.map(|name| user_id("filter.user", &name)).transpose()?,
        nick: with.take::<String>("nick")?.map(|name| nick("filter.nick", &name)).transpose()?.map(|nick| nick.key()),
        ip: with.take::<String>("ip")?.map(|text| network("filter.ip", &text)).transpose()?,
        room: with.take::<String>("room")?.map(|name| room_name("filter.room", &name)).transpose()?,
        dialect: with.take::<String>("dialect")?.map(|name| dialect(&name)).transpose()?,
    };
    with.end()?;
    Ok(filter)
}

/// The text of a notice.
pub(super) fn notice_text(text: String) -> Result<String, Refusal> {
    match text.trim().is_empty() || text.len() > api::NOTICE_MAX {
        true => {
            let expected = format!("1 to {} bytes of text", api::NOTICE_MAX);
            Err(bad("text", format_args!("{} bytes", text.len()), &expected))
        }
        false => Ok(text),
    }
}

pub(super) fn target(value: Value) -> Result<Target, Refusal> {
    let mut with = Parameters::inside(value, "target", "target.")?;
    let everyone: bool = with.take("everyone")?.unwrap_or(false);
    let room: Option<String> = with.take("room")?;
    let user: Option<String> = with.take("user")?;
    let client: Option<u64> = with.take("client")?;
    with.end()?;
    match (everyone, room, user, client) {
        (true, None, None, None) => Ok(Target::Everyone),
        (false, Some(room), None, None) => Ok(Target::Room(room_name("target.room", &room)?)),
        (false, None, Some(user), None) => Ok(Target::User(user_id("target.user", &user)?)),
        (false, None, None, Some(client)) => Ok(Target::Conn(ConnId(client))),
        _ => Err(bad("target", "none or several", "exactly one of everyone: true, room, user and client")),
    }
}

pub(super) fn user_id(parameter: &str, text: &str) -> Result<UserId, Refusal> {
    UserId::parse(text).map_err(|e| bad(parameter, text, &e.to_string()))
}

pub(super) fn room_name(parameter: &str, text: &str) -> Result<RoomName, Refusal> {
    RoomName::parse(text).map_err(|_| bad(parameter, text, "1 to 64 letters, digits, '.', '_' or '-'"))
}

pub(super) fn nick(parameter: &str, text: &str) -> Result<Nick, Refusal> {
    Nick::parse(text).map_err(|_| bad(parameter, text, "1 to 32 characters without control characters"))
}

/// A network, or an address alone.
fn network(parameter: &str, text: &str) -> Result<IpNet, Refusal> {
    let alone = |_| text.parse::<IpAddr>().map(IpNet::from);
    let parsed = text.parse::<IpNet>().or_else(alone);
    parsed.map_err(|_| bad(parameter, text, "an address, or a network such as 192.0.2.0/24"))
}

fn dialect(text: &str) -> Result<Dialect, Refusal> {
    let known = [Dialect::Json, Dialect::Text].into_iter().find(|dialect| dialect.as_str() == text);
    known.ok_or_else(|| bad("filter.dialect", text, "json or text"))
}

fn duration(parameter: &str, limit: f64) -> Result<Duration, Refusal> {
    Duration::try_from_secs_f64(limit).map_err(|_| bad(parameter, limit, "seconds, from 0 up"))
}

pub(super) fn kind(name: &str) -> Result<EventKind, Refusal> {
    let known = EventKind::ALL.into_iter().find(|kind| kind.as_str() == name);
    known.ok_or_else(|| bad("types", name, &EventKind::ALL.map(EventKind::as_str).join(", ")))
}

pub(super) fn bad(parameter: &str, value: impl ToString, expected: &str) -> Refusal {
    Refusal::BadValue { parameter: parameter.into(), value: cut(&value.to_string()), expected: expected.into() }
}

/// A stranger's text at a length that a log and an answer can bear.
pub(super) fn cut(text: &str) -> String {
    text.chars().take(128).collect()
}

pub(super) fn level(name: Option<&str>) -> Result<Level, Refusal> {
    match name {
        None | Some("info") => Ok(Level::Info),
        Some("warn") => Ok(Level::Warn),
        Some(other) => Err(bad("level", other, "info or warn")),
    }
}
