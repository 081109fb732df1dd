//! Listening sockets that the service manager hands over: which of them a listener of the
//! configuration takes, and what a person is told of the rest.
//!
//! They come from two places. What this daemon had systemd keep over a restart bears the name that it
//! gave; everything else is a socket unit's, whose own the socket stays.

use std::fmt::Write;
use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;

use nix::sys::socket::{SockaddrStorage, getsockname};
use socket2::SockRef;

use super::listen::Listening;
use crate::config::Address;
use crate::systemd;

/// Takes the socket that is bound to `wanted` out of `handed`. True with it: it is a socket unit's.
pub(super) fn take(wanted: &Address, handed: &mut Vec<(String, OwnedFd)>) -> Option<(Listening, bool)> {
    let at = handed.iter().position(|(_, fd)| address(fd).as_ref() == Some(wanted))?;
    let (name, fd) = handed.swap_remove(at);
    SockRef::from(&fd.as_fd()).set_nonblocking(true).ok()?;
    let socket = match wanted {
        Address::Tcp(_) => Listening::Tcp(fd.into()),
        Address::Unix(_) => Listening::Unix(UnixListener::from(fd)),
    };
    Some((socket, is_a_units(&name, wanted)))
}

/// What is wrong with a socket that no listener took; `None` for one that was kept for a listener
/// which the configuration no longer has.
pub(super) fn left_over(name: &str, fd: &OwnedFd) -> Option<String> {
    let Some(address) = address(fd) else {
        return Some(format!(
            "systemd hands over {name}, which is no socket of TCP or Unix that listens; a socket unit for wschat needs \
             ListenStream= and no Accept=yes"
        ));
    };
    is_a_units(name, &address).then(|| {
        format!(
            "a socket unit hands over {address} ({name}), and no [[listen]] has that address: whoever connects there \
             waits for nobody; add [[listen]] with address = \"{address}\", or stop and disable the socket unit"
        )
    })
}

/// What to say besides, where an address cannot be had: the sockets that a unit hands over instead.
pub(super) fn instead(handed: &[(String, OwnedFd)]) -> String {
    let mut text = String::new();
    for (name, fd) in handed {
        if let Some(address) = address(fd).filter(|address| is_a_units(name, address)) {
            let before = if text.is_empty() { "; a socket unit hands over " } else { ", " };
            // Writing into a text cannot fail.
            let _ = write!(text, "{before}{address}");
        }
    }
    if !text.is_empty() {
        text += " instead: the two must be the same";
    }
    text
}

fn is_a_units(name: &str, address: &Address) -> bool {
    name != systemd::listener_name(&address.to_string())
}

/// Where a socket listens; `None` where it does not, or is none.
fn address(fd: &OwnedFd) -> Option<Address> {
    if !SockRef::from(&fd.as_fd()).is_listener().ok()? {
        return None;
    }
    let bound: SockaddrStorage = getsockname(fd.as_raw_fd()).ok()?;
    if let Some(v4) = bound.as_sockaddr_in() {
        return Some(Address::Tcp(SocketAddr::V4(SocketAddrV4::from(*v4))));
    }
    if let Some(v6) = bound.as_sockaddr_in6() {
        // Scope and flow are no part of what the configuration says.
        return Some(Address::Tcp(SocketAddr::V6(SocketAddrV6::new(v6.ip(), v6.port(), 0, 0))));
    }
    bound.as_unix_addr().and_then(|unix| unix.path()).map(|path| Address::Unix(path.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, UdpSocket};

    fn bound() -> (Address, OwnedFd) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        (Address::Tcp(listener.local_addr().unwrap()), listener.into())
    }

    #[test]
    fn a_socket_is_found_by_its_address_whatever_its_name() {
        let ((first, one), (second, two), (third, _)) = (bound(), bound(), bound());
        let kept = systemd::listener_name(&second.to_string());
        let mut handed = vec![("wschat.socket".to_owned(), one), (kept, two)];
        assert!(take(&third, &mut handed).is_none());
        assert!(!take(&second, &mut handed).unwrap().1, "we had it kept");
        assert!(take(&first, &mut handed).unwrap().1, "it is a unit's");
        assert!(handed.is_empty());
    }

    #[test]
    fn a_socket_on_a_path_is_found_by_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("web");
        let mut handed = vec![("wschat.socket".to_owned(), UnixListener::bind(&path).unwrap().into())];
        assert!(matches!(take(&Address::Unix(path), &mut handed), Some((Listening::Unix(_), true))));
    }

    #[test]
    fn the_rest_is_explained_unless_we_have_left_it_there_ourselves() {
        let (address, fd) = bound();
        let told = left_over("wschat.socket", &fd).unwrap();
        assert!(told.contains(&format!("address = \"{address}\"")), "{told}");
        assert_eq!(left_over(&systemd::listener_name(&address.to_string()), &fd), None);
        assert_eq!(instead(&[]), "");
        let told = instead(&[("wschat.socket".into(), fd)]);
        assert!(told.starts_with("; a socket unit hands over ") && told.contains(&address.to_string()), "{told}");

        let datagrams = UdpSocket::bind("127.0.0.1:0").unwrap().into();
        assert!(left_over("odd", &datagrams).unwrap().contains("ListenStream="));
        assert_eq!(instead(&[("odd".into(), datagrams)]), "");
    }
}
