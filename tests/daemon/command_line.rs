//! `wschat` as a command: checking, printing, and what is wrong with a configuration.

use std::path::Path;

use crate::support::Setup;
use crate::support::daemon::{PLAIN, Ran};

fn wschat(setup: &Setup, arguments: &[&str]) -> Ran {
    Ran::of(setup.command(env!("CARGO_BIN_EXE_wschat")).args(arguments))
}

fn shipped() -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("etc/wschat/wschat.toml").display().to_string()
}

/// One of each kind of mistake.
const WRONG: &str = "[limits]\nframe = \"64 elephants\"\nburst = \"many\"\nclients_per_ip = 0\n\
    [limit]\nrate = \"1/s\"\n[chat]\ndefault_room = [\"lobby\"]\nlocale = \"tlh\"\n[tls]\ncertificate = \"a.pem\"\n";

#[test]
fn the_version_is_the_packages() {
    let setup = Setup::without_config();
    let ran = wschat(&setup, &["--version"]);
    assert_eq!((ran.status, ran.stdout), (0, format!("wschat {}\n", env!("CARGO_PKG_VERSION"))));
    let help = wschat(&setup, &["--help"]);
    assert!(help.status == 0 && help.stdout.contains("--check-config"), "{help:?}");
    for wrong in [&["--no-such"][..], &["--config"], &["serve"], &["--check-config", "--print-config"]] {
        let ran = wschat(&setup, wrong);
        assert_eq!((ran.status, ran.stdout.as_str()), (64, ""), "{ran:?}");
        assert!(ran.stderr.contains("Usage") || ran.stderr.contains("--help"), "{ran:?}");
    }
}

#[test]
fn the_shipped_file_is_right_and_says_the_defaults() {
    let setup = Setup::without_config();
    let ran = wschat(&setup, &["--config", &shipped(), "--check-config"]);
    assert_eq!((ran.status, ran.stderr.as_str()), (0, ""));
    assert!(ran.stdout.contains("no mistake"), "{ran:?}");
    let shipped = wschat(&setup, &["--config", &shipped(), "--print-config"]);
    let default = wschat(&setup, &["--print-config"]);
    assert_eq!((shipped.status, default.status), (0, 0));
    // They differ in where is listened, and in nothing else.
    let keys = |text: &str| text[text.find("[tls]").unwrap()..].to_owned();
    assert_eq!(keys(&shipped.stdout), keys(&default.stdout));
    assert!(shipped.stdout.contains("[::]:9501") && default.stdout.contains("127.0.0.1:9501"));
}

#[test]
fn what_is_printed_means_the_same_when_it_is_read() {
    let setup = Setup::new("[limits]\nrate = \"3/m\"\n[chat]\ndefault_rooms = [\"大厅\"]\nlocale = \"zh-CN\"\n");
    let file = setup.config_file().display().to_string();
    let printed = wschat(&setup, &["--config", &file, "--print-config"]);
    assert!(printed.stdout.contains("大厅") && printed.stdout.contains("\"3/m\""), "{printed:?}");
    setup.write_config(&printed.stdout);
    assert_eq!(wschat(&setup, &["--config", &file, "--print-config"]).stdout, printed.stdout);
    assert_eq!(wschat(&setup, &["--config", &file, "--check-config"]).status, 0);
}

#[test]
fn every_mistake_is_told_with_its_place_and_nothing_runs() {
    let setup = Setup::new(WRONG);
    let file = setup.config_file().display().to_string();
    for arguments in
        [&["--config", &file, "--check-config"][..], &["--config", &file], &["--config", &file, "--print-config"]]
    {
        let ran = wschat(&setup, arguments);
        assert_eq!((ran.status, ran.stdout.as_str()), (78, ""), "{ran:?}");
        for (place, what) in [
            ("2:9", "64 elephants"),
            ("3:9", "limits.burst"),
            ("4:18", "limits.clients_per_ip"),
            ("5:2", "limit"),
            ("8:1", "default_room"),
            ("9:10", "tlh"),
            ("11:", "key"),
        ] {
            let line = ran.stderr.lines().find(|line| line.starts_with(&format!("{file}:{place}")));
            assert!(line.is_some(), "{place} {what}: {}", ran.stderr);
            assert!(ran.stderr.contains(what), "{what}: {}", ran.stderr);
        }
        assert!(ran.stderr.contains("7 mistakes"), "{}", ran.stderr);
    }
    assert!(!setup.state_folder().exists(), "nothing was begun");
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let setup = Setup::without_config();
    for arguments in [&["--config", "missing.toml"][..], &["--config", "missing.toml", "--check-config"]] {
        wschat(&setup, arguments).ends(78, "missing.toml");
    }
    // A folder, and what is no text.
    wschat(&setup, &["--config", "."]).ends(78, "cannot read");
    std::fs::write(setup.folder().join("noise"), [0xff, 0xfe, 0, 1]).unwrap();
    wschat(&setup, &["--config", "noise"]).ends(78, "noise");
}

#[test]
fn the_service_managers_folder_is_looked_into() {
    let setup = Setup::new(PLAIN);
    let mut command = setup.command(env!("CARGO_BIN_EXE_wschat"));
    command.arg("--print-config").env("CONFIGURATION_DIRECTORY", setup.folder());
    let ran = Ran::of(&mut command);
    assert!(ran.stdout.contains("127.0.0.1:0"), "{ran:?}");
}
