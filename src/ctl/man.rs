//! The manual page wschatctl(1): commands and options from the command line's own definition,
//! the rest written here. A test holds the committed page to it.

use clap::builder::ValueRange;
use clap::{Arg, ArgAction, Args, Command, CommandFactory};
use clap_mangen::roff::{Inline, Roff, bold, italic, roman};

use super::args::{Cli, Filter};
use super::failure::status;

/// The help heading of filters; they are told of once, not at each command.
const FILTER: &str = "Filter";

/// The page as roff.
pub fn page() -> String {
    let mut cli = Cli::command();
    cli.build();
    let mut roff = Roff::new();
    roff.control("SH", ["NAME"]);
    roff.text([roman("wschatctl - see and steer the running wschat daemon")]);
    roff.control("SH", ["SYNOPSIS"]);
    roff.text([bold("wschatctl"), roman(" ["), italic("OPTIONS"), roman("] "), italic("COMMAND"), roman(" ...")]);
    roff.control("SH", ["DESCRIPTION"]);
    prose(&mut roff, DESCRIPTION);

    roff.control("SH", ["COMMANDS"]);
    for command in cli.get_subcommands().filter(|command| command.get_name() != "help") {
        described(&mut roff, "", command);
    }

    roff.control("SH", ["OPTIONS"]);
    roff.text([roman("Every command takes these:")]);
    for argument in cli.get_arguments() {
        entry(&mut roff, argument);
    }

    roff.control("SH", ["FILTERS"]);
    prose(&mut roff, FILTERS);
    for argument in Filter::augment_args(Command::new("filter")).get_arguments() {
        entry(&mut roff, argument);
    }

    roff.control("SH", ["OUTPUT"]);
    prose(&mut roff, OUTPUT);
    roff.control("SH", ["EXIT STATUS"]);
    for (status, meaning) in status::ALL {
        tagged(&mut roff, [bold(status.to_string())], meaning);
    }
    roff.control("SH", ["FILES"]);
    for (file, meaning) in FILES {
        tagged(&mut roff, [italic(*file)], meaning);
    }
    roff.control("SH", ["ENVIRONMENT"]);
    for (variable, meaning) in ENVIRONMENT {
        tagged(&mut roff, [bold(*variable)], meaning);
    }
    roff.control("SH", ["EXAMPLES"]);
    for (command, meaning) in EXAMPLES {
        tagged(&mut roff, [bold(*command)], meaning);
    }
    roff.control("SH", ["SEE ALSO"]);
    roff.text([
        bold("wschat"),
        roman("(8), "),
        bold("wschat.toml"),
        roman("(5), "),
        bold("wschat-metrics"),
        roman("(7)"),
    ]);
    // The third argument is the date of the last change; the version says as much.
    let title = format!(".TH WSCHATCTL 1 \"\" \"wschatctl {}\" \"User Commands\"\n", env!("CARGO_PKG_VERSION"));
    let page = roff.render();
    // The preamble, which defines the apostrophe, comes before everything else.
    match page.find(".SH ") {
        Some(at) => format!("{}{title}{}", &page[..at], &page[at..]),
        None => page,
    }
}

/// One command, or each of its own commands.
fn described(roff: &mut Roff, before: &str, command: &Command) {
    let name = format!("{before}{}", command.get_name());
    if command.has_subcommands() {
        let inner = command.get_subcommands().filter(|inner| inner.get_name() != "help");
        return inner.for_each(|inner| described(roff, &format!("{name} "), inner));
    }
    let own = || command.get_arguments().filter(|argument| !argument.is_global_set() && !is_standard(argument));
    let mut usage = name;
    for argument in own().filter(|argument| argument.is_positional()) {
        let many = argument.get_num_args().unwrap_or(ValueRange::SINGLE).max_values() > 1;
        let value = format!("{}{}", value_of(argument), if many { "..." } else { "" });
        usage.push_str(&if argument.is_required_set() { format!(" {value}") } else { format!(" [{value}]") });
    }
    let filtered = own().any(is_filter);
    if filtered {
        usage.push_str(" [FILTER]");
    }
    if own().any(|argument| !argument.is_positional() && !is_filter(argument)) {
        usage.push_str(" [OPTIONS]");
    }
    roff.control("SS", [usage.as_str()]);
    let about = command.get_long_about().or(command.get_about()).map(ToString::to_string).unwrap_or_default();
    // The first line of help has no full stop; here it is a sentence among others.
    prose(roff, &format!("{}.", about.trim_end_matches('.')).replacen("\n\n", ".\n\n", 1));
    let aliases: Vec<&str> = command.get_visible_aliases().collect();
    if !aliases.is_empty() {
        prose(roff, &format!("Also called {}.", aliases.join(", ")));
    }
    for argument in own().filter(|argument| !is_filter(argument)) {
        entry(roff, argument);
    }
    if filtered {
        roff.control("PP", []);
        let filters: Vec<String> =
            own().filter(|argument| is_filter(argument)).filter_map(Arg::get_long).map(|l| format!("--{l}")).collect();
        prose(roff, &format!("Filters: {}.", filters.join(", ")));
    }
}

