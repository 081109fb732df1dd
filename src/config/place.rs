//! Forms of what names a place: paths of URLs, files, sockets, addresses, networks and origins.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use ipnet::{IpNet, Ipv4Net};

use super::form::{Form, Item, Wrong, cited, list, quote, text, texts};
use super::{Address, Origins};

/// The longest path of a Unix socket in bytes: `sun_path` of unix(7) less its closing NUL.
const SOCKET_PATH: usize = 107;

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
        r#"the path of a file, absolute or from the configuration file's folder, or """#.into()
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
                ip @ IpAddr::V4(_) => SocketAddr::new(ip, address.port()),
                IpAddr::V6(_) => address,
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

/// An address and a port, or nothing.
pub(super) struct TcpPlace;

impl Form for TcpPlace {
    type Value = Option<SocketAddr>;

    fn read(&self, item: &Item<'_>, wrong: &mut Vec<Wrong>) -> Option<Option<SocketAddr>> {
        text(item, wrong, |text| match text {
            "" => Ok(None),
            text => text.parse().map(Some).map_err(|_| format!("{} is not IP:PORT", cited(text))),
        })
    }

    fn write(&self, value: &Option<SocketAddr>) -> String {
        quote(&value.map(|address| address.to_string()).unwrap_or_default())
    }

    fn expected(&self) -> String {
        "an IP address and a port (\"127.0.0.1:9502\"), or \"\"".into()
    }
}

/// Networks in CIDR notation.
pub(super) struct Networks;

fn read_network(text: &str) -> Result<IpNet, String> {
    let refuse = || format!("{} is no network", cited(text));
    let net = match text.contains('/') {
        true => text.parse::<IpNet>().map_err(|_| refuse())?,
        false => IpNet::from(text.parse::<IpAddr>().map_err(|_| refuse())?),
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
        let mut any = false;
        let origins = texts(item, wrong, |text| {
            any |= text == "*";
            if text == "*" { Ok(text.to_owned()) } else { read_origin(text) }
        })?;
        match origins.len() {
            1 if any => Some(Origins::Any),
            _ if any => {
                wrong.push(Wrong { span: item.span(), what: "\"*\" allows any origin, so it stands alone".into() });
                None
            }
            _ => Some(Origins::These(origins)),
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::form::tests::read;

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
        for both in [r#"["*", "https://a"]"#, r#"["https://a", "*"]"#, r#"["*", "*"]"#] {
            assert!(read(&OriginList, both).unwrap_err().contains("stands alone"), "{both}");
        }
        assert!(read(&OriginList, r#"["*", "https://a/"]"#).unwrap_err().contains("without a"));
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
}
