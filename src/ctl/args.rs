//! The command line of `wschatctl`: parsed into types that can only hold what makes sense.
//!
//! The manual page and the completions come from this definition too; nothing here talks to the
//! daemon.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::PossibleValuesParser;
use clap::{ArgGroup, Args, Parser, Subcommand};

use super::columns::{Column, Sort, SortParser};
use super::top::model::Sort as TopSort;
use super::words::{
    banned, client, drain_over, duration, glob, interval, lasts, muted, network, nick, no_guest, notice_text, rate,
    reason, room, size, timeout, token_lasts, user,
};
use crate::admin::EventKind;
use crate::control::protocol;

/// Longer than the daemon's own patience, so that its answer says what it waited for.
pub const TIMEOUT: &str = "35s";

/// See and steer the running wschat daemon
#[derive(Debug, Parser)]
#[command(name = "wschatctl", version, max_term_width = 100, propagate_version = true, arg_required_else_help = true)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Args)]
pub struct Global {
    /// Print one JSON document (events, history --follow: one object a line)
    #[arg(long, global = true, display_order = 900)]
    pub json: bool,
    /// The daemon's socket, instead of WSCHAT_SOCKET or the first that is found
    #[arg(long, global = true, value_name = "PATH", display_order = 901)]
    pub socket: Option<PathBuf>,
    /// The longest wait for each answer of the daemon
    #[arg(long, global = true, value_name = "DURATION", default_value = TIMEOUT, value_parser = timeout, display_order = 902)]
    pub timeout: Duration,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show the daemon on one screen
    Status,
    /// List connections
    List(List),
    /// Show everything about one connection
    Show {
        /// Its number, the first column of list
        #[arg(value_name = "ID", value_parser = client)]
        id: u64,
    },
    /// Close connections and wait until they are closed
    Kick(Kick),
    /// Show a text to everyone, a room, a user or one connection
    #[command(visible_alias = "broadcast")]
    Notice(Notice),
    /// List rooms
    Rooms {
        /// Also those in which nobody is and of which something is stored
        #[arg(long)]
        stored: bool,
    },
    /// Look at one room, close it, empty it
    #[command(subcommand)]
    Room(Room),
    /// Show what has been said in a room
    History(History),
    /// Take away the text of a stored message
    Delete {
        /// The room
        #[arg(value_name = "ROOM", value_parser = room)]
        room: String,
        /// The message's number, which history shows
        #[arg(value_name = "SEQ")]
        seq: u64,
    },
    /// Keep users and networks out
    #[command(subcommand)]
    Ban(Ban),
    /// Keep users from speaking
    #[command(subcommand)]
    Mute(Mute),
    /// Copy the history into a file, while the daemon runs
    ///
    /// It is whole and as it is at the moment of the call. What it takes to put it back is in wschat(8).
    Backup {
        /// The file, which only its owner may read; - is standard output
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Replace a file that is there
        #[arg(long)]
        force: bool,
    },
    /// Print a token for trying out, made with the configured secret
    Token(Token),
    /// Watch what happens, live, until interrupted
    Events(Events),
    /// Empty the daemon: let nobody in, and ask everybody to go, evenly over a time
    ///
    /// The daemon does it by itself and stays up, empty, until resume or a stop. A second drain
    /// gives what is left of the first another time.
    Drain(Drain),
    /// Take a drain back: ask nobody else to go, and let newcomers in again
    Resume,
    /// Show a live screen: rates, busiest rooms, slowest clients
    ///
    /// k kicks the chosen client, after asking; ? shows all keys.
    Top(Top),
    /// Have the daemon read its configuration and certificate again
    ///
    /// Says what has changed and what waits for a restart. A bad file has no effect.
    Reload {
        /// Only the certificate
        #[arg(long)]
        tls: bool,
    },
    /// Show how much is logged, or set it
    ///
    /// A level that is set holds until log.level in the configuration changes, or until a restart.
    LogLevel {
        /// What is to be logged from now on
        #[arg(value_name = "LEVEL", value_parser = PossibleValuesParser::new(LOG_LEVELS))]
        level: Option<String>,
    },
    /// Show the certificate in force
    Tls,
    /// Show the numbers that the daemon keeps of itself
    ///
    /// What they mean is in wschat-metrics(7).
    Stats(Stats),
    /// Check that the daemon answers
    Ping,
    /// Show the versions of this command and of the daemon
    Version,
    /// Print a completion script
    Completions {
        /// For this shell
        #[arg(value_name = "SHELL", value_parser = PossibleValuesParser::new(SHELLS))]
        shell: String,
    },
    /// Print this command's manual page (wschatctl man | man -l -)
    Man,
}

