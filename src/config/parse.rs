//! From the file's text to a [`Config`], with every mistake in it and not only the first.
//!
//! Three passes over one spanned tree: syntax, each value for itself, then what must hold between
//! values. A later pass says nothing about what an earlier one already found fault with.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::form::{Item, sort_of};
use super::key::{Draft, Key, LISTEN, TABLES, new_listen};
use super::mistake::{Mistake, Source};
use super::{Address, AuthMode, Config, Listen, TlsFiles};

/// The least bytes that a JSON message has around its text and a short room's name.
pub(super) const ENVELOPE: usize = 64;

/// Longer unknown keys are nobody's slip of a finger.
const LONGEST_SUGGESTED: usize = 40;

/// Reads `text`; relative files lie in `base`. The mistakes are in the order of the text.
pub(super) fn read(text: &str, base: &Path) -> Result<Config, Vec<Mistake>> {
    let source = Source::new(text);
    let (tree, errors) = DeTable::parse_recoverable(text);
    let mut reader = Reader { source, mistakes: Vec::new(), places: HashMap::new() };
    let mut draft = Draft::from(Config::default());
    let listens = reader.root(tree.get_ref(), &mut draft);
    if errors.is_empty() {
        reader.check_tls(&mut draft, base);
        reader.check_acme(&mut draft, base, &listens);
        draft.config.history.path = draft.config.history.path.take().map(|path| base.join(path));
        reader.check_auth(&mut draft, base);
        reader.check_listens(&listens, &draft);
        reader.check_paths(&draft);
        reader.check_limits(&draft);
    } else {
        let suspect = suspect_lines(&reader.source, errors.iter().filter_map(toml::de::Error::span));
        reader.mistakes.retain(|mistake| !suspect[mistake.line - 1]);
        for error in errors {
            let span = error.span().unwrap_or(0..0);
            reader.tell(span, format!("this is no TOML: {}", error.message()), None, None);
        }
    }
    if reader.mistakes.is_empty() {
        if !listens.is_empty() {
            draft.config.listen = listens.into_iter().map(|(listen, _)| listen).collect();
        }
        Ok(draft.config)
    } else {
        reader.mistakes.sort_by_key(|mistake| (mistake.line, mistake.column));
        Err(reader.mistakes)
    }
}

/// Lines whose meaning cannot be trusted after a mistake in syntax: its own, and where that is a
/// table's heading, all that seem to stand in another table now.
fn suspect_lines(source: &Source<'_>, spans: impl Iterator<Item = Range<usize>>) -> Vec<bool> {
    let heading = |line: usize| source.line(line).trim_start().starts_with('[');
    let mut suspect = vec![false; source.lines()];
    for span in spans {
        let line = source.line_of(span.start);
        suspect[line] = true;
        if heading(line) {
            let following = (line + 1..source.lines()).take_while(|line| !heading(*line));
            // Where these are suspect already, so is the rest.
            for line in following {
                if std::mem::replace(&mut suspect[line], true) {
                    break;
                }
            }
        }
    }
    suspect
}

/// Where a key's value stands, and whether it could be used.
struct Place {
    span: Range<usize>,
    good: bool,
}

/// Where the parts of a `[[listen]]` stand.
struct ListenPlace {
    heading: Range<usize>,
    /// By key, as in [`Reader::places`].
    keys: HashMap<String, Place>,
}

struct Reader<'t> {
    source: Source<'t>,
    mistakes: Vec<Mistake>,
    /// By full name (`table.key`), for those that the file gives.
    places: HashMap<String, Place>,
}

