//! What each command asks the daemon, and how its answer is shown.

use std::io::{self, BufRead, Read, Write};
use std::time::{Duration, Instant, SystemTime};

use clap::CommandFactory;
use serde_json::{Map, Value, json};

use super::args::{self, Cli, Command};
use super::client::{self, Daemon};
use super::columns::{Cell, Column, USUAL};
use super::failure::Failure;
use super::output::{DOUBTFUL, GOOD, Output, Table, or_dash};
use super::text::{age, bytes, harmless};
use super::{backup, drain, log_level, moderation, rooms};
use crate::control::places::Environment;
use crate::control::protocol::{self as api};

/// The most that the daemon puts in order.
const SORTED_MOST: u64 = 1000;
/// A certificate that ends sooner than this is pointed at.
const CERTIFICATE_SOON: Duration = Duration::from_secs(14 * 24 * 3600);

pub fn run(cli: &Cli) -> Result<(), Failure> {
    let mut out = Output::standard(cli.global.json);
    let connect = || -> Result<Daemon, Failure> {
        let path = client::find(&Environment::of_process(), cli.global.socket.as_deref())?;
        Daemon::connect(&path, cli.global.timeout)
    };
    match &cli.command {
        Command::Status => status(&mut connect()?, &mut out),
        Command::List(list) => self::list(list, &mut connect()?, &mut out),
        Command::Show { id } => show(*id, &mut connect()?, &mut out),
        Command::Kick(kick) => super::kick::kick(kick, &connect, &mut out),
        Command::Drain(drain) => drain::drain(drain, &mut connect()?, &mut out),
        Command::Resume => drain::resume(&mut connect()?, &mut out),
        Command::Notice(notice) => self::notice(notice, &connect, &mut out),
        Command::Rooms { stored } => rooms::list(*stored, &mut connect()?, &mut out),
        Command::Room(args::Room::Show { room }) => rooms::show(room, &mut connect()?, &mut out),
        Command::Room(args::Room::Close { room, reason }) => {
            rooms::close(room, reason.as_deref(), &mut connect()?, &mut out)
        }
        Command::Room(args::Room::Purge { room, yes }) => rooms::purge(room, *yes, &connect, &mut out),
        Command::History(history) => rooms::history(history, &mut connect()?, &mut out),
        Command::Delete { room, seq } => rooms::delete(room, *seq, &mut connect()?, &mut out),
        Command::Ban(ban) => moderation::ban(ban, &connect, &mut out),
        Command::Mute(mute) => moderation::mute(mute, &mut connect()?, &mut out),
        Command::Backup { file, force } => backup::run(file, *force, &connect, &mut out),
        Command::Token(token) => moderation::token(token, &mut connect()?, &mut out),
        Command::Events(events) => self::events(events, &mut connect()?, &mut out),
        Command::Top(top) => super::top::run(top, &cli.global),
        Command::Reload { tls } => reload(*tls, &mut connect()?, &mut out),
        Command::LogLevel { level } => log_level::run(level.as_deref(), &mut connect()?, &mut out),
        Command::Tls => tls(&mut connect()?, &mut out),
        Command::Stats(stats) => super::stats::stats(stats, &mut connect()?, &mut out),
        Command::Ping => ping(&mut connect()?, &mut out),
        Command::Version => version(connect(), &mut out),
        Command::Completions { shell } => completions(shell, &mut out),
        Command::Man => {
            out.raw(super::man::page().as_bytes())?;
            out.flush()
        }
    }
}

pub(super) fn control(method: &str) -> String {
    format!("{}.{method}", api::CONTROL)
}

