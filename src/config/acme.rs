//! Forms of what names a CA, and what it is asked for: DNS names, contacts, the directory's URL.

use std::net::IpAddr;

use super::form::{Form, Item, Wrong, cited, list, quote, text, texts};

/// The most names of one certificate; public CAs take no more.
const MOST_NAMES: usize = 100;
/// The longest DNS name and the longest label in it, in bytes (RFC 1035, section 2.3.4).
const NAME: usize = 253;
const LABEL: usize = 63;
/// The most contacts, and the longest of them in bytes.
const MOST_CONTACTS: usize = 10;
const CONTACT: usize = 255;

/// Names that a certificate is for.
pub(super) struct HostNames;

/// A DNS name in lower case, as a certificate has it.
fn read_name(text: &str) -> Result<String, String> {
    let refuse = |why: &str| format!("{} cannot be had: {why}", cited(text));
    if text.starts_with("*.") {
        return Err(refuse("a wildcard needs proof in the DNS, which is not spoken here; name each host"));
    }
    if text.parse::<IpAddr>().is_ok() {
        return Err(refuse("this is an address, and only names are asked for"));
    }
    if !text.is_ascii() {
        return Err(refuse("write the name in its \"xn--\" form"));
    }
    if text.contains("://") || text.contains('/') || text.contains(':') {
        return Err(refuse("write the host's name alone, without scheme, port and path"));
    }
    let label = |label: &str| {
        (1..=LABEL).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    // A name whose last label is a number would be read as an address.
    let numeric = text.rsplit('.').next().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()));
    if text.len() > NAME || numeric || !text.split('.').all(label) {
        return Err(refuse("this is no DNS name (letters, digits and \"-\", in parts of at most 63, joined by dots)"));
    }
    Ok(text.to_ascii_lowercase())
}

impl Form for HostNames {
    type Value = Vec<String>;

    fn read(&self, item: &Item<'_>, wrong: &mut Vec<Wrong>) -> Option<Vec<String>> {
        let mut seen = Vec::new();
        let names = texts(item, wrong, |text| {
            let name = read_name(text)?;
            if seen.contains(&name) {
                return Err(format!("{} stands here twice", cited(text)));
            }
            seen.push(name.clone());
            Ok(name)
        })?;
        if names.len() > MOST_NAMES {
            let what = format!("these are {} names, and one certificate has at most {MOST_NAMES}", names.len());
            wrong.push(Wrong { span: item.span(), what });
            return None;
        }
        Some(names)
    }

    fn write(&self, value: &Vec<String>) -> String {
        list(value, |name| quote(name))
    }

    fn expected(&self) -> String {
        r#"a list of DNS names, such as ["chat.example.org"]; [] for none"#.into()
    }
}

/// Whom the CA may write to.
pub(super) struct Contacts;

/// A mailto URL (RFC 6068) with one address and nothing else (RFC 8555, section 7.3).
fn read_contact(text: &str) -> Result<String, String> {
    let refuse = |why: &str| format!("{} is no contact: {why}", cited(text));
    let address = text.strip_prefix("mailto:").unwrap_or(text);
    if !address.bytes().all(|b| b.is_ascii_graphic()) || address.contains([',', '?', '"', '\\']) {
        return Err(refuse("write one plain mail address"));
    }
    let (user, host) = address.rsplit_once('@').ok_or_else(|| refuse("it has no \"@\""))?;
    if user.is_empty() || host.is_empty() || text.len() > CONTACT {
        return Err(refuse("write one plain mail address"));
    }
    Ok(format!("mailto:{address}"))
}

impl Form for Contacts {
    type Value = Vec<String>;

    fn read(&self, item: &Item<'_>, wrong: &mut Vec<Wrong>) -> Option<Vec<String>> {
        // One alone needs no brackets.
        if item.get_ref().as_str().is_some() {
            return text(item, wrong, read_contact).map(|contact| vec![contact]);
        }
        let contacts = texts(item, wrong, read_contact)?;
        if contacts.len() > MOST_CONTACTS {
            let what = format!("these are {} contacts, and an account has at most {MOST_CONTACTS}", contacts.len());
            wrong.push(Wrong { span: item.span(), what });
            return None;
        }
        Some(contacts)
    }