impl Reader<'_> {
    fn tell(&mut self, span: Range<usize>, what: String, expected: Option<String>, hint: Option<String>) {
        let mut mistake = self.source.mistake(span, what);
        (mistake.expected, mistake.hint) = (expected, hint);
        self.mistakes.push(mistake);
    }

    fn root(&mut self, root: &DeTable<'_>, draft: &mut Draft) -> Vec<(Listen, ListenPlace)> {
        let mut listens = Vec::new();
        for (name, item) in root {
            if name.get_ref() == "listen" {
                listens = self.listens(item);
            } else if let Some(table) = TABLES.iter().find(|table| table.name == name.get_ref()) {
                let DeValue::Table(entries) = item.get_ref() else {
                    let what = format!("{}: this is {}, not a table", table.name, sort_of(item.get_ref()));
                    self.tell(item.span(), what, Some(format!("[{}]", table.name)), None);
                    continue;
                };
                let places = self.entries(table.name, &table.keys, entries, draft);
                self.places.extend(places.into_iter().map(|(name, place)| (format!("{}.{name}", table.name), place)));
            } else {
                self.unknown_table(name.get_ref(), name.span());
            }
        }
        listens
    }

    fn unknown_table(&mut self, name: &str, span: Range<usize>) {
        let known = || std::iter::once("listen").chain(TABLES.iter().map(|table| table.name));
        let at_home = TABLES.iter().find(|table| table.keys.iter().any(|key| key.name == name));
        let hint = match at_home {
            Some(table) => Some(format!("{name} belongs into [{}]", table.name)),
            None => nearest(name, known()).map(|near| format!("did you mean [{near}]?")),
        };
        let expected = format!("one of the tables {}", known().collect::<Vec<_>>().join(", "));
        self.tell(span, format!("there is no {} here", shown(name)), Some(expected), hint);
    }

    /// Reads one table's keys into `into`, and tells where they stand.
    fn entries<T>(
        &mut self,
        table: &str,
        keys: &[Key<T>],
        entries: &DeTable<'_>,
        into: &mut T,
    ) -> HashMap<String, Place> {
        let mut places = HashMap::new();
        for (name, item) in entries {
            let Some(key) = keys.iter().find(|key| key.name == name.get_ref()) else {
                let elsewhere = TABLES.iter().find(|other| other.keys.iter().any(|key| key.name == name.get_ref()));
                let near = nearest(name.get_ref(), keys.iter().map(|key| key.name));
                let hint = match (near, elsewhere) {
                    (Some(near), _) => Some(format!("did you mean {near}?")),
                    (None, Some(other)) => Some(format!("{} belongs into [{}]", name.get_ref(), other.name)),
                    (None, None) => None,
                };
                let names: Vec<&str> = keys.iter().map(|key| key.name).collect();
                let what = format!("{table} has no key {}", shown(name.get_ref()));
                self.tell(name.span(), what, Some(format!("one of {}", names.join(", "))), hint);
                continue;
            };
            let mut wrong = Vec::new();
            key.read(item, into, &mut wrong);
            places.insert(key.name.to_owned(), Place { span: item.span(), good: wrong.is_empty() });
            for wrong in wrong {
                let what = format!("{table}.{}: {}", key.name, wrong.what);
                self.tell(wrong.span, what, Some(key.expected()), None);
            }
        }
        places
    }

    fn listens(&mut self, item: &Item<'_>) -> Vec<(Listen, ListenPlace)> {
        let DeValue::Array(items) = item.get_ref() else {
            let what = format!("listen: this is {}, not a list of tables", sort_of(item.get_ref()));
            self.tell(item.span(), what, Some("[[listen]], in double brackets".into()), None);
            return Vec::new();
        };
        let mut listens = Vec::new();
        for item in items {
            let DeValue::Table(entries) = item.get_ref() else {
                let what = format!("listen: this is {}, not a table", sort_of(item.get_ref()));
                self.tell(item.span(), what, Some("[[listen]]".into()), None);
                continue;
            };
            let mut listen = new_listen();
            let keys = self.entries("listen", &LISTEN, entries, &mut listen);
            if matches!(listen.address, Address::Unix(_)) && !keys.contains_key("tls") {
                listen.tls = false;
            }
            listens.push((listen, ListenPlace { heading: item.span(), keys }));
        }
        listens
    }

    /// Where to point for something that is wrong between these keys: at the first that is given.
    /// `None` where one of them is wrong by itself, which has been told.
    fn between(&self, names: &[&str]) -> Option<Range<usize>> {
        let given = || names.iter().filter_map(|name| self.places.get(*name));
        if given().any(|place| !place.good) {
            return None;
        }
        Some(given().next().map_or(0..0, |place| place.span.clone()))
    }

    fn check_tls(&mut self, draft: &mut Draft, base: &Path) {
        let Some(span) = self.between(&["tls.certificate", "tls.key"]) else { return };
        // Files are named from the folder of the file that names them.
        let whole = |path: &PathBuf| base.join(path);
        let (certificate, key) = (draft.certificate.as_ref().map(whole), draft.key.as_ref().map(whole));
        for (name, path) in [("tls.certificate", &certificate), ("tls.key", &key)] {
            if path.as_ref().is_some_and(|path| path.to_str().is_none()) {
                let what = format!("{name}: this file lies in a folder whose name is not UTF-8");
                self.tell(span.clone(), what, None, None);
            }
        }
        draft.config.tls.files = match (certificate, key) {
            (Some(certificate), Some(key)) => Some(TlsFiles { certificate, key }),
            (None, None) => None,
            (has_certificate, _) => {
                let (given, missing) =
                    if has_certificate.is_some() { ("certificate", "key") } else { ("key", "certificate") };
                let span = self.between(&[&format!("tls.{given}")]).unwrap_or(span);
                let what = format!("tls.{given} is given without tls.{missing}");
                self.tell(span, what, Some("both, or neither for a self-signed certificate".into()), None);
                None
            }
        };
    }

    fn check_acme(&mut self, draft: &mut Draft, base: &Path, listens: &[(Listen, ListenPlace)]) {
        let acme = &mut draft.config.tls.acme;
        if let Some(path) = &mut acme.ca_file {
            *path = base.join(&path);
            if path.to_str().is_none()
                && let Some(span) = self.between(&["tls.acme_ca_file"])
            {
                let what = "tls.acme_ca_file: this file lies in a folder whose name is not UTF-8".to_owned();
                self.tell(span, what, None, None);
            }
        }
        if draft.config.tls.acme.names.is_empty() {
            return;
        }
        if (draft.certificate.is_some() || draft.key.is_some())
            && let Some(span) = self.between(&["tls.acme", "tls.certificate", "tls.key"])
        {
            let what = "tls.acme: the certificate is to come from a CA, and from files as well".to_owned();
            self.tell(span, what, Some("either acme, or certificate and key".into()), None);
        }
        if !listens.is_empty()
            && !listens.iter().any(|(listen, _)| listen.tls)
            && let Some(span) = self.between(&["tls.acme"])
        {
            let what = "tls.acme: no listener uses TLS, so a CA finds nobody to check a name with".to_owned();
            let hint = "behind a proxy that does the TLS, the certificate is the proxy's".to_owned();
            self.tell(span, what, Some("a [[listen]] with TLS that the world reaches at port 443".into()), Some(hint));
        }
    }

    fn check_auth(&mut self, draft: &mut Draft, base: &Path) {
        let auth = &mut draft.config.auth;
        for (name, file) in [("secret_file", &mut auth.secret_file), ("public_key_file", &mut auth.public_key_file)] {
            let Some(path) = file else { continue };
            *path = base.join(&path);
            if path.to_str().is_none()
                && let Some(span) = self.between(&[&format!("auth.{name}")])
            {
                let what = format!("auth.{name}: this file lies in a folder whose name is not UTF-8");
                self.tell(span, what, None, None);
            }
        }
        let auth = &draft.config.auth;
        if auth.mode == AuthMode::Token
            && auth.secret_file.is_none()
            && auth.public_key_file.is_none()
            && let Some(span) = self.between(&["auth.mode", "auth.secret_file", "auth.public_key_file"])
        {
            let what = "auth.mode: tokens are demanded, and there is no key to check them with".to_owned();
            self.tell(span, what, Some("auth.secret_file or auth.public_key_file besides".into()), None);
        }
    }

    fn check_listens(&mut self, listens: &[(Listen, ListenPlace)], draft: &Draft) {
        let mut seen: Vec<&Address> = Vec::new();
        let sockets = [&draft.config.control.socket, &draft.config.control.push_socket];
        for (listen, place) in listens {
            let at = |key: &str| place.keys.get(key).map_or(place.heading.clone(), |place| place.span.clone());
            match place.keys.get("address") {
                None => {
                    let what = "listen.address is missing".to_owned();
                    let key = LISTEN.iter().find(|key| key.name == "address");
                    self.tell(place.heading.clone(), what, key.map(|key| key.expected()), None);
                    continue;
                }
                Some(address) if !address.good => continue,
                Some(_) => {}
            }
            if let Some(other) = seen.iter().find(|other| overlap(other, &listen.address)) {
                let what = format!("listen.address: {other} is listened on already");
                self.tell(at("address"), what, Some("each address and port once".into()), None);
            }
            seen.push(&listen.address);
            if let Address::Unix(path) = &listen.address {
                if sockets.iter().any(|socket| socket.as_ref() == Some(path)) {
                    let what = "listen.address: this socket is one of [control]".to_owned();
                    self.tell(at("address"), what, Some("a path of its own for each socket".into()), None);
                }
                if listen.tls {
                    let what = "listen.tls: a Unix socket is always plain".to_owned();
                    self.tell(at("tls"), what, Some("tls = false, or an IP address".into()), None);
                }
                if !listen.trusted_proxies.is_empty() {
                    let what = "listen.trusted_proxies: on a Unix socket every peer is believed".to_owned();
                    let hint = "the rights on the socket's folder decide who reaches it".to_owned();
                    self.tell(at("trusted_proxies"), what, Some("no trusted_proxies here".into()), Some(hint));
                }
            }
        }
        let ours = Config::default().listen;
        let addresses = if listens.is_empty() { ours.iter().map(|listen| &listen.address).collect() } else { seen };
        if let Some(metrics) = draft.config.metrics.listen.map(Address::Tcp)
            && let Some(other) = addresses.iter().find(|other| overlap(other, &metrics))
            && let Some(span) = self.between(&["metrics.listen"])
        {
            let what = format!("metrics.listen: {other} is listened on already, by [[listen]]");
            self.tell(span, what, Some("a port of its own".into()), None);
        }
        let [socket, push] = sockets;
        if socket.is_some()
            && socket == push
            && let Some(span) = self.between(&["control.push_socket", "control.socket"])
        {
            let what = "control.push_socket: this is control.socket too".to_owned();
            self.tell(span, what, Some("a path of its own for each socket".into()), None);
        }
    }

    fn check_paths(&mut self, draft: &Draft) {
        let paths = &draft.config.paths;
        let named = [
            ("paths.page", &paths.page),
            ("paths.json", &paths.json),
            ("paths.text", &paths.text),
            ("paths.echo", &paths.echo),
            ("paths.health", &paths.health),
        ];
        for (number, (name, path)) in named.iter().enumerate() {
            let same = named[..number].iter().find(|(_, other)| path.is_some() && path == other);
            if let Some((other, _)) = same
                && let Some(span) = self.between(&[name, other])
            {
                let what = format!("{name} and {other} are both {}", shown(path.as_deref().unwrap_or_default()));
                self.tell(span, what, Some("a path of its own for each, or \"\"".into()), None);
            }
        }
    }

    fn check_limits(&mut self, draft: &Draft) {
        let (limits, rooms) = (&draft.config.limits, draft.config.chat.default_rooms.len());
        if limits.text.saturating_add(ENVELOPE) > limits.frame
            && let Some(span) = self.between(&["limits.text", "limits.frame"])
        {
            let what = format!("limits.text: {} bytes do not fit into a limits.frame of {}", limits.text, limits.frame);
            let expected = format!("a text that leaves {ENVELOPE} bytes of the frame for what stands around it");
            self.tell(span, what, Some(expected), None);
        }
        if limits.outbox < limits.frame
            && let Some(span) = self.between(&["limits.outbox", "limits.frame"])
        {
            let what = format!(
                "limits.outbox: {} bytes do not hold one message of limits.frame, {}",
                limits.outbox, limits.frame
            );
            self.tell(span, what, Some("an outbox of at least one frame, better of several".into()), None);
        }
        if limits.rooms_per_client < rooms
            && let Some(span) = self.between(&["limits.rooms_per_client", "chat.default_rooms"])
        {
            let what = format!("limits.rooms_per_client: chat.default_rooms has {rooms}, and this allows fewer");
            self.tell(span, what, Some(format!("at least {rooms}, or fewer default rooms")), None);
        }
    }
}

