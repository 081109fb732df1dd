//! Why no certificate was got, in words that say what to do.

use std::io;
use std::path::PathBuf;

use instant_acme::{Error, Problem};
use thiserror::Error as ThisError;

/// The longest text of a CA that is passed on, in characters.
const MOST: usize = 600;

#[derive(Debug, ThisError)]
pub(super) enum AcmeError {
    #[error(transparent)]
    Http(#[from] HttpError),
    #[error("{doing}: the CA refuses: {}{}", told(problem), advice(problem, None))]
    Refused { doing: &'static str, problem: Problem },
    #[error("{name} was not proved: {}{}", told(problem), advice(problem, Some(name)))]
    NotProved { name: String, problem: Problem },
    #[error(
        "the CA found {name} not proved and does not say why; is it this daemon that answers at port 443 of {name}?"
    )]
    NotProvedSilently { name: String },
    #[error(
        "the CA offers no tls-alpn-01 for {name}, and nothing else is spoken here; ask another CA, or use certbot and \
         tls.certificate"
    )]
    NoChallenge { name: String },
    #[error("{doing}: the CA does not answer as RFC 8555 says: {why}; is tls.acme_directory right?")]
    Odd { doing: &'static str, why: String },
    #[error("{0}: the CA did not come to an end in time")]
    Unfinished(&'static str),
    #[error("the CA took too long over all")]
    TooSlow,
    #[error("the CA's certificate cannot be used: {0}")]
    Unusable(String),
    #[error("cannot make a key or a request: {0}")]
    Make(String),
    #[error("cannot keep {path}: {source}; the daemon's user must be able to write there")]
    Keep { path: PathBuf, source: io::Error },
    #[error("cannot read {path}: {source}; the daemon's user must be able to read it")]
    Read { path: PathBuf, source: io::Error },
}

/// Why an HTTP request of ours has no answer that is worth reading.
#[derive(Debug, ThisError)]
pub(super) enum HttpError {
    #[error("the CA cannot be reached: {0}; is the network up, and may this machine connect to it?")]
    Transport(String),
    #[error("the CA's own door is not trusted: {0}; for a private CA set tls.acme_ca_file")]
    Untrusted(rustls::Error),
    #[error("the CA gave no answer within {0} s")]
    Slow(u64),
    #[error("the CA gave an answer of more than {0} bytes")]
    TooLong(usize),
    #[error("the CA answered with HTTP status {0} and no reason; is tls.acme_directory right?")]
    Status(String),
    #[error("tls.acme_ca_file: {0}")]
    Roots(String),
    #[error("the system has no root certificates; install the package ca-certificates, or set tls.acme_ca_file")]
    NoRoots,
}

impl AcmeError {
    /// What instant-acme says about a step.
    pub(super) fn of(doing: &'static str) -> impl FnOnce(Error) -> AcmeError {
        move |error| match error {
            Error::Api(problem) => AcmeError::Refused { doing, problem },
            Error::Timeout(_) => AcmeError::Unfinished(doing),
            Error::Other(other) => match other.downcast::<HttpError>() {
                Ok(http) => AcmeError::Http(*http),
                Err(other) => AcmeError::Odd { doing, why: plain(&other.to_string()) },
            },
            other => AcmeError::Odd { doing, why: plain(&other.to_string()) },
        }
    }

    /// Whether the CA was reached, and so may have counted the attempt.
    pub(super) fn reached(&self) -> bool {
        !matches!(
            self,
            AcmeError::Http(
                HttpError::Transport(_)
                    | HttpError::Untrusted(_)
                    | HttpError::Slow(_)
                    | HttpError::Roots(_)
                    | HttpError::NoRoots
            )
        )
    }

    /// Whether the CA does not know the account that it was asked by.
    pub(super) fn account_is_gone(&self) -> bool {
        matches!(self, AcmeError::Refused { problem, .. } if kind(problem) == "accountDoesNotExist")
    }
}

/// The last part of the problem's type (RFC 8555, section 6.7).
fn kind(problem: &Problem) -> &str {
    let kind = problem.r#type.as_deref().unwrap_or_default();
    kind.strip_prefix("urn:ietf:params:acme:error:").unwrap_or_default()
}

/// The problem in the CA's words: one line of a length that a log can bear.
fn told(problem: &Problem) -> String {
    let mut text = problem.detail.clone().unwrap_or_else(|| "without a reason".into());
    for sub in &problem.subproblems {
        text.push_str(&format!("; {sub}"));
    }
    if let Some(kind) = &problem.r#type {
        text.push_str(&format!(" ({kind})"));
    }
    plain(&text)
}

fn plain(text: &str) -> String {
    let mut short: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MOST).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

/// What to do about it, where that is known.
fn advice(problem: &Problem, name: Option<&str>) -> String {
    let proves = name.is_some();
    let name = name.unwrap_or("the name");
    match kind(problem) {
        "connection" => format!(
            "; the CA could not reach this daemon at port 443 of {name}: lead it through the firewall to a listener \
             with TLS"
        ),
        "dns" => format!("; {name} must have an address record (A or AAAA) in the DNS that leads to this machine"),
        "tls" | "unauthorized" | "incorrectResponse" if proves => format!(
            "; at port 443 of {name} the CA found nobody, or somebody else than this daemon (a proxy, another machine?): \
             lead it through the firewall to a listener with TLS"
        ),
        "caa" => format!("; the CAA records of {name} in the DNS must allow this CA"),
        "rejectedIdentifier" => "; take the name out of tls.acme, or ask another CA".into(),
        "rateLimited" => "; the CA wants to be left alone for a while, and is".into(),
        "externalAccountRequired" => "; external accounts are not supported: ask another CA".into(),
        "userActionRequired" => "; the CA wants its terms to be read, see its mail or its pages".into(),
        "invalidContact" | "unsupportedContact" => "; see tls.acme_contact".into(),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(kind: &str, detail: &str) -> Problem {
        serde_json::from_value(serde_json::json!({"type": kind, "detail": detail})).unwrap()
    }

    #[test]
    fn what_a_ca_says_is_one_bounded_line_with_advice() {
        let problem = problem("urn:ietf:params:acme:error:connection", &format!("a\nb\u{1b}{}", "x".repeat(5000)));
        let told = AcmeError::NotProved { name: "a.example".into(), problem }.to_string();
        assert!(told.starts_with("a.example was not proved: a b "), "{told}");
        assert!(told.ends_with("lead it through the firewall to a listener with TLS"), "{told}");
        assert!(told.contains("at port 443 of a.example") && told.len() < 1000 && !told.contains('\u{1b}'), "{told}");
    }

    #[test]
    fn only_a_ca_that_was_reached_counts() {
        let http = |error: HttpError| AcmeError::of("a step")(Error::Other(Box::new(error)));
        assert!(!http(HttpError::Transport("refused".into())).reached());
        assert!(!http(HttpError::Slow(30)).reached());
        assert!(http(HttpError::Status("503".into())).reached());
        let gone = problem("urn:ietf:params:acme:error:accountDoesNotExist", "who?");
        let gone = AcmeError::of("a step")(Error::Api(gone));
        assert!(gone.reached() && gone.account_is_gone());
        assert!(!AcmeError::TooSlow.account_is_gone());
    }
}