/// How much can be logged, least first.
pub const LOG_LEVELS: [&str; 5] = ["error", "warn", "info", "debug", "trace"];

/// The shells that completions can be had for.
pub const SHELLS: [&str; 3] = ["bash", "zsh", "fish"];

/// Which connections; all that is given must hold.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Filter")]
#[group(id = "filter", multiple = true)]
pub struct Filter {
    /// Of this user
    #[arg(long, value_name = "USER", value_parser = user)]
    pub user: Option<String>,
    /// With this nick, whatever its case
    #[arg(long, value_name = "NICK", value_parser = nick)]
    pub nick: Option<String>,
    /// From this address or network
    #[arg(long, value_name = "CIDR", value_parser = network)]
    pub ip: Option<String>,
    /// In this room
    #[arg(long, value_name = "ROOM", value_parser = room)]
    pub room: Option<String>,
    /// Speaking this dialect
    #[arg(long, value_name = "DIALECT", value_parser = PossibleValuesParser::new(["json", "text"]))]
    pub dialect: Option<String>,
    /// Connected for longer than this (90s, 10m, 1h 30m, 2d)
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub older: Option<Duration>,
    /// Silent for longer than this
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub idle: Option<Duration>,
    /// With more bytes than this waiting for their socket (4096, 64K, 1MiB)
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub sendq_over: Option<u64>,
}

impl Filter {
    pub fn to_wire(&self) -> protocol::Filter {
        protocol::Filter {
            user: self.user.clone(),
            nick: self.nick.clone(),
            ip: self.ip.clone(),
            room: self.room.clone(),
            dialect: self.dialect.clone(),
            older: self.older.map(protocol::seconds),
            idle: self.idle.map(protocol::seconds),
            sendq_over: self.sendq_over,
        }
    }
}

/// Which events; one that does not have what is asked for does not match.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Filter")]
pub struct EventFilter {
    /// Of this user
    #[arg(long, value_name = "USER", value_parser = user)]
    pub user: Option<String>,
    /// With this nick, whatever its case
    #[arg(long, value_name = "NICK", value_parser = nick)]
    pub nick: Option<String>,
    /// From this address or network
    #[arg(long, value_name = "CIDR", value_parser = network)]
    pub ip: Option<String>,
    /// In this room
    #[arg(long, value_name = "ROOM", value_parser = room)]
    pub room: Option<String>,
    /// Of connections speaking this dialect
    #[arg(long, value_name = "DIALECT", value_parser = PossibleValuesParser::new(["json", "text"]))]
    pub dialect: Option<String>,
}

#[derive(Debug, Args)]
pub struct List {
    /// The columns to show, separated by commas
    #[arg(short = 'o', long = "columns", value_name = "COLUMN,...", value_delimiter = ',')]
    pub columns: Vec<Column>,
    /// Order by this column; with a minus in front the other way round (--sort=-age)
    #[arg(long, value_name = "COLUMN", value_parser = SortParser, allow_hyphen_values = true)]
    pub sort: Option<Sort>,
    /// Show so many at the most
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: Option<u64>,
    /// Only say how many
    #[arg(long, conflicts_with_all = ["columns", "sort", "limit"])]
    pub count: bool,
    #[command(flatten)]
    pub filter: Filter,
}

