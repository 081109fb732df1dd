//! Puts a Unix socket at a path so that nobody can reach it before it has its owner and mode.
//!
//! A socket that a dead daemon left is replaced; one that somebody listens on is never taken, and
//! what is not a socket is never removed. Who may do what with the socket is not decided here.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::{Gid, Group, geteuid};
use socket2::{Domain, SockAddr, Socket, Type};
use thiserror::Error;
use tokio::net::UnixListener;

/// Connections the kernel holds for us until they are accepted.
const BACKLOG: i32 = 64;

#[derive(Debug, Error)]
pub enum BindError {
    #[error("{path}: a daemon listens there already{who}; stop it first, or give this one another socket")]
    Live { path: PathBuf, who: Who },
    #[error("{path}: something that is not a socket is in the way; it was left alone. Move it, or choose another path")]
    NotASocket { path: PathBuf },
    #[error(
        "{path}: the folder belongs to user {owner} or others may write to it, so a stranger could take the socket's place; remove it, or choose another path"
    )]
    Untrusted { path: PathBuf, owner: u32 },
    #[error("{path}: {what}: {why}")]
    Io { path: PathBuf, what: &'static str, why: io::Error },
}

/// The process that listens, where the kernel tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Who(Option<i32>);

impl std::fmt::Display for Who {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(pid) => write!(f, " (pid {pid})"),
            None => Ok(()),
        }
    }
}

/// A socket's file, for as long as this lives. Dropping it removes the file if it is still ours.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
    /// Locked for as long as we live, so that two daemons that start together cannot both believe
    /// the socket to be left over.
    _lock: File,
}

impl SocketFile {
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|now| (now.dev(), now.ino()) == self.identity) {
            // Nothing is lost where it cannot be removed: the next daemon replaces it.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Makes the folder for our sockets where it is missing (0700), and refuses one in which a
/// stranger could put a socket in the place of ours: `/tmp` is everybody's.
pub fn runtime_dir(path: &Path) -> Result<(), BindError> {
    let failed = |what| move |why| BindError::Io { path: path.to_owned(), what, why };
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed("the folder cannot be made"))?;
    let found = fs::symlink_metadata(path).map_err(failed("the folder cannot be read"))?;
    let owned = found.uid() == geteuid().as_raw() || found.uid() == 0;
    if !found.is_dir() || !owned || found.mode() & 0o022 != 0 {
        return Err(BindError::Untrusted { path: path.to_owned(), owner: found.uid() });
    }
    Ok(())
}

/// Listens at `path`. With a `group` that exists and that we may give files to, the socket belongs
/// to it and has `mode`; otherwise the group's part of `mode` is left out, since the group that we
/// happen to have may hold everybody. In the unit's sandbox that is so, until [`super::give`] is run.
///
/// Must be called inside a tokio runtime.
pub fn bind(path: &Path, mode: u32, group: Option<&str>) -> Result<(UnixListener, SocketFile), BindError> {
    let failed = |what| move |why: io::Error| BindError::Io { path: path.to_owned(), what, why };
    let lock = lock(path)?;
    clear(path)?;

    let address = SockAddr::unix(path).map_err(failed("the path cannot be a socket's (107 bytes at the most)"))?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM.cloexec().nonblocking(), None)
        .map_err(failed("no socket could be made"))?;
    // The file is born with the mode of the socket (cut by the umask), and nobody can connect
    // before `listen`: so it is ours alone until everything is set.
    nix::sys::stat::fchmod(&socket, nix::sys::stat::Mode::S_IRUSR | nix::sys::stat::Mode::S_IWUSR)
        .map_err(|errno| failed("its mode cannot be set")(errno.into()))?;
    socket.bind(&address).map_err(failed("cannot be bound"))?;
    let born = fs::symlink_metadata(path).map_err(failed("cannot be read"))?;
    let file = SocketFile { path: path.to_owned(), identity: (born.dev(), born.ino()), _lock: lock };

    let given = group.and_then(group_id).is_some_and(|gid| nix::unistd::chown(path, None, Some(gid)).is_ok());
    let mode = if given { mode } else { mode & !0o070 };
    fs::set_permissions(path, Permissions::from_mode(mode)).map_err(failed("its mode cannot be set"))?;
    socket.listen(BACKLOG).map_err(failed("cannot be listened on"))?;
    let listener = UnixListener::from_std(socket.into()).map_err(failed("cannot be listened on"))?;
    tracing::debug!("listening on {} (mode {mode:o})", path.display());
    Ok((listener, file))
}

fn group_id(name: &str) -> Option<Gid> {
    Group::from_name(name).ok().flatten().map(|group| group.gid)
}

