//! Emptying the daemon, and taking that back.

use std::io::{self, IsTerminal, Write};

use serde_json::{Value, json};

use super::args;
use super::client::Daemon;
use super::commands::{connections, control};
use super::failure::Failure;
use super::output::Output;
use super::text::harmless;
use crate::control::protocol as api;

/// How far something is, on one line of the terminal; nothing where there is none.
pub(super) struct Line {
    terminal: bool,
    /// Something stands on it.
    shown: bool,
}

impl Line {
    /// `hint`: what an interruption does.
    pub(super) fn begin(hint: &str) -> Self {
        let terminal = io::stderr().is_terminal();
        if terminal {
            eprintln!("{hint}");
        }
        Line { terminal, shown: false }
    }

    pub(super) fn show(&mut self, text: &str) {
        if self.terminal {
            self.shown = true;
            // Back to the line's begin, and what stood there erased (ECMA-48, EL).
            eprint!("\r\x1b[K{text}");
            // Whoever cannot see it misses only the progress.
            let _ = io::stderr().flush();
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if self.shown {
            eprintln!();
        }
    }
}

pub(super) fn drain(drain: &args::Drain, daemon: &mut Daemon, out: &mut Output) -> Result<(), Failure> {
    let request = api::Drain { over: Some(api::seconds(drain.over)), notice: drain.notice.clone() };
    let method = control("Drain");
    if !drain.wait {
        let begun: api::Drained = daemon.call(&method, request)?;
        if out.json {
            return report(&begun, out);
        }
        let (left, until) = (connections(begun.left), harmless(&begun.until));
        out.line(&format!("draining: {left} asked to go until {until}; `wschatctl resume` takes it back"))?;
        return out.flush();
    }
    let mut answers = daemon.stream(&method, request)?;
    let mut last: Option<api::Drained> = None;
    {
        let mut line = Line::begin("Ctrl-C ends the waiting and not the drain; `wschatctl resume` ends that");
        loop {
            let next = answers.next::<api::Drained>();
            let Some(now) = next.map_err(|why| unwatched(why, last.is_some()))? else { break };
            line.show(&format!("{} of {} left", now.left, connections(now.matched)));
            last = Some(now);
        }
    }
    let ended = last.ok_or(Failure::Broken)?;
    match out.json {
        true => report(&ended, out)?,
        false => {
            out.line(&format!("{} of {} have gone", ended.done, connections(ended.matched)))?;
            out.flush()?;
        }
    }
    match ended.state.as_str() {
        "draining" => Ok(()),
        "serving" => Err(Failure::TakenBack { done: ended.done, matched: ended.matched }),
        _ => Err(Failure::Refused(api::Refusal::Stopping {})),
    }
}

/// The drain goes on without us.
fn unwatched(why: Failure, begun: bool) -> Failure {
    match why {
        Failure::TimedOut(_) | Failure::Broken if begun => Failure::Unwatched(Box::new(why)),
        why => why,
    }
}

fn report(drained: &api::Drained, out: &mut Output) -> Result<(), Failure> {
    let mut report = json!(drained);
    report["failed"] = Value::Array(Vec::new());
    out.document(&report)
}

pub(super) fn resume(daemon: &mut Daemon, out: &mut Output) -> Result<(), Failure> {
    let resumed: api::Resumed = daemon.call(&control("Resume"), api::Nothing {})?;
    if out.json {
        let api::Resumed { matched, done, left } = resumed;
        return out.document(&json!({"matched": matched, "done": done, "left": left, "failed": []}));
    }
    out.line(&format!("serving again; {} of {} had gone", resumed.done, connections(resumed.matched)))?;
    out.flush()
}

/// For `status` on a terminal.
pub(super) fn progress(drain: &api::DrainState) -> String {
    match drain.left {
        0 => format!("all {} have gone, newcomers are refused; `wschatctl resume` lets them in", drain.matched),
        left => format!("{left} of {} left, until {}", drain.matched, harmless(&drain.until)),
    }
}

/// For `status` in a pipe: empty where there is no drain.
pub(super) fn number(drain: &Option<api::DrainState>, of: fn(&api::DrainState) -> u64) -> String {
    drain.as_ref().map(|drain| of(drain).to_string()).unwrap_or_default()
}
