//! Certificates and TLS settings: from files, or self-signed, made once and kept.
//!
//! New handshakes see a new certificate at once; connections that stand keep the old one. A bad
//! file changes nothing. How TLS bytes move belongs to `net`.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use thiserror::Error;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::addresses;
use crate::config::TlsFiles;

/// How long a self-signed certificate lasts.
const SELF_SIGNED_FOR: Duration = Duration::from_secs(397 * DAY);
/// It is made anew when this little is left.
const RENEW_BEFORE: Duration = Duration::from_secs(30 * DAY);
const DAY: u64 = 24 * 3600;
/// Of each family, the most that it names: a machine of thousands would have a certificate that no
/// client takes.
const ADDRESSES: usize = 32;

#[derive(Debug, Error)]
pub enum TlsError {
    #[error("cannot read the certificate {path}: {source}; the daemon's user must be able to read it")]
    ReadCertificate { path: PathBuf, source: io::Error },
    #[error("cannot read the key {path}: {source}; the daemon's user must be able to read it")]
    ReadKey { path: PathBuf, source: io::Error },
    #[error("{0} holds no PEM certificate (a block that begins with -----BEGIN CERTIFICATE-----)")]
    NoCertificate(PathBuf),
    #[error("the certificate {path} is damaged: {why}")]
    BadCertificate { path: PathBuf, why: String },
    #[error("{path} holds no usable private key in PEM (PKCS#8, PKCS#1 or SEC1, not encrypted): {why}")]
    BadKey { path: PathBuf, why: String },
    #[error("the key {key} does not belong to the certificate {certificate}")]
    Mismatch { certificate: PathBuf, key: PathBuf },
    #[error("the certificate {path} has ended on {until}; renew it first")]
    Ended { path: PathBuf, until: String },
    #[error("cannot keep a self-signed certificate in {path}: {source}")]
    Keep { path: PathBuf, source: io::Error },
    #[error("cannot make a self-signed certificate: {0}")]
    Make(String),
    #[error("TLS cannot be set up: {0}")]
    Setup(#[from] rustls::Error),
}

/// What people are told of the certificate in force.
#[derive(Clone, Debug, PartialEq)]
pub struct CertificateView {
    pub names: Vec<String>,
    pub issuer: String,
    pub from: SystemTime,
    pub until: SystemTime,
    /// SHA-256 of the certificate, hex.
    pub fingerprint: String,
    /// A path, "self-signed, kept in PATH", or "ACME: NAMES of DIRECTORY".
    pub source: String,
    /// How a CA keeps it new; absent where none is asked. Meaningless in [`Loaded`].
    pub renewal: Option<Renewal>,
}

/// How the certificate of an ACME CA is kept in force.
#[derive(Clone, Debug, PartialEq)]
pub struct Renewal {
    /// What the CA is asked for; the certificate in force may be another one still.
    pub names: Vec<String>,
    pub directory: String,
    /// When the CA is asked next; absent while it is being asked.
    pub next: Option<SystemTime>,
    /// When and why the last attempt failed; absent after one that did not.
    pub error: Option<(SystemTime, String)>,
    /// Attempts that have failed since the last that did not.
    pub failures: u32,
}

/// A certificate with its key, checked against each other.
#[derive(Debug)]
pub struct Loaded {
    key: Arc<CertifiedKey>,
    self_signed: bool,
    pub view: CertificateView,
}

/// The certificate in force, for handshakes and for those who ask.
#[derive(Debug)]
pub struct Certificates(ArcSwap<Loaded>);

impl Certificates {
    pub fn new(loaded: Loaded) -> Arc<Self> {
        Arc::new(Certificates(ArcSwap::from_pointee(loaded)))
    }

    pub fn view(&self) -> CertificateView {
        self.0.load().view.clone()
    }

    /// Whether it is the one that is made here.
    pub fn is_self_signed(&self) -> bool {
        self.0.load().self_signed
    }

    /// From the next handshake on; true where it is another certificate than before.
    pub fn replace(&self, loaded: Loaded) -> bool {
        let fingerprint = loaded.view.fingerprint.clone();
        self.0.swap(Arc::new(loaded)).view.fingerprint != fingerprint
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load().key.clone())
    }
}

