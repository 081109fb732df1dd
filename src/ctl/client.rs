//! The blocking side of Varlink: one connection to the daemon, every wait under a deadline.

use std::io::{self, Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::unistd::{Group, User, geteuid};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use socket2::{Domain, SockAddr, Socket, Type};

use super::failure::Failure;
use crate::control::places::{CONTROL_GROUP, Environment};
use crate::control::protocol::Refusal;
use crate::control::wire::{Call, Reply, encode};

/// The longest reply that is taken: a reply about every room of a very large daemon is far below.
const MAX_REPLY: usize = 256 * 1024 * 1024;

/// Which of the places holds the socket.
pub fn find(environment: &Environment, asked: Option<&Path>) -> Result<PathBuf, Failure> {
    let places = environment.control_sockets(asked);
    if let [only] = places.as_slice() {
        return Ok(only.clone());
    }
    let there = places.iter().find(|place| match std::fs::metadata(place) {
        Ok(found) => found.file_type().is_socket() && !is_planted(place),
        // Something is there that we may not see: connecting says what to do about it.
        Err(e) => e.kind() == io::ErrorKind::PermissionDenied,
    });
    there.cloned().ok_or(Failure::NoSocket(places))
}

/// A folder in /tmp that is not ours: whoever made it could listen to what we say.
fn is_planted(place: &Path) -> bool {
    let Some(folder) = place.parent().filter(|folder| folder.starts_with("/tmp")) else { return false };
    !std::fs::symlink_metadata(folder).is_ok_and(|found| found.is_dir() && found.uid() == geteuid().as_raw())
}

/// One connection to the daemon. Calls are made one after another.
pub struct Daemon {
    stream: UnixStream,
    buffer: Vec<u8>,
    /// Up to here there is no NUL.
    searched: usize,
    timeout: Duration,
}

impl Daemon {
    pub fn connect(path: &Path, timeout: Duration) -> Result<Self, Failure> {
        let refused = |why: io::Error| match why.kind() {
            io::ErrorKind::PermissionDenied => {
                Failure::NotPermitted { path: path.to_owned(), hint: permission_hint(path) }
            }
            io::ErrorKind::NotFound => Failure::NoSocket(vec![path.to_owned()]),
            io::ErrorKind::ConnectionRefused => Failure::NobodyListens(path.to_owned()),
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Failure::TimedOut(timeout),
            _ => Failure::Unreachable { path: path.to_owned(), why },
        };
        let connect = || -> io::Result<UnixStream> {
            let socket = Socket::new(Domain::UNIX, Type::STREAM.cloexec(), None)?;
            // Bounds the connecting as well: a daemon that hangs accepts nobody.
            socket.set_write_timeout(Some(timeout))?;
            socket.connect(&SockAddr::unix(path)?)?;
            Ok(socket.into())
        };
        let stream = connect().map_err(refused)?;
        Ok(Daemon { stream, buffer: Vec::new(), searched: 0, timeout })
    }

    /// One call, one answer.
    pub fn call<P: Serialize, R: DeserializeOwned>(&mut self, method: &str, parameters: P) -> Result<R, Failure> {
        self.send(Call {
            method: method.into(),
            parameters: Some(parameters),
            more: None,
            oneway: None,
            upgrade: None,
        })?;
        Ok(self.reply(Some(self.timeout))?.0)
    }

    /// One call whose answers are taken by [`Stream::next`].
    pub fn stream<P: Serialize>(&mut self, method: &str, parameters: P) -> Result<Stream<'_>, Failure> {
        let more = Some(true);
        self.send(Call { method: method.into(), parameters: Some(parameters), more, oneway: None, upgrade: None })?;
        Ok(Stream { daemon: self, ended: false })
    }

    fn send<P: Serialize>(&mut self, call: Call<P>) -> Result<(), Failure> {
        match self.stream.write_all(&encode(&call)) {
            Ok(()) => Ok(()),
            // It may have said why before it closed: read that.
            Err(e) if matches!(e.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => Ok(()),
            Err(e) if is_timeout(&e) => Err(Failure::TimedOut(self.timeout)),
            Err(_) => Err(Failure::Broken),
        }
    }

    /// The parameters, and whether more replies follow. Waits for ever without a `timeout`.
    fn reply<R: DeserializeOwned>(&mut self, timeout: Option<Duration>) -> Result<(R, bool), Failure> {
        let bytes = self.message(timeout)?;
        let garbled = |e: serde_json::Error| Failure::Garbled(super::text::harmless(&e.to_string()));
        // The parameters are read once, as what they are: a list of thousands is not made twice.
        let reply: Reply<&RawValue> = serde_json::from_slice(&bytes).map_err(garbled)?;
        let parameters = reply.parameters.map_or("{}", RawValue::get);
        if let Some(name) = reply.error {
            let parameters = serde_json::from_str(parameters).map_err(garbled)?;
            return Err(match Refusal::from_wire(&name, Some(parameters)) {
                Some(refusal) => Failure::Refused(refusal),
                None => Failure::Garbled(format!("it answers {}", super::text::harmless(&name))),
            });
        }
        let parameters = serde_json::from_str(parameters).map_err(garbled)?;
        Ok((parameters, reply.continues == Some(true)))
    }

    fn message(&mut self, timeout: Option<Duration>) -> Result<Vec<u8>, Failure> {
        let deadline = timeout.map(|timeout| Instant::now() + timeout);
        loop {
            if let Some(end) = self.buffer[self.searched..].iter().position(|byte| *byte == 0) {
                let rest = self.buffer.split_off(self.searched + end + 1);
                let mut message = std::mem::replace(&mut self.buffer, rest);
                message.pop();
                self.searched = 0;
                return Ok(message);
            }
            self.searched = self.buffer.len();
            if self.buffer.len() > MAX_REPLY {
                return Err(Failure::Garbled("an answer without an end".into()));
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                return Err(Failure::TimedOut(self.timeout));
            }
            self.stream.set_read_timeout(left).map_err(|_| Failure::Broken)?;
            let mut chunk = [0; 64 * 1024];
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err(Failure::Broken),
                Ok(read) => self.buffer.extend_from_slice(&chunk[..read]),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if is_timeout(&e) => return Err(Failure::TimedOut(self.timeout)),
                Err(_) => return Err(Failure::Broken),
            }
        }
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// The answers to one call.
pub struct Stream<'a> {
    daemon: &'a mut Daemon,
    ended: bool,
}

impl Stream<'_> {
    /// `None` after the last one.
    pub fn next<R: DeserializeOwned>(&mut self) -> Result<Option<R>, Failure> {
        self.take(Some(self.daemon.timeout))
    }

    /// However long it takes.
    pub fn wait<R: DeserializeOwned>(&mut self) -> Result<Option<R>, Failure> {
        self.take(None)
    }

    fn take<R: DeserializeOwned>(&mut self, timeout: Option<Duration>) -> Result<Option<R>, Failure> {
        if self.ended {
            return Ok(None);
        }
        let (parameters, continues) = self.daemon.reply(timeout)?;
        self.ended = !continues;
        Ok(Some(parameters))
    }
}

/// What to do about a socket that may not be opened: join its group, or be its owner.
fn permission_hint(path: &Path) -> String {
    let me = User::from_uid(geteuid()).ok().flatten().map_or_else(|| "USER".to_owned(), |user| user.name);
    let group = match std::fs::metadata(path) {
        // A folder in front of it is closed to us.
        Err(_) => Some(CONTROL_GROUP.to_owned()),
        Ok(found) if found.mode() & 0o060 == 0o060 => {
            Group::from_gid(found.gid().into()).ok().flatten().map(|group| group.name).filter(|name| name != "root")
        }
        Ok(_) => None,
    };
    match group {
        Some(group) => format!("join its group: `sudo adduser {me} {group}`, log in again (or use sudo)"),
        None => "it is its owner's alone: use sudo".to_owned(),
    }
}
