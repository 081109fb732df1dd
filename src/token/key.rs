//! From key files to keys that can be used, or the reason why not.
//!
//! The kind of a public key decides the one algorithm that is accepted with it, so that no token
//! can choose (RFC 8725, section 3.1). Everything that could be mistaken for a key is refused by its
//! name: a private key, a certificate, a PEM file as a shared secret.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256, VerificationAlgorithm,
};
use jsonwebtoken::{Algorithm, DecodingKey};
use thiserror::Error;
use x509_parser::oid_registry::{OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_PKCS1_RSAENCRYPTION, OID_SIG_ED25519};
use x509_parser::pem::Pem;
use x509_parser::prelude::FromDer;
use x509_parser::public_key::RSAPublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

/// The longest key file, in bytes; an RSA key of 8192 bits in PEM has a fortieth of it.
const MOST_BYTES: u64 = 64 * 1024;
/// The shortest secret of HS256, in bytes: its hash's own size (RFC 7518, section 3.2).
pub const LEAST_SECRET: usize = 32;

#[derive(Debug, Error)]
pub enum KeyError {
    #[error("cannot read {key} {path}: {source}; the daemon's user must be able to read it")]
    Read { key: &'static str, path: PathBuf, source: io::Error },
    #[error("{key} {path} has more than {MOST_BYTES} bytes: this is no key")]
    TooLong { key: &'static str, path: PathBuf },
    #[error(
        "auth.secret_file {path} holds {bytes} bytes, and a secret needs at least {LEAST_SECRET}; make one with: \
         openssl rand -hex 32"
    )]
    ShortSecret { path: PathBuf, bytes: usize },
    #[error(
        "auth.secret_file {0} holds a PEM file, which is no shared secret: a public key belongs into \
         auth.public_key_file, a secret is made with: openssl rand -hex 32"
    )]
    PemAsSecret(PathBuf),
    #[error(
        "auth.public_key_file {0} holds a private key, which only the site may have: keep it there, and put its public \
         half here, as made by: openssl pkey -in PRIVATE -pubout"
    )]
    Private(PathBuf),
    #[error(
        "auth.public_key_file {0} holds a certificate: put its key here, as made by: openssl x509 -in CERTIFICATE \
         -pubkey -noout"
    )]
    Certificate(PathBuf),
    #[error(
        "auth.public_key_file {0} holds no public key in PEM (a block that begins with -----BEGIN PUBLIC KEY-----)"
    )]
    NoPublicKey(PathBuf),
    #[error("auth.public_key_file {0} holds more than one key, and it would not be clear which one counts")]
    Several(PathBuf),
    #[error("the public key in auth.public_key_file {path} is damaged: {why}")]
    Damaged { path: PathBuf, why: String },
    #[error(
        "the public key in auth.public_key_file {path} is {what}; RSA of 2048 to 8192 bits, EC on P-256 and Ed25519 are understood"
    )]
    Unusable { path: PathBuf, what: String },
}

/// A public key, and the one algorithm that is accepted with it.
pub struct PublicKey {
    pub algorithm: Algorithm,
    pub key: DecodingKey,
    /// What it was made of: two keys are the same where these are.
    bytes: Vec<u8>,
}

impl PartialEq for PublicKey {
    fn eq(&self, other: &Self) -> bool {
        (self.algorithm, &self.bytes) == (other.algorithm, &other.bytes)
    }
}

/// The secret in the file, without the line ends after it.
pub fn read_secret(path: &Path) -> Result<Vec<u8>, KeyError> {
    let mut secret = read("auth.secret_file", path)?;
    while secret.pop_if(|last| matches!(last, b'\n' | b'\r')).is_some() {}
    // Who knows a public key could sign with it, were it taken for a secret.
    if secret.windows(11).any(|bytes| bytes == b"-----BEGIN ") {
        return Err(KeyError::PemAsSecret(path.to_owned()));
    }
    if secret.len() < LEAST_SECRET {
        return Err(KeyError::ShortSecret { path: path.to_owned(), bytes: secret.len() });
    }
    Ok(secret)
}

/// May others than the file's owner and group read it?
pub fn is_open_to_all(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & 0o004 != 0)
}

pub fn read_public_key(path: &Path) -> Result<PublicKey, KeyError> {
    public_key(&read("auth.public_key_file", path)?, path)
}

