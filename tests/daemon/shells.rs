//! Manual pages through man(1), and completions in the shells that they are for.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::support::daemon::Ran;
use crate::support::left_out;

/// Whether there is such a program. Without it the test is counted as left out.
fn is_there(program: &str) -> bool {
    let there = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
        .any(|folder| folder.join(program).is_file());
    if !there {
        left_out(&format!("{program} is not installed"));
    }
    there
}

fn page(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/man").join(name)
}

const PAGES: [&str; 3] = ["wschat.8", "wschatctl.1", "wschat.toml.5"];

#[test]
fn the_pages_are_set_without_a_warning() {
    if !is_there("man") || !is_there("groff") {
        return;
    }
    for name in PAGES {
        let mut man = Command::new("man");
        // As lintian looks at them.
        man.env("LC_ALL", "C.UTF-8").env("MANROFFSEQ", "").env("MANWIDTH", "80");
        let ran = Ran::of(man.args(["--warnings", "-E", "UTF-8", "-l"]).arg(page(name)).stdin(Stdio::null()));
        assert_eq!((ran.status, ran.stderr.as_str()), (0, ""), "{name}");
        let text = ran.stdout;
        for heading in ["NAME", "SYNOPSIS", "DESCRIPTION", "SEE ALSO"] {
            assert!(text.lines().any(|line| line.contains(heading)), "{name} has no {heading}");
        }
        // Nothing of the source shows.
        assert!(!text.contains("\\f") && !text.contains("\\-"), "{name}");
    }
}

#[test]
fn another_formatter_finds_no_error_in_them() {
    if !is_there("mandoc") {
        return;
    }
    for name in PAGES {
        let ran = Ran::of(Command::new("mandoc").args(["-T", "lint", "-W", "error"]).arg(page(name)));
        assert_eq!((ran.status, ran.stdout.as_str()), (0, ""), "{name}");
    }
}

/// The script for a shell, in a folder of its own.
fn script(shell: &str) -> (tempfile::TempDir, PathBuf) {
    let ran = Ran::of(Command::new(env!("CARGO_BIN_EXE_wschatctl")).args(["completions", shell]));
    assert_eq!((ran.status, ran.stderr.as_str()), (0, ""));
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("_wschatctl");
    std::fs::write(&path, ran.stdout).expect("our own folder");
    (folder, path)
}

/// What is offered for the last word of a line, and what must be among it.
const LINES: [(&str, &str); 4] = [
    ("wschatctl ba", "backup"),
    ("wschatctl ban ed", "edit"),
    ("wschatctl backup --fo", "--force"),
    ("wschatctl events --type ki", "kick"),
];

#[test]
fn bash_completes() {
    if !is_there("bash") {
        return;
    }
    let (_folder, script) = script("bash");
    for (line, offered) in LINES {
        let ask = r#"source "$1"; COMP_LINE=$2; COMP_POINT=${#2}; read -ra COMP_WORDS <<<"$2"
            COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
            complete -p wschatctl >/dev/null || exit 1
            _wschatctl wschatctl "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"
            printf '%s\n' "${COMPREPLY[@]}""#;
        let ran = Ran::of(Command::new("bash").args(["--norc", "-c", ask, "bash"]).arg(&script).arg(line));
        assert_eq!((ran.status, ran.stderr.as_str()), (0, ""), "{line}");
        assert!(ran.stdout.lines().any(|word| word == offered), "{line}: {}", ran.stdout);
    }
}

#[test]
fn fish_completes() {
    if !is_there("fish") {
        return;
    }
    let (folder, script) = script("fish");
    for (line, offered) in LINES {
        let mut fish = Command::new("fish");
        fish.env("HOME", folder.path()).env_remove("XDG_CONFIG_HOME");
        let ran =
            Ran::of(fish.args(["--no-config", "-c", "source $argv[1]; complete -C $argv[2]"]).arg(&script).arg(line));
        assert_eq!((ran.status, ran.stderr.as_str()), (0, ""), "{line}");
        assert!(ran.stdout.lines().any(|word| word.split('\t').next() == Some(offered)), "{line}: {}", ran.stdout);
    }
}

/// In a terminal of its own, since zsh completes nowhere else.
#[test]
fn zsh_completes() {
    if !is_there("zsh") {
        return;
    }
    let (folder, script) = script("zsh");
    let ask = r#"
        zmodload zsh/zpty
        zpty inner zsh -f -i
        zpty -w inner "PS1=; fpath=($1 \$fpath); autoload -U compinit; compinit -u -D; unsetopt beep"
        zpty -w inner "stty cols 200; print READY"
        zpty -r -m inner seen '*READY*READY*'
        zpty -w -n inner "$2"$'\t'$'\n'
        zpty -w inner "print -r -- DONE"
        zpty -r -m inner seen '*DONE*DONE*'
        print -r -- "$seen"
        zpty -d inner
    "#;
    let parsed = Ran::of(Command::new("zsh").arg("-n").arg(&script));
    assert_eq!((parsed.status, parsed.stderr.as_str()), (0, ""));
    for (line, offered) in &LINES[1..] {
        let mut zsh = Command::new("zsh");
        zsh.env("HOME", folder.path()).env("TERM", "dumb").env("WSCHAT_SOCKET", "/nonexistent");
        let ran = Ran::of(zsh.args(["-f", "-c", ask, "zsh"]).arg(folder.path()).arg(line).stdin(Stdio::null()));
        assert!(ran.stdout.contains(&format!(" {offered}")), "{line}: {ran:?}");
    }
}
