//! Good tokens of each algorithm, and everything that is none.

use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm,
    Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RSA_PSS_SHA256, RsaEncoding,
};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::Index;

use x509_parser::prelude::FromDer;

use super::*;

const SECRET: &str = "0123456789abcdef0123456789abcdef";

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(1_800_000_000_500)
}

fn seconds(ahead: i64) -> i64 {
    1_800_000_000 + ahead
}

fn pem(label: &str, der: &[u8]) -> String {
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<&str> = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

type Sign = Box<dyn Fn(&[u8]) -> Vec<u8> + Send + Sync>;

/// A site that signs: with which algorithm, and what of it may be known.
struct Site {
    algorithm: &'static str,
    public: String,
    private: String,
    sign: Sign,
}

impl Site {
    fn rsa_of(size: KeySize, algorithm: &'static str, encoding: &'static dyn RsaEncoding) -> Self {
        let key = RsaKeyPair::generate(size).unwrap();
        let public: aws_lc_rs::encoding::PublicKeyX509Der<'_> = key.public_key().as_der().unwrap();
        let private: aws_lc_rs::encoding::Pkcs8V1Der<'_> = key.as_der().unwrap();
        let (public, private) = (pem("PUBLIC KEY", public.as_ref()), pem("PRIVATE KEY", private.as_ref()));
        let sign = move |message: &[u8]| {
            let mut signature = vec![0; key.public_modulus_len()];
            key.sign(encoding, &SystemRandom::new(), message, &mut signature).unwrap();
            signature
        };
        Site { algorithm, public, private, sign: Box::new(sign) }
    }

    fn ec(algorithm: &'static str, curve: &'static EcdsaSigningAlgorithm) -> Self {
        let key = EcdsaKeyPair::generate(curve).unwrap();
        let public: aws_lc_rs::encoding::PublicKeyX509Der<'_> = key.public_key().as_der().unwrap();
        let private = key.to_pkcs8v1().unwrap();
        let (public, private) = (pem("PUBLIC KEY", public.as_ref()), pem("PRIVATE KEY", private.as_ref()));
        let sign = move |message: &[u8]| key.sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec();
        Site { algorithm, public, private, sign: Box::new(sign) }
    }

    fn ed() -> Self {
        let key = Ed25519KeyPair::generate().unwrap();
        let public: aws_lc_rs::encoding::PublicKeyX509Der<'_> = key.public_key().as_der().unwrap();
        let private = key.to_pkcs8v1().unwrap();
        let (public, private) = (pem("PUBLIC KEY", public.as_ref()), pem("PRIVATE KEY", private.as_ref()));
        let sign = move |message: &[u8]| key.sign(message).as_ref().to_vec();
        Site { algorithm: "EdDSA", public, private, sign: Box::new(sign) }
    }

    fn token(&self, claims: &Value) -> String {
        signed(&json!({"alg": self.algorithm, "typ": "JWT"}).to_string(), &claims.to_string(), &self.sign)
    }

    fn tokens(&self) -> Tokens {
        let public_key = Some(public_key(&self.public).unwrap());
        Tokens { demanded: true, secret: None, public_key, audience: None }
    }
}

static RSA: LazyLock<Site> = LazyLock::new(|| Site::rsa_of(KeySize::Rsa2048, "RS256", &RSA_PKCS1_SHA256));
static EC: LazyLock<Site> = LazyLock::new(|| Site::ec("ES256", &ECDSA_P256_SHA256_FIXED_SIGNING));
static ED: LazyLock<Site> = LazyLock::new(Site::ed);

fn signed(header: &str, claims: &str, sign: impl Fn(&[u8]) -> Vec<u8>) -> String {
    let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    let signature = sign(message.as_bytes());
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
}

fn hmac(secret: &[u8], message: &[u8]) -> Vec<u8> {
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, secret);
    aws_lc_rs::hmac::sign(&key, message).as_ref().to_vec()
}

