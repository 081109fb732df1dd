//! The command line of `wschat`: what it may say, which file it means, and wschat(8).
//!
//! Nothing here prints or exits; `src/bin/wschat.rs` does.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use clap::{CommandFactory, Parser};
use clap_mangen::Man;
use clap_mangen::roff::{Inline, Roff, bold, italic, roman};

use crate::config::{Config, Mistakes};

/// The file that the package installs, and that the unit names.
pub const CONFIG_FILE: &str = "/etc/wschat/wschat.toml";

/// How the daemon ends. The numbers from 64 on are those of sysexits.h.
pub mod exit {
    pub const OK: u8 = 0;
    pub const FAILED: u8 = 1;
    pub const USAGE: u8 = 64;
    /// The history is damaged, of a newer daemon or another program's; a restart does not help.
    pub const DATA: u8 = 65;
    /// The configuration is wrong; a restart does not help.
    pub const CONFIG: u8 = 78;

    /// What each says, for the manual page; tests find each of them in the documents.
    pub const ALL: &[(u8, &str)] = &[
        (OK, "It stopped as it was told to, or answered what was asked."),
        (
            FAILED,
            "It could not start (an address or a socket is taken, a certificate cannot be used) or could not go on; \
             the last line of the log says why.",
        ),
        (USAGE, "The command line is wrong."),
        (DATA, "The history is damaged, was written by a newer daemon, or is no history; it was left as it is."),
        (CONFIG, "The configuration is wrong; every mistake is told."),
    ];
}

/// chat and notification server for web pages
#[derive(Clone, Debug, Default, PartialEq, Eq, Parser)]
#[command(name = "wschat", version)]
pub struct Args {
    /// Read this configuration file
    ///
    /// Without it, wschat.toml in $CONFIGURATION_DIRECTORY is read where there is one, and otherwise
    /// no file: every key has its default.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Tell every mistake in the configuration file, and exit
    ///
    /// Exits 0 where there is none, 78 otherwise. Without --config it looks at /etc/wschat/wschat.toml.
    #[arg(long, conflicts_with = "print_config")]
    pub check_config: bool,

    /// Print the whole configuration in effect, defaults included, and exit
    #[arg(long)]
    pub print_config: bool,

    /// Give the running daemon's sockets to their groups, and exit
    ///
    /// For the unit, which runs it as root once the daemon is ready (ExecStartPost=): the sandbox lets
    /// the daemon itself change no file's group. Without it the sockets are for root and the daemon's
    /// own user alone.
    #[arg(long, conflicts_with_all = ["check_config", "print_config"])]
    pub give_sockets: bool,
}

impl Args {
    /// The configuration file to run with; `None` for the defaults alone. `configuration_directory`
    /// is what systemd.exec(5) puts into the variable of that name: folders, with ":" between them.
    pub fn file(&self, configuration_directory: Option<&OsStr>) -> Option<PathBuf> {
        let in_folder = || {
            std::env::split_paths(configuration_directory?)
                .filter(|folder| folder.is_absolute())
                .map(|folder| folder.join("wschat.toml"))
                // One that cannot even be looked at is not passed over in silence: reading it says why.
                .find(|file| file.try_exists().unwrap_or(true))
        };
        self.config.clone().or_else(in_folder)
    }

    /// The file that `--check-config` looks at.
    pub fn file_to_check(&self) -> PathBuf {
        self.config.clone().unwrap_or_else(|| CONFIG_FILE.into())
    }
}

/// Reads `file`, or gives the defaults where there is none.
pub fn load(file: Option<&Path>) -> Result<Config, Mistakes> {
    file.map_or_else(|| Ok(Config::default()), Config::load)
}

/// What `--check-config` says about `file`, and the exit status. It belongs on standard output
/// where the status is 0, and on standard error otherwise.
pub fn run_check(file: &Path) -> (String, u8) {
    match Config::load(file) {
        Ok(_) => (format!("{}: no mistake\n", file.display()), exit::OK),
        Err(mistakes) => (format!("{mistakes}\n"), exit::CONFIG),
    }
}

/// The exit status for what clap says instead of giving arguments: help and the version are no
/// failure.
pub fn usage_exit(error: &clap::Error) -> u8 {
    if error.use_stderr() { exit::USAGE } else { exit::OK }
}

