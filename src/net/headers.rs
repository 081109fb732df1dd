//! What request headers say about who asks: the address behind a proxy, the page's origin, and the
//! WebSocket handshake. Pure functions over header values.

use std::borrow::Cow;
use std::net::IpAddr;

use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use ipnet::IpNet;

use crate::config::Origins;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");

/// The client's address as told by a proxy that is believed.
///
/// Of `X-Forwarded-For` the last address counts that is not itself a trusted proxy: what stands
/// before it could have been written by anyone. `X-Real-IP` counts where there is no other.
pub fn forwarded(headers: &HeaderMap, trusted: &[IpNet]) -> Option<IpAddr> {
    let mut outermost = None;
    let lines: Vec<&str> = headers.get_all(FORWARDED_FOR).iter().filter_map(|v| v.to_str().ok()).collect();
    for element in lines.iter().rev().flat_map(|line| line.rsplit(',')) {
        // Something unreadable ends the chain: nothing before it can be believed.
        let Some(address) = address(element.trim()) else { break };
        outermost = Some(address);
        if !trusted.iter().any(|net| net.contains(&address)) {
            return outermost;
        }
    }
    outermost.or_else(|| headers.get(REAL_IP).and_then(|v| v.to_str().ok()).and_then(|v| address(v.trim())))
}

/// Does the request carry a forwarded address at all?
pub fn is_forwarded(headers: &HeaderMap) -> bool {
    headers.contains_key(FORWARDED_FOR) || headers.contains_key(REAL_IP)
}

/// `192.0.2.1`, `192.0.2.1:443`, `2001:db8::1`, `[2001:db8::1]`, `[2001:db8::1]:443`.
fn address(text: &str) -> Option<IpAddr> {
    let bare = match text.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?.0,
        None if text.matches(':').count() == 1 => text.split_once(':')?.0,
        None => text,
    };
    bare.parse::<IpAddr>().ok().map(|a| a.to_canonical())
}

/// May a page of this origin connect? No `Origin` at all passes: no browser, no page.
pub fn origin_allowed(headers: &HeaderMap, allowed: &Origins) -> bool {
    let Some(origin) = headers.get(header::ORIGIN) else { return true };
    let Origins::These(list) = allowed else { return true };
    let Ok(origin) = origin.to_str() else { return false };
    let origin = origin.to_ascii_lowercase();
    if list.contains(&origin) {
        return true;
    }
    let Some((scheme, authority)) = origin.split_once("://") else { return false };
    let default_port = match scheme {
        "https" => "443",
        "http" => "80",
        _ => return false,
    };
    let host = headers.get(header::HOST).and_then(|h| h.to_str().ok()).unwrap_or("").to_ascii_lowercase();
    !host.is_empty() && with_port(authority, default_port) == with_port(&host, default_port)
}

fn with_port<'a>(authority: &'a str, default: &'a str) -> (&'a str, &'a str) {
    let after_brackets = authority.rfind(']').map_or(0, |at| at + 1);
    match authority[after_brackets..].rfind(':') {
        Some(at) => (&authority[..after_brackets + at], &authority[after_brackets + at + 1..]),
        None => (authority, default),
    }
}

/// What is wrong with a request to open a WebSocket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandshakeError {
    /// Not a request to upgrade at all: 426 and how to.
    NoUpgrade,
    /// 426 with the version that is spoken.
    Version,
    /// 400 and why.
    Bad(&'static str),
}

/// The key of a handshake as RFC 6455, section 4.2.1, demands it (the method is the caller's).
pub fn websocket_key(version: hyper::Version, headers: &HeaderMap) -> Result<&HeaderValue, HandshakeError> {
    if !has_token(headers, header::UPGRADE, "websocket") {
        return Err(HandshakeError::NoUpgrade);
    }
    if version < hyper::Version::HTTP_11 {
        return Err(HandshakeError::Bad("the handshake needs HTTP/1.1"));
    }
    if !has_token(headers, header::CONNECTION, "upgrade") {
        return Err(HandshakeError::Bad("the Connection header does not say Upgrade (does a proxy drop it?)"));
    }
    if headers.get(header::SEC_WEBSOCKET_VERSION).is_none_or(|v| v.as_bytes() != b"13") {
        return Err(HandshakeError::Version);
    }
    let mut keys = headers.get_all(header::SEC_WEBSOCKET_KEY).iter();
    let key = keys.next().ok_or(HandshakeError::Bad("Sec-WebSocket-Key is missing"))?;
    if keys.next().is_some() {
        return Err(HandshakeError::Bad("there is more than one Sec-WebSocket-Key"));
    }
    if !is_key(key.as_bytes()) {
        return Err(HandshakeError::Bad("Sec-WebSocket-Key is not 16 bytes in base64"));
    }
    Ok(key)
}

