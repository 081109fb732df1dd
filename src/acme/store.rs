//! What is kept of a CA in the state folder: the account, and the certificate with its key.
//!
//! `acme/` has a folder for each directory that was ever configured, so that one comes back to its
//! account when it comes back. Folders are 0700 and files 0600; each file is replaced whole.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use instant_acme::AccountCredentials;
use serde::{Deserialize, Serialize};

use super::failure::AcmeError;
use crate::config::{Acme, TlsFiles};
use crate::tls::{self, Loaded};

/// Bytes of the folder's name that are the directory's host.
const HOST: usize = 100;

#[derive(Clone, Debug)]
pub(super) struct Store {
    folder: PathBuf,
    source: String,
    directory: String,
    names: BTreeSet<String>,
}

/// An account at the CA.
#[derive(Serialize, Deserialize)]
pub(super) struct KeptAccount {
    pub(super) directory: String,
    /// As the CA was last told.
    pub(super) contact: Vec<String>,
    pub(super) credentials: AccountCredentials,
}

impl Store {
    pub(super) fn new(state_dir: &Path, settings: &Acme) -> Self {
        Store {
            folder: state_dir.join("acme").join(folder_name(&settings.directory)),
            source: super::source(settings),
            directory: settings.directory.clone(),
            names: settings.names.iter().cloned().collect(),
        }
    }

    fn certificate_file(&self) -> PathBuf {
        self.folder.join("certificate.pem")
    }

    fn account_file(&self) -> PathBuf {
        self.folder.join("account.json")
    }

    /// The kept certificate, where it is for just these names and lasts still.
    pub(super) fn certificate(&self) -> Option<Loaded> {
        let path = self.certificate_file();
        let pem = match fs::read(&path) {
            Ok(pem) => pem,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                tracing::warn!("cannot read the kept certificate {}: {error}; another is asked for", path.display());
                return None;
            }
        };
        match self.parse(&pem) {
            Ok(loaded) => {
                let good = self.is_for_these_names(&loaded) && loaded.view.until > SystemTime::now();
                good.then_some(loaded)
            }
            Err(error) => {
                self.set_aside(&path, &error.to_string());
                None
            }
        }
    }

    /// A key and its chain in PEM, as the CA has given it.
    pub(super) fn parse(&self, pem: &[u8]) -> Result<Loaded, tls::TlsError> {
        let path = self.certificate_file();
        let files = TlsFiles { certificate: path.clone(), key: path };
        let mut loaded = tls::load_pem(pem, pem, &files)?;
        loaded.view.source.clone_from(&self.source);
        Ok(loaded)
    }

    pub(super) fn is_for_these_names(&self, loaded: &Loaded) -> bool {
        loaded.view.names.iter().map(|name| name.to_ascii_lowercase()).collect::<BTreeSet<_>>() == self.names
    }

    pub(super) fn save_certificate(&self, pem: &[u8]) -> Result<(), AcmeError> {
        self.save(&self.certificate_file(), pem)
    }

    /// The kept account, if there is one that can be read.
    pub(super) fn account(&self) -> Result<Option<KeptAccount>, AcmeError> {
        let path = self.account_file();
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            // To make another account each time would be worse than to say it.
            Err(source) => return Err(AcmeError::Read { path, source }),
        };
        match serde_json::from_slice::<KeptAccount>(&bytes) {
            Ok(account) if account.directory == self.directory => Ok(Some(account)),
            Ok(account) => {
                self.set_aside(&path, &format!("it is an account of {}", account.directory));
                Ok(None)
            }
            Err(error) => {
                self.set_aside(&path, &error.to_string());
                Ok(None)
            }
        }
    }

    pub(super) fn save_account(&self, account: &KeptAccount) -> Result<(), AcmeError> {
        let bytes = serde_json::to_vec(account).map_err(|e| AcmeError::Make(e.to_string()))?;
        self.save(&self.account_file(), &bytes)
    }

    /// An account that the CA does not take any more.
    pub(super) fn drop_account(&self) {
        self.set_aside(&self.account_file(), "the CA does not know this account");
    }

    fn save(&self, path: &Path, bytes: &[u8]) -> Result<(), AcmeError> {
        let keep = |source| AcmeError::Keep { path: path.to_path_buf(), source };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.folder).map_err(keep)?;
        tls::write_private(path, bytes).map_err(keep)
    }

    /// Keeps what is of no use out of the way, for whoever wants to know what it was.
    fn set_aside(&self, path: &Path, why: &str) {
        let aside = path.with_added_extension("bad");
        match fs::rename(path, &aside) {
            Ok(()) => tracing::warn!("{} is of no use and is {} now: {why}", path.display(), aside.display()),
            Err(error) => tracing::warn!("{} is of no use ({why}), and cannot be set aside: {error}", path.display()),
        }
    }
}

/// A name that tells people which CA it is, and differs for each directory.
fn folder_name(directory: &str) -> String {
    let host = directory.split('/').nth(2).unwrap_or_default();
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '.' || c == '-' { c } else { '-' };
    let host: String = host.chars().take(HOST).map(plain).collect();
    let digest = ::aws_lc_rs::digest::digest(&::aws_lc_rs::digest::SHA256, directory.as_bytes());
    let short: String = digest.as_ref().iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    format!("{}-{short}", host.trim_start_matches('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_named_after_the_host_and_differ() {
        let one = folder_name("https://localhost:14000/dir");
        assert!(one.starts_with("localhost-14000-") && !one.contains(['/', ':']), "{one}");
        assert_ne!(one, folder_name("https://localhost:14000/dir2"));
        assert!(!folder_name("https://../x").starts_with('.'));
        assert!(folder_name(&format!("https://{}/d", "x".repeat(900))).len() < 128);
    }
}