/// Says that this path is ours, until the file is dropped or the process ends.
fn lock(path: &Path) -> Result<File, BindError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let failed = |why| BindError::Io { path: PathBuf::from(&name), what: "cannot be locked", why };
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .custom_flags(nix::libc::O_NOFOLLOW)
        .open(&name)
        .map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(BindError::Live { path: path.to_owned(), who: Who(listener_of(path)) }),
        Err(TryLockError::Error(why)) => Err(failed(why)),
    }
}

/// Removes what a dead daemon left.
fn clear(path: &Path) -> Result<(), BindError> {
    let failed = |what| move |why: io::Error| BindError::Io { path: path.to_owned(), what, why };
    match fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(failed("cannot be read")(e)),
        Ok(found) if !found.file_type().is_socket() => return Err(BindError::NotASocket { path: path.to_owned() }),
        Ok(_) => {}
    }
    match connect(path) {
        // Nobody listens: left over.
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(failed("the socket of a dead daemon cannot be removed"))
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        // A full backlog is somebody's, too.
        Ok(_) => Err(BindError::Live { path: path.to_owned(), who: Who(listener_of(path)) }),
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
            Err(BindError::Live { path: path.to_owned(), who: Who(None) })
        }
        Err(e) => Err(failed("is a socket that cannot be asked whether anybody listens")(e)),
    }
}

/// Never waits: a full backlog is `WouldBlock`.
fn connect(path: &Path) -> io::Result<Socket> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM.cloexec().nonblocking(), None)?;
    socket.connect(&SockAddr::unix(path)?)?;
    Ok(socket)
}

/// The process that called `listen`; the kernel keeps its credentials for those who connect.
fn listener_of(path: &Path) -> Option<i32> {
    let socket = connect(path).ok()?;
    getsockopt(&socket.as_fd(), PeerCredentials).ok().map(|who| who.pid()).filter(|pid| *pid > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener as StdListener;

    fn mode_of(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().mode() & 0o777
    }

    #[tokio::test]
    async fn a_dead_daemons_socket_is_replaced_and_ours_goes_with_us() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control");
        drop(StdListener::bind(&path).unwrap());
        let (listener, file) = bind(&path, 0o660, None).unwrap();
        tokio::net::UnixStream::connect(&path).await.unwrap();
        drop(listener);
        drop(file);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_live_one_is_never_taken() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control");
        let (_listener, _file) = bind(&path, 0o660, None).unwrap();
        let error = bind(&path, 0o660, None).unwrap_err().to_string();
        assert!(error.contains(path.to_str().unwrap()), "{error}");
        assert!(error.contains(&format!("pid {}", std::process::id())), "{error}");
        tokio::net::UnixStream::connect(&path).await.unwrap();

        // Somebody's who knows nothing of our lock.
        let other = folder.path().join("other");
        let _theirs = StdListener::bind(&other).unwrap();
        assert!(matches!(bind(&other, 0o660, None), Err(BindError::Live { .. })));
        tokio::net::UnixStream::connect(&other).await.unwrap();
    }

    #[tokio::test]
    async fn what_is_no_socket_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control");
        fs::write(&path, "dear").unwrap();
        assert!(matches!(bind(&path, 0o660, None), Err(BindError::NotASocket { .. })));
        assert_eq!(fs::read_to_string(&path).unwrap(), "dear");
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(matches!(bind(&link, 0o660, None), Err(BindError::NotASocket { .. })));
    }

    #[tokio::test]
    async fn without_its_group_the_socket_is_its_owners_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        let _kept = bind(&path, 0o660, Some("no-such-group-here")).unwrap();
        assert_eq!(mode_of(&path), 0o600);
        // Our own group is one that we may give files to.
        let own = Group::from_gid(nix::unistd::getegid()).unwrap().unwrap();
        let path = folder.path().join("b");
        let _kept = bind(&path, 0o660, Some(&own.name)).unwrap();
        assert_eq!(mode_of(&path), 0o660);
    }

    #[tokio::test]
    async fn another_daemons_file_is_not_removed_with_ours() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control");
        let (_listener, file) = bind(&path, 0o660, None).unwrap();
        fs::remove_file(&path).unwrap();
        let _theirs = StdListener::bind(&path).unwrap();
        drop(file);
        assert!(path.exists());
    }

    #[test]
    fn a_folder_that_others_write_to_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let own = folder.path().join("own");
        runtime_dir(&own).unwrap();
        assert_eq!(mode_of(&own), 0o700);
        runtime_dir(&own).unwrap();
        fs::set_permissions(&own, Permissions::from_mode(0o777)).unwrap();
        assert!(matches!(runtime_dir(&own), Err(BindError::Untrusted { .. })));
        let link = folder.path().join("link");
        fs::set_permissions(&own, Permissions::from_mode(0o700)).unwrap();
        std::os::unix::fs::symlink(&own, &link).unwrap();
        assert!(matches!(runtime_dir(&link), Err(BindError::Untrusted { .. })));
    }
}
