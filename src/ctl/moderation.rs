//! Bans, mutes and tokens.

use std::io::{self, IsTerminal};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use serde_json::json;

use super::args::{self, BanTarget};
use super::client::Daemon;
use super::columns::Cell;
use super::commands::{confirm, connections, control};
use super::failure::Failure;
use super::output::{Output, Table};
use super::text::harmless;
use crate::control::protocol::{self as api, Refusal};

pub(super) fn ban(
    ban: &args::Ban,
    connect: &dyn Fn() -> Result<Daemon, Failure>,
    out: &mut Output,
) -> Result<(), Failure> {
    match ban {
        args::Ban::Add { whom, lasts, reason, yes } => {
            if let BanTarget::Ip(net) = whom {
                confirm_network(net, *yes)?;
            }
            let daemon = &mut connect()?;
            let (ip, user) = match whom.clone() {
                BanTarget::Ip(ip) => (Some(ip), None),
                BanTarget::User(user) => (None, Some(user)),
            };
            add_ban(api::AddBan { ip, user, seconds: lasts.seconds(), reason: reason.clone() }, daemon, out)
        }
        args::Ban::List => {
            let bans: api::Bans = connect()?.call(&control("ListBans"), api::Nothing {})?;
            if out.json {
                return out.document(&bans);
            }
            let row = |ban: &api::Ban| {
                let whom = match (&ban.ip, &ban.user) {
                    (Some(ip), _) => format!("ip:{ip}"),
                    (None, user) => format!("user:{}", user.as_deref().unwrap_or_default()),
                };
                vec![Cell::Number(ban.id), Cell::Text(whom), left(ban.left), text(&ban.by), text(&ban.reason)]
            };
            let rows: Vec<Vec<Cell>> = bans.bans.iter().map(row).collect();
            Table::new(["id", "whom", "left", "by", "reason"]).rows(out, &rows)
        }
        args::Ban::Edit(edit) => {
            let changed: api::OneBan = connect()?.call(&control("EditBan"), wish(edit))?;
            if out.json {
                return out.document(&changed);
            }
            out.line(&format!("ban {} {}", changed.ban.id, ends(changed.ban.until.as_deref())))?;
            out.flush()
        }
        args::Ban::Del { ids } => {
            let end =
                |daemon: &mut Daemon, id| daemon.call::<_, api::OneBan>(&control("DeleteBan"), api::Numbered { id });
            let mut daemon = connect()?;
            end_all(ids, "ban", out, |id| end(&mut daemon, id).map(drop))
        }
    }
}

/// Has a ban confirmed that meets many more people than whoever orders it may think.
pub(super) fn confirm_network(net: &str, yes: bool) -> Result<(), Failure> {
    let Some(why) = doubt(net) else { return Ok(()) };
    if yes {
        return Ok(());
    }
    if !(io::stdin().is_terminal() && io::stderr().is_terminal()) {
        return Err(Failure::Usage(format!("{net} {why}; a ban of it wants --yes where nobody can be asked")));
    }
    confirm(&format!("{net} {why}. Ban it?"))
}

/// Why a ban of this network is hardly meant. The whole internet is refused by the daemon.
fn doubt(net: &str) -> Option<&'static str> {
    let net = net.parse::<IpNet>().or_else(|_| net.parse::<IpAddr>().map(IpNet::from)).ok()?;
    // IPv4 inside IPv6 (RFC 4291, section 2.5.5.2) is banned as IPv4.
    let net = match net {
        IpNet::V6(v6) if v6.prefix_len() >= 96 => {
            v6.addr().to_ipv4_mapped().and_then(|v4| IpNet::new(v4.into(), v6.prefix_len() - 96).ok()).unwrap_or(net)
        }
        _ => net,
    };
    let (loopback, least) = match net {
        IpNet::V4(_) => (IpNet::new_assert(Ipv4Addr::new(127, 0, 0, 0).into(), 8), 8),
        IpNet::V6(_) => (IpNet::from(IpAddr::from(Ipv6Addr::LOCALHOST)), 16),
    };
    if net.prefix_len() == 0 {
        None
    } else if net.contains(&loopback) || loopback.contains(&net) {
        Some("has this machine's own addresses, and with them everybody behind a proxy on it that forwards no address")
    } else if net.prefix_len() < least {
        Some("is a large part of the internet")
    } else {
        None
    }
}

fn add_ban(request: api::AddBan, daemon: &mut Daemon, out: &mut Output) -> Result<(), Failure> {
    let banned: api::Banned = daemon.call(&control("AddBan"), request)?;
    if out.json {
        out.document(&banned)?;
    } else {
        out.line(&format!("ban {} is in force; closed {} of {}", banned.id, banned.done, connections(banned.matched)))?;
        out.flush()?;
        for failed in &banned.failed {
            eprintln!("wschatctl: connection {}: {}", failed.id, harmless(&failed.error));
        }
    }
    match banned.failed.is_empty() {
        true => Ok(()),
        false => Err(Failure::Partly { done: banned.done, matched: banned.matched }),
    }
}

