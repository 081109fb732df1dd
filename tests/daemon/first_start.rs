//! What somebody meets who starts the daemon with no configuration. Its port is fixed, so this runs
//! in a network of its own, which only root can make.

use std::net::SocketAddr;
use std::process::Stdio;
use std::thread;

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::support::control::Caller;
use crate::support::{Chat, Setup, Stream, left_out_unless_root, until};

/// Runs it on a thread in a network namespace that has nothing but loopback, and notes it where
/// that cannot be had.
fn in_own_network(test: impl FnOnce() + Send) {
    thread::scope(|scope| {
        let thread = scope.spawn(|| match unshare(CloneFlags::CLONE_NEWNET) {
            Ok(()) => {
                raise_loopback();
                test();
            }
            Err(error) => {
                left_out_unless_root(&format!("the first start: a network of its own cannot be had ({error})"));
            }
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

fn raise_loopback() {
    use nix::libc;
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").expect("a socket");
    // SAFETY: an interface request is plain data, for which all zeroes is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[..2].copy_from_slice(&[b'l'.cast_signed(), b'o'.cast_signed()]);
    request.ifr_ifru.ifru_flags = libc::c_short::try_from(libc::IFF_UP | libc::IFF_RUNNING).expect("two low bits");
    // SAFETY: the descriptor is open and the request outlives the call (netdevice(7)).
    let done = unsafe { libc::ioctl(std::os::fd::AsRawFd::as_raw_fd(&socket), libc::SIOCSIFFLAGS, &request) };
    Errno::result(done).expect("root of this network");
}

fn at(address: &str) -> SocketAddr {
    address.parse().unwrap()
}

#[test]
fn it_listens_on_loopback_with_a_certificate_that_it_keeps() {
    in_own_network(|| {
        let daemon = Setup::without_config().start();
        let mut listen = daemon.listen().to_vec();
        listen.sort();
        let six = std::net::UdpSocket::bind("[::1]:0").is_ok();
        if six {
            assert_eq!(listen, ["127.0.0.1:9501 tls", "[::1]:9501 tls"]);
        } else {
            assert_eq!(listen, ["127.0.0.1:9501 tls"], "an address whose family is lacking is passed over");
        }
        let told = || std::fs::read_to_string(daemon.folder().join("stdout")).unwrap();
        assert_eq!(until("the address", || Some(told()).filter(|told| !told.is_empty())), "https://localhost:9501/\n");

        let fingerprint = Stream::tls(at("127.0.0.1:9501")).fingerprint();
        let mut ann = Chat::enter(Stream::tls(at("127.0.0.1:9501")), "ann");
        if six {
            let mut bob = Chat::enter(Stream::tls(at("[::1]:9501")), "bob");
            ann.say("hello");
            bob.hears("hello");
            bob.leave();
        }
        ann.leave();
        assert_eq!(daemon.json(&["status"])["config"], Value::Null);

        // Whoever starts a second one learns why it does not run.
        let second = Setup::without_config();
        second.fails().ends(1, "127.0.0.1:9501 is taken by another program (is wschat running already?)");

        let daemon = daemon.stop().start();
        assert_eq!(Stream::tls(at("127.0.0.1:9501")).fingerprint(), fingerprint);
        drop(daemon);
    });
}

#[test]
fn on_a_terminal_it_says_what_to_do_next() {
    in_own_network(|| {
        let setup = Setup::without_config();
        let seen = setup.folder().join("seen");
        let mut script = setup
            .command("script")
            .args(["-qefc", env!("CARGO_BIN_EXE_wschat")])
            .arg(&seen)
            .env("TERM", "xterm")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("script(1) is part of every Debian");
        let text = until("the hints", || {
            let text = String::from_utf8_lossy(&std::fs::read(&seen).ok()?).into_owned();
            text.contains("Ctrl-C").then_some(text)
        });
        assert!(text.contains("Open      https://localhost:9501/"), "{text}");
        assert!(text.contains("self-signed"), "{text}");
        // The command that it names works as it stands there.
        let hint = text.lines().find_map(|line| line.split_once("Operate   wschatctl ")).expect("a hint").1;
        let arguments: Vec<&str> = hint.split_whitespace().collect();
        let ran = crate::support::daemon::Ran::of(setup.command(env!("CARGO_BIN_EXE_wschatctl")).args(arguments));
        assert_eq!((ran.status, ran.stdout.as_str(), ran.stderr.as_str()), (0, "", ""));

        let mut caller = Caller::connect(&setup.control_socket()).expect("it serves");
        let pid = caller.ask("Status", Value::Null).unwrap()["pid"].as_i64().unwrap();
        // What Ctrl-C does.
        kill(Pid::from_raw(i32::try_from(pid).unwrap()), Signal::SIGINT).unwrap();
        let status = until("it ends", || script.try_wait().unwrap());
        assert!(status.success(), "{status}");
    });
}