#[derive(Debug, Args)]
#[command(override_usage = "wschatctl kick <ID...|FILTER|--all> [OPTIONS]")]
pub struct Kick {
    /// The connections to close
    #[arg(value_name = "ID", value_parser = client, conflicts_with_all = ["filter", "all"])]
    pub ids: Vec<u64>,
    /// Everyone; asks first, or wants --yes where there is no terminal
    #[arg(long, conflicts_with = "filter")]
    pub all: bool,
    /// What the people are told (at most 123 bytes)
    #[arg(long, value_name = "TEXT", value_parser = reason)]
    pub reason: Option<String>,
    /// The close code [default: 4003, which tells clients to stay away; with --ban 4004]
    #[arg(long, value_name = "N", conflicts_with = "reconnect", value_parser = clap::value_parser!(u16).range(1000..5000))]
    pub code: Option<u16>,
    /// Ask them to come back at once (close code 4200)
    #[arg(long)]
    pub reconnect: bool,
    /// Also keep them out for so long, or forever (close code 4004)
    ///
    /// With --user that user, with --ip that network; otherwise each one's user, and a guest's
    /// address as well.
    #[arg(long, value_name = "DURATION", value_parser = lasts, conflicts_with_all = ["reconnect", "all"])]
    pub ban: Option<Lasts>,
    /// Close so many each second, and stop when this command is interrupted
    #[arg(long, value_name = "N", value_parser = rate)]
    pub rate: Option<f64>,
    /// Only say how many it would meet
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
    /// Exit with 0 when nobody matched
    #[arg(long)]
    pub allow_empty: bool,
    #[command(flatten)]
    pub filter: Filter,
}

#[derive(Debug, Args)]
pub struct Drain {
    /// Ask them away evenly over this time, 24h at the most; 0s asks everybody at once
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = drain_over)]
    pub over: Duration,
    /// Show this to everyone first, as notice does; what fits of it (123 bytes) goes with the close
    #[arg(long, value_name = "TEXT", value_parser = notice_text)]
    pub notice: Option<String>,
    /// Wait until everybody has gone
    #[arg(long)]
    pub wait: bool,
}

#[derive(Debug, Args)]
pub struct Notice {
    /// What to say; - reads it from standard input
    #[arg(value_name = "TEXT")]
    pub text: String,
    /// To the people in this room
    #[arg(long, value_name = "ROOM", value_parser = room, conflicts_with_all = ["user", "client"])]
    pub room: Option<String>,
    /// To this user
    #[arg(long, value_name = "USER", value_parser = user, conflicts_with = "client")]
    pub user: Option<String>,
    /// To this connection
    #[arg(long, value_name = "ID", value_parser = client)]
    pub client: Option<u64>,
    /// How loud it is
    #[arg(long, value_name = "LEVEL", default_value = "info", value_parser = PossibleValuesParser::new(["info", "warn"]))]
    pub level: String,
    /// Exit with 0 when nobody matched
    #[arg(long)]
    pub allow_empty: bool,
}

#[derive(Debug, Subcommand)]
pub enum Room {
    /// Show one room and who is in it
    Show {
        /// Its name
        #[arg(value_name = "ROOM", value_parser = room)]
        room: String,
    },
    /// Put everybody out of a room; what is stored stays
    Close {
        /// Its name
        #[arg(value_name = "ROOM", value_parser = room)]
        room: String,
        /// What the people are told (at most 123 bytes)
        #[arg(long, value_name = "TEXT", value_parser = reason)]
        reason: Option<String>,
    },
    /// Remove everything that is stored of a room, for ever
    ///
    /// Asks first, or wants --yes where there is no terminal.
    Purge {
        /// Its name
        #[arg(value_name = "ROOM", value_parser = room)]
        room: String,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Debug, Args)]
