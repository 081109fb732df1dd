//! Words of the screen: the keys, and a client's details.

use std::time::Duration;

use super::cells::{fit, number, tame};
use super::snapshot::Rates;
use crate::control::protocol as api;
use crate::ctl::text::{age, bytes};

/// The footer of the lists, for 80 columns.
pub const KEYS: &str = "q quit  ? help  k kick  Enter details  / filter  s sort  Tab rooms  space pause";

const HELP: [(&str, &str); 17] = [
    ("Up, Down", "choose a client or a room; also p, and n or j"),
    ("PgUp, PgDn", "a page up or down"),
    ("Home, End", "the first, the last; also g and G"),
    ("Tab", "go to the rooms, and back to the clients"),
    ("Enter", "all about the chosen client; the clients of the chosen room"),
    ("k", "kick the chosen client, after asking (close code 4003)"),
    ("/, f", "filter, as wschatctl list does: --user U --nick N --ip CIDR"),
    ("", "--room R --dialect D --older 1h --idle 10m --sendq-over 64K"),
    ("s, S", "the next or the previous order, of sendq, idle, age, rtt,"),
    ("", "in, out, nick and address; r: the other way round"),
    ("space", "pause, and go on"),
    ("?, h", "this help"),
    ("Esc", "back: from here, from details, from a filter; then quit"),
    ("q, Ctrl-C", "quit; q goes back as well, from here and from details"),
    ("", ""),
    ("SENDQ", "bytes that wait for a client that reads too slowly"),
    ("IN/s, OUT/s", "messages a second from it and to it"),
];

pub fn help() -> Vec<String> {
    HELP.iter().map(|(key, meaning)| format!(" {} {meaning}", fit(key, 16, false))).collect()
}

pub fn interval(interval: Duration) -> String {
    humantime::format_duration(interval).to_string()
}

/// A client on lines so many cells wide; what is longer goes on in the next one.
pub fn details(client: &api::Client, rates: &Rates, wide: usize) -> Vec<String> {
    let text = |text: &Option<String>| text.as_deref().map_or_else(|| "-".into(), tame);
    let (to, from) = match rates.clients.get(&client.id) {
        Some((to, from)) => (format!(", now {}/s", number(*to)), format!(", now {}/s", number(*from))),
        None => Default::default(),
    };
    let list = |list: &[String]| if list.is_empty() { "-".into() } else { tame(&list.join(", ")) };
    let pairs = [
        ("user", text(&client.user)),
        ("nick", text(&client.nick)),
        ("address", tame(&client.address)),
        ("port", client.port.to_string()),
        ("rooms", list(&client.rooms)),
        ("connected", format!("{}, since {}", age(client.age), tame(&client.since))),
        ("idle", age(client.idle)),
        ("sendq", bytes(client.sendq)),
        ("rtt", client.rtt.map_or_else(|| "-".into(), age)),
        ("in", format!("{} messages, {}{to}", client.messages_in, bytes(client.in_bytes))),
        ("out", format!("{} messages, {}{from}", client.messages_out, bytes(client.out_bytes))),
        ("dialect", tame(&client.dialect)),
        ("tls", text(&client.tls)),
        ("alpn", text(&client.alpn)),
        ("origin", text(&client.origin)),
        ("agent", text(&client.agent)),
        ("resumed", if client.resumed { "yes" } else { "no" }.into()),
        ("token until", text(&client.token_exp)),
        ("roles", list(&client.roles)),
    ];
    const LABEL: usize = 13;
    let room = wide.saturating_sub(LABEL + 1).max(1);
    let mut lines = Vec::new();
    for (label, value) in pairs {
        let mut label = label;
        for part in broken(&value, room) {
            lines.push(format!(" {}{part}", fit(label, LABEL, false)));
            label = "";
        }
    }
    lines
}

/// Cut into pieces of at most so many cells.
fn broken(text: &str, wide: usize) -> Vec<String> {
    let mut pieces = vec![String::new()];
    let mut left = wide;
    for c in text.chars() {
        let cells = super::cells::width(c.encode_utf8(&mut [0; 4]));
        if cells > left {
            pieces.push(String::new());
            left = wide;
        }
        left = left.saturating_sub(cells);
        pieces.last_mut().expect("there is one from the beginning").push(c);
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keys_fit_on_80_columns() {
        assert!(KEYS.len() <= 80, "{}", KEYS.len());
        for line in help() {
            assert!(line.len() <= 80, "{line}");
        }
    }
}