/// TLS 1.2 and 1.3, HTTP/1.1 by ALPN, sessions resumed by tickets whose keys roll by themselves.
pub fn server_config(certificates: Arc<Certificates>) -> Result<Arc<rustls::ServerConfig>, TlsError> {
    let mut config = rustls::ServerConfig::builder_with_provider(aws_lc_rs::default_provider().into())
        .with_protocol_versions(&[&TLS13, &TLS12])?
        .with_no_client_auth()
        .with_cert_resolver(certificates);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.ticketer = aws_lc_rs::Ticketer::new()?;
    // One is enough for a page and its socket; each costs a write in the handshake.
    config.send_tls13_tickets = 1;
    Ok(Arc::new(config))
}

/// The certificate and key of the configuration's files.
///
/// With `refuse_ended`, a certificate that has ended is an error (a reload keeps the one in force);
/// without, it is served (a daemon that starts is better than none, and clients say what is wrong).
pub fn load_files(files: &TlsFiles, refuse_ended: bool) -> Result<Loaded, TlsError> {
    let TlsFiles { certificate, key } = files;
    let pem =
        fs::read(certificate).map_err(|source| TlsError::ReadCertificate { path: certificate.clone(), source })?;
    let key_pem = fs::read(key).map_err(|source| TlsError::ReadKey { path: key.clone(), source })?;
    let loaded = load_pem(&pem, &key_pem, files)?;
    if loaded.view.until <= SystemTime::now() && refuse_ended {
        let until = humantime::format_rfc3339_seconds(loaded.view.until).to_string();
        return Err(TlsError::Ended { path: certificate.clone(), until });
    }
    Ok(loaded)
}

/// A chain and its key in PEM; `files` is where they come from, for what is said about them.
pub fn load_pem(pem: &[u8], key_pem: &[u8], files: &TlsFiles) -> Result<Loaded, TlsError> {
    let TlsFiles { certificate, key } = files;
    let chain = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| TlsError::BadCertificate { path: certificate.clone(), why: e.to_string() })?;
    if chain.is_empty() {
        return Err(TlsError::NoCertificate(certificate.clone()));
    }
    let private = PrivateKeyDer::from_pem_slice(key_pem)
        .map_err(|e| TlsError::BadKey { path: key.clone(), why: e.to_string() })?;
    let view = view(&chain[0], certificate.display().to_string())
        .map_err(|why| TlsError::BadCertificate { path: certificate.clone(), why })?;
    let key = CertifiedKey::from_der(chain, private, &aws_lc_rs::default_provider()).map_err(|e| match e {
        rustls::Error::InconsistentKeys(_) => TlsError::Mismatch { certificate: certificate.clone(), key: key.clone() },
        e => TlsError::BadKey { path: key.clone(), why: e.to_string() },
    })?;
    Ok(Loaded { key: Arc::new(key), self_signed: false, view })
}

/// The self-signed certificate kept in `folder`; made, or made anew shortly before its end.
pub fn load_self_signed(folder: &Path) -> Result<Loaded, TlsError> {
    let files = TlsFiles { certificate: folder.join("self-signed.crt"), key: folder.join("self-signed.key") };
    let source = format!("self-signed, kept in {}", files.certificate.display());
    if let Ok(mut loaded) = load_files(&files, false)
        && loaded.view.until > SystemTime::now() + RENEW_BEFORE
    {
        loaded.view.source = source;
        loaded.self_signed = true;
        return Ok(loaded);
    }
    make_self_signed(folder, &files)?;
    let mut loaded = load_files(&files, false)?;
    loaded.view.source = source;
    loaded.self_signed = true;
    Ok(loaded)
}

fn make_self_signed(folder: &Path, files: &TlsFiles) -> Result<(), TlsError> {
    let make = |e: rcgen::Error| TlsError::Make(e.to_string());
    let mut params = rcgen::CertificateParams::new(own_names()).map_err(make)?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, "wschat self-signed");
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    // A day early, for clients whose clocks are behind.
    params.not_before = epoch + now.saturating_sub(Duration::from_secs(DAY));
    params.not_after = epoch + now + SELF_SIGNED_FOR;
    let key = rcgen::KeyPair::generate().map_err(make)?;
    let certificate = params.self_signed(&key).map_err(make)?;
    let keep = |source| TlsError::Keep { path: folder.to_path_buf(), source };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(keep)?;
    write_private(&files.key, key.serialize_pem().as_bytes()).map_err(keep)?;
    write_private(&files.certificate, certificate.pem().as_bytes()).map_err(keep)
}