pub struct History {
    /// The room
    #[arg(value_name = "ROOM", value_parser = room)]
    pub room: String,
    /// Those before this number
    #[arg(long, value_name = "SEQ", conflicts_with_all = ["after", "follow"])]
    pub before: Option<u64>,
    /// Those after this number, the oldest of them first
    #[arg(long, value_name = "SEQ")]
    pub after: Option<u64>,
    /// So many at the most [default: 50; --follow --after: all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: Option<u64>,
    /// Go on with each that comes, until interrupted
    #[arg(long)]
    pub follow: bool,
}

#[derive(Debug, Subcommand)]
pub enum Ban {
    /// Ban a user or a network, and close the connections concerned
    ///
    /// A ban of the same user or network is replaced.
    Add {
        /// Whom: ip:ADDRESS, ip:NETWORK or user:USER
        #[arg(value_name = "WHOM", value_parser = banned)]
        whom: BanTarget,
        /// For so long, or forever
        #[arg(long = "for", value_name = "DURATION", default_value = FOREVER, value_parser = lasts)]
        lasts: Lasts,
        /// What the people are told (at most 123 bytes)
        #[arg(long, value_name = "TEXT", value_parser = reason)]
        reason: Option<String>,
        /// Do not ask about a very large network, or one with this machine's own addresses
        #[arg(long)]
        yes: bool,
    },
    /// List the bans in force
    List,
    /// Change the end or the reason of a ban
    Edit(Edit),
    /// End bans
    Del {
        /// Their numbers, the first column of ban list
        #[arg(value_name = "N", required = true)]
        ids: Vec<u64>,
    },
}

#[derive(Debug, Subcommand)]
pub enum Mute {
    /// Mute a user
    ///
    /// A mute of the same user in the same room is replaced.
    Add {
        /// Whom: user:USER
        #[arg(value_name = "WHOM", value_parser = muted)]
        whom: String,
        /// In this room alone
        #[arg(long, value_name = "ROOM", value_parser = room)]
        room: Option<String>,
        /// For so long, or forever
        #[arg(long = "for", value_name = "DURATION", default_value = FOREVER, value_parser = lasts)]
        lasts: Lasts,
        /// What the user is told (at most 123 bytes)
        #[arg(long, value_name = "TEXT", value_parser = reason)]
        reason: Option<String>,
    },
    /// List the mutes in force
    List,
    /// Change the end or the reason of a mute
    Edit(Edit),
    /// End mutes
    Del {
        /// Their numbers, the first column of mute list
        #[arg(value_name = "N", required = true)]
        ids: Vec<u64>,
    },
}

/// What is not given stays as it is.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("change").required(true).multiple(true)))]
pub struct Edit {
    /// Its number, the first column of the list
    #[arg(value_name = "N")]
    pub id: u64,
    /// It ends so long from now, or is forever
    #[arg(long = "for", value_name = "DURATION", value_parser = lasts, group = "change")]
    pub lasts: Option<Lasts>,
    /// What the people are told (at most 123 bytes; an empty one is none)
    #[arg(long, value_name = "TEXT", value_parser = reason, group = "change")]
    pub reason: Option<String>,
}

#[derive(Debug, Args)]
pub struct Token {
    /// Whom it names
    #[arg(value_name = "USER", value_parser = no_guest)]
    pub user: String,
    /// The nick, which its user cannot change then
    #[arg(long, value_name = "NICK", value_parser = nick)]
    pub name: Option<String>,
    /// A room it lets into, or a pattern such as team-*; may be repeated [default: all rooms]
    #[arg(long = "room", value_name = "GLOB", value_parser = glob)]
    pub rooms: Vec<String>,
    /// It may delete messages and mute users
    #[arg(long)]
    pub moderator: bool,
    /// It lasts for so long, from 1s to 366d
    #[arg(long = "for", value_name = "DURATION", default_value = "1h", value_parser = token_lasts)]
    pub lasts: Duration,
}

/// Whom a ban is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BanTarget {
    Ip(String),
    User(String),
}

