//! Tokens (JWT, RFC 7519) that the site makes for its users: is one good, and what does it say.
//!
//! A library checks signatures; everything else about a token is decided here, strictly: there is
//! one algorithm for each key, and what a token's header says of keys is not looked at (RFC 8725).
//! Who asks for a token and how a refusal is told belongs to `net`; what claims allow, to `chat`.

mod key;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::crypto::{sign, verify};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey};
use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};
use thiserror::Error;

use crate::admin::{TOKEN_LASTS_MOST, TokenWish};
use crate::chat::event::{Claims, Close};
use crate::chat::id::{Nick, RoomGlob, UserId};
use crate::config::{Auth, AuthMode};
use crate::wire::close;
pub use key::KeyError;
use key::PublicKey;

/// The longest token, in bytes. Longer ones are refused before any work.
pub const MOST_BYTES: usize = 8 * 1024;
/// How far a site's clock may be ahead of ours before `nbf` refuses its token.
const LEEWAY: Duration = Duration::from_secs(5);
/// The most elements of `rooms`.
const MOST_ROOMS: usize = 100;
/// The end of the year 9999, in NumericDate: later times are no times but mistakes of unit.
const MOST_SECONDS: f64 = 253_402_300_799.0;

/// Why nobody is let in by this token, or without one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum TokenError {
    #[error("the token has expired")]
    Expired,
    #[error("the token is not valid yet: its nbf is in the future")]
    NotYet,
    /// For its client to read: short, and nothing of a key.
    #[error("{0}")]
    Invalid(&'static str),
}

impl TokenError {
    pub fn close(self) -> Close {
        let row = if self == TokenError::Expired { close::TOKEN_EXPIRED } else { close::UNAUTHORIZED };
        Close { code: row.code, reason: self.to_string() }
    }
}

/// Why no token can be made.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum MintError {
    #[error(
        "no secret is configured to make tokens with: set auth.secret_file to a file that holds one (openssl rand -hex \
         32 makes it), then reload"
    )]
    NoSecret,
    #[error(
        "only a public key is configured (auth.public_key_file): tokens are made by the site, which has the private one; \
         to make some here, set auth.secret_file besides and reload"
    )]
    OnlyPublicKey,
    #[error("a token lasts between 1 second and {} days", TOKEN_LASTS_MOST.as_secs() / (24 * 3600))]
    Lasting,
    #[error("such a token would be refused: {0}")]
    Refused(TokenError),
    #[error("the token cannot be signed")]
    Signing,
}

/// What tokens are checked with, and whether there must be one; read from `[auth]`, replaced whole.
pub struct Tokens {
    demanded: bool,
    secret: Option<Vec<u8>>,
    public_key: Option<PublicKey>,
    audience: Option<String>,
}

impl fmt::Debug for Tokens {
    /// Nothing of a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens").field("demanded", &self.demanded).finish_non_exhaustive()
    }
}

impl Tokens {
    /// Reads the key files that `[auth]` names. Warns of a secret that everybody can read.
    pub fn load(auth: &Auth) -> Result<Self, KeyError> {
        let secret = auth.secret_file.as_deref().map(key::read_secret).transpose()?;
        let public_key = auth.public_key_file.as_deref().map(key::read_public_key).transpose()?;
        if let Some(path) = auth.secret_file.as_deref().filter(|path| key::is_open_to_all(path)) {
            let path = path.display();
            tracing::warn!(
                "every user of this machine can read the secret in {path}, and could make tokens with it: chmod o= {path}"
            );
        }
        let demanded = auth.mode == AuthMode::Token;
        Ok(Tokens { demanded, secret, public_key, audience: auth.audience.clone() })
    }