    fn write(&self, value: &Vec<String>) -> String {
        list(value, |contact| quote(contact))
    }

    fn expected(&self) -> String {
        r#"a list of mail addresses, such as ["mailto:ops@example.org"]; [] for none"#.into()
    }
}

/// The URL of a CA's directory.
pub(super) struct Directory;

impl Directory {
    const MOST: usize = 1000;
}

fn read_directory(text: &str) -> Result<String, String> {
    let refuse = |why: &str| format!("{} is no ACME directory: {why}", cited(text));
    let url: hyper::Uri = text.parse().map_err(|_| refuse("it is no URL"))?;
    if url.scheme_str() != Some("https") {
        return Err(refuse("ACME is spoken over https alone (RFC 8555, section 6.1)"));
    }
    if url.host().is_none_or(str::is_empty) || text.len() > Directory::MOST || text.contains('@') {
        return Err(refuse("it names no host"));
    }
    Ok(text.to_owned())
}

impl Form for Directory {
    type Value = String;

    fn read(&self, item: &Item<'_>, wrong: &mut Vec<Wrong>) -> Option<String> {
        text(item, wrong, read_directory)
    }

    fn write(&self, value: &String) -> String {
        quote(value)
    }

    fn expected(&self) -> String {
        r#"the URL of an ACME directory, such as "https://ca.example.org/acme/acme/directory""#.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::form::tests::read;

    #[test]
    fn names_are_dns_names() {
        let names = read(&HostNames, r#"["Chat.Example.ORG", "xn--bcher-kva.example", "chat", "1.example"]"#).unwrap();
        assert_eq!(names, ["chat.example.org", "xn--bcher-kva.example", "chat", "1.example"]);
        let long = format!("{}.example", "x".repeat(64));
        let longer = format!("{}example", "abc.".repeat(62));
        for (bad, why) in [
            ("*.example.org", "a wildcard"),
            ("192.0.2.1", "this is an address"),
            ("::1", "this is an address"),
            ("bücher.example", "xn--"),
            ("https://example.org", "without scheme"),
            ("example.org:443", "without scheme"),
            ("", "no DNS name"),
            ("a..b", "no DNS name"),
            ("example.org.", "no DNS name"),
            ("-a.example", "no DNS name"),
            ("a-.example", "no DNS name"),
            ("a_b.example", "no DNS name"),
            ("a b", "no DNS name"),
            ("10.1", "no DNS name"),
            (&long, "no DNS name"),
            (&longer, "no DNS name"),
        ] {
            let told = read(&HostNames, &format!("[{}]", quote(bad))).unwrap_err();
            assert!(told.contains(why), "{bad}: {told}");
        }
        assert!(read(&HostNames, r#"["a.example", "A.example"]"#).unwrap_err().contains("twice"));
        let many: Vec<String> = (0..101).map(|n| quote(&format!("n{n}.example"))).collect();
        assert!(read(&HostNames, &format!("[{}]", many.join(","))).unwrap_err().contains("at most 100"));
        assert!(read(&HostNames, "\"a.example\"").is_err());
    }

    #[test]
    fn contacts_are_mail_addresses() {
        let both = vec!["mailto:ops@example.org".to_owned(), "mailto:b+c@example.org".to_owned()];
        assert_eq!(read(&Contacts, r#"["mailto:ops@example.org", "b+c@example.org"]"#), Ok(both));
        assert_eq!(read(&Contacts, r#""ops@example.org""#), Ok(vec!["mailto:ops@example.org".to_owned()]));
        for bad in ["", "ops", "@example.org", "ops@", "a@b,c@d", "mailto:a@b?subject=x", "a b@c", "tel:+1", "ä@b"] {
            assert!(read(&Contacts, &quote(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn directories_are_https() {
        for good in ["https://localhost:14000/dir", "https://[::1]/d", "https://ca.example.org/acme/acme/directory"] {
            assert_eq!(read(&Directory, &quote(good)), Ok(good.to_owned()));
        }
        for bad in ["", "http://ca.example/d", "ca.example/d", "https://", "https:///d", "https://a b/", "https://u@h/"]
        {
            assert!(read(&Directory, &quote(bad)).is_err(), "{bad}");
        }
    }
}