#[derive(Debug, Args)]
#[command(override_usage = "wschatctl stats [NAME]... [OPTIONS]\n       wschatctl stats --prometheus")]
pub struct Stats {
    /// Only metrics of these names, or whose names begin so
    #[arg(value_name = "NAME", conflicts_with = "prometheus")]
    pub names: Vec<String>,
    /// Print the text that Prometheus reads, OpenMetrics; no listener is needed for it
    #[arg(long, conflicts_with = "json")]
    pub prometheus: bool,
}

impl Stats {
    /// With or without what all names begin with.
    pub fn wants(&self, name: &str) -> bool {
        let short = name.strip_prefix("wschat_").unwrap_or(name);
        self.names.is_empty() || self.names.iter().any(|wanted| name.starts_with(wanted) || short.starts_with(wanted))
    }
}

/// The word for what does not end by itself.
pub(super) const FOREVER: &str = "forever";

/// How long a ban or a mute lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lasts {
    Forever,
    For(Duration),
}

impl Lasts {
    pub fn seconds(self) -> Option<f64> {
        match self {
            Lasts::Forever => None,
            Lasts::For(duration) => Some(protocol::seconds(duration)),
        }
    }
}

#[derive(Debug, Args)]
pub struct Events {
    /// Only these types, separated by commas
    #[arg(long = "type", value_name = "TYPE,...", value_delimiter = ',', value_parser = PossibleValuesParser::new(EventKind::ALL.map(EventKind::as_str)))]
    pub types: Vec<String>,
    #[command(flatten)]
    pub filter: EventFilter,
}

#[derive(Debug, Args)]
pub struct Top {
    /// Look again after so long, from 100ms to 1h
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = interval)]
    pub interval: Duration,
    /// Order clients by this first
    #[arg(long, value_name = "COLUMN", default_value = "sendq")]
    pub sort: TopSort,
    #[command(flatten)]
    pub filter: Filter,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_holds_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn whom_and_for_how_long() {
        assert_eq!(banned("ip:2001:db8::/32"), Ok(BanTarget::Ip("2001:db8::/32".into())));
        assert_eq!(banned("user:a:b"), Ok(BanTarget::User("a:b".into())));
        for bad in ["ann", "ip:1.2.3", "user:", "nick:ann", "ip:"] {
            assert!(banned(bad).is_err(), "{bad}");
        }
        assert_eq!(lasts("forever"), Ok(Lasts::Forever));
        assert_eq!(lasts("2h").map(Lasts::seconds), Ok(Some(7200.0)));
        assert!(lasts("0").is_err() && lasts("never").is_err());
        for bad in [
            &["kick", "--all", "--ban", "1h"][..],
            &["kick", "1", "--ban", "1h", "--reconnect"],
            &["history", "lobby", "--before", "3", "--after", "2"],
            &["history", "lobby", "--before", "3", "--follow"],
            &["ban", "del"],
            &["kick", "1", "--rate", "0"],
            &["kick", "1", "--rate", "-1"],
            &["kick", "1", "--rate", "nan"],
            &["drain", "--over", "25h"],
            &["drain", "--over", "60"],
            &["drain", "--notice", " "],
            &["ban", "edit", "7"],
            &["mute", "edit", "--for", "1h"],
            &["backup"],
        ] {
            assert!(Cli::try_parse_from(std::iter::once(&"wschatctl").chain(bad)).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_kick_names_its_victims_in_one_way() {
        for bad in [
            &["kick", "1", "--all"][..],
            &["kick", "1", "--user", "ann"],
            &["kick", "--all", "--room", "lobby"],
            &["kick", "--user", "ann", "--reconnect", "--code", "4000"],
            &["kick", "--user", "ann", "--code", "999"],
        ] {
            assert!(Cli::try_parse_from(std::iter::once(&"wschatctl").chain(bad)).is_err(), "{bad:?}");
        }
        Cli::try_parse_from(["wschatctl", "kick", "1", "2", "--reason", "bye"]).unwrap();
        Cli::try_parse_from(["wschatctl", "list", "--sort", "-age", "-o", "id,nick"]).unwrap();
    }
}
