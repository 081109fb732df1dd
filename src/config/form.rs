//! How each kind of value is written in the file: read, written and described in one place.
//!
//! A [`Form`] knows nothing of keys. What it writes it also reads, to the same value.

use std::collections::HashSet;
use std::net::{Ipv6Addr, SocketAddr};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytesize::ByteSize;
use ipnet::{IpNet, Ipv4Net};
use toml::Spanned;
use toml::de::DeValue;

use super::{Address, Origins, Rate};
use crate::chat::id::RoomName;

/// The longest path of a Unix socket in bytes: `sun_path` of unix(7) less its closing NUL.
const SOCKET_PATH: usize = 107;

/// A value as the file has it.
pub(super) type Item<'i> = Spanned<DeValue<'i>>;

/// Why a value, or an element of it, cannot be.
pub(super) struct Wrong {
    pub(super) span: Range<usize>,
    pub(super) what: String,
}

pub(super) trait Form: Send + Sync + 'static {
    type Value: 'static;
    /// The value, or everything that is wrong with it (then `wrong` has grown).
    fn read(&self, item: &Item<'_>, wrong: &mut Vec<Wrong>) -> Option<Self::Value>;
    /// A TOML value.
    fn write(&self, value: &Self::Value) -> String;
    /// What may stand here, as in "expected …".
    fn expected(&self) -> String;
}