    /// The keys of the configuration whose files hold something else than `old` has.
    pub fn changed(&self, old: &Tokens) -> impl Iterator<Item = &'static str> {
        let secret = (self.secret != old.secret).then_some("auth.secret_file");
        let public_key = (self.public_key != old.public_key).then_some("auth.public_key_file");
        secret.into_iter().chain(public_key)
    }

    /// Who comes with this token; `None` is a guest. An empty token is none.
    pub fn admit(&self, token: Option<&str>, now: SystemTime) -> Result<Option<Claims>, TokenError> {
        match token.filter(|token| !token.is_empty()) {
            Some(token) => self.check(token, now).map(Some),
            None if self.demanded => Err(TokenError::Invalid("this server wants a token")),
            None => Ok(None),
        }
    }

    /// The signature comes first: of what nobody has signed, nothing is told.
    fn check(&self, token: &str, now: SystemTime) -> Result<Claims, TokenError> {
        if self.secret.is_none() && self.public_key.is_none() {
            return Err(TokenError::Invalid("this server takes no tokens: connect without one"));
        }
        if token.len() > MOST_BYTES {
            return Err(TokenError::Invalid("the token is longer than 8 KiB"));
        }
        let malformed = TokenError::Invalid("the token is no JWT (RFC 7519)");
        let (message, signature) = token.rsplit_once('.').ok_or(malformed)?;
        let (header, claims) = message.split_once('.').ok_or(malformed)?;
        let header = object(header).ok_or(malformed)?;
        if header.contains_key("crit") {
            return Err(TokenError::Invalid("the token's header demands extensions (crit), and there are none here"));
        }
        let algorithm = header.get("alg").and_then(Value::as_str).ok_or(malformed)?;
        let (algorithm, key) = self.key_for(algorithm)?;
        match verify(signature, message.as_bytes(), &key, algorithm) {
            Ok(true) => {}
            Ok(false) | Err(_) => return Err(TokenError::Invalid("the token's signature is wrong")),
        }
        let claims = object(claims).ok_or(TokenError::Invalid("the token's claims are no JSON object"))?;
        self.judge(&claims, now)
    }

    /// The key for an algorithm that there is a key for. The name is the header's, spelled exactly
    /// (RFC 7515, section 4.1.1), and can only pick what the keys allow.
    fn key_for(&self, name: &str) -> Result<(Algorithm, DecodingKey), TokenError> {
        let secret = self.secret.as_deref().map(|secret| (Algorithm::HS256, DecodingKey::from_secret(secret)));
        let public = self.public_key.as_ref().map(|public| (public.algorithm, public.key.clone()));
        let refused = TokenError::Invalid("the token is signed in a way that this server does not take (alg)");
        [secret, public].into_iter().flatten().find(|(algorithm, _)| name_of(*algorithm) == name).ok_or(refused)
    }

    /// What signed claims mean.
    fn judge(&self, claims: &BTreeMap<String, Value>, now: SystemTime) -> Result<Claims, TokenError> {
        let invalid = TokenError::Invalid;
        let exp = claims.get("exp").ok_or(invalid("the token has no exp"))?;
        let expires = time(exp).ok_or(invalid("the token's exp is no time in seconds since 1970"))?;
        let begins = match claims.get("nbf") {
            Some(nbf) => time(nbf).ok_or(invalid("the token's nbf is no time in seconds since 1970"))?,
            None => SystemTime::UNIX_EPOCH,
        };
        let sub = claims.get("sub").ok_or(invalid("the token has no sub"))?;
        let sub = sub.as_str().ok_or(invalid("the token's sub is no text"))?;
        let bad_sub = invalid("the token's sub is not 1 to 128 bytes without control characters");
        let user = UserId::parse(sub).map_err(|_| bad_sub)?;
        if user.is_guest() {
            return Err(invalid("the token's sub begins with guest-, as only guests' names do"));
        }
        if let Some(audience) = &self.audience {
            let named = match claims.get("aud") {
                Some(Value::String(one)) => one == audience,
                Some(Value::Array(several)) => several.iter().any(|one| one.as_str() == Some(audience)),
                _ => false,
            };
            if !named {
                return Err(invalid("the token is for somebody else (aud)"));
            }
        }
        let rooms = match claims.get("rooms") {
            Some(rooms) => Some(globs(rooms)?),
            None => None,
        };
        let moderator = match claims.get("roles") {
            Some(roles) => {
                let roles = texts(roles).ok_or(invalid("the token's roles are no list of texts"))?;
                roles.contains(&"moderator")
            }
            None => false,
        };
        let name = match claims.get("name") {
            Some(name) => Some(name.as_str().ok_or(invalid("the token's name is no text"))?),
            None => None,
        };
        // A name that cannot be a nick is the site's oddity, and no reason to keep its user out.
        let nick = name.and_then(|name| Nick::parse(name).ok());
        if expires <= now {
            return Err(TokenError::Expired);
        }
        if begins > now + LEEWAY {
            return Err(TokenError::NotYet);
        }
        Ok(Claims { user, nick, rooms, moderator, expires })
    }

    /// A token of HS256 that [`Tokens::admit`] takes, for trying out.
    pub fn mint(&self, wish: &TokenWish, now: SystemTime) -> Result<String, MintError> {
        let secret = match (&self.secret, &self.public_key) {
            (Some(secret), _) => secret,
            (None, Some(_)) => return Err(MintError::OnlyPublicKey),
            (None, None) => return Err(MintError::NoSecret),
        };
        if wish.lasts < Duration::from_secs(1) || wish.lasts > TOKEN_LASTS_MOST {
            return Err(MintError::Lasting);
        }
        let since_1970 = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let mut claims = json!({
            "sub": wish.user.as_str(),
            "iat": since_1970.as_secs(),
            "exp": (since_1970 + wish.lasts).as_secs(),
        });
        if let Some(nick) = &wish.nick {
            claims["name"] = nick.as_str().into();
        }
        if let Some(rooms) = &wish.rooms {
            claims["rooms"] = rooms.clone().into();
        }
        if wish.moderator {
            claims["roles"] = json!(["moderator"]);
        }
        if let Some(audience) = &self.audience {
            claims["aud"] = audience.as_str().into();
        }
        let encode = |part: &Value| URL_SAFE_NO_PAD.encode(part.to_string());
        let message = format!("{}.{}", encode(&json!({"alg": "HS256", "typ": "JWT"})), encode(&claims));
        let signature = sign(message.as_bytes(), &EncodingKey::from_secret(secret), Algorithm::HS256);
        let token = format!("{message}.{}", signature.map_err(|_| MintError::Signing)?);
        match self.check(&token, now) {
            Ok(_) => Ok(token),
            Err(why) => Err(MintError::Refused(why)),
        }
    }
}