fn status(daemon: &mut Daemon, out: &mut Output) -> Result<(), Failure> {
    let status: api::Status = daemon.call(&control("Status"), api::Nothing {})?;
    if out.json {
        return out.document(&status);
    }
    if !out.terminal {
        let until = status.certificate_until.clone().unwrap_or_default();
        return out.pairs(&[
            ("version", harmless(&status.version)),
            ("pid", status.pid.to_string()),
            ("state", harmless(&status.state)),
            ("since", harmless(&status.since)),
            ("clients", status.clients.to_string()),
            ("clients_max", status.clients_max.to_string()),
            ("users", status.users.to_string()),
            ("rooms", status.rooms.to_string()),
            ("messages", status.messages.to_string()),
            ("messages_per_second", status.messages_per_second.to_string()),
            ("certificate_until", harmless(&until)),
            ("listen", harmless(&status.listen.join(","))),
            ("config", harmless(status.config.as_deref().unwrap_or_default())),
            ("bans", status.bans.to_string()),
            ("mutes", status.mutes.to_string()),
            ("history_store", harmless(&status.history.store)),
            ("history_path", harmless(status.history.path.as_deref().unwrap_or_default())),
            ("history_state", harmless(&status.history.state)),
            ("history_why", harmless(status.history.why.as_deref().unwrap_or_default())),
            ("history_since", harmless(status.history.since.as_deref().unwrap_or_default())),
            ("history_commits", status.history.commits.to_string()),
            ("history_entries", status.history.entries.to_string()),
            ("history_refused", status.history.refused.to_string()),
            ("history_waiting", status.history.waiting.to_string()),
            ("history_bytes", status.history.bytes.to_string()),
            ("drain_matched", drain::number(&status.drain, |drain| drain.matched)),
            ("drain_left", drain::number(&status.drain, |drain| drain.left)),
            ("drain_until", harmless(status.drain.as_ref().map_or("", |drain| &drain.until))),
        ]);
    }
    let state = match &status.drain {
        Some(drain) => format!("{}: {}", harmless(&status.state), drain::progress(drain)),
        None => harmless(&status.state),
    };
    let state = out.styled(&state, if state == "serving" { GOOD } else { DOUBTFUL });
    let up = elapsed(&status.since).map_or_else(String::new, |up| format!("{}, ", age(up.as_secs_f64())));
    let certificate = match &status.certificate_until {
        None => "none: no listener uses TLS".to_owned(),
        Some(until) => {
            let left = left(until);
            let text = format!("until {} ({})", harmless(until), left_in_words(left));
            if left.is_none_or(|left| left < CERTIFICATE_SOON) { out.styled(&text, DOUBTFUL) } else { text }
        }
    };
    out.pairs(&[
        ("wschat", format!("{}, pid {}", harmless(&status.version), status.pid)),
        ("state", state),
        ("up", format!("{up}since {}", harmless(&status.since))),
        ("clients", format!("{} of at most {}", status.clients, status.clients_max)),
        ("users", status.users.to_string()),
        ("rooms", status.rooms.to_string()),
        ("messages", format!("{}, now {:.1} a second", status.messages, status.messages_per_second)),
        ("history", history(&status.history, out)),
        ("moderation", format!("{} bans, {} mutes", status.bans, status.mutes)),
        ("certificate", certificate),
        ("listening", if status.listen.is_empty() { "-".into() } else { harmless(&status.listen.join(", ")) }),
        ("config", status.config.as_deref().map_or_else(|| "none: everything at its default".into(), harmless)),
    ])
}

/// The store on one line.
fn history(history: &api::HistoryStore, out: &Output) -> String {
    let place = match (history.store.as_str(), &history.path) {
        ("none", _) => "nothing is kept".to_owned(),
        (store, None) => format!("in {}", harmless(store)),
        (store, Some(path)) => format!("{}, {}, {}", harmless(store), harmless(path), bytes(history.bytes)),
    };
    match &history.why {
        None => place,
        Some(why) => {
            let since = history.since.as_deref().and_then(elapsed);
            let since = since.map_or_else(String::new, |since| format!(" for {}", age(since.as_secs_f64())));
            let refused = history.refused;
            let trouble = format!("messages are refused{since} ({refused} by now): {}", harmless(why));
            format!("{}; {place}", out.styled(&trouble, DOUBTFUL))
        }
    }
}

fn elapsed(since: &str) -> Option<Duration> {
    humantime::parse_rfc3339(since).ok()?.elapsed().ok()
}

/// `None`: it is over.
fn left(until: &str) -> Option<Duration> {
    humantime::parse_rfc3339(until).ok()?.duration_since(SystemTime::now()).ok()
}

fn left_in_words(left: Option<Duration>) -> String {
    left.map_or_else(|| "it has ended".into(), |left| format!("{} left", age(left.as_secs_f64())))
}

