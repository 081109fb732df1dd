//! Why a command failed, what to do next, and the exit status that says so.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;

use super::text::harmless;
use crate::control::protocol::Refusal;

/// The exit statuses; those from 64 on are those of sysexits(3).
pub mod status {
    pub const DONE: u8 = 0;
    pub const PARTLY: u8 = 1;
    pub const USAGE: u8 = 64;
    pub const NOTHING: u8 = 65;
    pub const UNREACHABLE: u8 = 69;
    pub const INTERNAL: u8 = 70;
    pub const NOT_CREATED: u8 = 73;
    pub const TIMED_OUT: u8 = 75;
    pub const NOT_PERMITTED: u8 = 77;
    pub const CONFIGURATION: u8 = 78;

    /// What each says, for the manual page; tests find each of them in the documents.
    pub const ALL: &[(u8, &str)] = &[
        (DONE, "All done. Also when the reader of standard output goes away."),
        (PARTLY, "Done in part, or not confirmed; or in force, but not saved. drain --wait: the drain was taken back."),
        (USAGE, "The command line is wrong, or the daemon refuses a value."),
        (
            NOTHING,
            "Nothing matched: no such connection, room, message, ban or mute, no drain to take back. --allow-empty makes \
             it 0 for kick and notice. An empty list is no error.",
        ),
        (UNREACHABLE, "The daemon cannot be reached."),
        (INTERNAL, "Something inside failed."),
        (NOT_CREATED, "backup: the file is there already, or cannot be written."),
        (
            TIMED_OUT,
            "The daemon did not answer in time or is too busy to, the history cannot be read, stored or copied, or \
             there are too many bans.",
        ),
        (NOT_PERMITTED, "Not permitted."),
        (
            CONFIGURATION,
            "reload: the configuration or the certificate is bad; nothing has changed. token: no secret is configured. \
             backup: the history is not kept on disk.",
        ),
    ];
}

#[derive(Debug, Error)]
pub enum Failure {
    #[error("{0}")]
    Usage(String),
    #[error("{0}")]
    Nothing(String),
    #[error("only {done} of {matched} done")]
    Partly { done: u64, matched: u64 },
    #[error("the drain was taken back when {done} of {matched} had gone")]
    TakenBack { done: u64, matched: u64 },
    #[error("the drain goes on, unless the daemon stops: {0}")]
    Unwatched(Box<Failure>),
    #[error("nothing was done: not confirmed")]
    NotConfirmed,
    #[error("no daemon has a socket at {}; start it: `sudo systemctl start wschat` (or run `wschat`)", places(.0))]
    NoSocket(Vec<PathBuf>),
    #[error("no daemon listens at {}; start it: `sudo systemctl start wschat` (or run `wschat`)", .0.display())]
    NobodyListens(PathBuf),
    #[error("{} cannot be reached: {why}; check --socket and WSCHAT_SOCKET", .path.display())]
    Unreachable { path: PathBuf, why: io::Error },
    #[error("you may not open {}; {hint}", .path.display())]
    NotPermitted { path: PathBuf, hint: String },
    #[error("the daemon did not answer within {}; `systemctl status wschat` may say why, --timeout waits longer", humantime::format_duration(*.0))]
    TimedOut(Duration),
    #[error("the daemon closed the connection before it had answered; `journalctl -u wschat` may say why")]
    Broken,
    #[error("the daemon has ended the history: it is stopping; follow it again when it has started")]
    Unfollowed,
    #[error("the daemon has ended the watch: it is stopping; watch again when it has started")]
    Ended,
    #[error("there is no backup: {0}; what has come of it is of no use, try again")]
    NotWhole(String),
    #[error("what answers at the socket is no wschat daemon of this version ({0}); check --socket, or upgrade both")]
    Garbled(String),
    #[error("{}", refused(.0))]
    Refused(Refusal),
    #[error("{} cannot be written: {why}", .path.display())]
    NotCreated { path: PathBuf, why: String },
    #[error("standard output cannot be written to: {0}")]
    Output(io::Error),
    #[error("standard input cannot be read: {0}")]
    Input(io::Error),
}

/// Mistakes in a configuration are told with the lines they stand in, so their line ends are kept.
fn refused(refusal: &Refusal) -> String {
    let text = refusal.to_string();
    match refusal {
        Refusal::ReloadRefused { .. } => text.lines().map(harmless).collect::<Vec<_>>().join("\n"),
        _ => harmless(&text),
    }
}

fn places(tried: &[PathBuf]) -> String {
    tried.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" or ")
}

impl Failure {
    pub fn status(&self) -> u8 {
        match self {
            // Whoever reads no further has what they wanted.
            Failure::Output(why) if why.kind() == io::ErrorKind::BrokenPipe => status::DONE,
            Failure::Usage(_) => status::USAGE,
            Failure::Nothing(_) => status::NOTHING,
            Failure::Partly { .. } | Failure::TakenBack { .. } | Failure::NotConfirmed => status::PARTLY,
            Failure::Unwatched(why) => why.status(),
            Failure::NoSocket(_)
            | Failure::NobodyListens(_)
            | Failure::Unreachable { .. }
            | Failure::Broken
            | Failure::Unfollowed
            | Failure::Ended => status::UNREACHABLE,
            Failure::NotCreated { .. } => status::NOT_CREATED,
            Failure::NotPermitted { .. } => status::NOT_PERMITTED,
            Failure::TimedOut(_) => status::TIMED_OUT,
            Failure::Garbled(_) | Failure::NotWhole(_) | Failure::Output(_) | Failure::Input(_) => status::INTERNAL,
            Failure::Refused(refusal) => match refusal {
                Refusal::BadValue { .. } | Refusal::EmptyFilter { .. } | Refusal::CallTooLarge { .. } => status::USAGE,
                Refusal::NoSuchClient { .. }
                | Refusal::NoSuchRoom { .. }
                | Refusal::NoSuchMessage { .. }
                | Refusal::NoSuchBan { .. }
                | Refusal::NoSuchMute { .. }
                | Refusal::NotDraining {} => status::NOTHING,
                Refusal::NotSaved { .. } => status::PARTLY,
                Refusal::ReloadRefused { .. } | Refusal::NoSecret { .. } | Refusal::NothingToBackUp { .. } => {
                    status::CONFIGURATION
                }
                Refusal::BackupUnderWay {} | Refusal::BackupFailed { .. } => status::TIMED_OUT,
                Refusal::TimedOut { .. }
                | Refusal::Busy {}
                | Refusal::TooManyConnections { .. }
                | Refusal::TooManySanctions { .. }
                | Refusal::HistoryUnavailable { .. } => status::TIMED_OUT,
                Refusal::Stopping {} => status::UNREACHABLE,
                Refusal::InterfaceNotFound { .. }
                | Refusal::MethodNotFound { .. }
                | Refusal::MethodNotImplemented { .. }
                | Refusal::InvalidParameter { .. }
                | Refusal::ExpectedMore {}
                | Refusal::Malformed { .. } => status::INTERNAL,
            },
        }
    }
}