/// `text` as a TOML basic string.
pub(super) fn quote(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => quoted.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// `text` quoted for a message, cut where it is long.
fn cited(text: &str) -> String {
    let mut short: String = text.chars().take(60).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    quote(&short)
}

/// What a value is, in words: "a text", "an integer".
pub(super) fn sort_of(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

fn wrong_sort(item: &Item<'_>, wanted: &str, wrong: &mut Vec<Wrong>) {
    wrong.push(Wrong { span: item.span(), what: format!("this is {}, not {wanted}", sort_of(item.get_ref())) });
}

/// Reads a text; `read` says why another text cannot be.
fn text<T>(item: &Item<'_>, wrong: &mut Vec<Wrong>, read: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
    let Some(text) = item.get_ref().as_str() else {
        wrong_sort(item, "a text in quotes", wrong);
        return None;
    };
    read(text).map_err(|what| wrong.push(Wrong { span: item.span(), what })).ok()
}

/// Reads a list of texts, to the end even where some are wrong.
fn texts<T>(
    item: &Item<'_>,
    wrong: &mut Vec<Wrong>,
    mut read: impl FnMut(&str) -> Result<T, String>,
) -> Option<Vec<T>> {
    let DeValue::Array(items) = item.get_ref() else {
        wrong_sort(item, "a list", wrong);
        return None;
    };
    let before = wrong.len();
    let values = items.iter().filter_map(|item| text(item, wrong, &mut read)).collect();
    (wrong.len() == before).then_some(values)
}

fn list<T>(values: &[T], write: impl Fn(&T) -> String) -> String {
    format!("[{}]", values.iter().map(write).collect::<Vec<_>>().join(", "))
}

/// `true` or `false`.
pub(super) struct Flag;

impl Form for Flag {
    type Value = bool;

    fn read(&self, item: &Item<'_>, wrong: &mut Vec<Wrong>) -> Option<bool> {
        let flag = item.get_ref().as_bool();
        if flag.is_none() {
            wrong_sort(item, "true or false", wrong);
        }
        flag
    }

    fn write(&self, value: &bool) -> String {
        value.to_string()
    }

    fn expected(&self) -> String {
        "true or false".into()
    }
}

/// A whole number, both ends included.
pub(super) struct Count<N> {
    pub(super) least: N,
    pub(super) most: N,
}

impl<N> Form for Count<N>
where
    N: Copy + Ord + std::fmt::Display + TryFrom<i128> + Send + Sync + 'static,
{
    type Value = N;

    fn read(&self, item: &Item<'_>, wrong: &mut Vec<Wrong>) -> Option<N> {
        let DeValue::Integer(integer) = item.get_ref() else {
            wrong_sort(item, "a whole number", wrong);
            return None;
        };
        // What does not even fit into 128 bits is out of range as well.
        let number = i128::from_str_radix(integer.as_str(), integer.radix()).ok().and_then(|n| N::try_from(n).ok());
        let number = number.filter(|n| (self.least..=self.most).contains(n));
        if number.is_none() {
            wrong.push(Wrong { span: item.span(), what: "this number is out of range".into() });
        }
        number
    }

    fn write(&self, value: &N) -> String {
        value.to_string()
    }

    fn expected(&self) -> String {
        format!("a whole number from {} to {}", self.least, self.most)
    }
}

/// Bytes, such as "64KiB"; both ends included.
pub(super) struct Size {
    pub(super) least: usize,
    pub(super) most: usize,
}

fn write_size(bytes: usize) -> String {
    let units = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    match units.iter().find(|(_, unit)| bytes > 0 && bytes.is_multiple_of(*unit)) {
        Some((name, unit)) => format!("\"{}{name}\"", bytes / unit),
        None => format!("\"{bytes}B\""),
    }
}

impl Form for Size {
    type Value = usize;

    fn read(&self, item: &Item<'_>, wrong: &mut Vec<Wrong>) -> Option<usize> {
        text(item, wrong, |text| {
            // Without its unit a number says too little to a reader.
            let size: ByteSize = match text.parse() {
                Ok(size) if !text.ends_with(|c: char| c.is_ascii_digit()) => size,
                Ok(_) => return Err(format!("{} has no unit (B, KiB, MiB …)", cited(text))),
                Err(_) => return Err(format!("{} is no size", cited(text))),
            };
            usize::try_from(size.as_u64())
                .ok()
                .filter(|size| (self.least..=self.most).contains(size))
                .ok_or_else(|| format!("{} is out of range", cited(text)))
        })
    }

    fn write(&self, value: &usize) -> String {
        write_size(*value)
    }

    fn expected(&self) -> String {
        format!("a size from {} to {}", write_size(self.least), write_size(self.most))
    }
}

/// A duration, such as "25s"; both ends included.
pub(super) struct Time {
    pub(super) least: Duration,
    pub(super) most: Duration,
}

fn write_time(time: Duration) -> String {
    let nanos = time.as_nanos();
    let units = [
        ("d", 86_400_000_000_000),
        ("h", 3_600_000_000_000),
        ("m", 60_000_000_000),
        ("s", 1_000_000_000),
        ("ms", 1_000_000),
        ("us", 1_000),
        ("ns", 1),
    ];
    match units.iter().find(|(_, unit)| nanos > 0 && nanos.is_multiple_of(*unit)) {
        Some((name, unit)) => format!("\"{}{name}\"", nanos / unit),
        None => "\"0s\"".into(),
    }
}

impl Form for Time {
    type Value = Duration;

    fn read(&self, item: &Item<'_>, wrong: &mut Vec<Wrong>) -> Option<Duration> {
        text(item, wrong, |text| {
            let time =
                humantime::parse_duration(text).map_err(|cause| format!("{} is no duration: {cause}", cited(text)))?;
            if (self.least..=self.most).contains(&time) {
                Ok(time)
            } else {
                Err(format!("{} is out of range", cited(text)))
            }
        })
    }

    fn write(&self, value: &Duration) -> String {
        write_time(*value)
    }

    fn expected(&self) -> String {
        format!("a duration from {} to {}", write_time(self.least), write_time(self.most))
    }
}

/// So many a second, minute or hour, such as "10/s", from one an hour to a million a second.
pub(super) struct Speed;

impl Speed {
    const UNITS: [(&str, f64); 3] = [("s", 1.0), ("m", 60.0), ("h", 3600.0)];
    pub(super) const LEAST: f64 = 1.0 / 3600.0;
    pub(super) const MOST: f64 = 1_000_000.0;
}

impl Form for Speed {
    type Value = Rate;

    fn read(&self, item: &Item<'_>, wrong: &mut Vec<Wrong>) -> Option<Rate> {
        text(item, wrong, |text| {
            let refuse = || format!("{} is no rate", cited(text));
            let (number, unit) = text.split_once('/').ok_or_else(refuse)?;
            let (number, unit) = (number.trim(), unit.trim());
            let (_, seconds) = Self::UNITS.into_iter().find(|(name, _)| *name == unit).ok_or_else(refuse)?;
            // Digits and a point alone: no "inf", no "1e9".
            if !number.chars().all(|c| c.is_ascii_digit() || c == '.') {
                return Err(refuse());
            }
            let rate = number.parse::<f64>().map_err(|_| refuse())? / seconds;
            if (Self::LEAST..=Self::MOST).contains(&rate) {
                Ok(Rate(rate))
            } else {
                Err(format!("{} is out of range", cited(text)))
            }
        })
    }

    fn write(&self, value: &Rate) -> String {
        let Rate(rate) = *value;
        for (name, seconds) in Self::UNITS {
            let number = (rate * seconds).round();
            if number >= 1.0 && number / seconds == rate {
                return format!("\"{number}/{name}\"");
            }
        }
        // The shortest digits that read as the same number.
        format!("\"{rate}/s\"")
    }

    fn expected(&self) -> String {
        r#"a rate from "1/h" to "1000000/s": a number, "/" and s, m or h"#.into()
    }
}

/// One of a few words.
pub(super) struct Choice<T: 'static>(pub(super) &'static [(&'static str, T)]);

impl<T: Copy + PartialEq + Send + Sync + 'static> Form for Choice<T> {
    type Value = T;

    fn read(&self, item: &Item<'_>, wrong: &mut Vec<Wrong>) -> Option<T> {
        text(item, wrong, |text| {
            let found = self.0.iter().find(|(word, _)| *word == text);
            found.map(|(_, value)| *value).ok_or_else(|| format!("{} is none of the choices", cited(text)))
        })
    }

    fn write(&self, value: &T) -> String {
        // Each value of such a type has its word; a test over generated configurations holds that.
        quote(self.0.iter().find(|(_, known)| known == value).map_or("", |(word, _)| word))
    }

    fn expected(&self) -> String {
        let words: Vec<String> = self.0.iter().map(|(word, _)| quote(word)).collect();
        words.join(" or ")
    }
}

/// The path of a URL as browsers send it; empty for none.
pub(super) struct UrlPath;

impl UrlPath {
    const MOST: usize = 255;
}

fn read_url_path(text: &str) -> Result<Option<String>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    if !text.starts_with('/') {
        return Err(format!("{} does not begin with \"/\"", cited(text)));
    }
    if text.len() > UrlPath::MOST {
        return Err(format!("this path is longer than {} bytes", UrlPath::MOST));
    }
    // RFC 3986, section 3.3: pchar and "/".
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-._~!$&'()*+,;=:@/%".contains(c);
    if let Some(c) = text.chars().find(|c| !allowed(*c)) {
        return Err(format!("{} cannot stand in a path as browsers send it (%-encode it)", cited(&c.to_string())));
    }
    let encoded = |rest: &str| rest.len() >= 2 && rest.bytes().take(2).all(|b| b.is_ascii_hexdigit());
    if !text.split('%').skip(1).all(encoded) {
        return Err("a \"%\" needs two hexadecimal digits after it".into());
    }
    if text.split('/').any(|part| part == "." || part == "..") {
        return Err("browsers remove \".\" and \"..\", so this path is never asked for".into());
    }
    Ok(Some(text.to_owned()))
}

impl Form for UrlPath {
    type Value = Option<String>;

    fn read(&self, item: &Item<'_>, wrong: &mut Vec<Wrong>) -> Option<Option<String>> {
        text(item, wrong, read_url_path)
    }

    fn write(&self, value: &Option<String>) -> String {
        quote(value.as_deref().unwrap_or_default())
    }

    fn expected(&self) -> String {
        r#"the path of a URL, such as "/chat", or "" for none"#.into()
    }
}

fn no_control(text: &str) -> Result<(), String> {
    if text.chars().any(char::is_control) { Err("a path has no control characters".into()) } else { Ok(()) }
}

fn write_path(path: &Option<PathBuf>) -> String {
    quote(&path.as_deref().unwrap_or(Path::new("")).to_string_lossy())
}

/// A file, absolute or from the configuration file's folder; empty for none.
pub(super) struct File;

impl Form for File {
    type Value = Option<PathBuf>;

    fn read(&self, item: &Item<'_>, wrong: &mut Vec<Wrong>) -> Option<Option<PathBuf>> {
        text(item, wrong, |text| {
            no_control(text)?;
            Ok((!text.is_empty()).then(|| PathBuf::from(text)))
        })
    }

    fn write(&self, value: &Option<PathBuf>) -> String {
        write_path(value)
    }

    fn expected(&self) -> String {
        r#"the path of a file, absolute or from this file's folder, or "" for none"#.into()
    }
}

fn read_socket(text: &str) -> Result<PathBuf, String> {
    no_control(text)?;
    if !text.starts_with('/') || text.ends_with('/') {
        return Err(format!("{} is no absolute path of a socket", cited(text)));
    }
    if text.len() > SOCKET_PATH {
        return Err(format!("this path has {} bytes, and a socket's at most {SOCKET_PATH}", text.len()));
    }
    Ok(PathBuf::from(text))
}

/// A Unix socket; empty for the place that the daemon chooses.
pub(super) struct Socket;

impl Form for Socket {
    type Value = Option<PathBuf>;

    fn read(&self, item: &Item<'_>, wrong: &mut Vec<Wrong>) -> Option<Option<PathBuf>> {
        text(item, wrong, |text| if text.is_empty() { Ok(None) } else { read_socket(text).map(Some) })
    }

    fn write(&self, value: &Option<PathBuf>) -> String {
        write_path(value)
    }

    fn expected(&self) -> String {
        format!("the absolute path of a Unix socket (at most {SOCKET_PATH} bytes), or \"\"")
    }
}

/// Where to listen.
pub(super) struct ListenAddress;

impl Form for ListenAddress {
    type Value = Address;

    fn read(&self, item: &Item<'_>, wrong: &mut Vec<Wrong>) -> Option<Address> {
        text(item, wrong, |text| {
            if text.starts_with('/') {
                return read_socket(text).map(Address::Unix);
            }
            let address: SocketAddr =
                text.parse().map_err(|_| format!("{} is neither IP:PORT nor an absolute path", cited(text)))?;
            // ::ffff:192.0.2.1 is IPv4, here as everywhere.
            Ok(Address::Tcp(match address.ip().to_canonical() {
                ip @ std::net::IpAddr::V4(_) => SocketAddr::new(ip, address.port()),
                std::net::IpAddr::V6(_) => address,
            }))
        })
    }

    fn write(&self, value: &Address) -> String {
        quote(&value.to_string())
    }

    fn expected(&self) -> String {
        r#"an IP address and a port ("[::]:9501" for every address, "127.0.0.1:9501") or the absolute path of a Unix socket"#.into()
    }
}

/// Networks in CIDR notation.
pub(super) struct Networks;

fn read_network(text: &str) -> Result<IpNet, String> {
    let refuse = || format!("{} is no network", cited(text));
    let net = match text.contains('/') {
        true => text.parse::<IpNet>().map_err(|_| refuse())?,
        false => IpNet::from(text.parse::<std::net::IpAddr>().map_err(|_| refuse())?),
    };
    if net.addr() != net.network() {
        let (one, all) = (IpNet::from(net.addr()), net.trunc());
        return Err(format!("{} is one address in a network: write \"{one}\" or \"{all}\"", cited(text)));
    }
    // A mapped network holds IPv4 addresses, and those count as IPv4.
    if let IpNet::V6(v6) = net
        && let (Some(addr), Some(bits)) = (v6.addr().to_ipv4_mapped(), v6.prefix_len().checked_sub(96))
        && let Ok(v4) = Ipv4Net::new(addr, bits)
    {
        return Ok(IpNet::V4(v4));
    }
    Ok(net)
}

impl Form for Networks {
    type Value = Vec<IpNet>;

    fn read(&self, item: &Item<'_>, wrong: &mut Vec<Wrong>) -> Option<Vec<IpNet>> {
        texts(item, wrong, read_network)
    }

    fn write(&self, value: &Vec<IpNet>) -> String {
        list(value, |net| quote(&net.to_string()))
    }

    fn expected(&self) -> String {
        r#"a list of networks or addresses, such as ["10.0.0.0/8", "::1"]"#.into()
    }
}

/// Origins of pages, or any.
pub(super) struct OriginList;

/// `scheme://host[:port]` as a browser writes it: lower case, without the scheme's own port
/// (RFC 6454, section 6.2).
fn read_origin(text: &str) -> Result<String, String> {
    let refuse = |why: &str| format!("{} is no origin: {why}", cited(text));
    let lower = text.to_ascii_lowercase();
    let (scheme, rest) = lower.split_once("://").ok_or_else(|| refuse("it has no \"://\""))?;
    let mut letters = scheme.chars();
    if !letters.next().is_some_and(|c| c.is_ascii_lowercase())
        || !letters.all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
    {
        return Err(refuse("its scheme is none"));
    }
    let (host, port) = if let Some(rest) = rest.strip_prefix('[') {
        let (host, port) = rest.split_once(']').ok_or_else(|| refuse("its \"[\" is not closed"))?;
        let ip: Ipv6Addr = host.parse().map_err(|_| refuse("what stands in brackets is no IPv6 address"))?;
        (format!("[{ip}]"), port)
    } else {
        let at = rest.find(':').unwrap_or(rest.len());
        (rest[..at].to_owned(), &rest[at..])
    };
    if rest.contains('/') {
        return Err(refuse("it ends after the host or port, without a \"/\""));
    }
    if !host.is_ascii() {
        return Err(refuse("browsers send such a name in its \"xn--\" form"));
    }
    let name = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    if host.is_empty() || (!host.starts_with('[') && !host.chars().all(name)) {
        return Err(refuse("its host is none"));
    }
    if port.is_empty() {
        return Ok(format!("{scheme}://{host}"));
    }
    let digits = port.strip_prefix(':').filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()));
    let number = digits.and_then(|digits| digits.parse::<u16>().ok()).filter(|number| *number > 0);
    let number = number.ok_or_else(|| refuse("its port is none"))?;
    Ok(match (scheme, number) {
        ("https" | "wss", 443) | ("http" | "ws", 80) => format!("{scheme}://{host}"),
        _ => format!("{scheme}://{host}:{number}"),
    })
}