fn read(key: &'static str, path: &Path) -> Result<Vec<u8>, KeyError> {
    let failed = |source| KeyError::Read { key, path: path.to_owned(), source };
    // Opening a pipe would wait for whoever writes into it.
    if !fs::metadata(path).map_err(failed)?.is_file() {
        return Err(failed(io::Error::other("it is no regular file")));
    }
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(MOST_BYTES + 1).read_to_end(&mut bytes)).map_err(failed)?;
    if bytes.len() as u64 > MOST_BYTES {
        return Err(KeyError::TooLong { key, path: path.to_owned() });
    }
    Ok(bytes)
}

/// The one key in `text`, which stood in the file at `path`.
fn public_key(text: &[u8], path: &Path) -> Result<PublicKey, KeyError> {
    let damaged = |why: &str| KeyError::Damaged { path: path.to_owned(), why: why.to_owned() };
    let mut found = None;
    for block in Pem::iter_from_buffer(text) {
        let block = block.map_err(|_| damaged("its PEM block is not whole, or no base64"))?;
        match block.label.as_str() {
            // PRIVATE KEY, RSA PRIVATE KEY, EC PRIVATE KEY, ENCRYPTED PRIVATE KEY and the like.
            label if label.ends_with("PRIVATE KEY") => return Err(KeyError::Private(path.to_owned())),
            label if label.ends_with("CERTIFICATE") => return Err(KeyError::Certificate(path.to_owned())),
            "PUBLIC KEY" | "RSA PUBLIC KEY" if found.is_some() => return Err(KeyError::Several(path.to_owned())),
            "PUBLIC KEY" | "RSA PUBLIC KEY" => found = Some(block),
            _ => {}
        }
    }
    let block = found.ok_or_else(|| KeyError::NoPublicKey(path.to_owned()))?;
    if block.label == "RSA PUBLIC KEY" {
        return rsa(block.contents, path);
    }
    let (rest, info) = SubjectPublicKeyInfo::from_der(&block.contents).map_err(|_| damaged("this is no DER"))?;
    if !rest.is_empty() {
        return Err(damaged("something follows it"));
    }
    let bytes = info.subject_public_key.data.to_vec();
    let kind = &info.algorithm.algorithm;
    if *kind == OID_PKCS1_RSAENCRYPTION {
        rsa(bytes, path)
    } else if *kind == OID_KEY_TYPE_EC_PUBLIC_KEY {
        let curve = info.algorithm.parameters.as_ref().and_then(|parameters| parameters.as_oid().ok());
        if curve.is_none_or(|curve| curve != OID_EC_P256) {
            return Err(unusable(path, "an EC key on another curve"));
        }
        checked(&ECDSA_P256_SHA256_FIXED, Algorithm::ES256, DecodingKey::from_ec_der(&bytes), bytes, path)
    } else if *kind == OID_SIG_ED25519 {
        checked(&ED25519, Algorithm::EdDSA, DecodingKey::from_ed_der(&bytes), bytes, path)
    } else {
        Err(unusable(path, &format!("of the kind {kind}")))
    }
}

/// `der`: the key as in PKCS #1 (RFC 8017, appendix A.1.1).
fn rsa(der: Vec<u8>, path: &Path) -> Result<PublicKey, KeyError> {
    let bits = match RSAPublicKey::from_der(&der) {
        Ok((_, key)) => bits(key.modulus),
        Err(_) => return Err(KeyError::Damaged { path: path.to_owned(), why: "this is no RSA key".into() }),
    };
    if !(2048..=8192).contains(&bits) {
        return Err(unusable(path, &format!("an RSA key of {bits} bits")));
    }
    checked(&RSA_PKCS1_2048_8192_SHA256, Algorithm::RS256, DecodingKey::from_rsa_der(&der), der, path)
}

/// Of a number whose highest bytes come first.
fn bits(number: &[u8]) -> usize {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    number.get(zeros).map_or(0, |first| (number.len() - zeros) * 8 - first.leading_zeros() as usize)
}

fn unusable(path: &Path, what: &str) -> KeyError {
    KeyError::Unusable { path: path.to_owned(), what: what.to_owned() }
}

/// The library that will check signatures takes the key; otherwise it would refuse every token later.
fn checked(
    verifier: &'static dyn VerificationAlgorithm,
    algorithm: Algorithm,
    key: DecodingKey,
    bytes: Vec<u8>,
    path: &Path,
) -> Result<PublicKey, KeyError> {
    match ParsedPublicKey::new(verifier, &bytes) {
        Ok(_) => Ok(PublicKey { algorithm, key, bytes }),
        Err(why) => Err(KeyError::Damaged { path: path.to_owned(), why: why.to_string() }),
    }
}
