//! Where the log goes: to the journal with fields where systemd reads our stderr, and as readable
//! text to anything else. Levels are duties: error, an operator must act; warn, something is
//! degraded; info, lifecycle and what operators change; debug, one connection.
//!
//! A message is a sentence that says everything a person needs; the fields are for filters
//! (`journalctl CLIENT=17`) and are not repeated where text is written.

use std::io::{self, IsTerminal};
use std::os::fd::AsFd;

use nix::sys::stat::fstat;
use tracing_journald::{Priority, PriorityMappings};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::format::debug_fn;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry};

use crate::config::Level;

/// Changes the level while the daemon runs.
#[derive(Clone)]
pub struct LogLevel(reload::Handle<LevelFilter, Registry>);

impl LogLevel {
    pub fn set(&self, level: Level) {
        // It can only fail when the subscriber is gone, which lives as long as the process.
        let _ = self.0.reload(filter(level));
    }

    /// The one in force.
    pub fn get(&self) -> Level {
        let now = self.0.clone_current();
        Level::ALL.into_iter().find(|level| Some(filter(*level)) == now).unwrap_or_default()
    }
}

/// Begins to log. To be called once.
pub fn start(level: Level) -> LogLevel {
    let (filter, handle) = reload::Layer::new(filter(level));
    let sink: Box<dyn Layer<_> + Send + Sync> = match journal() {
        Some(layer) => Box::new(layer),
        None => {
            let colour = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
            let text = tracing_subscriber::fmt::layer().with_writer(io::stderr).with_ansi(colour).with_target(false);
            Box::new(text.fmt_fields(debug_fn(|writer, field, value| match field.name() {
                "message" => write!(writer, "{value:?}"),
                _ => Ok(()),
            })))
        }
    };
    tracing_subscriber::registry().with(filter).with(sink).init();
    LogLevel(handle)
}

/// The journal's layer, where our stderr is the journal.
fn journal() -> Option<tracing_journald::Layer> {
    if !is_journal(&std::env::var("JOURNAL_STREAM").ok()?, io::stderr()) {
        return None;
    }
    // Fields under their own names: CLIENT, USER, ADDRESS, ROOM.
    let layer = tracing_journald::layer().ok()?;
    // The priorities of the same names, so that `journalctl -p info` shows what the level info does.
    // Of itself the layer calls info "notice" and debug "info".
    let priorities = PriorityMappings {
        info: Priority::Informational,
        debug: Priority::Debug,
        trace: Priority::Debug,
        ..PriorityMappings::new()
    };
    let layer = layer.with_priority_mappings(priorities);
    Some(layer.with_field_prefix(None).with_syslog_identifier("wschat".into()))
}

/// `$JOURNAL_STREAM` is "device:inode" of the stream to the journal (systemd.exec(5)).
fn is_journal(stream: &str, stderr: impl AsFd) -> bool {
    let Some((device, inode)) = stream.split_once(':') else { return false };
    fstat(stderr).is_ok_and(|is| device.parse() == Ok(is.st_dev) && inode.parse() == Ok(is.st_ino))
}

/// Is our stderr the journal?
pub fn in_use() -> bool {
    std::env::var("JOURNAL_STREAM").is_ok_and(|stream| is_journal(&stream, io::stderr()))
}

fn filter(level: Level) -> LevelFilter {
    match level {
        Level::Error => LevelFilter::ERROR,
        Level::Warn => LevelFilter::WARN,
        Level::Info => LevelFilter::INFO,
        Level::Debug => LevelFilter::DEBUG,
        Level::Trace => LevelFilter::TRACE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_journal_is_known_by_device_and_inode() {
        let file = tempfile::tempfile().unwrap();
        let is = fstat(&file).unwrap();
        assert!(is_journal(&format!("{}:{}", is.st_dev, is.st_ino), &file));
        assert!(!is_journal(&format!("{}:{}", is.st_dev, is.st_ino + 1), &file));
        assert!(!is_journal("nonsense", &file));
    }
}