fn list(list: &args::List, daemon: &mut Daemon, out: &mut Output) -> Result<(), Failure> {
    let columns = if list.columns.is_empty() { USUAL.to_vec() } else { list.columns.clone() };
    // What is sorted must be here as a whole first; all else is shown as it comes.
    let (limit, sort, descending) = match (list.sort, list.limit) {
        (None, limit) => (limit, None, None),
        // The daemon knows the first few without telling of all the others.
        (Some(sort), Some(limit)) if limit <= SORTED_MOST && sort.column.daemon_sorts() => {
            (Some(limit), Some(sort.column.name().to_owned()), Some(sort.descending))
        }
        (Some(_), _) => (None, None, None),
    };
    let request = api::ListClients { filter: list.filter.to_wire(), limit, count: list.count, sort, descending };
    let mut pages = daemon.stream(&control("ListClients"), request)?;

    if list.count {
        let mut matched = 0;
        while let Some(page) = pages.next::<api::Clients>()? {
            matched = page.matched;
        }
        return if out.json { out.document(&json!({"count": matched})) } else { out.pairs_count(matched) };
    }

    let mut rows = Rows::new(columns, !list.columns.is_empty());
    match list.sort {
        None => {
            while let Some(page) = pages.next::<api::Clients>()? {
                rows.show(out, &page.clients)?;
            }
        }
        Some(sort) => {
            let mut all = Vec::new();
            while let Some(page) = pages.next::<api::Clients>()? {
                all.extend(page.clients);
            }
            all.sort_by(|a, b| {
                let order = sort.column.of(a).order(&sort.column.of(b));
                // Those that are alike stay in the order of their ids.
                if sort.descending { order.reverse() } else { order }
            });
            all.truncate(list.limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX)));
            rows.show(out, &all)?;
        }
    }
    rows.end(out)
}

impl Output {
    fn pairs_count(&mut self, count: u64) -> Result<(), Failure> {
        self.line(&count.to_string())?;
        self.flush()
    }
}

/// The rows of `list`, as JSON or as a table, as they come.
struct Rows {
    columns: Vec<Column>,
    /// The JSON rows have these columns alone.
    chosen: bool,
    table: Table,
    shown: bool,
}

impl Rows {
    fn new(columns: Vec<Column>, chosen: bool) -> Self {
        let table = Table::new(columns.iter().map(|column| column.name()));
        Rows { columns, chosen, table, shown: false }
    }

    fn show(&mut self, out: &mut Output, clients: &[api::Client]) -> Result<(), Failure> {
        if !out.json {
            let rows: Vec<Vec<Cell>> =
                clients.iter().map(|client| self.columns.iter().map(|column| column.of(client)).collect()).collect();
            return self.table.rows(out, &rows);
        }
        for client in clients {
            out.raw(if self.shown { b"," } else { b"{\"clients\":[" })?;
            self.shown = true;
            match self.chosen {
                true => out.fragment(&self.members(client))?,
                false => out.fragment(client)?,
            }
        }
        out.flush()
    }

    fn members(&self, client: &api::Client) -> Map<String, Value> {
        let Ok(Value::Object(mut all)) = serde_json::to_value(client) else { return Map::new() };
        let chosen = |column: &Column| Some((column.name().to_owned(), all.remove(column.name())?));
        self.columns.iter().filter_map(chosen).collect()
    }

    fn end(self, out: &mut Output) -> Result<(), Failure> {
        if out.json {
            out.raw(if self.shown { b"]}\n" } else { b"{\"clients\":[]}\n" })?;
        }
        out.flush()
    }
}

fn show(id: u64, daemon: &mut Daemon, out: &mut Output) -> Result<(), Failure> {
    let shown: api::OneClient = daemon.call(&control("ShowClient"), api::ShowClient { id })?;
    if out.json {
        return out.document(&shown);
    }
    let terminal = out.terminal;
    let value = |column: Column| match (terminal, column.of(&shown.client)) {
        (true, cell) => cell.for_people(),
        (false, cell) => cell.for_programs(),
    };
    let columns = <Column as clap::ValueEnum>::value_variants();
    let pairs: Vec<(&str, String)> = columns.iter().map(|column| (column.name(), value(*column))).collect();
    out.pairs(&pairs)
}

pub(super) fn connections(count: u64) -> String {
    format!("{count} connection{}", if count == 1 { "" } else { "s" })
}