/// A token with these claims, signed with the secret.
fn hs256(claims: &Value) -> String {
    raw(r#"{"alg":"HS256"}"#, &claims.to_string())
}

fn raw(header: &str, claims: &str) -> String {
    signed(header, claims, |message| hmac(SECRET.as_bytes(), message))
}

fn with_secret() -> Tokens {
    Tokens { demanded: false, secret: Some(SECRET.into()), public_key: None, audience: None }
}

fn ann() -> Value {
    json!({"sub": "ann", "exp": seconds(60)})
}

fn public_key(pem: &str) -> Result<PublicKey, String> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("key.pem");
    fs::write(&file, pem).unwrap();
    key::read_public_key(&file).map_err(|why| why.to_string())
}

#[track_caller]
fn refused(tokens: &Tokens, token: &str, words: &str) {
    let error = tokens.admit(Some(token), now()).unwrap_err();
    let close = error.close();
    assert!(close.reason.contains(words), "{words:?} in {close:?}");
    assert!(close.reason.len() <= close::MAX_REASON, "{close:?}");
    assert_eq!(close.code, if error == TokenError::Expired { 4202 } else { 4001 });
}

/// With `ann`'s claims but for this member; `Null`: without it.
#[track_caller]
fn judged(name: &str, value: Value) -> Result<Claims, TokenError> {
    let mut claims = ann();
    match value {
        Value::Null => drop(claims.as_object_mut().unwrap().remove(name)),
        value => claims[name] = value,
    }
    with_secret().admit(Some(&hs256(&claims)), now()).map(|claims| claims.expect("a token was given"))
}

#[test]
fn the_example_of_the_standard() {
    // RFC 7515, appendix A.1: its key has 64 bytes, and its claims no sub.
    let key = "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow";
    let token = "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.\
                 eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.\
                 dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
    let tokens = Tokens { secret: Some(URL_SAFE_NO_PAD.decode(key).unwrap()), ..with_secret() };
    refused(&tokens, token, "has no sub");
    refused(&with_secret(), token, "signature is wrong");
}

#[test]
fn each_algorithm_and_only_the_keys_own() {
    let sites = [&*RSA, &*EC, &*ED];
    for site in sites {
        let token = site.token(&ann());
        assert_eq!(site.tokens().admit(Some(&token), now()).unwrap().unwrap().user.as_str(), "ann");
        for other in sites.into_iter().filter(|other| other.algorithm != site.algorithm) {
            refused(&other.tokens(), &token, "(alg)");
            // The same signature under the name that the other key takes.
            let renamed = signed(&json!({"alg": other.algorithm}).to_string(), &ann().to_string(), &site.sign);
            refused(&other.tokens(), &renamed, "signature is wrong");
        }
        refused(&with_secret(), &token, "(alg)");
        refused(&site.tokens(), &hs256(&ann()), "(alg)");
        // Both kinds of key at once: each takes its own.
        let both = Tokens { secret: Some(SECRET.into()), ..site.tokens() };
        assert!(both.admit(Some(&token), now()).is_ok() && both.admit(Some(&hs256(&ann())), now()).is_ok());
    }
    let another = Site::ec("ES256", &ECDSA_P256_SHA256_FIXED_SIGNING);
    refused(&EC.tokens(), &another.token(&ann()), "signature is wrong");
    // The right key, in another scheme than the one that is taken.
    for (name, words) in [("PS256", "(alg)"), ("RS256", "signature is wrong")] {
        let pss = Site::rsa_of(KeySize::Rsa2048, name, &RSA_PSS_SHA256);
        refused(&pss.tokens(), &pss.token(&ann()), words);
    }
}

