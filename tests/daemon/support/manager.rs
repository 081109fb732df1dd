//! A service manager that is none: the socket that it would be told things through, and the
//! descriptors that it would keep.

use std::collections::BTreeMap;
use std::io::IoSliceMut;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;

use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use tempfile::TempDir;

use super::{PATIENCE, Wait};

pub struct Manager {
    folder: TempDir,
    socket: UnixDatagram,
}

/// One message: its variables, and the descriptors that came with it.
#[derive(Debug)]
pub struct Said {
    pub variables: BTreeMap<String, String>,
    pub descriptors: Vec<OwnedFd>,
}

impl Said {
    pub fn has(&self, name: &str) -> bool {
        self.variables.contains_key(name)
    }

    #[track_caller]
    pub fn number(&self, name: &str) -> u64 {
        self.variables[name].parse().unwrap_or_else(|e| panic!("{name}: {e} in {self:?}"))
    }
}

impl Manager {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let socket = UnixDatagram::bind(folder.path().join("notify")).expect("our own folder");
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout above 0");
        Manager { folder, socket }
    }

    /// For `NOTIFY_SOCKET`.
    pub fn path(&self) -> PathBuf {
        self.folder.path().join("notify")
    }

    #[track_caller]
    pub fn next(&self) -> Said {
        let mut bytes = [0; 8192];
        let mut space = nix::cmsg_space!([RawFd; 8]);
        let mut slices = [IoSliceMut::new(&mut bytes)];
        let message = recvmsg::<()>(self.socket.as_raw_fd(), &mut slices, Some(&mut space), MsgFlags::empty())
            .expect("the daemon tells us something");
        let mut descriptors = Vec::new();
        for part in message.cmsgs().expect("room for all descriptors") {
            if let ControlMessageOwned::ScmRights(fds) = part {
                // SAFETY: the kernel has just made these descriptors for us, and nobody else has them.
                descriptors.extend(fds.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
            }
        }
        let length = message.bytes;
        let text = String::from_utf8(bytes[..length].to_vec()).expect("UTF-8");
        let variables = text
            .lines()
            .map(|line| line.split_once('=').unwrap_or_else(|| panic!("{line}")))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        Said { variables, descriptors }
    }

    /// The next message with this variable; others are passed over.
    #[track_caller]
    pub fn with(&self, name: &str) -> Said {
        self.until(name, |_| true)
    }

    /// The next message in which this variable is as wanted; others are passed over.
    #[track_caller]
    pub fn until(&self, name: &str, wanted: impl Fn(&str) -> bool) -> Said {
        let wait = Wait::begin();
        loop {
            wait.goes_on(name);
            let said = self.next();
            if said.variables.get(name).is_some_and(|value| wanted(value)) {
                return said;
            }
        }
    }
}
