//! That the pages say everything there is: each command and flag, configuration key, exit status, method,
//! error and type of event stands where somebody looks for it. What a page is made from is the program's
//! own definition; here it is asked for again, from outside.

use std::collections::BTreeSet;
use std::path::Path;

use clap::CommandFactory;
use wschat::admin::EventKind;
use wschat::control::protocol::{CONTROL_TEXT, PUSH_TEXT};
use wschat::{cli, config, ctl};

/// A file of the project.
fn file(path: &str) -> String {
    let whole = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(&whole).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// What stands in OPERATING.md below this heading, in fences of this language.
#[track_caller]
pub fn operating(heading: &str, language: &str) -> Vec<String> {
    let text = file("docs/OPERATING.md");
    let (start, mark) = (format!("\n{heading}\n"), heading.split(' ').next().unwrap_or_default().to_owned());
    let at = text.find(&start).unwrap_or_else(|| panic!("no {heading}")) + start.len();
    let rest = &text[at..];
    // Up to the next heading of its rank or above it.
    let ends = (2..=mark.len()).filter_map(|rank| rest.find(&format!("\n{} ", "#".repeat(rank))));
    let part = &rest[..ends.min().unwrap_or(rest.len())];
    let fence = format!("```{language}\n");
    let found = part.split(&fence).skip(1).map(|after| after.split("```").next().unwrap_or_default().to_owned());
    let found: Vec<String> = found.collect();
    assert!(!found.is_empty(), "{heading} shows no {language}");
    found
}

/// A manual page as its reader sees it: without fonts, and with hyphens that are not escaped.
fn page(path: &str) -> String {
    let text = file(path).replace("\\-", "-").replace("\\f[B]", "\\fB");
    let text = ["\\fB", "\\fI", "\\fR", "\\&", "\""].iter().fold(text, |text, font| text.replace(font, ""));
    text.replace("\\(aq", "'").replace("\\*(Aq", "'")
}

/// What stands between a heading and the next one of its kind.
fn section<'a>(page: &'a str, kind: &str, heading: &str) -> &'a str {
    let start = format!("\n.{kind} {heading}");
    let found = page.match_indices(&start).find(|(at, _)| {
        let after = page[at + start.len()..].chars().next();
        after.is_none_or(|c| c == '\n' || c == ' ')
    });
    let (at, _) = found.unwrap_or_else(|| panic!("no {kind} {heading}"));
    let rest = &page[at + start.len()..];
    let end = [".SH ", ".SS "].iter().take(if kind == "SH" { 1 } else { 2 });
    let end = end.filter_map(|next| rest.find(&format!("\n{next}"))).min().unwrap_or(rest.len());
    &rest[..end]
}

/// Whether the word stands there by itself, not as a piece of another.
fn stands(text: &str, word: &str) -> bool {
    let inside = |c: char| c.is_alphanumeric() || c == '_' || c == '-';
    text.match_indices(word).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let after = text[at + word.len()..].chars().next();
        !before.is_some_and(inside) && !after.is_some_and(inside)
    })
}

/// Numbers in bold tags of a list in roff.
fn statuses(section: &str) -> BTreeSet<u8> {
    section.lines().filter_map(|line| line.trim().parse().ok()).collect()
}

/// Each command that can be called, as it is called.
fn commands(command: &clap::Command, before: &str) -> Vec<(String, clap::Command)> {
    let own = command.get_subcommands().filter(|inner| inner.get_name() != "help");
    own.flat_map(|inner| {
        let name = format!("{before}{}", inner.get_name());
        match inner.has_subcommands() {
            true => commands(inner, &format!("{name} ")),
            false => vec![(name, inner.clone())],
        }
    })
    .collect()
}

fn flags(command: &clap::Command) -> Vec<String> {
    let standard = ["help", "version"];
    let own = command.get_arguments().filter(|argument| !standard.contains(&argument.get_id().as_str()));
    own.filter_map(|argument| argument.get_long()).map(|long| format!("--{long}")).collect()
}

#[test]
fn every_command_and_flag_of_wschatctl() {
    let (manual, control) = (page("packaging/man/wschatctl.1"), file("docs/CONTROL.md"));
    let mut definition = ctl::args::Cli::command();
    definition.build();
    let global: Vec<String> =
        definition.get_arguments().filter_map(|a| a.get_long()).map(|l| format!("--{l}")).collect();
    let found = commands(&definition, "");
    assert!(found.len() > 20, "they are found at all");
    for (name, command) in found {
        let own = section(&manual, "SS", &name);
        let words: Vec<&str> = name.split(' ').collect();
        assert!(words.iter().all(|word| stands(&control, word)), "{name} in docs/CONTROL.md");
        for flag in flags(&command).iter().filter(|flag| !global.contains(flag)) {
            assert!(stands(own, flag), "{name} {flag} in wschatctl(1): {own}");
            assert!(stands(&control, flag), "{name} {flag} in docs/CONTROL.md");
        }
        for alias in command.get_visible_aliases() {
            assert!(stands(own, alias), "{name}, also called {alias}");
        }
        assert!(command.get_about().is_some(), "{name} says in its help what it does");
        for argument in command.get_arguments() {
            assert!(argument.get_help().is_some(), "{name}: what {} is", argument.get_id());
        }
    }
    let options = section(&manual, "SH", "OPTIONS");
    for flag in global {
        assert!(stands(options, &flag), "{flag} in wschatctl(1)");
        assert!(stands(&control, &flag) || ["--help", "--version"].contains(&flag.as_str()), "{flag}");
    }
}