/// As `alg` spells it (RFC 7518, section 3.1; RFC 8037, section 3.1).
fn name_of(algorithm: Algorithm) -> &'static str {
    match algorithm {
        Algorithm::HS256 => "HS256",
        Algorithm::RS256 => "RS256",
        Algorithm::ES256 => "ES256",
        Algorithm::EdDSA => "EdDSA",
        // No key here is for another one, and no token can spell this.
        _ => "",
    }
}

/// A part of a token: base64url of a JSON object without a member twice.
fn object(part: &str) -> Option<BTreeMap<String, Value>> {
    let json = URL_SAFE_NO_PAD.decode(part).ok()?;
    serde_json::from_slice::<Members>(&json).ok().map(|Members(members)| members)
}

/// The members of an object. A name that comes twice is an error: two readers could take two
/// meanings from it (RFC 7519, section 4). Nesting ends at serde_json's own limit of 128.
struct Members(BTreeMap<String, Value>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;

        impl<'de> Visitor<'de> for Object {
            type Value = Members;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Members, A::Error> {
                let mut members = BTreeMap::new();
                while let Some((name, value)) = access.next_entry::<String, Value>()? {
                    if members.insert(name, value).is_some() {
                        return Err(A::Error::custom("a member stands there twice"));
                    }
                }
                Ok(Members(members))
            }
        }

        deserializer.deserialize_map(Object)
    }
}

/// A NumericDate (RFC 7519, section 2), with a fraction or without.
fn time(value: &Value) -> Option<SystemTime> {
    let seconds = value.as_f64().filter(|seconds| (0.0..=MOST_SECONDS).contains(seconds))?;
    Some(SystemTime::UNIX_EPOCH + Duration::try_from_secs_f64(seconds).ok()?)
}

fn texts(value: &Value) -> Option<Vec<&str>> {
    value.as_array()?.iter().map(Value::as_str).collect()
}

fn globs(value: &Value) -> Result<Arc<[RoomGlob]>, TokenError> {
    let texts = texts(value).ok_or(TokenError::Invalid("the token's rooms are no list of texts"))?;
    if texts.len() > MOST_ROOMS {
        return Err(TokenError::Invalid("the token's rooms are more than 100"));
    }
    let globs: Result<_, _> = texts.into_iter().map(RoomGlob::parse).collect();
    globs.map_err(|_| TokenError::Invalid("one of the token's rooms is no name or glob"))
}