pub(super) fn confirm(question: &str) -> Result<(), Failure> {
    eprint!("{question} [y/N] ");
    // Without the question on the screen the answer would still be one.
    let _ = io::stderr().flush();
    let mut answer = String::new();
    io::stdin().lock().take(64).read_line(&mut answer).map_err(Failure::Input)?;
    match answer.trim().to_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(Failure::NotConfirmed),
    }
}

fn notice(
    notice: &args::Notice,
    connect: &dyn Fn() -> Result<Daemon, Failure>,
    out: &mut Output,
) -> Result<(), Failure> {
    let text = match notice.text.as_str() {
        "-" => {
            let mut bytes = Vec::new();
            // A little more than is taken, so that too much is refused and not cut.
            let most = api::NOTICE_MAX as u64 + 2;
            io::stdin().lock().take(most).read_to_end(&mut bytes).map_err(Failure::Input)?;
            if bytes.last() == Some(&b'\n') {
                bytes.pop();
            }
            bytes
        }
        text => text.as_bytes().to_vec(),
    };
    if text.len() > api::NOTICE_MAX || text.trim_ascii().is_empty() {
        return Err(Failure::Usage(format!("a notice has 1 to {} bytes of text", api::NOTICE_MAX)));
    }
    let text = String::from_utf8(text).map_err(|_| Failure::Usage("a notice is text in UTF-8".into()))?;
    let target = api::Target {
        everyone: (notice.room.is_none() && notice.user.is_none() && notice.client.is_none()).then_some(true),
        room: notice.room.clone(),
        user: notice.user.clone(),
        client: notice.client,
    };
    let request = api::Notice { target, text, level: notice.level.clone() };
    let noticed: api::Noticed = connect()?.call(&control("Notice"), request)?;
    let (matched, done) = (noticed.matched, noticed.delivered);
    match out.json {
        true => out.document(&json!({"matched": matched, "done": done, "failed": []}))?,
        false => {
            out.line(&format!("shown to {done} of {}", connections(matched)))?;
            out.flush()?;
        }
    }
    match matched {
        0 if notice.allow_empty => Ok(()),
        0 => Err(Failure::Nothing("nobody it is for is here".into())),
        _ if done < matched => Err(Failure::Partly { done, matched }),
        _ => Ok(()),
    }
}

fn events(events: &args::Events, daemon: &mut Daemon, out: &mut Output) -> Result<(), Failure> {
    let filter = api::EventFilter {
        user: events.filter.user.clone(),
        nick: events.filter.nick.clone(),
        ip: events.filter.ip.clone(),
        room: events.filter.room.clone(),
        dialect: events.filter.dialect.clone(),
    };
    let request = api::Watch { types: events.types.clone(), filter };
    let mut stream = daemon.stream(&control("Events"), request)?;
    let mut next = stream.next::<api::Watched>()?;
    if out.terminal && !out.json {
        eprintln!("watching; Ctrl-C ends it");
    }
    while let Some(watched) = next {
        if let Some(event) = &watched.event {
            show_event(event, out)?;
        }
        if let Some(missed) = watched.missed {
            match out.json {
                true => out.document(&json!({"type": "missed", "missed": missed}))?,
                false => eprintln!("wschatctl: {missed} events missed: this end reads too slowly"),
            }
        }
        next = match stream.wait() {
            Err(Failure::Broken) => return Err(Failure::Ended),
            waited => waited?,
        };
    }
    Err(Failure::Ended)
}

fn show_event(event: &api::Event, out: &mut Output) -> Result<(), Failure> {
    if out.json {
        return out.document(event);
    }
    let client = event.client.map(|id| id.to_string());
    let optional = [&client, &event.user, &event.nick, &event.address, &event.room, &event.dialect];
    let [client, user, nick, address, room, dialect] = optional.map(|text| text.as_deref());
    if out.terminal {
        let mut line = format!("{} {:10}", harmless(&event.time), harmless(&event.kind));
        for (name, value) in [("#", client), ("", address), ("", nick), ("user ", user), ("in ", room)] {
            if let Some(value) = value {
                line.push_str(&format!(" {name}{}", harmless(value)));
            }
        }
        if !event.detail.is_empty() {
            line.push_str(&format!(": {}", harmless(&event.detail)));
        }
        out.line(&line)?;
    } else {
        let cells = [Some(event.time.as_str()), Some(&event.kind), client, user, nick, address, room, dialect];
        let mut line: Vec<String> = cells.iter().map(|cell| cell.map(harmless).unwrap_or_default()).collect();
        line.push(harmless(&event.detail));
        out.line(&line.join("\t"))?;
    }
    out.flush()
}

