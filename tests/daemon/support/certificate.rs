//! Certificates as a site's operator would have them.

use std::fs;
use std::path::Path;

use rcgen::{CertificateParams, DnType, KeyPair, date_time_ymd};

pub struct Certificate {
    pub pem: String,
    pub key: String,
    /// SHA-256 of the certificate, hex.
    pub fingerprint: String,
}

impl Certificate {
    pub fn for_name(name: &str) -> Self {
        Certificate::until(name, 2200)
    }

    /// Valid from 2001 to the beginning of `year`.
    pub fn until(name: &str, year: i32) -> Self {
        let mut params = CertificateParams::new([name.to_owned(), "192.0.2.7".to_owned()]).expect("a plain name");
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, format!("issuer of {name}"));
        params.not_before = date_time_ymd(2001, 1, 1);
        params.not_after = date_time_ymd(year, 1, 1);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate");
        let fingerprint = fingerprint(certificate.der());
        Certificate { pem: certificate.pem(), key: key.serialize_pem(), fingerprint }
    }

    /// Puts both files where the daemon looks for them: `crt.pem` and `key.pem` in `folder`.
    pub fn install(&self, folder: &Path) {
        fs::write(folder.join("crt.pem"), &self.pem).expect("our own folder");
        fs::write(folder.join("key.pem"), &self.key).expect("our own folder");
    }
}

/// The configuration that names the installed files.
pub const INSTALLED: &str = "[tls]\ncertificate = \"FOLDER/crt.pem\"\nkey = \"FOLDER/key.pem\"\n";

pub fn fingerprint(der: &[u8]) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, der);
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}