/// Replaces `path` whole or not at all; readable by its owner alone.
pub fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    use std::io::Write;
    let new = path.with_extension("new");
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    // The name is kept only once its folder is.
    match path.parent() {
        Some(folder) => fs::File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

/// localhost, the host's name, and the addresses of its interfaces.
fn own_names() -> Vec<String> {
    let mut names = vec!["localhost".to_string(), "127.0.0.1".into(), "::1".into()];
    let mut add = |name: String| {
        if !names.contains(&name) {
            names.push(name);
        }
    };
    // A host's name that is no DNS name (say, with an underscore) would make the certificate invalid.
    let is_dns = |name: &str| {
        !name.is_empty() && name.len() < 254 && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.".contains(&b))
    };
    if let Some(name) = nix::unistd::gethostname().ok().and_then(|n| n.into_string().ok()).filter(|n| is_dns(n)) {
        add(name);
    }
    for address in addresses::own(ADDRESSES) {
        add(address.to_string());
    }
    names
}

fn view(der: &CertificateDer<'_>, source: String) -> Result<CertificateView, String> {
    let (_, certificate) = X509Certificate::from_der(der).map_err(|e| e.to_string())?;
    let time = |t: x509_parser::time::ASN1Time| {
        SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(t.timestamp()).unwrap_or(0))
    };
    let alternative = certificate.subject_alternative_name().map_err(|e| e.to_string())?;
    let mut names: Vec<String> = alternative
        .into_iter()
        .flat_map(|san| &san.value.general_names)
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(name.to_string()),
            GeneralName::IPAddress(bytes) => match bytes.len() {
                4 => <[u8; 4]>::try_from(*bytes).ok().map(|b| IpAddr::from(b).to_string()),
                16 => <[u8; 16]>::try_from(*bytes).ok().map(|b| IpAddr::from(b).to_string()),
                _ => None,
            },
            _ => None,
        })
        .collect();
    if names.is_empty() {
        names.extend(certificate.subject().iter_common_name().filter_map(|cn| cn.as_str().ok()).map(String::from));
    }
    let digest = ::aws_lc_rs::digest::digest(&::aws_lc_rs::digest::SHA256, der);
    Ok(CertificateView {
        names,
        issuer: certificate.issuer().to_string(),
        from: time(certificate.validity().not_before),
        until: time(certificate.validity().not_after),
        fingerprint: digest.as_ref().iter().map(|b| format!("{b:02x}")).collect(),
        source,
        renewal: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn self_signed_is_made_once_and_kept_private() {
        let folder = tempfile::tempdir().unwrap();
        let first = load_self_signed(folder.path()).unwrap();
        let again = load_self_signed(folder.path()).unwrap();
        assert_eq!(first.view, again.view);
        assert!(first.view.names.contains(&"localhost".to_string()), "{:?}", first.view.names);
        assert!(first.view.names.contains(&"::1".to_string()));
        let mode = fs::metadata(folder.path().join("self-signed.key")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_damaged_self_signed_certificate_is_made_anew() {
        let folder = tempfile::tempdir().unwrap();
        let first = load_self_signed(folder.path()).unwrap();
        fs::write(folder.path().join("self-signed.crt"), "nothing").unwrap();
        assert_ne!(load_self_signed(folder.path()).unwrap().view.fingerprint, first.view.fingerprint);
    }

    #[test]
    fn bad_files_are_refused_with_their_reason() {
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        load_self_signed(a.path()).unwrap();
        load_self_signed(b.path()).unwrap();
        let refused = |certificate: PathBuf, key: PathBuf| {
            load_files(&TlsFiles { certificate, key }, true).unwrap_err().to_string()
        };
        let (crt, key) = (a.path().join("self-signed.crt"), a.path().join("self-signed.key"));
        assert!(refused(crt.clone(), b.path().join("self-signed.key")).contains("does not belong"));
        assert!(refused(key.clone(), key.clone()).contains("holds no PEM certificate"));
        assert!(refused(crt.clone(), crt.clone()).contains("no usable private key"));
        assert!(refused(a.path().join("none"), key).contains("cannot read the certificate"));
        assert!(refused(crt, a.path().join("none")).contains("cannot read the key"));
    }

    #[test]
    fn replacing_by_the_same_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let current = Certificates::new(load_self_signed(folder.path()).unwrap());
        assert!(!current.replace(load_self_signed(folder.path()).unwrap()));
        let other = tempfile::tempdir().unwrap();
        assert!(current.replace(load_self_signed(other.path()).unwrap()));
    }
}