/// Sixteen bytes in base64: 22 characters and two of padding.
fn is_key(key: &[u8]) -> bool {
    key.len() == 24
        && key.ends_with(b"==")
        && key[..22].iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/'))
}

/// Is `token` among the comma-separated values of the header?
pub fn has_token(headers: &HeaderMap, name: HeaderName, token: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .any(|t| t.trim().eq_ignore_ascii_case(token))
}

/// The token of a request: `Authorization: Bearer …` (RFC 6750, section 2.1), else `?token=…`, since
/// a page cannot set headers for its WebSocket. An empty one is none.
pub fn token<'a>(headers: &'a HeaderMap, query: Option<&'a str>) -> Option<Cow<'a, str>> {
    let bearer =
        headers.get_all(header::AUTHORIZATION).iter().filter_map(|value| value.to_str().ok()).find_map(|value| {
            // Another scheme is for a proxy between, and not for us.
            let (scheme, token) = value.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then(|| Cow::Borrowed(token.trim()))
        });
    let in_query = || query?.split('&').find_map(|pair| pair.strip_prefix("token=")).map(percent_decoded);
    bearer.or_else(in_query).filter(|token| !token.is_empty())
}

/// A query's value without its %-encoding. What is no UTF-8 then is no token either, and left as it was.
fn percent_decoded(text: &str) -> Cow<'_, str> {
    if !text.contains('%') {
        return Cow::Borrowed(text);
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let digits = after.get(..2).and_then(|two| std::str::from_utf8(two).ok());
        match digits.filter(|_| *first == b'%').and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8(bytes).map_or(Cow::Borrowed(text), Cow::Owned)
}

