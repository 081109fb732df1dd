//! wschat.toml(5), made from the table of keys.

use clap_mangen::roff::{Roff, bold, italic, roman};

use super::Config;
use super::key::{Draft, Key, LISTEN, LISTEN_DOC, TABLES, Takes, new_listen};
use super::write::capital;

/// The manual page of the configuration file, in roff.
pub fn man_page() -> String {
    let mut page = Roff::new();
    // An empty argument has to be spelled out, or the next one takes its place.
    page.control("TH", ["wschat.toml", "5", "\"\"", "wschat", "File formats"]);
    page.control("SH", ["NAME"]);
    page.text([roman("wschat.toml - configuration of the chat and notification server wschat")]);
    page.control("SH", ["SYNOPSIS"]);
    page.text([italic("/etc/wschat/wschat.toml")]);
    page.control("SH", ["DESCRIPTION"]);
    page.text([
        roman("The configuration of "),
        bold("wschat"),
        roman(
            "(8), in TOML. Every key has a default, so an empty file is right. An unknown key, a wrong type or an \
            impossible value is a mistake; ",
        ),
        bold("wschat --check-config"),
        roman(
            " tells all mistakes in a file at once, each with its line and what was expected, and neither a start \
            nor a reload takes a file with a mistake in it.",
        ),
    ]);
    page.control("PP", []);
    page.text([
        roman("After a change, "),
        bold("systemctl reload wschat"),
        roman(
            " (SIGHUP) applies what a reload takes, without disturbing anybody who is connected; \
            the rest waits for ",
        ),
        bold("systemctl restart wschat"),
        roman("."),
    ]);
    page.control("SS", ["Values"]);
    for (name, doc) in [
        ("Durations", "A number and its unit, in quotes: \"250ms\", \"5s\", \"2m\", \"12h\", \"30d\"; \"1m 30s\" too."),
        ("Sizes", "Bytes: \"512B\", \"64KiB\", \"1MiB\" (1024 each), or \"64KB\", \"1MB\" (1000 each)."),
        ("Rates", "So many a second, minute or hour: \"10/s\", \"20/m\", \"100/h\". A rate is an average."),
        ("Files", "An absolute path, or one from the folder of the configuration file."),
        ("Unix sockets", "An absolute path of at most 107 bytes."),
    ] {
        page.control("TP", []);
        page.text([bold(name)]);
        page.text([roman(doc)]);
    }
    page.control("SH", ["LISTENERS"]);
    page.text([roman(LISTEN_DOC)]);
    let listen = new_listen();
    for key in LISTEN.iter() {
        let default = if key.name == "address" { None } else { Some(key.write(&listen)) };
        describe(&mut page, "listen", key, default);
    }
    page.control("SH", ["TABLES"]);
    let draft = Draft::from(Config::default());
    for table in TABLES.iter() {
        page.control("SS", [&format!("[{}]", table.name)[..]]);
        page.text([roman(table.doc)]);
        for key in &table.keys {
            describe(&mut page, table.name, key, Some(key.write(&draft)));
        }
    }
    page.control("SH", ["EXAMPLE"]);
    page.text([roman("TLS with the site's own certificate, and a plain listener for a proxy on the same machine:")]);
    page.control("PP", []);
    page.control("nf", []);
    page.control("RS", ["4"]);
    for line in EXAMPLE.lines() {
        page.text([roman(line)]);
    }
    page.control("RE", []);
    page.control("fi", []);
    page.control("SH", ["SEE ALSO"]);
    page.text([bold("wschat"), roman("(8), "), bold("wschatctl"), roman("(1)")]);
    page.render()
}

/// Stands in the manual page; a test reads it as a configuration.
pub(super) const EXAMPLE: &str = r#"[[listen]]
address = "[::]:9501"

[[listen]]
address = "127.0.0.1:9503"
tls = false
trusted_proxies = ["127.0.0.1"]

[tls]
certificate = "/etc/wschat/fullchain.pem"
key = "/etc/wschat/privkey.pem"

[chat]
allowed_origins = ["https://www.example.org"]"#;

fn describe<T>(page: &mut Roff, table: &str, key: &Key<T>, default: Option<String>) {
    let takes = match key.takes {
        Takes::Reload => "A reload takes it.",
        Takes::Restart => "A change needs a restart.",
    };
    page.control("TP", []);
    page.text([roman(format!("{table}.")), bold(key.name)]);
    page.text([roman(key.doc)]);
    page.control("IP", []);
    let expected = capital(&key.expected());
    match default {
        Some(default) => {
            page.text([roman(format!("{expected}. Default: ")), bold(default), roman(format!(". {takes}"))])
        }
        None => page.text([roman(format!("{expected}. {takes}"))]),
    };
}
