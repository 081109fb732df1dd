//! Exit statuses: each that the manual page names is some command's.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::process::Command;

use wschat::ctl::status;

use crate::fake::{Daemon, World, ctl_command, run, some};

#[test]
fn every_exit_status_is_some_commands() {
    let daemon = Daemon::start(some());
    let hung = Daemon::start(World { hung: true, ..some() });
    let folder = tempfile::tempdir().unwrap();
    let there = folder.path().join("there.db");
    std::fs::write(&there, "").unwrap();
    let nonsense = folder.path().join("nonsense");
    let listener = UnixListener::bind(&nonsense).unwrap();
    std::thread::spawn(move || {
        // Whatever is asked. It ends with the test's process.
        for stream in listener.incoming().map_while(Result::ok) {
            let (mut stream, mut byte) = (stream, [1]);
            while byte[0] != 0 && stream.read_exact(&mut byte).is_ok() {}
            let _ = stream.write_all(b"no JSON\0");
        }
    });
    let closed = folder.path().join("closed");
    let _closed = UnixListener::bind(&closed).unwrap();
    std::fs::set_permissions(&closed, PermissionsExt::from_mode(0o000)).unwrap();
    let program = folder.path().join("wschatctl");
    std::fs::copy(env!("CARGO_BIN_EXE_wschatctl"), &program).unwrap();
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let mut stranger = Command::new(&program);
    stranger.args(["ping", "--socket"]).arg(&closed);
    if nix::unistd::geteuid().is_root() {
        stranger.uid(65534).gid(65534);
    }
    let elsewhere = |place: &std::path::Path| run(ctl_command(&["ping", "--socket", place.to_str().unwrap()]), b"");
    let produced = [
        (status::DONE, daemon.ctl(&["ping"])),
        (status::PARTLY, daemon.ctl(&["kick", "1", "77"])),
        (status::USAGE, daemon.ctl(&["kick"])),
        (status::NOTHING, daemon.ctl(&["show", "77"])),
        (status::UNREACHABLE, elsewhere(&folder.path().join("nothing"))),
        (status::INTERNAL, elsewhere(&nonsense)),
        (status::NOT_CREATED, daemon.ctl(&["backup", there.to_str().unwrap()])),
        (status::TIMED_OUT, hung.ctl(&["ping", "--timeout", "100ms"])),
        (status::NOT_PERMITTED, run(stranger, b"")),
        (status::CONFIGURATION, daemon.ctl(&["backup", folder.path().join("new.db").to_str().unwrap()])),
    ];
    for (wanted, ran) in &produced {
        assert_eq!(ran.status, i32::from(*wanted), "{ran:?}");
    }
    let all: Vec<u8> = status::ALL.iter().map(|(code, _)| *code).collect();
    assert_eq!(produced.each_ref().map(|(code, _)| *code), *all, "each of the table, in its order");
}
