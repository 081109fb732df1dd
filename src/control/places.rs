//! Where the daemon's sockets and its state live, for the daemon and `wschatctl` alike.
//!
//! Everything is worked out from an environment that is handed in; nothing here touches a file.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// The folder of the packaged daemon's sockets.
pub const SYSTEM_RUNTIME: &str = "/run/wschat";
/// The name of the operators' socket in the runtime folder.
pub const CONTROL: &str = "control";
/// The name of the backends' socket in the runtime folder.
pub const PUSH: &str = "push";
/// Who may open the operators' socket, besides root.
pub const CONTROL_GROUP: &str = "wschat-admin";
/// Who may open the backends' socket, besides root.
pub const PUSH_GROUP: &str = "wschat-push";
/// The sockets' mode: for owner and group.
pub const SOCKET_MODE: u32 = 0o660;
/// Names `wschatctl`'s socket in the environment.
pub const SOCKET_VARIABLE: &str = "WSCHAT_SOCKET";

#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PlaceError {
    #[error(
        "there is no place to keep state in: none of STATE_DIRECTORY, XDG_STATE_HOME and HOME is set to an absolute path; set one of them"
    )]
    NoState,
}

/// What the places depend on.
pub struct Environment {
    variable: Look,
    uid: u32,
}

type Look = Box<dyn Fn(&str) -> Option<OsString>>;

impl Environment {
    pub fn new(uid: u32, variable: impl Fn(&str) -> Option<OsString> + 'static) -> Self {
        Environment { variable: Box::new(variable), uid }
    }

    /// This process' own.
    pub fn of_process() -> Self {
        Environment::new(nix::unistd::geteuid().as_raw(), |name| std::env::var_os(name))
    }

    pub fn variable(&self, name: &str) -> Option<OsString> {
        (self.variable)(name).filter(|value| !value.is_empty())
    }

    /// An absolute path; relative ones do not count (XDG Base Directory Specification).
    fn path(&self, name: &str) -> Option<PathBuf> {
        self.variable(name).map(PathBuf::from).filter(|path| path.is_absolute())
    }

    /// The first folder of a variable in which systemd lists them with colons between.
    fn first(&self, name: &str) -> Option<PathBuf> {
        let folders = self.variable(name)?;
        std::env::split_paths(&folders).find(|path| path.is_absolute())
    }

    /// Where the daemon puts its sockets.
    pub fn runtime_dir(&self) -> PathBuf {
        self.first("RUNTIME_DIRECTORY").unwrap_or_else(|| self.own_runtime_dir())
    }

    /// Where this user's own daemon puts its sockets, whatever systemd says to this process.
    fn own_runtime_dir(&self) -> PathBuf {
        match self.path("XDG_RUNTIME_DIR") {
            Some(folder) => folder.join("wschat"),
            None => PathBuf::from(format!("/tmp/wschat-{}", self.uid)),
        }
    }

    /// Where the daemon keeps what must survive it.
    pub fn state_dir(&self) -> Result<PathBuf, PlaceError> {
        self.first("STATE_DIRECTORY")
            .or_else(|| self.path("XDG_STATE_HOME").map(|folder| folder.join("wschat")))
            .or_else(|| self.path("HOME").map(|home| home.join(".local/state/wschat")))
            .ok_or(PlaceError::NoState)
    }

    /// Where `wschatctl` looks, in this order. One that was asked for is the only one.
    pub fn control_sockets(&self, asked: Option<&Path>) -> Vec<PathBuf> {
        if let Some(path) = asked.map(Path::to_path_buf).or_else(|| self.variable(SOCKET_VARIABLE).map(PathBuf::from)) {
            return vec![path];
        }
        let mut places = vec![Path::new(SYSTEM_RUNTIME).join(CONTROL)];
        // In a unit of its own (a timer's, say) `wschatctl` looks where the daemon of the same
        // unit would be, too.
        for folder in [self.runtime_dir(), self.own_runtime_dir()] {
            let place = folder.join(CONTROL);
            if !places.contains(&place) {
                places.push(place);
            }
        }
        places
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(set: &[(&str, &str)]) -> Environment {
        let set: Vec<(String, OsString)> = set.iter().map(|(k, v)| (k.to_string(), OsString::from(v))).collect();
        Environment::new(1000, move |name| set.iter().find(|(k, _)| k == name).map(|(_, v)| v.clone()))
    }

    #[test]
    fn runtime_folder_in_its_order() {
        let all = [("RUNTIME_DIRECTORY", "/run/wschat:/run/other"), ("XDG_RUNTIME_DIR", "/run/user/1000")];
        assert_eq!(environment(&all).runtime_dir(), Path::new("/run/wschat"));
        assert_eq!(environment(&all[1..]).runtime_dir(), Path::new("/run/user/1000/wschat"));
        assert_eq!(environment(&[]).runtime_dir(), Path::new("/tmp/wschat-1000"));
        assert_eq!(environment(&[("XDG_RUNTIME_DIR", "here")]).runtime_dir(), Path::new("/tmp/wschat-1000"));
        assert_eq!(environment(&[("XDG_RUNTIME_DIR", "")]).runtime_dir(), Path::new("/tmp/wschat-1000"));
    }

    #[test]
    fn state_folder_in_its_order() {
        let all = [("STATE_DIRECTORY", "/var/lib/wschat"), ("XDG_STATE_HOME", "/s"), ("HOME", "/home/ann")];
        assert_eq!(environment(&all).state_dir().unwrap(), Path::new("/var/lib/wschat"));
        assert_eq!(environment(&all[1..]).state_dir().unwrap(), Path::new("/s/wschat"));
        assert_eq!(environment(&all[2..]).state_dir().unwrap(), Path::new("/home/ann/.local/state/wschat"));
        assert_eq!(environment(&[]).state_dir(), Err(PlaceError::NoState));
    }

    #[test]
    fn the_socket_that_was_asked_for_is_the_only_one() {
        let set = environment(&[("WSCHAT_SOCKET", "/a"), ("XDG_RUNTIME_DIR", "/run/user/1000")]);
        assert_eq!(set.control_sockets(Some(Path::new("/b"))), [Path::new("/b")]);
        assert_eq!(set.control_sockets(None), [Path::new("/a")]);
        let unset = environment(&[("XDG_RUNTIME_DIR", "/run/user/1000")]);
        assert_eq!(
            unset.control_sockets(None),
            [Path::new("/run/wschat/control"), Path::new("/run/user/1000/wschat/control")]
        );
        let unit = environment(&[("RUNTIME_DIRECTORY", "/run/wschat")]);
        assert_eq!(
            unit.control_sockets(None),
            [Path::new("/run/wschat/control"), Path::new("/tmp/wschat-1000/control")]
        );
    }
}