pub(super) fn mute(mute: &args::Mute, daemon: &mut Daemon, out: &mut Output) -> Result<(), Failure> {
    match mute {
        args::Mute::Add { whom, room, lasts, reason } => {
            let request = api::AddMute {
                user: whom.clone(),
                room: room.clone(),
                seconds: lasts.seconds(),
                reason: reason.clone(),
            };
            let muted: api::Muted = daemon.call(&control("AddMute"), request)?;
            let (id, matched) = (muted.id, muted.matched);
            if out.json {
                return out.document(&json!({"id": id, "matched": matched, "done": matched, "failed": []}));
            }
            out.line(&format!("mute {id} is in force; it concerns {} now", connections(matched)))?;
            out.flush()
        }
        args::Mute::List => {
            let mutes: api::Mutes = daemon.call(&control("ListMutes"), api::Nothing {})?;
            if out.json {
                return out.document(&mutes);
            }
            let row = |mute: &api::Mute| {
                let room = mute.room.as_ref().map_or(Cell::Absent, |room| text(room));
                let whom = Cell::Text(format!("user:{}", mute.user));
                vec![Cell::Number(mute.id), whom, room, left(mute.left), text(&mute.by), text(&mute.reason)]
            };
            let rows: Vec<Vec<Cell>> = mutes.mutes.iter().map(row).collect();
            Table::new(["id", "whom", "room", "left", "by", "reason"]).rows(out, &rows)
        }
        args::Mute::Edit(edit) => {
            let changed: api::OneMute = daemon.call(&control("EditMute"), wish(edit))?;
            if out.json {
                return out.document(&changed);
            }
            out.line(&format!("mute {} {}", changed.mute.id, ends(changed.mute.until.as_deref())))?;
            out.flush()
        }
        args::Mute::Del { ids } => {
            let end =
                |daemon: &mut Daemon, id| daemon.call::<_, api::OneMute>(&control("DeleteMute"), api::Numbered { id });
            end_all(ids, "mute", out, |id| end(daemon, id).map(drop))
        }
    }
}

fn wish(edit: &args::Edit) -> api::EditSanction {
    api::EditSanction {
        id: edit.id,
        seconds: edit.lasts.and_then(args::Lasts::seconds),
        forever: (edit.lasts == Some(args::Lasts::Forever)).then_some(true),
        reason: edit.reason.clone(),
    }
}

fn ends(until: Option<&str>) -> String {
    until.map_or_else(
        || "is in force until it is ended".into(),
        |until| format!("is in force until {}", harmless(until)),
    )
}

/// Ends each of them; those that are not there are told, and keep nobody from the others.
fn end_all(
    ids: &[u64],
    kind: &str,
    out: &mut Output,
    mut end: impl FnMut(u64) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let (mut done, mut failed) = (0, Vec::new());
    let mut unsaved = None;
    for id in ids.iter().collect::<std::collections::BTreeSet<_>>() {
        match end(*id) {
            Ok(()) => done += 1,
            Err(Failure::Refused(why @ (Refusal::NoSuchBan { .. } | Refusal::NoSuchMute { .. }))) => {
                failed.push(api::Failure { id: *id, error: why.to_string() });
            }
            // It has ended all the same.
            Err(why @ Failure::Refused(Refusal::NotSaved { .. })) => {
                done += 1;
                unsaved = Some(why);
            }
            Err(why) => return Err(why),
        }
    }
    if out.json {
        out.document(&json!({"matched": done, "done": done, "failed": failed}))?;
    } else {
        out.line(&format!("ended {done} {kind}{}", if done == 1 { "" } else { "s" }))?;
        out.flush()?;
        for failed in &failed {
            eprintln!("wschatctl: {}", harmless(&failed.error));
        }
    }
    match (done, unsaved) {
        (_, Some(why)) => Err(why),
        (0, None) => Err(Failure::Nothing(format!("no {kind} was ended"))),
        (done, None) if !failed.is_empty() => Err(Failure::Partly { done, matched: done + failed.len() as u64 }),
        _ => Ok(()),
    }
}

pub(super) fn token(token: &args::Token, daemon: &mut Daemon, out: &mut Output) -> Result<(), Failure> {
    let request = api::MintToken {
        user: token.user.clone(),
        name: token.name.clone(),
        rooms: (!token.rooms.is_empty()).then(|| token.rooms.clone()),
        roles: token.moderator.then(|| vec![api::MODERATOR.to_owned()]),
        seconds: Some(api::seconds(token.lasts)),
    };
    let minted: api::Minted = daemon.call(&control("MintToken"), request)?;
    if out.json {
        return out.document(&minted);
    }
    out.line(&harmless(&minted.token))?;
    out.flush()
}

fn text(text: &str) -> Cell {
    Cell::Text(text.to_owned())
}

/// Absent: without end.
fn left(seconds: Option<f64>) -> Cell {
    seconds.map_or(Cell::Absent, Cell::Seconds)
}

#[cfg(test)]
mod tests {
    use super::doubt;

    #[test]
    fn a_network_that_is_hardly_meant() {
        for net in ["128.0.0.0/1", "192.0.0.0/7", "2000::/15", "::ffff:128.0.0.0/97"] {
            assert!(doubt(net).is_some_and(|why| why.contains("internet")), "{net}");
        }
        for net in ["127.0.0.1", "127.0.0.9/32", "126.0.0.0/7", "::1", "::/64", "::ffff:127.0.0.1", "0.0.0.0/1"] {
            assert!(doubt(net).is_some_and(|why| why.contains("proxy")), "{net}");
        }
        // The first three are refused by the daemon, whatever is said to it.
        for net in ["0.0.0.0/0", "::/0", "::ffff:0:0/96", "10.0.0.0/8", "192.0.2.1", "2001::/16", "2001:db8::1"] {
            assert_eq!(doubt(net), None, "{net}");
        }
    }
}