#[test]
fn a_public_key_is_no_secret() {
    for site in [&*RSA, &*EC, &*ED] {
        let forged = |secret: &[u8]| {
            signed(r#"{"alg":"HS256","typ":"JWT"}"#, &ann().to_string(), |message| hmac(secret, message))
        };
        let der = Pem::contents(&site.public);
        for secret in [site.public.as_bytes(), site.public.trim_end().as_bytes(), &der] {
            refused(&site.tokens(), &forged(secret), "(alg)");
            let both = Tokens { secret: Some(SECRET.into()), ..site.tokens() };
            refused(&both, &forged(secret), "signature is wrong");
        }
    }
}

/// What stands in a PEM file.
struct Pem;

impl Pem {
    fn contents(text: &str) -> Vec<u8> {
        x509_parser::pem::parse_x509_pem(text.as_bytes()).unwrap().1.contents
    }
}

#[test]
fn nothing_that_is_unsigned() {
    let claims = ann().to_string();
    for alg in ["none", "None", "NONE", "nOnE", "", "hs256", "HS256 ", "HS384", "HS512", "RS256", "ES256", "dir"] {
        let header = json!({"alg": alg}).to_string();
        for signature in [Vec::new(), vec![0; 32]] {
            refused(&with_secret(), &signed(&header, &claims, |_| signature.clone()), "(alg)");
        }
        refused(&with_secret(), &raw(&header, &claims), "(alg)");
    }
    let good = hs256(&ann());
    let unsigned = &good[..=good.rfind('.').unwrap()];
    for signature in ["", "AA", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"] {
        refused(&with_secret(), &format!("{unsigned}{signature}"), "signature is wrong");
    }
    for (header, words) in [
        (r#"{}"#, "no JWT"),
        (r#"{"alg":null}"#, "no JWT"),
        (r#"{"alg":["HS256"]}"#, "no JWT"),
        (r#"{"alg":"none","alg":"HS256"}"#, "no JWT"),
        (r#"{"alg":"HS256","alg":"HS256"}"#, "no JWT"),
        (r#"["HS256"]"#, "no JWT"),
        (r#"{"alg":"HS256"} "x""#, "no JWT"),
        ("\u{feff}{\"alg\":\"HS256\"}", "no JWT"),
        (r#"{"alg":"HS256","crit":["exp"],"exp":1}"#, "(crit)"),
        (r#"{"alg":"HS256","crit":[]}"#, "(crit)"),
        (r#"{"alg":"HS256","crit":null}"#, "(crit)"),
        (r#"{"alg":"HS256","b64":false,"crit":["b64"]}"#, "(crit)"),
    ] {
        refused(&with_secret(), &raw(header, &claims), words);
    }
}

#[test]
fn the_header_cannot_bring_a_key() {
    let own = b"a secret of the attacker's own, long enough";
    let k = URL_SAFE_NO_PAD.encode(own);
    for header in [
        json!({"alg": "HS256", "jwk": {"kty": "oct", "k": k}}),
        json!({"alg": "HS256", "jku": "https://evil.example/keys"}),
        json!({"alg": "HS256", "kid": "../../../dev/null", "x5u": "https://evil.example"}),
    ] {
        let header = header.to_string();
        refused(&with_secret(), &signed(&header, &ann().to_string(), |m| hmac(own, m)), "signature is wrong");
        // And where the signature is good, it says nothing.
        assert!(with_secret().admit(Some(&raw(&header, &ann().to_string())), now()).is_ok());
    }
}

#[test]
fn what_is_no_token() {
    let good = hs256(&ann());
    for bad in [".", "..", "...", "a", "a.b", "a.b.c", " ", "é.é.é", "e30.e30.e30", "\0"] {
        refused(&with_secret(), bad, "no JWT");
    }
    for bad in
        [format!("{good}."), format!(".{good}"), format!("{good}.{good}"), format!("{good}="), format!(" {good}")]
    {
        assert!(with_secret().admit(Some(&bad), now()).is_err(), "{bad}");
    }
    let long = hs256(&json!({"sub": "ann", "exp": seconds(60), "x": "x".repeat(MOST_BYTES)}));
    refused(&with_secret(), &long, "longer than 8 KiB");
    refused(&with_secret(), &".".repeat(MOST_BYTES + 1), "longer than 8 KiB");
    assert!(with_secret().admit(Some(&".".repeat(MOST_BYTES)), now()).is_err());
    // One that just fits.
    let fits = |pad: usize| hs256(&json!({"sub": "ann", "exp": seconds(60), "x": "x".repeat(pad)}));
    let most = (1..MOST_BYTES).rev().map(fits).find(|token| token.len() <= MOST_BYTES).unwrap();
    assert!(most.len() > MOST_BYTES - 4 && with_secret().admit(Some(&most), now()).is_ok());
}

#[test]
fn claims_that_are_no_object() {
    for claims in ["", "null", "[]", "\"ann\"", "{", "{\"sub\":\"ann\"}}", "{\"sub\":\"ann\",}"] {
        refused(&with_secret(), &raw(r#"{"alg":"HS256"}"#, claims), "no JSON object");
    }
    let exp = seconds(60);
    for twice in [
        format!(r#"{{"sub":"ann","sub":"root","exp":{exp}}}"#),
        format!(r#"{{"sub":"ann","\u0073ub":"ann","exp":{exp}}}"#),
        format!(r#"{{"sub":"ann","exp":1,"exp":{exp}}}"#),
        format!(r#"{{"sub":"ann","x":1,"exp":{exp},"x":1}}"#),
        format!(r#"{{"sub":"ann","exp":{exp},"x":{}{}}}"#, "[".repeat(2000), "]".repeat(2000)),
        format!(r#"{{"sub":"ann","exp":{exp},"x":{}1{}}}"#, "{\"a\":".repeat(500), "}".repeat(500)),
        format!(r#"{{"sub":"ann","exp":{exp},"x":1e999}}"#),
    ] {
        refused(&with_secret(), &raw(r#"{"alg":"HS256"}"#, &twice), "no JSON object");
    }
}

#[test]
fn sub_names_a_user_and_no_guest() {
    let user = |sub: &str| judged("sub", sub.into()).map(|claims| claims.user.as_str().to_owned());
    for good in ["ann", "42", "安", "guest", "Guest-1", &"x".repeat(128)] {
        assert_eq!(user(good).as_deref(), Ok(good));
    }
    for bad in ["", "a\nb", "a\0", &"x".repeat(129), "guest-", "guest-5mpkd3fk7h09s02g2wzyxvaqam"] {
        assert!(matches!(user(bad), Err(TokenError::Invalid(_))), "{bad:?}");
    }
    for bad in [Value::Null, json!(42), json!(["ann"]), json!({"a": "ann"}), json!(true)] {
        assert!(matches!(judged("sub", bad.clone()), Err(TokenError::Invalid(_))), "{bad}");
    }
}

#[test]
fn times_are_numbers_of_seconds() {
    let expires = |exp: Value| judged("exp", exp).map(|claims| claims.expires);
    let at = |millis: u64| SystemTime::UNIX_EPOCH + Duration::from_millis(millis);
    assert_eq!(expires(json!(seconds(60))), Ok(at(1_800_000_060_000)));
    assert_eq!(expires(json!(1_800_000_060.25)), Ok(at(1_800_000_060_250)));
    assert_eq!(expires(json!(1.80000006e9)), Ok(at(1_800_000_060_000)));
    assert_eq!(expires(json!(253_402_300_799_u64)), Ok(at(253_402_300_799_000)));
    for gone in [json!(0), json!(-0.0), json!(seconds(-3600)), json!(seconds(0)), json!(1_800_000_000.5)] {
        assert_eq!(expires(gone.clone()), Err(TokenError::Expired), "{gone}");
    }
    assert!(expires(json!(1_800_000_000.75)).is_ok());
    let nonsense = [
        Value::Null,
        json!("1800000060"),
        json!(true),
        json!([1_800_000_060]),
        json!(-1),
        // Milliseconds.
        json!(1_800_000_060_000_u64),
        json!(u64::MAX),
        json!(1e300),
    ];
    for bad in &nonsense {
        assert!(matches!(expires(bad.clone()), Err(TokenError::Invalid(_))), "{bad}");
    }
    assert!(judged("nbf", Value::Null).is_ok() && judged("nbf", json!(0)).is_ok());
    // The site's clock may be ahead, a little.
    assert!(judged("nbf", json!(seconds(5))).is_ok() && judged("nbf", json!(1_800_000_005.5)).is_ok());
    for early in [json!(seconds(6)), json!(1_800_000_005.75), json!(seconds(3600))] {
        assert_eq!(judged("nbf", early.clone()), Err(TokenError::NotYet), "{early}");
    }
    for bad in &nonsense[1..] {
        assert!(matches!(judged("nbf", bad.clone()), Err(TokenError::Invalid(_))), "{bad}");
    }
    assert!(judged("iat", json!("whenever")).is_ok(), "iat decides nothing");
}

#[test]
fn the_audience_counts_where_one_is_configured() {
    let chat = Tokens { audience: Some("chat".into()), ..with_secret() };
    let aud = |tokens: &Tokens, aud: Value| {
        let mut claims = ann();
        claims["aud"] = aud;
        tokens.admit(Some(&hs256(&claims)), now())
    };
    for good in [json!("chat"), json!(["chat"]), json!(["shop", 5, "chat"])] {
        assert!(aud(&chat, good.clone()).is_ok(), "{good}");
    }
    for bad in [json!("shop"), json!("Chat"), json!(["shop"]), json!([]), json!(null), json!({"chat": 1}), json!("")] {
        assert_eq!(aud(&chat, bad.clone()), Err(TokenError::Invalid("the token is for somebody else (aud)")), "{bad}");
        assert!(aud(&with_secret(), bad.clone()).is_ok(), "{bad}");
    }
    refused(&chat, &hs256(&ann()), "(aud)");
}

#[test]
fn name_rooms_and_roles() {
    let nick = |name: Value| judged("name", name).unwrap().nick.map(|nick| nick.as_str().to_owned());
    assert_eq!(nick(json!(" Ann ")).as_deref(), Some("Ann"));
    for odd in [Value::Null, json!(""), json!("a\nb"), json!("n".repeat(33))] {
        assert_eq!(nick(odd.clone()), None, "{odd}");
    }
    for wrong in [json!(5), json!(["Ann"]), json!({"a": 1}), json!(true)] {
        assert_eq!(judged("name", wrong.clone()), Err(TokenError::Invalid("the token's name is no text")), "{wrong}");
    }

    let may = |rooms: Value, room: &str| {
        let room = crate::chat::id::RoomName::parse(room).unwrap();
        judged("rooms", rooms).map(|c| c.rooms.is_none_or(|globs| globs.iter().any(|glob| glob.matches(&room))))
    };
    assert_eq!(may(Value::Null, "lobby"), Ok(true));
    assert_eq!(may(json!([]), "lobby"), Ok(false));
    assert_eq!(may(json!(["team-*", "lobby"]), "team-7"), Ok(true));
    assert_eq!(may(json!(["team-*", "lobby"]), "lobbyist"), Ok(false));
    assert!(may(json!(vec!["a"; 100]), "a").is_ok());
    for bad in [json!("lobby"), json!([5]), json!(["a", null]), json!({"a": 1}), json!([""]), json!(vec!["a"; 101])] {
        assert!(matches!(judged("rooms", bad.clone()), Err(TokenError::Invalid(_))), "{bad}");
    }
    let explicit = raw(r#"{"alg":"HS256"}"#, &format!(r#"{{"sub":"a","exp":{},"rooms":null}}"#, seconds(60)));
    refused(&with_secret(), &explicit, "rooms are no list");

    let moderator = |roles: Value| judged("roles", roles).map(|claims| claims.moderator);
    assert_eq!(moderator(json!(["poet", "moderator"])), Ok(true));
    for no in [Value::Null, json!([]), json!(["Moderator"]), json!(["moderators"])] {
        assert_eq!(moderator(no.clone()), Ok(false), "{no}");
    }
    for bad in [json!("moderator"), json!([1, "moderator"]), json!({"moderator": true})] {
        assert!(matches!(moderator(bad.clone()), Err(TokenError::Invalid(_))), "{bad}");
    }
}

#[test]
fn who_needs_a_token() {
    let keyless = Tokens { secret: None, ..with_secret() };
    for open in [&keyless, &with_secret()] {
        assert_eq!((open.admit(None, now()), open.admit(Some(""), now())), (Ok(None), Ok(None)));
    }
    refused(&keyless, &hs256(&ann()), "takes no tokens");
    let closed = Tokens { demanded: true, ..with_secret() };
    for none in [None, Some("")] {
        assert_eq!(closed.admit(none, now()), Err(TokenError::Invalid("this server wants a token")));
    }
}

#[test]
fn files_of_keys_and_of_what_is_none() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    let secret = |content: &[u8]| {
        fs::write(&file, content).unwrap();
        key::read_secret(&file).map_err(|why| why.to_string())
    };
    for end in ["", "\n", "\r\n", "\n\n"] {
        assert_eq!(secret(format!("{SECRET}{end}").as_bytes()), Ok(SECRET.into()));
    }
    let told = secret(format!("{}\n\n", &SECRET[1..]).as_bytes()).unwrap_err();
    assert!(told.contains("holds 31 bytes") && told.contains("openssl rand -hex 32"), "{told}");
    assert!(told.contains(file.to_str().unwrap()), "{told}");
    assert!(secret(RSA.public.as_bytes()).unwrap_err().contains("auth.public_key_file"));
    assert!(secret(&vec![b'x'; 64 * 1024 + 1]).unwrap_err().contains("more than 65536 bytes"));
    let told = |path: &Path| key::read_secret(path).unwrap_err().to_string();
    assert!(told(&folder.path().join("none")).contains("No such file"), "{}", told(Path::new("none")));
    assert!(told(folder.path()).contains("no regular file"));
    assert!(told(Path::new("/dev/null")).contains("no regular file"));

    let two = format!("{}{}", EC.public, ED.public);
    let certificate = rcgen::generate_simple_self_signed(["a".to_owned()]).unwrap().cert.pem();
    let small = &RSA_1024;
    let half = &RSA.public[..RSA.public.len() / 2];
    let other_curve = Site::ec("ES384", &ECDSA_P384_SHA384_FIXED_SIGNING);
    let mut off_curve = Pem::contents(&EC.public);
    *off_curve.last_mut().unwrap() ^= 1;
    let off_curve = pem("PUBLIC KEY", &off_curve);
    for (text, words) in [
        ("", "no public key in PEM"),
        (SECRET, "no public key in PEM"),
        (&RSA.private, "holds a private key"),
        (&EC.private, "holds a private key"),
        (&format!("{}{}", ED.public, ED.private), "holds a private key"),
        (&pem("ENCRYPTED PRIVATE KEY", b"x"), "holds a private key"),
        (&certificate, "-pubkey"),
        (&two, "more than one key"),
        (half, "is damaged"),
        (&pem("PUBLIC KEY", b"nonsense"), "is damaged"),
        (&off_curve, "is damaged"),
        (&other_curve.public, "on another curve"),
        (small, "an RSA key of 1024 bits"),
    ] {
        let told = public_key(text).err().unwrap_or_else(|| panic!("{words}"));
        assert!(told.contains(words) && told.contains("key.pem"), "{words:?} in {told}");
    }
    // With a comment before it, as some tools write it.
    assert!(public_key(&format!("the site's key\n{}", EC.public)).is_ok());
    // The same key in its older form (PKCS #1).
    let inner = x509_parser::x509::SubjectPublicKeyInfo::from_der(&Pem::contents(&RSA.public))
        .unwrap()
        .1
        .subject_public_key
        .data
        .to_vec();
    assert!(public_key(&pem("RSA PUBLIC KEY", &inner)).unwrap() == public_key(&RSA.public).unwrap());
}

/// A key that nobody should use any more.
const RSA_1024: &str = "-----BEGIN PUBLIC KEY-----
MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQCfalbL0p1i9ipzXPH7l3C5yX8l
XIASXYWa417gPkTmaLr+fViu79TScgkJ7VjSq9nhg11UpJZy/jxpf2v1Af5FolNS
l6zI6BWpN7z4SLwcpL/kkSIGmf2509Bl5Z8k2zESipt2nKij/MWMeyBgyqvbWADL
YXmuAzRZBnQuw6qnsQIDAQAB
-----END PUBLIC KEY-----
";

#[test]
fn changed_files_are_noticed() {
    let keys = |secret: Option<&str>, site: Option<&Site>| {
        let public_key = site.map(|site| public_key(&site.public).unwrap());
        Tokens { demanded: false, secret: secret.map(Into::into), public_key, audience: None }
    };
    let old = keys(Some(SECRET), Some(&EC));
    let changed = |new: Tokens| new.changed(&old).collect::<Vec<_>>();
    assert!(changed(keys(Some(SECRET), Some(&EC))).is_empty());
    assert_eq!(changed(keys(Some("another"), Some(&EC))), ["auth.secret_file"]);
    assert_eq!(changed(keys(Some(SECRET), Some(&ED))), ["auth.public_key_file"]);
    assert_eq!(changed(keys(None, None)), ["auth.secret_file", "auth.public_key_file"]);
}

#[test]
fn what_cannot_be_minted() {
    let wish = |user: &str, lasts: u64| TokenWish {
        user: UserId::parse(user).unwrap(),
        nick: None,
        rooms: None,
        moderator: false,
        lasts: Duration::from_secs(lasts),
    };
    let keyless = Tokens { secret: None, ..with_secret() };
    let told = keyless.mint(&wish("ann", 60), now()).unwrap_err().to_string();
    assert!(told.contains("auth.secret_file") && told.contains("openssl rand"), "{told}");
    let told = EC.tokens().mint(&wish("ann", 60), now()).unwrap_err().to_string();
    assert!(told.contains("only a public key"), "{told}");
    let mint = |wish: TokenWish| with_secret().mint(&wish, now());
    for lasts in [0, TOKEN_LASTS_MOST.as_secs() + 1, u64::MAX] {
        assert_eq!(mint(wish("ann", lasts)), Err(MintError::Lasting), "{lasts}");
    }
    assert!(mint(wish("ann", 1)).is_ok() && mint(wish("ann", TOKEN_LASTS_MOST.as_secs())).is_ok());
    assert!(mint(wish("guest-1", 60)).unwrap_err().to_string().contains("guest-"));
    let rooms = |rooms| TokenWish { rooms: Some(rooms), ..wish("ann", 60) };
    assert!(matches!(mint(rooms(vec![String::new()])), Err(MintError::Refused(_))));
    assert!(matches!(mint(rooms(vec!["a".into(); 101])), Err(MintError::Refused(_))));
    assert!(matches!(mint(rooms(vec!["a".repeat(1000); 9])), Err(MintError::Refused(_))));
}

fn any_wish() -> impl Strategy<Value = TokenWish> {
    let user = "[^\\p{Cc}]{1,30}".prop_filter_map("a user", |text| UserId::parse(&text).ok());
    let nick = option::of("\\PC{1,20}".prop_filter_map("a nick", |text| Nick::parse(&text).ok()));
    let rooms = option::of(vec("[a-z*?大.\"\\\\]{1,20}", 0..20));
    (user, nick, rooms, any::<bool>(), 1..=TOKEN_LASTS_MOST.as_secs())
        .prop_filter("a guest", |(user, ..)| !user.is_guest())
        .prop_map(|(user, nick, rooms, moderator, lasts)| TokenWish {
            user,
            nick,
            rooms,
            moderator,
            lasts: Duration::from_secs(lasts),
        })
}

proptest! {
    #[test]
    fn what_is_minted_says_what_was_wished(wish in any_wish(), audience in option::of("\\PC{1,20}")) {
        let tokens = Tokens { audience, ..with_secret() };
        let token = tokens.mint(&wish, now()).unwrap();
        let claims = tokens.admit(Some(&token), now()).unwrap().unwrap();
        let rooms = wish.rooms.map(|rooms| rooms.iter().map(|room| RoomGlob::parse(room).unwrap()).collect());
        let expires = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000) + wish.lasts;
        prop_assert_eq!(
            (claims.user, claims.nick, claims.rooms, claims.moderator),
            (wish.user, wish.nick, rooms, wish.moderator)
        );
        // Whole seconds, so half a second less here.
        prop_assert_eq!(claims.expires, expires);
    }

    #[test]
    fn any_change_of_one_byte_is_refused(at in any::<Index>(), to in "[a-zA-Z0-9._=-]|\\PC", which in 0usize..4) {
        let (tokens, token) = match which {
            0 => (with_secret(), hs256(&ann())),
            1 => (RSA.tokens(), RSA.token(&ann())),
            2 => (EC.tokens(), EC.token(&ann())),
            _ => (ED.tokens(), ED.token(&ann())),
        };
        let at = at.index(token.len());
        let changed = format!("{}{to}{}", &token[..at], &token[at + 1..]);
        prop_assume!(changed != token);
        prop_assert!(tokens.admit(Some(&changed), now()).is_err());
        let removed = format!("{}{}", &token[..at], &token[at + 1..]);
        prop_assert!(tokens.admit(Some(&removed), now()).is_err());
    }

    #[test]
    fn nothing_makes_it_panic(header in "\\PC{0,60}", claims in "\\PC{0,60}", other in "[a-zA-Z0-9._=-]{0,80}") {
        prop_assert!(with_secret().admit(Some(&raw(&header, &claims)), now()).is_err());
        prop_assert!(other.is_empty() || with_secret().admit(Some(&other), now()).is_err());
        // Signed, so that its claims are looked at.
        let _ = with_secret().admit(Some(&raw(r#"{"alg":"HS256"}"#, &claims)), now());
    }
}
