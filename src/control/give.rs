//! Gives the daemon's sockets to their groups from outside, as root.
//!
//! Packaged, the daemon runs in a sandbox that lets it change no file's owner, and its sockets are its
//! own alone at first. `wschat --give-sockets` is what the unit runs then, with all privileges, for
//! this one thing. It trusts nothing that lies in the daemon's folders: where a path leads to
//! something else than a socket of the daemon's own user, it is left alone.

use std::fs::{self, OpenOptions, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::AtFlags;
use nix::unistd::{Gid, Group, fchownat};
use thiserror::Error;

use super::places::{self, Environment};
use super::server::Access;
use crate::config::Config;

/// The daemon's process, in the environment of what the unit runs besides it (systemd.exec(5)).
const MAIN_PID: &str = "MAINPID";

#[derive(Debug, Error)]
pub enum GiveError {
    #[error("${MAIN_PID} names no running daemon; this is for ExecStartPost= in wschat.service")]
    NoDaemon,
    #[error("there is no group {0}; make it (systemd-sysusers does), then restart the daemon")]
    NoGroup(&'static str),
    #[error("{path} is no socket of the daemon's user (uid {owner}) and was left alone")]
    NotTheirs { path: PathBuf, owner: u32 },
    #[error("{path} cannot be given to its group: {source}")]
    Io { path: PathBuf, source: io::Error },
}

/// Gives both sockets to their groups. Where one cannot be given, the other is all the same.
pub fn give_all(config: &Config, environment: &Environment) -> Vec<GiveError> {
    let pid = environment.variable(MAIN_PID).and_then(|pid| pid.to_str()?.parse::<u32>().ok());
    let daemon = pid.and_then(|pid| fs::metadata(format!("/proc/{pid}")).ok());
    let Some(owner) = daemon.map(|daemon| daemon.uid()) else { return vec![GiveError::NoDaemon] };
    let wanted = [(&config.control.socket, Access::Control), (&config.control.push_socket, Access::Push)];
    let give_one = |(path, access): (&Option<PathBuf>, Access)| {
        let path = path.clone().unwrap_or_else(|| environment.runtime_dir().join(access.file_name()));
        let group = Group::from_name(access.group()).ok().flatten().ok_or(GiveError::NoGroup(access.group()))?;
        give(&path, owner, group.gid)
    };
    wanted.into_iter().filter_map(|wanted| give_one(wanted).err()).collect()
}

/// Gives the socket at `path` to `group`, if it is one of the user `owner`.
fn give(path: &Path, owner: u32, group: Gid) -> Result<(), GiveError> {
    let failed = |source: io::Error| GiveError::Io { path: path.to_owned(), source };
    // What is looked at is what is changed, whatever becomes of the path meanwhile.
    let flags = nix::libc::O_PATH | nix::libc::O_NOFOLLOW;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(failed)?;
    let found = file.metadata().map_err(failed)?;
    if !found.file_type().is_socket() || found.uid() != owner {
        return Err(GiveError::NotTheirs { path: path.to_owned(), owner });
    }
    // In this order: the group that it has until now must not get in.
    fchownat(&file, "", None, Some(group), AtFlags::AT_EMPTY_PATH).map_err(|errno| failed(errno.into()))?;
    let through = format!("/proc/self/fd/{}", file.as_raw_fd());
    fs::set_permissions(through, Permissions::from_mode(places::SOCKET_MODE)).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    fn own() -> (u32, Gid) {
        (nix::unistd::geteuid().as_raw(), nix::unistd::getegid())
    }

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().mode() & 0o777
    }

    #[test]
    fn a_socket_of_the_daemons_user_is_opened_to_the_group() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control");
        let _listener = UnixListener::bind(&path).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        let (owner, group) = own();
        give(&path, owner, group).unwrap();
        assert_eq!((mode(&path), fs::metadata(&path).unwrap().gid()), (0o660, group.as_raw()));
    }

    #[test]
    fn what_is_something_else_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let (owner, group) = own();
        let _listener = UnixListener::bind(at("socket")).unwrap();
        fs::set_permissions(at("socket"), Permissions::from_mode(0o600)).unwrap();
        fs::write(at("file"), "dear").unwrap();
        fs::set_permissions(at("file"), Permissions::from_mode(0o600)).unwrap();
        std::os::unix::fs::symlink(at("socket"), at("link")).unwrap();
        for (name, owner) in [("file", owner), ("link", owner), ("socket", owner + 1)] {
            let error = give(&at(name), owner, group).unwrap_err();
            assert!(matches!(error, GiveError::NotTheirs { .. }), "{name}: {error}");
        }
        assert!(matches!(give(&at("none"), owner, group), Err(GiveError::Io { .. })));
        assert_eq!((mode(&at("socket")), mode(&at("file"))), (0o600, 0o600));
    }

    #[test]
    fn without_a_daemon_nothing_is_given() {
        for pid in [None, Some("0"), Some("none"), Some("../self")] {
            let environment = Environment::new(0, move |name| pid.filter(|_| name == MAIN_PID).map(Into::into));
            assert!(matches!(give_all(&Config::default(), &environment)[..], [GiveError::NoDaemon]), "{pid:?}");
        }
    }
}
