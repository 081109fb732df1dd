//! `wschatctl log-level`.

use super::client::Daemon;
use super::commands::control;
use super::failure::Failure;
use super::output::Output;
use super::text::harmless;
use crate::control::protocol as api;

/// Prints the level in force, after setting it where one is given.
pub(super) fn run(level: Option<&str>, daemon: &mut Daemon, out: &mut Output) -> Result<(), Failure> {
    let level = level.map(str::to_owned);
    let levels: api::LogLevels = daemon.call(&control("LogLevel"), api::LogLevel { level })?;
    if out.json {
        return out.document(&levels);
    }
    out.line(&harmless(&levels.level))?;
    out.flush()?;
    if levels.level != levels.configured {
        let configured = harmless(&levels.configured);
        eprintln!("wschatctl: the configuration says {configured}, which a restart brings back");
    }
    Ok(())
}
