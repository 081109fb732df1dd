//! A guest's signed string: the same browser is the same guest again, and nobody else is.
//!
//! The string is `<id>.<HMAC-SHA256 of the id, base64url>`. The key is made once and kept in the
//! state folder; without it (a lost folder) old guests become new ones, nothing else.

use std::fs;
use std::io;
use std::path::Path;

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::tls::write_private;

/// Bytes of the key: the hash's own size (RFC 2104, section 3).
const KEY_BYTES: usize = 32;
/// Longer ids were never given out.
const MAX_ID: usize = 64;

/// Signs and checks.
pub struct GuestKey(hmac::Key);

impl std::fmt::Debug for GuestKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("GuestKey")
    }
}

impl GuestKey {
    /// The key kept in `folder`, made where there is none.
    pub fn load(folder: &Path) -> io::Result<Self> {
        let path = folder.join("guest.key");
        let key = match fs::read(&path) {
            Ok(key) if key.len() == KEY_BYTES => key,
            Ok(_) => {
                let why = format!("{} is damaged; delete it, and guests get new ids", path.display());
                return Err(io::Error::new(io::ErrorKind::InvalidData, why));
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let mut key = vec![0; KEY_BYTES];
                aws_lc_rs::rand::fill(&mut key).map_err(|_| io::Error::other("no random bytes to be had"))?;
                write_private(&path, &key)
                    .map_err(|e| io::Error::new(e.kind(), format!("cannot write {}: {e}", path.display())))?;
                key
            }
            Err(e) => return Err(io::Error::new(e.kind(), format!("cannot read {}: {e}", path.display()))),
        };
        Ok(GuestKey(hmac::Key::new(hmac::HMAC_SHA256, &key)))
    }

    pub fn sign(&self, id: &str) -> String {
        format!("{id}.{}", base64url(hmac::sign(&self.0, id.as_bytes()).as_ref()))
    }

    /// The id in a string that this key has signed.
    pub fn check<'a>(&self, signed: &'a str) -> Option<&'a str> {
        let (id, mac) = signed.split_once('.')?;
        if id.is_empty() || id.len() > MAX_ID {
            return None;
        }
        let good = base64url(hmac::sign(&self.0, id.as_bytes()).as_ref());
        aws_lc_rs::constant_time::verify_slices_are_equal(good.as_bytes(), mac.as_bytes()).ok().map(|()| id)
    }
}

/// RFC 4648, section 5, without padding.
fn base64url(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_kept_and_forgery_fails() {
        let folder = tempfile::tempdir().unwrap();
        let signed = GuestKey::load(folder.path()).unwrap().sign("abc");
        let key = GuestKey::load(folder.path()).unwrap();
        assert_eq!(key.check(&signed), Some("abc"));
        for forged in ["", ".", "abc", "abc.", &signed.replacen('a', "b", 1), &format!("{signed}x")] {
            assert_eq!(key.check(forged), None, "{forged}");
        }
        let other = tempfile::tempdir().unwrap();
        assert_eq!(GuestKey::load(other.path()).unwrap().check(&signed), None);
    }

    #[test]
    fn a_key_that_cannot_be_written_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let error = GuestKey::load(&folder.path().join("gone")).unwrap_err().to_string();
        assert!(error.contains("gone/guest.key"), "{error}");
    }

    #[test]
    fn base64url_as_in_rfc_4648() {
        assert_eq!(base64url(b"foobar"), "Zm9vYmFy");
        assert_eq!(base64url(b"fooba"), "Zm9vYmE");
        assert_eq!(base64url(&[0xfb, 0xff]), "-_8");
    }
}