fn reload(tls_only: bool, daemon: &mut Daemon, out: &mut Output) -> Result<(), Failure> {
    let reloaded: api::Reloaded = daemon.call(&control("Reload"), api::Reload { tls_only })?;
    if out.json {
        return out.document(&reloaded);
    }
    let mut lines: Vec<String> = Vec::new();
    lines.extend(reloaded.changed.iter().map(|key| format!("changed: {}", harmless(key))));
    if reloaded.certificate {
        lines.push("changed: a new certificate is in force".into());
    }
    lines.extend(reloaded.needs_restart.iter().map(|key| format!("needs a restart: {}", harmless(key))));
    if lines.is_empty() {
        lines.push("read again; nothing has changed".into());
    }
    for line in lines {
        out.line(&line)?;
    }
    out.flush()
}

fn tls(daemon: &mut Daemon, out: &mut Output) -> Result<(), Failure> {
    let tls: api::Tls = daemon.call(&control("Tls"), api::Nothing {})?;
    if out.json {
        return out.document(&tls);
    }
    let Some(certificate) = tls.certificate else {
        eprintln!("wschatctl: no certificate is in force: no listener uses TLS");
        return Ok(());
    };
    let left = left(&certificate.until);
    let mut until = harmless(&certificate.until);
    if out.terminal {
        until = format!("{until} ({})", left_in_words(left));
        if left.is_none_or(|left| left < CERTIFICATE_SOON) {
            until = out.styled(&until, DOUBTFUL);
        }
    }
    let between = if out.terminal { ", " } else { "," };
    let mut pairs = vec![
        ("names", harmless(&certificate.names.join(between))),
        ("issuer", harmless(&certificate.issuer)),
        ("from", harmless(&certificate.from)),
        ("until", until),
        ("fingerprint", harmless(&certificate.fingerprint)),
        ("source", harmless(&certificate.source)),
    ];
    if let Some(renewal) = &certificate.renewal {
        pairs.push(("renewed_by", harmless(&renewal.directory)));
        pairs.push(("renewed_for", harmless(&renewal.names.join(between))));
        pairs.push(("renewed_at", renewal.next.as_deref().map_or("now".into(), harmless)));
        if let (Some(failed), Some(error)) = (&renewal.failed, &renewal.error) {
            pairs.push(("failures", renewal.failures.to_string()));
            pairs.push(("failed_at", harmless(failed)));
            let error = harmless(error);
            pairs.push(("error", if out.terminal { out.styled(&error, DOUBTFUL) } else { error }));
        }
    }
    out.pairs(&pairs)
}

fn ping(daemon: &mut Daemon, out: &mut Output) -> Result<(), Failure> {
    let begun = Instant::now();
    let _: api::Nothing = daemon.call(&control("Ping"), api::Nothing {})?;
    let took = begun.elapsed().as_secs_f64();
    if out.json {
        return out.document(&json!({"ok": true, "seconds": took}));
    }
    out.line(&format!("ok, {}", age(took)))?;
    out.flush()
}

/// Without a daemon there is still this command's own version.
fn version(daemon: Result<Daemon, Failure>, out: &mut Output) -> Result<(), Failure> {
    let ours = env!("CARGO_PKG_VERSION");
    let asked = daemon.and_then(|mut daemon| {
        daemon.call::<_, api::ServiceInfo>(&format!("{}.GetInfo", api::SERVICE), api::Nothing {})
    });
    let theirs = asked.as_ref().ok().map(|info| info.version.as_str());
    if out.json {
        return out.document(&json!({"wschatctl": ours, "wschat": theirs}));
    }
    if let Err(why) = &asked {
        eprintln!("wschatctl: {why}");
    }
    out.pairs(&[("wschatctl", ours.into()), ("wschat", or_dash(theirs))])
}

fn completions(shell: &str, out: &mut Output) -> Result<(), Failure> {
    let mut command = Cli::command();
    let mut script = Vec::new();
    let name = command.get_name().to_owned();
    match shell.parse::<clap_complete::Shell>() {
        Ok(shell) => clap_complete::generate(shell, &mut command, name, &mut script),
        Err(why) => return Err(Failure::Usage(why)),
    }
    out.raw(&script)?;
    out.flush()
}