fn is_standard(argument: &Arg) -> bool {
    matches!(argument.get_action(), ArgAction::Help | ArgAction::HelpShort | ArgAction::HelpLong | ArgAction::Version)
}

fn is_filter(argument: &Arg) -> bool {
    argument.get_help_heading() == Some(FILTER)
}

fn value_of(argument: &Arg) -> String {
    argument.get_value_names().map(|names| names.join(" ")).unwrap_or_else(|| argument.get_id().as_str().to_uppercase())
}

/// An option or a value, with what it takes and what it means.
fn entry(roff: &mut Roff, argument: &Arg) {
    let mut tag: Vec<Inline> = Vec::new();
    if let Some(short) = argument.get_short() {
        tag.extend([bold(format!("-{short}")), roman(", ")]);
    }
    if let Some(long) = argument.get_long() {
        tag.push(bold(format!("--{long}")));
        if argument.get_action().takes_values() {
            tag.extend([roman(" "), italic(value_of(argument))]);
        }
    } else if argument.is_positional() {
        tag.push(italic(value_of(argument)));
    }
    let mut meaning = argument.get_help().map(ToString::to_string).unwrap_or_default();
    let values: Vec<String> = argument
        .get_possible_values()
        .iter()
        .filter(|_| argument.get_action().takes_values())
        .map(|value| value.get_name().to_owned())
        .collect();
    if !values.is_empty() {
        meaning.push_str(&format!(" [{}]", values.join(", ")));
    }
    let defaults: Vec<_> = argument.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
    if argument.get_action().takes_values() && !defaults.is_empty() {
        meaning.push_str(&format!(" [default: {}]", defaults.join(",")));
    }
    tagged(roff, tag, &meaning);
}

fn tagged(roff: &mut Roff, tag: impl IntoIterator<Item = Inline>, meaning: &str) {
    roff.control("TP", []);
    roff.text(tag.into_iter().collect::<Vec<_>>());
    roff.text([roman(meaning)]);
}

/// Paragraphs with empty lines between them.
fn prose(roff: &mut Roff, text: &str) {
    for (n, paragraph) in text.split("\n\n").enumerate() {
        if n > 0 {
            roff.control("PP", []);
        }
        roff.text([roman(paragraph.replace('\n', " ").trim())]);
    }
}

const DESCRIPTION: &str = "wschatctl asks the running wschat daemon over its control socket, and shows the answer. \
Root and the members of the group wschat-admin may use the socket of the packaged daemon; everyone may use that of \
a daemon of their own. The daemon writes every command that changes something to its log: who, what and how many.";

const FILTERS: &str = "list and kick take these options, events those of them that an event can answer. All that \
are given must hold. kick refuses to go without ids, a filter or --all.";

const OUTPUT: &str = "Data goes to standard output, everything else to standard error. On a terminal columns are \
aligned and durations and sizes are shown in the unit that fits; elsewhere columns are separated by tabs, without \
headings, with durations in seconds and sizes in bytes. Control characters in what people call themselves are shown \
as escapes. Colours appear only on a terminal, and not where NO_COLOR is set.

