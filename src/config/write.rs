//! The configuration written out: the effective one, what differs between two, and the sample file.

use std::fmt::Write as _;

use super::Config;
use super::key::{Draft, LISTEN, LISTEN_DOC, TABLES, Takes, new_listen};

/// Columns of the sample's comments.
const COLUMNS: usize = 96;

/// The whole configuration as TOML that reads back to the same [`Config`].
///
/// The default listeners are not written but named in a comment: unlike written ones, they are
/// skipped where the machine lacks their family.
pub fn print(config: &Config) -> String {
    let mut text = String::new();
    if config.listen == Config::default().listen {
        text.push_str("# No [[listen]]:");
        for listen in &config.listen {
            text.push_str(&format!(" {}", listen.address));
        }
        text.push_str(", with TLS.\n");
    } else {
        for listen in &config.listen {
            text.push_str("[[listen]]\n");
            for key in LISTEN.iter() {
                text.push_str(&format!("{} = {}\n", key.name, key.write(listen)));
            }
        }
    }
    let draft = Draft::from(config.clone());
    for table in TABLES.iter() {
        text.push_str(&format!("\n[{}]\n", table.name));
        for key in &table.keys {
            text.push_str(&format!("{} = {}\n", key.name, key.write(&draft)));
        }
    }
    text
}

/// A key whose value differs between two configurations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// `table.key`, or `listen` for all listeners together.
    pub key: String,
    /// Whether a reload takes it; otherwise it waits for a restart.
    pub reload: bool,
}

/// What a reload from `old` to `new` changes, in the order of the file.
pub fn diff(old: &Config, new: &Config) -> Vec<Change> {
    let mut changes = Vec::new();
    if old.listen != new.listen {
        changes.push(Change { key: "listen".into(), reload: true });
    }
    let (old, new) = (Draft::from(old.clone()), Draft::from(new.clone()));
    for table in TABLES.iter() {
        // Equal values are written alike, and unequal ones are not: what is written reads back.
        for key in table.keys.iter().filter(|key| key.write(&old) != key.write(&new)) {
            changes.push(Change { key: format!("{}.{}", table.name, key.name), reload: key.takes == Takes::Reload });
        }
    }
    changes
}

/// The commented file that the package installs: each key at its default, only its listener live.
pub fn sample() -> String {
    let mut text = String::new();
    comment(
        &mut text,
        "The configuration of wschat; wschat.toml(5) says more. Each key stands here at its default: remove the \"#\" \
         before it to change it. Check with \"wschat --check-config\", then apply with \"systemctl reload wschat\". What \
         a reload does not take, marked \"restart\", waits for \"systemctl restart wschat\".",
    );
    text.push_str("#\n");
    comment(
        &mut text,
        "Durations are \"250ms\", \"5s\", \"2m\", \"12h\", \"30d\"; sizes \"64KiB\" (1024) or \"64KB\" (1000); rates \
         \"10/s\", \"20/m\", \"100/h\".",
    );
    text.push('\n');
    comment(&mut text, LISTEN_DOC);
    text.push_str("[[listen]]\n");
    let (listen, draft) = (new_listen(), Draft::from(Config::default()));
    for key in LISTEN.iter() {
        let live = if key.name == "address" { "" } else { "#" };
        describe(&mut text, key.doc, &key.expected(), key.takes);
        // Writing into a String cannot fail.
        let _ = writeln!(text, "{live}{} = {}", key.name, key.write(&listen));
    }
    for table in TABLES.iter() {
        text.push('\n');
        comment(&mut text, table.doc);
        let _ = writeln!(text, "[{}]", table.name);
        for key in &table.keys {
            describe(&mut text, key.doc, &key.expected(), key.takes);
            let _ = writeln!(text, "#{} = {}", key.name, key.write(&draft));
        }
    }
    text
}

fn describe(text: &mut String, doc: &str, expected: &str, takes: Takes) {
    text.push('\n');
    comment(text, doc);
    comment(text, &format!("{}. ({})", capital(expected), takes.word()));
}

/// `text` as comment lines.
fn comment(to: &mut String, text: &str) {
    let mut column = 0;
    for word in text.split_whitespace() {
        let width = word.chars().count();
        if column > 0 && column + 1 + width > COLUMNS {
            to.push('\n');
            column = 0;
        }
        if column == 0 {
            to.push('#');
            column = 1;
        }
        to.push(' ');
        to.push_str(word);
        column += 1 + width;
    }
    to.push('\n');
}

/// `text` with a capital first letter.
pub(super) fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

impl Takes {
    pub(super) fn word(self) -> &'static str {
        match self {
            Takes::Reload => "reload",
            Takes::Restart => "restart",
        }
    }
}