impl Form for OriginList {
    type Value = Origins;

    fn read(&self, item: &Item<'_>, wrong: &mut Vec<Wrong>) -> Option<Origins> {
        let any = |item: &Item<'_>| item.get_ref().as_str() == Some("*");
        if let DeValue::Array(items) = item.get_ref()
            && let Some(star) = items.iter().find(|item| any(item))
        {
            if items.len() == 1 {
                return Some(Origins::Any);
            }
            wrong.push(Wrong { span: star.span(), what: "\"*\" allows any origin, so it stands alone".into() });
            return None;
        }
        texts(item, wrong, read_origin).map(Origins::These)
    }

    fn write(&self, value: &Origins) -> String {
        match value {
            Origins::Any => r#"["*"]"#.into(),
            Origins::These(origins) => list(origins, |origin| quote(origin)),
        }
    }

    fn expected(&self) -> String {
        r#"a list of origins, such as ["https://www.example.org"], or ["*"] for any"#.into()
    }
}

/// Rooms' names, at least one, none twice.
pub(super) struct Rooms;

impl Form for Rooms {
    type Value = Vec<RoomName>;

    fn read(&self, item: &Item<'_>, wrong: &mut Vec<Wrong>) -> Option<Vec<RoomName>> {
        let mut seen = HashSet::new();
        let rooms = texts(item, wrong, |text| {
            let room = RoomName::parse(text).map_err(|cause| cause.to_string())?;
            if seen.insert(room.clone()) { Ok(room) } else { Err(format!("{} stands here twice", cited(text))) }
        })?;
        if rooms.is_empty() {
            wrong.push(Wrong { span: item.span(), what: "at least one room is needed".into() });
            return None;
        }
        Some(rooms)
    }

