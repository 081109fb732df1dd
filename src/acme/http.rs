//! HTTPS to a CA, within bounds: each request has a deadline, each answer a most length, and when a CA
//! says how long it wants to be left alone, that is remembered.

use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER, USER_AGENT};
use hyper::http::response::Parts;
use hyper::{Method, Request, Response, StatusCode};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use rustls::RootCertStore;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::time::timeout;

use super::failure::HttpError;

/// For one request, from the look-up of the host's name to the last byte of the answer.
const REQUEST: Duration = Duration::from_secs(30);
/// For a connection to one of the host's addresses.
const CONNECT: Duration = Duration::from_secs(10);
/// The longest answer, in bytes; a chain of certificates has a few thousand.
const ANSWER: usize = 1 << 20;
/// The longest that a CA may have us wait.
const PATIENCE: Duration = Duration::from_secs(7 * 24 * 3600);
const AGENT: &str = concat!("wschat/", env!("CARGO_PKG_VERSION"));

/// What a CA has said about how often it wants to be asked.
#[derive(Clone, Debug, Default)]
pub(super) struct Manners(Arc<Mutex<Option<SystemTime>>>);

impl Manners {
    /// Until when it is to be left alone.
    pub(super) fn retry_after(&self) -> Option<SystemTime> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Of an answer that is a refusal for now (RFC 9110, section 10.2.3).
    fn note(&self, headers: &HeaderMap, now: SystemTime) {
        let Some(value) = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()) else { return };
        let wait = match value.trim().parse::<u64>() {
            Ok(seconds) => Duration::from_secs(seconds),
            Err(_) => match httpdate::parse_http_date(value.trim()) {
                Ok(date) => date.duration_since(now).unwrap_or_default(),
                Err(_) => return,
            },
        };
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(now + wait.min(PATIENCE));
    }
}

/// The client of one attempt. Its connections end with it.
#[derive(Clone)]
pub(super) struct Https {
    client: Client<HttpsConnector<HttpConnector>, BodyWrapper<Bytes>>,
    manners: Manners,
}

impl Https {
    /// Reads files, and so blocks.
    pub(super) fn new(ca_file: Option<&Path>, manners: Manners) -> Result<Self, HttpError> {
        let setup = |e: rustls::Error| HttpError::Roots(e.to_string());
        let config = rustls::ClientConfig::builder_with_provider(aws_lc_rs::default_provider().into())
            .with_safe_default_protocol_versions()
            .map_err(setup)?
            .with_root_certificates(roots(ca_file)?)
            .with_no_client_auth();
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_connect_timeout(Some(CONNECT));
        let connector =
            HttpsConnectorBuilder::new().with_tls_config(config).https_only().enable_http1().wrap_connector(tcp);
        Ok(Https { client: Client::builder(TokioExecutor::new()).build(connector), manners })
    }
}

/// Whether the file of roots can be used, where one is named.
pub(super) fn check_roots(ca_file: Option<&Path>) -> Result<(), HttpError> {
    ca_file.map_or(Ok(()), |path| roots(Some(path)).map(|_| ()))
}

/// Those of the file, or else the system's.
fn roots(ca_file: Option<&Path>) -> Result<RootCertStore, HttpError> {
    let mut roots = RootCertStore::empty();
    let Some(path) = ca_file else {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        return if roots.is_empty() { Err(HttpError::NoRoots) } else { Ok(roots) };
    };
    let wrong = |why: &dyn std::fmt::Display| HttpError::Roots(format!("{}: {why}", path.display()));
    let pem = std::fs::read(path).map_err(|e| wrong(&e))?;
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        roots.add(certificate.map_err(|e| wrong(&e))?).map_err(|e| wrong(&e))?;
    }
    if roots.is_empty() { Err(wrong(&"it holds no PEM certificate")) } else { Ok(roots) }
}