/// A header's text, cut at 256 bytes: it is kept for each connection.
pub fn short(headers: &HeaderMap, name: HeaderName) -> Option<Box<str>> {
    let value = String::from_utf8_lossy(headers.get(name)?.as_bytes()).into_owned();
    let mut end = value.len().min(256);
    while !value.is_char_boundary(end) {
        end -= 1;
    }
    Some(value[..end].into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(*name, HeaderValue::from_str(value).unwrap());
        }
        map
    }

    fn seen(pairs: &[(&'static str, &str)]) -> Option<String> {
        forwarded(&headers(pairs), &["10.0.0.0/8".parse().unwrap()]).map(|a| a.to_string())
    }

    #[test]
    fn the_last_untrusted_hop_is_the_client() {
        assert_eq!(seen(&[]), None);
        assert_eq!(seen(&[("x-forwarded-for", "203.0.113.9")]).unwrap(), "203.0.113.9");
        assert_eq!(seen(&[("x-forwarded-for", "1.2.3.4, 203.0.113.9, 10.0.0.1")]).unwrap(), "203.0.113.9");
        assert_eq!(seen(&[("x-forwarded-for", "1.2.3.4"), ("x-forwarded-for", "203.0.113.9")]).unwrap(), "203.0.113.9");
        assert_eq!(seen(&[("x-forwarded-for", "10.0.0.2, 10.0.0.1")]).unwrap(), "10.0.0.2");
        assert_eq!(seen(&[("x-forwarded-for", "1.2.3.4, unknown, 10.0.0.1")]).unwrap(), "10.0.0.1");
        assert_eq!(seen(&[("x-forwarded-for", "[2001:db8::1]:4711")]).unwrap(), "2001:db8::1");
        assert_eq!(seen(&[("x-forwarded-for", "::ffff:192.0.2.7")]).unwrap(), "192.0.2.7");
        assert_eq!(seen(&[("x-real-ip", "192.0.2.7")]).unwrap(), "192.0.2.7");
        assert_eq!(seen(&[("x-real-ip", "192.0.2.7"), ("x-forwarded-for", "192.0.2.8")]).unwrap(), "192.0.2.8");
        assert_eq!(seen(&[("x-forwarded-for", "nonsense")]), None);
    }

    #[test]
    fn a_token_stands_in_a_header_or_in_the_query() {
        let found = |authorization: &str, query| {
            token(&headers(&[("authorization", authorization)]), query).map(Cow::into_owned)
        };
        assert_eq!(token(&headers(&[]), None), None);
        assert_eq!(found("Bearer a.b.c", Some("token=d")).unwrap(), "a.b.c");
        assert_eq!(found("bearer  a.b.c ", None).unwrap(), "a.b.c");
        assert_eq!(found("Basic YTpi", None), None);
        assert_eq!(found("Basic YTpi", Some("x=1&token=a.b_c-d&token=z")).unwrap(), "a.b_c-d");
        assert_eq!(found("Bearer", Some("token=a%2Eb%2ec%")).unwrap(), "a.b.c%");
        assert_eq!(found("Bearer ", Some("Token=a&xtoken=b&token=")), None);
        assert_eq!(found("x", Some("token=%ff%+1%é")).unwrap(), "%ff%+1%é");
    }

    #[test]
    fn the_pages_own_origin_is_the_one_that_equals_host() {
        let none = Origins::These(vec![]);
        let own = |origin, host| origin_allowed(&headers(&[("origin", origin), ("host", host)]), &none);
        assert!(own("https://chat.example", "chat.example"));
        assert!(own("https://chat.example", "CHAT.example:443"));
        assert!(own("https://chat.example:9501", "chat.example:9501"));
        assert!(own("http://[::1]:9501", "[::1]:9501"));
        assert!(!own("https://evil.example", "chat.example"));
        assert!(!own("https://chat.example:9501", "chat.example"));
        assert!(!own("null", "chat.example"));
        assert!(!own("file://", ""));
        assert!(origin_allowed(&headers(&[("host", "chat.example")]), &none));
        let listed = Origins::These(vec!["https://shop.example".into()]);
        assert!(origin_allowed(&headers(&[("origin", "https://Shop.example"), ("host", "h")]), &listed));
        assert!(origin_allowed(&headers(&[("origin", "null"), ("host", "h")]), &Origins::Any));
    }

    #[test]
    fn a_handshake_is_whole_or_told_what_it_lacks() {
        let good = [
            ("upgrade", "WebSocket"),
            ("connection", "keep-alive, Upgrade"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ];
        let check =
            |pairs: &[(&'static str, &str)]| websocket_key(hyper::Version::HTTP_11, &headers(pairs)).map(|_| ());
        assert_eq!(check(&good), Ok(()));
        assert_eq!(check(&good[1..]), Err(HandshakeError::NoUpgrade));
        assert_eq!(
            check(&[good[0], good[2], good[3]]),
            Err(HandshakeError::Bad("the Connection header does not say Upgrade (does a proxy drop it?)"))
        );
        assert_eq!(check(&[good[0], good[1], good[3]]), Err(HandshakeError::Version));
        assert_eq!(check(&[good[0], good[1], ("sec-websocket-version", "8"), good[3]]), Err(HandshakeError::Version));
        assert!(matches!(check(&good[..3]), Err(HandshakeError::Bad(_))));
        for bad in ["short==", "dGhlIHNhbXBsZSBub25jZQ=!", "dGhlIHNhbXBsZSBub25jZQAA"] {
            assert!(matches!(
                check(&[good[0], good[1], good[2], ("sec-websocket-key", bad)]),
                Err(HandshakeError::Bad(_))
            ));
        }
        assert!(matches!(check(&[good[0], good[1], good[2], good[3], good[3]]), Err(HandshakeError::Bad(_))));
        assert!(websocket_key(hyper::Version::HTTP_10, &headers(&good)).is_err());
    }
}