    fn write(&self, value: &Vec<RoomName>) -> String {
        list(value, |room| quote(room.as_str()))
    }

    fn expected(&self) -> String {
        r#"a list of at least one room, such as ["lobby"]; none twice"#.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read<F: Form>(form: &F, toml: &str) -> Result<F::Value, String> {
        let mut wrong = Vec::new();
        let item = DeValue::parse(toml).unwrap();
        let value = form.read(&item, &mut wrong);
        assert_eq!(value.is_none(), !wrong.is_empty(), "{toml}");
        value.ok_or_else(|| wrong.into_iter().map(|wrong| wrong.what).collect::<Vec<_>>().join("; "))
    }

    #[test]
    fn sizes() {
        let form = Size { least: 1, most: 1 << 30 };
        for (text, bytes) in [
            ("64KiB", 65536),
            ("64KB", 64000),
            ("1.5MiB", 1_572_864),
            ("1 GiB", 1 << 30),
            ("7B", 7),
            ("2MB", 2_000_000),
        ] {
            assert_eq!(read(&form, &quote(text)), Ok(bytes), "{text}");
        }
        for bad in ["0B", "65536", "2GiB", "999999999999999999999EiB", "-1B", "KiB", "", "64 apples", "1e3B"] {
            assert!(read(&form, &quote(bad)).is_err(), "{bad}");
        }
        assert!(read(&form, "65536").unwrap_err().contains("an integer"));
        assert_eq!([write_size(1 << 20), write_size(1000), write_size(0)], ["\"1MiB\"", "\"1000B\"", "\"0B\""]);
    }