/// wschat(8), in roff.
pub fn man_page() -> String {
    let man = Man::new(Args::command());
    let mut page = Vec::new();
    let mut rendered = |render: fn(&Man, &mut dyn std::io::Write) -> std::io::Result<()>| {
        render(&man, &mut page).expect("writing into memory cannot fail");
    };
    rendered(|_, to| {
        let mut title = Roff::new();
        // An empty argument has to be spelled out, or the next one takes its place.
        title.control("TH", ["wschat", "8", "\"\"", "wschat", "System administration"]);
        title.to_writer(to)
    });
    rendered(Man::render_name_section);
    rendered(|_, to| synopsis().to_writer(to));
    rendered(Man::render_options_section);
    rendered(|_, to| sections().to_writer(to));
    let page = String::from_utf8(page).expect("roff made of texts is a text");
    // Each part begins with the same definition of the apostrophe; once is enough.
    let preamble: String = page.lines().take(2).map(|line| format!("{line}\n")).collect();
    // An empty line in roff is one on paper; inside an option's text ".sp" says so.
    preamble.clone() + &page.replace(&preamble, "").replace("\n\n", "\n.sp\n")
}

fn synopsis() -> Roff {
    let mut roff = Roff::new();
    roff.control("SH", ["SYNOPSIS"]);
    let (config, file) = (bold("--config"), italic("FILE"));
    let (check, print, give) = (bold("--check-config"), bold("--print-config"), bold("--give-sockets"));
    let or = || roman(" | ");
    let optional = [roman(" ["), config, roman(" "), file, roman("] ["), check, or(), print, or(), give, roman("]")];
    roff.text([vec![bold("wschat")], optional.to_vec()].concat());
    for alone in ["--help", "--version"] {
        roff.control("br", []);
        roff.text([bold("wschat"), roman(" "), bold(alone)]);
    }
    roff.control("SH", ["DESCRIPTION"]);
    roff.text([
        bold("wschat"),
        roman(
            " serves a chat page and its WebSockets over TLS on one port (9501 unless configured otherwise). Without a \
            configuration it listens on the loopback addresses, with a self-signed certificate that it makes once and \
            keeps. It runs in the foreground and is made to be started by systemd; ",
        ),
        bold("wschatctl"),
        roman("(1) looks into it and steers it while it runs."),
    ]);
    roff
}