With --json exactly one JSON document is printed, with the members that the columns are named by: list prints \
{\"clients\":[...]}, show {\"client\":{...}}, rooms {\"rooms\":[...]}, room show {\"room\":{...}}, tls \
{\"certificate\":{...}}, stats {\"metrics\":[...]}, list --count {\"count\":N}, history \
{\"room\":...,\"epoch\":...,\"messages\":[...],\"more\":...}, ban list {\"bans\":[...]}, mute list {\"mutes\":[...]}, ban edit {\"ban\":{...}}, mute edit {\"mute\":{...}}, backup \
{\"file\":...,\"bytes\":N,\"sha256\":...,\"rooms\":N,\"entries\":N}, token \
{\"token\":...,\"expires\":...}. events and history --follow print one object a line. Times are RFC 3339 in UTC, \
durations are seconds, sizes are bytes; lists are always arrays, what is absent is null. Later versions only add \
members. A list that breaks off half-way ends with a status other than 0.

What changes something reports matched and done, which are numbers, and failed, a list of {\"id\":N,\"error\":TEXT}. done \
means that it has happened: the socket is closed, the text is written. In a kick by ids those that do not exist are \
failed and not matched.";

const FILES: &[(&str, &str)] = &[
    ("/run/wschat/control", "The control socket of the packaged daemon."),
    ("$XDG_RUNTIME_DIR/wschat/control", "That of a daemon of one's own; /tmp/wschat-UID/control without the variable."),
];

const ENVIRONMENT: &[(&str, &str)] = &[
    ("WSCHAT_SOCKET", "The control socket, where --socket is not given. Otherwise the first of FILES that exists."),
    ("XDG_RUNTIME_DIR", "Where the socket of a daemon of one's own lies."),
    ("RUNTIME_DIRECTORY", "In a systemd unit, the folder where the daemon of the same unit has its socket."),
    ("NO_COLOR", "Anything but the empty string turns colours off."),
];

const EXAMPLES: &[(&str, &str)] = &[
    ("wschatctl list --sort=-sendq --limit 10", "The ten slowest readers."),
    ("wschatctl kick --ip 192.0.2.0/24 --dry-run", "How many a kick of this network would meet."),
    ("wschatctl kick 4711 --reason \"please calm down\"", "Close one connection and say why."),
    ("wschatctl kick --nick eve --ban 1d --reason spam", "Close eve's connections and keep eve out for a day."),
    ("wschatctl kick --room lobby --reconnect --rate 20", "Have the people of a room reconnect, 20 a second."),
    ("wschatctl drain --over 10m --wait", "Empty the daemon before its machine is taken away."),
    ("wschatctl ban add ip:192.0.2.0/24 --for 2h", "Let nobody in from this network for two hours."),
    ("wschatctl ban edit 7 --for 1d", "Ban 7 ends a day from now."),
    ("wschatctl history lobby --follow", "Read along."),
    ("wschatctl stats ack_latency fanout_latency", "How long messages take."),
    ("wschatctl backup /var/backups/wschat.db --force", "Copy the history."),
    ("wschatctl kick --all --reconnect --yes", "Have everyone connect anew."),
    ("wschatctl notice --level warn \"Down for repairs at noon\"", "Tell everyone."),
    ("wschatctl events --type connect,disconnect --json", "Follow who comes and goes, for a program."),
    ("wschatctl list --json | jq -r '.clients[] | select(.rtt > 1) | .id'", "The connections that are far away."),
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    const COMMITTED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/man/wschatctl.1");

    #[test]
    fn the_committed_page_is_this_one() {
        if std::env::var_os("UPDATE").is_some_and(|value| value == "1") {
            std::fs::create_dir_all(Path::new(COMMITTED).parent().unwrap()).unwrap();
            std::fs::write(COMMITTED, page()).unwrap();
        }
        let committed = std::fs::read_to_string(COMMITTED).unwrap_or_default();
        assert!(
            committed == page(),
            "packaging/man/wschatctl.1 is out of date: UPDATE=1 cargo test --lib man writes it"
        );
    }

    #[test]
    fn every_command_and_every_flag_stands_in_it() {
        // As a reader sees it: hyphens are escaped in the source.
        let page = page().replace("\\-", "-");
        let mut cli = Cli::command();
        cli.build();
        fn check(page: &str, before: &str, command: &Command) {
            for inner in command.get_subcommands().filter(|inner| inner.get_name() != "help") {
                let name = format!("{before}{}", inner.get_name());
                let stands = page.contains(&format!(".SS {name}\n"))
                    || page.contains(&format!(".SS \"{name} "))
                    || page.contains(&format!(".SS \"{name}\""));
                assert!(stands || inner.has_subcommands(), "{name}");
                for alias in inner.get_visible_aliases() {
                    assert!(page.contains(alias), "{alias}");
                }
                for argument in inner.get_arguments().filter(|argument| !is_standard(argument)) {
                    if let Some(long) = argument.get_long() {
                        assert!(page.contains(&format!("--{long}")), "{name} --{long}");
                    }
                    if let Some(short) = argument.get_short() {
                        assert!(page.contains(&format!("-{short}")), "{name} -{short}");
                    }
                }
                check(page, &format!("{name} "), inner);
            }
        }
        check(&page, "", &cli);
    }
}