    #[test]
    fn times() {
        let form = Time { least: Duration::from_millis(1), most: Duration::from_secs(86400) };
        for (text, millis) in [("5s", 5000), ("2m", 120_000), ("1m 30s", 90_000), ("250ms", 250), ("1d", 86_400_000)] {
            assert_eq!(read(&form, &quote(text)), Ok(Duration::from_millis(millis)), "{text}");
        }
        for bad in ["", "5", "0s", "-5s", "25h", "99999999999999999999y", "18446744073709551615s 1s", "s"] {
            assert!(read(&form, &quote(bad)).is_err(), "{bad}");
        }
        assert_eq!(write_time(Duration::from_secs(90)), "\"90s\"");
        assert_eq!(write_time(Duration::from_secs(2_592_000)), "\"30d\"");
        assert_eq!(write_time(Duration::ZERO), "\"0s\"");
    }

    #[test]
    fn rates() {
        for (text, rate) in [("10/s", 10.0), ("20/m", 20.0 / 60.0), ("0.5/s", 0.5), ("1/h", Speed::LEAST)] {
            assert_eq!(read(&Speed, &quote(text)), Ok(Rate(rate)), "{text}");
            assert_eq!(Speed.write(&Rate(rate)), quote(if text == "0.5/s" { "30/m" } else { text }));
        }
        for bad in ["10", "/s", "0/s", "-1/s", "inf/s", "NaN/s", "1e3/s", "10/d", "1.2.3/s", "1000001/s", "0.5/h"] {
            assert!(read(&Speed, &quote(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn addresses_and_networks() {
        let tcp = |text: &str| Address::Tcp(text.parse().unwrap());
        assert_eq!(read(&ListenAddress, "\"[::]:9501\""), Ok(tcp("[::]:9501")));
        assert_eq!(read(&ListenAddress, "\"[::ffff:127.0.0.1]:80\""), Ok(tcp("127.0.0.1:80")));
        assert_eq!(read(&ListenAddress, "\"/run/x\""), Ok(Address::Unix("/run/x".into())));
        let long = format!("/{}", "x".repeat(SOCKET_PATH));
        for bad in ["", "localhost:9501", ":9501", "*:9501", "::1:9501", "run/x", "/run/", "/a\u{0}b", &long] {
            assert!(read(&ListenAddress, &quote(bad)).is_err(), "{bad}");
        }
        let nets = read(&Networks, r#"["10.0.0.0/8", "::1", "127.0.0.1", "::ffff:10.0.0.0/104"]"#).unwrap();
        assert_eq!(Networks.write(&nets), r#"["10.0.0.0/8", "::1/128", "127.0.0.1/32", "10.0.0.0/8"]"#);
        let both = read(&Networks, r#"["10.0.0.1/8", "example.org", "::1"]"#).unwrap_err();
        assert!(both.contains("10.0.0.1/32") && both.contains("10.0.0.0/8") && both.contains("example.org"), "{both}");
    }

    #[test]
    fn origins_are_written_as_browsers_send_them() {
        for (text, origin) in [
            ("HTTPS://Example.org:443", "https://example.org"),
            ("http://localhost:8080", "http://localhost:8080"),
            ("http://[0:0::1]:80", "http://[::1]"),
            ("chrome-extension://abc", "chrome-extension://abc"),
        ] {
            assert_eq!(read_origin(text).as_deref(), Ok(origin));
        }
        for bad in [
            "example.org",
            "https://example.org/",
            "https://",
            "https://a b",
            "https://u@h",
            "https://h:0",
            "https://h:99999",
            "https://h:+1",
            "https://h:",
            "https://[::1",
            "https://[x]",
            "https://bücher.de",
            "://h",
            "https://*.example.org",
            "null",
        ] {
            assert!(read_origin(bad).is_err(), "{bad}");
        }
        assert_eq!(read(&OriginList, r#"["*"]"#), Ok(Origins::Any));
        assert!(read(&OriginList, r#"["*", "https://a"]"#).is_err());
        assert!(read(&OriginList, r#""*""#).is_err());
    }

    #[test]
    fn paths_of_urls() {
        for good in ["/", "/chat", "/a/b-c_d~.e/", "/%E5%A4%A7"] {
            assert_eq!(read_url_path(good), Ok(Some(good.into())));
        }
        assert_eq!(read_url_path(""), Ok(None));
        let long = format!("/{}", "x".repeat(255));
        for bad in ["chat", "/a b", "/a?b", "/a#b", "/大厅", "/%4", "/%zz", "/a/../b", "/.", "/a\"", &long] {
            assert!(read_url_path(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn counts_and_rooms() {
        let form = Count { least: 1u32, most: 10 };
        assert_eq!(read(&form, "0x0a"), Ok(10));
        for bad in ["0", "11", "-1", "99999999999999999999999999999999999999999999", "\"5\"", "5.0", "true"] {
            assert!(read(&form, bad).is_err(), "{bad}");
        }
        assert!(read(&Rooms, r#"["lobby", "大厅"]"#).is_ok());
        for bad in ["[]", r#"["a", "a"]"#, r#"["é", "e\u0301"]"#, r#"["a b"]"#, "[5]", "\"lobby\""] {
            assert!(read(&Rooms, bad).is_err(), "{bad}");
        }
    }
}