impl HttpClient for Https {
    fn request(
        &self,
        mut request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        request.headers_mut().insert(USER_AGENT, HeaderValue::from_static(AGENT));
        // All else is a POST (RFC 8555, section 6.3), but for nonces, which have no body.
        let asks_for_directory = request.method() == Method::GET;
        let answer = self.client.request(request);
        let manners = self.manners.clone();
        Box::pin(async move {
            let whole = async {
                let answer = answer.await.map_err(|e| lost(&e))?;
                read(answer, &manners).await
            };
            let read = timeout(REQUEST, whole).await.unwrap_or(Err(HttpError::Slow(REQUEST.as_secs())));
            let (parts, body) = read.map_err(|e| Error::Other(Box::new(e)))?;
            if asks_for_directory && !is_fine(parts.status) {
                // instant-acme would take the problem for a directory.
                return Err(Error::Api(serde_json::from_slice(&body)?));
            }
            Ok(BytesResponse { parts, body: Box::new(body) })
        })
    }
}

fn is_fine(status: StatusCode) -> bool {
    status.is_success() || status.is_redirection()
}

async fn read(answer: Response<Incoming>, manners: &Manners) -> Result<(Parts, Bytes), HttpError> {
    let (parts, body) = answer.into_parts();
    let fine = is_fine(parts.status);
    if !fine {
        manners.note(&parts.headers, SystemTime::now());
    }
    let kind = parts.headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    if !fine && !kind.starts_with("application/problem+json") {
        return Err(HttpError::Status(parts.status.to_string()));
    }
    let body = Limited::new(body, ANSWER).collect().await.map_err(|e| match e.downcast::<LengthLimitError>() {
        Ok(_) => HttpError::TooLong(ANSWER),
        Err(e) => lost(&*e),
    })?;
    Ok((parts, body.to_bytes()))
}

/// An error with what lies behind it: "client error (Connect)" alone helps nobody.
fn lost(error: &(dyn std::error::Error + 'static)) -> HttpError {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        if let Some(tls @ rustls::Error::InvalidCertificate(_)) = tls_error(next) {
            return HttpError::Untrusted(tls.clone());
        }
        let told = next.to_string();
        if !text.ends_with(&told) {
            text.push_str(&format!(": {told}"));
        }
        cause = next.source();
    }
    HttpError::Transport(text)
}

/// What TLS says, out of the I/O errors that it comes wrapped in.
fn tls_error<'e>(error: &'e (dyn std::error::Error + 'static)) -> Option<&'e rustls::Error> {
    match error.downcast_ref::<std::io::Error>() {
        Some(io) => tls_error(io.get_ref()?),
        None => error.downcast_ref(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ca_is_left_alone_for_as_long_as_it_says_but_not_for_ever() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        let noted = |value: &str| {
            let manners = Manners::default();
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, HeaderValue::from_str(value).unwrap());
            manners.note(&headers, now);
            manners.retry_after().map(|time| time.duration_since(now).unwrap())
        };
        assert_eq!(noted("120"), Some(Duration::from_secs(120)));
        assert_eq!(noted("Sun, 06 Nov 1994 08:50:37 GMT"), Some(Duration::from_secs(60)));
        assert_eq!(noted("Sun, 06 Nov 1994 08:00:00 GMT"), Some(Duration::ZERO));
        assert_eq!(noted("18446744073709551615"), Some(PATIENCE));
        for nothing in ["", "-1", "soon", "18446744073709551616"] {
            assert_eq!(noted(nothing), None, "{nothing}");
        }
    }

    #[test]
    fn roots_that_cannot_be_used_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let told = |path: &Path| roots(Some(path)).unwrap_err().to_string();
        let none = folder.path().join("none.pem");
        assert!(told(&none).contains("none.pem") && told(&none).contains("tls.acme_ca_file"));
        std::fs::write(&none, "garbage").unwrap();
        assert!(told(&none).contains("holds no PEM certificate"));
    }
}
