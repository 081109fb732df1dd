//! `wschatctl backup`: the history comes over the control socket and becomes a file, whole or not at all.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use aws_lc_rs::digest;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use nix::fcntl::OFlag;
use serde_json::json;

use super::client::Daemon;
use super::commands::control;
use super::failure::Failure;
use super::output::Output;
use super::text::{bytes, harmless};
use crate::control::protocol as api;

pub(super) fn run(
    file: &Path,
    force: bool,
    connect: &dyn Fn() -> Result<Daemon, Failure>,
    out: &mut Output,
) -> Result<(), Failure> {
    if file == Path::new("-") {
        if out.json {
            return Err(Failure::Usage("standard output is the backup's: --json wants a file".into()));
        }
        if out.terminal {
            return Err(Failure::Usage("a backup is no text for a terminal: name a file, or pipe it".into()));
        }
        // Whoever reads no further has no backup; only of a list is that enough.
        let cut = |failure| match failure {
            Failure::Output(why) => Failure::NotWhole(format!("it was not taken whole: {why}")),
            other => other,
        };
        let whole = take(&mut connect()?, |chunk| out.raw(chunk)).map_err(cut)?;
        out.flush().map_err(cut)?;
        eprintln!("wschatctl: {}", said(&whole));
        return Ok(());
    }
    there(file, force)?;
    let mut daemon = connect()?;
    // Before the daemon takes the trouble; it goes again where nothing comes of it.
    let mut partial = Partial::make(file)?;
    let whole = take(&mut daemon, |chunk| partial.file.write_all(chunk).map_err(|why| unwritable(&partial.path, why)))?;
    partial.keep(file, force)?;
    if out.json {
        let name = file.to_string_lossy();
        let (rooms, entries) = (whole.rooms, whole.entries);
        let (bytes, sha256) = (whole.bytes, &whole.sha256);
        return out
            .document(&json!({"file": name, "bytes": bytes, "sha256": sha256, "rooms": rooms, "entries": entries}));
    }
    out.line(&format!("{} in {}", said(&whole), harmless(&file.to_string_lossy())))?;
    out.flush()
}

fn said(whole: &api::BackupWhole) -> String {
    let some = |count: u64, one: &str, many: &str| format!("{count} {}", if count == 1 { one } else { many });
    let (entries, rooms) = (some(whole.entries, "entry", "entries"), some(whole.rooms, "room", "rooms"));
    format!("{entries} of {rooms}, {}", bytes(whole.bytes))
}

/// Takes all of it, and checks that it is what the daemon has sent.
fn take(daemon: &mut Daemon, mut write: impl FnMut(&[u8]) -> Result<(), Failure>) -> Result<api::BackupWhole, Failure> {
    let mut parts = daemon.stream(&control("Backup"), api::Nothing {})?;
    let mut hash = digest::Context::new(&digest::SHA256);
    let mut taken = 0;
    let mut told = false;
    while let Some(part) = parts.next::<api::BackupPart>()? {
        if let (Some(progress), true) = (part.progress, io::stderr().is_terminal()) {
            eprint!("\rcopying: {} of {}    ", bytes(progress.bytes), bytes(progress.of));
            told = true;
        }
        if let Some(chunk) = part.chunk {
            if std::mem::take(&mut told) {
                eprint!("\r{:40}\r", "");
            }
            let chunk = BASE64_STANDARD.decode(chunk).map_err(|why| Failure::NotWhole(why.to_string()))?;
            hash.update(&chunk);
            taken += chunk.len() as u64;
            write(&chunk)?;
        }
        if let Some(whole) = part.whole {
            let sha256: String = hash.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
            if (taken, &sha256) != (whole.bytes, &whole.sha256) {
                return Err(Failure::NotWhole("it is not what the daemon says it is".into()));
            }
            return Ok(whole);
        }
    }
    Err(Failure::NotWhole("it came without an end".into()))
}

/// Whether something is there that must stay.
fn there(file: &Path, force: bool) -> Result<(), Failure> {
    let refused = |why: &str| Err(Failure::NotCreated { path: file.to_owned(), why: why.into() });
    match fs::symlink_metadata(file) {
        Err(why) if why.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(why) => Err(unwritable(file, why)),
        Ok(found) if !found.is_file() => refused("something else than a file is there"),
        Ok(_) if !force => refused("it is there already; --force replaces it"),
        Ok(_) => Ok(()),
    }
}

fn unwritable(path: &Path, why: io::Error) -> Failure {
    Failure::NotCreated { path: path.to_owned(), why: why.to_string() }
}

/// The file while it comes, beside its place. Dropping it removes it.
struct Partial {
    file: File,
    path: PathBuf,
    kept: bool,
}

impl Partial {
    fn make(place: &Path) -> Result<Self, Failure> {
        let mut name = place.file_name().map_or_else(OsString::new, OsString::from);
        name.push(".partial");
        let path = place.with_file_name(name);
        // Whoever holds the lock of what has the name is writing it, and nobody else may remove it.
        let taken = || Failure::NotCreated { path: path.clone(), why: "another backup is writing it".into() };
        match OpenOptions::new().write(true).custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits()).open(&path) {
            Ok(old) if !is_ours(&old, &path) => return Err(taken()),
            // Of one that was ended half-way, or what is no file at all.
            Ok(_) | Err(_) => drop(fs::remove_file(&path)),
        }
        let make = OpenOptions::new().write(true).create_new(true).mode(0o600).to_owned();
        let file = make.open(&path).map_err(|why| unwritable(&path, why))?;
        if !is_ours(&file, &path) {
            return Err(taken());
        }
        Ok(Partial { file, path, kept: false })
    }

    /// Into its place, so that it outlasts a power cut.
    fn keep(mut self, place: &Path, force: bool) -> Result<(), Failure> {
        self.file.sync_all().map_err(|why| unwritable(&self.path, why))?;
        there(place, force)?;
        fs::rename(&self.path, place).map_err(|why| unwritable(place, why))?;
        self.kept = true;
        let folder = place.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(|why| unwritable(place, why))
    }
}

/// Takes the lock of this file, and tells whether it still has this name.
fn is_ours(file: &File, path: &Path) -> bool {
    // Where there are no locks, as on some network's file systems, it is as if nobody had one.
    let free = !matches!(file.try_lock(), Err(TryLockError::WouldBlock));
    let number = |found: io::Result<fs::Metadata>| found.map(|found| (found.dev(), found.ino())).ok();
    free && number(file.metadata()) == number(fs::symlink_metadata(path))
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.kept {
            // Somebody may have removed it already.
            let _ = fs::remove_file(&self.path);
        }
    }
}
