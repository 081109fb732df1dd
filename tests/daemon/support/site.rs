//! A site that makes tokens for its users, with whichever key.

use std::fs;
use std::path::Path;
use std::time::SystemTime;

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};

/// The configuration that demands a token of the installed secret, or of the installed public key.
pub const SECRET: &str = "[auth]\nmode = \"token\"\nsecret_file = \"FOLDER/secret\"\n";
pub const PUBLIC: &str = "[auth]\nmode = \"token\"\npublic_key_file = \"FOLDER/public.pem\"\n";

pub struct Site {
    pub algorithm: Algorithm,
    key: EncodingKey,
    /// The shared secret, or the public key in PEM.
    pub known: String,
}

fn pem(label: &str, der: &[u8]) -> String {
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", STANDARD.encode(der))
}

/// Seconds since 1970, this many from now.
pub fn seconds(ahead: i64) -> i64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
    now.as_secs().cast_signed() + ahead
}

/// Claims of a user, good for an hour.
pub fn claims(user: &str) -> Value {
    json!({"sub": user, "exp": seconds(3600)})
}

/// With some members replaced, or by null left out.
pub fn but(mut claims: Value, other: Value) -> Value {
    for (name, value) in other.as_object().expect("an object") {
        match value {
            Value::Null => drop(claims.as_object_mut().expect("an object").remove(name)),
            value => claims[name] = value.clone(),
        }
    }
    claims
}

impl Site {
    pub fn with_secret(secret: &str) -> Self {
        let key = EncodingKey::from_secret(secret.as_bytes());
        Site { algorithm: Algorithm::HS256, key, known: secret.to_owned() }
    }

    pub fn hmac() -> Self {
        let mut secret = [0; 24];
        aws_lc_rs::rand::fill(&mut secret).expect("random bytes");
        Site::with_secret(&STANDARD.encode(secret))
    }

    pub fn rsa() -> Self {
        let pair = RsaKeyPair::generate(KeySize::Rsa2048).expect("a key");
        let public: PublicKeyX509Der<'_> = pair.public_key().as_der().expect("DER");
        let private: Pkcs8V1Der<'_> = pair.as_der().expect("DER");
        let key = EncodingKey::from_rsa_pem(pem("PRIVATE KEY", private.as_ref()).as_bytes()).expect("a key");
        Site { algorithm: Algorithm::RS256, key, known: pem("PUBLIC KEY", public.as_ref()) }
    }

    pub fn ec() -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key");
        let public: PublicKeyX509Der<'_> = pair.public_key().as_der().expect("DER");
        let key = EncodingKey::from_ec_der(pair.to_pkcs8v1().expect("DER").as_ref());
        Site { algorithm: Algorithm::ES256, key, known: pem("PUBLIC KEY", public.as_ref()) }
    }

    pub fn ed() -> Self {
        let pair = Ed25519KeyPair::generate().expect("a key");
        let public: PublicKeyX509Der<'_> = pair.public_key().as_der().expect("DER");
        let key = EncodingKey::from_ed_der(pair.to_pkcs8v1().expect("DER").as_ref());
        Site { algorithm: Algorithm::EdDSA, key, known: pem("PUBLIC KEY", public.as_ref()) }
    }

    /// Puts what may be known where the configuration looks for it.
    pub fn install(&self, folder: &Path) {
        let file = if self.algorithm == Algorithm::HS256 { "secret" } else { "public.pem" };
        fs::write(folder.join(file), format!("{}\n", self.known)).expect("our own folder");
    }

    pub fn token(&self, claims: &Value) -> String {
        encode(&Header::new(self.algorithm), claims, &self.key).expect("a token")
    }

    /// With another header than the one that its key is for.
    pub fn token_under(&self, header: &Value, claims: &Value) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!("{}.{}", part(header), part(claims));
        let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &self.key, self.algorithm);
        format!("{message}.{}", signature.expect("a signature"))
    }
}
