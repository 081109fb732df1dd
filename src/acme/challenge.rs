//! What handshakes answer to a CA that checks a name: TLS-ALPN-01 (RFC 8737).

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::PrivateKeyDer;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};

use super::failure::AcmeError;

/// The protocol that a CA offers, and offers alone (RFC 8737, section 6.2).
const ALPN: &[u8] = b"acme-tls/1";

/// The challenges that are under way, by name. Most of the time there are none, and then a handshake
/// costs one load of an atomic more than without ACME.
#[derive(Debug, Default)]
pub struct Challenges(ArcSwap<HashMap<String, Arc<rustls::ServerConfig>>>);

impl Challenges {
    /// Whether any handshake may be a CA's.
    pub fn under_way(&self) -> bool {
        !self.0.load().is_empty()
    }

    /// What this handshake is to be answered with, where it is a CA's that checks a name just now.
    pub fn answer(&self, hello: &ClientHello<'_>) -> Option<Arc<rustls::ServerConfig>> {
        let mut offered = hello.alpn()?;
        if offered.next() != Some(ALPN) || offered.next().is_some() {
            return None;
        }
        self.0.load().get(&hello.server_name()?.to_ascii_lowercase()).cloned()
    }

    /// Answers for `name` with the SHA-256 of the key authorization, until what is returned is dropped.
    pub(super) fn begin(self: &Arc<Self>, name: &str, digest: &[u8]) -> Result<UnderWay, AcmeError> {
        let config = Arc::new(server_config(name, digest)?);
        self.0.rcu(|all| {
            let mut all = HashMap::clone(all);
            all.insert(name.to_owned(), config.clone());
            all
        });
        Ok(UnderWay { challenges: self.clone(), name: name.to_owned() })
    }
}

/// A challenge that is answered while this lives.
#[derive(Debug)]
pub(super) struct UnderWay {
    challenges: Arc<Challenges>,
    name: String,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.challenges.0.rcu(|all| {
            let mut all = HashMap::clone(all);
            all.remove(&self.name);
            all
        });
    }
}

/// Speaks nothing but the challenge's protocol, with a certificate that proves the name and is good for
/// nothing else (RFC 8737, section 3).
fn server_config(name: &str, digest: &[u8]) -> Result<rustls::ServerConfig, AcmeError> {
    let make = |e: rcgen::Error| AcmeError::Make(e.to_string());
    let mut params = rcgen::CertificateParams::new([name.to_owned()]).map_err(make)?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.custom_extensions = vec![rcgen::CustomExtension::new_acme_identifier(digest)];
    let key = rcgen::KeyPair::generate().map_err(make)?;
    let certificate = params.self_signed(&key).map_err(make)?;
    let private = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    let tls = |e: rustls::Error| AcmeError::Make(e.to_string());
    let provider = Arc::new(aws_lc_rs::default_provider());
    // Not `from_der`, which parses the certificate and knows nothing of its critical extension.
    let signer = provider.key_provider.load_private_key(private).map_err(tls)?;
    let certified = CertifiedKey::new(vec![certificate.der().clone()], signer);
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13, &TLS12])
        .map_err(tls)?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(One(Arc::new(certified))));
    config.alpn_protocols = vec![ALPN.to_vec()];
    // A CA comes once.
    config.send_tls13_tickets = 0;
    Ok(config)
}

#[derive(Debug)]
struct One(Arc<CertifiedKey>);

impl ResolvesServerCert for One {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_challenge_ends_with_what_began_it() {
        let challenges = Arc::new(Challenges::default());
        assert!(!challenges.under_way());
        let one = challenges.begin("one.example", &[1; 32]).unwrap();
        let two = challenges.begin("two.example", &[2; 32]).unwrap();
        assert_eq!(challenges.0.load().len(), 2);
        drop(one);
        assert!(challenges.under_way() && !challenges.0.load().contains_key("one.example"));
        drop(two);
        assert!(!challenges.under_way());
    }
}