/// Whether two listeners cannot be at once. Port 0 is another one each time.
fn overlap(one: &Address, other: &Address) -> bool {
    match (one, other) {
        (Address::Tcp(one), Address::Tcp(other)) => {
            let family = one.is_ipv4() == other.is_ipv4();
            let every = |address: &SocketAddr| address.ip().is_unspecified();
            // "[::]" is every address of IPv4 too.
            let both = [one, other].into_iter().any(|address| address.is_ipv6() && every(address));
            let clash = both || family && (every(one) || every(other) || one == other);
            one.port() == other.port() && one.port() != 0 && clash
        }
        (one, other) => one == other,
    }
}

/// A name from the file, short enough to be shown and without control characters.
fn shown(name: &str) -> String {
    let short: String = name.chars().take(LONGEST_SUGGESTED).collect();
    let dots = if short.len() < name.len() { "…" } else { "" };
    format!("{short:?}{dots}")
}

/// The known word that `name` may be a slip of.
fn nearest<'k>(name: &str, known: impl Iterator<Item = &'k str>) -> Option<&'k str> {
    if name.len() > LONGEST_SUGGESTED {
        return None;
    }
    let near = known.map(|word| (distance(name, word), word)).min()?;
    // A third of the letters, so that "key" does not suggest "tls".
    (near.0 <= near.1.len().max(3) / 3).then_some(near.1)
}

/// Letters to insert, remove, replace or swap with the next (the optimal string alignment).
fn distance(one: &str, other: &str) -> usize {
    let (one, other): (Vec<char>, Vec<char>) = (one.chars().collect(), other.chars().collect());
    let mut rows: Vec<Vec<usize>> = vec![(0..=other.len()).collect()];
    for i in 1..=one.len() {
        let mut row = vec![i];
        for j in 1..=other.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(one[i - 1] != other[j - 1]);
            let mut least = replaced.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && one[i - 1] == other[j - 2] && one[i - 2] == other[j - 1] {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[one.len()][other.len()]
}