#[test]
fn every_flag_of_wschat() {
    let (manual, control) = (page("packaging/man/wschat.8"), file("docs/CONTROL.md"));
    let options = section(&manual, "SH", "OPTIONS");
    let found = flags(&cli::Args::command());
    assert!(found.len() >= 3, "they are found at all");
    for flag in found {
        assert!(stands(options, &flag) && stands(&control, &flag), "{flag}");
    }
}

#[test]
fn every_exit_status_and_no_other() {
    let codes = |table: &[(u8, &str)]| -> BTreeSet<u8> { table.iter().map(|(code, _)| *code).collect() };
    let of_ctl = codes(ctl::status::ALL);
    assert_eq!(statuses(section(&page("packaging/man/wschatctl.1"), "SH", "EXIT STATUS")), of_ctl);
    assert_eq!(statuses(section(&page("packaging/man/wschat.8"), "SH", "EXIT STATUS")), codes(cli::exit::ALL));
    let control = file("docs/CONTROL.md");
    let table = &control[control.find("| exit | |").expect("the table of CONTROL.md")..];
    let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
    let rows: BTreeSet<u8> = rows.filter_map(|row| row.split('|').nth(1)?.trim().parse().ok()).collect();
    assert_eq!(rows, of_ctl);
    let own = &control[control.find("## The daemon's own command line").expect("its section")..];
    for code in codes(cli::exit::ALL) {
        assert!(stands(own, &code.to_string()), "{code}");
    }
}

#[test]
fn every_configuration_key() {
    let (manual, sample) = (page("packaging/man/wschat.toml.5"), file("etc/wschat/wschat.toml"));
    let printed = config::print(&config::Config::default());
    let (mut table, mut keys) = (String::new(), 0);
    for line in printed.lines() {
        if let Some(name) = line.strip_prefix('[') {
            table = name.trim_matches(['[', ']']).to_owned();
        } else if let Some((key, _)) = line.split_once(" = ") {
            keys += 1;
            assert!(manual.contains(&format!("\n{table}.{key}\n")), "{table}.{key} in wschat.toml(5)");
            let of_table =
                sample.split("\n[").find(|part| part.trim_start_matches('[').starts_with(&format!("{table}]")));
            let of_table = of_table.unwrap_or_else(|| panic!("[{table}] in the sample"));
            let at = |start: &str| of_table.contains(&format!("\n{start}{key} = "));
            assert!(at("#") || at(""), "{table}.{key} in the sample");
        }
    }
    assert!(keys > 30, "they are found at all");
}

/// Names after one of these words at a line's beginning.
fn declared(text: &str, word: &str) -> Vec<String> {
    let lines = text.lines().filter_map(|line| line.strip_prefix(word)?.strip_prefix(' '));
    lines.filter_map(|rest| Some(rest.split(['(', ' ']).next()?.to_owned())).collect()
}

#[test]
fn every_method_error_and_type_of_event() {
    let control = file("docs/CONTROL.md");
    let interfaces = &control[control.find("## The interfaces").expect("the section")..];
    for text in [CONTROL_TEXT, PUSH_TEXT] {
        let (methods, errors) = (declared(text, "method"), declared(text, "error"));
        assert!(!methods.is_empty() && !errors.is_empty(), "they are found at all");
        for name in methods.iter().chain(&errors) {
            assert!(stands(interfaces, name), "{name} in docs/CONTROL.md");
        }
    }
    let manual = page("packaging/man/wschatctl.1");
    for kind in EventKind::ALL {
        assert!(stands(&control, kind.as_str()), "event {} in docs/CONTROL.md", kind.as_str());
        assert!(stands(section(&manual, "SS", "events"), kind.as_str()), "event {} in wschatctl(1)", kind.as_str());
    }
}

/// What an operator meets in a log or on a screen, and looks up.
#[test]
fn every_close_code_has_its_line_in_what_to_do() {
    let operating = file("docs/OPERATING.md");
    let start = operating.find("## What a code means").expect("the section");
    let part = &operating[start..];
    let part = &part[..part[3..].find("\n## ").map_or(part.len(), |end| end + 3)];
    for code in wschat::wire::close::ALL {
        assert!(stands(part, &code.code.to_string()), "{} ({})", code.code, code.name);
    }
}

/// Headings, and what refers to them in the same file or another.
#[test]
fn links_between_the_documents_lead_somewhere() {
    let anchor = |heading: &str| -> String {
        let kept = heading
            .to_lowercase()
            .chars()
            .filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c))
            .collect::<String>();
        kept.replace(' ', "-")
    };
    let documents = ["README.md", "docs/OPERATING.md", "docs/CONTROL.md", "docs/PROTOCOL.md", "docs/ARCHITECTURE.md"];
    for document in documents {
        let text = file(document);
        for (at, _) in text.match_indices("](") {
            let target = text[at + 2..].split(')').next().unwrap_or_default();
            if target.contains("://") {
                continue;
            }
            let (path, heading) = target.split_once('#').unwrap_or((target, ""));
            let folder = Path::new(document).parent().unwrap_or(Path::new(""));
            let path = if path.is_empty() { document.to_owned() } else { folder.join(path).display().to_string() };
            let whole = Path::new(env!("CARGO_MANIFEST_DIR")).join(&path);
            assert!(whole.exists(), "{document} refers to {target}");
            if !heading.is_empty() {
                let there = file(&path)
                    .lines()
                    .any(|line| line.starts_with('#') && anchor(line.trim_start_matches(['#', ' '])) == heading);
                assert!(there, "{document} refers to {target}");
            }
        }
    }
}
