//! Closing connections by hand.

use std::io::{self, IsTerminal};

use serde_json::json;

use super::args;
use super::client::Daemon;
use super::commands::{confirm, connections, control};
use super::drain::Line;
use super::failure::Failure;
use super::moderation;
use super::output::Output;
use super::text::harmless;
use crate::control::protocol as api;

pub(super) fn kick(
    kick: &args::Kick,
    connect: &dyn Fn() -> Result<Daemon, Failure>,
    out: &mut Output,
) -> Result<(), Failure> {
    let filter = kick.filter.to_wire();
    if kick.ids.is_empty() && filter.is_empty() && !kick.all {
        return Err(Failure::Usage("whom? Name connections by id, give a filter, or say --all".into()));
    }
    let terminal = io::stdin().is_terminal() && io::stderr().is_terminal();
    if kick.all && !kick.yes && !kick.dry_run && !terminal {
        return Err(Failure::Usage("kicking everyone wants --yes where nobody can be asked".into()));
    }
    if let (Some(_), Some(net), false) = (kick.ban, &kick.filter.ip, kick.dry_run) {
        moderation::confirm_network(net, kick.yes)?;
    }
    let request = api::Kick {
        ids: kick.ids.clone(),
        filter,
        all: kick.all,
        code: kick.code,
        reason: kick.reason.clone(),
        reconnect: kick.reconnect,
        dry_run: kick.dry_run,
        ban: kick.ban.is_some(),
        seconds: kick.ban.and_then(args::Lasts::seconds),
        rate: kick.rate,
    };
    let mut daemon = connect()?;
    let method = control("Kick");
    if terminal && kick.ids.is_empty() && !kick.yes && !kick.dry_run {
        let dry: api::Kicked = daemon.call(&method, api::Kick { dry_run: true, ..request.clone() })?;
        if dry.matched > 1 || kick.all && dry.matched > 0 {
            let ban = if kick.ban.is_some() { " and ban who is behind them" } else { "" };
            confirm(&format!("Close {} connections{ban}?", dry.matched))?;
        }
    }
    let kicked = match kick.rate {
        Some(_) if !kick.dry_run => at_a_pace(&mut daemon, &method, &request)?,
        _ => daemon.call(&method, api::Kick { rate: None, ..request })?,
    };
    if out.json {
        let mut report = json!({"matched": kicked.matched, "done": kicked.done, "failed": kicked.failed});
        if kick.dry_run {
            report["dry_run"] = true.into();
        }
        if kick.ban.is_some() {
            report["bans"] = json!(kicked.bans);
        }
        out.document(&report)?;
    } else {
        match kick.dry_run {
            true => out.line(&format!("would close {}", connections(kicked.matched)))?,
            false => out.line(&format!("closed {} of {}", kicked.done, connections(kicked.matched)))?,
        }
        if !kicked.bans.is_empty() {
            let numbers: Vec<String> = kicked.bans.iter().map(u64::to_string).collect();
            out.line(&format!("in force: ban {}", numbers.join(" ")))?;
        }
        out.flush()?;
        for failed in &kicked.failed {
            eprintln!("wschatctl: connection {}: {}", failed.id, harmless(&failed.error));
        }
    }
    match kicked.matched {
        0 if kick.allow_empty => Ok(()),
        0 if kick.ban.is_some() => Err(Failure::Nothing(
            "nobody matched, and nobody was banned; `wschatctl ban add` bans who is not here".into(),
        )),
        0 => Err(Failure::Nothing("nobody matched; `wschatctl list` shows who is there".into())),
        _ if !kicked.failed.is_empty() => {
            let done = if kick.dry_run { kicked.matched } else { kicked.done };
            Err(Failure::Partly { done, matched: done + kicked.failed.len() as u64 })
        }
        _ => Ok(()),
    }
}

/// The daemon kicks on only for as long as we listen: an operator who interrupts this means it.
fn at_a_pace(daemon: &mut Daemon, method: &str, request: &api::Kick) -> Result<api::Kicked, Failure> {
    let mut answers = daemon.stream(method, request)?;
    let mut line = Line::begin("Ctrl-C leaves the others alone");
    let mut last = None;
    while let Some(kicked) = answers.next::<api::Kicked>()? {
        line.show(&format!("{} of {} closed", kicked.done, connections(kicked.matched)));
        last = Some(kicked);
    }
    last.ok_or(Failure::Broken)
}