fn sections() -> Roff {
    let mut roff = Roff::new();
    let list = |roff: &mut Roff, title: &str, entries: &[(Inline, &str)]| {
        roff.control("SH", [title]);
        for (name, doc) in entries {
            roff.control("TP", []);
            roff.text([name.clone()]);
            roff.text([roman(*doc)]);
        }
    };
    list(
        &mut roff,
        "FILES",
        &[
            (italic(CONFIG_FILE), "The configuration of the packaged service; see wschat.toml(5)."),
            (
                italic("/var/lib/wschat/"),
                "The state folder of the packaged service: wschat.db, the history; sanctions.json, bans and mutes; \
                 guest.key, which signs the strings by which guests return as themselves; the self-signed certificate.",
            ),
            (italic("/run/wschat/control"), "The operators' socket, for root and the group wschat-admin."),
            (italic("/run/wschat/push"), "The backends' socket, for root and the group wschat-push."),
        ],
    );
    list(
        &mut roff,
        "SIGNALS",
        &[
            (
                bold("SIGTERM"),
                "Stops: no new connections, every client is told so and closed with 1001, and what has not gone after \
                 shutdown.grace is cut. A second SIGTERM cuts at once. SIGINT does the same.",
            ),
            (
                bold("SIGHUP"),
                "Reads the configuration and the certificate again. Nobody is disconnected. With a mistake in them \
                 everything stays as it was, and the log says what is wrong.",
            ),
        ],
    );
    let statuses: Vec<(Inline, &str)> = exit::ALL.iter().map(|(code, doc)| (bold(code.to_string()), *doc)).collect();
    list(&mut roff, "EXIT STATUS", &statuses);
    list(
        &mut roff,
        "ENVIRONMENT",
        &[
            (bold("CONFIGURATION_DIRECTORY"), "Without --config, where wschat.toml is read if it is there."),
            (bold("STATE_DIRECTORY"), "The state folder; otherwise $XDG_STATE_HOME/wschat, or ~/.local/state/wschat."),
            (
                bold("RUNTIME_DIRECTORY"),
                "Where the sockets lie; otherwise $XDG_RUNTIME_DIR/wschat, or /tmp/wschat-UID.",
            ),
            (bold("NO_COLOR"), "Where it is set and not empty, a terminal gets no colours."),
        ],
    );
    roff.control("PP", []);
    roff.text([roman(
        "The first three, and NOTIFY_SOCKET, WATCHDOG_USEC, LISTEN_FDS and MAINPID, are set by systemd.",
    )]);
    roff.control("SH", ["BACKUP AND RESTORE"]);
    roff.text([
        bold("wschatctl backup"),
        roman(
            " copies the history while the daemon runs. To put a copy back: stop the daemon, remove wschat.db and every \
             file whose name begins so, put the copy there as wschat.db, give it to the user wschat, start. Rooms of a \
             restored history begin new epochs, so clients load them anew and miss nothing.",
        ),
    ]);
    roff.control("SH", ["SEE ALSO"]);
    roff.text([
        bold("wschat.toml"),
        roman("(5), "),
        bold("wschatctl"),
        roman("(1), "),
        bold("wschat-metrics"),
        roman("(7), "),
        bold("systemctl"),
        roman("(1)"),
    ]);
    roff
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::testing::committed;

    fn args(line: &[&str]) -> Result<Args, clap::Error> {
        Args::try_parse_from(std::iter::once(&"wschat").chain(line))
    }

    #[test]
    fn the_command_line() {
        Args::command().debug_assert();
        assert_eq!(args(&[]).unwrap(), Args::default());
        assert_eq!(args(&["--config", "x"]).unwrap().config.as_deref(), Some(Path::new("x")));
        assert!(args(&["--check-config"]).unwrap().check_config);
        assert!(args(&["--print-config"]).unwrap().print_config);
        for bad in [&["--check-config", "--print-config"][..], &["x"], &["--config"], &["--port", "1"]] {
            assert_eq!(usage_exit(&args(bad).unwrap_err()), exit::USAGE, "{bad:?}");
        }
        for fine in ["--version", "--help", "-h", "-V"] {
            assert_eq!(usage_exit(&args(&[fine]).unwrap_err()), exit::OK, "{fine}");
        }
    }

    #[test]
    fn which_file_is_read() {
        let (empty, full) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let file = full.path().join("wschat.toml");
        std::fs::write(&file, "").unwrap();
        let none = Args::default();
        assert_eq!(none.file(None), None);
        assert_eq!(none.file(Some(empty.path().as_os_str())), None);
        assert_eq!(none.file(Some(full.path().as_os_str())), Some(file.clone()));
        let both = std::env::join_paths([empty.path(), full.path()]).unwrap();
        assert_eq!(none.file(Some(&both)), Some(file));
        assert_eq!(none.file(Some(OsStr::new(""))), None);
        assert_eq!(none.file_to_check(), Path::new(CONFIG_FILE));
        let named = Args { config: Some("missing.toml".into()), ..Args::default() };
        assert_eq!(named.file(Some(full.path().as_os_str())), Some("missing.toml".into()));
        assert_eq!(named.file_to_check(), Path::new("missing.toml"));
        assert_eq!(load(None).unwrap(), Config::default());
    }

    #[test]
    fn a_check_tells_all_or_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("wschat.toml");
        let (text, code) = run_check(&file);
        assert_eq!(code, 78);
        assert!(text.contains(&file.display().to_string()) && text.contains("No such file"), "{text}");
        std::fs::write(&file, "[log]\nlevel = \"debug\"\n").unwrap();
        assert_eq!(run_check(&file), (format!("{}: no mistake\n", file.display()), 0));
        std::fs::write(&file, "[log]\nlevel = \"loud\"\n[limits]\nburst = 0\n").unwrap();
        let (text, code) = run_check(&file);
        assert_eq!(code, 78);
        assert!(
            text.contains("wschat.toml:2:9: log.level") && text.contains("wschat.toml:4:9: limits.burst"),
            "{text}"
        );
        assert_eq!(run_check(folder.path()).1, 78);
    }

    #[test]
    fn the_manual_page_is_this_one() {
        committed("packaging/man/wschat.8", &man_page());
        let page = man_page().replace('\\', "");
        for argument in Args::command().get_arguments() {
            assert!(page.contains(&format!("--{}", argument.get_long().unwrap())));
        }
    }
}
